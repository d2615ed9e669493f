"""The baselines that need no model: zero-fill and bicubic, both on the k-space grid.

A zero-filled image keeps samples, not the edges of the FOV: SR sample j lies at LR index
``grid_origin(n, s) + j / s``. Bicubic is sampled there too. The usual image-domain resize aligns
FOV edges instead, half an SR sample (x2) or one and a half (x4) off, and loses dB before any
quality is measured.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import FloatArray, SampleGrid, origin_ramp, sample_origin, upscaled

KEYS_A = -0.5
"""Slope of the kernel at one sample: Keys' own choice, exact for quadratic polynomials."""


def zero_fill(image: FloatArray, upscale: int, grid: SampleGrid = "kspace") -> FloatArray:
    """Interpolate real slices by zero-filling their k-space.

    Parameters
    ----------
    image
        Shape ``(..., y, x)``, real; leading axes are independent slices.
    upscale
        SR samples per LR sample and axis.
    grid
        Where SR samples lie; another than the usual one is to compare with a model's result there.

    Returns
    -------
        Shape ``(..., upscale * y, upscale * x)``, float32, same intensities, not clipped: it
        undershoots beside edges.

    Raises
    ------
    ShapeError
        If there are fewer than two axes, one is empty, or `upscale` is not positive.

    Notes
    -----
    The real part of `kspacesr_rt.kspace.zero_fill_image`, through transforms of real data, which
    cost half: what the real part does to the Nyquist lines of even axes is done to them here.
    """
    _require_slices(image)
    if upscale < 1:
        raise ShapeError(f"expected an upscale of at least 1, found {upscale}")
    rows, columns = image.shape[-2:]
    matrix = upscaled((rows, columns), upscale)
    slices = np.reshape(image, (-1, rows, columns))
    filled = np.empty((len(slices), *matrix), dtype=np.float32)
    # One slice at a time stays within the cache of a core.
    for number, one in enumerate(slices):
        filled[number] = _zero_filled(one.astype(np.float32), upscale, grid)
    return filled.reshape(*image.shape[:-2], *matrix)


def _require_slices(image: FloatArray) -> None:
    if image.ndim < 2 or 0 in image.shape[-2:]:
        raise ShapeError(f"expected slices (..., y, x), found shape {image.shape}")


def _zero_filled(image: FloatArray, upscale: int, grid: SampleGrid) -> FloatArray:
    """Zero-fill one slice, ``(y, x)`` float32, through the non-negative half of ``kx``."""
    if upscale == 1:
        return image
    rows, columns = image.shape
    matrix = upscaled((rows, columns), upscale)
    measured = np.fft.rfft2(image)
    measured *= upscale**2
    filled = np.zeros((matrix[0], matrix[1] // 2 + 1), dtype=measured.dtype)
    ky, kx = rows // 2, columns // 2
    filled[: ky + 1, : kx + 1] = measured[: ky + 1]
    if ky:
        filled[-ky:, : kx + 1] = measured[-ky:]
    # The real part puts one half of the line at -n/2 at +n/2, and of the corner (-n/2, -m/2) at
    # (+n/2, +m/2), not at the other two.
    if rows % 2 == 0:
        filled[[-ky, ky]] *= 0.5
    if columns % 2 == 0:
        filled[:, kx] *= 0.5
        if rows % 2 == 0:
            filled[ky, kx] *= 2.0
            filled[-ky, kx] = 0.0
    # Sample 0 of the larger grid lies elsewhere: for an odd axis, or on a grid of another kind.
    if sample_origin(rows, upscale, grid):
        every_ky = np.fft.ifftshift(np.arange(matrix[0]) - matrix[0] // 2)
        filled *= origin_ramp(every_ky, rows, upscale, grid)[:, None]
    if sample_origin(columns, upscale, grid):
        filled *= origin_ramp(np.arange(filled.shape[1]), columns, upscale, grid)
    return np.fft.irfft2(filled, s=matrix)


def bicubic(image: FloatArray, upscale: int, grid: SampleGrid = "kspace") -> FloatArray:
    """Interpolate real slices by cubic convolution, edge samples replicated.

    Parameters
    ----------
    image
        Shape ``(..., y, x)``, real; leading axes are independent slices.
    upscale
        SR samples per LR sample and axis.
    grid
        Where SR samples lie.

    Returns
    -------
        Shape ``(..., upscale * y, upscale * x)``, float32, same intensities, not clipped.

    Raises
    ------
    ShapeError
        If there are fewer than two axes, or one is empty.

    Notes
    -----
    Linear and, away from the edges, exact for quadratic polynomials.

    References
    ----------
    .. [1] Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans.
       ASSP 29(6), 1981, doi:10.1109/TASSP.1981.1163711
    """
    _require_slices(image)
    rows, columns = (_weights(n, upscale, grid) for n in image.shape[-2:])
    # float64: the sums must not depend on the size of a batch or the order of a BLAS.
    return (rows @ image.astype(np.float64) @ columns.T).astype(np.float32)


def keys_kernel(distance: FloatArray) -> npt.NDArray[np.float64]:
    """Return the weight of a sample at a distance (in samples) from the point wanted."""
    d = np.abs(np.asarray(distance, dtype=np.float64))
    near = (KEYS_A + 2) * d**3 - (KEYS_A + 3) * d**2 + 1
    far = KEYS_A * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@lru_cache(maxsize=32)
def _weights(n: int, upscale: int, grid: SampleGrid) -> npt.NDArray[np.float64]:
    """Return the interpolation along an axis of `n` samples, shape ``(upscale * n, n)``."""
    position = sample_origin(n, upscale, grid) + np.arange(upscale * n) / upscale
    first = np.floor(position).astype(np.intp) - 1
    matrix = np.zeros((upscale * n, n))
    for tap in range(4):
        index = first + tap
        weight = keys_kernel(position - index)
        np.add.at(matrix, (np.arange(upscale * n), np.clip(index, 0, n - 1)), weight)
    matrix.flags.writeable = False
    return matrix
