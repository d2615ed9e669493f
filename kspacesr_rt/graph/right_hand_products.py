"""Matrix products whose constant stands on the right, for runtimes that want it there.

ONNX Runtime's CUDA provider multiplies a constant from the left, ``L @ x``, by cuBLAS's product
over lists of pointers, and copies the three lists from the host in every run; in a captured graph
the copies stay, 8 bytes each, from buffers that may be gone by then. ``x @ R`` needs no list. So
``L @ x`` becomes ``(x.T @ L.T).T``: the same sums; the transposed constant is stored, and the two
transpositions move what the copies waited for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper


def with_right_hand_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which no product has a two-dimensional constant on its left.

    Parameters
    ----------
    proto
        A flat graph (`kspacesr_rt.graph.flat`); not changed. A product on a value whose number of
        axes is unknown stays as it is.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {item.name: item for item in graph.initializer}
    axes = _numbers_of_axes(proto)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not _is_left_product(node, constants) or node.input[1] not in axes:
            nodes.append(node)
            continue
        left, value = node.input
        n = axes[value]
        perm = (*range(n - 2), n - 1, n - 2)
        stored = f"{left}.transposed"
        if stored not in constants:
            turned = np.ascontiguousarray(numpy_helper.to_array(constants[left]).T)
            constants[stored] = graph.initializer.add()
            constants[stored].CopyFrom(numpy_helper.from_array(turned, stored))
        (product,) = node.output
        before, between = f"{product}.turned", f"{product}.product"
        nodes += [
            helper.make_node("Transpose", [value], [before], name=before, perm=perm),
            helper.make_node("MatMul", [before, stored], [between], name=between),
            helper.make_node("Transpose", [between], [product], name=product, perm=perm),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    return result


def _is_left_product(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type != "MatMul" or node.domain != "":
        return False
    left, right = node.input
    return left in constants and len(constants[left].dims) == 2 and right not in constants


def _numbers_of_axes(proto: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {one.name: one.type.tensor_type.shape for one in values}
    return {name: len(shape.dim) for name, shape in known.items() if len(shape.dim) >= 2}


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
