"""Weigh the energy beyond a supposed edge of k-space against that within it.

A header says that 256 of 512 samples were acquired. The 512 never end there with silence: rounding
to integers, masks, distortion correction and noise filters leave something everywhere, and so the
last sample above some floor says little. Energy says more. Per line of k-space it is ruled by the
strong low frequencies of the other axis; looked at inside bright tissue, where neither air, nor the
edges of a mask, nor those of the image add to it, it falls by 20 dB and more where the acquisition
ended. Cropping what holds a hundredth of the band below it loses next to nothing, whoever is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.kspace.acquired_band import SMALLEST_BAND, SMALLEST_MEASURED, inside, mean_power

EMPTY_DB = -18.0
"""Energy beyond an edge, over that of the upper half of the band within, below which the header is
believed. Measured on 17 real series: 19 ways to interpolate them (filters, ellipses, partial
Fourier, distortion correction, masks, 8-bit rounding) leave at most -25 dB, joined over two axes;
full k-space, cut where the header could have said, holds -15 dB or more."""
EMPTY_UNASKED_DB = -25.0
"""The same where no header says anything, and noise that fills the rim counts as energy in it."""
GAP = 0.06
"""Share of Nyquist beyond an edge that is not looked at: the soft window blurs the edge to this."""
CORNER = 0.9
"""Share of Nyquist beyond which, on both axes at a time, white noise and rounding are measured."""
STEP = 0.01
"""Share of Nyquist: how finely an edge is looked for."""


@dataclass(frozen=True, slots=True)
class RimEnergy:
    """Energy of the lines of k-space inside the tissue, for both axes."""

    _lines: tuple[FloatArray, FloatArray]
    """Energy per line of one sign of frequency, DC first."""
    _floors: tuple[float, float]
    """What white noise puts into each line."""

    @classmethod
    def of(cls, slices: FloatArray) -> RimEnergy | None:
        """Measure slices of shape ``(n, y, x)``; None if they show no inside of any tissue."""
        wide = slices.astype(np.float64)
        weights = inside(wide, bordered=True)
        return cls.within(weights, mean_power(wide, weights))

    @classmethod
    def within(cls, weights: FloatArray, power: FloatArray) -> RimEnergy | None:
        """Measure slices, given what `inside` says of them, bordered, and `mean_power` of that."""
        if min(weights.shape[1:]) < SMALLEST_MEASURED or not (weights > 0.0).any():
            return None
        rows, columns = weights.shape[1:]
        along_y = np.abs(np.fft.fftfreq(rows)) * 2.0
        along_x = np.fft.rfftfreq(columns) * 2.0
        floor = float(power[np.ix_(along_y > CORNER, along_x > CORNER)].mean())
        stands_for = np.full(len(along_x), 2.0)
        stands_for[0] = 1.0
        if columns % 2 == 0:
            stands_for[-1] = 1.0
        by_row = (power * stands_for).sum(axis=1)
        folded = ((by_row + by_row[-np.arange(rows)]) / 2)[: rows // 2 + 1]
        return cls((folded, power.sum(axis=0)), (floor * columns, floor * rows))

    def beyond_db(self, shares: tuple[float | None, float | None]) -> float:
        """Return how much lies beyond shares of Nyquist along y and x, over the band within.

        Parameters
        ----------
        shares
            Supposed edges; an axis of which nothing is supposed is None. Both are judged together.

        Returns
        -------
            In dB, white noise not counted; 0 or more means that nothing ends there.
        """
        beyond = within = 0.0
        for lines, floor, share in zip(self._lines, self._floors, shares, strict=True):
            if share is not None:
                outer, inner = _split(np.maximum(lines - floor, 0.0), share)
                beyond, within = beyond + outer, within + inner
        return _decibels(beyond, within)

    def edges(self) -> tuple[float, float]:
        """Return the shares of Nyquist beyond which nothing is, noise counted, along y and x."""
        rows, columns = (self._edge(lines) for lines in self._lines)
        return rows, columns

    @staticmethod
    def _edge(lines: FloatArray) -> float:
        for share in np.arange(SMALLEST_BAND, 1.0 - GAP, STEP):
            if _decibels(*_split(lines, float(share))) <= EMPTY_UNASKED_DB:
                return float(share) + GAP + STEP
        return 1.0


def _split(lines: FloatArray, share: float) -> tuple[float, float]:
    """Return the energy beyond an edge, and that of the upper half of the band within."""
    frequency: npt.NDArray[np.float64] = np.arange(len(lines)) / (len(lines) - 1)
    # They ascend, so what lies beyond a share is what lies behind a place.
    edge, half, end = np.searchsorted(
        frequency, (min(share + GAP, 1.0), share / 2.0, share), "right"
    )
    return float(lines[edge:].sum()), float(lines[half:end].sum())


def _decibels(beyond: float, within: float) -> float:
    tiny = float(np.finfo(float).tiny)
    return float(10.0 * np.log10((beyond + tiny) / (within + tiny)))
