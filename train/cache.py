"""Keep prepared arrays on disk, so that the next run decodes nothing.

An entry is an index ``KEY.json`` and arrays ``KEY-0.npy``, ``KEY-1.npy``, ... Its key is a hash of
what it was made from; no name of a file or a patient stands in it. It is written array by array,
index last, and each file whole or not at all, so several processes may fill one folder at once.
What is old is never met again; delete the folder to be rid of it. It holds images: treat it like
the data it came from.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt._version import __version__
from kspacesr_rt.kspace import Array
from kspacesr_rt.system.files import replace_file

FORMAT = 1
"""Raise it whenever reading or preparing changes what it computes: old entries then miss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedArray:
    """One array, or the fact that there was none."""

    facts: dict[str, Any]
    """What JSON can hold."""
    array: Array | None = None
    """None if there is nothing to keep but the facts."""


def entry_key(files: Iterable[Path], settings: str) -> str:
    """Return the key of what is made from files under some settings.

    Notes
    -----
    A file counts as changed if its path, size or time of modification (in nanoseconds) did:
    hashing the bytes of a large data set would take as long as reading it.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, __version__, settings]).encode())
    for path in files:
        status = path.stat()
        digest.update(os.fsencode(path.resolve()))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def write_entry(folder: Path, key: str, items: Iterable[CachedArray]) -> None:
    """Write an entry, or replace it.

    Parameters
    ----------
    folder
        Made if it is missing.
    key
        Of `entry_key`, taken before the files were read.
    items
        Taken one by one, so that only one need be in memory.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rows = []
    for number, item in enumerate(items):
        digest = None
        if item.array is not None:
            buffer = io.BytesIO()
            np.save(buffer, item.array, allow_pickle=False)
            digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
            replace_file(_array_path(folder, key, number), buffer.getvalue())
        rows.append({"facts": item.facts, "sha256": digest})
    index = {"rows": rows, "sha256": _digest(rows)}
    replace_file(folder / f"{key}.json", json.dumps(index, indent=1).encode())


def read_entry(folder: Path, key: str, *, mapped: bool = True) -> list[CachedArray] | None:
    """Read an entry back.

    Parameters
    ----------
    folder, key
        Of `write_entry`.
    mapped
        Map arrays into memory, which all processes of a machine then share, instead of reading
        them. Each takes an open file.

    Returns
    -------
        What was written, arrays read-only; None if the entry is missing or damaged anywhere.
    """
    try:
        index = json.loads((folder / f"{key}.json").read_bytes())
        rows = index["rows"]
        if index["sha256"] != _digest(rows):
            return None
        return [
            CachedArray(
                facts=row["facts"], array=_array(_array_path(folder, key, number), row, mapped)
            )
            for number, row in enumerate(rows)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_entry(folder: Path, key: str) -> None:
    """Let an entry be missed from now on; arrays that are in use stay."""
    (folder / f"{key}.json").unlink(missing_ok=True)


def _array_path(folder: Path, key: str, number: int) -> Path:
    return folder / f"{key}-{number}.npy"


def _digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _array(path: Path, row: dict[str, Any], mapped: bool) -> Array | None:
    if row["sha256"] is None:
        return None
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != row["sha256"]:
            raise ValueError("damaged")
    array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    array.flags.writeable = False
    # As a plain array: slices of a memmap carry their own class and file into whatever they meet.
    return np.asarray(array)
