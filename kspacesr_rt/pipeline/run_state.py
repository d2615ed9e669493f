"""What a run knows and has found out: shared by all that handles its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kspacesr_rt._version import __version__
from kspacesr_rt.dicom import Derivation, LeftOut, Scan, Series, SourceSlice
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.dicom.header_counts import HeaderCounts
from kspacesr_rt.dicom.output_names import parsed_name
from kspacesr_rt.dicom.output_places import OutputPlaces
from kspacesr_rt.dicom.series_encoder import SeriesEncoder
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.contracts import contract_note, contracts_of
from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.model.spec import BOUNDED, ModelSpec
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.pipeline.backend_pool import BackendPool
from kspacesr_rt.pipeline.batch_choice import BatchChoice
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.output_folder import USUAL_PARAMETERS, Journal
from kspacesr_rt.pipeline.previews import Previews
from kspacesr_rt.pipeline.report import (
    RunReport,
    SeriesRecord,
    SeriesWarning,
    SliceRecord,
    StaleRecord,
)
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess
from kspacesr_rt.pipeline.stage_timer import ALONE, COMPUTING, StageTimer, bottleneck
from kspacesr_rt.pipeline.survey import Survey, survey_series
from kspacesr_rt.runtime.backends import ZERO_FILL, baseline_spec
from kspacesr_rt.system.file_labels import file_label
from kspacesr_rt.system.plurals import counted
from kspacesr_rt.system.progress_messages import report_step
from kspacesr_rt.volumes.output_names import output_label


class StopRequestedError(Exception):
    """A signal waits; unwinds to where the report is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTask:
    """One file that is to be processed."""

    ordinal: int
    """Its place among all files of the run: what is said of it stands there in the report."""
    number: int
    """Its place, or that of its first frame, in its series."""
    source: SourceSlice
    repeated: bool = False
    """Whether another file of its series has the same instance number."""
    earlier: tuple[str, ...] = ()
    """Outputs that it is known to have had, relative to the output folder."""
    noted: str = ""
    """The one of them that says what its file says now."""


@dataclass(kw_only=True, slots=True)
class SeriesProgress:
    """How far a series is."""

    series: Series
    left: int
    """Files that are not settled."""
    committing: int = 0
    """Files among them whose output is written, and not yet durable."""
    previews: Previews | None
    """None if no contact sheet is wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Computation:
    """What computes the slices of a file, and what its output says of that."""

    spec: ModelSpec
    """Of the model or baseline."""
    derivation: Derivation
    """What the output tells."""
    zero_filled: bool = False
    """Whether that is zero-filling instead of the run's model."""


