"""Slices to look at beside a benchmark's figures: zero-fill, SR, HR, and the two errors."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from kspacesr_rt.bench.run.model_variants import SEED_SHAPE
from kspacesr_rt.bench.run.rows import OK, UNSTABLE, BenchRow
from kspacesr_rt.bench.run.scheduler import Measured
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.pipeline.contact_sheet import to_grey

if TYPE_CHECKING:
    from kspacesr_rt.bench.run.scored_slices import ScoredSlices

MOST = 3
"""Pictures of a model."""
WINDOW_PERCENTILE = 99.9
"""White is this percentile of the HR series."""
ERROR_PERCENTILE = 99.9
"""White of both error pictures is this percentile of the error of zero-fill."""
SAMPLE, USER = "sample", "user"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One slice, five times, each a PNG in base64: 8-bit grey at the matrix of SR."""

    model: str
    """Whose weights made SR."""
    label: str
    """Which slice, and what ran the model."""
    source: str
    """``sample``: shipped and public; ``user``: an image of the user's."""
    zero_fill: str
    sr: str
    hr: str
    zero_fill_error: str
    """``|zero-fill - HR|``."""
    sr_error: str
    """``|SR - HR|``, on the same scale."""
    white: float
    """What is white in the images, as a share of the series' maximum; black is 0."""
    error_white: float
    """The same of the errors."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


def pictures_of(
    rows: Sequence[tuple[BenchRow, Measured]], slices: Mapping[str, ScoredSlices], source: str
) -> list[Picture]:
    """Draw slices of each model as its first right row made them, ours and fp32 before others.

    Parameters
    ----------
    rows
        What was found out about each row, and its results.
    slices
        What the rows of each model ran on; random weights are left out.
    source
        See `Picture`.
    """
    drawn: list[Picture] = []
    for model, scored in slices.items():
        right = [
            (row, one.result)
            for row, one in rows
            if row.plan.model == model and row.status in (OK, UNSTABLE) and one.result
        ]
        if not right or model == SEED_SHAPE:
            continue
        row, result = min(
            right, key=lambda one: (not one[0].plan.lowering, one[0].plan.precision != "fp32")
        )
        drawn += picture_slices(
            scored.hr,
            scored.lr,
            np.load(result),
            model=model,
            labels=[f"{label}, {_by(row)}" for label in scored.labels],
            source=source,
            white=scored.white,
        )
    return drawn


def _by(row: BenchRow) -> str:
    """Return what made SR."""
    plan = row.plan
    return " ".join(part for part in (plan.contestant, plan.lowering, plan.precision) if part)


def picture_slices(
    hr: FloatArray,
    lr: FloatArray,
    sr: FloatArray,
    *,
    model: str,
    labels: Sequence[str],
    source: str,
    white: float,
) -> list[Picture]:
    """Draw up to `MOST` slices, evenly spaced, all in one window.

    Parameters
    ----------
    hr, sr
        Shape ``(k, s*y, s*x)``, as shares of the HR series' maximum.
    lr
        Shape ``(k, y, x)``, the same unit.
    model, source
        See `Picture`.
    labels
        One a slice.
    white
        Share of the series' maximum that is white.
    """
    upscale = hr.shape[1] // lr.shape[1]
    places = np.unique(np.linspace(0, len(hr) - 1, min(MOST, len(hr))).round().astype(int))
    truth, result = hr[places], np.maximum(sr[places], 0.0)
    baseline = np.maximum(zero_fill(lr[places], upscale), 0.0)
    errors = np.abs(baseline - truth), np.abs(result - truth)
    error_white = float(np.percentile(errors[0], ERROR_PERCENTILE))
    return [
        Picture(
            model=model,
            label=labels[int(place)],
            source=source,
            zero_fill=_png(baseline[i], white),
            sr=_png(result[i], white),
            hr=_png(truth[i], white),
            zero_fill_error=_png(errors[0][i], error_white),
            sr_error=_png(errors[1][i], error_white),
            white=white,
            error_white=error_white,
        )
        for i, place in enumerate(places)
    ]


def _png(image: FloatArray, white: float) -> str:
    buffer = io.BytesIO()
    Image.fromarray(to_grey(image, 0.0, white)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
