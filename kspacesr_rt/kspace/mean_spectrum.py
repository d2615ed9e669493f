"""Mean spectra h_LR and h_HR: what a k-space network is divided and multiplied by.

A network's spectra are measured once, on the matrix it was trained with. Binding the network to
another matrix resamples them: the same share of Nyquist on the new grid, logarithms interpolated
linearly (spectra fall over four decades), values scaled as an orthonormal transform scales a
smooth image, with the square root of the number of samples. Spectra in shares of the peak of
k-space, as SR_kspace stored them, are not scaled: the peak is the sum of the image on any matrix.
"""

from __future__ import annotations

import numpy as np

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix


def _positions(n_from: int, n_to: int) -> FloatArray:
    """Return, for each new index, the old index of the same relative frequency, clamped."""
    frequency = (np.arange(n_to) - n_to // 2) / n_to
    return np.clip(frequency * n_from + n_from // 2, 0.0, n_from - 1.0)


def _along_axis(values: FloatArray, positions: FloatArray) -> FloatArray:
    """Interpolate linearly along the last axis."""
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, values.shape[-1] - 1)
    weight = positions - low
    mixed: FloatArray = values[..., low] * (1.0 - weight) + values[..., high] * weight
    return mixed


def resample_spectrum(spectrum: FloatArray, matrix: Matrix, *, of_peak: bool = False) -> FloatArray:
    """Bring a mean spectrum to another matrix.

    Parameters
    ----------
    spectrum
        Shape ``(ky, kx)``, positive, DC at ``n // 2``, in units of the orthonormal transform of a
        slice whose largest magnitude is 1.
    matrix
        Target ``(ky, kx)``.
    of_peak
        Whether its unit is the peak of each slice's k-space instead.

    Returns
    -------
        Shape `matrix`, float32; the input itself where the matrix is already right.

    Raises
    ------
    ShapeError
        If the spectrum has not two axes or is not positive everywhere.
    """
    if spectrum.ndim != 2 or not bool((spectrum > 0).all()):
        raise ShapeError(f"expected a positive spectrum (ky, kx), found shape {spectrum.shape}")
    if spectrum.shape == tuple(matrix):
        return spectrum.astype(np.float32)
    logs = np.log(spectrum.astype(np.float64))
    logs = _along_axis(logs, _positions(spectrum.shape[1], matrix[1]))
    logs = _along_axis(logs.T, _positions(spectrum.shape[0], matrix[0])).T
    gain = 1.0 if of_peak else np.sqrt((matrix[0] * matrix[1]) / spectrum.size)
    resampled: FloatArray = (np.exp(logs) * gain).astype(np.float32)
    return resampled
