"""Image quality under named conventions: MAE, PSNR and SSIM, in float64 NumPy.

The convention moves a number by more than any model does, so `evaluate` asks for its name and
every table prints it:

* ``slice-range1``: slices judged one by one on data range 1, then averaged. The caller has divided
  the series by the maximum of its HR slices. The default protocol of this project.
* ``tissue``: the same, inside the patient alone (`tissue_mask`). Half of a slice is air, where a
  whole-slice figure rewards cleaner noise; a radiologist reads tissue.
* ``fastmri-volume``: the data range is the maximum of the HR volume; PSNR and MAE over the whole
  volume, SSIM per slice, then averaged [1]_.
* ``seed``: as SR_kspace reported it: slices one by one, PSNR and MAE on range 1 but SSIM on range
  2, scikit-image's default for floats before 0.20, which flatters [2]_.

References
----------
.. [1] Zbontar et al., fastMRI, arXiv:1811.08839, section 4.2, and its ``evaluate.py``
.. [2] scikit-image/scikit-image#6602: a float image was taken to span -1 to 1
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import InputError, ShapeError
from kspacesr_rt.kspace import Array, FloatArray
from kspacesr_rt.system.quantities import JSON_INFINITE as JSON_INFINITE

CONVENTIONS = {
    "slice-range1": "mean over slices, data range 1 = maximum of the HR series",
    "slice-range1-gaussian": "the same data range, SSIM in the Gaussian window of its paper",
    "tissue": "mean over slices inside tissue, data range 1 = maximum of the HR series",
    "fastmri-volume": "data range = maximum of the HR volume, PSNR over the volume",
    "seed": "mean over slices, PSNR on data range 1, SSIM on data range 2 (flatters)",
}
"""Name of every convention, and how a table's caption words it."""

SSIM_WINDOW = 7
"""Edge of the uniform window in samples: scikit-image's default."""
GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 1.5, 5
"""Standard deviation and radius in samples of the window of Wang et al. 2004, 11 x 11."""
SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Stabilisers as shares of the data range: Wang et al. 2004, doi:10.1109/TIP.2003.819861."""
SEED_SSIM_RANGE = 2.0
"""What scikit-image assumed of a float image when the seed was measured."""
MASK_SIGMA = 3.0
"""Standard deviation in samples of the Gaussian that `tissue_mask` smooths HR with: closes what is
dark inside a head, and keeps noise in air from being taken for tissue."""
MASK_LEVEL = 0.08
"""Share of the smoothed slice's 99th percentile above which a sample is tissue. A convention: at
12 dB below bright tissue lie bone and CSF's dark contrasts, at 22 dB air."""
TISSUE_SHARE = 0.01
"""Mean of a slice over the maximum of its series above which it holds tissue. A convention, not a
gap: thin-tissue slices of 3-D series pass through it continuously."""

_Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How close SR images come to HR under one convention."""

    mae: float
    """Mean absolute error as a share of the convention's data range."""
    psnr_db: float
    """Peak signal-to-noise ratio in dB; infinite for perfect agreement."""
    ssim: float
    """Mean structural similarity, at most 1."""


def evaluate(sr: FloatArray, hr: FloatArray, convention: str) -> Quality:
    """Judge SR slices against HR slices under a named convention.

    Parameters
    ----------
    sr, hr
        Shape ``(..., y, x)``, leading axes are slices; except for ``fastmri-volume``, both are
        divided by the maximum of the HR series. Nothing is clipped here.
    convention
        A name in `CONVENTIONS`.

    Raises
    ------
    ShapeError
        If the shapes differ, hold no slice, or slices are smaller than the SSIM window.
    InputError
        If no convention has that name, the data range is not positive, or ``tissue`` is asked for
        of a slice without any.
    """
    if convention not in CONVENTIONS:
        raise InputError(
            f"no metric convention is called '{convention}'",
            hint=f"one of: {', '.join(CONVENTIONS)}",
        )
    if convention == "fastmri-volume":
        top = float(np.max(hr, initial=-np.inf))
        return Quality(
            mae=mae(sr, hr) / _positive(top),
            psnr_db=psnr_between(sr, hr, top),
            ssim=ssim(sr, hr, top),
        )
    if convention == "tissue":
        return _tissue_quality(sr, hr)
    ssim_range = SEED_SSIM_RANGE if convention == "seed" else 1.0
    gaussian = convention == "slice-range1-gaussian"
    return Quality(
        mae=mae(sr, hr),
        psnr_db=psnr_db(sr, hr),
        ssim=ssim(sr, hr, ssim_range, gaussian=gaussian),
    )


def mae(sr: FloatArray, hr: FloatArray) -> float:
    """Return the mean absolute error over all samples, in the unit of the images."""
    wide_sr, wide_hr = _pair(sr, hr)
    return float(np.abs(wide_sr - wide_hr).mean())


