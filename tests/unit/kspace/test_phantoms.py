"""The phantoms: one is known in both domains, one looks like a head; both at any matrix."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_object import analytic_image, analytic_kspace
from hypothesis import given, settings
from hypothesis import strategies as st

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import fft2c, ifft2c
from kspacesr_rt.kspace.phantoms import BIAS_SHARE, SHEPP_LOGAN, TEXTURE_SHARE, brain_phantom

sizes = st.integers(1, 80)

EXACT = 1e-12
"""Rounding of complex128; the closed form itself truncates at 1e-22."""


def slow_dft(n: int) -> np.ndarray:
    """Write the centred orthonormal DFT down term by term."""
    index = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)


# --- the analytic object --------------------------------------------------------------------------


@given(sizes, sizes)
def test_the_two_closed_forms_are_one_object(rows, columns):
    """Image and k-space were derived on paper: the written-out DFT must connect them."""
    image, spectrum = analytic_image((rows, columns)), analytic_kspace((rows, columns))
    assert image.shape == spectrum.shape == (rows, columns)
    assert (image.dtype, spectrum.dtype) == (np.float64, np.complex128)
    transformed = slow_dft(rows) @ image @ slow_dft(columns).T
    assert np.abs(transformed - spectrum).max() <= EXACT * np.abs(spectrum).max()


@settings(max_examples=25)
@given(st.integers(1, 200), st.integers(1, 200))
def test_the_projects_transform_agrees_with_the_closed_form(rows, columns):
    """`fft2c` and `ifft2c` against a reference that holds no Fourier transform at all."""
    image, spectrum = analytic_image((rows, columns)), analytic_kspace((rows, columns))
    assert np.abs(fft2c(image) - spectrum).max() <= EXACT * np.abs(spectrum).max()
    assert np.abs(ifft2c(spectrum) - image).max() <= EXACT * np.abs(image).max()


@pytest.mark.parametrize("matrix", [(32, 32), (33, 32), (32, 35), (31, 33)])
def test_the_analytic_object_has_no_symmetry(matrix):
    """A flip, a roll, a conjugation or a checkerboard must not go unnoticed."""
    image, spectrum = analytic_image(matrix), analytic_kspace(matrix)
    top = np.abs(image).max()
    checkerboard = (-1.0) ** np.add.outer(np.arange(matrix[0]), np.arange(matrix[1]))
    for changed in (
        image[::-1],
        image[:, ::-1],
        image[::-1, ::-1],
        np.roll(image, 1, axis=0),
        np.roll(image, 1, axis=1),
    ):
        assert np.abs(changed - image).max() > 0.1 * top
    for changed in (np.conj(spectrum), spectrum * checkerboard, np.roll(spectrum, 1, axis=1)):
        assert np.abs(changed - spectrum).max() > 0.1 * np.abs(spectrum).max()
    square = analytic_image((32, 32))
    assert np.abs(square - square.T).max() > 0.1 * top


def test_the_analytic_object_is_where_it_is_said_to_be():
    """Spot checks in FOVs from the origin: the wide Gaussian's peak, both boxes, and air."""
    image = analytic_image((200, 200))

    def at(y: float, x: float) -> float:
        return float(image[100 + round(200 * y), 100 + round(200 * x)])

    def wide(y: float, x: float) -> float:
        return float(np.exp(-((y - 0.031) ** 2) / 0.0162 - (x + 0.047) ** 2 / 0.0288))

    # Neither the narrow Gaussian nor a wrapped copy reaches these points.
    assert at(0.03, -0.045) == pytest.approx(wide(0.03, -0.045) + 0.4, abs=1e-3)
    assert at(0.08, -0.3) == pytest.approx(wide(0.08, -0.3) - 0.3, abs=1e-3)
    assert at(0.15, 0.3) == pytest.approx(wide(0.15, 0.3) + 0.4, abs=1e-3)
    assert at(0.45, 0.45) == pytest.approx(0.0, abs=1e-3)


# --- the head -------------------------------------------------------------------------------------


