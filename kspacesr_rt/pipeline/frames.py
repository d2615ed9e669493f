"""A multi-frame file through the pipeline: all of its frames, or nothing is written.

The next frames are decoded, and those before are checked and written, while the backend runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice

from pydicom.dataset import Dataset

from kspacesr_rt.dicom import (
    DecodedSlice,
    EnhancedWriter,
    FrameReader,
    SourceSlice,
    derive_enhanced,
    to_stored,
    told_by_frame,
    writing_outputs,
)
from kspacesr_rt.dicom.clipping import Clipping, measure_clipping
from kspacesr_rt.dicom.failures import failing_the_file
from kspacesr_rt.dicom.source_digest import SourceDigest
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.pipeline.compute import Computing
from kspacesr_rt.pipeline.noted import FileState
from kspacesr_rt.pipeline.previews import Shown
from kspacesr_rt.pipeline.slices import (
    MADE_AGAIN,
    Finished,
    replaced,
    status,
    told_figures,
)
from kspacesr_rt.pipeline.state import RunState, SeriesState, Unit
from kspacesr_rt.report import SliceRecord
from kspacesr_rt.trust import SliceFigures, check_result


@dataclass(frozen=True, kw_only=True, slots=True)
class FramesPlan:
    """How a multi-frame file is processed."""

    state: SeriesState
    """Of its series."""
    warning: str | None
    """What its record tells."""


@dataclass(kw_only=True, slots=True)
class _GrowingFile:
    """All that is known of a multi-frame output before it is finished."""

    run: RunState
    unit: Unit
    plan: FramesPlan
    writer: EnhancedWriter
    """Holds the frames that are done; they are on disk."""
    n_frames: int = 0
    """Frames that are done."""
    clipping: Clipping = field(default_factory=Clipping)
    """The worst so far."""
    figures: SliceFigures | None = None
    """The worst so far."""
    shown: list[Shown] = field(default_factory=list)
    """What the contact sheet shows, should the file be finished."""

    def add(self, frames: list[DecodedSlice], results: FloatArray) -> None:
        """Check and write some frames; runs in one worker at a time."""
        with failing_the_file():
            self._add(frames, results)

    def _add(self, frames: list[DecodedSlice], results: FloatArray) -> None:
        clock, previews = self.run.clock, self.plan.state.previews
        for decoded, sr in zip(frames, results, strict=True):
            with clock.busy("check"), told_by_frame(self.n_frames + 1):
                figures = check_result(sr, decoded.values, self.run.backends.spec)
            self.figures = figures if self.figures is None else self.figures.worse_of(figures)
            with clock.busy("encode"):
                stored = to_stored(sr, decoded.dataset)
            with clock.busy("check"):
                clipping = measure_clipping(stored, sr, decoded.values, decoded.dataset)
            self.clipping = self.clipping.worse_of(clipping)
            self.n_frames += 1
            with clock.busy("write"):
                self.writer.write(self.n_frames, stored)
            number = self.unit.number + self.n_frames - 1
            if previews is not None and previews.wants(number):
                self.shown.append((number, decoded.values, sr))

    @property
    def flags(self) -> tuple[str, ...]:
        return self.figures.beyond(self.run.backends.spec.bounds) if self.figures else ()


def process_frames(
    run: RunState, unit: Unit, plan: FramesPlan, pool: Executor, backend: Computing
) -> Finished | SliceFailed:
    """Super-resolve a multi-frame file, or return why that failed; counts its slices as done.

    Raises
    ------
    OutputError
        If the output cannot be written: that ends the run.
    StopAskedError
        If a signal waits.
    """
    source = unit.source
    end = run.done + (source.n_frames or 1)
    try:
        with failing_the_file():
            with run.clock.busy("read"):
                before = status(source)
                reader = FrameReader(source)
                header = reader.take_header()
                _require_scanned(header, len(reader), source)
            with run.clock.busy("encode"):
                derived = derive_enhanced(header, run.derivation)
                output = EnhancedWriter(run.output, derived, run.derivation, syntax=run.syntax)
                told = SourceDigest(output.told)
        with output as writer:
            growing = _GrowingFile(run=run, unit=unit, plan=plan, writer=writer)
            _flow(run, growing, told.passing(reader), pool, backend)
            with failing_the_file():
                with run.clock.busy("read"):
                    after = FileState.read_after(source.path, before)
                with run.clock.busy("write"):
                    path, fresh = writer.finish(trusted=not run.options.verify_existing)
                with run.clock.busy("verify"), writing_outputs():
                    written = FileState.read(path)
    except (SliceFailed, SliceSkipped) as exc:
        run.advance(end - run.done)
        return replaced() if isinstance(exc, SliceSkipped) else exc
    return Finished(
        record=SliceRecord(
            file=run.label(source.path),
            outcome="written" if fresh else "present",
            sop_instance_uid=source.sop_instance_uid,
            output=str(path.relative_to(run.output)),
            matrix=source.matrix,
            n_frames=source.n_frames,
            **told_figures(growing.figures, growing.clipping, growing.flags),
            warnings=(
                *source.warnings,
                *([plan.warning] if plan.warning else []),
                *([MADE_AGAIN] if writer.made_again else []),
            ),
        ),
        before=after,
        output=written,
        told=told.hexdigest(),
        series_uid=str(derived.SeriesInstanceUID),
        shown=growing.shown,
    )


def _require_scanned(header: Dataset, n_frames: int, source: SourceSlice) -> None:
    """Refuse what was put under a file's name since it was scanned."""
    uid, matrix = str(header.get("SOPInstanceUID", "")), (header.get("Rows"), header.get("Columns"))
    if (uid, matrix, n_frames) != (source.sop_instance_uid, source.matrix, source.n_frames):
        raise replaced()


def _flow(
    run: RunState,
    growing: _GrowingFile,
    frames: Iterator[DecodedSlice],
    pool: Executor,
    backend: Computing,
) -> None:
    """Bring every frame through the backend; one chunk is read and one is written meanwhile."""

    def next_frames() -> list[DecodedSlice]:
        with failing_the_file(), run.clock.busy("decode"):
            return list(islice(frames, run.options.batch))

    reading: Future[list[DecodedSlice]] = pool.submit(next_frames)
    computing: deque[tuple[list[DecodedSlice], Future[FloatArray]]] = deque()
    adding: Future[None] | None = None

    def pass_on(allowed: int) -> None:
        nonlocal adding
        while computing and (len(computing) > allowed or computing[0][1].done()):
            computed, results = computing.popleft()
            values = results.result()
            if adding is not None:
                adding.result()
            adding = pool.submit(growing.add, computed, values)
            run.advance(len(computed))

    try:
        while waiting := reading.result():
            reading = pool.submit(next_frames)
            computing.append((waiting, backend.start(growing.unit.source.matrix, waiting)))
            pass_on(backend.side_by_side)
        pass_on(0)
        if adding is not None:
            adding.result()
    finally:
        # The writer must not be closed under a worker's hands.
        wait([reading])
        if adding is not None:
            wait([adding])
