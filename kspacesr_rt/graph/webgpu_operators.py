"""Operators that ONNX Runtime's WebGPU provider has no kernels for, in others that it has.

Of our networks' operators it lacks two: `Max`, which the normalisers take of a slice's maximum and
a smallest value, and `SpaceToDepth`. Both have equals to the last bit: a clip, and a transposition
between two reshapes, of which only the transposition moves anything.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper

from kspacesr_rt.model.binding import attributes_of


def with_webgpu_operators(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the operators that have no WebGPU kernel, where they can be replaced.

    Parameters
    ----------
    proto
        A flat graph (`kspacesr_rt.graph.flat`) of one matrix and any batch; not changed. A `Max` of
        anything but a value and one constant number stays as it is, as does a `SpaceToDepth` of
        unknown size.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {item.name: item for item in graph.initializer}
    lengths = _lengths(proto)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        replaced: list[onnx.NodeProto] | None = None
        if node.op_type == "Max" and node.domain == "":
            replaced = _as_clip(node, constants, graph)
        elif node.op_type == "SpaceToDepth" and node.domain == "":
            replaced = _as_transposition(node, lengths, graph)
        nodes += [node] if replaced is None else replaced
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def _as_clip(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], graph: onnx.GraphProto
) -> list[onnx.NodeProto] | None:
    values = [name for name in node.input if name not in constants]
    bounds = [constants[name] for name in node.input if name in constants]
    if len(values) != 1 or len(bounds) != 1:
        return None
    bound = numpy_helper.to_array(bounds[0])
    if bound.size != 1:
        return None
    (made,) = node.output
    name = f"{made}.least"  # a clip takes a scalar, not a tensor of one number
    graph.initializer.append(numpy_helper.from_array(bound.reshape(()), name))
    return [helper.make_node("Clip", [values[0], name], [made], name=node.name)]


def _as_transposition(
    node: onnx.NodeProto, lengths: Mapping[str, tuple[int, ...]], graph: onnx.GraphProto
) -> list[onnx.NodeProto] | None:
    """Write ``(n, c, b*y, b*x)`` as ``(n, c, y, b, x, b)``, turn it, and join ``(b, b, c)``."""
    (value,), (made,) = node.input, node.output
    if value not in lengths:
        return None
    channels, rows, columns = lengths[value]
    block = attributes_of(node)["blocksize"]
    rows, columns = rows // block, columns // block
    split = np.asarray([0, channels, rows, block, columns, block], np.int64)  # 0: as it is
    joined = np.asarray([0, block * block * channels, rows, columns], np.int64)
    names = f"{made}.split_lengths", f"{made}.joined_lengths"
    graph.initializer.append(numpy_helper.from_array(split, names[0]))
    graph.initializer.append(numpy_helper.from_array(joined, names[1]))
    parts, turned = f"{made}.split", f"{made}.turned"
    return [
        helper.make_node("Reshape", [value, names[0]], [parts], name=parts),
        helper.make_node("Transpose", [parts], [turned], name=turned, perm=[0, 3, 5, 1, 2, 4]),
        helper.make_node("Reshape", [turned, names[1]], [made], name=node.name),
    ]


def _lengths(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return ``(channels, rows, columns)`` of every value of four axes where they are known."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(dims) == 4 and all(dims[1:]):
            found[value.name] = tuple(dims[1:])
    return found
