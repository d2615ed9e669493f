"""What each result says about itself, and whether that is within what its model was seen to do.

Four figures a slice, from one transform of the result and one of its source: how far measured
samples moved, how much energy lies outside the measured band, and how far intensity drifted, over
the whole slice and over tissue. A model card's bounds turn figures into flags; a model that states
none is reported without flags, never with invented ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kspacesr_rt.errors import ShapeError, SliceFailed
from kspacesr_rt.kspace import (
    FloatArray,
    SampleGrid,
    centre_crop,
    magnitude_residual,
    sample_origin,
    upscaled,
)
from kspacesr_rt.kspace.percentiles import high_percentile
from kspacesr_rt.model.spec import BOUNDED, ModelSpec
from kspacesr_rt.quality.half_spectra import HalfSpectra, row_squares
from kspacesr_rt.quality.spectral_sums import SpectralSums

MEASURED_TOLERANCE = 1e-4
"""Largest deviation of a measured k-space sample that rounding explains: fp32 transforms leave
1e-6 of the largest sample; TF32 would leave 1e-3."""
SETTLED_RESIDUAL = 0.5 * MEASURED_TOLERANCE
"""Below it, a backend's own sums say that measured samples are kept; above it NumPy looks."""
RANGE_TOLERANCE = 1e-4
"""Share of a source's maximum by which rounding may leave a declared range."""
HOMOGENEITY_FACTOR = 3.0
"""What slices are scaled by to see whether results scale: a power of two would change no digit."""
HOMOGENEITY_TOLERANCE = 1e-3
"""Of a result's largest value: rounding in narrow types leaves that much."""
TISSUE_LEVEL = 0.1
"""Tissue is what is brighter than this share of the 99th percentile of the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceFigures:
    """What was measured on one result, before clipping; all dimensionless."""

    measured_residual: float | None
    """Largest change of a measured k-space sample, over the largest of them; of a model that keeps
    magnitudes, of a measured image sample's magnitude (`kspacesr_rt.kspace.magnitude_residual`);
    None of a network that is not ours and not declared to keep any."""
    added_energy_share: float
    """Energy outside the measured band, over that of the whole result."""
    added_energy_ratio: float
    """The same, over that of the outer half of the measured band."""
    intensity_drift: float
    """Change of the mean intensity, over that of the source."""
    tissue_drift: float
    """Change of the mean over tissue, signed, over that of the source. No rounding: sharper edges
    move brightness into the rim of tissue or out of it."""

    def as_fields(self) -> dict[str, Any]:
        """Return the figures by name, as a record takes them."""
        return {name: getattr(self, name) for name in _FIGURES}

    def beyond(self, bounds: Mapping[str, float]) -> tuple[str, ...]:
        """Return the names of the figures that exceed a model's bounds."""
        return tuple(
            name for name in BOUNDED if (getattr(self, name) or 0.0) > bounds.get(name, np.inf)
        )

    def worse_of(self, other: SliceFigures) -> SliceFigures:
        """Return the larger of each figure: what is said of a multi-frame file."""
        drift = max(self.tissue_drift, other.tissue_drift, key=abs)
        names = ("added_energy_share", "added_energy_ratio", "intensity_drift")
        larger = {name: max(getattr(self, name), getattr(other, name)) for name in names}
        residuals = (self.measured_residual, other.measured_residual)
        known = [residual for residual in residuals if residual is not None]
        return SliceFigures(
            **larger, measured_residual=max(known, default=None), tissue_drift=drift
        )


_FIGURES: Final = tuple(field.name for field in dataclasses.fields(SliceFigures))


