"""What the pipeline costs: every figure is measured, and the null backend is no backend."""

import json

import pytest

from kspacesr_rt.bench.run.null_backend import NULL, null_backend
from kspacesr_rt.bench.run.pipeline_cost import (
    COPY,
    PAPER_WORKERS,
    PLAIN_LOOP,
    Cost,
    PipelineCost,
    PipelineOptions,
    ProcessCost,
    measure_pipeline,
)
from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.pipeline.stage_timer import STAGES
from kspacesr_rt.runtime.backends import backend_names
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.cpu import available_cores

SLICES = 20


def test_every_way_is_measured_and_every_stage_adds_up():
    """A stage that is left out would make the rest look cheap."""
    cost = measure_pipeline(
        PipelineOptions(slices=SLICES, matrices=(32, 300), rounds=1, processes=(0, 1))
    )
    told = json.loads(json.dumps(cost.to_dict()))
    small, large = told["matrices"]
    assert (small["slices"], large["slices"]) == (SLICES, SLICES)
    for one in (small, large):
        assert {PLAIN_LOOP, COPY} <= one["beside"].keys()
        assert set(one["stages"]) == {*STAGES, "other"}
        assert sum(one["stages"].values()) == pytest.approx(one["infer"]["cpu_ms"])
        assert 0.0 < one["backend_ms"] < one["infer"]["cpu_ms"]
        beyond = one["infer"]["cpu_ms"] - one["backend_ms"]
        assert one["over_loop"] == pytest.approx(beyond / one["beside"][PLAIN_LOOP]["cpu_ms"])
    assert list(told["slices_per_s"]) == [str(n + 1) for n in range(available_cores())]
    assert f"{small['infer']['cpu_ms']:.2f}" in cost.as_text()
    alone, beside = told["processes"]["0"], told["processes"]["1"]
    assert alone["beside_ms"] < beside["beside_ms"]
    assert "1 processes beside" in cost.as_text()


def test_the_paper_continues_what_was_measured():
    """Amdahl's law goes through the points it was taken from, and never above its limit."""
    cost = PipelineCost(backend=NULL, matrices=(), slices_per_s={1: 100.0, 2: 160.0})
    assert cost.serial_share == pytest.approx(0.25)
    assert cost.on_paper[2] == pytest.approx(160.0)
    assert tuple(cost.on_paper) == PAPER_WORKERS
    assert cost.on_paper[32] < 400.0
    alone = PipelineCost(backend=NULL, matrices=(), slices_per_s={1: 100.0})
    assert (alone.serial_share, alone.on_paper) == (None, {})


def test_on_paper_the_process_that_computes_is_the_limit():
    cost = ProcessCost(infer=Cost(cpu_ms=2.0, wall_ms=9.0), beside_ms=6.0)
    assert cost.on_paper == {1: 125.0, 2: 250.0, 4: 500.0, 8: 500.0, 16: 500.0, 32: 500.0}


def test_the_null_backend_is_no_way_to_run_anything(tmp_path):
    """Repeated samples are no super-resolution: nobody may get them by a name."""
    assert NULL not in backend_names()
    with pytest.raises(InputError, match="no backend is called 'null'"):
        InferOptions(backend=NULL, upscale=2)
    with null_backend():
        options = InferOptions(backend=NULL, upscale=2)
        assert infer(sample_folder(), tmp_path / "within", options).count("written") == 20
    assert NULL not in backend_names()
    with pytest.raises(InputError, match="no backend is called 'null'"):
        infer(sample_folder(), tmp_path / "after", options)
