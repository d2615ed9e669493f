"""A batch of decoded slices through the backend."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from kspacesr_rt.dicom import DecodedSlice
from kspacesr_rt.errors import ShapeError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.state import RunState


def compute(run: RunState, matrix: Matrix, slices: Sequence[DecodedSlice]) -> FloatArray:
    """Super-resolve slices of one matrix, shape ``(n, s*y, s*x)``.

    Raises
    ------
    SliceFailed
        ``matrix``: the model cannot be bound to it.
    """
    batch = np.stack([decoded.values for decoded in slices])[:, None]
    clock = run.clock
    try:
        with clock.busy("bind"):
            backend = run.backends.get(matrix)
        moved = getattr(backend, "transfer_s", 0.0)
        started = time.perf_counter()
        try:
            return backend.run(batch)[:, 0]
        finally:
            elapsed = time.perf_counter() - started
            transferred = min(getattr(backend, "transfer_s", 0.0) - moved, elapsed)
            clock.add("transfer", transferred)
            clock.add("infer", elapsed - transferred)
    except ShapeError as exc:
        raise SliceFailed("matrix", str(exc)) from exc
