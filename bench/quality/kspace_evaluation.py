"""Image quality of networks of k-space, on k-space that a scanner measured and no network saw.

What it measures: the complex images of each series are scaled to a largest magnitude of 1; LR is
the centre of their k-space. A network of k-space is given that, and the magnitude of what it gives
is compared with that of HR; a network of images is given the magnitude of LR's image, as a scanner
would have stored it. Zero-filling keeps the phase.
What it leaves out: coils are judged each for itself, not combined.
How to read it: between a network of k-space and the same of images stands what the phase is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kspacesr_rt.bench.quality.evaluation import (
    CONVENTION,
    MEASURED,
    QualityRow,
    judged,
    require_fitting_matrix,
)
from kspacesr_rt.errors import TrainingDataError
from kspacesr_rt.kspace import ComplexArray, FloatArray, divisible_crop, ifft2c, to_channels
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.slice_arrays import result_image
from kspacesr_rt.quality.array_contracts import with_contracts
from kspacesr_rt.quality.metrics import tissue_slices
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.runtime.selection import choose_backend
from kspacesr_rt.train.complex_pairs import (
    RawSeries,
    filled_image,
    kspace_crop,
    read_raw_series,
)
from kspacesr_rt.train.file_failures import EMPTY, Reading


def takes_kspace(models: Iterable[ModelFile]) -> bool:
    """Return whether one of the models can only be judged on k-space."""
    return any(model.spec.input == "kspace" for model in models)


def evaluate_on_kspace(
    data: Iterable[Path],
    models: list[ModelFile],
    *,
    backend: str = "ort-cpu",
    threads: int = 0,
    conventions: Sequence[str] = (CONVENTION,),
    reading: Reading | None = None,
    on_note: Callable[[str], None] = lambda sentence: None,
) -> list[QualityRow]:
    """Judge models, and zero-filling for each of their upscales.

    Parameters
    ----------
    data
        Folders or files of measured k-space, see
        `kspacesr_rt.train.complex_pairs.read_raw_series`.
    models
        Of k-space of one coil, or of images.
    backend, threads
        What runs the models.
    conventions
        Names of metric conventions; each gives its own rows.
    reading
        Takes note of what cannot be judged; None raises.
    on_note
        Called with a sentence for each series.

    Raises
    ------
    TrainingDataError
        If nothing is left to judge on, or a model takes k-space of several coils.
    """
    for model in models:
        if model.spec.coils:
            raise TrainingDataError(
                f"model '{model.spec.name}' takes {model.spec.coils} coils at once, and series are "
                "judged coil by coil"
            )
    options = BackendOptions(threads=threads)
    named = reading is None or reading.show_folders
    rows: list[QualityRow] = []
    for number, root in enumerate(data, start=1):
        name = root.name if named else f"data {number}"
        for series in read_raw_series([root], reading):
            on_note(f"{name}: {series.label}, {len(series.images)} slices")
            with nullcontext() if reading is None else reading.failing(series.label):
                rows += _Judged(data=name, series=series, models=models).rows(
                    backend, options, conventions
                )
    if reading is not None:
        reading.require_any(rows)
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """One series and what is judged on it."""

    data: str
    series: RawSeries
    models: list[ModelFile]

    def rows(
        self, backend: str, options: BackendOptions, conventions: Sequence[str]
    ) -> list[QualityRow]:
        images = self.series.images[tissue_slices(np.abs(self.series.images))]
        if not len(images):
            raise TrainingDataError("no slice holds tissue", reason=EMPTY)
        found: list[QualityRow] = []
        for upscale in sorted({model.spec.upscale for model in self.models}):
            hr = divisible_crop(images, upscale)
            kspace = kspace_crop(hr, upscale)
            results = {"zero-fill": np.abs(filled_image(kspace, upscale))}
            for model in self.models:
                if model.spec.upscale == upscale:
                    results[model.spec.name] = _results(model, kspace, backend, options)
            found += judged(
                results,
                np.abs(hr).astype(np.float32),
                conventions,
                data=self.data,
                series=self.series.label,
                upscale=upscale,
                degradation=MEASURED,
            )
        return found


def _results(
    model: ModelFile, kspace: ComplexArray, backend: str, options: BackendOptions
) -> FloatArray:
    """Return magnitudes ``(n, s*y, s*x)`` of what a model makes of LR k-space ``(n, y, x)``."""
    spec, matrix = model.spec, (kspace.shape[-2], kspace.shape[-1])
    require_fitting_matrix(model, matrix)
    of_kspace = spec.input == "kspace"
    given = to_channels(kspace) if of_kspace else np.abs(ifft2c(kspace))[:, None]
    chosen = choose_backend(backend, model, options).backend
    with open_backend(chosen, bind(model, matrix), options) as opened:
        run = with_contracts(opened.run, spec) if of_kspace else opened.run
        return np.stack([result_image(run(one[None])[0], spec) for one in given.astype(np.float32)])
