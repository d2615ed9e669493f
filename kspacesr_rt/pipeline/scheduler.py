"""The slices of a run on their way: read ahead, gathered into batches, computed, written.

A file is a stream of slices and the sink of their results, whether it holds one or a thousand. One
thread (the caller's) decides everything that could depend on timing: it takes slices in the order
of the input, so batches are the same whatever the workers do, and starts the backend on them. The
workers read and decode what comes next, and check, write and verify what was computed. Every queue
is bounded, so memory grows neither with the number of files nor with that of their frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from typing import Final

from kspacesr_rt.dicom import DecodedSlice, Series
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import OutputError, SliceFailed
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.pipeline.compute import BatchRunner, ComputedBatch
from kspacesr_rt.pipeline.file_in_progress import Computed, FileInProgress
from kspacesr_rt.pipeline.group_commit import GROUP_FILES, GroupCommit
from kspacesr_rt.pipeline.journal_entries import JournalEntry
from kspacesr_rt.pipeline.pending_files import pending_files
from kspacesr_rt.pipeline.previews import preview_of
from kspacesr_rt.pipeline.run_state import RunState, SeriesProgress
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess

MULTI_FRAME_AT_ONCE: Final = 2
"""Multi-frame files that are under way at a time: while one is finished, the next is begun. More
would gain nothing, and each has its header in memory, some kilobytes a frame."""

COMMITTING_AT_ONCE: Final = 2 * GROUP_FILES
"""Outputs that may be written and not durable: a group that is synced, and one that is open."""

READ_AHEAD: Final = 2
"""Slices that each process beside this one has more to do than it does."""

_Written = Future[JournalEntry] | None
"""What a worker has left to be made durable: nothing, until a file is whole."""
Batch = list[tuple[FileInProgress, DecodedSlice]]
_Kind = tuple[Matrix, bool]
"""What slices of one batch share: their LR matrix, and whether they are zero-filled."""


def _kind(file: FileInProgress) -> _Kind:
    return file.matrix, file.computation.zero_filled


class Scheduler:
    """Brings series through a run; a context manager, since it has threads."""

    def __init__(self, run: RunState, *, workers: int) -> None:
        """Start `workers` threads beside the caller's."""
        self._run = run
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="kspacesr-rt")
        self._asking: dict[SliceProcess, ThreadPoolExecutor] = {}
        """A thread for each process beside this one: it answers one request after another."""
        self._backend = BatchRunner(run)
        self._workers = workers + READ_AHEAD * len(run.slice_processes)
        self._quiet = quiet_pydicom()
        self._begun: set[FileInProgress] = set()
        """Files that are read or written, and not settled."""
        self._to_read: deque[FileInProgress] = deque()
        self._reading: dict[FileInProgress, Future[list[DecodedSlice]]] = {}
        self._gathered: dict[_Kind, Batch] = {}
        self._computing: deque[tuple[Batch, ComputedBatch]] = deque()
        self._writing: deque[tuple[FileInProgress, int, Future[_Written]]] = deque()
        """With the number of slices that are written."""
        self._commit = GroupCommit(run)
        self._committing: deque[tuple[FileInProgress, Future[JournalEntry]]] = deque()
        """Files whose output is written, and not yet durable and noted."""

    @property
    def _ahead(self) -> int:
        """Slices that are read ahead, that are gathered, and results that wait to be written."""
        choice = self._run.batch
        return 2 * (choice.batch if choice else 1) + self._workers

    def _batch_of(self, file: FileInProgress) -> int:
        return self._run.batch_at(file.matrix)

    def process(self, series: Sequence[Series]) -> None:
        """Process series in their order; what became of each file is in the run's records.

        Raises
        ------
        OutputError
            If an output cannot be written.
        StopRequestedError
            If a signal waits. Slices that are being written are finished by `__exit__`.
        """
        files = pending_files(self._run, series, self._threads_of)
        while self._read_ahead(files):
            self._take_next()
            self._settle_written(self._ahead)
            self._settle_committed(COMMITTING_AT_ONCE)
            self._run.check_stop()
        for kind in list(self._gathered):
            self._compute(kind, self._gathered.pop(kind))
        self._write_computed(0)
        self._settle_written(0)
        self._commit.flush()
        self._settle_committed(0)

    def __enter__(self) -> Scheduler:
        self._quiet.__enter__()  # once: each slice would do it again
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._end(*exc)
        finally:
            self._quiet.__exit__(*exc)

    def _end(self, *exc: object) -> None:
        self._backend.__exit__(*exc)
        for pool in (self._pool, *self._asking.values()):
            pool.shutdown(wait=True, cancel_futures=True)
        self._run.ending = True
        # However the run ends: what was written is recorded, as far as the disk allows.
        while self._writing:
            file, n_slices, written = self._writing.popleft()
            if written.cancelled() or not isinstance(written.exception(), SliceFailed | None):
                continue
            with suppress(OutputError):
                self._take_written(file, n_slices, written)
        self._commit.__exit__(*exc)
        while self._committing:
            with suppress(OutputError):
                self._take_committed(*self._committing.popleft())
        for file in self._begun:
            file.close()
            self._run.done -= file.n_counted  # frames of a file that is not written
        for process in self._asking:
            process.rest()

    def _threads_of(self, process: SliceProcess | None) -> ThreadPoolExecutor:
        """Return what asks a process, or else what works here."""
        if process is None:
            return self._pool
        if process not in self._asking:
            one = ThreadPoolExecutor(1, thread_name_prefix="kspacesr-rt-process")
            self._asking[process] = one
        return self._asking[process]

    def _read_ahead(self, files: Iterator[FileInProgress]) -> bool:
        """Let workers read what comes next; return whether there is anything."""
        ahead, n_slices = self._ahead, 0
        for waiting in self._to_read:
            if n_slices >= ahead:
                break
            n_slices += min(self._batch_of(waiting), waiting.n_slices)
        while n_slices < ahead and (file := next(files, None)) is not None:
            self._to_read.append(file)
            n_slices += min(self._batch_of(file), file.n_slices)
        for file in self._to_read:
            if file not in self._reading and self._may_begin(file):
                self._read(file)
        return bool(self._to_read)

    def _may_begin(self, file: FileInProgress) -> bool:
        large = sum(not one.shares_batches for one in self._begun)
        return file.shares_batches or large < MULTI_FRAME_AT_ONCE

    def _read(self, file: FileInProgress) -> None:
        self._begun.add(file)
        self._reading[file] = self._threads_of(file.process).submit(file.read)

    def _take_next(self) -> None:
        """Take the slices that come next in the order of the input, and have more of them read."""
        file = self._to_read[0]
        if file not in self._reading:
            while not self._may_begin(file):
                self._finish_oldest()
            self._read(file)
        reading = self._reading.pop(file)
        try:
            slices = reading.result()
        except SliceFailed as exc:
            self._to_read.popleft()
            while any(one is file for batch, _ in self._computing for one, _ in batch):
                self._write_computed(len(self._computing) - 1)
            self._fail(file, exc)
            return
        if file.all_read or file.settled:  # a file is settled before its end if it has failed
            self._to_read.popleft()
        else:
            self._read(file)
        if self._run.batch is None and not file.computation.zero_filled:
            with self._run.timer.busy("bind"):
                self._run.backends.measure_batch(slices[0].values[None, None])
        if file.shares_batches:
            self._gather(file, slices)
        elif not file.settled:
            self._compute(_kind(file), [(file, one) for one in slices])

    def _gather(self, file: FileInProgress, slices: Sequence[DecodedSlice]) -> None:
        """Let slices wait for others of their kind, until a batch is full or too many wait."""
        gathered = self._gathered.setdefault(_kind(file), [])
        gathered += [(file, one) for one in slices]
        if len(gathered) >= self._batch_of(file):
            self._compute(_kind(file), self._gathered.pop(_kind(file)))
        elif sum(map(len, self._gathered.values())) > self._ahead:
            longest = next(iter(self._gathered))  # the kind that waits longest
            self._compute(longest, self._gathered.pop(longest))

    def _compute(self, kind: _Kind, batch: Batch) -> None:
        matrix, zero_filled = kind
        slices = [decoded for _, decoded in batch]
        computed = self._backend.start(matrix, slices, zero_filled=zero_filled)
        self._computing.append((batch, computed))
        self._write_computed(self._backend.side_by_side)

    def _write_computed(self, allowed: int) -> None:
        """Let workers write what is computed, and wait until at most `allowed` batches are not."""
        while self._computing and (len(self._computing) > allowed or self._computing[0][1].done()):
            batch, computed = self._computing.popleft()
            try:
                found = computed.result()
            except SliceFailed as exc:
                for file in dict.fromkeys(file for file, _ in batch):
                    self._fail(file, exc)
                continue
            sums = found.sums or (None,) * len(batch)
            results = [
                (file, Computed(decoded, sr, of_both))
                for (file, decoded), sr, of_both in zip(batch, found.slices, sums, strict=True)
            ]
            for file, own in groupby(results, key=lambda pair: pair[0]):
                self._write(file, [result for _, result in own])

    def _write(self, file: FileInProgress, results: list[Computed]) -> None:
        # One worker at a time writes a file, and none after it has failed.
        earlier = [written for one, _, written in self._writing if one is file]
        if file.settled or any(written.exception() is not None for written in earlier):
            return
        written = self._threads_of(file.process).submit(self._written, file, results)
        self._writing.append((file, len(results), written))

    def _written(self, file: FileInProgress, results: list[Computed]) -> _Written:
        """Write results, in a worker; what is whole then is made durable together with others."""
        finished = file.write(results)
        return None if finished is None else self._commit.add(finished)

    def _settle_written(self, allowed: int) -> None:
        """Settle what is written, and wait until at most `allowed` results are not."""
        while self._writing and (len(self._writing) > allowed or self._writing[0][2].done()):
            self._take_written(*self._writing.popleft())

    def _take_written(self, file: FileInProgress, n_slices: int, written: Future[_Written]) -> None:
        try:
            committed = written.result()
        except SliceFailed as exc:
            self._settle(file, exc)
            return
        if committed is None:
            file.n_counted += n_slices
            self._run.advance(n_slices)
            return
        self._committing.append((file, committed))
        file.series.committing += 1
        self._flush_if_last(file.series)

    def _settle_committed(self, allowed: int) -> None:
        """Settle what is durable, and wait until at most `allowed` outputs are not."""
        while self._committing and (
            len(self._committing) > allowed or self._committing[0][1].done()
        ):
            self._take_committed(*self._committing.popleft())

    def _take_committed(self, file: FileInProgress, committed: Future[JournalEntry]) -> None:
        noted = committed.result()
        file.series.committing -= 1
        self._settle(file, noted)

    def _flush_if_last(self, series: SeriesProgress) -> None:
        """Wait for no other series, if nothing but durability is left to a series."""
        if series.left and series.left == series.committing:
            self._commit.flush()

    def _finish_oldest(self) -> None:
        """Wait for what was begun first."""
        if self._writing:
            self._settle_written(len(self._writing) - 1)
        elif self._committing:
            self._commit.flush()
            self._settle_committed(len(self._committing) - 1)
        else:
            self._write_computed(len(self._computing) - 1)

    def _fail(self, file: FileInProgress, error: SliceFailed) -> None:
        """Settle a file as failed, unless slices before have failed already."""
        while any(one is file for one, _, _ in self._writing):
            self._settle_written(len(self._writing) - 1)
        if not file.settled:
            self._settle(file, error)

    def _settle(self, file: FileInProgress, outcome: JournalEntry | SliceFailed) -> None:
        """Record what became of a file, and count all of its slices as done."""
        run = self._run
        file.settled = True
        self._begun.discard(file)
        file.close()
        n_slices = file.n_slices - file.n_counted
        try:
            if isinstance(outcome, SliceFailed):
                run.fail(file.task, outcome, n_slices=n_slices)
                return
            if file.series.previews is not None:
                file.series.previews.keep(preview_of(outcome.record.output), file.shown)
            run.record_outcome(file.task, outcome.record, n_slices=n_slices)
        finally:
            run.count_down(file.series)
            self._flush_if_last(file.series)
