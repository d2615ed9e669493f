"""The LR band of a real image as real coefficients: what stands between real images needs no more.

Zero-filling, and putting measured samples back, take a real image to its LR band of k-space and the
real part of the result back to an image. Cosines and sines span the same band: real matrices of
half the size, one product an axis, nothing to stack or to turn. Only an even axis is not that
simple: its LR grid keeps the line ``-n / 2`` of k-space without its mirror image ``+n / 2``.

Along an axis of `N` samples, cropping to the band and filling up again is ``Q = sum_k a_k a_k^H``
with ``a_k = exp(2 pi i k j / N) / sqrt(N)``. The lines that come in pairs add up to real cosines
and sines; the single one has ``a a^H = c c^T + s s^T + i (s c^T - c s^T)``, its cosine `c` and sine
`s`. So of both axes together, the real part is ``Re Q (x) Re Q - Im Q (x) Im Q``: the product of
both axes' cosines and sines, less that of the single lines turned by a quarter, ``(c, s)`` to
``(s, -c)``. An even axis has its `c` and `s` twice, the second time to be turned; a mask keeps the
block of the plain ones, takes the block of the turned ones negative, and drops what would mix them.

Any other basis of the band will do as well. One is that of the LR image's own samples, what is
called sinc interpolation: then an LR image is its own coefficients, none is much larger than the
image, and half precision holds them. Of an even axis the sine of the single line is 0 on the LR
grid, so that it and the two turned ones stay beside the `n` samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix

TURNED = 2
"""Coefficients of an even axis that are to be turned: the last ones."""


def coefficient_count(n: int) -> int:
    """Return the coefficients along an axis of `n` LR samples: `n` if odd, ``n + 3`` if even."""
    return n if n % 2 else n + 1 + TURNED


def analysis_matrix(n: int, length: int, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return the matrix from an image's samples along an axis to the coefficients of its LR band.

    Parameters
    ----------
    n
        LR samples: the band holds the frequencies from ``-(n // 2)`` to ``(n - 1) // 2``.
    length
        Samples of the image's own grid, at least `n`; its origin is at ``length // 2``.
    dtype
        float64, or float32 for values rounded once, at the end.

    Returns
    -------
        Shape ``(coefficient_count(n), length)``: DC, cosines, sines; of an even `n` also the single
        line's cosine and sine, and both once more.

    Raises
    ------
    ShapeError
        If the grid is coarser than the band.

    Notes
    -----
    Orthonormal rows, except those of the single line: its cosine and sine share a norm of 1.
    Phases are reduced modulo `length` in integers before any rounding.
    """
    if length < n:
        raise ShapeError(f"a grid of {length} samples does not hold a band of {n}")
    # 32 bits hold every product: |index| is at most half of 8192.
    index = np.arange(length, dtype=np.int32) - length // 2
    paired = np.outer(np.arange(1, (n - 1) // 2 + 1, dtype=np.int32), index) % length
    angle = 2.0 * np.pi * np.arange(length) / length
    pair, single = np.sqrt(2.0 / length), np.sqrt(1.0 / length)
    rows = [np.full((1, length), single, dtype=dtype)]
    rows += [(pair * wave(angle)).astype(dtype)[paired] for wave in (np.cos, np.sin)]
    if n % 2 == 0:
        last = (n // 2 * index % length)[None]
        rows += [(single * wave(angle)).astype(dtype)[last] for wave in (np.cos, np.sin)] * 2
    matrix: FloatArray = np.concatenate(rows)
    return matrix


def synthesis_matrix(n: int, length: int, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return the matrix from coefficients along an axis to an image's samples.

    Parameters and errors are those of `analysis_matrix`, whose transpose it is but for the last two
    columns of an even `n`: there the single line's cosine and sine are turned, to ``(s, -c)``.

    Returns
    -------
        Shape ``(length, coefficient_count(n))``.
    """
    matrix: FloatArray = np.ascontiguousarray(analysis_matrix(n, length, dtype).T)
    if n % 2 == 0:
        cosine, sine = matrix[:, -2].copy(), matrix[:, -1].copy()
        matrix[:, -2], matrix[:, -1] = sine, -cosine
    return matrix


def sample_analysis_matrix(n: int, length: int, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return `analysis_matrix` with the LR image's samples in place of DC, cosines and sines.

    Parameters
    ----------
    n, dtype
        See `analysis_matrix`.
    length
        Samples of the image's own grid: a multiple of `n`.

    Returns
    -------
        Shape ``(coefficient_count(n), length)``: the `n` samples of the LR grid; of an even `n`
        then the last three rows of `analysis_matrix`.

    Raises
    ------
    ShapeError
        If the grid's length is no multiple of `n`.

    Notes
    -----
    A row is a shifted copy of one kernel, Dirichlet's; of an even `n` its outermost frequency
    counts half. At ``length == n`` the first `n` rows are the identity.
    """
    finer = _finer(n, length)
    kernel = np.sqrt(float(finer)) * np.fft.irfft(_band(n, finer), length)
    low = np.arange(n, dtype=np.int32) - n // 2
    high = np.arange(length, dtype=np.int32) - length // 2
    samples = kernel.astype(dtype)[(finer * low[:, None] - high) % length]
    if n % 2:
        return np.ascontiguousarray(samples)
    others = analysis_matrix(n, length, dtype)[n:]
    matrix: FloatArray = np.concatenate([samples, others])
    return matrix


def sample_synthesis_matrix(n: int, length: int, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return `synthesis_matrix` from the coefficients of `sample_analysis_matrix`.

    Returns
    -------
        Shape ``(length, coefficient_count(n))``; errors are those of `sample_analysis_matrix`.
    """
    matrix: FloatArray = np.ascontiguousarray(sample_analysis_matrix(n, length, dtype).T)
    if n % 2 == 0:
        matrix[:, n:] = synthesis_matrix(n, length, dtype)[:, n:]
    return matrix


def band_projector(n: int, length: int, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return the matrix that crops an axis of an image to its LR band and fills it up again.

    Parameters
    ----------
    n, length, dtype
        See `sample_analysis_matrix`, whose errors these are too.

    Returns
    -------
        Shape ``(length, length)``, symmetric: the real part of what happens to k-space, that is
        `synthesis_matrix` times `analysis_matrix` without the turned coefficients.

    Notes
    -----
    Circulant. The single line of an even `n` counts half, at both its frequencies, so that the
    ``length / n`` shifted copies of the spectrum add up to 1 everywhere: of samples a multiple of
    ``length / n`` apart none depends on another, and each on itself by ``n / length``.
    """
    finer = _finer(n, length)
    kernel = np.fft.irfft(_band(n, finer), length)
    kernel = 0.5 * (kernel + np.roll(kernel[::-1], 1))  # symmetric to the last bit
    kernel[::finer] = 0.0
    kernel[0] = 1.0 / finer
    index = np.arange(length)
    matrix: FloatArray = kernel.astype(dtype)[(index[:, None] - index) % length]
    return matrix


def _finer(n: int, length: int) -> int:
    """Return how many times finer a grid is than that of the band's samples."""
    if length < n or length % n:
        raise ShapeError(f"{length} samples are no multiple of {n}")
    return length // n


def _band(n: int, finer: int) -> FloatArray:
    """Return 1 at each frequency from 0 that the band holds, and half at its single line."""
    spectrum: FloatArray = np.zeros(finer * n // 2 + 1)
    spectrum[: (n - 1) // 2 + 1] = 1.0
    if n % 2 == 0:
        spectrum[n // 2] = 1.0 if finer == 1 else 0.5
    return spectrum


def coefficient_mask(matrix: Matrix, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return what coefficients are multiplied by before synthesis.

    Parameters
    ----------
    matrix
        LR ``(rows, columns)``.
    dtype
        Of the result, whose values are 1, 0 and -1.

    Returns
    -------
        Shape ``(coefficient_count(rows), coefficient_count(columns))``: 1 where no coefficient is
        to be turned, -1 where both are, 0 between.
    """
    turned = []
    for n in matrix:
        axis = np.zeros(coefficient_count(n))
        axis[n + 1 :] = 1.0  # nothing, if n is odd
        turned.append(axis)
    rows, columns = turned[0][:, None], turned[1][None]
    mask: FloatArray = ((1.0 - rows) * (1.0 - columns) - rows * columns).astype(dtype)
    return mask


def coefficient_nyquist_gain(matrix: Matrix) -> FloatArray:
    """Return `kspacesr_rt.kspace.nyquist_gain` of real coefficients.

    Parameters
    ----------
    matrix
        LR ``(rows, columns)``.

    Returns
    -------
        Shape ``(coefficient_count(rows), coefficient_count(columns))``, float32: 2 where either
        axis' coefficient is of the single line, turned or not, 1 elsewhere.
    """
    single = [np.arange(coefficient_count(n)) >= (n if n % 2 else n - 1) for n in matrix]
    gain: FloatArray = np.where(single[0][:, None] | single[1], 2.0, 1.0).astype(np.float32)
    return gain
