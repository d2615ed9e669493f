"""Training really trains, can be stopped and repeated, and says what is wrong with its input."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kspacesr_rt import kspace
from kspacesr_rt.cli import app
from kspacesr_rt.errors import CheckpointError, InputError, OutputError, TrainingDataError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.quality.metrics import Quality, evaluate
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system import cpu
from kspacesr_rt.train import loop
from kspacesr_rt.train.balance import Balance
from kspacesr_rt.train.checkpoint import load_checkpoint, save_checkpoint
from kspacesr_rt.train.generators import build_generator
from kspacesr_rt.train.loop import COLUMNS, train
from kspacesr_rt.train.options import TrainingOptions
from kspacesr_rt.train.pairs import (
    Augmentation,
    PairSampler,
    TrainingSeries,
    load_training_series,
    prepared_versions,
)
from kspacesr_rt.train.recipe import RECIPES, find_recipe, read_recipe
from kspacesr_rt.train.run import EMULATED, RunSettings, train_from_folders
from kspacesr_rt.train.spectra import measure_spectrum
from kspacesr_rt.train.untrusted_checkpoint import read_document
from kspacesr_rt.train.validation import (
    ValidationQuality,
    pairs_of,
    validation_slices,
    zero_fill_quality,
)
from kspacesr_rt.train.volumes import (
    Volume,
    measured_band,
    read_volumes,
    supported,
    training_planes,
)

ARCHITECTURES = ("seed-kspace", "seed-image", "dc-residual")
AS_IS = Augmentation(matrix_shrink=1.0, noise_share=0.0)
"""Only flips and transposes, so that a short run's loss is comparable."""
TINY = TrainingOptions(
    name="tiny",
    width=4,
    blocks=1,
    steps=12,
    batch=2,
    validate_every=6,
    matrix=32,
    augmentation=AS_IS,
)


def phantoms(n: int = 3, matrix: tuple[int, int] = (96, 88)) -> np.ndarray:
    return np.stack([brain_phantom(matrix, seed=seed) for seed in range(n)]).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder as people have them: one series as .npy, one as NIfTI, one as DICOM."""
    root = tmp_path_factory.mktemp("data")
    np.save(root / "phantom.npy", phantoms() * 1000.0)
    volume = phantoms(4, (80, 96)).transpose(1, 2, 0) * 300.0
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 6.0, 1.0])), root / "p.nii.gz")
    (root / "dicom").mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[8:11]:
        shutil.copy(path, root / "dicom")
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def series() -> list[TrainingSeries]:
    return prepared_versions(Volume(name="phantom", slices=phantoms()))


def rows_of(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def weights_of(path) -> dict[str, torch.Tensor]:
    return read_document(path)["state_dict"]


def same_weights(first, second) -> bool:
    ours, theirs = weights_of(first), weights_of(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- the loop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_on_a_folder_lowers_the_loss(folder, tmp_path, architecture, upscale):
    """DICOM, NIfTI and .npy in one folder; the checkpoint is better than the weights it began with.

    Judged on fixed pairs of that folder: the loss of single batches depends on the slices drawn.
    """
    output = tmp_path / "run.pt"
    steps = 60 if architecture == "dc-residual" else 20  # it starts at zero-fill, a hard baseline
    options = dataclasses.replace(
        TINY, architecture=architecture, upscale=upscale, width=8, steps=steps, lr=3e-3,
        loss="mse", validate_every=steps // 2, matrix=64 // upscale,
    )  # fmt: skip
    seen = []
    spec = train_from_folders(
        [folder], output, options, validation=[folder / "phantom.npy"], on_progress=seen.append
    )
    assert [one.step for one in seen] == list(range(1, steps + 1))
    assert [one.step for one in seen if one.validation is not None] == [steps // 2, steps]
    assert seen[-1].as_text().startswith("loss 0.")
    loaded = load_checkpoint(output)
    assert loaded.spec == spec
    assert (spec.architecture, spec.upscale, spec.name) == (architecture, upscale, "tiny")
    torch.manual_seed(options.random_state)
    untrained = build_generator(spec)
    for name in ("h_lr", "h_hr"):
        if hasattr(untrained, name):
            getattr(untrained, name).spectrum.copy_(getattr(loaded.generator, name).spectrum)
    sampler = PairSampler(
        load_training_series([folder]), upscale=upscale, batch=2, augmentation=AS_IS,
        rng=np.random.default_rng(99),
    )  # fmt: skip
    pairs = [[torch.from_numpy(array) for array in sampler.draw()] for _ in range(6)]

    def loss(generator: torch.nn.Module) -> float:
        with torch.inference_mode():
            return sum(float((generator.eval()(lr) - hr).square().mean()) for lr, hr in pairs)

    assert loss(loaded.generator) < loss(untrained)
    rows = rows_of(output.with_suffix(".csv"))
    assert [row["step"] for row in rows] == [str(steps // 2), str(steps)]
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[0]["image"]) == pytest.approx(float(rows[0]["loss"]))
    assert all(float(row["psnr_db"]) > 5.0 for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("run-best.pt", "run.csv", "run.pt")
    ]


def test_a_run_without_validation_leaves_those_columns_empty(series, tmp_path):
    """A zero would be read as a quality."""
    train(TINY, series, tmp_path / "run.pt")
    rows = rows_of(tmp_path / "run.csv")
    assert [(row["step"], row["psnr_db"], row["ssim"]) for row in rows] == [
        ("6", "", ""),
        ("12", "", ""),
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_that_is_resumed_ends_at_the_same_weights(series, tmp_path, architecture):
    """Bit for bit on a CPU: a night's run that was interrupted need not be started again."""
    options = dataclasses.replace(TINY, architecture=architecture, augmentation=Augmentation())
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    train(options, series, whole)

    def stop(progress):
        if progress.step == 8:  # two steps after the checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, series, broken, on_progress=stop)
    assert read_document(broken)["training"]["step"] == 6
    assert not same_weights(whole, broken)
    steps = []
    train(options, series, broken, resume=True, on_progress=lambda state: steps.append(state.step))
    assert steps == list(range(7, 13))
    assert same_weights(whole, broken)
    rows = rows_of(broken.with_suffix(".csv"))
    assert [row["step"] for row in rows] == ["6", "12"]


