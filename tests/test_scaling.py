"""Curves of cost: exponents that are right, points that cannot run kept with their reason."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt.bench import scaling
from kspacesr_rt.bench.bench_tables import scaling_text
from kspacesr_rt.bench.scaling import Scaling, ScalingPoint, _exponent, measure_scaling
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.model_file import load_model, shipped_models

X2 = shipped_models()["x2-fast"]


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_the_exponent_is_the_slope_of_the_logarithms(exponent):
    """A curve of known growth must be told by its own exponent, whatever its constant is."""
    points = [
        ScalingPoint(
            axis="matrix", value=n, backend="b", model="m", seconds_per_slice=1e-6 * n**exponent
        )
        for n in (64, 128, 512)
    ]
    assert _exponent(points, "matrix") == pytest.approx(exponent)
    assert _exponent(points, "batch") is None
    assert _exponent(points[:1], "matrix") is None


def test_a_small_measurement_has_all_three_curves(tmp_path, monkeypatch):
    """With the real worker; a larger matrix must cost more, and too large a one says so."""
    monkeypatch.setattr(scaling, "ROUNDS", 1)
    monkeypatch.setattr(scaling, "VISIT_S", 0.01)
    monkeypatch.setattr(scaling, "LARGEST_BYTES", 4e7)
    seen = []
    found = measure_scaling(
        load_model(X2),
        X2,
        tmp_path,
        matrices=(16, 96, 1024),
        batches=(1, 2),
        threads=(1,),
        on_progress=lambda done, total, text: seen.append(text),
    )
    at = {(point.axis, point.value): point for point in found.points}
    assert at["matrix", 96].seconds_per_slice > at["matrix", 16].seconds_per_slice
    assert 0 < at["matrix", 96].fft_share < 1
    assert at["matrix", 1024].seconds_per_slice is None
    assert at["matrix", 1024].reason == "more feature maps than fit"
    assert set(seen) == {"matrix", "batch", "threads"}
    assert set(found.exponents) == {"matrix", "batch"}
    assert np.isfinite(list(found.exponents.values())).all()


def test_an_axis_without_values_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one value"):
        measure_scaling(load_model(X2), X2, tmp_path, matrices=())


def test_curves_are_told_with_their_exponents_and_gaps():
    points = (
        ScalingPoint(
            axis="matrix",
            value=64,
            backend="ort-cpu",
            model="m",
            seconds_per_slice=0.01,
            fft_share=0.03,
        ),
        ScalingPoint(axis="matrix", value=1024, backend="ort-cpu", model="m", reason="too large"),
    )
    text = scaling_text([Scaling(points=points, exponents={"matrix": 2.04})])
    assert "m on ort-cpu: seconds a slice over matrix, exponent 2.04" in text
    assert "10.0 ms  FFT 3.0%" in text
    assert "1024  too large" in text


def test_bench_follows_the_backends_it_is_told(tmp_path, monkeypatch):
    """The command's option reaches the curves, with the file the rows ran."""
    seen = []

    def follow(model, path, folder, *, backend, threads, on_progress):
        seen.append((model.spec.name, path, backend))
        return Scaling(points=(), exponents={})

    monkeypatch.setattr("kspacesr_rt.bench.benchmark.measure_scaling", follow)
    file = tmp_path / "rows.json"
    arguments = ["bench", "--model", "x2-fast", "--no-peers", "--only", "zero-fill"]
    arguments += ["--budget", "1", "--scaling", "ort-cpu", "-o", str(file), "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert seen == [("x2-fast", X2, "ort-cpu")]
    assert json.loads(file.read_text())["scaling"] == [{"points": [], "exponents": {}}]
