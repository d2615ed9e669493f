"""Which models a runtime takes: asked when a file is made for it, and before it is opened.

Whatever is refused here would be refused by the runtime too, in its own words and after the work;
or it would compute something wrong, or elsewhere. Nothing is loaded to say so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.model.spec import Input, Lowering, Precision
from kspacesr_rt.runtime.gpu_capabilities import ON_GPU, why_not_for
from kspacesr_rt.runtime.tensorrt.targets import NO_FP32_PRODUCTS
from kspacesr_rt.system.gpu_models import capability_of

TENSORRT = ("tensorrt", "tensorrt-rtx", "ort-tensorrt")
ENGINES = ("tensorrt", "tensorrt-rtx")
CPU_NODES_VARIABLE = "KSPACESR_RT_WEBGPU_CPU_NODES"
"""At 1, nodes without a WebGPU kernel may run on the CPU; a report names them."""
BF16, FP8 = 80, 89
"""The first compute capabilities that compute in these."""
_GEMM = "export with --fft gemm"
_FP16 = "export with --precision fp16"


class ModelKind(Protocol):
    """What of a model decides whether a runtime takes it; a `ModelSpec` says so."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def precision(self) -> Precision:
        """Of the CNN."""
        ...

    @property
    def lowering(self) -> Lowering:
        """Of its FFT layers."""
        ...

    @property
    def input(self) -> Input:
        """What it takes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """A model that is still to be made."""

    name: str
    """What messages call it."""
    precision: Precision
    """Of the CNN."""
    lowering: Lowering
    """Of its FFT layers."""
    input: Input = "image"
    """What it takes."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    applies: bool
    reason: str
    hint: str


def require_suited(runtime: str, spec: ModelKind) -> None:
    """Refuse a model that a runtime does not take.

    Parameters
    ----------
    runtime
        A backend; a plug-in's name is taken for one that takes everything.
    spec
        Of the model.

    Raises
    ------
    BackendUnavailableError
        Naming what in the model it does not take, and what to export instead.
    """
    name, precision, lowering = spec.name, spec.precision, spec.lowering
    of_fft = f"FFT layers of '{name}' are lowered as '{lowering}'"
    provider = {"ort-cuda": "CUDA", "ort-webgpu": "WebGPU"}.get(runtime, "")
    on_cpu = os.environ.get(CPU_NODES_VARIABLE) == "1"
    refusals = (
        _Refusal(
            precision == "bf16" and runtime == "ort-cpu",
            f"ONNX Runtime has no bf16 kernels for '{name}' on a CPU",
            "bf16 models run with backend openvino; fp32 and fp16 models run here",
        ),
        _Refusal(
            precision == "bf16" and runtime == "ort-cuda",
            f"ONNX Runtime's CUDA provider has no bf16 kernels for all of '{name}'",
            f"{_FP16}; or take backend tensorrt",
        ),
        _Refusal(
            precision == "bf16" and runtime == "ort-webgpu",
            f"WebGPU has no bf16: '{name}' cannot run on it",
            f"{_FP16}, or fp32",
        ),
        _Refusal(
            precision in ("int8", "fp8") and runtime == "ort-webgpu" and not on_cpu,
            f"ONNX Runtime's WebGPU provider rounds to {precision} on the CPU: '{name}' would not "
            "run on the GPU alone",
            f"{_FP16}, or fp32; or allow it: {CPU_NODES_VARIABLE}=1",
        ),
        _Refusal(
            lowering in ("dft", "dynamic") and bool(provider),
            f"ONNX Runtime's {provider} provider computes parts of '{name}' on the CPU: its FFT "
            f"layers are lowered as '{lowering}'",
            _GEMM,
        ),
        _Refusal(
            lowering == "dft" and runtime == "openvino",
            f"OpenVINO computes FFT layers lowered as '{lowering}' wrongly",
            _GEMM,
        ),
        _Refusal(
            lowering == "dft" and runtime in TENSORRT,
            f"{of_fft}, and no TensorRT before 11.2 has that operator",
            f"{_GEMM} (or conv)",
        ),
        _Refusal(
            lowering == "dynamic" and runtime in TENSORRT,
            f"{of_fft}, which find their matrix at run time, and a TensorRT engine is built for "
            "one matrix",
            f"{_GEMM} (or conv)",
        ),
        _Refusal(
            spec.input == "kspace" and runtime in ENGINES,
            f"'{name}' takes k-space, and engines are built for images",
            "take ort-cpu, openvino, ort-cuda or ort-webgpu",
        ),
    )
    for one in refusals:
        if one.applies:
            raise BackendUnavailableError(one.reason, hint=one.hint)


def require_suited_gpu(runtime: str, gpu: str, spec: ModelKind) -> None:
    """Refuse a GPU that a runtime has nothing for, or that lacks what a model computes in.

    Parameters
    ----------
    runtime
        A backend.
    gpu
        What a user calls the GPU, such as ``T4`` or ``sm89``.
    spec
        Of the model.

    Raises
    ------
    InputError
        If no GPU is called that, or the runtime runs on none.
    BackendUnavailableError
        If such a model cannot run there.
    """
    name, precision, lowering = spec.name, spec.precision, spec.lowering
    sm = capability_of(gpu)
    if runtime not in ON_GPU:
        raise InputError(
            f"--gpu {gpu} means nothing to a file that is made for {runtime}, which runs on a CPU",
            hint=f"name what it is made for: --runtime {' or '.join(ON_GPU)}",
        )
    if reason := why_not_for(runtime, gpu):
        others = [one for one in ON_GPU if not why_not_for(one, gpu)]
        raise BackendUnavailableError(
            f"nothing can be made for {runtime} on {gpu}: {reason}",
            hint=f"what runs there: {', '.join(others)}" if others else "kspacesr-rt targets",
        )
    lacks = (
        _Refusal(
            runtime == "tensorrt-rtx" and sm in NO_FP32_PRODUCTS and lowering == "gemm",
            "fp32 matrix products for FFT layers lowered as 'gemm'",
            "export with --fft conv, or auto",
        ),
        _Refusal(precision == "bf16" and sm < BF16, "bf16", _FP16),
        _Refusal(
            precision == "fp8" and sm < FP8,
            "fp8",
            f"fp8 needs sm{FP8} or newer; use int8, or {_FP16}",
        ),
    )
    for one in lacks:
        if one.applies and runtime in TENSORRT:
            raise BackendUnavailableError(
                f"'{name}' cannot run on {gpu} (sm{sm}): {runtime} has no {one.reason} there",
                hint=one.hint,
            )


def require_suited_to(runtime: str, backend: str, gpu: str | None, model: ModelKind) -> None:
    """Refuse a model that what it is made for, or what it is to be proved on, does not take.

    Parameters
    ----------
    runtime
        The backend that it is made for.
    backend
        The backend that the gate runs it on.
    gpu
        What a user calls the runtime's GPU; None if nothing is said of it.
    model
        Made, or planned.

    Raises
    ------
    InputError, BackendUnavailableError
        As from `require_suited` and `require_suited_gpu`.
    """
    for one in dict.fromkeys((runtime, backend)):
        require_suited(one, model)
    if gpu is not None:
        require_suited_gpu(runtime, gpu, model)
