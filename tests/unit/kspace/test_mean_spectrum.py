"""Mean spectra on other matrices: the same share of Nyquist, logarithms interpolated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace.mean_spectrum import resample_spectrum

sizes = st.integers(1, 40)
matrices = st.tuples(sizes, sizes)


def slow_resample(spectrum: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation of logarithms, one sample at a time."""
    out = np.empty(matrix)
    for row in range(matrix[0]):
        for column in range(matrix[1]):
            neighbours = []
            for index, n_to, n_from in zip((row, column), matrix, spectrum.shape, strict=True):
                wanted = (index - n_to // 2) / n_to * n_from + n_from // 2
                wanted = min(max(wanted, 0.0), n_from - 1.0)
                low = math.floor(wanted)
                share = wanted - low
                neighbours.append(((low, 1.0 - share), (min(low + 1, n_from - 1), share)))
            out[row, column] = math.exp(
                sum(
                    wy * wx * math.log(spectrum[y, x])
                    for y, wy in neighbours[0]
                    for x, wx in neighbours[1]
                )
            )
    return out * math.sqrt(matrix[0] * matrix[1] / spectrum.size)


def random_spectrum(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Values over the four decades that normalised MR spectra span."""
    return np.exp(np.random.default_rng(seed).uniform(-4.6, 4.6, shape)).astype(np.float32)


@given(matrices, matrices, st.integers(0, 99))
def test_resampling_is_bilinear_interpolation_of_logarithms(shape, target, seed):
    """Against plain loops, for every parity of the sizes, including 1."""
    spectrum = random_spectrum(shape, seed)
    expected = spectrum if shape == target else slow_resample(spectrum, target)
    np.testing.assert_allclose(resample_spectrum(spectrum, target), expected, rtol=1e-5)


@given(matrices, matrices)
def test_dc_stays_in_the_centre(shape, target):
    """Off by one, and the largest sample of k-space would be divided by a neighbour's mean."""
    frequency = [np.abs(np.arange(n) - n // 2) / n for n in shape]
    spectrum = np.exp(-5.0 * (frequency[0][:, None] + frequency[1][None, :])).astype(np.float32)
    resampled = resample_spectrum(spectrum, target)
    gain = math.sqrt(target[0] * target[1] / spectrum.size)
    assert resampled[target[0] // 2, target[1] // 2] == pytest.approx(gain, rel=1e-6)
    assert resampled.max() == pytest.approx(gain, rel=1e-6)


@given(matrices, matrices, st.floats(1e-6, 1e6))
def test_a_flat_spectrum_scales_with_the_root_of_the_sample_count(shape, target, level):
    """An orthonormal transform of a smooth image grows so; the network must see values near 1."""
    resampled = resample_spectrum(np.full(shape, level, np.float32), target)
    expected = np.float32(level) * math.sqrt(target[0] * target[1] / (shape[0] * shape[1]))
    np.testing.assert_allclose(resampled, np.full(target, expected), rtol=1e-5)


def test_the_same_matrix_gives_the_stored_values_bit_for_bit():
    """Binding a model to its own matrix must not change it by rounding."""
    spectrum = random_spectrum((31, 24), 1)
    assert np.array_equal(resample_spectrum(spectrum, (31, 24)), spectrum)


@given(matrices, matrices, st.integers(0, 99))
def test_the_result_is_positive_finite_float32_and_the_input_is_kept(shape, target, seed):
    """h_LR is divided by: one zero or NaN in it would spread over the whole slice."""
    spectrum = random_spectrum(shape, seed)
    before = spectrum.copy()
    resampled = resample_spectrum(spectrum, target)
    assert resampled.dtype == np.float32
    assert np.isfinite(resampled).all()
    assert (resampled > 0).all()
    assert np.array_equal(spectrum, before)


def test_eight_decades_survive():
    """12-bit k-space spans 8e7: interpolating values instead of logarithms would lose the rim."""
    falling = np.geomspace(1e8, 1.0, 5, dtype=np.float32)
    spectrum = np.concatenate([falling[:0:-1], falling])[None, :].repeat(3, axis=0)
    resampled = resample_spectrum(spectrum, (3, 18)) / math.sqrt(2.0)
    np.testing.assert_allclose(resampled[1, 9::2], falling, rtol=1e-5)
    between = np.sqrt(falling[:-1].astype(float) * falling[1:])
    np.testing.assert_allclose(resampled[1, 10:17:2], between, rtol=1e-5)


@pytest.mark.parametrize(
    "spectrum",
    [
        np.ones(5),
        np.ones((1, 5, 5)),
        np.zeros((4, 4)),
        np.array([[1.0, -1.0]]),
        np.array([[1.0, np.nan]]),
    ],
    ids=["1-D", "3-D", "zero", "negative", "NaN"],
)
def test_what_cannot_be_divided_by_is_refused(spectrum):
    """The same is refused on the way into the same matrix, where nothing is interpolated."""
    for matrix in [(6, 6), spectrum.shape[-2:]]:
        with pytest.raises(ShapeError) as caught:
            resample_spectrum(spectrum, matrix)
        assert str(caught.value) == (
            f"expected a positive spectrum (ky, kx), found shape {spectrum.shape}"
        )
