"""DFT matrices against sums written out, and against the project's one definition of k-space."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from kspacesr_rt import kspace
from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace.dft_matrices import centred_dft, left_factor, right_factor
from kspacesr_rt.model.binding import layer_constants
from kspacesr_rt.model.spec import OP_DOMAIN

SIZES = (80, 96, 160, 255, 256, 319, 320, 512)
"""Matrices that scanners deliver, with odd neighbours."""
FP64 = 1e-12
"""Rounding of a few hundred complex128 terms of order one."""
FP32 = 2e-6
"""Rounding of constants and sums in fp32 over up to 512 terms, relative L2."""


def complex_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def one_coefficient(signal: np.ndarray, k: int, length: int, sign: float) -> complex:
    """Sum the definition for output sample `k` of a grid of `length` samples, term by term."""
    n = len(signal)
    terms = [
        value * np.exp(sign * 2j * math.pi * ((j - n // 2) * k % length) / length)
        for j, value in enumerate(signal)
    ]
    real, imaginary = (math.fsum(part) for part in zip(*((t.real, t.imag) for t in terms)))  # noqa: B905
    return complex(real, imaginary) / math.sqrt(length)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_a_row_is_the_sum_of_the_definition(n, inverse):
    """No FFT library in the expectation: an error common to every FFT user would show here."""
    signal = complex_image((n,))
    result = centred_dft(n, n, inverse=inverse) @ signal
    for index in (0, 1, n // 3, n // 2, n - 1):
        expected = one_coefficient(signal, index - n // 2, n, 1.0 if inverse else -1.0)
        assert abs(result[index] - expected) < FP64 * math.sqrt(n)


@pytest.mark.parametrize("n", SIZES)
def test_two_products_are_the_2d_transform(n):
    """Rows from the left, columns from the right: a swap shows on a matrix that is not square."""
    m = n // 2 + 3
    image = complex_image((n, m))
    for inverse, transform in ((False, kspace.fft2c), (True, kspace.ifft2c)):
        rows, columns = (centred_dft(size, size, inverse=inverse) for size in (n, m))
        assert relative(rows @ image @ columns.T, transform(image)) < FP64


@given(st.integers(1, 48), st.integers(1, 48))
def test_crop_and_fill_are_folded_in_for_every_parity(a, b):
    """A forward transform that keeps the centre; an inverse one that zero-fills, back again."""
    small, large = sorted((a, b))
    image = complex_image((large, large))
    forward = centred_dft(large, small, inverse=False)
    expected = kspace.centre_crop(kspace.fft2c(image), (small, small))
    np.testing.assert_allclose(forward @ image @ forward.T, expected, atol=1e-11)
    spectrum = complex_image((small, small), 1)
    inverse = centred_dft(small, large, inverse=True)
    expected = kspace.ifft2c(kspace.centre_fill(spectrum, (large, large)))
    np.testing.assert_allclose(inverse @ spectrum @ inverse.T, expected, atol=1e-11)


@given(st.integers(1, 64), st.integers(1, 64))
def test_filling_is_the_adjoint_of_cropping_and_both_keep_energy(a, b):
    """Cropping rows of a unitary matrix leaves orthonormal rows: F F^H is the identity."""
    small, large = sorted((a, b))
    forward = centred_dft(large, small, inverse=False)
    inverse = centred_dft(small, large, inverse=True)
    np.testing.assert_allclose(inverse, forward.conj().T, atol=1e-12)
    np.testing.assert_allclose(forward @ inverse, np.eye(small), atol=1e-12)


@pytest.mark.parametrize("n", [*SIZES, 400, 2048])
def test_phases_are_reduced_exactly_so_that_fp32_constants_are_correctly_rounded(n):
    """Computing j*k*2*pi/n in fp32 costs 1.7e-4 at n = 400 in another library; here: half an ulp.

    The reference reduces j*k modulo n in Python integers' arithmetic and takes cosine and sine in
    extended precision.
    """
    rows = np.random.default_rng(n).choice(n, 8, replace=False)
    index = np.arange(n) - n // 2
    reduced = np.array([[int(index[r]) * int(k) % n for k in index] for r in rows])
    turn = 2 * np.arctan2(np.longdouble(0), np.longdouble(-1)) / np.longdouble(n)
    angle = reduced.astype(np.longdouble) * turn
    root = np.sqrt(np.longdouble(n))
    stored = centred_dft(n, n, inverse=False)[rows].astype(np.complex64)
    for part, exact in ((stored.real, np.cos(angle) / root), (stored.imag, -np.sin(angle) / root)):
        half_ulp = 0.5 * np.spacing(np.abs(exact).astype(np.float32)).astype(np.longdouble)
        # 1e-16: where cosine or sine is 0, float64's pi leaves 6e-17, and no fp32 sum can see it.
        assert (np.abs(part - exact) <= half_ulp * 1.0001 + 1e-16).all()


@pytest.mark.parametrize("n", [81, 400])
def test_the_constants_of_a_bound_model_are_the_correctly_rounded_ones(n):
    """However binding saves time and memory, what it stores is the float64 value rounded once."""
    node = helper.make_node(
        "FFT2c", ["x"], ["y"], domain=OP_DOMAIN, input_upscale=1, output_upscale=1,
        input_channels=1, channels=2,
    )  # fmt: skip
    constants = layer_constants(node, (n, n + 1), "gemm")
    rows, columns = (centred_dft(size, size, inverse=False) for size in (n, n + 1))
    left = np.vstack([rows.real, rows.imag]).astype(np.float32)
    real, imaginary = columns.real.T, columns.imag.T
    right = np.block([[real, imaginary], [-imaginary, real]]).astype(np.float32)
    assert np.array_equal(constants["left"], left)
    assert np.array_equal(constants["right"], right)


@pytest.mark.parametrize("output_channels", [1, 2])
@pytest.mark.parametrize("input_channels", [1, 2])
@pytest.mark.parametrize("shape", [(8, 11), (5, 5), (1, 4)])
def test_block_matrices_compute_the_complex_product(shape, input_channels, output_channels):
    """Stacked real and imaginary rows times the left factor, side by side times the right one."""
    n, m = shape
    image = complex_image(shape)
    if input_channels == 1:
        image = image.real
    rows = centred_dft(n, max(1, n - 2), inverse=False)
    columns = centred_dft(m, m, inverse=False)
    stacked = np.vstack([image.real, image.imag][:input_channels])
    half = left_factor(rows, input_channels) @ stacked
    top, bottom = np.vsplit(half, 2)
    flat = np.hstack([top, bottom]) @ right_factor(columns, output_channels)
    expected = rows @ image @ columns.T
    expected = np.hstack([expected.real, expected.imag][:output_channels])
    assert flat.shape == (max(1, n - 2), output_channels * m)
    assert relative(flat, expected) < FP32


@pytest.mark.parametrize("n", SIZES)
def test_fp32_products_stay_within_fp32_rounding(n):
    """The whole lowering in float32 NumPy, forward to k-space of a real image."""
    image = np.abs(complex_image((n, n))).astype(np.float32)
    matrix = centred_dft(n, n, inverse=False)
    half = left_factor(matrix, 1) @ image
    flat = np.hstack(np.vsplit(half, 2)) @ right_factor(matrix, 2)
    assert flat.dtype == np.float32
    expected = kspace.fft2c(image.astype(np.float64))
    assert relative(flat[:, :n] + 1j * flat[:, n:].astype(np.float64), expected) < FP32


def test_factors_are_float32_of_the_documented_shape():
    """The function body reshapes by these shapes; a transposed factor would fit a square matrix."""
    matrix = centred_dft(10, 6, inverse=False)
    assert {left_factor(matrix, 1).shape, right_factor(matrix, 1).T.shape} == {(12, 10), (6, 20)}
    assert left_factor(matrix, 2).shape == (12, 20)
    assert right_factor(matrix, 2).shape == (20, 12)
    assert left_factor(matrix, 2).dtype == right_factor(matrix, 2).dtype == np.float32


@pytest.mark.parametrize(
    ("n_from", "n_to", "inverse", "message"),
    [
        (8, 9, False, "a forward transform does not zero-fill: 8 to 9 samples"),
        (9, 8, True, "a inverse transform does not crop: 9 to 8 samples"),
    ],
)
def test_the_transform_that_would_change_the_fov_is_refused(n_from, n_to, inverse, message):
    """A forward transform that fills, or an inverse one that crops, belongs to no layer of ours."""
    with pytest.raises(ShapeError) as caught:
        centred_dft(n_from, n_to, inverse=inverse)
    assert str(caught.value).replace("an inverse", "a inverse") == message
