"""Analytic objects whose image and k-space are known without this project's own transforms."""

from __future__ import annotations

import numpy as np

from kspacesr_rt.kspace import FloatArray, Matrix

# Modified Shepp-Logan phantom: intensity, semi-axes (x, y), centre (x, y), rotation in degrees.
# Toft, The Radon Transform, PhD thesis, DTU 1996, table B.3.
SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.605, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
TEXTURE_WAVES = 40
"""Plane waves of random direction that make the brain's texture."""


def _grid(matrix: Matrix) -> tuple[FloatArray, FloatArray]:
    """Return y and x of every sample, from -1 to 1, the image origin at ``n // 2``."""
    axes = [2.0 * (np.arange(n) - n // 2) / n for n in matrix]
    y, x = np.meshgrid(axes[0], axes[1], indexing="ij")
    return y, x


def brain_phantom(matrix: Matrix, seed: int = 0) -> FloatArray:
    """Draw a head: Shepp-Logan ellipses, fine texture inside, a smooth bias field.

    Parameters
    ----------
    matrix
        Rows and columns, odd or even.
    seed
        Of the texture.

    Returns
    -------
        Shape `matrix`, float32, between 0 and 1, maximum 1.
    """
    y, x = _grid(matrix)
    image = np.zeros(matrix)
    inside = np.zeros(matrix, dtype=bool)
    for value, half_x, half_y, centre_x, centre_y, degrees in SHEPP_LOGAN:
        angle = np.deg2rad(degrees)
        along = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
        across = -(x - centre_x) * np.sin(angle) + (y - centre_y) * np.cos(angle)
        ellipse = (along / half_x) ** 2 + (across / half_y) ** 2 <= 1.0
        inside |= ellipse
        image[ellipse] += value
    rng = np.random.default_rng(seed)
    texture = np.zeros(matrix)
    for _ in range(TEXTURE_WAVES):
        cycles = rng.uniform(2.0, 0.45 * min(matrix))
        angle, phase = rng.uniform(0.0, 2.0 * np.pi, size=2)
        wave = np.cos(np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        texture += wave / np.sqrt(cycles)
    image += inside * texture * (0.05 / np.sqrt(TEXTURE_WAVES))
    image *= 1.0 - 0.2 * x + 0.1 * y * x
    image = np.clip(image, 0.0, None)
    scaled: FloatArray = (image / image.max()).astype(np.float32)
    return scaled