@given(sizes, sizes, st.integers(0, 1000))
def test_the_head_is_an_image_at_any_matrix(rows, columns, seed):
    """Parity cases come in every size, and divide by the maximum of the slice."""
    image = brain_phantom((rows, columns), seed)
    assert image.shape == (rows, columns)
    assert image.dtype == np.float32
    assert image.min() >= 0.0
    assert image.max() == 1.0


@pytest.mark.parametrize("matrix", [(64, 64), (65, 48)])
def test_the_head_is_deterministic(matrix):
    """A known answer is stored in every model file: its input must be the same tomorrow."""
    first = brain_phantom(matrix, 3)
    np.random.default_rng(0).random(7)
    np.testing.assert_array_equal(brain_phantom(matrix, 3), first)
    np.testing.assert_array_equal(brain_phantom(matrix), brain_phantom(matrix, 0))
    assert not np.array_equal(brain_phantom(matrix, 4), first)


def test_the_head_is_the_same_in_every_release():
    """Values as first written, so that figures measured on it can be compared over the years."""
    image = brain_phantom((48, 40), 5)
    found = [float(image[y, x]) for y, x in ((24, 20), (10, 20), (30, 28), (2, 20), (0, 0))]
    found.append(float(image.astype(np.float64).mean()))
    stored = [0.20015290, 0.28720552, 0.19442618, 0.92508459, 0.0, 0.11521395]
    # Rounding of sin and cos differs between machines by an ulp of float32 at most.
    np.testing.assert_allclose(found, stored, rtol=1e-5, atol=0)


def test_the_seed_chooses_texture_and_not_anatomy():
    """Spectra averaged over seeds need new texture; the head stays where it is."""
    one, other = (brain_phantom((96, 96), seed) for seed in (1, 2))
    tissue = (one > 0) & (other > 0)
    np.testing.assert_array_equal(one > 0.02, other > 0.02)
    ratio = one[tissue] / other[tissue]
    assert np.ptp(ratio) > 0.02
    # Two textures, each within its share, and two maxima to divide by.
    widest = (1 + TEXTURE_SHARE) / (1 - TEXTURE_SHARE)
    assert 1 / widest**2 < ratio.min() < ratio.max() < widest**2


def test_two_matrices_sample_one_head():
    """A function of the position in the FOV: SR and LR phantoms show the same object."""
    coarse, fine = brain_phantom((60, 80)), brain_phantom((120, 240))[::2, ::3]
    tissue = coarse > 0
    np.testing.assert_array_equal(tissue, fine > 0)
    ratio = fine[tissue] / coarse[tissue]  # only the maximum they are divided by differs
    assert np.ptp(ratio) < 1e-5


def test_the_head_lies_in_air_and_is_brightest_at_the_skull():
    """Air is zero, so that PSNR means tissue; the skull is the outer ellipse of Shepp-Logan."""
    image = brain_phantom((160, 160)).astype(np.float64)
    y, x = np.meshgrid(*(2 * (np.arange(160) - 80) / 160,) * 2, indexing="ij")
    outer, inner = (
        (x / a) ** 2 + ((-y - cy) / b) ** 2 <= 1 for _, a, b, _, cy, _ in SHEPP_LOGAN[:2]
    )
    assert np.all(image[~outer] == 0.0)
    assert image[outer & ~inner].min() > (1 - BIAS_SHARE) * (1 - TEXTURE_SHARE) / (
        1 + TEXTURE_SHARE
    )
    assert image[outer & ~inner].mean() > 3 * image[inner].mean()
    assert np.count_nonzero(image[inner]) > 0.8 * np.count_nonzero(inner)  # tissue, and ventricles


def test_the_head_holds_detail_beyond_the_low_resolution():
    """Without energy outside the LR band there would be nothing for a network to add."""
    power = np.abs(np.fft.fftshift(np.fft.fft2(brain_phantom((160, 160)).astype(np.float64)))) ** 2
    beyond = power.copy()
    beyond[40:120, 40:120] = 0.0
    assert 1e-3 < beyond.sum() / power.sum() < 0.1


def test_an_empty_matrix_is_refused():
    """An empty array would pass every comparison."""
    with pytest.raises(ShapeError, match="expected at least one sample per axis, found 0"):
        brain_phantom((0, 3))
