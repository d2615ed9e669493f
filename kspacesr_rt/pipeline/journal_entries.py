"""What a journal's line notes, checked before it is believed, and what a source's file held.

A file is known again by its status: size, inode and both times, as git's index does it, so that a
run over finished work reads no file. Where the status differs (a folder was moved, a file was
touched), or is so young that a change might hide in it, the file's SHA-256 decides.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from kspacesr_rt.dicom.series_reader import LoadedSlice
from kspacesr_rt.errors import SliceFailed, failing_the_output
from kspacesr_rt.pipeline.report import SeriesRecord, SliceRecord, fields_of_slice
from kspacesr_rt.system.number_ranges import packed, unpacked

LINE_MAX: Final = 1 << 20
"""Bytes of a line, 1 MiB: what is longer is none of ours."""
RACY_NS: Final = 2_000_000_000
"""How coarse the times of a file system are at most, in ns (FAT: 2 s)."""
_CHECKED: Final = re.compile(rb',"crc":(\d{1,10})\}')


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """What a file was when it was looked at."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str = ""
    """Of its content; empty if that is not known."""
    seen_ns: int = 0
    """When its content was read, by the clock of this machine."""

    @classmethod
    def by_status(cls, status: os.stat_result) -> Self:
        """Return a state without the content."""
        return cls(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            inode=status.st_ino,
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        with path.open("rb") as file:
            seen_ns = time.time_ns()
            status = cls.by_status(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return dataclasses.replace(status, sha256=digest, seen_ns=seen_ns)

    @classmethod
    def of_loaded(cls, loaded: LoadedSlice) -> Self:
        """Return what a file was when it was loaded."""
        status = cls.by_status(loaded.status)
        return dataclasses.replace(status, sha256=loaded.sha256, seen_ns=loaded.seen_ns)

    def confirmed(self, path: Path) -> Self:
        """Look at a file that was used since; if it may have changed, only its status was known.

        Raises
        ------
        SliceFailed
            ``changed``: it has.
        """
        try:
            now = self.by_status(path.stat())
        except OSError:
            return dataclasses.replace(self, sha256="", seen_ns=0)
        now.require_unchanged(self)
        return self if now.looks_like(self) else dataclasses.replace(self, sha256="", seen_ns=0)

    def require_unchanged(self, was: FileState) -> None:
        """Refuse a file that was replaced while it was used; another ctime says nothing of that."""
        if (self.size, self.mtime_ns, self.inode) != (was.size, was.mtime_ns, was.inode):
            raise SliceFailed("changed", "the file was replaced while it was processed")

    @classmethod
    def read_after(cls, path: Path, before: os.stat_result) -> Self:
        """Read a file that was used since `before`; if it may have changed, only that is known.

        Raises
        ------
        SliceFailed
            ``changed``: it has.
        """
        was = cls.by_status(before)
        try:
            now = cls.read(path)
        except OSError:
            return was
        now.require_unchanged(was)
        return now if now.looks_like(was) else was

    def looks_like(self, other: FileState) -> bool:
        """Return whether two states agree as far as a status tells."""
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            other.size,
            other.mtime_ns,
            other.ctime_ns,
            other.inode,
        )

    @property
    def settled(self) -> bool:
        """Whether a later change must show in the status."""
        changed_ns = max(self.mtime_ns, self.ctime_ns)
        return bool(self.sha256) and changed_ns + RACY_NS < self.seen_ns


_STATE_FIELDS: Final = tuple(field.name for field in dataclasses.fields(FileState))


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """A finished slice."""

    source: str
    """SOP Instance UID."""
    state: FileState
    """Of the source's file."""
    n_bytes: int
    """Of the output."""
    output_sha256: str
    """Of the output; by parts where its pixels have a digest of their own, see
    `kspacesr_rt.dicom.content_digest`."""
    record: SliceRecord
    """What the report said."""
    source_digest: str = ""
    """Digest of what of the source reached the output; empty if it was not noted."""
    durable: bool = True
    """Whether the output was on the disk when it was noted; else it is read to be believed."""

    def as_line(self) -> bytes:
        """Return the line that notes it."""
        state = {name: getattr(self.state, name) for name in _STATE_FIELDS}
        digest: dict[str, Any] = {"told": self.source_digest} if self.source_digest else {}
        digest |= {} if self.durable else {"durable": False}
        return checked_line(
            {
                "source": self.source,
                **state,
                "bytes": self.n_bytes,
                "output_sha256": self.output_sha256,
                **digest,
                "record": _packed(fields_of_slice(self.record)),
            }
        )

    @classmethod
    def of_entry(cls, entry: dict[str, Any]) -> Self:
        """Return what a sound line tells; KeyError or TypeError if it is of another kind."""
        record = entry["record"]
        digest = entry.get("told", "")
        texts = (entry["source"], entry["output_sha256"], record["output"], digest)
        frames, matrix = record["n_frames"], record.get("matrix")
        if not all(isinstance(text, str) and "\0" not in text for text in texts) or not (
            (frames is None or isinstance(frames, int))
            and (matrix is None or (isinstance(matrix, list) and [*map(type, matrix)] == [int] * 2))
        ):
            raise TypeError("a line of a journal holds values of other kinds")
        return cls(
            source=entry["source"],
            state=FileState(**{name: entry[name] for name in _STATE_FIELDS}),
            n_bytes=entry["bytes"],
            output_sha256=entry["output_sha256"],
            record=SliceRecord(**_with_tuples(_unpacked(entry["record"]))),
            source_digest=digest,
            durable=entry.get("durable") is not False,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MapEntry:
    """A finished trust map."""

    series: str
    """Series Instance UID of the source."""
    matrix: tuple[int, int]
    """Stored rows and columns of the slices that it is about."""
    sources: str
    """Digest of what these slices said, see `digest_of_sources`."""
    calibration: str
    """Digest of the coefficients that it follows from."""
    output: str
    """Path relative to the output folder."""
    n_bytes: int
    """Of the output."""
    output_sha256: str
    """Of the output."""
    durable: bool = True
    """As of a slice."""

    def as_line(self) -> bytes:
        """Return the line that notes it."""
        return checked_line({"trust_map": dataclasses.asdict(self)})

    @classmethod
    def of_entry(cls, entry: dict[str, Any]) -> Self:
        """Return what a sound line tells; LookupError or TypeError if it is of another kind."""
        values = _with_tuples(entry["trust_map"])
        found = cls(**values)
        texts = (found.series, found.sources, found.calibration, found.output, found.output_sha256)
        if not (
            all(isinstance(text, str) and "\0" not in text for text in texts)
            and isinstance(found.matrix, tuple)
            and [*map(type, found.matrix)] == [int, int]
        ):
            raise TypeError("a line of a journal holds values of other kinds")
        return found


def digest_of_sources(noted: Iterable[JournalEntry]) -> str:
    """Return the SHA-256 of what the sources of some outputs said, whatever their order.

    What reached the output counts, where that was noted: else the file's content.
    """
    said = sorted((one.source, one.source_digest or one.state.sha256) for one in noted)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def series_of(records: list[dict[str, Any]]) -> list[SeriesRecord]:
    """Return what a sound line tells of a series."""
    return [SeriesRecord(**_with_tuples(one)) for one in records]


def checked_line(entry: dict[str, Any]) -> bytes:
    """Return a line of JSON that carries its own checksum."""
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b'%s,"crc":%d}\n' % (text[:-1], zlib.crc32(text))


def valid_entry(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None if it is torn, altered or none of ours."""
    line = line.strip(b"\n")
    found = _CHECKED.search(line, max(0, len(line) - 32))
    if found is None or found.end() != len(line):
        return None
    text = line[: found.start()] + b"}"
    if zlib.crc32(text) != int(found[1]):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def places_of_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its place; what is longer than any of ours is passed over."""
    place = file.tell()
    while line := file.readline(LINE_MAX):
        if line.endswith(b"\n") or len(line) < LINE_MAX:
            yield place, line
        else:
            while (rest := file.readline(LINE_MAX)) and not rest.endswith(b"\n"):
                pass
        place = file.tell()


def open_journal(path: Path) -> BinaryIO:
    """Open a journal to read it.

    Raises
    ------
    OutputError
        If that is not possible; it says what to remove.
    """
    with reading_journal(path):
        # No FIFO is opened: that would wait for ever.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return path.open("rb")


@contextmanager
def reading_journal(path: Path) -> Iterator[None]:
    """Say of a journal that cannot be read what to do about it."""
    what = f"{path.parent.name}/{path.name} in the output folder cannot be read"
    hint = "remove it: slices that were finished are found again, at the cost of time"
    with failing_the_output(what, hint):
        yield


def _packed(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a record as a line has them: of very many frames it stays short."""
    frames = record.pop("flagged_frames")
    if frames:
        record["flagged_frames"] = {flag: packed(numbers) for flag, numbers in frames.items()}
    return record


def _unpacked(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `_packed` as a record takes them; TypeError if they are of other kinds.

    Lines of earlier versions have no frames.
    """
    if "flagged_frames" not in record:
        return record
    try:
        frames = {
            flag: unpacked(numbers, largest=record["n_frames"])
            for flag, numbers in record["flagged_frames"].items()
        }
    except (AttributeError, ValueError) as exc:
        raise TypeError("a line of a journal holds values of other kinds") from exc
    return record | {"flagged_frames": frames}


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON made of a record with its tuples as tuples again."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
