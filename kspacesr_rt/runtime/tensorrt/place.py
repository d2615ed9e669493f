"""What a batch needs on its way through an engine: a stream, memory on either side, graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import numpy as np

from kspacesr_rt.errors import EngineError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.gpu_memory import GPU_FAILED_HINT, OutOfGpuMemoryError
from kspacesr_rt.runtime.protocol import BatchResult
from kspacesr_rt.runtime.tensorrt.adapter import can_be_captured, create_context
from kspacesr_rt.runtime.tensorrt.kernel_cache import KernelCache

_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation."""
_NOT_READY = 600
"""cudaErrorNotReady."""


class CudaCalls:
    """Functions of `cuda.bindings.runtime`, whose status is checked."""

    def __init__(self, cuda: Any, largest: int) -> None:
        """Keep them; `largest` slices are what memory is asked for."""
        self.names, self._largest = cuda, largest

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a function; return its value, if it has one.

        Raises
        ------
        OutOfGpuMemoryError
            If there is too little memory.
        EngineError
            If it fails otherwise.
        """
        status, *values = getattr(self.names, name)(*arguments)
        if int(status) != 0:
            text = self.names.cudaGetErrorString(status)[1]
            said = text.decode() if isinstance(text, bytes) else text
            if int(status) == _OUT_OF_MEMORY:
                raise OutOfGpuMemoryError(self._largest)
            raise EngineError(f"{name} failed: error {int(status)}, {said}", hint=GPU_FAILED_HINT)
        return values[0] if values else None

    def is_idle(self, stream: Any) -> bool:
        """Say whether a stream has nothing left to do; one that has failed has not."""
        return int(self.names.cudaStreamQuery(stream)[0]) != _NOT_READY


class Place:
    """A stream and the memory of one batch, with a captured graph for each size it had.

    Parameters
    ----------
    call
        Calls CUDA.
    trt, engine, kernels
        The library, the engine, and what was compiled for it.
    spec
        Of the engine.
    largest
        Most slices of a batch.
    scratch_bytes
        What a context works in.
    note
        Takes what a report is to say.
    """

    def __init__(
        self,
        call: CudaCalls,
        *,
        trt: Any,
        engine: Any,
        kernels: KernelCache,
        spec: ModelSpec,
        largest: int,
        scratch_bytes: int,
        note: Callable[[str], None],
    ) -> None:
        self._call, self._trt, self._engine, self._kernels = call, trt, engine, kernels
        self._spec, self._note = spec, note
        self._launches: dict[int, Callable[[], None]] = {}
        self.sr_shape = (*spec.output_axes, *spec.sr_matrix(spec.matrix))
        """Of one result."""
        with ExitStack() as cleanup:
            self._stream = call("cudaStreamCreateWithFlags", call.names.cudaStreamNonBlocking)
            cleanup.callback(call, "cudaStreamDestroy", self._stream)
            self._lr = self._buffers((largest, *spec.input_axes, *spec.matrix), cleanup)
            self._sr = self._buffers((largest, *self.sr_shape), cleanup)
            # One for all contexts: they run one after the other, on one stream.
            self._scratch_bytes = max(scratch_bytes, 1)
            self._scratch = call("cudaMalloc", self._scratch_bytes)
            cleanup.callback(call, "cudaFree", self._scratch)
            cleanup.callback(self._launches.clear)  # the contexts, which work in there
            self._cleanup = cleanup.pop_all()

    def launch(self, batch: FloatArray) -> None:
        """Let a batch be copied in, computed and copied back; nothing is waited for.

        But for the first batch of a size, whose graph is captured.
        """
        n = len(batch)
        np.copyto(self._lr.host[:n], batch)
        if n not in self._launches:
            self._launches[n] = self._prepared(n)
        self._launches[n]()

    def is_done(self) -> bool:
        """Say whether there is nothing to wait for."""
        return self._call.is_idle(self._stream)

    def wait(self) -> None:
        """Wait for what was launched."""
        self._call("cudaStreamSynchronize", self._stream)

    def result(self, n: int) -> FloatArray:
        """Return the result of `n` slices, where the next one will be; it was waited for."""
        found: FloatArray = self._sr.host[:n]
        return found

    def close(self) -> None:
        """Give everything back: graphs, contexts, memory, stream; the last made goes first."""
        self._cleanup.close()
        del self._lr, self._sr
        self._engine = None

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
            raise OutOfGpuMemoryError(n)  # what TensorRT says of it goes to its log alone
        context.set_device_memory(self._scratch, self._scratch_bytes)
        spec = self._spec
        fits = context.set_input_shape(INPUT_NAME, (n, *spec.input_axes, *spec.matrix))
        fits = fits and context.set_tensor_address(INPUT_NAME, self._lr.device)
        fits = fits and context.set_tensor_address(OUTPUT_NAME, self._sr.device)
        if not fits:
            raise EngineError(f"the engine does not take {n} slices of {spec.matrix}")
        enqueue = partial(self._enqueue, context, n)
        enqueue()  # what the library does once per shape must not be captured
        self.wait()
        self._kernels.keep()
        if not can_be_captured(self._trt, context, int(self._stream)):
            self._note(f"{n} slices run without a CUDA graph: not capturable")
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
        modes = self._call.names.cudaStreamCaptureMode
        only_this_thread = modes.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, only_this_thread)
        try:
            enqueue()
        except BaseException:
            with suppress(EngineError):  # of a capture that is invalid by now
                self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", self._stream))
            raise
        return self._call("cudaStreamEndCapture", self._stream)

    def _enqueue(self, context: Any, n: int) -> None:
        kinds = self._call.names.cudaMemcpyKind
        copy = partial(self._call, "cudaMemcpyAsync")
        lr, sr = self._lr, self._sr
        copy(lr.device, lr.pinned, lr.size_of(n), kinds.cudaMemcpyHostToDevice, self._stream)
        if not context.execute_async_v3(int(self._stream)):
            raise EngineError("the engine could not be started")
        copy(sr.pinned, sr.device, sr.size_of(n), kinds.cudaMemcpyDeviceToHost, self._stream)


class LaunchedBatch:
    """A batch that was launched in a place; see `kspacesr_rt.runtime.protocol.StartedBatch`."""

    def __init__(self, place: Place, n: int, on_finished: Callable[[LaunchedBatch], None]) -> None:
        self.place, self._n, self._on_finished = place, n, on_finished
        self._slices: FloatArray | None = None
        self._error: EngineError | None = None

    @property
    def _is_finished(self) -> bool:
        return self._slices is not None or self._error is not None

    def done(self) -> bool:
        """Say whether `result` has nothing to wait for."""
        return self._is_finished or self.place.is_done()

    def result(self) -> BatchResult:
        """Wait for the result."""
        self.finish()
        if self._error is not None:
            raise self._error
        assert self._slices is not None
        return BatchResult(slices=self._slices)

    def finish(self) -> None:
        """Wait for it, and take what came of it out of its place; a second time is no error."""
        if self._is_finished:
            return
        try:
            self.place.wait()
            self._slices = self.place.result(self._n).copy()
        except EngineError as exc:
            self._error = exc
        self._on_finished(self)


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
