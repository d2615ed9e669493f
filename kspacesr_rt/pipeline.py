"""From a folder of DICOM to derived series: scan, read, infer, check, write.

A slice that fails is recorded and the others go on; nothing that was not asked for replaces what
was: not another backend, not another model, not an invented value.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

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
    LeftOut,
    Series,
    SourceSlice,
    derive,
    output_path,
    prepare_output,
    read_slice,
    scan_folder,
    write_atomically,
)
from kspacesr_rt.errors import (
    InputError,
    KspaceSRError,
    NoMRImageError,
    OutputError,
    ShapeError,
    SliceFailed,
    SliceSkipped,
)
from kspacesr_rt.files import replace_file
from kspacesr_rt.kspace import FloatArray, Matrix, measured_residual
from kspacesr_rt.report import RunReport, SliceRecord, file_label
from kspacesr_rt.spec import ModelSpec

if TYPE_CHECKING:
    from kspacesr_rt.model_file import ModelFile

MEASURED_TOLERANCE = 1e-4
"""Largest deviation of a measured k-space sample that rounding explains: fp32 transforms leave
1e-6 of the largest sample; TF32 would leave 1e-3."""
OPEN_BACKENDS = 4
"""Matrices for which a bound model is kept open: studies come back to the same few."""
PREVIEW_POSITIONS = (0.3, 0.5, 0.7)
"""Which slices of a series the contact sheet shows, as shares of its length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferOptions:
    """How a run is done."""

    backend: str = "ort-cpu"
    """What computes; never replaced by another."""
    model: str | None = None
    """Path or shipped name; None takes the shipped model of `upscale`."""
    upscale: int | None = None
    """Wanted SR / LR; None means the model's, or 2."""
    batch: int = 1
    """Slices given to the backend at once."""
    threads: int = 0
    """CPU threads of the backend; 0 takes every core."""
    preview: bool = False
    """Write a PNG contact sheet a series."""
    include_derived: bool = False
    """Process parametric maps and other derived images too."""
    random_uids: bool = False
    """Draw new UIDs instead of deriving stable ones."""
    keep_private: bool = False
    """Keep private elements of the source."""
    show_paths: bool = False
    """Name input files by their path in the report (paths may hold names of patients)."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
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
        info = require_available(options.backend)
        self._options = options
        self._model: ModelFile | None = None
        if info.model:
            self._model = _load(options)
            self.spec = self._model.spec
        else:
            if options.model is not None:
                raise InputError(f"backend '{options.backend}' takes no --model")
            self.spec = baseline_spec(options.backend, options.upscale or 2, (0, 0))
        self._open: OrderedDict[Matrix, Backend] = OrderedDict()

    def get(self, matrix: Matrix) -> Backend:
        if matrix in self._open:
            self._open.move_to_end(matrix)
            return self._open[matrix]
        while len(self._open) >= OPEN_BACKENDS:
            self._open.popitem(last=False)[1].__exit__(None, None, None)
        backend = self._new(matrix)
        self._open[matrix] = backend.__enter__()
        return backend

    def _new(self, matrix: Matrix) -> Backend:
        threads = BackendOptions(threads=self._options.threads)
        if self._model is None:
            spec = baseline_spec(self._options.backend, self.spec.upscale, matrix)
            return open_backend(self._options.backend, spec, threads)
        from kspacesr_rt.binding import bind

        return open_backend(self._options.backend, bind(self._model, matrix), threads)

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


def check_result(sr: FloatArray, lr: FloatArray, spec: ModelSpec) -> float | None:
    """Check one result before anybody sees it.

    Parameters
    ----------
    sr, lr
        One slice each, ``(s*y, s*x)`` and ``(y, x)``, not clipped.
    spec
        What was promised.

    Returns
    -------
        The measured-sample residual (see `kspacesr_rt.kspace.measured_residual`) of results that
        promise to keep measured samples, else None.

    Raises
    ------
    SliceFailed
        ``non-finite`` or ``data-consistency``.
    """
    if not np.isfinite(sr).all():
        raise SliceFailed("non-finite", "the result holds NaN or infinity")
    keeps = spec.data_consistency == "hard" or spec.name == "zero-fill"
    if not keeps or spec.output != "real":
        return None
    residual = measured_residual(sr, lr)
    if residual > MEASURED_TOLERANCE:
        raise SliceFailed(
            "data-consistency",
            f"measured k-space samples are off by {residual:.1e} of the largest, "
            f"{MEASURED_TOLERANCE:.0e} is allowed",
        )
    return residual


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
        self.records: list[SliceRecord] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.total = 0
        self._on_progress = on_progress
        spec = backends.spec
        self._derivation = Derivation(
            upscale=spec.upscale,
            backend=options.backend,
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

    def leave_out(self, left: LeftOut) -> None:
        self.records.append(
            SliceRecord(
                file=self._label(left.path),
                outcome=left.outcome,
                reason=left.reason,
                message=_told(left.message, left.hint),
            )
        )

    def process(self, series: Series) -> None:
        previews = _Previews(len(series.slices)) if self.options.preview else None
        numbered = enumerate(series.slices)
        for matrix, group in groupby(numbered, key=lambda pair: pair[1].matrix):
            waiting: list[tuple[int, SourceSlice, DecodedSlice]] = []
            for number, source in group:
                if (decoded := self._read(source)) is not None:
                    waiting.append((number, source, decoded))
                if len(waiting) == self.options.batch:
                    self._infer(matrix, waiting, previews)
                    waiting = []
            if waiting:
                self._infer(matrix, waiting, previews)
        if previews is not None:
            previews.save(self.output)

    def _read(self, source: SourceSlice) -> DecodedSlice | None:
        try:
            with self.timed("read"):
                return read_slice(source)
        except (SliceFailed, SliceSkipped) as exc:
            self._fail(source, exc)
            return None

    def _infer(
        self,
        matrix: Matrix,
        waiting: list[tuple[int, SourceSlice, DecodedSlice]],
        previews: _Previews | None,
    ) -> None:
        batch = np.stack([decoded.values for _, _, decoded in waiting])[:, None]
        try:
            with self.timed("infer"):
                results = self.backends.get(matrix).run(batch)[:, 0]
        except ShapeError as exc:
            for _, source, _ in waiting:
                self._fail(source, SliceFailed("matrix", str(exc)))
            return
        for (number, source, decoded), sr in zip(waiting, results, strict=True):
            self._finish(number, source, decoded, sr, previews)

    def _finish(
        self,
        number: int,
        source: SourceSlice,
        decoded: DecodedSlice,
        sr: FloatArray,
        previews: _Previews | None,
    ) -> None:
        try:
            with self.timed("check"):
                residual = check_result(sr, decoded.values, self.backends.spec)
            with self.timed("write"):
                dataset = derive(decoded, sr, self._derivation)
                path = output_path(self.output, dataset)
                fresh = not path.exists()
                if fresh:
                    write_atomically(dataset, path)
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
                matrix=source.matrix,
                measured_residual=residual,
                warnings=source.warnings,
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
                warnings=source.warnings,
            )
        )

    def _record(self, record: SliceRecord) -> None:
        self.records.append(record)
        if self._on_progress is not None:
            self._on_progress(RunProgress(done=len(self.records), total=self.total))

    def _label(self, path: Path) -> str:
        return file_label(path, self.source, show_path=self.options.show_paths)


def _told(message: str, hint: str | None) -> str:
    return message if hint is None else f"{message} ({hint})"


class _Previews:
    """Keeps the few slices of a series that its contact sheet shows."""

    def __init__(self, n_slices: int) -> None:
        self._wanted = {int(share * (n_slices - 1) + 0.5) for share in PREVIEW_POSITIONS}
        self._kept: list[tuple[FloatArray, FloatArray]] = []
        self._series_uid = ""

    def offer(self, number: int, series_uid: str, lr: FloatArray, sr: FloatArray) -> None:
        if number in self._wanted:
            self._series_uid = series_uid
            self._kept.append((lr, sr))

    def save(self, folder: Path) -> None:
        if not self._kept:
            return
        from kspacesr_rt.preview import PreviewSlice, contact_sheet

        png = contact_sheet([PreviewSlice(lr=lr, sr=sr) for lr, sr in self._kept])
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
        raise InputError(f"no such file or folder: {source}")
    with _OpenBackends(options) as backends:
        prepare_output(source, output)
        if report_file and source.resolve() in (
            report_file.resolve(),
            *report_file.resolve().parents,
        ):
            raise OutputError(
                "the report lies inside the input", hint="the input is only read: choose elsewhere"
            )
        run = _Run(source, output, options, backends, on_progress)
        with run.timed("scan"):
            scan = scan_folder(source, include_derived=options.include_derived)
        if not scan.series:
            raise _nothing_to_do(scan.left_out)
        run.total = sum(len(series.slices) for series in scan.series)
        output.mkdir(parents=True, exist_ok=True)
        for series in scan.series:
            run.process(series)
        for left in scan.left_out:
            run.leave_out(left)
        run.seconds["total"] = time.perf_counter() - started
        spec = backends.spec
    report = RunReport(
        version=__version__,
        backend=options.backend,
        model=spec.name,
        weights_sha256=spec.provenance.weights_sha256,
        upscale=spec.upscale,
        slices=tuple(run.records),
        series=len(scan.series),
        seconds={stage: round(value, 4) for stage, value in run.seconds.items()},
        intended_use=spec.intended_use,
    )
    report.save(report_file or output / "report.json")
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
