"""`infer`: a folder of DICOM in, derived series and a report out; by default in this process."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, Self

from kspacesr_rt.backends import backend_info
from kspacesr_rt.dicom import LeftOut, Scan, prepare_output, scan_folder
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.dicom.limits import limited_to
from kspacesr_rt.errors import (
    InputError,
    KspaceSRError,
    NoMRImageError,
    OutputError,
    StrictRefusalError,
)
from kspacesr_rt.interruption import held_signals
from kspacesr_rt.moments import fixed_moment, unusable_zone
from kspacesr_rt.pipeline.clock import auto_workers
from kspacesr_rt.pipeline.flow import Flow
from kspacesr_rt.pipeline.folder import Journal, held_folder, require_mixable
from kspacesr_rt.pipeline.opened import OpenBackends
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.stale import StaleOutputs
from kspacesr_rt.pipeline.stalls import Opening, StallWatch
from kspacesr_rt.pipeline.state import RunState, StopAskedError
from kspacesr_rt.report import RunReport, require_replaceable, require_writable
from kspacesr_rt.survey import INTERPOLATION_WARNINGS

ENDED_BY_SIGNAL: Final = 128
"""Exit codes beyond this are numbers of signals, as shells have it."""


class Engine(Protocol):
    """Where series are processed; a context manager, entered once, around one run."""

    def backends(self, options: InferOptions) -> OpenBackends:
        """Load the model and settle what computes."""
        ...

    def process(self, run: RunState, scan: Scan) -> None:
        """Process every series; what became of each file is in the run's records.

        Raises
        ------
        OutputError
            If an output cannot be written.
        StopAskedError
            If a signal waits.
        """
        ...

    def side_by_side(self, run: RunState) -> tuple[int, int]:
        """Return how many threads read and write, and how many batches are computed, at a time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class LocalEngine:
    """Processes series in this process."""

    def backends(self, options: InferOptions) -> OpenBackends:
        """Load the model and settle what computes."""
        return OpenBackends(options)

    def process(self, run: RunState, scan: Scan) -> None:
        """Process every series; see `Engine`."""
        with Flow(run, workers=self.side_by_side(run)[0]) as flow:
            flow.process(scan.series)

    def side_by_side(self, run: RunState) -> tuple[int, int]:
        """Return the threads that read and write, and the backend's streams."""
        return workers_of(run.options, run.backends.choice.backend), run.backends.streams

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def infer(
    source: Path,
    output: Path,
    options: InferOptions | None = None,
    *,
    engine: Engine | None = None,
    report_file: Path | None = None,
    on_progress: Callable[[RunProgress], None] | None = None,
    on_stall: Callable[[str], None] | None = None,
) -> RunReport:
    """Super-resolve every MR image below a folder into derived series.

    Parameters
    ----------
    source
        Folder (or one file); it is only read.
    output
        Folder for ``<series>/<instance>.dcm``; made if missing. If it holds a run with the same
        parameters, that run is completed: what it has finished is not computed again.
    options
        Backend, model, batch and the like.
    engine
        Where series are processed; None: in this process. The same bytes come out of every engine.
    report_file
        Where the report goes; default ``report.json`` in `output`.
    on_progress
        Called after every slice (or every series, if others process them), in the caller's
        thread. What it raises ends the run.
    on_stall
        Told in a sentence, in another thread, when nothing has finished for a while; None: a
        warning of the logger ``kspacesr_rt``. See `kspacesr_rt.pipeline.stalls`.

    Returns
    -------
        What became of every file. Failed slices do not raise: see `RunReport.exit_code`.

    Raises
    ------
    InputError, ModelFileError, ModelSpecError
        If the options or the model cannot be used.
    BackendUnavailableError
        If the backend cannot run here.
    OutputError
        If the output is unsafe, in use by another run or cannot be written.
    RunMismatchError
        If the output holds a run with other parameters.
    StaleOutputError
        If the output holds what the input no longer says, and `options` do not say what to do.
    NoMRImageError
        If nothing could be processed; nothing is written.
    """
    options, engine = options or InferOptions(), engine or LocalEngine()
    started = time.perf_counter()
    if not source.exists():
        raise InputError("no such file or folder as the input")
    syntax_of(options.compress)  # before anything is read or opened
    fixed_moment()
    source, output = source.absolute(), output.absolute()  # processes may have other folders
    with (
        limited_to(options.limits),
        StallWatch(Opening(options.backend), on_stall) as stalls,
        engine,
        engine.backends(options) as backends,
    ):
        report_file = prepare(source, output, report_file)
        run = RunState(source, output, options, backends, on_progress)
        stalls.look_at(run)
        if told := unusable_zone():
            backends.notes[told] = None
        require_mixable(output, run.parameters)
        scan = scanned(run)
        refuse_in_advance(run, scan)
        with (
            held_folder(output, run.parameters, run.derivation.run_salt) as manifest,
            held_signals() as stop_asked,
        ):
            run.derivation = replace(run.derivation, run_salt=manifest.run_salt)
            run.stop_asked = lambda: bool(stop_asked())
            run.journal = Journal(output, derivation=run.derivation, verify=options.verify_existing)
            try:
                stale = StaleOutputs(output, run.journal, scan)
                if options.stale == "refuse":
                    stale.refuse()
                return _reported(engine, run, scan, stale, report_file, started, stop_asked)
            finally:
                run.journal.close()


