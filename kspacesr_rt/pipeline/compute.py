"""Batches of decoded slices through the backend, as many side by side as it computes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kspacesr_rt.dicom import DecodedSlice
from kspacesr_rt.dicom.failures import backend_failure
from kspacesr_rt.errors import ParityError, PluginError, ShapeError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.quality.result_checks import HOMOGENEITY_FACTOR, require_homogeneous
from kspacesr_rt.runtime.backends import Backend


class BatchRunner:
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

    def start(
        self, matrix: Matrix, slices: Sequence[DecodedSlice], *, zero_filled: bool = False
    ) -> Future[FloatArray]:
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
            The result, shape ``(n, s*y, s*x)``, when it is there; or `SliceFailed`, ``matrix``: the
            model cannot be bound to it, or ``tier``: it does not keep the run's tier there. At
            most `side_by_side` may be waited for when another is started.
        """
        future: Future[FloatArray] = Future()
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
            future.set_result(self._computed(backend, batch))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def _computed(self, backend: Backend, batch: FloatArray) -> FloatArray:
        timer, moved = self._run.timer, backend.transfer_s
        started, started_cpu = time.perf_counter(), time.thread_time()
        try:
            matrix = backend.spec.matrix
            with self._run.backends.judging(matrix), timer.under_way("infer"):
                results = backend.run(batch)[:, 0]
                if backend.spec.homogeneous:  # declared of a network that is not ours
                    scaled = backend.run(batch * np.float32(HOMOGENEITY_FACTOR))[:, 0]
                    require_homogeneous(results, scaled)
                return results
        except ShapeError as exc:
            raise SliceFailed("matrix", str(exc)) from exc
        except (MemoryError, PluginError) as exc:
            raise backend_failure(exc) from exc
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
