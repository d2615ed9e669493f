"""The native TensorRT backend, on a GPU that is made of host memory.

The stand-ins keep what matters of the real things: memory that must not be touched outside its
bounds or after it was freed, a stream that does nothing until it is waited for, graphs that replay
what was captured, and an engine (really ONNX Runtime) that computes on device pointers.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from kspacesr_rt import backends
from kspacesr_rt.backends import BACKENDS, BackendOptions, native_tensorrt, open_backend
from kspacesr_rt.binding import bind
from kspacesr_rt.engines import build, driver, targets
from kspacesr_rt.engines.build import build_engine
from kspacesr_rt.errors import (
    BackendUnavailableError,
    EngineError,
    InputError,
    ModelFileError,
    ShapeError,
)
from kspacesr_rt.model_file import load_model, resolve_model
from kspacesr_rt.verify import verify_model

MATRIX = (21, 16)
RUNTIMES = ("tensorrt", "tensorrt-rtx")
COPY_THE_MODEL = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "plan").write_bytes((folder / "model.onnx").read_bytes())
(folder / "timing").write_bytes(b"")
(folder / "result.json").write_text(json.dumps({"layers": {}}))
"""


Kind = enum.IntEnum("Kind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
Mode = enum.IntEnum("Mode", {"cudaStreamCaptureModeThreadLocal": 1})


class FakeCuda(ModuleType):
    """`cuda.bindings.runtime`, as far as it is used."""

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        constants = {
            "cudaStreamNonBlocking": 1,
            "cudaMemcpyKind": Kind,
            "cudaStreamCaptureMode": Mode,
        }
        vars(self).update(constants)
        self.work = {}
        self.memory = {"host": {}, "device": {}}
        self.alive = []
        self.calls = []
        self.waiting = []
        self.captured = None
        self.fails = {}

    def __getattr__(self, name):
        method = getattr(type(self), f"do_{name}", None)
        if method is None:
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            if name in self.fails:
                return (self.fails[name], None)
            return method(self, *arguments)

        return call

    def enqueue(self, work):
        (self.waiting if self.captured is None else self.captured).append(work)

    def view(self, where, pointer, n_bytes):
        """Return memory that was allocated and not freed, or fail like a GPU would not."""
        for start, block in self.memory[where].items():
            if start <= pointer and pointer + n_bytes <= start + len(block):
                return (ctypes.c_char * n_bytes).from_address(pointer)
        raise AssertionError(f"{n_bytes} bytes at {pointer} are no {where} memory")

    def _allocate(self, where, n_bytes):
        block = ctypes.create_string_buffer(b"\xff" * n_bytes, n_bytes)
        self.memory[where][ctypes.addressof(block)] = block
        return (0, ctypes.addressof(block))

    def _make(self, what):
        handle = len(self.calls) * 16
        self.alive.append((what, handle))
        return (0, handle)

    def _end(self, what, handle):
        self.alive.remove((what, handle))
        return (0,)

    def do_cudaSetDevice(self, device):
        assert device == 0
        return (0,)

    def do_cudaGetErrorString(self, status):
        return (0, b"out of memory" if status == 2 else b"unknown")

    def do_cudaStreamCreateWithFlags(self, flags):
        return self._make("stream")

    def do_cudaStreamDestroy(self, stream):
        return self._end("stream", stream)

    def do_cudaMallocHost(self, n_bytes):
        return self._allocate("host", n_bytes)

    def do_cudaFreeHost(self, pointer):
        del self.memory["host"][pointer]
        return (0,)

    def do_cudaMalloc(self, n_bytes):
        return self._allocate("device", n_bytes)

    def do_cudaFree(self, pointer):
        del self.memory["device"][pointer]
        return (0,)

    def do_cudaMemcpyAsync(self, target, source, n_bytes, kind, stream):
        places = ("device", "host") if kind == Kind.cudaMemcpyHostToDevice else ("host", "device")
        into = self.view(places[0], target, n_bytes)
        taken = self.view(places[1], source, n_bytes)
        self.enqueue(partial(ctypes.memmove, into, taken, n_bytes))
        return (0,)

    def do_cudaStreamBeginCapture(self, stream, mode):
        assert not self.waiting, "captured behind work that was not waited for"
        self.captured = []
        return (0,)

    def do_cudaStreamEndCapture(self, stream):
        handle = self._make("graph")
        self.graph, self.captured = self.captured, None
        return handle

    def do_cudaGraphInstantiate(self, graph, flags):
        status, handle = self._make("executable")
        self.work[handle] = self.graph
        return (status, handle)

    def do_cudaGraphLaunch(self, executable, stream):
        assert ("executable", executable) in self.alive
        for work in self.work[executable]:
            self.enqueue(work)
        return (0,)

    def do_cudaGraphDestroy(self, graph):
        return self._end("graph", graph)

    def do_cudaGraphExecDestroy(self, executable):
        return self._end("executable", executable)

    def do_cudaStreamSynchronize(self, stream):
        assert self.captured is None, "waiting is forbidden while capturing"
        for work in self.waiting:
            work()
        self.waiting.clear()
        return (0,)


class FakeEngine:
    """An engine that is an ONNX model; its contexts compute on device pointers."""

    device_memory_size_v2 = 4096

    def __init__(self, cuda, plan, *, rtx, largest=8):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan, settings)
        self.cuda, self.rtx, self.largest, self.contexts = cuda, rtx, largest, 0

    def create_runtime_config(self):
        told = {}
        return SimpleNamespace(
            told=told,
            set_execution_context_allocation_strategy=lambda value: told.update(memory=value),
        )

    def create_execution_context(self, told):
        if self.rtx:
            assert told.dynamic_shapes_kernel_specialization_strategy == "EAGER"
            told = told.told["memory"]
        assert told == "USER_MANAGED"  # or TensorRT-RTX refuses an engine that may be captured
        self.contexts += 1
        context = SimpleNamespace(
            shape=None,
            warm=False,
            pointers={},
            set_input_shape=lambda name, shape: self._set(context, name, shape),
            set_tensor_address=lambda name, pointer: not context.pointers.update({name: pointer}),
            set_device_memory=lambda pointer, size: setattr(context, "scratch", (pointer, size)),
            execute_async_v3=lambda stream: self._execute(context, stream),
        )
        return context

    def _set(self, context, name, shape):
        assert name == "lr"
        context.shape = shape
        return shape[0] <= self.largest

    def _execute(self, context, stream):
        assert ("stream", stream) in self.cuda.alive
        assert self.cuda.captured is None or context.warm, "a first run cannot be captured"
        assert context.scratch[1] >= self.device_memory_size_v2
        self.cuda.view("device", *context.scratch)
        n, _, y, x = context.shape
        lr = self.cuda.view("device", context.pointers["lr"], 4 * n * y * x)
        sr = self.cuda.view("device", context.pointers["sr"], 16 * n * y * x)

        def compute():
            context.warm = True
            batch = np.frombuffer(lr, np.float32).reshape(context.shape)
            np.frombuffer(sr, np.float32)[:] = self.session.run(["sr"], {"lr": batch})[0].ravel()

        self.cuda.enqueue(compute)
        return True


