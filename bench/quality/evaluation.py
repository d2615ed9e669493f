"""Image quality of a model beside the baselines, on HR series that it never saw.

What it measures: HR slices are scaled by their series' maximum, degraded as a shorter scan would
have (centre crop of k-space, magnitude), super-resolved on a backend, clipped at zero as DICOM
clips them, and compared with HR under named conventions, over the slices that hold tissue. A model
that answers on pixel centres is given LR that was resized, as its training was, in a table of its
own whose baselines answer there too: on LR of the other kind its score would be that of a shift.
HR that its scanner interpolated is brought back to what was acquired first, or named in the result:
nobody can tell right from wrong where HR itself is empty.
What it leaves out: everything a radiologist would see and a mean cannot show.
How to read it: only differences between rows of one table mean something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kspacesr_rt.dicom.scanner_interpolation import AcquiredBand
from kspacesr_rt.errors import ShapeError, TrainingDataError
from kspacesr_rt.kspace import FloatArray, Matrix, SampleGrid, divisible_crop
from kspacesr_rt.kspace.resampling import bicubic, zero_fill
from kspacesr_rt.model.binding import bind, require_fitting
from kspacesr_rt.model.contracts import require_images
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.quality.metrics import CONVENTIONS, Quality, evaluate, tissue_slices
from kspacesr_rt.runtime.backends import (
    BACKENDS,
    Backend,
    BackendOptions,
    baseline_spec,
    open_backend,
)
from kspacesr_rt.runtime.selection import choose_backend
from kspacesr_rt.train.degradation import DEGRADATIONS, GRID_OF, degradation_for
from kspacesr_rt.train.file_failures import EMPTY, Reading
from kspacesr_rt.train.volumes import Volume, interpolation_of, read_volumes, resampled

CONVENTION = "slice-range1"
"""Of the whole slice: what is published, and what gates compare with earlier results."""
HEADLINE = "tissue"
"""What README, cards and tables of results quote first: where a radiologist looks."""
SHOWN = (HEADLINE, CONVENTION, "slice-range1-gaussian")
"""What tables of models show: tissue first, which is what is read; the whole slice, which is what
is published; and another window, because SSIM depends more on it than on most models."""
MEASURED = "measured-kspace"
"""How LR of `kspacesr_rt.bench.quality.kspace_evaluation` is made."""
LR_OF = {
    "kspace-crop": "LR = magnitude of the inverse FFT of the k-space centre",
    "seed-resize": "LR = bilinear resize of the image, which lies off the k-space grid",
    MEASURED: "LR = centre of measured k-space; networks of images get the magnitude of its image, "
    "and zero-fill keeps the phase",
}
"""How a table's caption words each degradation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRow:
    """One method on one series."""

    data: str
    """Name of the folder it was found in."""
    series: str
    """Name of the series."""
    method: str
    """Baseline or model name."""
    upscale: int
    """SR samples per LR sample and axis."""
    n_slices: int
    """Slices with tissue that the means are over."""
    quality: Quality
    """Means over the slices."""
    convention: str = CONVENTION
    """Name of the convention of `quality`."""
    degradation: str = "kspace-crop"
    """How LR was made, a key of `LR_OF`."""
    interpolated: str = ""
    """What is known of HR's empty rim, in words; empty if its scanner did not interpolate it."""
    cropped_to: Matrix | None = None
    """Matrix that HR's k-space was cropped to."""


