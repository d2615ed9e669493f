"""Files that all say the name of one model, judged side by side."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.model.file import shipped_models


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a command on one image, with two files of x2-fast."""
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    np.save(tmp_path / "hr.npy", (np.hypot(rows, columns) < 0.8) * (2.0 + np.cos(9 * rows)))
    for name in ("before", "after"):
        shutil.copy(shipped_models()["x2-fast"], tmp_path / f"{name}.onnx")
    files = ("--model", tmp_path / "before.onnx", "--model", tmp_path / "after.onnx")

    def go(command, *more):
        words = (command, tmp_path / "hr.npy", *files, "--threads", 1, *more)
        return CliRunner().invoke(app, [str(word) for word in words])

    return go


def test_each_has_its_rows(run):
    """And its digest, and its backend: nothing is told of one alone."""
    done = run("evaluate", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    both = {"x2-fast (1)", "x2-fast (2)"}
    assert {row["method"] for row in found["rows"]} == both | {"zero-fill", "bicubic"}
    assert found["weights"].keys() == found["backends"].keys() == both


@pytest.mark.parametrize(
    "words", [("evaluate", "--cards"), ("trust", "--calibrate-on", "{hr}")], ids=" ".join
)
def test_nothing_is_stored_in_files_that_cannot_be_told_apart(run, tmp_path, words):
    before = (tmp_path / "after.onnx").read_bytes()
    done = run(*(word.format(hr=tmp_path / "hr.npy") for word in words))
    assert done.exit_code == 2
    assert f"{words[1]} of several models that are called 'x2-fast'" in done.stderr
    assert "hint: judge each in a run of its own" in done.stderr
    assert (tmp_path / "after.onnx").read_bytes() == before
    assert not (tmp_path / "after.md").exists()
