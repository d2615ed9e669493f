"""Which files a watched folder holds, which of them still grow, and which series have come to rest.

Of a file that is dealt with, its name, size, dates and a digest of its UID are kept while it lies
in the folder: some hundred bytes. What changes is looked at anew.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import (
    LeftOut,
    Scan,
    SourceSlice,
    examine_file,
    sort_into_series,
    special_file,
    status_of,
)

TEMPORARY: Final = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".download")
"""How names end that programs give to files they have not finished."""
RETRY_S: Final = 30.0
"""After which a file that could not be read is tried again; it doubles each time."""
RETRY_MAX_S: Final = 3600.0
"""How far it doubles."""

SeriesKey = tuple[str, str]
"""Study and Series Instance UID."""


@dataclass(kw_only=True, slots=True)
class _Known:
    """A file as it was last seen."""

    size: int
    mtime_ns: int
    ctime_ns: int
    uid: bytes = b""
    """Digest of the SOP Instance UID, once its slice is done."""
    failed: bool = False
    """Whether it was left out: then a change of its mode, too, is a reason to look again."""

    def is_unchanged(self, status: os.stat_result) -> bool:
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns) and (
            not self.failed or self.ctime_ns == status.st_ctime_ns
        )


@dataclass(kw_only=True, slots=True)
class _Folder:
    files: dict[str, _Known] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    found: SourceSlice | LeftOut
    since: float
    """When the file was last seen to change."""


@dataclass(kw_only=True, slots=True)
class _Retry:
    due: float
    delay_s: float


def is_temporary(name: str) -> bool:
    """Return whether a name says that its file is not finished, or not meant to be seen."""
    return name.startswith(".") or name.endswith("~") or name.lower().endswith(TEMPORARY)


class Arrivals:
    """What a watched folder holds."""

    def __init__(
        self,
        root: Path,
        *,
        settle_s: float,
        examine: Callable[[Path], SourceSlice | LeftOut] = examine_file,
        keep_private: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing yet.

        Parameters
        ----------
        root
            The folder.
        settle_s
            Seconds without a change that complete a series.
        examine
            Says what a regular file is.
        keep_private
            Files that differ in private elements are no repetitions.
        clock
            Tells seconds.
        """
        self._root, self._settle_s, self._clock = root, settle_s, clock
        self._examine, self._keep_private = examine, keep_private
        self._folders: dict[Path, _Folder] = {}
        self._waiting: dict[Path, _Waiting] = {}
        self._done: dict[bytes, Path] = {}
        self._retries: dict[Path, _Retry] = {}
        self._looked = False
        self._as_of = -float("inf")  # when the last look began: what followed is not known
        self.reachable = True
        """Whether the folder could be listed when it was last looked at."""

    @property
    def n_folders(self) -> int:
        """Folders that are looked into."""
        return len(self._folders)

    @property
    def n_waiting(self) -> int:
        """Files that are there and not dealt with."""
        return len(self._waiting)

    def look(
        self, folders: Collection[Path] | None, *, on_file: Callable[[], None] = lambda: None
    ) -> None:
        """See what changed.

        Parameters
        ----------
        folders
            Where; None means everywhere. What is new in them is looked at with all it contains.
        on_file
            Called before every file. What it raises ends the look.
        """
        self._as_of = self._clock()
        due = {path for path, retry in self._retries.items() if retry.due <= self._as_of}
        for path in due:
            self._retries[path].due = float("inf")
            if known := self._files(path.parent).get(path.name):
                known.size = -1
            else:
                del self._retries[path]
        if folders is None:
            self._look_into(self._root, on_file, deep=True)
            self._looked |= self.reachable
            return
        known_ones = {path for path in folders if path == self._root or path in self._folders}
        for folder in sorted(known_ones | {path.parent for path in due}):
            self._look_into(folder, on_file, deep=False)

    def _files(self, folder: Path) -> dict[str, _Known]:
        return self._folders[folder].files if folder in self._folders else {}

    def _look_into(self, folder: Path, on_file: Callable[[], None], *, deep: bool) -> None:
        waiting = [(folder, deep)]  # no recursion: folders can be nested deeper than the stack
        while waiting:
            one, deep = waiting.pop()
            new = self._look_at_entries(one, on_file, deep=deep)
            waiting += [(one / name, True) for name in reversed(new)]

    def _look_at_entries(
        self, folder: Path, on_file: Callable[[], None], *, deep: bool
    ) -> list[str]:
        """See what changed in one folder; return the names of those inside to be looked into."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        except OSError as exc:
            if folder == self._root:
                self.reachable = False  # unmounted, say: nothing of what is known is forgotten
            elif isinstance(exc, (FileNotFoundError, NotADirectoryError)):
                self._forget(folder)
            return []
        if folder == self._root:
            self.reachable = True
        known = self._folders.setdefault(folder, _Folder())
        files, inner = set(), []
        for entry in entries:
            if is_temporary(entry.name):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.name)
                    continue
                status = status_of(entry)
            except OSError:  # it went away since it was listed
                continue
            files.add(entry.name)
            before = known.files.get(entry.name)
            if before is None or not before.is_unchanged(status):
                on_file()
                self._add_file(known, folder / entry.name, status)
        for name in known.files.keys() - files:
            self._drop(folder / name, known.files.pop(name))
        for name in known.folders - set(inner):
            self._forget(folder / name)
        new = [name for name in inner if deep or name not in known.folders]
        known.folders = set(inner)
        return new

    def _add_file(self, folder: _Folder, path: Path, status: os.stat_result) -> None:
        """Take in a file that is new or has changed."""
        if before := folder.files.get(path.name):
            self._done.pop(before.uid, None)
        folder.files[path.name] = _Known(
            size=status.st_size, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns
        )
        since = self._clock()
        if not self._looked:  # what lay there for long need not come to rest
            changed = max(status.st_mtime, status.st_ctime)
            since = self._as_of - min(max(0.0, time.time() - changed), self._settle_s)
        found = (
            self._examine(path)
            if stat.S_ISREG(status.st_mode)
            else special_file(path, status.st_mode)
        )
        self._waiting[path] = _Waiting(found=found, since=since)

    def _drop(self, path: Path, known: _Known) -> None:
        self._waiting.pop(path, None)
        self._retries.pop(path, None)
        if self._done.get(known.uid) == path:
            del self._done[known.uid]

    def _forget(self, folder: Path) -> None:
        waiting = [folder]
        while waiting:
            one = waiting.pop()
            known = self._folders.pop(one, _Folder())
            for name, file in known.files.items():
                self._drop(one / name, file)
            waiting += [one / name for name in known.folders]

    def ready(
        self,
        *,
        at_most: int,
        held: Collection[SeriesKey] = (),
        alone: Collection[SeriesKey] = (),
    ) -> Scan | None:
        """Return what had come to rest at the last look, the oldest first; None if nothing had.

        Parameters
        ----------
        at_most
            Slices after which no further series is taken.
        held
            Series that are not to be taken.
        alone
            Series that are to be taken by themselves.
        """
        if not self._waiting:
            return None
        rested = self._as_of - self._settle_s
        left_out, by_series = self._by_series()
        last = {key: max(since for _, since in found) for key, found in by_series.items()}
        due = sorted((last[key], key) for key in last.keys() - set(held) if last[key] <= rested)
        if single := [key for _, key in due if key in alone]:
            due = [(last[single[0]], single[0])]
        slices: list[SourceSlice] = []
        for _, key in due:
            slices += [item for item, _ in by_series[key]]
            if sum(one.n_frames or 1 for one in slices) >= at_most:
                break
        left = [left for left, since in left_out if since <= rested]
        if not slices and not left:
            return None
        return self._without_repeats(slices, left)

    def _by_series(
        self,
    ) -> tuple[list[tuple[LeftOut, float]], dict[SeriesKey, list[tuple[SourceSlice, float]]]]:
        """Return what waits, with the time of its last change."""
        left_out: list[tuple[LeftOut, float]] = []
        by_series: defaultdict[SeriesKey, list[tuple[SourceSlice, float]]] = defaultdict(list)
        for one in self._waiting.values():
            if isinstance(one.found, LeftOut):
                left_out.append((one.found, one.since))
            else:
                by_series[key_of(one.found)].append((one.found, one.since))
        return left_out, by_series

    def _without_repeats(
        self, slices: Collection[SourceSlice], left_out: Iterable[LeftOut]
    ) -> Scan:
        """Sort slices into series; leave out what repeats, or contradicts, one that is done."""
        twins: list[SourceSlice] = []
        for one in slices:
            path = self._done.get(_digest(one.sop_instance_uid))
            if path is not None and path != one.path:
                twin = self._examine(path)
                if isinstance(twin, SourceSlice) and twin.sop_instance_uid == one.sop_instance_uid:
                    twins.append(twin)
        found = sort_into_series([*twins, *slices], left_out, keep_private=self._keep_private)
        if not twins:
            return found
        theirs = {twin.path for twin in twins}
        again = sort_into_series(
            [item for one in found.series for item in one.slices if item.path not in theirs], []
        )
        return Scan(
            series=again.series,
            left_out=tuple(one for one in found.left_out if one.path not in theirs),
        )

    def mark_done(self, path: Path, *, uid: str | None) -> None:
        """Note that a file is dealt with; `uid` is None if it was left out."""
        self._waiting.pop(path, None)
        if path in self._retries and self._retries[path].due == float("inf"):
            del self._retries[path]  # its last try was not in vain
        known = self._files(path.parent).get(path.name)
        if known is None:
            return
        known.failed = uid is None
        if uid is not None:
            known.uid = _digest(uid)
            self._done[known.uid] = path

    def schedule_retry(self, path: Path) -> bool:
        """Have a file that could not be read looked at later; return whether that is new."""
        before = self._retries.get(path)
        delay_s = RETRY_S if before is None else min(RETRY_MAX_S, 2 * before.delay_s)
        self._retries[path] = _Retry(due=self._clock() + delay_s, delay_s=delay_s)
        return before is None


def key_of(item: SourceSlice) -> SeriesKey:
    """Return what tells series apart."""
    return item.study_instance_uid, item.series_instance_uid


def _digest(uid: str) -> bytes:
    return hashlib.blake2b(uid.encode(), digest_size=16).digest()
