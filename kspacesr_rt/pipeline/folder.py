"""The output folder of a run: whose it is, with what parameters, and what is done already.

``manifest.json`` says with what parameters everything in the folder was made. Below
``.kspacesr-rt`` lie a lock, which keeps a second run out, and journals: a line for every finished
slice, written after the slice has its final name. A run that was killed is completed by running it
again: what a journal tells, and what still stands there, is not computed once more.

Journals are not forced to disk. After a power failure their last lines may be missing, which costs
the time to compute those slices again; the slices themselves are forced to disk before they get
their names, and are found to be there then.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kspacesr_rt._version import __version__
from kspacesr_rt.dicom import SourceSlice
from kspacesr_rt.dicom.store import MANIFEST_NAME, STATE_FOLDER, remove_leftovers
from kspacesr_rt.errors import OutputError, RunMismatchError, system_says
from kspacesr_rt.files import replace_file
from kspacesr_rt.report import SeriesRecord, SliceRecord

SCHEMA: Final = 1
LOCK: Final = "lock"


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
        try:
            stored = json.loads((folder / MANIFEST_NAME).read_bytes())
            if stored["schema"] != SCHEMA:
                raise OutputError(
                    f"the output folder's manifest is of schema {stored['schema']}, not {SCHEMA}",
                    hint="choose another folder",
                )
            return cls(
                parameters=stored["parameters"],
                run_salt=stored["run_salt"],
                version=stored["version"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as exc:
            raise OutputError(
                "the output folder's manifest cannot be read", hint="choose another folder"
            ) from exc

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
            told = ", ".join(f"{name} ({mine.get(name)}, now {theirs.get(name)})" for name in other)
            raise RunMismatchError(
                f"the output folder holds a run with other parameters: {told}",
                hint="choose another folder, or run with the same parameters to complete it",
            )

    def save(self, folder: Path) -> None:
        """Write it."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        replace_file(folder / MANIFEST_NAME, (json.dumps(document, indent=1) + "\n").encode())


class Journal:
    """What is finished in an output folder, and where to note what follows."""

    def __init__(self, folder: Path, writer: str = "", *, collected: bool = False) -> None:
        """Read what earlier runs noted.

        Parameters
        ----------
        folder
            The output folder.
        writer
            Hexadecimal digits of a process beside others: each has a journal of its own, since
            appending is not atomic on NFS.
        collected
            Outputs are taken away once they stand: one that is missing is done all the same.
        """
        self._collected = collected
        self._root, self._folder = folder, folder / STATE_FOLDER
        self._path = self._folder / f"journal{writer and '-'}{writer}.jsonl"
        self._done: dict[str, bytes] = {}  # lines by source: parsed, they took four times as much
        self._series: dict[str, list[dict[str, Any]]] = {}
        self._file: int | None = None
        for path in sorted(self._folder.glob("journal*.jsonl")):
            with path.open("rb") as file:
                for line in file:
                    with suppress(ValueError, LookupError, TypeError):  # the last may be torn
                        self._take(line)

    def _take(self, line: bytes) -> None:
        entry = json.loads(line)
        if "series" in entry:
            self._series[entry["series"]] = entry["records"]
        elif entry.keys() >= {"size", "mtime_ns", "bytes", "record"}:
            self._done[entry["source"]] = line

    def __bool__(self) -> bool:
        return bool(self._done)

    def find(self, source: SourceSlice) -> SliceRecord | None:
        """Return what was noted of a source, if that file is as it was and its output stands."""
        line = self._done.get(source.sop_instance_uid)
        if line is None:
            return None
        done = json.loads(line)
        try:
            before = source.path.stat()
            n_bytes = self._size_of(done)
        except OSError:
            return None
        if (before.st_size, before.st_mtime_ns) != (done["size"], done["mtime_ns"]):
            return None
        if n_bytes != done["bytes"]:
            return None
        told = {name: _tuples(value) for name, value in done["record"].items()}
        return SliceRecord(**{**told, "outcome": "present"})

    def forget(self) -> None:
        """Let go of the slices that earlier runs noted; what is known of series stays."""
        self._done.clear()

    def _size_of(self, done: dict[str, Any]) -> int:
        try:
            return (self._root / str(done["record"]["output"])).lstat().st_size
        except FileNotFoundError:
            if self._collected:
                return int(done["bytes"])
            raise

    def series(self, uid: str) -> list[SeriesRecord]:
        """Return what was noted of a source series."""
        return [
            SeriesRecord(**{name: _tuples(value) for name, value in one.items()})
            for one in self._series.get(uid, [])
        ]

    def note(self, source: SourceSlice, before: os.stat_result, record: SliceRecord) -> None:
        """Note a slice whose output stands; `before` is the source's status when it was read.

        Raises
        ------
        OutputError
            If the disk is full, say.
        """
        with _told():
            n_bytes = (self._root / record.output).stat().st_size
        self._append(
            {
                "source": source.sop_instance_uid,
                "size": before.st_size,
                "mtime_ns": before.st_mtime_ns,
                "bytes": n_bytes,
                "record": dataclasses.asdict(record),
            }
        )

    def note_series(self, uid: str, records: list[SeriesRecord]) -> None:
        """Note what is known of a source series."""
        self._series[uid] = [dataclasses.asdict(one) for one in records]
        self._append({"series": uid, "records": self._series[uid]})

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with _told():
            if self._file is None:
                self._folder.mkdir(exist_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                if os.fstat(self._file).st_size:
                    line = b"\n" + line  # ends what a killed run may have left torn
            if os.write(self._file, line) != len(line):
                self.close()  # what follows starts on a line of its own
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextmanager
def held_folder(folder: Path, parameters: Mapping[str, Any], run_salt: str) -> Iterator[Manifest]:
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
    with _told():
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        held = os.open(folder / STATE_FOLDER / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(held)
        manifest = require_mixable(folder, parameters)
        if manifest is None:
            manifest = Manifest(parameters=parameters, run_salt=run_salt)
            manifest.save(folder)
        with _told():
            remove_leftovers(folder)
        yield manifest
    finally:
        os.close(held)


def require_mixable(folder: Path, parameters: Mapping[str, Any]) -> Manifest | None:
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
    elif next(folder.glob("*/*.dcm"), None) is not None:
        raise OutputError(
            "the output folder holds outputs, but no manifest says how they were made",
            hint="choose another folder",
        )
    return manifest


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
            f"the output folder cannot be locked: {system_says(exc)}",
            hint="its file system must know locks, as local disks, NFS 4 and SMB do",
        ) from exc


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as exc:
        raise OutputError(f"the output folder cannot be used: {system_says(exc)}") from exc


def _tuples(value: Any) -> Any:
    """Return what JSON made of a record's tuples as tuples again."""
    return tuple(value) if isinstance(value, list) else value
