"""Starting from trained weights: what export wrote comes back as it was trained, or is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from kspacesr_rt.errors import CheckpointError, InputError
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.train.averaging import average_with_start
from kspacesr_rt.train.checkpoint import load_checkpoint, save_checkpoint
from kspacesr_rt.train.generators import build_generator
from kspacesr_rt.train.initial_weights import read_start, start_from

RECOVERED_DB = 120.0
"""Of a generator in PyTorch, beside what its model file says it gave before export: rounding is
above 140 dB."""


def answer_of(generator, lr):
    with torch.inference_mode():
        return generator(torch.from_numpy(lr)[None, None])[0, 0].numpy()


@pytest.fixture
def written(make_generator, make_model, tmp_path):
    """``written(**spec_fields) -> (generator, spec, path of its model file)``."""

    def write(architecture="dc-residual", **fields):
        generator, spec = make_generator(architecture, 2, **fields)
        path = tmp_path / f"{spec.name}.onnx"
        onnx.save(make_model(generator, spec).proto, path)
        return generator, spec, path

    return write


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_a_shipped_model_can_be_trained_on(name):
    """The checkpoints are not kept: their weights come from the files that are shipped."""
    start = read_start(name)
    generator = build_generator(start.spec).eval()
    assert start_from(start, generator, start.spec) == ()
    model = load_model(shipped_models()[name])
    answer = model.known_answer()
    found = psnr_between(answer_of(generator, answer.lr), answer.sr, float(answer.sr.max()))
    assert found > RECOVERED_DB
    digest = model.spec.provenance.weights_sha256
    assert start.origin == f"{name} (weights sha256 {digest[:16]})"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("consistency", ["hard", "magnitude"])
def test_a_model_file_gives_back_every_weight(written, bias, consistency):
    """Slopes too, which export makes attributes of nodes."""
    generator, spec, path = written(bias=bias, data_consistency=consistency, cascades=2, blocks=3)
    start = read_start(str(path))
    assert start.weights.keys() == generator.state_dict().keys()
    for key, value in generator.state_dict().items():
        assert torch.equal(start.weights[key], value), key
    assert start.spec.name == spec.name


def test_a_checkpoint_is_as_good(make_generator, tmp_path):
    """Named by its digest, since a checkpoint has no name that is its own."""
    generator, spec = make_generator("dc-residual", 2)
    save_checkpoint(tmp_path / "run.pt", spec, generator.state_dict())
    start = read_start(str(tmp_path / "run.pt"))
    fresh = build_generator(spec).eval()
    assert start_from(start, fresh, spec) == ()
    lr = np.random.default_rng(0).random((16, 12), dtype=np.float32)
    assert np.array_equal(answer_of(fresh, lr), answer_of(generator, lr))
    assert start.origin.startswith(f"{spec.name} (checkpoint sha256 ")


def test_signs_that_are_new_change_nothing_at_first(make_generator, tmp_path):
    """All are positive; a magnitude model takes Nyquist lines whole, so LR has none here."""
    generator, spec = make_generator("dc-residual", 2, cascades=2, blocks=2)
    save_checkpoint(tmp_path / "run.pt", spec, generator.state_dict())
    wanted = dataclasses.replace(spec, data_consistency="magnitude")
    signed = build_generator(wanted).eval()
    new = start_from(read_start(str(tmp_path / "run.pt")), signed, wanted)
    assert new == ("sign_heads.0.weight", "sign_heads.1.weight")
    lr = np.random.default_rng(0).random((15, 13), dtype=np.float32)  # odd: no Nyquist lines
    assert np.allclose(answer_of(signed, lr), answer_of(generator, lr), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 8}, "width 4, not 8"),
        ({"upscale": 4}, "upscale 2, not 4"),
        ({"bias": True, "blocks": 3}, "blocks 2, not 3, bias False, not True"),
        ({"data_consistency": "none"}, "data_consistency 'hard', not 'none'"),
    ],
)
def test_another_network_cannot_be_started_from(make_generator, tmp_path, changed, message):
    """Weights that fit by chance, or in part, are not what was asked for."""
    generator, spec = make_generator("dc-residual", 2, width=4, blocks=2)
    save_checkpoint(tmp_path / "run.pt", spec, generator.state_dict())
    wanted = dataclasses.replace(spec, **changed)
    with pytest.raises(CheckpointError, match=message) as caught:
        start_from(read_start(str(tmp_path / "run.pt")), build_generator(wanted), wanted)
    assert caught.value.hint == "repeat its options, or take its recipe"


def test_signs_are_not_thrown_away(make_generator, tmp_path):
    """A run with hard consistency would start from something else than what was named."""
    generator, spec = make_generator("dc-residual", 2, data_consistency="magnitude")
    save_checkpoint(tmp_path / "run.pt", spec, generator.state_dict())
    wanted = dataclasses.replace(spec, data_consistency="hard")
    with pytest.raises(CheckpointError, match="data_consistency 'magnitude', not 'hard'"):
        start_from(read_start(str(tmp_path / "run.pt")), build_generator(wanted), wanted)


def test_a_folded_network_is_refused(written):
    """Export folds normalisation into convolutions: what was trained cannot be told from it."""
    _, _, path = written("seed-kspace")
    with pytest.raises(CheckpointError, match="does not hold weights as they are trained") as found:
        read_start(str(path))
    assert found.value.hint == "start from the checkpoint that it was exported from"


def test_an_unknown_name_lists_the_shipped_models():
    """As every command does that takes a model."""
    with pytest.raises(InputError, match="no model file 'x2-slow'") as caught:
        read_start("x2-slow")
    assert "x2-fast" in caught.value.hint


def test_the_mean_of_a_run_and_its_start_lies_half_way(make_generator, written, tmp_path):
    """Every weight, from a model file or a checkpoint; the file says what it is a mean with."""
    began, _, start = written()
    end, spec = make_generator("dc-residual", 2)
    with torch.no_grad():
        for weight in end.parameters():
            weight.add_(torch.randn_like(weight))
    save_checkpoint(tmp_path / "end.pt", spec, end.state_dict())
    stated = average_with_start(tmp_path / "end.pt", str(start), tmp_path / "mean.pt")
    found = load_checkpoint(tmp_path / "mean.pt")
    assert found.spec == stated
    assert stated.name == spec.name
    origin = read_start(str(start)).origin
    assert stated.provenance.training.endswith(f"; mean of these weights and those of {origin}")
    first, last = began.state_dict(), end.state_dict()
    for key, value in found.generator.state_dict().items():
        assert torch.allclose(value, (first[key] + last[key]) / 2, atol=1e-6), key
        assert not torch.allclose(value, first[key], atol=1e-6), key


def test_different_networks_have_no_mean(make_generator, written, tmp_path):
    """Of another width, or with heads that the start does not have."""
    _, _, start = written(cascades=1, blocks=2)
    for fields in ({"cascades": 2, "blocks": 2}, {"blocks": 2, "data_consistency": "magnitude"}):
        generator, spec = make_generator("dc-residual", 2, **fields)
        save_checkpoint(tmp_path / "end.pt", spec, generator.state_dict())
        with pytest.raises(CheckpointError, match=r"end\.pt and .* are different networks"):
            average_with_start(tmp_path / "end.pt", str(start), tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()
