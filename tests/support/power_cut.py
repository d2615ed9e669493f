"""What a power cut leaves of a folder: what fsync was asked for, and nothing else.

A file holds what it held when it was last synced (nothing, if it never was), and a folder the names
it had when it was last synced. That is the least a POSIX system promises (fsync(2)): file systems
keep more, so a missing fsync is seen by no test that only looks at the disk. What file systems
with a journal promise beyond it, and no program could do without, can be asked for: a rename is on
the disk in both folders or in neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """Watches what is synced below a folder; all that stood there before is on the disk."""

    def __init__(self, root: Path, fsync=os.fsync, *, atomic_renames: bool = False) -> None:
        self.root = root
        self._fsync, self._rename = fsync, os.rename
        self._atomic = atomic_renames
        self._renames: list[tuple[tuple[int, str], tuple[int, str], int]] = []
        self._names: dict[int, dict[str, int]] = {}
        self._content: dict[int, bytes] = {}
        self._folders: set[int] = set()
        self._held: dict[int, int] = {}  # an inode that is open is not given to another file
        for place in (root, *root.rglob("*")):
            self._note(place)

    def fsync(self, descriptor: int) -> None:
        """Stand for `os.fsync`, which is called, and remember what is on the disk since."""
        self._fsync(descriptor)
        number = os.fstat(descriptor).st_ino
        for place in (self.root, *self.root.rglob("*")):
            if place.lstat().st_ino == number:
                self._note(place)
        for one in [one for one in self._renames if number in (one[0][0], one[1][0])]:
            (source, old), (target, new), moved = one
            if self._names.get(source, {}).get(old) == moved:
                del self._names[source][old]
            if number == source:
                self._names.setdefault(target, {})[new] = moved
            self._renames.remove(one)

    def rename(self, source: Path, target: Path) -> None:
        """Stand for `os.rename`, which is called."""
        folders = [self._number(Path(one).parent) for one in (source, target)]
        moved = self._number(Path(source))
        self._rename(source, target)
        if self._atomic:
            names = [Path(one).name for one in (source, target)]
            (before, after) = zip(folders, names, strict=True)
            self._renames.append((before, after, moved))

    def _note(self, place: Path) -> None:
        number = self._number(place)
        if number in self._folders:
            self._names[number] = {one.name: self._number(one) for one in place.iterdir()}
        else:
            self._content[number] = place.read_bytes()

    def _number(self, place: Path) -> int:
        number = place.lstat().st_ino
        if number not in self._held:
            self._held[number] = os.open(place, os.O_RDONLY)
            if place.is_dir():
                self._folders.add(number)
        return number

    def restore(self, target: Path) -> Path:
        """Write what a power cut at this moment would leave of the folder, and return where."""
        self._restore(self._number(self.root), target)
        return target

    def _restore(self, number: int, target: Path) -> None:
        if number not in self._folders:
            target.write_bytes(self._content.get(number, b""))
            return
        target.mkdir()
        for name, inner in self._names.get(number, {}).items():
            self._restore(inner, target / name)

    def close(self) -> None:
        """Let go of the files."""
        while self._held:
            os.close(self._held.popitem()[1])


@contextmanager
def watched(root: Path) -> Iterator[Disk]:
    """Watch a folder while a block runs."""
    disk = Disk(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.fsync)
        try:
            yield disk
        finally:
            disk.close()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a folder; None stands for a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
