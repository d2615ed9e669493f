"""Calibrate how far a model's results may be off, and measure how often HR lies within.

What it measures: the share of samples whose error, SR (clipped at 0) less HR, is at most the
half-width that follows from LR and SR (`kspacesr_rt.quality.trust_interval`), inside tissue and
over whole slices, series by series. HR is cropped to what its scanner acquired, as in `evaluate`.
How it calibrates: slices of every series, as they are and in two variants (k-space cropped further;
that and Rician noise), give samples of error and features. A quantile regression of the logarithm
of the error gives the exponents. Patients are then left out in turns: how far the errors of samples
that a regression did not see lie above what it says gives the factor that holds the stated share.
What it leaves out: anatomy, contrasts and scanners that no series shows. The share that is held
elsewhere is what `coverage_of` says, not what was calibrated.
How to read it: below the stated share intervals are too narrow there, above it wider than needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from kspacesr_rt.bench.quality.hallucination import why_not_measured
from kspacesr_rt.bench.quality.open_model import Opener, opener_of
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray, centre_crop, degrade, divisible_crop, fft2c, ifft2c
from kspacesr_rt.model.contracts import require_images
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import TRUST_FEATURES
from kspacesr_rt.model.trust_calibration import COVERAGE, TrustCalibration
from kspacesr_rt.quality.metrics import tissue_mask, tissue_slices
from kspacesr_rt.quality.trust_interval import features, half_width, logarithms
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.noise import rician
from kspacesr_rt.train.volumes import interpolation_of, read_volumes, resampled

FITTED_SLICES, JUDGED_SLICES = 3, 5
"""Slices of each series, spread over it."""
TISSUE_SAMPLES, AIR_SAMPLES = 800, 160
"""Drawn from each slice to fit on: tissue is what is read, but air shows the same noise."""
CROPPED: Final = (0.6, 1.0)
"""Shares of k-space that a variant keeps, drawn evenly."""
SNRS: Final = (5.0, 40.0)
"""Signal-to-noise ratio of a variant's HR, drawn evenly in dB."""
SMALLEST_MATRIX = 96
"""A variant is cropped to no fewer samples."""
FOLDS = 5
"""Groups of patients that are left out in turns."""
STEPS, RATE = 500, 0.03
"""Of the regression: Adam over all samples; half of both changes no share by 0.002."""
SMALLEST_ERROR = 1e-7
"""Share of the series maximum below which an error is rounding."""

_Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How often HR lies within, on one series."""

    data: str
    """Name of the folder it was found in."""
    series: str
    """Name of the series."""
    tissue: float
    """Share of its samples inside tissue."""
    slice: float
    """Share of all of its samples."""
    width: float
    """Mean half-width inside tissue over the mean absolute error there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Samples:
    """Errors of one series, and what they go with."""

    patient: str
    logarithms: _Wide
    """Of the features, shape ``(n, len(TRUST_FEATURES))``."""
    errors: _Wide
    """Logarithms, shape ``(n,)``."""


def calibrate(
    model: ModelFile,
    data: Iterable[Path],
    *,
    coverage: float = COVERAGE,
    backend: str = "ort-cpu",
    threads: int = 0,
    reading: Reading | None = None,
) -> TrustCalibration:
    """Find the coefficients of a model's intervals.

    Parameters
    ----------
    model
        What makes the results.
    data
        Folders or files of HR images of at least two patients; better ones it was not trained on.
    coverage
        Share of the samples that intervals are to hold.
    backend, threads
        What runs it.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.

    Raises
    ------
    InputError
        If the model takes no images or does not answer on the grid of k-space, or there are fewer
        than two patients.
    """
    opener, upscale = _opened(model, backend, threads)
    rng = np.random.default_rng(0)
    samples = [
        found
        for patient, hr in _calibration_series(data, rng, reading)
        if (found := _samples(patient, hr, opener, upscale, rng)) is not None
    ]
    patients = sorted({one.patient for one in samples})
    if len(patients) < 2:
        raise InputError("a trust calibration needs series of at least two patients")
    groups = [set(patients[start::FOLDS]) for start in range(min(FOLDS, len(patients)))]
    scores, weights = [], []
    for left_out in groups:
        constant, exponents = _regression(
            [one for one in samples if one.patient not in left_out], coverage
        )
        for one in samples:
            if one.patient in left_out:
                scores.append(one.errors - (constant + one.logarithms @ exponents))
                weights.append(np.full(len(one.errors), 1.0 / len(one.errors)))
    constant, exponents = _regression(samples, coverage)
    correction = _weighted_quantile(np.concatenate(scores), np.concatenate(weights), coverage)
    return TrustCalibration(
        constant=float(np.exp(constant + correction)),
        exponents=dict(zip(TRUST_FEATURES, map(float, exponents), strict=True)),
        coverage=coverage,
    )