def fake_trt(cuda, runtime, *, loads=True):
    """`tensorrt` or `tensorrt_rtx`, as far as running needs it."""
    rtx = runtime == "tensorrt-rtx"

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class ILogger:
        pass

    ILogger.Severity = Severity
    opened = []

    class Runtime:
        def __init__(self, log):
            self.log = log

        def deserialize_cuda_engine(self, plan):
            if not loads:
                self.log.log(Severity.ERROR, "the plan is for another version")
                return None
            opened.append(FakeEngine(cuda, plan, rtx=rtx))
            return opened[-1]

    trt = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__version__ = "1.7.1" if rtx else "11.4.0"
    trt.ILogger, trt.Runtime, trt.opened = ILogger, Runtime, opened
    trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="EAGER")
    return trt


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return ``machine(runtime, ...)``, which puts a GPU and its libraries into this machine."""
    cuda = FakeCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda

    def put(runtime, **what):
        trt = fake_trt(cuda, runtime, **what)
        monkeypatch.setitem(sys.modules, trt.__name__, trt)
        return SimpleNamespace(cuda=cuda, trt=trt)

    gpu = driver.Gpu(name="NVIDIA L4", sm=89)
    for module in (driver, targets):
        monkeypatch.setattr(module, "current_gpu", lambda: gpu)
    for module in (backends, driver):  # everything is installed
        monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", COPY_THE_MODEL))
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "cache"))
    return put


@pytest.fixture
def bound(model):
    return bind(model, MATRIX)


def batch_of(n, seed=0):
    return np.random.default_rng(seed).random((n, 1, *MATRIX)).astype(np.float32)


@pytest.fixture
def expected(bound):
    """Return a function that computes the same with ONNX Runtime."""

    def run(batch):
        with open_backend("ort-cpu", bound, BackendOptions(threads=1)) as backend:
            return backend.run(batch)

    return run


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_computes_what_the_engine_computes(machine, bound, expected, runtime):
    """Every batch size, also one that the engine takes only in parts, in any order."""
    here = machine(runtime)
    with open_backend(runtime, bound) as backend:
        assert backend.spec == bound.spec
        for n in (2, 1, 8, 11, 2, 17):
            batch = batch_of(n, seed=n)
            before = batch.copy()
            result = backend.run(batch)
            assert result.shape == (n, 1, 42, 32)
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, expected(batch), rtol=1e-6, atol=1e-7)
            assert np.array_equal(batch, before)
    assert here.cuda.calls.count("cudaMallocHost") == 2  # not one for each run
    assert here.cuda.calls.count("cudaMalloc") == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_is_captured_once_for_each_batch_size(machine, bound, runtime):
    """Capturing costs more than running; and each graph has a context that stays at its shape."""
    here = machine(runtime)
    with open_backend(runtime, bound) as backend:
        for n in (1, 2, 1, 2, 1):
            backend.run(batch_of(n))
        assert here.cuda.calls.count("cudaStreamBeginCapture") == 2
        assert here.cuda.calls.count("cudaGraphLaunch") == 5
        assert here.trt.opened[0].contexts == 2
        here.cuda.calls.clear()
        backend.run(batch_of(1))
        assert here.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_the_result_is_the_callers_own(machine, bound):
    """The next run must not write into it."""
    machine("tensorrt-rtx")
    with open_backend("tensorrt-rtx", bound) as backend:
        first = backend.run(batch_of(2, 1))
        kept = first.copy()
        backend.run(batch_of(2, 2))
        assert np.array_equal(first, kept)
        first[:] = 0.0
        assert np.array_equal(backend.run(batch_of(2, 1)), kept)
        strided = np.repeat(batch_of(2, 1), 2, axis=3)[..., ::2]
        strided.flags.writeable = False
        assert np.array_equal(backend.run(strided), kept)
        with pytest.raises(ShapeError, match=r"expected a batch \(n, 1, 21, 16\)"):
            backend.run(np.zeros((1, 1, 16, 21), np.float32))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_everything_is_freed_in_order(machine, bound, runtime):
    """Graphs, then memory, then the stream they ran on; twice leaving is once."""
    here = machine(runtime)
    with open_backend(runtime, bound) as backend:
        backend.run(batch_of(1))
        backend.run(batch_of(3))
        here.cuda.calls.clear()
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []
    assert here.cuda.calls == [
        *("cudaGraphExecDestroy", "cudaGraphDestroy") * 2,
        "cudaFree",
        *("cudaFree", "cudaFreeHost") * 2,
        "cudaStreamDestroy",
    ]
    backend.__exit__()
    assert not [value for value in vars(backend).values() if isinstance(value, FakeEngine)]
    with pytest.raises(AttributeError):  # and not a write to memory that was freed
        backend.run(batch_of(1))


def test_a_plan_that_does_not_load_is_an_error_and_leaves_nothing(machine, bound):
    """The library's log says why; memory that was allocated before is freed."""
    here = machine("tensorrt", loads=False)
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend("tensorrt", bound)
    assert str(caught.value) == (
        "tensorrt 11.4.0 does not load the engine: the plan is for another version"
    )
    assert "prune" in caught.value.hint
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags"])
def test_a_failing_cuda_call_is_named_and_leaves_nothing(machine, bound, call):
    """A GPU that is full: said by the driver's words, not by a crash later."""
    here = machine("tensorrt-rtx")
    here.cuda.fails[call] = 2
    with pytest.raises(EngineError) as caught:
        open_backend("tensorrt-rtx", bound)
    assert str(caught.value) == f"{call} failed: error 2, out of memory"
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []


