"""The figures of one result from half of its k-space: a real image's other half says nothing new.

Same figures as `kspacesr_rt.kspace.measured_residual` and `kspacesr_rt.added_energy.added_energy`,
at less than half their cost: every slice of every run pays it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from kspacesr_rt.added_energy import RING_FLOOR, AddedEnergy
from kspacesr_rt.kspace import FloatArray, Matrix, origin_ramp

_Half = npt.NDArray[np.complex128]


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

    def measured_residual(self) -> float:
        """Return `kspacesr_rt.kspace.measured_residual` of the two slices."""
        rows, columns = self.matrix
        inner_rows, inner_columns = (rows - 1) // 2, (columns - 1) // 2  # short of Nyquist
        frequency = np.fft.ifftshift(np.arange(-inner_rows, inner_rows + 1))
        kx = np.arange(inner_columns + 1)
        kept = self.sr[frequency, : len(kx)] / self.upscale
        # Each spectrum's phase counts from sample 0; what both share is the sample n // 2.
        kept *= origin_ramp(frequency, rows, self.upscale)[:, None].conj()
        kept *= origin_ramp(kx, columns, self.upscale).conj()
        largest = float(np.abs(self.lr).max())
        if largest == 0.0:
            return float(np.abs(kept).max())
        return float(np.abs(kept - self.lr[frequency, : len(kx)]).max()) / largest

    def added_energy(self) -> AddedEnergy:
        """Return `kspacesr_rt.added_energy.added_energy` of the two slices."""
        rows, columns = self.matrix
        outside, total = _outside(
            self.sr, (rows // 2, columns // 2), even=columns * self.upscale % 2 == 0
        )
        ring, measured = _outside(
            self.lr, ((rows - 1) // 4, (columns - 1) // 4), even=columns % 2 == 0
        )
        floor = self.upscale**2 * max(ring, RING_FLOOR * measured)
        return AddedEnergy(
            share=outside / total if total > 0.0 else 0.0,
            ratio=outside / (floor or total) if outside > 0.0 else 0.0,
        )


def _outside(half: _Half, reach: Matrix, *, even: bool) -> tuple[float, float]:
    """Return the energies where ``|k|`` exceeds `reach` along an axis, and everywhere.

    `even` says whether the image has an even number of columns: then the last column of `half`,
    like the first, is its own mirror image, and the others stand for two.
    """
    power = half.real**2 + half.imag**2
    power[:, 1 : -1 if even else None] *= 2.0
    total = float(power.sum())
    power[: reach[0] + 1, : reach[1] + 1] = 0.0
    power[max(len(power) - reach[0], 0) :, : reach[1] + 1] = 0.0
    return float(power.sum()), total
