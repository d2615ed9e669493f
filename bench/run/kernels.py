"""The FFT layers alone, as a graph of two nodes: zero-filling as a model would compute it.

For benchmarks of lowerings: in a whole model the layers are a small share of the time, and a slow
one would hide behind the convolutions.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from kspacesr_rt.graph.bodies import OPSET, function_bodies
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import BoundModel, rebind
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering, ModelSpec

FFT_ALONE = "fft-x2"
"""Stands for a model's name in a plan: image to k-space, zero-filled, and back."""
UPSCALE = 2
IR_VERSION = 10
"""As the exporter's."""


def fft_alone(lowering: Lowering, matrix: Matrix) -> BoundModel:
    """Return FFT2c and IFFT2c between an LR matrix and twice that, and nothing else.

    Parameters
    ----------
    lowering
        What stands in the bodies of the two layers.
    matrix
        LR ``(rows, columns)``.

    Returns
    -------
        ``(n, 1, y, x) -> (n, 1, 2*y, 2*x)``: what `kspacesr_rt.kspace.resampling.zero_fill`
        computes.
    """
    spec = ModelSpec(
        name=FFT_ALONE,
        architecture="none",
        upscale=UPSCALE,
        matrix=(matrix[0], matrix[1]),
        normaliser="none",
        lowering=lowering,
        opset=OPSET,
    )
    forward = helper.make_node(
        "FFT2c",
        [INPUT_NAME],
        ["kspace"],
        name="fft",
        domain=OP_DOMAIN,
        input_upscale=1,
        output_upscale=1,
        input_channels=1,
        channels=2,
    )
    backward = helper.make_node(
        "IFFT2c",
        ["kspace"],
        ["image"],
        name="ifft",
        domain=OP_DOMAIN,
        input_upscale=1,
        output_upscale=UPSCALE,
        input_channels=2,
        channels=1,
    )
    # The transforms are orthonormal on their own grids, so the image comes out divided by UPSCALE.
    gain = helper.make_tensor("gain", TensorProto.FLOAT, [], [float(UPSCALE)])
    scale = helper.make_node("Mul", ["image", "gain"], [OUTPUT_NAME], name="scale")
    graph = helper.make_graph(
        [forward, backward, scale],
        FFT_ALONE,
        [_value(INPUT_NAME, spec.matrix)],
        [_value(OUTPUT_NAME, spec.sr_matrix(spec.matrix))],
        [gain],
    )
    proto = helper.make_model(
        graph,
        functions=function_bodies(lowering, {"FFT2c", "IFFT2c"}),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(OP_DOMAIN, 1)],
        ir_version=IR_VERSION,
    )
    rebind(proto, spec)
    onnx.checker.check_model(proto)
    return BoundModel(spec=spec, proto=proto)


def _value(name: str, matrix: Matrix) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, *matrix])
