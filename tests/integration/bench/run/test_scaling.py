"""Curves of cost: exponents that are right, points that cannot run kept with their reason."""

import json

import numpy as np
import pytest
import small_benchmark
from typer.testing import CliRunner

from kspacesr_rt.bench.report.tables import scaling_text
from kspacesr_rt.bench.run import scaling
from kspacesr_rt.bench.run.model_variants import Variants
from kspacesr_rt.bench.run.plans import REFERENCE, RowPlan
from kspacesr_rt.bench.run.scaling import (
    Scaling,
    ScalingPoint,
    _exponent,
    _too_long,
    measure_scaling,
    thread_counts,
)
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.system.cpu import available_cores

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


@pytest.fixture
def contestants(tmp_path):
    """One backend, and PyTorch with the same weights."""
    reference = Variants(tmp_path).path_for(RowPlan(contestant=REFERENCE, model="x2-fast"))
    return {REFERENCE: reference, "ort-cpu": X2}


@pytest.fixture
def short(monkeypatch):
    """Take almost no time for rounds."""
    monkeypatch.setattr(scaling, "ROUNDS", 2)
    monkeypatch.setattr(scaling, "VISIT_S", 0.01)


@pytest.mark.usefixtures("short")
def test_a_small_measurement_has_all_three_curves_of_each(tmp_path, contestants, monkeypatch):
    """With the real worker; a larger matrix must cost more, and too large a one says so.

    A point that fails, here of a matrix that our model cannot be bound to, keeps its reason, and
    the others go on: PyTorch has a figure there.
    """
    monkeypatch.setattr(scaling, "LARGEST_BYTES", 4e7)
    seen = []
    reference, ours = measure_scaling(
        load_model(X2),
        contestants,
        tmp_path,
        matrices=(1024, 4, 16, 96),
        batches=(1, 2),
        threads=(1,),
        on_progress=lambda done, total, text: seen.append(text),
    )
    at = {(point.axis, point.value): point for point in ours.points}
    assert at["matrix", 96].seconds_per_slice > at["matrix", 16].seconds_per_slice
    assert 0 < at["matrix", 96].fft_share < 1
    assert at["batch", 2].fft_share is None
    for curve in (reference, ours):
        (large,) = (one for one in curve.points if one.value == 1024)
        assert large.seconds_per_slice is large.ratio is None
        assert large.reason == "feature maps of 0.4 GB, more than 0.0 GB"
        assert set(curve.exponents) == {"matrix", "batch"}
        assert np.isfinite(list(curve.exponents.values())).all()
    assert set(seen) == {"matrix", "batch", "threads", "layers"}
    assert {point.backend for point in reference.points} == {REFERENCE}
    assert all(one.ratio == 1.0 for one in reference.points if one.value != 1024)
    for point in ours.points:
        if point.value not in (4, 1024):
            assert 0.05 < point.ratio < 50
    assert at["matrix", 4].seconds_per_slice is None
    assert "8" in at["matrix", 4].reason
    small = next(one for one in reference.points if one.value == 4)
    assert small.seconds_per_slice > 0
    json.dumps([reference.to_dict(), ours.to_dict()], allow_nan=False)


@pytest.mark.usefixtures("short")
def test_points_that_would_take_too_long_or_too_much_are_kept(tmp_path, monkeypatch):
    """Judged by the next smaller point, so that nobody waits an hour to learn it."""
    monkeypatch.setattr(scaling, "LONGEST_CALL_S", 1e-9)
    (ours,) = measure_scaling(
        load_model(X2), {"ort-cpu": X2}, tmp_path, matrices=(16, 32), batches=(1,), threads=(1,)
    )
    first, second = (one for one in ours.points if one.axis == "matrix")
    assert first.seconds_per_slice > 0
    assert first.ratio is None  # PyTorch did not run
    assert second.reason.startswith("a call would take about")
    monkeypatch.setattr(scaling, "_free_bytes", lambda: 0.0)
    (ours,) = measure_scaling(
        load_model(X2), {"ort-cpu": X2}, tmp_path, matrices=(16,), batches=(1,), threads=(1,)
    )
    assert all("half of the free memory" in one.reason for one in ours.points)
    assert ours.exponents == {}


def test_how_long_a_larger_point_takes_follows_from_its_axis():
    """FFT layers grow faster than the matrix's samples; batches in proportion; threads help."""
    assert _too_long((64, 1.0), "matrix", 128) == ""
    assert "32 s" in _too_long((64, 1.0), "matrix", 256)
    assert "32 s" in _too_long((1, 1.0), "batch", 32)
    assert _too_long((1, 15.0), "threads", 16) == ""
    assert _too_long(None, "matrix", 1024) == ""


def test_free_memory_is_read_or_unlimited(tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 10 kB\nMemAvailable:    2048 kB\n")
    assert scaling._free_bytes(file) == 2048 * 1024
    assert scaling._free_bytes(tmp_path / "none") == float("inf")


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (64, (1, 2, 4, 8, 16, 32, 64))]
)
def test_threads_are_doubled_up_to_all(cores, counts):
    assert thread_counts(cores) == counts


def test_an_axis_without_values_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one value"):
        measure_scaling(load_model(X2), {"ort-cpu": X2}, tmp_path, matrices=())


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
        ScalingPoint(axis="batch", value=64, backend="ort-cpu", model="m", reason="no memory"),
    )
    text = scaling_text([Scaling(points=points, exponents={"matrix": 2.04})])
    assert "m on ort-cpu: seconds a slice over matrix, exponent 2.04" in text
    assert "10.0 ms  FFT 3.0%" in text
    assert "1024  too large" in text
    assert "over batch, no exponent\n     64  no memory" in text


def test_bench_follows_the_backends_it_is_told(tmp_path, monkeypatch):
    """The command's option reaches the curves, with the file the rows ran, PyTorch beside it."""
    seen = []

    def measure(model, contestants, folder, *, threads, on_progress):
        seen.append((model.spec.name, list(contestants), contestants["ort-cpu"], threads))
        return (Scaling(points=(), exponents={}),) * 2

    monkeypatch.setattr("kspacesr_rt.bench.run.benchmark.measure_scaling", measure)
    small_benchmark.take_their_place(monkeypatch)
    file = tmp_path / "rows.json"
    arguments = ["bench", "--model", "x2-fast", "--no-peers", "--only", "zero-fill"]
    arguments += ["--budget", "1", "--scaling", "ort-cpu", "-o", str(file), "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert seen == [("x2-fast", [REFERENCE, "ort-cpu"], X2, thread_counts(available_cores()))]
    assert json.loads(file.read_text())["scaling"] == [{"points": [], "exponents": {}}] * 2
