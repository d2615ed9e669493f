"""Reading weights from strangers: ours and the seed's load, everything else is refused in words."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kspacesr_rt.errors import CheckpointError, InputError
from kspacesr_rt.model.spec import NEW_IN
from kspacesr_rt.train.checkpoint import (
    FORMAT,
    SCHEMA,
    SpecOverrides,
    infer_seed_spec,
    load_checkpoint,
    save_checkpoint,
)
from kspacesr_rt.train.generators import SeedNetwork, build_generator
from kspacesr_rt.train.options import TrainingOptions
from kspacesr_rt.train.untrusted_checkpoint import read_document

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


@pytest.mark.matrix
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


# --- how trainers wrap weights --------------------------------------------------------------------


def with_prefix(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in weights.items()}


WRAPPINGS = {
    "data parallel": lambda w: with_prefix("module.", w),
    "compiled": lambda w: with_prefix("_orig_mod.", w),
    "compiled, then parallel": lambda w: with_prefix("_orig_mod.module.", w),
    "parallel, then compiled": lambda w: with_prefix("module._orig_mod.", w),
    "wrapped twice": lambda w: with_prefix("module._orig_mod.module.", w),
    "layers compiled": lambda w: {k.replace("block8.", "block8._orig_mod."): w[k] for k in w},
    "tutorial": lambda w: {
        "epoch": 3,
        "model_state_dict": w,
        "optimizer_state_dict": {"state": {}},
    },
    "model": lambda w: {"model": w, "args": {"lr": 1e-4}},
    "generator": lambda w: {"generator": w, "discriminator": {"net.0.weight": torch.ones(2)}},
    "netG": lambda w: {"netG": with_prefix("module.", w)},
    "net_g in lightning": lambda w: {"state_dict": with_prefix("net_g.", w)},
    "lightning": lambda w: {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": with_prefix("generator.", w) | {"discriminator.net.0.weight": torch.ones(1)},
    },
    "lightning, compiled": lambda w: {"state_dict": with_prefix("model._orig_mod.", w)},
    "ema of basicsr": lambda w: {"params_ema": w},
    "params": lambda w: {"params": w},
    "state_dict": lambda w: {"state_dict": w},
    "twice": lambda w: {"model": {"state_dict": with_prefix("module.", w)}},
    "averaged by torch": lambda w: with_prefix("module.", w) | {"n_averaged": torch.tensor(3)},
    "average in lightning": lambda w: {
        "state_dict": with_prefix("ema.module.", w) | {"ema.n_averaged": torch.tensor(3)}
    },
    "an unusual name": lambda w: {"saved_at_noon": w},
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_load_however_a_trainer_wrapped_them(tmp_path, wrapping, suffix):
    """The same network, whatever stood around it; safetensors hold prefixes only."""
    weights = seed_weights()
    document = WRAPPINGS[wrapping](weights)
    path = tmp_path / f"run{suffix}"
    if suffix == ".safetensors":
        if not all(isinstance(value, torch.Tensor) for value in document.values()):
            document = with_prefix("generator.module.", weights)
        save_file(document, path)
    else:
        torch.save(document, path)
    loaded = load_checkpoint(path)
    state = loaded.generator.network.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert not any("not taken" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("document", "taken"),
    [
        (lambda a, b: {"params": b, "params_ema": a}, "'params_ema'"),
        (lambda a, b: {"generator": b, "ema": a, "discriminator": {}}, "'ema'"),
        (lambda a, b: {"model": b, "model_ema": {"module": a}}, "'model_ema' / 'module'"),
        (lambda a, b: {"state_dict": with_prefix("net.", b) | with_prefix("ema_net.", a)},
         "'state_dict', keys 'ema_net.*'"),
        (lambda a, b: {"state_dict": a, "best": b}, "'state_dict'"),
    ],
    ids=["basicsr", "ema", "timm", "lightning", "usual name"],
)  # fmt: skip
def test_of_several_the_average_is_taken_and_that_is_said(tmp_path, document, taken):
    """EMA weights are what was validated; which were taken must not be left to find out."""
    average, last = seed_weights(seed=1), seed_weights(seed=2)
    torch.save(document(average, last), tmp_path / "run.pt")
    loaded = load_checkpoint(tmp_path / "run.pt")
    assert loaded.source == taken
    assert loaded.notes[0].startswith(f"weights are taken from {taken}; also there, not taken: ")
    state = loaded.generator.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in average.items())


def test_of_several_alike_none_is_guessed(tmp_path):
    """Two networks of a cycle: which one is meant is not for us to say."""
    both = {"netG_A": seed_weights(seed=1), "netG_B": seed_weights(seed=2)}
    torch.save(both, tmp_path / "cycle.pt")
    with pytest.raises(CheckpointError, match="several networks that fit: 'netG_A'; 'netG_B'") as e:
        load_checkpoint(tmp_path / "cycle.pt")
    assert "torch.save(torch.load('cycle.pt')['KEY']" in e.value.hint
    torch.save({"a": both["netG_A"], "b": both["netG_A"]}, tmp_path / "twice.pt")
    assert load_checkpoint(tmp_path / "twice.pt").source == "'a'"  # the same, so no question


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        ({"epoch": 3, "weights": {"conv1.weight": torch.ones(2)}}, "keys found in weights: conv1"),
        ({"net": {"a": {"b": torch.ones(2)}}}, "keys found in net / a: b"),
        ({f"k{n}": torch.ones(1) for n in range(20)}, "k5, k6, k7 and 12 more"),
    ],
    ids=["nested", "deeper", "many"],
)  # fmt: skip
def test_a_wrapping_that_is_not_ours_is_named_with_its_keys(tmp_path, document, keys):
    """'Holds no tensors' would be untrue; the keys say what the file is."""
    torch.save(document, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert keys in str(caught.value)
    assert "block1.0.weight" in caught.value.hint


def test_weights_that_are_wrapped_too_deeply_are_not_called_absent(tmp_path):
    """Nobody looked for tensors there; so nobody can say that there are none."""
    document = seed_weights()
    for name in ("net", "ema", "module", "params", "G", "model", "state"):
        document = {name: document}
    torch.save(document, tmp_path / "deep.pt")
    with pytest.raises(CheckpointError, match="lies deeper than 5 containers") as caught:
        load_checkpoint(tmp_path / "deep.pt")
    assert "keys found: state" in str(caught.value)
    assert "torch.save(torch.load('deep.pt')['KEY']" in caught.value.hint


def test_spectra_are_found_beside_wrapped_weights(tmp_path):
    """h_LR and h_HR may lie outside the container that holds the network."""
    h_lr, h_hr = torch.rand(48, 48) + 0.5, torch.rand(96, 96) + 0.5
    torch.save({"generator": seed_weights(), "h_LR": h_lr, "h_HR": h_hr}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert torch.equal(loaded.generator.h_lr.spectrum, h_lr)
    assert loaded.spec.matrix == (48, 48)


# --- where its samples lie, and what its k-space is -----------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_image_domain_weights_of_the_seed_lie_on_pixel_centres(tmp_path, channels):
    """They were trained on resized images: Image Position would be off by 1.5 samples at x4."""
    torch.save(seed_weights(channels, 4), tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth")
    assert loaded.spec.output_grid == "pixel-centre"
    assert any("pixel centres" in note for note in loaded.notes)
    stated = load_checkpoint(tmp_path / "w.pth", stated=SpecOverrides(grid="kspace"))
    assert (stated.spec.output_grid, stated.notes) == ("kspace", ())


@pytest.mark.parametrize(
    ("degradation", "grid"), [("seed-resize", "pixel-centre"), ("kspace-crop", "kspace")]
)
def test_a_checkpoint_that_names_its_degradation_lies_where_that_says(tmp_path, degradation, grid):
    """Foreign or ours, of this schema or of one before grids were stated."""
    torch.save({"model": seed_weights(1), "degradation": degradation}, tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth").spec.output_grid == grid
    options = TrainingOptions(architecture="seed-image", degradation=degradation, width=6)
    spec = dataclasses.replace(options.spec(), name="w")
    assert spec.output_grid == grid
    generator = build_generator(spec)
    training = {"options": options.identity()}
    save_checkpoint(tmp_path / "ours.pt", spec, generator.state_dict(), training)
    assert load_checkpoint(tmp_path / "ours.pt").spec.output_grid == grid
    newer = {field for fields in NEW_IN.values() for field in fields}
    old = {key: one for key, one in json.loads(spec.to_json()).items() if key not in newer}
    old |= {"schema": 1}
    document = read_document(tmp_path / "ours.pt") | {"spec": json.dumps(old)}
    torch.save(document, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt").spec.output_grid == grid


def spectrum_file(path: Path, n: int, **changes: object) -> Path:
    values = np.random.default_rng(n).random((n, n)) + 0.1
    np.save(path, changes.get("values", values))
    return path


def test_spectra_and_convention_are_given_beside_the_weights(tmp_path):
    """SR_kspace keeps them as ``.npy`` files and its transforms in notebooks."""
    torch.save(seed_weights(), tmp_path / "w.pth")
    h_lr, h_hr = (spectrum_file(tmp_path / f"{n}.npy", n) for n in (48, 96))
    told = SpecOverrides(fft_convention="seed", h_lr=h_lr, h_hr=h_hr)
    loaded = load_checkpoint(tmp_path / "w.pth", stated=told)
    spec = loaded.spec
    assert (spec.fft_convention, spec.normaliser) == ("seed", "kspace-peak")
    assert (spec.matrix, spec.output_grid) == ((48, 48), "kspace")
    np.testing.assert_allclose(loaded.generator.h_lr.spectrum, np.load(h_lr).astype("f4"))
    np.testing.assert_allclose(loaded.generator.h_hr.spectrum, np.load(h_hr).astype("f4"))
    assert not any("no mean spectra" in note for note in loaded.notes)
    torch.save({**seed_weights(), "h_LR": torch.ones(8, 8), "h_HR": torch.ones(16, 16)},
               tmp_path / "both.pth")  # fmt: skip
    both = load_checkpoint(tmp_path / "both.pth", stated=told)
    assert "--h-lr and --h-hr replace the mean spectra of the checkpoint" in both.notes
    assert both.generator.h_lr.spectrum.shape == (48, 48)


@pytest.mark.parametrize(
    ("lr", "hr", "reason"),
    [
        (np.ones((8, 8)), None, "belong together"),
        (np.ones((8, 8)), np.ones((15, 15)), "15 samples per axis, expected 2 times the 8"),
        (np.ones((8, 9)), np.ones((16, 16)), "expected a square spectrum"),
        (np.ones(8), np.ones((16, 16)), "expected a square spectrum"),
        (np.zeros((8, 8)), np.ones((16, 16)), "positive and finite everywhere"),
        (np.full((8, 8), np.nan), np.ones((16, 16)), "positive and finite everywhere"),
        (np.ones((8, 8), complex), np.ones((16, 16)), "an array of real numbers"),
        (np.array([{}], object), np.ones((16, 16)), "not a readable .npy file"),
    ],
)
def test_spectra_that_fit_no_network_are_refused(tmp_path, lr, hr, reason):
    """Zeros would divide, a transposed pair would blur: better a sentence."""
    torch.save(seed_weights(), tmp_path / "w.pth")
    paths = {}
    for name, values in (("h_lr", lr), ("h_hr", hr)):
        if values is not None:
            np.save(tmp_path / f"{name}.npy", values, allow_pickle=True)
            paths[name] = tmp_path / f"{name}.npy"
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path / "w.pth", stated=SpecOverrides(**paths))


def test_kspace_options_are_refused_for_an_image_domain_network(tmp_path):
    """They would be without effect, and whoever gave them would not know."""
    torch.save(seed_weights(1), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="are for a seed-kspace network, this is seed-image"):
        load_checkpoint(tmp_path / "w.pth", stated=SpecOverrides(fft_convention="seed"))


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
    assert str(caught.value) == (
        f"{tmp_path / 't.pt'}: holds one Tensor, not a mapping of names to tensors"
    )


@pytest.mark.parametrize(
    ("content", "found", "hint"),
    [
        ([{"a": torch.ones(1)}], "a list of 1 (dict)", "torch.load('t.pt')[0]"),
        ((3, {"a": torch.ones(1)}, {}), "a tuple of 3 (int, dict, dict)", "torch.load('t.pt')[1]"),
        ([torch.ones(1)] * 6, "a list of 6 (Tensor, Tensor, Tensor, Tensor, ...)", "weights only"),
        ([], "a list of 0 ()", "weights only"),
    ],
)
def test_weights_in_a_list_or_tuple_are_refused_with_what_takes_them_out(
    tmp_path, content, found, hint
):
    """``torch.save((state_dict, optimiser))`` and ``torch.save([state_dict])`` are common."""
    torch.save(content, tmp_path / "t.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "t.pt")
    assert f"holds {found}, not a mapping of names to tensors" in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["packed.pt", "empty.safetensors"])
def test_what_is_wrong_with_a_file_is_said_once(tmp_path, name):
    """Found by a check of ours before the library's own."""
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / name)
    assert str(caught.value).count("not a readable") == 1
    assert str(caught.value).count(name) == 1


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
    assert str(caught.value) == (
        "unet: these weights are neither ours nor the seed network's; keys found: conv1.weight"
    )
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


