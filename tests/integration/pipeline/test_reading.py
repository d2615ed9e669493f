"""Commands that read folders: a file's trouble is that file's failure, and the rest is used."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import ROOT
from typer.testing import CliRunner

from kspacesr_rt.bench.quality.evaluation import QualityRow, as_text
from kspacesr_rt.bench.run.benchmark import BenchOptions, prepare_slices
from kspacesr_rt.bench.run.model_variants import Variants
from kspacesr_rt.cli import app
from kspacesr_rt.errors import BackendUnavailableError, OutputError, TrainingDataError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import shipped_models
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.train.file_failures import SHOWN, Reading
from kspacesr_rt.train.pairs import describe, load_training_series
from kspacesr_rt.train.volumes import read_volumes

RESULTS = ROOT / "bench" / "results"
SECRETS = ("jane", "doe", "DOE")
GOOD, CUT, DARK = "jane_t1.npy", "jane_cut.dcm", "jane_dark.npy"
BROKEN = {
    "jane_nan.npy": "non-finite",
    "jane_text.npy": "unreadable",
    "sub/jane_flat.npy": "unreadable",
    "jane_not.nii.gz": "unreadable",
    "jane_not.nii": "unreadable",
    "jane_not.nrrd": "unreadable",
    "jane_not.h5": "unreadable",
    CUT: "truncated",
}
"""What is wrong with each file, by the reason word it is left out with."""


def label(name: str) -> str:
    """Hash a path below the folder, as the documentation tells a user to."""
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()[:12]


@pytest.fixture
def folder(tmp_path):
    """One good series beside eight files that are broken, each in its own way."""
    root = tmp_path / "DOE^JANE"
    (root / "sub").mkdir(parents=True)
    np.save(root / GOOD, np.stack([brain_phantom((96, 96))] * 3))
    np.save(root / "jane_nan.npy", np.full((2, 96, 96), np.nan))
    (root / "jane_text.npy").write_text("jane doe")
    np.save(root / "sub" / "jane_flat.npy", np.ones(5))
    for name in ("jane_not.nii.gz", "jane_not.nii", "jane_not.nrrd", "jane_not.h5"):
        (root / name).write_bytes(b"jane doe" * 60)
    whole = sorted(sample_folder().glob("*.dcm"))[10].read_bytes()
    (root / CUT).write_bytes(whole[:-1000])
    return root


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(one) for one in arguments])


def no_name(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


def test_evaluate_judges_the_rest_and_names_each_failure(run, folder, tmp_path):
    """A night's evaluation does not end at one broken file, and does not hide it either."""
    done = run("evaluate", folder, "--model", "x2-fast", "--threads", 1, "--json")
    assert done.exit_code == 8, done.stderr
    found = json.loads(done.stdout)
    assert found["exit_code"] == 8
    assert {row["method"] for row in found["rows"]} == {"zero-fill", "bicubic", "x2-fast"}
    assert {row["series"] for row in found["rows"]} == {label(GOOD)}
    assert {row["data"] for row in found["rows"]} == {"data 1"}
    told = {one["file"]: one["reason"] for one in found["failed"]}
    assert told == {label(name): reason for name, reason in BROKEN.items()}
    assert no_name(done.stdout)
    assert no_name(done.stderr)
    for name, reason in BROKEN.items():
        assert f"failed {label(name)}: {reason}: " in done.stderr
    assert "error: 8 files or series failed; the rest was used" in done.stderr


def test_evaluate_shows_paths_when_told_so(run, folder):
    """The person who may see names finds the files at once."""
    done = run("evaluate", folder, "--model", "x2-fast", "--threads", 1, "--show-paths", "--json")
    assert done.exit_code == 8
    found = json.loads(done.stdout)
    assert {one["file"] for one in found["failed"]} == set(BROKEN)
    assert {row["series"] for row in found["rows"]} == {GOOD}
    assert {row["data"] for row in found["rows"]} == {folder.name}


def test_evaluate_of_good_files_alone_succeeds(run, folder):
    """Exit code 8 says that something failed: nothing did."""
    for name in BROKEN:
        (folder / name).unlink()
    done = run("evaluate", folder, "--model", "x2-fast", "--threads", 1)
    assert done.exit_code == 0
    assert no_name(done.output)
    assert label(GOOD) in done.stdout
    done = run("evaluate", folder, "--model", "x2-fast", "--threads", 1, "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")