def coverage_of(
    model: ModelFile,
    calibration: TrustCalibration,
    data: Iterable[Path],
    *,
    backend: str = "ort-cpu",
    threads: int = 0,
    reading: Reading | None = None,
) -> list[Coverage]:
    """Measure how often HR lies within the intervals of a model.

    Parameters
    ----------
    model
        What makes the results.
    calibration
        `TrustCalibration.of` its specification, or of `calibrate`.
    data
        Folders or files of HR images that neither it nor the calibration has seen.
    backend, threads
        What runs it.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.

    Raises
    ------
    InputError
        As `calibrate` does of a model.
    """
    opener, upscale = _opened(model, backend, threads)
    found = []
    for number, root in enumerate(data, start=1):
        name = root.name if reading is None or reading.show_folders else f"data {number}"
        for label, _, hr in _series(root, JUDGED_SLICES, reading):
            inside, within, widths, errors = [], [], [], []
            for lr, sr, truth in _results(hr, opener, upscale):
                width = half_width(lr, sr, calibration)
                error = np.abs(np.maximum(sr, 0.0) - truth)
                inside.append(tissue_mask(truth).ravel())
                within.append((error <= width).ravel())
                widths.append(width.ravel())
                errors.append(error.ravel())
            tissue, held = np.concatenate(inside), np.concatenate(within)
            if not tissue.any():
                continue
            mean_error = float(np.concatenate(errors)[tissue].mean())
            found.append(
                Coverage(
                    data=name,
                    series=label,
                    tissue=float(held[tissue].mean()),
                    slice=float(held.mean()),
                    width=float(np.concatenate(widths)[tissue].mean()) / (mean_error or 1.0),
                )
            )
    return found


def means_of(found: Sequence[Coverage]) -> dict[str, dict[str, float]]:
    """Return what a model file keeps: of each data set, means over its series."""
    kept = {}
    for data in dict.fromkeys(one.data for one in found):
        own = [one for one in found if one.data == data]
        shares = [one.tissue for one in own]
        kept[data] = {
            "tissue": float(np.mean(shares)),
            "slice": float(np.mean([one.slice for one in own])),
            "lowest": min(shares),
            "highest": max(shares),
            "width": float(np.mean([one.width for one in own])),
            "n_series": len(own),
        }
    return kept