def test_the_engine_comes_from_the_cache(machine, bound, monkeypatch):
    """The second time it is opened, nothing is built."""
    machine("tensorrt-rtx")
    with open_backend("tensorrt-rtx", bound) as backend:
        first = backend.run(batch_of(2))
    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", "raise SystemExit(9)"))
    with open_backend("tensorrt-rtx", bound) as backend:
        assert np.array_equal(backend.run(batch_of(2)), first)


def test_an_engine_file_opens_where_it_fits(machine, model, expected, tmp_path):
    """Built elsewhere; the model file is not needed any more."""
    machine("tensorrt-rtx")
    output = tmp_path / "m.engine"
    build_engine(model, output, matrix=MATRIX, gpu="sm89")
    with native_tensorrt.open_engine_file(output) as backend:
        batch = batch_of(2)
        np.testing.assert_allclose(backend.run(batch), expected(batch), rtol=1e-6, atol=1e-7)
    build_engine(model, output, matrix=MATRIX, gpu="sm86", force=True)
    with pytest.raises(EngineError) as caught:
        native_tensorrt.open_engine_file(output)
    assert str(caught.value) == (
        "m.engine is for sm86 NVIDIA L4 1.7.1, this machine has sm89 NVIDIA L4 1.7.1"
    )
    output.write_bytes(output.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="its sidecar says"):
        native_tensorrt.open_engine_file(output)


