"""What each result says about itself, and whether that is within what its model was seen to do.

Four figures a slice, from one transform of the result and one of its source: how far measured
samples moved, how much energy lies outside the measured band, and how far intensity drifted, over
the whole slice and over tissue. A model card's bounds turn figures into flags; a model that states
none is reported without flags, never with invented ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kspacesr_rt.errors import ShapeError, SliceFailed
from kspacesr_rt.half_spectra import HalfSpectra
from kspacesr_rt.kspace import (
    FloatArray,
    SampleGrid,
    magnitude_residual,
    sample_origin,
    upscaled,
)
from kspacesr_rt.spec import ModelSpec

MEASURED_TOLERANCE = 1e-4
"""Largest deviation of a measured k-space sample that rounding explains: fp32 transforms leave
1e-6 of the largest sample; TF32 would leave 1e-3."""
TISSUE_LEVEL = 0.1
"""Tissue is what is brighter than this share of the 99th percentile of the source."""
BOUNDED = ("added_energy_ratio", "intensity_drift", "measured_residual")
"""Figures that `kspacesr_rt.spec.ModelSpec.bounds` can limit, under their own names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceFigures:
    """What was measured on one result, before clipping; all dimensionless."""

    measured_residual: float
    """Largest change of a measured k-space sample, over the largest of them; of a model that keeps
    magnitudes, of a measured image sample's magnitude (`kspacesr_rt.kspace.magnitude_residual`)."""
    added_energy_share: float
    """Energy outside the measured band, over that of the whole result."""
    added_energy_ratio: float
    """The same, over that of the outer half of the measured band."""
    intensity_drift: float
    """Change of the mean intensity, over that of the source."""
    tissue_drift: float
    """Change of the mean over tissue, signed, over that of the source. No rounding: sharper edges
    move brightness into the rim of tissue or out of it."""

    def beyond(self, bounds: Mapping[str, float]) -> tuple[str, ...]:
        """Return the names of the figures that exceed a model's bounds."""
        return tuple(name for name in BOUNDED if getattr(self, name) > bounds.get(name, np.inf))

    def worse_of(self, other: SliceFigures) -> SliceFigures:
        """Return the larger of each figure: what is said of a multi-frame file."""
        drift = max(self.tissue_drift, other.tissue_drift, key=abs)
        names = ("measured_residual", "added_energy_share", "added_energy_ratio", "intensity_drift")
        larger = {name: max(getattr(self, name), getattr(other, name)) for name in names}
        return SliceFigures(**larger, tissue_drift=drift)


def measure_slice(sr: FloatArray, lr: FloatArray, grid: SampleGrid = "kspace") -> SliceFigures:
    """Measure one result against its source.

    Parameters
    ----------
    sr, lr
        Shapes ``(s * y, s * x)`` and ``(y, x)``, same FOV and intensities, finite, not clipped.
    grid
        Where SR samples lie.

    Raises
    ------
    ShapeError
        If the shapes are others.

    Notes
    -----
    Transforms are in the slices' own precision: rounding a slice to fp32 leaves as much outside
    the band, 1e-14 of its energy, as transforming it in fp32. Sums are in double precision. Each
    figure equals the function of its name in `kspacesr_rt.kspace` and `kspacesr_rt.added_energy`.
    """
    if sr.ndim != 2 or lr.ndim != 2 or 0 in lr.shape:
        raise ShapeError(f"expected one SR and one LR slice, found {sr.shape} and {lr.shape}")
    upscale = sr.shape[1] // lr.shape[1]
    if upscale < 1 or sr.shape != upscaled((lr.shape[0], lr.shape[1]), upscale):
        raise ShapeError(f"expected one SR and one LR slice, found {sr.shape} and {lr.shape}")
    spectra = HalfSpectra.of(sr, lr)
    before, after = (float(one.mean(dtype=np.float64)) for one in (lr, sr))
    drift = abs(after - before) / (float(np.abs(lr).mean(dtype=np.float64)) or 1.0)
    energy = spectra.added_energy()
    return SliceFigures(
        measured_residual=spectra.measured_residual(grid),
        added_energy_share=energy.share,
        added_energy_ratio=energy.ratio,
        intensity_drift=drift,
        tissue_drift=_tissue_drift(sr, lr, upscale, grid),
    )


def check_result(sr: FloatArray, lr: FloatArray, spec: ModelSpec) -> SliceFigures:
    """Check one result before anybody sees it.

    Parameters
    ----------
    sr, lr
        One slice each, ``(s*y, s*x)`` and ``(y, x)``, not clipped.
    spec
        What was promised.

    Returns
    -------
        What was measured on it.

    Raises
    ------
    SliceFailed
        ``non-finite`` or ``data-consistency``; ``bad-rescale``: the values are negative, and the
        model gives magnitudes, which would be clipped to nothing.
    """
    if spec.output == "magnitude" and -float(lr.min()) > max(float(lr.max()), 0.0):
        raise SliceFailed("bad-rescale", "its values are negative, and the model gives magnitudes")
    if not np.isfinite(sr).all():
        raise SliceFailed("non-finite", "the result holds NaN or infinity")
    figures = measure_slice(sr, lr, spec.sample_grid)
    residual = figures.measured_residual
    if spec.data_consistency == "magnitude":
        off = magnitude_residual(sr, lr)
        if off > MEASURED_TOLERANCE:
            raise SliceFailed(
                "data-consistency",
                f"measured magnitudes are off by {off:.1e} of the largest, "
                f"{MEASURED_TOLERANCE:.0e} is allowed",
            )
        return dataclasses.replace(figures, measured_residual=off)
    keeps = spec.data_consistency == "hard" or spec.name == "zero-fill"
    if keeps and spec.output == "real" and residual > MEASURED_TOLERANCE:
        raise SliceFailed(
            "data-consistency",
            f"measured k-space samples are off by {residual:.1e} of the largest, "
            f"{MEASURED_TOLERANCE:.0e} is allowed",
        )
    return figures


def _tissue_drift(sr: FloatArray, lr: FloatArray, upscale: int, grid: SampleGrid) -> float:
    """Return the relative change of the mean over the LR samples that hold tissue.

    The result is taken where those samples lie: at SR index ``upscale * (k - sample_origin)``, or
    half from each side where that is between two samples.
    """
    tissue = lr > TISSUE_LEVEL * np.percentile(lr, 99.0)
    before = float(lr[tissue].mean(dtype=np.float64)) if tissue.any() else 0.0
    if before == 0.0:
        return 0.0
    along_rows, along_columns = (_beside(n, upscale, grid) for n in lr.shape)
    beside = [sr[rows, columns] for rows in along_rows for columns in along_columns]
    after = np.mean([float(one[tissue].mean(dtype=np.float64)) for one in beside])
    return float(after) / before - 1.0


def _beside(n: int, upscale: int, grid: SampleGrid) -> list[slice]:
    """Return the SR samples of an axis that LR samples lie on, or those on either side of them."""
    halves = round(-2 * upscale * sample_origin(n, upscale, grid))
    return [slice(first, None, upscale) for first in {halves // 2, -(-halves // 2)}]
