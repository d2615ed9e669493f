"""The figures of one result from half of its k-space: a real image's other half says nothing new.

Same figures as `kspacesr_rt.kspace.measured_residual` and `kspacesr_rt.added_energy.added_energy`,
at less than half their cost: every slice of every run pays it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kspacesr_rt.added_energy import RING_FLOOR, AddedEnergy
from kspacesr_rt.kspace import FloatArray, Matrix, SampleGrid, origin_ramp

_Half = npt.NDArray[np.complexfloating[Any, Any]]


@dataclass(frozen=True, slots=True)
class HalfSpectra:
    """Orthonormal spectra of one SR and one LR slice for ``kx >= 0``, DC at ``[0, 0]``."""

    sr: _Half
    """Shape ``(s*y, s*x // 2 + 1)``."""
    lr: _Half
    """Shape ``(y, x // 2 + 1)``."""
    matrix: Matrix
    """Rows and columns ``(y, x)`` of the LR slice."""
    upscale: int
    """SR samples per LR sample and axis."""

    @classmethod
    def of(cls, sr: FloatArray, lr: FloatArray) -> Self:
        """Transform two real slices ``(s*y, s*x)`` and ``(y, x)``, in their own precision."""
        return cls(
            np.fft.rfft2(sr, norm="ortho"),
            np.fft.rfft2(lr, norm="ortho"),
            (lr.shape[0], lr.shape[1]),
            sr.shape[1] // lr.shape[1],
        )

    def measured_residual(self, grid: SampleGrid = "kspace") -> float:
        """Return `kspacesr_rt.kspace.measured_residual` of the two slices.

        SR samples that lie on another `grid` are compared where they lie, by the shift theorem.
        """
        rows, columns = self.matrix
        inner_rows, inner_columns = (rows - 1) // 2, (columns - 1) // 2  # short of Nyquist
        frequency = np.fft.ifftshift(np.arange(-inner_rows, inner_rows + 1))
        kx = np.arange(inner_columns + 1)
        kept = self.sr[frequency, : len(kx)] / self.upscale
        # Each spectrum's phase counts from its sample 0, which the grids put at two places.
        kept *= origin_ramp(frequency, rows, self.upscale, grid)[:, None].conj()
        kept *= origin_ramp(kx, columns, self.upscale, grid).conj()
        largest = float(np.abs(self.lr).max())
        if largest == 0.0:
            return float(np.abs(kept).max())
        return float(np.abs(kept - self.lr[frequency, : len(kx)]).max()) / largest

    def added_energy(self) -> AddedEnergy:
        """Return `kspacesr_rt.added_energy.added_energy` of the two slices."""
        rows, columns = self.matrix
        wide = columns * self.upscale
        outside = _energy_beyond(self.sr, (rows // 2, columns // 2), wide)
        total = _energy(self.sr, wide)
        ring = _energy_beyond(self.lr, ((rows - 1) // 4, (columns - 1) // 4), columns)
        floor = self.upscale**2 * max(ring, RING_FLOOR * _energy(self.lr, columns))
        return AddedEnergy(
            share=outside / total if total > 0.0 else 0.0,
            ratio=outside / (floor or total) if outside > 0.0 else 0.0,
        )


def _energy(half: _Half, columns: int, first: int = 0) -> float:
    """Return the energy of some rows of a whole spectrum, given its columns from `first` on.

    Column 0, and the last one of an even number of image `columns`, mirror themselves; each of the
    others stands for two.
    """
    alone = []
    if first == 0:
        alone.append(0)
    if columns % 2 == 0 and half.shape[1] > len(alone):
        alone.append(half.shape[1] - 1)
    return 2.0 * _squares(half) - sum(_squares(half[:, one : one + 1]) for one in alone)


def _squares(values: _Half) -> float:
    """Return the sum of squared magnitudes of some rows, without an array of them, and no BLAS.

    The threads of a BLAS would contend with the backend's: `numpy.vdot` here made a whole run on
    two cores take 1.6 times as long.
    """
    parts = values.view(values.real.dtype)  # real and imaginary, one after the other
    return float(np.einsum("ij,ij->i", parts, parts).sum(dtype=np.float64))


def _energy_beyond(half: _Half, reach: Matrix, columns: int) -> float:
    """Return the energy where ``|k|`` exceeds `reach` along an axis.

    Summed by itself: as the difference of two large sums it would be rounding.
    """
    ky, kx = reach
    rows = len(half)
    outer = half[ky + 1 : rows - ky]
    found = _energy(outer, columns) if outer.size else 0.0
    for inner in (half[: ky + 1], half[max(rows - ky, ky + 1) :]):
        beyond = inner[:, kx + 1 :]
        found += _energy(beyond, columns, first=kx + 1) if beyond.size else 0.0
    return found
