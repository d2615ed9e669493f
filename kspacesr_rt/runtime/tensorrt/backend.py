"""TensorRT and TensorRT-RTX on an NVIDIA GPU, without ONNX Runtime in between.

The engine comes from the cache, or is built when the backend is opened. Everything that a run needs
is allocated then or at the first batch of a size: pinned host buffers, device buffers, and a CUDA
graph of copy, engine and copy back, so that a run is one copy, one launch and one wait.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, EngineError, InputError, library_message
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.runtime.backends import BackendOptions, require_batch
from kspacesr_rt.runtime.gpu_memory import (
    GPU_FAILED_HINT,
    OutOfGpuMemoryError,
    half_of,
    halved_note,
)
from kspacesr_rt.runtime.tensorrt.adapter import can_be_captured, create_context, open_engine
from kspacesr_rt.runtime.tensorrt.cache import EngineCache
from kspacesr_rt.runtime.tensorrt.inputs import EngineOptions
from kspacesr_rt.runtime.tensorrt.kernel_cache import SUFFIX, KernelCache
from kspacesr_rt.runtime.tensorrt.library import load_runtime
from kspacesr_rt.runtime.tensorrt.sidecar import EngineInfo, load_engine
from kspacesr_rt.runtime.tensorrt.targets import RUNTIMES, RuntimeName
from kspacesr_rt.system import gpu_driver
from kspacesr_rt.system.interruption import deferred_signals

_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation."""


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
    kernels
        What was compiled for it on this GPU.
    largest
        Most slices at once; None: as many as the engine takes.
    """

    transfer_s = 0.0

    def __init__(
        self,
        info: EngineInfo,
        plan: bytes,
        *,
        trt: Any,
        cuda: Any,
        notes: tuple[str, ...] = (),
        kernels: KernelCache | None = None,
        largest: int | None = None,
    ) -> None:
        self.spec = info.spec
        self.notes = notes
        self._trt, self._cuda = trt, cuda
        self._kernels = kernels or KernelCache(None)
        self._largest = largest or info.inputs.batch[2]
        self._launches: dict[int, Callable[[], None]] = {}
        with ExitStack() as cleanup:
            self._call("cudaSetDevice", gpu_driver.DEVICE)
            self._stream = self._call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
            cleanup.callback(self._call, "cudaStreamDestroy", self._stream)
            spec = self.spec
            self._lr = self._buffers((self._largest, *spec.input_axes, *spec.matrix), cleanup)
            self._sr_shape = (*spec.output_axes, *spec.sr_matrix(spec.matrix))
            self._sr = self._buffers((self._largest, *self._sr_shape), cleanup)
            self._runtime, self._engine = open_engine(trt, plan)
            cleanup.callback(self._forget)
            # One for all contexts: they run one after the other, on one stream.
            self._scratch_bytes = max(self._scratch_needed(info.inputs.batch[2]), 1)
            self._scratch = self._call("cudaMalloc", self._scratch_bytes)
            cleanup.callback(self._call, "cudaFree", self._scratch)
            cleanup.callback(self._launches.clear)  # the contexts, which work in there
            self._cleanup = cleanup.pop_all()

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`.

        A batch larger than the engine takes is cut; slices do not influence each other.
        """
        require_batch(batch, self.spec)
        result = np.empty((len(batch), *self._sr_shape), dtype=np.float32)
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
        self._kernels.forget()
        self._engine = None
        self._runtime = None
        del self._lr, self._sr

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; its status is checked, its value returned."""
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            text = self._cuda.cudaGetErrorString(status)[1]
            said = text.decode() if isinstance(text, bytes) else text
            if int(status) == _OUT_OF_MEMORY:
                raise OutOfGpuMemoryError(self._largest)
            raise EngineError(f"{name} failed: error {int(status)}, {said}", hint=GPU_FAILED_HINT)
        return values[0] if values else None

    def _scratch_needed(self, largest: int) -> int:
        """Return the bytes that a context works in, of the most slices that are computed."""
        if self._largest == largest:
            engine: Any = self._engine
            return int(engine.device_memory_size_v2)
        context = create_context(self._trt, self._engine, self._kernels)
        if context is None:
            raise OutOfGpuMemoryError(self._largest)
        context.set_input_shape(
            INPUT_NAME, (self._largest, *self.spec.input_axes, *self.spec.matrix)
        )
        return int(context.update_device_memory_size_for_shapes())

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
        context = create_context(self._trt, self._engine, self._kernels)
        if context is None:
            raise EngineError(f"no execution context for {n} slices: is the GPU's memory full?")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        fits = context.set_input_shape(INPUT_NAME, (n, *self.spec.input_axes, *self.spec.matrix))
        fits = fits and context.set_tensor_address(INPUT_NAME, self._lr.device)
        fits = fits and context.set_tensor_address(OUTPUT_NAME, self._sr.device)
        if not fits:
            raise EngineError(f"the engine does not take {n} slices of {self.spec.matrix}")
        enqueue = partial(self._enqueue, context, n)
        enqueue()  # what the library does once per shape must not be captured
        self._call("cudaStreamSynchronize", self._stream)
        self._kernels.keep()
        if not can_be_captured(self._trt, context, int(self._stream)):
            self.notes = (*self.notes, f"{n} slices run without a CUDA graph: not capturable")
            return enqueue
        graph = self._captured(enqueue)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        self._cleanup.callback(self._call, "cudaGraphExecDestroy", executable)
        return _Launch(partial(self._call, "cudaGraphLaunch", executable, self._stream), context)

    def _captured(self, enqueue: Callable[[], None]) -> Any:
        """Return the graph of what is enqueued; of two errors, the first is the cause."""
        only_this_thread = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, only_this_thread)
        try:
            enqueue()
        except BaseException:
            with suppress(EngineError):  # of a capture that is invalid by now
                self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", self._stream))
            raise
        return self._call("cudaStreamEndCapture", self._stream)

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
        with deferred_signals():
            # Of the extra for GPUs, which type checkers need not have.
            from cuda.bindings import runtime  # pyright: ignore[reportMissingImports]
    except ImportError as exc:
        raise BackendUnavailableError(
            f"cuda-bindings is missing or does not load: {library_message(exc)}",
            hint="pip install 'cuda-bindings>=13,<14'",
        ) from exc
    return runtime


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> TensorRTBackend:
    """Take the model's engine for this machine's GPU from the cache, or build it, and open it."""
    gpu_driver.current_gpu()  # before any library that may crash without a driver
    trt, cuda = load_runtime(_runtime_name(name)), load_cuda()
    built = EngineCache().get_or_build(model, EngineOptions(runtime=_runtime_name(name)))
    info, plan = load_engine(built.path)
    kernels = KernelCache(built.path.with_suffix(SUFFIX))
    opened = partial(TensorRTBackend, info, plan, trt=trt, cuda=cuda, kernels=kernels)
    try:
        return opened(notes=built.notes)
    except OutOfGpuMemoryError:
        if (most := info.inputs.batch[2]) == 1:
            raise
    half = half_of(most)
    try:
        return opened(notes=(*built.notes, halved_note(most)), largest=half)
    except OutOfGpuMemoryError as exc:
        raise OutOfGpuMemoryError(half, halved_from=most) from exc


def _runtime_name(name: str) -> RuntimeName:
    for runtime in RUNTIMES:
        if runtime == name:
            return runtime
    raise InputError(f"backend '{name}' runs no TensorRT engines")
