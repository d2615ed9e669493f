"""Batches of ONNX Runtime on an NVIDIA GPU, one copied while another is computed.

Two places for batches: each has pinned memory on the host, memory on the device, and events. A
batch is copied into its place's device memory by one stream; another takes it from there through
the session's own input and output, whose addresses its CUDA graph keeps; a third copies the result
back. The host waits for a batch when its result is wanted, and for nothing before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from kspacesr_rt.graph.spectral_sums_graph import SUM_NAMES
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.quality.half_spectra import HalfSpectra
from kspacesr_rt.quality.spectral_sums import SpectralSums
from kspacesr_rt.runtime.cuda_copies import (
    CudaError,
    CudaRuntime,
    Moments,
    PinnedArray,
    Streams,
)
from kspacesr_rt.runtime.protocol import BatchResult, StartedBatch

PLACES: Final = 2
"""Batches under way: more would not keep the GPU busier, and take memory."""
SUMS_DIFFER: Final = (
    "the GPU sums up the spectra of slices and results otherwise than NumPy, which measures them"
)
"""What a report says where the first of these sums were no use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceValues:
    """Addresses of what a session works on, of a number of slices."""

    lr: int
    sr: int
    sums: int | None
    """None: nothing is summed up."""


class EnqueuedSession(Protocol):
    """A session for one batch size, which can be run without being waited for."""

    @property
    def values(self) -> DeviceValues:
        """Where its input and outputs are."""
        ...

    def enqueue(self) -> None:
        """Put a run into the computing stream."""
        ...


class OverlappedRuns:
    """The two places, and the streams; a context manager."""

    def __init__(
        self,
        runtime: Any,
        cuda: CudaRuntime,
        streams: Streams,
        spec: ModelSpec,
        failure: Callable[[Exception, int], Exception],
    ) -> None:
        """Allocate nothing yet.

        Parameters
        ----------
        runtime
            `onnxruntime`.
        cuda, streams
            That it computes with.
        spec
            Of the bound model.
        failure
            Returns what is raised for an error of a library's, and a number of slices.
        """
        self._runtime, self._cuda, self._streams = runtime, cuda, streams
        self._spec, self.failure = spec, failure
        self._free: list[_Place] = []
        self._under_way: list[_Started] = []
        self.transfer_s = 0.0
        """Seconds of copies, of batches whose result was taken."""
        self.notes: tuple[str, ...] = ()
        """What a report says: that sums are not believed."""
        self._sums_agree: bool | None = None
        """Whether the first sums are those of NumPy; None: there were none to tell by."""

    def start(self, batch: FloatArray, session: EnqueuedSession) -> StartedBatch:
        """Put a batch of `session`'s size into the streams.

        Raises
        ------
        OutOfGpuMemoryError
            If there is no memory for a place.
        BackendUnavailableError
            If the GPU fails.
        """
        n = len(batch)
        if len(self._under_way) == PLACES:
            self._under_way[0].finish()  # more than the caller may have under way
        try:
            place = self._place_for(n)
            try:
                place.send(batch, session, self._streams)
            except BaseException:
                self._abandon(place)
                raise
        except Exception as exc:  # CUDA's, and ONNX Runtime raises classes of its own C++ layer
            raise self.failure(exc, n) from exc
        started = _Started(self, place, n)
        self._under_way.append(started)
        return started

    def finish(self) -> None:
        """Wait for every batch that is under way, and keep what came of it."""
        for one in list(self._under_way):
            one.finish()

    def took(self, started: _Started) -> None:
        """Have a batch's place free again."""
        self._under_way.remove(started)
        self._free.append(started.place)

    def believed(
        self, sums: tuple[SpectralSums, ...], lr: FloatArray, sr: FloatArray
    ) -> tuple[SpectralSums, ...]:
        """Return sums of slices ``(n, 1, y, x)``, or none, if the first were not those of NumPy.

        Which GPU it is, and which kernels it has, was not known when this was written.
        """
        if self._sums_agree is None:
            for found, given, result in zip(sums, lr[:, 0], sr[:, 0], strict=True):
                unit = float(np.abs(given).max())
                # Neither an empty slice nor a result that is refused anyway tells.
                if unit > 0.0 and result.any() and np.isfinite(result).all():
                    expected = HalfSpectra.of(result / unit, given / unit)
                    self._sums_agree = found.agrees(expected.sums(self._spec.sample_grid))
                    break
            if self._sums_agree is False:
                self.notes = (SUMS_DIFFER,)
        return () if self._sums_agree is False else sums

    def release(self) -> None:
        """Finish what is under way, and give the memory of the places back."""
        self.finish()
        while self._free:
            self._abandon(self._free.pop())

    def __enter__(self) -> OverlappedRuns:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _place_for(self, n: int) -> _Place:
        """Take a place that is free, or make one, for as many slices."""
        if self._free:
            place = self._free.pop()
            if place.n_slices >= n:
                return place
            place.close()
        return _Place(self._runtime, self._cuda, self._spec, n)

    def _abandon(self, place: _Place) -> None:
        """Give up a place, once nothing is under way in it any more."""
        with suppress(CudaError):  # of a GPU that has failed already
            self._streams.wait()
            place.close()


