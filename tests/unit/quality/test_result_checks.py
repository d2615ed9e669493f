"""What is said about each result equals what the single measures say, and bounds become flags."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt import kspace
from kspacesr_rt.errors import ShapeError, SliceFailed
from kspacesr_rt.kspace.percentiles import high_percentile
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.quality import added_energy
from kspacesr_rt.quality.result_checks import (
    MEASURED_TOLERANCE,
    SliceFigures,
    check_result,
    measure_slice,
)
from kspacesr_rt.runtime.backends import baseline_spec

FIGURES = {
    "measured_residual": 1e-6,
    "added_energy_share": 1e-3,
    "added_energy_ratio": 0.5,
    "intensity_drift": 2e-6,
    "tissue_drift": -0.01,
}


@given(st.integers(16, 33), st.integers(16, 33), st.integers(2, 4), st.integers(0, 99))
def test_figures_are_those_of_the_single_measures(rows, columns, upscale, seed):
    """One pair of transforms must not change what is measured: odd sizes, any upscale."""
    rng = np.random.default_rng(seed)
    lr = rng.random((rows, columns)) * 900
    sr = kspace.zero_fill_image(lr, upscale).real + rng.normal(size=(upscale * rows, 1))
    found = measure_slice(sr, lr)
    energy = added_energy.added_energy(sr, lr)
    assert found.measured_residual == pytest.approx(kspace.measured_residual(sr, lr), rel=1e-6)
    assert found.added_energy_share == pytest.approx(energy.share, rel=1e-9)
    assert found.added_energy_ratio == pytest.approx(energy.ratio, rel=1e-9)
    assert found.intensity_drift == pytest.approx(added_energy.intensity_drift(sr, lr), rel=1e-9)


@pytest.mark.parametrize("matrix", [(40, 40), (41, 40), (39, 47)])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_a_zero_fill_drifts_nowhere_and_a_gain_everywhere(matrix, upscale):
    """Tissue is looked up where its samples lie, for every parity."""
    lr = brain_phantom(matrix).astype(np.float64) * 700
    same = measure_slice(kspace.zero_fill_image(lr, upscale).real, lr)
    assert abs(same.tissue_drift) < (1e-9 if 0 in np.array(matrix) % 2 else 1e-2)
    assert same.intensity_drift < 1e-9
    assert same.added_energy_share < 1e-12
    brighter = measure_slice(1.05 * kspace.zero_fill_image(lr, upscale).real, lr)
    assert brighter.tissue_drift == pytest.approx(0.05 + 1.05 * same.tissue_drift, abs=1e-9)
    assert brighter.intensity_drift == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("matrix", [(40, 40), (41, 40), (39, 47)])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_a_result_on_pixel_centres_is_measured_where_it_lies(matrix, upscale):
    """A shift by a fraction of a sample is no change of what was measured, nor of brightness."""
    rng = np.random.default_rng(3)
    low = np.zeros(matrix, dtype=complex)
    low[5:-5, 5:-5] = rng.normal(size=(matrix[0] - 10, matrix[1] - 10))
    lr = 40 * kspace.ifft2c(low).real + 900 * brain_phantom(matrix)
    spectrum = np.fft.fft2(lr)
    for axis, n in enumerate(matrix):  # without the Nyquist line, which no shift leaves real
        wave = np.fft.fftfreq(n) * n
        spectrum = np.moveaxis(spectrum, axis, -1)
        spectrum[..., np.abs(wave) == n / 2] = 0.0
        spectrum = np.moveaxis(spectrum, -1, axis)
    lr = np.fft.ifft2(spectrum).real
    y, x = (
        np.exp(
            2j * np.pi * np.outer((np.arange(upscale * n) + 0.5) / upscale - 0.5, np.fft.fftfreq(n))
        )
        for n in matrix
    )
    sr = (y @ spectrum @ x.T).real / lr.size  # its Fourier series, at the middles of the pixels
    there, elsewhere = measure_slice(sr, lr, "pixel-centre"), measure_slice(sr, lr)
    assert there.measured_residual < 1e-9
    same_grid = upscale == 3 and all(n % 2 for n in matrix)
    assert (elsewhere.measured_residual > 1e-3) != same_grid
    for grid, figures in (("pixel-centre", there), ("kspace", elsewhere)):
        spec = dataclasses.replace(baseline_spec("bicubic", upscale, matrix), output_grid=grid)
        assert check_result(sr, lr, spec) == figures
    assert abs(there.tissue_drift) < 0.03  # between samples, the mean of four smooths edges
    np.testing.assert_allclose(zero_fill(lr, upscale, "pixel-centre"), sr, rtol=0, atol=2e-3)


def test_an_empty_slice_has_figures():
    """The first slices of a volume often are air."""
    found = measure_slice(np.zeros((32, 32)), np.zeros((16, 16)))
    assert found == SliceFigures(**dict.fromkeys(FIGURES, 0.0))


def test_slices_that_do_not_belong_together_are_refused():
    """A silent broadcast would measure nonsense."""
    with pytest.raises(ShapeError, match="one SR and one LR slice"):
        measure_slice(np.ones((33, 32)), np.ones((16, 16)))
    with pytest.raises(ShapeError, match="one SR and one LR slice"):
        measure_slice(np.ones((1, 32, 32)), np.ones((16, 16)))


def test_bounds_become_flags_and_no_bounds_become_none():
    """Exactly at a limit is within it; limits of other names say nothing."""
    figures = SliceFigures(**FIGURES)
    assert figures.beyond({}) == ()
    assert figures.beyond({"added_energy_ratio": 0.5, "data_n_slices": 0.0}) == ()
    limits = {"added_energy_ratio": 0.49, "intensity_drift": 1e-6, "measured_residual": 1e-5}
    assert figures.beyond(limits) == ("added_energy_ratio", "intensity_drift")


def test_of_two_frames_the_worse_figures_are_told():
    """Tissue may drift to either side: the further one counts."""
    other = SliceFigures(**{**FIGURES, "added_energy_ratio": 0.7, "tissue_drift": 0.005})
    worse = SliceFigures(**FIGURES).worse_of(other)
    assert (worse.added_energy_ratio, worse.tissue_drift) == (0.7, -0.01)


def test_fp32_results_are_measured_in_double_precision():
    """The share of a zero-fill is rounding of its fp32 values, not of the transforms."""
    lr = brain_phantom((64, 60)).astype(np.float32)
    assert measure_slice(zero_fill(lr, 2), lr).added_energy_share < 1e-12


def spec_of(name, **changes):
    spec = baseline_spec(name, 2, (16, 16))
    return dataclasses.replace(spec, **changes)


KEPT = {
    "zero-fill": spec_of("zero-fill"),
    "a model with hard consistency": spec_of("m", data_consistency="hard"),
}
FREE = {
    "bicubic": spec_of("bicubic"),
    "a model without": spec_of("m"),
    "a magnitude": spec_of("m", data_consistency="hard", output="magnitude"),
}


@pytest.mark.parametrize("name", KEPT)
def test_whoever_promises_measured_samples_is_held_to_it(name):
    """The baseline too: a transform that went wrong is nobody's opinion."""
    lr = brain_phantom((16, 16)).astype(np.float32) * 900
    good = zero_fill(lr, 2)
    assert check_result(good, lr, KEPT[name]).measured_residual < MEASURED_TOLERANCE
    for harmed in (np.roll(good, 1, axis=0), 1.001 * good, good.T):
        with pytest.raises(SliceFailed, match="measured k-space samples are off by") as caught:
            check_result(np.ascontiguousarray(harmed), lr, KEPT[name])
        assert caught.value.reason == "data-consistency"


