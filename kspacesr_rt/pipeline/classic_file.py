"""A classic file on its way through a run: one slice out of it, one result into its output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from kspacesr_rt.dicom import (
    DecodedSlice,
    decode_slice,
    is_complete_output,
    read_slice,
    undo_interpolation,
    writing_outputs,
)
from kspacesr_rt.dicom.clipping import measure_clipping
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.output_places import OutputPlace
from kspacesr_rt.dicom.series_encoder import EncodedSlice, SeriesEncoder
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.dicom.store import OutputDraft, draft_dataset, draft_encoded
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.pipeline.file_in_progress import Computed, FileInProgress, replaced
from kspacesr_rt.pipeline.group_commit import Finished
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.previews import Shown, preview_of
from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.pipeline.run_state import Computation, FileTask, RunState, SeriesProgress
from kspacesr_rt.pipeline.survey import Surveyed
from kspacesr_rt.quality.result_checks import check_result


class ClassicFile(FileInProgress):
    """One slice; see `FileInProgress`."""

    shares_batches = True

    def __init__(
        self,
        run: RunState,
        task: FileTask,
        series: SeriesProgress,
        *,
        matrix: Matrix,
        warnings: tuple[str, ...],
        computation: Computation,
        reader: SeriesReader,
        encoder: SeriesEncoder,
        surveyed: Surveyed,
    ) -> None:
        """Keep what is to be done.

        Parameters
        ----------
        run, task, series, matrix, warnings, computation
            As for every file.
        reader, encoder
            Of the slices of the series.
        surveyed
            The slice is taken out of it if it is there, and need not be read again.
        """
        super().__init__(
            run, task, series, matrix=matrix, warnings=warnings, computation=computation
        )
        self._reader, self._encoder, self.surveyed = reader, encoder, surveyed
        self._state: FileState
        """Of the file when it was read."""

    def _read(self) -> list[DecodedSlice]:
        source = self.task.source
        surveyed = self.surveyed.pop(source.path) if source.path in self.surveyed else None
        stored, self._state = surveyed or self._loaded()
        with self.run.timer.busy("decode"):
            uid = str(stored.dataset.get("SOPInstanceUID", ""))
            if uid != source.sop_instance_uid or stored.values.shape != source.matrix:
                raise replaced()
            decoded = undo_interpolation(stored, self.matrix)
        self.all_read = True
        return [decoded]

    def _loaded(self) -> tuple[DecodedSlice, FileState]:
        """Return the slice as it is stored, and what its file was."""
        timer = self.run.timer
        with timer.busy("read"):
            loaded = self._reader.load(self.task.source)
        with timer.busy("decode"):
            return decode_slice(loaded.dataset), FileState.of_loaded(loaded)

    def _write(self, results: Sequence[Computed]) -> Finished:
        [(decoded, sr)] = results
        run, task = self.run, self.task
        with run.timer.busy("check"):
            figures = check_result(sr, decoded.values, self.computation.spec)
        with run.timer.busy("encode"):
            encoded = self._encoder.encode(decoded, sr, whole=run.syntax is not None)
        with run.timer.busy("check"):
            clipping = measure_clipping(encoded.samples, sr, decoded.values, decoded.dataset)
        with run.timer.busy("read"):
            source = self._state.confirmed(task.source.path)
        uid = encoded.sop_instance_uid
        place = self._place_of(encoded, decoded)
        with ExitStack() as failing:
            with writing_outputs():
                with run.timer.busy("verify"):
                    path = run.places.claim(place, uid)
                    failing.callback(run.places.release, path)
                    existed = path.exists()
                    fresh = not is_complete_output(path, uid, trusted=self._trusts_outputs)
                draft = self._draft(encoded, path) if fresh else None
                if draft is not None:
                    failing.callback(draft.discard)
                with run.timer.busy("verify"):
                    output = FileState.read(path) if draft is None else draft.stored
            self._show(task.number, decoded, sr)
            entry = self._journal_entry(
                path,
                fresh=fresh,
                made_again=existed and fresh,
                source=source,
                output=output,
                source_digest=encoded.source_digest,
                figures=figures,
                clipping=clipping,
            )
            failing.pop_all()
        return Finished(
            entry=entry, path=path, draft=draft, on_end=lambda: run.places.release(path)
        )

    def _place_of(self, encoded: EncodedSlice, decoded: DecodedSlice) -> OutputPlace:
        with writing_outputs(), self.run.timer.busy("verify"):
            return self._place(encoded.series_instance_uid, decoded.dataset)

    def _draft(self, encoded: EncodedSlice, path: Path) -> OutputDraft:
        run = self.run
        if encoded.dataset is not None:
            return draft_dataset(encoded.dataset, path, syntax=run.syntax, timed=run.timer.busy)
        return draft_encoded(
            encoded.content,
            path,
            uid=encoded.sop_instance_uid,
            n_pixel_bytes=encoded.samples.nbytes + encoded.samples.nbytes % 2,
            read=self._encoder.headers.read,
            timed=run.timer.busy,
        )


def shown_again(run: RunState, task: FileTask, record: SliceRecord) -> tuple[str, list[Shown]]:
    """Return what the contact sheet is called by and, for it, a slice an earlier run has done.

    Nothing is shown of multi-frame files, and of files that cannot be read any more.
    """
    path = run.output / record.output
    if record.n_frames is not None or record.matrix is None:
        return preview_of(record.output), []
    try:
        with as_slice_failure():
            lr = undo_interpolation(read_slice(task.source), record.matrix)
            sr = read_slice(replace(task.source, path=path))
    except SliceFailed:
        return preview_of(record.output), []
    known = run.journal.series(task.source.series_instance_uid) if run.journal else []
    filled = any(
        one.outside_handled == "zero-filled" and one.matrix == task.source.matrix for one in known
    )
    calibration = None if filled else run.shown_intervals(run.backends.spec)
    return preview_of(record.output), [Shown.of(task.number, lr, sr.values, calibration)]
