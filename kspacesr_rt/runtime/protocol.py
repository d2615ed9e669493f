"""What a backend is: the protocol, the options it is given, and the row that announces it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Protocol, Self, runtime_checkable

from kspacesr_rt.errors import BackendUnavailableError, InputError, ShapeError, first_line
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.quality.spectral_sums import SpectralSums
from kspacesr_rt.runtime.gpu_capabilities import require_gpu
from kspacesr_rt.system.counts import THREADS_MOST, is_count

NOT_LOADED = "it may be of a later ONNX than the runtime: take a newer runtime, or export it again"
"""What to do about a model file that is sound, and that a runtime does not load."""

OUT_OF_MEMORY: Final = ("bad_alloc", "bad allocation", "Failed to allocate memory")
"""What libraries of C++ say where there is too little memory."""


class Backend(Protocol):
    """An open model (or baseline) for one LR matrix; a context manager."""

    @property
    def spec(self) -> ModelSpec:
        """What it computes; `matrix` is the LR matrix it takes."""
        ...

    @property
    def transfer_s(self) -> float:
        """Seconds spent so far on copies to and from a device of its own; 0.0 if it has none."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report tells of it, a sentence each: what it computes in, say."""
        ...

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve ``(n, 1, y, x)`` float32 to ``(n, 1, s*y, s*x)`` float32.

        Slices do not influence each other. The input is not changed; the result is the caller's.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """What came of a batch."""

    slices: FloatArray
    """``(n, 1, s*y, s*x)`` float32; the caller's."""
    sums: tuple[SpectralSums, ...] = ()
    """Of each slice's spectra, in units of the largest magnitude of its LR slice; empty if the
    backend sums up none."""
    transfer_s: float = 0.0
    """Seconds of its copies to and from a device."""


class StartedBatch(Protocol):
    """A batch on its way through a device."""

    def done(self) -> bool:
        """Say whether `result` has nothing to wait for."""
        ...

    def result(self) -> BatchResult:
        """Wait for what came of it; raises what `Backend.run` would."""
        ...


class FinishedBatch:
    """A batch that was computed before anybody asked for its result."""

    def __init__(self, result: BatchResult) -> None:
        self._result = result

    def done(self) -> bool:
        """Say yes."""
        return True

    def result(self) -> BatchResult:
        """Return it."""
        return self._result


