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

from kspacesr_rt.errors import BackendUnavailableError, InputError, system_message

RESCAN_S: Final = 600.0
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
COUNTS: Final = 3
COUNT_AGAIN_S: Final = 0.2
"""Pause between two counts of folders, for those that come and go meanwhile."""
_CHANGES: Final = frozenset({"created", "modified", "closed", "moved", "deleted"})
"""Events that matter; opening and reading are notified too, and are what we do ourselves."""


class ChangeEvents(Protocol):
    """Tells which folders to look into; a context manager."""

    is_complete: bool
    """Whether nothing has changed where nothing was told; else nothing is known between looks."""

    def changed_folders(self) -> set[Path] | None:
        """Return the folders that changed since the last call; None means everything."""
        ...

    @property
    def lost(self) -> bool:
        """Whether notification has ended by itself."""
        ...

    def misses_folders(self, n_folders: int) -> bool:
        """Whether nothing is told of some of so many folders."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class PolledEvents:
    """Everything is looked at every so often."""

    is_complete = False
    lost = False

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._due = -float("inf")

    def misses_folders(self, n_folders: int) -> bool:
        """Return False: everything is looked at."""
        return False

    def changed_folders(self) -> set[Path] | None:
        """Return None when it is time to look, else nothing."""
        if self._clock() < self._due:
            return set()
        self._due = self._clock() + self._every_s
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class NotifiedEvents:
    """The system tells which folders change; everything is looked at now and then all the same."""

    is_complete = True

    def __init__(self, root: Path) -> None:
        """Prepare for a folder.

        Raises
        ------
        BackendUnavailableError
            Without watchdog.
        InputError
            If the folder is a network share.
        """
        with _limit_errors():
            self._observer, self._handler = _watchdog(self._note)
        if share := network_file_system(root):
            raise InputError(
                f"the folder is on a network share ({share}), which notifies of nothing that "
                "other machines do",
                hint="--poll 5 looks every five seconds",
            )
        self._root, self._identity = root, _identity(root)
        self._identified = PolledEvents(IDENTIFY_S)
        self._lock = threading.Lock()
        self._changed: set[Path] = set()
        self._rescan = PolledEvents(RESCAN_S)
        self._missed = PolledEvents(IDENTIFY_S)

    @property
    def lost(self) -> bool:
        """Whether nobody listens any more: a limit of the system's was met, or the folder is gone.

        Notification follows a folder that is renamed, and does not come back with a mount.
        """
        threads = (self._observer, *self._observer.emitters)
        if not all(thread.is_alive() for thread in threads):
            return True
        return (
            self._identified.changed_folders() is None and _identity(self._root) != self._identity
        )

    def misses_folders(self, n_folders: int) -> bool:
        """Return whether the system listens to fewer folders than there are.

        watchdog 7 says nothing when the system refuses to watch one more folder.
        """
        if self._missed.changed_folders() is not None:
            return False
        watched = n_inotify_watches()
        if watched is None or watched >= n_folders:
            return False
        watched, there = self._watched_and_all()  # `n_folders` may be from before some went
        return watched is not None and watched < there

    def changed_folders(self) -> set[Path] | None:
        """Return the folders that changed since the last call; None means everything."""
        with self._lock:
            changed, self._changed = self._changed, set()
        everything = self._rescan.changed_folders() is None
        return None if everything else changed

    def _note(self, event: Any) -> None:
        if event.event_type not in _CHANGES:
            return
        for place in (event.src_path, event.dest_path):
            if place:
                path = Path(os.fsdecode(place))
                with self._lock:
                    self._changed.add(path.parent)
                    if event.is_directory:
                        self._changed.add(path)

    def __enter__(self) -> Self:
        with _limit_errors():
            self._observer.schedule(self._handler, str(self._root), recursive=True)
            self._observer.start()
        n_watched, n_folders = self._watched_and_all()
        if n_watched is not None and n_watched < n_folders:
            self.__exit__()
            raise InputError(
                f"the system notifies of changes in {n_watched} of {n_folders} folders only",
                hint=POLL_HINT,
            )
        return self

    def _watched_and_all(self) -> tuple[int | None, int]:
        """Return how many folders are listened to, and how many there are."""
        attempt = 0
        while True:
            n_folders = sum(1 for _ in os.walk(self._root))
            n_watched = n_inotify_watches()
            attempt += 1
            if n_watched is None or n_watched >= n_folders or attempt == COUNTS:
                return n_watched, n_folders
            time.sleep(COUNT_AGAIN_S * attempt)

    def __exit__(self, *exc: object) -> None:
        self._observer.stop()
        self._observer.join()


@contextlib.contextmanager
def _limit_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"the system does not notify of changes: {system_message(exc)}", hint=POLL_HINT
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


def network_file_system(folder: Path) -> str | None:
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
