"""Matrix products whose constant stands on the right, for runtimes that want it there.

ONNX Runtime's CUDA provider multiplies a constant from the left, ``L @ x``, by cuBLAS's product
over lists of pointers, and copies the three lists from the host in every run; in a captured graph
the copies stay, 8 bytes each, from buffers that may be gone by then. ``x @ R`` needs no list. So
``L @ x`` becomes ``(x.T @ L.T).T``: the same sums, and the transposed constant is stored.

What is transposed before a product costs nothing there: ONNX Runtime's own ``FusedMatMul`` has
cuBLAS read it so. A transform is a product from either side, ``L @ x @ R``, and two of those give
it: ``x.T @ L.T`` is ``(L @ x).T``, whose transpose the other one takes. Only a product by itself
is transposed afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper

OWN_DOMAIN = "com.microsoft"
"""Of ONNX Runtime's own operators."""


def with_right_hand_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which no product has a two-dimensional constant on its left.

    Parameters
    ----------
    proto
        A flat graph (`kspacesr_rt.graph.flat`); not changed. A product on a value whose number of
        axes is unknown stays as it is.

    Returns
    -------
        The same function to rounding, for ONNX Runtime alone: a product from the left and one from
        the right are computed in that order, whichever came first.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    _Turning(result).apply()
    return result


class _Turning:
    """Rewrites a graph, from its start to its end."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto, self.graph = proto, proto.graph
        self.constants = {item.name: item for item in proto.graph.initializer}
        self.axes = _numbers_of_axes(proto)
        self.takers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                self.takers[name].append(node)
        self.outputs = {item.name for item in proto.graph.output}
        self.nodes: list[onnx.NodeProto] = []

    def apply(self) -> None:
        """Rewrite the graph in place."""
        written = set[str]()
        for node in self.graph.node:
            if node.output[0] in written:
                continue
            side = self._side(node)
            other = self._other_side(node, side) if side else None
            if other is not None:
                written.add(other.output[0])
                left, right = (node, other) if side == "left" else (other, node)
                value = node.input[1 if side == "left" else 0]
                self._write(left.input[0], value, right.input[1], other.output[0])
            elif side == "left":
                self._write(node.input[0], node.input[1], None, node.output[0])
            else:
                self.nodes.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        if any(node.domain == OWN_DOMAIN for node in copies):
            self.proto.opset_import.append(helper.make_opsetid(OWN_DOMAIN, 1))
        _drop_unused(self.graph)

    def _side(self, node: onnx.NodeProto) -> str:
        """Say on which side a product has its matrix of constants; nothing of other nodes."""
        if node.op_type != "MatMul" or node.domain:
            return ""
        left, right = (self._is_matrix(name) for name in node.input)
        if left == right:
            return ""
        value = node.input[1 if left else 0]
        if value not in self.axes:
            return ""
        return "left" if left else "right"

    def _is_matrix(self, name: str) -> bool:
        return name in self.constants and len(self.constants[name].dims) == 2

    def _other_side(self, node: onnx.NodeProto, side: str) -> onnx.NodeProto | None:
        """Return the product from the other side, where it alone takes what this one gives."""
        taken = self.takers[node.output[0]]
        if len(taken) != 1 or node.output[0] in self.outputs:
            return None
        sides: Collection[str] = {side, self._side(taken[0])}
        return taken[0] if sides == {"left", "right"} else None

    def _write(self, left: str, value: str, right: str | None, made: str) -> None:
        """Write ``left @ value``, or ``left @ value @ right``."""
        stored = f"{left}.transposed"
        if stored not in self.constants:
            turned = np.ascontiguousarray(numpy_helper.to_array(self.constants[left]).T)
            self.constants[stored] = self.graph.initializer.add()
            self.constants[stored].CopyFrom(numpy_helper.from_array(turned, stored))
        between = f"{made}.turned"
        self.nodes.append(_turned_product(value, stored, between))
        if right is not None:
            self.nodes.append(_turned_product(between, right, made))
            return
        n = self.axes[value]
        perm = (*range(n - 2), n - 1, n - 2)
        self.nodes.append(helper.make_node("Transpose", [between], [made], name=made, perm=perm))


def _turned_product(value: str, constant: str, made: str) -> onnx.NodeProto:
    """Return ``value.T @ constant``, of the last two axes."""
    return helper.make_node(
        "FusedMatMul", [value, constant], [made], name=made, domain=OWN_DOMAIN, transA=1
    )


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