def psnr_db(sr: FloatArray, hr: FloatArray, data_range: float = 1.0) -> float:
    """Return the PSNR of each slice, averaged in dB over the slices of ``(..., y, x)``.

    One slice that agrees perfectly makes the mean infinite: leave empty slices out first
    (`tissue_slices`).
    """
    slices = zip(*(_slices(one) for one in _pair(sr, hr)), strict=True)
    return float(np.mean([psnr_between(ours, theirs, data_range) for ours, theirs in slices]))


def ssim(
    sr: FloatArray, hr: FloatArray, data_range: float = 1.0, *, gaussian: bool = False
) -> float:
    """Return the structural similarity of each slice, averaged over the slices.

    Parameters
    ----------
    sr, hr
        Shape ``(..., y, x)``, at least 7 x 7 samples a slice; 11 x 11 with `gaussian`.
    data_range
        Distance of the largest from the smallest possible value, in the unit of the images.
    gaussian
        Weight the samples of a window as Wang et al. 2004 do (doi:10.1109/TIP.2003.819861), with
        their population covariance.

    Notes
    -----
    Equals ``skimage.metrics.structural_similarity`` of float64 slices with its defaults: uniform
    7 x 7 window, sample covariance, mean over the windows that lie inside the slice; with
    `gaussian`, with ``gaussian_weights=True, use_sample_covariance=False``. skimage computes
    float32 input in float32; this is always float64.
    """
    wide_sr, wide_hr = _pair(sr, hr)
    weights = _GAUSSIAN if gaussian else _UNIFORM
    _require_room(wide_sr, len(weights))
    c1, c2 = (_positive(data_range) * SSIM_K1) ** 2, (data_range * SSIM_K2) ** 2
    slices = zip(_slices(wide_sr), _slices(wide_hr), strict=True)
    return float(
        np.mean([_ssim_map(ours, theirs, c1, c2, weights).mean() for ours, theirs in slices])
    )


def psnr_between(a: FloatArray, b: FloatArray, data_range: float) -> float:
    """Return the PSNR over all samples of two arrays in dB, infinite where they are equal.

    For parity of two implementations, where there is no truth: symmetric in `a` and `b`.
    """
    wide_a, wide_b = _pair(a, b)
    error = float(np.mean((wide_a - wide_b) ** 2))
    return (
        float("inf") if error == 0.0 else float(10 * np.log10(_positive(data_range) ** 2 / error))
    )


def json_number(value: float) -> float | None:
    """Return a figure as strict JSON can hold it: infinity becomes `JSON_INFINITE`, NaN null."""
    if np.isnan(value):
        return None
    return float(np.clip(value, -JSON_INFINITE, JSON_INFINITE))


def relative_error(a: Array, b: Array) -> float:
    """Return ``||a - b|| / ||b||`` of real or complex arrays; 0 if both are zero."""
    _require_same_shape(a, b)
    difference = float(np.linalg.norm((_complex(a) - _complex(b)).ravel()))
    reference = float(np.linalg.norm(_complex(b).ravel()))
    if reference == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / reference


