"""One object written down twice, as image and as k-space, without any Fourier transform.

An independent reference for `kspacesr_rt.kspace.fft2c`; of any matrix, the origin at ``n // 2``.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_Wide = npt.NDArray[np.float64]
_WideComplex = npt.NDArray[np.complex128]


def analytic_image(matrix: tuple[int, int]) -> _Wide:
    """Return the closed-form object in image space, shape ``(y, x)``, real float64."""
    image = np.zeros(matrix)
    for amplitude, along_y, along_x in _OBJECTS:
        image += amplitude * np.outer(along_y(matrix[0])[0], along_x(matrix[1])[0])
    return image


def analytic_kspace(matrix: tuple[int, int]) -> _WideComplex:
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
    return (np.arange(n) - n // 2) / n


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
