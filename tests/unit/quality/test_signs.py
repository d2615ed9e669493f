"""Results whose LR signs were predicted are compared under one set of signs, and no further."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kspacesr_rt import kspace
from kspacesr_rt.conversion.parity import TIERS, Case, compare, failures_of
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.quality.signs import with_signs_of
from kspacesr_rt.runtime.self_test import REQUIRED_DB, SIGN_SHARE, verify_model


def resolved(signed: np.ndarray, upscale: int, seed: int = 0) -> np.ndarray:
    """Make a SR slice that holds signed LR samples, and something outside their band."""
    wide = (upscale * signed.shape[0], upscale * signed.shape[1])
    measured = kspace.fft2c(signed) * kspace.nyquist_gain(signed.shape)
    image = kspace.ifft2c(kspace.centre_fill(measured, wide)).real * upscale
    spectrum = kspace.fft2c(0.02 * np.random.default_rng(seed).standard_normal(wide))
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in wide)
    inside = (rows[:, None] <= signed.shape[0] // 2) & (columns <= signed.shape[1] // 2)
    return image + kspace.ifft2c(np.where(inside, 0.0, spectrum)).real


@pytest.mark.parametrize("matrix", [(24, 24), (25, 22), (23, 27)])
@pytest.mark.parametrize("upscale", [2, 4])
def test_a_flipped_sample_is_counted_and_turned_back(matrix, upscale):
    """Everything else of the result stays what it is, its other errors too."""
    lr = brain_phantom(matrix).astype(np.float64) + 0.01
    flipped = lr.copy()
    flipped[5, 7] *= -1.0
    flipped[0, 0] *= -1.0
    reference, result = resolved(lr, upscale), resolved(flipped, upscale)
    assert np.abs(result - reference).max() > 0.01
    aligned, share = with_signs_of(result, reference, matrix)
    assert share == pytest.approx(2 / lr.size)
    np.testing.assert_allclose(aligned, reference, atol=1e-6)
    wrong = result + 0.1 * resolved(lr, upscale, seed=1)
    aligned, _ = with_signs_of(wrong, reference, matrix)
    assert np.abs(aligned - reference).max() > 0.05
    same, none = with_signs_of(reference, reference, matrix)
    assert none == 0.0
    np.testing.assert_array_equal(same, reference)


def test_samples_next_to_nothing_have_no_sign():
    """In air that is all zero rounding decides, and nobody sees it."""
    lr = np.zeros((24, 24))
    lr[6:18, 6:18] = 1.0
    noise = 1e-6 * np.random.default_rng(0).standard_normal(lr.shape)
    _, share = with_signs_of(resolved(lr + noise, 2), resolved(lr - noise, 2), (24, 24))
    assert share == 0.0


def test_the_gate_forgives_a_few_signs_and_nothing_else():
    """A handful of ties in a hundred thousand; a wrong network is still wrong, flips or not."""
    hr = brain_phantom((256, 256)).astype(np.float64)
    lr = kspace.degrade(hr, 2)
    case = Case(name="phantom", hr=hr.astype(np.float32), lr=lr.astype(np.float32))
    few, many = lr.copy(), lr.copy()
    few[60, 60:62] *= -1.0
    many[40:48] *= -1.0
    reference = resolved(lr, 2)
    exact = TIERS["exact"]
    assert failures_of(compare(case, reference, resolved(few, 2)), exact)
    good = compare(case, reference, resolved(few, 2), signs_predicted=True)
    assert 0.0 < good.sign_share < exact.sign_share
    assert failures_of(good, exact) == []
    told = failures_of(compare(case, reference, resolved(many, 2), signs_predicted=True), exact)
    assert len(told) == 1
    assert told[0].startswith("phantom: share of other signs ")
    wrong = resolved(few, 2) + 0.01 * resolved(lr, 2, seed=3)
    assert failures_of(compare(case, reference, wrong, signs_predicted=True), exact)


def test_verification_has_the_gates_limits():
    """What was let through at export must verify everywhere, and no more than that."""
    tiers = {"fp32": "exact", "fp16": "fast", "bf16": "fast", "int8": "max", "fp8": "max"}
    assert {name: TIERS[tier].sign_share for name, tier in tiers.items()} == SIGN_SHARE
    assert set(SIGN_SHARE) == set(REQUIRED_DB)


def test_a_model_that_predicts_signs_verifies_with_one_tie_decided_otherwise(
    make_generator, make_model
):
    """And not with a wrong answer: signs excuse nothing else."""
    generator, spec = make_generator("dc-residual", 2, data_consistency="magnitude")
    model = make_model(generator, spec)
    assert verify_model(model, "ort-cpu").passed
    answer = model.known_answer()
    matrix = answer.lr.shape
    band = kspace.centre_crop(kspace.fft2c(answer.sr.astype(np.float64)), matrix)
    signed = kspace.ifft2c(band).real / 2
    place = np.unravel_index(np.argmax(answer.lr), matrix)
    flip = np.zeros(matrix)
    flip[place] = -2.0 * signed[place]
    wide = answer.sr.shape
    filled = kspace.centre_fill(kspace.fft2c(flip) * kspace.nyquist_gain(matrix), wide)
    change = kspace.ifft2c(filled).real * 2
    told = dataclasses.replace(answer, sr=(answer.sr + change).astype(np.float32))
    other = dataclasses.replace(answer, sr=(answer.sr * 1.001).astype(np.float32))
    for changed, passes in ((told, 1 / answer.lr.size <= SIGN_SHARE["fp32"]), (other, False)):
        proto = type(model.proto)()
        proto.CopyFrom(model.proto)
        for item in proto.metadata_props:
            if item.key.endswith("known_answer"):
                item.value = changed.to_json()
        assert verify_model(dataclasses.replace(model, proto=proto), "ort-cpu").passed == passes
