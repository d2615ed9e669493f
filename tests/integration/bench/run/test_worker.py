"""The process of a row, and what a run asks of it besides time: memory, engines, layers, stages."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from kspacesr_rt.bench.run import benchmark
from kspacesr_rt.bench.run import worker as worker_module
from kspacesr_rt.bench.run.benchmark import BenchOptions, _in_groups, _peaks, _stages
from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.bench.run.rows import BenchRow
from kspacesr_rt.bench.run.scheduler import Measured
from kspacesr_rt.bench.run.stage_times import stage_split
from kspacesr_rt.bench.run.worker import GEMM, GEMM_CUDA, TRIAD, Worker, _answers
from kspacesr_rt.errors import InputError
from kspacesr_rt.model.file import shipped_models
from kspacesr_rt.system.energy import NoEnergy
from kspacesr_rt.system.gpu_state import GpuUnknown

X2 = shipped_models()["x2-fast"]
MIB = 1 << 20


def plan(contestant="ort-cpu", **changes):
    return RowPlan(**{"contestant": contestant, "model": "x2-fast", "lowering": "gemm", **changes})


def slices(n=2):
    return np.random.default_rng(0).random((n, 24, 20), dtype=np.float32)


@pytest.fixture
def gpu(monkeypatch):
    """Stand in for a GPU of which a row takes 300 MiB when it opens."""
    state = SimpleNamespace(used=100 * MIB, own=None)
    monkeypatch.setattr(
        worker_module,
        "open_gpu",
        lambda: SimpleNamespace(used_bytes=lambda: state.used, process_bytes=lambda pid: state.own),
    )

    def open_runner(row, file, lr):
        state.used += 300 * MIB
        return lambda batch: np.repeat(np.repeat(batch, 2, 2), 2, 3)

    monkeypatch.setattr(worker_module, "open_runner", open_runner)
    return state


def test_device_memory_is_the_drivers_figure_or_the_growth(gpu, tmp_path):
    """In a container the driver finds no such process; then only this row's own growth counts."""
    worker = Worker(plan("ort-cuda"), X2, slices())
    worker.open()
    gpu.used += 5 * MIB
    assert worker.memory()["device_bytes"] == 300 * MIB
    gpu.own = 290 * MIB
    assert worker.memory()["device_bytes"] == 290 * MIB
    assert worker.memory()["engine_bytes"] is None
    on_cpu = Worker(plan(), X2, slices())
    on_cpu.open()
    assert on_cpu.memory()["device_bytes"] is None


class OnDevice:
    """A backend that says what its copies took, and can run without them."""

    def __init__(self):
        self.transfer_s, self.replayed = 0.0, []

    def run(self, batch):
        self.transfer_s += 0.25
        return np.repeat(np.repeat(batch, 2, 2), 2, 3)

    def replay(self, n):
        self.replayed.append(n)


def test_copies_and_the_device_alone_have_their_figures(monkeypatch, gpu):
    """A call of which most is copying looks slow for the wrong reason."""
    backend = OnDevice()
    monkeypatch.setattr(worker_module, "open_runner", lambda row, file, lr: backend.run)
    worker = Worker(plan("ort-cuda", batch=2), X2, slices())
    worker.open()
    worker.time(0.0)
    worker.time(0.0)
    found = worker.memory()
    assert found["copies_s"] == 0.25  # the first call of all is not one of those
    assert found["device_s"] > 0.0
    assert set(backend.replayed) == {2}
    on_cpu = Worker(plan(), X2, slices())
    monkeypatch.setattr(worker_module, "open_runner", lambda row, file, lr: lambda batch: batch)
    on_cpu.open()
    on_cpu.time(0.0)
    assert on_cpu.memory()["copies_s"] is on_cpu.memory()["device_s"] is None


def test_a_gpu_that_tells_nothing_leaves_no_figure(gpu, monkeypatch):
    def unknown():
        raise GpuUnknown("no binding")

    monkeypatch.setattr(worker_module, "open_gpu", unknown)
    worker = Worker(plan("tensorrt-rtx"), X2, slices())
    monkeypatch.setattr(worker, "_engine_bytes", lambda: 7)
    worker.open()
    assert worker.memory()["device_bytes"] is None
    assert worker.memory()["engine_bytes"] == 7


def test_an_engines_size_is_that_of_the_cached_file(tmp_path, monkeypatch):
    """The model's size says nothing about the engine's."""
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"1234567")
    asked = []

    class Cache:
        """One that holds the engine."""

        def get_or_build(self, model, options):
            asked.append((model.spec.matrix, options.runtime))
            return SimpleNamespace(path=engine)

    monkeypatch.setattr("kspacesr_rt.runtime.tensorrt.cache.EngineCache", Cache)
    assert Worker(plan("tensorrt"), X2, slices())._engine_bytes() == 7
    assert Worker(plan("ort-tensorrt"), X2, slices())._engine_bytes() is None
    assert asked == [((24, 20), "tensorrt")]


