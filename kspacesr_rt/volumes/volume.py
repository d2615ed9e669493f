"""What every format of volumes can do."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.errors import KspaceSRError, SliceError, SliceFailed
from kspacesr_rt.kspace import sample_origin
from kspacesr_rt.volumes.layout import ByteSource, Layout


class ByteSink(Protocol):
    """What samples are written to."""

    def write(self, content: bytes, /) -> object:
        """Append bytes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume(ABC):
    """A file whose header was read: how its samples lie, and how its result is written."""

    path: Path
    layout: Layout
    warnings: tuple[str, ...] = ()
    """What a user should know; no values of a patient."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """What of the header an output leaves out, counted by kind."""

    @property
    @abstractmethod
    def header_content(self) -> bytes:
        """What of the file, beside its samples, reaches an output."""

    @property
    def description(self) -> str:
        """What the header says in words, which an output says in its sidecar."""
        return ""

    @property
    def slice_axis(self) -> int:
        """The axis that slices lie along, from 0; of arrays with more than three, of the last."""
        return self.layout.slice_at

    @abstractmethod
    def samples(self) -> AbstractContextManager[ByteSource]:
        """Open the file where its samples begin; at the end all of it is known to be sound.

        Raises
        ------
        SliceFailed
            ``truncated``, ``unreadable``, ``too-large``.
        """

    @abstractmethod
    def result(self, path: Path, derivation: Derivation) -> Self:
        """Return what the result is: this header, moved, and nothing written yet.

        Raises
        ------
        SliceFailed
            ``too-large``: the format cannot hold it.
        """

    @abstractmethod
    def of_floats(self, path: Path) -> Self:
        """Return a file of 32-bit floats whose samples lie where those of this one do.

        They are values as they stand, without a scale; nothing is written yet.
        """

    @abstractmethod
    def begin(self, said: str) -> AbstractContextManager[ByteSink]:
        """Write the header to an empty file at `path`; samples follow.

        Parameters
        ----------
        said
            What was done, where the format has words for that.

        Raises
        ------
        OSError
            If it cannot be written.
        """

    def moved_by(self, derivation: Derivation) -> tuple[float, float]:
        """Return where SR sample (0, 0) lies, in rows and columns of this file."""
        rows, columns = (
            sample_origin(n, derivation.upscale, derivation.sample_grid) for n in self.layout.matrix
        )
        return rows, columns


@contextmanager
def reading_volume() -> Iterator[None]:
    """Say what is wrong with a file in our words: those of libraries may quote what it holds.

    Raises
    ------
    SliceFailed
        ``truncated``: a compressed stream ends early; ``unreadable``: anything else.
    """
    try:
        yield
    except (KspaceSRError, MemoryError):
        raise
    except EOFError as exc:
        raise SliceFailed("truncated", "its compressed data end early") from exc
    except zlib.error as exc:
        raise damaged() from exc
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise damaged() from exc


@contextmanager
def naming_the_slice(number: int) -> Iterator[None]:
    """Put a slice's number, from 1, before the message of an error."""
    try:
        yield
    except SliceError as exc:
        raise type(exc)(exc.reason, f"slice {number}: {exc}", hint=exc.hint) from exc


def damaged() -> SliceFailed:
    """Return the error for a file whose container is broken."""
    return SliceFailed("unreadable", "its compressed data are damaged", hint="fetch it again")
