"""The contract of mercure's modules: what it hands over, and what it expects back."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.dicom.series_encoder import SeriesEncoder
from kspacesr_rt.errors import InputError, NoMRImageError, SliceFailed, StaleOutputError
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.services.mercure import read_task, run_task

SETTINGS = {"backend": "zero-fill", "upscale": 2}


@pytest.fixture
def case(tmp_path):
    """Make a folder as mercure does: flat, inputs named by UID, tags and task beside them."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    output.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[8:11]:
        series = dcmread(path, stop_before_pixels=True).SeriesInstanceUID
        (source / f"{series}#{path.stem}.dcm").write_bytes(path.read_bytes())
        (source / f"{series}#{path.stem}.tags").write_text('{"PatientName": "X"}')
    write_task(source, SETTINGS)
    return {"MERCURE_IN_DIR": str(source), "MERCURE_OUT_DIR": str(output)}


def write_task(source, settings):
    task = {"id": "1", "info": {}, "process": {"module_name": "sr", "settings": settings}}
    (source / "task.json").write_text(json.dumps(task))


def source_of(case):
    return read_task(case).source


def result_of(case):
    return json.loads((read_task(case).output / "result.json").read_bytes())


def spoil(case):
    """Cut the pixels of one input off."""
    path = min(source_of(case).glob("*.dcm"))
    path.write_bytes(path.read_bytes()[:-1000])


def test_a_module_runs_as_mercure_runs_it(case):
    """Environment in, flat files and a result out, nothing else, exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "kspacesr_rt", "mercure"],
        env={**os.environ, **case, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    output = read_task(case).output
    found = sorted(path.name for path in output.iterdir())
    assert [name.endswith(".dcm") for name in found] == [True, True, True, False]
    assert found[-1] == "result.json"
    for path in output.glob("*.dcm"):
        ds = dcmread(path)
        assert path.name == f"{ds.SeriesInstanceUID}#{ds.SOPInstanceUID}.dcm"
        assert (ds.Rows, ds.Columns) == (512, 512)
    told = result_of(case)
    assert (told["written"], told["backend"], told["exit_code"]) == (3, "zero-fill", 0)
    notification = told["__mercure_notification"]
    assert not notification["requested"]
    assert "3 slices x2" in notification["text"]
    assert "not-dicom" not in notification["text"], "task.json is no concern of the reader"


def test_some_failed_slices_keep_the_case_back(case):
    """Mercure dispatches what ends with 0: half a series must not reach the archive unasked."""
    spoil(case)
    assert run_task(read_task(case)) == 8
    notification = result_of(case)["__mercure_notification"]
    assert notification["requested"]
    assert "1 failed: truncated" in notification["text"]
    assert len(list(read_task(case).output.glob("*.dcm"))) == 2


def test_a_site_may_choose_to_have_a_partial_series(case):
    """Then somebody is told, all the same."""
    spoil(case)
    write_task(source_of(case), {**SETTINGS, "partial": "deliver"})
    assert run_task(read_task(case)) == 0
    assert result_of(case)["__mercure_notification"]["requested"]


def test_a_case_of_which_nothing_is_left_is_kept_back_whatever_the_site_chose(case, monkeypatch):
    """Mercure would take exit code 0 and no file for a case that is done."""

    def fail(*_, **__):
        raise SliceFailed("too-large", "a matrix that DICOM cannot count")

    monkeypatch.setattr(SeriesEncoder, "encode", fail)
    write_task(source_of(case), {**SETTINGS, "partial": "deliver"})
    assert run_task(read_task(case)) == 8
    assert "3 failed: too-large" in result_of(case)["__mercure_notification"]["text"]
    assert [path.name for path in read_task(case).output.iterdir()] == ["result.json"]


def test_a_case_without_an_mr_image_says_so(case):
    """An error, with its text where mercure shows it."""
    for path in source_of(case).glob("*.dcm"):
        path.unlink()
    with pytest.raises(NoMRImageError):
        run_task(read_task(case))
    told = result_of(case)
    assert told["exit_code"] == 9
    assert "no MR image" in told["__mercure_notification"]["text"]
    assert [path.name for path in read_task(case).output.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": "x2-fast"}, "unknown setting 'modle'"),
        ({"upscale": "2"}, "'upscale' in task.json is not of type int"),
        ({"batch": True}, "'batch' in task.json is not of type int"),
        ({"partial": "maybe"}, "fail or deliver"),
        (["x2-fast"], "not an object"),
    ],
)
def test_a_setting_that_is_not_understood_is_refused(case, settings, message):
    """A typing error must not quietly run another model."""
    write_task(source_of(case), settings)
    with pytest.raises(InputError, match=message):
        read_task(case)


def test_no_settings_mean_the_defaults(case):
    """Mercure writes null or {} for a module without settings."""
    write_task(source_of(case), None)
    assert read_task(case).options == InferOptions()


def test_a_missing_environment_is_named(tmp_path):
    """Run by hand, the command says what mercure would have set."""
    with pytest.raises(InputError, match="MERCURE_IN_DIR is not set"):
        read_task({})
    with pytest.raises(InputError, match="names no folder"):
        read_task({"MERCURE_IN_DIR": str(tmp_path / "no")})
    with pytest.raises(InputError, match=r"no readable task\.json"):
        read_task({"MERCURE_IN_DIR": str(tmp_path), "MERCURE_OUT_DIR": str(tmp_path)})


def test_what_a_killed_module_left_behind_is_not_delivered_with_a_corrected_case(case):
    """The folder may outlive a container; the case came again under another name."""
    task = read_task(case)
    infer(task.source, task.output / ".kspacesr-rt", task.options)  # and killed before delivery
    for path in source_of(case).glob("*.dcm"):
        dataset = dcmread(path)
        dataset.PatientName = "NEW^NAME"
        dataset.save_as(path)
    with pytest.raises(StaleOutputError):
        run_task(task)
    assert result_of(case)["exit_code"] == 10
    assert not list(task.output.glob("*.dcm"))


def test_only_what_the_run_vouches_for_is_delivered(case):
    """What `keep` leaves beside it in the working folder is somebody's old name."""
    task = read_task(case)
    infer(task.source, task.output / ".kspacesr-rt", task.options)
    for path in source_of(case).glob("*.dcm"):
        dataset = dcmread(path)
        dataset.PatientName = "NEW^NAME"
        dataset.save_as(path)
    write_task(source_of(case), SETTINGS | {"stale": "keep"})
    assert run_task(read_task(case)) == 0
    names = [str(dcmread(path).PatientName) for path in task.output.glob("*.dcm")]
    assert names == ["NEW^NAME"] * 3