def tissue_slices(volume: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which slices of a series hold tissue: those that a quality table averages over.

    Parameters
    ----------
    volume
        HR slices of one series, shape ``(n, y, x)``, in any unit, not negative.

    Returns
    -------
        Shape ``(n,)``: the slice's mean exceeds `TISSUE_SHARE` of the maximum of the series.
    """
    if volume.ndim != 3 or volume.size == 0:
        raise ShapeError(f"expected the slices of one series (n, y, x), found shape {volume.shape}")
    kept: npt.NDArray[np.bool_] = (
        volume.mean(axis=(1, 2), dtype=np.float64) > TISSUE_SHARE * volume.max()
    )
    return kept


def tissue_mask(hr: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which samples of HR slices are tissue: where convention ``tissue`` looks.

    Parameters
    ----------
    hr
        HR slices, shape ``(..., y, x)``, in any unit, not negative.

    Returns
    -------
        Same shape: the slice, smoothed by a Gaussian of `MASK_SIGMA`, exceeds `MASK_LEVEL` of its
        own 99th percentile. All False for an empty slice.
    """
    if hr.ndim < 2 or hr.size == 0:
        raise ShapeError(f"expected at least one slice (..., y, x), found shape {hr.shape}")
    mask = np.empty(hr.shape, np.bool_)
    for index in np.ndindex(hr.shape[:-2]):
        smooth = _smoothed(hr[index])
        mask[index] = smooth > MASK_LEVEL * np.percentile(smooth, 99.0)
    return mask


def _smoothed(image: FloatArray) -> npt.NDArray[np.float64]:
    """Return one slice, softened by `_MASK_WINDOW` along both axes; mirrored beyond its border."""
    smooth = np.asarray(image, dtype=np.float64)
    radius = len(_MASK_WINDOW) // 2
    for axis, n in enumerate(image.shape):
        around = [(radius, radius) if one == axis else (0, 0) for one in range(2)]
        padded = np.pad(smooth, around, "symmetric")
        smooth, shifted = np.zeros(image.shape), np.empty(image.shape)
        for first, weight in enumerate(_MASK_WINDOW):
            part = slice(first, first + n)
            np.multiply(padded[part] if axis == 0 else padded[:, part], weight, out=shifted)
            smooth += shifted
    return smooth


def _tissue_quality(sr: FloatArray, hr: FloatArray) -> Quality:
    wide_sr, wide_hr = _pair(sr, hr)
    _require_room(wide_sr, SSIM_WINDOW)
    if not np.isfinite(wide_sr).all():  # in air too: a broken result has no quality
        return Quality(mae=np.nan, psnr_db=np.nan, ssim=np.nan)
    edge = SSIM_WINDOW // 2
    found = []
    for ours, theirs in zip(_slices(wide_sr), _slices(wide_hr), strict=True):
        mask = tissue_mask(theirs)
        centres = mask[edge : mask.shape[0] - edge, edge : mask.shape[1] - edge]
        if not centres.any():
            raise InputError(
                "a slice holds no tissue to judge", hint="leave empty slices out (tissue_slices)"
            )
        similarity = _ssim_map(ours, theirs, SSIM_K1**2, SSIM_K2**2, _UNIFORM)
        inside, truth = ours[mask][None], theirs[mask][None]
        found.append(
            (
                mae(inside, truth),
                psnr_between(inside, truth, 1.0),
                similarity[centres].mean(),
            )
        )
    mae_mean, psnr_mean, ssim_mean = np.mean(found, axis=0)
    return Quality(mae=float(mae_mean), psnr_db=float(psnr_mean), ssim=float(ssim_mean))


def _require_room(images: _Wide, window: int) -> None:
    if min(images.shape[-2:]) < window:
        raise ShapeError(
            f"SSIM needs slices of at least {window} x {window} samples, found shape {images.shape}"
        )


def _require_same_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ShapeError(f"expected two images of one shape, found {a.shape} and {b.shape}")


def _pair(a: FloatArray, b: FloatArray) -> tuple[_Wide, _Wide]:
    _require_same_shape(a, b)
    if a.ndim < 2 or a.size == 0:
        raise ShapeError(f"expected at least one slice (..., y, x), found shape {a.shape}")
    return np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)


def _positive(data_range: float) -> float:
    if not 0.0 < data_range < float("inf"):
        raise InputError(f"expected a positive data range, found {data_range}")
    return data_range


def _slices(images: _Wide) -> _Wide:
    return images.reshape(-1, *images.shape[-2:])


def _complex(values: Array) -> npt.NDArray[Any]:
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


_UNIFORM = np.full(SSIM_WINDOW, 1.0 / SSIM_WINDOW)
_GAUSSIAN = np.exp(-0.5 * (np.arange(-GAUSSIAN_RADIUS, GAUSSIAN_RADIUS + 1) / GAUSSIAN_SIGMA) ** 2)
_GAUSSIAN /= _GAUSSIAN.sum()
_MASK_WINDOW = np.exp(-0.5 * (np.arange(-12, 13) / MASK_SIGMA) ** 2)  # to four standard deviations
_MASK_WINDOW /= _MASK_WINDOW.sum()


def _window_mean(image: _Wide, weights: _Wide) -> _Wide:
    """Average every window inside a slice: shifted adds per axis, no running sum to drift."""
    rows, columns = (n - len(weights) + 1 for n in image.shape)
    summed = _weighted_sum((image[i : i + rows] for i in range(len(weights))), weights)
    return _weighted_sum((summed[:, i : i + columns] for i in range(len(weights))), weights)


def _weighted_sum(parts: Iterable[_Wide], weights: _Wide) -> _Wide:
    """Return the sum of ``weight * part`` in that order; one array takes each product."""
    (weight, first), *others = zip(weights, parts, strict=True)
    total: _Wide = weight * first
    product = np.empty_like(total)
    for weight, part in others:
        np.multiply(weight, part, out=product)
        total += product
    return total


def _ssim_map(a: _Wide, b: _Wide, c1: float, c2: float, weights: _Wide) -> _Wide:
    """Return the similarity of every window that lies inside the slice, at its centre."""
    n = SSIM_WINDOW**2
    unbiased = n / (n - 1) if weights is _UNIFORM else 1.0
    mean_a, mean_b = _window_mean(a, weights), _window_mean(b, weights)
    var_a = unbiased * (_window_mean(a * a, weights) - mean_a**2)
    var_b = unbiased * (_window_mean(b * b, weights) - mean_b**2)
    covariance = unbiased * (_window_mean(a * b, weights) - mean_a * mean_b)
    similarity: _Wide = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return similarity
