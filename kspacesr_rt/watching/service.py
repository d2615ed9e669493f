"""The watch itself: what came to rest is processed, what goes wrong is told and tried again."""

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
from kspacesr_rt.dicom.limits import limited_to
from kspacesr_rt.dicom.quiet import discreet_threads
from kspacesr_rt.dicom.store import STATE_FOLDER
from kspacesr_rt.errors import (
    InputError,
    KspaceSRError,
    NoMRImageError,
    OutputError,
    StaleOutputError,
    StrictRefusalError,
    system_says,
)
from kspacesr_rt.interruption import held_signals
from kspacesr_rt.moments import fixed_moment
from kspacesr_rt.node.events import Log
from kspacesr_rt.pipeline.flow import Flow
from kspacesr_rt.pipeline.folder import LOCK, Journal, Manifest, held_folder, require_mixable
from kspacesr_rt.pipeline.local import prepare, refuse_in_advance, workers_of
from kspacesr_rt.pipeline.opened import OpenBackends
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.stale import HINT, remove_output, stale_of
from kspacesr_rt.pipeline.stalls import StallWatch
from kspacesr_rt.pipeline.state import RunState, StopAskedError, told
from kspacesr_rt.report import SliceRecord
from kspacesr_rt.watching.arrivals import Arrivals, key_of
from kspacesr_rt.watching.notices import POLL_HINT, Notices, Notified, Polled
from kspacesr_rt.watching.tally import Tally
from kspacesr_rt.watching.troubles import (
    Troubles,
    is_of_the_place,
    told_by_the_system,
)