@pytest.mark.parametrize("style", ["torch", "torch-legacy", "pickle", "script", "tar"])
def test_nobody_is_advised_to_load_code(tmp_path, style, recwarn):
    """Torch recommends weights_only=False in its messages: the one thing not to do."""
    path = tmp_path / "evil.pt"
    payload = _Payload(tmp_path / "it-ran")
    if style == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    elif style == "tar":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    elif style == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save({"w": payload}, path, _use_new_zipfile_serialization=style == "torch")
    recwarn.clear()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    said = f"{caught.value} {caught.value.hint} {[str(one.message) for one in recwarn]}"
    assert "weights_only" not in said
    assert "trust" not in said.lower()
    assert len(said) < 500
    assert not (tmp_path / "it-ran").exists()


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    """A kilobyte that would become gigabytes is recognised by its table of contents."""
    torch.save({"block1.0.weight": torch.zeros(1 << 16)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.infolist():
            bomb.writestr(member.filename, plain.read(member))
    with pytest.raises(CheckpointError, match="compressed or overlapping parts"):
        load_checkpoint(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(1 << 34), torch.ones(4).to_sparse(), torch.ones(4, dtype=torch.cfloat)],
    ids=["expanded", "sparse", "complex"],
)  # fmt: skip
def test_a_tensor_that_claims_more_than_was_stored_is_refused(tmp_path, tensor):
    """One stored zero may claim to be sixteen gigabytes; copying it would ask for them."""
    torch.save(seed_weights() | {"block1.0.bias": tensor}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"not stored as it is|not a readable checkpoint"):
        load_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "changes",
    [{"blocks": 100_000}, {"width": 10**9}, {"width": -4}, {"matrix": [10**6, 10**6]},
     {"name": "A" * 10**6}],
    ids=str,
)  # fmt: skip
def test_a_specification_that_would_exhaust_memory_is_refused(make_generator, tmp_path, changes):
    """Refused by its numbers, before a layer is built."""
    _, spec = make_generator()
    claimed = json.dumps(json.loads(spec.to_json()) | changes)
    with pytest.raises(InputError) as caught:
        load_checkpoint(ours(tmp_path / "w.pt", make_generator, spec=claimed))
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000


