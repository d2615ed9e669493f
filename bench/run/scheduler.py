"""Runs the rows of a benchmark in turns, each in a process of its own.

What it measures: time per call after warm-up, in rounds that visit every row once, so that a
machine that slows down slows all rows of a round; the ratio to PyTorch eager is taken within each
round. Rounds go on until every ratio has settled, or the budget is used up.
What it leaves out: DICOM, and everything else around the network; the pipeline's suite has that.
How to read it: ratios. Milliseconds belong to one machine and one hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from kspacesr_rt.bench.run.layer_shares import PROFILED
from kspacesr_rt.bench.run.plans import GPU_REFERENCE, RowPlan
from kspacesr_rt.bench.run.roofline import GroupWork
from kspacesr_rt.bench.run.rows import median_uncertainty

VISIT_S = 0.25
"""A visit times calls for so long, or one call."""
WARM_UP_VISITS = 2
"""Visits of each row that are not counted: allocation, compilation, clocks."""
SETTLED = 0.03
"""A ratio has settled when half the 95 % interval of its median is at most this share of it."""
MIN_ROUNDS, MAX_ROUNDS = 7, 40
ANSWER_S = 600.0
"""A row that says nothing for so long is given up."""
WORKER = ("-m", "kspacesr_rt.bench.run.worker")
"""What a row's process runs; tests put a worker with a planted fault here."""


class RowFailed(Exception):  # noqa: N818 - an outcome of a row
    """A row's process could not do what it was told; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The files of one row."""

    model: Path
    """Model or checkpoint."""
    slices: Path
    """LR slices ``(k, y, x)``, float32, as ``.npy``."""


