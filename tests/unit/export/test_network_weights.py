"""Weights as trainers save them: containers, prefixes, other networks beside, and what is wrong."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.export.network_weights import load_weights


def network(width=2):
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


STATE = {
    key: torch.full_like(value, 3) if value.is_floating_point() else value
    for key, value in network().state_dict().items()
}


def under(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "document",
    [
        STATE,
        {**STATE, "epoch": 3},
        {"state_dict": STATE, "epoch": 3},
        {"ema": STATE, "optimizer": {"state": {}}},
        {"a": {"b": {"c": STATE}}},
        under("module."),
        under("_orig_mod.module."),
        {"state_dict": {**under("generator."), "discriminator.weight": torch.zeros(2)}},
        {"params_ema": STATE, "params": under("", {key: v * 2 for key, v in STATE.items()})},
        {key: value for key, value in STATE.items() if "num_batches" not in key},
        {**STATE, "n_averaged": torch.tensor(4)},
    ],
    ids=[
        *("bare", "mixed", "nested", "other-name", "deep", "parallel", "compiled", "gan"),
        *("average", "without-counter", "averaged-model"),
    ],
)
def test_weights_are_found_wherever_a_trainer_put_them(tmp_path, document):
    torch.save(document, tmp_path / "w.pt")
    module = network()
    load_weights(module, tmp_path / "w.pt")
    assert (module[0].weight == 3).all()
    assert (module[1].running_var == 3).all()


def test_safetensors_are_read(tmp_path):
    save_file(under("model."), tmp_path / "w.safetensors")
    module = network()
    load_weights(module, tmp_path / "w.safetensors")
    assert (module[0].weight == 3).all()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "holds no state dictionary"),
        ([torch.ones(1)], "holds no state dictionary"),
        ({**STATE, "extra": torch.ones(1)}, "unexpected: extra"),
        ({k: v for k, v in STATE.items() if k != "0.bias"}, "missing: 0.bias"),
        (network(3).state_dict(), r"of another shape: 0.weight \(3, 1, 1, 1\) for \(2, 1, 1, 1\)"),
        ({"state_dict": under("g.", {**STATE, "extra": torch.ones(1)})}, "unexpected: extra"),
        (
            {"one": STATE, "two": network().state_dict()},
            "several state dictionaries that fit: 'one', 'two'",
        ),
        (
            {"state_dict": {**under("g."), **under("g_ema.", network().state_dict())}},
            r"that fit: 'state_dict' / keys 'g.\*', 'state_dict' / keys 'g_ema.\*'",
        ),
    ],
    ids=["empty", "list", "extra", "missing", "shape", "nested-extra", "two", "two-prefixes"],
)
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path, document, says):
    torch.save(document, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=says) as raised:
        load_weights(network(), tmp_path / "w.pt")
    assert raised.value.hint
    assert "\n" not in f"{raised.value}{raised.value.hint}"


def test_equal_weights_under_two_names_are_no_choice(tmp_path):
    torch.save({"one": STATE, "two": STATE}, tmp_path / "w.pt")
    module = network()
    load_weights(module, tmp_path / "w.pt")
    assert (module[0].weight == 3).all()


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (b"", "is empty", "torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS", "git lfs pull"),
        (b"PK\x03\x04 cut short", "is damaged", "torch.save"),
        (b"weights", "is damaged, or no file that torch.save wrote", "torch.save"),
    ],
    ids=["empty", "pointer", "cut", "text"],
)
def test_a_file_without_weights_says_what_it_is(tmp_path, content, says, hint):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as raised:
        load_weights(network(), tmp_path / "w.pt")
    assert hint in raised.value.hint


def test_a_whole_network_is_not_unpickled(tmp_path):
    """It would run its code."""
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors") as raised:
        load_weights(network(), tmp_path / "w.pt")
    assert "weights_only=False).state_dict()" in raised.value.hint


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_network_is_one_by_itself(tmp_path):
    torch.jit.script(network().eval()).save(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="TorchScript") as raised:
        load_weights(network(), tmp_path / "w.pt")
    assert "torch.jit.load('w.pt')" in raised.value.hint
