"""A head-like image made of formulas, with edges, texture and a bias field; it feeds parity checks.

Deterministic, and of any matrix, odd or even; the origin is at ``n // 2``.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import Matrix

_Wide = npt.NDArray[np.float64]

SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
"""Intensity, half axes, centre (x to the right, y up; the FOV is 2 x 2) and angle in degrees of
each ellipse: the modified contrast of Toft, "The Radon Transform", thesis, DTU 1996, table B.3."""
TEXTURE_WAVES = 24
TEXTURE_CYCLES = (6.0, 60.0)
"""Cycles per FOV of the texture: from folds of the cortex to what x4 cannot measure at 160."""
TEXTURE_SHARE = 0.12
"""Amplitude of the texture over the tissue's intensity."""
BIAS_SHARE = 0.15
"""Drop of the receive sensitivity from the centre to the edge of the FOV."""


def brain_phantom(matrix: Matrix, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draw a head-like slice: Shepp-Logan ellipses with texture under a smooth bias field.

    Parameters
    ----------
    matrix
        Rows and columns.
    seed
        Chooses the texture; the ellipses stay.

    Returns
    -------
        Shape ``(y, x)``, float32, in [0, 1] with maximum 1, zero outside the head. A function of
        the position in the FOV: two matrices sample the same object.
    """
    return _drawn((matrix[0], matrix[1]), seed).copy()


@functools.lru_cache(maxsize=16)
def _drawn(matrix: Matrix, seed: int) -> npt.NDArray[np.float32]:
    """Draw it once: a gate asks for the same few again and again."""
    y, x = np.meshgrid(*(2 * _positions(n) for n in matrix), indexing="ij")
    tissue = np.zeros(matrix)
    for intensity, half_x, half_y, centre_x, centre_y, degrees in SHEPP_LOGAN:
        angle = np.deg2rad(degrees)
        right, up = x - centre_x, -y - centre_y
        along = (right * np.cos(angle) + up * np.sin(angle)) / half_x
        across = (up * np.cos(angle) - right * np.sin(angle)) / half_y
        tissue += intensity * (along**2 + across**2 <= 1.0)
    tissue = np.maximum(tissue, 0.0)  # the ventricles' sum is 0 but for rounding
    bias = 1.0 - BIAS_SHARE * (0.5 * x**2 + 0.5 * y**2 + 0.2 * x * y)
    image = tissue * (1.0 + TEXTURE_SHARE * _texture(y, x, seed)) * bias
    scaled: npt.NDArray[np.float32] = (image / image.max()).astype(np.float32)
    return scaled


def _positions(n: int) -> _Wide:
    """Return where `n` samples lie, in FOVs from the centre: [-1/2, 1/2)."""
    if n < 1:
        raise ShapeError(f"expected at least one sample per axis, found {n}")
    return (np.arange(n) - n // 2) / n


def _texture(y: _Wide, x: _Wide, seed: int) -> _Wide:
    """Add plane waves whose amplitudes fall with frequency, as those of tissue do; |sum| <= 1."""
    lowest, highest = TEXTURE_CYCLES
    total, weight = np.zeros(y.shape), 0.0
    for share, turn, phase in np.random.default_rng(seed).random((TEXTURE_WAVES, 3)):
        cycles = lowest * (highest / lowest) ** share
        direction = np.pi * turn
        wave = np.cos(
            np.pi * cycles * (x * np.cos(direction) + y * np.sin(direction)) + 2 * np.pi * phase
        )
        total += wave / np.sqrt(cycles)
        weight += 1 / np.sqrt(cycles)
    texture: _Wide = total / weight
    return texture
