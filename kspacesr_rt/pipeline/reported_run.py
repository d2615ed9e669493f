"""A run to its end, whatever that is: its report tells how far it came, and is written."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import Scan
from kspacesr_rt.errors import KspaceSRError, OutputError, StaleOutputError
from kspacesr_rt.pipeline.executors import Executor
from kspacesr_rt.pipeline.report import RunReport, progress_text
from kspacesr_rt.pipeline.run_state import RunState, StopRequestedError
from kspacesr_rt.pipeline.stale_outputs import StaleOutputs
from kspacesr_rt.system.interruption import TerminatedError
from kspacesr_rt.system.progress_messages import report_step

ENDED_BY_SIGNAL: Final = 128
"""Exit codes beyond this are numbers of signals, as shells have it."""


@contextmanager
def noting_how_far(run: RunState) -> Iterator[None]:
    """Give a signal that ends a run a note of how far the run came: nobody gets its report."""
    try:
        yield
    except (KeyboardInterrupt, TerminatedError) as exc:
        exc.add_note(progress_text(run.records.values(), run.total - run.done))
        raise


def reported(
    executor: Executor,
    run: RunState,
    scan: Scan,
    stale: StaleOutputs,
    report_file: Path,
    started: float,
    signalled: Callable[[], int],
) -> RunReport:
    """Process every series and write the report, whatever ends the run."""

    def settle(*, finished: bool) -> None:
        records = [*run.records.values(), *map(run.left_out, scan.left_out)]
        maps = {one.trust_map for own in run.series_records.values() for one in own}
        run.stale = stale.settle_stale(
            records, run.options.stale, finished=finished, maps=maps - {""}
        )

    def report(*, ended_with: int | None = None) -> RunReport:
        wall_s = time.perf_counter() - started
        workers, computing = executor.side_by_side(run)
        return run.report(scan, wall_s, workers=workers, computing=computing, ended_with=ended_with)

    if run.options.stale == "refuse":
        try:
            stale.refuse()
        except StaleOutputError as exc:
            run.stale = stale.refused()
            exc.report = report(ended_with=exc.exit_code)
            exc.report.save(report_file)
            raise
    try:
        report_step(f"opening {run.backends.choice.backend}, measuring k-space")
        executor.process(run, scan)
        settle(finished=True)
    except StopRequestedError:
        number = signalled()
        settle(finished=False)
        interrupted = report(ended_with=ENDED_BY_SIGNAL + number)
        interrupted.save(report_file)
        return interrupted
    except BaseException as exc:
        # The disk is full, say: what was done until then is still worth knowing.
        with suppress(OutputError):
            settle(finished=False)
            report(ended_with=_exit_code_of(exc)).save(report_file)
        raise
    finished = report()
    finished.save(report_file)
    return finished


def _exit_code_of(exc: BaseException) -> int:
    """Return the exit code of a process that an exception ends."""
    interrupted = ENDED_BY_SIGNAL + signal.SIGINT
    unknown = interrupted if isinstance(exc, KeyboardInterrupt) else KspaceSRError.exit_code
    return int(getattr(exc, "exit_code", unknown))
