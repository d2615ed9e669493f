"""Pad a matrix to what a network needs, and crop its result exactly: nodes around its graph.

Networks with windows or pooling take multiples of some number only. Binding puts what is missing
in front of such a graph (by reflection, or by zero-filling k-space) and takes it away behind it, at
the sample where the grid of the result begins. Where a network is declared to keep measured
samples, they are put back after cropping: what is cropped away had a share in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from kspacesr_rt.kspace import FloatArray, SampleGrid, sample_origin
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import OP_DOMAIN, ModelSpec

PREFIX = f"{OP_DOMAIN}.padding"
"""Of the names of what is added."""


def pad_around(proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Let a graph for `spec.network_matrix` take `spec.matrix`, in place.

    Parameters
    ----------
    proto
        Bound to the padded matrix.
    spec
        Its `matrix` is what the graph takes afterwards.
    """
    padded = spec.network_matrix(spec.matrix)
    if padded == spec.matrix:
        return
    inner_input, inner_output = f"{PREFIX}.lr", f"{PREFIX}.sr"
    for node in proto.graph.node:
        for names, old, new in (
            (node.input, INPUT_NAME, inner_input),
            (node.output, OUTPUT_NAME, inner_output),
        ):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new
        # A value that is an output may be read inside, too.
        for position, name in enumerate(node.input):
            if name == OUTPUT_NAME:
                node.input[position] = inner_output
    grid = spec.sample_grid
    axes = list(zip(spec.matrix, padded, strict=True))
    before, after = _Nodes(proto), _Nodes(proto)
    hard = spec.data_consistency == "hard"
    cropped = f"{PREFIX}.cropped" if hard else OUTPUT_NAME
    if spec.padding == "reflect":
        for axis, (n, wide) in zip((2, 3), axes, strict=True):
            source = INPUT_NAME if axis == 2 else f"{PREFIX}.rows"
            target = f"{PREFIX}.rows" if axis == 2 else inner_input
            first, _ = reflection(n, wide, spec.upscale, grid)
            index = np.pad(np.arange(n), (first, wide - n - first), mode="reflect")
            before.add(
                "Gather", [source, before.constant(f"index_{axis}", index)], target, axis=axis
            )
        starts = [reflection(n, wide, spec.upscale, grid)[1] for n, wide in axes]
        ends = [start + spec.upscale * n for start, (n, _) in zip(starts, axes, strict=True)]
        bounds = [
            after.constant(name, np.asarray(values, np.int64))
            for name, values in (("starts", starts), ("ends", ends), ("axes", [2, 3]))
        ]
        after.add("Slice", [inner_output, *bounds], cropped)
    else:
        before.product(INPUT_NAME, [fill_matrix(*axis) for axis in axes], inner_input, "fill")
        crops = [crop_matrix(*axis, spec.upscale, grid) for axis in axes]
        after.product(inner_output, crops, cropped, "crop")
    if hard:
        pairs = [measured_matrices(n, spec.upscale, grid) for n in spec.matrix]
        found, missing = f"{PREFIX}.found", f"{PREFIX}.missing"
        after.product(cropped, [pair[0] for pair in pairs], found, "found")
        after.add("Sub", [INPUT_NAME, found], missing)
        after.product(missing, [pair[1] for pair in pairs], f"{PREFIX}.correction", "correction")
        after.add("Add", [cropped, f"{PREFIX}.correction"], OUTPUT_NAME)
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*before.nodes, *kept, *after.nodes])


class _Nodes:
    """Nodes to add to a graph, in their order; constants go into it at once."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        whole = f"{PREFIX}.{name}"
        self._graph.initializer.append(numpy_helper.from_array(values, whole))
        return whole

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        name = f"{PREFIX}.{op}.{output}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))

    def product(self, source: str, factors: list[FloatArray], output: str, name: str) -> None:
        """Add ``rows @ source @ columns.T``."""
        rows, columns = (factor.astype(np.float32) for factor in factors)
        between = f"{PREFIX}.{name}.rows_done"
        self.add("MatMul", [self.constant(f"{name}_rows", rows), source], between)
        right = self.constant(f"{name}_columns", np.ascontiguousarray(columns.T))
        self.add("MatMul", [between, right], output)


def reflection(n: int, padded: int, upscale: int, grid: SampleGrid) -> tuple[int, int]:
    """Return how many samples go in front of an axis, and the SR sample its result begins at.

    Parameters
    ----------
    n, padded
        LR samples before and after.
    upscale
        SR samples per LR sample.
    grid
        Where SR samples lie: the first may lie before the first LR sample, and on the grid of
        k-space it does so for an odd number of samples.

    Notes
    -----
    SR sample j of the padded axis lies at ``sample_origin(padded) + j / upscale - front``, counted
    in samples of the axis itself; the one wanted first is at ``sample_origin(n)``.
    """
    offset = sample_origin(n, upscale, grid) - sample_origin(padded, upscale, grid)
    first = round(offset * upscale)
    front = 1 if first < 0 else 0
    return front, first + upscale * front


def interpolation(n: int, positions: FloatArray, band: int | None = None) -> FloatArray:
    """Return the matrix that evaluates a periodic, band-limited axis at any positions.

    Parameters
    ----------
    n
        Samples of the axis.
    positions
        Where to evaluate, in its samples.
    band
        Samples' worth of frequencies to keep; None: all of them. Both ends of the Nyquist line of
        an even band are kept, as one.

    Returns
    -------
        Shape ``(len(positions), n)``, float64.
    """
    band = n if band is None else band
    lag = (np.asarray(positions, np.float64)[:, None] - np.arange(n)) * (2 * np.pi / n)
    frequencies = np.arange(1, (band - 1) // 2 + 1)
    matrix: FloatArray = np.ones_like(lag)
    for frequency in frequencies:
        matrix += 2 * np.cos(frequency * lag)
    if band % 2 == 0:
        matrix += (1 if band == n else 2) * np.cos(band / 2 * lag)
    return matrix / n


def fill_matrix(n: int, padded: int) -> FloatArray:
    """Return what zero-fills the k-space of an axis: shape ``(padded, n)``, same intensities."""
    positions = n // 2 + (np.arange(padded) - padded // 2) * (n / padded)
    return interpolation(n, positions)


def crop_matrix(n: int, padded: int, upscale: int, grid: SampleGrid) -> FloatArray:
    """Return what crops the SR k-space of an axis to its own: ``(upscale * n, upscale * padded)``.

    Its positions are those of the grid: SR samples of the padded axis lie elsewhere in the FOV.
    """
    wanted = sample_origin(n, upscale, grid) + np.arange(upscale * n) / upscale
    in_padded = padded // 2 + (wanted - n // 2) * (padded / n)
    positions = upscale * (in_padded - sample_origin(padded, upscale, grid))
    return interpolation(upscale * padded, positions, band=upscale * n)


def measured_matrices(n: int, upscale: int, grid: SampleGrid) -> tuple[FloatArray, FloatArray]:
    """Return what finds the measured band of an SR axis at LR samples, and what fills it back."""
    origin = sample_origin(n, upscale, grid)
    find = interpolation(upscale * n, upscale * (np.arange(n) - origin), band=n)
    fill = interpolation(n, origin + np.arange(upscale * n) / upscale)
    return find, fill
