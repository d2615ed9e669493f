"""What real shaders compute of our models, on an adapter of any kind; times mean nothing."""

from __future__ import annotations

import pytest

from kspacesr_rt.runtime.self_test import REQUIRED_DB

MODELS = ("x2-fast", "x2-base", "x4-fast", "x4-base", "x2-complex")
SMALL = (16, 16)
OTHERS = (
    {"model": "x2-fast", "matrix": (21, 16), "batch": 3},
    {"model": "x2-fast", "matrix": SMALL, "lowering": "conv"},
    {"model": "x4-fast", "matrix": (9, 12), "batch": 2},
)
"""Odd, even and not square, several slices of which one is much brighter, both lowerings."""
REFUSED = (
    {"model": "x2-fast", "matrix": SMALL, "lowering": "dft"},
    {"model": "x2-fast", "matrix": SMALL, "precision": "bf16"},
    {"model": "x2-fast", "matrix": SMALL, "spoilt": True},
)
ALLOWED = {**REFUSED[-1], "cpu_nodes": True}
HALF = {"model": "x2-fast", "matrix": SMALL, "precision": "fp16"}
SUMS = ({"sums": (21, 16)}, {"sums": (16, 24)}, {"sums": (64, 64)})


@pytest.fixture(scope="module")
def answers(machine):
    """Ask everything in one process: a GPU's program is compiled once in each."""
    asked = [*SUMS, *({"model": name} for name in MODELS), *OTHERS, *REFUSED, ALLOWED, HALF]
    found = iter(machine.probe(*asked))
    return {
        kind: [next(found) for _ in range(count)]
        for kind, count in {
            "sums": len(SUMS), "known": len(MODELS), "others": len(OTHERS),
            "refused": len(REFUSED), "allowed": 1, "half": 1,
        }.items()
    }  # fmt: skip


@pytest.mark.parametrize("index", range(len(MODELS)), ids=MODELS)
def test_shipped_models_give_their_known_answers(answers, index):
    """Those that PyTorch gave at their export; every node is on the GPU, or it were an error."""
    found = answers["known"][index]
    assert found["model"] == MODELS[index]
    assert found["required_db"] == REQUIRED_DB["fp32"]
    assert found["passed"], found


@pytest.mark.parametrize("index", range(len(OTHERS)))
def test_any_matrix_and_batch_agrees_with_the_cpu(answers, index):
    """And a batch of another size on the same session."""
    found = answers["others"][index]
    assert found["db"] >= REQUIRED_DB["fp32"]
    upscale = int(OTHERS[index]["model"][1])
    n, sr = OTHERS[index].get("batch", 1), [upscale * length for length in OTHERS[index]["matrix"]]
    assert found["shape"] == [n, 1, *sr]


def test_what_it_has_no_kernels_for_is_refused(answers):
    """By name, with what to do; never computed on the CPU unasked."""
    of_dft, of_bf16, of_node = answers["refused"]
    assert of_dft["error"].endswith("its FFT layers are lowered as 'dft'")
    assert of_dft["hint"] == "export with --fft gemm"
    assert of_bf16["error"] == "WebGPU has no bf16: 'x2-fast' cannot run on it"
    assert of_node["error"] == (
        "WebGpuExecutionProvider does not run the whole model: cascades.0.body.0.prelu on "
        "CPUExecutionProvider"
    )
    assert of_node["hint"].endswith("or allow it: KSPACESR_RT_WEBGPU_CPU_NODES=1")
    assert {of_dft["exit_code"], of_bf16["exit_code"], of_node["exit_code"]} == {3}


def test_nodes_on_the_cpu_are_allowed_and_named(answers):
    """For networks of others: slower, and right."""
    (found,) = answers["allowed"]
    assert found["db"] >= REQUIRED_DB["fp32"]
    assert (
        "computed in part on the CPU: cascades.0.body.0.prelu on CPUExecutionProvider"
        in (found["notes"])
    )


def test_half_precision_needs_an_adapter_that_has_it(answers):
    """Not all have it: the fp32 model is named then, and nothing is computed in its place."""
    (found,) = answers["half"]
    if "error" in found:
        assert found["error"] == "the GPU has no fp16 shaders, which 'x2-fast' needs"
        assert (found["hint"], found["exit_code"]) == ("take the fp32 model", 3)
    else:
        assert found["db"] >= REQUIRED_DB["fp16"]


def test_spectra_are_summed_up_as_numpy_does(answers):
    """The graph that GPUs run beside a model, by real shaders: figures within 1e-3."""
    for found in answers["sums"]:
        assert found["provider"] == "WebGpuExecutionProvider"
        assert len(found["off"]) == 5
        assert max(found["off"].values()) < 1e-3, found
