"""The figures of one result from half of its k-space: a real image's other half says nothing new.

Same figures as `kspacesr_rt.kspace.measured_residual` and
`kspacesr_rt.quality.added_energy.added_energy`, at less than half their cost: every slice of every
run pays it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import FloatArray, Matrix, SampleGrid, origin_ramp
from kspacesr_rt.quality.added_energy import AddedEnergy
from kspacesr_rt.quality.spectral_sums import SpectralSums

_Half = npt.NDArray[np.complexfloating[Any, Any]]


@dataclass(frozen=True, slots=True)
class HalfSpectra:
    """Orthonormal spectra of one SR and one LR slice for ``kx >= 0``, DC at ``[0, 0]``."""

    inner: _Half
    """SR, within ``kx <= x // 2``: shape ``(s*y, x // 2 + 1)``."""
    outer: _Half
    """SR, beyond that: rows of the image, transformed along x only, shape
    ``(s*y, s*x // 2 - x // 2)``. A unitary transform along y would not change their energy."""
    lr: _Half
    """Shape ``(y, x // 2 + 1)``, times `upscale`: the gain of the SR slice's samples."""
    sr_energy: float
    """Sum of the squares of the SR slice."""
    matrix: Matrix
    """Rows and columns ``(y, x)`` of the LR slice."""
    upscale: int
    """SR samples per LR sample and axis."""

    @classmethod
    def of(cls, sr: FloatArray, lr: FloatArray, *, sr_energy: float | None = None) -> Self:
        """Transform two real slices ``(s*y, s*x)`` and ``(y, x)``, in their own precision.

        `sr_energy` is `row_squares` of the first, if that is known.
        """
        upscale = sr.shape[1] // lr.shape[1]
        along_rows = np.fft.rfft(sr, axis=1, norm="ortho")
        n_inner = lr.shape[1] // 2 + 1
        lr_half = np.fft.rfft(lr * lr.dtype.type(upscale), axis=1, norm="ortho")
        return cls(
            inner=np.fft.fft(along_rows[:, :n_inner], axis=0, norm="ortho"),
            outer=along_rows[:, n_inner:],
            lr=np.fft.fft(lr_half, axis=0, norm="ortho", out=lr_half),
            sr_energy=row_squares(sr) if sr_energy is None else sr_energy,
            matrix=(lr.shape[0], lr.shape[1]),
            upscale=upscale,
        )

    def sums(self, grid: SampleGrid = "kspace") -> SpectralSums:
        """Return what the figures of the two slices follow from.

        SR samples that lie on another `grid` are compared where they lie, by the shift theorem.
        """
        ring, measured = self._lr_energies()
        return SpectralSums(
            largest_off=self._largest_off(grid),
            largest=_largest_square(self.lr),
            outside=self._outside(),
            ring=ring,
            measured=measured,
            total=self.sr_energy,
            upscale=self.upscale,
        )

    def measured_residual(self, grid: SampleGrid = "kspace") -> float:
        """Return `kspacesr_rt.kspace.measured_residual` of the two slices; `grid` as in `sums`."""
        return self.sums(grid).measured_residual()

    def added_energy(self) -> AddedEnergy:
        """Return `kspacesr_rt.quality.added_energy.added_energy` of the two slices."""
        return self.sums().added_energy()

    def _largest_off(self, grid: SampleGrid) -> float:
        """Return the largest squared change of a measured sample."""
        rows, columns = self.matrix
        inner_rows, inner_columns = (rows - 1) // 2, (columns - 1) // 2  # short of Nyquist
        frequency = np.fft.ifftshift(np.arange(-inner_rows, inner_rows + 1))
        kx = np.arange(inner_columns + 1)
        # Each spectrum's phase counts from its sample 0, which the grids put at two places.
        down = origin_ramp(frequency, rows, self.upscale, grid)[:, None].conj()
        across = origin_ramp(kx, columns, self.upscale, grid).conj()
        has_ramp = bool((down != 1.0).any() or (across != 1.0).any())
        largest_off = 0.0
        # Frequencies from 0 on are the first rows of both, and those below are the last.
        for part in (
            slice(0, inner_rows + 1),
            slice(-inner_rows, None) if inner_rows else slice(0),
        ):
            kept, lr = self.inner[part, : len(kx)], self.lr[part, : len(kx)]
            if has_ramp:
                kept = kept * down[part]
                kept *= across
            largest_off = max(largest_off, _largest_square(kept - lr))
        return largest_off

    def _outside(self) -> float:
        """Return the energy of the SR slice outside the measured band.

        Summed by itself: as the difference of two large sums it would be rounding.
        """
        rows, columns = self.matrix
        wide, (ky, kx) = columns * self.upscale, (rows // 2, columns // 2)
        beyond = self.inner[ky + 1 : len(self.inner) - ky]
        inner = float(_row_energies(beyond, wide).sum())
        return inner + float(_row_energies(self.outer, wide, first=kx + 1).sum())

    def _lr_energies(self) -> tuple[float, float]:
        """Return the energy of the LR slice's ring and all of it, both times ``upscale ** 2``."""
        rows, columns = self.matrix
        ky, kx = (rows - 1) // 4, (columns - 1) // 4
        within = _row_energies(self.lr[:, : kx + 1], columns)
        beyond = _row_energies(self.lr[:, kx + 1 :], columns, first=kx + 1)
        ring = float(within[ky + 1 : rows - ky].sum()) + float(beyond.sum())
        inside = float(within[: ky + 1].sum()) + float(within[max(rows - ky, ky + 1) :].sum())
        return ring, ring + inside


def _row_energies(half: _Half, columns: int, first: int = 0) -> npt.NDArray[np.float64]:
    """Return the energy of each row of a whole spectrum, given half's columns from `first` on.

    Column 0, and the Nyquist line of an even number of image `columns`, mirror themselves; each of
    the others stands for two. No BLAS: its threads would contend with the backend's, and
    `numpy.vdot` here made a whole run on two cores take 1.6 times as long.
    """
    if not half.size:
        return np.zeros(len(half))
    parts = half.view(half.real.dtype)  # real and imaginary, one after the other
    found: npt.NDArray[np.float64] = 2.0 * np.einsum("ij,ij->i", parts, parts).astype(np.float64)
    last = first + half.shape[1] - 1
    for kx in {first, last}:
        if 2 * kx in (0, columns):
            alone = half[:, kx - first].astype(np.complex128)
            found -= alone.real**2 + alone.imag**2
    return found


def row_squares(image: FloatArray) -> float:
    """Return the sum of the squares of an image: of each row in its precision, then in double."""
    return float(np.einsum("ij,ij->i", image, image).sum(dtype=np.float64))


def _largest_square(values: _Half) -> float:
    """Return the largest squared magnitude; a square root of each would cost more than the rest."""
    if not values.size:
        return 0.0
    parts = values.view(values.real.dtype)
    squares = parts * parts
    return float((squares[:, ::2] + squares[:, 1::2]).max())
