"""The baselines: interpolation on the grid that k-space zero-filling defines.

SR sample j lies at LR index ``grid_origin + j / upscale``. Image-domain resizers keep the edges of
the FOV instead and so sit half an output pixel (x2) off a k-space reference before any quality is
measured.
"""

from __future__ import annotations

import numpy as np

from kspacesr_rt.kspace import FloatArray, grid_origin, zero_fill_image

KEYS_A = -0.5
"""Free parameter of cubic convolution: reproduces quadratics (Keys, IEEE TASSP 29(6), 1981)."""


def zero_fill(image: FloatArray, upscale: int) -> FloatArray:
    """Interpolate real slices ``(..., y, x)`` by zero-filling k-space; the real part, float32."""
    return np.ascontiguousarray(zero_fill_image(image, upscale).real, dtype=np.float32)


def _keys(distance: FloatArray) -> FloatArray:
    """Evaluate the cubic convolution kernel at distances in samples."""
    d, a = np.abs(distance), KEYS_A
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    weights: FloatArray = np.where(d <= 1.0, near, np.where(d < 2.0, far, 0.0))
    return weights


def _cubic_matrix(n: int, upscale: int) -> FloatArray:
    """Return the ``(upscale * n, n)`` interpolation matrix of one axis, edges replicated."""
    positions = grid_origin(n, upscale) + np.arange(upscale * n) / upscale
    first = np.floor(positions).astype(int) - 1
    matrix = np.zeros((upscale * n, n))
    rows = np.arange(upscale * n)
    for tap in range(4):
        index = first + tap
        np.add.at(matrix, (rows, np.clip(index, 0, n - 1)), _keys(positions - index))
    return matrix


def bicubic(image: FloatArray, upscale: int) -> FloatArray:
    """Interpolate slices by separable cubic convolution on the k-space grid.

    Parameters
    ----------
    image
        Shape ``(..., y, x)``, real.
    upscale
        SR samples per LR sample and axis.

    Returns
    -------
        Shape ``(..., upscale * y, upscale * x)``, float32; edges replicated.
    """
    down = _cubic_matrix(image.shape[-2], upscale)
    across = _cubic_matrix(image.shape[-1], upscale)
    return np.ascontiguousarray(down @ image.astype(np.float64) @ across.T, dtype=np.float32)
