"""A picture of one slice: what came in, what the baseline and the model made of it, the truth."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from kspacesr_rt.errors import NoMRImageError
from kspacesr_rt.kspace import divisible_crop, nearest_sample
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.pipeline.contact_sheet import WINDOW_PERCENTILE, Panel, sheet, to_grey
from kspacesr_rt.quality.metrics import tissue_slices
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.runtime.selection import choose_backend
from kspacesr_rt.train.degradation import DEGRADATIONS, degradation_for
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.volumes import read_volumes

ERROR_GAIN = 5.0
"""Error panels show this many times the contrast of the images."""


def comparison(
    data: Path,
    model: ModelFile,
    *,
    backend: str = "ort-cpu",
    threads: int = 0,
    reading: Reading | None = None,
) -> bytes:
    """Draw LR, zero-fill, SR and HR of the middle slice, and the errors of the middle two.

    Parameters
    ----------
    data
        HR images; the first series is taken.
    model
        What makes SR.
    backend, threads
        What runs it.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.

    Returns
    -------
        A PNG: two rows of three panels in one window; the error panels are amplified.

    Raises
    ------
    NoMRImageError
        If no slice holds tissue.
    """
    volume = next(iter(read_volumes(data, reading)), None)
    if volume is None:
        raise NoMRImageError("the first folder holds no image to draw")
    kept = np.flatnonzero(tissue_slices(volume.slices))
    if not len(kept):
        raise NoMRImageError(f"{volume.label}: no slice holds tissue")
    upscale = model.spec.upscale
    hr = divisible_crop(volume.slices[kept[len(kept) // 2]], upscale)
    grid = model.spec.sample_grid
    made = DEGRADATIONS[degradation_for(model.spec.output_grid)]
    lr = made(hr[None], upscale)[0].astype(np.float32)
    bound = bind(model, (lr.shape[0], lr.shape[1]))
    options = BackendOptions(threads=threads)
    with open_backend(choose_backend(backend, model, options).backend, bound, options) as opened:
        sr = np.maximum(opened.run(lr[None, None])[0, 0], 0.0)
    interpolated = np.maximum(zero_fill(lr, upscale, grid), 0.0)
    top = float(np.percentile(hr, WINDOW_PERCENTILE))
    nearest = lr[np.ix_(*(nearest_sample(n, upscale, grid) for n in lr.shape))]
    images = [
        [
            (f"LR {lr.shape[0]} x {lr.shape[1]}", nearest),
            ("zero-fill", interpolated),
            (f"SR ({model.spec.name})", sr),
        ],
        [
            (f"HR {hr.shape[0]} x {hr.shape[1]}", hr),
            (f"|zero-fill - HR| x{ERROR_GAIN:.0f}", np.abs(interpolated - hr) * ERROR_GAIN),
            (f"|SR - HR| x{ERROR_GAIN:.0f}", np.abs(sr - hr) * ERROR_GAIN),
        ],
    ]
    buffer = io.BytesIO()
    rows = [[Panel(label, to_grey(image, 0.0, top)) for label, image in row] for row in images]
    sheet(rows).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
