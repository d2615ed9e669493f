"""The slices of a run on their way: read ahead, gathered into batches, computed, finished.

One thread (the caller's) decides everything that could depend on timing: it takes decoded slices in
the order of the input, so batches are the same whatever the workers do, and starts the backend on
them. The workers read and decode what comes next, and check, write and verify what was computed.
Every queue is bounded, so memory does not grow with the number of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Literal

from kspacesr_rt.dicom import Series
from kspacesr_rt.errors import OutputError, SliceFailed, SliceSkipped
from kspacesr_rt.interpolated import KspaceSupport
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.compute import Computing
from kspacesr_rt.pipeline.frames import FramesPlan, process_frames
from kspacesr_rt.pipeline.previews import Previews
from kspacesr_rt.pipeline.slices import (
    Decoded,
    Finished,
    LeftOutError,
    SlicePlan,
    decode,
    finish,
    shown_again,
)
from kspacesr_rt.pipeline.state import RunState, SeriesState, Unit
from kspacesr_rt.report import SeriesRecord
from kspacesr_rt.survey import Survey


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """A series whose survey is under way."""

    state: SeriesState
    units: list[Unit]
    """Those that no earlier run has finished."""
    survey: Future[Survey]


@dataclass(frozen=True, kw_only=True, slots=True)
class _SliceJob:
    unit: Unit
    plan: SlicePlan


@dataclass(frozen=True, kw_only=True, slots=True)
class _FramesJob:
    unit: Unit
    plan: FramesPlan


_Job = _SliceJob | _FramesJob
_Waiting = list[tuple[_SliceJob, Decoded]]


class Flow:
    """Brings series through a run; a context manager, since it has threads."""

    def __init__(self, run: RunState, *, workers: int) -> None:
        """Start `workers` threads beside the caller's."""
        self._run = run
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="kspacesr-rt")
        self._backend = Computing(run)
        self._ahead = 2 * run.options.batch + workers
        self._waiting: dict[Matrix, _Waiting] = {}
        self._computing: deque[tuple[_Waiting, Future[FloatArray]]] = deque()
        self._finishing: deque[tuple[_SliceJob, Future[Finished | SliceFailed]]] = deque()
        self._ordinal = 0

    def process(self, series: Sequence[Series]) -> None:
        """Process series in their order; what became of each file is in the run's records.

        Raises
        ------
        OutputError
            If an output cannot be written.
        StopAskedError
            If a signal waits. Slices that are being written are finished by `__exit__`.
        """
        jobs = self._jobs(series)
        reading: deque[tuple[_Job, Future[Decoded | LeftOutError] | None]] = deque()
        while True:
            while len(reading) < self._ahead and (job := next(jobs, None)) is not None:
                reading.append((job, self._start(job)))
            if not reading:
                break
            job, future = reading.popleft()
            if isinstance(job, _SliceJob):
                if future is not None:
                    self._take(job, future.result())
            else:
                outcome = process_frames(self._run, job.unit, job.plan, self._pool, self._backend)
                self._settle(job, outcome, counted=True)
            self._drain(self._ahead)
            self._run.check_stop()
        for matrix in list(self._waiting):
            self._infer(matrix)
        self._pass_on(0)
        self._drain(0)

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *exc: object) -> None:
        self._backend.__exit__(*exc)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._run.ending = True
        # However the run ends: what was written is recorded, as far as the disk allows.
        while self._finishing:
            job, future = self._finishing.popleft()
            if not future.cancelled() and future.exception() is None:
                with suppress(OutputError):
                    self._settle(job, future.result())

    def _jobs(self, series: Sequence[Series]) -> Iterator[_Job]:
        """Yield what is to be done, in order."""
        for prepared in self._prepared(series):
            yield from self._planned(prepared)

    def _prepared(self, series: Sequence[Series]) -> Iterator[_Prepared]:
        """Yield series that have something left to do; the next one is surveyed meanwhile."""
        ahead: deque[_Prepared] = deque()
        for one in series:
            previews = (
                Previews(one.n_slices, self._run.backends.spec.sample_grid)
                if self._run.options.preview
                else None
            )
            state = SeriesState(series=one, left=0, previews=previews)
            units = self._pending(state)
            state.left = len(units)
            if not units:
                if previews is not None:
                    self._run.save_previews(previews)
                continue
            survey = self._pool.submit(self._run.survey, one)
            ahead.append(_Prepared(state=state, units=units, survey=survey))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead

    def _pending(self, state: SeriesState) -> list[Unit]:
        """Return what is left to do of a series; settle what an earlier run has done."""
        series = state.series
        starts = accumulate((item.n_frames or 1 for item in series.slices), initial=0)
        pending = []
        run, journal = self._run, self._run.journal
        for number, source in zip(starts, series.slices, strict=False):  # one start too many
            unit = Unit(ordinal=self._ordinal, number=number, source=source)
            self._ordinal += 1
            found = journal.find(source) if journal else None
            if found is None:
                pending.append(unit)
            else:
                run.settle(unit, replace(found, file=run.label(source.path)))
                if state.previews is not None and state.previews.wants(number):
                    state.previews.keep(*shown_again(run, unit, found))
        if journal and not pending:
            run.series_records[series.uid] = journal.series(series.uid)
        return pending

    def _planned(self, prepared: _Prepared) -> Iterator[_Job]:
        run, series = self._run, prepared.state.series
        survey = prepared.survey.result()
        run.forget_survey(series)  # with the slices it has read
        self._record_series(series, survey)
        for (matrix, multi_frame), group in groupby(
            prepared.units, key=lambda unit: (unit.source.matrix, unit.source.n_frames is not None)
        ):
            support = survey.supports[matrix]
            handled = self._handled(support, multi_frame=multi_frame)
            if handled == "skipped":
                for unit in group:
                    run.fail(unit, _interpolated(multi_frame=multi_frame))
                    self._count_down(prepared.state)
                continue
            if multi_frame:
                frames = FramesPlan(state=prepared.state, warning=support.warning)
                yield from (_FramesJob(unit=unit, plan=frames) for unit in group)
                continue
            plan = SlicePlan(
                state=prepared.state,
                matrix=support.cropped_matrix if handled == "cropped" else matrix,
                read=survey.read,
                derivation=run.derivation,
                warning=support.warning,
            )
            if handled == "cropped":
                plan.derivation = replace(run.derivation, cropped_to=plan.matrix)
            yield from (_SliceJob(unit=unit, plan=plan) for unit in group)

    def _handled(
        self, support: KspaceSupport, *, multi_frame: bool
    ) -> Literal["as-stored", "cropped", "skipped"]:
        wanted = self._run.options.on_interpolated
        if not support.interpolated or wanted == "warn":
            return "as-stored"
        if wanted == "skip" or multi_frame:
            return "skipped"
        return "as-stored" if support.cropped_matrix == support.matrix else "cropped"

    def _record_series(self, series: Series, survey: Survey) -> None:
        records = []
        for matrix, support in survey.supports.items():
            same = [item for item in series.slices if item.matrix == matrix]
            multi_frame = any(item.n_frames is not None for item in same)
            handled = self._handled(support, multi_frame=multi_frame)
            records.append(
                SeriesRecord(
                    series_instance_uid=series.uid,
                    n_slices=sum(item.n_frames or 1 for item in same),
                    matrix=matrix,
                    measured_shares=support.profile,
                    acquired=support.acquired,
                    interpolated=support.interpolated,
                    handled=handled,
                    cropped_to=support.cropped_matrix if handled == "cropped" else None,
                    dropped=survey.dropped,
                )
            )
        self._run.series_records[series.uid] = records
        if self._run.journal is not None:
            self._run.journal.note_series(series.uid, records)

    def _start(self, job: _Job) -> Future[Decoded | LeftOutError] | None:
        if isinstance(job, _FramesJob):
            return None
        return self._pool.submit(decode, self._run, job.unit, job.plan)

    def _take(self, job: _SliceJob, decoded: Decoded | LeftOutError) -> None:
        if not isinstance(decoded, Decoded):
            self._settle(job, decoded)
            return
        matrix = job.plan.matrix
        waiting = self._waiting.setdefault(matrix, [])
        waiting.append((job, decoded))
        if len(waiting) == self._run.options.batch:
            self._infer(matrix)
        elif sum(map(len, self._waiting.values())) > self._ahead:
            self._infer(next(iter(self._waiting)))  # of the matrix that waits longest

    def _infer(self, matrix: Matrix) -> None:
        waiting = self._waiting.pop(matrix)
        future = self._backend.start(matrix, [decoded.slice for _, decoded in waiting])
        self._computing.append((waiting, future))
        self._pass_on(self._backend.side_by_side)

    def _pass_on(self, allowed: int) -> None:
        """Let workers finish what is computed, and wait until at most `allowed` batches are not."""
        while self._computing and (len(self._computing) > allowed or self._computing[0][1].done()):
            waiting, batch = self._computing.popleft()
            try:
                results = batch.result()
            except SliceFailed as exc:
                for job, _ in waiting:
                    self._settle(job, exc)
                continue
            for (job, decoded), sr in zip(waiting, results, strict=True):
                future = self._pool.submit(finish, self._run, job.unit, job.plan, decoded, sr)
                self._finishing.append((job, future))

    def _drain(self, allowed: int) -> None:
        """Settle what is finished, and wait until at most `allowed` slices are being finished."""
        while self._finishing and (len(self._finishing) > allowed or self._finishing[0][1].done()):
            job, future = self._finishing.popleft()
            self._settle(job, future.result())

    def _settle(
        self, job: _Job, outcome: Finished | LeftOutError, *, counted: bool = False
    ) -> None:
        run, state = self._run, job.plan.state
        n_slices = 0 if counted else None
        try:
            if not isinstance(outcome, Finished):
                run.fail(job.unit, outcome, n_slices=n_slices)
                return
            if run.journal is not None:
                run.journal.note(
                    job.unit.source,
                    outcome.before,
                    outcome.record,
                    outcome.output,
                    told=outcome.told,
                )
            if state.previews is not None:
                state.previews.keep(outcome.series_uid, outcome.shown)
            run.settle(job.unit, outcome.record, n_slices=n_slices)
        finally:
            self._count_down(state)

    def _count_down(self, state: SeriesState) -> None:
        state.left -= 1
        if state.left == 0 and state.previews is not None:
            self._run.save_previews(state.previews)


def _interpolated(*, multi_frame: bool) -> SliceSkipped:
    if multi_frame:
        return SliceSkipped(
            "interpolated",
            "interpolated by the scanner",
            hint="multi-frame files are not cropped: --on-interpolated warn takes them as they are",
        )
    return SliceSkipped(
        "interpolated",
        "interpolated by the scanner",
        hint="--on-interpolated crop processes what was acquired",
    )
