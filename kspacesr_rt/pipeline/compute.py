"""Batches of decoded slices through the backend, as many side by side as it computes.

A backend that overlaps copies with computing is given the next batch before the result of the one
before it is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

import numpy as np

from kspacesr_rt.dicom import DecodedSlice
from kspacesr_rt.dicom.failures import backend_failure
from kspacesr_rt.errors import ParityError, PluginError, ShapeError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.quality.result_checks import HOMOGENEITY_FACTOR, require_homogeneous
from kspacesr_rt.runtime.backends import (
    Backend,
    BatchResult,
    OverlappingBackend,
    StartedBatch,
)


class ComputedBatch(Protocol):
    """A batch that is computed, or will be: as a `Future` of its result is."""

    def done(self) -> bool:
        """Say whether its result is there."""
        ...

    def result(self) -> BatchResult:
        """Wait for the result."""
        ...


class BatchRunner:
    """Computes batches; a context manager, since it may have threads."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self.side_by_side = run.backends.streams
        """Batches that may be under way when another is started."""
        self._overlapped: list[_OverlappedBatch] = []
        # What computes one batch at a time does so in the caller's thread: contexts and graphs of
        # a GPU belong to the thread that made them.
        self._pool = (
            ThreadPoolExecutor(self.side_by_side, thread_name_prefix="kspacesr-rt-infer")
            if self.side_by_side > 1
            else None
        )

    def start(
        self, matrix: Matrix, slices: Sequence[DecodedSlice], *, zero_filled: bool = False
    ) -> ComputedBatch:
        """Super-resolve slices of one LR matrix; the caller waits for no more than a binding.

        Parameters
        ----------
        matrix
            LR rows and columns.
        slices
            Of that matrix.
        zero_filled
            Whether zero-filling computes them, and not the run's model.

        Returns
        -------
            The result, of slices ``(n, s*y, s*x)``, when it is there; or `SliceFailed`, ``matrix``:
            the model cannot be bound to it, or ``tier``: it does not keep the run's tier there. At
            most `side_by_side` may be waited for when another is started.
        """
        future: Future[BatchResult] = Future()
        try:
            with self._run.timer.busy("bind"):
                pool = self._run.backends
                backend = pool.zero_fill(matrix) if zero_filled else pool.get(matrix)
            self._run.notes.update(dict.fromkeys(backend.notes))
            batch = np.stack([decoded.values for decoded in slices])[:, None]
        except ShapeError as exc:
            future.set_exception(SliceFailed("matrix", str(exc)))
            return future
        except ParityError as exc:
            future.set_exception(SliceFailed("tier", str(exc), hint=exc.hint))
            return future
        except MemoryError as exc:
            future.set_exception(backend_failure(exc))
            return future
        if self._pool is not None:
            return self._pool.submit(self._computed, backend, batch)
        try:
            if isinstance(backend, OverlappingBackend):
                return self._begun(backend, batch)
            future.set_result(self._computed(backend, batch))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def _begun(self, backend: Backend, batch: FloatArray) -> ComputedBatch:
        """Begin with a batch, and wait for none."""
        assert isinstance(backend, OverlappingBackend)
        begun = _OverlappedBatch(self._run, backend, batch)
        self._overlapped = [one for one in self._overlapped if not one.is_settled]
        self._overlapped.append(begun)
        return begun

    def _computed(self, backend: Backend, batch: FloatArray) -> BatchResult:
        timer, moved = self._run.timer, backend.transfer_s
        started, started_cpu = time.perf_counter(), time.thread_time()
        try:
            with _failing_slices(self._run, backend), timer.under_way("infer"):
                results = backend.run(batch)[:, 0]
                _require_homogeneous(backend, batch, results)
                return BatchResult(slices=results)
        finally:
            elapsed = time.perf_counter() - started
            transferred = min(backend.transfer_s - moved, elapsed)
            timer.add("transfer", transferred)
            cpu_s = time.thread_time() - started_cpu
            timer.add("infer", elapsed - transferred, cpu_s=cpu_s)
            self._run.notes.update(dict.fromkeys(backend.notes))  # of this batch, perhaps

    def __enter__(self) -> BatchRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for one in self._overlapped:  # whose results nobody waits for any more
            one.give_up()


class _OverlappedBatch:
    """A batch on its way through a device, waited for when its result is wanted.

    Of the time it takes, what the run spends on it counts: to begin with it, and to wait for it.
    """

    def __init__(self, run: RunState, backend: Backend, batch: FloatArray) -> None:
        assert isinstance(backend, OverlappingBackend)
        self._run, self._backend, self._batch = run, backend, batch
        self.is_settled = False
        """Whether its result was asked for, or given up."""
        with self._failing(), run.timer.busy("infer"):
            self._begun: StartedBatch = backend.start(batch)

    def done(self) -> bool:
        """Say whether its result is there."""
        return self._begun.done()

    def result(self) -> BatchResult:
        """Wait for the result."""
        self.is_settled = True
        with self._failing(), self._run.timer.busy("infer"):
            found = self._begun.result()
            self._run.timer.add("transfer", found.transfer_s)
            results = found.slices[:, 0]
            _require_homogeneous(self._backend, self._batch, results)
            return BatchResult(slices=results, sums=found.sums)

    def give_up(self) -> None:
        """Let the backend have its memory again."""
        if not self.is_settled:
            with suppress(Exception):  # which would have ended the run that has ended
                self._begun.result()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            with _failing_slices(self._run, self._backend):
                yield
        finally:
            self._run.notes.update(dict.fromkeys(self._backend.notes))  # of this batch, perhaps


def _require_homogeneous(backend: Backend, batch: FloatArray, results: FloatArray) -> None:
    """Look whether results of a network that is not ours scale, if that is declared of it."""
    if backend.spec.homogeneous:
        scaled = backend.run(batch * np.float32(HOMOGENEITY_FACTOR))[:, 0]
        require_homogeneous(results, scaled)


@contextmanager
def _failing_slices(run: RunState, backend: Backend) -> Iterator[None]:
    """Turn what is no reason to end a run into the failure of a batch's slices."""
    try:
        with run.backends.judging(backend.spec.matrix):
            yield
    except ShapeError as exc:
        raise SliceFailed("matrix", str(exc)) from exc
    except (MemoryError, PluginError) as exc:
        raise backend_failure(exc) from exc
