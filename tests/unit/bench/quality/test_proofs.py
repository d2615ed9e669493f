"""Proofs that added detail is real find what is real, what is lost and what is made up."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest

from kspacesr_rt.bench.quality.cards import stamp, write_card
from kspacesr_rt.bench.quality.evaluation import QualityRow
from kspacesr_rt.bench.quality.proofs.acr import ARRAYS, acr_cases, find_insert, is_nearer
from kspacesr_rt.bench.quality.proofs.lesions import DIAMETERS, lesion_cases
from kspacesr_rt.bench.quality.proofs.measure import (
    PREFIX,
    Proofs,
    SliceProof,
    as_text,
    measure_proofs,
)
from kspacesr_rt.bench.quality.proofs.noise_ceiling import ceiling_case, missed_noise
from kspacesr_rt.bench.quality.proofs.ring_correlation import ring_correlation
from kspacesr_rt.bench.quality.proofs.segmentation import classes, mean_dice
from kspacesr_rt.bench.quality.stamp_results import stamp_stored
from kspacesr_rt.errors import TrainingDataError
from kspacesr_rt.kspace import degrade
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import Quality

MATRIX = (128, 128)


@pytest.fixture(scope="module")
def hr():
    """Return a head with texture, maximum 1."""
    phantom = brain_phantom(MATRIX, seed=3)
    return (phantom / phantom.max()).astype(np.float32)


@pytest.fixture(scope="module")
def filled(hr):
    """Return what zero-filling makes of its LR."""
    return zero_fill(degrade(hr, 2).astype(np.float32), 2)


@functools.cache
def acr_slice(n=512):
    """Return slice 1 of a phantom, as the guidance draws it: a disc, an insert, holes in pairs."""
    y, x = np.indices((n, n)) * (256 / n)
    image = np.where(np.hypot(y - 128, x - 128) < 97, 1.0, 0.01)
    image[(abs(y - 128) < 58) & (abs(x - 168) < 23)] = 0.02
    image[(abs(y - 80) < 5) & (abs(x - 165) < 5)] = 1.0
    for name, (first, last) in ARRAYS.items():
        pitch = 2 * float(name.split()[0]) * 194 / 190
        top = 70 + (first + last) / 2 * 116 - 1.5 * pitch
        for row in range(4):
            for column in range(4):
                at = np.hypot(y - top - pitch * row, x - 164 - pitch * column)
                image[at < pitch / 4] = 0.6
    image = image.astype(np.float32)
    image.flags.writeable = False
    return image


def test_all_patches_of_hr_itself_correlate(hr, filled):
    """The truth never fails; an image without the outer band fails beyond it, or at its edge."""
    truth = ring_correlation(hr, hr)
    assert len(truth.cutoffs) > 4
    assert set(truth.cutoffs) == {1.0}
    assert truth.below(1.0) == 0.0
    other = ring_correlation(filled, hr)
    assert len(other.cutoffs) == len(truth.cutoffs)
    assert np.median(other.cutoffs) < 0.9


def test_a_patch_that_was_replaced_fails_inside_the_measured_band(hr):
    """What a scan measured there, and a network took away, is what this is for."""
    replaced = hr.copy()
    replaced[48:80, 48:80] = hr[48:80, 48:80].mean()
    rng = np.random.default_rng(0)
    replaced[48:80, 48:80] += 0.1 * rng.standard_normal((32, 32)).astype(np.float32)
    assert ring_correlation(replaced, hr).below(0.5) > ring_correlation(hr, hr).below(0.5)


def test_classes_are_the_clusters_there_are():
    """Three intensities, three classes, the darkest first."""
    values = np.repeat([0.1, 0.5, 0.9], 50) + np.tile([-0.01, 0.01], 75)
    assert np.array_equal(classes(values), np.repeat([0, 1, 2], 50))


def test_dice_is_one_of_hr_itself_and_less_of_a_blurred_one(hr, filled):
    """A segmentation that moves its borders loses overlap."""
    assert mean_dice(hr, hr) == 1.0
    assert mean_dice(filled, hr) < 1.0


def test_the_noise_of_what_was_missed_is_found(hr):
    """Smooth tissue and white noise: three quarters of its power lie outside the LR band."""
    rng = np.random.default_rng(1)
    y, x = (np.arange(n) - n // 2 for n in MATRIX)
    smooth = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 20.0**2))
    noise = 0.01 * rng.standard_normal((6, *MATRIX))
    found = missed_noise((smooth + noise).astype(np.float32), 2)
    assert found == pytest.approx(0.75e-4, rel=0.1)
    assert missed_noise(np.stack([smooth] * 6).astype(np.float32), 2) is None


def test_a_gain_is_a_share_of_what_noise_leaves():
    """An oracle that predicts all but the noise reaches the ceiling."""
    rng = np.random.default_rng(2)
    y, x = (np.arange(n) - n // 2 for n in MATRIX)
    smooth = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 20.0**2))
    truth = 1.0 + smooth * (1.0 + 0.2 * np.cos(2 * np.pi * 0.35 * x))  # beyond LR's band, along x
    noise = 0.02 * rng.standard_normal((4, *MATRIX))
    hr = (truth + noise).astype(np.float32)
    base = zero_fill(degrade(hr, 2).astype(np.float32), 2)
    known = zero_fill(degrade((1.0 + noise).astype(np.float32), 2).astype(np.float32), 2) - 1.0
    case = ceiling_case("s", (truth + known).astype(np.float32), base, hr, 2)
    assert case.ceiling_db is not None
    assert case.ceiling_db > 2.0
    assert case.share == pytest.approx(1.0, abs=0.15)
    assert ceiling_case("s", base, base, hr, 2).share == 0.0


def test_zero_filling_keeps_what_zero_filling_keeps(hr):
    """The same network on both sides of the comparison is equal, and makes nothing up."""
    cases = lesion_cases(hr, lambda lr: zero_fill(lr, 2), 2)
    assert {one.diameter for one in cases} == set(DIAMETERS)
    for one in cases:
        assert one.kept == pytest.approx(one.zero_fill_kept, rel=1e-4)
        assert not one.is_made_up
    kept = {size: np.median([c.kept for c in cases if c.diameter == size]) for size in DIAMETERS}
    assert kept[1.0] < kept[3.0] <= 1.1  # a small one is blurred away


def test_a_network_that_adds_a_blob_is_found_out(hr):
    """One bright disc in the flattest tissue, whatever was measured there."""
    spots = []

    def look(lr):
        spots.append(lr)
        return zero_fill(lr, 2)

    lesion_cases(hr, look, 2)
    planted = np.abs(zero_fill(spots[0], 2) - zero_fill(spots[1], 2))
    y, x = np.unravel_index(planted.argmax(), planted.shape)

    def makes_up(lr):
        sr = zero_fill(lr, 2).copy()
        sr[y - 2 : y + 3, x - 2 : x + 3] += 0.5
        return sr

    assert any(one.is_made_up for one in lesion_cases(hr, makes_up, 2))


def test_a_network_that_blurs_loses_lesions(hr):
    """Half of every difference from the mean: half of the contrast."""
    cases = lesion_cases(hr, lambda lr: 0.5 * zero_fill(lr, 2), 2)
    assert all(one.kept == pytest.approx(0.5 * one.zero_fill_kept, rel=1e-4) for one in cases)


@pytest.mark.matrix(strength=1)
@pytest.mark.parametrize("turned", [False, True], ids=["upright", "lying"])
@pytest.mark.parametrize("flipped", [False, True], ids=["first", "last"])
def test_the_insert_is_found_however_it_lies(turned, flipped):
    """DICOM and NIfTI turn it differently, and some phantoms lie the other way round."""
    image = acr_slice()
    image = image[::-1] if flipped else image
    image = image.T if turned else image
    box = find_insert(image)
    assert box is not None
    extents = [one.stop - one.start for one in box]
    assert sorted(extents) == pytest.approx([90, 231], abs=6)
    volume = np.stack([image, 0 * image])
    cases = acr_cases("s", volume, lambda lr: image / image.max(), 2)
    assert [one.array for one in cases] == list(ARRAYS)
    assert all(one.hr > 0.05 for one in cases)
    assert all(one.hr_resolved for one in cases)


def test_the_truth_is_nearer_than_zero_filling_and_nothing_is_made_up():
    """The best network there can be."""
    image = acr_slice()
    cases = acr_cases("s", image[None], lambda lr: image / image.max(), 2)
    assert is_nearer(cases)
    assert not any(one.is_made_up for one in cases)
    same = acr_cases("s", image[None], lambda lr: zero_fill(lr, 2), 2)
    assert not is_nearer(same)


def test_an_array_that_hr_does_not_resolve_is_found_out():
    """Four sharp holes in a line, drawn by a network that knows phantoms."""
    image = acr_slice()
    blurred = zero_fill(degrade(image, 4).astype(np.float32), 4)
    cases = acr_cases("s", blurred[None], lambda lr: image / image.max(), 2)
    assert not any(one.hr_resolved for one in cases)
    assert all(one.is_made_up for one in cases)


def test_what_is_no_phantom_is_refused(hr):
    """Figures of a head would look like figures."""
    assert find_insert(hr) is None
    with pytest.raises(TrainingDataError, match="no resolution insert"):
        acr_cases("s", np.stack([hr, hr]), lambda lr: zero_fill(lr, 2), 2)


def without_proofs(bounds):
    """Return what a model file keeps beside the proofs that it was shipped with."""
    return {name: value for name, value in bounds.items() if not name.startswith(PREFIX)}


def test_figures_go_into_the_file_and_its_card(tmp_path):
    """A card is written from the file alone; bounds that are there already stay."""
    path = shutil.copy(shipped_models()["x2-fast"], tmp_path / "x2-fast.onnx")
    before = without_proofs(load_model(path).spec.bounds)
    proof = SliceProof(
        series="s",
        cutoff=0.6,
        zero_fill_cutoff=0.5,
        below=0.01,
        zero_fill_below=0.02,
        dice=0.95,
        zero_fill_dice=0.92,
    )
    proofs = Proofs(model="x2-fast", upscale=2, slices=(proof,))
    text = write_card(path, None, proofs=proofs.figures()).read_text()
    section = text.split("## Proof that detail is real")[1].split("\n## ")[0]
    assert "| patches that fail inside the measured band | 1.0% | 2.0% |" in section
    assert "| tissue classes, Dice with HR's | 0.9500 | 0.9200 |" in section
    assert "ACR" not in section.replace("--acr", "")
    kept = load_model(path).spec.bounds
    assert kept == before | proofs.figures()
    assert stamp(path, None).spec.bounds == kept
    assert "| 1.0% | 2.0% |" in as_text([proofs])


def test_stored_figures_reach_the_weights_they_were_measured_of(tmp_path):
    """Another model of the same name stays as it is."""
    for name in ("x2-fast", "x4-fast"):
        shutil.copy(shipped_models()[name], tmp_path / f"{name}.onnx")
    other = (tmp_path / "x4-fast.onnx").read_bytes()
    before = load_model(tmp_path / "x2-fast.onnx").spec
    result = {
        "proofs": {
            "x2-fast": {
                "weights_sha256": before.provenance.weights_sha256,
                "figures": {"proof_dice": 0.95, "proof_zero_fill_dice": 0.9},
            },
            "x4-fast": {"weights_sha256": "0" * 64, "figures": {"proof_dice": 0.1}},
        },
        "limits": {"x2-fast": {"limits": {"smallest_snr": 5.5, "body_parts": ["HEAD"]}}},
    }
    assert stamp_stored(result, tmp_path) == ["x2-fast"]
    after = load_model(tmp_path / "x2-fast.onnx").spec
    assert after.limits == {"smallest_snr": 5.5, "body_parts": ["HEAD"]}
    assert after.bounds == without_proofs(before.bounds) | result["proofs"]["x2-fast"]["figures"]
    assert after.quality == before.quality
    assert "SNR from 5.5; body parts HEAD" in (tmp_path / "x2-fast.md").read_text()
    assert (tmp_path / "x4-fast.onnx").read_bytes() == other


def test_stored_quality_reaches_the_weights_it_was_measured_of(tmp_path):
    """Bounds and limits stay; a result of other weights changes nothing."""
    shutil.copy(shipped_models()["x2-fast"], tmp_path / "x2-fast.onnx")
    before = load_model(tmp_path / "x2-fast.onnx").spec
    row = QualityRow(
        data="mine",
        series="one",
        method="x2-fast",
        upscale=2,
        n_slices=3,
        quality=Quality(mae=0.01, psnr_db=33.0, ssim=0.9),
        convention="tissue",
    )
    rows = [dataclasses.asdict(row), dataclasses.asdict(row) | {"method": "zero-fill"}]
    other = {"weights": {"x2-fast": "0" * 64}, "rows": rows}
    assert stamp_stored(other, tmp_path) == []
    assert load_model(tmp_path / "x2-fast.onnx").spec == before
    result = {"weights": {"x2-fast": before.provenance.weights_sha256}, "rows": rows}
    assert stamp_stored(json.loads(json.dumps(result)), tmp_path) == ["x2-fast"]
    after = load_model(tmp_path / "x2-fast.onnx").spec
    assert after.quality["mine"]["tissue_psnr_db"] == 33.0
    assert (after.bounds, after.limits) == (before.bounds, before.limits)


def test_every_proof_of_a_shipped_model_on_a_head(hr, tmp_path):
    """From a folder to figures; of the phantom only where one is given."""
    pytest.importorskip("onnxruntime")
    np.save(tmp_path / "head.npy", np.stack([hr, hr]))
    model = load_model(shipped_models()["x2-fast"])
    found = measure_proofs(model, [tmp_path], threads=1)
    figures = found.figures()
    assert figures["proof_n_slices"] == len(found.slices) >= 1
    assert figures["proof_lesions"] == len(found.lesions) > 0
    assert not [name for name in figures if "acr" in name]
    assert 0.0 < figures["proof_dice"] <= 1.0