def test_evaluate_of_broken_files_alone_says_so(run, folder):
    """Nothing to judge is no table of nothing."""
    (folder / GOOD).unlink()
    done = run("evaluate", folder, "--model", "x2-fast", "--threads", 1, "--json")
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
    assert json.loads(line)["error"]["kind"] == "training-data"
    assert no_name(line)
    assert "8 failed" in done.stderr


def test_a_series_that_cannot_be_judged_is_its_own_failure(run, folder):
    """Air alone, and images of a few samples: named, beside what can be judged."""
    for name in BROKEN:
        (folder / name).unlink()
    np.save(folder / DARK, np.zeros((3, 96, 96)))
    np.save(folder / "jane_dot.npy", np.ones((3, 2, 2)))
    done = run("evaluate", folder, "--model", "x2-fast", "--threads", 1, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 8
    told = {one["file"]: one["reason"] for one in found["failed"]}
    assert told.keys() == {f"data 1, {label(DARK)}", f"data 1, {label('jane_dot.npy')}"}
    assert told[f"data 1, {label(DARK)}"] == "empty"
    assert no_name(done.output)


def test_cards_are_not_written_from_a_part_of_the_data(run, folder, tmp_path):
    """A card states figures of a data set: not of what was left of it."""
    model = tmp_path / "x2-fast.onnx"
    shutil.copy(shipped_models()["x2-fast"], model)
    before = model.read_bytes()
    done = run("evaluate", folder, "--model", model, "--threads", 1, "--cards")
    assert done.exit_code == 8
    assert "no card is written" in done.stderr
    assert model.read_bytes() == before
    assert not model.with_suffix(".md").exists()


def test_train_goes_on_without_broken_files_and_says_so(run, folder, tmp_path):
    """The checkpoint is there, states what it was trained on, and the exit code is 8."""
    words = ("--upscale", 2, "--width", 4, "--blocks", 1, "--steps", 1, "--batch", 1)
    words = (*words, "--threads", 1, "--matrix", 0, "-o", tmp_path / "m.pt")
    done = run("train", folder, *words)
    assert done.exit_code == 8, done.output
    assert no_name(done.output)
    for name, reason in BROKEN.items():
        assert f"failed {label(name)}: {reason}: " in done.stderr
    assert torch.load(tmp_path / "m.pt", weights_only=True)
    assert "series 1 " in done.stderr


def test_bench_takes_the_first_series_that_can_be_read(folder, tmp_path):
    """Files that sort before the good one fail; slices are cut of the good one."""
    reading = Reading()
    options = BenchOptions(models=("x2-fast",), data=folder)
    made = prepare_slices(options, Variants(tmp_path), tmp_path, reading)
    assert made["x2-fast"].hr.shape[1:] == (96, 96)
    assert label("jane_nan.npy") in {one.file for one in reading.failures}


def test_bench_ends_with_the_code_of_a_failed_file(run, monkeypatch, tmp_path):
    """The table is printed, the file is named, and a script sees that one failed."""

    class Found:
        def to_dict(self, *, pictures):
            return json.loads((RESULTS / "x2-base-160.json").read_text())

    def measured(options, on_progress, reading):
        reading.fail("sha256:0", "unreadable", "odd")
        return Found()

    monkeypatch.setattr("kspacesr_rt.bench.run.benchmark.benchmark", measured)
    done = run("bench", "--data", tmp_path, "--json")
    assert done.exit_code == 8, done.output
    assert json.loads(done.stdout)["rows"]
    assert "failed sha256:0: unreadable: odd" in done.stderr


def test_a_cache_tells_of_broken_files_every_time(folder, tmp_path):
    """What was prepared comes from the cache; what failed is read again, since it may be mended."""
    for _ in range(2):
        reading = Reading()
        series = load_training_series([folder], cache=tmp_path / "cache", reading=reading)
        assert {one.file: one.reason for one in reading.failures} == {
            label(name): reason for name, reason in BROKEN.items()
        }
        assert [one.name for one in series] == [GOOD]
    whole = sorted(sample_folder().glob("*.dcm"))[10]
    shutil.copy(whole, folder / CUT)
    reading = Reading()
    assert len(load_training_series([folder], cache=tmp_path / "cache", reading=reading)) == 2
    assert label(CUT) not in {one.file for one in reading.failures}


def test_one_folder_of_broken_files_does_not_end_the_others(folder, tmp_path):
    """Several folders: the one that holds nothing good is told as its files."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.npy").write_text("none")
    reading = Reading()
    volumes = [volume for root in (bad, folder) for volume in read_volumes(root, reading)]
    assert [volume.name for volume in volumes] == [GOOD]
    assert len(reading.failures) == 1 + len(BROKEN)


def test_an_empty_folder_stays_an_error(tmp_path):
    """Nothing there at all is a wrong folder, not a failed file."""
    with pytest.raises(TrainingDataError, match=r"^the data: no DICOM"):
        list(read_volumes(tmp_path, Reading()))
    with pytest.raises(TrainingDataError, match=f"^{tmp_path}: no DICOM"):
        list(read_volumes(tmp_path, Reading(show_paths=True)))


def test_where_nothing_is_left_what_was_skipped_is_counted_too(tmp_path):
    """`1 failed` of a folder of fifty sounds as if the rest had been read."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "broken.npy").write_text("none")
    reading = Reading()
    assert list(read_volumes(tmp_path, reading)) == []
    with pytest.raises(TrainingDataError, match="nothing is left: 1 failed, 2 files skipped; the"):
        reading.require_any([])


def test_cards_keep_the_names_of_folders():
    """A card that says ``data 1`` says nothing; files stay hashes."""
    reading = Reading(show_folders=True)
    assert (reading.show_folders, reading.show_paths) == (True, False)
    assert not Reading().show_folders


def test_a_library_sees_errors_unless_it_asks_for_a_list(folder):
    """Leaving files out unasked would change a data set."""
    with pytest.raises(TrainingDataError):
        list(read_volumes(folder))


@pytest.mark.parametrize(
    "error",
    [OutputError("full"), BackendUnavailableError("gone"), ModuleNotFoundError("nibabel")],
)
def test_what_is_no_file_s_fault_ends_the_run(error):
    """A full disk, a missing library: every further file would fail alike."""
    reading = Reading()
    with pytest.raises(type(error)), reading.failing("a"):
        raise error
    assert not reading.failures


def test_an_unforeseen_error_quotes_nothing_of_the_file():
    """Messages of other libraries may hold a patient's values."""
    reading = Reading()
    with reading.failing("a", Path("/data/jane.nii")):
        raise KeyError("DOE^JANE")
    with reading.failing("b", Path("/data/jane.nii")):
        raise TrainingDataError("jane.nii: cannot be read: /data/jane.nii is odd")
    assert no_name(" ".join(reading.lines()))
    assert reading.failures[1].as_text() == "failed b: unreadable: cannot be read: b is odd"


def test_many_failures_are_listed_in_part():
    """A folder of a thousand broken files does not scroll everything else away."""
    reading = Reading()
    for number in range(SHOWN + 5):
        reading.fail(f"f{number}", "unreadable", "odd")
        reading.fail(f"f{number}", "unreadable", "odd")  # the folder was read twice
    assert len(reading.failures) == SHOWN + 5
    assert reading.lines()[-1] == "and 5 more: --json lists them"


def test_gains_are_over_the_same_folder_s_baseline():
    """Two folders whose series are both number 1: each is compared with its own zero-filling."""

    def row(data, method, psnr):
        quality = Quality(mae=0.1, psnr_db=psnr, ssim=0.9)
        return QualityRow(
            data=data, series="dicom series 1", method=method, upscale=2, n_slices=1,
            quality=quality,
        )  # fmt: skip

    rows = [row("data 1", "zero-fill", 20.0), row("data 1", "m", 21.0)]
    rows += [row("data 2", "zero-fill", 30.0), row("data 2", "m", 31.0)]
    lines = [line for line in as_text(rows).splitlines() if re.search(r"\| m \|", line)]
    assert len(lines) == 2  # a folder of one series has no mean beside it
    assert all("| +1.00 |" in line for line in lines)
    assert "| data 1, dicom series 1 |" in lines[0]


def test_a_training_log_numbers_series_unless_told_to_name_them(folder):
    """Names of files stand in logs that travel."""
    series = load_training_series([folder / GOOD])
    assert GOOD in describe(series)
    assert no_name(describe(series, show_names=False))
