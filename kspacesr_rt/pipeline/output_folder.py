"""The output folder of a run: whose it is, with what parameters, and what is done already.

``manifest.json`` says with what parameters everything in the folder was made. Below
``.kspacesr-rt`` lie a lock, which keeps a second run out, and journals: a line for every finished
slice, written after the slice has its final name. A run that was killed is completed by running it
again: what a journal tells, and what still stands there, is not computed once more.

What a line says is on the disk before the line is, and the line before the slice is reported:
`kspacesr_rt.pipeline.group_commit`. A run that leaves that to the system says so in a line of its
own before it writes an output, and in each line: such outputs are read before they are believed.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import stat
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from kspacesr_rt._version import __version__
from kspacesr_rt.dicom import Derivation, SourceSlice
from kspacesr_rt.dicom.content_digest import digest_of_file
from kspacesr_rt.dicom.store import (
    MANIFEST_NAME,
    STATE_FOLDER,
    UNUSABLE,
    WRITABLE,
    remove_leftovers,
)
from kspacesr_rt.errors import (
    OutputError,
    RunMismatchError,
    SliceError,
    failing_the_output,
    system_message,
)
from kspacesr_rt.pipeline.input_files import digest_of_source
from kspacesr_rt.pipeline.journal_entries import (
    LINE_MAX,
    FileState,
    JournalEntry,
    MapEntry,
    checked_line,
    open_journal,
    places_of_lines,
    reading_journal,
    series_of,
    valid_entry,
)
from kspacesr_rt.pipeline.report import SeriesRecord, SliceRecord
from kspacesr_rt.runtime.backends import backend_names
from kspacesr_rt.system.durability import folders_up_to, sync_above, sync_file, sync_folder
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.volumes.output_files import standing_files

SCHEMA: Final = 2
"""1: UIDs followed the pixels alone, and lines of the journal had no checksum."""
LOCK: Final = "lock"
USUAL_PARAMETERS: Final[Mapping[str, str]] = {
    "sample_grid": "kspace",
    "plane": "auto",
    "tier": "exact",
    "on_outside": "warn",
}
"""Values with which a manifest leaves these parameters out."""
SHOWN_MAX: Final = 80
"""Characters of a parameter in a message."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DIGITS_SHOWN: Final = 12
LINE_READ: Final = 4096
"""Bytes that are read for a line at a time; most are shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a folder's outputs have in common."""

    parameters: Mapping[str, Any]
    """JSON values: everything that changes what is written, or what of the input is taken."""
    run_salt: str
    """What random UIDs hang on, so that a resumed run draws the same ones again."""
    version: str = __version__
    """Of this package: another one may round differently."""

    @classmethod
    def of_folder(cls, folder: Path) -> Manifest | None:
        """Read a folder's manifest; None if it has none.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        path = folder / MANIFEST_NAME
        try:
            if not stat.S_ISREG(path.lstat().st_mode):  # a FIFO would be waited for
                raise _unusable("is another kind of file")
            stored = json.loads(path.read_bytes())
            schema, parameters = stored["schema"], stored["parameters"]
            run_salt, version = stored["run_salt"], stored["version"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
            raise _unusable("cannot be read") from exc
        if type(schema) is not int or not isinstance(parameters, dict):
            raise _unusable("cannot be read")
        if not (isinstance(run_salt, str) and isinstance(version, str)):
            raise _unusable("cannot be read")
        if schema != SCHEMA:
            raise _unusable(f"is of schema {str(schema)[:9]}, not {SCHEMA}")
        return cls(parameters=parameters, run_salt=run_salt, version=version)

    def require_same(self, parameters: Mapping[str, Any]) -> None:
        """Refuse to mix outputs.

        Raises
        ------
        RunMismatchError
            If the parameters or the version of this package are others; the message names them.
        """
        mine = {**self.parameters, "version": self.version}
        theirs = {**parameters, "version": __version__}
        other = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if other:
            if "model" in other:  # whose digests say nothing that its name does not
                other = [name for name in other if not name.endswith("sha256")]
            other.sort(key=lambda name: name.endswith("sha256"))  # what a user has chosen first
            changes = ", ".join(
                f"{_shown(name)} ({_value(mine, name)}, now {_value(theirs, name)})"
                for name in other
            )
            raise RunMismatchError(
                f"the output folder holds a run with other parameters: {changes}",
                hint=_hint_of_mismatch(self.parameters, other),
            )

    def save(self, folder: Path) -> None:
        """Write it."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        replace_file(folder / MANIFEST_NAME, (json.dumps(document, indent=1) + "\n").encode())