def as_text(models: dict[str, TrustCalibration]) -> str:
    """Return a Markdown table of what models hold, by data set."""
    lines = [
        "How often HR lies within the interval around SR; width is the mean half-width over the "
        "mean absolute error.",
        "",
        "| model | data | series | stated | inside tissue | lowest to highest | slice | width |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, one in models.items():
        for data, held in (one.measured or {}).items():
            lines.append(
                f"| {name} | {data} | {held['n_series']:.0f} | {one.coverage:.0%} | "
                f"{held['tissue']:.1%} | {held['lowest']:.1%} to {held['highest']:.1%} | "
                f"{held['slice']:.1%} | {held['width']:.1f} |"
            )
    return "\n".join(lines)


def _opened(model: ModelFile, backend: str, threads: int) -> tuple[Opener, int]:
    require_images(model.spec)
    if why := why_not_measured(model.spec):
        raise InputError(f"model '{model.spec.name}' {why}")
    return opener_of(model, backend, threads), model.spec.upscale


def _series(
    root: Path, n_slices: int, reading: Reading | None
) -> Iterator[tuple[str, str, FloatArray]]:
    """Yield name, patient and slices of each series that holds tissue, its maximum 1."""
    for stored in read_volumes(root, reading):
        band = interpolation_of(stored)
        volume = resampled(stored, band.cropped_matrix) if band.interpolated else stored
        kept = np.flatnonzero(tissue_slices(volume.slices))
        if len(kept):
            spread = np.linspace(0.1 * (len(kept) - 1), 0.9 * (len(kept) - 1), n_slices)
            chosen = volume.slices[kept[np.unique(spread.astype(int))]] / volume.slices.max()
            yield volume.label or volume.name, volume.patient, chosen.astype(np.float32)


def _calibration_series(
    data: Iterable[Path], rng: np.random.Generator, reading: Reading | None
) -> Iterator[tuple[str, FloatArray]]:
    """Yield patient and slices of each series, and of its variants."""
    for root in data:
        for label, patient, hr in _series(root, FITTED_SLICES, reading):
            whose = patient or label
            yield whose, hr
            for noisy in (False, True):
                share = rng.uniform(*CROPPED)
                rows, columns = (
                    min(n, max(SMALLEST_MATRIX, 2 * round(n * share / 2))) for n in hr.shape[1:]
                )
                variant = np.abs(ifft2c(centre_crop(fft2c(hr), (rows, columns))))
                if noisy:
                    snr = float(np.exp(rng.uniform(*np.log(SNRS))))
                    variant = rician(variant.astype(np.float32), snr, rng)
                yield whose, (variant / variant.max()).astype(np.float32)


def _results(
    hr: FloatArray, opener: Opener, upscale: int
) -> Iterator[tuple[FloatArray, FloatArray, FloatArray]]:
    """Yield LR, SR and HR of each slice."""
    cropped = divisible_crop(hr, upscale)
    lr = degrade(cropped, upscale).astype(np.float32)
    with opener((lr.shape[1], lr.shape[2])) as backend:
        for one, truth in zip(lr, cropped, strict=True):
            yield one, backend.run(one[None, None])[0, 0], truth


def _samples(
    patient: str, hr: FloatArray, opener: Opener, upscale: int, rng: np.random.Generator
) -> _Samples | None:
    """Draw samples of the error of a series; None if it holds no tissue."""
    known, errors = [], []
    for lr, sr, truth in _results(hr, opener, upscale):
        inside = np.flatnonzero(tissue_mask(truth))
        if not len(inside):
            continue
        drawn = np.concatenate(
            [
                rng.choice(inside, TISSUE_SAMPLES),
                rng.integers(0, truth.size, AIR_SAMPLES),
            ]
        )
        rows, columns = np.divmod(drawn, truth.shape[1])
        matrix = (lr.shape[0], lr.shape[1])
        nearest = (rows // upscale, columns // upscale)
        known.append(logarithms(features(lr, sr), matrix)[:, nearest[0], nearest[1]].T)
        error = np.abs(np.maximum(sr, 0.0) - truth)[rows, columns].astype(np.float64)
        errors.append(np.log(np.maximum(error, SMALLEST_ERROR)))
    if not known:
        return None
    return _Samples(
        patient=patient, logarithms=np.concatenate(known), errors=np.concatenate(errors)
    )


def _regression(samples: Sequence[_Samples], coverage: float) -> tuple[float, _Wide]:
    """Fit the quantile of the logarithmic error: a constant, and exponents that add up to 1.

    Every series weighs the same. The loss of quantile regression is minimised by Adam over all
    samples, from the quantile over the first feature; features are standardised meanwhile.
    """
    known = np.concatenate([one.logarithms for one in samples])
    errors = np.concatenate([one.errors for one in samples])
    weights = np.concatenate([np.full(len(one.errors), 1.0 / len(one.errors)) for one in samples])
    weights /= weights.sum()
    reference = known[:, 0]
    relative = known[:, 1:] - reference[:, None]
    mean, deviation = relative.mean(axis=0), relative.std(axis=0) + 1e-9
    relative = (relative - mean) / deviation
    target = errors - reference
    values = np.zeros(relative.shape[1] + 1)
    values[0] = _weighted_quantile(target, weights, coverage)
    first, second = np.zeros_like(values), np.zeros_like(values)
    for step in range(1, STEPS + 1):
        above = target > values[0] + relative @ values[1:]
        slope = np.where(above, -coverage, 1.0 - coverage) * weights
        gradient = np.concatenate([[slope.sum()], slope @ relative])
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        move = (first / (1.0 - 0.9**step)) / (np.sqrt(second / (1.0 - 0.99**step)) + 1e-12)
        values -= RATE * (1.0 - (step - 1) / STEPS) * move
    slopes = values[1:] / deviation
    exponents = np.concatenate([[1.0 - slopes.sum()], slopes])
    return float(values[0] - mean @ slopes), exponents


def _weighted_quantile(values: _Wide, weights: _Wide, share: float) -> float:
    """Return the least value that at least a share of the weight does not exceed."""
    order = np.argsort(values)
    sums = np.cumsum(weights[order])
    at = int(np.searchsorted(sums, share * sums[-1]))
    return float(values[order[min(at, len(order) - 1)]])
