"""A disk behind a write-back cache that is lost: every state that POSIX lets a power cut leave.

What a program does below a folder is recorded, call by call, by standing for the functions of `os`
that change a disk; those are called, too. What a power cut after any of the calls may leave is put
together afterwards. Only `fsync` promises anything, and to the file or folder alone that it is
called for: what was written since may be there, or half of it, or nothing; each name that was made,
moved or taken away since may be as it was or as it is, whatever else happened before or after. What
other processes have made is met when the program syncs it or gives it a name.
"""

from __future__ import annotations

import copy
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

Tree = dict[str, bytes]
"""Content of every file below a folder, by its name relative to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Something that changes a disk, or that the program says."""

    kind: str
    """``write``, ``sync``, ``name``, ``unname`` or ``said``."""
    number: int = 0
    """Inode of the file that is written or synced, or of the folder whose names change."""
    name: str = ""
    """That is changed; of ``said``: what."""
    inner: int = 0
    """Inode that gets the name."""
    content: bytes = b""
    """Of the whole file then, where it is written or synced."""


@dataclass(slots=True)
class _File:
    safe: bytes = b""
    current: bytes = b""


@dataclass(slots=True)
class _Folder:
    safe: dict[str, int] = field(default_factory=dict)
    pending: list[Call] = field(default_factory=list)


