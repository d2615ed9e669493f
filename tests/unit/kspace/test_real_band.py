"""Real coefficients against complex128 k-space: the same band, exactly, Nyquist lines included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from kspacesr_rt import kspace
from kspacesr_rt.errors import ModelFileError, ShapeError
from kspacesr_rt.kspace.real_band import (
    analysis_matrix,
    band_projector,
    coefficient_count,
    coefficient_mask,
    coefficient_nyquist_gain,
    sample_analysis_matrix,
    sample_synthesis_matrix,
    synthesis_matrix,
)
from kspacesr_rt.model.binding import layer_constants
from kspacesr_rt.model.spec import OP_DOMAIN

SIZES = (80, 96, 128, 160, 255, 256, 319, 320)
"""Matrices that scanners deliver, with odd neighbours."""
SHAPES = (*((n, n) for n in SIZES), (80, 96), (255, 320), (320, 255), (319, 255), (64, 65))
FP64 = 1e-12
"""Rounding of a few hundred float64 terms of order one, relative L2."""
FP32 = 2e-6
"""Rounding of constants and sums in fp32 over up to 1280 terms, relative L2."""


def image(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """White noise: as much on the Nyquist lines as anywhere."""
    return np.random.default_rng(seed).standard_normal(shape)


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def coefficients(values: np.ndarray, matrix: tuple[int, int], dtype: type = np.float64):
    """Take an image to the coefficients of the band of an LR matrix."""
    rows, columns = (
        analysis_matrix(n, length, dtype) for n, length in zip(matrix, values.shape, strict=True)
    )
    return rows @ values.astype(dtype) @ columns.T


def synthesised(found: np.ndarray, matrix: tuple[int, int], grid: tuple[int, int]):
    """Take coefficients to an image of a finer grid."""
    rows, columns = (
        synthesis_matrix(n, length, found.dtype) for n, length in zip(matrix, grid, strict=True)
    )
    return rows @ (coefficient_mask(matrix, found.dtype) * found) @ columns.T


def band_of(values: np.ndarray, matrix: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Transform, crop to the LR band, fill up to a grid, transform back: the real part."""
    kept = kspace.centre_crop(kspace.fft2c(values.astype(complex)), matrix)
    return kspace.ifft2c(kspace.centre_fill(kept, grid)).real


@pytest.mark.matrix(strength=1)
@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("matrix", SHAPES, ids=str)
def test_data_consistency_in_real_coefficients_is_data_consistency(matrix, upscale):
    """A cascade's whole step on noise: measured minus predicted samples, back in the image."""
    grid = kspace.upscaled(matrix, upscale)
    lr, predicted = image(matrix, 1), image(grid, 2)
    measured = kspace.fft2c(lr.astype(complex))
    missing = measured - kspace.centre_crop(kspace.fft2c(predicted.astype(complex)), matrix)
    expected = kspace.ifft2c(kspace.centre_fill(missing, grid)).real
    for dtype, tolerance in ((np.float64, FP64), (np.float32, FP32)):
        step = coefficients(lr, matrix, dtype) - coefficients(predicted, matrix, dtype)
        result = synthesised(step, matrix, grid)
        assert result.dtype == dtype
        assert relative(result, expected) < tolerance


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
def test_the_band_is_exact_for_every_parity_between_any_grids(rows, columns, given_in, wanted_in):
    """From a grid of one fineness to one of another, as LR to SR and SR to SR."""
    matrix = (rows, columns)
    grid, target = (kspace.upscaled(matrix, finer) for finer in (given_in, wanted_in))
    values = image(grid)
    result = synthesised(coefficients(values, matrix), matrix, target)
    np.testing.assert_allclose(result, band_of(values, matrix, target), atol=1e-12)


