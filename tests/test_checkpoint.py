"""Reading weights from strangers: ours and the seed's load, everything else is refused in words."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kspacesr_rt.errors import CheckpointError, InputError
from kspacesr_rt.train.checkpoint import (
    FORMAT,
    SCHEMA,
    infer_seed_spec,
    load_checkpoint,
    read_document,
    save_checkpoint,
)
from kspacesr_rt.train.generators import SeedNetwork

HINT = "a checkpoint must hold weights only: save generator.state_dict()"


def seed_weights(channels=2, upscale=2, width=6, bias=True, seed=0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return SeedNetwork(channels, upscale, width, bias=bias).state_dict()


def ours(path: Path, make_generator, **changes: object) -> Path:
    """Write a checkpoint of ours with some top-level entries replaced."""
    generator, spec = make_generator()
    document = {
        "format": FORMAT,
        "schema": SCHEMA,
        "spec": spec.to_json(),
        "state_dict": generator.state_dict(),
        "training": {},
    }
    torch.save(document | changes, path)
    return path


# --- what loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["seed-kspace", "seed-image", "dc-residual"])
def test_a_checkpoint_of_ours_comes_back_whole(make_generator, tmp_path, architecture):
    """Weights, statistics, spectra and specification: the same generator, ready to run."""
    generator, spec = make_generator(architecture, 4)
    path = tmp_path / "new folder" / "run.pt"
    save_checkpoint(path, spec, generator.state_dict(), {"step": 7})
    loaded = load_checkpoint(path)
    assert loaded.spec == spec
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.generator.training
    stored = generator.state_dict()
    assert loaded.generator.state_dict().keys() == stored.keys()
    for key, value in loaded.generator.state_dict().items():
        assert torch.equal(value, stored[key]), key
    assert read_document(path)["training"] == {"step": 7}
    assert [item.name for item in path.parent.iterdir()] == ["run.pt"]


def test_name_and_data_consistency_can_be_overridden(make_generator, tmp_path):
    """`export --name --data-consistency` must reach the specification that travels in the file."""
    generator, spec = make_generator("seed-kspace", 2)
    save_checkpoint(tmp_path / "run.pt", spec, generator.state_dict())
    loaded = load_checkpoint(tmp_path / "run.pt", name="other", data_consistency="additive")
    assert loaded.spec == dataclasses.replace(spec, name="other", data_consistency="additive")
    assert loaded.generator.data_consistency == "additive"


@pytest.mark.parametrize("wrapping", ["bare", "module.", "state_dict", "safetensors"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_seeds_own_weights_load(tmp_path, channels, upscale, bias, wrapping):
    """As people have them: bare, from DataParallel, inside a dict, converted to safetensors."""
    weights = seed_weights(channels, upscale, 6, bias)
    path = tmp_path / "netG_epoch_20.pth"
    if wrapping == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    elif wrapping == "module.":
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    elif wrapping == "state_dict":
        torch.save({"state_dict": weights, "epoch": 20}, path)
    else:
        torch.save(weights, path)
    loaded = load_checkpoint(path)
    spec = loaded.spec
    kspace = channels == 2
    assert (spec.upscale, spec.width, spec.bias, spec.name) == (upscale, 6, bias, "netG_epoch_20")
    assert spec.architecture == ("seed-kspace" if kspace else "seed-image")
    assert spec.image_channels == (1 if kspace else channels)
    assert spec.data_consistency == ("additive" if kspace else "none")
    assert spec.output == ("magnitude" if kspace else "real")
    assert spec.matrix == ((160, 160) if upscale == 2 else (80, 80))
    state = loaded.generator.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert state.keys() == weights.keys()


def test_bare_kspace_weights_bring_their_spectra(tmp_path):
    """Trap 6: h_LR and h_HR are part of the model, so a state dict may carry them along."""
    weights = seed_weights()
    h_lr, h_hr = torch.rand(48, 48) + 0.5, torch.rand(96, 96) + 0.5
    torch.save({**weights, "h_LR": h_lr, "h_HR": h_hr}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert torch.equal(loaded.generator.h_lr.spectrum, h_lr)
    assert torch.equal(loaded.generator.h_hr.spectrum, h_hr)
    assert (loaded.spec.matrix, loaded.notes) == ((48, 48), ())


def test_bare_kspace_weights_get_neutral_spectra(tmp_path):
    """The seed's checkpoint does not hold h_LR and h_HR; a made-up one would change the result."""
    torch.save(seed_weights(), tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth")
    assert "holds no mean spectra (tensors 'h_LR' and 'h_HR')" in loaded.notes[0]
    generator = loaded.generator
    assert generator.h_lr.spectrum.shape == (160, 160)
    assert generator.h_hr.spectrum.shape == (320, 320)
    assert bool((generator.h_lr.spectrum == 1).all())
    assert bool((generator.h_hr.spectrum == 1).all())


def test_half_precision_weights_are_widened(tmp_path):
    """Published weights are often fp16; the reference computation is fp32."""
    half = {key: value.half() if value.is_floating_point() else value for key, value in
            seed_weights().items()}  # fmt: skip
    torch.save(half, tmp_path / "w.pth")
    state = load_checkpoint(tmp_path / "w.pth").generator.network.state_dict()
    assert state["block1.0.weight"].dtype == torch.float32
    assert torch.equal(state["block1.0.weight"], half["block1.0.weight"].float())


# --- what is refused ------------------------------------------------------------------------------


class _Payload:
    """What an attacker puts in a pickle: code that runs when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("style", ["torch", "torch-legacy", "pickle", "inside-ours"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pickled_object_is_refused_and_never_runs(make_generator, tmp_path, style, suffix):
    """A checkpoint from the web must not be able to execute code on a hospital's machine."""
    trap, path = tmp_path / "it-ran", tmp_path / f"evil{suffix}"
    payload = _Payload(trap)
    if style == "pickle":
        path.write_bytes(pickle.dumps({"block1.0.weight": payload}, protocol=2))
    elif style == "inside-ours":
        ours(path, make_generator, training={"optimiser": payload})
    else:
        torch.save({"w": payload}, path, _use_new_zipfile_serialization=style == "torch")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert not trap.exists()
    assert str(caught.value).startswith(f"{path}: not a readable checkpoint: ")
    assert caught.value.hint == HINT
    if style == "pickle":  # the payload is real: plain unpickling does run it
        pickle.loads(path.read_bytes())
        assert trap.exists()


@pytest.mark.parametrize("style", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused_at_every_length(tmp_path, style):
    """A copy that stopped half-way ends in a sentence and exit code 2, never in a traceback."""
    whole, cut = tmp_path / "whole", tmp_path / "cut.pt"
    weights = seed_weights(width=2)
    if style == "safetensors":
        save_file(weights, whole)
        cut = cut.with_suffix(".safetensors")
    else:
        torch.save(weights, whole, _use_new_zipfile_serialization=style == "zip")
    content = whole.read_bytes()
    lengths = {0, 1, 2, 7, 8, 9, 16, 64, len(content) - 1}
    lengths |= set(range(100, len(content), len(content) // 60))
    survivors = []
    for length in sorted(lengths):
        cut.write_bytes(content[:length])
        try:
            load_checkpoint(cut)
            survivors.append(length)
        except CheckpointError as error:
            assert str(error).startswith(f"{cut}: not a readable ")  # noqa: PT017
    assert survivors == []


def test_a_missing_file_is_refused(tmp_path):
    """Python callers get the same error as the command line, with the path in it."""
    with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
        load_checkpoint(tmp_path / "nowhere.pt")
    assert "nowhere.pt" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"hello\n", b"\x80\x02}q\x00.", b"PK\x03\x04", b"{}" * 40])
def test_a_file_of_another_kind_is_refused(tmp_path, content, suffix):
    """Text, an empty pickle, the start of a zip: each is an input error, not an internal one."""
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.") as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 2


def test_a_tensor_alone_is_refused(tmp_path):
    """`torch.save(weight)` instead of `torch.save(state_dict)` is a common slip."""
    torch.save(torch.ones(3), tmp_path / "t.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "t.pt")
    assert str(caught.value) == f"{tmp_path / 't.pt'}: expected a mapping, found Tensor"


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": None}])
def test_a_mapping_without_tensors_is_refused(tmp_path, content):
    """A training log saved beside the weights is easily taken for them."""
    torch.save(content, tmp_path / "log.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "log.pt")
    assert str(caught.value) == f"{tmp_path / 'log.pt'}: holds no tensors"


def test_weights_of_another_network_are_refused_with_the_keys_we_know(tmp_path):
    """The message says which keys a seed checkpoint has, so that a renamed one can be mapped."""
    torch.save({"conv1.weight": torch.ones(4, 2, 3, 3)}, tmp_path / "unet.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "unet.pth")
    assert str(caught.value) == "unet: these weights are neither ours nor the seed network's"
    assert caught.value.hint == (
        "expected keys such as 'block1.0.weight' and 'block8.0.conv.weight'"
    )


def test_a_network_of_another_domain_is_refused():
    """Four channels could be anything: two coils, or an image with alpha."""
    with pytest.raises(CheckpointError) as caught:
        infer_seed_spec(SeedNetwork(4, 2, 6).state_dict(), name="w")
    assert str(caught.value) == "w: a network on 4 channels is neither domain's"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"discriminator.weight": torch.ones(1)}, "unexpected ['network.discriminator.weight']"),
        ({"block5.conv1.weight": None}, "missing ['network.block5.conv1.weight']"),
    ],
    ids=["unexpected", "missing"],
)
def test_seed_weights_with_a_key_too_many_or_too_few_are_refused(tmp_path, change, reason):
    """A missing layer would otherwise stay at its random initial values, silently."""
    weights = {k: v for k, v in (seed_weights() | change).items() if v is not None}
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="weights do not fit 'seed-kspace': missing ") as e:
        load_checkpoint(tmp_path / "w.pth")
    assert reason in str(e.value)


