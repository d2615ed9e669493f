"""What is done with one classic slice where it is read and its output is made.

Nothing here knows of a run, so that the same steps are taken in a thread of the run's process, or
in a process beside it (`kspacesr_rt.pipeline.slice_processes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom.uid import UID

from kspacesr_rt.dicom.clipping import Clipping, measure_clipping
from kspacesr_rt.dicom.file_limits import Limits
from kspacesr_rt.dicom.output_names import NameTemplate, fields_of
from kspacesr_rt.dicom.pixels import DecodedSlice, decode_slice
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.series_encoder import EncodedSlice, SeriesEncoder
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.dicom.source_slice import SourceSlice
from kspacesr_rt.dicom.store import OutputDraft, draft_dataset, draft_encoded
from kspacesr_rt.dicom.undo_interpolation import undo_interpolation
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.quality.result_checks import SliceFigures, check_result
from kspacesr_rt.quality.spectral_sums import SpectralSums


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceSettings:
    """What the slices of a series have in common; it can be pickled."""

    derivation: Derivation
    """What outputs tell."""
    spec: ModelSpec
    """What computes them."""
    matrix: Matrix
    """LR matrix that is computed on: as stored, or what was acquired."""
    syntax: UID | None
    """That outputs are compressed in; None: they are not."""
    name: NameTemplate
    """What outputs are called."""
    model: str
    """Of the run, for their names."""
    limits: Limits
    """What a file may ask for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeOutput:
    """What is known of an output before it has a place."""

    sop_instance_uid: str
    series_instance_uid: str
    name_fields: Mapping[str, str]
    """What the template of its name says, but for its UIDs."""
    source: FileState
    """Of its source's file."""
    source_digest: str
    """Digest of what of the source reached the output."""
    figures: SliceFigures
    """Of the result."""
    clipping: Clipping
    """What storing it has cut off."""


class SliceSteps(Protocol):
    """The steps, in their order; one after another."""

    def read(self) -> DecodedSlice:
        """Return the slice.

        Raises
        ------
        SliceFailed
            If its file cannot be used, or is not what was scanned.
        """
        ...

    def make(self, sr: FloatArray, sums: SpectralSums | None = None) -> MadeOutput:
        """Check a result, real-world values ``(s*y, s*x)``, and encode the output.

        `sums` as `kspacesr_rt.quality.result_checks.check_result` takes them.

        Raises
        ------
        SliceFailed
            If the result cannot be used, or the source has changed.
        """
        ...

    def draft(self, path: Path) -> OutputDraft:
        """Write the output, to be called `path`, and read it back.

        Raises
        ------
        SliceFailed
            If it does not mean what it must.
        OutputError
            If it cannot be written.
        """
        ...

    def close(self) -> None:
        """Let go of everything; a second time is no error."""
        ...


class SliceWork:
    """The steps, taken here."""

    def __init__(
        self,
        source: SourceSlice,
        settings: SliceSettings,
        *,
        reader: SeriesReader,
        encoder: SeriesEncoder,
        timed: Callable[[str], AbstractContextManager[None]],
        surveyed: tuple[DecodedSlice, FileState] | None = None,
    ) -> None:
        """Keep what is to be done.

        Parameters
        ----------
        source, settings
            The slice, and how its output is made.
        reader, encoder
            Of the slices of its series.
        timed
            Called with ``read``, ``decode``, ``check``, ``encode``, ``write`` and ``verify``;
            returns what to run each within.
        surveyed
            The slice as it is stored, and what its file was, if it was read already.
        """
        self._source, self._settings, self._timed = source, settings, timed
        self._reader, self._encoder = reader, encoder
        self._stored = surveyed
        self._decoded: DecodedSlice | None = None
        self._encoded: EncodedSlice | None = None
        self._state: FileState | None = None

    def read(self) -> DecodedSlice:
        """Return the slice; see `SliceSteps`."""
        (stored, self._state), self._stored = self._stored or self._loaded(), None
        with self._timed("decode"):
            uid = str(stored.dataset.get("SOPInstanceUID", ""))
            if uid != self._source.sop_instance_uid or stored.values.shape != self._source.matrix:
                raise replaced()
            self._decoded = undo_interpolation(stored, self._settings.matrix)
        return self._decoded

    @property
    def state(self) -> FileState:
        """What the source's file was when it was read."""
        if self._state is None:
            raise RuntimeError("the slice is not read")
        return self._state

    def _loaded(self) -> tuple[DecodedSlice, FileState]:
        """Return the slice as it is stored, and what its file was."""
        with self._timed("read"):
            loaded = self._reader.load(self._source)
        with self._timed("decode"):
            return decode_slice(loaded.dataset), FileState.of_loaded(loaded)

    def make(self, sr: FloatArray, sums: SpectralSums | None = None) -> MadeOutput:
        """Check a result, and encode the output; see `SliceSteps`."""
        decoded, settings = self._decoded, self._settings
        if decoded is None:
            raise RuntimeError("the slice is not read")
        with self._timed("check"):
            figures = check_result(sr, decoded.values, settings.spec, sums)
        with self._timed("encode"):
            encoded = self._encoder.encode(decoded, sr, whole=settings.syntax is not None)
        with self._timed("check"):
            clipping = measure_clipping(encoded.samples, sr, decoded.values, decoded.dataset)
        with self._timed("read"):
            source = self.state.confirmed(self._source.path)
        self._encoded = encoded
        with self._timed("verify"):
            fields = fields_of(
                decoded.dataset,
                settings.name,
                upscale=settings.derivation.upscale,
                model=settings.model,
            )
        return MadeOutput(
            sop_instance_uid=encoded.sop_instance_uid,
            series_instance_uid=encoded.series_instance_uid,
            name_fields=fields,
            source=source,
            source_digest=encoded.source_digest,
            figures=figures,
            clipping=clipping,
        )

    def draft(self, path: Path) -> OutputDraft:
        """Write the output, and read it back; see `SliceSteps`."""
        encoded = self._encoded
        if encoded is None:
            raise RuntimeError("the output is not made")
        if encoded.dataset is not None:
            syntax = self._settings.syntax
            return draft_dataset(encoded.dataset, path, syntax=syntax, timed=self._timed)
        return draft_encoded(
            encoded.parts,
            path,
            uid=encoded.sop_instance_uid,
            n_pixel_bytes=encoded.n_pixel_bytes,
            digest=encoded.digest(),
            read=self._encoder.headers.read,
            timed=self._timed,
        )

    def close(self) -> None:
        """Let go of everything; a second time is no error."""
        self._stored = self._decoded = self._encoded = None


def replaced() -> SliceFailed:
    """Return the error for a file that is not what was scanned any more."""
    return SliceFailed("changed", "the file was replaced while it waited to be read")
