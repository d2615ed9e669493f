"""Graphs that were written for one number of slices, which stands in the shapes that they make.

An exporter that is not told to leave the batch open writes it into every reshape: ``(4, c, h, w)``.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from kspacesr_rt.conversion.foreign_graph import PREFIX, ForeignGraph

_SHAPING = ("Reshape", "Expand")
"""Operators whose second input is a shape."""


def with_open_batch(graph: ForeignGraph) -> ForeignGraph | None:
    """Return a graph whose shapes leave the batch open that its file states.

    Where a shape begins with a multiple of the batch, that becomes whatever is left over; where
    something else is left over already, that gets its length, or if it has none, the batch becomes
    what comes in. Whether the graph then computes the same is not known: it has to be compared with
    the file itself.

    Parameters
    ----------
    graph
        What `read_foreign` returned.

    Returns
    -------
        None if its file states no batch, or one slice, or if no shape begins with it.
    """
    batch = graph.axes[0]
    if batch is None or batch == 1:
        return None
    opening = _Opening(graph, batch)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        shape = node.input[1] if node.op_type in _SHAPING and len(node.input) > 1 else ""
        opened = opening.shape(shape, node)
        if opened is not None:
            made = onnx.NodeProto()
            made.CopyFrom(node)
            made.input[1] = opened
            nodes += [*opening.new_nodes(), made]
        else:
            nodes.append(node)
    if not opening.weights:
        return None
    return dataclasses.replace(
        graph, nodes=tuple(nodes), weights=(*graph.weights, *opening.weights)
    )


class _Opening:
    """Makes shapes with an open batch, each once."""

    def __init__(self, graph: ForeignGraph, batch: int) -> None:
        self._batch = batch
        self._stated = {
            one.name: numpy_helper.to_array(one)
            for one in graph.weights
            if one.data_type == TensorProto.INT64 and len(one.dims) == 1
        }
        self._joined = {one.output[0]: one for one in graph.nodes if one.op_type == "Concat"}
        self._lengths = _lengths_of(graph)
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, str | None] = {}
        self.weights: list[TensorProto] = []

    def new_nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes that were made since this was called last."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def shape(self, name: str, node: onnx.NodeProto) -> str | None:
        """Return the name of a shape with an open batch; None if it does not begin with one."""
        stated = self._stated.get(name)
        lengths = self._lengths.get(node.output[0])
        if stated is not None and lengths is not None and -1 in stated[1:]:
            new = f"{name}.{node.op_type}.{'x'.join(map(str, lengths))}.open"
            stated = np.asarray(lengths, np.int64)
        else:
            new = f"{name}.{node.op_type}.open"
        if new not in self._made:
            if stated is not None and len(stated):
                left_over = -1 in stated[1:]
                made = self._opened(stated, new, node.op_type, left_over=left_over)
            else:
                made = self._of_parts(name, new, node.op_type)
            self._made[new] = new if made else None
        return self._made[new]

    def _of_parts(self, name: str, new: str, kind: str) -> bool:
        """Open a shape that is joined of lengths, as where the matrix is open and the batch not."""
        node = self._joined.get(name)
        if node is None or node.input[0] not in self._stated:
            return False
        first, *others = (self._stated.get(one, np.empty(0, np.int64)) for one in node.input)
        left_over = any(-1 in one for one in (first[1:], *others))
        if not len(first) or not self._opened(first, f"{new}.first", kind, left_over=left_over):
            return False
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[0], made.output[0], made.name = f"{new}.first", new, new
        self._nodes.append(made)
        return True

    def _opened(
        self, values: npt.NDArray[np.int64], new: str, kind: str, *, left_over: bool
    ) -> bool:
        """Make a constant with its first length open; return whether that can be."""
        if values[0] <= 0 or values[0] % self._batch or (left_over and values[0] != self._batch):
            return False
        opened = values.copy()
        # Of Expand, 1 is whatever is there; of Reshape, 0 is what comes in.
        opened[0] = 1 if kind == "Expand" else 0 if left_over else -1
        self.weights.append(numpy_helper.from_array(opened, new))
        return True


def _lengths_of(graph: ForeignGraph) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values that are the same for any input the file takes."""
    found = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph.content))
    except onnx.shape_inference.InferenceError:  # a runtime may know better
        return {}
    for value in inferred.graph.value_info:
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(one.dim_value > 0 for one in axes):
            found[f"{PREFIX}{value.name}"] = tuple(int(one.dim_value) for one in axes)
    return found