class Recorder:
    """Records what happens below a folder.

    All that stood there before is on the disk; or nothing of it, if not `on_disk`.
    """

    def __init__(self, root: Path, *, on_disk: bool = True) -> None:
        self.root, self.calls = root, []
        self._lock = threading.RLock()
        self._folders: set[int] = set()
        self._held: dict[int, int] = {}  # an inode that is open is not given to another file
        self.top = self._number(root)
        self._start: dict[int, _File | _Folder] = {self.top: _Folder()}
        for place in sorted(root.rglob("*")):
            number, above = self._number(place), self._start[self._number(place.parent)]
            content = b"" if place.is_dir() else place.read_bytes()
            safe = content if on_disk else b""
            self._start[number] = _Folder() if place.is_dir() else _File(safe, content)
            assert isinstance(above, _Folder)
            if on_disk:
                above.safe[place.name] = number
            else:
                above.pending.append(Call(kind="name", name=place.name, inner=number))

    def say(self, text: str) -> None:
        """Note what the program says, at the moment that it says so."""
        with self._lock:
            self.calls.append(Call(kind="said", name=text))

    def _number(self, place: Path) -> int:
        number = os.lstat(place).st_ino
        if number not in self._held:
            self._held[number] = _OPEN(place, os.O_RDONLY)
            if place.is_dir():
                self._folders.add(number)
        return number

    def _is_below(self, place: Path) -> bool:
        return self.root in Path(place).parents

    def _find(self, place: Path) -> None:
        """Note what another process has made, as if it were made now: it has not synced it."""
        for one in (*reversed(place.parents), place):
            if self._is_below(one) and os.lstat(one).st_ino not in self._held:
                number = self._number(one)
                self._name(one, number)
                if number not in self._folders:
                    content = one.read_bytes()
                    self.calls.append(Call(kind="write", number=number, content=content))

    def _name(self, path: Path, inner: int) -> None:
        folder = self._number(Path(path).parent)
        self.calls.append(Call(kind="name", number=folder, name=Path(path).name, inner=inner))

    def _unname(self, path: Path) -> None:
        folder = self._number(Path(path).parent)
        self.calls.append(Call(kind="unname", number=folder, name=Path(path).name))

    def open(self, path, flags, mode=0o777, **more):
        """Stand for `os.open`."""
        with self._lock:
            made = bool(flags & os.O_CREAT) and self._is_below(path) and not os.path.lexists(path)
            descriptor = _OPEN(path, flags, mode, **more)
            if made:
                self._name(path, self._number(Path(path)))
            return descriptor

    def io_open(self, file, mode="r", *args, **more):
        """Stand for `io.open`, by which `Path.open` makes files."""
        with self._lock:
            made = (
                "r" not in mode
                and isinstance(file, os.PathLike)
                and self._is_below(file)
                and not os.path.lexists(file)
            )
            opened = _IO_OPEN(file, mode, *args, **more)
            if made:
                self._name(file, self._number(Path(file)))
            return opened

    def write(self, descriptor, content):
        """Stand for `os.write`."""
        with self._lock:
            done = _WRITE(descriptor, content)
            self._changed("write", descriptor)
            return done

    def fsync(self, descriptor):
        """Stand for `os.fsync`; the disk of the machine need not be waited for."""
        with self._lock:
            self._changed("sync", descriptor)

    def _changed(self, kind: str, descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        if number not in self._held and kind == "sync":
            self._find(Path(f"/proc/self/fd/{descriptor}").readlink())
        if number in self._held:
            held = self._held[number]
            size = 0 if number in self._folders else os.fstat(held).st_size
            content = os.pread(held, size, 0) if size else b""
            self.calls.append(Call(kind=kind, number=number, content=content))

    def link(self, source, target, **more):
        """Stand for `os.link`."""
        with self._lock:
            self._find(Path(source))
            _LINK(source, target, **more)
            if self._is_below(target):
                self._name(target, self._number(Path(target)))

    def replace(self, source, target, **more):
        """Stand for `os.replace` and `os.rename`."""
        with self._lock:
            self._find(Path(source))
            moved = self._number(Path(source))
            _REPLACE(source, target, **more)
            if self._is_below(target):
                self._name(target, moved)
                self._unname(source)

    def mkdir(self, path, mode=0o777, **more):
        """Stand for `os.mkdir`."""
        with self._lock:
            _MKDIR(path, mode, **more)
            if self._is_below(path):
                self._name(path, self._number(Path(path)))

    def unlink(self, path, **more):
        """Stand for `os.unlink` and `os.rmdir`."""
        with self._lock:
            (_RMDIR if Path(path).is_dir() else _UNLINK)(path, **more)
            if self._is_below(path):
                self._unname(path)

    def close(self) -> None:
        """Let go of the files."""
        while self._held:
            os.close(self._held.popitem()[1])

    def states(self, rng: random.Random, *, each: int) -> Iterator[tuple[list[str], Tree]]:
        """Yield what the program had said, and what a power cut may leave, after every call.

        Parameters
        ----------
        rng
            Draws what of the cache was written.
        each
            States after each call, beside the two in which nothing was, and everything.
        """
        files = copy.deepcopy(self._start)
        said: list[str] = []
        for call in self.calls:
            if call.kind == "said":
                said.append(call.name)
                continue  # the last change is followed by states already, the next one will be
            self._apply(files, call)
            for draw in (lambda: 0.0, lambda: 1.0, *[rng.random] * each):
                yield list(said), self._left(files, draw)
        for draw in (lambda: 0.0, lambda: 1.0, *[rng.random] * each):
            yield list(said), self._left(files, draw)

    def _apply(self, files: dict[int, _File | _Folder], call: Call) -> None:
        if call.kind in ("name", "unname"):
            folder = files.setdefault(call.number, _Folder())
            assert isinstance(folder, _Folder)
            folder.pending.append(call)
            return
        one = files.setdefault(call.number, self._new(call.number))
        if isinstance(one, _File):
            one.current = call.content
            one.safe = call.content if call.kind == "sync" else one.safe
        elif call.kind == "sync":
            for pending in one.pending:
                _rename(one.safe, pending)
            one.pending.clear()

    def _new(self, number: int) -> _File | _Folder:
        return _Folder() if number in self._folders else _File()

    def _left(self, files: dict[int, _File | _Folder], draw: Callable[[], float]) -> Tree:
        tree: Tree = {}
        self._collect(files, self.top, "", draw, tree)
        return tree

    def _collect(self, files, number, prefix, draw, tree) -> None:
        one = files[number]
        names = dict(one.safe)
        for pending in one.pending:
            if draw() >= 0.5:
                _rename(names, pending)
        for name, inner in names.items():
            what = files.setdefault(inner, self._new(inner))
            if isinstance(what, _Folder):
                self._collect(files, inner, f"{prefix}{name}/", draw, tree)
            else:
                tree[prefix + name] = _some_of(what, draw())


def _some_of(file: _File, drawn: float) -> bytes:
    """Return what was synced; and half of what came since, or zeros for its other half, or all."""
    if drawn < 0.3 or file.current == file.safe:
        return file.safe
    if drawn >= 0.7:
        return file.current
    same = len(file.safe) if file.current.startswith(file.safe) else 0
    half = file.current[: same + (len(file.current) - same) // 2]
    return half if drawn < 0.5 else half.ljust(len(file.current), b"\0")


def _rename(names: dict[str, int], call: Call) -> None:
    if call.kind == "name":
        names[call.name] = call.inner
    else:
        names.pop(call.name, None)


_OPEN, _WRITE, _LINK, _REPLACE = os.open, os.write, os.link, os.replace
_MKDIR, _UNLINK, _RMDIR, _IO_OPEN = os.mkdir, os.unlink, os.rmdir, io.open


@contextmanager
def recorded(root: Path, *, on_disk: bool = True) -> Iterator[Recorder]:
    """Record what happens below a folder while a block runs."""
    recorder = Recorder(root, on_disk=on_disk)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "write", "fsync", "link", "replace", "mkdir", "unlink"):
            patch.setattr(os, name, getattr(recorder, name))
        patch.setattr(os, "rename", recorder.replace)
        patch.setattr(os, "rmdir", recorder.unlink)
        patch.setattr(io, "open", recorder.io_open)
        try:
            yield recorder
        finally:
            recorder.close()


def written(tree: Tree, folder: Path) -> Path:
    """Write a state to a disk, and return where."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