def _value(parameters: Mapping[str, Any], name: str) -> str:
    """Return a parameter for a message: the usual one where it was left out."""
    return _shown(parameters.get(name, USUAL_PARAMETERS.get(name)))


class Journal:
    """What is finished in an output folder, and where to note what follows.

    Lines stay on the disk; in memory is where they stand, some hundred bytes a slice. A line that
    is torn or altered is no line: its slice is done again, and found to be there.
    """

    def __init__(
        self,
        folder: Path,
        writer: str = "",
        *,
        derivation: Derivation | None = None,
        collected: bool = False,
        verify: bool = False,
        durable: bool = True,
    ) -> None:
        """Read what earlier runs noted.

        Parameters
        ----------
        folder
            The output folder.
        writer
            Hexadecimal digits of a process beside others: each has a journal of its own, since
            appending is not atomic on NFS.
        derivation
            What makes the outputs: a source whose file was changed in nothing that reaches its
            output is known again by it. None: only by its bytes.
        collected
            Outputs are taken away once they stand: one that is missing is done all the same.
        verify
            Outputs are read, and compared with the digest that was noted of them.
        durable
            What is noted is on the disk; False: whenever the system likes.

        Raises
        ------
        OutputError
            If a journal cannot be read; it says what to remove.
        """
        self._derivation, self._collected, self._verify = derivation, collected, verify
        self._durable = durable
        self.may_lose = not durable
        """Whether a power cut may have taken from outputs here what no journal tells."""
        self._lock = threading.RLock()
        self._torn = self._named = False
        self._root, self._folder = folder, folder / STATE_FOLDER
        self._path = self._folder / f"journal{writer and '-'}{writer}.jsonl"
        self._places: dict[int, list[_Place]] = {}  # of lines, by source
        self._series: dict[str, list[dict[str, Any]]] = {}
        self._maps: dict[str, list[MapEntry]] = {}  # by source series, the latest last
        self._outputs: set[int] = set()
        self._verified: set[str] = set()
        self._source_digests: dict[tuple[str, Any], str] = {}  # by content and matrix
        self._files: dict[Path, int] = {}
        self._file: int | None = None
        weakref.finalize(self, _close_all, self._files)
        with failing_the_output(UNUSABLE, WRITABLE):
            for path in sorted(self._folder.glob("journal*.jsonl")):
                self._read(path)

    def _read(self, path: Path) -> None:
        with open_journal(path) as file, reading_journal(path):
            for place, line in places_of_lines(file):
                entry = valid_entry(line)
                with suppress(LookupError, TypeError):
                    if entry is None:
                        continue
                    if "durability" in entry:
                        self.may_lose = True
                    elif "trust_map" in entry:
                        self._take_map(MapEntry.of_entry(entry))
                    elif "series" in entry:
                        self._series[entry["series"]] = entry["records"]
                    else:
                        self._take(JournalEntry.of_entry(entry), (path, place))

    def _take(self, noted: JournalEntry, place: _Place) -> None:
        """Know where a line stands; it replaces those that say the same of its source."""
        self._outputs.add(_key(noted.record.output))
        places = self._places.setdefault(_key(noted.source), [])
        said = (noted.source, noted.state.sha256, noted.record.output)
        for earlier in list(places):
            entry = self._entry_at(earlier)
            if entry is None or (entry.source, entry.state.sha256, entry.record.output) == said:
                places.remove(earlier)
        places.append(place)

    def _take_map(self, noted: MapEntry) -> None:
        self._outputs.add(_key(noted.output))
        others = [one for one in self._maps.get(noted.series, ()) if one.output != noted.output]
        self._maps[noted.series] = [*others, noted]

    def _entry_at(self, place: _Place) -> JournalEntry | None:
        path, offset = place
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        os.lseek(file, offset, os.SEEK_SET)
        line = b""
        while b"\n" not in line and len(line) < LINE_MAX and (more := os.read(file, LINE_READ)):
            line += more
        entry = valid_entry(line[: line.find(b"\n") + 1 or len(line)])
        with suppress(LookupError, TypeError):
            return None if entry is None else JournalEntry.of_entry(entry)
        return None

    def __bool__(self) -> bool:
        return bool(self._places)

    def has_output(self, output: str) -> bool:
        """Return whether an output, relative to the folder, was noted of some source."""
        return _key(output) in self._outputs

    def entries_of(self, source_uid: str) -> list[JournalEntry]:
        """Return what was noted of a source, once for each content that it had; latest last."""
        with failing_the_output(UNUSABLE, WRITABLE), self._lock:
            entries = [self._entry_at(place) for place in self._places.get(_key(source_uid), ())]
            return [one for one in entries if one is not None and one.source == source_uid]

    def all_entries(self) -> Iterator[JournalEntry]:
        """Yield everything that was noted of any source."""
        with failing_the_output(UNUSABLE, WRITABLE):
            with self._lock:
                every = [place for places in self._places.values() for place in places]
            for place in every:
                with self._lock:
                    entry = self._entry_at(place)
                if entry is not None:
                    yield entry

    def trust_maps(self, series_uid: str) -> list[MapEntry]:
        """Return what was noted of the trust maps of a source series; latest last."""
        return list(self._maps.get(series_uid, ()))

    def all_trust_maps(self) -> Iterator[MapEntry]:
        """Yield everything that was noted of any trust map."""
        yield from [one for every in self._maps.values() for one in every]

    def stands(self, noted: MapEntry) -> bool:
        """Return whether a trust map stands as it was noted."""
        return self._stands_as(noted.output, noted.n_bytes, noted.output_sha256, noted.durable)

    def match(self, source: SourceSlice) -> JournalEntry | None:
        """Return what was noted of a source with what its file says now.

        Its bytes may be others, if nothing that reaches the output has changed.
        """
        noted = self.entries_of(source.sop_instance_uid)
        if not noted:
            return None
        try:
            now = FileState.by_status(source.path.stat())
            alike = [one for one in noted if one.state.looks_like(now)]
            if len({one.state.sha256 for one in alike}) == 1 and alike[-1].state.settled:
                return alike[-1]
            now = FileState.read(source.path)
            same = [one for one in noted if one.state.sha256 == now.sha256]
            same = same or [one for one in noted if self._has_same_content(source, now, one)]
        except OSError:
            return None
        if not same:
            return None
        moved = dataclasses.replace(same[-1], state=now)
        if not (now.looks_like(same[-1].state) and same[-1].state.settled):
            self._note(moved)  # so that it is known by its status the next time
        return moved

    def _has_same_content(self, source: SourceSlice, now: FileState, noted: JournalEntry) -> bool:
        """Return whether a file says what was noted, in other bytes."""
        matrix = noted.record.matrix
        if self._derivation is None or matrix is None or not noted.source_digest:
            return False
        key = now.sha256, matrix
        if key not in self._source_digests:
            try:
                digest = digest_of_source(source, self._derivation, matrix)
            except SliceError:
                digest = ""  # what is wrong with it is found out when it is processed
            if FileState.read(source.path).sha256 != now.sha256:
                return False  # it changes under our eyes
            self._source_digests[key] = digest
        return self._source_digests[key] == noted.source_digest

    def find(self, source: SourceSlice) -> SliceRecord | None:
        """Return what was noted of a source, if it says what it said and its output stands.

        What an earlier run left to the system is brought to the disk, unless this one does so, too.
        """
        noted = self.match(source)
        if noted is None or not self._is_intact(noted):
            return None
        if self._durable and not noted.durable:
            with failing_the_output(UNUSABLE, WRITABLE):
                path = self._root / noted.record.output
                sync_file(path)
                for folder in folders_up_to([path], self._root):
                    sync_folder(folder)
            self.add(dataclasses.replace(noted, durable=True))
        return dataclasses.replace(noted.record, outcome="present")

    def _is_intact(self, noted: JournalEntry) -> bool:
        output = noted.record.output
        return self._stands_as(output, noted.n_bytes, noted.output_sha256, noted.durable)

    def _stands_as(self, output: str, n_bytes: int, sha256: str, durable: bool) -> bool:
        path = self._root / output
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != n_bytes:
                return False
            believed = durable and not self._verify
            if not believed and output not in self._verified:
                if digest_of_file(path, alike=sha256) != sha256:
                    return False
                self._verified.add(output)
        except FileNotFoundError:
            return self._collected
        except OSError:
            return False
        return True

    def series(self, uid: str) -> list[SeriesRecord]:
        """Return what was noted of a source series."""
        return series_of(self._series.get(uid, []))

    def note(
        self,
        source: SourceSlice,
        before: os.stat_result | FileState,
        record: SliceRecord,
        output: FileState | None = None,
        *,
        digest: str = "",
    ) -> None:
        """Note a slice whose output stands.

        Parameters
        ----------
        source
            What it was made from.
        before
            What the source's file held when it was read; or its status then, and it is read again.
        record
            For the report.
        output
            What the output holds, if that is known.
        digest
            Digest of what of the source reached the output, if that is known.

        Raises
        ------
        OutputError
            If the disk is full, say.
        """
        if not isinstance(before, FileState):
            before = FileState.read_after(source.path, before)
        with failing_the_output(UNUSABLE, WRITABLE):
            output = output or FileState.read(self._root / record.output)
        self.add(
            JournalEntry(
                source=source.sop_instance_uid,
                state=before,
                n_bytes=output.size,
                output_sha256=output.sha256,
                record=record,
                source_digest=digest,
            )
        )

    def add(self, *noted: JournalEntry) -> None:
        """Note what is known of slices whose outputs stand; raises as `note` does.

        Unless that is left to the system, the lines are on the disk then.
        """
        if not self._durable:
            noted = tuple(dataclasses.replace(one, durable=False) for one in noted)
        self._note(*noted)
        if self._durable:
            self.sync()

    def _note(self, *noted: JournalEntry) -> None:
        with self._lock:
            places = self._append([one.as_line() for one in noted])
            for one, place in zip(noted, places, strict=True):
                self._take(one, place)

    def note_series(self, uid: str, records: list[SeriesRecord]) -> None:
        """Note what is known of a source series."""
        self._series[uid] = [dataclasses.asdict(one) for one in records]
        line = checked_line({"series": uid, "records": self._series[uid]})
        with self._lock:
            self._append([line])

    def note_trust_map(self, noted: MapEntry) -> None:
        """Note a trust map that stands; raises as `note` does."""
        noted = dataclasses.replace(noted, durable=self._durable)
        with self._lock:
            self._append([noted.as_line()])
            self._take_map(noted)
        if self._durable:
            self.sync()

    def note_durability(self) -> None:
        """Note, before an output is written, that what follows is left to the system, if it is."""
        if not self._durable:
            with self._lock:
                self._append([checked_line({"durability": "none"})])
            self.sync()

    def _append(self, lines: Sequence[bytes]) -> list[_Place]:
        with failing_the_output(UNUSABLE, WRITABLE):
            if self._file is None:
                self._folder.mkdir(exist_ok=True)
                _make_own(self._path)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                self._torn = os.fstat(self._file).st_size > 0
            # A line of its own ends what a killed run, or a full disk, may have left torn.
            content = b"\n" * self._torn + b"".join(lines)
            place = os.fstat(self._file).st_size + self._torn
            self._torn = True
            if os.write(self._file, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
        starts = accumulate(map(len, lines), initial=place)
        return [(self._path, start) for start, _ in zip(starts, lines, strict=False)]

    def sync(self) -> None:
        """Put what was noted on the disk; raises as `note` does."""
        with failing_the_output(UNUSABLE, WRITABLE):
            if self._file is not None:
                os.fsync(self._file)
            if not self._named:
                sync_folder(self._folder)
                sync_folder(self._root)
                sync_above(self._root)
                self._named = True

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        _close_all(self._files)


def _make_own(path: Path) -> None:
    """Part a file from its other names: a copy of the folder made of hard links stays as it is."""
    with suppress(FileNotFoundError):
        if path.lstat().st_nlink > 1:
            replace_file(path, path.read_bytes())


_Place = tuple[Path, int]
"""Of a line: its journal, and where it begins there."""


def _key(text: str) -> int:
    """Return 8 bytes that stand for a UID or a name; the line tells whether it is that one."""
    content = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _close_all(files: dict[Path, int]) -> None:
    while files:
        os.close(files.popitem()[1])


@contextmanager
def locked_folder(folder: Path, parameters: Mapping[str, Any], run_salt: str) -> Iterator[Manifest]:
    """Hold an output folder for one run, with its manifest written.

    Parameters
    ----------
    folder
        Made if missing.
    parameters
        Of this run.
    run_salt
        For random UIDs, if the folder is new.

    Yields
    ------
        The folder's manifest.

    Raises
    ------
    OutputError
        If another run holds it, or it holds outputs without a manifest.
    RunMismatchError
        If it holds a run with other parameters.
    """
    with failing_the_output(UNUSABLE, WRITABLE):
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        held = os.open(folder / STATE_FOLDER / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(held)
        manifest = require_compatible(folder, parameters)
        if manifest is None:
            manifest = Manifest(parameters=parameters, run_salt=run_salt)
            manifest.save(folder)
        with failing_the_output(UNUSABLE, WRITABLE):
            remove_leftovers(folder)
        yield manifest
    finally:
        os.close(held)


def require_compatible(folder: Path, parameters: Mapping[str, Any]) -> Manifest | None:
    """Return a folder's manifest if a run may continue there, None if it holds no outputs.

    Raises
    ------
    OutputError
        If it holds outputs without a manifest.
    RunMismatchError
        If it holds a run with other parameters.
    """
    manifest = Manifest.of_folder(folder)
    if manifest is not None:
        manifest.require_same(parameters)
    elif folder.exists() and next(standing_files(folder), None) is not None:
        raise OutputError(
            "the output folder holds outputs, but no manifest says how they were made",
            hint="remove them, or choose another folder",
        )
    return manifest


def begun_with(folder: Path) -> str | None:
    """Return the backend that a folder's outputs were made with; None if nothing says so."""
    try:
        manifest = Manifest.of_folder(folder)
    except OutputError:  # it is raised again where the folder is opened
        return None
    backend = None if manifest is None else manifest.parameters.get("backend")
    return backend if isinstance(backend, str) else None


def _unusable(what: str) -> OutputError:
    return OutputError(
        f"the output folder's manifest {what}",
        hint=f"how its outputs were made is not known: remove {MANIFEST_NAME} and all outputs "
        "there, or choose another folder",
    )


def _hint_of_mismatch(parameters: Mapping[str, Any], other: Collection[str]) -> str:
    """Say how to complete a folder: ``auto`` may choose another backend after an installation."""
    if "backend" in other and parameters.get("backend") in backend_names():
        named = f"--backend {parameters['backend']}"
        return f"choose another folder, or complete it with {named} and the same parameters"
    return "choose another folder, or run with the same parameters to complete it"


def _shown(value: object) -> str:
    """Return a value of a manifest, which anything may have written, for a terminal."""
    text = str(value)[:SHOWN_MAX]
    if _DIGEST.fullmatch(text):
        return f"{text[:_DIGITS_SHOWN]}..."
    return text if text.isprintable() else ascii(text)


def _lock(file: int) -> None:
    """Take the lock, which the system lets go when the process ends, however it ends."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as exc:
        raise OutputError(
            "another run writes into this output folder", hint="choose another folder, or wait"
        ) from exc
    except OSError as exc:
        raise OutputError(
            f"the output folder cannot be locked: {system_message(exc)}",
            hint="its file system must know locks, as local disks, NFS 4 and SMB do",
        ) from exc
