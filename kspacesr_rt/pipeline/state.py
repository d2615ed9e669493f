"""What a run knows and has found out: shared by what handles slices and what handles frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kspacesr_rt._version import __version__
from kspacesr_rt.dicom import Derivation, LeftOut, Scan, Series, SourceSlice
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.pipeline.clock import ALONE, COMPUTING, StageClock, bottleneck
from kspacesr_rt.pipeline.folder import Journal
from kspacesr_rt.pipeline.opened import OpenBackends
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.previews import Previews
from kspacesr_rt.report import (
    RunReport,
    SeriesRecord,
    SliceRecord,
    StaleRecord,
    file_label,
)
from kspacesr_rt.survey import Survey, survey_series
from kspacesr_rt.trust import BOUNDED


class StopAskedError(Exception):
    """A signal waits; unwinds to where the report is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One file that is to be processed."""

    ordinal: int
    """Its place among all files of the run: what is said of it stands there in the report."""
    number: int
    """Its place, or that of its first frame, in its series."""
    source: SourceSlice


@dataclass(kw_only=True, slots=True)
class SeriesState:
    """How far a series is."""

    series: Series
    left: int
    """Files that are not settled."""
    previews: Previews | None
    """None if no contact sheet is wanted."""


class RunState:
    """The state of one run: what is open, what happened, how long it took."""

    def __init__(
        self,
        source: Path,
        output: Path,
        options: InferOptions,
        backends: OpenBackends,
        on_progress: Callable[[RunProgress], None] | None = None,
    ) -> None:
        self.source, self.output, self.options = source, output, options
        self.backends = backends
        self.clock = StageClock()
        self.syntax = syntax_of(options.compress)
        self.journal: Journal | None = None
        self.stop_asked: Callable[[], bool] = lambda: False
        self.total = self.done = 0
        self.elsewhere = ""  # what others compute, said in a few words
        self.ending = False  # what is settled from then on was under way when the run ended
        self.records: dict[int, SliceRecord] = {}
        self.series_records: dict[str, list[SeriesRecord]] = {}
        self.stale: list[StaleRecord] = []
        self._surveys: dict[int, Survey] = {}
        self._on_progress = on_progress
        spec = backends.spec
        self.derivation = Derivation(
            upscale=spec.upscale,
            backend=backends.choice.backend,
            model=spec.name,
            weights_sha256=spec.provenance.weights_sha256 or None,
            graph_sha256=spec.provenance.graph_sha256 or None,
            tool_version=__version__,
            synthetic=spec.adversarial,
            uids="random" if options.random_uids else "stable",
            keep_private=options.keep_private,
            sample_grid=spec.sample_grid,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """What the run's manifest states."""
        spec, options = self.backends.spec, self.options
        # Only where it is not the usual one, so that folders of earlier runs can be gone on with.
        grid = {} if spec.sample_grid == "kspace" else {"sample_grid": spec.sample_grid}
        return grid | {
            "model": spec.name,
            "weights_sha256": spec.provenance.weights_sha256,
            "graph_sha256": spec.provenance.graph_sha256,
            "backend": self.backends.choice.backend,
            "upscale": spec.upscale,
            "include_derived": options.include_derived,
            "on_interpolated": options.on_interpolated,
            "random_uids": options.random_uids,
            "keep_private": options.keep_private,
            "compress": options.compress,
        }

    def survey(self, series: Series) -> Survey:
        """Return what is known of a series, measured once; may run in a worker."""
        if id(series) not in self._surveys:
            with self.clock.busy("survey"):
                survey = survey_series(series, keep_private=self.options.keep_private)
                if self.journal is not None:
                    survey.recall(self.journal.series(series.uid))
                self._surveys[id(series)] = survey
        return self._surveys[id(series)]

    def forget_survey(self, series: Series) -> None:
        """Let go of the slices that a survey has read."""
        del self._surveys[id(series)]

    def fail(
        self, unit: Unit, error: SliceFailed | SliceSkipped, *, n_slices: int | None = None
    ) -> None:
        """Record that a file failed or was skipped; see `settle`."""
        source = unit.source
        record = SliceRecord(
            file=self.label(source.path),
            outcome="failed" if isinstance(error, SliceFailed) else "skipped",
            reason=error.reason,
            message=told(str(error), error.hint),
            sop_instance_uid=source.sop_instance_uid,
            matrix=source.matrix,
            n_frames=source.n_frames,
            warnings=source.warnings,
        )
        self.settle(unit, record, n_slices=n_slices)

    def settle(self, unit: Unit, record: SliceRecord, *, n_slices: int | None = None) -> None:
        """Record what became of a file, and count `n_slices` (default: all of its slices)."""
        self.records[unit.ordinal] = record
        self.advance(record.n_frames or 1 if n_slices is None else n_slices)

    def advance(self, n_slices: int) -> None:
        """Count slices as done.

        Raises
        ------
        StopAskedError
            If a signal waits.
        """
        self.done += n_slices
        self.clock.moved()
        if self.ending:
            return
        if self._on_progress is not None:
            self._on_progress(RunProgress(done=self.done, total=self.total))
        self.check_stop()

    def check_stop(self) -> None:
        """Raise `StopAskedError` if a signal waits."""
        if self.stop_asked():
            raise StopAskedError

    def save_previews(self, previews: Previews) -> None:
        """Write the contact sheet of a series; one that cannot be drawn is a note, not the end."""
        try:
            previews.save(self.output)
        except SliceFailed as exc:
            self.backends.notes[f"the contact sheet of a series is not drawn: {exc}"] = None

    @property
    def moved_at(self) -> float:
        """When something last began or finished, by `time.monotonic`."""
        return self.clock.moved_at

    def waits_for(self) -> str:
        """Say in a sentence what is under way: how far it is, on what, in which stages."""
        told = [f"{self.done} of {self.total} slices are done, on {self.backends.choice.backend}"]
        for stage, (n, seconds) in self.clock.waits_in().items():
            unit = "batch" if stage in COMPUTING else "file"
            many = {"batch": "batches", "file": "files"}[unit] if n > 1 else unit
            what = f"'{stage}'" if stage in ALONE else f"{n} {many} in '{stage}'"
            told.append(f"{what} for {seconds:.0f} s")
        if self.elsewhere:
            told.append(self.elsewhere)
        if self.stop_asked():
            told.append("a signal waits for them, and another one ends the process at once")
        return "; ".join(told)

    def label(self, path: Path) -> str:
        """Name a file of the input in the report."""
        return file_label(path, self.source, show_path=self.options.show_paths)

    def left_out(self, left: LeftOut) -> SliceRecord:
        """Return the record of a file that the scan left out."""
        return SliceRecord(
            file=self.label(left.path),
            outcome=left.outcome,
            reason=left.reason,
            message=told(left.message, left.hint),
        )

    def report(
        self, scan: Scan, wall_s: float, *, workers: int, computing: int = 1, ended_with: int | None
    ) -> RunReport:
        """Return what was done so far; `ended_with`: the exit code of a run that was cut short."""
        spec, choice = self.backends.spec, self.backends.choice
        timings = self.clock.timings(wall_s, workers=workers, computing=computing)
        slices = [self.records[ordinal] for ordinal in sorted(self.records)]
        slices += [self.left_out(left) for left in scan.left_out]
        return RunReport(
            version=__version__,
            backend=choice.backend,
            backend_choice=choice.to_dict(),
            backend_text=choice.as_text(),
            backend_notes=tuple(self.backends.notes),
            model=spec.name,
            weights_sha256=spec.provenance.weights_sha256,
            upscale=spec.upscale,
            slices=tuple(slices),
            series=len(scan.series),
            series_records=tuple(
                record
                for series in scan.series
                for record in self.series_records.get(series.uid, [])
            ),
            stale=tuple(self.stale),
            bounds={name: spec.bounds[name] for name in BOUNDED if name in spec.bounds},
            interrupted=ended_with is not None,
            ended_with=ended_with,
            not_reached=self.total - self.done,
            seconds={
                **{stage: round(busy, 4) for stage, busy in self.clock.seconds.items()},
                "total": round(wall_s, 4),
            },
            stages=tuple(timings),
            bottleneck=bottleneck(timings),
            intended_use=spec.intended_use,
        )


def told(message: str, hint: str | None) -> str:
    """Return a message with its hint."""
    return message if hint is None else f"{message} ({hint})"
