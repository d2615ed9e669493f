"""A multi-frame file on its way through a run: all of its frames, or nothing is written.

A few frames at a time are in memory; those that are done are on disk, in a file without a name yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice

from kspacesr_rt.dicom import (
    DecodedSlice,
    EnhancedWriter,
    FrameReader,
    derive_enhanced,
    naming_the_frame,
    to_stored,
    writing_outputs,
)
from kspacesr_rt.dicom.clipping import measure_clipping
from kspacesr_rt.dicom.source_digest import SourceDigest
from kspacesr_rt.pipeline.file_in_progress import Computed, FileInProgress, status
from kspacesr_rt.pipeline.frame_checks import FrameChecks
from kspacesr_rt.pipeline.group_commit import Finished
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.run_state import Computation, FileTask, RunState, SeriesProgress
from kspacesr_rt.pipeline.slice_work import replaced
from kspacesr_rt.quality.result_checks import check_result


class MultiFrameFile(FileInProgress):
    """Many slices of one file; see `FileInProgress`."""

    shares_batches = False

    def __init__(
        self,
        run: RunState,
        task: FileTask,
        series: SeriesProgress,
        *,
        warnings: tuple[str, ...],
        computation: Computation,
    ) -> None:
        """Keep what is to be done; parameters as for every file."""
        super().__init__(
            run,
            task,
            series,
            matrix=task.source.matrix,
            warnings=warnings,
            computation=computation,
        )
        self._writer: EnhancedWriter | None = None
        self._frames: Iterator[DecodedSlice]
        self._before: os.stat_result
        """Status of the file when its header was read."""
        self._source_digest: SourceDigest
        self._n_read = self._n_written = 0
        self._checks = FrameChecks(computation.spec.bounds)

    def _read(self) -> list[DecodedSlice]:
        if self._writer is None:
            self._open()
        with self.run.timer.busy("decode"):
            frames = list(islice(self._frames, self.run.batch_at(self.matrix)))
            self._n_read += len(frames)
            if self._n_read == self.n_slices:
                next(self._frames, None)  # fails if there are more than were announced
                self.all_read = True
        return frames

    def _open(self) -> None:
        """Read the header, and lay the output out."""
        run, source = self.run, self.task.source
        with run.timer.busy("read"):
            self._before = status(source)
            reader = FrameReader(source)
            header = reader.take_header()
            uid = str(header.get("SOPInstanceUID", ""))
            matrix = (header.get("Rows"), header.get("Columns"))
            scanned = (source.sop_instance_uid, source.matrix, source.n_frames)
            if (uid, matrix, len(reader)) != scanned:
                raise replaced()
        with run.timer.busy("encode"):
            derived = derive_enhanced(header, self.computation.derivation)
            fields = run.places.fields_of(header)
            with writing_outputs():
                place = self._place(str(derived.SeriesInstanceUID), fields)
            self._writer = EnhancedWriter(
                run.output,
                derived,
                self.computation.derivation,
                syntax=run.syntax,
                place=place,
            )
            self._source_digest = SourceDigest(self._writer.header_digest)
        self._frames = self._source_digest.passing(reader)

    def _write(self, results: Sequence[Computed]) -> Finished | None:
        if self._writer is None:
            raise RuntimeError("no frame was read")
        for computed in results:
            self._add(self._writer, computed)
        return self._finished(self._writer) if self._n_written == self.n_slices else None

    def _add(self, writer: EnhancedWriter, computed: Computed) -> None:
        """Check and write the next frame."""
        decoded, sr, sums = computed
        timer = self.run.timer
        with timer.busy("check"), naming_the_frame(self._n_written + 1):
            figures = check_result(sr, decoded.values, self.computation.spec, sums)
        with timer.busy("encode"):
            stored = to_stored(sr, decoded.dataset)
        with timer.busy("check"):
            clipping = measure_clipping(stored, sr, decoded.values, decoded.dataset)
        self._checks.add(figures, clipping)
        self._show(self.task.number + self._n_written, decoded, sr)
        with timer.busy("write"):
            writer.write(self._n_written + 1, stored)
        self._n_written += 1

    def _finished(self, writer: EnhancedWriter) -> Finished:
        """Complete the output, and give it its name."""
        run = self.run
        with run.timer.busy("read"):
            source = FileState.read_after(self.task.source.path, self._before)
        with run.timer.busy("write"):
            path, fresh = writer.finish(trusted=self._trusts_outputs, durable=self._durable)
        with run.timer.busy("verify"), writing_outputs():
            output = FileState.read(path)
        entry = self._journal_entry(
            path,
            fresh=fresh,
            made_again=writer.made_again,
            source=source,
            output=output,
            source_digest=self._source_digest.hexdigest(),
            figures=self._checks.figures,
            clipping=self._checks.clipping,
            flagged_frames=self._checks.flagged_frames,
        )
        return Finished(entry=entry, path=path, synced=fresh)

    def close(self) -> None:
        """Remove what is on disk without a name."""
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
