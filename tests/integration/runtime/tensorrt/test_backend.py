"""The native TensorRT backend, on a GPU that is made of host memory.

The stand-ins keep what matters of the real things: memory that must not be touched outside its
bounds or after it was freed, a stream that does nothing until it is waited for, graphs that replay
what was captured, and an engine (really ONNX Runtime) that computes on device pointers.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections import defaultdict
from functools import partial
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from gpu_interfaces import CUDA_CALLS, OF_RTX, TENSORRT_NAMES, missing_names

from kspacesr_rt.errors import BackendUnavailableError, EngineError, InputError, ShapeError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.runtime import gpu_capabilities, protocol
from kspacesr_rt.runtime.backends import BackendOptions, OverlappingBackend, open_backend
from kspacesr_rt.runtime.gpu_memory import OutOfGpuMemoryError
from kspacesr_rt.runtime.tensorrt import backend as native_tensorrt
from kspacesr_rt.runtime.tensorrt import build, targets
from kspacesr_rt.runtime.tensorrt.cache import EngineCache
from kspacesr_rt.system import gpu_driver

MATRIX = (21, 16)
RUNTIMES = ("tensorrt", "tensorrt-rtx")
COPY_THE_MODEL = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "plan").write_bytes((folder / "model.onnx").read_bytes())
(folder / "timing").write_bytes(b"")
(folder / "result.json").write_text(json.dumps({"layers": {}, "fused": []}))
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
        self.waiting = defaultdict(list)
        self.captured = None
        self.fails = {}
        self.size = 1 << 30

    def __getattr__(self, name):
        method = getattr(type(self), f"do_{name}", None)
        if method is None:
            raise AttributeError(name)

        def call(*arguments):
            assert len(arguments) == CUDA_CALLS[name]  # as the real one takes them
            self.calls.append(name)
            if name in self.fails:
                return (self.fails[name], None)
            return method(self, *arguments)

        return call

    def enqueue(self, work, stream):
        assert ("stream", stream) in self.alive
        (self.waiting[stream] if self.captured is None else self.captured).append(work)

    def view(self, where, pointer, n_bytes):
        """Return memory that was allocated and not freed, or fail like a GPU would not."""
        for start, block in self.memory[where].items():
            if start <= pointer and pointer + n_bytes <= start + len(block):
                return (ctypes.c_char * n_bytes).from_address(pointer)
        raise AssertionError(f"{n_bytes} bytes at {pointer} are no {where} memory")

    def _allocate(self, where, n_bytes):
        if where == "device" and n_bytes + sum(map(len, self.memory[where].values())) > self.size:
            return (2, None)
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
        self.enqueue(partial(ctypes.memmove, into, taken, n_bytes), stream)
        return (0,)

    def do_cudaStreamBeginCapture(self, stream, mode):
        assert not self.waiting[stream], "captured behind work that was not waited for"
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
            self.enqueue(work, stream)
        return (0,)

    def do_cudaGraphDestroy(self, graph):
        return self._end("graph", graph)

    def do_cudaGraphExecDestroy(self, executable):
        return self._end("executable", executable)

    def do_cudaStreamSynchronize(self, stream):
        assert self.captured is None, "waiting is forbidden while capturing"
        for work in self.waiting.pop(stream, ()):
            work()
        return (0,)

    def do_cudaStreamQuery(self, stream):
        return (600 if self.waiting[stream] else 0,)


def real_names(names, **attributes):
    """Return an object of which code may use what a real class has, and tests their own words."""
    own = {"shape", "warm", "pointers", "told", "held", "scratch"}
    assert attributes.keys() <= {*names, *own}
    return SimpleNamespace(**attributes)


class FakeEngine:
    """An engine that is an ONNX model; its contexts compute on device pointers."""

    device_memory_size_v2 = 4096

    def __init__(self, cuda, plan, *, rtx, largest=8):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan, settings)
        self.cuda, self.rtx, self.largest, self.contexts = cuda, rtx, largest, 0
        self.compiled, self.capturable = 0, True

    def create_runtime_config(self):
        told = {}
        return real_names(
            OF_RTX["IRuntimeConfig"],
            dynamic_shapes_kernel_specialization_strategy=None,
            set_execution_context_allocation_strategy=lambda value: told.update(memory=value),
            create_runtime_cache=self.kernels,
            set_runtime_cache=lambda cache: told.update(kernels=cache),
            told=told,
        )

    def kernels(self):
        """Return a runtime cache, which takes what one of the same kind gave."""
        cache = real_names(OF_RTX["IRuntimeCache"], held=[])
        cache.serialize = lambda: b"kernels:" + b"".join(cache.held)

        def deserialize(blob):
            if not blob.startswith(b"kernels:"):
                return False
            cache.held.append(blob.removeprefix(b"kernels:"))
            return True

        cache.deserialize = deserialize
        return cache

    def create_execution_context(self, told):
        if self.rtx:
            assert told.dynamic_shapes_kernel_specialization_strategy == "EAGER"
            kernels = told.told["kernels"].held
            if b"all" not in kernels:  # compiled now, which takes seconds
                kernels.append(b"all")
                self.compiled += 1
            told = told.told["memory"]
        assert told == "USER_MANAGED"  # or TensorRT-RTX refuses an engine that may be captured
        self.contexts += 1
        context = real_names(
            (*TENSORRT_NAMES["IExecutionContext"], *OF_RTX["IExecutionContext"]),
            shape=None,
            warm=False,
            pointers={},
            is_stream_capturable=lambda stream: self.capturable,
            update_device_memory_size_for_shapes=lambda: 512 * context.shape[0],
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
        assert context.scratch[1] >= 512 * context.shape[0]
        self.cuda.view("device", *context.scratch)
        n, _, y, x = context.shape
        lr = self.cuda.view("device", context.pointers["lr"], 4 * n * y * x)
        sr = self.cuda.view("device", context.pointers["sr"], 16 * n * y * x)

        def compute():
            context.warm = True
            batch = np.frombuffer(lr, np.float32).reshape(context.shape)
            np.frombuffer(sr, np.float32)[:] = self.session.run(["sr"], {"lr": batch})[0].ravel()

        self.cuda.enqueue(compute, stream)
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

    gpu = gpu_driver.Gpu(name="NVIDIA L4", sm=89)
    for module in (gpu_driver, gpu_capabilities, targets):
        monkeypatch.setattr(module, "current_gpu", lambda: gpu)
    for module in (protocol, gpu_driver):  # everything is installed
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


def assert_same(result, expected):
    """Compare to rounding: engines are given coefficients of another basis, and so other sums."""
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


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
            assert_same(result, expected(batch))
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


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_is_started_while_another_is_under_way(machine, bound, expected, runtime):
    """Each in a stream, and in memory, of its own; results come in any order, also late."""
    here = machine(runtime)
    batches = [batch_of(n, seed) for seed, n in enumerate((2, 2, 1, 2, 8, 11))]
    with open_backend(runtime, bound) as backend:
        assert isinstance(backend, OverlappingBackend)
        waiting = []
        for batch in batches:
            given = batch.copy()
            waiting.append((batch, backend.start(given)))
            given[:] = np.nan  # the caller's again
            if len(waiting) > 1:
                one, started = waiting.pop(0)
                assert_same(started.result().slices, expected(one))
                assert started.done()
        one, started = waiting.pop()
        assert_same(started.result().slices, expected(one))
        assert here.cuda.calls.count("cudaMallocHost") == 2 * 2  # however many batches
        assert here.cuda.calls.count("cudaMalloc") == 2 * 3
        pair = [backend.start(batch_of(2)) for _ in range(2)]
        assert [one.done() for one in pair] == [False, False]
        here.cuda.calls.clear()
        pair += [backend.start(batch_of(2))]  # a third: the first of them is finished before
        assert [one.done() for one in pair] == [True, False, False]
        assert here.cuda.calls[:2] == ["cudaStreamSynchronize", "cudaGraphLaunch"]
        assert_same(backend.run(batches[0]), expected(batches[0]))  # finishes the others
        assert all(one.done() for one in pair)
        assert_same(pair[1].result().slices, expected(batch_of(2)))
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []


def test_nothing_is_waited_for_between_two_starts(machine, bound):
    """Nor copied by the host but into and out of pinned memory."""
    here = machine("tensorrt")
    with open_backend("tensorrt", bound) as backend:
        for started in [backend.start(batch_of(2)) for _ in range(2)]:
            started.result()
        here.cuda.calls.clear()
        first, second = (backend.start(batch_of(2, seed)) for seed in range(2))
        assert here.cuda.calls == ["cudaGraphLaunch"] * 2
        first.result()
        second.result()
        assert here.cuda.calls[2:] == ["cudaStreamSynchronize"] * 2


@pytest.mark.parametrize("lacking", ["memory", "context"])
def test_without_room_for_two_batches_one_is_computed_at_a_time(
    machine, bound, expected, monkeypatch, lacking
):
    """8 x (1344 + 5376) + 4096 bytes are one place; what was possible before still is, and said."""
    here = machine("tensorrt-rtx")
    here.cuda.size = 100_000 if lacking == "memory" else here.cuda.size
    batches = [batch_of(3, seed) for seed in range(4)]
    with open_backend("tensorrt-rtx", bound) as backend:
        first = backend.start(batches[0])
        if lacking == "context":
            monkeypatch.setattr(FakeEngine, "create_execution_context", lambda self, told: None)
        others = [backend.start(batch) for batch in batches[1:]]
        for batch, started in zip(batches, (first, *others), strict=True):
            assert_same(started.result().slices, expected(batch))
        assert backend.notes == (
            "the GPU's memory does not hold two batches: copies wait for computing",
        )
        assert here.cuda.calls.count("cudaGraphLaunch") == 4
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []


def test_without_room_for_a_context_the_memory_is_said_to_be_full(machine, bound, monkeypatch):
    """TensorRT gives none, and no error; what can be done is what can be done about memory."""
    machine("tensorrt-rtx")
    with open_backend("tensorrt-rtx", bound) as backend:
        monkeypatch.setattr(FakeEngine, "create_execution_context", lambda self, told: None)
        for n, words in ((3, "take a smaller --batch"), (1, "--precision fp16")):
            with pytest.raises(OutOfGpuMemoryError) as caught:
                backend.run(batch_of(n))
            assert words in caught.value.hint
            assert caught.value.exit_code == 3


@pytest.mark.parametrize("call", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_device_that_is_lost_is_an_error_of_the_batch_that_meets_it(machine, bound, call):
    """At its start or when it is waited for; the other one is not lost with it before its turn."""
    here = machine("tensorrt")
    with open_backend("tensorrt", bound) as backend:
        for started in [backend.start(batch_of(2)) for _ in range(2)]:
            started.result()
        first = backend.start(batch_of(2))
        here.cuda.fails[call] = 719
        meets = first.result if call != "cudaGraphLaunch" else partial(backend.start, batch_of(2))
        with pytest.raises(EngineError, match=f"{call} failed: error 719"):
            meets()
        if call == "cudaGraphLaunch":
            assert np.isfinite(first.result().slices).all()
        here.cuda.fails.clear()


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
        *("cudaGraphExecDestroy",) * 2,
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
    """A GPU that is gone: said by the driver's words, not by a crash later."""
    here = machine("tensorrt-rtx")
    here.cuda.fails[call] = 719
    with pytest.raises(EngineError) as caught:
        open_backend("tensorrt-rtx", bound)
    assert str(caught.value) == f"{call} failed: error 719, unknown"
    assert caught.value.hint.startswith("nvidia-smi shows whether it is still there")
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_memory_for_half_a_batch_is_taken_and_said(machine, bound, expected, runtime):
    """Buffers for 8 slices and what the engine works in: 8 x (1344 + 5376) + 4096 bytes."""
    here = machine(runtime)
    here.cuda.size = 40_000
    with open_backend(runtime, bound) as backend:
        assert backend.notes == ("the GPU's memory does not hold 8 slices at once: computed by 4",)
        batch = batch_of(8)
        assert_same(backend.run(batch), expected(batch))
    here.cuda.size = 10_000
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend(runtime, bound)
    assert str(caught.value) == "the GPU's memory holds neither 8 slices at once nor 4"
    assert here.cuda.memory == {"host": {}, "device": {}}
    assert here.cuda.alive == []


