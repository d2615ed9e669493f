"""Means over the planes of an image in two steps, and instance norms by such means, for OpenVINO.

OpenVINO 2026.4 adds up a plane of channels that lie side by side one sample after the other: of 128
x 128 samples the mean is off by 4e-5 of their deviation, and a network with 18 instance norms is
left with 94 to 110 dB. Means of blocks first, and then their mean, are exact to 5e-7. It would
join two reductions of one kind to one again; a pooling it leaves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kspacesr_rt.model.graph_memory import require_bounded
from kspacesr_rt.model.spec import ModelSpec

LONGEST_BLOCK = 16
"""Samples along an axis of a block, at most: 256 are added up one after the other."""
NORM, MEAN = "InstanceNormalization", "ReduceMean"
PLANE = (2, 3)
"""Axes of an image ``(n, c, y, x)``."""


def with_plane_means(proto: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Return a graph whose means over rows and columns are taken in two steps.

    Parameters
    ----------
    proto
        Bound to a matrix, without functions; it is not changed.
    spec
        What it is, with that matrix.

    Returns
    -------
        `proto` itself if it takes no means of planes.
    """
    if not any(node.op_type in (NORM, MEAN) for node in proto.graph.node):
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    rewriting = _Rewriting(made, spec)
    nodes = [one for node in made.graph.node for one in rewriting.of(node)]
    if len(nodes) == len(made.graph.node):
        return proto
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    made.graph.initializer.extend(rewriting.constants.values())
    return made


class _Rewriting:
    """Nodes for nodes, of one graph."""

    def __init__(self, proto: onnx.ModelProto, spec: ModelSpec) -> None:
        self._lengths = require_bounded(proto, spec, spec.name).lengths
        self._weights = {item.name: item for item in proto.graph.initializer}
        self.constants: dict[str, onnx.TensorProto] = {}

    def of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what stands for a node: itself, where it takes no mean of a plane."""
        if node.op_type not in (NORM, MEAN):
            return [node]
        lengths = self._lengths[node.input[0]]
        if len(lengths.fixed) != 4 or lengths.per_slice[2:].any():
            return [node]
        rows, columns = (int(length) for length in lengths.fixed[2:])
        block = [_largest_part(rows), _largest_part(columns)]
        if block == [1, 1]:  # lengths are primes
            block = [rows, 1]
        if node.op_type == NORM:
            return self._norm(node, block)
        return self._mean(node, block) if self._over_plane(node) else [node]

    def _over_plane(self, node: onnx.NodeProto) -> bool:
        stated = self._weights.get(node.input[1]) if len(node.input) > 1 else None
        if stated is None:
            return False
        return {int(axis) % 4 for axis in numpy_helper.to_array(stated)} == set(PLANE)

    def _mean(self, node: onnx.NodeProto, block: list[int]) -> list[onnx.NodeProto]:
        of_blocks = f"{node.output[0]}_of_blocks"
        rest = onnx.NodeProto()
        rest.CopyFrom(node)
        rest.input[0] = of_blocks
        return [_pooled(node.input[0], of_blocks, block), rest]

    def _norm(self, node: onnx.NodeProto, block: list[int]) -> list[onnx.NodeProto]:
        """Write a norm out: what is centred is squared, so that a shift costs nothing."""
        given, scale, bias = node.input
        [result] = node.output
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
        small = self._constant(f"{result}_epsilon", np.float32(epsilon))
        plane = self._constant("plane_axes", np.asarray(PLANE, np.int64))
        behind = self._constant("plane_behind", np.asarray([1, 2], np.int64))
        nodes: list[onnx.NodeProto] = []

        def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
            output = f"{result}_{name}" if name else result
            nodes.append(helper.make_node(kind, inputs, [output], **attributes))
            return output

        def mean(of: str, name: str) -> str:
            nodes.append(_pooled(of, f"{result}_{name}_of_blocks", block))
            return add(MEAN, [f"{result}_{name}_of_blocks", plane], name, keepdims=1)

        centred = add("Sub", [given, mean(given, "mean")], "centred")
        squared = add("Mul", [centred, centred], "squared")
        deviation = add(
            "Sqrt", [add("Add", [mean(squared, "variance"), small], "sum")], "deviation"
        )
        factor = add("Div", [add("Unsqueeze", [scale, behind], "scale"), deviation], "factor")
        scaled = add("Mul", [centred, factor], "scaled")
        add("Add", [scaled, add("Unsqueeze", [bias, behind], "bias")], "")
        return nodes

    def _constant(self, name: str, value: Any) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name


def _largest_part(length: int) -> int:
    """Return the most samples, up to `LONGEST_BLOCK`, of which an axis has a whole number."""
    return max(part for part in range(1, LONGEST_BLOCK + 1) if length % part == 0)


def _pooled(given: str, result: str, block: list[int]) -> onnx.NodeProto:
    return helper.make_node("AveragePool", [given], [result], kernel_shape=block, strides=block)
