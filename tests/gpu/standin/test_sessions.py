"""The real CUDA provider on each shipped model: what it captures, copies and launches.

Nothing here is a result or a time: the stand-in's kernels do nothing. What is shown is that every
node is on the GPU, that a run is one launch, and how much a CUDA graph holds.
"""

from __future__ import annotations

import pytest

from kspacesr_rt.model.file import every_shipped_model

MODELS = tuple(sorted(every_shipped_model()))
BATCHES = (1, 2, 8)
CEILINGS = {
    "fp32": {"x2-base": 64, "x2-complex": 90, "x2-fast": 64, "x4-base": 76, "x4-fast": 51},
    "fp16": {"x2-base": 73, "x2-complex": 99, "x2-fast": 73, "x4-base": 85, "x4-fast": 58},
    "int8": {"x2-base": 119, "x2-complex": 143, "x2-fast": 119, "x4-base": 149, "x4-fast": 98},
    "fp8": {"x2-base": 119, "x2-complex": 143, "x2-fast": 119, "x4-base": 149, "x4-fast": 98},
}
"""Nodes of a captured graph, at most, at any batch: what was counted with onnxruntime-gpu 1.31.1.
The GPU takes about a microsecond from node to node, so a graph with more of them is slower."""
EIGHT_BITS = ("int8", "fp8")
SIZE = (64, 49)
"""LR matrix: not square, one axis odd, and small."""


