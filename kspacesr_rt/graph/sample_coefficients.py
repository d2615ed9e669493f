"""Real coefficients of the LR band that are the LR image's own samples.

A band of real images can be written in any basis (`kspacesr_rt.kspace.real_band`). In that of the
LR grid's samples a transform of the LR image is no product at all: the image with a few lines of
zeros. And what FFT layers hand on is an image rather than k-space, whose largest value is hundreds
of times the image's: half precision can hold it (`kspacesr_rt.graph.half_transforms`).
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kspacesr_rt.graph.aligned_coefficients import MULTIPLE
from kspacesr_rt.graph.bodies import GRID_ATTRIBUTES
from kspacesr_rt.graph.precision import opset_of
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.real_band import (
    coefficient_count,
    sample_analysis_matrix,
    sample_synthesis_matrix,
)
from kspacesr_rt.model.binding import BoundModel, Constants, attributes_of
from kspacesr_rt.model.spec import OP_DOMAIN

FORWARD, INVERSE, GAIN = "RealFFT2c", "RealIFFT2c", "RealWholeNyquist"
SAMPLES = "RealSamples"
"""What stands for a forward transform of an LR image."""


def with_sample_coefficients(model: BoundModel, *, fused: bool = True) -> onnx.ModelProto:
    """Return a bound model's graph with LR samples as the coefficients of its FFT layers.

    Parameters
    ----------
    model
        Bound to a matrix; not changed. Layers of complex k-space stay as they are, and so does a
        graph that doubles Nyquist lines, or whose FFT layers are no matrix products.
    fused
        Whether what takes the graph fuses elementwise operators. If not, and both axes are even, a
        transform of the LR image stays two products, of ones and signs.

    Returns
    -------
        The same function to rounding. Coefficients number what they did; those that a transform of
        LR images gives are padded to the multiples of `with_aligned_coefficients`.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model.proto)
    graph = result.graph
    if not takes_samples(model):
        return result
    matrix = model.spec.network_matrix(model.spec.matrix)
    constants = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain != OP_DOMAIN or node.op_type not in (FORWARD, INVERSE):
            nodes.append(node)
            continue
        values = attributes_of(node)
        lays_out = fused or not _both_even(matrix)
        if node.op_type == FORWARD and values["input_upscale"] == 1 and lays_out:
            nodes.append(_samples_of(node, matrix, graph))
            continue
        make = sample_analysis_matrix if node.op_type == FORWARD else sample_synthesis_matrix
        finer = max(values["input_upscale"], values["output_upscale"])
        left, right = node.input[-2:]
        # All of the scale on one side: every `finer`-th row, a copy, is then a power of two.
        root = math.sqrt(finer)
        _replace(constants[left], make(matrix[0], finer * matrix[0]) * root)
        _replace(constants[right], make(matrix[1], finer * matrix[1]).T / root)
        nodes.append(node)
    if any(node.op_type == SAMPLES for node in nodes):
        result.functions.append(_samples_body(matrix, opset_of(result)))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def takes_samples(model: BoundModel) -> bool:
    """Say whether LR samples can be a graph's coefficients; see `with_sample_coefficients`."""
    return model.spec.lowering == "gemm" and not any(
        (node.domain, node.op_type) == (OP_DOMAIN, GAIN) for node in model.proto.graph.node
    )


def _replace(constant: onnx.TensorProto, array: FloatArray) -> None:
    rounded = np.ascontiguousarray(array, np.float32)
    made = numpy_helper.from_array(rounded, constant.name)
    constant.CopyFrom(made)


def _samples_of(node: onnx.NodeProto, matrix: Matrix, graph: onnx.GraphProto) -> onnx.NodeProto:
    """Return the layer that lays an LR image out as its coefficients, its constants stored.

    Notes
    -----
    All but its `n` samples are 0 or masked, but for one: where both axes are even, the single lines
    meet in one sample of k-space, the sum over the image with alternating signs.
    """
    lengths = [-(-coefficient_count(n) // MULTIPLE) * MULTIPLE for n in matrix]
    more = [length - n for length, n in zip(lengths, matrix, strict=True)]
    constants: Constants = {"pads": np.asarray([0, 0, 0, 0, 0, 0, *more], np.int64)}
    if _both_even(matrix):
        rows, columns = ((1.0 - 2.0 * ((np.arange(n) - n // 2) % 2)) / np.sqrt(n) for n in matrix)
        corner = np.zeros((1, 1, *lengths), np.bool_)
        corner[0, 0, matrix[0] + 1, matrix[1] + 1] = True
        constants |= {
            "rows": rows[:, None].astype(np.float32),
            "columns": columns.astype(np.float32),
            "corner": corner,
        }
    names = [f"{node.name}.{key}" for key in constants]
    for name, array in zip(names, constants.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_node(
        SAMPLES,
        [node.input[0], *names],
        list(node.output),
        name=node.name,
        domain=OP_DOMAIN,
        input_upscale=1,
        output_upscale=1,
    )


def _both_even(matrix: Matrix) -> bool:
    return not any(n % 2 for n in matrix)


def _samples_body(matrix: Matrix, opset: int) -> onnx.FunctionProto:
    """Return the standard operators of such a layer; of another opset none would be inlined."""
    constants, padded = ["pads"], "y"
    nodes: list[onnx.NodeProto] = []
    if _both_even(matrix):
        constants, padded = ["pads", "rows", "columns", "corner"], "padded"
        nodes = [
            helper.make_node("Mul", ["x", "rows"], ["signed_rows"]),
            helper.make_node("Mul", ["signed_rows", "columns"], ["signed"]),
            helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
            helper.make_node("ReduceSum", ["signed", "axes"], ["line"], keepdims=1),
            helper.make_node("Where", ["corner", "line", "padded"], ["y"]),
        ]
    nodes.insert(max(len(nodes) - 1, 0), helper.make_node("Pad", ["x", "pads"], [padded]))
    return helper.make_function(
        OP_DOMAIN,
        SAMPLES,
        ["x", *constants],
        ["y"],
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=GRID_ATTRIBUTES,
    )
