"""What runs a model: one table, plug-ins beside it, and never a silent replacement.

To add a backend here: a row in `BACKENDS`, one module with an ``open_backend`` function, one extra.
From a package of your own: `kspacesr_rt.runtime.plugins`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import INTERPOLATED_USE, ModelSpec
from kspacesr_rt.runtime.plugin_backend import open_plugin
from kspacesr_rt.runtime.plugins import find_plugins
from kspacesr_rt.runtime.protocol import (
    NOT_LOADED,
    Backend,
    BackendInfo,
    BackendOptions,
    BatchResult,
    FinishedBatch,
    OverlappingBackend,
    StartedBatch,
    require_batch,
    run_failure,
)
from kspacesr_rt.runtime.suited_models import require_suited

if TYPE_CHECKING:
    from kspacesr_rt.model.binding import BoundModel

__all__ = [
    "BACKENDS",
    "NOT_LOADED",
    "ZERO_FILL",
    "Backend",
    "BackendInfo",
    "BackendOptions",
    "BatchResult",
    "FinishedBatch",
    "OverlappingBackend",
    "StartedBatch",
    "auto_plugins",
    "backend_info",
    "backend_names",
    "baseline_spec",
    "every_backend",
    "left_out_plugins",
    "open_backend",
    "require_available",
    "require_batch",
    "run_failure",
]

ZERO_FILL: Final = "zero-fill"
"""The baseline that every model must beat, and what stands in for one."""

BACKENDS = {
    info.name: info
    for info in (
        BackendInfo(
            ZERO_FILL,
            "kspacesr_rt.runtime.baselines",
            "k-space zero-filling: the baseline every model must beat",
            model=False,
        ),
        BackendInfo(
            "bicubic",
            "kspacesr_rt.runtime.baselines",
            "cubic convolution on the k-space grid",
            model=False,
        ),
        BackendInfo(
            "ort-cpu",
            "kspacesr_rt.runtime.ort_cpu",
            "ONNX Runtime on the CPU",
            needs="onnxruntime",
            extra="cpu",
            streams=True,
        ),
        BackendInfo(
            "openvino",
            "kspacesr_rt.runtime.openvino_cpu",
            "OpenVINO on the CPU, types as in the model",
            needs="openvino",
            extra="openvino",
            streams=True,
            by_size=True,
        ),
        BackendInfo(
            "ort-cuda",
            "kspacesr_rt.runtime.ort_gpu",
            "ONNX Runtime on an NVIDIA GPU, CUDA provider",
            needs="onnxruntime",
            extra="gpu",
            on_gpu=True,
            on_nvidia=True,
            probe="kspacesr_rt.runtime.gpu_build:require_cuda_build",
        ),
        BackendInfo(
            "ort-tensorrt",
            "kspacesr_rt.runtime.ort_gpu",
            "ONNX Runtime on an NVIDIA GPU, TensorRT provider",
            needs="onnxruntime",
            extra="ort-tensorrt",
            on_gpu=True,
            on_nvidia=True,
            probe="kspacesr_rt.runtime.gpu_build:require_tensorrt_build",
        ),
        BackendInfo(
            "ort-webgpu",
            "kspacesr_rt.runtime.ort_webgpu",
            "ONNX Runtime on a GPU of any vendor, WebGPU provider",
            needs="onnxruntime",
            extra="webgpu",
            on_gpu=True,
            probe="kspacesr_rt.runtime.ort_build:require_webgpu",
        ),
        BackendInfo(
            "tensorrt",
            "kspacesr_rt.runtime.tensorrt.backend",
            "TensorRT on an NVIDIA GPU",
            needs="tensorrt",
            extra="tensorrt",
            on_gpu=True,
            on_nvidia=True,
            probe="kspacesr_rt.runtime.tensorrt.targets:require_tensorrt_gpu",
        ),
        BackendInfo(
            "tensorrt-rtx",
            "kspacesr_rt.runtime.tensorrt.backend",
            "TensorRT-RTX on an NVIDIA RTX GPU",
            needs="tensorrt_rtx",
            extra="trt-rtx",
            on_gpu=True,
            on_nvidia=True,
            probe="kspacesr_rt.runtime.tensorrt.targets:require_rtx_gpu",
        ),
    )
}
_RESERVED = frozenset({"auto", *BACKENDS})


def backend_info(name: str) -> BackendInfo:
    """Look a backend up; a plug-in of that name is imported if none of ours has it.

    Raises
    ------
    InputError
        If no backend has that name.
    """
    if name in BACKENDS:
        return BACKENDS[name]
    plugins, left_out = find_plugins(_RESERVED)
    if name in plugins:
        return plugins[name].row()
    about = [sentence for sentence in left_out if f"'{name}'" in sentence]
    raise InputError(
        "; ".join([f"no backend is called '{name}'", *about]),
        hint=f"one of: {', '.join((*BACKENDS, *plugins))}",
    )


def every_backend() -> dict[str, BackendInfo]:
    """Return the rows of all backends by name: ours, then the plug-ins, which are imported."""
    plugins = find_plugins(_RESERVED)[0]
    return {**BACKENDS, **{name: plugin.row() for name, plugin in plugins.items()}}


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends; imports no plug-in."""
    return (*BACKENDS, *find_plugins(_RESERVED)[0])


def auto_plugins() -> tuple[str, ...]:
    """Return the names of the plug-ins that ``auto`` may take; imports none."""
    return tuple(name for name, one in find_plugins(_RESERVED)[0].items() if one.auto)


def left_out_plugins() -> tuple[str, ...]:
    """Say of each plug-in whose name cannot be used why it is left out; imports none."""
    return find_plugins(_RESERVED)[1]


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
        A key of `BACKENDS`, or a plug-in's.
    model
        A bound model; for baselines, the specification `baseline_spec` makes.
    options
        Threads and the like.

    Raises
    ------
    InputError
        If no backend has that name, or it takes no model.
    BackendUnavailableError
        If it does not take such a model, or cannot run here. No other backend is taken instead.
    """
    if not isinstance(model, ModelSpec):
        require_suited(name, model.spec)
    info = require_available(name)
    if info.model == isinstance(model, ModelSpec):
        raise InputError(
            f"backend '{name}' takes {'a bound model' if info.model else 'no model file'}"
        )
    options = options or BackendOptions()
    backend: Backend
    if info.package is not None:
        spec = model if isinstance(model, ModelSpec) else model.spec
        backend = open_plugin(info, spec, model, options)
    else:
        backend = importlib.import_module(info.module).open_backend(name, model, options)
    return _OneByOne(backend) if backend.spec.single_slice else backend


class _OneByOne:
    """A backend of a network that takes one slice at a time, given batches of any size."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def spec(self) -> ModelSpec:
        return self._backend.spec

    @property
    def transfer_s(self) -> float:
        return self._backend.transfer_s

    @property
    def notes(self) -> tuple[str, ...]:
        return self._backend.notes

    def run(self, batch: FloatArray) -> FloatArray:
        require_batch(batch, self.spec)
        return np.concatenate([self._backend.run(batch[n : n + 1]) for n in range(len(batch))])

    def __enter__(self) -> Self:
        self._backend.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._backend.__exit__(*exc)


def baseline_spec(name: str, upscale: int, matrix: tuple[int, int]) -> ModelSpec:
    """Describe a baseline as if it were a model, so that the pipeline needs no second path."""
    return ModelSpec(
        name=name,
        architecture="none",
        upscale=upscale,
        matrix=matrix,
        normaliser="none",
        intended_use=INTERPOLATED_USE,
    )