def measure_slice(
    sr: FloatArray,
    lr: FloatArray,
    grid: SampleGrid = "kspace",
    *,
    sr_energy: float | None = None,
    sums: SpectralSums | None = None,
) -> SliceFigures:
    """Measure one result against its source.

    Parameters
    ----------
    sr, lr
        Shapes ``(s * y, s * x)`` and ``(y, x)``, same FOV and intensities, finite, not clipped.
    grid
        Where SR samples lie.
    sr_energy
        Sum of the squares of `sr`, if that is known.
    sums
        Of the two slices' spectra, if something else has computed them: nothing is transformed.

    Raises
    ------
    ShapeError
        If the shapes are others.

    Notes
    -----
    Transforms are in the slices' own precision: rounding a slice to fp32 leaves as much outside
    the band, 1e-14 of its energy, as transforming it in fp32. Sums are in double precision. Each
    figure equals the function of its name in `kspacesr_rt.kspace` and
    `kspacesr_rt.quality.added_energy`.
    """
    if sr.ndim != 2 or lr.ndim != 2 or 0 in lr.shape:
        raise ShapeError(f"expected one SR and one LR slice, found {sr.shape} and {lr.shape}")
    upscale = sr.shape[1] // lr.shape[1]
    if upscale < 1 or sr.shape != upscaled((lr.shape[0], lr.shape[1]), upscale):
        raise ShapeError(f"expected one SR and one LR slice, found {sr.shape} and {lr.shape}")
    if sums is None:
        sums = HalfSpectra.of(sr, lr, sr_energy=sr_energy).sums(grid)
    before, after = (_mean(one) for one in (lr, sr))
    drift = abs(after - before) / (_mean(np.abs(lr)) or 1.0)
    energy = sums.added_energy()
    return SliceFigures(
        measured_residual=sums.measured_residual(),
        added_energy_share=energy.share,
        added_energy_ratio=energy.ratio,
        intensity_drift=drift,
        tissue_drift=_tissue_drift(sr, lr, upscale, grid),
    )


def check_result(
    sr: FloatArray, lr: FloatArray, spec: ModelSpec, sums: SpectralSums | None = None
) -> SliceFigures:
    """Check one result before anybody sees it.

    Parameters
    ----------
    sr, lr
        One slice each, ``(s*y, s*x)`` and ``(y, x)``, not clipped.
    spec
        What was promised.
    sums
        Of the two slices' spectra, in units of the LR slice's largest magnitude, if the backend
        has computed them. They spare the transforms, and refuse nothing: where they are not of
        this result, or a measured sample may have moved too far, NumPy measures.

    Returns
    -------
        What was measured on it.

    Raises
    ------
    SliceFailed
        ``non-finite``, ``data-consistency``, or ``output-range`` where that is declared;
        ``bad-rescale``: the values are negative, and the model gives magnitudes, which would be
        clipped to nothing.
    """
    if spec.output == "magnitude" and -float(lr.min()) > max(float(lr.max()), 0.0):
        raise SliceFailed("bad-rescale", "its values are negative, and the model gives magnitudes")
    energy = row_squares(sr)
    # Nothing that is summed up is infinite, or NaN, if the sum is neither; squares may overflow.
    if not math.isfinite(energy) and not np.isfinite(sr).all():
        raise SliceFailed("non-finite", "the result holds NaN or infinity")
    _require_range(sr, lr, spec)
    if sums is not None and not _is_settled(sums, lr, spec, energy):
        sums = None
    figures = measure_slice(sr, lr, spec.sample_grid, sr_energy=energy, sums=sums)
    if not spec.is_own and spec.data_consistency == "none":
        return dataclasses.replace(figures, measured_residual=None)
    residual = figures.measured_residual or 0.0
    if spec.data_consistency == "magnitude":
        off = magnitude_residual(sr, lr)
        if off > MEASURED_TOLERANCE:
            raise SliceFailed(
                "data-consistency",
                f"measured magnitudes are off by {off:.1e} of the largest, "
                f"{MEASURED_TOLERANCE:.0e} is allowed",
            )
        return dataclasses.replace(figures, measured_residual=off)
    if _keeps_samples(spec) and residual > MEASURED_TOLERANCE:
        raise SliceFailed("data-consistency", _moved(residual))
    return figures


def _is_settled(sums: SpectralSums, lr: FloatArray, spec: ModelSpec, energy: float) -> bool:
    """Say whether a backend's sums are of this result, and no reason to refuse it."""
    if not sums.settle(energy=energy, unit=float(np.abs(lr).max())):
        return False
    return not _keeps_samples(spec) or sums.measured_residual() < SETTLED_RESIDUAL


def _keeps_samples(spec: ModelSpec) -> bool:
    """Say whether it is promised that measured k-space samples are in the result."""
    return spec.output == "real" and (spec.data_consistency == "hard" or spec.name == "zero-fill")


