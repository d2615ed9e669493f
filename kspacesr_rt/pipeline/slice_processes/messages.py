"""What the run's process and those beside it say to each other; samples lie in shared memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Final, Self

import numpy as np

from kspacesr_rt.dicom import Series, SourceSlice
from kspacesr_rt.dicom.file_limits import Limits
from kspacesr_rt.dicom.scanner_interpolation import AcquiredBand
from kspacesr_rt.dicom.store import StoredFile
from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.slice_work import MadeOutput
from kspacesr_rt.quality.spectral_sums import SpectralSums

READY: Final = "ready"
"""What a process says once it has loaded what it needs."""
_SAMPLE_BYTES: Final = np.dtype(np.float32).itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveySeries:
    """Survey a series of classic slices, and keep those that are read on the way."""

    series: Series
    keep_private: bool
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSlice:
    """Read a slice; its values come back in the memory."""

    key: int
    """Names the slice from here on."""
    series: int
    """Names the settings, so that those which are known need not be loaded."""
    settings: bytes
    """`SliceSettings`, pickled."""
    source: SourceSlice
    is_shown: bool
    """Whether its Series Number is to be told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeOutput:
    """Check the result that is in the memory, and encode the output."""

    key: int
    shape: Matrix
    """SR rows and columns."""
    sums: SpectralSums | None
    """What the backend has summed up of the spectra."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteDraft:
    """Write the output; its descriptor comes back behind the answer. The slice ends with it."""

    key: int
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """Let go of everything: the run is over."""


Step = SurveySeries | ReadSlice | MakeOutput | WriteDraft | Rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be done next."""

    step: Step
    forgotten: tuple[int, ...] = ()
    """Slices that nobody asks for any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesSurveyed:
    """What of a `Survey` can be told."""

    bands: dict[Matrix, AcquiredBand]
    snr: dict[Matrix, float | None]
    body_part: str
    dropped: dict[str, int]
    read: frozenset[Path]
    """Files of the slices that are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceRead:
    """A slice was read."""

    shape: Matrix
    """Of its values."""
    state: FileState
    series_number: int | None
    """If it was asked for, and the header has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftWritten:
    """An output was written and read back; it is open, and its descriptor follows."""

    temporary: Path
    """What it is called until it has its name."""
    stored: StoredFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of a request, and what it took."""

    result: SeriesSurveyed | SliceRead | MadeOutput | DraftWritten | None = None
    error: KspaceSRError | None = None
    """To be raised."""
    busy: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""
    cpu: Mapping[str, float] = field(default_factory=dict)
    """Seconds of processor time by stage."""
    headers: Mapping[str, int] = field(default_factory=dict)
    """Headers by how they were read and encoded."""


class SharedSamples:
    """Memory of two processes that holds the samples of one slice at a time; it has no name.

    It is a file that lives as long as either has it open (memfd_create(2)), and grows.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Self:
        """Return new, empty memory.

        Raises
        ------
        OSError
            If there is none.
        """
        return cls(os.memfd_create("kspacesr-rt-samples"))

    def array(self, shape: Matrix) -> FloatArray:
        """Return the memory as a float32 array of this shape; it is valid until the next call.

        Raises
        ------
        MemoryError
            If there is not enough.
        """
        n_bytes = max(prod(shape) * _SAMPLE_BYTES, mmap.PAGESIZE)
        try:
            if os.fstat(self.descriptor).st_size < n_bytes:
                os.posix_fallocate(self.descriptor, 0, n_bytes)
            if self._map is None or len(self._map) < n_bytes:
                self._map = mmap.mmap(self.descriptor, n_bytes)
        except OSError as exc:
            raise MemoryError from exc
        return np.frombuffer(self._map, np.float32, prod(shape)).reshape(shape)

    def close(self) -> None:
        """Let go of it."""
        self._map = None  # unmapped once no array is left
        with suppress(OSError):
            os.close(self.descriptor)
