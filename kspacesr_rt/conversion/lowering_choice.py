"""Which lowering of the FFT layers suits which runtime, and why."""

from __future__ import annotations

from dataclasses import dataclass

from kspacesr_rt.errors import InputError
from kspacesr_rt.model.spec import Lowering
from kspacesr_rt.runtime.tensorrt.targets import NO_FP32_PRODUCTS
from kspacesr_rt.system.gpu_models import capability_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LoweringChoice:
    """A lowering and its reason."""

    lowering: Lowering
    """What stands in the bodies of the FFT layers."""
    reason: str
    """Why, in a sentence."""


GEMM_REASONS = {
    "ort-cpu": "its DFT kernel is slower than two matrix products and a hundred times less exact",
    "ort-cuda": "ONNX Runtime has no DFT kernel for CUDA, so a DFT would leave the GPU",
    "ort-tensorrt": "its TensorRT 10 refuses the DFT operator",
    "ort-webgpu": "ONNX Runtime has no DFT kernel for WebGPU, so a DFT would leave the GPU",
    "tensorrt": "two matrix products stay inside the engine; a DFT is a plugin at best",
    "tensorrt-rtx": "it refuses the DFT operator",
    "openvino": "it computes the DFT operator wrongly, without an error",
}
"""Runtime to why it gets ``gemm``; measured or read in its source, see the project's notes."""


def choose_lowering(asked: str, runtime: str, gpu: str | None = None) -> LoweringChoice:
    """Choose how the FFT layers are lowered.

    Parameters
    ----------
    asked
        ``auto``, or a lowering, which is then taken as it is.
    runtime
        The backend the model is made for.
    gpu
        Its GPU as ``sm75``, ``L4``, ...; None if it has none or it does not matter.

    Raises
    ------
    InputError
        If the lowering, the runtime or the GPU is unknown.
    """
    if runtime not in GEMM_REASONS:
        raise InputError(
            f"no runtime is called '{runtime}'", hint=f"one of: {', '.join(GEMM_REASONS)}"
        )
    sm = None if gpu is None else capability_of(gpu)  # a name that nobody knows is refused
    if asked != "auto":
        for lowering in ("gemm", "conv", "dft", "dynamic"):
            if asked == lowering:
                return LoweringChoice(lowering=lowering, reason="asked for")
        raise InputError(f"FFT lowering '{asked}' is not one of auto, gemm, conv, dft, dynamic")
    if sm is not None and runtime == "tensorrt-rtx" and sm in NO_FP32_PRODUCTS:
        return LoweringChoice(
            lowering="conv", reason=f"{runtime} has no fp32 matrix product on sm{sm}"
        )
    return LoweringChoice(lowering="gemm", reason=f"for {runtime}: {GEMM_REASONS[runtime]}")
