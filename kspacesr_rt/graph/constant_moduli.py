"""Moduli of what does not follow from the image, written so that every runtime computes them.

OpenVINO 2026.4 folds ``Abs(a - b)`` of constants, as of distances from the centre of k-space, to
``a - b``. The larger of a value and its opposite it computes.
"""

from __future__ import annotations

import onnx
from onnx import helper

_OF_SHAPES = frozenset({"Shape", "Size"})


def write_constant_moduli(graph: onnx.GraphProto) -> None:
    """Replace ``Abs`` of values that no input's samples reach; the graph is changed."""
    given = {item.name for item in graph.initializer}
    of_samples = {item.name for item in graph.input} - given
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in _OF_SHAPES and _reads(node) & of_samples:
            of_samples |= set(node.output)
        elif node.op_type == "Abs" and not node.domain:
            nodes += _larger_of_both(node)
            continue
        nodes.append(node)
    if len(nodes) != len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return what a node, and the bodies of it, take."""
    inner = [one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH]
    return set(node.input).union(*(_reads(one) for body in inner for one in body.node))


def _larger_of_both(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    [value], [result] = node.input, node.output
    opposite = f"{result}_opposite"
    return [
        helper.make_node("Neg", [value], [opposite]),
        helper.make_node("Max", [value, opposite], [result]),
    ]
