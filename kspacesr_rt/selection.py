"""Choose a backend: the first of a fixed order that gives a model's stored answer on this machine.

The choice is made once, before any slice. What was chosen is never replaced afterwards: if it fails
on a slice, that is an error of this slice.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kspacesr_rt.backends import BACKENDS, BackendOptions, require_available
from kspacesr_rt.errors import BackendUnavailableError, KspaceSRError, OutputError
from kspacesr_rt.model_file import ModelFile, load_model, resolve_model
from kspacesr_rt.verified import VerificationCache, VerificationInputs, read_verification
from kspacesr_rt.verify import Verification, verify_model

AUTO = "auto"
PREFERENCE = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-cuda", "openvino", "ort-cpu")
"""What `AUTO` tries, the fastest first."""
MERITS = {
    "tensorrt": "first in the order",
    "tensorrt-rtx": "the fastest usable one on a GPU",
    "ort-tensorrt": "the fastest usable one on a GPU",
    "ort-cuda": "the only usable one on a GPU",
    "openvino": "the fast path on CPUs",
    "ort-cpu": "the reference, on every machine",
}
"""Why a backend is taken where those before it cannot be."""
PROBE_SECONDS = 1800
"""How long a backend in a process of its own may take: it may build an engine first."""
_ANOTHER_HINT = "kspacesr-rt backends shows what is missing; or name one with --backend"


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
class Choice:
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

    def as_text(self) -> str:
        """Return one line for people."""
        over = "; ".join(f"{one.backend} ({one.reason})" for one in self.passed_over)
        line = f"backend {self.backend}: {self.reason}"
        return f"{line}; passed over: {over}" if over else line

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "asked": self.asked,
            "backend": self.backend,
            "reason": self.reason,
            "verification": self.verification.to_dict() if self.verification else None,
            "cached": self.cached,
            "passed_over": [one.to_dict() for one in self.passed_over],
        }


def settle_backend(
    name: str,
    model: ModelFile,
    options: BackendOptions | None = None,
    *,
    cache: VerificationCache | None = None,
) -> Choice:
    """Return what runs a model: the backend that is named, or the best one for ``auto``.

    Parameters
    ----------
    name
        A key of `kspacesr_rt.backends.BACKENDS`, or `AUTO`.
    model
        What will run.
    options
        Threads and the like, for the verification.
    cache
        Where verifications are kept; None for the user's cache folder.

    Raises
    ------
    InputError
        If no backend has that name.
    BackendUnavailableError
        If the named backend cannot run here, or none gives the model's stored answer.
    ModelFileError
        If the model carries no known answer, and ``auto`` was asked for.
    """
    if name != AUTO:
        require_available(name)
        return Choice(asked=name, backend=name, reason="asked for")
    model.known_answer()  # a model without one is an error of the model, not of six backends
    cache = cache or VerificationCache()
    passed_over: list[PassedOver] = []
    notes: list[str] = []
    for candidate in PREFERENCE:
        info = BACKENDS[candidate]
        if (why_not := info.why_not()) is not None:
            short = why_not.removeprefix(f"backend '{candidate}' ")
            passed_over.append(PassedOver(backend=candidate, reason=short))
            continue
        inputs = VerificationInputs.of(model, candidate)
        verification = cache.find(inputs, model)
        cached = verification is not None
        if verification is None:
            try:
                verification = _verified(model, candidate, options or BackendOptions())
            except KspaceSRError as exc:
                passed_over.append(PassedOver(backend=candidate, reason=str(exc)))
                continue
            try:
                cache.keep(inputs, verification)
            except OutputError as exc:
                notes.append(f"the verification was not kept: {exc}")
        told = (
            f"{verification.psnr_between_db:.1f} dB against the stored answer, "
            f"{verification.required_db:.0f} required"
        )
        if not verification.passed:
            passed_over.append(PassedOver(backend=candidate, reason=f"only {told}"))
            continue
        return Choice(
            asked=AUTO,
            backend=candidate,
            reason=f"chosen by auto: {MERITS[candidate]} ({told})",
            verification=verification,
            cached=cached,
            passed_over=tuple(passed_over),
            notes=tuple(notes),
        )
    over = "; ".join(f"{one.backend}: {one.reason}" for one in passed_over)
    raise BackendUnavailableError(
        f"no backend runs model '{model.spec.name}' here: {over}", hint=_ANOTHER_HINT
    )


def _verified(model: ModelFile, backend: str, options: BackendOptions) -> Verification:
    """Verify here, or in a process of its own where a library may take the process with it."""
    if BACKENDS[backend].probe is None:
        return verify_model(model, backend, options)
    with tempfile.TemporaryDirectory(prefix="kspacesr-rt-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.proto.SerializeToString())
        return verify_apart(path, backend, options)


def verify_apart(path: Path, backend: str, options: BackendOptions) -> Verification:
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
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise BackendUnavailableError(f"no answer within {PROBE_SECONDS} s") from exc
    if done.returncode < 0:
        raise BackendUnavailableError(f"its library crashed ({_signal_name(-done.returncode)})")
    lines = done.stdout.strip().splitlines()
    try:  # printed for a failed verification too
        return read_verification(json.loads(lines[-1]))
    except (IndexError, ValueError, AttributeError) as exc:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        told = said[-1].removeprefix("error: ") if said else f"exit code {done.returncode}"
        raise BackendUnavailableError(told) from exc


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What ``auto`` would do for a model, without being an error where nothing runs."""

    model: str
    """Name of the model."""
    choice: Choice | None
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
        return Preview(model=model.spec.name, choice=settle_backend(AUTO, model))
    except BackendUnavailableError as exc:
        return Preview(model=model.spec.name, choice=None, problem=str(exc))
