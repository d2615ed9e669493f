"""Image quality under named conventions: a convention moves results more than any runtime does.

``slice-range1``
    Intensities scaled so that the HR series has a maximum of 1; every slice by itself with a data
    range of 1; means over slices. The default here.
``fastmri-volume``
    PSNR over the whole volume, SSIM averaged over its slices, data range the HR volume's maximum
    (facebookresearch/fastMRI, ``evaluate.py``).
``seed``
    As SR_kspace reports: PSNR and MAE slice by slice with range 1, SSIM with scikit-image's old
    default range of 2 for floats, which flatters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import Array, FloatArray

Convention = Literal["slice-range1", "fastmri-volume", "seed"]
SSIM_WINDOW = 7
"""Side of the uniform window, as in scikit-image's ``structural_similarity``."""
SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Stabilisers of Wang et al., IEEE TIP 13(4), 2004."""
TISSUE_LEVEL, TISSUE_SHARE = 0.05, 0.02
"""A slice holds tissue if this share of its pixels is above this share of the series maximum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How close SR is to HR, under one convention."""

    mae: float
    """Mean absolute error, in units of the data range."""
    psnr_db: float
    """Peak signal-to-noise ratio in dB; infinite for perfect agreement."""
    ssim: float
    """Structural similarity, at most 1."""


def mae(image: FloatArray, reference: FloatArray) -> float:
    """Return the mean absolute error."""
    _require_same_shape(image, reference)
    return float(np.mean(np.abs(image.astype(np.float64) - reference.astype(np.float64))))


def psnr_db(image: FloatArray, reference: FloatArray, data_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB over all samples given."""
    _require_same_shape(image, reference)
    mse = float(np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return float("inf") if mse == 0.0 else float(10.0 * np.log10(data_range**2 / mse))


def _window_means(image: FloatArray) -> FloatArray:
    """Average over every window that lies inside the image."""
    n = SSIM_WINDOW
    rows = np.lib.stride_tricks.sliding_window_view(image, n, axis=0).mean(axis=-1)
    means: FloatArray = np.lib.stride_tricks.sliding_window_view(rows, n, axis=1).mean(axis=-1)
    return means


def ssim(image: FloatArray, reference: FloatArray, data_range: float) -> float:
    """Return the structural similarity of two slices ``(y, x)``.

    Uniform 7 x 7 window, sample covariance, averaged over the windows inside the image: the
    defaults of scikit-image.

    Raises
    ------
    ShapeError
        If a slice is smaller than the window.
    """
    _require_same_shape(image, reference)
    if image.ndim != 2 or min(image.shape) < SSIM_WINDOW:
        raise ShapeError(f"SSIM needs slices of at least 7 x 7 samples, found {image.shape}")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    count = SSIM_WINDOW**2
    unbiased = count / (count - 1)
    mean_x, mean_y = _window_means(x), _window_means(y)
    var_x = unbiased * (_window_means(x * x) - mean_x**2)
    var_y = unbiased * (_window_means(y * y) - mean_y**2)
    covariance = unbiased * (_window_means(x * y) - mean_x * mean_y)
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(similarity.mean())


def evaluate(sr: FloatArray, hr: FloatArray, convention: Convention) -> Quality:
    """Judge a series ``(n, y, x)`` against its reference.

    Parameters
    ----------
    sr, hr
        Same shape and intensities; for ``slice-range1`` and ``seed`` already scaled so that the
        series maximum of HR is 1.
    convention
        See the module's docstring.

    Raises
    ------
    ShapeError
        If the shapes differ or are not ``(n, y, x)``.
    ValueError
        If no convention has that name.
    """
    _require_same_shape(sr, hr)
    if hr.ndim != 3:
        raise ShapeError(f"expected slices (n, y, x), found shape {hr.shape}")
    if convention not in get_args(Convention):
        raise ValueError(f"'{convention}' is not one of {', '.join(get_args(Convention))}")
    if convention == "fastmri-volume":
        top = float(hr.max())
        return Quality(
            mae=mae(sr, hr) / top,
            psnr_db=psnr_db(sr, hr, top),
            ssim=float(np.mean([ssim(a, b, top) for a, b in zip(sr, hr, strict=True)])),
        )
    ssim_range = 2.0 if convention == "seed" else 1.0
    pairs = list(zip(sr, hr, strict=True))
    return Quality(
        mae=float(np.mean([mae(a, b) for a, b in pairs])),
        psnr_db=float(np.mean([psnr_db(a, b, 1.0) for a, b in pairs])),
        ssim=float(np.mean([ssim(a, b, ssim_range) for a, b in pairs])),
    )


def psnr_between(image: FloatArray, reference: FloatArray, data_range: float) -> float:
    """Return the PSNR in dB between two implementations' results; infinite if they are equal."""
    return psnr_db(image, reference, data_range)


def relative_error(values: Array, reference: Array) -> float:
    """Return ``||values - reference|| / ||reference||``, for real or complex arrays."""
    _require_same_shape(values, reference)
    norm = float(np.linalg.norm(reference))
    error = float(np.linalg.norm(values - reference))
    return error / norm if norm > 0.0 else (0.0 if error == 0.0 else float("inf"))


def tissue_slices(volume: FloatArray) -> Array:
    """Return which slices of ``(n, y, x)`` hold tissue, as booleans."""
    above = volume > TISSUE_LEVEL * float(volume.max())
    return np.asarray(above.mean(axis=(1, 2)) >= TISSUE_SHARE)


def _require_same_shape(image: Array, reference: Array) -> None:
    if image.shape != reference.shape:
        raise ShapeError(f"shapes differ: {image.shape} and {reference.shape}")
