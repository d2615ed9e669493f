"""Files that cannot be read: each is named with its reason, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kspacesr_rt.dicom.failures import failure_of
from kspacesr_rt.errors import (
    BackendUnavailableError,
    KspaceSRError,
    OutputError,
    PartialFailureError,
    SliceError,
    TrainingDataError,
)
from kspacesr_rt.system.file_labels import file_label
from kspacesr_rt.system.plain_text import shortened
from kspacesr_rt.system.plurals import counted

SHOWN: Final = 20
"""Failures that are listed for people; JSON lists all."""
EMPTY: Final = "empty"
"""Reason word of a series without tissue."""


@dataclass(frozen=True, slots=True)
class FileFailure:
    """One file, or series, that is left out."""

    file: str
    """``sha256:`` and 12 digits of its path below the folder, or that path if asked for; of a
    series, what tables call it."""
    reason: str
    """Reason word, as in the report of `infer`."""
    message: str
    """What was expected and found, without a path."""

    def as_text(self) -> str:
        """Return it as one line."""
        return f"failed {self.file}: {self.reason}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {"file": self.file, "reason": self.reason, "message": self.message}


class Reading:
    """What becomes of the files that a command reads.

    Parameters
    ----------
    show_paths
        Name files by their paths instead of a hash of them.
    show_folders
        Name the folders that a user gave, instead of numbering them: cards keep their names.
    """

    def __init__(self, *, show_paths: bool = False, show_folders: bool = False) -> None:
        self.show_paths = show_paths
        self.show_folders = show_paths or show_folders
        self._failures: dict[FileFailure, None] = {}  # a folder may be read more than once
        self._skipped: set[str] = set()

    @property
    def failures(self) -> tuple[FileFailure, ...]:
        """What was left out so far, each once."""
        return tuple(self._failures)

    def label(self, path: Path, root: Path) -> str:
        """Return what a file is called."""
        return file_label(path, root, show_path=self.show_paths)

    def fail(self, file: str, reason: str, message: str) -> None:
        """Note a failure."""
        self._failures[FileFailure(file, reason, message)] = None

    def skip(self, file: str) -> None:
        """Note a file that is no image to read here; that is no failure."""
        self._skipped.add(file)

    @contextmanager
    def failing(self, file: str, path: Path | None = None) -> Iterator[None]:
        """Make whatever goes wrong in the block the failure of one file, or series.

        What says that an output cannot be written, or that something is not installed, passes.
        """
        try:
            yield
        except (OutputError, BackendUnavailableError, ModuleNotFoundError):
            raise
        except (TrainingDataError, SliceError) as exc:
            self.fail(file, getattr(exc, "reason", "unreadable"), _without_name(exc, file, path))
        except Exception as exc:
            failure = failure_of(exc)
            self.fail(file, failure.reason, _without_name(failure, file, path))

    def lines(self) -> list[str]:
        """Return the failures for people: the first ones, and how many more there are."""
        more = len(self.failures) - SHOWN
        listed = [one.as_text() for one in self.failures[:SHOWN]]
        return [*listed, f"and {more} more: --json lists them"] if more > 0 else listed

    def require_complete(self) -> None:
        """Raise if something failed, after everything else was done.

        Raises
        ------
        PartialFailureError
            If a file or series was left out.
        """
        if n := len(self.failures):
            raise PartialFailureError(
                f"{counted(n, 'file')} or series failed; the rest was used",
                hint=None if self.show_paths else "--show-paths names files by their paths",
            )

    def require_any(self, found: object) -> None:
        """Raise if nothing was found because everything failed.

        Raises
        ------
        TrainingDataError
            Naming the first failure.
        """
        if not found and self.failures:
            first = self.failures[0]
            skipped = f", {counted(n, 'file')} skipped" if (n := len(self._skipped)) else ""
            raise TrainingDataError(
                f"nothing is left: {len(self.failures)} failed{skipped}; the first that failed is "
                f"{first.file} ({first.reason}: {first.message})"
            )


def _without_name(exc: KspaceSRError, file: str, path: Path | None) -> str:
    """Return a message without the name that it may begin with, or a library's path in it."""
    message = str(exc)
    if path is not None:
        message = message.removeprefix(f"{path.name}: ")
        for name in (str(path), path.name):
            message = message.replace(name, file)
    return shortened(message)
