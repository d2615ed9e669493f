"""The process that reads slices and writes outputs for a run, as long as that is there.

It is started by ``python -c``, not by `multiprocessing`: the script of a user need not be
importable, and no process with threads is forked. Signals that end a run are the business of its
own process, which finishes what is under way; this one ends when its socket does.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import socket
from collections import OrderedDict
from contextlib import suppress
from math import isfinite
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom.attributes import numbers
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.file_limits import limited_to
from kspacesr_rt.dicom.header_counts import HeaderCounts
from kspacesr_rt.dicom.pixels import DecodedSlice
from kspacesr_rt.dicom.series_encoder import SeriesEncoder
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.dicom.store import OutputDraft
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.slice_processes.messages import (
    READY,
    Answer,
    DraftWritten,
    MakeOutput,
    ReadSlice,
    Request,
    Rest,
    SeriesSurveyed,
    SharedSamples,
    SliceRead,
    Step,
    SurveySeries,
    WriteDraft,
)
from kspacesr_rt.pipeline.slice_work import MadeOutput, SliceSettings, SliceWork
from kspacesr_rt.pipeline.stage_timer import StageTimer
from kspacesr_rt.pipeline.survey import survey_series
from kspacesr_rt.system.heap import keep_freed_memory

SERIES_KEPT: Final = 8
"""Series whose settings and headers are known at a time."""
HELD: Final = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the run's process, and not this one."""


class _Series:
    """What the slices of a series share here."""

    def __init__(
        self, settings: SliceSettings, counts: HeaderCounts, earlier: _Series | None
    ) -> None:
        self.settings = settings
        reader, encoder = (earlier.reader, earlier.encoder) if earlier else (None, None)
        self.reader: SeriesReader = SeriesReader(counts, earlier=reader)
        self.encoder: SeriesEncoder = SeriesEncoder(settings.derivation, counts, earlier=encoder)


class _Worker:
    """Does what it is asked to."""

    def __init__(self, link: socket.socket, samples: SharedSamples) -> None:
        self._link, self._samples = link, samples
        self._connection = Connection(os.dup(link.fileno()))
        self._series: OrderedDict[int, _Series] = OrderedDict()
        self._slices: dict[int, tuple[SliceWork, _Series]] = {}
        self._surveyed: dict[Path, tuple[DecodedSlice, FileState]] = {}
        """Slices that a survey has read, and that were not asked for yet."""
        self._reader: SeriesReader | None = None
        """Of the series that was surveyed last."""
        self._timer, self._counts = StageTimer(), HeaderCounts()

    def work(self) -> None:
        """Answer requests.

        Raises
        ------
        EOFError, OSError
            When nobody is there any more.
        """
        self._connection.send(READY)
        while True:
            request: Request = self._connection.recv()
            for key in request.forgotten:
                self._slices.pop(key, None)
            try:
                with as_slice_failure():
                    result = self._done(request.step)
                self._answer(result)
            except KspaceSRError as exc:
                self._answer(error=exc)

    def _done(self, step: Step) -> SeriesSurveyed | SliceRead | MadeOutput | OutputDraft | None:
        match step:
            case SurveySeries():
                return self._survey(step)
            case ReadSlice():
                return self._read(step)
            case MakeOutput():
                work, series = self._slices[step.key]
                with limited_to(series.settings.limits):
                    return work.make(self._samples.array(step.shape), step.sums)
            case WriteDraft():
                work, series = self._slices.pop(step.key)
                with limited_to(series.settings.limits):
                    return work.draft(step.path)
            case Rest():
                self._slices.clear()
                self._series.clear()
                self._surveyed.clear()
                self._reader = None
                return None

    def _survey(self, step: SurveySeries) -> SeriesSurveyed:
        self._reader = SeriesReader(self._counts, earlier=self._reader)
        with limited_to(step.limits), self._timer.busy("survey"):
            survey = survey_series(step.series, keep_private=step.keep_private, reader=self._reader)
        self._surveyed |= survey.read
        return SeriesSurveyed(
            bands=survey.bands,
            snr=survey.snr,
            body_part=survey.body_part,
            dropped=survey.dropped,
            read=frozenset(survey.read),
        )

    def _read(self, step: ReadSlice) -> SliceRead:
        series = self._series_of(step)
        work = SliceWork(
            step.source,
            series.settings,
            reader=series.reader,
            encoder=series.encoder,
            timed=self._timer.busy,
            surveyed=self._surveyed.pop(step.source.path, None),
        )
        with limited_to(series.settings.limits):
            decoded = work.read()
        rows, columns = decoded.values.shape
        self._samples.array((rows, columns))[...] = decoded.values
        self._slices[step.key] = work, series
        return SliceRead(
            shape=(rows, columns),
            state=work.state,
            series_number=_series_number(decoded) if step.is_shown else None,
        )

    def _series_of(self, step: ReadSlice) -> _Series:
        if (series := self._series.get(step.series)) is None:
            earlier = next(reversed(self._series.values()), None)
            series = _Series(pickle.loads(step.settings), self._counts, earlier)
            if self._reader is not None:
                series.reader = self._reader
            self._series[step.series] = series
            if len(self._series) > SERIES_KEPT:
                self._series.popitem(last=False)
        return series

    def _answer(
        self,
        result: SeriesSurveyed | SliceRead | MadeOutput | OutputDraft | None = None,
        error: KspaceSRError | None = None,
    ) -> None:
        if isinstance(result, OutputDraft):
            self._hand_over(result)
            return
        self._send(result, error)

    def _hand_over(self, draft: OutputDraft) -> None:
        """Leave an output, and its open file, to the other process."""
        try:
            self._send(DraftWritten(temporary=draft.temporary, stored=draft.stored))
            socket.send_fds(self._link, [b"d"], [draft.descriptor])
        except BaseException:
            draft.discard()
            raise
        os.close(draft.descriptor)

    def _send(
        self,
        result: SeriesSurveyed | SliceRead | MadeOutput | DraftWritten | None,
        error: KspaceSRError | None = None,
    ) -> None:
        busy, cpu = self._timer.take()
        headers = self._counts.take()
        answer = Answer(result=result, error=error, busy=busy, cpu=cpu, headers=headers)
        self._connection.send(answer)


def _series_number(decoded: DecodedSlice) -> int | None:
    found = [one for one in numbers(decoded.dataset, "SeriesNumber") if isfinite(one)]
    return int(found[0]) if found else None


def main(link: int, lifeline: int, samples: int) -> None:
    """Work until the run's process is gone.

    Parameters
    ----------
    link
        Descriptor of a socket that requests come from.
    lifeline
        Descriptor of a socket that nothing comes from: it ends with the run's process.
    samples
        Descriptor of the memory that both share.
    """
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    _end_with(lifeline)
    keep_freed_memory()
    nothing = os.open(os.devnull, os.O_WRONLY)
    worker = _Worker(socket.socket(fileno=link), SharedSamples(samples))
    os.dup2(nothing, 2)  # what libraries print may quote values
    with suppress(EOFError, OSError), quiet_pydicom():
        worker.work()
    os._exit(0)  # nothing is left to be done, and nobody to hear of it


def _end_with(lifeline: int) -> None:
    """Have the system end this process when the other one is gone, whatever it is stuck in.

    A descriptor at which something happens sends SIGIO, whose default is the end (fcntl(2)); at
    this one nothing but its end can happen.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
