"""SR_kspace's table: equal budgets, all methods, all conventions, and a verdict that can be no."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt.bench.quality import seed_table
from kspacesr_rt.bench.quality.evaluation import QualityRow
from kspacesr_rt.bench.quality.seed_table import (
    Budget,
    TrainedRow,
    table,
    train_and_evaluate,
    trained_rows,
    verdict,
)
from kspacesr_rt.bench.report import readme
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError, TrainingDataError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.quality.metrics import CONVENTIONS, Quality
from kspacesr_rt.train.losses import SEED_WEIGHTS
from kspacesr_rt.train.run import RunSettings
from kspacesr_rt.train.untrusted_checkpoint import read_document

METHODS = ("zero-fill", "bicubic", "SRResNet", "SRGAN", "k-space net", "dc-residual")
TINY = Budget(steps=2, batch=2, width=4)


@pytest.mark.parametrize("upscale", [2, 4])
def test_every_contestant_has_the_same_budget(upscale):
    """Only what makes a method differs: domain, loss, data consistency."""
    rows = trained_rows(upscale, dataclasses.replace(TINY, rim="mix", degradation="seed-resize"))
    assert [one.name for one in rows] == list(METHODS[2:])
    for field in ("steps", "batch", "lr", "width", "upscale", "degradation", "rim", "random_state"):
        assert len({getattr(one, field) for one in rows}) == 1, field
    srresnet, srgan, kspace_net, ours = rows
    assert (srresnet.loss, srresnet.loss_weights.adversarial) == ("mse", 0.0)
    assert srgan.loss_weights == kspace_net.loss_weights == SEED_WEIGHTS
    assert (srgan.architecture, kspace_net.architecture) == ("seed-image", "seed-kspace")
    assert (kspace_net.data_consistency, ours.data_consistency) == ("additive", "hard")
    assert ours.augmentation == srresnet.augmentation


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = []
    for name, seed in (("train", 0), ("judged", 10)):
        folder = tmp_path_factory.mktemp(name)
        stack = np.stack([brain_phantom((64, 72), seed=seed + one) for one in range(3)])
        np.save(folder / "series.npy", stack.astype(np.float32))
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def judged(folders, tmp_path_factory):
    """Train the whole table for two steps a row."""
    work = tmp_path_factory.mktemp("work")
    notes = []
    found = train_and_evaluate(
        [folders[0]], [folders[1]], work, upscales=(2,), budget=TINY,
        settings=RunSettings(device="cpu", threads=1), on_note=notes.append,
    )  # fmt: skip
    return found, notes, work


def test_the_table_has_every_method_under_every_convention(judged):
    """Bicubic and zero-fill too; each trained row was exported through the gate first."""
    found, notes, work = judged
    rows = found.rows
    assert {(row.method, row.convention) for row in rows} == {
        (method, convention) for method in METHODS for convention in CONVENTIONS
    }
    text = table(rows)
    for convention in CONVENTIONS:
        assert f"Convention: {convention}, " in text
    assert "k-space net" in verdict(rows)[0]
    assert len(list(work.glob("*.onnx"))) == 4
    assert any("VGG16" in note for note in notes)


def test_a_table_that_was_interrupted_goes_on(judged, folders):
    """Checkpoints that are complete are not trained again."""
    found, _, work = judged
    before = {path: path.stat().st_mtime_ns for path in work.glob("*.pt")}
    again = train_and_evaluate(
        [folders[0]], [folders[1]], work, upscales=(2,), budget=TINY,
        settings=RunSettings(device="cpu", threads=1),
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in work.glob("*.pt")} == before
    assert again == found


def test_a_row_tells_what_it_got(judged):
    """Without validation the last weights are judged."""
    found, _, _ = judged
    assert found.trained == [
        TrainedRow(method=method, upscale=2, planned=2, steps=2, judged=2) for method in METHODS[2:]
    ]


def test_time_decides_the_steps_and_validation_the_weights(folders, tmp_path, monkeypatch):
    """An hour is the same for every row, whatever its network costs; a second start keeps them."""
    monkeypatch.setattr(seed_table, "trained_rows", lambda *_: trained_rows(2, TINY)[3:])
    budget = dataclasses.replace(TINY, core_hours=1e-4, patience=2, lr=0.3)

    def run(budget):
        return train_and_evaluate(
            [folders[0]], [folders[1]], tmp_path, validation=[folders[1]], upscales=(2,),
            budget=budget, settings=RunSettings(device="cpu", threads=1),
        )  # fmt: skip

    found = run(budget)
    (row,) = found.trained
    planned = json.loads((tmp_path / "steps.json").read_text())
    assert planned == {"dc-residual-x2": {"core_hours": 1e-4, "steps": row.planned}}
    assert 1 <= row.judged <= row.steps <= row.planned
    monkeypatch.setattr(seed_table, "TRIED", 0)  # a second trial would fail
    assert run(budget) == found
    best = read_document(tmp_path / "dc-residual-x2-best.pt")["training"]["step"]
    assert row.judged == best


@pytest.mark.parametrize(
    ("kspace_ssim", "word"), [(0.93, " has "), (0.91, "does not have"), (0.89, "does not have")]
)
@pytest.mark.parametrize("convention", ["slice-range1", "tissue"])
def test_the_verdict_can_be_no(kspace_ssim, word, convention):
    """The seed's claim is put to the test, not repeated: highest of all its methods."""
    rows = [
        QualityRow(
            data="d", series="s", method=method, upscale=2, n_slices=1, convention=convention,
            quality=Quality(mae=0.01, psnr_db=30.0, ssim=ssim),
        )
        for method, ssim in (
            ("SRResNet", 0.9), ("SRGAN", 0.92), ("k-space net", kspace_ssim), ("zero-fill", 0.99)
        )
    ]  # fmt: skip
    (sentence,) = verdict(rows)
    assert word in sentence
    assert f"({kspace_ssim:.4f}; SRResNet 0.9000, SRGAN 0.9200)" in sentence
    assert sentence in table(rows)