class RowProcess:
    """The worker of one row; a context manager that ends it."""

    def __init__(self, plan: RowPlan, inputs: Inputs) -> None:
        """Start the process."""
        self.plan = plan
        environment = dict(os.environ)
        if plan.threads:
            # Libraries read these when they load; a session's own option comes too late for some.
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                environment[name] = str(plan.threads)
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [
                *(sys.executable, *WORKER),
                *(json.dumps(plan.to_dict()), str(inputs.model), str(inputs.slices)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give one command and wait for its answer.

        Raises
        ------
        RowFailed
            If the contestant failed, the process ended, or nothing came in `ANSWER_S`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with _deadline(self._process, ANSWER_S):
            try:
                self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            code = self._process.wait()
            raise RowFailed(f"its process ended with {code} during '{do}'")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RowFailed(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    from threading import Timer

    timer = Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(slots=True)
class Measured:
    """What the rounds found out about one row."""

    plan: RowPlan
    times_s: list[list[float]] = field(default_factory=list)
    """Seconds of every call, a list a round."""
    joules: list[float] = field(default_factory=list)
    """Package energy of each round, where the machine tells."""
    load_s: float | None = None
    first_result_s: float | None = None
    peak_rss_bytes: int | None = None
    copies_s: float | None = None
    device_s: float | None = None
    device_bytes: int | None = None
    engine_bytes: int | None = None
    energy_source: str = ""
    work: list[GroupWork] = field(default_factory=list)
    """What groups of layers did in a profiled run, after the rounds; empty if that failed."""
    result: Path | None = None
    """SR slices, ``(k, y, x)``."""
    failed: str = ""
    """Why it has nothing more."""

    def median_s(self, round_: int) -> float:
        """Return the median call of one round."""
        return float(np.median(self.times_s[round_]))


def measure_rows(
    plans: Sequence[RowPlan],
    inputs: Callable[[RowPlan], Inputs],
    folder: Path,
    *,
    budget_s: float,
    enough: Callable[[Sequence[Measured]], bool] | None = None,
    own_time: bool = False,
    profile: bool = False,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Measured]:
    """Open, check and time every row.

    Parameters
    ----------
    plans
        Rows, in the order of the table.
    inputs
        Makes or finds the files of a row; it may raise `RowFailed`.
    folder
        Where results go.
    budget_s
        Rounds stop after so many seconds of timing, settled or not; `MIN_ROUNDS` are always done.
    enough
        Asked after each round, from `MIN_ROUNDS` on, whether to stop; None: once every ratio has
        settled.
    own_time
        Time calls without what they waited for a core; see `kspacesr_rt.system.cpu_wait`.
    profile
        Also profile the rows whose runtime can tell, each in its process, after the rounds.
    on_progress
        Called with what is done, of how much, and a word.
    """
    found = [Measured(plan=plan) for plan in plans]
    with contextlib.ExitStack() as stack:
        opened: list[tuple[Measured, RowProcess]] = []
        for index, one in enumerate(found):
            on_progress(index, len(found), one.plan.label)
            result = folder / f"result-{index}.npy"
            try:
                process = stack.enter_context(RowProcess(one.plan, inputs(one.plan)))
                one.load_s = process.ask("open")["load_s"]
                one.first_result_s = time.perf_counter() - process.started
                process.ask("results", to=str(result))
            except RowFailed as exc:
                one.failed = str(exc)
                continue
            one.result = result
            opened.append((one, process))
        _rounds(opened, budget_s, enough or _all_settled, on_progress, own_time)
        for done, (one, process) in enumerate(opened):
            on_progress(done, len(opened), "memory and layers")
            if not one.failed:
                with contextlib.suppress(RowFailed):
                    _inspect(one, process, profile)
    return found


def _inspect(one: Measured, process: RowProcess, profile: bool) -> None:
    """Ask what only costs time: last, since a profile takes memory of its own."""
    memory = process.ask("memory")
    one.peak_rss_bytes = memory["peak_rss_bytes"]
    one.device_bytes, one.engine_bytes = memory["device_bytes"], memory["engine_bytes"]
    one.copies_s, one.device_s = memory["copies_s"], memory["device_s"]
    one.energy_source = memory["energy_source"]
    if profile and one.plan.lowering and one.plan.contestant in PROFILED:
        one.work = [GroupWork(**group) for group in process.ask("profile")["groups"]]


def _rounds(
    opened: list[tuple[Measured, RowProcess]],
    budget_s: float,
    enough: Callable[[Sequence[Measured]], bool],
    on_progress: Callable[[int, int, str], None],
    own_time: bool,
) -> None:
    ends = time.perf_counter() + budget_s
    for _ in range(WARM_UP_VISITS):
        for one, process in opened:
            _visit(one, process, own_time, counted=False)
    for round_ in range(MAX_ROUNDS):
        on_progress(round_, MAX_ROUNDS, "rounds")
        for one, process in opened:
            _visit(one, process, own_time, counted=True)
        if round_ + 1 < MIN_ROUNDS:
            continue
        if time.perf_counter() > ends or enough([one for one, _ in opened]):
            return


def _visit(one: Measured, process: RowProcess, own_time: bool, *, counted: bool) -> None:
    if one.failed:
        return
    try:
        answer = process.ask("time", seconds=VISIT_S, own=own_time)
    except RowFailed as exc:
        one.failed = str(exc)
        return
    if counted:
        one.times_s.append(answer["times_s"])
        if answer["energy_j"] is not None:
            one.joules.append(answer["energy_j"] / len(answer["times_s"]))


def _all_settled(found: Sequence[Measured]) -> bool:
    return all(
        median_uncertainty(ratio_of(one, reference)[1], len(one.times_s)) <= SETTLED
        for one in found
        if not one.failed and (reference := speed_reference_of(one, found)) is not None
    )


def reference_of(one: Measured, found: Sequence[Measured]) -> Measured | None:
    """Return the row that another's ratio is taken to; None if it failed or there is none."""
    for other in found:
        same = (other.plan.batch, other.plan.threads) == (one.plan.batch, one.plan.threads)
        if (
            other.plan.is_reference
            and same
            and not other.failed
            and other.plan.model == one.plan.model
        ):
            return other
    return None


def speed_reference_of(one: Measured, found: Sequence[Measured]) -> Measured | None:
    """Return the row whose speed another's ratio is taken to: PyTorch eager on the same device.

    None if that failed or is not there; the CPU's PyTorch never stands in for the GPU's.
    """
    if not one.plan.on_gpu:
        return reference_of(one, found)
    for other in found:
        same = (other.plan.model, other.plan.batch) == (one.plan.model, one.plan.batch)
        if other.plan.contestant == GPU_REFERENCE and same and not other.failed:
            return other
    return None


def ratios_of(one: Measured, reference: Measured) -> list[float]:
    """Return how many times faster a row is than another, in each round: ratio of medians."""
    rounds = min(len(one.times_s), len(reference.times_s))
    return [reference.median_s(i) / one.median_s(i) for i in range(rounds)]


def ratio_of(one: Measured, reference: Measured) -> tuple[float, float]:
    """Return how many times faster a row is than its reference, and how much that moved.

    Returns
    -------
        Median over rounds of the ratio of medians within a round; half the interquartile range
        of those ratios, relative to their median.
    """
    ratios = ratios_of(one, reference)
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return float(middle), float((high - low) / (2 * middle))
