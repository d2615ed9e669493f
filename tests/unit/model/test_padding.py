"""Padding a matrix to a multiple: every sample where it was, and what was measured as it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kspacesr_rt.kspace import sample_origin
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.padding import (
    crop_matrix,
    fill_matrix,
    interpolation,
    measured_matrices,
    reflection,
)
from kspacesr_rt.quality.half_spectra import HalfSpectra

GRIDS = ("kspace", "pixel-centre")
LENGTHS = [(8, 12), (9, 12), (9, 10), (11, 15), (10, 15), (13, 16), (15, 16), (16, 17)]


@pytest.mark.parametrize(("grid", "s"), list(itertools.product(GRIDS, (1, 2, 3, 4))))
@pytest.mark.parametrize(("n", "padded"), LENGTHS)
def test_a_reflected_axis_is_cropped_where_its_own_result_begins(n, padded, s, grid):
    """SR sample by SR sample, by where each lies: the rule of `sample_origin` on both axes."""
    front, first = reflection(n, padded, s, grid)
    assert 0 <= front <= padded - n
    assert 0 <= first <= s * padded - s * n
    lies_at = sample_origin(padded, s, grid) + (first + np.arange(s * n)) / s - front
    assert np.allclose(lies_at, sample_origin(n, s, grid) + np.arange(s * n) / s)


@pytest.mark.parametrize(("n", "padded"), LENGTHS)
def test_filling_and_cropping_k_space_gives_back_every_sample(n, padded):
    """Both ends of the Nyquist line of an even axis included."""
    both = crop_matrix(n, padded, 1, "kspace") @ fill_matrix(n, padded)
    assert np.allclose(both, np.eye(n), atol=1e-12)


@pytest.mark.parametrize(("grid", "s"), list(itertools.product(GRIDS, (2, 3))))
@pytest.mark.parametrize(("n", "padded"), [(9, 12), (11, 15), (13, 16), (15, 20)])
def test_a_network_that_zero_fills_is_not_changed_by_padding_in_k_space(n, padded, s, grid):
    """Against `zero_fill`, on either grid; an odd axis has no Nyquist line to share out."""
    image = np.random.default_rng(n).random((n, n)).astype(np.float32)
    fill, crop = fill_matrix(n, padded), crop_matrix(n, padded, s, grid)
    wide = zero_fill((fill @ image @ fill.T).astype(np.float32), s, grid)
    assert np.allclose(crop @ wide @ crop.T, zero_fill(image, s, grid), atol=2e-6)


@pytest.mark.parametrize(("grid", "s"), list(itertools.product(GRIDS, (2, 3))))
@pytest.mark.parametrize("n", [8, 9, 12, 15])
def test_measured_samples_are_put_back(n, s, grid):
    """Whatever the network gave: by the figure that every slice of a run is checked with."""
    rng = np.random.default_rng(n)
    lr, sr = rng.random((n, n)), rng.random((s * n, s * n))
    find, fill = measured_matrices(n, s, grid)
    assert np.allclose(find @ fill, np.eye(n), atol=1e-12)
    assert HalfSpectra.of(sr, lr).measured_residual(grid) > 1e-3
    corrected = sr + fill @ (lr - find @ sr @ find.T) @ fill.T
    assert HalfSpectra.of(corrected, lr).measured_residual(grid) < 1e-12


@pytest.mark.parametrize("n", [7, 8])
def test_interpolation_is_that_of_a_periodic_axis(n):
    """A wave of every frequency below Nyquist is met between the samples."""
    positions = np.linspace(-3, 12, 50)
    for frequency in range((n - 1) // 2 + 1):
        wave = np.cos(2 * np.pi * frequency * np.arange(n) / n + 0.3)
        expected = np.cos(2 * np.pi * frequency * positions / n + 0.3)
        assert np.allclose(interpolation(n, positions) @ wave, expected)
