"""Centred orthonormal DFTs as matrices, with crops and zero-fills folded in.

``fft2c(X) = F_y X F_x^T``: both shifts are index offsets, a crop drops rows and a zero-fill drops
columns, so a transform between two grids of one FOV is two matrix products. Complex products are
written as real block matrices acting on stacked real and imaginary parts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import ComplexArray, FloatArray


def centred_dft(
    n_from: int,
    n_to: int,
    *,
    inverse: bool,
    dtype: npt.DTypeLike = np.complex128,
    corner: bool = False,
) -> ComplexArray:
    """Return the matrix of a 1-D centred orthonormal DFT between two grids.

    Parameters
    ----------
    n_from, n_to
        Samples of the input and of the output. Forward transforms may crop (``n_to <= n_from``),
        inverse ones may zero-fill (``n_to >= n_from``).
    inverse
        False: image to k-space; True: k-space to image.
    dtype
        complex128, or complex64 for values rounded once, at the end.
    corner
        True: the image origin is its sample 0, as in ``fftshift(fft(x))``; DC stays centred.

    Returns
    -------
        Shape ``(n_to, n_from)``.

    Raises
    ------
    ShapeError
        If a forward transform would fill or an inverse one would crop.

    Notes
    -----
    The transform's length is the larger grid's. Phases are reduced modulo that length in
    integers before any rounding: ``exp(2 pi i ((j k) mod n) / n)`` in float64.
    """
    length = n_to if inverse else n_from
    if (n_to < n_from) if inverse else (n_to > n_from):
        verb = "crop" if inverse else "zero-fill"
        raise ShapeError(
            f"{'an inverse' if inverse else 'a forward'} transform does not {verb}: "
            f"{n_from} to {n_to} samples"
        )
    # 32 bits hold every product: indices are below 8192.
    origins = [n_from // 2, n_to // 2]
    if corner:
        origins[int(inverse)] = 0
    index_from = np.arange(n_from, dtype=np.int32) - origins[0]
    index_to = np.arange(n_to, dtype=np.int32) - origins[1]
    sign = 1.0 if inverse else -1.0
    turns = np.exp(sign * 2j * np.pi * np.arange(length) / length) / np.sqrt(length)
    matrix: ComplexArray = turns.astype(dtype)[np.outer(index_to, index_from) % length]
    return matrix


def left_factor(matrix: ComplexArray, input_channels: int) -> FloatArray:
    """Return the real matrix that multiplies stacked ``[re; im]`` rows from the left.

    Parameters
    ----------
    matrix
        Complex ``(n_to, n_from)``.
    input_channels
        1 for a real image (no imaginary rows), 2 for complex input.

    Returns
    -------
        Shape ``(2 * n_to, input_channels * n_from)``, float32.
    """
    n_to, n_from = matrix.shape
    factor = np.empty((2 * n_to, input_channels * n_from), dtype=np.float32)
    factor[:n_to, :n_from] = matrix.real
    factor[n_to:, :n_from] = matrix.imag
    if input_channels == 2:
        factor[:n_to, n_from:] = -matrix.imag
        factor[n_to:, n_from:] = matrix.real
    return factor


def right_factor(matrix: ComplexArray, output_channels: int) -> FloatArray:
    """Return the real matrix that multiplies stacked ``[re im]`` columns from the right.

    Parameters
    ----------
    matrix
        Complex ``(n_to, n_from)``; applied transposed.
    output_channels
        1 for the real part alone, 2 for real and imaginary part.

    Returns
    -------
        Shape ``(2 * n_from, output_channels * n_to)``, float32.
    """
    n_to, n_from = matrix.shape
    transposed = np.ascontiguousarray(matrix.T)  # one strided pass instead of four
    factor = np.empty((2 * n_from, output_channels * n_to), dtype=np.float32)
    factor[:n_from, :n_to] = transposed.real
    factor[n_from:, :n_to] = -transposed.imag
    if output_channels == 2:
        factor[:n_from, n_to:] = transposed.imag
        factor[n_from:, n_to:] = transposed.real
    return factor
