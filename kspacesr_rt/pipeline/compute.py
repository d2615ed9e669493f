"""Batches of decoded slices through the backend, as many side by side as it computes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kspacesr_rt.backends import Backend
from kspacesr_rt.dicom import DecodedSlice
from kspacesr_rt.dicom.failures import failure_of
from kspacesr_rt.errors import ShapeError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.state import RunState


class Computing:
    """Computes batches; a context manager, since it may have threads."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self.side_by_side = run.backends.streams
        """Batches that are computed at a time."""
        # What computes one batch at a time does so in the caller's thread: contexts and graphs of
        # a GPU belong to the thread that made them.
        self._pool = (
            ThreadPoolExecutor(self.side_by_side, thread_name_prefix="kspacesr-rt-infer")
            if self.side_by_side > 1
            else None
        )

    def start(self, matrix: Matrix, slices: Sequence[DecodedSlice]) -> Future[FloatArray]:
        """Super-resolve slices of one LR matrix; the caller waits for no more than a binding.

        Returns
        -------
            The result, shape ``(n, s*y, s*x)``, when it is there; or `SliceFailed`, ``matrix``: the
            model cannot be bound to it. At most `side_by_side` may be waited for when another is
            started.
        """
        future: Future[FloatArray] = Future()
        try:
            with self._run.clock.busy("bind"):
                backend = self._run.backends.get(matrix)
            batch = np.stack([decoded.values for decoded in slices])[:, None]
        except ShapeError as exc:
            future.set_exception(SliceFailed("matrix", str(exc)))
            return future
        except MemoryError as exc:
            future.set_exception(failure_of(exc))
            return future
        if self._pool is not None:
            return self._pool.submit(self._computed, backend, batch)
        try:
            future.set_result(self._computed(backend, batch))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def _computed(self, backend: Backend, batch: FloatArray) -> FloatArray:
        clock, moved = self._run.clock, getattr(backend, "transfer_s", 0.0)
        started = time.perf_counter()
        try:
            with clock.under_way("infer"):
                return backend.run(batch)[:, 0]
        except ShapeError as exc:
            raise SliceFailed("matrix", str(exc)) from exc
        except MemoryError as exc:
            raise failure_of(exc) from exc
        finally:
            elapsed = time.perf_counter() - started
            transferred = min(getattr(backend, "transfer_s", 0.0) - moved, elapsed)
            clock.add("transfer", transferred)
            clock.add("infer", elapsed - transferred)

    def __enter__(self) -> Computing:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
