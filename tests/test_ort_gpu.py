"""ONNX Runtime on a GPU: options, refusals and binding, as far as they go without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from kspacesr_rt.backends import BackendOptions
from kspacesr_rt.backends.ort_gpu import (
    CPU,
    CUDA,
    PROVIDER_OF,
    TENSORRT,
    OrtGpuBackend,
    _assignment,
    cuda_options,
    require_all_on,
    require_provider,
    tensorrt_options,
)
from kspacesr_rt.binding import bind
from kspacesr_rt.errors import BackendUnavailableError

MATRIX = (21, 16)


@pytest.fixture
def bound(model):
    return bind(model, MATRIX)


def cpu_session(bound, **entries):
    """Open a real session on the CPU that reports where its nodes run."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(bound.serialized(), options, providers=[CPU])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tf32_is_off_whatever_the_cnn_computes_in(bound, precision):
    """What stays in fp32 is k-space, and TF32 leaves 78 dB of it."""
    spec = dataclasses.replace(bound.spec, precision=precision)
    options = cuda_options(spec)
    assert options["use_tf32"] == "0"
    assert options["enable_cuda_graph"] == "1"
    assert options["prefer_nhwc"] == ("0" if precision == "fp32" else "1")
    assert all(isinstance(value, str) for value in options.values())


def test_the_tensorrt_provider_takes_types_from_the_graph(bound, tmp_path):
    """Its own switches would lower the FFT layers too; the profile is the bound matrix."""
    options = tensorrt_options(bound.spec, (1, 4, 8), tmp_path)
    assert options["trt_profile_min_shapes"] == "lr:1x1x21x16"
    assert options["trt_profile_opt_shapes"] == "lr:4x1x21x16"
    assert options["trt_profile_max_shapes"] == "lr:8x1x21x16"
    for switch in ("trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"):
        assert options[switch] == "0"
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert "trt_engine_cache_enable" not in tensorrt_options(bound.spec, (1, 1, 1), None)


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_session_that_came_up_on_the_cpu_is_refused(bound, provider):
    """ONNX Runtime prints a line and carries on; a benchmark would find out from a stopwatch."""
    with pytest.raises(BackendUnavailableError) as caught:
        require_provider(cpu_session(bound), provider)
    assert str(caught.value) == (
        f"asked ONNX Runtime for {provider}, it came up with CPUExecutionProvider"
    )


def test_nodes_on_another_provider_are_named(bound):
    """The report of a real session: everything is on the CPU, so everything is refused."""
    assignment = _assignment(cpu_session(bound))
    assert sum(len(part["nodes"]) for part in assignment) > 10
    require_all_on(assignment, CPU)
    with pytest.raises(BackendUnavailableError, match=r"does not run the whole model: .* more"):
        require_all_on(assignment, CUDA)
    with pytest.raises(BackendUnavailableError, match=r"whole model: dft on CPUExecutionProvider"):
        require_all_on(
            [
                {"ep_name": CUDA, "nodes": [{"name": "conv"}]},
                {"ep_name": CPU, "nodes": [{"name": "dft"}]},
            ],
            CUDA,
        )


@pytest.mark.parametrize("name", PROVIDER_OF)
def test_a_cpu_build_of_onnxruntime_is_told_apart(bound, name):
    """The usual mistake: the CPU package, or both over each other."""
    if PROVIDER_OF[name] in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has GPU providers")
    with pytest.raises(BackendUnavailableError, match="was built without") as caught:
        OrtGpuBackend(name, bound, BackendOptions())
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.hint


EMPTY_FIELD = onnx.ModelProto(doc_string="context").SerializeToString()
"""Appended to a model it makes another file that computes the same: a fake context model."""


class FakeRuntime:
    """A runtime whose 'device' is the host: it records, and computes on the CPU."""

    __version__ = "1.0"

    def __init__(self, bound, provider, *, came_up=None, elsewhere=()):
        self.bound, self.provider = bound, provider
        self.came_up = came_up or [provider]
        self.elsewhere = elsewhere
        self.opened, self.entries = [], {}

    def SessionOptions(self):
        return SimpleNamespace(
            add_session_config_entry=lambda key, value: self.entries.update({key: value})
        )

    def InferenceSession(self, content, settings, providers):
        self.opened.append(providers)
        if written := providers[0][1].get("trt_ep_context_file_path"):
            Path(written).write_bytes(content + EMPTY_FIELD)
        real = onnxruntime.InferenceSession(content, providers=[CPU])
        parts = [(self.provider, ["conv"]), *((CPU, [name]) for name in self.elsewhere)]
        return SimpleNamespace(
            disable_fallback=lambda: None,
            get_providers=lambda: self.came_up,
            get_provider_graph_assignment_info=lambda: [
                SimpleNamespace(
                    ep_name=ep,
                    get_nodes=lambda names=names: [SimpleNamespace(name=n) for n in names],
                )
                for ep, names in parts
            ],
            io_binding=lambda: FakeBinding(),
            run_with_iobinding=lambda binding: binding.run(real),
        )

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(array, device, index):
            assert (device, index) == ("cuda", 0)
            held = SimpleNamespace(array=array)
            held.update_inplace = lambda values: setattr(held, "array", values.copy())
            held.numpy = lambda: held.array
            return held


