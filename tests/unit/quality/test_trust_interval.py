"""Intervals around results: what they follow from, how they scale, what a file states of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kspacesr_rt.errors import InputError, ModelSpecError, ShapeError
from kspacesr_rt.kspace import degrade
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.spec import TRUST_FEATURES, ModelSpec
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.quality.trust_interval import RINGS, features, half_width

SOME = TrustCalibration(
    constant=0.8,
    exponents=dict(
        zip(
            TRUST_FEATURES,
            (0.0, 0.2, 0.1, 0.1, -0.1, -0.2, 0.2, 0.1, 0.1, -0.3, -0.2, 1.0),
            strict=True,
        )
    ),
)
PLAIN = ModelSpec(name="plain", architecture="dc-residual", upscale=2)


def pair(upscale=2, matrix=(96, 80), *, seed=0):
    """Return LR and a result that adds a little beside the edges."""
    hr = brain_phantom(matrix, seed=seed).astype(np.float32)
    lr = degrade(hr, upscale).astype(np.float32)
    filled = zero_fill(lr, upscale)
    return lr, filled + 0.4 * (hr - filled)


@pytest.mark.parametrize(("upscale", "matrix"), [(2, (96, 80)), (4, (96, 80)), (2, (90, 70))])
def test_there_is_a_width_for_every_sample(upscale, matrix):
    """Positive, finite, float32, whatever the upscale and for odd LR matrices too."""
    lr, sr = pair(upscale, matrix)
    width = half_width(lr, sr, SOME)
    assert (width.shape, width.dtype) == (sr.shape, np.float32)
    assert np.isfinite(width).all()
    assert width.min() > 0.0


@pytest.mark.parametrize("factor", [1e-3, 7.0, 4096.0])
def test_widths_scale_with_the_slice(factor):
    """Exponents that add up to 1: units of an image are arbitrary."""
    lr, sr = pair()
    scaled = half_width(np.float32(factor) * lr, np.float32(factor) * sr, SOME)
    np.testing.assert_allclose(scaled, factor * half_width(lr, sr, SOME), rtol=2e-3)


def test_a_slice_of_zeros_has_no_width():
    """Padding slices come with every study."""
    zeros = np.zeros((16, 12), np.float32)
    width = half_width(zeros, np.zeros((32, 24), np.float32), SOME)
    assert not width.any()


def test_features_are_measured_where_they_are():
    """A speck that a model added is seen around it; the slice far from it only in the mean."""
    lr, _ = pair()
    filled = zero_fill(lr, 2)
    speck = filled.copy()
    row, column = 20, 13  # LR
    speck[2 * row, 2 * column] += 0.5
    before, after = features(lr, filled), features(lr, speck)
    assert tuple(after) == TRUST_FEATURES
    changed = after["added"] / before["added"] > 2.0
    assert np.argwhere(changed).tolist() == [[row, column]]
    near = np.argwhere(after["added_3"] / before["added_3"] > 2.0)
    assert near.min(axis=0).tolist() == [row - 1, column - 1]
    assert near.max(axis=0).tolist() == [row + 1, column + 1]
    assert float(after["added"][row, column]) == pytest.approx(0.25, rel=1e-3)  # 0.5 / 2 samples
    assert float(after["added_slice"]) > 2.0 * float(before["added_slice"])
    for name in ("intensity", "edges_3", "diagonal_7", *RINGS):  # of LR alone
        assert np.array_equal(before[name], after[name])


def test_added_detail_is_averaged_around_odd_matrices_samples():
    """Sample 0 of a larger odd grid does not lie on that of the smaller one."""
    lr = np.ones((9, 15), np.float32)
    filled = zero_fill(lr, 2)
    moved = filled.copy()
    moved[8:10, 14:16] += 0.1  # around the image's origin, LR sample (4, 7), is SR (9, 15)
    found = features(lr, moved)["added"]
    assert np.unravel_index(np.argmax(found), found.shape) == (4, 7)


def test_noise_fills_the_rings():
    """White noise has the same energy in each; a smooth slice has none."""
    noise = np.random.default_rng(0).standard_normal((128, 96)).astype(np.float32)
    found = features(noise, zero_fill(noise, 2))
    for name in RINGS:
        assert float(found[name]) == pytest.approx(1.0, rel=0.05)
    rows, columns = np.mgrid[:64, :64] * (2 * np.pi / 64)
    smooth = (2.0 + np.cos(rows) + np.cos(columns)).astype(np.float32)
    found = features(smooth, zero_fill(smooth, 2))
    for name in RINGS:
        assert float(found[name]) < 1e-5 * float(found["intensity"])


def test_widths_are_linear_between_lr_samples():
    """And are those of the LR samples where SR samples lie on them; an axis may have one."""
    lr, sr = pair()
    width = half_width(lr, sr, SOME)
    found = features(lr, sr)
    logarithm = sum(SOME.exponents[name] * np.log(found[name]) for name in TRUST_FEATURES)
    np.testing.assert_allclose(width[::2, ::2], SOME.constant * np.exp(logarithm), rtol=1e-5)
    between = (width[:-1:2, :-2:2] + width[:-1:2, 2::2]) / 2
    np.testing.assert_allclose(width[:-1:2, 1:-2:2], between, rtol=1e-5)
    line = half_width(np.ones((1, 8), np.float32), np.ones((2, 16), np.float32), SOME)
    assert line.shape == (2, 16)
    np.testing.assert_allclose(line[0], line[1])


@pytest.mark.parametrize("shape", [(32, 25), (16, 12, 1), (33, 24), (0, 0)])
def test_slices_that_do_not_belong_together_are_refused(shape):
    """A transposed result, or that of another slice, would give widths of nothing."""
    with pytest.raises(ShapeError, match="expected one LR and one SR slice"):
        features(np.ones((16, 12), np.float32), np.ones(shape, np.float32))


def test_a_specification_keeps_a_calibration():
    """Six digits each, and still a sum of 1, so that it scales exactly."""
    odd = {name: value + 1e-9 for name, value in SOME.exponents.items()}
    calibration = dataclasses.replace(
        SOME,
        constant=1.23456789,
        exponents=odd,
        measured={"evaluation": {"tissue": 0.912345, "slice": 0.9}},
    )
    spec = dataclasses.replace(PLAIN, trust=calibration.to_dict())
    found = TrustCalibration.of(ModelSpec.from_json(spec.to_json()))
    assert found.constant == 1.23457
    assert sum(found.exponents.values()) == pytest.approx(1.0, abs=1e-12)
    assert found.measured == {"evaluation": {"tissue": 0.9123, "slice": 0.9}}
    assert found.as_text() == "intervals of 90%; held inside tissue: evaluation 91.2%"


def test_a_model_without_a_calibration_is_refused_in_a_sentence():
    """With what to type."""
    with pytest.raises(InputError) as caught:
        TrustCalibration.of(PLAIN)
    assert str(caught.value) == "model 'plain' has no trust calibration in its file"
    assert caught.value.hint is not None
    assert "kspacesr-rt trust" in caught.value.hint


STORED = SOME.to_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"constant": 0.0}, "constant 0.0 is not possible"),
        ({"constant": float("inf")}, "constant inf is not possible"),
        ({"coverage": 1.0}, "coverage 1.0 is not possible"),
        ({"coverage": "much"}, "coverage 'much' is not possible"),
        ({"exponents": {"intensity": 1.0}}, "other exponents than those of"),
        ({"exponents": STORED["exponents"] | {"intensity": 3.0}}, "do not add up to 1"),
        ({"exponents": STORED["exponents"] | {"added": "x"}}, "an exponent that is no number"),
        ({"measured": {"evaluation": {"tissue": "most"}}}, "a measured share that is no number"),
        ({"measured": [1]}, "a measured share that is no number"),
        ({"another": 1}, "trust holds another"),
    ],
)
def test_a_specification_with_an_impossible_calibration_is_refused(change, words):
    """Widths that follow from damage would be believed."""
    with pytest.raises(ModelSpecError, match=words):
        dataclasses.replace(PLAIN, trust=STORED | change)
    with pytest.raises(ModelSpecError, match="trust holds constant"):
        dataclasses.replace(PLAIN, trust={"constant": 1.0})