@pytest.mark.parametrize("value", ["sometimes", 1, True])
def test_a_word_for_stale_outputs_that_is_none_is_refused(case, value):
    """As on the command line."""
    write_task(source_of(case), SETTINGS | {"stale": value})
    with pytest.raises(InputError, match="stale"):
        read_task(case)


def test_what_a_task_leaves_open_the_container_decides(case, monkeypatch):
    """A site sets the backend once, in the container's environment; a task still may name another.

    The result tells which it was: nobody else sees the environment of a container.
    """
    for name, value in {**case, "KSPACESR_RT_BACKEND": "bicubic", "KSPACESR_RT_BATCH": "2"}.items():
        monkeypatch.setenv(name, value)
    write_task(source_of(case), {"upscale": 2})
    words = ["mercure", "--compress", "rle"]
    assert CliRunner().invoke(app, words).exit_code == 0
    result = result_of(case)
    assert result["backend"] == "bicubic"
    assert result["option_sources"] == {
        "backend": "KSPACESR_RT_BACKEND",
        "batch": "KSPACESR_RT_BATCH",
        "compress": "command line",
        "upscale": "task.json",
    }
    assert (result["options"]["batch"], result["options"]["compress"]) == (2, "rle")
    write_task(source_of(case), {"backend": "zero-fill", "limits": ["items=1000"]})
    assert CliRunner().invoke(app, words).exit_code == 0
    result = result_of(case)
    assert result["backend"] == "zero-fill"
    assert result["option_sources"]["backend"] == "task.json"
    assert result["options"]["limits"]["items"] == 1000


@pytest.mark.parametrize("task", [[], None, 3, {"process": None}, {"process": []}])
def test_a_task_of_another_shape_is_refused(case, task):
    """What it asks for would be left out without a word."""
    (source_of(case) / "task.json").write_text(json.dumps(task))
    with pytest.raises(InputError, match=r"task\.json holds no object"):
        read_task(case)
