"""The baselines: both on the k-space grid, against plain loops and functions known everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import grid_origin
from kspacesr_rt.kspace.resampling import bicubic, keys_kernel, zero_fill

sizes = st.integers(1, 9)
upscales = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)

FP32 = 1e-6
"""Results are rounded to float32; relative to the largest value."""


def noise(*shape: int, seed: int) -> np.ndarray:
    """Values of both signs, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positions(n: int, upscale: int) -> np.ndarray:
    """Where SR samples lie on the LR grid: the origin n // 2 on both grids, written out."""
    return np.array([n // 2 + (j - n * upscale // 2) / upscale for j in range(n * upscale)])


def on_grid(n: int, upscale: int) -> slice:
    """Return the SR samples that coincide with LR samples."""
    return slice(n * upscale // 2 - upscale * (n // 2), None, upscale)


# --- bicubic --------------------------------------------------------------------------------------


def keys(distance: float) -> float:
    """Keys 1981, equation 15, with a = -1/2."""
    d = abs(distance)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def slow_bicubic(image: np.ndarray, upscale: int) -> np.ndarray:
    """Sum 16 neighbours of every SR sample, one at a time; edge samples are replicated."""
    rows, columns = image.shape
    out = np.zeros((rows * upscale, columns * upscale))
    for j, y in enumerate(positions(rows, upscale)):
        for i, x in enumerate(positions(columns, upscale)):
            for v in range(math.floor(y) - 1, math.floor(y) + 3):
                for h in range(math.floor(x) - 1, math.floor(x) + 3):
                    neighbour = image[min(max(v, 0), rows - 1), min(max(h, 0), columns - 1)]
                    out[j, i] += keys(y - v) * keys(x - h) * float(neighbour)
    return out


@settings(max_examples=30)
@given(sizes, sizes, upscales, seeds)
def test_bicubic_is_the_plain_sum_over_sixteen_neighbours(rows, columns, upscale, seed):
    """A baseline that is worse than it should be makes every model look good."""
    image = noise(rows, columns, seed=seed)
    result = bicubic(image, upscale)
    assert result.shape == (rows * upscale, columns * upscale)
    assert result.dtype == np.float32
    error = np.abs(result - slow_bicubic(image, upscale)).max()
    assert error <= FP32 * max(1.0, float(np.abs(image).max()))


@given(st.integers(5, 24), st.integers(5, 24), st.sampled_from([2, 3, 4]), seeds)
def test_bicubic_reproduces_quadratic_polynomials(rows, columns, upscale, seed):
    """At ``grid_origin + j / s``: a polynomial is known between its samples, so a shift shows."""
    a, b, c, d, e, f = np.random.default_rng(seed).uniform(-1, 1, 6)

    def polynomial(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        y, x = y[:, None] - rows / 2, x[None, :] - columns / 2
        return a + b * y + c * x + d * y * x + e * y**2 + f * x**2

    y, x = (grid_origin(n, upscale) + np.arange(n * upscale) / upscale for n in (rows, columns))
    result = bicubic(polynomial(np.arange(rows), np.arange(columns)), upscale)
    expected = polynomial(y, x)
    inner_y, inner_x = (
        (at + 1e-9 >= 1) & (at - 1e-9 <= n - 2) for at, n in ((y, rows), (x, columns))
    )
    error = np.abs(result - expected)[np.ix_(inner_y, inner_x)]
    assert error.size
    assert error.max() <= FP32 * np.abs(expected).max()


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_bicubic_keeps_a_linear_ramp_in_place(upscale):
    """Image-domain resizing would read (s - 1) / (2 s) LR samples off the k-space grid."""
    ramp = np.broadcast_to(np.arange(16.0), (4, 16))
    middle = bicubic(ramp, upscale)[0, 2 * upscale : 13 * upscale]
    np.testing.assert_allclose(middle, np.arange(2 * upscale, 13 * upscale) / upscale, rtol=FP32)


@given(st.integers(1, 10), st.integers(1, 10), upscales, seeds)
def test_bicubic_passes_through_the_samples_of_even_matrices(half_rows, half_columns, s, seed):
    """Bit for bit, where the grids coincide from the first sample on."""
    image = noise(2 * half_rows, 2 * half_columns, seed=seed)
    assert grid_origin(2 * half_rows, s) == 0.0
    np.testing.assert_array_equal(bicubic(image, s)[::s, ::s], image)


@given(sizes, sizes, upscales, seeds)
def test_both_baselines_pass_through_the_samples_of_any_matrix(rows, columns, upscale, seed):
    """Odd axes start before the first LR sample, and meet every sample later."""
    image = noise(rows, columns, seed=seed)
    where = (on_grid(rows, upscale), on_grid(columns, upscale))
    tolerance = 4 * FP32 * float(np.abs(image).max())
    for method in (bicubic, zero_fill):
        np.testing.assert_allclose(method(image, upscale)[where], image, rtol=0, atol=tolerance)


@given(sizes, sizes, upscales, st.floats(-1e4, 1e4))
def test_both_baselines_keep_a_constant(rows, columns, upscale, value):
    """Weights that do not add up to one change the intensity of tissue, edges included."""
    for method in (bicubic, zero_fill):
        result = method(np.full((rows, columns), value), upscale)
        np.testing.assert_allclose(result, value, rtol=FP32, atol=1e-30)


def test_the_kernel_is_keys_own():
    """Values from the paper's polynomial: a = -1/2, not the -3/4 of image libraries."""
    distance = np.array([0.0, 0.5, -0.5, 1.0, 1.5, -1.5, 2.0, 2.5])
    expected = [1.0, 0.5625, 0.5625, 0.0, -0.0625, -0.0625, 0.0, 0.0]
    np.testing.assert_array_equal(keys_kernel(distance), expected)


# --- zero-fill ------------------------------------------------------------------------------------


def slow_zero_fill(image: np.ndarray, upscale: int) -> np.ndarray:
    """Evaluate the image's Fourier series between its samples; the real part."""

    def along(n: int) -> np.ndarray:
        k = np.arange(n) - n // 2
        analysis = np.exp(-2j * np.pi * np.outer(k, np.arange(n)) / n) / n
        return np.exp(2j * np.pi * np.outer(positions(n, upscale), k) / n) @ analysis

    return (along(image.shape[0]) @ image @ along(image.shape[1]).T).real


@given(st.integers(1, 24), st.integers(1, 24), upscales, seeds)
def test_zero_fill_is_the_real_fourier_series(rows, columns, upscale, seed):
    """The baseline of every table, in float32 and in the units of the image."""
    image = noise(rows, columns, seed=seed)
    result = zero_fill(image, upscale)
    expected = slow_zero_fill(image, upscale)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 4 * FP32 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("method", [zero_fill, bicubic])
def test_undershoot_stays_negative(method):
    """A magnitude or a clip would turn the dark rim of an edge into signal."""
    image = np.zeros((16, 16), dtype=np.float32)
    image[5:11, 4:12] = 1.0
    assert method(image, 2).min() < -0.05


@given(st.integers(3, 24), st.sampled_from([2, 3, 4]), seeds)
def test_both_baselines_are_on_one_grid(n, upscale, seed):
    """Compared with HR, neither may be ahead because the other is shifted.

    A smooth wave is the same for both. Half an SR sample of shift would change it by half its
    steepest step, which is 2 pi over its SR samples.
    """
    wave = 2 + np.cos(2 * np.pi * (np.arange(8 * n) / (8 * n)) + seed % 6)
    image = np.outer(np.ones(4), wave)
    inner = slice(2 * upscale, -2 * upscale)
    gap = np.abs(zero_fill(image, upscale) - bicubic(image, upscale))[:, inner].max()
    assert gap < 0.3 * 2 * np.pi / (8 * n * upscale)


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("matrix", [(1, 1), (8, 8), (9, 12), (17, 5)])
def test_a_slice_does_not_depend_on_its_batch_mates(matrix, upscale):
    """Bit for bit for bicubic: a result must not change with the size of a batch."""
    mates = noise(2, 3, *matrix, seed=1)
    mates[0, 1] *= 1e6
    together = bicubic(mates, upscale)
    filled = zero_fill(mates, upscale)
    assert together.shape == filled.shape == (2, 3, matrix[0] * upscale, matrix[1] * upscale)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(together[index], bicubic(mates[index], upscale))
        alone = zero_fill(mates[index], upscale)
        # An FFT may take another path for another batch size: a few ulp of the slice itself.
        assert np.abs(filled[index] - alone).max() <= FP32 * np.abs(alone).max()


@pytest.mark.parametrize("method", [zero_fill, bicubic])
def test_the_input_is_not_changed(method):
    """The LR slice is used again for the residual and the preview."""
    image = noise(5, 6, seed=2)
    before = image.copy()
    image.flags.writeable = False
    first = method(image, 2)
    first[...] = 0.0  # nor may a cached result leak out
    np.testing.assert_array_equal(image, before)
    assert method(image, 2).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bicubic(np.ones(4), 2), "expected slices (..., y, x), found shape (4,)"),
        (lambda: bicubic(np.ones((3, 0)), 2), "expected slices (..., y, x), found shape (3, 0)"),
        (
            lambda: zero_fill(np.ones(4), 2),
            "expected slices (..., y, x), found shape (4,)",
        ),
        (
            lambda: zero_fill(np.ones((0, 3)), 2),
            "expected slices (..., y, x), found shape (0, 3)",
        ),
    ],
)
def test_what_is_no_slice_is_refused_by_name(call, message):
    """A vector interpolated along its only axis would be written as an image."""
    with pytest.raises(ShapeError) as caught:
        call()
    assert str(caught.value) == message
