"""Where the time of a run goes: seconds that each stage was busy, and what held the rest up."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from kspacesr_rt.pipeline.report import StageTiming
from kspacesr_rt.runtime.backends import BackendInfo
from kspacesr_rt.system.cpu import available_cores

ALONE: Final = ("scan",)
"""Runs before anything else."""
COMPUTING: Final = ("bind", "transfer", "infer")
"""Run beside the workers: a batch at a time, or as many as the backend computes side by side."""
WORKING: Final = ("survey", "read", "decode", "check", "encode", "write", "verify")
"""Run in the workers, several at a time."""
SYNCING: Final = ("sync",)
"""Runs beside the workers, in one thread; or in the workers, each by itself."""
STAGES: Final = (*ALONE, *WORKING[:3], *COMPUTING, *WORKING[3:], *SYNCING)
"""In the order a slice meets them."""


class StageTimer:
    """Adds up, over all threads, the seconds that each stage of a run was busy."""

    def __init__(self) -> None:
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._under_way: dict[object, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self.progress_at = time.monotonic()
        """When something last began or ended."""

    def busy(self, stage: str) -> AbstractContextManager[None]:
        """Count the time of the block as spent in a stage."""
        return _Busy(self, stage)

    def under_way(self, stage: str) -> AbstractContextManager[None]:
        """Note that the block is in a stage; its time is counted elsewhere."""
        return _UnderWay(self, stage)

    def begin(self, block: object, stage: str) -> None:
        """Note that a block is in a stage."""
        self.progress_at = now = time.monotonic()
        with self._lock:
            self._under_way[block] = (stage, now)

    def end(self, block: object) -> None:
        """Note that a block is over."""
        self.progress_at = time.monotonic()
        with self._lock:
            del self._under_way[block]

    def note_progress(self) -> None:
        """Note that something has happened."""
        self.progress_at = time.monotonic()

    def active_stages(self) -> dict[str, tuple[int, float]]:
        """Return, by stage, how many blocks are in it, and for how many seconds the oldest is."""
        now = time.monotonic()
        with self._lock:
            blocks = list(self._under_way.values())
        by_stage: dict[str, list[float]] = {}
        for stage, since in blocks:
            by_stage.setdefault(stage, []).append(now - since)
        return {
            stage: (len(by_stage[stage]), max(by_stage[stage]))
            for stage in STAGES
            if stage in by_stage
        }

    def add(self, stage: str, seconds: float, *, cpu_s: float = 0.0) -> None:
        """Count seconds that were measured elsewhere, and the processor's share of them."""
        with self._lock:
            self._busy[stage] += seconds
            self._cpu[stage] += cpu_s

    def merge(self, busy: Mapping[str, float], cpu: Mapping[str, float]) -> None:
        """Add the seconds of another clock."""
        for stage, seconds in busy.items():
            self.add(stage, seconds, cpu_s=cpu.get(stage, 0.0))

    def take(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return busy and processor seconds by stage, and begin again from nothing."""
        with self._lock:
            busy, cpu = dict(self._busy), dict(self._cpu)
            self._busy.clear()
            self._cpu.clear()
        return busy, cpu

    @property
    def seconds(self) -> dict[str, float]:
        """Busy seconds by stage, those that were met."""
        with self._lock:
            return {stage: self._busy[stage] for stage in STAGES if stage in self._busy}

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """Seconds of processor time by stage, those that were met."""
        with self._lock:
            return {stage: self._cpu[stage] for stage in STAGES if stage in self._busy}

    def timings(
        self, wall_s: float, *, workers: int, computing: int = 1, syncing: int = 1
    ) -> list[StageTiming]:
        """Return every stage with its share of the time that it could have been busy.

        Parameters
        ----------
        wall_s
            Seconds that the run took.
        workers
            Threads of the stages in `WORKING`.
        computing
            Batches that were computed side by side.
        syncing
            Threads that brought outputs to the disk.
        """
        counts = dict.fromkeys(ALONE, 1) | dict.fromkeys(COMPUTING, computing)
        counts |= dict.fromkeys(WORKING, workers) | dict.fromkeys(SYNCING, syncing)
        busy, cpu = self.seconds, self.cpu_seconds
        return [
            StageTiming(
                name=stage,
                busy_s=round(busy.get(stage, 0.0), 6),
                cpu_s=round(cpu.get(stage, 0.0), 6),
                workers=counts[stage],
                utilisation=round(busy.get(stage, 0.0) / (wall_s * counts[stage] or 1.0), 6),
            )
            for stage in STAGES
        ]


class _UnderWay:
    """A block in a stage."""

    __slots__ = ("_stage", "_timer")

    def __init__(self, timer: StageTimer, stage: str) -> None:
        self._timer, self._stage = timer, stage

    def __enter__(self) -> None:
        self._timer.begin(self, self._stage)

    def __exit__(self, *exc: object) -> None:
        self._timer.end(self)


class _Busy(_UnderWay):
    """A block in a stage, whose time counts."""

    __slots__ = ("_started", "_started_cpu")

    def __enter__(self) -> None:
        self._started, self._started_cpu = time.perf_counter(), time.thread_time()
        super().__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        cpu_s = time.thread_time() - self._started_cpu
        self._timer.add(self._stage, time.perf_counter() - self._started, cpu_s=cpu_s)


def bottleneck(timings: list[StageTiming]) -> str:
    """Return the busiest stage of the busiest group: what to make faster first; "" if all idle."""
    groups = (ALONE, COMPUTING, WORKING, SYNCING)
    by_name = {one.name: one for one in timings}
    load = [sum(by_name[stage].utilisation for stage in group) for group in groups]
    if max(load) == 0.0:
        return ""
    busiest = groups[load.index(max(load))]
    return max(busiest, key=lambda stage: by_name[stage].busy_s)


def auto_workers(*, on_gpu: bool) -> int:
    """Return how many threads read and write beside a backend.

    pydicom is Python and runs in one thread at a time; what overlaps are files, codecs, transforms
    and the backend. A GPU leaves the cores free for more codecs; a CPU backend wants them itself.
    """
    return min(8 if on_gpu else 4, max(2, available_cores()))


def auto_streams(backend: BackendInfo, threads: int) -> int:
    """Return how many batches a backend computes side by side.

    Two, where it can and has two cores: one goes on while a worker has a core that the other
    waits for. Each takes half of the threads, so more would only make the first slice later.

    Parameters
    ----------
    backend
        Its row in the registry.
    threads
        What it was told to take; 0: every core.
    """
    return 2 if backend.streams and (threads or available_cores()) > 1 else 1
