"""Reports of `infer`, of `watch` and of errors follow the schema that the reference publishes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import jsonschema
import pydicom
import pytest
from repository import ROOT
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.sample import sample_folder

SCHEMA = json.loads((ROOT / "docs" / "reference" / "report.schema.json").read_text())


def validate(report):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


@pytest.fixture
def study(tmp_path):
    """Two slices, a copy of one, a phase image and a file that ends early."""
    folder = tmp_path / "study"
    folder.mkdir()
    paths = sorted(sample_folder().glob("*.dcm"))[8:10]
    for path in paths:
        shutil.copy(path, folder)
    shutil.copy(paths[0], folder / "again.dcm")
    (folder / "cut.dcm").write_bytes(paths[1].read_bytes()[:-20000])
    phase = pydicom.dcmread(paths[0])
    phase.ImageType = ["ORIGINAL", "PRIMARY", "P"]
    phase.SOPInstanceUID += ".1"
    phase.save_as(folder / "phase.dcm")
    return folder


def infer(*words):
    return CliRunner().invoke(app, ["infer", *map(str, words), "--backend", "zero-fill"])


def test_reports_of_infer_follow_the_schema(study, tmp_path):
    """Written, skipped, failed and present files, stale outputs, and a summary without slices."""
    out = tmp_path / "out"
    assert infer(study, out, "--preview").exit_code == 8
    report = json.loads((out / "report.json").read_text())
    validate(report)
    assert {one["outcome"] for one in report["slices"]} == {"written", "skipped", "failed"}
    (study / "cut.dcm").unlink()
    done = infer(study, out, "--preview", "--json")
    assert done.exit_code == 0
    validate({**json.loads(done.stdout), "slices": []})
    validate(json.loads((out / "report.json").read_text()))
    changed = pydicom.dcmread(sorted(study.glob("brain*"))[1])
    changed.PatientName = "Other^Name"
    changed.save_as(sorted(study.glob("brain*"))[1])
    refused = infer(study, out, "--preview", "--json")
    assert refused.exit_code == 10
    validate({**json.loads(refused.stdout), "slices": []})
    validate(json.loads((out / "report.json").read_text()))
    for word, code in (("keep", 0), ("replace", 0)):
        assert infer(study, out, "--preview", "--stale", word).exit_code == code
        report = json.loads((out / "report.json").read_text())
        validate(report)
        assert report["stale"] or word == "replace"


@pytest.mark.parametrize(
    "words",
    [
        ["infer", "nowhere", "out", "--json"],
        ["infer", "nowhere", "out", "--json", "--batch", "0"],
        ["inspect", "no-such-model", "--json"],
    ],
    ids=["input", "usage", "model"],
)
def test_errors_follow_the_schema(words, tmp_path):
    """In a process of its own: usage errors end it."""
    done = subprocess.run(
        [sys.executable, "-m", "kspacesr_rt", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == ""
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
    told = json.loads(line)
    validate(told)
    assert told["exit_code"] == done.returncode != 0


def test_reports_of_a_model_follow_the_schema(study, tmp_path):
    """With figures, bounds, a backend that was chosen, and stages."""
    words = ["infer", str(study), str(tmp_path / "out"), "--backend", "ort-cpu", "--trust-map"]
    assert CliRunner().invoke(app, words).exit_code == 8
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    validate(report)
    assert report["bounds"]
    assert report["trust_maps"] == 1
    assert [one["trust_map_outcome"] for one in report["series_records"]] == ["written"]
    assert report["stages"]


def test_the_report_of_a_run_that_an_error_ends_follows_the_schema(study, tmp_path):
    """A signal after the first slice: interrupted, with what was not reached."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDED_EARLY, str(study), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = process.communicate(timeout=300)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    validate(report)
    assert report["interrupted"], said
    assert report["exit_code"] == 143


ENDED_EARLY = """
import os, signal, sys
from pathlib import Path
from kspacesr_rt.pipeline import InferOptions, infer

def stop(state):
    os.kill(os.getpid(), signal.SIGTERM)

infer(Path(sys.argv[1]), Path(sys.argv[2]), InferOptions(backend="zero-fill"), on_progress=stop)
"""


def test_the_report_of_a_watch_follows_the_schema(study, tmp_path):
    """Before, and after it has ended."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "kspacesr_rt", "watch", str(study), str(out)),
            *("--backend", "zero-fill", "--poll", "0.2", "--settle", "0", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KSPACESR_RT_CACHE": str(tmp_path / "cache")},
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    said = []
    for line in process.stdout:
        said.append(line)
        if '"processed"' in line:
            process.send_signal(signal.SIGTERM)
    watchdog.cancel()
    process.stdout.close()
    assert process.wait(60) == 143, said
    report = json.loads((out / "report.json").read_text())
    validate(report)
    assert report["ended"]
    assert report["written"] == 2
    assert report["left_out"]
