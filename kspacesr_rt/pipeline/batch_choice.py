"""How many slices a backend is given at once, where that is left to the run: ``batch="auto"``.

A GPU has a cost a call, which larger batches share out, until it is busy. How large that is depends
on model, matrix, card and runtime, so it is measured with the first slice that comes. A CPU has
streams for that: in batches of 2 to 8, x2-fast takes 0.99 to 1.00 of the processor time of slices
one by one on ``ort-cpu``, and 0.97 to 0.99 on ``openvino`` (256 x 256, two cores, medians of five).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median
from typing import Any, Final

import numpy as np

from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.batch_size import AUTO, BatchSize
from kspacesr_rt.runtime.backends import Backend
from kspacesr_rt.runtime.gpu_memory import halved_note
from kspacesr_rt.system.gpu_state import GpuUnknown, open_gpu

LARGEST: Final = 64
"""Slices that are tried at most."""
UNSEEN_LARGEST: Final = 8
"""The same where the driver does not say how much of the GPU's memory is used."""
LATENCY_S: Final = 0.05
"""Seconds that a batch may compute: more would keep Ctrl-C, and the first slice, waiting."""
HOST_BYTES: Final = 256 << 20
"""Of LR and SR slices of one batch, which are in memory several times."""
GPU_SHARE: Final = 0.5
"""Of the GPU's free memory that larger batches may take; others may come to use it, too."""
GAIN: Final = 1.05
"""A larger batch must bring as many slices a second more than a smaller one."""
CALLS: Final = 3
"""Timed calls of each size, after one that is not timed."""
ON_CPU: Final = (
    "on a CPU a slice takes as much processor time alone as in a batch, which takes longer to "
    "fill: streams share out the cores"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchChoice:
    """How many slices are given to the backend at once, and why."""

    asked: BatchSize
    """What the options say."""
    batch: int
    """Slices of the matrix that it was measured with."""
    reason: str
    """In words."""
    matrix: Matrix | None = None
    """LR rows and columns that it was measured with; None: it holds for all."""
    measured: tuple[tuple[int, float], ...] = ()
    """Slices of a batch, and the seconds that it took."""

    def at(self, matrix: Matrix) -> int:
        """Return the slices of a batch: of a larger matrix as many fewer, for the memory's sake."""
        if self.matrix is None:
            return self.batch
        area, measured = matrix[0] * matrix[1], self.matrix[0] * self.matrix[1]
        return max(1, min(self.batch, self.batch * measured // area))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {**asdict(self), "measured": [list(one) for one in self.measured]}


@lru_cache
def settled_batch(asked: BatchSize, *, on_gpu: bool) -> BatchChoice | None:
    """Return a choice that needs no measuring; None: `measured_batch` is to make it."""
    if asked != AUTO:
        return BatchChoice(asked=asked, batch=asked, reason="asked for")
    if not on_gpu:
        return BatchChoice(asked=asked, batch=1, reason=ON_CPU)
    return None


def measured_batch(
    backend: Backend,
    sample: FloatArray,
    *,
    clock: Callable[[], float] = time.perf_counter,
    used_bytes: Callable[[], tuple[int, int] | None] | None = None,
) -> BatchChoice:
    """Measure a backend on a slice, repeated, and choose the batch.

    Parameters
    ----------
    backend
        On a GPU, bound to the slice's matrix.
    sample
        A slice as the backend takes it, shape ``(1, ..., y, x)``.
    clock
        Returns seconds.
    used_bytes
        Returns bytes of the GPU's memory that are used, and all of them; None if that is not known.
        Default: `gpu_bytes`.

    Returns
    -------
        The smallest batch that is, within `GAIN`, as fast as the fastest one that was tried. Sizes
        are doubled until memory, latency or `LARGEST` ends it, or nothing is gained any more.

    Raises
    ------
    KspaceSRError, MemoryError
        If a single slice cannot be computed.
    """
    used_bytes = used_bytes or gpu_bytes
    timed: list[tuple[int, float]] = []
    ended = f"more than {LARGEST} are not tried"
    used = [used_bytes()]
    n = 1
    while n <= LARGEST:
        if why := _beyond_memory(n, sample, backend.spec.upscale, used):
            ended = why
            break
        seconds = _seconds(backend, np.repeat(sample, n, axis=0), clock)
        if halved_note(n) in backend.notes:  # computed in parts: larger ones would be, too
            ended = f"the GPU's memory does not hold {n} at once"
            break
        if seconds > LATENCY_S and timed:
            ended = f"{n} at once compute for more than {1e3 * LATENCY_S:.0f} ms"
            break
        timed.append((n, seconds))
        used.append(used_bytes())
        if _gains_nothing(timed):
            ended = "more at once gain nothing"
            break
        n *= 2
    rates = {size: size / taken for size, taken in timed}
    batch = min(size for size, rate in rates.items() if rate * GAIN >= max(rates.values()))
    rows, columns = sample.shape[-2:]
    return BatchChoice(
        asked="auto",
        batch=batch,
        reason=f"measured with the first slice, {rows} x {columns}; {ended}",
        matrix=(rows, columns),
        measured=tuple(timed),
    )


def gpu_bytes() -> tuple[int, int] | None:
    """Return bytes of the GPU's memory that are used, and all; None if the driver says nothing."""
    with suppress(GpuUnknown):
        gpu = open_gpu()
        used, total = gpu.used_bytes(), gpu.facts()["memory_bytes"]
        if used is not None and total is not None:
            return used, total
    return None


def _seconds(backend: Backend, batch: FloatArray, clock: Callable[[], float]) -> float:
    backend.run(batch)  # allocates, compiles, chooses kernels
    taken = []
    for _ in range(CALLS):
        started = clock()
        backend.run(batch)
        taken.append(clock() - started)
    return median(taken)


def _beyond_memory(
    n: int, sample: FloatArray, upscale: int, used: Sequence[tuple[int, int] | None]
) -> str:
    """Say why a batch of `n` is not tried, from what half of it took; nothing: it is."""
    if n == 1:
        return ""
    if n * sample.nbytes * (1 + upscale**2) > HOST_BYTES:
        return f"{n} at once are more than {HOST_BYTES >> 20} MB"
    before, now = used[0], used[-1]
    if before is None or now is None:
        if n <= UNSEEN_LARGEST:
            return ""
        return f"the GPU's memory is not known, so no more than {UNSEEN_LARGEST} are tried"
    # Half of it took at most this, and the model with it; as much again is what the rest may take.
    grown = max(now[0] - before[0], 0)
    if grown > GPU_SHARE * (now[1] - now[0]):
        return f"{n} at once may take more than half of the GPU's free memory"
    return ""


def _gains_nothing(timed: Sequence[tuple[int, float]]) -> bool:
    """Tell whether two doublings in turn have brought nothing."""
    if len(timed) < 3:
        return False
    first, *others = [n / seconds for n, seconds in timed[-3:]]
    return max(others) < first * GAIN
