"""Where a model stops helping: gain over zero-filling as noise grows and as k-space empties.

What it measures: slices of real HR series, degraded, then made worse in two ways that a clinic
meets: Rician noise on LR (a fast or weak scan), and LR whose outer k-space is empty (scanner
interpolation, partial phase encoding). The truth is HR without either; gains are inside tissue.
What it leaves out: other organs. The body parts that a model was made for are stated, not measured.
How to read it: from the first level on at which the mean gain falls below zero, the model is worse
than the interpolation that every scanner does. That level, between the two that were measured, is
the limit that its file keeps (`kspacesr_rt.model.limits`), and that `infer` compares series with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kspacesr_rt.bench.quality.open_model import Opener, opener_of
from kspacesr_rt.kspace import (
    FloatArray,
    centre_crop,
    centre_fill,
    degrade,
    divisible_crop,
    fft2c,
    ifft2c,
)
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.quality.metrics import evaluate, tissue_slices
from kspacesr_rt.quality.noise import series_snr
from kspacesr_rt.runtime.backends import Backend
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.noise import rician
from kspacesr_rt.train.volumes import interpolation_of, read_volumes, resampled

SNRS: Final = (20.0, 10.0, 7.0, 5.0, 3.5)
"""Levels of noise: tissue over the noise's standard deviation in the real part."""
SHARES: Final = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of LR's k-space along y that are filled: 0.68 to 0.8 is usual in 2-D scans."""
SLICES: Final = 3
"""Slices of each series, spread over its middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitCase:
    """One series at one level."""

    kind: str
    """``snr`` or ``share``."""
    level: float
    """One of `SNRS` or `SHARES`."""
    data: str
    """Name of the folder it was found in."""
    series: str
    """Name of the series."""
    gain_db: float
    """PSNR of SR less that of zero-filling, inside tissue, mean over the slices."""
    estimate: float | None
    """What `infer` would say of the LR series: its SNR where noise was added, else the level."""


def limit_cases(
    opener: Opener,
    upscale: int,
    data: Iterable[Path],
    *,
    reading: Reading | None = None,
) -> list[LimitCase]:
    """Judge a model at every level on every series.

    Parameters
    ----------
    opener
        What super-resolves: LR matrix to a backend that is not open yet.
    upscale
        HR samples per LR sample and axis.
    data
        Folders or files of HR images.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.
    """
    cases: list[LimitCase] = []
    for root in data:
        for stored in read_volumes(root, reading):
            band = interpolation_of(stored)
            volume = resampled(stored, band.cropped_matrix) if band.interpolated else stored
            kept = np.flatnonzero(tissue_slices(volume.slices))
            if not len(kept):
                continue
            middle = np.linspace(0.3 * (len(kept) - 1), 0.7 * (len(kept) - 1), SLICES)
            chosen = volume.slices[kept[np.unique(middle.astype(int))]]
            hr = divisible_crop((chosen / volume.slices.max()).astype(np.float32), upscale)
            lr = degrade(hr, upscale).astype(np.float32)
            with opener((lr.shape[1], lr.shape[2])) as backend:
                for kind, level, worse in _worse(lr):
                    cases.append(
                        LimitCase(
                            kind=kind,
                            level=level,
                            data=root.name,
                            series=volume.label,
                            gain_db=_gain_db(backend, worse, hr),
                            estimate=series_snr(worse) if kind == "snr" else level,
                        )
                    )
    return cases


def _worse(lr: FloatArray) -> Iterable[tuple[str, float, FloatArray]]:
    for snr in SNRS:
        yield "snr", snr, rician(lr, snr, np.random.default_rng(0))
    rows, columns = lr.shape[1:]
    for share in SHARES:
        filled = centre_crop(fft2c(lr), (max(2, round(share * rows)), columns))
        yield "share", share, np.abs(ifft2c(centre_fill(filled, (rows, columns)))).astype(lr.dtype)


def _gain_db(backend: Backend, lr: FloatArray, hr: FloatArray) -> float:
    upscale = hr.shape[-1] // lr.shape[-1]
    sr = np.concatenate([backend.run(one[None, None])[0] for one in lr])
    ours, base = (
        evaluate(np.maximum(image, 0.0), hr, "tissue").psnr_db
        for image in (sr, zero_fill(lr, upscale))
    )
    return ours - base


def limits_from(cases: Sequence[LimitCase], body_parts: Sequence[str] = ()) -> ModelLimits:
    """Return where the mean gain falls below zero, in figures that `infer` estimates.

    A limit is None where no level was that bad. Between the last level that helped and the first
    that did not, it lies where a straight line through both gains crosses zero.
    """
    return ModelLimits(
        smallest_snr=_crossing(cases, "snr"),
        smallest_share=_crossing(cases, "share"),
        body_parts=tuple(sorted({part.strip().upper() for part in body_parts})),
    )


def means_by_level(cases: Sequence[LimitCase], kind: str) -> list[tuple[float, float, float]]:
    """Return ``(level, mean gain, median estimate)``, the mildest level first."""
    found = []
    for level in sorted({case.level for case in cases if case.kind == kind}, reverse=True):
        own = [case for case in cases if (case.kind, case.level) == (kind, level)]
        known = [case.estimate for case in own if case.estimate is not None]
        estimate = float(np.median(known)) if known else level
        found.append((level, float(np.mean([case.gain_db for case in own])), estimate))
    return found


def _crossing(cases: Sequence[LimitCase], kind: str) -> float | None:
    helped: tuple[float, float] | None = None
    for _, gain, estimate in means_by_level(cases, kind):
        if gain < 0.0:
            if helped is None:
                return estimate
            before, better = helped
            limit = estimate + (before - estimate) * gain / (gain - better)
            return math.ceil(limit * 100.0) / 100.0
        helped = estimate, gain
    return None


def measure_limits(
    model: ModelFile,
    data: Iterable[Path],
    *,
    body_parts: Sequence[str] = (),
    backend: str = "ort-cpu",
    threads: int = 0,
    reading: Reading | None = None,
) -> tuple[ModelLimits, list[LimitCase]]:
    """Measure the limits of one model.

    Parameters
    ----------
    model
        What is measured; `kspacesr_rt.bench.quality.cards.stamp` stores the result in its file.
    data
        Folders or files of HR images that it was not trained on.
    body_parts
        Body Part Examined (0018,0015) of what it was trained and judged on; none: as its file says.
    backend, threads
        What runs it.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.
    """
    opener = opener_of(model, backend, threads)
    cases = limit_cases(opener, model.spec.upscale, data, reading=reading)
    stated = body_parts or ModelLimits.of(model.spec).body_parts
    return limits_from(cases, stated), cases


def as_text(found: dict[str, tuple[ModelLimits, list[LimitCase]]]) -> str:
    """Return Markdown: mean gain inside tissue at every level, by model, and the limits."""
    lines = ["Where models help: mean gain over zero-filling inside tissue, dB.", ""]
    for kind, levels, words in (("snr", SNRS, "SNR"), ("share", SHARES, "filled to")):
        lines += [
            "| model | " + " | ".join(f"{words} {level:g}" for level in levels) + " |",
            "| --- | " + " | ".join(["--:"] * len(levels)) + " |",
        ]
        for name, (_, cases) in found.items():
            gains = {level: gain for level, gain, _ in means_by_level(cases, kind)}
            cells = [f"{gains[level]:+.2f}" if level in gains else "" for level in levels]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += [
        f"- {name}: {limits.as_text() or 'no limit was met'}" for name, (limits, _) in found.items()
    ]
    return "\n".join(lines)