@pytest.mark.usefixtures("gpu")
def test_joules_are_of_the_visit_and_name_their_counter(monkeypatch):
    """A counter that stops answering leaves a visit without a figure, not the row without time."""
    readings = iter([(1,), (5,), (6,), NoEnergy("gone")])

    class Meter:
        """Four joules in the first visit."""

        source = "rapl"

        def counts(self):
            value = next(readings)
            if isinstance(value, NoEnergy):
                raise value
            return value

        def joules(self, before, after):
            return float(after[0] - before[0])

    asked = []
    monkeypatch.setattr(worker_module, "open_meter", lambda on_gpu: asked.append(on_gpu) or Meter())
    worker = Worker(plan(), X2, slices())
    worker.open()
    assert asked == [False]
    assert worker.time(0.0)["energy_j"] == 4.0
    second = worker.time(0.0)
    assert second["energy_j"] is None
    assert len(second["times_s"]) == 1
    assert worker.memory()["energy_source"] == "rapl"


def test_a_profile_is_a_rows_own_answer():
    """Asked for in JSON, as the conductor does; a row without a profile answers with an error."""
    worker = Worker(plan(), X2, slices())
    replies = list(_answers(worker, ['{"do": "open"}', '{"do": "profile"}']))
    groups = json.loads(json.dumps(replies[1]))["groups"]
    assert {"convolution", "fft"} <= {one["group"] for one in groups}
    baseline = Worker(plan("zero-fill", lowering=""), X2, slices())
    replies = list(_answers(baseline, ['{"do": "open"}', '{"do": "profile"}']))
    assert "profiles of 'zero-fill' are not read" in replies[1]["error"]


def test_rows_are_conducted_with_those_they_are_compared_with(tmp_path, monkeypatch):
    """Of one model and batch, so that memory is bounded; a group's budget goes by its rows."""
    calls = []

    def measure_rows(plans, inputs, folder, *, budget_s, profile, on_progress):
        assert folder.is_dir()
        calls.append(([one for one in plans if one.model], budget_s))
        assert {one.contestant for one in plans if not one.model} == {GEMM, TRIAD}
        return [Measured(plan=one) for one in plans]

    monkeypatch.setattr(benchmark, "measure_rows", measure_rows)
    rows = [plan(model=model, batch=batch) for model in "ab" for batch in (1, 4)] + [
        plan("openvino", model="b", batch=4)
    ]
    found = _in_groups(rows, None, tmp_path, BenchOptions(models=("a", "b"), budget_s=50.0), print)
    assert [budget for _, budget in calls] == [10.0, 10.0, 10.0, 20.0]
    assert [len(group) for group, _ in calls] == [1, 1, 1, 2]
    assert [one.plan for one in found if one.plan.model] == rows


def test_the_machine_is_measured_in_what_rows_compute_in(monkeypatch):
    """Every contestant takes time; the GPU's peak only where a row runs on it."""
    found = [(one.contestant, one.precision) for one in _peaks([plan(precision="int8")], 2)]
    assert found == [(GEMM, "fp32"), (GEMM, "int8"), (TRIAD, "fp32")]
    monkeypatch.setattr(benchmark, "why_not", lambda row: None)
    found = [(one.contestant, one.precision) for one in _peaks([plan("ort-cuda")], 2)]
    assert found == [(GEMM, "fp32"), (GEMM_CUDA, "fp32"), (TRIAD, "fp32")]
    assert all(one.on_gpu == (one.contestant == GEMM_CUDA) for one in _peaks([plan("ort-cuda")], 2))


def test_stages_are_those_of_the_fastest_right_row_of_ours(monkeypatch):
    """A wrong row may be fast; a peer has no pipeline."""
    asked = []

    def split(backend, model):
        asked.append((backend, model))
        return {"wall_s": 1.0, "bottleneck": "infer", "stages": []}

    monkeypatch.setattr(benchmark, "stage_split", split)
    variants = SimpleNamespace(path_for=lambda row: f"{row.precision}.onnx", folder="/secret/bench")
    rows = [
        BenchRow(plan=plan(precision="int8"), status="wrong", slices_per_s=9.0),
        BenchRow(plan=plan("torch-bf16", lowering=""), status="ok", slices_per_s=8.0),
        BenchRow(plan=plan("openvino", precision="bf16"), status="unstable", slices_per_s=7.0),
        BenchRow(plan=plan(), status="ok", slices_per_s=6.0),
    ]
    assert _stages(rows, variants)[0]["bottleneck"] == "infer"
    assert asked == [("openvino", "bf16.onnx")]
    assert _stages(rows[:2], variants) == (None, "no model of ours ran")

    def fail(backend, model):
        raise InputError("no slices in /secret/bench\nand more")

    monkeypatch.setattr(benchmark, "stage_split", fail)
    assert _stages(rows, variants) == (None, "no slices in ...")


def test_the_pipelines_stages_are_told_in_plain_values():
    """The real run on the shipped sample: numbers that JSON takes, and a stage that is there."""
    found = stage_split("ort-cpu", "x2-fast")
    assert found is not None
    names = [one["name"] for one in found["stages"]]
    assert found["bottleneck"] in names
    assert {"read", "infer", "write"} <= set(names)
    assert found["wall_s"] > 0
    assert all(one["workers"] >= 1 and 0 <= one["utilisation"] <= 1.01 for one in found["stages"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
