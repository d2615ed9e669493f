"""A network of complex k-space from its data to a model file, and what a user sees of each step."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt import kspace
from kspacesr_rt.cli import app
from kspacesr_rt.errors import ResultError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import load_model
from kspacesr_rt.quality import array_contracts
from kspacesr_rt.train.complex_pairs import kspace_crop, smooth_phase


def run(*words: object) -> str:
    shown = CliRunner().invoke(app, [str(word) for word in words])
    assert shown.exit_code == 0, shown.output
    return shown.output


def refused(*words: object) -> str:
    shown = CliRunner().invoke(app, [str(word) for word in words])
    assert shown.exit_code == 2, shown.output
    return " ".join(shown.output.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Magnitudes to train on, and k-space of another scan."""
    folder = tmp_path_factory.mktemp("data")
    image = brain_phantom((112, 108)).astype(np.float32)
    (folder / "images").mkdir()
    np.save(folder / "images" / "phantom.npy", image[None])
    (folder / "raw").mkdir()
    scan = (image * smooth_phase((112, 108), np.random.default_rng(1)))[None]
    np.save(folder / "raw" / "scan.npy", kspace.fft2c(scan).astype(np.complex64))
    return folder


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    run(
        *("train", data / "images", "--raw", data / "raw", "--input", "kspace", "--steps", 2),
        *("--width", 4, "--blocks", 2, "--cascades", 2, "--matrix", 32, "--batch", 1, "--quiet"),
        *("--validation", data / "images", "-o", folder / "net.pt", "--device", "cpu"),
    )
    shown = run("export", folder / "net.pt", "-o", folder / "net.onnx", "--name", "phase")
    assert "parity with PyTorch fp32" in shown
    return folder / "net.onnx"


def test_the_model_keeps_what_was_measured(model):
    image = brain_phantom((40, 36)).astype(np.float32)
    scan = (image * smooth_phase((40, 36), np.random.default_rng(2)))[None]
    lr = kspace_crop(scan, 2)
    with ks.load(model, backend="ort-cpu") as opened:
        assert (opened.spec.input, opened.spec.data_consistency) == ("kspace", "hard")
        assert opened.spec.matrix == (32, 32)
        made = opened(lr)
    assert made.shape == (1, 40, 36)
    centre = kspace.centre_crop(made, (20, 18))
    assert np.abs(centre - 2.0 * lr).max() < 1e-4 * np.abs(lr).max()


def test_a_result_that_moves_them_is_not_returned(model, monkeypatch):
    lr = kspace_crop(brain_phantom((40, 36)).astype(np.complex64)[None], 2)
    monkeypatch.setattr(array_contracts, "require_measured_kspace", _raises)
    with ks.load(model, backend="ort-cpu") as opened, pytest.raises(ResultError, match="moved"):
        opened(lr)


def _raises(results, given):
    from kspacesr_rt.errors import SliceFailed

    assert results.shape[-1] == 2 * given.shape[-1]
    raise SliceFailed("data-consistency", "moved")


def test_it_is_judged_on_kspace_beside_networks_of_images(model, data):
    words = ("evaluate", data / "raw", "--model", model, "--model", "x2-fast", "--json", "-q")
    rows = json.loads(run(*words))["rows"]
    tissue = [row for row in rows if row["convention"] == "tissue"]
    assert [row["method"] for row in tissue] == ["zero-fill", "phase", "x2-fast"]
    assert {row["degradation"] for row in rows} == {"measured-kspace"}
    # Two steps from the start the network adds next to nothing: it is as good as zero-fill.
    zero_fill, ours, _ = (row["quality"]["psnr_db"] for row in tissue)
    assert ours == pytest.approx(zero_fill, abs=0.2)
    assert "sha256:" in tissue[0]["series"]


def test_what_does_not_fit_is_refused(model, data, tmp_path):
    of_images = refused("evaluate", data / "images", "--model", model)
    assert "expected complex k-space (n, ky, kx), found float32" in of_images
    assert "phantom.npy" not in of_images
    proofs = refused("evaluate", data / "raw", "--model", model, "--proofs")
    assert "--proofs and --picture are of networks of images" in proofs
    raw = refused("train", data / "images", "--raw", data / "raw", "-o", tmp_path / "n.pt")
    assert "raw k-space is for a network of k-space" in raw
    infer = refused("infer", data / "images", tmp_path / "out", "--model", model)
    assert "takes k-space" in infer


def test_its_card_says_what_it_is_given(model, data, tmp_path):
    own = shutil.copy(model, tmp_path / "phase.onnx")
    run("evaluate", data / "raw", "--model", own, "--cards", "-q")
    card = (tmp_path / "phase.md").read_text()
    assert "Upscales complex k-space of MR slices by 2" in card
    assert "zero-fill keeps the phase" in card
    assert "takes k-space, and lesions are planted in magnitude images" in card
    assert "without acquired phase" not in card
    assert load_model(own).spec.quality["raw"].keys() >= {"tissue_psnr_db", "zero_fill_psnr_db"}


def test_other_precisions_are_proved_like_any(model, tmp_path):
    narrow = tmp_path / "narrow.onnx"
    run("export", model.with_suffix(".pt"), "-o", narrow, "--precision", "fp16", "-q")
    shown = run("inspect", narrow)
    assert "fp16" in shown
