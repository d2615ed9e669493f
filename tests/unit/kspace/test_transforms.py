"""The k-space mathematics, against DFTs written out as matrices and functions known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt import kspace
from kspacesr_rt.errors import InputError, ShapeError

sizes = st.integers(1, 40)
small = st.integers(1, 14)
seeds = st.integers(0, 2**32 - 1)
upscales = st.integers(1, 4)

WIDE = 1e-10
"""Rounding of complex128 sums over at most 160 x 160 samples of order 1, with a wide margin."""
NARROW = 2e-6
"""A few ulp of float32, relative to the largest value."""


def frequencies(n: int) -> np.ndarray:
    """Cycles per FOV of each index, and as well the sample's distance from the origin."""
    return np.arange(n) - n // 2


def slow_dft(n: int, sign: int = -1) -> np.ndarray:
    """Write the centred orthonormal DFT down term by term: rows are frequencies."""
    turns = np.outer(frequencies(n), frequencies(n))
    return np.exp(sign * 2j * np.pi * turns / n) / np.sqrt(n)


def slow_fft2c(image: np.ndarray) -> np.ndarray:
    return slow_dft(image.shape[-2]) @ image @ slow_dft(image.shape[-1]).T


def slow_ifft2c(spectrum: np.ndarray) -> np.ndarray:
    return slow_dft(spectrum.shape[-2], +1) @ spectrum @ slow_dft(spectrum.shape[-1], +1).T


def noise(*shape: int, seed: int) -> np.ndarray:
    """Complex values of order 1, complex128."""
    real, imaginary = np.random.default_rng(seed).standard_normal((2, *shape))
    return real + 1j * imaginary


