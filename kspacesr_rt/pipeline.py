"""From a folder of DICOM to derived series: scan, read, infer, check, write.

A slice that fails is recorded and the others go on; nothing that was not asked for replaces what
was: not another backend, not another model, not an invented value.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, groupby, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from kspacesr_rt._version import __version__
from kspacesr_rt.backends import (
    Backend,
    BackendOptions,
    baseline_spec,
    open_backend,
    require_available,
)
from kspacesr_rt.dicom import (
    DecodedSlice,
    Derivation,
    EnhancedWriter,
    FrameReader,
    LeftOut,
    Scan,
    Series,
    SourceSlice,
    derive,
    derive_enhanced,
    output_path,
    prepare_output,
    read_slice,
    require_whole,
    scan_folder,
    to_stored,
    told_by_frame,
    uninterpolated,
    write_atomically,
)
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.dicom.header import PARSE_ERRORS
from kspacesr_rt.errors import (
    InputError,
    KspaceSRError,
    NoMRImageError,
    OutputError,
    ShapeError,
    SliceFailed,
    SliceSkipped,
    StrictRefusalError,
)
from kspacesr_rt.files import replace_file
from kspacesr_rt.interpolated import KspaceSupport, OnInterpolated
from kspacesr_rt.interruption import held_signals
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.report import (
    RunReport,
    SeriesRecord,
    SliceRecord,
    file_label,
    require_replaceable,
)
from kspacesr_rt.selection import AUTO, Choice, settle_backend
from kspacesr_rt.spec import ModelSpec
from kspacesr_rt.survey import INTERPOLATION_WARNINGS, Survey, survey_series
from kspacesr_rt.trust import BOUNDED, SliceFigures, check_result

if TYPE_CHECKING:
    from kspacesr_rt.model_file import ModelFile

OPEN_BACKENDS = 4
"""Matrices for which a bound model is kept open: studies come back to the same few."""
PREVIEW_POSITIONS = (0.3, 0.5, 0.7)
"""Which slices of a series the contact sheet shows, as shares of its length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferOptions:
    """How a run is done."""

    backend: str = "auto"
    """What computes, never replaced by another; ``auto`` chooses once, before the first slice."""
    model: str | None = None
    """Path or shipped name; None takes the shipped model of `upscale`."""
    upscale: int | None = None
    """Wanted SR / LR; None means the model's, or 2."""
    batch: int = 1
    """Slices (or frames of one multi-frame file) given to the backend at once."""
    threads: int = 0
    """CPU threads of the backend; 0 takes every core."""
    streams: int = 0
    """Slices of a batch that `openvino` computes side by side; 0: one after the other."""
    preview: bool = False
    """Write a PNG contact sheet a series."""
    include_derived: bool = False
    """Process parametric maps and other derived images too."""
    random_uids: bool = False
    """Draw new UIDs instead of deriving stable ones."""
    keep_private: bool = False
    """Keep private elements of the source."""
    compress: str = "none"
    """Lossless compression of the outputs: a word of `kspacesr_rt.dicom.compress.SYNTAXES`."""
    show_paths: bool = False
    """Name input files by their path in the report (paths may hold names of patients)."""
    on_interpolated: OnInterpolated = "warn"
    """What to do with series that the scanner interpolated: their k-space has an empty rim.
    ``crop`` brings them back to what was acquired, so the output is `upscale` times that."""
    strict: bool = False
    """Refuse input that is otherwise only warned about, before anything is written."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.on_interpolated not in get_args(OnInterpolated):
            raise InputError(
                f"--on-interpolated is warn, skip or crop, not '{self.on_interpolated}'"
            )
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} slices is not possible; at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """How far a run is."""

    done: int
    """Slices that are written or failed."""
    total: int
    """Slices to process."""


class _OpenBackends:
    """Backends by LR matrix, opened when first met, the least recently used closed."""

    def __init__(self, options: InferOptions) -> None:
        self._told = BackendOptions(threads=options.threads, streams=options.streams)
        self._model: ModelFile | None = None
        self.notes: dict[str, None] = {}  # in the order they came, each once
        if options.backend == AUTO or require_available(options.backend).model:
            self._model = _load(options)
            self.spec = self._model.spec
            self.choice = settle_backend(options.backend, self._model, self._told)
            self.notes.update(dict.fromkeys(self.choice.notes))
        else:
            if options.model is not None:
                raise InputError(f"backend '{options.backend}' takes no --model")
            self.spec = baseline_spec(options.backend, options.upscale or 2, (0, 0))
            self.choice = Choice(asked=options.backend, backend=options.backend, reason="asked for")
        self._open: OrderedDict[Matrix, Backend] = OrderedDict()

    def get(self, matrix: Matrix) -> Backend:
        if matrix in self._open:
            self._open.move_to_end(matrix)
            return self._open[matrix]
        while len(self._open) >= OPEN_BACKENDS:
            self._open.popitem(last=False)[1].__exit__(None, None, None)
        backend = self._new(matrix)
        self._open[matrix] = backend.__enter__()
        self.notes.update(dict.fromkeys(getattr(backend, "notes", ())))
        return backend

    def _new(self, matrix: Matrix) -> Backend:
        name = self.choice.backend
        if self._model is None:
            spec = baseline_spec(name, self.spec.upscale, matrix)
            return open_backend(name, spec, self._told)
        from kspacesr_rt.binding import bind

        return open_backend(name, bind(self._model, matrix), self._told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            for backend in self._open.values():
                stack.push(backend.__exit__)


def _load(options: InferOptions) -> ModelFile:
    from kspacesr_rt.model_file import load_model, resolve_model

    model = load_model(resolve_model(options.model, upscale=options.upscale))
    if options.upscale is not None and options.upscale != model.spec.upscale:
        raise InputError(
            f"model '{model.spec.name}' upscales by {model.spec.upscale}, "
            f"--upscale asks for {options.upscale}",
            hint="leave --upscale out, or name another model",
        )
    return model


class _StopAskedError(Exception):
    """A signal waits; unwinds to where the report is written."""


class _Run:
    """The state of one run: what is open, what happened, how long it took."""

    def __init__(
        self,
        source: Path,
        output: Path,
        options: InferOptions,
        backends: _OpenBackends,
        on_progress: Callable[[RunProgress], None] | None,
    ) -> None:
        self.source, self.output, self.options = source, output, options
        self.backends = backends
        self.stop_asked: Callable[[], bool] = lambda: False
        self._surveys: dict[int, Survey] = {}
        self.series_records: list[SeriesRecord] = []
        self.records: list[SliceRecord] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.total = self.done = 0
        self._on_progress = on_progress
        spec = backends.spec
        self._syntax = syntax_of(options.compress)
        self._derivation = Derivation(
            upscale=spec.upscale,
            backend=backends.choice.backend,
            model=spec.name,
            weights_sha256=spec.provenance.weights_sha256 or None,
            tool_version=__version__,
            synthetic=spec.adversarial,
            uids="random" if options.random_uids else "stable",
            keep_private=options.keep_private,
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def report(self, scan: Scan, started: float, *, interrupted: bool) -> RunReport:
        """Return what was done so far."""
        for left in scan.left_out:
            self.leave_out(left)
        self.seconds["total"] = time.perf_counter() - started
        spec = self.backends.spec
        return RunReport(
            version=__version__,
            backend=self.backends.choice.backend,
            backend_choice=self.backends.choice.to_dict(),
            backend_text=self.backends.choice.as_text(),
            backend_notes=tuple(self.backends.notes),
            model=spec.name,
            weights_sha256=spec.provenance.weights_sha256,
            upscale=spec.upscale,
            slices=tuple(self.records),
            series=len(scan.series),
            series_records=tuple(self.series_records),
            bounds={name: spec.bounds[name] for name in BOUNDED if name in spec.bounds},
            interrupted=interrupted,
            not_reached=self.total - self.done,
            seconds={stage: round(value, 4) for stage, value in self.seconds.items()},
            intended_use=spec.intended_use,
        )

    def leave_out(self, left: LeftOut) -> None:
        self.records.append(
            SliceRecord(
                file=self._label(left.path),
                outcome=left.outcome,
                reason=left.reason,
                message=_told(left.message, left.hint),
            )
        )

    def survey(self, series: Series) -> Survey:
        """Return what is known of a series, measured once."""
        if id(series) not in self._surveys:
            with self.timed("survey"):
                self._surveys[id(series)] = survey_series(
                    series, keep_private=self.options.keep_private
                )
        return self._surveys[id(series)]

    def process(self, series: Series) -> None:
        survey = self.survey(series)
        del self._surveys[id(series)]  # with the slices it has read
        self._record_series(series, survey)
        previews = _Previews(series.n_slices) if self.options.preview else None
        starts = accumulate((item.n_frames or 1 for item in series.slices), initial=0)
        numbered = zip(starts, series.slices, strict=False)  # initial=0 makes one start too many
        for (matrix, multi_frame), group in groupby(
            numbered, key=lambda pair: (pair[1].matrix, pair[1].n_frames is not None)
        ):
            support = survey.supports[matrix]
            handled = self._handled(support, multi_frame=multi_frame)
            if handled == "skipped":
                for _, source in group:
                    self._fail(source, _interpolated(multi_frame=multi_frame))
                continue
            if multi_frame:
                for number, source in group:
                    self._process_frames(number, source, previews, support.warning)
                continue
            plan = _SlicePlan(
                matrix=support.cropped_matrix if handled == "cropped" else matrix,
                read=survey.read,
                derivation=self._derivation,
                warning=support.warning,
            )
            if handled == "cropped":
                plan.derivation = replace(self._derivation, cropped_to=plan.matrix)
            waiting: list[tuple[int, SourceSlice, DecodedSlice]] = []
            for number, source in group:
                if (decoded := self._read(source, plan)) is not None:
                    waiting.append((number, source, decoded))
                if len(waiting) == self.options.batch:
                    self._infer(plan, waiting, previews)
                    waiting = []
            if waiting:
                self._infer(plan, waiting, previews)
        if previews is not None:
            previews.save(self.output)

    def _handled(
        self, support: KspaceSupport, *, multi_frame: bool
    ) -> Literal["as-stored", "cropped", "skipped"]:
        if not support.interpolated or self.options.on_interpolated == "warn":
            return "as-stored"
        if self.options.on_interpolated == "skip" or multi_frame:
            return "skipped"
        return "as-stored" if support.cropped_matrix == support.matrix else "cropped"

    def _record_series(self, series: Series, survey: Survey) -> None:
        for matrix, support in survey.supports.items():
            same = [item for item in series.slices if item.matrix == matrix]
            multi_frame = any(item.n_frames is not None for item in same)
            handled = self._handled(support, multi_frame=multi_frame)
            self.series_records.append(
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

    def _read(self, source: SourceSlice, plan: _SlicePlan) -> DecodedSlice | None:
        try:
            with self.timed("read"):
                stored = plan.read.pop(source.path, None) or read_slice(source)
                return uninterpolated(stored, plan.matrix)
        except (SliceFailed, SliceSkipped) as exc:
            self._fail(source, exc)
            return None

    def _infer(
        self,
        plan: _SlicePlan,
        waiting: list[tuple[int, SourceSlice, DecodedSlice]],
        previews: _Previews | None,
    ) -> None:
        try:
            results = self._results(plan.matrix, [decoded for _, _, decoded in waiting])
        except SliceFailed as exc:
            for _, source, _ in waiting:
                self._fail(source, exc)
            return
        for (number, source, decoded), sr in zip(waiting, results, strict=True):
            self._finish(number, source, decoded, sr, previews, plan)

    def _results(self, matrix: Matrix, slices: list[DecodedSlice]) -> FloatArray:
        batch = np.stack([decoded.values for decoded in slices])[:, None]
        try:
            with self.timed("infer"):
                return self.backends.get(matrix).run(batch)[:, 0]
        except ShapeError as exc:
            raise SliceFailed("matrix", str(exc)) from exc

    def _process_frames(
        self,
        first: int,
        source: SourceSlice,
        previews: _Previews | None,
        warning: str | None,
    ) -> None:
        """Super-resolve a multi-frame file: all of its frames, or nothing is written."""
        end = self.done + (source.n_frames or 1)
        try:
            with self.timed("read"):
                reader = FrameReader(source)
                derived = derive_enhanced(reader.take_header(), self._derivation)
            series_uid = str(derived.SeriesInstanceUID)
            with EnhancedWriter(
                self.output, derived, self._derivation, syntax=self._syntax
            ) as writer:
                growing = _GrowingFile(writer=writer, spec=self.backends.spec)
                frames = iter(reader)
                while waiting := self._next_frames(frames):
                    results = self._results(source.matrix, waiting)
                    for decoded, sr in zip(waiting, results, strict=True):
                        with self.timed("check"):
                            growing.check(decoded, sr)
                        with self.timed("write"):
                            growing.add(decoded, sr)
                        shown = first + growing.n_frames - 1
                        if previews is not None and previews.wants(shown):
                            growing.shown.append((shown, decoded.values, sr))
                        self._advance(1)
                with self.timed("write"):
                    path, fresh = writer.finish()
        except SliceFailed as exc:
            self._fail(source, exc)
            self._advance(end - self.done)
            return
        if previews is not None:
            previews.keep(series_uid, growing.shown)
        self._record(
            SliceRecord(
                file=self._label(source.path),
                outcome="written" if fresh else "present",
                sop_instance_uid=source.sop_instance_uid,
                output=str(path.relative_to(self.output)),
                matrix=source.matrix,
                n_frames=source.n_frames,
                **_told_figures(growing.figures, growing.flags),
                warnings=(*source.warnings, *([warning] if warning else [])),
            )
        )

    def _next_frames(self, frames: Iterator[DecodedSlice]) -> list[DecodedSlice]:
        with self.timed("read"):
            return list(islice(frames, self.options.batch))

    def _finish(
        self,
        number: int,
        source: SourceSlice,
        decoded: DecodedSlice,
        sr: FloatArray,
        previews: _Previews | None,
        plan: _SlicePlan,
    ) -> None:
        spec = self.backends.spec
        try:
            with self.timed("check"):
                figures = check_result(sr, decoded.values, spec)
            with self.timed("write"):
                with _told_of_header():
                    dataset = derive(decoded, sr, plan.derivation)
                path = output_path(self.output, dataset)
                fresh = not path.exists()
                if fresh:
                    write_atomically(dataset, path, syntax=self._syntax)
                else:
                    require_whole(path, dataset)
        except SliceFailed as exc:
            self._fail(source, exc)
            return
        if previews is not None:
            previews.offer(number, str(dataset.SeriesInstanceUID), decoded.values, sr)
        self._record(
            SliceRecord(
                file=self._label(source.path),
                outcome="written" if fresh else "present",
                sop_instance_uid=source.sop_instance_uid,
                output=str(path.relative_to(self.output)),
                matrix=plan.matrix,
                **_told_figures(figures, figures.beyond(spec.bounds)),
                warnings=(*source.warnings, *([plan.warning] if plan.warning else [])),
            )
        )

    def _fail(self, source: SourceSlice, error: SliceFailed | SliceSkipped) -> None:
        self._record(
            SliceRecord(
                file=self._label(source.path),
                outcome="failed" if isinstance(error, SliceFailed) else "skipped",
                reason=error.reason,
                message=_told(str(error), error.hint),
                sop_instance_uid=source.sop_instance_uid,
                matrix=source.matrix,
                n_frames=source.n_frames,
                warnings=source.warnings,
            )
        )

    def _record(self, record: SliceRecord) -> None:
        self.records.append(record)
        if record.n_frames is None:  # frames were counted one by one
            self._advance(1)

    def _advance(self, n_slices: int) -> None:
        self.done += n_slices
        if self._on_progress is not None:
            self._on_progress(RunProgress(done=self.done, total=self.total))
        if self.stop_asked():
            raise _StopAskedError

    def _label(self, path: Path) -> str:
        return file_label(path, self.source, show_path=self.options.show_paths)


@dataclass(kw_only=True, slots=True)
class _SlicePlan:
    """How the classic slices of one matrix of a series are processed."""

    matrix: Matrix
    """LR matrix: as stored, or what was acquired."""
    read: dict[Path, DecodedSlice]
    """Slices that the survey has read."""
    derivation: Derivation
    """What their outputs tell."""
    warning: str | None
    """What their records tell."""


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


def _told_figures(figures: SliceFigures | None, flags: tuple[str, ...]) -> dict[str, Any]:
    return {"flags": flags, **(asdict(figures) if figures else {})}


@contextmanager
def _told_of_header() -> Iterator[None]:
    """Let values that no rule of a header foresaw fail the slice, not the run."""
    try:
        yield
    except KspaceSRError:
        raise
    except PARSE_ERRORS as exc:
        raise SliceFailed("unreadable", "the header holds impossible values") from exc


def _told(message: str, hint: str | None) -> str:
    return message if hint is None else f"{message} ({hint})"


@dataclass(kw_only=True, slots=True)
class _GrowingFile:
    """All that is known of a multi-frame output before it is finished."""

    writer: EnhancedWriter
    """Holds the frames that are done; they are on disk."""
    spec: ModelSpec
    """What was promised for each of them."""
    n_frames: int = 0
    """Frames that are done."""
    figures: SliceFigures | None = None
    """The worst so far."""
    shown: list[tuple[int, FloatArray, FloatArray]] = field(default_factory=list)
    """Number, LR and SR of the frames that the contact sheet shows, should the file be finished."""

    def check(self, decoded: DecodedSlice, sr: FloatArray) -> None:
        with told_by_frame(self.n_frames + 1):
            figures = check_result(sr, decoded.values, self.spec)
        self.figures = figures if self.figures is None else self.figures.worse_of(figures)

    @property
    def flags(self) -> tuple[str, ...]:
        return self.figures.beyond(self.spec.bounds) if self.figures else ()

    def add(self, decoded: DecodedSlice, sr: FloatArray) -> None:
        self.n_frames += 1
        self.writer.write(self.n_frames, to_stored(sr, decoded.dataset))


class _Previews:
    """Keeps the few slices of a series that its contact sheet shows."""

    def __init__(self, n_slices: int) -> None:
        self._wanted = {int(share * (n_slices - 1) + 0.5) for share in PREVIEW_POSITIONS}
        self._kept: list[tuple[int, FloatArray, FloatArray]] = []
        self._series_uid = ""

    def wants(self, number: int) -> bool:
        return number in self._wanted

    def offer(self, number: int, series_uid: str, lr: FloatArray, sr: FloatArray) -> None:
        if self.wants(number):
            self.keep(series_uid, [(number, lr, sr)])

    def keep(self, series_uid: str, shown: list[tuple[int, FloatArray, FloatArray]]) -> None:
        if shown:
            self._series_uid = series_uid
            self._kept += shown

    def save(self, folder: Path) -> None:
        if not self._kept:
            return
        from kspacesr_rt.preview import PreviewSlice, contact_sheet

        png = contact_sheet(
            [PreviewSlice(lr=lr, sr=sr, number=number + 1) for number, lr, sr in self._kept]
        )
        replace_file(folder / f"preview-{self._series_uid}.png", png)


def infer(
    source: Path,
    output: Path,
    options: InferOptions | None = None,
    *,
    report_file: Path | None = None,
    on_progress: Callable[[RunProgress], None] | None = None,
) -> RunReport:
    """Super-resolve every MR image below a folder into derived series.

    Parameters
    ----------
    source
        Folder (or one file); it is only read.
    output
        Folder for ``<series>/<instance>.dcm``; made if missing.
    options
        Backend, model, batch and the like.
    report_file
        Where the report goes; default ``report.json`` in `output`.
    on_progress
        Called after every slice.

    Returns
    -------
        What became of every file. Failed slices do not raise: see `RunReport.exit_code`.

    Raises
    ------
    InputError, ModelFileError, ModelSpecError
        If the options or the model cannot be used.
    BackendUnavailableError
        If the backend cannot run here.
    OutputError
        If the output is unsafe or cannot be written.
    NoMRImageError
        If nothing could be processed; nothing is written.
    """
    options = options or InferOptions()
    started = time.perf_counter()
    if not source.exists():
        raise InputError("no such file or folder as the input")
    syntax_of(options.compress)  # before anything is read or opened
    with _OpenBackends(options) as backends:
        prepare_output(source, output)
        if report_file and source.resolve() in (
            report_file.resolve(),
            *report_file.resolve().parents,
        ):
            raise OutputError(
                "the report lies inside the input", hint="the input is only read: choose elsewhere"
            )
        report_file = report_file or output / "report.json"
        require_replaceable(report_file)
        run = _Run(source, output, options, backends, on_progress)
        with run.timed("scan"):
            scan = scan_folder(source, include_derived=options.include_derived)
        if not scan.series:
            raise _nothing_to_do(scan.left_out)
        run.total = scan.n_slices
        _refuse_in_advance(run, scan)
        output.mkdir(parents=True, exist_ok=True)
        with held_signals() as stop_asked:
            run.stop_asked = stop_asked
            return _reported(run, scan, report_file, started)


def _refuse_in_advance(run: _Run, scan: Scan) -> None:
    """Refuse, before anything is written, what can only be told after a look at every series."""
    options = run.options
    if not options.strict and options.on_interpolated != "skip":
        return
    surveyed = []
    for series in scan.series:
        surveyed.append(run.survey(series))
        surveyed[-1].read.clear()  # no archive fits into memory
    if options.strict:
        told = Counter(
            text
            for series, survey in zip(scan.series, surveyed, strict=True)
            for text in (*series.warnings, *survey.warnings)
            if options.on_interpolated == "warn" or not text.startswith(INTERPOLATION_WARNINGS)
        )
        if told:
            listed = "; ".join(f"{text} ({n} series)" for text, n in sorted(told.items()))
            raise StrictRefusalError(
                f"refused under --strict: {listed}",
                hint="without --strict they are processed, with a warning",
            )
    if options.on_interpolated == "skip" and all(
        support.interpolated for one in surveyed for support in one.supports.values()
    ):
        raise NoMRImageError(
            f"no MR image to process: {scan.n_slices} interpolated",
            hint="--on-interpolated warn or crop processes them",
        )


def _reported(run: _Run, scan: Scan, report_file: Path, started: float) -> RunReport:
    """Process every series and write the report, whatever ends the run."""
    interrupted = False
    try:
        for series in scan.series:
            run.process(series)
    except _StopAskedError:
        interrupted = True
    except KspaceSRError:
        # The disk is full, say: what was done until then is still worth knowing.
        with suppress(OutputError):
            run.report(scan, started, interrupted=True).save(report_file)
        raise
    report = run.report(scan, started, interrupted=interrupted)
    report.save(report_file)
    return report


def _nothing_to_do(left_out: tuple[LeftOut, ...]) -> KspaceSRError:
    counts: dict[str, int] = {}
    for left in left_out:
        counts[left.reason] = counts.get(left.reason, 0) + 1
    listed = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
    return NoMRImageError(
        f"no MR image to process: {listed or 'the folder holds no file'}",
        hint="expected magnitude MR Image Storage files; --include-derived takes maps too",
    )
