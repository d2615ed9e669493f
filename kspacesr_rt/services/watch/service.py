"""The watch itself: what came to rest is processed, what goes wrong is logged and tried again."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kspacesr_rt._version import __version__
from kspacesr_rt.dicom import Scan, Series, SourceSlice
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.dicom.failures import ACCIDENT, BACKEND
from kspacesr_rt.dicom.file_limits import limited_to
from kspacesr_rt.dicom.store import STATE_FOLDER, UNUSABLE
from kspacesr_rt.dicom.suppressed_warnings import redacted_thread_errors
from kspacesr_rt.errors import (
    BackendUnavailableError,
    InputError,
    KspaceSRError,
    NoMRImageError,
    OutputError,
    StaleOutputError,
    StrictRefusalError,
    failing_the_output,
)
from kspacesr_rt.pipeline.input_files import input_examiner, require_library
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.output_folder import LOCK, Journal
from kspacesr_rt.pipeline.preflight import refuse_in_advance
from kspacesr_rt.pipeline.report import SliceRecord, StaleRecord
from kspacesr_rt.pipeline.run_folder import RunFolder
from kspacesr_rt.pipeline.run_state import RunState, StopRequestedError, with_hint
from kspacesr_rt.pipeline.session import Session
from kspacesr_rt.pipeline.stale_outputs import WATCH_HINT, remove_output, stale_of
from kspacesr_rt.pipeline.stalls import StallWatch
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.watch.arrivals import Arrivals, key_of
from kspacesr_rt.services.watch.change_events import (
    POLL_HINT,
    ChangeEvents,
    NotifiedEvents,
    PolledEvents,
)
from kspacesr_rt.services.watch.report import WatchReport
from kspacesr_rt.services.watch.retry_policy import RetryPolicy, cause_text, is_disk_error
from kspacesr_rt.system.file_labels import file_label
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.system.output_time import fixed_time
from kspacesr_rt.volumes.output_names import output_label

TICK_S: Final = 0.2
"""How long a signal may wait while nothing happens."""
LOOK_REST: Final = 4.0
"""Pause after a look, in times of how long it took: a folder of a hundred thousand files, into
which more are copied, would be listed again and again."""
ROUND_SLICES: Final = 1000
"""Slices after which a round takes no further series: its records are in memory until it ends."""
TRIED_AGAIN: Final = frozenset({"unreadable", "changed", BACKEND})
"""Reasons that may pass by themselves: a share that was away, a file that was being replaced, a
device that was busy."""
LOST_POLL_S: Final = 5.0
"""How often everything is looked at once the system has ceased to notify."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOptions:
    """How a folder is watched."""

    settle_s: float = 10.0
    """Seconds without a change that complete a series."""
    poll_s: float | None = None
    """Seconds between two looks; None means to be notified, which network shares do not do."""
    retry_max_s: float = 300.0
    """Longest pause, in seconds, after outputs could not be written."""
    collected: bool = False
    """Outputs are taken away by others: one that is missing at a start is not made again."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for name, value in (("--settle", self.settle_s), ("--retry-max", self.retry_max_s)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is a number of seconds, not {value}")
        if self.poll_s is not None and not 0 < self.poll_s < math.inf:
            raise InputError(f"--poll is a number of seconds above 0, not {self.poll_s}")


def watch(
    source: Path,
    output: Path,
    options: InferOptions | None = None,
    watch_options: WatchOptions | None = None,
    *,
    log: Log | None = None,
    report_file: Path | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> None:
    """Super-resolve what is in a folder, and every series that lands there, until a signal comes.

    Parameters
    ----------
    source
        Folder; it is only read.
    output
        As for `kspacesr_rt.pipeline.infer`, with the same guarantees: what a journal there tells
        is not computed again, and nothing half-written is ever seen.
    options
        As for `infer`; ``strict`` leaves out a series that is warned about, and goes on.
    watch_options
        When a series is complete, and the like.
    log
        Takes the events.
    report_file
        Rewritten after each round; default ``report.json`` in `output`.
    stop_requested
        Asked several times a second, for those who run this in a thread.

    Raises
    ------
    InputError, ModelFileError, ModelSpecError, BackendUnavailableError
        Before anything is processed, if this cannot work.
    OutputError, RunMismatchError
        If the output is unsafe, in use, or holds a run with other parameters. Once the watch has
        begun, what cannot be written is tried again instead.

    Notes
    -----
    A series that ends each of three attempts is set aside as failed. If that happens to three
    series (`kspacesr_rt.services.watch.retry_policy`) and no slice is written between them, the
    last error is raised: a driver that lost its device needs a new process, and a supervisor can
    see to that.
    """
    options, watch_options = options or InferOptions(), watch_options or WatchOptions()
    if watch_options.collected and options.durability == "none":
        raise InputError(
            "--collected takes an output that is missing for one that was taken away, and with "
            "--durability none a power cut may have lost it",
            hint="--durability batch",
        )
    if options.trust_map:
        raise InputError(
            "a watch writes no trust maps: slices may come after the map of their series",
            hint="kspacesr-rt infer --trust-map over the same folders adds them afterwards, and "
            "computes no slice again",
        )
    if not source.is_dir():
        raise InputError("no such folder to watch")
    require_library(options)
    syntax_of(options.compress)
    fixed_time()
    source, output = source.absolute(), output.absolute()
    events: ChangeEvents = (
        NotifiedEvents(source)
        if watch_options.poll_s is None
        else PolledEvents(watch_options.poll_s)
    )
    log = log or Log(quiet=True)
    with (
        redacted_thread_errors(lambda kind: log.write("internal-error", where="thread", kind=kind)),
        limited_to(options.limits),
        Session(options, output=output) as session,
    ):
        folder = session.open_folder(
            source, output, report_file=report_file, collected=watch_options.collected
        )
        with folder.locked() as journal, events, deferred_signals() as signalled:
            watcher = _Watcher(
                session=session,
                folder=folder,
                journal=journal,
                events=events,
                options=watch_options,
                log=log,
                stop_requested=lambda: bool(signalled()) or stop_requested(),
            )
            watcher.run()


class _Watcher:
    """One watch: an open model and a held folder, and what passes through them."""

    def __init__(
        self,
        *,
        session: Session,
        folder: RunFolder,
        journal: Journal,
        events: ChangeEvents,
        options: WatchOptions,
        log: Log,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._session, self._folder, self._journal = session, folder, journal
        self._events, self._options, self._log = events, options, log
        self._stop_requested = stop_requested
        self._infer = session.options
        self._arrivals = Arrivals(
            folder.source,
            settle_s=options.settle_s,
            examine=input_examiner(folder.source, self._infer),
            keep_private=self._infer.keep_private,
        )
        spec, choice = session.spec, session.choice
        self._report_file = WatchReport(
            {
                "version": __version__,
                "backend": choice.backend,
                "backend_choice": choice.to_dict(),
                "model": spec.name,
                "weights_sha256": spec.provenance.weights_sha256,
                "upscale": spec.upscale,
                "intended_use": spec.intended_use,
                "durability": self._infer.durability,
            }
        )
        self._lock = (folder.output / STATE_FOLDER / LOCK).stat()
        self._retry_policy = RetryPolicy(retry_max_s=options.retry_max_s)
        self._next_look = 0.0
        self._unsaved = True
        # Slices of this round that were not even begun, by outcome: they have their records.
        self._refused: Counter[str] = Counter()
        self._idle = threading.Event()  # never set: waits that a signal handler may interrupt

    def run(self) -> None:
        """Go on until a signal comes."""
        self._log.write("watching", poll=self._options.poll_s, settle=self._options.settle_s)
        caught_up = False
        reachable = True
        try:
            while True:
                self._check_stop()
                self._look()
                self._handle_lost_events()
                if reachable != self._arrivals.reachable:
                    reachable = self._arrivals.reachable
                    self._log.write("input-back" if reachable else "input-gone")
                worked = reachable and not self._retry_policy.paused and self._round()
                if not (caught_up or worked or self._arrivals.n_waiting) and reachable:
                    caught_up = True
                if not worked:
                    self._save_if_due()
                    self._idle.wait(TICK_S)
        except StopRequestedError:
            self._log.write("stopping", waiting=self._arrivals.n_waiting)
        finally:
            self._unsaved = True
            self._save_if_due(ended=True)

    def _look(self) -> None:
        """See what changed, unless the last look was so long that it needs a rest."""
        started = time.monotonic()
        if started < self._next_look:
            return
        folders = self._events.changed_folders()
        if folders is None or self._events.is_complete:
            self._arrivals.look(folders, on_file=self._check_stop)
            ended = time.monotonic()
            rest_s = min(LOOK_REST * (ended - started), self._options.settle_s / 2)
            self._next_look = ended + rest_s

    def _check_stop(self) -> None:
        if self._stop_requested():
            raise StopRequestedError

    def _handle_lost_events(self) -> None:
        if self._events.lost:
            self._log.write("notification-lost", poll=LOST_POLL_S)
        elif self._events.misses_folders(self._arrivals.n_folders):
            hint = f"{POLL_HINT}, and begin anew"
            self._log.write("notification-incomplete", poll=LOST_POLL_S, hint=hint)
        else:
            return
        self._events = PolledEvents(LOST_POLL_S)

    def _round(self) -> bool:
        """Process what has come to rest; return whether there was anything."""
        scan = self._arrivals.ready(
            at_most=ROUND_SLICES, held=self._retry_policy.on_hold, alone=self._retry_policy.alone
        )
        if scan is None:
            return False
        started = time.monotonic()
        run = self._new_run(scan)
        self._refused.clear()
        n_series = len(scan.series)
        try:
            self._require_our_folder()
            scan = self._without_refused(run, self._without_stale(scan))
            with self._stall_watch(run):
                self._session.process(run, scan.series)
        except StopRequestedError:
            self._take(run, scan, started, n_series)
            raise
        except Exception as exc:
            self._take(run, scan, started, n_series)
            self._handle_error(exc, run, scan)
            return True
        self._report_file.add_round(len(scan.series))
        self._take(run, scan, started, n_series)
        if any(one.reason == BACKEND for one in run.records.values()):
            with suppress(Exception):
                self._session.release()
        for series in scan.series:
            self._retry_policy.forget(key_of(series.slices[0]))
        self._retry_policy.round_ended()
        return True

    def _stall_watch(self, run: RunState) -> StallWatch:
        return StallWatch(run, lambda sentence: self._log.write("stalled", waiting_for=sentence))

    def _new_run(self, scan: Scan) -> RunState:
        run = self._folder.new_run()
        run.stop_requested, run.total = self._stop_requested, scan.n_slices
        run.adds_to_series = True
        return run

    def _require_our_folder(self) -> None:
        """Refuse to write where the output was: an unmounted disk leaves an empty folder."""
        with failing_the_output(UNUSABLE):
            lock = (self._folder.output / STATE_FOLDER / LOCK).stat()
            if (lock.st_dev, lock.st_ino) != (self._lock.st_dev, self._lock.st_ino):
                raise OSError(0, "another folder stands in its place")

    def _without_refused(self, run: RunState, scan: Scan) -> Scan:
        """Leave out, under ``--strict``, series that would be warned about."""
        if not run.options.strict:
            return scan
        kept: list[Series] = []
        for series in scan.series:
            try:
                refuse_in_advance(run, Scan(series=(series,), left_out=()))
            except StrictRefusalError as exc:
                for item in series.slices:
                    self._leave_out(item, "strict", str(exc), outcome="skipped")
                    self._refused["skipped"] += item.n_frames or 1
                continue
            except NoMRImageError:
                pass  # its slices are skipped by name
            kept.append(series)
        return replace(scan, series=tuple(kept))

    def _without_stale(self, scan: Scan) -> Scan:
        """Leave out, unless the user said what to do, sources whose output says something else."""
        if self._infer.stale != "refuse":
            return scan
        refused = {
            item.path: item
            for series in scan.series
            for item in series.slices
            if self._journal.match(item) is None and self._stale_of(item)
        }
        new_counts: Counter[str] = Counter()
        for item in refused.values():
            message = "its output in the folder is of what the file said before"
            hinted = with_hint(message, WATCH_HINT)
            self._leave_out(item, StaleOutputError.reason, hinted, outcome="failed")
            self._refused["failed"] += item.n_frames or 1
            for one in self._stale_of(item):
                new_counts[one.reason] += self._report_file.add_stale(
                    self._labelled(one).handled_as("refused")
                )
        for reason, n in (+new_counts).items():
            self._log.write(
                "stale-output", reason=reason, handled="refused", outputs=n, hint=WATCH_HINT
            )
        series = (
            replace(one, slices=tuple(item for item in one.slices if item.path not in refused))
            for one in scan.series
        )
        return replace(scan, series=tuple(one for one in series if one.slices))

    def _stale_of(self, item: SourceSlice, *, current: str = "") -> list[StaleRecord]:
        shown = self._infer.show_paths
        return stale_of(self._folder.output, self._journal, item, current=current, show_paths=shown)

    def _labelled(self, stale: StaleRecord) -> StaleRecord:
        """Return what the report may say of a stale output."""
        label = output_label(stale.output, show_path=self._infer.show_paths)
        return replace(stale, output=label)

    def _settle_stale(self, item: SourceSlice, record: SliceRecord) -> None:
        """Name what a source no longer says, now that what it says is there."""
        for one in self._stale_of(item, current=record.output):
            if self._infer.stale == "replace":
                with suppress(OutputError):  # it is named as kept then, and tried at the next start
                    remove_output(self._folder.output, one.output)
                    one = one.handled_as("removed")
            if self._report_file.add_stale(self._labelled(one)):
                self._log.write("stale-output", reason=one.reason, handled=one.handled, outputs=1)

    def _take(self, run: RunState, scan: Scan, started: float, n_series: int) -> None:
        """Count what became of every file; what has no record yet waits on."""
        items = [item for series in scan.series for item in series.slices]
        counts = self._refused.copy()
        for ordinal, item in enumerate(items):
            if record := run.records.get(ordinal):
                self._record(item.path, record, uid=item.sop_instance_uid)
                if record.output:
                    self._settle_stale(item, record)
                counts[record.outcome] += record.n_frames or 1
        for left in scan.left_out:
            record = run.left_out(left)
            self._record(left.path, record)
            counts[record.outcome] += 1
        for problem in {one.nifti_problem for own in run.series_records.values() for one in own}:
            if problem:
                self._log.write("no-nifti", why=problem)
        for problem in {
            one.trust_map_problem for own in run.series_records.values() for one in own
        }:
            if problem:
                self._log.write("no-trust-map", why=problem)
        if counts["written"]:
            self._retry_policy.slice_written()
        if not counts:
            return
        self._log.write(
            "processed",
            series=n_series,
            written=counts["written"],
            present=counts["present"],
            skipped=counts["skipped"],
            failed=counts["failed"],
            seconds=round(time.monotonic() - started, 3),
        )
        self._unsaved = True
        self._save_if_due()

    def _record(self, path: Path, record: SliceRecord, *, uid: str | None = None) -> None:
        out = record.outcome in ("skipped", "failed")
        if out:
            if record.reason in TRIED_AGAIN and not self._arrivals.schedule_retry(path):
                self._arrivals.mark_done(path, uid=None)
                return  # told already
            self._log.write(record.outcome, file=record.file, reason=record.reason)
        label = output_label(record.output, show_path=self._infer.show_paths)
        self._report_file.add(replace(record, output=label))
        self._arrivals.mark_done(path, uid=None if out else uid)

    def _leave_out(self, item: SourceSlice, reason: str, message: str, *, outcome: str) -> None:
        record = SliceRecord(
            file=file_label(item.path, self._folder.source, show_path=self._infer.show_paths),
            outcome="skipped" if outcome == "skipped" else "failed",
            reason=reason,
            message=message,
            sop_instance_uid=item.sop_instance_uid,
            matrix=item.matrix,
            n_frames=item.n_frames,
            warnings=item.warnings,
        )
        self._record(item.path, record)
        self._unsaved = True

    def _handle_error(self, error: Exception, run: RunState, scan: Scan) -> None:
        """Decide what follows from an error that ended a round."""
        kind = type(error).__name__
        self._report_file.add_error(kind)
        self._unsaved = True
        if is_disk_error(error):
            delay_s = self._retry_policy.pause()
            self._log.write("output-error", reason=cause_text(error), retry_in=delay_s)
            return
        items = [item for series in scan.series for item in series.slices]
        left = [item for ordinal, item in enumerate(items) if ordinal not in run.records]
        keys = {key_of(item) for item in left}
        self._log.write("accident", kind=kind, series=len(keys))
        with suppress(Exception):  # a backend that has met an accident may not even close
            self._session.release()
        if not self._retry_policy.record_failure(keys, n_series=len(scan.series)):
            return
        # Only our own messages are known to quote no value of a file.
        cause = with_hint(str(error), error.hint) if isinstance(error, KspaceSRError) else kind
        of_backend = isinstance(error, BackendUnavailableError | MemoryError)
        again = "later" if of_backend else "when it changes"
        message = f"every attempt ended in: {cause}; it is tried again {again}"
        for item in left:
            self._leave_out(item, BACKEND if of_backend else ACCIDENT, message, outcome="failed")
        if self._retry_policy.is_permanent:
            self._log.write("giving-up", kind=kind)
            raise error

    def _save_if_due(self, *, ended: bool = False) -> None:
        if not self._unsaved:
            return
        try:
            self._require_our_folder()
            self._report_file.save(
                self._folder.report_file, waiting=self._arrivals.n_waiting, ended=ended
            )
            self._unsaved = False
        except OutputError as exc:  # the next round, or the next tick of a pause, writes it
            if not ended and not self._retry_policy.paused:
                self._retry_policy.pause()
                self._log.write("report-error", reason=cause_text(exc))