class _Place:
    """Memory of one batch on its way, on either side, for up to a number of slices."""

    def __init__(self, runtime: Any, cuda: CudaRuntime, spec: ModelSpec, n: int) -> None:
        self._cuda, self.n_slices = cuda, n
        lr = (n, *spec.input_axes, *spec.matrix)
        sr = (n, *spec.output_axes, *spec.sr_matrix(spec.matrix))
        with ExitStack() as cleanup:
            self.moments = cleanup.enter_context(Moments(cuda))
            self.lr, self.sr, self.sums = (
                _Buffers(runtime, cuda, shape, cleanup) for shape in (lr, sr, (n, len(SUM_NAMES)))
            )
            self._cleanup = cleanup.pop_all()
        self.sums_come = False

    def send(self, batch: FloatArray, session: EnqueuedSession, streams: Streams) -> None:
        """Put everything that is done with a batch into the streams."""
        n, cuda, moments, values = len(batch), self._cuda, self.moments, session.values
        np.copyto(self.lr.host[:n], batch)
        moments.record("sent", streams.copies_in)
        cuda.copy_in(self.lr.device, self.lr.host[:n], streams.copies_in)
        moments.record("arrived", streams.copies_in)

        moments.hold(streams.computing, "arrived")
        cuda.copy_within(values.lr, self.lr.device, self.lr.size_of(n), streams.computing)
        session.enqueue()
        cuda.copy_within(self.sr.device, values.sr, self.sr.size_of(n), streams.computing)
        self.sums_come = values.sums is not None
        if values.sums is not None:
            cuda.copy_within(self.sums.device, values.sums, self.sums.size_of(n), streams.computing)
        moments.record("computed", streams.computing)

        moments.hold(streams.copies_back, "computed")
        moments.record("returning", streams.copies_back)
        cuda.copy_back(self.sr.host[:n], self.sr.device, streams.copies_back)
        if self.sums_come:
            cuda.copy_back(self.sums.host[:n], self.sums.device, streams.copies_back)
        moments.record("returned", streams.copies_back)

    def close(self) -> None:
        """Give everything back."""
        del self.lr, self.sr, self.sums
        self._cleanup.close()


class _Buffers:
    """Pinned memory of an array, and as much on the device."""

    def __init__(
        self, runtime: Any, cuda: CudaRuntime, shape: tuple[int, ...], cleanup: ExitStack
    ) -> None:
        pinned = PinnedArray(cuda, shape)
        cleanup.callback(pinned.free)
        self.host = pinned.values
        value = runtime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
        self._value, self.device = value, int(value.data_ptr())

    def size_of(self, n: int) -> int:
        """Return the bytes of the first `n` slices."""
        return int(self.host[:n].nbytes)


class _Started:
    """A batch that is under way, or whose result waits to be taken."""

    def __init__(self, runs: OverlappedRuns, place: _Place, n: int) -> None:
        self._runs, self.place, self._n = runs, place, n
        self._result: BatchResult | None = None
        self._error: Exception | None = None
        self._is_finished = False

    def done(self) -> bool:
        return self._is_finished or self.place.moments.is_over("returned")

    def result(self) -> BatchResult:
        self.finish()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def finish(self) -> None:
        """Wait for it, and take what came of it out of its place; a second time is no error."""
        if self._is_finished:
            return
        self._is_finished = True
        try:
            self.place.moments.wait("returned")
            self._result = self._taken()
            self._runs.transfer_s += self._result.transfer_s
        except CudaError as exc:
            self._error = self._runs.failure(exc, self._n)
            self._error.__cause__ = exc
        finally:
            self._runs.took(self)

    def _taken(self) -> BatchResult:
        place, n = self.place, self._n
        sums: tuple[SpectralSums, ...] = ()
        if place.sums_come:
            upscale = place.sr.host.shape[-1] // place.lr.host.shape[-1]
            sums = tuple(
                SpectralSums(**dict(zip(SUM_NAMES, map(float, row), strict=True)), upscale=upscale)
                for row in place.sums.host[:n]
            )
            sums = self._runs.believed(sums, place.lr.host[:n], place.sr.host[:n])
        moments = place.moments
        copied_s = moments.seconds("sent", "arrived") + moments.seconds("returning", "returned")
        return BatchResult(slices=place.sr.host[:n].copy(), sums=sums, transfer_s=copied_s)
