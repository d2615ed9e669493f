"""Integers of a bound graph that its matrix decides, written into it.

ONNX Runtime folds a `Shape` only where every axis is fixed, and the batch is not: whatever follows
from the matrix, down to whole DFT matrices, it would compute again for every slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper


def write_integers(graph: onnx.GraphProto, integers: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace nodes by the integers they make, in place; a graph without such stays as it is.

    Parameters
    ----------
    graph
        Bound to a matrix.
    integers
        What nodes make, the same for every batch; what else is in there is left.
    """
    if not any(name in integers for node in graph.node for name in node.output):
        return
    read = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        made = [name for name in node.output if name in read]
        if not made:
            continue  # only lengths of it were asked for
        if not all(name in integers for name in made):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            read.update(node.input)  # no operator that is allowed has a body
    made_here = {name for node in graph.node for name in node.output}
    left = {name for node in kept for name in node.output}
    del graph.node[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in integers.items()
        if name in read and name in made_here - left
    )
