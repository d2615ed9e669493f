"""What the way from DICOM to DICOM costs beside a backend: processor time a slice, by stage.

`infer` runs on the null backend (`kspacesr_rt.bench.run.null_backend`) or another one, in turns
with what anybody would compare it to: a loop that reads with pydicom, repeats the pixels, writes
with pydicom and checks nothing; dcm2niix, where it is installed, which reads the same files and
writes volumes; and a copy of the same bytes in memory. Medians of the rounds are given, and the
ratio of the medians. The page cache is warm, and what is loaded once (Python, libraries) is not
counted.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom import dcmread
from pydicom.uid import generate_uid

from kspacesr_rt.bench.run.archive import make_archive
from kspacesr_rt.bench.run.environment import environment
from kspacesr_rt.bench.run.null_backend import NULL, null_backend
from kspacesr_rt.errors import RegressionError
from kspacesr_rt.pipeline import InferOptions, Session, infer
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.pipeline.slice_processes.process import why_no_processes
from kspacesr_rt.system.cpu import available_cores

SCHEMA: Final = 1
UPSCALE: Final = 2
PAPER_WORKERS: Final = (1, 2, 4, 8, 16, 32)
"""Cores for which the curve is continued by the measured serial share."""
SLICES_MIN: Final = 20
"""Of an archive of large slices: one series."""
PLAIN_LOOP, COPY, DCM2NIIX = "plain loop", "copy in memory", "dcm2niix"


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineOptions:
    """What is measured."""

    backend: str = NULL
    """What `infer` runs on: `NULL`, a baseline, or a backend that takes the default model."""
    slices: int = 200
    """Of 256 x 256; fewer of larger ones, as many bytes."""
    matrices: tuple[int, ...] = (256,)
    """LR rows and columns."""
    rounds: int = 5
    """Turns whose medians are given, after one that is not counted."""
    batch: int = 16
    """Slices a call of the backend."""
    processes: tuple[int, ...] = (0, 1, 2)
    """Processes that read and write, each number in turns with the others; none where none can be
    started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a slice costs in one way, medians over the rounds."""

    cpu_ms: float
    """Processor time of the whole process, or of the process that was started."""
    wall_ms: float
    """Time that passed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixCost:
    """What the slices of one matrix cost."""

    matrix: int
    """LR rows and columns."""
    slices: int
    infer: Cost
    backend_ms: float
    """Of it, processor time within the backend."""
    stages: dict[str, float] = field(default_factory=dict)
    """Processor time by stage; ``other`` is the rest: the scheduler, journal and report."""
    beside: dict[str, Cost] = field(default_factory=dict)
    """What ran in turns with it, by name."""

    @property
    def beyond_ms(self) -> float:
        """Processor time outside the backend."""
        return self.infer.cpu_ms - self.backend_ms

    @property
    def over_loop(self) -> float:
        """What is outside the backend, over the plain loop; both processor time."""
        return self.beyond_ms / self.beside[PLAIN_LOOP].cpu_ms

    @property
    def speed_over_loop(self) -> float:
        """Slices a second, over those of the plain loop in its one process."""
        return self.beside[PLAIN_LOOP].wall_ms / self.infer.wall_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessCost:
    """What a slice costs with a number of processes beside, medians over the rounds."""

    infer: Cost
    """Processor time of the process that computes, alone."""
    beside_ms: float
    """Processor time of those that read and write; what they load once is not counted."""

    @property
    def on_paper(self) -> dict[int, float]:
        """Slices a second by cores, if these are all busy until the one process is.

        It does its part in one thread at a time at worst, so it is the limit.
        """
        own, both = self.infer.cpu_ms, self.infer.cpu_ms + self.beside_ms
        return {n: 1e3 * min(n / both, 1.0 / own) for n in PAPER_WORKERS}


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCost:
    """All that was measured."""

    backend: str
    matrices: tuple[MatrixCost, ...]
    slices_per_s: dict[int, float]
    """Of the first matrix, by the number of cores that the process was given."""
    processes: dict[int, ProcessCost] = field(default_factory=dict)
    """Of the first matrix, by the number of processes that read and write."""

    @property
    def serial_share(self) -> float | None:
        """Share of the time that further cores do not shorten (Amdahl); None with one core."""
        most = max(self.slices_per_s)
        if most == 1:
            return None
        speedup = self.slices_per_s[most] / self.slices_per_s[1]
        share = (most / speedup - 1.0) / (most - 1.0)
        return min(1.0, max(0.0, share))

    @property
    def on_paper(self) -> dict[int, float]:
        """Slices a second on other numbers of cores, if the serial share stays what it is."""
        share = self.serial_share
        if share is None:
            return {}
        one = self.slices_per_s[1]
        return {n: one / (share + (1.0 - share) / n) for n in PAPER_WORKERS}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON, with what they depend on."""
        return {
            "schema": SCHEMA,
            "environment": environment(),
            "backend": self.backend,
            "matrices": [
                {
                    **asdict(one),
                    "over_loop": one.over_loop,
                    "speed_over_loop": one.speed_over_loop,
                }
                for one in self.matrices
            ],
            "slices_per_s": {str(n): rate for n, rate in self.slices_per_s.items()},
            "serial_share": self.serial_share,
            "slices_per_s_on_paper": {str(n): rate for n, rate in self.on_paper.items()},
            "processes": {
                str(n): {**asdict(one), "slices_per_s_on_paper": one.on_paper if n else {}}
                for n, one in self.processes.items()
            },
        }

    def as_text(self) -> str:
        """Return a short table for people."""
        lines = [f"CPU ms a slice, x{UPSCALE}, backend {self.backend}"]
        for one in self.matrices:
            beside = ", ".join(f"{name} {cost.cpu_ms:.2f}" for name, cost in one.beside.items())
            lines += [
                f"{one.matrix} x {one.matrix}: {one.infer.cpu_ms:.2f}, of it in the backend "
                f"{one.backend_ms:.2f}; {beside}",
                f"  outside the backend over plain loop {one.over_loop:.2f}, "
                f"slices/s over plain loop {one.speed_over_loop:.2f}",
                "  " + ", ".join(f"{name} {ms:.2f}" for name, ms in one.stages.items()),
            ]
        rates = ", ".join(f"{n}: {rate:.0f}" for n, rate in self.slices_per_s.items())
        lines.append(f"slices/s by cores: {rates}")
        if self.serial_share is not None:
            paper = ", ".join(f"{n}: {rate:.0f}" for n, rate in self.on_paper.items())
            lines.append(f"serial share {self.serial_share:.2f}; on paper {paper}")
        for n, cost in self.processes.items():
            paper = ", ".join(f"{cores}: {rate:.0f}" for cores, rate in cost.on_paper.items())
            lines.append(
                f"{n} processes beside: CPU {cost.infer.cpu_ms:.2f} + {cost.beside_ms:.2f}, "
                f"{1e3 / cost.infer.wall_ms:.0f} slices/s" + (f"; on paper {paper}" if n else "")
            )
        return "\n".join(lines)


def measure_pipeline(
    options: PipelineOptions, on_step: Callable[[str], None] = lambda step: None
) -> PipelineCost:
    """Measure what the pipeline costs.

    Parameters
    ----------
    options
        What of it.
    on_step
        Called with what comes next, in a few words.

    Raises
    ------
    RegressionError
        If a slice was not written.
    KspaceSRError
        As `infer` does.
    """
    with tempfile.TemporaryDirectory() as folder, _offered(options.backend):
        place = Path(folder)
        costs = []
        for matrix in options.matrices:
            on_step(f"{matrix} x {matrix}")
            costs.append(_Turns(place / str(matrix), matrix, options).measure())
        on_step("cores")
        first = place / str(options.matrices[0])
        rates = _rates_by_cores(first, options)
        on_step("processes")
        beside = _by_processes(first, options) if why_no_processes() is None else {}
    return PipelineCost(
        backend=options.backend, matrices=tuple(costs), slices_per_s=rates, processes=beside
    )


class _Turns:
    """Ways through the slices of one matrix, one after another, several times."""

    def __init__(self, place: Path, matrix: int, options: PipelineOptions) -> None:
        self._place, self._matrix, self._options = place, matrix, options
        self._archive = place / "in"
        self._n = max(SLICES_MIN, options.slices * 256**2 // max(matrix, 256) ** 2)
        make_archive(self._archive, self._n, matrix=(matrix, matrix))
        self._files = sorted(self._archive.rglob("*.dcm"))
        self._stages: dict[str, list[float]] = {}

    def measure(self) -> MatrixCost:
        ways: dict[str, Callable[[Path], None]] = {"infer": self._infer}
        ways |= {PLAIN_LOOP: self._plain_loop, COPY: self._copy}
        if shutil.which("dcm2niix"):
            ways[DCM2NIIX] = self._dcm2niix
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(self._options.rounds + 1):
            for name, way in ways.items():
                with _new_folder(self._place / "out") as output:
                    taken[name].append(_timed(way, output))
        costs = {name: self._median(rounds[1:]) for name, rounds in taken.items()}
        stages = {
            name: statistics.median(rounds[1:]) * 1e3 / self._n
            for name, rounds in self._stages.items()
        }
        own = costs.pop("infer")
        return MatrixCost(
            matrix=self._matrix,
            slices=self._n,
            infer=own,
            backend_ms=stages["infer"],
            stages=stages | {"other": own.cpu_ms - sum(stages.values())},
            beside=costs,
        )

    def _median(self, rounds: Sequence[tuple[float, float]]) -> Cost:
        cpu, wall = (statistics.median(one) * 1e3 / self._n for one in zip(*rounds, strict=True))
        return Cost(cpu_ms=cpu, wall_ms=wall)

    def _infer(self, output: Path) -> None:
        for name, cpu_s in run_infer(self._archive, output, self._options, self._n).items():
            self._stages.setdefault(name, []).append(cpu_s)

    def _plain_loop(self, output: Path) -> None:
        """Repeat pixels as a script would: nothing is checked, and the geometry stays wrong."""
        for number, path in enumerate(self._files):
            dataset = dcmread(path)
            sr = dataset.pixel_array.repeat(UPSCALE, axis=0).repeat(UPSCALE, axis=1)
            dataset.PixelData = sr.tobytes()
            dataset.Rows, dataset.Columns = sr.shape
            dataset.SOPInstanceUID = generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(output / f"{number}.dcm")

    def _copy(self, output: Path) -> None:
        """Copy in memory as many bytes as are read and written."""
        for path in self._files:
            read = np.frombuffer(path.read_bytes(), np.uint8).copy()
            np.tile(read, UPSCALE**2)

    def _dcm2niix(self, output: Path) -> None:
        command = ["dcm2niix", "-b", "n", "-z", "n", "-o", str(output), str(self._archive)]
        subprocess.run(command, check=True, capture_output=True)


def run_infer(
    archive: Path, output: Path, options: PipelineOptions, n_slices: int
) -> dict[str, float]:
    """Run `infer` once; return seconds of processor time by stage.

    Raises
    ------
    RegressionError
        If a slice was not written.
    """
    report = infer(archive, output, _infer_options(options))
    _require_all(report, n_slices)
    return {stage.name: stage.cpu_s for stage in report.stages}


def _infer_options(options: PipelineOptions, processes: int = 0) -> InferOptions:
    return InferOptions(
        backend=options.backend, upscale=UPSCALE, batch=options.batch, processes=processes
    )


def _require_all(report: RunReport, n_slices: int) -> None:
    if report.count("written") != n_slices:
        raise RegressionError(f"{report.count('written')} of {n_slices} slices were written")


def _rates_by_cores(place: Path, options: PipelineOptions) -> dict[int, float]:
    """Return slices a second for one core, two, ..., all that this process may use."""
    archive = place / "in"
    n_slices = sum(1 for _ in archive.rglob("*.dcm"))
    numbers = range(1, available_cores() + 1)
    walls: dict[int, list[float]] = {n: [] for n in numbers}
    for _ in range(options.rounds + 1):
        for n in numbers:
            with _cores(n), _new_folder(place / "out") as output:
                started = time.perf_counter()
                run_infer(archive, output, options, n_slices)
                walls[n].append(time.perf_counter() - started)
    return {n: n_slices / statistics.median(rounds[1:]) for n, rounds in walls.items()}


def _by_processes(place: Path, options: PipelineOptions) -> dict[int, ProcessCost]:
    """Return what a slice costs with each number of processes, all of which stay open."""
    archive = place / "in"
    n_slices = sum(1 for _ in archive.rglob("*.dcm"))
    taken: dict[int, list[tuple[float, float, float]]] = {n: [] for n in options.processes}
    with ExitStack() as opened:
        sessions = {
            n: opened.enter_context(Session(_infer_options(options, n))) for n in options.processes
        }
        for _ in range(options.rounds + 1):
            for n, session in sessions.items():
                with _new_folder(place / "out") as output:
                    started, beside = time.perf_counter(), cpu_s_of(session.process_ids)
                    own = time.process_time()
                    _require_all(session.run(archive, output), n_slices)
                    own, beside = time.process_time() - own, cpu_s_of(session.process_ids) - beside
                    taken[n].append((own, time.perf_counter() - started, beside))
    costs = {}
    for n, rounds in taken.items():
        own, wall, beside = (
            statistics.median(one) * 1e3 / n_slices for one in zip(*rounds[1:], strict=True)
        )
        costs[n] = ProcessCost(infer=Cost(cpu_ms=own, wall_ms=wall), beside_ms=beside)
    return costs


def cpu_s_of(pids: Iterable[int]) -> float:
    """Return seconds of processor time that processes have taken."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def _timed(way: Callable[[Path], None], output: Path) -> tuple[float, float]:
    """Return seconds of processor time, of this process and of those it started, and of wall."""
    started, cpu = time.perf_counter(), _cpu_s()
    way(output)
    return _cpu_s() - cpu, time.perf_counter() - started


def _cpu_s() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


@contextmanager
def _offered(backend: str) -> Iterator[None]:
    with null_backend() if backend == NULL else nullcontext():
        yield


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _cores(n: int) -> Iterator[None]:
    """Keep this thread, and those that it starts, on `n` of the cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
