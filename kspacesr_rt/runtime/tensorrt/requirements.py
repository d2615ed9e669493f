"""What a model needs of a GPU that some GPUs have not.

Measured with TensorRT-RTX 1.7.1, whose builder needs no GPU to say no, but says it in its own words
and after the work.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from kspacesr_rt.errors import EngineError
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.spec import Precision
from kspacesr_rt.runtime.tensorrt.targets import GpuTarget, RuntimeName

_FP8 = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)
TF32_PAYS = {80: 2, 90: 4, 100: 2}
"""Compute capabilities whose TF32, three products for one, is so much faster than fp32 that it pays
for what it moves and launches besides, to the least upscale for which it does: on paper, from data
sheets and the layers that the builder makes."""
_TYPE_ATTRIBUTES = ("to", "output_dtype")
"""Attributes of Cast and QuantizeLinear that name an element type."""


def require_buildable(model: BoundModel, runtime: RuntimeName, target: GpuTarget) -> None:
    """Refuse what is known not to build, before a builder says it in its own words.

    Raises
    ------
    EngineError
        If the GPU lacks what the model computes in; the hint says what to export instead.
    """
    types = element_types(model.proto)
    lacks = [
        (
            runtime == "tensorrt-rtx"
            and target.sm < 80
            and model.spec.lowering in ("gemm", "dynamic"),
            f"fp32 matrix products, which FFT layers lowered as '{model.spec.lowering}' need",
            "export with --fft conv",
        ),
        (TensorProto.BFLOAT16 in types and target.sm < 80, "bf16", "export with --precision fp16"),
        (
            not types.isdisjoint(_FP8) and target.sm < 89,
            "fp8",
            "fp8 needs sm89 or newer; use int8, or export with --precision fp16",
        ),
    ]
    for lacking, what, hint in lacks:
        if lacking:
            raise EngineError(
                f"'{model.spec.name}' cannot be built for {target.label}: it has no {what}",
                hint=hint,
            )


def precision_notes(runtime: str, precision: Precision) -> tuple[str, ...]:
    """Return what a user should know of a precision on an engine's runtime."""
    if runtime == "tensorrt-rtx" and precision in ("int8", "fp8"):
        return (
            f"{precision} should lose to fp16 on {runtime}: its convolutions write fp32, and "
            "rounding is a layer of its own (x2-fast, 256 x 256: 47 layers move 530 MB, in fp16 31 "
            "layers 205 MB); export with --precision fp16",
        )
    return ()


def tf32_pays(sm: int, upscale: int) -> bool:
    """Say whether FFT layers of an fp16 model should be faster in TF32, split, than in fp32."""
    return sm in TF32_PAYS and upscale >= TF32_PAYS[sm]


def tf32_notes(target: str, upscale: int) -> tuple[str, ...]:
    """Return what a user should know of TF32 on a compute capability such as ``sm89``."""
    if tf32_pays(int(target.removeprefix("sm")), upscale):
        return ()
    return (
        f"--tf32 should not pay on {target}: three rounded products take the place of one and move "
        "more, and its TF32 is not fast enough for that; leave it out",
    )


def element_types(proto: onnx.ModelProto) -> set[int]:
    """Return the element types (`onnx.TensorProto.DataType`) of weights, casts and quantisers."""
    nodes = [*proto.graph.node, *(node for body in proto.functions for node in body.node)]
    attributes = [attribute for node in nodes for attribute in node.attribute]
    types = {int(tensor.data_type) for tensor in proto.graph.initializer}
    types |= {int(item.t.data_type) for item in attributes if item.HasField("t")}
    return types | {int(item.i) for item in attributes if item.name in _TYPE_ATTRIBUTES}
