"""ONNX Runtime on a GPU: options, refusals and binding, as far as they go without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.graph.right_hand_products import with_right_hand_constants
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime import ort_gpu
from kspacesr_rt.runtime.backends import BackendOptions
from kspacesr_rt.runtime.context_model import ContextModel
from kspacesr_rt.runtime.gpu_memory import BatchLimit, GpuFailedError, OutOfGpuMemoryError
from kspacesr_rt.runtime.ort_gpu import NO_KERNEL_HINT, OrtGpuBackend, sums_spectra
from kspacesr_rt.runtime.ort_gpu_options import (
    CPU,
    CUDA,
    PROVIDER_OF,
    TENSORRT,
    cuda_options,
    precision_notes,
    provider_graph,
    tensorrt_options,
)
from kspacesr_rt.runtime.ort_placement import (
    RECORD_PLACEMENT,
    placement_of,
    require_all_on,
    require_provider,
)

MATRIX = (21, 16)


@pytest.fixture
def bound(model):
    return bind(model, MATRIX)


def cpu_session(bound, **entries):
    """Open a real session on the CPU that reports where its nodes run."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*RECORD_PLACEMENT)
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
        assert options[switch] == "False"
    assert options["trt_timing_cache_path"] == str(tmp_path)
    assert not [name for name in options if name.startswith("trt_engine_cache")]
    unkept = tensorrt_options(bound.spec, (1, 1, 1), None)
    assert not any(str(Path.home()) in value for value in unkept.values())


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
    assignment = placement_of(cpu_session(bound))
    assert sum(len(part["nodes"]) for part in assignment) > 10
    require_all_on(assignment, CPU, hint=NO_KERNEL_HINT)
    with pytest.raises(BackendUnavailableError, match=r"does not run the whole model: .* more"):
        require_all_on(assignment, CUDA, hint=NO_KERNEL_HINT)
    with pytest.raises(BackendUnavailableError, match=r"whole model: dft on CPUExecutionProvider"):
        require_all_on(
            [
                {"ep_name": CUDA, "nodes": [{"name": "conv"}]},
                {"ep_name": CPU, "nodes": [{"name": "dft"}]},
            ],
            CUDA,
            hint=NO_KERNEL_HINT,
        )


@pytest.mark.parametrize("name", PROVIDER_OF)
def test_a_cpu_build_of_onnxruntime_is_told_apart(bound, name):
    """The usual mistake: the CPU package, or both over each other."""
    if PROVIDER_OF[name] in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has GPU providers")
    with pytest.raises(BackendUnavailableError, match="was built without") as caught:
        OrtGpuBackend(name, bound, BackendOptions())
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.hint


@pytest.mark.parametrize("damage", ["none", "truncated", "no digest", "changed", "removed"])
def test_a_context_model_is_taken_only_whole(tmp_path, damage):
    """After a crash or a full disk the provider must get the model itself, not half an engine."""
    context = ContextModel(tmp_path, "21x16-1")
    assert context.stored() is None
    context.keep()  # of a provider that wrote none
    assert context.stored() is None
    context.being_written.write_bytes(b"an engine")
    context.keep()
    assert not context.being_written.exists()
    assert context.stored() == b"an engine"
    if damage == "truncated":
        context.path.write_bytes(b"an eng")
    elif damage == "no digest":
        context.path.with_suffix(".sha256").unlink()
    elif damage == "changed":
        context.path.write_bytes(b"an engine!")
    elif damage == "removed":
        context.remove()
        assert not list(tmp_path.iterdir())
    assert (context.stored() is None) == (damage != "none")


# --- graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [MATRIX, (20, 27)])
def test_the_cuda_provider_gets_constants_on_the_right(model, matrix):
    """A flat graph, no product with a constant on its left, and the same answer."""
    bound = bind(model, matrix)
    proto = provider_graph("ort-cuda", bound)
    constants = {item.name for item in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type.endswith("MatMul")]
    assert len(products) >= 8
    # A transform is a product from either side, which transpose each other for nothing.
    assert {node.op_type for node in products} == {"FusedMatMul"}
    assert not [node for node in proto.graph.node if node.op_type == "Transpose"]
    assert not [node for node in products if node.input[0] in constants]
    assert not proto.functions
    onnx.checker.check_model(proto, full_check=True)
    batch = np.random.default_rng(0).random((3, 1, *matrix), dtype=np.float32)
    expected = cpu_session(bound).run(["sr"], {"lr": batch})[0]
    found = onnxruntime.InferenceSession(proto.SerializeToString(), providers=[CPU])
    # The coefficients are of another basis: other sums.
    atol = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found.run(["sr"], {"lr": batch})[0], expected, rtol=0, atol=atol)


def test_a_constant_that_two_products_share_is_stored_once(bound):
    """Layers of one shape share their matrices, which are the largest part of a bound model."""
    flat = flattened(bound.proto)
    before, after = (
        {item.name: item for item in proto.graph.initializer}
        for proto in (flat, with_right_hand_constants(flat))
    )
    assert len(after) == len(before)
    assert sum(len(item.raw_data) for item in after.values()) == sum(
        len(item.raw_data) for item in before.values()
    )


def test_the_tensorrt_provider_gets_a_graph_without_functions(bound):
    """Its parser knows no local function, and its products take a constant on either side."""
    proto = provider_graph("ort-tensorrt", bound)
    assert not proto.functions
    assert [one.domain for one in proto.opset_import] == [""]
    assert proto == flattened(with_gpu_transforms(bound).proto)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_eight_bits_on_cuda_say_that_they_are_no_gain(bound, precision):
    """45 kernels that round, around convolutions in fp32: right, and slower than fp16."""
    spec = dataclasses.replace(bound.spec, precision=precision)
    notes = precision_notes("ort-cuda", spec)
    assert [note.split(":")[0] for note in notes] == (
        [f"{precision} is no gain on ort-cuda"] if precision in ("int8", "fp8") else []
    )
    assert precision_notes("ort-tensorrt", spec) == ()