def test_something_to_judge_on_is_needed(tmp_path):
    """A table of training data would flatter whatever memorises best."""
    with pytest.raises(InputError, match="at least one folder to judge on"):
        train_and_evaluate([tmp_path], [], tmp_path)


def test_the_command_prints_json_that_the_readme_renders(folders, tmp_path):
    """The committed result file and the README's table come from this line."""
    result = CliRunner().invoke(
        app,
        ["seed-table", str(folders[0]), "--judge-on", str(folders[1]), "--work", str(tmp_path),
         "--steps", "1", "--batch", "1", "--width", "4", "--upscale", "4", "--device", "cpu",
         "--threads", "1", "--json", "-q"],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["budget"]["steps"] == 1
    text = readme.seed_table(document)
    assert "for 1 steps, 1 slices a step, 4 channels" in text
    assert "Steps done, and the step whose weights are judged: SRResNet x4 1 (1)" in text
    assert document["verdict"][0] in text
    assert text.count("| x4 | ") == len(METHODS) * len(CONVENTIONS)


@pytest.mark.parametrize("content", [None, b"no array"], ids=["empty", "unreadable"])
def test_what_is_judged_on_is_looked_at_before_hours_of_training(
    content, folders, tmp_path, monkeypatch
):
    """A folder that was mistyped costs seconds."""
    monkeypatch.setattr(seed_table, "train_from_folders", pytest.fail)
    other = tmp_path / "judged"
    other.mkdir()
    if content is not None:
        (other / "series.npy").write_bytes(content)
    with pytest.raises(TrainingDataError):
        train_and_evaluate([folders[0]], [other], tmp_path / "work", budget=TINY)
    assert not (tmp_path / "work").exists()
