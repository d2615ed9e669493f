"""Function bodies of the ``kspacesr_rt`` operators, in standard ONNX ops.

A runtime that knows nothing of the domain inlines the body; one with a native kernel of that name
uses the kernel. Bodies hold no sizes: what depends on the matrix comes in as constants
(`kspacesr_rt.model.binding`), so one body serves every matrix.
"""

from __future__ import annotations

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, helper

from kspacesr_rt.errors import ExportError
from kspacesr_rt.graph.dynamic_bodies import (
    dynamic_nyquist,
    dynamic_spectrum,
    dynamic_transform,
    dynamic_window,
)
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering

OPSET = 20
"""Opset of every graph and body: the first whose DFT takes its axis as an input."""

GRID_ATTRIBUTES = ["input_upscale", "output_upscale"]
TRANSFORM_ATTRIBUTES = [*GRID_ATTRIBUTES, "input_channels", "channels"]
COMPLEX_TRANSFORMS = {
    "FFT2c": False,
    "IFFT2c": True,
    "CornerFFT2c": False,
    "CornerIFFT2c": True,
}
"""Transforms to or from complex k-space, and whether they are inverse. Where the image's origin
lies is a matter of their constants, except where the graph makes these itself."""


def _ints(name: str, values: list[int]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)


def _channel_count(name: str) -> NodeProto:
    """Return a node that yields the function's attribute `channels` as a scalar."""
    node = helper.make_node("Constant", [], [name])
    reference = AttributeProto(name="value_int", type=AttributeProto.INT)
    reference.ref_attr_name = "channels"
    node.attribute.append(reference)
    return node


def _function(
    name: str, constants: list[str], attributes: list[str], nodes: list[NodeProto]
) -> FunctionProto:
    return helper.make_function(
        OP_DOMAIN,
        name,
        ["x", *constants],
        ["y"],
        nodes,
        [helper.make_opsetid("", OPSET)],
        attributes=attributes,
    )


