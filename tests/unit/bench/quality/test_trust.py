"""Calibrating intervals: the share they hold on what neither regression nor factor has seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from phantom_patients import save_heads

import kspacesr_rt as ks
from kspacesr_rt.bench.quality import trust
from kspacesr_rt.bench.quality.cards import card, write_card
from kspacesr_rt.bench.quality.stamp_results import merged, stamp_stored
from kspacesr_rt.bench.quality.trust import Coverage, as_text, calibrate, coverage_of, means_of
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.model.trust_calibration import TrustCalibration


@pytest.fixture(scope="module")
def fast():
    """Return the smallest shipped model."""
    return load_model(shipped_models()["x4-fast"])


@pytest.fixture(scope="module")
def calibrated(fast, tmp_path_factory):
    """Return what phantoms of six patients give."""
    folder = save_heads(tmp_path_factory.mktemp("trust") / "train", patients=6, noise=0.02)
    return calibrate(fast, [folder], threads=1)


def test_other_patients_lie_within_as_often_as_stated(fast, calibrated, tmp_path):
    """The promise itself, on phantoms alike that nothing was fitted on."""
    folder = save_heads(tmp_path / "others", patients=5, noise=0.02, seed=3)
    found = coverage_of(fast, calibrated, [folder], threads=1)
    assert [one.data for one in found] == ["others"] * 5
    held = means_of(found)["others"]
    assert held["n_series"] == 5
    assert held["lowest"] <= held["tissue"] <= held["highest"]
    assert 0.86 <= held["tissue"] <= 0.94
    # A normal error of one width has a half-width of 1.645 sigma = 2.06 mean errors at 90 %.
    assert 1.8 <= held["width"] <= 4.0


def test_a_wider_interval_holds_more(fast, calibrated, tmp_path):
    """What is measured follows the width, to the ends of the scale."""
    folder = save_heads(tmp_path / "others", patients=2, noise=0.02, seed=5)
    shares = []
    for factor in (1e-6, 0.5, 1.0, 2.0, 1e6):
        scaled = TrustCalibration(
            constant=factor * calibrated.constant, exponents=calibrated.exponents
        )
        shares.append(means_of(coverage_of(fast, scaled, [folder], threads=1))["others"]["tissue"])
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] == 1.0


def test_noise_makes_intervals_wider(calibrated):
    """What is missing of a noisy slice is noise; where nothing else is, the width is of that."""
    lr = brain_phantom((48, 40), seed=1).astype(np.float32)
    noise = 0.05 * np.random.default_rng(0).standard_normal(lr.shape).astype(np.float32)
    with ks.load("x4-fast", backend="ort-cpu", threads=1) as model:
        clean, noisy = (
            trust.half_width(one, model(one), calibrated) for one in (lr, np.abs(lr + noise))
        )
    assert noisy.mean() > clean.mean()
    assert noisy[:8, :8].mean() > 2.0 * clean[:8, :8].mean()  # air


def test_exponents_add_up_to_one(calibrated):
    """So that units do not matter."""
    assert math.fsum(calibrated.exponents.values()) == pytest.approx(1.0, abs=1e-9)
    assert calibrated.coverage == 0.9


def test_one_patient_is_none_to_calibrate_on(fast, tmp_path):
    """Nothing would be left out."""
    folder = save_heads(tmp_path / "alone", patients=1, noise=0.02)
    with pytest.raises(InputError, match="at least two patients"):
        calibrate(fast, [folder], threads=1)


def test_the_regression_finds_a_quantile_that_is_known():
    """Errors that are a power of two features times noise: exponents, and the noise's quantile."""
    rng = np.random.default_rng(0)
    n = 6000
    known = rng.normal(0.0, 1.0, (n, len(trust.TRUST_FEATURES)))
    noise = rng.normal(0.0, 0.5, n)
    errors = 0.3 * known[:, 0] + 0.7 * known[:, 8] + noise
    samples = [trust._Samples(patient="a", logarithms=known, errors=errors)]
    constant, exponents = trust._regression(samples, 0.9)
    assert constant == pytest.approx(0.5 * 1.2816, abs=0.05)
    wanted = np.zeros(len(exponents))
    wanted[[0, 8]] = 0.3, 0.7
    np.testing.assert_allclose(exponents, wanted, atol=0.05)