class FakeBinding:
    def bind_ortvalue_input(self, name, value):
        self.input = value

    def bind_ortvalue_output(self, name, value):
        self.output = value

    def run(self, session):
        self.output.array = session.run(["sr"], {"lr": self.input.array})[0]


@pytest.fixture
def fake(monkeypatch, bound, tmp_path):
    """Return a maker of backends on a fake runtime."""
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "kspacesr_rt.backends.ort_gpu.current_gpu", lambda: SimpleNamespace(name="L4", sm=89)
    )

    def make(name, **behaviour):
        runtime = FakeRuntime(bound, PROVIDER_OF[name], **behaviour)
        monkeypatch.setattr("kspacesr_rt.backends.ort_gpu._load_runtime", lambda provider: runtime)
        return OrtGpuBackend(name, bound, BackendOptions()), runtime

    return make


@pytest.mark.parametrize("name", PROVIDER_OF)
def test_batches_go_through_device_buffers_of_their_size(fake, bound, name):
    """One session, and one captured graph, per batch size; results are the caller's."""
    backend, runtime = fake(name)
    rng = np.random.default_rng(0)
    batches = [rng.random((n, 1, *MATRIX), dtype=np.float32) for n in (1, 3, 1)]
    real = cpu_session(bound)
    results = [backend.run(batch) for batch in batches]
    for batch, result in zip(batches, results, strict=True):
        np.testing.assert_array_equal(result, real.run(["sr"], {"lr": batch})[0])
    assert len(runtime.opened) == 2
    assert runtime.opened[0][0][0] == PROVIDER_OF[name]
    assert runtime.entries["session.disable_cpu_ep_fallback"] == "1"


@pytest.mark.parametrize("name", PROVIDER_OF)
def test_a_silent_cpu_session_or_a_stray_node_ends_it(fake, name):
    """Never a silent fallback: not of the provider, not of a single node."""
    batch = np.zeros((1, 1, *MATRIX), np.float32)
    backend, _ = fake(name, came_up=[CPU])
    with pytest.raises(BackendUnavailableError, match="it came up with CPUExecutionProvider"):
        backend.run(batch)
    backend, _ = fake(name, elsewhere=["correct"])
    with pytest.raises(BackendUnavailableError, match="correct on CPUExecutionProvider"):
        backend.run(batch)


def test_no_path_is_written_unasked(bound):
    """Engines go where the user says, or nowhere."""
    options = tensorrt_options(bound.spec, (1, 1, 1), None)
    assert not any(str(Path.home()) in value for value in options.values())


def test_a_second_session_starts_from_the_context_model(fake, tmp_path):
    """Building takes TensorRT minutes; the engine of the first run is used by the next."""
    batch = np.random.default_rng(1).random((1, 1, *MATRIX), dtype=np.float32)
    first, runtime = fake("ort-tensorrt")
    expected = first.run(batch)
    assert runtime.opened[0][0][1]["trt_dump_ep_context_model"] == "1"
    (context,) = tmp_path.rglob("*.ctx.onnx")
    assert not list(context.parent.glob("*.part.onnx"))
    second, runtime = fake("ort-tensorrt")
    np.testing.assert_array_equal(second.run(batch), expected)
    assert "trt_dump_ep_context_model" not in runtime.opened[0][0][1]


@pytest.mark.parametrize("damage", ["truncated", "no digest", "changed"])
def test_a_damaged_context_model_is_built_again(fake, tmp_path, damage):
    """After a crash or a full disk the provider must get the model itself, not half an engine."""
    batch = np.zeros((1, 1, *MATRIX), np.float32)
    fake("ort-tensorrt")[0].run(batch)
    (context,) = tmp_path.rglob("*.ctx.onnx")
    if damage == "truncated":
        context.write_bytes(context.read_bytes()[:100])
    elif damage == "no digest":
        context.with_suffix(".sha256").unlink()
    else:
        context.write_bytes(context.read_bytes()[:-1] + b"!")
    again, runtime = fake("ort-tensorrt")
    again.run(batch)
    assert runtime.opened[0][0][1]["trt_dump_ep_context_model"] == "1"
    third, runtime = fake("ort-tensorrt")
    third.run(batch)
    assert "trt_dump_ep_context_model" not in runtime.opened[0][0][1]


def test_a_refused_session_leaves_no_context_model(fake, tmp_path):
    """What runs partly on the CPU must not be found ready by the next session."""
    backend, _ = fake("ort-tensorrt", elsewhere=["correct"])
    with pytest.raises(BackendUnavailableError):
        backend.run(np.zeros((1, 1, *MATRIX), np.float32))
    assert not list(tmp_path.rglob("*.ctx.onnx"))