def test_a_run_starts_from_trained_weights_and_says_so(series, tmp_path):
    """Better from the first step, told in the model, and resumed without what it started from."""
    trained, output = tmp_path / "trained.pt", tmp_path / "run.pt"
    train(dataclasses.replace(TINY, steps=60, lr=3e-3), series, trained)
    options = dataclasses.replace(
        TINY, data_consistency="magnitude", init=str(trained), steps=4, lr=1e-6, validate_every=2
    )
    notes = []

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, series, output, on_progress=stop, on_note=notes.append)
    trained.unlink()
    spec = train(options, series, output, resume=True)
    (note,) = notes
    told = re.fullmatch(
        r"starts from (tiny \(checkpoint sha256 [0-9a-f]{16}\)); new, and without effect at first: "
        r"sign_heads\.0\.weight",
        note,
    )
    assert spec.provenance.training == f"from {told[1]}, 4 steps of 2 slices"
    assert load_checkpoint(output).spec == spec
    with pytest.raises(InputError, match="no model file"):
        train(options, series, tmp_path / "another.pt")


def test_trained_weights_are_where_a_run_begins(series, tmp_path):
    """One step at next to no rate leaves them as they were; without them, nothing is alike."""
    trained = tmp_path / "trained.pt"
    train(TINY, series, trained)
    still = dataclasses.replace(TINY, steps=1, lr=1e-12, random_state=5)
    train(dataclasses.replace(still, init=str(trained)), series, tmp_path / "run.pt")
    train(still, series, tmp_path / "fresh.pt")
    before, after = weights_of(trained), weights_of(tmp_path / "run.pt")
    fresh = weights_of(tmp_path / "fresh.pt")
    assert all(torch.allclose(before[key], after[key], atol=1e-9) for key in before)
    assert not any(
        torch.allclose(before[key], fresh[key], atol=1e-9) for key in before if "prelu" not in key
    )


def test_a_run_that_gets_worse_keeps_where_it_started(series, tmp_path):
    """Trained weights are judged before the first step, so that `best` is no worse than they."""
    trained, output = tmp_path / "trained.pt", tmp_path / "run.pt"
    train(dataclasses.replace(TINY, steps=60, lr=3e-3), series, trained)
    slices = [phantoms(1)[0]]
    ruinous = dataclasses.replace(TINY, init=str(trained), steps=6, lr=0.3, ema=0.0)
    train(ruinous, series, output, validation=slices)
    first, last = rows_of(tmp_path / "run.csv")
    assert (first["step"], last["step"]) == ("0", "6")
    assert float(first["tissue_psnr_db"]) > float(last["tissue_psnr_db"])
    assert same_weights(tmp_path / "run-best.pt", trained)
    assert not same_weights(output, trained)


def test_what_was_best_on_other_slices_is_judged_anew(series, tmp_path, monkeypatch):
    """A figure of other slices compares with nothing; its weights stay in the race."""
    told = iter([50.0, 20.0, 19.0])
    judged = []

    def judge(averaged, slices, *_, **__):
        judged.append((copy.deepcopy(averaged.state_dict()), slices))
        quality = Quality(mae=0.1, psnr_db=next(told), ssim=0.5)
        return ValidationQuality(whole=quality, tissue=quality)

    monkeypatch.setattr(loop, "validation_quality", judge)
    options = dataclasses.replace(TINY, validate_every=6)
    output, best = tmp_path / "run.pt", tmp_path / "run-best.pt"

    def stop(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    easy, hard = phantoms(2)
    with pytest.raises(KeyboardInterrupt):
        train(options, series, output, validation=[easy], on_progress=stop)
    train(options, series, output, validation=[hard], resume=True)
    assert [slices is not None and np.array_equal(slices[0], easy) for _, slices in judged] == [
        True,
        False,
        False,
    ]
    assert all(torch.equal(judged[0][0][name], judged[1][0][name]) for name in judged[0][0])
    assert read_document(best)["training"] == {"step": 6}


def test_what_a_killed_run_loses_is_bounded_by_time(series, tmp_path):
    """Validations may be hours apart: checkpoints in between resume as well, and log nothing."""
    options = dataclasses.replace(
        TINY, augmentation=Augmentation(), validate_every=12, window=64, window_batch=3
    )
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    train(options, series, whole)

    def stop(progress):
        if progress.step == 10:  # windows end after step 9 of 12
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, series, broken, save_every_s=0.0, on_progress=stop)
    assert read_document(broken)["training"]["step"] == 10
    assert not broken.with_suffix(".csv").exists()
    train(options, series, broken, resume=True)
    assert same_weights(whole, broken)
    assert [row["step"] for row in rows_of(broken.with_suffix(".csv"))] == ["12"]


def test_the_best_weights_inside_tissue_are_kept(series, tmp_path, monkeypatch):
    """A run that begins to over-fit, and one that was resumed, keep the best they ever had."""
    told = iter([30.0, 33.0, 32.0, 31.0])
    judged, weights = [], []

    def judge(averaged, *_, **__):
        judged.append(copy.deepcopy(averaged.state_dict()))
        quality = Quality(mae=0.1, psnr_db=next(told), ssim=0.5)
        return ValidationQuality(whole=dataclasses.replace(quality, psnr_db=40.0), tissue=quality)

    monkeypatch.setattr(loop, "validation_quality", judge)
    options = dataclasses.replace(TINY, validate_every=3)
    output, best = tmp_path / "run.pt", tmp_path / "run-best.pt"

    def stop(progress):
        if progress.validation is not None:
            weights.append(weights_of(best))
        if progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, series, output, validation=[phantoms(1)[0]], on_progress=stop)
    train(options, series, output, validation=[phantoms(1)[0]], resume=True)
    assert len(judged) == 4
    kept = weights_of(best)
    assert all(torch.equal(kept[name], judged[1][name]) for name in kept)
    assert not all(torch.equal(weights[0][name], judged[1][name]) for name in kept)
    assert read_document(best)["training"] == {"step": 6}
    first, last = load_checkpoint(best).spec, load_checkpoint(output).spec
    assert first.provenance.training == "6 steps of 2 slices"
    assert last.provenance.training == "12 steps of 2 slices"
    assert dataclasses.replace(first, provenance=last.provenance) == last
    rows = rows_of(tmp_path / "run.csv")
    assert [row["tissue_psnr_db"] for row in rows] == ["30.0", "33.0", "32.0", "31.0"]
    assert {row["psnr_db"] for row in rows} == {"40.0"}


