"""Tell a series that its scanner interpolated, by its header and by its k-space.

A scanner that fills k-space with zeros stores more samples than it acquired. A model that was
trained on full k-space then sees an empty rim, and adds its detail beyond it: nowhere near what it
learned. Two witnesses are heard. The header counts acquired samples, and is sometimes wrong (it
counts oversampling, partial acquisitions, or both axes the same). The k-space of the images
cannot be wrong, but below half of Nyquist it tells nothing. So where both speak, k-space decides,
and the header gives the exact number if it agrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.support import SMALLEST_MEASURED, SMALLEST_SUPPORT, measured_support

OnInterpolated = Literal["warn", "skip", "crop"]
"""What to do with a series whose k-space has an empty rim."""

EMPTY_BELOW = 0.8
"""Measured share of an axis below which a series counts as interpolated: a fifth is empty. Partial
phase encoding down to this is how most clinical series are made, and models are trained on it."""
CROP_BELOW = 0.95
"""An axis measured beyond this is not cropped: the profile is not known better."""
AGREE_WITHIN = 0.06
"""Header and profile mean the same edge if they differ by less: the profile sees an edge up to 0.04
of Nyquist too far out (blurred by `kspacesr_rt.support.INSIDE_SIGMA`)."""
SMALLEST_CROP = 8
"""Samples that every axis keeps: fewer are no picture."""
SURVEYED_SLICES = 5
"""Slices that are enough to measure a series by; their power is averaged."""
SURVEYED_PART = (0.3, 0.7)
"""Where in a series they lie: the ends often hold little but air."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KspaceSupport:
    """How much of the k-space of a series' slices of one matrix was acquired."""

    matrix: Matrix
    """Stored rows and columns."""
    profile: tuple[float | None, float | None]
    """Share of Nyquist that holds signal along rows and columns; None where the axis is too short
    to tell, or no slice could be read."""
    acquired: tuple[int | None, int | None] = (None, None)
    """Samples acquired along rows and columns by the header."""
    header_says: bool = False
    """Whether the header says that the scanner interpolated."""
    n_slices: int = 0
    """Slices that the profile was measured over."""

    @property
    def shares(self) -> tuple[float, float]:
        """Share of each axis that was acquired, all that is known taken together; at most 1."""
        rows, columns = (self._share(axis) for axis in (0, 1))
        return rows, columns

    @property
    def interpolated(self) -> bool:
        """Whether to warn, skip or crop."""
        return self.header_says or min(self.shares) < EMPTY_BELOW

    @property
    def cropped_matrix(self) -> Matrix:
        """Matrix that `crop` leaves: even along each cropped axis, never less than was acquired.

        Even, because then an even stored matrix keeps its first sample where it was, and the
        Nyquist line that an even axis has more is one that was acquired or is empty.
        """
        rows, columns = (self._cropped(axis) for axis in (0, 1))
        return rows, columns

    @property
    def warning(self) -> str | None:
        """One sentence, without any value of a patient, if the series is interpolated."""
        if not self.interpolated:
            return None
        rows, columns = self.shares
        text = f"k-space measured to {rows:.2f} x {columns:.2f} of its matrix"
        if self.header_says and min(rows, columns) >= CROP_BELOW:
            return f"{text}, though the header says interpolated"
        return f"{text}: the rim is empty"

    def _header_share(self, axis: int) -> float | None:
        count = self.acquired[axis]
        return None if count is None else min(1.0, count / self.matrix[axis])

    def _share(self, axis: int) -> float:
        profile, header = self.profile[axis], self._header_share(axis)
        if header is not None and (
            profile is None or header < SMALLEST_SUPPORT or abs(header - profile) < AGREE_WITHIN
        ):
            return header
        return 1.0 if profile is None else profile

    def _cropped(self, axis: int) -> int:
        n, share = self.matrix[axis], self._share(axis)
        if share >= CROP_BELOW:
            return n
        return min(n, max(SMALLEST_CROP, 2 * math.ceil(round(share * n, 6) / 2)))


def surveyed_numbers(n_slices: int) -> list[int]:
    """Return which slices of a series to measure by: a few, spread over its middle."""
    first, last = (int(part * (n_slices - 1) + 0.5) for part in SURVEYED_PART)
    count = min(SURVEYED_SLICES, last - first + 1)
    return sorted({int(number + 0.5) for number in np.linspace(first, last, count)})


def kspace_profile(slices: Sequence[FloatArray]) -> tuple[float | None, float | None]:
    """Return the measured share of Nyquist along rows and columns, None where it cannot be told.

    Parameters
    ----------
    slices
        Images of one matrix, shape ``(y, x)`` each; those without contrast say nothing.
    """
    telling = [one for one in slices if one.max() > one.min()]
    if not telling:
        return None, None
    found = measured_support(np.stack(telling))
    rows, columns = (
        share if n >= SMALLEST_MEASURED else None
        for share, n in zip(found, telling[0].shape, strict=True)
    )
    return rows, columns