def evaluate_models(
    data: Iterable[Path],
    models: list[ModelFile],
    *,
    backend: str = "ort-cpu",
    threads: int = 0,
    conventions: Sequence[str] = (CONVENTION,),
    degradation: str | None = None,
    on_interpolated: Literal["warn", "crop"] = "crop",
    reading: Reading | None = None,
    on_note: Callable[[str], None] = lambda sentence: None,
) -> list[QualityRow]:
    """Judge models and, for each of their upscales and kinds of LR, the baselines.

    Parameters
    ----------
    data
        Folders or files of HR images.
    models
        What to judge.
    backend, threads
        What runs the models.
    conventions
        Names of metric conventions; each gives its own rows.
    degradation
        How LR is made, a key of `kspacesr_rt.train.degradation.DEGRADATIONS`; None for what each
        model's output grid calls for.
    on_interpolated
        ``crop`` judges HR that a scanner interpolated at the matrix it acquired; ``warn`` as it is.
    reading
        Takes note of files and series that cannot be judged, and says what they are called; None
        raises, and calls them by their names.
    on_note
        Called with a sentence for each series.

    Raises
    ------
    TrainingDataError
        If nothing is left to judge on.
    """
    options = BackendOptions(threads=threads)
    groups: dict[tuple[int, str], list[ModelFile]] = {}
    for model in models:
        require_images(model.spec)
        made = degradation or degradation_for(model.spec.output_grid)
        groups.setdefault((model.spec.upscale, made), []).append(model)
    rows: list[QualityRow] = []
    named = reading is None or reading.show_folders
    for number, root in enumerate(data, start=1):
        name = root.name if named else f"data {number}"
        on_note(f"{name}: reading")
        for stored in read_volumes(root, reading):
            on_note(f"{name}: {stored.label}, {len(stored.slices)} slices")
            place = stored.label if named else f"{name}, {stored.label}"
            with nullcontext() if reading is None else reading.failing(place):
                made_of = _Series(data=name, stored=stored, crop=on_interpolated == "crop")
                rows += made_of.quality_rows(groups, backend, options, conventions)
    if reading is not None:
        reading.require_any(rows)
    return rows


def judged(
    results: Mapping[str, FloatArray], hr: FloatArray, conventions: Sequence[str], **place: Any
) -> list[QualityRow]:
    """Compare what each method made of one series with HR.

    Parameters
    ----------
    results
        Method to SR ``(n, y, x)``; values below zero are clipped, as DICOM clips them.
    hr
        Shape ``(n, y, x)``, series maximum 1.
    conventions
        Names of metric conventions; each gives its own rows.
    place
        The other fields of `QualityRow`: which series this is, and how LR was made.
    """
    return [
        QualityRow(
            method=method,
            n_slices=len(hr),
            quality=evaluate(np.maximum(sr, 0.0), hr, convention),
            convention=convention,
            **place,
        )
        for convention in conventions
        for method, sr in results.items()
    ]


def require_fitting_matrix(model: ModelFile, matrix: Matrix) -> None:
    """Refuse a series whose LR matrix a network of one matrix does not take."""
    try:
        require_fitting(model.spec, matrix)
    except ShapeError as exc:
        raise TrainingDataError(str(exc), reason="matrix") from exc


@dataclass(frozen=True, kw_only=True, slots=True)
class _Series:
    """HR to judge on."""

    data: str
    """What its folder is called."""
    stored: Volume
    """As it was read."""
    crop: bool
    """Whether to crop what a scanner interpolated."""

    def quality_rows(
        self,
        groups: Mapping[tuple[int, str], list[ModelFile]],
        backend: str,
        options: BackendOptions,
        conventions: Sequence[str],
    ) -> list[QualityRow]:
        """Return the rows of the baselines and models, by upscale and kind of LR."""
        stored = self.stored
        band = interpolation_of(stored)
        volume = resampled(stored, band.cropped_matrix) if self.crops(band) else stored
        kept = volume.slices[tissue_slices(volume.slices)]
        if not len(kept):
            raise TrainingDataError("no slice holds tissue", reason=EMPTY)
        scaled = kept / volume.slices.max()
        rows: list[QualityRow] = []
        for (upscale, made), group in sorted(groups.items(), key=lambda item: item[0]):
            hr = divisible_crop(scaled.astype(np.float32), upscale)
            lr = DEGRADATIONS[made](hr, upscale).astype(np.float32)
            matrix = (lr.shape[1], lr.shape[2])
            results = _baselines(lr, upscale, GRID_OF[made], options)
            for model in group:
                require_fitting_matrix(model, matrix)
                name = choose_backend(backend, model, options).backend
                opened = open_backend(name, bind(model, matrix), options)
                results[model.spec.name] = _run(lr, opened)
            rows += judged(
                results,
                hr,
                conventions,
                data=self.data,
                series=volume.label,
                upscale=upscale,
                degradation=made,
                interpolated=band.warning or "",
                cropped_to=volume.matrix if volume is not stored else None,
            )
        return rows

    def crops(self, band: AcquiredBand) -> bool:
        """Return whether k-space is brought back to what was acquired."""
        return self.crop and band.interpolated


