"""Noise of a series is told from the air around the patient, or not at all."""

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from kspacesr_rt.quality.noise import series_snr
from kspacesr_rt.sample import sample_folder


@pytest.fixture(scope="module")
def head():
    """Return real slices whose air is nearly silent; the mean of their tissue is 1."""
    paths = sorted(sample_folder().glob("*.dcm"))[8:11]
    slices = np.stack([pydicom.dcmread(path).pixel_array.astype(np.float64) for path in paths])
    smooth = np.stack([ndimage.gaussian_filter(one, 3.0) for one in slices])
    return slices / slices[smooth > 0.08 * np.percentile(smooth, 99)].mean()


def noisy(slices, snr, seed=0):
    """Add complex noise whose real part has a deviation of 1 / snr, and take magnitudes."""
    noise = np.random.default_rng(seed).normal(size=(2, *slices.shape)) / snr
    return np.hypot(slices + noise[0], noise[1]).astype(np.float32)


@pytest.mark.parametrize("snr", [3.0, 5.0, 10.0, 20.0])
def test_added_noise_is_found_again(head, snr):
    """Within a sixth, where a limit of a model lies; in any unit."""
    lr = noisy(head, snr)
    found = series_snr(lr)
    assert found == pytest.approx(snr, rel=0.16)
    assert series_snr(1000.0 * lr) == pytest.approx(found, rel=1e-4)


def test_masked_air_says_nothing(head):
    """A scanner that writes zeros around the patient hides its noise: nothing is claimed."""
    lr = noisy(head, 5.0)
    lr[head < 0.3] = 0.0
    assert series_snr(lr) is None


def test_tissue_everywhere_says_nothing(head):
    """A zoomed field of view has no air: its darkest part must not pass for noise."""
    zoomed = noisy(1.0 + 0.2 * head[:, 100:164, 100:164], 20.0)
    assert series_snr(zoomed) is None


def test_silence_and_tiny_images_say_nothing():
    """No division by nothing."""
    y, x = np.mgrid[:64, :64] - 32
    disc = np.stack([np.hypot(y, x) < 20] * 2).astype(np.float32)
    assert series_snr(disc) is None
    assert series_snr(np.zeros((2, 64, 64), np.float32)) is None
    assert series_snr(np.ones((1, 4, 64), np.float32)) is None


@pytest.mark.parametrize("level", [-1e38, -1000.0, -0.5, np.nan])
def test_what_is_no_magnitude_says_nothing(head, level):
    """A Rescale Intercept below zero, or what is no number: numpy does not warn either."""
    assert series_snr((noisy(head, 5.0) + level).astype(np.float32)) is None