def test_kernels_that_were_compiled_are_there_at_the_next_start(machine, bound, tmp_path):
    """TensorRT-RTX compiles when an engine is loaded: once on a machine, not at every start."""
    here = machine("tensorrt-rtx")
    for _ in range(2):
        with open_backend("tensorrt-rtx", bound) as backend:
            backend.run(batch_of(1))
            backend.run(batch_of(2))
    assert [engine.compiled for engine in here.trt.opened] == [1, 0]
    (kept,) = tmp_path.rglob("*.kernels")
    kept.write_bytes(b"of another driver")
    with open_backend("tensorrt-rtx", bound) as backend:
        backend.run(batch_of(1))
    assert here.trt.opened[-1].compiled == 1
    assert kept.read_bytes() == b"kernels:all"
    EngineCache().prune(everything=True)
    assert not kept.exists()


def test_a_context_that_cannot_be_captured_runs_without_a_graph(machine, bound, expected):
    """Slower, and said: not an error of CUDA in the middle of a capture."""
    here = machine("tensorrt-rtx")
    with open_backend("tensorrt-rtx", bound) as backend:
        here.trt.opened[0].capturable = False
        batch = batch_of(2)
        assert_same(backend.run(batch), expected(batch))
        assert backend.notes == ("2 slices run without a CUDA graph: not capturable",)
        assert "cudaStreamBeginCapture" not in here.cuda.calls


