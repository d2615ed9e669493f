"""Operators that ONNX Runtime's WebGPU provider has no kernels for, in others that it has.

Of our networks' operators it lacks two: `Max`, which the normalisers take of a slice's maximum and
a smallest value, and `SpaceToDepth`. Both have equals to the last bit: a clip, and a transposition
between two reshapes, of which only the transposition moves anything; or, of an image whose size the
graph does not say, a convolution that takes one sample each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
        unknown channels.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {item.name: item for item in graph.initializer}
    images = _images(proto)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        replaced: list[onnx.NodeProto] | None = None
        if node.op_type == "Max" and node.domain == "":
            replaced = _as_clip(node, constants, graph)
        elif node.op_type == "SpaceToDepth" and node.domain == "":
            replaced = _in_blocks(node, images.get(node.input[0]), graph)
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


@dataclass(frozen=True, slots=True)
class _Image:
    """What is known of a value of four axes."""

    channels: int
    rows: int
    """0 if it is not known, as is the next."""
    columns: int
    type: int
    """An `onnx.TensorProto.DataType`."""


def _in_blocks(
    node: onnx.NodeProto, image: _Image | None, graph: onnx.GraphProto
) -> list[onnx.NodeProto] | None:
    if image is None:
        return None
    if image.rows and image.columns:
        return _as_transposition(node, image, graph)
    return _as_convolution(node, image, graph)


def _as_transposition(
    node: onnx.NodeProto, image: _Image, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Write ``(n, c, b*y, b*x)`` as ``(n, c, y, b, x, b)``, turn it, and join ``(b, b, c)``."""
    (value,), (made,) = node.input, node.output
    block = attributes_of(node)["blocksize"]
    rows, columns = image.rows // block, image.columns // block
    split = np.asarray([0, image.channels, rows, block, columns, block], np.int64)  # 0: as it is
    joined = np.asarray([0, block * block * image.channels, rows, columns], np.int64)
    names = f"{made}.split_lengths", f"{made}.joined_lengths"
    graph.initializer.append(numpy_helper.from_array(split, names[0]))
    graph.initializer.append(numpy_helper.from_array(joined, names[1]))
    parts, turned = f"{made}.split", f"{made}.turned"
    return [
        helper.make_node("Reshape", [value, names[0]], [parts], name=parts),
        helper.make_node("Transpose", [parts], [turned], name=turned, perm=[0, 3, 5, 1, 2, 4]),
        helper.make_node("Reshape", [turned, names[1]], [made], name=node.name),
    ]


def _as_convolution(
    node: onnx.NodeProto, image: _Image, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Take sample ``(i, j)`` of each block of channel k by a kernel that is 1 there and 0 else."""
    (value,), (made,) = node.input, node.output
    block, channels = attributes_of(node)["blocksize"], image.channels
    ones = np.eye(block * block * channels, dtype=helper.tensor_dtype_to_np_dtype(image.type))
    kernels = np.moveaxis(ones.reshape(-1, block, block, channels), -1, 1)
    name = f"{made}.samples"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernels), name))
    return [helper.make_node("Conv", [value, name], [made], name=node.name, strides=[block, block])]


def _images(proto: onnx.ModelProto) -> dict[str, _Image]:
    """Return every value of four axes whose channels are known."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(dims) == 4 and dims[1]:
            _, channels, rows, columns = dims
            found[value.name] = _Image(channels, rows, columns, value.type.tensor_type.elem_type)
    return found