def test_a_machine_without_a_driver_is_told_before_anything_loads(bound, monkeypatch):
    """TensorRT may crash without one, so it is not even imported."""

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(driver, "CDLL", missing)
    monkeypatch.setattr(native_tensorrt, "load_runtime", pytest.fail)
    with pytest.raises(BackendUnavailableError, match="there is no NVIDIA driver here"):
        native_tensorrt.open_backend("tensorrt-rtx", bound, BackendOptions())


def test_missing_cuda_bindings_are_named(machine, bound, monkeypatch):
    """TensorRT's own package does not bring them."""
    machine("tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailableError, match="cuda-python is missing") as caught:
        open_backend("tensorrt-rtx", bound)
    assert caught.value.hint == "pip install 'cuda-python>=13'"


def test_only_its_own_names_are_taken(machine, bound):
    """The module serves two rows of the registry."""
    machine("tensorrt-rtx")
    with pytest.raises(InputError, match="backend 'ort-cpu' runs no TensorRT engines"):
        native_tensorrt.open_backend("ort-cpu", bound, BackendOptions())


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("upscale", [2, 4])
def test_shipped_models_give_their_known_answer_on_a_gpu(runtime, upscale):
    """The real thing: engine, graph and fp32 without TF32, against what PyTorch said."""
    if (reason := BACKENDS[runtime].why_not()) is not None:
        pytest.skip(reason)
    result = verify_model(load_model(resolve_model(None, upscale=upscale)), runtime)
    assert result.passed, result
