"""A graph that sums up the spectra of slices and of their results, for a GPU to run beside a model.

What it gives are the sums that `kspacesr_rt.quality.half_spectra` takes by NumPy's transforms: a
millisecond of a processor for a result of 512 x 512. On a GPU it is three products with DFT
matrices, in fp32, a thirtieth of what x2-fast multiplies. On a CPU products cost more than
transforms do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.graph.bodies import OPSET
from kspacesr_rt.kspace import Matrix, SampleGrid, origin_ramp
from kspacesr_rt.model.spec import ModelSpec

LR, SR, SUMS = "lr", "sr", "sums"
"""Names of what goes in, shapes ``(n, 1, y, x)`` and ``(n, 1, s*y, s*x)``, and comes out,
``(n, 1, 6)``; all float32."""
SUM_NAMES: Final = ("largest_off", "largest", "outside", "ring", "measured", "total")
"""The last axis of what comes out: fields of `kspacesr_rt.quality.spectral_sums.SpectralSums`, of
slices that were divided by the largest magnitude of the LR slice."""
_TINY = 1e-30
"""An empty slice is divided by that: what comes of it is no sum to go by."""
_IR_VERSION = 10

_Complex = npt.NDArray[np.complex128]
_Real = npt.NDArray[np.float64]


def can_be_summed(spec: ModelSpec) -> bool:
    """Say whether what a model takes and gives are slices whose spectra can be compared."""
    return spec.input_axes == (1,) and spec.output_axes == (1,) and spec.upscale > 1


def spectral_sums_graph(matrix: Matrix, upscale: int, grid: SampleGrid) -> onnx.ModelProto:
    """Return the graph for one LR matrix.

    Parameters
    ----------
    matrix
        LR rows and columns.
    upscale
        SR samples per LR sample and axis, at least 2.
    grid
        Where SR samples lie.
    """
    return _Sums(matrix, upscale, grid).graph()


class _Sums:
    """The nodes and constants of one graph."""

    def __init__(self, matrix: Matrix, upscale: int, grid: SampleGrid) -> None:
        self.matrix, self.upscale = matrix, upscale
        self.grid: SampleGrid = grid
        rows, columns = matrix
        self.n_columns = columns // 2 + 1
        """Of the half of LR's spectrum that says everything, Nyquist line included."""
        self.n_rows_kept = 2 * ((rows - 1) // 2) + 1
        """Of LR's spectrum, without the Nyquist line."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def graph(self) -> onnx.ModelProto:
        rows, columns = self.matrix
        self.add("Abs", [LR], "magnitude")
        self.add("ReduceMax", ["magnitude", self.ints("image", 1, 2, 3)], "unit", keepdims=1)
        self.add("Max", ["unit", self.floats("tiny", np.array(_TINY))], "divisor")
        self.add("Div", [LR, "divisor"], "given")
        self.add("Div", [SR, "divisor"], "result")
        self._measured_spectrum()
        self._result_spectrum()
        self._largest_off()
        sums = [f"{name}.sum" for name in SUM_NAMES]
        self.add("Concat", sums, SUMS, axis=2)
        sr_shape = ("n", 1, rows * self.upscale, columns * self.upscale)
        graph = helper.make_graph(
            self.nodes,
            "spectral_sums",
            [
                helper.make_tensor_value_info(LR, TensorProto.FLOAT, ("n", 1, rows, columns)),
                helper.make_tensor_value_info(SR, TensorProto.FLOAT, sr_shape),
            ],
            [helper.make_tensor_value_info(SUMS, TensorProto.FLOAT, ("n", 1, len(SUM_NAMES)))],
            list(self.constants.values()),
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
        )
        onnx.checker.check_model(proto)
        return proto

    def _measured_spectrum(self) -> None:
        """LR's: ``lr.pairs`` (n, kx, 2, ky), its largest sample, its ring and its energy."""
        rows, columns = self.matrix
        gain = float(self.upscale)
        waves = _waves(columns, np.arange(self.n_columns))
        frequency = self._kept_rows()
        if rows % 2 == 0:
            frequency = np.append(frequency, rows // 2)
        self.add("MatMul", ["given", self.floats("lr.across", gain * _halves(waves))], "lr.lines")
        self._down("lr", "lr.lines", rows, _waves(rows, frequency))
        self.add("ReduceSumSquare", ["lr.pairs", self.ints("parts", 2)], "lr.power", keepdims=0)
        self._largest("lr.power", "largest")
        far = np.abs(frequency) > (rows - 1) // 4
        self.add(
            "MatMul",
            ["lr.power", self.floats("lr.near_or_far", np.stack([~far, far], axis=1))],
            "lr.by_column",
        )
        kx = np.arange(self.n_columns)
        weights = _of_both_halves(kx, columns)
        beyond = weights * (kx > (columns - 1) // 4)
        # Columns near or far, rows near or far: all but near and near are the ring.
        sums = np.stack([np.stack([beyond, weights], 1), np.stack([weights, weights], 1)], axis=2)
        self.add(
            "Reshape",
            ["lr.by_column", self.ints("lr.flat", 0, 1, 2 * self.n_columns)],
            "lr.columns",
        )
        self.add(
            "MatMul", ["lr.columns", self.floats("lr.sums", sums.reshape(-1, 2))], "lr.energies"
        )
        for at, name in enumerate(("ring", "measured")):
            self.cut("lr.energies", f"{name}.sum", (2, at, at + 1))

    def _result_spectrum(self) -> None:
        """SR's: ``sr.pairs`` (n, kx, 2, ky) within LR's columns, and what lies outside the band."""
        rows, columns = (n * self.upscale for n in self.matrix)
        kx = np.arange(columns // 2 + 1)
        inner, outer = kx[: self.n_columns], kx[self.n_columns :]
        waves = _waves(columns, kx)
        ramp = origin_ramp(inner, self.matrix[1], self.upscale, self.grid).conj()
        beyond = _halves(waves[:, self.n_columns :] * np.sqrt(_of_both_halves(outer, columns)))
        across = np.concatenate([_halves(waves[:, : self.n_columns] * ramp), beyond], axis=1)
        self.add("MatMul", ["result", self.floats("sr.across", across)], "sr.all_lines")
        n_inner = 2 * self.n_columns
        self.cut("sr.all_lines", "sr.lines", (3, 0, n_inner))
        self.cut("sr.all_lines", "sr.outer", (3, n_inner, across.shape[1]))
        kept = self._kept_rows()
        every = np.arange(rows) - rows // 2
        far = every[np.abs(every) > self.matrix[0] // 2]
        frequency = np.concatenate([kept, far])
        down = _waves(rows, frequency)
        down[:, : len(kept)] *= origin_ramp(kept, self.matrix[0], self.upscale, self.grid).conj()
        self._down("sr", "sr.lines", rows, down)
        self.cut("sr.pairs", "sr.far", (3, len(kept), len(frequency)))
        self.add("ReduceSumSquare", ["sr.far", self.ints("far", 2, 3)], "sr.columns", keepdims=0)
        weights = _of_both_halves(inner, columns)[:, None]
        self.add("MatMul", ["sr.columns", self.floats("sr.weights", weights)], "sr.inner_energy")
        self.add("Reshape", ["sr.inner_energy", self.ints("one", 0, 1, 1)], "sr.inner.sum")
        self._energy("sr.outer", "sr.outer.sum")
        self.add("Add", ["sr.inner.sum", "sr.outer.sum"], "outside.sum")
        self._energy("result", "total.sum")

    def _largest_off(self) -> None:
        """How far measured samples moved, where neither slice has its Nyquist lines."""
        n_columns = (self.matrix[1] - 1) // 2 + 1
        for one in ("lr", "sr"):
            self.cut(f"{one}.pairs", f"{one}.kept", (1, 0, n_columns), (3, 0, self.n_rows_kept))
        self.add("Sub", ["sr.kept", "lr.kept"], "off")
        self.add("ReduceSumSquare", ["off", self.ints("parts", 2)], "off.power", keepdims=0)
        self._largest("off.power", "largest_off")

    def _kept_rows(self) -> npt.NDArray[np.int64]:
        inner = (self.matrix[0] - 1) // 2
        return np.arange(-inner, inner + 1)

    def _down(self, of: str, lines: str, rows: int, waves: _Complex) -> None:
        """Transform lines ``(n, 1, rows, 2 kx)`` along the rows to ``(n, kx, 2, ky)``."""
        n_columns, n_waves = self.n_columns, waves.shape[1]
        self.add(
            "Reshape", [lines, self.ints(f"{of}.apart", 0, rows, 2, n_columns)], f"{of}.apart_lines"
        )
        self.add("Transpose", [f"{of}.apart_lines"], f"{of}.turned", perm=[0, 3, 2, 1])
        self.add(
            "Reshape",
            [f"{of}.turned", self.ints(f"{of}.together", 0, n_columns, 2 * rows)],
            f"{of}.columns_of_pairs",
        )
        product = np.block([[waves.real, waves.imag], [-waves.imag, waves.real]])
        self.add(
            "MatMul",
            [f"{of}.columns_of_pairs", self.floats(f"{of}.down", product)],
            f"{of}.spectrum",
        )
        self.add(
            "Reshape",
            [f"{of}.spectrum", self.ints(f"{of}.pairwise", 0, n_columns, 2, n_waves)],
            f"{of}.pairs",
        )

    def _largest(self, power: str, name: str) -> None:
        """Find the largest of ``(n, kx, ky)``."""
        self.add("ReduceMax", [power, self.ints("samples", 1, 2)], f"{name}.sum", keepdims=1)

    def _energy(self, value: str, name: str) -> None:
        """Sum up the squares of ``(n, 1, rows, columns)``: of each row first, for fp32's sake."""
        self.add("ReduceSumSquare", [value, self.ints("row", 3)], f"{name}.rows", keepdims=0)
        self.add("ReduceSum", [f"{name}.rows", self.ints("all", 2)], name, keepdims=1)

    def cut(self, value: str, name: str, *ranges: tuple[int, int, int]) -> None:
        """Take ranges ``(axis, start, end)`` of a value."""
        axes, starts, ends = zip(*ranges, strict=True)
        bounds = [
            self.ints(f"{name}.{what}", *numbers)
            for what, numbers in (("starts", starts), ("ends", ends), ("axes", axes))
        ]
        self.add("Slice", [value, *bounds], name)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: object) -> None:
        """Add a node, called as what it gives."""
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=output, **attributes)  # type: ignore[arg-type]
        )

    def ints(self, name: str, *values: int) -> str:
        """Store integers, once; return what they are called."""
        return self._stored(f"{name}.ints", np.array(values, np.int64))

    def floats(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Store a constant in fp32; return what it is called."""
        return self._stored(f"{name}.floats", np.asarray(values, dtype=np.float32))

    def _stored(self, name: str, values: npt.NDArray[np.generic]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(values, name)
        return name


def _waves(n: int, frequency: npt.NDArray[np.int64]) -> _Complex:
    """Return columns of the orthonormal DFT matrix of `n` samples, sample 0 at phase 0."""
    turns = np.outer(np.arange(n), frequency) % n
    waves: _Complex = np.exp(-2j * np.pi * turns / n) / np.sqrt(n)
    return waves


def _halves(waves: _Complex) -> _Real:
    """Put the imaginary parts of columns behind the real ones."""
    halves: _Real = np.concatenate([waves.real, waves.imag], axis=1)
    return halves


def _of_both_halves(kx: npt.NDArray[np.int64], columns: int) -> _Real:
    """Return how many columns of a whole spectrum each of its half stands for."""
    return np.where((2 * kx) % columns == 0, 1.0, 2.0)
