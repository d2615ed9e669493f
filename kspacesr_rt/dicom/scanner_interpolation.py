"""Tell a series that its scanner interpolated, by its header and by its k-space.

A scanner that fills k-space with zeros stores more samples than it acquired. A model that was
trained on full k-space then sees an empty rim, and adds its detail beyond it: nowhere near what it
learned. Two witnesses are heard. The header counts acquired samples, and is sometimes wrong (it
counts oversampling, partial acquisitions, or both axes the same). The k-space of the images
cannot be wrong, but its edge is hard to see by itself: filters, masks and rounding wash it out. So
the header proposes, and k-space decides by the energy that lies beyond: if there is next to none,
the header's is the number; if there is, the edge is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.acquired_band import (
    SMALLEST_BAND,
    SMALLEST_MEASURED,
    band_within,
    insides,
    mean_power,
)
from kspacesr_rt.kspace.rim_energy import EMPTY_DB, RimEnergy

_Claims = tuple[float | None, float | None]

OnInterpolated = Literal["warn", "skip", "crop"]
"""What to do with a series whose k-space has an empty rim."""

EMPTY_BELOW = 0.8
"""Measured share of an axis below which a series counts as interpolated: a fifth is empty. Partial
phase encoding down to this is how most clinical series are made, and models are trained on it."""
CROP_BELOW = 0.95
"""An axis measured beyond this is not cropped: the profile is not known better."""
AGREE_WITHIN = 0.06
"""Header and profile mean the same edge if they differ by less: the profile sees an edge up to 0.04
of Nyquist too far out (blurred by `kspacesr_rt.kspace.acquired_band.INSIDE_SIGMA`)."""
ALIKE_WITHIN = 0.02
"""Acquired shares of two axes that differ by less are those of a square acquisition."""
SMALLEST_CROP = 8
"""Samples that every axis keeps: fewer are no picture."""
SURVEYED_SLICES = 5
"""Slices that are enough to measure a series by; their power is averaged."""
SURVEYED_PART = (0.3, 0.7)
"""Where in a series they lie: the ends often hold little but air."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AcquiredBand:
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
        if header is not None and (profile is None or abs(header - profile) < AGREE_WITHIN):
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


def kspace_profile(
    slices: Sequence[FloatArray], acquired: tuple[int | None, int | None] = (None, None)
) -> tuple[float | None, float | None]:
    """Return the measured share of Nyquist along rows and columns, None where it cannot be told.

    Parameters
    ----------
    slices
        Images of one matrix, shape ``(y, x)`` each; those without contrast say nothing.
    acquired
        Samples acquired along rows and columns, as the header says. Where next to no energy lies
        beyond them, the measured share is exactly theirs, below half of Nyquist too. Two axes of
        one share, a square acquisition, are believed or not together, and end alike.
    """
    telling = [one for one in slices if one.max() > one.min()]
    if not telling:
        return None, None
    together = np.stack(telling)
    matrix: Matrix = (together.shape[1], together.shape[2])
    weights, bordered = insides(together)
    together = together.astype(np.float64)
    power = mean_power(together, weights)
    measured = band_within(together, power)
    if bordered is not weights:
        power = mean_power(together, bordered)
    energy = RimEnergy.within(bordered, power)
    if energy is not None:
        measured = _lower(measured, energy.edges())
    shares = _weighed(measured, _claims(acquired, matrix), energy)
    rows, columns = (
        share if n >= SMALLEST_MEASURED else None for share, n in zip(shares, matrix, strict=True)
    )
    return rows, columns


def _claims(acquired: tuple[int | None, int | None], matrix: Matrix) -> _Claims:
    """Return the shares that a header claims; None where it claims no interpolation."""
    rows, columns = (
        None if count is None or count >= CROP_BELOW * n else count / n
        for count, n in zip(acquired, matrix, strict=True)
    )
    return rows, columns


def _weighed(
    measured: tuple[float, float], claims: _Claims, energy: RimEnergy | None
) -> tuple[float, float]:
    """Return the claimed share of each axis that k-space confirms, else the measured one."""
    rows, columns = claims
    if rows is not None and columns is not None and abs(rows - columns) < ALIKE_WITHIN:
        if _confirmed(claims, energy):
            return rows, columns
        return max(measured), max(measured)
    return (
        rows if rows is not None and _confirmed((rows, None), energy) else measured[0],
        columns if columns is not None and _confirmed((None, columns), energy) else measured[1],
    )


def _confirmed(claims: _Claims, energy: RimEnergy | None) -> bool:
    if energy is None:  # no tissue to look into: what k-space could not show, the header tells
        return all(claim is None or claim < SMALLEST_BAND for claim in claims)
    return energy.beyond_db(claims) <= EMPTY_DB


def _lower(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), min(one[1], other[1])
