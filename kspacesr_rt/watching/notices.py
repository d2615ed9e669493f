"""What says that a folder has changed: the system's notifications, or a clock."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, Self

from kspacesr_rt.errors import BackendUnavailableError, InputError, system_says

LOOK_ANYWAY_S: Final = 600.0
"""How often everything is looked at although nothing was notified: queues overflow."""
IDENTIFY_S: Final = 2.0
"""How often it is asked whether the folder is still the one that is listened to."""
SHARES: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "lustre", "glusterfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "beegfs", "gpfs"}
)
"""File systems whose changes on other machines are notified to nobody."""
POLL_HINT: Final = (
    "--poll 5 looks every five seconds; or raise fs.inotify.max_user_watches and "
    "fs.inotify.max_user_instances (sysctl)"
)
COUNT_AGAIN_S: Final = 0.2
"""Pause between two counts of folders, for those that come and go meanwhile."""
_CHANGES: Final = frozenset({"created", "modified", "closed", "moved", "deleted"})
"""Events that matter; opening and reading are notified too, and are what we do ourselves."""


class Notices(Protocol):
    """Tells which folders to look into; a context manager."""

    certain: bool
    """Whether nothing has changed where nothing was told; else nothing is known between looks."""

    def taken(self) -> set[Path] | None:
        """Return the folders that changed since the last call; None means everything."""
        ...

    @property
    def lost(self) -> bool:
        """Whether notification has ended by itself."""
        ...

    def misses_some(self, n_folders: int) -> bool:
        """Whether nothing is told of some of so many folders."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Polled:
    """Everything is looked at every so often."""

    certain = False
    lost = False

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._due = -float("inf")

    def misses_some(self, n_folders: int) -> bool:
        """Return False: everything is looked at."""
        return False

    def taken(self) -> set[Path] | None:
        """Return None when it is time to look, else nothing."""
        if self._clock() < self._due:
            return set()
        self._due = self._clock() + self._every_s
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class Notified:
    """The system tells which folders change; everything is looked at now and then all the same."""

    certain = True

    def __init__(self, root: Path) -> None:
        """Prepare for a folder.

        Raises
        ------
        BackendUnavailableError
            Without watchdog.
        InputError
            If the folder is a network share.
        """
        with _told_limits():
            self._observer, self._handler = _watchdog(self._note)
        if share := share_of(root):
            raise InputError(
                f"the folder is on a network share ({share}), which notifies of nothing that "
                "other machines do",
                hint="--poll 5 looks every five seconds",
            )
        self._root, self._identity = root, _identity(root)
        self._identified = Polled(IDENTIFY_S)
        self._lock = threading.Lock()
        self._changed: set[Path] = set()
        self._anyway = Polled(LOOK_ANYWAY_S)
        self._missed = Polled(IDENTIFY_S)

    @property
    def lost(self) -> bool:
        """Whether nobody listens any more: a limit of the system's was met, or the folder is gone.

        Notification follows a folder that is renamed, and does not come back with a mount.
        """
        threads = (self._observer, *self._observer.emitters)
        if not all(thread.is_alive() for thread in threads):
            return True
        return self._identified.taken() is None and _identity(self._root) != self._identity

    def misses_some(self, n_folders: int) -> bool:
        """Return whether the system listens to fewer folders than there are.

        watchdog 7 says nothing when the system refuses to watch one more folder.
        """
        if self._missed.taken() is not None:
            return False
        watched = n_inotify_watches()
        if watched is None or watched >= n_folders:
            return False
        watched, there = self._watched_of_all()  # `n_folders` may be from before some went
        return watched is not None and watched < there

    def taken(self) -> set[Path] | None:
        """Return the folders that changed since the last call; None means everything."""
        with self._lock:
            changed, self._changed = self._changed, set()
        everything = self._anyway.taken() is None
        return None if everything else changed

    def _note(self, event: Any) -> None:
        if event.event_type not in _CHANGES:
            return
        for told in (event.src_path, event.dest_path):
            if told:
                path = Path(os.fsdecode(told))
                with self._lock:
                    self._changed.add(path.parent)
                    if event.is_directory:
                        self._changed.add(path)

    def __enter__(self) -> Self:
        with _told_limits():
            self._observer.schedule(self._handler, str(self._root), recursive=True)
            self._observer.start()
        n_watched, n_folders = self._watched_of_all()
        if n_watched is not None and n_watched < n_folders:
            self.__exit__()
            raise InputError(
                f"the system notifies of changes in {n_watched} of {n_folders} folders only",
                hint=POLL_HINT,
            )
        return self

    def _watched_of_all(self) -> tuple[int | None, int]:
        """Return how many folders are listened to, and how many there are."""
        for attempt in range(3):
            time.sleep(COUNT_AGAIN_S * attempt)
            n_folders = sum(1 for _ in os.walk(self._root))
            n_watched = n_inotify_watches()
            if n_watched is None or n_watched >= n_folders:
                break
        return n_watched, n_folders

    def __exit__(self, *exc: object) -> None:
        self._observer.stop()
        self._observer.join()


@contextlib.contextmanager
def _told_limits() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"the system does not notify of changes: {system_says(exc)}", hint=POLL_HINT
        ) from exc


def n_inotify_watches() -> int | None:
    """Return how many files and folders this process has inotify watch; None if that is unknown."""
    total, found = 0, False
    try:
        for link in Path("/proc/self/fd").iterdir():
            try:
                if str(link.readlink()) != "anon_inode:inotify":
                    continue
                lines = Path("/proc/self/fdinfo", link.name).read_text().splitlines()
            except OSError:  # closed since
                continue
            found = True
            total += sum(line.startswith("inotify ") for line in lines)
    except OSError:
        return None
    return total if found else None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _watchdog(note: Callable[[Any], None]) -> tuple[Any, Any]:
    try:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer
    except ImportError as exc:
        raise BackendUnavailableError(
            "notification of changes needs the package 'watchdog'",
            hint="pip install 'kspacesr-rt[watch]', or look every five seconds with --poll 5",
        ) from exc

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: Any) -> None:
            note(event)

    return Observer(), Handler()


def share_of(folder: Path) -> str | None:
    """Return the type of the network file system that a folder is on; None on a local one.

    Known on Linux only.
    """
    if not sys.platform.startswith("linux"):
        return None
    place = folder.resolve()
    found = (0, "")
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].replace("\\040", " "))
        if place.is_relative_to(mounted):
            found = max(found, (len(mounted.parts), after.split()[0]))
    return found[1] if found[1] in SHARES else None
