"""Where what was found out once is kept on this machine, for this user alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import ClassVar

from kspacesr_rt.errors import OutputError, failing_the_output

FOLDER_VARIABLE = "KSPACESR_RT_CACHE"
"""Environment variable that names the folder."""


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