def _gemm_transform(name: str) -> FunctionProto:
    """Two MatMuls; reshapes use ONNX's 0 (copy a dimension) and -1 (infer it), so no size stands.

    ``(n, c, y, x)`` is stacked to ``(n, 1, c*y, x)`` without a copy, multiplied from the left to
    ``(n, 1, 2*ky, x)``, laid side by side to ``(n, ky, 2*x)`` and multiplied from the right.
    """
    nodes = [
        _ints("stack", [0, 1, -1, 0]),
        helper.make_node("Reshape", ["x", "stack"], ["stacked"]),
        helper.make_node("MatMul", ["left", "stacked"], ["half"]),
        _ints("split", [0, 2, -1, 0]),
        helper.make_node("Reshape", ["half", "split"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["beside"], perm=[0, 2, 1, 3]),
        _ints("join", [0, 0, -1]),
        helper.make_node("Reshape", ["beside", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "right"], ["flat"]),
        _channel_count("count"),
        _ints("one", [1]),
        helper.make_node("Reshape", ["count", "one"], ["counts"]),
        _ints("lead", [0, 0]),
        _ints("rest", [-1]),
        helper.make_node("Concat", ["lead", "counts", "rest"], ["unflat"], axis=0),
        helper.make_node("Reshape", ["flat", "unflat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["y"], perm=[0, 2, 1, 3]),
    ]
    return _function(name, ["left", "right"], TRANSFORM_ATTRIBUTES, nodes)


def _conv_transform(name: str) -> FunctionProto:
    """Write the two matrix products as 1x1 convolutions: for GPUs whose TensorRT has no fp32 GEMM.

    An axis that is summed over becomes the channels: ``(n, c*y, 1, x)`` to ``(n, 2*ky, 1, x)``,
    then ``(n, 2*x, 1, ky)`` to ``(n, channels*kx, 1, ky)``.
    """
    nodes = [
        _ints("stack", [0, -1, 1, 0]),
        helper.make_node("Reshape", ["x", "stack"], ["stacked"]),
        helper.make_node("Conv", ["stacked", "left"], ["half"], kernel_shape=[1, 1]),
        _ints("split", [0, 2, -1, 0]),
        helper.make_node("Reshape", ["half", "split"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("Reshape", ["turned", "stack"], ["joined"]),
        helper.make_node("Conv", ["joined", "right"], ["flat"], kernel_shape=[1, 1]),
        _channel_count("count"),
        _ints("one", [1]),
        helper.make_node("Reshape", ["count", "one"], ["counts"]),
        _ints("lead", [0]),
        _ints("rest", [-1, 0]),
        helper.make_node("Concat", ["lead", "counts", "rest"], ["unflat"], axis=0),
        helper.make_node("Reshape", ["flat", "unflat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["y"], perm=[0, 1, 3, 2]),
    ]
    return _function(name, ["left", "right"], TRANSFORM_ATTRIBUTES, nodes)


def _real_gemm_transform(name: str) -> FunctionProto:
    """One MatMul an axis between real images and real coefficients; `kspacesr_rt.kspace.real_band`.

    Forward rows come first, inverse columns: each is the other's transpose.
    """
    if name == "RealFFT2c":
        nodes = [
            helper.make_node("MatMul", ["left", "x"], ["half"]),
            helper.make_node("MatMul", ["half", "right"], ["y"]),
        ]
        return _function(name, ["left", "right"], GRID_ATTRIBUTES, nodes)
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["masked"]),
        helper.make_node("MatMul", ["masked", "right"], ["half"]),
        helper.make_node("MatMul", ["left", "half"], ["y"]),
    ]
    return _function(name, ["mask", "left", "right"], GRID_ATTRIBUTES, nodes)


def _real_conv_transform(name: str) -> FunctionProto:
    """Write `_real_gemm_transform` as 1x1 convolutions: the axis summed over is the channels."""
    nodes, constants, value = [], ["left", "right"], "x"
    if name == "RealIFFT2c":
        nodes.append(helper.make_node("Mul", ["x", "mask"], ["masked"]))
        constants, value = ["mask", "left", "right"], "masked"
    nodes += [
        helper.make_node("Transpose", [value], ["rows"], perm=[0, 2, 1, 3]),
        helper.make_node("Conv", ["rows", "left"], ["half"], kernel_shape=[1, 1]),
        helper.make_node("Transpose", ["half"], ["columns"], perm=[0, 3, 2, 1]),
        helper.make_node("Conv", ["columns", "right"], ["turned"], kernel_shape=[1, 1]),
        helper.make_node("Transpose", ["turned"], ["y"], perm=[0, 2, 3, 1]),
    ]
    return _function(name, constants, GRID_ATTRIBUTES, nodes)


def _dft_transform(name: str, *, inverse: bool) -> FunctionProto:
    """Apply the standard DFT op to both axes; shifts and crops are gathers, the fill is a pad."""
    nodes = [helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1])]
    value = "last"
    if inverse:
        nodes.append(helper.make_node("Pad", [value, "pads"], ["filled"]))
        value = "filled"
    steps = [("shift_y", 1), ("shift_x", 2)]
    for index, axis in steps:
        nodes.append(helper.make_node("Gather", [value, index], [f"{index}ed"], axis=axis))
        value = f"{index}ed"
    for axis in (1, 2):
        nodes += [
            helper.make_node("Constant", [], [f"axis{axis}"], value_int=axis),
            helper.make_node(
                "DFT", [value, "", f"axis{axis}"], [f"dft{axis}"], inverse=int(inverse)
            ),
        ]
        value = f"dft{axis}"
    for index, axis in [("unshift_y", 1), ("unshift_x", 2)]:
        nodes.append(helper.make_node("Gather", [value, index], [f"{index}ed"], axis=axis))
        value = f"{index}ed"
    nodes += [
        helper.make_node("Mul", [value, "gain"], ["scaled"]),
        _channel_count("count"),
        _ints("one", [1]),
        helper.make_node("Reshape", ["count", "one"], ["ends"]),
        _ints("starts", [0]),
        _ints("channel_axis", [3]),
        helper.make_node("Slice", ["scaled", "starts", "ends", "channel_axis"], ["kept"]),
        helper.make_node("Transpose", ["kept"], ["y"], perm=[0, 3, 1, 2]),
    ]
    indices = ["shift_y", "shift_x", "unshift_y", "unshift_x", "gain"]
    constants = (["pads"] if inverse else []) + indices
    return _function(name, constants, TRANSFORM_ATTRIBUTES, nodes)


def _centre_crop() -> FunctionProto:
    nodes = [
        _ints("axes", [2, 3]),
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"]),
    ]
    return _function("CentreCrop", ["starts", "ends"], GRID_ATTRIBUTES, nodes)


def _centre_fill() -> FunctionProto:
    nodes = [helper.make_node("Pad", ["x", "pads"], ["y"])]
    return _function("CentreFill", ["pads"], GRID_ATTRIBUTES, nodes)


def _whole_nyquist(name: str) -> FunctionProto:
    """Multiply by 2 on the Nyquist lines: of k-space, or of its real coefficients."""
    return _function(
        name, ["gain"], GRID_ATTRIBUTES, [helper.make_node("Mul", ["x", "gain"], ["y"])]
    )


def _mean_spectrum(name: str) -> FunctionProto:
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    attributes = [*GRID_ATTRIBUTES, "divide", "spectrum"]
    return _function(name, ["factor"], attributes, nodes)


def function_bodies(lowering: Lowering, used: set[str]) -> list[onnx.FunctionProto]:
    """Return the bodies of the operators a graph uses.

    Parameters
    ----------
    lowering
        ``gemm``: two matrix products a transform; ``conv``: the same as 1x1 convolutions;
        ``dft``: the standard DFT op; ``dynamic``: matrices made in the graph.
    used
        Operator names.

    Raises
    ------
    ExportError
        If the lowering is unknown.
    """
    if lowering == "gemm":
        transforms = [_gemm_transform(name) for name in COMPLEX_TRANSFORMS]
        transforms += [_real_gemm_transform("RealFFT2c"), _real_gemm_transform("RealIFFT2c")]
    elif lowering == "conv":
        transforms = [_conv_transform(name) for name in COMPLEX_TRANSFORMS]
        transforms += [_real_conv_transform("RealFFT2c"), _real_conv_transform("RealIFFT2c")]
    elif lowering == "dynamic":
        dynamic = [
            *(
                dynamic_transform(name, inverse=inverse, corner=name.startswith("Corner"))
                for name, inverse in COMPLEX_TRANSFORMS.items()
            ),
            dynamic_window("CentreCrop", fill=False),
            dynamic_window("CentreFill", fill=True),
            dynamic_spectrum("MeanSpectrum"),
            dynamic_spectrum("PeakSpectrum", of_peak=True),
            dynamic_nyquist("WholeNyquist"),
        ]
        return [body for body in dynamic if body.name in used]
    elif lowering == "dft":
        transforms = [
            _dft_transform(name, inverse=inverse) for name, inverse in COMPLEX_TRANSFORMS.items()
        ]
    else:
        raise ExportError(f"FFT lowering '{lowering}' is not one of gemm, conv, dft, dynamic")
    spectra = [_mean_spectrum("MeanSpectrum"), _mean_spectrum("PeakSpectrum")]
    nyquist = [_whole_nyquist(name) for name in ("WholeNyquist", "RealWholeNyquist")]
    bodies = [*transforms, _centre_crop(), _centre_fill(), *spectra, *nyquist]
    return [body for body in bodies if body.name in used]
