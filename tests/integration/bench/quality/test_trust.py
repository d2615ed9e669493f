"""`kspacesr-rt trust`: what it stores in a model file, and what it says of one that has nothing."""

from __future__ import annotations

import json

import onnx
import pytest
from phantom_patients import save_heads
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.model.spec import METADATA_KEY


def test_the_command_calibrates_stores_and_judges(tmp_path):
    """One command makes a file state it; the same without data judges what it states."""
    path = tmp_path / "own.onnx"
    path.write_bytes(shipped_models()["x4-fast"].read_bytes())
    train = save_heads(tmp_path / "train", patients=2, noise=0.02)
    others = save_heads(tmp_path / "others", patients=1, noise=0.02, seed=3)

    def cli(*words):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    words = ["trust", str(others), "--model", str(path), "--json", "--quiet", "--threads", "1"]
    made = json.loads(cli(*words, "--calibrate-on", str(train)))
    stored = load_model(path).spec.trust
    assert made["trust"]["x4-fast"] == stored
    assert path.with_suffix(".md").exists()
    assert list(stored["measured"]) == ["others"]
    again = json.loads(cli(*words))["trust"]["x4-fast"]
    assert again["constant"] == stored["constant"]
    assert list(again["measured"]) == ["data 1"]
    assert again["measured"]["data 1"]["tissue"] == pytest.approx(
        stored["measured"]["others"]["tissue"], abs=1e-3
    )


def test_a_file_that_states_nothing_is_refused(tmp_path):
    """In one sentence, before minutes are spent: exit code 2."""
    proto = onnx.load(shipped_models()["x4-fast"])
    (entry,) = (one for one in proto.metadata_props if one.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "trust": {}, "schema": 5})
    path = tmp_path / "old.onnx"
    onnx.save(proto, path)
    folder = save_heads(tmp_path / "heads", patients=1, noise=0.02)
    result = CliRunner().invoke(app, ["trust", str(folder), "--model", str(path)])
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert said.startswith("error: model 'x4-fast' has no trust calibration in its file hint: ")
