"""Which lowering of the FFT layers suits which runtime, and why."""

from __future__ import annotations

from dataclasses import dataclass

from kspacesr_rt.errors import InputError
from kspacesr_rt.spec import Lowering


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A lowering and its reason."""

    lowering: Lowering
    """What stands in the bodies of the FFT layers."""
    reason: str
    """Why, in a sentence."""


GEMM_REASONS = {
    "ort-cpu": "its DFT kernel is slower than two matrix products and a hundred times less exact",
    "ort-cuda": "ONNX Runtime has no DFT kernel for CUDA, so a DFT would leave the GPU",
    "ort-tensorrt": "its TensorRT 10 refuses the DFT operator",
    "tensorrt": "two matrix products stay inside the engine; a DFT is a plugin at best",
    "tensorrt-rtx": "it refuses the DFT operator",
    "openvino": "it computes the DFT operator wrongly, without an error",
}
"""Runtime to why it gets ``gemm``; measured or read in its source, see the project's notes."""
NO_FP32_GEMM = ("sm75",)
"""GPUs for which TensorRT-RTX has no fp32 matrix product, but has fp32 convolutions."""


def choose_lowering(asked: str, runtime: str, gpu: str | None = None) -> Choice:
    """Choose how the FFT layers are lowered.

    Parameters
    ----------
    asked
        ``auto``, or a lowering, which is then taken as it is.
    runtime
        The backend the model is made for.
    gpu
        Its GPU as ``sm75``, ``sm86``, ...; None if it has none or it does not matter.

    Raises
    ------
    InputError
        If the lowering or the runtime is unknown.
    """
    if runtime not in GEMM_REASONS:
        raise InputError(
            f"no runtime is called '{runtime}'", hint=f"one of: {', '.join(GEMM_REASONS)}"
        )
    if asked != "auto":
        for lowering in ("gemm", "conv", "dft", "dynamic"):
            if asked == lowering:
                return Choice(lowering=lowering, reason="asked for")
        raise InputError(f"FFT lowering '{asked}' is not one of auto, gemm, conv, dft, dynamic")
    if runtime == "tensorrt-rtx" and gpu in NO_FP32_GEMM:
        return Choice(lowering="conv", reason=f"{runtime} has no fp32 matrix product on {gpu}")
    return Choice(lowering="gemm", reason=f"for {runtime}: {GEMM_REASONS[runtime]}")