TICK_S: Final = 0.2
"""How long a signal may wait while nothing happens."""
LOOK_REST: Final = 4.0
"""Pause after a look, in times of how long it took: a folder of a hundred thousand files, into
which more are copied, would be listed again and again."""
ROUND_SLICES: Final = 1000
"""Slices after which a round takes no further series: its records are in memory until it ends."""
READ_AGAIN: Final = frozenset({"unreadable", "changed"})
"""Reasons that may pass by themselves: a share that was away, a file that was being replaced."""
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
    stop_asked: Callable[[], bool] = lambda: False,
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
        Told what happens.
    report_file
        Rewritten after each round; default ``report.json`` in `output`.
    stop_asked
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
    series (`kspacesr_rt.watching.troubles`) and no slice is written between them, the last error is
    raised: a driver that lost its device needs a new process, and a supervisor can see to that.
    """
    options, watch_options = options or InferOptions(), watch_options or WatchOptions()
    if not source.is_dir():
        raise InputError("no such folder to watch")
    syntax_of(options.compress)
    fixed_moment()
    source, output = source.absolute(), output.absolute()
    notices: Notices = (
        Notified(source) if watch_options.poll_s is None else Polled(watch_options.poll_s)
    )
    log = log or Log(quiet=True)
    with (
        discreet_threads(lambda kind: log.write("internal-error", where="thread", kind=kind)),
        limited_to(options.limits),
        OpenBackends(options) as backends,
    ):
        report_file = prepare(source, output, report_file)
        run = RunState(source, output, options, backends)
        require_mixable(output, run.parameters)
        with (
            held_folder(output, run.parameters, run.derivation.run_salt) as manifest,
            notices,
            held_signals() as signalled,
        ):
            watcher = _Watcher(
                first=run,
                manifest=manifest,
                notices=notices,
                options=watch_options,
                log=log,
                report_file=report_file,
                stop_asked=lambda: bool(signalled()) or stop_asked(),
            )
            watcher.run()


class _Watcher:
    """One watch: an open model and a held folder, and what passes through them."""

    def __init__(
        self,
        *,
        first: RunState,
        manifest: Manifest,
        notices: Notices,
        options: WatchOptions,
        log: Log,
        report_file: Path,
        stop_asked: Callable[[], bool],
    ) -> None:
        self._first, self._manifest, self._notices = first, manifest, notices
        self._options, self._log, self._report_file = options, log, report_file
        self._stop_asked = stop_asked
        self._journal = Journal(
            first.output,
            derivation=replace(first.derivation, run_salt=manifest.run_salt),
            collected=options.collected,
            verify=first.options.verify_existing,
        )
        self._workers = workers_of(first.options, first.backends.choice.backend)
        self._arrivals = Arrivals(
            first.source,
            settle_s=options.settle_s,
            include_derived=first.options.include_derived,
            keep_private=first.options.keep_private,
        )
        spec, choice = first.backends.spec, first.backends.choice
        self._tally = Tally(
            {
                "version": __version__,
                "backend": choice.backend,
                "backend_choice": choice.to_dict(),
                "model": spec.name,
                "weights_sha256": spec.provenance.weights_sha256,
                "upscale": spec.upscale,
                "intended_use": spec.intended_use,
            }
        )
        self._lock = (first.output / STATE_FOLDER / LOCK).stat()
        self._troubles = Troubles(retry_max_s=options.retry_max_s)
        self._look_after = 0.0
        self._unsaved = True
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
                self._mind_the_notices()
                if reachable != self._arrivals.reachable:
                    reachable = self._arrivals.reachable
                    self._log.write("input-back" if reachable else "input-gone")
                worked = reachable and not self._troubles.paused and self._round()
                if not (caught_up or worked or self._arrivals.n_waiting) and reachable:
                    caught_up = True
                if not worked:
                    self._save_if_due()
                    self._idle.wait(TICK_S)
        except StopAskedError:
            self._log.write("stopping", waiting=self._arrivals.n_waiting)
        finally:
            self._unsaved = True
            self._save_if_due(ended=True)
            self._journal.close()

    def _look(self) -> None:
        """See what changed, unless the last look was so long that it needs a rest."""
        started = time.monotonic()
        if started < self._look_after:
            return
        folders = self._notices.taken()
        if folders is None or self._notices.certain:
            self._arrivals.look(folders, on_file=self._check_stop)
            ended = time.monotonic()
            rest_s = min(LOOK_REST * (ended - started), self._options.settle_s / 2)
            self._look_after = ended + rest_s

    def _check_stop(self) -> None:
        if self._stop_asked():
            raise StopAskedError

    def _mind_the_notices(self) -> None:
        if self._notices.lost:
            self._log.write("notification-lost", poll=LOST_POLL_S)
        elif self._notices.misses_some(self._arrivals.n_folders):
            hint = f"{POLL_HINT}, and begin anew"
            self._log.write("notification-incomplete", poll=LOST_POLL_S, hint=hint)
        else:
            return
        self._notices = Polled(LOST_POLL_S)

    def _round(self) -> bool:
        """Process what has come to rest; return whether there was anything."""
        scan = self._arrivals.ready(
            at_most=ROUND_SLICES, held=self._troubles.held, alone=self._troubles.alone
        )
        if scan is None:
            return False
        started = time.monotonic()
        run = self._new_run(scan)
        try:
            self._require_our_folder()
            scan = self._without_refused(run, self._without_stale(scan))
            with self._stall_watch(run), Flow(run, workers=self._workers) as flow:
                flow.process(scan.series)
        except StopAskedError:
            self._take(run, scan, started)
            raise
        except Exception as exc:
            self._take(run, scan, started)
            self._meet(exc, run, scan)
            return True
        self._tally.add_round(len(scan.series))
        self._take(run, scan, started)
        for series in scan.series:
            self._troubles.forget(key_of(series.slices[0]))
        self._troubles.round_ended()
        return True

    def _stall_watch(self, run: RunState) -> StallWatch:
        return StallWatch(run, lambda sentence: self._log.write("stalled", waiting_for=sentence))

    def _new_run(self, scan: Scan) -> RunState:
        first = self._first
        run = RunState(first.source, first.output, first.options, first.backends)
        run.derivation = replace(run.derivation, run_salt=self._manifest.run_salt)
        run.journal, run.stop_asked, run.total = self._journal, self._stop_asked, scan.n_slices
        return run

    def _require_our_folder(self) -> None:
        """Refuse to write where the output was: an unmounted disk leaves an empty folder."""
        try:
            lock = (self._first.output / STATE_FOLDER / LOCK).stat()
        except OSError as exc:
            raise OutputError(f"the output folder cannot be used: {system_says(exc)}") from exc
        if (lock.st_dev, lock.st_ino) != (self._lock.st_dev, self._lock.st_ino):
            gone = OSError(0, "another folder stands in its place")
            raise OutputError(f"the output folder cannot be used: {gone.strerror}") from gone

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
                continue
            except NoMRImageError:
                pass  # its slices are skipped by name
            kept.append(series)
        return replace(scan, series=tuple(kept))

    def _without_stale(self, scan: Scan) -> Scan:
        """Leave out, unless the user said what to do, sources whose output says something else."""
        if self._first.options.stale != "refuse":
            return scan
        refused = {
            item.path: item
            for series in scan.series
            for item in series.slices
            if self._journal.match(item) is None
            and stale_of(self._first.output, self._journal, item)
        }
        for item in refused.values():
            message = "its output in the folder is of what the file said before"
            self._leave_out(item, StaleOutputError.reason, told(message, HINT), outcome="failed")
            for one in stale_of(self._first.output, self._journal, item):
                self._tally.add_stale(one.handled_as("refused"))
        series = (
            replace(one, slices=tuple(item for item in one.slices if item.path not in refused))
            for one in scan.series
        )
        return replace(scan, series=tuple(one for one in series if one.slices))

    def _settle_stale(self, item: SourceSlice, record: SliceRecord) -> None:
        """Name what a source no longer says, now that what it says is there."""
        for one in stale_of(self._first.output, self._journal, item, current=record.output):
            if self._first.options.stale == "replace":
                with suppress(OutputError):  # it is named as kept then, and tried at the next start
                    remove_output(self._first.output, one.output)
                    one = one.handled_as("removed")
            if self._tally.add_stale(one):
                self._log.write("stale-output", reason=one.reason, handled=one.handled)

    def _take(self, run: RunState, scan: Scan, started: float) -> None:
        """Count what became of every file; what has no record yet waits on."""
        items = [item for series in scan.series for item in series.slices]
        counts: Counter[str] = Counter()
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
        if counts["written"]:
            self._troubles.slice_written()
        if not counts:
            return
        self._log.write(
            "processed",
            series=len(scan.series),
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
            if record.reason in READ_AGAIN and not self._arrivals.try_again(path):
                self._arrivals.settle(path, uid=None)
                return  # told already
            self._log.write(record.outcome, file=record.file, reason=record.reason)
        self._tally.add(record)
        self._arrivals.settle(path, uid=None if out else uid)

    def _leave_out(self, item: SourceSlice, reason: str, message: str, *, outcome: str) -> None:
        record = SliceRecord(
            file=self._first.label(item.path),
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

    def _meet(self, error: Exception, run: RunState, scan: Scan) -> None:
        """Decide what follows from an error that ended a round."""
        kind = type(error).__name__
        self._tally.add_error(kind)
        self._unsaved = True
        if is_of_the_place(error):
            delay_s = self._troubles.pause()
            self._log.write("output-error", reason=told_by_the_system(error), retry_in=delay_s)
            return
        items = [item for series in scan.series for item in series.slices]
        left = [item for ordinal, item in enumerate(items) if ordinal not in run.records]
        keys = {key_of(item) for item in left}
        self._log.write("accident", kind=kind, series=len(keys))
        if not self._troubles.blame(keys, n_series=len(scan.series)):
            return
        # Only our own messages are known to quote no value of a file.
        cause = told(str(error), error.hint) if isinstance(error, KspaceSRError) else kind
        message = f"every attempt ended in: {cause}; it is tried again when it changes"
        for item in left:
            self._leave_out(item, "accident", message, outcome="failed")
        if self._troubles.hopeless:
            self._log.write("giving-up", kind=kind)
            raise error

    def _save_if_due(self, *, ended: bool = False) -> None:
        if not self._unsaved:
            return
        try:
            self._require_our_folder()
            self._tally.save(self._report_file, waiting=self._arrivals.n_waiting, ended=ended)
            self._unsaved = False
        except OutputError as exc:  # the next round, or the next tick of a pause, writes it
            if not ended and not self._troubles.paused:
                self._troubles.pause()
                self._log.write("report-error", reason=told_by_the_system(exc))
