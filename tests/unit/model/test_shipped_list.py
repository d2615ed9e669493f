"""The list of shipped models that ``kspacesr-rt inspect`` prints."""

import json

import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.model.file import every_shipped_model, load_model, shipped_models
from kspacesr_rt.model.shipped_list import ShippedModel, list_shipped


def test_every_shipped_model_is_a_line():
    """With what a user chooses by: name, upscale, size, gain."""
    done = CliRunner().invoke(app, ["inspect"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == set(every_shipped_model())
    for line in lines:
        name, upscale, size, unit, *_ = line.split()
        path = every_shipped_model()[name]
        assert upscale == f"x{load_model(path).spec.upscale}"
        assert unit == "MB"
        assert float(size) == pytest.approx(path.stat().st_size / 1e6, abs=0.05)
        assert len(line) <= 80
    assert "x2-complex" in lines[-1]
    assert lines[-1].endswith("on raw k-space")


def test_json_is_an_object_a_model():
    done = CliRunner().invoke(app, ["inspect", "--json"])
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert listed == [one.to_dict() for one in list_shipped()]
    quality = load_model(shipped_models()["x4-fast"]).spec.quality["evaluation"]
    [gain] = [one["gain_db"] for one in listed if one["name"] == "x4-fast"]
    assert gain == quality["tissue_psnr_db"] - quality["tissue_zero_fill_psnr_db"]


def test_a_model_without_quality_claims_no_gain():
    one = ShippedModel(name="x", upscale=2, input="image", size_bytes=10, gain_db=None)
    assert "no measured gain" in one.as_line()