def positive(*shape: int, seed: int) -> np.ndarray:
    """Image-like values in [0.1, 1], float64."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape)


def harmonics(limit: int, seed: int) -> dict[int, complex]:
    """Draw the coefficients of a function that holds no frequency above `limit`."""
    values = noise(2 * limit + 1, seed=seed)
    return {k: complex(values[k + limit]) for k in range(-limit, limit + 1)}


def value_at(coefficients: dict[int, complex], position: np.ndarray) -> np.ndarray:
    """Evaluate the function at positions in FOVs from the image origin."""
    return sum(c * np.exp(2j * np.pi * k * position) for k, c in coefficients.items())


def sampled(coefficients: dict[int, complex], n: int) -> np.ndarray:
    return value_at(coefficients, frequencies(n) / n)


# --- transforms -----------------------------------------------------------------------------------


@given(sizes, sizes, seeds)
def test_the_transform_is_the_centred_dft(rows, columns, seed):
    """One wrong shift survives every round trip; only the written-out sum shows it."""
    image = noise(rows, columns, seed=seed)
    assert np.abs(kspace.fft2c(image) - slow_fft2c(image)).max() < WIDE
    assert np.abs(kspace.ifft2c(image) - slow_ifft2c(image)).max() < WIDE


@given(sizes, sizes)
def test_an_image_of_one_sample_at_the_origin_has_flat_positive_kspace(rows, columns):
    """The shortest statement of the convention: a sample at n // 2 carries no phase."""
    image = np.zeros((rows, columns))
    image[rows // 2, columns // 2] = 1.0
    assert np.abs(kspace.fft2c(image) - 1 / np.sqrt(rows * columns)).max() < WIDE


@given(sizes, sizes, seeds)
def test_the_inverse_undoes_the_transform(rows, columns, seed):
    """What is measured must come back, for every parity."""
    image = noise(rows, columns, seed=seed)
    assert np.abs(kspace.ifft2c(kspace.fft2c(image)) - image).max() < WIDE
    assert np.abs(kspace.fft2c(kspace.ifft2c(image)) - image).max() < WIDE


@given(sizes, sizes, seeds)
def test_the_transforms_keep_energy(rows, columns, seed):
    """Parseval: noise and errors may be judged in either domain, with no factor between them."""
    image = noise(rows, columns, seed=seed)
    energy = np.sum(np.abs(image) ** 2)
    assert np.sum(np.abs(kspace.fft2c(image)) ** 2) == pytest.approx(energy, rel=1e-12)
    assert np.sum(np.abs(kspace.ifft2c(image)) ** 2) == pytest.approx(energy, rel=1e-12)


@given(sizes, sizes, seeds)
def test_the_inverse_is_the_adjoint(rows, columns, seed):
    """Gradients through the transform are right only if <F x, y> = <x, F^-1 y>."""
    x, y = noise(2, rows, columns, seed=seed)
    left = np.vdot(y, kspace.fft2c(x))
    right = np.vdot(kspace.ifft2c(y), x)
    assert abs(left - right) < WIDE


@given(sizes, sizes, seeds)
def test_the_transforms_are_linear(rows, columns, seed):
    """Scaling and adding may be done on either side: skips and normalisation rely on it."""
    x, y = noise(2, rows, columns, seed=seed)
    for transform in (kspace.fft2c, kspace.ifft2c):
        mixed = transform((2 - 3j) * x + 0.5j * y)
        assert np.abs(mixed - ((2 - 3j) * transform(x) + 0.5j * transform(y))).max() < WIDE


@given(sizes, sizes, st.integers(-50, 50), st.integers(-50, 50), seeds)
def test_moving_the_image_turns_phases_only(rows, columns, down, right, seed):
    """Shift theorem, with the signs: a half-pixel error of a grid is measured by this ramp."""
    image = noise(rows, columns, seed=seed)
    ramp_y = np.exp(-2j * np.pi * frequencies(rows) * down / rows)
    ramp_x = np.exp(-2j * np.pi * frequencies(columns) * right / columns)
    moved = kspace.fft2c(np.roll(image, (down, right), axis=(0, 1)))
    expected = kspace.fft2c(image) * np.outer(ramp_y, ramp_x)
    assert np.abs(moved - expected).max() < WIDE


def mirrored(spectrum: np.ndarray) -> np.ndarray:
    """Return the value at -k for each k, indices written out."""
    rows, columns = spectrum.shape
    y = (2 * (rows // 2) - np.arange(rows)) % rows
    x = (2 * (columns // 2) - np.arange(columns)) % columns
    return spectrum[np.ix_(y, x)]


@given(sizes, sizes, seeds)
def test_a_real_image_has_hermitian_kspace(rows, columns, seed):
    """Half of k-space follows from the other half, about DC at n // 2."""
    spectrum = kspace.fft2c(noise(rows, columns, seed=seed).real)
    assert np.abs(spectrum - np.conj(mirrored(spectrum))).max() < WIDE


@given(sizes, sizes, seeds)
def test_hermitian_kspace_gives_a_real_image(rows, columns, seed):
    """The other direction: a real SR image may be taken without losing anything."""
    spectrum = noise(rows, columns, seed=seed)
    image = kspace.ifft2c(spectrum + np.conj(mirrored(spectrum)))
    assert np.abs(image.imag).max() < WIDE


@given(small, small, seeds)
def test_slices_of_a_batch_never_mix(rows, columns, seed):
    """A shift over all axes rolls the batch: each slice would be compared with another's target.

    The mates are NaN, so that the smallest share of them in a result shows.
    """
    slices = positive(2, 3, rows, columns, seed=seed)
    for function in (
        kspace.fft2c,
        kspace.ifft2c,
        lambda image: kspace.zero_fill_image(image, 2),
        lambda image: kspace.degrade(image, 1),
        lambda image: kspace.resample_to(image, ((rows + 1) // 2, (columns + 1) // 2)),
        lambda image: kspace.centre_fill(image, (rows + 1, columns + 2)),
        lambda image: kspace.centre_crop(image, ((rows + 1) // 2, (columns + 1) // 2)),
    ):
        for index in ((0, 0), (1, 2)):
            batch = np.full_like(slices, np.nan)
            batch[index] = slices[index]
            np.testing.assert_allclose(
                function(batch)[index], function(slices[index]), rtol=0, atol=1e-12
            )


# --- crops and fills ------------------------------------------------------------------------------


@given(sizes, sizes, sizes, sizes)
def test_dc_stays_centred_under_crop_and_fill(rows, columns, other_rows, other_columns):
    """A k-space that holds only DC still holds only DC, whatever the parity of the sizes."""
    larger = (max(rows, other_rows), max(columns, other_columns))
    smaller = (min(rows, other_rows), min(columns, other_columns))

    def only_dc(matrix: tuple[int, int]) -> np.ndarray:
        spectrum = np.zeros(matrix)
        spectrum[matrix[0] // 2, matrix[1] // 2] = 1.0
        return spectrum

    np.testing.assert_array_equal(kspace.centre_crop(only_dc(larger), smaller), only_dc(smaller))
    np.testing.assert_array_equal(kspace.centre_fill(only_dc(smaller), larger), only_dc(larger))


@given(sizes, sizes, st.integers(0, 40), st.integers(0, 40))
def test_every_frequency_keeps_its_value_and_the_rest_is_zero(rows, columns, more_y, more_x):
    """Not DC alone: each sample is labelled by its frequency, and looked up by it afterwards."""
    matrix = (rows + more_y, columns + more_x)
    label = 1000.0 + frequencies(rows)[:, None] + 1j * (1000.0 + frequencies(columns)[None, :])
    filled = kspace.centre_fill(label, matrix)
    y, x = (frequencies(n) for n in matrix)
    held = np.logical_and.outer(
        np.isin(y, frequencies(rows)), np.isin(x, frequencies(columns))
    )  # frequencies that the smaller grid has
    expected = np.where(held, 1000.0 + y[:, None] + 1j * (1000.0 + x[None, :]), 0.0)
    np.testing.assert_array_equal(filled, expected)


@given(sizes, sizes, st.integers(0, 40), st.integers(0, 40), seeds)
def test_a_crop_undoes_a_fill(rows, columns, more_y, more_x, seed):
    """Measured samples are found again after zero-filling, bit for bit."""
    spectrum = noise(2, rows, columns, seed=seed)
    filled = kspace.centre_fill(spectrum, (rows + more_y, columns + more_x))
    np.testing.assert_array_equal(kspace.centre_crop(filled, (rows, columns)), spectrum)


@given(sizes, sizes)
def test_crop_and_fill_share_one_offset(n_from, n_to):
    """DC on DC, whichever of the two grids is the larger."""
    offset = kspace.centred_offset(n_from, n_to)
    assert offset == kspace.centred_offset(n_to, n_from)
    smaller, larger = sorted((n_from, n_to))
    assert offset + smaller // 2 == larger // 2
    assert 0 <= offset <= larger - smaller


def test_a_crop_is_a_copy():
    """Scaling a crop in place must not scale what was measured."""
    spectrum = noise(4, 4, seed=0)
    before = spectrum.copy()
    for matrix in ((2, 2), (4, 4)):
        kspace.centre_crop(spectrum, matrix)[...] = 0.0
    np.testing.assert_array_equal(spectrum, before)


# --- zero-fill and its grid -----------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), upscales, seeds)
def test_zero_fill_keeps_the_samples_of_even_matrices(half_rows, half_columns, upscale, seed):
    """``out[::s, ::s] == in``: a free check of any engine that claims to zero-fill."""
    image = noise(2, 2 * half_rows, 2 * half_columns, seed=seed)
    out = kspace.zero_fill_image(image, upscale)
    assert np.abs(out[..., ::upscale, ::upscale] - image).max() < WIDE


@given(small, small, upscales, seeds)
def test_zero_fill_is_the_written_out_sum(rows, columns, upscale, seed):
    """Units included: zero-filled k-space, summed term by term on the finer grid."""
    image = noise(rows, columns, seed=seed)
    spectrum = slow_fft2c(image)
    fine = (rows * upscale, columns * upscale)
    along_y, along_x = (
        np.exp(2j * np.pi * np.outer(frequencies(big), frequencies(n)) / big) / np.sqrt(n)
        for big, n in zip(fine, (rows, columns), strict=True)
    )
    expected = along_y @ spectrum @ along_x.T
    assert np.abs(kspace.zero_fill_image(image, upscale) - expected).max() < WIDE


@given(st.integers(3, 40), st.integers(3, 40), st.sampled_from([2, 3, 4]), seeds)
def test_sr_samples_lie_where_grid_origin_says(rows, columns, upscale, seed):
    """A band-limited function is known between its samples: zero-fill must land on it.

    Wrong by half a pixel, every DICOM position written and every comparison would be wrong.
    """
    along_y, along_x = harmonics((rows - 1) // 2, seed), harmonics((columns - 1) // 2, seed + 1)
    image = np.outer(
        value_at(along_y, np.arange(rows) / rows), value_at(along_x, np.arange(columns) / columns)
    )
    positions = [
        kspace.grid_origin(n, upscale) + np.arange(n * upscale) / upscale for n in (rows, columns)
    ]
    expected = np.outer(
        value_at(along_y, positions[0] / rows), value_at(along_x, positions[1] / columns)
    )
    error = np.abs(kspace.zero_fill_image(image, upscale) - expected).max()
    assert error < 1e-10 * max(1.0, np.abs(expected).max())


@given(st.integers(3, 200), st.sampled_from([2, 3, 4]), st.sampled_from([0, 1]))
def test_the_measured_shift_is_grid_origin(n, upscale, axis):
    """The shift, read from the phase of the lowest frequency, and the three values it can take."""
    wave = 1.0 + np.cos(2 * np.pi * np.arange(n) / n)
    image = np.moveaxis(np.broadcast_to(wave, (2, n)), 1, axis)
    line = np.take(kspace.zero_fill_image(image, upscale), 0, axis=1 - axis)
    turn = np.sum(line * np.exp(-2j * np.pi * np.arange(n * upscale) / (n * upscale)))
    measured = np.angle(turn) * n / (2 * np.pi)
    assert measured == pytest.approx(kspace.grid_origin(n, upscale), abs=1e-10)
    known = 0.0 if n % 2 == 0 else {2: -1 / 2, 3: -1 / 3, 4: -1 / 2}[upscale]
    assert measured == pytest.approx(known, abs=1e-10)


@given(small, small, upscales, seeds)
def test_zero_fill_keeps_the_mean(rows, columns, upscale, seed):
    """Intensities stay in the units of the image: DC is the mean on both grids."""
    image = positive(rows, columns, seed=seed)
    out = kspace.zero_fill_image(image, upscale)
    assert (
        out.shape
        == (rows * upscale, columns * upscale)
        == kspace.upscaled((rows, columns), upscale)
    )
    assert abs(out.mean() - image.mean()) < 1e-12


@given(st.integers(1, 10), st.integers(1, 10), st.sampled_from([2, 3, 4]), seeds)
def test_the_real_part_splits_the_nyquist_line(half_rows, columns, upscale, seed):
    """Of a real image and an even axis: half to each end of the spectrum, as a real wave needs."""
    rows = 2 * half_rows
    image = positive(rows, 2 * columns + 1, seed=seed)
    spectrum = kspace.centre_fill(slow_fft2c(image), (rows * upscale, (2 * columns + 1) * upscale))
    low, high = (rows * upscale) // 2 - rows // 2, (rows * upscale) // 2 + rows // 2
    spectrum[high] = spectrum[low] = spectrum[low] / 2
    split = slow_ifft2c(spectrum) * upscale
    assert np.abs(split.imag).max() < WIDE
    assert np.abs(kspace.zero_fill_image(image, upscale).real - split.real).max() < WIDE


# --- degrading ------------------------------------------------------------------------------------


@given(small, small, upscales, seeds)
def test_degrading_keeps_the_centre_of_kspace_and_nothing_else(rows, columns, upscale, seed):
    """Zero-filled again, the complex LR image is the HR image without its outer frequencies."""
    fine = (rows * upscale, columns * upscale)
    hr = noise(*fine, seed=seed)
    kept = np.outer(
        np.isin(frequencies(fine[0]), frequencies(rows)),
        np.isin(frequencies(fine[1]), frequencies(columns)),
    )
    expected = slow_ifft2c(slow_fft2c(hr) * kept)
    lr = kspace.degrade(hr, upscale, magnitude=False)
    assert lr.shape == (rows, columns)
    assert np.abs(kspace.zero_fill_image(lr, upscale) - expected).max() < WIDE


@given(st.integers(3, 12), st.integers(3, 12), st.sampled_from([2, 3, 4]), seeds)
def test_a_band_limited_image_survives_a_shorter_scan(rows, columns, upscale, seed):
    """Intensities too: what the LR scan can hold comes back unchanged, magnitude or not."""
    along_y, along_x = (
        {k: c / 100 for k, c in harmonics((n - 1) // 2, seed).items()} | {0: 1.0}
        for n in (rows, columns)
    )
    profile_y = sampled(along_y, rows * upscale).real
    profile_x = sampled(along_x, columns * upscale).real
    hr = np.outer(profile_y, profile_x)
    lr = kspace.degrade(hr, upscale)
    # All harmonics together stay below 0.25: the image is positive, a magnitude changes nothing.
    np.testing.assert_allclose(
        lr, np.outer(sampled(along_y, rows).real, sampled(along_x, columns).real), atol=WIDE
    )
    np.testing.assert_allclose(kspace.zero_fill_image(lr, upscale).real, hr, atol=WIDE)


def test_degrading_gives_what_a_dicom_would_hold():
    """A magnitude: undershoot beside an edge comes back as signal, as it does from a scanner."""
    hr = np.zeros((32, 32))
    hr[10:17, 12:23] = 1.0
    magnitude, complex_lr = kspace.degrade(hr, 2), kspace.degrade(hr, 2, magnitude=False)
    spectrum = slow_fft2c(hr)[8:24, 8:24]
    expected = slow_ifft2c(spectrum) / 2
    assert not np.iscomplexobj(magnitude)
    assert np.iscomplexobj(complex_lr)
    np.testing.assert_allclose(complex_lr, expected, atol=1e-12)
    np.testing.assert_allclose(magnitude, np.abs(expected), atol=1e-12)
    assert complex_lr.real.min() < -0.02 < 0.0 <= magnitude.min()


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 30), st.integers(1, 30), seeds)
def test_a_lower_matrix_samples_the_same_function(rows, columns, to_rows, to_columns, seed):
    """FOV and intensities stay: a band-limited function, sampled finely, then coarsely."""
    matrix = (min(rows, to_rows), min(columns, to_columns))
    along_y, along_x = (harmonics((n - 1) // 2, seed) for n in matrix)
    image = np.outer(sampled(along_y, rows), sampled(along_x, columns))
    expected = np.outer(sampled(along_y, matrix[0]), sampled(along_x, matrix[1]))
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(kspace.resample_to(image, matrix) - expected).max() < WIDE * scale
    real = kspace.resample_to(image.real, matrix)
    assert not np.iscomplexobj(real)
    assert np.abs(real - np.abs(expected.real)).max() < WIDE * scale


@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from([2, 3, 4]), seeds)
def test_a_divisible_crop_loses_only_the_remainder(rows, columns, divisor, seed):
    """A HR matrix that the upscale does not divide still gives a LR and a HR of one FOV."""
    want = (rows // divisor * divisor, columns // divisor * divisor)
    along_y, along_x = (harmonics((n - 1) // 2, seed) for n in want)
    image = np.outer(sampled(along_y, rows), sampled(along_x, columns))
    expected = np.outer(sampled(along_y, want[0]), sampled(along_x, want[1]))
    cropped = kspace.divisible_crop(image, divisor)
    assert cropped.shape == want
    assert np.abs(cropped - expected).max() < WIDE * max(1.0, np.abs(expected).max())
    assert (cropped is image) == (want == (rows, columns))
    np.testing.assert_allclose(
        kspace.degrade(image, divisor), kspace.degrade(cropped, divisor), atol=WIDE
    )


# --- channels and types ---------------------------------------------------------------------------


@given(sizes, sizes, seeds)
def test_channels_are_real_then_imaginary_and_come_back(rows, columns, seed):
    """The network sees two real planes; swapped, it would see conjugated k-space."""
    values = noise(3, rows, columns, seed=seed)
    channels = kspace.to_channels(values)
    assert channels.shape == (3, 2, rows, columns)
    np.testing.assert_array_equal(channels[:, 0], values.real)
    np.testing.assert_array_equal(channels[:, 1], values.imag)
    np.testing.assert_array_equal(kspace.from_channels(channels), values)


FUNCTIONS = {
    "fft2c": kspace.fft2c,
    "ifft2c": kspace.ifft2c,
    "centre_crop": lambda image: kspace.centre_crop(image, (3, 4)),
    "centre_fill": lambda image: kspace.centre_fill(image, (9, 9)),
    "zero_fill_image": lambda image: kspace.zero_fill_image(image, 2),
    "degrade": lambda image: kspace.degrade(image, 2),
    "degrade-complex": lambda image: kspace.degrade(image, 2, magnitude=False),
    "divisible_crop": lambda image: kspace.divisible_crop(image, 3),
    "resample_to": lambda image: kspace.resample_to(image, (5, 3)),
    "from_channels": lambda image: kspace.from_channels(np.stack([image.real, image.real])),
    "to_channels": kspace.to_channels,
}


@pytest.mark.parametrize(
    ("given_type", "real", "complex_"),
    [
        (np.float32, np.float32, np.complex64),
        (np.complex64, np.float32, np.complex64),
        (np.float64, np.float64, np.complex128),
        (np.complex128, np.float64, np.complex128),
    ],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_precision_is_kept(name, given_type, real, complex_):
    """Silent float64 doubles the memory of a series; silent float32 costs nine digits."""
    result = FUNCTIONS[name](positive(7, 8, seed=0).astype(given_type))
    assert result.dtype == (complex_ if np.iscomplexobj(result) else real)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_precision_computes_the_same(name):
    """Slices are float32: only rounding may separate them from the float64 the tests prove."""
    image = noise(7, 8, seed=0).astype(np.complex64)
    result, expected = FUNCTIONS[name](image), FUNCTIONS[name](image.astype(np.complex128))
    assert np.abs(expected).max() > 0.0
    assert np.abs(result - expected).max() <= NARROW * np.abs(expected).max()


@pytest.mark.parametrize("given_type", [np.uint16, np.int16, bool])
def test_stored_integers_become_single_precision(given_type):
    """Pixels of a DICOM as they are stored: 16 bits fit float32 exactly."""
    image = (positive(6, 5, seed=1) * 4095).astype(given_type)
    result = kspace.fft2c(image)
    expected = slow_fft2c(image.astype(np.float64))
    assert result.dtype == np.complex64
    assert np.abs(result - expected).max() <= NARROW * np.abs(expected).max()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_are_not_changed(name):
    """The source slice is used again for the preview, the residual and the metadata."""
    image = noise(7, 8, seed=0)
    before = image.copy()
    image.flags.writeable = False  # writing to it raises
    result = FUNCTIONS[name](image)
    assert result is not image
    np.testing.assert_array_equal(image, before)


# --- the measured residual ------------------------------------------------------------------------


@given(small, small, st.sampled_from([2, 3, 4]), seeds)
def test_zero_fill_has_no_residual(rows, columns, upscale, seed):
    """The baseline holds what was measured; anything else would make the check useless."""
    lr = positive(rows, columns, seed=seed)
    sr = kspace.zero_fill_image(lr, upscale).real
    assert kspace.measured_residual(sr, lr) < 1e-12


@given(small, small, st.sampled_from([2, 3, 4]), st.sampled_from([0.9, 1.01, 3.0]), seeds)
def test_a_wrong_intensity_is_the_residual(rows, columns, upscale, gain, seed):
    """DC is the largest sample of a positive image: scaled by 1.01, the residual is 0.01."""
    lr = positive(rows, columns, seed=seed)
    sr = gain * kspace.zero_fill_image(lr, upscale).real
    assert kspace.measured_residual(sr, lr) == pytest.approx(abs(gain - 1), abs=1e-12)


@given(st.integers(3, 14), st.integers(3, 14), st.sampled_from([2, 3, 4]), st.sampled_from([0, 1]))
def test_a_shift_of_one_sr_sample_has_a_residual(rows, columns, upscale, axis):
    """The half-pixel errors of image-domain resizing must not pass for measured samples."""
    lr = positive(rows, columns, seed=rows)
    sr = np.roll(kspace.zero_fill_image(lr, upscale).real, 1, axis=axis)
    assert kspace.measured_residual(sr, lr) > 1e-3


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("n", [6, 7, 8, 9])
@pytest.mark.parametrize("axis", [0, 1])
def test_only_the_nyquist_line_of_even_axes_is_left_out(n, upscale, axis):
    """A real image cannot tell its ends apart; the frequency just below it is judged."""
    lr = positive(n, n, seed=n)
    position = frequencies(n * upscale) / (n * upscale)

    def with_wave(cycles: int) -> float:
        wave = np.cos(2 * np.pi * cycles * position)
        added = wave[:, None] if axis == 0 else wave[None, :]
        return kspace.measured_residual(kspace.zero_fill_image(lr, upscale).real + added, lr)

    assert with_wave((n - 1) // 2) > 0.1  # the highest frequency measured at both ends
    assert with_wave(n // 2 + 1) < 1e-12  # never measured: free for the network
    if n % 2 == 0:
        assert with_wave(n // 2) < 1e-12


def test_an_empty_slice_has_the_residual_of_what_was_invented():
    """Air above the head stays air; there is no largest sample to divide by."""
    empty = np.zeros((4, 4))
    assert kspace.measured_residual(np.zeros((8, 8)), empty) == 0.0
    # A constant of 0.5 has DC 0.5 * 8, over the 2 of the upscale.
    assert kspace.measured_residual(np.full((8, 8), 0.5), empty) == pytest.approx(2.0)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kspace.fft2c(np.ones(4)),
            "expected at least 2 axes (..., y, x), found shape (4,)",
        ),
        (
            lambda: kspace.ifft2c(np.ones(4)),
            "expected at least 2 axes (..., y, x), found shape (4,)",
        ),
        (
            lambda: kspace.fft2c(np.ones((2, 0, 3))),
            "expected at least one sample per axis, found shape (2, 0, 3)",
        ),
        (
            lambda: kspace.ifft2c(np.ones((3, 0))),
            "expected at least one sample per axis, found shape (3, 0)",
        ),
        (
            lambda: kspace.centre_crop(np.ones((4, 6)), (4, 7)),
            "cannot crop (4, 6) to (4, 7) samples",
        ),
        (
            lambda: kspace.centre_crop(np.ones((4, 6)), (0, 2)),
            "cannot crop (4, 6) to (0, 2) samples",
        ),
        (
            lambda: kspace.centre_fill(np.ones((4, 6)), (3, 8)),
            "cannot fill (4, 6) up to (3, 8) samples",
        ),
        (
            lambda: kspace.zero_fill_image(np.ones(4), 2),
            "expected at least 2 axes (..., y, x), found shape (4,)",
        ),
        (
            lambda: kspace.zero_fill_image(np.ones((4, 6)), 0),
            "expected an upscale of at least 1, found 0",
        ),
        (
            lambda: kspace.degrade(np.ones((3, 8)), 4),
            "(3, 8) samples are too few to degrade by 4",
        ),
        (
            lambda: kspace.resample_to(np.ones((4, 4)), (4, 5)),
            "cannot crop (4, 4) to (4, 5) samples",
        ),
        (
            lambda: kspace.to_channels(np.ones(4, dtype=complex)),
            "expected at least 2 axes (..., y, x), found shape (4,)",
        ),
        (
            lambda: kspace.from_channels(np.ones((3, 4, 4))),
            "expected channels (..., 2, y, x), found shape (3, 4, 4)",
        ),
        (
            lambda: kspace.from_channels(np.ones((2, 4))),
            "expected channels (..., 2, y, x), found shape (2, 4)",
        ),
    ],
)
def test_impossible_shapes_are_refused_by_name(call, message):
    """NumPy's own messages name neither axis nor meaning; these end up in front of a user."""
    with pytest.raises(ShapeError) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kspace.degrade(np.ones(8), 2), "expected at least 2 axes"),
        (lambda: kspace.divisible_crop(np.ones(8), 2), "expected at least 2 axes"),
        (lambda: kspace.degrade(np.ones((8, 8)), 0), "expected an upscale of at least 1, found 0"),
        (lambda: kspace.grid_origin(8, 0), "expected an upscale of at least 1, found 0"),
        (lambda: kspace.zero_fill_image(np.ones((8, 8)), -1), "an upscale of at least 1, found -1"),
        (lambda: kspace.centre_crop(np.ones((8, 8)), (4, 4, 4)), "expected a matrix"),
        (lambda: kspace.centre_fill(np.ones((8, 8)), (16,)), "expected a matrix"),
        (
            lambda: kspace.measured_residual(np.ones((8, 12)), np.ones((4, 4))),
            "expected one SR and one LR slice",
        ),
        (
            lambda: kspace.measured_residual(np.ones(8), np.ones(4)),
            "expected one SR and one LR slice",
        ),
    ],
)
def test_impossible_arguments_are_refused_by_text(call, message):
    """A wrong axis or factor says so, before NumPy says something else or nothing at all."""
    with pytest.raises(ShapeError, match=message):
        call()


@given(st.integers(2, 12), st.integers(2, 12), st.integers(2, 4), st.integers(0, 99))
def test_a_real_image_holds_all_of_its_nyquist_lines_if_they_are_doubled(rows, columns, s, seed):
    """Crop after fill is the identity on every sample, that line included; without, it is not."""
    rng = np.random.default_rng(seed)
    lr = rng.standard_normal((rows, columns)) + 0.5
    wide = (s * rows, s * columns)
    measured = kspace.fft2c(lr)
    sr = kspace.ifft2c(kspace.centre_fill(measured * kspace.nyquist_gain(lr.shape), wide)).real
    np.testing.assert_allclose(
        kspace.centre_crop(kspace.fft2c(sr), lr.shape), measured, atol=1e-6 * np.abs(measured).max()
    )
    assert kspace.magnitude_residual(s * sr, lr) < 1e-6
    plain = kspace.ifft2c(kspace.centre_fill(measured, wide)).real
    assert (kspace.magnitude_residual(s * plain, lr) > 1e-4) == (rows % 2 == 0 or columns % 2 == 0)


def test_slices_whose_magnitudes_cannot_be_compared_are_refused():
    """The residual of two that do not belong together is no figure; that of nothing is nothing."""
    with pytest.raises(ShapeError, match="expected one SR and one LR slice"):
        kspace.magnitude_residual(np.zeros((4, 6)), np.zeros((2, 2)))
    assert kspace.magnitude_residual(np.zeros((4, 4)), np.zeros((2, 2))) == 0.0