@pytest.mark.parametrize("matrix", [(16, 16), (17, 15), (16, 21)])
@pytest.mark.parametrize("upscale", [2, 4])
def test_whoever_promises_magnitudes_is_held_to_them(matrix, upscale):
    """Signs may be anything; a shorter scan of the result would have stored LR all the same."""
    spec = spec_of("m", architecture="dc-residual", upscale=upscale, data_consistency="magnitude")
    lr = brain_phantom(matrix).astype(np.float32) * 900
    signed = np.where(np.random.default_rng(0).random(matrix) < 0.2, -lr, lr)
    wide = (upscale * matrix[0], upscale * matrix[1])
    measured = kspace.fft2c(signed.astype(np.float64)) * kspace.nyquist_gain(matrix)
    image = kspace.ifft2c(kspace.centre_fill(measured, wide)).real * upscale
    finest = 30.0 * (-1.0) ** np.add.outer(*(np.arange(n) for n in wide))
    good = (image + finest).astype(np.float32)
    figures = check_result(good, lr, spec)
    assert figures.measured_residual < 1e-5
    assert figures.added_energy_share > 0.0
    assert kspace.magnitude_residual(1.01 * good, lr) == pytest.approx(0.01, rel=1e-3)
    for harmed in (np.roll(good, 1, axis=0), 1.001 * good, zero_fill(lr + 1.0, upscale)):
        with pytest.raises(SliceFailed, match="measured magnitudes are off by") as caught:
            check_result(np.ascontiguousarray(harmed), lr, spec)
        assert caught.value.reason == "data-consistency"


