"""Which files of which series are left to do, and how each is processed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from itertools import accumulate, count, cycle, groupby

from kspacesr_rt.dicom import Series
from kspacesr_rt.dicom.scanner_interpolation import AcquiredBand
from kspacesr_rt.dicom.series_encoder import SeriesEncoder
from kspacesr_rt.errors import SliceSkipped
from kspacesr_rt.model.limits import OUTSIDE_WARNING
from kspacesr_rt.pipeline.classic_file import ClassicFile, shown_again
from kspacesr_rt.pipeline.file_in_progress import FileInProgress
from kspacesr_rt.pipeline.multi_frame_file import MultiFrameFile
from kspacesr_rt.pipeline.output_folder import Journal
from kspacesr_rt.pipeline.outside_limits import (
    OutsideHandled,
    handled_interpolation,
    handled_outside,
    outside_of,
    skipped_outside,
)
from kspacesr_rt.pipeline.previews import Previews
from kspacesr_rt.pipeline.report import SeriesRecord
from kspacesr_rt.pipeline.run_state import FileTask, RunState, SeriesProgress
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess
from kspacesr_rt.pipeline.slice_processes.remote_work import (
    RemoteSeries,
    RemoteSliceWork,
    remote_survey,
)
from kspacesr_rt.pipeline.slice_work import SliceSettings, SliceSteps, SliceWork
from kspacesr_rt.pipeline.survey import Survey
from kspacesr_rt.pipeline.volume_file import VolumeFile
from kspacesr_rt.volumes import SourceVolume


def pending_files(
    run: RunState,
    series: Sequence[Series],
    threads_of: Callable[[SliceProcess | None], Executor],
) -> Iterator[FileInProgress]:
    """Yield the files that are left to do, in order; settle those that need no computing.

    The next series is surveyed meanwhile; `threads_of` returns what asks a process, or works here.

    Raises
    ------
    StopRequestedError
        If a signal waits.
    """
    ahead: deque[tuple[SeriesProgress, list[FileTask], Future[Survey]]] = deque()
    ordinals = count()
    processes = cycle(run.slice_processes or (None,))
    for one in series:
        progress = SeriesProgress(series=one, left=0, previews=_previews(run, one))
        tasks = _pending(run, progress, ordinals)
        progress.left = len(tasks)
        if not tasks:
            if progress.previews is not None:
                run.save_previews(progress.previews)
            continue
        ahead.append((progress, tasks, _surveying(run, one, next(processes), threads_of)))
        if len(ahead) > 1:
            yield from _planned(run, *ahead.popleft(), processes)
    while ahead:
        yield from _planned(run, *ahead.popleft(), processes)


def _surveying(
    run: RunState,
    series: Series,
    process: SliceProcess | None,
    threads_of: Callable[[SliceProcess | None], Executor],
) -> Future[Survey]:
    """Let a series be surveyed: of classic slices by a process, if there are any."""
    if process is None or any(one.n_frames is not None for one in series.slices):
        return threads_of(None).submit(run.survey, series)
    return threads_of(process).submit(run.survey, series, partial(remote_survey, run, process))


def _previews(run: RunState, series: Series) -> Previews | None:
    if not run.options.preview:
        return None
    return Previews(series.n_slices, run.backends.spec.sample_grid)


def _pending(run: RunState, progress: SeriesProgress, ordinals: Iterator[int]) -> list[FileTask]:
    """Return what is left to do of a series; settle what an earlier run has done."""
    series, journal = progress.series, run.journal
    starts = accumulate((item.n_frames or 1 for item in series.slices), initial=0)
    numbers = Counter(source.order[-1] for source in series.slices)  # instance numbers
    pending = []
    for number, source in zip(starts, series.slices, strict=False):  # one start too many
        task = FileTask(
            ordinal=next(ordinals),
            number=number,
            source=source,
            repeated=numbers[source.order[-1]] > 1,
        )
        found = journal.find(source) if journal else None
        if found is None:
            pending.append(_with_journal_entry(task, journal) if journal else task)
        else:
            run.record_outcome(task, replace(found, file=run.label(source.path)))
            if progress.previews is not None and progress.previews.wants(number):
                progress.previews.keep(*shown_again(run, task, found))
    if journal and not pending:
        run.series_records[series.uid] = journal.series(series.uid)
    return pending


def _with_journal_entry(task: FileTask, journal: Journal) -> FileTask:
    noted = journal.entries_of(task.source.sop_instance_uid)
    now = journal.match(task.source) if noted else None
    return replace(
        task,
        earlier=tuple({one.record.output: None for one in noted}),
        noted=now.record.output if now else "",
    )


def _planned(
    run: RunState,
    progress: SeriesProgress,
    tasks: list[FileTask],
    survey: Future[Survey],
    processes: Iterator[SliceProcess | None],
) -> Iterator[FileInProgress]:
    """Yield the files of a series, as its survey has them processed."""
    surveyed = survey.result()
    run.forget_survey(progress.series)  # with the slices it has read
    _record_series(run, progress.series, surveyed)
    for (matrix, multi_frame), group in groupby(
        tasks, key=lambda task: (task.source.matrix, task.source.n_frames is not None)
    ):  # a volume is alone in its series
        band = surveyed.bands[matrix]
        handled = handled_interpolation(run, band, multi_frame=multi_frame)
        cropped_to = band.cropped_matrix if handled == "cropped" else None
        outside = outside_of(run, surveyed, matrix, handled)
        outside_handled = handled_outside(run, outside)
        computation = run.computation(tuple(outside) if outside_handled == "zero-filled" else ())
        if cropped_to:
            derivation = replace(computation.derivation, cropped_to=cropped_to)
            computation = replace(computation, derivation=derivation)
        encoder = SeriesEncoder(computation.derivation, run.header_counts, earlier=run.last_encoder)
        run.last_encoder = encoder
        warnings = _warnings(band, outside, outside_handled)
        settings = SliceSettings(
            derivation=computation.derivation,
            spec=computation.spec,
            matrix=cropped_to or matrix,
            syntax=run.syntax,
            name=run.places.template,
            model=run.backends.spec.name,
            limits=run.options.limits,
        )
        remote = RemoteSeries.of(settings) if run.slice_processes else None
        for task in group:
            if handled == "skipped":
                run.fail(task, _interpolated(multi_frame=multi_frame))
                run.count_down(progress)
            elif outside_handled == "skipped":
                run.fail(task, skipped_outside(outside))
                run.count_down(progress)
            elif isinstance(task.source, SourceVolume):
                run.works_here = True
                yield VolumeFile(
                    run, task, progress, task.source, warnings=warnings, computation=computation
                )
            elif multi_frame:
                run.works_here = True
                yield MultiFrameFile(
                    run, task, progress, warnings=warnings, computation=computation
                )
            else:
                stored = surveyed.read.pop(task.source.path, None)
                kept = task.source.path in surveyed.kept
                process = surveyed.process if kept else None if stored else next(processes)
                work: SliceSteps
                if process is not None and remote is not None:
                    is_shown = progress.previews is not None and progress.previews.wants(
                        task.number
                    )
                    work = RemoteSliceWork(run, process, remote, task.source, is_shown=is_shown)
                else:
                    work = SliceWork(
                        task.source,
                        settings,
                        reader=surveyed.reader,
                        encoder=encoder,
                        timed=run.timer.busy,
                        surveyed=stored,
                    )
                yield ClassicFile(
                    run,
                    task,
                    progress,
                    matrix=settings.matrix,
                    warnings=warnings,
                    computation=computation,
                    work=work,
                    process=process,
                )


def _warnings(
    band: AcquiredBand, outside: Mapping[str, str], handled: OutsideHandled
) -> tuple[str, ...]:
    texts = [] if band.warning is None else [band.warning]
    instead = "; zero-filled instead" if handled == "zero-filled" else ""
    return (*texts, *(f"{OUTSIDE_WARNING}{clause}{instead}" for clause in outside.values()))


def _record_series(run: RunState, series: Series, survey: Survey) -> None:
    records = []
    for matrix, band in survey.bands.items():
        same = [item for item in series.slices if item.matrix == matrix]
        multi_frame = any(item.n_frames is not None for item in same)
        handled = handled_interpolation(run, band, multi_frame=multi_frame)
        outside = outside_of(run, survey, matrix, handled)
        records.append(
            SeriesRecord(
                series_instance_uid=series.uid,
                n_slices=sum(item.n_frames or 1 for item in same),
                matrix=matrix,
                measured_shares=band.profile,
                acquired=band.acquired,
                interpolated=band.interpolated,
                handled=handled,
                cropped_to=band.cropped_matrix if handled == "cropped" else None,
                snr=survey.snr.get(matrix),
                outside=tuple(outside),
                outside_handled=handled_outside(run, outside),
                dropped=survey.dropped,
            )
        )
    run.series_records[series.uid] = records
    if run.journal is not None:
        run.journal.note_series(series.uid, records)


def _interpolated(*, multi_frame: bool) -> SliceSkipped:
    if multi_frame:
        return SliceSkipped(
            "interpolated",
            "interpolated by the scanner",
            hint="multi-frame files and volumes are not cropped: --on-interpolated warn takes "
            "them as they are",
        )
    return SliceSkipped(
        "interpolated",
        "interpolated by the scanner",
        hint="--on-interpolated crop processes what was acquired",
    )