def test_of_two_errors_in_a_capture_the_first_is_the_cause(machine, bound, monkeypatch):
    """What fails within a capture makes its end fail, too; that says nothing new."""
    here = machine("tensorrt-rtx")
    with open_backend("tensorrt-rtx", bound) as backend:
        begin = FakeCuda.do_cudaStreamBeginCapture

        def fail_from_here(self, stream, mode):
            self.fails |= {"cudaMemcpyAsync": 700, "cudaStreamEndCapture": 901}
            return begin(self, stream, mode)

        monkeypatch.setattr(FakeCuda, "do_cudaStreamBeginCapture", fail_from_here)
        with pytest.raises(EngineError, match="cudaMemcpyAsync failed: error 700"):
            backend.run(batch_of(1))
        here.cuda.fails.clear()
        here.cuda.captured = None


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_stand_ins_have_the_names_of_tensorrt_rtx():
    """A stand-in with a method that the library lacks would prove nothing."""
    import tensorrt_rtx

    assert missing_names(tensorrt_rtx, TENSORRT_NAMES, OF_RTX) == []


def test_the_engine_comes_from_the_cache(machine, bound, monkeypatch):
    """The second time it is opened, nothing is built."""
    machine("tensorrt-rtx")
    with open_backend("tensorrt-rtx", bound) as backend:
        first = backend.run(batch_of(2))
    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", "raise SystemExit(9)"))
    with open_backend("tensorrt-rtx", bound) as backend:
        assert np.array_equal(backend.run(batch_of(2)), first)


def test_a_machine_without_a_driver_is_told_before_anything_loads(bound, monkeypatch):
    """TensorRT may crash without one, so it is not even imported."""

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gpu_driver, "CDLL", missing)
    monkeypatch.setattr(native_tensorrt, "load_runtime", pytest.fail)
    with pytest.raises(BackendUnavailableError, match="there is no NVIDIA driver here"):
        native_tensorrt.open_backend("tensorrt-rtx", bound, BackendOptions())


def test_missing_cuda_bindings_are_named(machine, bound, monkeypatch):
    """TensorRT's own package does not bring them."""
    machine("tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailableError, match="cuda-bindings is missing") as caught:
        open_backend("tensorrt-rtx", bound)
    assert caught.value.hint == "pip install 'cuda-bindings>=13,<14'"


def test_only_its_own_names_are_taken(machine, bound):
    """The module serves two rows of the registry."""
    machine("tensorrt-rtx")
    with pytest.raises(InputError, match="backend 'ort-cpu' runs no TensorRT engines"):
        native_tensorrt.open_backend("ort-cpu", bound, BackendOptions())