@pytest.mark.parametrize("name", FREE)
def test_who_promises_nothing_is_measured_and_not_failed(name):
    """Bicubic has changed measured samples; the report tells by how much."""
    lr = brain_phantom((16, 16)).astype(np.float32) * 900
    figures = check_result(1.1 * zero_fill(lr, 2), lr, FREE[name])
    assert figures.measured_residual == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*KEPT, *FREE])
def test_nothing_that_is_no_number_passes(name, value):
    """Whatever was promised, one such sample is an accident."""
    lr = brain_phantom((16, 16)).astype(np.float32)
    sr = zero_fill(lr, 2)
    sr[31, 31] = value
    with pytest.raises(SliceFailed, match="NaN or infinity") as caught:
        check_result(sr, lr, (KEPT | FREE)[name])
    assert caught.value.reason == "non-finite"


def test_a_magnitude_of_negative_values_is_no_result(make_spec):
    """A negative Rescale Slope made a black slice of it, clipped at nothing."""
    lr = brain_phantom((32, 32)).astype(np.float32)
    spec = make_spec("seed-kspace")
    assert spec.output == "magnitude"
    check_result(zero_fill(lr, 2), lr, spec)
    with pytest.raises(SliceFailed, match="the model gives magnitudes") as caught:
        check_result(zero_fill(lr, 2), -lr, spec)
    assert caught.value.reason == "bad-rescale"
    check_result(zero_fill(-lr, 2), -lr, baseline_spec("zero-fill", 2, (32, 32)))


@pytest.mark.parametrize("kind", ["random", "integers", "ramp", "comb", "flat", "one"])
def test_a_percentile_is_numpys_whatever_a_sample_of_it_says(kind):
    """A comb as wide as the sample's step: all that it sees is too large, or too small."""
    rng = np.random.default_rng(5)
    made = {
        "random": rng.random((40, 48)),
        "integers": rng.integers(0, 9, (40, 48)).astype(float),
        "ramp": np.arange(1920.0).reshape(40, 48),
        "comb": np.tile(np.r_[9.0, np.zeros(15)], 120).reshape(40, 48),
        "flat": np.ones((7, 5)),
        "one": np.ones((1, 1)),
    }[kind].astype(np.float32)
    for values in (made, -made):
        expected = np.percentile(values, 99.0)
        assert high_percentile(values, 99.0) == pytest.approx(expected, rel=1e-6)