def _require_range(sr: FloatArray, lr: FloatArray, spec: ModelSpec) -> None:
    """Check that a result lies within what is declared of its network."""
    if not spec.output_range:
        return
    low, high = spec.output_range
    top = float(np.abs(lr).max()) or 1.0
    found = float(sr.min()) / top, float(sr.max()) / top
    if found[0] < low - RANGE_TOLERANCE or found[1] > high + RANGE_TOLERANCE:
        raise SliceFailed(
            "output-range",
            f"the result goes from {found[0]:.4g} to {found[1]:.4g} of its source's maximum, "
            f"{low:g} to {high:g} is declared",
        )


def require_measured_kspace(results: FloatArray, given: FloatArray) -> None:
    """Check that k-space keeps the samples that were measured.

    Parameters
    ----------
    results
        Centred orthonormal SR k-space, ``(n, ..., s*ky, s*kx)``.
    given
        The LR k-space that it was made of, ``(n, ..., ky, kx)``. On the finer grid of the same
        values its samples are `s` times as large.

    Raises
    ------
    SliceFailed
        ``data-consistency``, with how far the worst slice is off.
    """
    matrix = (given.shape[-2], given.shape[-1])
    upscale = np.float32(results.shape[-1] // matrix[1])
    for result, lr in zip(results, given, strict=True):
        measured = lr * upscale
        top = float(np.abs(measured).max()) or 1.0
        off = float(np.abs(centre_crop(result, matrix) - measured).max()) / top
        if not off <= MEASURED_TOLERANCE:
            raise SliceFailed("data-consistency", _moved(off))


def _moved(off: float) -> str:
    return (
        f"measured k-space samples are off by {off:.1e} of the largest, "
        f"{MEASURED_TOLERANCE:.0e} is allowed"
    )


def require_homogeneous(
    results: FloatArray, of_scaled: FloatArray, factor: float = HOMOGENEITY_FACTOR
) -> None:
    """Check that results of scaled slices are the scaled results.

    Parameters
    ----------
    results, of_scaled
        Of slices, and of the same slices times `factor`: shapes ``(n, s*y, s*x)``.
    factor
        By which they were scaled.

    Raises
    ------
    SliceFailed
        ``homogeneity``, with how far the worst of them is off.
    """
    for result, scaled in zip(results, of_scaled, strict=True):
        top = float(np.abs(result).max()) or 1.0
        off = float(np.abs(scaled / factor - result).max()) / top
        if not off <= HOMOGENEITY_TOLERANCE:
            raise SliceFailed(
                "homogeneity",
                f"a slice times {factor:g} gives another result, off by {off:.1e} of its largest "
                f"value; {HOMOGENEITY_TOLERANCE:.0e} is allowed",
            )


def _tissue_drift(sr: FloatArray, lr: FloatArray, upscale: int, grid: SampleGrid) -> float:
    """Return the relative change of the mean over the LR samples that hold tissue.

    The result is taken where those samples lie: at SR index ``upscale * (k - sample_origin)``, or
    half from each side where that is between two samples.
    """
    tissue = lr > TISSUE_LEVEL * high_percentile(lr, 99.0)
    weights = tissue.astype(lr.dtype)
    before = _row_products(lr, weights)
    if before == 0.0:
        return 0.0
    along_rows, along_columns = (_beside(n, upscale, grid) for n in lr.shape)
    # Copied: what is summed up in steps of two or three takes longer than that.
    beside = [
        np.ascontiguousarray(sr[rows, columns]) for rows in along_rows for columns in along_columns
    ]
    after = np.mean([_row_products(one, weights) for one in beside])
    return float(after) / before - 1.0


def _mean(image: FloatArray) -> float:
    """Return the mean of an image: of each row in its own precision, then in double."""
    return float(np.einsum("ij->i", image).sum(dtype=np.float64)) / image.size


def _row_products(image: FloatArray, weights: FloatArray) -> float:
    """Return the sum of an image times weights: each row in its own precision, then in double."""
    return float(np.einsum("ij,ij->i", image, weights).sum(dtype=np.float64))


def _beside(n: int, upscale: int, grid: SampleGrid) -> list[slice]:
    """Return the SR samples of an axis that LR samples lie on, or those on either side of them."""
    halves = round(-2 * upscale * sample_origin(n, upscale, grid))
    return [slice(first, None, upscale) for first in {halves // 2, -(-halves // 2)}]