class RunState:
    """The state of one run: what is open, what happened, how long it took."""

    def __init__(
        self,
        source: Path,
        output: Path,
        options: InferOptions,
        backends: BackendPool,
        on_progress: Callable[[RunProgress], None] | None = None,
    ) -> None:
        self.source, self.output, self.options = source, output, options
        self.backends = backends
        self.notes = dict.fromkeys(backends.choice.notes)  # in the order they came, each once
        self.timer = StageTimer()
        self.header_counts = HeaderCounts()
        self.last_encoder: SeriesEncoder | None = None
        self._last_reader: SeriesReader | None = None
        self.syntax = syntax_of(options.compress)
        self.journal: Journal | None = None
        self.places = self.new_places()
        self.stop_requested: Callable[[], bool] = lambda: False
        self.total = self.done = self.present = 0
        self.choosing_s = 0.0  # until it was settled what computes, if that was for this run
        self.processes = 1  # that process series at the same time
        self.slice_processes: tuple[SliceProcess, ...] = ()  # that read and write beside this one
        self.works_here = False  # whether threads of this process read and write, too
        self.elsewhere = ""  # what others compute, said in a few words
        self.adds_to_series = False  # slices of these series were processed before, by other runs
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
            precision=spec.precision,
            tier=options.tier,
            contract=contract_note(spec),
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """What the run's manifest states."""
        spec, options = self.backends.spec, self.options
        stated: dict[str, Any] = {
            "sample_grid": spec.sample_grid,
            "plane": options.plane,
            "tier": options.tier,
            "on_outside": options.on_outside,
        }
        # Only where it is not the usual one, so that folders of earlier runs can be gone on with.
        own = {name: one for name, one in stated.items() if one != USUAL_PARAMETERS[name]}
        return own | {
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

    @property
    def batch(self) -> BatchChoice | None:
        """How many slices are given to the backend at once; None: that is not measured yet."""
        return self.backends.batch_of(self.options.batch)

    def batch_at(self, matrix: Matrix) -> int:
        """Return the slices of a batch of a LR matrix."""
        batch = self.batch
        return 1 if batch is None else batch.at(matrix)

    def computation(self, zero_filled_for: Sequence[str] = ()) -> Computation:
        """Return what computes a series.

        Parameters
        ----------
        zero_filled_for
            Reason words of the limits that it is outside of, if it is to be zero-filled; none: the
            run's model.
        """
        spec = self.backends.spec
        if not zero_filled_for:
            return Computation(spec=spec, derivation=self.derivation)
        derivation = replace(
            self.derivation,
            backend=ZERO_FILL,
            model=ZERO_FILL,
            weights_sha256=None,
            graph_sha256=None,
            synthetic=False,
            sample_grid="kspace",
            precision="fp32",
            tier="exact",
            contract="",
            instead_of=spec.name,
            outside=tuple(zero_filled_for),
        )
        baseline = baseline_spec(ZERO_FILL, spec.upscale, (0, 0))
        return Computation(spec=baseline, derivation=derivation, zero_filled=True)

    def shown_intervals(self, spec: ModelSpec) -> TrustCalibration | None:
        """Return by what a contact sheet shows intervals around what `spec` says made a slice.

        None if that is not asked for, or none are calibrated.
        """
        return TrustCalibration.of(spec) if self.options.trust_map and spec.trust else None

    def survey(self, series: Series, measure: Callable[[Series], Survey] | None = None) -> Survey:
        """Return what is known of a series, measured once; may run in a worker.

        Parameters
        ----------
        series
            Any of the run.
        measure
            Surveys it, if it was not yet; None: it is surveyed here.
        """
        if id(series) not in self._surveys:
            survey = (measure or self._measured)(series)
            if self.journal is not None:
                survey.restore(self.journal.series(series.uid))
            self._surveys[id(series)] = survey
        return self._surveys[id(series)]

    def _measured(self, series: Series) -> Survey:
        with self.timer.busy("survey"):
            survey = survey_series(
                series,
                keep_private=self.options.keep_private,
                reader=SeriesReader(self.header_counts, earlier=self._last_reader),
            )
        self._last_reader = survey.reader
        return survey

    def forget_survey(self, series: Series) -> None:
        """Let go of the slices that a survey has read."""
        del self._surveys[id(series)]

    def fail(
        self, task: FileTask, error: SliceFailed | SliceSkipped, *, n_slices: int | None = None
    ) -> None:
        """Record that a file failed or was skipped; see `settle`."""
        source = task.source
        record = SliceRecord(
            file=self.label(source.path),
            outcome="failed" if isinstance(error, SliceFailed) else "skipped",
            reason=error.reason,
            message=with_hint(str(error), error.hint),
            sop_instance_uid=source.sop_instance_uid,
            matrix=source.matrix,
            n_frames=source.n_frames,
            warnings=source.warnings,
        )
        self.record_outcome(task, record, n_slices=n_slices)

    def new_places(self) -> OutputPlaces:
        """Return where outputs are and belong, as things stand now."""
        spec = self.backends.spec
        return OutputPlaces(
            self.output,
            parsed_name(self.options.name),
            upscale=spec.upscale,
            model=spec.name,
            known=lambda name: self.journal is not None and self.journal.has_output(name),
        )

    def record_outcome(
        self, task: FileTask, record: SliceRecord, *, n_slices: int | None = None
    ) -> None:
        """Record what became of a file, and count `n_slices` (default: all of its slices)."""
        self.records[task.ordinal] = record
        if record.outcome == "present":
            self.present += record.n_frames or 1
        self.advance(record.n_frames or 1 if n_slices is None else n_slices)

    def advance(self, n_slices: int) -> None:
        """Count slices as done.

        Raises
        ------
        StopRequestedError
            If a signal waits.
        """
        self.done += n_slices
        self.timer.note_progress()
        if self.ending:
            return
        if self._on_progress is not None:
            self._on_progress(RunProgress(done=self.done, total=self.total, present=self.present))
        self.check_stop()

    def check_stop(self) -> None:
        """Raise `StopRequestedError` if a signal waits."""
        if self.stop_requested():
            report_step("ending after what is begun; Ctrl-C again ends now")
            raise StopRequestedError

    def count_down(self, progress: SeriesProgress) -> None:
        """Note that a file of a series is settled; with the last one the contact sheet is drawn."""
        progress.left -= 1
        if progress.left == 0 and progress.previews is not None:
            self.save_previews(progress.previews)

    def save_previews(self, previews: Previews) -> None:
        """Write the contact sheet of a series; one that cannot be drawn is a note, not the end."""
        try:
            previews.save(self.output)
        except SliceFailed as exc:
            self.notes[f"the contact sheet of a series is not drawn: {exc}"] = None

    @property
    def progress_at(self) -> float:
        """When something last began or finished, by `time.monotonic`."""
        return self.timer.progress_at

    def describe_start(self, n_series: int) -> str:
        """Say in a few words what the run is about to do."""
        spec, choice = self.backends.spec, self.backends.choice
        how = choice.backend if spec.name == choice.backend else f"{spec.name} on {choice.backend}"
        return f"{counted(self.total, 'slice')}, {n_series} series, x{spec.upscale} with {how}"

    def describe_activity(self) -> str:
        """Say in a sentence what is under way: how far it is, on what, in which stages."""
        parts = [f"{self.done} of {self.total} slices are done, on {self.backends.choice.backend}"]
        for stage, (n, seconds) in self.timer.active_stages().items():
            unit = "batch" if stage in COMPUTING else "file"
            many = {"batch": "batches", "file": "files"}[unit] if n > 1 else unit
            what = f"'{stage}'" if stage in ALONE else f"{n} {many} in '{stage}'"
            parts.append(f"{what} for {seconds:.0f} s")
        if self.elsewhere:
            parts.append(self.elsewhere)
        if self.stop_requested():
            parts.append("a signal waits for them, and another one ends the process at once")
        return "; ".join(parts)

    def label(self, path: Path) -> str:
        """Name a file of the input in the report."""
        return file_label(path, self.source, show_path=self.options.show_paths)

    def output_label(self, output: str) -> str:
        """Name a result in the report."""
        return output_label(output, show_path=self.options.show_paths)

    def labelled_maps(self, records: list[SeriesRecord]) -> list[SeriesRecord]:
        """Name the trust maps of series as the report names results."""
        return [
            replace(one, trust_map=self.output_label(one.trust_map)) if one.trust_map else one
            for one in records
        ]

    def left_out(self, left: LeftOut) -> SliceRecord:
        """Return the record of a file that the scan left out."""
        return SliceRecord(
            file=self.label(left.path),
            outcome=left.outcome,
            reason=left.reason,
            message=with_hint(left.message, left.hint),
        )

    def report(
        self, scan: Scan, wall_s: float, *, workers: int, computing: int = 1, ended_with: int | None
    ) -> RunReport:
        """Return what was done so far; `ended_with`: the exit code of a run that was cut short."""
        spec, choice, batch = self.backends.spec, self.backends.choice, self.batch
        timings = self.timer.timings(
            wall_s,
            workers=workers,
            computing=computing,
            syncing=self.processes if self.options.durability == "batch" else workers,
        )
        slices = [self.records[ordinal] for ordinal in sorted(self.records)]
        slices += [self.left_out(left) for left in scan.left_out]
        labels = (self.output_label(one.output) for one in slices)
        slices = [
            one if one.output == label else replace(one, output=label)
            for one, label in zip(slices, labels, strict=True)
        ]
        stale = [replace(one, output=self.output_label(one.output)) for one in self.stale]
        return RunReport(
            version=__version__,
            backend=choice.backend,
            backend_choice=choice.to_dict(),
            backend_text=choice.as_text(verbose=True),
            batch_choice=batch.to_dict() if batch else {},
            series_warnings=tuple(_series_warnings(scan, slices)),
            backend_notes=tuple(self.notes),
            model=spec.name,
            precision=spec.precision,
            weights_sha256=spec.provenance.weights_sha256,
            upscale=spec.upscale,
            slices=tuple(slices),
            series=len(scan.series),
            series_records=tuple(
                record
                for series in scan.series
                for record in self.labelled_maps(self.series_records.get(series.uid, []))
            ),
            stale=tuple(stale),
            limits=ModelLimits.of(spec).to_dict(),
            bounds={name: spec.bounds[name] for name in BOUNDED if name in spec.bounds},
            interrupted=ended_with is not None,
            ended_with=ended_with,
            not_reached=self.total - self.done,
            seconds={
                **({"choose": round(self.choosing_s, 4)} if self.choosing_s else {}),
                **{stage: round(busy, 4) for stage, busy in self.timer.seconds.items()},
                "total": round(wall_s, 4),
            },
            stages=tuple(timings),
            bottleneck=bottleneck(timings),
            headers=self.header_counts.to_dict(),
            intended_use=spec.intended_use,
            contracts=contracts_of(spec),
            options=self.options.to_dict(),
            option_sources=dict(self.options.sources),
        )


def with_hint(message: str, hint: str | None) -> str:
    """Return a message with its hint."""
    return message if hint is None else f"{message} ({hint})"


def _series_warnings(scan: Scan, slices: Sequence[SliceRecord]) -> Iterator[SeriesWarning]:
    """Tell which series each warning is about: by its number, and the first file."""
    records = {record.sop_instance_uid: record for record in slices if record.warnings}
    for number, series in enumerate(scan.series, start=1):
        own = [
            records[one.sop_instance_uid]
            for one in series.slices
            if one.sop_instance_uid in records
        ]
        for warning in sorted({text for record in own for text in record.warnings}):
            warned = [record for record in own if warning in record.warnings]
            yield SeriesWarning(
                number=number,
                series_instance_uid=series.uid,
                file=warned[0].file,
                warning=warning,
                n_slices=sum(record.n_frames or 1 for record in warned),
            )
