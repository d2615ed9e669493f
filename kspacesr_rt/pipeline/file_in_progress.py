"""A file of the input on its way through a run: slices come out of it, their results go into it.

A classic file gives one slice and takes one result; a multi-frame file gives its frames, a few at a
time, and takes theirs. To the scheduler both are the same.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from kspacesr_rt.dicom import DecodedSlice, SourceSlice
from kspacesr_rt.dicom.clipping import Clipping
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.output_places import OutputPlace
from kspacesr_rt.dicom.store import StoredFile
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed, SliceSkipped, system_message
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.group_commit import Finished
from kspacesr_rt.pipeline.journal_entries import FileState, JournalEntry
from kspacesr_rt.pipeline.previews import Shown
from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.pipeline.run_state import Computation, FileTask, RunState, SeriesProgress
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess
from kspacesr_rt.pipeline.slice_work import replaced
from kspacesr_rt.quality.result_checks import SliceFigures
from kspacesr_rt.quality.spectral_sums import SpectralSums

MADE_AGAIN: Final = "its output was damaged, and was made again"


class Computed(NamedTuple):
    """A slice, and what the backend made of it."""

    decoded: DecodedSlice
    sr: FloatArray
    """Shape ``(s*y, s*x)``."""
    sums: SpectralSums | None = None
    """Of their spectra, if the backend has them."""


class FileInProgress(ABC):
    """A stream of slices, and the sink of their results.

    Workers call `read` and `write`. Neither is called while it runs, nor `write` with another
    result than that of the next slices; a file may be read further while it is written.
    """

    shares_batches: ClassVar[bool]
    """Whether its slices are computed together with those of other files."""

    def __init__(
        self,
        run: RunState,
        task: FileTask,
        series: SeriesProgress,
        *,
        matrix: Matrix,
        warnings: tuple[str, ...],
        computation: Computation,
    ) -> None:
        """Keep what is to be done; nothing is read yet.

        Parameters
        ----------
        run
            What the file is processed in.
        task
            The file.
        series
            How far its series is.
        matrix
            LR matrix that is computed on: as stored, or what was acquired.
        warnings
            What its record warns about.
        computation
            What computes its slices.
        """
        self.run, self.task, self.series = run, task, series
        self.matrix, self._warnings, self.computation = matrix, warnings, computation
        self.n_slices = task.source.n_frames or 1
        self.n_counted = 0
        """Slices that the run counts as done."""
        self.all_read = False
        """Whether `read` has given the last slice."""
        self.settled = False
        """Whether it is decided what became of it."""
        self.process: SliceProcess | None = None
        """What takes its steps; None: threads of this process."""
        self.shown: list[Shown] = []
        """For the contact sheet, if the output stands."""

    def read(self) -> list[DecodedSlice]:
        """Return the next slices, decoded: one, or as many frames as a batch has.

        Raises
        ------
        SliceFailed
            If that is not possible.
        """
        try:
            with as_slice_failure(), quiet_pydicom():
                return self._read()
        except SliceSkipped as exc:  # it was none when it was scanned
            raise replaced() from exc

    def write(self, results: Sequence[Computed]) -> Finished | None:
        """Check the results of the next slices and write them.

        Returns
        -------
            The output, if these were the last ones: it is whole, and to be made durable.

        Raises
        ------
        SliceFailed
            If a result cannot be used, or the source has changed.
        OutputError
            If the output cannot be written: that ends the run.
        """
        with as_slice_failure(), quiet_pydicom():
            return self._write(results)

    @abstractmethod
    def _read(self) -> list[DecodedSlice]: ...

    @abstractmethod
    def _write(self, results: Sequence[Computed]) -> Finished | None: ...

    def close(self) -> None:  # noqa: B027 - a file that is written as a whole has nothing open
        """Leave nothing half-written; not called while `write` runs."""

    @property
    def _trusts_outputs(self) -> bool:
        """Whether an output that stands, and that no journal tells of, is taken for whole."""
        run = self.run
        may_lose = run.journal is not None and run.journal.may_lose
        return not (run.options.verify_existing or may_lose)

    @property
    def _durable(self) -> bool:
        """Whether what has its name is on the disk."""
        return self.run.options.durability != "none"

    def _place(self, series_uid: str, fields: Mapping[str, str]) -> OutputPlace:
        """Return the place of the output, given its Series Instance UID and what names say."""
        task = self.task
        return self.run.places.of(
            series_uid,
            fields,
            repeated=task.repeated,
            earlier=task.earlier,
            noted=task.noted,
        )

    def _show(self, number: int, decoded: DecodedSlice, sr: FloatArray) -> None:
        """Keep a slice for the contact sheet, if that has a place for it; `number` from 0."""
        previews = self.series.previews
        if previews is not None and previews.wants(number):
            calibration = self.run.shown_intervals(self.computation.spec)
            self.shown.append(Shown.of(number, decoded, sr, calibration))

    def _journal_entry(
        self,
        path: Path,
        *,
        fresh: bool,
        made_again: bool,
        source: FileState,
        output: FileState | StoredFile,
        source_digest: str,
        figures: SliceFigures | None,
        clipping: Clipping,
        flagged_frames: dict[str, tuple[int, ...]] | None = None,
        notes: tuple[str, ...] = (),
    ) -> JournalEntry:
        """Return what is noted, and reported, of an output that stands.

        Parameters
        ----------
        path
            Of the output.
        fresh
            False if it stood there already.
        made_again
            Whether a damaged one stood there.
        source, output
            What both files hold.
        source_digest
            Digest of what of the source reached the output.
        figures, clipping
            The worst of its slices.
        flagged_frames
            Of a multi-frame file, the frames that have each flag.
        notes
            What else its record warns about.
        """
        run, scanned = self.run, self.task.source
        flags = figures.beyond(self.computation.spec.bounds) if figures else ()
        warnings = (
            *scanned.warnings,
            *self._warnings,
            *([MADE_AGAIN] if made_again else []),
            *notes,
        )
        return JournalEntry(
            source=scanned.sop_instance_uid,
            state=source,
            n_bytes=output.size,
            output_sha256=output.sha256,
            source_digest=source_digest,
            record=SliceRecord(
                file=run.label(scanned.path),
                outcome="written" if fresh else "present",
                sop_instance_uid=scanned.sop_instance_uid,
                output=str(path.relative_to(run.output)),
                matrix=self.matrix,
                n_frames=scanned.n_frames,
                flags=(*flags, *clipping.flags),
                flagged_frames=flagged_frames or {},
                clipped_share=clipping.share,
                stored_residual=clipping.residual,
                **(figures.as_fields() if figures else {}),
                warnings=warnings,
            ),
        )


def status(source: SourceSlice) -> os.stat_result:
    """Return the status of a source's file, so that a change can be told later.

    Raises
    ------
    SliceFailed
        ``unreadable``: it is gone, say.
    """
    try:
        return source.path.stat()
    except OSError as exc:
        raise SliceFailed("unreadable", f"cannot be read: {system_message(exc)}") from exc