@pytest.mark.parametrize("frequency", [(-4, -3), (-4, 0), (0, -3), (-4, 2), (3, -3), (2, 1)])
def test_single_lines_and_their_corner_keep_half_of_a_real_wave(frequency):
    """The LR grid holds -n/2 without +n/2: dropping the corner's turn would halve or double it."""
    matrix, grid = (8, 6), (16, 12)
    y, x = (np.arange(n) - n // 2 for n in grid)
    phase = 2 * np.pi * (frequency[0] * y[:, None] / 16 + frequency[1] * x[None] / 12) + 0.3
    wave = np.cos(phase)
    share = 0.5 if frequency[0] == -4 or frequency[1] == -3 else 1.0
    result = synthesised(coefficients(wave, matrix), matrix, grid)
    np.testing.assert_allclose(result, share * wave, atol=1e-12)


@given(st.integers(1, 24), st.integers(1, 5))
def test_a_projector_is_the_crop_and_the_fill_of_one_axis(n, finer):
    """Of a line of k-space, in complex128; and of its samples, each own by one part in `finer`."""
    length = n * finer
    projector = band_projector(n, length)
    values = image((1, length))
    np.testing.assert_allclose(
        values @ projector.T, band_of(values, (1, n), (1, length)), atol=1e-12
    )
    np.testing.assert_array_equal(projector, projector.T)
    np.testing.assert_array_equal(projector[::finer, ::finer], np.eye(n) / finer)


def test_a_projector_is_of_a_grid_as_fine_as_a_whole_number():
    """Else no sample of the LR grid is one of the image's."""
    with pytest.raises(ShapeError, match="15 samples are no multiple of 8"):
        band_projector(8, 15)


def test_without_the_turned_coefficients_the_corner_would_be_wrong():
    """The mask is no ornament: cosines and sines of both axes alone are another operator."""
    matrix, grid = (8, 6), (16, 12)
    values = image(grid)
    found = coefficients(values, matrix)
    found[9:], found[:, 7:] = 0.0, 0.0
    assert relative(synthesised(found, matrix, grid), band_of(values, matrix, grid)) > 0.01


@given(st.integers(1, 40), st.integers(2, 4))
def test_analysis_rows_are_orthonormal_but_for_the_single_line(n, upscale):
    """Cosine and sine of the single line share a norm: each has the half that the LR grid keeps."""
    matrix = analysis_matrix(n, n * upscale)
    assert matrix.shape == (coefficient_count(n), n * upscale)
    paired = n if n % 2 else n - 1
    weights = np.ones(n | 1)
    weights[paired:] = 0.5
    kept = matrix[: n | 1]
    np.testing.assert_allclose(kept @ kept.T, np.diag(weights), atol=1e-12)
    np.testing.assert_array_equal(matrix[n | 1 :], matrix[paired : n | 1])


def test_the_mask_keeps_drops_and_takes_negative():
    """One axis odd: nothing is turned there, so nothing may be taken off."""
    mask = coefficient_mask((4, 2))
    assert mask.shape == (7, 5)
    assert (mask[:5, :3] == 1.0).all()
    assert (mask[5:, 3:] == -1.0).all()
    assert not mask[:5, 3:].any()
    assert not mask[5:, :3].any()
    odd = coefficient_mask((4, 3))
    assert odd.shape == (7, 3)
    assert (odd[:5] == 1.0).all()
    assert not odd[5:].any()


@pytest.mark.parametrize("n", [81, 200, 400, 1024])
def test_phases_are_reduced_exactly_so_that_fp32_constants_are_correctly_rounded(n):
    """As for complex matrices: half an ulp of a value taken in extended precision."""
    length = 2 * n
    stored = analysis_matrix(n, length, np.float32)
    k = np.random.default_rng(n).choice(np.arange(1, (n - 1) // 2 + 1), 8, replace=False)
    index = np.arange(length) - length // 2
    reduced = np.array([[int(a) * int(b) % length for b in index] for a in k])
    turn = 2 * np.arctan2(np.longdouble(0), np.longdouble(-1)) / np.longdouble(length)
    angle = reduced.astype(np.longdouble) * turn
    gain = np.sqrt(np.longdouble(2) / np.longdouble(length))
    cosines, sines = stored[k], stored[k + (n - 1) // 2]
    for part, exact in ((cosines, gain * np.cos(angle)), (sines, gain * np.sin(angle))):
        half_ulp = 0.5 * np.spacing(np.abs(exact).astype(np.float32)).astype(np.longdouble)
        # 1e-16: where cosine or sine is 0, float64's pi leaves 6e-17, and no fp32 sum can see it.
        assert (np.abs(part - exact) <= half_ulp * 1.0001 + 1e-16).all()


def test_a_grid_coarser_than_the_band_is_refused():
    """Silent wrapping would put one frequency on another."""
    with pytest.raises(ShapeError) as caught:
        analysis_matrix(9, 8)
    assert str(caught.value) == "a grid of 8 samples does not hold a band of 9"


@pytest.mark.parametrize("lowering", ["gemm", "conv"])
def test_binding_computes_the_layers_constants(lowering):
    """Rows from the left, columns from the right, of the grids that the attributes name."""
    forward, inverse = (
        helper.make_node(name, ["x"], ["y"], domain=OP_DOMAIN, **grids)
        for name, grids in (
            ("RealFFT2c", {"input_upscale": 2, "output_upscale": 1}),
            ("RealIFFT2c", {"input_upscale": 1, "output_upscale": 2}),
        )
    )
    for node, make in ((forward, analysis_matrix), (inverse, synthesis_matrix)):
        constants = layer_constants(node, (10, 7), lowering)
        rows, columns = make(10, 20, np.float32), make(7, 14, np.float32)
        if lowering == "conv":
            expected = {"left": rows[..., None, None], "right": columns[..., None, None]}
        else:
            expected = {"left": rows, "right": columns.T}
        if node is inverse:
            expected = {"mask": coefficient_mask((10, 7), np.float32), **expected}
        assert list(constants) == list(expected)
        for name, array in expected.items():
            assert constants[name].dtype == np.float32
            np.testing.assert_array_equal(constants[name], array)


def test_a_lowering_without_such_transforms_is_refused():
    """A file that says so was not written by us."""
    node = helper.make_node(
        "RealFFT2c", ["x"], ["y"], domain=OP_DOMAIN, input_upscale=2, output_upscale=1
    )
    with pytest.raises(ModelFileError) as caught:
        layer_constants(node, (10, 7), "dft")
    assert str(caught.value) == "lowering 'dft' has no transforms of real coefficients"


@pytest.mark.parametrize("matrix", [(8, 10), (7, 10), (8, 9), (9, 7)])
@pytest.mark.parametrize("upscale", [2, 3])
def test_nyquist_lines_are_doubled_in_real_coefficients_as_in_k_space(matrix, upscale):
    """The corner of two such lines too, which a factor an axis would double twice."""
    wide = tuple(upscale * n for n in matrix)
    image = np.random.default_rng(0).standard_normal(wide)
    band = kspace.centre_crop(kspace.fft2c(image), matrix) * kspace.nyquist_gain(matrix)
    expected = kspace.ifft2c(kspace.centre_fill(band, wide)).real
    sides = list(zip(matrix, wide, strict=True))
    left, right = (analysis_matrix(n, length) for n, length in sides)
    held = left @ image @ right.T * coefficient_nyquist_gain(matrix) * coefficient_mask(matrix)
    up, across = (synthesis_matrix(n, length) for n, length in sides)
    np.testing.assert_allclose(up @ held @ across.T, expected, atol=1e-6)


@pytest.mark.parametrize("finer", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [8, 9, 16, 21])
def test_samples_are_coefficients_of_the_same_band(n, finer):
    """Sinc interpolation from the LR grid, written by NumPy's FFT; and one mask for both bases."""
    length = n * finer
    there, back = sample_analysis_matrix(n, length), sample_synthesis_matrix(n, length)
    lr = np.random.default_rng(0).random((n, n))
    image = np.random.default_rng(1).random((length, length))
    mask = coefficient_mask((n, n))
    waves, summed = analysis_matrix(n, length), synthesis_matrix(n, length)
    np.testing.assert_allclose(
        back @ (mask * (there @ image @ there.T)) @ back.T,
        summed @ (mask * (waves @ image @ waves.T)) @ summed.T,
        atol=1e-12,
    )
    if finer == 1:
        np.testing.assert_allclose(there[:n], np.eye(n), atol=1e-12)
    own = np.zeros((len(there), len(there)))
    own[:n, :n] = lr
    if n % 2 == 0:  # where the single lines meet
        signs = (-1.0) ** (np.arange(n) - n // 2)
        own[n + 1, n + 1] = signs @ lr @ signs / n
    np.testing.assert_allclose(
        back @ (mask * own) @ back.T,
        kspace.ifft2c(kspace.centre_fill(kspace.fft2c(lr), image.shape)).real,
        atol=1e-12,
    )


def test_samples_need_a_multiple():
    with pytest.raises(ShapeError, match="20 samples are no multiple of 8"):
        sample_analysis_matrix(8, 20)
