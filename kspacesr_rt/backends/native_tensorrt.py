"""TensorRT and TensorRT-RTX on an NVIDIA GPU, without ONNX Runtime in between.

The engine comes from the cache, or is built when the backend is opened. Everything that a run needs
is allocated then or at the first batch of a size: pinned host buffers, device buffers, and a CUDA
graph of copy, engine and copy back, so that a run is one copy, one launch and one wait.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from kspacesr_rt.backends import BackendOptions, require_batch
from kspacesr_rt.binding import BoundModel
from kspacesr_rt.engines import driver
from kspacesr_rt.engines.adapter import create_context, load_runtime, open_engine
from kspacesr_rt.engines.cache import EngineCache
from kspacesr_rt.engines.inputs import EngineOptions
from kspacesr_rt.engines.sidecar import EngineInfo, load_engine
from kspacesr_rt.engines.targets import RUNTIMES, RuntimeName
from kspacesr_rt.errors import BackendUnavailableError, EngineError, InputError, library_says
from kspacesr_rt.interruption import held_signals
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model_file import INPUT_NAME, OUTPUT_NAME


class TensorRTBackend:
    """One engine, with the memory it works in.

    Parameters
    ----------
    info
        Sidecar of the engine.
    plan
        The engine.
    trt, cuda
        `tensorrt` or `tensorrt_rtx`, and `cuda.bindings.runtime`.
    notes
        What a user should know about the engine, such as why it was built again.
    """

    def __init__(
        self, info: EngineInfo, plan: bytes, *, trt: Any, cuda: Any, notes: tuple[str, ...] = ()
    ) -> None:
        self.spec = info.spec
        self.notes = notes
        self._trt, self._cuda = trt, cuda
        self._largest = info.inputs.batch[2]
        self._launches: dict[int, Callable[[], None]] = {}
        with ExitStack() as cleanup:
            self._call("cudaSetDevice", driver.DEVICE)
            self._stream = self._call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
            cleanup.callback(self._call, "cudaStreamDestroy", self._stream)
            self._lr = self._buffers((self._largest, 1, *self.spec.matrix), cleanup)
            sr_matrix = self.spec.sr_matrix(self.spec.matrix)
            self._sr = self._buffers((self._largest, 1, *sr_matrix), cleanup)
            self._runtime, self._engine = open_engine(trt, plan)
            cleanup.callback(self._forget)
            # One for all contexts: they run one after the other, on one stream.
            self._scratch_bytes = max(int(self._engine.device_memory_size_v2), 1)
            self._scratch = self._call("cudaMalloc", self._scratch_bytes)
            cleanup.callback(self._call, "cudaFree", self._scratch)
            cleanup.callback(self._launches.clear)  # the contexts, which work in there
            self._cleanup = cleanup.pop_all()

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.backends.Backend.run`.

        A batch larger than the engine takes is cut; slices do not influence each other.
        """
        require_batch(batch, self.spec)
        sr_matrix = self.spec.sr_matrix(self.spec.matrix)
        result = np.empty((len(batch), 1, *sr_matrix), dtype=np.float32)
        for start in range(0, len(batch), self._largest):
            part = batch[start : start + self._largest]
            np.copyto(self._lr.host[: len(part)], part)
            if len(part) not in self._launches:
                self._launches[len(part)] = self._prepared(len(part))
            self._launches[len(part)]()
            self._call("cudaStreamSynchronize", self._stream)
            np.copyto(result[start : start + len(part)], self._sr.host[: len(part)])
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cleanup.close()  # graphs, contexts, engine, memory, stream: the last made goes first

    def _forget(self) -> None:
        """Let go of the engine, then its runtime, and of the buffers' views."""
        self._engine = None
        self._runtime = None
        del self._lr, self._sr

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; its status is checked, its value returned."""
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            text = self._cuda.cudaGetErrorString(status)[1]
            said = text.decode() if isinstance(text, bytes) else text
            raise EngineError(f"{name} failed: error {int(status)}, {said}")
        return values[0] if values else None

    def _buffers(self, shape: tuple[int, ...], cleanup: ExitStack) -> _Buffers:
        n_bytes = 4 * int(np.prod(shape))
        pinned = self._call("cudaMallocHost", n_bytes)
        cleanup.callback(self._call, "cudaFreeHost", pinned)
        device = self._call("cudaMalloc", n_bytes)
        cleanup.callback(self._call, "cudaFree", device)
        return _Buffers(int(pinned), int(device), shape)

    def _prepared(self, n: int) -> Callable[[], None]:
        """Return what launches the captured graph for `n` slices.

        Each size has its own context: a graph stays tied to the shapes of the context it was
        captured from.
        """
        context = create_context(self._trt, self._engine)
        if context is None:
            raise EngineError(f"no execution context for {n} slices: is the GPU's memory full?")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        fits = context.set_input_shape(INPUT_NAME, (n, 1, *self.spec.matrix))
        fits = fits and context.set_tensor_address(INPUT_NAME, self._lr.device)
        fits = fits and context.set_tensor_address(OUTPUT_NAME, self._sr.device)
        if not fits:
            raise EngineError(f"the engine does not take {n} slices of {self.spec.matrix}")
        enqueue = partial(self._enqueue, context, n)
        enqueue()  # what the library does once per shape must not be captured
        self._call("cudaStreamSynchronize", self._stream)
        only_this_thread = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, only_this_thread)
        try:
            enqueue()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        self._cleanup.callback(self._call, "cudaGraphDestroy", graph)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._cleanup.callback(self._call, "cudaGraphExecDestroy", executable)
        launch = partial(self._call, "cudaGraphLaunch", executable, self._stream)
        return _Launch(launch, context)

    def _enqueue(self, context: Any, n: int) -> None:
        kinds = self._cuda.cudaMemcpyKind
        copy = partial(self._call, "cudaMemcpyAsync")
        lr, sr = self._lr, self._sr
        copy(lr.device, lr.pinned, lr.size_of(n), kinds.cudaMemcpyHostToDevice, self._stream)
        if not context.execute_async_v3(int(self._stream)):
            raise EngineError("the engine could not be started")
        copy(sr.pinned, sr.device, sr.size_of(n), kinds.cudaMemcpyDeviceToHost, self._stream)


class _Buffers:
    """A pinned host buffer and the device buffer it is copied to or from."""

    def __init__(self, pinned: int, device: int, shape: tuple[int, ...]) -> None:
        self.pinned, self.device = pinned, device
        memory = (ctypes.c_float * int(np.prod(shape))).from_address(pinned)
        self.host = np.ctypeslib.as_array(memory).reshape(shape)

    def size_of(self, n: int) -> int:
        """Return the bytes of the first `n` slices."""
        return int(self.host[:n].nbytes)


class _Launch:
    """Launch a graph, and keep the context it came from alive."""

    def __init__(self, launch: Callable[[], None], context: Any) -> None:
        self._launch, self._context = launch, context

    def __call__(self) -> None:
        self._launch()


def load_cuda() -> Any:
    """Import the CUDA runtime's bindings.

    Raises
    ------
    BackendUnavailableError
        If they are not installed or do not load.
    """
    try:
        with held_signals():
            from cuda.bindings import runtime
    except ImportError as exc:
        raise BackendUnavailableError(
            f"cuda-python is missing or does not load: {library_says(exc)}",
            hint="pip install 'cuda-python>=13'",
        ) from exc
    return runtime


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> TensorRTBackend:
    """Take the model's engine for this machine's GPU from the cache, or build it, and open it."""
    driver.current_gpu()  # before any library that may crash without a driver
    trt, cuda = load_runtime(_runtime_name(name)), load_cuda()
    built = EngineCache().get_or_build(model, EngineOptions(runtime=_runtime_name(name)))
    info, plan = load_engine(built.path)
    return TensorRTBackend(info, plan, trt=trt, cuda=cuda, notes=built.notes)


def open_engine_file(engine: Path) -> TensorRTBackend:
    """Open an engine that was built with `kspacesr_rt.engines.build.build_engine`.

    Raises
    ------
    ModelFileError
        If the engine or its sidecar is missing or damaged.
    BackendUnavailableError
        If there is no GPU, or no library for it.
    EngineError
        If it was built for another GPU or by another version.
    """
    info, plan = load_engine(engine)
    gpu = driver.current_gpu()
    trt, cuda = load_runtime(info.inputs.runtime), load_cuda()
    wanted = (info.inputs.gpu, info.inputs.gpu_name or gpu.name, info.inputs.runtime_version)
    found = (f"sm{gpu.sm}", gpu.name, str(trt.__version__))
    if wanted != found:
        raise EngineError(
            f"{engine.name} is for {' '.join(wanted)}, this machine has {' '.join(found)}",
            hint="build it for this machine: kspacesr-rt build",
        )
    return TensorRTBackend(info, plan, trt=trt, cuda=cuda)


def _runtime_name(name: str) -> RuntimeName:
    for runtime in RUNTIMES:
        if runtime == name:
            return runtime
    raise InputError(f"backend '{name}' runs no TensorRT engines")
