"""Six sums over the spectra of a slice and its result, and the figures that follow from them.

They are all that the residual and the added energy need of a result's k-space, so whatever computes
them, NumPy (`kspacesr_rt.quality.half_spectra`) or a GPU beside the model
(`kspacesr_rt.graph.spectral_sums_graph`), the figures are worked out here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from kspacesr_rt.quality.added_energy import RING_FLOOR, AddedEnergy

ARRIVED_TOLERANCE = 1e-3
"""Relative difference of the energy of a result where it was computed and where it arrived: sums of
squares in fp32, in whatever order, differ by 1e-6."""

SAME_FIGURE = 1e-3
"""Relative difference of a figure that is none."""
ROUNDED_RESIDUAL = 1e-5
"""What transforms and products in fp32 leave of a residual: 1e-6 of the largest sample each."""
ROUNDED_SHARE = 1e-10
"""What they leave of energy that was added: the square of that, over up to all samples."""
ROUNDED_RATIO = 1e-7
"""The same over the measured ring, which may have a thousandth of the energy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralSums:
    """Of orthonormal spectra, the LR slice's times the upscale; the squares of one unit all."""

    largest_off: float
    """Largest squared change of a measured sample, short of the Nyquist lines."""
    largest: float
    """Largest squared sample of the LR slice."""
    outside: float
    """Energy of the result outside the measured band."""
    ring: float
    """Energy of the LR slice in the outer half of that band."""
    measured: float
    """Energy of the LR slice."""
    total: float
    """Energy of the result."""
    upscale: int
    """SR samples per LR sample and axis."""

    def measured_residual(self) -> float:
        """Return `kspacesr_rt.kspace.measured_residual` of the two slices."""
        if self.largest == 0.0:  # then all that is there is off
            return math.sqrt(self.largest_off) / self.upscale
        return math.sqrt(self.largest_off / self.largest)

    def added_energy(self) -> AddedEnergy:
        """Return `kspacesr_rt.quality.added_energy.added_energy` of the two slices."""
        floor = max(self.ring, RING_FLOOR * self.measured)
        return AddedEnergy(
            share=self.outside / self.total if self.total > 0.0 else 0.0,
            ratio=self.outside / (floor or self.total) if self.outside > 0.0 else 0.0,
        )

    def agrees(self, other: SpectralSums) -> bool:
        """Say whether figures that follow from both differ by rounding alone."""
        energy, others = self.added_energy(), other.added_energy()
        pairs = (
            (self.measured_residual(), other.measured_residual(), ROUNDED_RESIDUAL),
            (energy.share, others.share, ROUNDED_SHARE),
            (energy.ratio, others.ratio, ROUNDED_RATIO),
        )
        return all(
            abs(one - two) <= SAME_FIGURE * abs(two) + rounded for one, two, rounded in pairs
        )

    def settle(self, *, energy: float, unit: float) -> bool:
        """Say whether the sums are of the result that arrived, and of a slice that is not empty.

        Parameters
        ----------
        energy
            Sum of the squares of the result, as it arrived.
        unit
            What its samples were divided by before they were summed up.
        """
        sums = [value for value in dataclasses.astuple(self) if isinstance(value, float)]
        if not all(map(math.isfinite, (*sums, energy))) or min(self.largest, self.total) <= 0.0:
            return False
        return abs(self.total * unit**2 - energy) <= ARRIVED_TOLERANCE * energy