@pytest.mark.parametrize("key", ["block1.1.weight", "block4.conv2.weight", "block8.1.weight"])
def test_seed_weights_of_a_wrong_shape_are_refused(tmp_path, key):
    """A network whose width changes half-way, or with a slope per channel, is not the seed's."""
    weights = seed_weights()
    weights[key] = torch.ones((5, *weights[key].shape[1:]))
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="weights do not fit 'seed-kspace'"):
        load_checkpoint(tmp_path / "w.pth")


def test_our_weights_of_a_wrong_shape_are_refused(make_generator, tmp_path):
    """Weights and specification of two runs in one file do not make a model."""
    other, _ = make_generator("dc-residual", 2, width=8)
    path = ours(tmp_path / "mixed.pt", make_generator, state_dict=other.state_dict())
    with pytest.raises(CheckpointError, match="weights do not fit 'dc-residual'"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(make_generator, tmp_path, value):
    """A run that diverged still writes checkpoints; every image from one would be NaN."""
    generator, spec = make_generator()
    weights = generator.state_dict()
    weights["cascades.0.head.weight"][0, 0, 0, 0] = value
    save_checkpoint(tmp_path / "w.pt", spec, weights)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert str(caught.value) == f"{tmp_path / 'w.pt'}: holds weights that are NaN or infinite"


def test_a_newer_schema_is_refused_with_the_upgrade_command(make_generator, tmp_path):
    """What a newer version stores may not mean what we think it means."""
    path = ours(tmp_path / "w.pt", make_generator, schema=SCHEMA + 1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"{path}: checkpoint schema 2 is newer than 1"
    assert caught.value.hint == "pip install --upgrade kspacesr-rt"


@pytest.mark.parametrize(
    "changes",
    [{"schema": None}, {"schema": "1"}, {"spec": None}, {"spec": "{}"}, {"state_dict": None},
     {"state_dict": []}, {"state_dict": {"head.weight": 3}}],
    ids=str,
)  # fmt: skip
def test_a_damaged_document_of_ours_is_refused(make_generator, tmp_path, changes):
    """The format word is there, the rest is not: exit code 2, not an internal error."""
    path = ours(tmp_path / "w.pt", make_generator, **changes)
    with pytest.raises(InputError, match=r"w\.pt"):
        load_checkpoint(path)


def test_saving_replaces_a_checkpoint_and_leaves_no_half_file(make_generator, tmp_path):
    """Training saves over its last checkpoint; a crash in between must not cost both."""
    generator, spec = make_generator()
    path = tmp_path / "w.pt"
    for name in ("first", "second"):
        named = dataclasses.replace(spec, name=name)
        save_checkpoint(path, named, generator.state_dict())
    assert load_checkpoint(path).spec.name == "second"
    assert list(tmp_path.iterdir()) == [path]