def test_a_run_is_judged_inside_tissue_too(series, tmp_path):
    """Slices without tissue count for the whole figure alone; zero-fill is judged alike."""
    slices = [phantoms(1)[0], np.zeros((32, 32), np.float32)]
    found = zero_fill_quality(slices, 2)
    ((lr, hr), (_, air)) = pairs_of(slices, 2, "kspace-crop")
    sr = np.maximum(zero_fill(lr, 2), 0.0)
    assert found.tissue == evaluate(sr[None], hr[None], "tissue")
    whole = [evaluate(one[None], two[None], "slice-range1") for one, two in ((sr, hr), (air, air))]
    assert found.whole.mae == pytest.approx((whole[0].mae + whole[1].mae) / 2)
    only_air = zero_fill_quality(slices[1:], 2)
    assert only_air.tissue is None


def test_a_log_that_an_older_version_began_keeps_its_columns(series, tmp_path):
    """A row of other columns than the header would be read as something else."""
    train(dataclasses.replace(TINY, steps=12), series, tmp_path / "run.pt")
    log = tmp_path / "run.csv"
    log.write_text("step,loss\n3,0.5\n")
    document = read_document(tmp_path / "run.pt")
    document["training"]["step"] = 6
    torch.save(document, tmp_path / "run.pt")
    train(TINY, series, tmp_path / "run.pt", resume=True)
    assert [list(row) for row in rows_of(log)] == [["step", "loss"]] * 2
    assert [row["step"] for row in rows_of(log)] == ["3", "12"]


def test_options_that_were_added_since_leave_a_run_what_it_was():
    """An upgrade must not orphan a run of weeks; any option that differs still does."""
    identity = json.loads(TINY.identity())
    for name in ("balance", "window", "weight_decay"):
        del identity[name]
    del identity["augmentation"]["rician_share"]
    assert TINY.continues(json.dumps(identity))
    assert not dataclasses.replace(TINY, window=64).continues(json.dumps(identity))
    noisy = dataclasses.replace(TINY, augmentation=dataclasses.replace(AS_IS, rician_share=0.5))
    assert not noisy.continues(json.dumps(identity))
    assert not dataclasses.replace(TINY, balance=Balance()).continues(json.dumps(identity))
    balanced = dataclasses.replace(TINY, balance=Balance(t2=2.0))
    older = json.loads(balanced.identity())
    del older["balance"]["by_signal"]
    assert balanced.continues(json.dumps(older))
    evenly = dataclasses.replace(TINY, balance=Balance(t2=2.0, by_signal=False))
    assert not evenly.continues(json.dumps(older))
    assert not TINY.continues(json.dumps(identity | {"unknown": 1}))
    for nothing in (None, "", "[]", "no json"):
        assert not TINY.continues(nothing)


def test_the_rate_warms_up_and_falls():
    """Half a cosine is the shipped recipes' schedule; flat ones fall in the last fifth alone."""
    cosine = TrainingOptions(steps=10_000, lr=2.0)
    flat = dataclasses.replace(cosine, schedule="flat")
    for options in (cosine, flat):
        assert options.rate(0) == pytest.approx(2.0 / 200)
        assert options.rate(199) == pytest.approx(2.0, rel=2e-3)
        assert options.rate(9_999) == pytest.approx(0.02, rel=0.1)
    assert cosine.rate(5_000) == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert flat.rate(5_000) == flat.rate(7_999) == 2.0
    assert flat.rate(9_000) == pytest.approx(2.0 * (0.01 + 0.99 / 2))


def test_a_flat_run_may_be_made_longer_while_it_is_flat():
    """What was done so far would have been the same; later, or with a cosine, it would not."""
    flat = TrainingOptions(steps=10_000, schedule="flat")
    longer = dataclasses.replace(flat, steps=20_000)
    assert longer.continues(flat.identity(), 8_000)
    assert flat.continues(longer.identity(), 8_000)
    assert not longer.continues(flat.identity(), 8_001)
    assert not dataclasses.replace(longer, lr=1e-4).continues(flat.identity(), 100)
    windows = dataclasses.replace(flat, window=64, window_until=0.5)
    assert not dataclasses.replace(windows, steps=20_000).continues(windows.identity(), 5_001)
    cosine = dataclasses.replace(flat, schedule="cosine")
    assert not dataclasses.replace(cosine, steps=20_000).continues(cosine.identity(), 1)
    # A warm-up that was shorter has been felt.
    short = dataclasses.replace(flat, steps=1_000)
    assert not flat.continues(short.identity(), 100)


def test_a_recipe_has_tables(tmp_path):
    """Shares of contrasts and ranges of noise, as TOML writes them."""
    (tmp_path / "r.toml").write_text(
        "window = 96\n[balance]\nt2 = 2\n[augmentation]\nrician_snr = [5, 50]\n"
    )
    options = read_recipe(tmp_path / "r.toml", {})
    assert options.balance == Balance(t2=2)
    assert options.augmentation.rician_snr == (5.0, 50.0)
    assert options.continues(options.identity())
    (tmp_path / "r.toml").write_text("[balance]\nt3 = 2\n")
    with pytest.raises(InputError) as caught:
        read_recipe(tmp_path / "r.toml", {})
    assert str(caught.value) == "recipe, [balance]: unknown option t3"


def test_the_same_seed_gives_the_same_weights_and_another_does_not(series, tmp_path):
    """A model card that names seed, data and options can be checked by anyone."""
    paths = [tmp_path / f"{name}.pt" for name in ("first", "again", "other")]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        train(dataclasses.replace(TINY, random_state=seed), series, path)
    assert same_weights(paths[0], paths[1])
    assert not same_weights(paths[0], paths[2])


