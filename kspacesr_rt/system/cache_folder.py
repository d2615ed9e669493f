"""Where what was found out once is kept on this machine, for this user alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from kspacesr_rt.errors import OutputError, failing_the_output
from kspacesr_rt.system.plurals import counted
from kspacesr_rt.system.quantities import size_text

FOLDER_VARIABLE = "KSPACESR_RT_CACHE"
"""Environment variable that names the folder."""


class CachedFile(Protocol):
    """One thing in a cache."""

    @property
    def size_bytes(self) -> int:
        """Of its files."""
        ...

    @property
    def last_used(self) -> datetime:
        """UTC time it was made or taken last."""
        ...

    @property
    def problem(self) -> str:
        """Why it cannot be used; empty if it can."""
        ...

    def as_text(self) -> str:
        """Return a line for a listing."""
        ...


Cached = TypeVar("Cached", bound=CachedFile)


class CacheFolder:
    """A folder of a cache.

    Parameters
    ----------
    folder
        Where; None for `default_folder`. Where there is none, nothing is found or can be kept.
    """

    name: ClassVar[str]
    """Of its default folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where.

        Raises
        ------
        OutputError
            If there is no place for a cache.
        """
        return self._folder or default_folder(self.name)

    def why_none(self) -> OutputError | None:
        """Return why there is no place for a cache; None if there is one."""
        try:
            _ = self.folder
        except OutputError as exc:
            return exc
        return None

    def make(self) -> None:
        """Make it; see `make_folder`."""
        make_folder(self.folder)

    def describe(self, entries: Iterable[CachedFile], kind: str) -> str:
        """Return a listing for people: a line each, how many of the kind, and where they lie.

        The kind is a noun in the singular.
        """
        lines, n_bytes = [], 0
        for entry in entries:
            lines.append(entry.as_text())
            n_bytes += entry.size_bytes
        place = self.why_none() or f"{size_text(n_bytes)} in {self.folder}"
        return "\n".join([*lines, f"{counted(len(lines), kind)}, {place}"])


def entries_to_remove(
    entries: Iterable[Cached],
    *,
    max_bytes: int | None = None,
    older_than_days: float | None = None,
    everything: bool = False,
) -> Iterator[Cached]:
    """Yield what a cache is to lose; what cannot be used goes in any case.

    Parameters
    ----------
    entries
        The one used last first.
    max_bytes
        Keep the latest that come to no more than this, and nothing that is older.
    older_than_days
        Remove what was not used for this long.
    everything
        Remove all of it.
    """
    now, n_bytes = datetime.now(UTC), 0
    for entry in entries:
        n_bytes += 0 if entry.problem else entry.size_bytes
        if (
            everything
            or entry.problem
            or (
                older_than_days is not None
                and now - entry.last_used > timedelta(days=older_than_days)
            )
            or (max_bytes is not None and n_bytes > max_bytes)
        ):
            yield entry


def default_folder(name: str) -> Path:
    """Return where something is kept: in ``$KSPACESR_RT_CACHE``, or the platform's cache folder.

    Raises
    ------
    OutputError
        If this user has no home folder: a container's, mostly, without an entry in ``passwd``.
    """
    try:
        return _cache_folder() / name
    except RuntimeError as exc:  # of pathlib
        raise OutputError(
            "there is no cache: this user has no home folder",
            hint=f"name a folder with {FOLDER_VARIABLE}",
        ) from exc


def make_folder(folder: Path) -> None:
    """Make a folder of a cache, for its owner alone.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    hint = f"name another folder with {FOLDER_VARIABLE}"
    with failing_the_output(f"cannot make {folder}", hint):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _cache_folder() -> Path:
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        if not base.is_absolute():  # the standard says to ignore others
            base = Path.home() / ".cache"
    return base / "kspacesr-rt"
