"""A classic file on its way through a run: one slice out of it, one result into its output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from kspacesr_rt.dicom import (
    DecodedSlice,
    is_complete_output,
    read_slice,
    undo_interpolation,
    writing_outputs,
)
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.output_places import OutputPlace
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.pipeline.file_in_progress import Computed, FileInProgress
from kspacesr_rt.pipeline.group_commit import Finished
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.previews import Shown, preview_of
from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.pipeline.run_state import Computation, FileTask, RunState, SeriesProgress
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess
from kspacesr_rt.pipeline.slice_work import MadeOutput, SliceSteps


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
        work: SliceSteps,
        process: SliceProcess | None = None,
    ) -> None:
        """Keep what is to be done.

        Parameters
        ----------
        run, task, series, matrix, warnings, computation
            As for every file.
        work
            Reads the slice and makes its output.
        process
            That it does so in; None: in this one.
        """
        super().__init__(
            run, task, series, matrix=matrix, warnings=warnings, computation=computation
        )
        self._work, self.process = work, process

    def _read(self) -> list[DecodedSlice]:
        decoded = self._work.read()
        self.all_read = True
        return [decoded]

    def _write(self, results: Sequence[Computed]) -> Finished:
        [(decoded, sr, sums)] = results
        run, task = self.run, self.task
        made = self._work.make(sr, sums)
        uid = made.sop_instance_uid
        place = self._place_of(made)
        with ExitStack() as failing:
            with writing_outputs():
                with run.timer.busy("verify"):
                    path = run.places.claim(place, uid)
                    failing.callback(run.places.release, path)
                    existed = path.exists()
                    fresh = not is_complete_output(path, uid, trusted=self._trusts_outputs)
                draft = self._work.draft(path) if fresh else None
                if draft is not None:
                    failing.callback(draft.discard)
                with run.timer.busy("verify"):
                    output = FileState.read(path) if draft is None else draft.stored
            self._show(task.number, decoded, sr)
            entry = self._journal_entry(
                path,
                fresh=fresh,
                made_again=existed and fresh,
                source=made.source,
                output=output,
                source_digest=made.source_digest,
                figures=made.figures,
                clipping=made.clipping,
            )
            failing.pop_all()
        return Finished(
            entry=entry, path=path, draft=draft, on_end=lambda: run.places.release(path)
        )

    def _place_of(self, made: MadeOutput) -> OutputPlace:
        with writing_outputs(), self.run.timer.busy("verify"):
            return self._place(made.series_instance_uid, made.name_fields)

    def close(self) -> None:
        """Let go of the slice."""
        self._work.close()


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
