"""Changes to the spool's disk that survive `kill -9` and a power cut, one system call at a time.

Nothing else in this package changes what is on the disk. A rename is atomic, but neither it nor a
new file is on the disk before its folder is synced (rename(2), fsync(2)).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from kspacesr_rt.system import durability

PRIVATE_FOLDER: Final = 0o700
PRIVATE_FILE: Final = 0o600
"""A spool holds patients' images: nobody but its owner reads it."""
FULL_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FILE_LIMITS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What the system answers when it gives no further file or connection."""


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; a file system that cannot do that has no spool."""
    if not durability.sync_folder(folder):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def sync_tree(folder: Path) -> None:
    """Put the names in a folder, and in all folders below it, on the disk."""
    for parent, _, _ in os.walk(folder):
        sync_folder(Path(parent))


def make_folder(folder: Path, mode: int = PRIVATE_FOLDER) -> None:
    """Make a folder, and its name durable; one that exists is left alone."""
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return
    sync_folder(folder.parent)


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing as `Path.mkdir` does; all are durable."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            make_folder(parent, 0o777)
    make_folder(folder)


def write_new(path: Path, *content: bytes) -> None:
    """Write a file whose name was free, and its content durable; the name is not yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        for chunk in content:
            _write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_new(path: Path) -> int:
    """Open a file whose name was free, to be extended; return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)


def extend(descriptor: int, content: bytes) -> None:
    """Add to an open file."""
    _write_all(descriptor, content)


def sync_file(descriptor: int) -> None:
    """Put the content of an open file on the disk; its name is not yet."""
    os.fsync(descriptor)


def append(path: Path, content: bytes) -> None:
    """Add to a file, made if missing, and do not return before it is on the disk."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if fresh:
        sync_folder(path.parent)


def truncate(path: Path, n_bytes: int) -> None:
    """Cut the end of a file off."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, n_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder within the spool; afterwards the disk knows it by one name only."""
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def remove_file(path: Path) -> None:
    """Remove a file, should it be there."""
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it, should it be there; links are not followed."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    folder.rmdir()


def remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing."""
    folder.rmdir()


def n_bytes_below(folder: Path) -> int:
    """Return the bytes of the regular files below a folder; what vanishes meanwhile counts none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(Path(parent, name))
            except FileNotFoundError:
                continue
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
