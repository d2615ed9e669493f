"""Images made of formulas: one to look at, one whose k-space is known in closed form.

`brain_phantom` has edges, texture and a bias field like a head scan and feeds parity checks.
`analytic_image` and `analytic_kspace` are the same object written down twice, once per domain,
without any Fourier transform: an independent reference for `kspace.fft2c`.
Both are deterministic, and of any matrix, odd or even; the origin is at ``n // 2``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix

_Wide = npt.NDArray[np.float64]
_WideComplex = npt.NDArray[np.complex128]

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


def analytic_image(matrix: Matrix) -> FloatArray:
    """Return the closed-form object in image space, shape ``(y, x)``, real float64."""
    image = np.zeros(matrix)
    for amplitude, along_y, along_x in _OBJECTS:
        image += amplitude * np.outer(along_y(matrix[0])[0], along_x(matrix[1])[0])
    return image


def analytic_kspace(matrix: Matrix) -> _WideComplex:
    """Return the centred, orthonormal k-space of `analytic_image`, shape ``(ky, kx)``, complex128.

    Notes
    -----
    No FFT: a box has a Dirichlet kernel; a Gaussian wrapped around the FOV has its Fourier
    transform, folded at the sampling rate (Poisson summation). Both are exact for any matrix.
    """
    spectrum = np.zeros(matrix, dtype=np.complex128)
    for amplitude, along_y, along_x in _OBJECTS:
        spectrum += amplitude * np.outer(along_y(matrix[0])[1], along_x(matrix[1])[1])
    return spectrum


_Profile = Callable[[int], tuple[_Wide, _WideComplex]]
"""Samples of an axis to the profile's values and its k-space."""


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


def _gaussian(centre: float, width: float) -> _Profile:
    """Return a Gaussian of standard deviation `width`, in FOVs, repeated every FOV."""

    def profile(n: int) -> tuple[_Wide, _WideComplex]:
        wraps = np.arange(-4, 5)[:, None]
        values = np.exp(-((_positions(n) - centre + wraps) ** 2) / (2 * width**2)).sum(axis=0)
        # The transform has fallen to 1e-22 at 10 of its standard deviations, 1 / (2 pi width).
        folds = (
            np.arange(-1, 2)
            if n * width > 4
            else np.arange(-(reach := 2 + int(2 / width)), reach + 1)
        )
        k = np.arange(n) - n // 2 + n * folds[:, None]
        continuous = width * np.sqrt(2 * np.pi) * np.exp(-2 * (np.pi * width * k) ** 2)
        return values, np.sqrt(n) * (continuous * np.exp(-2j * np.pi * k * centre)).sum(axis=0)

    return profile


def _box(start: float, stop: float) -> _Profile:
    """Return a box between two positions, in FOVs; it holds at least one sample."""

    def profile(n: int) -> tuple[_Wide, _WideComplex]:
        first = int(np.floor((start + 0.5) * n))
        last = max(first + 1, int(np.floor((stop + 0.5) * n)))
        values = np.zeros(n)
        values[first:last] = 1.0
        count, middle = last - first, (first + last - 1) / 2 - n // 2
        k = np.arange(n) - n // 2
        numerator, denominator = np.sin(np.pi * k * count / n), np.sin(np.pi * k / n)
        denominator[k == 0], numerator[k == 0] = 1.0, count
        return values, numerator / denominator * np.exp(-2j * np.pi * k * middle / n) / np.sqrt(n)

    return profile


_OBJECTS: tuple[tuple[float, _Profile, _Profile], ...] = (
    (1.0, _gaussian(0.031, 0.09), _gaussian(-0.047, 0.12)),
    (0.6, _gaussian(-0.213, 0.03), _gaussian(0.171, 0.05)),
    (0.4, _box(-0.31, 0.22), _box(-0.18, 0.37)),
    (-0.3, _box(0.05, 0.11), _box(-0.40, 0.02)),
)
"""Amplitude and profiles along y and x; nothing is symmetric, so that a flip or a roll shows."""
