"""Put normalisation around a network that others made: magnitudes of any unit in, and out again.

The same is written twice: as nodes around its graph, which is what model files hold, and in NumPy
around its own runtime, which is what the gate compares them with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt._version import __version__
from kspacesr_rt.conversion.foreign_graph import PREFIX, ForeignGraph
from kspacesr_rt.graph.constant_moduli import write_constant_moduli
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME

TINY = 1e-20
"""Smallest divisor of a slice: an all-zero slice stays zero."""
OLDEST_IR = 8
"""Version of the file format that is written at least: before 4, weights had to be inputs too."""
AXES_AS_INPUTS = 18
"""Opset from which reductions take their axes as an input."""
_SLICED = ("begin", "end", "axis")
"""Inputs of Slice that take the first slice of a batch: from 0 to 1 along axis 0."""
MAX_TAKES_INTEGERS = 12
"""Opset from which moduli can be written as the larger of two values of any type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """What a network takes, and what is made of a slice for it."""

    limits: tuple[float, float] | None = (0.0, 1.0)
    """What 0 and a slice's largest magnitude become; None: values are given as they are."""
    channels: int = 1
    """Of the network: a grey image is given to each, and what they give is averaged."""

    def before(self, lr: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ``(n, channels, y, x)`` for the network, of ``(n, 1, y, x)``, and the divisors."""
        top = np.maximum(np.abs(lr).max(axis=(1, 2, 3), keepdims=True), np.float32(TINY))
        if self.limits is None:
            given = lr
        else:
            low, high = (np.float32(one) for one in self.limits)
            given = lr / top
            given = given if self.limits == (0.0, 1.0) else given * (high - low) + low
        return np.repeat(given, self.channels, axis=1), top

    def after(self, sr: FloatArray, top: FloatArray) -> FloatArray:
        """Return ``(n, 1, s*y, s*x)`` of what the network gave."""
        mean: FloatArray = sr if sr.shape[1] == 1 else sr.mean(axis=1, keepdims=True)
        if self.limits is None:
            return mean
        low, high = (np.float32(one) for one in self.limits)
        mean = mean if self.limits == (0.0, 1.0) else (mean - low) / (high - low)
        return mean * top


class _Around:
    """Nodes of ours before and behind the network."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.ArrayLike, kind: type = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def reduce(self, op: str, source: str, axes: list[int], output: str) -> str:
        if self._opset < AXES_AS_INPUTS:
            return self.add(op, [source], output, axes=axes, keepdims=1)
        listed = self.constant(f"{output}.axes", axes, np.int64)
        return self.add(op, [source, listed], output, keepdims=1)


def normalised(
    graph: ForeignGraph,
    how: Normalisation,
    matrix: Matrix,
    upscale: int,
    *,
    output_channels: int,
    single_slice: bool,
    copies: int = 1,
) -> onnx.ModelProto:
    """Return a graph ``lr (n, 1, y, x) -> sr (n, 1, s*y, s*x)`` with the network inside.

    Parameters
    ----------
    graph
        What `read_foreign` returned.
    how
        What it takes.
    matrix
        LR ``(rows, columns)`` that the file says it is stored for.
    upscale
        SR samples per LR sample.
    output_channels
        What it gives: as many as it takes, or one.
    single_slice
        Whether it takes one slice at a time.
    copies
        How many of that slice the network is given at once, and gives back; the first is taken.
    """
    around = _Around(graph.opset)
    value, top = INPUT_NAME, ""
    low, high = how.limits or (0.0, 1.0)
    if how.limits is not None:
        magnitude = around.add("Abs", [value], "normalise.magnitude")
        largest = around.reduce("ReduceMax", magnitude, [1, 2, 3], "normalise.largest")
        tiny = around.constant("normalise.tiny", TINY)
        top = around.add("Max", [largest, tiny], "normalise.maximum")
        value = around.add("Div", [value, top], "normalise.divided")
        if how.limits != (0.0, 1.0):
            width = around.constant("normalise.width", np.float32(high) - np.float32(low))
            lowest = around.constant("normalise.low", low)
            value = around.add("Mul", [value, width], "normalise.stretched")
            value = around.add("Add", [value, lowest], "normalise.shifted")
    if how.channels > 1:
        value = around.add("Concat", [value] * how.channels, "normalise.channels", axis=1)
    if copies > 1:
        value = around.add("Concat", [value] * copies, "normalise.copies", axis=0)
    around.add("Identity", [value], f"{PREFIX}{graph.input}")
    before, around.nodes = around.nodes, []
    value = f"{PREFIX}{graph.output}"
    if copies > 1:
        first = [around.constant(f"restore.{one}", [one == "end"], np.int64) for one in _SLICED]
        value = around.add("Slice", [value, *first], "restore.first")
    if output_channels > 1:
        value = around.reduce("ReduceMean", value, [1], "restore.mean")
    if how.limits is not None:
        if how.limits != (0.0, 1.0):
            value = around.add("Sub", [value, "normalise.low"], "restore.shifted")
            value = around.add("Div", [value, "normalise.width"], "restore.stretched")
        value = around.add("Mul", [value, top], "restore.multiplied")
    around.add("Identity", [value], OUTPUT_NAME)
    batch: int | str = 1 if single_slice else "batch"
    sr = (matrix[0] * upscale, matrix[1] * upscale)
    made = helper.make_graph(
        [*before, *graph.nodes, *around.nodes],
        "adopted",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [batch, 1, *matrix])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [batch, 1, *sr])],
        [*graph.weights, *around.weights],
    )
    if graph.opset >= MAX_TAKES_INTEGERS:
        write_constant_moduli(made)
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=max(OLDEST_IR, helper.OP_SET_ID_VERSION_MAP[("ai.onnx", graph.opset)]),
        producer_name="kspacesr-rt",
        producer_version=__version__,
    )
