"""What is on the disk, and not only in the system's memory: files, and the names in folders.

A file is on the disk once it was synced, and its name once its folder was (fsync(2)). `syncfs` and
`sync_file_range` are no proof: the first does not wait on every file system, the second writes
neither what tells where the data lie nor what the disk itself keeps in memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

Durability = Literal["file", "batch", "none"]
"""When outputs are synced: each by itself, a group of them together, or when the system likes."""
SIDE_BY_SIDE: Final = 4
"""Files that are synced at a time: the system then writes its own journal once for several.
Measured on ext4, 32 files of 0.5 MB: 1.8 to 3.9 ms a file, one after the other 2.0 to 8.1 ms."""
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
"""What `fsync` of a folder fails with where a file system (SMB, some of FUSE) has no such thing."""


def sync_folder(folder: Path) -> bool:
    """Put the names in a folder on the disk.

    Returns
    -------
        False if its file system, or the system, knows no such thing.

    Raises
    ------
    OSError
        If it cannot be done: the disk is failing, say.
    """
    if os.name == "nt":
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def sync_file(path: Path) -> None:
    """Put the content of a file on the disk, whoever wrote it."""
    # Windows syncs nothing that was not opened to be written.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_above(folder: Path) -> None:
    """Put the name of a folder on the disk, and those of all above it that may be new."""
    for parent in folder.parents:
        if parent.stat().st_dev != folder.stat().st_dev:
            return  # of a file system that was there before
        with suppress(PermissionError):  # what may not be read was not made by us
            sync_folder(parent)


def folders_up_to(paths: Iterable[Path], root: Path) -> list[Path]:
    """Return the folders of files below a root, and those between it and them; the root last."""
    return sorted({one for path in paths for one in _between(path, root)}, reverse=True)


def _between(path: Path, root: Path) -> Iterator[Path]:
    for parent in path.parents:
        yield parent
        if parent == root:
            return


def sync_all(descriptors: Iterable[int], pool: ThreadPoolExecutor) -> list[OSError | None]:
    """Put the content of open files on the disk, some at a time.

    Parameters
    ----------
    descriptors
        Of the files.
    pool
        Threads that help.

    Returns
    -------
        What the system said of each; None: it is on the disk.
    """
    waiting = list(descriptors)
    shares = [waiting[first::SIDE_BY_SIDE] for first in range(min(SIDE_BY_SIDE, len(waiting)))]
    results: list[OSError | None] = [None] * len(waiting)
    for first, errors in enumerate(pool.map(_synced, shares)):
        results[first::SIDE_BY_SIDE] = errors
    return results


def _synced(descriptors: list[int]) -> list[OSError | None]:
    errors: list[OSError | None] = []
    for descriptor in descriptors:
        try:
            os.fsync(descriptor)
            errors.append(None)
        except OSError as exc:
            errors.append(exc)
    return errors