@pytest.mark.parametrize(
    ("weights", "share", "wanted"),
    [((1, 1, 1, 1), 0.5, 2.0), ((1, 1, 1, 1), 0.9, 4.0), ((9, 1, 1, 1), 0.5, 1.0)],
)
def test_quantiles_follow_weights(weights, share, wanted):
    """A series of many samples counts as much as one of few."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert trust._weighted_quantile(values, np.array(weights, float), share) == wanted


def test_a_file_and_its_card_keep_the_calibration(fast, calibrated, tmp_path):
    """Weights, graph and digests stay; what was measured is in the card."""
    path = tmp_path / "own.onnx"
    path.write_bytes(shipped_models()["x4-fast"].read_bytes())
    found = [Coverage(data="others", series="a", tissue=0.91, slice=0.93, width=2.5)]
    stated = TrustCalibration(
        constant=calibrated.constant, exponents=calibrated.exponents, measured=means_of(found)
    )
    write_card(path, None, trust=stated)
    after = load_model(path)
    assert after.spec.provenance == fast.spec.provenance
    assert after.spec.quality == fast.spec.quality
    assert TrustCalibration.of(after.spec).measured == {
        "others": {
            "tissue": 0.91, "slice": 0.93, "lowest": 0.91, "highest": 0.91, "width": 2.5,
            "n_series": 1.0,
        }
    }  # fmt: skip
    row = "| x4-fast | others | 1 | 90% | 91.0% | 91.0% to 91.0% | 93.0% | 2.5 |"
    assert row in card(after)
    assert row in as_text({"x4-fast": stated})
    assert "intervals of 90%; held inside tissue: others 91.0%" in after.as_text()
    with ks.load(path, backend="ort-cpu", threads=1) as model:
        lr = np.stack([brain_phantom((24, 20), seed=k) for k in range(3)]).astype(np.float32)
        sr, width = model(lr[None], trust=True)
        assert sr.shape == width.shape == (1, 3, 96, 80)
        assert np.array_equal(sr, model(lr[None]))
        one = trust.half_width(lr[2], sr[0, 2], TrustCalibration.of(after.spec))
        np.testing.assert_array_equal(width[0, 2], one)
        empty, none = model(np.empty((0, 24, 20), np.float32), trust=True)
        assert empty.shape == none.shape == (0, 96, 80)


def test_a_baseline_states_nothing():
    """It predicts nothing, and its error was calibrated by nobody."""
    with (
        ks.load(None, backend="zero-fill", upscale=2) as model,
        pytest.raises(InputError, match="'zero-fill' has no trust calibration in its file"),
    ):
        model(np.ones((8, 8), np.float32), trust=True)


def test_stored_calibrations_reach_the_weights_they_were_measured_of(fast, calibrated, tmp_path):
    """A result file restores what a model file states."""
    path = tmp_path / "x4-fast.onnx"
    path.write_bytes(shipped_models()["x4-fast"].read_bytes())
    weights = fast.spec.provenance.weights_sha256
    result = {"weights": {"x4-fast": weights}, "trust": {"x4-fast": calibrated.to_dict()}}
    assert stamp_stored({**result, "weights": {"x4-fast": "0" * 64}}, tmp_path) == []
    assert stamp_stored(result, tmp_path) == ["x4-fast"]
    assert load_model(path).spec.trust == calibrated.to_dict()


def test_a_result_takes_the_newer_figures_of_one_model():
    """The other models' stay, with where each was measured; what was not kept is not added."""
    stored = {
        "environment": {"commit": "old"},
        "weights": {"a": "1", "b": "2"},
        "rows": [{"method": "zero-fill"}, {"method": "a", "v": 1}, {"method": "b", "v": 1}],
        "invention": [{"model": "a", "v": 1}, {"model": "b", "v": 1}],
        "proofs": {"a": {"figures": 1}, "b": {"figures": 1}},
    }
    newer = {
        "environment": {"commit": "new"},
        "weights": {"b": "3"},
        "rows": [{"method": "zero-fill"}, {"method": "b", "v": 2}],
        "invention": [{"model": "b", "v": 2}],
        "proofs": {"b": {"figures": 2, "cases": [1, 2, 3]}},
        "trust": {"b": {}},
    }
    assert merged(stored, newer) == {
        "environment": {"commit": "old"},
        "environments": {"b": {"commit": "new"}},
        "weights": {"a": "1", "b": "3"},
        "rows": [{"method": "zero-fill"}, {"method": "a", "v": 1}, {"method": "b", "v": 2}],
        "invention": [{"model": "a", "v": 1}, {"model": "b", "v": 2}],
        "proofs": {"a": {"figures": 1}, "b": {"figures": 2}},
    }
