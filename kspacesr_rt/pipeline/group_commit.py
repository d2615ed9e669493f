"""Outputs become durable, then noted, then reported: in this order, a group of them at a time.

A group is synced file by file, gets its names, has its folders synced, and is noted in the journal,
which is synced once for all of it. A file that has its name is whole on the disk therefore, a line
of the journal names what is there under its name, and what is reported is noted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from kspacesr_rt.dicom.store import OutputDraft, writing_outputs
from kspacesr_rt.errors import OutputError
from kspacesr_rt.pipeline.journal_entries import JournalEntry
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.system.durability import (
    SIDE_BY_SIDE,
    folders_up_to,
    sync_all,
    sync_file,
    sync_folder,
)

GROUP_FILES: Final = 32
"""Files of a group at most: each is open, and is computed again if the run is killed before."""
GROUP_BYTES: Final = 64 << 20
"""Bytes of a group at most, but for its last file."""
GROUP_S: Final = 0.5
"""Seconds that a file waits for others at most."""
NO_FOLDER_SYNC: Final = (
    "the output's file system cannot bring names to the disk by itself: after a power cut, outputs "
    "that were reported may be missing"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A file of the input whose output is written."""

    entry: JournalEntry
    """For the journal."""
    path: Path
    """Of the output."""
    draft: OutputDraft | None = None
    """None: the output has its name."""
    synced: bool = False
    """Whether what has its name was synced before it got it."""
    on_end: Callable[[], None] = lambda: None
    """Called when the output has its name, or will not get one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    finished: Finished
    future: Future[JournalEntry]
    since: float


class GroupCommit:
    """Brings the outputs of a run to the disk; a context manager, whose end closes the last group.

    Workers `add` what they have written; a thread closes a group when it is full or old.
    """

    def __init__(self, run: RunState) -> None:
        self._run, self._durability = run, run.options.durability
        self._changed = threading.Condition()
        self._group: list[_Waiting] = []
        self._n_bytes = 0
        self._flushed = self._ended = False
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None

    def add(self, finished: Finished) -> Future[JournalEntry]:
        """Take a file that is written; called by workers.

        Returns
        -------
            Done when the output is durable and noted; or raises `OutputError`: it cannot be.
        """
        one = _Waiting(finished=finished, future=Future(), since=time.monotonic())
        if self._durability != "batch":
            self._commit([one])
            return one.future
        with self._changed:
            if self._thread is None:
                self._start()
            self._group.append(one)
            self._n_bytes += finished.entry.n_bytes
            if len(self._group) == 1 or self._is_full():
                self._changed.notify()
        return one.future

    def flush(self) -> None:
        """Close the group that is open, without waiting for it."""
        with self._changed:
            self._flushed = bool(self._group)
            self._changed.notify()

    def _is_full(self) -> bool:
        return len(self._group) >= GROUP_FILES or self._n_bytes >= GROUP_BYTES

    def _start(self) -> None:
        pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="kspacesr-rt-sync")
        self._pool = self._stack.enter_context(pool)
        self._thread = threading.Thread(target=self._work, name="kspacesr-rt-commit")
        self._thread.start()

    def _work(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_Waiting]:
        """Wait for a group to be closed, and return it; an empty one is the end."""
        with self._changed:
            while not (self._flushed or self._ended or self._is_full()):
                left_s = None
                if self._group:
                    left_s = self._group[0].since + GROUP_S - time.monotonic()
                    if left_s <= 0:
                        break
                self._changed.wait(left_s)
            group, self._group = self._group, []
            self._n_bytes, self._flushed = 0, False
            return group

    def _commit(self, group: Sequence[_Waiting]) -> None:
        """Make a group durable, note it, and settle each of its files."""
        try:
            left = [one for one in self._synced(group) if self._published(one)]
            if left and self._placed(left):
                self._noted(left)
        except BaseException as exc:  # nobody may wait for ever
            for one in group:
                _fail(one, exc)

    def _synced(self, group: Sequence[_Waiting]) -> list[_Waiting]:
        """Sync what has no name yet, and what others may have written; return what that is."""
        if self._durability == "none":
            return list(group)
        with self._run.timer.busy("sync"):
            drafts = [one for one in group if one.finished.draft is not None]
            errors = dict(zip(map(id, drafts), self._sync_drafts(drafts), strict=True))
            left = []
            for one in group:
                error = errors.get(id(one))
                if one.finished.draft is None and not one.finished.synced:
                    error = _error_of(partial(sync_file, one.finished.path))
                if error is None:
                    left.append(one)
                else:
                    _fail(one, error)
        return left

    def _sync_drafts(self, drafts: Sequence[_Waiting]) -> list[OSError | None]:
        opened = [one.finished.draft for one in drafts]
        if self._pool is not None:
            return sync_all([one.descriptor for one in opened if one is not None], self._pool)
        return [_error_of(one.sync) for one in opened if one is not None]

    def _published(self, one: _Waiting) -> bool:
        """Give an output its name, unless it has it; return whether it has."""
        draft = one.finished.draft
        try:
            if draft is not None:
                with self._run.timer.busy("write"):
                    draft.publish()
        except OSError as exc:
            _fail(one, exc)
            return False
        one.finished.on_end()
        return True

    def _placed(self, group: Sequence[_Waiting]) -> bool:
        """Put the names on the disk; return whether they are."""
        if self._durability == "none":
            return True
        run = self._run
        try:
            with run.timer.busy("sync"):
                folders = folders_up_to([one.finished.path for one in group], run.output)
                for folder in folders:
                    if not sync_folder(folder):
                        run.notes[NO_FOLDER_SYNC] = None
        except OSError as exc:
            for one in group:
                _fail(one, exc)
            return False
        return True

    def _noted(self, group: Sequence[_Waiting]) -> None:
        journal = self._run.journal
        try:
            if journal is not None:
                with self._run.timer.busy("sync"):
                    journal.add(*(one.finished.entry for one in group))
        except OutputError as exc:
            for one in group:
                _fail(one, exc)
            return
        for one in group:
            one.future.set_result(one.finished.entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the last group, and wait until everything is settled."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._stack.close()


def _error_of(sync: Callable[[], None]) -> OSError | None:
    try:
        sync()
    except OSError as exc:
        return exc
    return None


def _fail(one: _Waiting, error: BaseException) -> None:
    """Settle a file that is not durable, or not noted: that ends the run."""
    if one.future.done():
        return
    if one.finished.draft is not None:
        one.finished.draft.discard()
    one.finished.on_end()
    try:
        with writing_outputs():
            raise error
    except BaseException as exc:
        one.future.set_exception(exc)