@runtime_checkable
class OverlappingBackend(Protocol):
    """A backend that copies one batch while it computes another."""

    def start(self, batch: FloatArray) -> StartedBatch:
        """Begin with a batch, as `Backend.run` takes it; what is under way is not waited for.

        From one thread, and with at most one other batch under way. `Backend.run`, and the end of
        the backend, finish those first.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """What every backend may be told; each takes what it understands from it."""

    threads: int = 0
    """CPU threads of the inference library; 0 lets it take every core."""
    streams: int = 0
    """Calls of `Backend.run`, from threads of their own, that share the threads of a backend whose
    row in `BACKENDS` has `streams`; 0 or 1: one call at a time has them all, for latency."""
    as_large: bool = False
    """Compute slices of any size the way large ones are computed, in a backend whose row has
    `by_size`: so a small slice can tell whether that way is right here."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for name in ("threads", "streams"):
            number: object = getattr(self, name)
            if not is_count(number, THREADS_MOST):
                raise InputError(
                    f"{name} is a whole number from 0 to {THREADS_MOST}, not {number!r}",
                    hint="0 lets it take every core" if name == "threads" else None,
                )


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A row of the registry."""

    name: str
    """What users type."""
    module: str
    """Where its ``open_backend`` is."""
    summary: str
    """One line for listings."""
    needs: str | None = None
    """The package it runs on, by import name."""
    extra: str | None = None
    """The extra of this project that installs it."""
    streams: bool = False
    """Whether it can compute several calls side by side; see `BackendOptions.streams`."""
    by_size: bool = False
    """Whether it computes large slices in another way; see `BackendOptions.as_large`."""
    on_gpu: bool = False
    """Whether it leaves the CPU to others while it computes."""
    model: bool = True
    """False for baselines, which take no model file."""
    probe: str | None = None
    """``module:function`` that returns in one sentence what the machine lacks, or raises it as a
    `BackendUnavailableError` with a hint of its own; imports no library."""
    probe_hint: str | None = None
    """What to do if the machine lacks it."""
    on_nvidia: bool = False
    """Whether it needs a GPU of NVIDIA's, which comes first: without it a package is of no use."""
    package: str | None = None
    """Of a plug-in, filled in when it is found: name and version of the distribution it is from."""
    libraries: tuple[str, ...] = ()
    """Of a plug-in, filled in likewise: distributions whose versions decide what it computes."""
    fault: str | None = None
    """Of a plug-in, filled in likewise: what is wrong with it, in one sentence."""

    def why_not(self) -> str | None:
        """Say in one sentence why it cannot run here; None if nothing is known against it.

        Imports no library: a package that is installed but broken shows when it is opened.
        """
        if self.fault is not None:
            return self.fault
        missing = self._is_missing()
        if (lacking := self._no_gpu() if missing else self._lacking()) is not None:
            return f"backend '{self.name}' cannot run here: {lacking}"
        if missing:
            return f"backend '{self.name}' needs the package '{self.needs}', which is not installed"
        return None

    def hint(self) -> str | None:
        """Say what would make it run: what installs it, or what the machine lacks."""
        if not self._is_missing() and (lacking := self._lacking()) and lacking.hint:
            return lacking.hint
        if self.probe_hint is not None and (self.package or not self._is_missing()):
            return self.probe_hint
        if self.package is not None:
            return f"it comes from the package {self.package}, whose documentation should say"
        install = f"pip install 'kspacesr-rt[{self.extra}]'" if self.extra else None
        if self._is_missing() and (no_gpu := self._no_gpu(install)) is not None:
            return no_gpu.hint
        return install

    def _is_missing(self) -> bool:
        return self.needs is not None and find_spec(self.needs) is None

    def _no_gpu(self, then: str | None = None) -> BackendUnavailableError | None:
        """Ask for a GPU that it runs on, before a package is asked for."""
        if self.on_nvidia:
            try:
                require_gpu(self.name, then=then)
            except BackendUnavailableError as exc:
                return exc
        return None

    def _lacking(self) -> BackendUnavailableError | None:
        """Ask the probe, which returns a sentence, or raises the error with a hint of its own."""
        if self.probe is None:
            return None
        module, function = self.probe.split(":")
        try:
            lacking: str | None = getattr(importlib.import_module(module), function)()
        except BackendUnavailableError as exc:
            return exc
        except Exception as exc:
            if self.package is None:
                raise
            lacking = f"its probe failed ({type(exc).__name__}: {first_line(exc)})"
        return None if lacking is None else BackendUnavailableError(lacking)


def run_failure(library: str, exc: Exception) -> BackendUnavailableError | MemoryError:
    """Return what a library's own error means for the batch that it was met with."""
    text = first_line(exc)
    if any(word in text for word in OUT_OF_MEMORY):
        return MemoryError(f"{library}: {text}")
    return BackendUnavailableError(f"{library} fails on this model: {text}")


def require_batch(batch: FloatArray, spec: ModelSpec) -> None:
    """Refuse a batch that does not fit what a backend was opened for.

    Raises
    ------
    ShapeError
        If it is not ``(n, 1, *spec.matrix)`` with n of at least 1; or k-space, as the model takes.
    """
    wanted = (*spec.input_axes, *spec.matrix)
    if batch.ndim != len(wanted) + 1 or batch.shape[0] < 1 or batch.shape[1:] != wanted:
        raise ShapeError(
            f"expected a batch (n, {', '.join(map(str, wanted))}), found {batch.shape}"
        )
