"""A NIfTI file or an array on its way through a run: slices out of it, a file like it comes of it.

A few slices at a time are in memory, or one volume where its slices do not lie one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from kspacesr_rt.dicom import DecodedSlice, writing_outputs
from kspacesr_rt.dicom.output_names import UID_NAME
from kspacesr_rt.pipeline.file_in_progress import Computed, FileInProgress, status
from kspacesr_rt.pipeline.frame_checks import FrameChecks
from kspacesr_rt.pipeline.group_commit import Finished
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.run_state import Computation, FileTask, RunState, SeriesProgress
from kspacesr_rt.quality.result_checks import check_result
from kspacesr_rt.runtime.baselines import INTERPOLATIONS
from kspacesr_rt.volumes import SourceVolume, VolumeWriter, read_volume, volume_slices
from kspacesr_rt.volumes.reader import VolumeDigest
from kspacesr_rt.volumes.sidecar import Beside, sidecar
from kspacesr_rt.volumes.volume import Volume, naming_the_slice

NEGATIVE_SHARE: Final = 0.01
"""Of the largest value: interpolation leaves less than that below zero beside an edge."""
NEGATIVE: Final = "some values are negative: no magnitude image has such, and models have seen none"
REPLACED: Final = "its output was of an earlier content, and was replaced"


class VolumeFile(FileInProgress):
    """Many slices of one file that is no DICOM; see `FileInProgress`."""

    shares_batches = False

    def __init__(
        self,
        run: RunState,
        task: FileTask,
        series: SeriesProgress,
        source: SourceVolume,
        *,
        warnings: tuple[str, ...],
        computation: Computation,
    ) -> None:
        """Keep what is to be done.

        Parameters
        ----------
        run, task, series, warnings, computation
            As for every file.
        source
            That of `task`.
        """
        super().__init__(
            run, task, series, matrix=source.matrix, warnings=warnings, computation=computation
        )
        self._source = source
        self._volume: Volume | None = None
        self._writer: VolumeWriter | None = None
        self._slices: Iterator[DecodedSlice]
        self._beside: Beside
        self._digest: VolumeDigest
        self._before: os.stat_result
        """Status of the file when its header was read."""
        self._n_read = self._n_written = 0
        self._lowest = self._highest = 0.0
        self._checks = FrameChecks(computation.spec.bounds)

    def _read(self) -> list[DecodedSlice]:
        if self._volume is None:
            with self.run.timer.busy("read"):
                self._open()
        with self.run.timer.busy("decode"):
            slices: list[DecodedSlice] = []
            for _ in range(min(self.run.batch_at(self.matrix), self.n_slices - self._n_read)):
                with naming_the_slice(self._n_read + 1):
                    slices += islice(self._slices, 1)
                self._n_read += 1
            if self._n_read == self.n_slices:
                next(self._slices, None)  # fails if the file is not sound to its end
                self.all_read = True
        return slices

    def _open(self) -> None:
        self._before = status(self._source)
        self._volume = read_volume(self._source)
        self._beside = Beside.of(self._source.path)
        self._digest = VolumeDigest(self._volume, self._beside)
        self._slices = volume_slices(self._volume, self._digest.add)

    def _write(self, results: Sequence[Computed]) -> Finished | None:
        if self._volume is None:
            raise RuntimeError("no slice was read")
        if self._writer is None:
            self._writer = VolumeWriter(
                self.run.output,
                self._source,
                self._volume,
                self.computation.derivation,
                template=UID_NAME if self.run.options.name == UID_NAME else "",
            )
        for computed in results:
            self._add(self._writer, self._volume, computed)
        if self._n_written < self.n_slices:
            return None
        return self._finished(self._writer, self._volume)

    def _add(self, writer: VolumeWriter, volume: Volume, computed: Computed) -> None:
        """Check and write the next slice."""
        decoded, sr, sums = computed
        timer = self.run.timer
        with timer.busy("check"), naming_the_slice(self._n_written + 1):
            figures = check_result(sr, decoded.values, self.computation.spec, sums)
        self._lowest = min(self._lowest, float(decoded.values.min()))
        self._highest = max(self._highest, float(decoded.values.max()))
        with timer.busy("encode"):
            stored = volume.layout.to_stored(sr)
        with timer.busy("check"):
            clipping = volume.layout.measure_cut(stored, sr, decoded.values)
        self._checks.add(figures, clipping)
        self._show(self.task.number + self._n_written, decoded, sr)
        with timer.busy("write"):
            writer.add([stored])
        self._n_written += 1

    def _finished(self, writer: VolumeWriter, volume: Volume) -> Finished:
        """Complete the output, and give it its name."""
        run, task = self.run, self.task
        with run.timer.busy("read"):
            source = FileState.read_after(self._source.path, self._before)
        named = run.options.name != UID_NAME
        beside = self._beside.others | {
            ".json": sidecar(
                self._beside,
                self.computation.derivation,
                source=self._source.relative if named else "",
                source_uid=self._source.sop_instance_uid,
                said=volume.description,
                slice_axis=volume.slice_axis,
            )
        }
        with run.timer.busy("write"):
            path = writer.finish(
                beside,
                noted=task.noted,
                replaceable=task.earlier if run.options.stale == "replace" else (),
                durable=self._durable,
            )
        with run.timer.busy("verify"), writing_outputs():
            output = FileState.read(path)
        name = str(path.relative_to(run.output))
        entry = self._journal_entry(
            path,
            fresh=writer.fresh,
            made_again=writer.replaced and name == task.noted,
            source=source,
            output=output,
            source_digest=self._digest.hexdigest(),
            figures=self._checks.figures,
            clipping=self._checks.clipping,
            flagged_frames=self._checks.flagged_frames,
            notes=tuple(self._notes(replaced=writer.replaced and name != task.noted)),
        )
        return Finished(entry=entry, path=path, synced=writer.fresh)

    def _notes(self, *, replaced: bool) -> Iterator[str]:
        """Yield what else the record warns about; baselines are linear and take any values."""
        if replaced:
            yield REPLACED
        if self.computation.derivation.backend not in INTERPOLATIONS and (
            self._lowest < -NEGATIVE_SHARE * self._highest
        ):
            yield NEGATIVE

    def close(self) -> None:
        """Remove what is on disk without a name."""
        if self._writer is not None:
            self._writer.close()