@pytest.mark.parametrize(
    "change", [{"width": 8}, {"upscale": 4}, {"architecture": "seed-image"}, {"lr": 2e-3}]
)
def test_resuming_another_run_is_refused(series, tmp_path, change):
    """Half of one run and half of another is no run that anybody could repeat."""
    train(TINY, series, tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(CheckpointError) as caught:
        train(dataclasses.replace(TINY, **change), series, tmp_path / "run.pt", resume=True)
    assert str(caught.value) == (
        f"{tmp_path / 'run.pt'}: this checkpoint belongs to another run and cannot be resumed"
    )
    assert caught.value.hint == ("repeat the options it was trained with, or write to another file")
    assert (tmp_path / "run.pt").read_bytes() == before


def test_resuming_from_bare_weights_or_nothing_is_refused(series, tmp_path):
    """Without the optimiser's state it would be a new run under an old name."""
    save_checkpoint(tmp_path / "bare.pt", TINY.spec(), build_generator(TINY.spec()).state_dict())
    with pytest.raises(CheckpointError, match="belongs to another run and cannot be resumed"):
        train(TINY, series, tmp_path / "bare.pt", resume=True)
    with pytest.raises(CheckpointError, match=r"none\.pt: not a readable checkpoint"):
        train(TINY, series, tmp_path / "none.pt", resume=True)


def test_the_checkpoint_holds_the_averaged_weights(series, tmp_path):
    """The average of the last steps is what is judged and exported; the live weights resume."""
    train(dataclasses.replace(TINY, architecture="seed-image"), series, tmp_path / "run.pt")
    document = read_document(tmp_path / "run.pt")
    live, averaged = document["training"]["generator"], document["state_dict"]
    assert live.keys() == averaged.keys()
    assert not torch.equal(live["network.block1.0.weight"], averaged["network.block1.0.weight"])


def test_bfloat16_training_keeps_float32_weights(series, tmp_path):
    """bf16 is for the CNN's speed; what is stored and exported is fp32."""
    train(dataclasses.replace(TINY, precision="bf16"), series, tmp_path / "run.pt")
    assert {value.dtype for value in weights_of(tmp_path / "run.pt").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("features", "precision", "said"),
    [
        (("avx2", "fma"), "bf16", True),
        (("avx2", "fma"), "fp32", False),
        (("avx2", "avx512f", "avx512_bf16"), "bf16", False),
        (("avx2", "amx_bf16"), "bf16", False),
        (("asimd", "bf16"), "bf16", False),
        ((), "bf16", False),  # not Linux: nothing is known
    ],
)
def test_a_cpu_without_bf16_is_said_before_hours_are_spent(
    tmp_path, monkeypatch, features, precision, said
):
    """A recipe made on a newer CPU trains, many times slower, and nothing else would tell why."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "phantom.npy", phantoms(1))
    monkeypatch.setattr(cpu, "cpu_features", lambda: features)
    options = dataclasses.replace(TINY, steps=1, precision=precision)
    notes: list[str] = []
    train_from_folders([tmp_path / "data"], tmp_path / "run.pt", options, on_note=notes.append)
    assert (EMULATED in notes) is said
    assert any(note.startswith("1 steps of 1 x 2 on cpu") for note in notes)


def test_a_seed_network_gets_the_spectra_of_its_data(series, tmp_path):
    """h_LR and h_HR are measured once and travel with the weights; ones mean 'not measured'."""
    options = dataclasses.replace(TINY, architecture="seed-kspace", upscale=2, matrix=40)
    train(options, series, tmp_path / "run.pt")
    weights = weights_of(tmp_path / "run.pt")
    for key, size, of_lr in (("h_lr", 40, True), ("h_hr", 80, False)):
        stored = weights[f"{key}.spectrum"].numpy()
        assert stored.shape == (size, size)
        expected = measure_spectrum(series, 2, size, of_lr=of_lr)
        np.testing.assert_allclose(stored, expected, rtol=1e-6)


@pytest.mark.parametrize("of_lr", [True, False])
@pytest.mark.parametrize("upscale", [2, 4])
def test_the_measured_spectrum_is_the_mean_magnitude_of_kspace(upscale, of_lr):
    """For one slice it is that slice's |k-space|, scaled as the generator scales its input.

    The generator divides by the LR maximum and multiplies by `upscale`.
    """
    hr = phantoms(1, (64, 64))
    one = [TrainingSeries(name="one", slices=hr.astype(np.float16))]
    hr = one[0].slices[0].astype(np.float64)
    spectrum = np.fft.fftshift(np.fft.fft2(hr, norm="ortho"))  # a magnitude ignores the origin
    size, start = 64 // upscale, 32 - 32 // upscale
    block = np.fft.ifftshift(spectrum[start : start + size, start : start + size])
    lr = np.abs(np.fft.ifft2(block, norm="ortho")) / upscale
    if of_lr:
        spectrum = np.fft.fftshift(np.fft.fft2(lr * upscale, norm="ortho"))
    spectrum = spectrum / lr.max()
    measured = measure_spectrum(one, upscale, len(spectrum), of_lr=of_lr)
    assert measured.dtype == np.float32
    np.testing.assert_allclose(measured, np.abs(spectrum), rtol=2e-3, atol=2e-5)


def test_an_unreadable_folder_leaves_no_checkpoint(tmp_path):
    """The output is written by training, not by trying to."""
    (tmp_path / "data").mkdir()
    with pytest.raises(TrainingDataError):
        train_from_folders([tmp_path / "data"], tmp_path / "run.pt", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_lr_is_the_magnitude_of_the_cropped_kspace_of_hr(series, upscale):
    """What a shorter scan of the same FOV stores in a DICOM; written out with numpy.fft alone."""
    sampler = PairSampler(
        series, upscale=upscale, batch=3, augmentation=Augmentation(), rng=np.random.default_rng(1)
    )
    for _ in range(8):
        lr, hr = sampler.draw()
        assert lr.dtype == hr.dtype == np.float32
        n, one, rows, columns = lr.shape
        assert (n, one) == (3, 1)
        assert hr.shape == (3, 1, rows * upscale, columns * upscale)
        image = np.fft.ifftshift(hr.astype(float), axes=(2, 3))
        spectrum = np.fft.fftshift(np.fft.fft2(image), axes=(2, 3))
        top = rows * upscale // 2 - rows // 2
        left = columns * upscale // 2 - columns // 2
        block = spectrum[..., top : top + rows, left : left + columns]
        image = np.fft.ifft2(np.fft.ifftshift(block, axes=(2, 3))) / upscale**2
        expected = np.abs(np.fft.fftshift(image, axes=(2, 3)))
        np.testing.assert_allclose(lr, expected, atol=2e-5)
        assert (lr >= 0).all()
        assert (hr >= 0).all()


def test_pairs_are_varied_and_repeatable(series):
    """Flips, transposes, matrices and noise; the same random state, the same pairs."""

    def draw(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        sampler = PairSampler(series, upscale=2, batch=1, augmentation=Augmentation(),
                              rng=np.random.default_rng(seed))  # fmt: skip
        return [sampler.draw() for _ in range(12)]

    first, again, other = draw(0), draw(0), draw(1)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert any(a[0].shape != b[0].shape for a, b in zip(first, other, strict=True))
    assert len({lr.shape for lr, _ in first}) > 3


def test_series_are_scaled_and_trimmed_to_the_tissue():
    """Air around the head teaches nothing and costs time; every series weighs the same."""
    slices = np.zeros((4, 160, 140), np.float32)
    slices[1:3, 20:116, 30:118] = phantoms(2) * 5000.0
    (prepared,) = prepared_versions(Volume(name="head", slices=slices))
    n, rows, columns = prepared.slices.shape
    assert n == 2  # the empty slices are gone
    assert rows < 125
    assert columns < 120
    assert (rows % 4, columns % 4) == (0, 0)
    assert prepared.slices.dtype == np.float16
    assert float(prepared.slices.max()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_a_series_without_tissue_or_too_small_is_left_out(gain):
    """Nothing is better than a slice of air, or of so few samples that it has no edges."""
    small = Volume(name="small", slices=phantoms(2, (48, 48)) * np.float32(gain))
    assert prepared_versions(small) == []


# --- the measured band ----------------------------------------------------------------------------


def band_limited(matrix=(128, 128), inner=(80, 96), n=5) -> np.ndarray:
    """Make a series that a scanner interpolated: zero-filled from `inner` to `matrix`, with noise.

    The pedestal keeps it positive: folding the ringing of the phantom's hard edges at zero would
    spread energy over the rim, only 5 dB below the last measured samples.
    """
    rng = np.random.default_rng(0)
    spectrum = kspace.centre_crop(kspace.fft2c(phantoms(n, matrix).astype(float)), inner)
    noise = rng.standard_normal((n, *inner)) + 1j * rng.standard_normal((n, *inner))
    image = kspace.ifft2c(kspace.centre_fill(spectrum + 0.005 * noise, matrix))
    return (image.real + 0.5).clip(0.0).astype(np.float32)


def test_an_interpolated_series_is_cropped_to_what_was_measured():
    """Training on an empty rim teaches the network that there is nothing to predict."""
    volume = Volume(name="interpolated", slices=band_limited(), spacing_mm=(5.0, 1.0, 1.0))
    rows, columns = measured_band(volume.slices)
    assert rows == pytest.approx(80 / 128, abs=0.04)
    assert columns == pytest.approx(96 / 128, abs=0.04)
    cropped = supported(volume)
    assert (cropped.matrix[0] % 2, cropped.matrix[1] % 2) == (0, 0)
    assert abs(cropped.matrix[0] - 80) <= 4
    assert abs(cropped.matrix[1] - 96) <= 4
    fov = [n * mm for n, mm in zip(cropped.matrix, cropped.spacing_mm[1:], strict=True)]
    assert fov == pytest.approx([128.0, 128.0])
    # Intensities stay: the same object, seen with fewer samples.
    assert cropped.slices.mean() == pytest.approx(volume.slices.mean(), rel=0.01)


def test_a_run_is_judged_on_what_was_measured(tmp_path, monkeypatch):
    """An empty rim pays for restraint alone: what judges a run is cropped, as in `evaluate`."""
    for name in ("data", "judges"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{name}.npy", band_limited())
    shapes = []

    def judge(_, slices, *__, **___):
        shapes.append({one.shape for one in slices})
        quality = Quality(mae=0.1, psnr_db=30.0, ssim=0.5)
        return ValidationQuality(whole=quality, tissue=quality)

    monkeypatch.setattr(loop, "validation_quality", judge)
    for rim in ("mix", "crop", "keep"):
        options = dataclasses.replace(TINY, rim=rim, steps=1)
        output, judges = tmp_path / f"{rim}.pt", [tmp_path / "judges"]
        train_from_folders([tmp_path / "data"], output, options, validation=judges)
    cropped = supported(Volume(name="judges", slices=band_limited())).matrix
    assert cropped != (128, 128)
    assert shapes == [{cropped}, {cropped}, {(128, 128)}]


def test_held_out_series_are_judged_on_their_cropped_version():
    """Prepared both ways, a series would be judged on its empty rim every other time."""
    both = prepared_versions(Volume(name="interpolated", slices=band_limited()), "mix")
    full = prepared_versions(Volume(name="full", slices=phantoms(5, (128, 112))), "mix")
    assert [one.cropped for one in both] == [True, False]
    shapes = {one.shape for one in validation_slices([*both, *full])}
    assert shapes == {both[0].slices.shape[1:], full[-1].slices.shape[1:]}
    assert len(validation_slices([*both, *full], 6)) == 6


def test_no_pair_has_an_empty_rim():
    """The promise itself, on what the network is given: the outermost frequencies hold signal."""
    prepared = prepared_versions(Volume(name="interpolated", slices=band_limited()))
    sampler = PairSampler(
        prepared, upscale=2, batch=5, augmentation=AS_IS, rng=np.random.default_rng(0)
    )
    for _ in range(4):
        _, hr = sampler.draw()
        power = np.mean(np.abs(kspace.fft2c(hr[:, 0].astype(float))) ** 2, axis=0)
        for profile in (power.mean(axis=1), power.mean(axis=0)):
            edge, middle = profile[1:4].mean(), profile[len(profile) // 4]
            assert 10 * np.log10(middle / edge) < 15.0


def test_a_fully_measured_series_is_kept_as_it_is():
    """Cropping it would throw away exactly the rim that the network is to learn."""
    rng = np.random.default_rng(0)
    noisy = phantoms(5, (128, 112)) + 0.02 * rng.standard_normal((5, 128, 112)).astype(np.float32)
    volume = Volume(name="measured", slices=np.abs(noisy).astype(np.float32))
    assert supported(volume) is volume


def test_an_isotropic_volume_gives_three_planes_and_a_stack_gives_one():
    """A 3-D scan is sharp in every direction; a 2-D one has thick slices across."""
    slices = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    planes = training_planes(Volume(name="v", slices=slices, spacing_mm=(1.0, 1.1, 0.9)))
    assert [plane.slices.shape for plane in planes] == [(4, 5, 6), (5, 4, 6), (6, 4, 5)]
    assert planes[1].spacing_mm == (1.1, 1.0, 0.9)
    assert planes[2].spacing_mm == (0.9, 1.0, 1.1)
    assert np.array_equal(planes[1].slices[2], slices[:, 2, :])
    assert np.array_equal(planes[2].slices[3], slices[:, :, 3])
    for spacing in (None, (5.0, 1.0, 1.0)):
        assert len(training_planes(Volume(name="v", slices=slices, spacing_mm=spacing))) == 1


# --- reading --------------------------------------------------------------------------------------


def test_every_format_of_the_folder_is_read(folder):
    """Three series, their slices along the first axis, in real-world values."""
    volumes = {volume.name: volume for volume in read_volumes(folder)}
    assert len(volumes) == 3
    array, nifti = volumes["phantom.npy"], volumes["p.nii.gz"]
    dicom = next(volume for name, volume in volumes.items() if name.startswith("dicom"))
    np.testing.assert_allclose(array.slices, phantoms() * 1000.0, rtol=1e-6)
    np.testing.assert_allclose(nifti.slices, phantoms(4, (80, 96)) * 300.0, rtol=1e-6)
    assert nifti.spacing_mm == (6.0, 1.0, 1.0)
    assert dicom.slices.shape == (3, 256, 256)
    assert all(volume.slices.dtype == np.float32 for volume in volumes.values())
    assert len(load_training_series([folder])) == 3


@pytest.mark.parametrize(("spacing", "axis"), [((6, 1, 1), 0), ((1, 6, 1), 1), ((1, 1, 6), 2)])
def test_a_niftis_slices_lie_across_its_widest_spacing(tmp_path, spacing, axis):
    """NIfTI does not say which axis is the slice; the thick one is."""
    data = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([*spacing, 1.0])), tmp_path / "v.nii")
    (volume,) = read_volumes(tmp_path / "v.nii")
    assert np.array_equal(volume.slices, np.moveaxis(data, axis, 0))


def test_a_single_slice_is_a_series_of_one(tmp_path):
    """A two-dimensional array is one slice, not a stack of lines."""
    np.save(tmp_path / "one.npy", phantoms(1)[0])
    (volume,) = read_volumes(tmp_path)
    assert volume.slices.shape == (1, 96, 88)
    assert len(validation_slices(list(read_volumes(tmp_path)))) == 1


def test_a_complex_array_is_read_as_its_magnitude(tmp_path):
    """A reconstruction saved with its phase: dropping the imaginary part would invert edges."""
    image = phantoms(2)
    np.save(tmp_path / "c.npy", image * np.exp(2.0j))
    (volume,) = read_volumes(tmp_path)
    np.testing.assert_allclose(volume.slices, image, rtol=1e-5, atol=1e-6)


def test_an_empty_folder_is_refused(tmp_path):
    """With what was looked for, and what to do."""
    with pytest.raises(TrainingDataError) as caught:
        load_training_series([tmp_path])
    assert (
        str(caught.value) == f"{tmp_path}: no DICOM, NIfTI, NRRD, .npy or fastMRI .h5 image found"
    )
    assert caught.value.hint == "name a folder that holds magnitude images"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".nii"])
def test_data_that_is_not_finite_is_refused_by_name(tmp_path, value, suffix):
    """One NaN pixel becomes a NaN slice in k-space, and a NaN network one step later."""
    data = phantoms()
    data[1, 40, 40] = value
    path = tmp_path / f"bad{suffix}"
    if suffix == ".npy":
        np.save(path, data)
    else:
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(TrainingDataError) as caught:
        load_training_series([tmp_path])
    assert str(caught.value) == f"bad{suffix}: holds NaN or infinity"


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2, 2)])
def test_an_array_that_is_no_stack_of_slices_is_refused(tmp_path, shape):
    """The shape is said, because it is what the user has to change."""
    np.save(tmp_path / "a.npy", np.ones(shape))
    with pytest.raises(TrainingDataError) as caught:
        list(read_volumes(tmp_path))
    assert str(caught.value) == f"a.npy: expected 2 to 4 axes, found shape {shape}"


def test_only_air_is_refused(tmp_path):
    """Readable, but nothing in it to learn from."""
    np.save(tmp_path / "air.npy", np.zeros((3, 96, 96)))
    with pytest.raises(TrainingDataError) as caught:
        load_training_series([tmp_path])
    assert str(caught.value) == "no slice holds enough tissue to train on"


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 64, 64)), np.zeros((3, 0, 64)), np.array(["text", "more"]), np.array(None)],
    ids=["no-slices", "no-rows", "strings", "object"],
)
def test_an_array_of_nothing_is_refused(tmp_path, array):
    """An export that went wrong upstream: its file is named, and nothing crashes."""
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TrainingDataError):
        load_training_series([tmp_path])


@pytest.mark.parametrize("name", ["a.npy", "a.nii", "a.nii.gz", "a.nrrd"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x93NUMPY\x01\x00", bytes(400), b"NRRD0004\n"]
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content):
    """A truncated download is named; the run does not start on the rest without a word."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingDataError, match=r"^a\."):
        list(read_volumes(tmp_path))


# --- recipes and options --------------------------------------------------------------------------


def test_the_command_line_overrides_the_recipe(tmp_path):
    """A recipe repeats a run; one option on the command line varies it."""
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\nsteps = 50\nlr = 0.01\n[augmentation]\nnoise_share = 0.5\n')
    options = read_recipe(recipe, {"steps": 7, "width": None})
    assert (options.name, options.steps, options.lr, options.width) == ("r", 7, 0.01, 32)
    assert options.augmentation == Augmentation(noise_share=0.5)
    assert read_recipe(None, {}) == TrainingOptions()


SHIPPED = sorted(path.stem for path in RECIPES.glob("x*.toml"))


@pytest.mark.parametrize("stem", SHIPPED)
def test_no_run_inherits_what_a_shipped_model_states(stem, tmp_path):
    """Twenty steps on somebody's data are not x2-fast, under its licence, from its patients."""
    copied = tmp_path / "mine.toml"
    copied.write_bytes(find_recipe(stem).read_bytes())
    for recipe in (find_recipe(stem), copied):
        options = read_recipe(recipe, {"steps": 20})
        assert (options.name, options.training) == ("model", "")
        assert (options.licence, options.attribution) == ("", "")
        provenance = options.spec().provenance
        assert (provenance.training, provenance.licence, provenance.attribution) == ("", "", "")
        own = read_recipe(recipe, {"name": "mine", "training": "our knees", "licence": "MIT"})
        assert (own.name, own.training, own.licence, own.attribution) == (
            *("mine", "our knees", "MIT", ""),
        )


@pytest.mark.parametrize("stem", SHIPPED)
def test_a_run_that_repeats_a_shipped_model_may_state_what_it_states(stem):
    """Asked for by name, and with the recipe's own options only."""
    recipe = find_recipe(stem)
    options = read_recipe(recipe, {"validate_every": 7, "steps": None}, as_shipped=True)
    assert (options.name, bool(options.training), bool(options.licence)) == (stem, True, True)
    same = read_recipe(recipe, {"steps": options.steps}, as_shipped=True)
    assert same.training == options.training
    with pytest.raises(
        InputError, match="--as-shipped: lr, steps differ from the recipe"
    ) as caught:
        read_recipe(recipe, {"steps": 20, "lr": 0.5}, as_shipped=True)
    assert "--training" in caught.value.hint


def test_only_a_shipped_models_recipe_can_be_repeated_as_shipped(tmp_path):
    """There is nothing to state otherwise."""
    for recipe in (None, find_recipe("seed")):
        with pytest.raises(InputError, match="is no shipped model's recipe"):
            read_recipe(recipe, {}, as_shipped=True)
    odd = tmp_path / "odd.toml"
    odd.write_text("[shipped]\nsteps = 4\n")
    with pytest.raises(InputError, match=r"recipe, \[shipped\]: expected name, training"):
        read_recipe(odd, {})


def test_a_model_says_what_was_really_done(folder, tmp_path):
    """Data, slices and steps are counted, whatever a sentence says; a name may change."""
    path = tmp_path / "run.pt"
    told = dataclasses.replace(TINY, training="our knees", steps=2)
    spec = train_from_folders([folder], path, told)
    assert spec == load_checkpoint(path).spec
    assert re.fullmatch(
        r"our knees \(\d+ slices of \d+ series\), 2 steps of \d+ slices", spec.provenance.training
    )
    stored = read_document(path)["training"]["options"]
    assert dataclasses.replace(told, name="another").continues(stored)
    older = json.dumps(json.loads(stored) | {"name": "x2-fast"})
    assert told.continues(older)


def test_a_recipe_that_is_no_toml_is_refused(tmp_path):
    """With the file and what the parser says."""
    (tmp_path / "r.toml").write_text("steps = ")
    with pytest.raises(InputError, match=r"r\.toml: not a readable recipe: Invalid value"):
        read_recipe(tmp_path / "r.toml", {})


@pytest.mark.parametrize(
    ("text", "message", "known"),
    [
        ("step = 3", "recipe: unknown option step", "steps"),
        ("[augmentation]\nrotate = 1", "recipe, [augmentation]: unknown option rotate", "noise_"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones(tmp_path, text, message, known):
    """A misspelt option that is ignored is a run that was not asked for."""
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(tmp_path / "r.toml", {})
    assert str(caught.value) == message
    assert caught.value.hint.startswith("known: ")
    assert known in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ['steps = "many"', "steps = 0", "steps = 2.5", "batch = -1", 'loss = "huber"', 'lr = "fast"',
     "window = 32", "window = -1", "window_until = 1.5", "window_batch = 0", "weight_decay = 1",
     "balance = 3", 'schedule = "steps"', "weight_decay = -0.1",
     'precision = "fp16"', "augmentation = 3", 'augmentation = "none"', 'upscale = "2"'],
)  # fmt: skip
def test_impossible_options_are_refused(tmp_path, text):
    """Before any data is read: a typo must not cost the minutes that reading takes."""
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InputError):
        read_recipe(tmp_path / "r.toml", {})


def test_an_unknown_loss_lists_the_known_ones():
    """The same from Python, where no recipe is involved."""
    with pytest.raises(InputError) as caught:
        TrainingOptions(loss="huber")
    assert str(caught.value) == "loss 'huber' is not one of l1, mse, psnr, charbonnier, l1-ssim"


# --- the command ----------------------------------------------------------------------------------


def test_the_command_trains_and_says_what_it_wrote(tmp_path):
    """From a folder and a few options to a checkpoint that export takes."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "p.npy", phantoms())
    output = tmp_path / "run.pt"
    result = CliRunner().invoke(
        app,
        ["train", str(tmp_path / "data"), "-o", str(output), "--steps", "3", "--width", "4",
         "--blocks", "1", "--name", "cli", "--matrix", "32", "--upscale", "4"],
    )  # fmt: skip
    assert result.exit_code == 0
    assert "96 x 76" in result.stderr  # what was read, on stderr
    assert "3 steps of 1 x 4 on cpu" in result.stderr
    assert result.stdout == f"{output}: cli, dc-residual, x4\n"
    assert load_checkpoint(output).spec.matrix == (32, 32)


@pytest.mark.parametrize("spelling", ["-", "_"])
def test_the_seeds_command_line_works_as_it_stands(tmp_path, monkeypatch, spelling):
    """All eleven flags of SR_kspace's train.py, spelt with underscores as there or with hyphens."""
    from kspacesr_rt.train import run

    seen = {}

    def record(data, output, options, **settings):
        seen.update(data=data, output=output, options=options)
        return options.spec()

    monkeypatch.setattr(run, "train_from_folders", record)
    flags = {
        "channels": 32, "skip_connection": 0, "bias": 0, "upscale_factor": 4, "epochs": 7,
        "path_to_data": tmp_path, "lr": 0.002, "batch_size": 16, "random_state": 42,
        "random_subset": 200, "val_size": 20,
    }  # fmt: skip
    words = [
        word
        for name, value in flags.items()
        for word in (f"--{name.replace('_', spelling)}", str(value))
    ]
    result = CliRunner().invoke(app, ["train", "--recipe", "seed", *words])
    assert result.exit_code == 0, result.stderr
    options = seen["options"]
    assert seen["data"] == [tmp_path]
    assert seen["output"].name == "seed-kspace.pt"
    assert (options.architecture, options.width, options.bias) == ("seed-kspace", 32, False)
    assert options.data_consistency == "none"  # no skip connection
    assert (options.upscale, options.spec().matrix) == (4, (80, 80))
    assert (options.epochs, options.random_subset, options.val_size) == (7, 200, 20)
    assert (options.lr, options.batch, options.random_state) == (0.002, 16, 42)
    assert (options.loss, options.adversarial, options.features) == ("mse", 0.001, 0.006)
    assert options.total_variation == 2e-8
    resolved = options.resolved(5000)
    assert (resolved.steps, resolved.validate_every) == (7 * 13, 13)  # 200 slices in 16s


def test_epochs_count_slices_and_ranks():
    """An epoch is every slice once, over all processes; steps are left as they are without it."""
    options = dataclasses.replace(TINY, epochs=3, batch=4)
    assert options.resolved(41).steps == 3 * 11
    assert options.resolved(41, ranks=2).steps == 3 * 6
    assert TINY.resolved(41) is TINY


def test_an_adversarial_run_trains_both_networks_and_resumes(series, tmp_path):
    """The discriminator and its optimiser are part of the checkpoint, bit for bit."""
    options = dataclasses.replace(
        TINY, architecture="seed-kspace", data_consistency="additive", loss="mse",
        adversarial=0.001, total_variation=2e-8, steps=4, validate_every=2,
    )  # fmt: skip
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    train(options, series, whole)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, series, broken, on_progress=stop)
    train(options, series, broken, resume=True)
    assert same_weights(whole, broken)
    ours, theirs = (read_document(path)["training"]["discriminator"] for path in (whole, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert load_checkpoint(whole).spec.adversarial
    rows = rows_of(whole.with_suffix(".csv"))
    assert 0.0 < float(rows[0]["d_fake"]) < 1.0
    assert float(rows[1]["adversarial"]) == pytest.approx(1.0 - float(rows[1]["d_fake"]), abs=0.2)
    assert rows[0]["features"] == ""


def test_a_missing_vgg_is_said_and_its_column_stays_empty(series, tmp_path, monkeypatch):
    """The seed's loss without its feature term is another loss: the log says so."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    notes = []
    options = dataclasses.replace(TINY, features=0.006, steps=1)
    train(options, series, tmp_path / "run.pt", on_note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("VGG16 feature loss is off: ")
    assert rows_of(tmp_path / "run.csv")[0]["features"] == ""


def test_validations_are_drawn(series, tmp_path):
    """HR, SR and their difference side by side, one picture each time."""
    slices = validation_slices(series, 3)
    train(TINY, series, tmp_path / "run.pt", validation=slices, images=True)
    pictures = sorted((tmp_path / "run-images").iterdir())
    assert [path.name for path in pictures] == ["step-000006.png", "step-000012.png"]
    with Image.open(pictures[0]) as picture:
        rows, columns = slices[1].shape
        assert picture.size == (3 * (columns - columns % 2), rows - rows % 2)
        panels = np.split(np.asarray(picture, dtype=float), 3, axis=1)
    assert panels[0].max() > 200.0  # HR fills the grey scale
    assert np.abs(panels[0] - panels[1]).mean() < 20.0  # SR looks like it
    difference = np.clip(5.0 * np.abs(panels[0] - panels[1]), 0.0, 255.0)
    # Panels are rounded, and SR and HR clipped, before this subtraction; the drawn one is exact.
    inside = (panels[0] < 255.0) & (panels[1] < 255.0)
    assert np.abs(panels[2] - difference)[inside].max() <= 6.0


def test_patients_are_held_out_whole(tmp_path):
    """Without a validation folder, a share of the patients is judged on and never trained on."""
    for patient in range(4):
        np.save(tmp_path / f"patient{patient:02d}_T2.npy", phantoms(2))
        np.save(tmp_path / f"patient{patient:02d}_T1.npy", phantoms(2) ** 2)
    notes = []
    seen = []
    train_from_folders(
        [tmp_path], tmp_path.parent / "held.pt", dataclasses.replace(TINY, held_out=0.25),
        on_progress=seen.append, on_note=notes.append,
    )  # fmt: skip
    assert seen[-1].validation is not None
    text = "\n".join(notes)
    assert "zero-fill on the" in text
    named = {line[:9] for line in text.splitlines() if line.startswith("patient")}
    assert len(named) == 3


def test_the_command_exits_2_on_an_empty_folder(tmp_path):
    """An input error with its hint, not an internal one."""
    result = CliRunner().invoke(app, ["train", str(tmp_path), "-o", str(tmp_path / "r.pt")])
    assert result.exit_code == 2
    assert result.stderr == (
        "reading the images\n"
        "error: the data: no DICOM, NIfTI, NRRD, .npy or fastMRI .h5 image found\n"
        "hint: name a folder that holds magnitude images\n"
    )


def test_hours_of_training_are_not_overwritten_by_a_slip(tmp_path):
    """Repeating a command must not cost the checkpoint it made; --force and --resume say so."""
    np.save(tmp_path / "a.npy", phantoms(4, (96, 96)))
    once = dataclasses.replace(TINY, steps=2, validate_every=1)
    train_from_folders([tmp_path / "a.npy"], tmp_path / "run.pt", once)
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(OutputError, match=r"run\.pt exists") as caught:
        train_from_folders([tmp_path / "a.npy"], tmp_path / "run.pt", once)
    assert caught.value.hint == "go on with --resume, or replace it with --force"
    assert (tmp_path / "run.pt").read_bytes() == before
    train_from_folders(
        [tmp_path / "a.npy"], tmp_path / "run.pt", once, settings=RunSettings(force=True)
    )
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 3


def test_a_broken_dicom_slice_is_named_and_not_left_out(tmp_path):
    """A data set that shrinks without a word gives figures that nobody can repeat."""
    for path in sorted(sample_folder().iterdir())[:3]:
        shutil.copy(path, tmp_path)
    broken = tmp_path / "brain_002.dcm"
    broken.write_bytes(broken.read_bytes()[:-1000])
    with pytest.raises(TrainingDataError, match=r"brain_002\.dcm: a broken DICOM slice \(trunc"):
        list(read_volumes(tmp_path))
    broken.unlink()
    assert [len(volume.slices) for volume in read_volumes(tmp_path)] == [2]


# --- patience -------------------------------------------------------------------------------------


def test_a_run_ends_when_validation_no_longer_improves(series, tmp_path):
    """At a rate that ruins the weights; the best stay, and going on adds nothing."""
    options = dataclasses.replace(TINY, steps=40, lr=10.0, validate_every=2, patience=3, ema=0.0)
    notes = []
    output = tmp_path / "run.pt"
    held = [one.astype(np.float32) for one in phantoms(1)]
    train(options, series, output, validation=held, on_note=notes.append)
    rows = rows_of(output.with_suffix(".csv"))
    figures = [float(row["tissue_psnr_db"]) for row in rows]
    best = figures.index(max(figures))
    assert len(figures) == best + 1 + 3 < 20
    assert f"ends after {rows[-1]['step']} steps" in notes[-1]
    assert read_document(tmp_path / "run-best.pt")["training"]["step"] == 2 * (best + 1)
    train(options, series, output, validation=held, resume=True)
    assert rows_of(output.with_suffix(".csv")) == rows
    longer = dataclasses.replace(options, patience=4)
    train(longer, series, output, validation=held, resume=True)
    assert len(rows_of(output.with_suffix(".csv"))) > len(rows)


def test_patience_needs_something_to_judge_by(folder, tmp_path):
    """Else it would never end anything, silently."""
    options = dataclasses.replace(TINY, patience=2)
    with pytest.raises(InputError, match="patience counts validations") as told:
        train_from_folders([folder], tmp_path / "run.pt", options)
    assert "--validation" in str(told.value.hint)
    assert not (tmp_path / "run.pt").exists()
