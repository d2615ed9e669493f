"""What the stored range cut off a result, measured on the pixels that are stored.

Sharper edges overshoot. Below zero a magnitude loses nothing that it had; but where a scanner has
filled its range up, the brightest structures are cut off, and with them what was measured of them:
the figures of `kspacesr_rt.quality.result_checks` are the result's before it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from kspacesr_rt import kspace
from kspacesr_rt.dicom.pixels import IntArray, rescale, stored_range
from kspacesr_rt.kspace import FloatArray

CLIPPED = "clipped"
"""The flag of a result that was cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clipping:
    """What was cut off at the ends of the stored range, but for an end at zero."""

    share: float = 0.0
    """Samples cut off, of all."""
    residual: float | None = None
    """Largest change of a measured k-space sample in what is stored, over the largest of them;
    None where nothing was cut off, since then only rounding differs."""

    def worse_of(self, other: Clipping) -> Clipping:
        """Return the larger of each figure: what is said of a multi-frame file."""
        known = [one for one in (self.residual, other.residual) if one is not None]
        return Clipping(share=max(self.share, other.share), residual=max(known, default=None))

    @property
    def flags(self) -> tuple[str, ...]:
        """What a record is flagged with."""
        return (CLIPPED,) if self.share else ()


def measure_clipping(
    stored: IntArray, sr: FloatArray, lr: FloatArray, dataset: Dataset
) -> Clipping:
    """Measure what storing a result has cut off.

    Parameters
    ----------
    stored
        What is stored, integers ``(s * y, s * x)``.
    sr, lr
        The result before and its source, real-world values ``(s * y, s * x)`` and ``(y, x)``.
    dataset
        Bits Stored, Pixel Representation, Rescale Slope and Intercept.
    """
    low, high = stored_range(dataset)
    slope, intercept = rescale(dataset)
    return measure_cut(stored, sr, lr, low=low, high=high, slope=slope, intercept=intercept)


def measure_cut(
    stored: npt.NDArray[Any],
    sr: FloatArray,
    lr: FloatArray,
    *,
    low: float,
    high: float,
    slope: float,
    intercept: float,
) -> Clipping:
    """Measure what storing a result has cut off; parameters as for `measure_clipping`.

    `low` and `high` are the ends of the stored range; values are ``stored * slope + intercept``.
    """
    if stored.max() < high and (low >= 0 or stored.min() > low):
        return Clipping()
    at_end = stored == high
    if low < 0:
        at_end |= stored == low
    if not at_end.any():
        return Clipping()
    exact = (sr[at_end] - np.float64(intercept)) / slope
    n_cut = int(np.count_nonzero((exact > high + 0.5) | ((exact < low - 0.5) & (low < 0))))
    if n_cut == 0:
        return Clipping()
    values = (stored * slope + intercept).astype(np.float32)
    return Clipping(share=n_cut / stored.size, residual=kspace.measured_residual(values, lr))
