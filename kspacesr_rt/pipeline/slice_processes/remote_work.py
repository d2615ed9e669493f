"""The steps of a slice, taken by a process beside the run's."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from pydicom.dataset import Dataset

from kspacesr_rt.dicom import DecodedSlice, Series, SourceSlice
from kspacesr_rt.dicom.store import OutputDraft, remove_drafts_of
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.slice_processes.messages import (
    DraftWritten,
    MakeOutput,
    ReadSlice,
    SeriesSurveyed,
    SliceRead,
    Step,
    SurveySeries,
    WriteDraft,
)
from kspacesr_rt.pipeline.slice_processes.process import (
    NO_PROCESSES,
    ProcessLostError,
    SliceProcess,
)
from kspacesr_rt.pipeline.slice_work import MadeOutput, SliceSettings, replaced
from kspacesr_rt.pipeline.survey import Survey, unread_survey
from kspacesr_rt.quality.spectral_sums import SpectralSums

LOST: Final = "lost-worker"
"""Reason word of a slice that two processes were lost over."""
ATTEMPTS: Final = 2
"""At a step: the first may have been killed for no fault of the slice."""
_NUMBERS: Final = itertools.count()
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteSeries:
    """The settings of a series, pickled once."""

    number: int
    settings: bytes

    @classmethod
    def of(cls, settings: SliceSettings) -> Self:
        """Give them a number."""
        return cls(number=next(_NUMBERS), settings=pickle.dumps(settings))


def remote_survey(run: RunState, process: SliceProcess, series: Series) -> Survey:
    """Return what is known of a series of classic slices, surveyed by a process.

    If processes are lost over it, nothing is known of its k-space: the slice that was to blame
    fails by itself when its turn comes.
    """
    step = SurveySeries(
        series=series, keep_private=run.options.keep_private, limits=run.options.limits
    )
    try:
        found, _ = _tried(run, lambda: _answered(run, process, "survey", step))
    except SliceFailed:
        return unread_survey(series)
    assert isinstance(found, SeriesSurveyed)
    return Survey(
        bands=found.bands,
        snr=found.snr,
        body_part=found.body_part,
        dropped=found.dropped,
        process=process,
        kept=found.read,
    )


class RemoteSliceWork:
    """The steps, taken there; see `kspacesr_rt.pipeline.slice_work.SliceSteps`.

    A slice stays with the process that has read it, which keeps its header. If that process is
    lost, the next one reads it again.
    """

    def __init__(
        self,
        run: RunState,
        process: SliceProcess,
        series: RemoteSeries,
        source: SourceSlice,
        *,
        is_shown: bool,
    ) -> None:
        """Keep what is to be done.

        Parameters
        ----------
        run
            That the slice is of.
        process
            That takes the steps.
        series, source
            What is to be read.
        is_shown
            Whether it will stand on a contact sheet.
        """
        self._run, self._process, self._series = run, process, series
        self._source, self._is_shown = source, is_shown
        self._key = next(_NUMBERS)
        self._state: FileState | None = None
        self._sr: FloatArray | None = None
        self._sums: SpectralSums | None = None
        self._read_by = self._made_by = 0
        """Generations of the process that know the slice, and its output."""

    def read(self) -> DecodedSlice:
        """Return the slice: its values, and of its header at most the Series Number."""
        return _tried(self._run, self._read)

    def make(self, sr: FloatArray, sums: SpectralSums | None = None) -> MadeOutput:
        """Check a result, and encode the output."""
        self._sr, self._sums = sr, sums
        return _tried(self._run, self._make)

    def draft(self, path: Path) -> OutputDraft:
        """Write the output, and read it back; it is open here."""
        return _tried(self._run, lambda: self._draft(path))

    def close(self) -> None:
        """Let go of everything; a second time is no error."""
        self._sr = None
        if self._read_by:
            self._process.forgotten.append(self._key)
            self._read_by = self._made_by = 0

    def _read(self) -> DecodedSlice:
        found = self._asked(
            "read",
            ReadSlice(
                key=self._key,
                series=self._series.number,
                settings=self._series.settings,
                source=self._source,
                is_shown=self._is_shown,
            ),
        )
        assert isinstance(found, SliceRead)
        if self._state is not None and self._state.sha256 != found.state.sha256:
            raise replaced()
        self._state, self._read_by = found.state, self._process.generation
        header = Dataset()
        if found.series_number is not None:
            header.SeriesNumber = found.series_number
        return DecodedSlice(dataset=header, values=self._process.values(found.shape), padding=None)

    def _make(self) -> MadeOutput:
        if self._read_by != self._process.generation:
            self._read()
        sr = self._sr
        assert sr is not None
        rows, columns = sr.shape
        step = MakeOutput(key=self._key, shape=(rows, columns), sums=self._sums)
        made = self._asked("check", step, sr)
        assert isinstance(made, MadeOutput)
        self._made_by = self._process.generation
        return made

    def _draft(self, path: Path) -> OutputDraft:
        if self._made_by != self._process.generation:
            self._make()
        try:
            written, descriptor = _answered(
                self._run, self._process, "write", WriteDraft(key=self._key, path=path)
            )
        except ProcessLostError:
            remove_drafts_of(path)
            raise
        self._read_by = self._made_by = 0
        self._sr = None
        assert isinstance(written, DraftWritten)
        assert descriptor is not None
        return OutputDraft(path, written.temporary, descriptor, written.stored)

    def _asked(
        self, stage: str, step: ReadSlice | MakeOutput, sr: FloatArray | None = None
    ) -> object:
        return _answered(self._run, self._process, stage, step, sr)[0]


def _tried(run: RunState, step: Callable[[], _Result]) -> _Result:
    """Take a step, and once more if the process is lost that took it."""
    lost = ""
    for _ in range(ATTEMPTS):
        try:
            return step()
        except ProcessLostError as exc:
            lost = str(exc)
            run.notes[
                f"a process that reads and writes slices was lost ({lost}); another one took its "
                "place"
            ] = None
    raise SliceFailed(
        LOST,
        f"{ATTEMPTS} processes were lost while they worked on it ({lost})",
        hint=f"if memory is short, fewer --processes; {NO_PROCESSES}",
    )


def _answered(
    run: RunState,
    process: SliceProcess,
    stage: str,
    step: Step,
    sr: FloatArray | None = None,
) -> tuple[object, int | None]:
    """Have a process take a step, of which `stage` is shown, and count what it took."""
    with run.timer.under_way(stage):
        answer, descriptor = process.ask(step, sr)
    run.timer.merge(answer.busy, answer.cpu)
    run.header_counts.merge(answer.headers)
    if answer.error is not None:
        raise answer.error
    return answer.result, descriptor