# --- memory ---------------------------------------------------------------------------------------


class SmallMemory:
    """Takes so many slices at once, and says how many it was given."""

    def __init__(self, most):
        self.most, self.given, self.released = most, [], 0

    def run(self, batch):
        self.given.append(len(batch))
        if len(batch) > self.most:
            raise OutOfGpuMemoryError(len(batch))
        return batch + 1

    def release(self):
        self.released += 1


@pytest.mark.parametrize(
    ("n", "most", "given"), [(8, 4, [8, 4, 4]), (5, 3, [5, 3, 2]), (3, 3, [3])]
)
def test_a_batch_is_halved_once(n, most, given):
    """In order, once, and with a note; later batches are cut at once."""
    gpu, limit = SmallMemory(most), BatchLimit()
    batch = np.arange(n, dtype=np.float32)[:, None]
    assert np.array_equal(limit.run(gpu.run, batch, gpu.release), batch + 1)
    assert gpu.given == given
    halved = len(given) > 1
    assert gpu.released == halved
    assert bool(limit.notes) == halved
    gpu.given.clear()
    limit.run(gpu.run, batch, gpu.release)
    assert gpu.given == given[1:] if halved else given


def test_a_second_time_it_is_an_error():
    """The message names both batches that were tried."""
    gpu, limit = SmallMemory(1), BatchLimit()
    batch = np.zeros((6, 1), np.float32)
    with pytest.raises(OutOfGpuMemoryError) as caught:
        limit.run(gpu.run, batch, gpu.release)
    assert str(caught.value) == "the GPU's memory holds neither 6 slices at once nor 3"
    assert gpu.given == [6, 3]
    assert caught.value.exit_code == 3
    with pytest.raises(OutOfGpuMemoryError, match="does not hold a slice"):
        BatchLimit().run(SmallMemory(0).run, batch[:1], gpu.release)


@pytest.mark.parametrize(("sm", "summed"), [(75, True), (90, True), (121, True), (100, False)])
def test_spectra_are_summed_up_where_the_cuda_provider_has_kernels(bound, sm, summed):
    """TensorRT's engines run on GPUs that onnxruntime-gpu has no kernels for; NumPy measures."""
    assert sums_spectra(bound.spec, sm) == summed
    of_kspace = load_model(resolve_model("x2-complex", upscale=None)).spec
    assert not sums_spectra(of_kspace, sm)


def test_a_provider_that_cannot_sum_up_spectra_leaves_them_to_numpy():
    """A run that was possible before still is; that is said, and not tried again."""
    backend = object.__new__(OrtGpuBackend)
    backend._sums_spectra, backend._own_notes = True, ()
    asked = []

    def fail():
        asked.append(1)
        raise BackendUnavailableError("no kernel image")

    session = SimpleNamespace(sum_up=fail)
    for _ in range(2):
        backend._sum_up(session)
    assert backend._own_notes == ("spectra are not summed up on the GPU: no kernel image",)
    assert len(asked) == 1

    def out_of_memory():
        raise OutOfGpuMemoryError(8)

    backend._sums_spectra = True
    with pytest.raises(OutOfGpuMemoryError):  # the batch is computed alone, or in halves
        backend._sum_up(SimpleNamespace(sum_up=out_of_memory))

    def lost():
        raise GpuFailedError("the GPU failed")

    with pytest.raises(GpuFailedError):  # NumPy cannot help that
        backend._sum_up(SimpleNamespace(sum_up=lost))


# --- a GPU that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [46, 700, 719, 999])
def test_no_model_is_blamed_for_a_gpu_that_is_lost(status):
    """After that, ONNX Runtime opens no session either."""
    words = f"CUDA failure {status}: unspecified launch failure ; GPU=0 ; hostname=h ; file=x"
    opened, computed = (ort_gpu._failure(RuntimeError(words), CUDA, n) for n in (None, 1))
    for error in (opened, computed):
        assert isinstance(error, GpuFailedError)
        assert str(error).startswith("the GPU failed ")
        assert f"CUDA failure {status}" in str(error)
        assert "hostname" not in str(error)
    missing = ort_gpu._failure(RuntimeError("CUDA failure 98: invalid device function"), CUDA)
    assert not isinstance(missing, GpuFailedError)


def test_memory_that_holds_no_slice_has_a_hint_that_helps():
    """A batch smaller than one there is not."""
    assert "take a smaller --batch" in OutOfGpuMemoryError(2).hint
    alone = OutOfGpuMemoryError(1).hint
    assert "take a smaller --batch" not in alone
    for words in ("fp16", "a smaller matrix", "--backend ort-cpu"):
        assert words in alone


@pytest.mark.parametrize("error", [GpuFailedError("the GPU failed"), OutOfGpuMemoryError(8)])
def test_an_engine_outlives_a_gpu_that_fails(bound, error, monkeypatch, tmp_path):
    """It took minutes to build; a full memory is no reason to remove it."""
    monkeypatch.setattr(ort_gpu, "tensorrt_folder", lambda runtime, content: tmp_path)
    kept = ContextModel(tmp_path, ort_gpu.context_name(bound.spec, 8))
    kept.being_written.write_bytes(b"engine")
    kept.keep()

    def fail(*given):
        raise error

    monkeypatch.setattr(ort_gpu, "_open", fail)
    with pytest.raises(type(error)):
        ort_gpu._tensorrt_session(None, b"model", bound.spec, 8, {})
    assert kept.stored() == b"engine"