def _baselines(
    lr: FloatArray, upscale: int, grid: SampleGrid, options: BackendOptions
) -> dict[str, FloatArray]:
    """Interpolate, where HR lies for this kind of LR."""
    if grid != "kspace":  # no backend: a scan is not on such a grid
        return {
            "zero-fill": zero_fill(lr, upscale, grid),
            "bicubic": bicubic(lr, upscale, grid),
        }
    matrix = (lr.shape[1], lr.shape[2])
    return {
        name: _run(lr, open_backend(name, baseline_spec(name, upscale, matrix), options))
        for name, info in BACKENDS.items()
        if not info.model
    }


def _run(lr: FloatArray, backend: Backend) -> FloatArray:
    with backend as opened:
        return np.concatenate([opened.run(one[None, None])[0] for one in lr])


def means(rows: list[QualityRow]) -> list[QualityRow]:
    """Average over each data set: one row a data set, kind of LR, upscale, method, convention."""
    groups: dict[tuple[str, int, str, str, str], list[QualityRow]] = {}
    for row in rows:
        own = (row.data, row.upscale, row.method, row.convention, row.degradation)
        groups.setdefault(own, []).append(row)
    return [
        QualityRow(
            data=data,
            series=f"all {len(group)} of {data}",
            method=method,
            upscale=upscale,
            n_slices=sum(row.n_slices for row in group),
            convention=convention,
            degradation=degradation,
            quality=Quality(
                **{
                    name: float(
                        np.average(
                            [getattr(row.quality, name) for row in group],
                            weights=[row.n_slices for row in group],
                        )
                    )
                    for name in ("mae", "psnr_db", "ssim")
                }
            ),
        )
        for (data, upscale, method, convention, degradation), group in groups.items()
    ]


def as_text(rows: list[QualityRow], *, series: bool = True) -> str:
    """Return Markdown tables, one a convention and kind of LR, with the gains over zero-fill.

    Parameters
    ----------
    rows
        Of `evaluate_models`.
    series
        Whether each series has its own rows; means are there of several series, or without these.
    """
    tables = []
    for convention, made in dict.fromkeys((row.convention, row.degradation) for row in rows):
        own = [row for row in rows if (row.convention, row.degradation) == (convention, made)]
        n_series = Counter(data for data, _ in {(row.data, row.series) for row in own})
        summed = [row for row in means(own) if not series or n_series[row.data] > 1]
        tables.append(_table([*(own if series else []), *summed], convention))
    notes = list(dict.fromkeys(_note(row) for row in rows if row.interpolated))
    return "\n\n".join([*tables, *(["\n".join(notes)] if notes else [])])


def _note(row: QualityRow) -> str:
    """Return what a reader must know of a series whose HR has an empty rim."""
    if row.cropped_to is None:
        handled = "judged as it is: what a model adds there counts as wrong"
    else:
        handled = f"judged at {row.cropped_to[0]} x {row.cropped_to[1]}"
    return f"- {row.data}, {row.series}: {row.interpolated}; {handled}."


def _table(rows: list[QualityRow], convention: str) -> str:
    lines = [
        f"Convention: {convention}, {CONVENTIONS[convention]}; {LR_OF[rows[0].degradation]}.",
        "",
        "| series | slices | upscale | method | MAE | PSNR dB | SSIM | gain dB | gain SSIM |",
        "| --- | --: | --: | --- | --: | --: | --: | --: | --: |",
    ]
    base = {_place(row): row.quality for row in rows if row.method == "zero-fill"}
    several = len({row.data for row in rows}) > 1
    for row in rows:
        reference, own = base[_place(row)], row.quality
        within = several and row.data not in row.series
        series = f"{row.data}, {row.series}" if within else row.series
        lines.append(
            f"| {series} | {row.n_slices} | x{row.upscale} | {row.method} | {own.mae:.5f} "
            f"| {own.psnr_db:.2f} | {own.ssim:.4f} | {own.psnr_db - reference.psnr_db:+.2f} "
            f"| {own.ssim - reference.ssim:+.4f} |"
        )
    return "\n".join(lines)


def _place(row: QualityRow) -> tuple[str, str, int]:
    return row.data, row.series, row.upscale