def test_a_large_network_is_compared_before_it_is_built(make_generator, tmp_path, monkeypatch):
    """Within the limits a specification may still claim terabytes that its weights do not have."""
    _, spec = make_generator()
    claimed = json.dumps(json.loads(spec.to_json()) | {"width": 4096, "blocks": 64})
    path = ours(tmp_path / "w.pt", make_generator, spec=claimed)
    built = []

    def watched(wanted):
        generator = build_generator(wanted)
        built.append({value.device.type for value in generator.state_dict().values()})
        return generator

    monkeypatch.setattr("kspacesr_rt.train.checkpoint.build_generator", watched)
    with pytest.raises(CheckpointError, match="weights do not fit 'dc-residual'"):
        load_checkpoint(path)
    assert built == [{"meta"}]


def test_messages_about_hostile_keys_stay_short_and_plain(tmp_path):
    """Names of megabytes, and names that a terminal would obey."""
    torch.save({"\x1b[2J" + "A" * 10**6: torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
    torch.save(seed_weights() | {"\x1b[2J" + "A" * 10**6: torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="unexpected") as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_saving_replaces_a_checkpoint_and_leaves_no_half_file(make_generator, tmp_path):
    """Training saves over its last checkpoint; a crash in between must not cost both."""
    generator, spec = make_generator()
    path = tmp_path / "w.pt"
    for name in ("first", "second"):
        named = dataclasses.replace(spec, name=name)
        save_checkpoint(path, named, generator.state_dict())
    assert load_checkpoint(path).spec.name == "second"
    assert list(tmp_path.iterdir()) == [path]