@pytest.fixture(scope="module")
def observed(shared_machine):
    """Return what was seen, by model, precision and batch: one process a model."""
    known = {}

    def look(model, precision, batch):
        if model not in known:
            keys = [(kind, n) for kind in CEILINGS for n in BATCHES]
            cases = [
                {"model": model, "precision": kind, "batch": n, "matrix": SIZE} for kind, n in keys
            ]
            known[model] = dict(zip(keys, shared_machine.probe(cases), strict=True))
        return known[model][precision, batch]

    return look


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("precision", CEILINGS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_one_launch_of_one_graph(observed, model, precision, batch):
    """All of a model on the GPU, captured once, and then nothing but copy, launch, copy."""
    seen = observed(model, precision, batch)
    assert "error" not in seen
    upscale = int(model[1])
    channels = 2 if model == "x2-complex" else 1
    assert seen["shapes"] == [[batch, channels, upscale * SIZE[0], upscale * SIZE[1]]]
    assert seen["captures"] == 1
    assert 20 < seen["nodes"] <= CEILINGS[precision][model]
    assert seen["by_event"]["cudnn"] > 10  # the convolutions
    assert seen["launches"] == 2  # of two later runs
    assert seen["later"] == ["copy", "launch", "synchronize"]
    assert seen["tf32"] == 0
    assert bool(seen["notes"]) == (precision in EIGHT_BITS)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("precision", CEILINGS)
@pytest.mark.parametrize("model", MODELS)
def test_a_graph_holds_no_copy_allocation_or_wait(observed, model, precision, batch):
    """A copy from the host would read, at every launch, memory that was free again long ago."""
    seen = observed(model, precision, batch)
    assert seen["host_copies"] == 0
    assert seen["by_pointers"] == 0  # products over lists of pointers, which are copied
    assert seen["forbidden"] == []


@pytest.mark.parametrize("model", MODELS)
def test_buffers_stay_where_the_graph_found_them(observed, model):
    """A graph keeps addresses: input and output must live as long as it does."""
    for precision in CEILINGS:
        for batch in BATCHES:
            seen = observed(model, precision, batch)
            assert len(seen["inputs"]) == 1
            assert seen["freed"] == []


@pytest.mark.parametrize("model", MODELS)
def test_another_thread_has_its_own_graph(observed, model):
    """ONNX Runtime keeps graphs by thread: the same one again, not a run without."""
    seen = observed(model, "fp32", 2)
    assert seen["in_thread"] == {"captures": 1, "nodes": seen["nodes"]}


def test_reopening_gives_the_same_graph(shared_machine, observed):
    """A service opens backends again and again: for matrices that come back, and in actors."""
    (seen,) = shared_machine.probe(
        [{"model": "x2-fast", "batch": 2, "matrix": SIZE, "times": 4}],
    )
    before = observed("x2-fast", "fp32", 2)
    assert {name: seen[name] for name in ("nodes", "captures", "launches", "later")} == {
        name: before[name] for name in ("nodes", "captures", "launches", "later")
    }


@pytest.mark.parametrize("sm", [75, 89, 120])
def test_other_generations_are_no_larger(shared_machine, observed, sm):
    """Kernels are chosen by compute capability; the graph must stay what it is."""
    (seen,) = shared_machine.probe([{"model": "x2-fast", "matrix": SIZE}], SM=sm)
    assert seen["nodes"] <= CEILINGS["fp32"]["x2-fast"]
    assert seen["host_copies"] == 0


# --- what is refused, and whether it has to be ----------------------------------------------------


def test_bf16_is_refused_before_onnx_runtime_fails(shared_machine):
    """And it would fail: the day it does not, this says so and the refusal can go."""
    case = {"model": "x2-fast", "precision": "bf16", "matrix": SIZE}
    refused, unrefused = (
        shared_machine.probe([case])[0],
        shared_machine.probe([case], unrefused=True)[0],
    )
    assert refused["exit_code"] == unrefused["exit_code"] == 3
    assert refused["error"] == (
        "ONNX Runtime's CUDA provider has no bf16 kernels for all of 'x2-fast'"
    )
    assert refused["hint"] == "export with --precision fp16; or take backend tensorrt"
    assert "cannot run this model on CUDAExecutionProvider" in unrefused["error"]


@pytest.fixture(scope="module")
def lowered(make_generator, make_model, tmp_path_factory):
    """Return a maker of tiny models in a lowering, as files."""

    def make(lowering):
        path = tmp_path_factory.mktemp("lowered") / f"{lowering}.onnx"
        model = make_model(*make_generator(), lowering)
        path.write_bytes(model.proto.SerializeToString())
        return {"model": str(path), "lowering": lowering, "matrix": SIZE}

    return make


@pytest.mark.parametrize("lowering", ["dynamic", "dft"])
def test_a_graph_with_parts_on_the_cpu_is_refused(shared_machine, lowered, lowering):
    """With a CUDA graph or without: ONNX Runtime has no kernels, and no CPU is taken instead."""
    case = lowered(lowering)
    refused, unrefused = (
        shared_machine.probe([case])[0],
        shared_machine.probe([case], unrefused=True)[0],
    )
    assert f"its FFT layers are lowered as '{lowering}'" in refused["error"]
    assert refused["hint"] == "export with --fft gemm"
    assert "cannot run this model on CUDAExecutionProvider" in unrefused["error"]


def test_convolutions_as_transforms_are_taken(shared_machine, lowered):
    """The third lowering needs no product at all."""
    (seen,) = shared_machine.probe([lowered("conv")])
    assert seen["captures"] == 1
    assert seen["forbidden"] == []


# --- TensorRT's provider --------------------------------------------------------------------------

REACHED_THE_BUILDER = 77
"""What the stand-in ends a process with that asks for a builder of TensorRT."""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("model", ["x2-fast", "x4-base"])
def test_the_tensorrt_provider_takes_its_options_and_the_graph(machine, model, precision):
    """Up to the builder, where the stand-in ends: options, graph and libraries are right."""
    case = {"model": model, "precision": precision, "matrix": SIZE}
    done = machine.start_probe([case], "ort-tensorrt")
    assert done.returncode == REACHED_THE_BUILDER, done.stderr[-2000:]
    assert done.stdout == ""
    assert "tensorrt builder" in machine.calls.read_text()


def test_a_context_model_that_does_not_load_is_built_anew(machine):
    """After an update of the driver or a library; it must not be an error for ever."""
    case = {"model": "x2-fast", "matrix": SIZE, "plant_context": True}
    done = machine.start_probe([case], "ort-tensorrt")
    assert done.returncode == REACHED_THE_BUILDER, done.stderr[-2000:]
    assert "planted" in done.stderr
    assert not list(machine.cache.rglob("*.ctx.onnx"))


def test_engines_of_another_tensorrt_are_not_taken(machine):
    """The folder of an engine is named by the version of TensorRT, too."""
    folders = set()
    for version in (101300, 101601):
        machine.start_probe(
            [{"model": "x2-fast", "matrix": SIZE}], "ort-tensorrt", TENSORRT=version
        )
        folders |= {path.name for path in (machine.cache / "ort-tensorrt").iterdir()}
    assert len(folders) == 2
