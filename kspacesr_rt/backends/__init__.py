"""What runs a model: one small protocol, one table, and never a silent replacement.

To add a backend: a row in `BACKENDS`, one module with an ``open_backend`` function, one extra.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, Self

from kspacesr_rt.errors import BackendUnavailableError, InputError, ShapeError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.spec import ModelSpec

if TYPE_CHECKING:
    from kspacesr_rt.binding import BoundModel


class Backend(Protocol):
    """An open model (or baseline) for one LR matrix; a context manager.

    A backend that copies batches to a device of its own may have an attribute ``transfer_s``, the
    seconds spent on that so far, so that a run's report can tell them from computing.
    """

    spec: ModelSpec
    """What it computes; `matrix` is the LR matrix it takes."""

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve ``(n, 1, y, x)`` float32 to ``(n, 1, s*y, s*x)`` float32.

        Slices do not influence each other. The input is not changed; the result is the caller's.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


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
        if min(self.threads, self.streams) < 0:
            raise InputError("threads and streams are 0 or more")


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
    """``module:function`` that says in one sentence what the machine lacks; imports no library."""
    probe_hint: str | None = None
    """What to do if the machine lacks it."""

    def why_not(self) -> str | None:
        """Say in one sentence why it cannot run here; None if nothing is known against it.

        Imports no library: a package that is installed but broken shows when it is opened.
        """
        if self._is_missing():
            return f"backend '{self.name}' needs the package '{self.needs}', which is not installed"
        lacking = self._probed()
        return None if lacking is None else f"backend '{self.name}' cannot run here: {lacking}"

    def hint(self) -> str | None:
        """Say what would make it run: what installs it, or what the machine lacks."""
        if self.probe_hint is not None and not self._is_missing():
            return self.probe_hint
        return f"pip install 'kspacesr-rt[{self.extra}]'" if self.extra else None

    def _is_missing(self) -> bool:
        return self.needs is not None and find_spec(self.needs) is None

    def _probed(self) -> str | None:
        if self.probe is None:
            return None
        module, function = self.probe.split(":")
        lacking: str | None = getattr(importlib.import_module(module), function)()
        return lacking


BACKENDS = {
    info.name: info
    for info in (
        BackendInfo(
            "zero-fill",
            "kspacesr_rt.backends.baselines",
            "k-space zero-filling: the baseline every model must beat",
            model=False,
        ),
        BackendInfo(
            "bicubic",
            "kspacesr_rt.backends.baselines",
            "cubic convolution on the k-space grid",
            model=False,
        ),
        BackendInfo(
            "ort-cpu",
            "kspacesr_rt.backends.ort_cpu",
            "ONNX Runtime on the CPU",
            needs="onnxruntime",
            extra="cpu",
            streams=True,
        ),
        BackendInfo(
            "openvino",
            "kspacesr_rt.backends.openvino_cpu",
            "OpenVINO on the CPU, types as in the model",
            needs="openvino",
            extra="openvino",
            streams=True,
            by_size=True,
        ),
        BackendInfo(
            "ort-cuda",
            "kspacesr_rt.backends.ort_gpu",
            "ONNX Runtime on an NVIDIA GPU, CUDA provider",
            needs="onnxruntime",
            extra="gpu",
            on_gpu=True,
            probe="kspacesr_rt.backends.gpu_build:why_no_gpu_build",
            probe_hint="pip uninstall -y onnxruntime && pip install 'kspacesr-rt[gpu]'",
        ),
        BackendInfo(
            "ort-tensorrt",
            "kspacesr_rt.backends.ort_gpu",
            "ONNX Runtime on an NVIDIA GPU, TensorRT provider",
            needs="onnxruntime",
            extra="gpu",
            on_gpu=True,
            probe="kspacesr_rt.backends.gpu_build:why_no_gpu_build",
            probe_hint="pip uninstall -y onnxruntime && pip install 'kspacesr-rt[gpu]'",
        ),
        BackendInfo(
            "tensorrt",
            "kspacesr_rt.backends.native_tensorrt",
            "TensorRT on an NVIDIA GPU",
            needs="tensorrt",
            extra="tensorrt",
            on_gpu=True,
            probe="kspacesr_rt.engines.driver:why_no_cuda",
            probe_hint="it takes an NVIDIA GPU with its driver, and cuda-python",
        ),
        BackendInfo(
            "tensorrt-rtx",
            "kspacesr_rt.backends.native_tensorrt",
            "TensorRT-RTX on an NVIDIA RTX GPU",
            needs="tensorrt_rtx",
            extra="trt-rtx",
            on_gpu=True,
            probe="kspacesr_rt.engines.targets:why_no_rtx_gpu",
            probe_hint="engines for other machines build here: kspacesr-rt build --gpu sm89",
        ),
    )
}


def backend_info(name: str) -> BackendInfo:
    """Look a backend up.

    Raises
    ------
    InputError
        If no backend has that name.
    """
    if name not in BACKENDS:
        raise InputError(f"no backend is called '{name}'", hint=f"one of: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def require_available(name: str) -> BackendInfo:
    """Return a backend's row if it can run here.

    Raises
    ------
    InputError
        If no backend has that name.
    BackendUnavailableError
        If its package is missing; the hint says what installs it.
    """
    info = backend_info(name)
    if (reason := info.why_not()) is not None:
        raise BackendUnavailableError(reason, hint=info.hint())
    return info


def open_backend(
    name: str, model: BoundModel | ModelSpec, options: BackendOptions | None = None
) -> Backend:
    """Open a backend for one model and matrix.

    Parameters
    ----------
    name
        A key of `BACKENDS`.
    model
        A bound model; for baselines, the specification `baseline_spec` makes.
    options
        Threads and the like.

    Raises
    ------
    InputError
        If no backend has that name, or it takes no model.
    BackendUnavailableError
        If it cannot run here. No other backend is taken instead.
    """
    info = require_available(name)
    if info.model == isinstance(model, ModelSpec):
        raise InputError(
            f"backend '{name}' takes {'a bound model' if info.model else 'no model file'}"
        )
    backend: Backend = importlib.import_module(info.module).open_backend(
        name, model, options or BackendOptions()
    )
    return backend


def baseline_spec(name: str, upscale: int, matrix: tuple[int, int]) -> ModelSpec:
    """Describe a baseline as if it were a model, so that the pipeline needs no second path."""
    return ModelSpec(
        name=name, architecture="none", upscale=upscale, matrix=matrix, normaliser="none"
    )


def require_batch(batch: FloatArray, spec: ModelSpec) -> None:
    """Refuse a batch that does not fit what a backend was opened for.

    Raises
    ------
    ShapeError
        If it is not ``(n, 1, *spec.matrix)`` with n of at least 1.
    """
    if batch.ndim != 4 or batch.shape[0] < 1 or batch.shape[1:] != (1, *spec.matrix):
        raise ShapeError(
            f"expected a batch (n, 1, {spec.matrix[0]}, {spec.matrix[1]}), found {batch.shape}"
        )
