"""TensorRT and TensorRT-RTX on an NVIDIA GPU, without ONNX Runtime in between.

The engine comes from the cache, or is built when the backend is opened. Everything that a run needs
is allocated then or at the first batch of a size: pinned host buffers, device buffers, and a CUDA
graph of copy, engine and copy back, so that a run is one copy, one launch and one wait. All of that
is a place; where another batch is started before the first is waited for, there are two, each with
a stream of its own, so that a GPU copies for one while it computes the other.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, InputError, library_message
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME
from kspacesr_rt.runtime.backends import (
    BackendOptions,
    BatchResult,
    FinishedBatch,
    StartedBatch,
    require_batch,
)
from kspacesr_rt.runtime.gpu_memory import (
    ONE_AT_A_TIME,
    OutOfGpuMemoryError,
    half_of,
    halved_note,
)
from kspacesr_rt.runtime.tensorrt.adapter import create_context, open_engine
from kspacesr_rt.runtime.tensorrt.cache import EngineCache
from kspacesr_rt.runtime.tensorrt.inputs import EngineOptions
from kspacesr_rt.runtime.tensorrt.kernel_cache import SUFFIX, KernelCache
from kspacesr_rt.runtime.tensorrt.library import load_runtime
from kspacesr_rt.runtime.tensorrt.place import CudaCalls, LaunchedBatch, Place
from kspacesr_rt.runtime.tensorrt.sidecar import EngineInfo, load_engine
from kspacesr_rt.runtime.tensorrt.targets import RUNTIMES, RuntimeName
from kspacesr_rt.system import gpu_driver
from kspacesr_rt.system.interruption import deferred_signals

PLACES: Final = 2
"""Batches under way, where they may overlap: more would not keep the GPU busier."""


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
        self._trt = trt
        self._kernels = kernels or KernelCache(None)
        self._most = info.inputs.batch[2]
        self._largest = largest or self._most
        self._call = CudaCalls(cuda, self._largest)
        self._places: list[Place] = []
        self._under_way: list[LaunchedBatch] = []
        self._may_overlap = True
        with ExitStack() as cleanup:
            self._call("cudaSetDevice", gpu_driver.DEVICE)
            self._runtime, self._engine = open_engine(trt, plan)
            cleanup.callback(self._forget)
            cleanup.callback(self._close_places)
            self._places.append(self._new_place())
            self._cleanup = cleanup.pop_all()

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`.

        A batch larger than the engine takes is cut; slices do not influence each other.
        """
        require_batch(batch, self.spec)
        self._finish()
        place = self._places[0]
        result = np.empty((len(batch), *place.sr_shape), dtype=np.float32)
        for start in range(0, len(batch), self._largest):
            part = batch[start : start + self._largest]
            place.launch(part)
            place.wait()
            np.copyto(result[start : start + len(part)], place.result(len(part)))
        return result

    def start(self, batch: FloatArray) -> StartedBatch:
        """Begin with a batch; see `kspacesr_rt.runtime.protocol.OverlappingBackend`.

        One that is larger than the engine takes is computed at once, in parts.
        """
        require_batch(batch, self.spec)
        if len(batch) > self._largest:
            return FinishedBatch(BatchResult(slices=self.run(batch)))
        place = self._free_place()
        try:
            place.launch(batch)
        except BackendUnavailableError:
            if place is self._places[0]:
                raise
            place = self._only_place()
            place.launch(batch)
        started = LaunchedBatch(place, len(batch), self._under_way.remove)
        self._under_way.append(started)
        return started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._finish()
        self._cleanup.close()  # what works on the engine, the engine: the last made goes first

    def _finish(self) -> None:
        """Wait for what is under way, and keep what came of it."""
        for one in list(self._under_way):
            one.finish()

    def _free_place(self) -> Place:
        """Return a place without a batch; make the second one when it is first wanted."""
        busy = {one.place for one in self._under_way}
        for place in self._places:
            if place not in busy:
                return place
        if self._may_overlap and len(self._places) < PLACES:
            try:
                self._places.append(self._new_place())
            except OutOfGpuMemoryError:
                return self._only_place()
            return self._places[-1]
        self._under_way[0].finish()
        return self._free_place()

    def _only_place(self) -> Place:
        """Return the first place, to which what fails in another, for lack of memory, is left."""
        self._finish()
        while len(self._places) > 1:
            with suppress(BackendUnavailableError):  # of a GPU that has failed: it is met again
                self._places.pop().close()
        self._may_overlap = False
        self._note(ONE_AT_A_TIME)
        return self._places[0]

    def _new_place(self) -> Place:
        return Place(
            self._call,
            trt=self._trt,
            engine=self._engine,
            kernels=self._kernels,
            spec=self.spec,
            largest=self._largest,
            scratch_bytes=self._scratch_needed(self._most),
            note=self._note,
        )

    def _note(self, text: str) -> None:
        self.notes = tuple(dict.fromkeys((*self.notes, text)))

    def _close_places(self) -> None:
        with ExitStack() as cleanup:
            for place in self._places:
                cleanup.callback(place.close)
        del self._places

    def _forget(self) -> None:
        """Let go of the engine, then its runtime."""
        self._kernels.forget()
        self._engine = None
        self._runtime = None

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
    trt, cuda = load_runtime(runtime_name(name)), load_cuda()
    built = EngineCache().get_or_build(model, EngineOptions(runtime=runtime_name(name)))
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


def runtime_name(name: str) -> RuntimeName:
    """Return the runtime of a backend's name; raises `InputError` for another backend's."""
    for runtime in RUNTIMES:
        if runtime == name:
            return runtime
    raise InputError(f"backend '{name}' runs no TensorRT engines")
