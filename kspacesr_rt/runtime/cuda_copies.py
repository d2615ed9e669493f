"""Copies between host and GPU that wait for nothing: pinned memory, streams and events.

By ctypes, of the CUDA runtime that ONNX Runtime has loaded: its Python interface has neither pinned
memory nor copies that return before they are done.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import Final, Self

import numpy as np

from kspacesr_rt.kspace import FloatArray

LIBRARY: Final = "libcudart.so.13"
_NON_BLOCKING: Final = 1
"""cudaStreamNonBlocking: the stream does not wait for the default one."""
_NOT_READY: Final = 600
"""cudaErrorNotReady."""
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3
"""enum cudaMemcpyKind."""


class CudaError(RuntimeError):
    """What the CUDA runtime answered, in the words that ONNX Runtime has for it."""


class CudaRuntime:
    """Functions of libcudart, whose status is checked."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        """Call a function.

        Raises
        ------
        CudaError
            If it fails.
        """
        self._require(getattr(self._library, name)(*arguments))

    def is_ready(self, event: ctypes.c_void_p) -> bool:
        """Say whether all before an event is done; an error that waits is no reason to wait."""
        return int(self._library.cudaEventQuery(event)) != _NOT_READY

    def copy_in(self, device: int, values: FloatArray, stream: ctypes.c_void_p) -> None:
        """Put a copy of an array in pinned memory to the device into a stream."""
        self._copy(device, values.ctypes.data, values.nbytes, _TO_DEVICE, stream)

    def copy_back(self, values: FloatArray, device: int, stream: ctypes.c_void_p) -> None:
        """Put a copy from the device into an array in pinned memory into a stream."""
        self._copy(values.ctypes.data, device, values.nbytes, _TO_HOST, stream)

    def copy_within(self, to: int, source: int, n_bytes: int, stream: ctypes.c_void_p) -> None:
        """Put a copy within the device's memory into a stream."""
        self._copy(to, source, n_bytes, _ON_DEVICE, stream)

    def _copy(self, to: int, source: int, n_bytes: int, kind: int, stream: ctypes.c_void_p) -> None:
        places = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(n_bytes))
        self.call("cudaMemcpyAsync", *places, kind, stream)

    def _require(self, status: int) -> None:
        if status:
            text = self._library.cudaGetErrorString(status).decode()
            raise CudaError(f"CUDA failure {status}: {text}")


class Streams:
    """Three streams: copies in, computing, copies back; a context manager."""

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda = cuda
        with ExitStack() as cleanup:
            self.copies_in, self.computing, self.copies_back = (
                self._made(cleanup) for _ in range(3)
            )
            self._cleanup = cleanup.pop_all()

    def wait(self) -> None:
        """Wait until all that was put into them is done."""
        for stream in (self.copies_in, self.computing, self.copies_back):
            self._cuda.call("cudaStreamSynchronize", stream)

    def _made(self, cleanup: ExitStack) -> ctypes.c_void_p:
        stream = ctypes.c_void_p()
        self._cuda.call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        cleanup.callback(self._cuda.call, "cudaStreamDestroy", stream)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cleanup.close()


class PinnedArray:
    """A float32 array in page-locked memory, which copies read and write without the processor."""

    def __init__(self, cuda: CudaRuntime, shape: tuple[int, ...]) -> None:
        self._cuda = cuda
        self.address = ctypes.c_void_p()
        n_samples = int(np.prod(shape))
        cuda.call("cudaMallocHost", ctypes.byref(self.address), ctypes.c_size_t(4 * n_samples))
        assert self.address.value is not None
        memory = (ctypes.c_float * n_samples).from_address(self.address.value)
        self.values: FloatArray = np.ctypeslib.as_array(memory).reshape(shape)

    def free(self) -> None:
        """Give the memory back; `values` must not be used any more."""
        self._cuda.call("cudaFreeHost", self.address)


class Moments:
    """Events of one batch, in the order in which it meets them; a context manager."""

    NAMES: Final = ("sent", "arrived", "computed", "returning", "returned")

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda = cuda
        self._events: dict[str, ctypes.c_void_p] = {}
        with ExitStack() as cleanup:
            for name in self.NAMES:
                event = ctypes.c_void_p()
                cuda.call("cudaEventCreateWithFlags", ctypes.byref(event), 0)
                cleanup.callback(cuda.call, "cudaEventDestroy", event)
                self._events[name] = event
            self._cleanup = cleanup.pop_all()

    def record(self, name: str, stream: ctypes.c_void_p) -> None:
        """Let an event happen once what was put into a stream is done."""
        self._cuda.call("cudaEventRecord", self._events[name], stream)

    def hold(self, stream: ctypes.c_void_p, until: str) -> None:
        """Let what comes next in a stream wait for an event."""
        self._cuda.call("cudaStreamWaitEvent", stream, self._events[until], 0)

    def is_over(self, name: str) -> bool:
        """Say whether an event has happened."""
        return self._cuda.is_ready(self._events[name])

    def wait(self, name: str) -> None:
        """Wait for an event."""
        self._cuda.call("cudaEventSynchronize", self._events[name])

    def seconds(self, first: str, last: str) -> float:
        """Return the time between two events, which have happened."""
        elapsed = ctypes.c_float()
        self._cuda.call(
            "cudaEventElapsedTime", ctypes.byref(elapsed), self._events[first], self._events[last]
        )
        return elapsed.value / 1000.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cleanup.close()