def prepare(source: Path, output: Path, report_file: Path | None) -> Path:
    """Make sure that outputs and report can be written safely; return where the report goes.

    Raises
    ------
    OutputError
        If they cannot.
    """
    prepare_output(source, output, report=report_file)
    if report_file and source.resolve() in (report_file.resolve(), *report_file.resolve().parents):
        raise OutputError(
            "the report lies inside the input", hint="the input is only read: choose elsewhere"
        )
    if report_file is not None and report_file.parent.resolve() != output.resolve():
        require_writable(report_file)
    report_file = report_file or output / "report.json"
    require_replaceable(report_file)
    return report_file


def scanned(run: RunState) -> Scan:
    """Scan the input of a run.

    Raises
    ------
    NoMRImageError
        If there is nothing to process.
    """
    with run.clock.busy("scan"):
        scan = scan_folder(
            run.source,
            include_derived=run.options.include_derived,
            keep_private=run.options.keep_private,
        )
    if not scan.series:
        raise _nothing_to_do(scan.left_out)
    run.total = scan.n_slices
    return scan


def refuse_in_advance(run: RunState, scan: Scan) -> None:
    """Refuse, before anything is written, what can only be told after a look at every series.

    Raises
    ------
    StrictRefusalError
        If there is something to warn about, under ``--strict``.
    NoMRImageError
        If every series is interpolated, under ``--on-interpolated skip``.
    """
    options = run.options
    if not options.strict and options.on_interpolated != "skip":
        return
    surveyed = []
    for series in scan.series:
        surveyed.append(run.survey(series))
        surveyed[-1].read.clear()  # no archive fits into memory
    if options.strict:
        told = Counter(
            text
            for series, survey in zip(scan.series, surveyed, strict=True)
            for text in (*series.warnings, *survey.warnings)
            if options.on_interpolated == "warn" or not text.startswith(INTERPOLATION_WARNINGS)
        )
        if told:
            listed = "; ".join(f"{text} ({n} series)" for text, n in sorted(told.items()))
            raise StrictRefusalError(
                f"refused under --strict: {listed}",
                hint="without --strict they are processed, with a warning",
            )
    if options.on_interpolated == "skip" and all(
        support.interpolated for one in surveyed for support in one.supports.values()
    ):
        raise NoMRImageError(
            f"no MR image to process: {scan.n_slices} interpolated",
            hint="--on-interpolated warn or crop processes them",
        )


def workers_of(options: InferOptions, backend: str) -> int:
    """Return how many threads work beside the backend."""
    return options.workers or auto_workers(on_gpu=backend_info(backend).on_gpu)


def _reported(
    engine: Engine,
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
        run.stale = stale.settle(records, run.options.stale, finished=finished)

    def report(*, ended_with: int | None = None) -> RunReport:
        wall_s = time.perf_counter() - started
        workers, computing = engine.side_by_side(run)
        return run.report(scan, wall_s, workers=workers, computing=computing, ended_with=ended_with)

    try:
        engine.process(run, scan)
        settle(finished=True)
    except StopAskedError:
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


def _nothing_to_do(left_out: tuple[LeftOut, ...]) -> KspaceSRError:
    counts: dict[str, int] = {}
    for left in left_out:
        counts[left.reason] = counts.get(left.reason, 0) + 1
    listed = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
    return NoMRImageError(
        f"no MR image to process: {listed or 'the folder holds no file'}",
        hint="expected magnitude MR Image Storage files; --include-derived takes maps too",
    )
