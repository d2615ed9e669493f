"""Choose a backend: the first of a fixed order that gives a model's stored answer on this machine.

The choice is made once, before any slice. What was chosen is never replaced afterwards: if it fails
on a slice, that is an error of this slice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError, InputError, KspaceSRError, OutputError
from kspacesr_rt.model.binding import require_stored_constants
from kspacesr_rt.model.file import ModelFile, load_model, resolve_model
from kspacesr_rt.runtime.backends import (
    BackendInfo,
    BackendOptions,
    auto_plugins,
    backend_info,
    require_available,
)
from kspacesr_rt.runtime.provider_start import exit_text, require_start
from kspacesr_rt.runtime.self_test import Verification, require_verified, verify_model
from kspacesr_rt.runtime.self_test_cache import (
    VerificationCache,
    VerificationInputs,
    read_verification,
)
from kspacesr_rt.runtime.suited_models import require_suited
from kspacesr_rt.system.path_arguments import require_path
from kspacesr_rt.system.progress_messages import report_step

AUTO = "auto"
PREFERENCE = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-cuda", "openvino", "ort-cpu")
"""What `AUTO` tries, the fastest first; before it, plug-ins that ask for it. ``ort-webgpu`` is not
among them: nobody has measured whether a GPU is faster through WebGPU than the CPU is."""
BEGUN = "the output folder was begun with it"
"""Why a backend is taken that others stand before."""
MERITS = {
    "tensorrt": "first in the order",
    "tensorrt-rtx": "the fastest usable one on a GPU",
    "ort-tensorrt": "the fastest usable one on a GPU",
    "ort-cuda": "the only usable one on a GPU",
    "openvino": "the fast path on CPUs",
    "ort-cpu": "the reference, on every machine",
}
"""Why a backend is taken where those before it cannot be."""
CONFIG_VARIABLE = "KSPACESR_RT_CONFIG"
"""Environment variable that names a file with options of the command line."""
PROBE_SECONDS = 1800
"""How long a backend in a process of its own may take: it may build an engine first."""
_ANOTHER_HINT = "kspacesr-rt backends shows what is missing; or name another backend"


@dataclass(frozen=True, kw_only=True, slots=True)
class PassedOver:
    """A backend that was not taken."""

    backend: str
    """Its name."""
    reason: str
    """Why, in one sentence."""

    def to_dict(self) -> dict[str, str]:
        """Return plain values for strict JSON."""
        return {"backend": self.backend, "reason": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendChoice:
    """Which backend runs a model, and why."""

    asked: str
    """What the user named: a backend, or ``auto``."""
    backend: str
    """What runs."""
    reason: str
    """Why this one."""
    verification: Verification | None = None
    """What was measured; None for a backend that the user named."""
    cached: bool = False
    """Whether it was measured by an earlier run."""
    passed_over: tuple[PassedOver, ...] = ()
    """What stands before it in the order, each with its reason."""
    notes: tuple[str, ...] = ()
    """What a user should know."""
    tier: Mapping[str, Any] | None = None
    """For a tier other than ``exact``: precision, rows that were tried, and what the gate found."""

    def as_text(self, *, verbose: bool = False) -> str:
        """Return for people what was taken; if `verbose`, why, and below it what was not."""
        if self.tier is not None:
            return self.reason if verbose else f"{self.reason.splitlines()[0]} (-v says more)"
        if not verbose and self.asked == AUTO:
            why = f": {BEGUN}" if BEGUN in self.reason else ""
            return f"backend {self.backend}, chosen by auto{why} (-v says why)"
        over = (f"  passed over: {one.backend} ({one.reason})" for one in self.passed_over)
        return "\n".join([f"backend {self.backend}: {self.reason}", *over])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "asked": self.asked,
            "backend": self.backend,
            "reason": self.reason,
            "verification": self.verification.to_dict() if self.verification else None,
            "cached": self.cached,
            "passed_over": [one.to_dict() for one in self.passed_over],
            "tier": None if self.tier is None else dict(self.tier),
        }


def verify(
    model: str | PathLike[str] = "x2-fast", *, backend: str = AUTO, threads: int = 0
) -> Verification:
    """Prove on this machine that a model still gives the answer PyTorch gave at its export.

    Parameters
    ----------
    model
        Name of a shipped model, or path of a model file.
    backend
        What runs it; ``auto`` proves the one that would be chosen.
    threads
        CPU threads; 0: every core this process may use.

    Returns
    -------
        What was measured, now: `Verification.psnr_between_db` in dB against the stored answer,
        and `Verification.max_error` over its maximum.

    Raises
    ------
    InputError, ModelFileError
        If the model cannot be used, carries no known answer, or holds constants that were changed.
    BackendUnavailableError
        If the backend cannot run here.
    ParityError
        If the backend gives another answer.

    Examples
    --------
    >>> import kspacesr_rt as ks
    >>> ks.verify("x2-fast", backend="ort-cpu", threads=1).passed
    True
    """
    loaded, options = (
        load_model(resolve_model(require_path(model, "model"), upscale=None)),
        BackendOptions(threads=threads),
    )
    require_stored_constants(loaded)
    chosen = choose_backend(backend, loaded, options).backend
    verification = verify_model(loaded, chosen, options)
    require_verified(verification)
    return verification


def choose_backend(
    name: str,
    model: ModelFile,
    options: BackendOptions | None = None,
    *,
    cache: VerificationCache | None = None,
    begun_with: str | None = None,
) -> BackendChoice:
    """Return what runs a model: the backend that is named, or the best one for ``auto``.

    Parameters
    ----------
    name
        A key of `kspacesr_rt.runtime.backends.BACKENDS`, a plug-in's name, or `AUTO`.
    model
        What will run.
    options
        Threads and the like, for the verification.
    cache
        Where verifications are kept; None for the user's cache folder.
    begun_with
        Backend of results that those to come are to stand beside: ``auto`` takes it before any
        other, if it runs and gives the stored answer. None, or what is no backend that runs models:
        there is none.

    Raises
    ------
    InputError
        If no backend has that name.
    BackendUnavailableError
        If the named backend does not take such a model or cannot run here, or none gives the
        model's stored answer.
    ModelFileError
        If the model carries no known answer, and ``auto`` was asked for.
    """
    if name != AUTO:
        require_named(name)
        require_suited(name, model.spec)  # before a package is asked for that could not run it
        require_available(name)
        require_start(name)
        return BackendChoice(asked=name, backend=name, reason="asked for")
    model.known_answer()  # a model without one is an error of the model, not of six backends
    cache = cache or VerificationCache()
    passed_over: list[PassedOver] = []
    notes: list[str] = []
    order = (*auto_plugins(), *PREFERENCE)
    first = [begun_with] if begun_with in order else []
    for candidate in dict.fromkeys((*first, *order)):
        info = backend_info(candidate)
        if (why_not := info.why_not()) is not None:
            short = why_not.removeprefix(f"backend '{candidate}' ")
            passed_over.append(PassedOver(backend=candidate, reason=short))
            continue
        try:
            verification, cached, note = verified_here(model, candidate, options, cache)
        except KspaceSRError as exc:
            passed_over.append(PassedOver(backend=candidate, reason=str(exc)))
            continue
        notes += [note] if note else []
        figures = (
            f"{verification.psnr_between_db:.1f} dB against the stored answer, "
            f"{verification.required_db:.0f} required"
        )
        if not verification.passed:
            passed_over.append(PassedOver(backend=candidate, reason=f"only {figures}"))
            continue
        return BackendChoice(
            asked=AUTO,
            backend=candidate,
            reason=f"chosen by auto: {BEGUN if first == [candidate] else _merit(info)} ({figures})",
            verification=verification,
            cached=cached,
            passed_over=tuple(passed_over),
            notes=tuple(notes),
        )
    over = "; ".join(f"{one.backend}: {one.reason}" for one in passed_over)
    raise BackendUnavailableError(
        f"no backend runs model '{model.spec.name}' here: {over}", hint=_ANOTHER_HINT
    )


def verified_here(
    model: ModelFile,
    backend: str,
    options: BackendOptions | None = None,
    cache: VerificationCache | None = None,
) -> tuple[Verification, bool, str]:
    """Verify a backend on this machine, once for all that the result depends on.

    Parameters
    ----------
    model, backend, options
        What runs where.
    cache
        Where verifications are kept; None for the user's cache folder.

    Returns
    -------
        The verification, whether an earlier run measured it, and why it was not kept, if so.

    Raises
    ------
    KspaceSRError
        If the backend cannot run it.
    """
    cache = cache or VerificationCache()
    inputs = VerificationInputs.of(model, backend)
    if (found := cache.find(inputs, model)) is not None:
        return found, True, ""
    report_step(f"verifying {backend} on this machine; the result is kept")
    verification = _verified(model, backend, options or BackendOptions())
    try:
        cache.keep(inputs, verification)
    except OutputError as exc:
        return verification, False, f"the verification was not kept: {exc}"
    return verification, False, ""


def _merit(info: BackendInfo) -> str:
    """Say why a backend is taken."""
    return MERITS.get(info.name) or f"a plug-in that asks for it, of the package {info.package}"


def require_named(name: str) -> None:
    """Refuse what is neither a backend nor `AUTO`.

    Raises
    ------
    InputError
        Listing both.
    """
    try:
        if name != AUTO:
            backend_info(name)
    except InputError as exc:
        raise InputError(str(exc), hint=f"{AUTO}, or {exc.hint}") from exc


def _verified(model: ModelFile, backend: str, options: BackendOptions) -> Verification:
    """Verify here, or in a process of its own where a library may take the process with it."""
    info = backend_info(backend)
    if info.probe is None and info.package is None:
        return verify_model(model, backend, options)
    with tempfile.TemporaryDirectory(prefix="kspacesr-rt-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.proto.SerializeToString())
        return verify_in_subprocess(path, backend, options)


def verify_in_subprocess(path: Path, backend: str, options: BackendOptions) -> Verification:
    """Verify a model file in another process.

    Parameters
    ----------
    path
        Of the model.
    backend
        What runs it.
    options
        Threads.

    Raises
    ------
    BackendUnavailableError
        If the other process crashed, hung or said that the backend cannot be used.
    """
    command = [sys.executable, "-m", "kspacesr_rt", "verify", str(path), "--json"]
    command += ["--backend", backend, "--threads", str(options.threads)]
    # The options of the command that is run may stand in a file that `verify` does not understand.
    environment = {name: text for name, text in os.environ.items() if name != CONFIG_VARIABLE}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as exc:
        raise BackendUnavailableError(f"no answer within {PROBE_SECONDS} s") from exc
    if done.returncode < 0:
        raise BackendUnavailableError(f"its library crashed ({exit_text(done.returncode)})")
    errors = [line for line in done.stderr.splitlines() if line.startswith('{"error"')]
    lines = errors or done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
        if errors:
            raise BackendUnavailableError(answer["error"]["message"])
        return read_verification(answer)  # printed for a failed verification too
    except (IndexError, ValueError, AttributeError, KeyError, TypeError) as exc:
        raise BackendUnavailableError(
            f"its library ended the process ({exit_text(done.returncode)})"
        ) from exc


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What ``auto`` would do for a model, without being an error where nothing runs."""

    model: str
    """Name of the model."""
    choice: BackendChoice | None
    """What it takes; None if nothing runs."""
    problem: str = ""
    """Why nothing runs."""

    def as_text(self) -> str:
        """Return a few lines for people: the choice, then each backend passed over."""
        if self.choice is None:
            return f"auto takes none for {self.model}: {self.problem}"
        lines = [f"auto takes {self.choice.backend} for {self.model}: {self.choice.reason}"]
        lines += [f"  not {one.backend}: {one.reason}" for one in self.choice.passed_over]
        return "\n".join([*lines, *(f"  {note}" for note in self.choice.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        choice = self.choice.to_dict() if self.choice else None
        return {"model": self.model, "choice": choice, "problem": self.problem}


def preview_choice(name_or_path: str | None = None) -> Preview:
    """Say what ``auto`` takes for a model; verifies what was not verified before.

    Parameters
    ----------
    name_or_path
        A model file or shipped name; None for the shipped default.

    Raises
    ------
    InputError, ModelFileError, ModelSpecError
        If the model cannot be used.
    """
    model = load_model(resolve_model(name_or_path, upscale=None))
    try:
        return Preview(model=model.spec.name, choice=choose_backend(AUTO, model))
    except BackendUnavailableError as exc:
        return Preview(model=model.spec.name, choice=None, problem=str(exc))
