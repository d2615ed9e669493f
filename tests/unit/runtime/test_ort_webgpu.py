"""WebGPU without one: the graph it is given, what is refused, and which build is installed."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.webgpu_operators import with_webgpu_operators
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime import ort_webgpu
from kspacesr_rt.runtime.gpu_build import REINSTALL
from kspacesr_rt.runtime.gpu_memory import GpuFailedError
from kspacesr_rt.runtime.ort_build import WEBGPU_REINSTALL, require_build
from kspacesr_rt.runtime.ort_webgpu import require_computed
from kspacesr_rt.system import vulkan

LACKING = {"Max", "SpaceToDepth"}
"""Operators of the shipped models that onnxruntime-webgpu 1.27 has no kernels for."""


def computed(proto, batch):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": batch})[0]


@pytest.mark.parametrize("name", ["x2-fast", "x4-base", "x2-complex"])
@pytest.mark.parametrize("matrix", [(16, 16), (21, 16)])
def test_operators_are_replaced_to_the_last_bit(name, matrix):
    """Batches of any size, an empty slice among them, for which `Max` is there."""
    bound = bind(load_model(resolve_model(name, upscale=None)), matrix)
    flat = flattened(bound.proto)
    assert {node.op_type for node in flat.graph.node} >= LACKING
    replaced = with_webgpu_operators(flat)
    onnx.checker.check_model(replaced, full_check=True)
    assert not {node.op_type for node in replaced.graph.node} & LACKING
    shape = (3, *bound.spec.input_axes, *matrix)
    batch = np.random.default_rng(0).random(shape).astype(np.float32)
    batch[1] = 0.0
    for given in (batch, batch[:1]):
        np.testing.assert_array_equal(computed(replaced, given), computed(flat, given))


def test_a_maximum_of_two_values_stays():
    """It is no clip; the session then names it."""
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("a", "b", "y")
    ]
    table = numpy_helper.from_array(np.ones(2, np.float32), "table")
    nodes = [
        helper.make_node("Max", ["a", "b"], ["c"]),
        helper.make_node("Max", ["c", "table"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "two", values[:2], values[2:], [table])
    made = with_webgpu_operators(helper.make_model(graph))
    assert [node.op_type for node in made.graph.node] == ["Max", "Max"]


def test_zeros_for_something_are_no_answer():
    """WebGPU reports a failed command elsewhere than in its result, which stays as it was made."""
    given = np.zeros((2, 1, 4, 4), np.float32)
    given[1, 0, 2, 2] = 1.0
    result = np.zeros((2, 1, 8, 8), np.float32)
    result[1, 0, 5, 5] = 0.5
    require_computed(given, result)
    with pytest.raises(BackendUnavailableError, match="nothing but zeros for a slice"):
        require_computed(given, result[::-1])


def test_without_a_loader_vulkan_is_missing(monkeypatch):
    """With the command that brings it."""
    monkeypatch.setattr(vulkan, "LOADER", "libno-such-vulkan.so.1")
    with pytest.raises(BackendUnavailableError) as caught:
        vulkan.adapters()
    assert str(caught.value) == ("there is no Vulkan here: libno-such-vulkan.so.1 cannot be loaded")
    assert caught.value.hint.startswith("apt-get install libvulkan1")
    if sys.platform == "linux":
        assert vulkan.adapters_text().startswith("none (there is no Vulkan here")


# --- builds that overwrite each other ------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install descriptions of packages into a folder that Python searches first."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")  # or that is what Python finds

    def install(*packages):
        for name, version in packages:
            described = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            described.mkdir()
            (described / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )

    return install


def refused():
    with pytest.raises(BackendUnavailableError) as caught:
        require_build("onnxruntime-webgpu", WEBGPU_REINSTALL)
    assert caught.value.hint == (
        "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-webgpu && "
        "pip install 'kspacesr-rt[webgpu]'"
    )
    return str(caught.value)


def test_another_build_is_named(installed):
    installed(("onnxruntime-gpu", "1.31.1"))
    assert refused() == (
        "the installed ONNX Runtime is its build for NVIDIA GPUs: 'onnxruntime-webgpu' is not "
        "installed"
    )


def test_a_mixture_of_builds_is_named(installed):
    installed(("onnxruntime-webgpu", "1.27.0"), ("onnxruntime-gpu", "1.31.1"))
    assert refused() == (
        "'onnxruntime-gpu' 1.31.1 and 'onnxruntime-webgpu' 1.27.0 are both installed, and "
        "overwrite each other's files"
    )


def test_the_one_that_is_imported_is_enough(installed):
    """The CPU build of the environment stands behind it, in another folder."""
    installed(("onnxruntime-webgpu", "1.27.0"))
    require_build("onnxruntime-webgpu", WEBGPU_REINSTALL)


def test_every_build_that_is_there_is_removed(installed):
    """Who removes two of three, as the hint said, still has the third in the way."""
    installed(("onnxruntime-webgpu", "1.27.0"), ("onnxruntime-gpu", "1.31.1"))
    with pytest.raises(BackendUnavailableError) as caught:
        require_build("onnxruntime-gpu", REINSTALL)
    removed = caught.value.hint.partition(" && ")[0].split()
    assert removed[:3] == ["pip", "uninstall", "-y"]
    assert sorted(removed[3:]) == ["onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu"]


@pytest.mark.parametrize("words", ["Device is lost.", "the device was lost", "DeviceLost: reset"])
def test_a_gpu_that_is_gone_is_no_fault_of_the_model(model, words):
    """Dawn's words; every later call fails with them."""
    error = ort_webgpu._failure(RuntimeError(f"[E] {words}"), model.spec, 1)
    assert isinstance(error, GpuFailedError)
    assert "nvidia-smi" in error.hint
