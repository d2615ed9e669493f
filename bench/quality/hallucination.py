"""What a model adds that nobody measured: on tissue without structure, on noise, on real slices.

What it measures, with the result as the model gave it, before clipping:

* a head phantom whose k-space is a formula (ellipses, so LR and truth are exact), with a region of
  white matter that holds no lesion: how far SR is from the truth there, beside zero-fill, whose
  Gibbs ringing and noise are what a reader already knows; and the largest blob that SR adds;
* noise alone, and noise on a constant: energy added outside the measured band, and how much louder
  the noise gets;
* real HR series, degraded: the same energy, beside what the truth has there, and what becomes of
  mean and measured samples. From these come the bounds beyond which `infer` flags a slice.

What it leaves out: whether added detail is true. A bound on energy catches a network that went
astray, not a small lesion made up: that is little energy, and reading SR beside the source is the
only check. Pathology, coils, motion and other organs are not in the phantom.
How to read it: a ratio to zero-fill of at most 1 means that the network leaves less there that is
not true than the interpolation every scanner does; added energy far below the truth's means that
the network predicts too little rather than too much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kspacesr_rt.bench.quality.head_phantom import CONTRASTS, head_kspace, lesion_free
from kspacesr_rt.bench.quality.open_model import Opener, opener_of
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import (
    ComplexArray,
    FloatArray,
    Matrix,
    centre_crop,
    degrade,
    divisible_crop,
    ifft2c,
    magnitude_residual,
    measured_residual,
)
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import BOUNDED, ModelSpec
from kspacesr_rt.quality.added_energy import added_energy, intensity_drift
from kspacesr_rt.quality.metrics import tissue_slices
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.volumes import read_volumes

_Wide = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

HR_MATRICES: tuple[Matrix, ...] = ((256, 256), (320, 288), (300, 228))
"""Of the phantom; LR is 75 x 57 at x4, so odd sizes are among them."""
ROTATIONS = (0.0, 11.0, 37.0)
NOISE_LEVELS = (0.0, 0.01, 0.02)
"""Standard deviation of each channel of the LR image over its maximum: no noise, a good scan, a
fast one."""
NOISE_MATRICES: tuple[Matrix, ...] = ((64, 64), (96, 80), (75, 57))
NOISE_SEEDS = 4
CONSTANT_NOISE = 0.02
"""Noise on the constant image, over its intensity."""
LIMIT_MARGIN = 1.25
"""A limit over the largest value measured. Leaving out one of the six series of validation and
evaluation, its largest added energy was at most 1.25 times the largest of the other five (x2-fast:
T2, x4-fast: T1), so a new series is expected below. With the limits so made, 0 (x2-fast) and 2
(x4-fast) of 319 slices of the training patients were flagged, and all but one of 36 slices that a
scanner's interpolation by 2 had left with an empty ring."""
ROUNDING = 1e-5
"""Smallest limit of drift and residual. Both are 5e-7 with ONNX Runtime on a CPU, rounding alone;
another library's order of sums must not flag a slice. It is what the project demands of measured
samples in fp32; TF32 would leave 1e-3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomCase:
    """What became of the region without lesion in one phantom; all relative to its intensity."""

    contrast: str
    """A key of `CONTRASTS`."""
    matrix: Matrix
    """LR rows and columns."""
    degrees: float
    """Turn of the head."""
    noise: float
    """Standard deviation of a channel of the LR image over its maximum."""
    rms: float
    """RMS of SR - truth."""
    zero_fill_rms: float
    """RMS of zero-fill - truth."""
    largest: float
    """Largest ``|SR - truth|`` of a sample."""
    zero_fill_largest: float
    """The same of zero-fill."""
    speck: float
    """Largest mean of ``SR - zero-fill`` over a window of about one LR sample."""
    blob: float
    """The same over about two LR samples: what could pass for a small lesion."""
    ratio: float
    """Energy SR adds outside the band over that of the measured ring, of the whole slice."""
    true_ratio: float
    """The energy the truth has there."""

    @property
    def rms_ratio(self) -> float:
        """RMS of SR over that of zero-fill: below 1, SR is nearer to the truth."""
        return self.rms / self.zero_fill_rms


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseCase:
    """What a model made of one image that holds noise and nothing else."""

    kind: str
    """``noise`` (Rayleigh, like air) or ``constant`` (Rician, on a constant)."""
    matrix: Matrix
    """LR rows and columns."""
    seed: int
    """Of the noise."""
    share: float
    """See `kspacesr_rt.quality.added_energy.AddedEnergy`."""
    ratio: float
    """See `kspacesr_rt.quality.added_energy.AddedEnergy`."""
    gain: float
    """Standard deviation of SR over that of zero-fill, a quarter of the FOV away from its edges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RealSlice:
    """One slice of a real series, degraded and super-resolved."""

    data: str
    """Name of the folder it was found in."""
    series: str
    """Name of the series."""
    share: float
    """See `kspacesr_rt.quality.added_energy.AddedEnergy`."""
    ratio: float
    """See `kspacesr_rt.quality.added_energy.AddedEnergy`."""
    true_ratio: float
    """That of HR itself."""
    intensity_drift: float
    """See `kspacesr_rt.quality.added_energy.intensity_drift`."""
    measured_residual: float
    """See `kspacesr_rt.kspace.measured_residual`, or `magnitude_residual` beside it."""


def phantom_cases(
    opener: Opener,
    upscale: int,
    *,
    matrices: Sequence[Matrix] = HR_MATRICES,
    contrasts: Iterable[str] = tuple(CONTRASTS),
    rotations: Sequence[float] = ROTATIONS,
    noise_levels: Sequence[float] = NOISE_LEVELS,
) -> list[PhantomCase]:
    """Super-resolve the phantom in every combination and judge its region without lesion."""
    cases: list[PhantomCase] = []
    for hr_matrix in matrices:
        matrix = (hr_matrix[0] // upscale, hr_matrix[1] // upscale)
        full = (matrix[0] * upscale, matrix[1] * upscale)
        with opener(matrix) as backend:
            for contrast, degrees in product(contrasts, rotations):
                kspace = head_kspace(full, contrast, degrees)
                truth, region = np.abs(ifft2c(kspace)), lesion_free(full, degrees)
                for noise in noise_levels:
                    lr = _scan(kspace, matrix, noise, seed=len(cases))
                    sr = backend.run(lr[None, None])[0, 0].astype(np.float64)
                    cases.append(
                        PhantomCase(
                            contrast=contrast,
                            matrix=matrix,
                            degrees=degrees,
                            noise=noise,
                            ratio=added_energy(sr, lr).ratio,
                            true_ratio=added_energy(truth, lr).ratio,
                            **_region_errors(sr, lr, truth, region),
                        )
                    )
    return cases


def _scan(kspace: ComplexArray, matrix: Matrix, noise: float, seed: int) -> FloatArray:
    """Return the magnitude image of the k-space centre with noise on both channels."""
    upscale = kspace.shape[0] // matrix[0]
    image = ifft2c(centre_crop(kspace, matrix)) / upscale
    deviation = noise * np.abs(image).max()
    rng = np.random.default_rng(seed)
    noisy = image + deviation * (rng.normal(size=matrix) + 1j * rng.normal(size=matrix))
    magnitude: FloatArray = np.abs(noisy).astype(np.float32)
    return magnitude


def _region_errors(sr: _Wide, lr: FloatArray, truth: _Wide, region: _Mask) -> dict[str, float]:
    upscale = sr.shape[0] // lr.shape[0]
    interpolated = zero_fill(lr, upscale).astype(np.float64)
    local = float(truth[region].mean())
    ours, theirs = ((one - truth)[region] / local for one in (sr, interpolated))
    added = (sr - interpolated) / local
    return {
        "rms": _rms(ours),
        "zero_fill_rms": _rms(theirs),
        "largest": float(np.abs(ours).max()),
        "zero_fill_largest": float(np.abs(theirs).max()),
        "speck": largest_mean(added, region, upscale | 1),
        "blob": largest_mean(added, region, 2 * upscale + 1),
    }


def _rms(values: _Wide) -> float:
    return float(np.sqrt(np.mean(values**2)))


def largest_mean(values: _Wide, region: _Mask, edge: int) -> float:
    """Return the largest magnitude of the mean over a square window that lies inside a region.

    Parameters
    ----------
    values, region
        Shape ``(y, x)``.
    edge
        Samples along each side of the window.

    Returns
    -------
        In the unit of `values`; 0 if the region holds no such window.
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, (edge, edge))
    inside = np.lib.stride_tricks.sliding_window_view(region, (edge, edge)).all(axis=(-2, -1))
    means = windows[inside].mean(axis=(-2, -1))
    return float(np.abs(means).max(initial=0.0))


def noise_cases(
    opener: Opener,
    upscale: int,
    *,
    matrices: Sequence[Matrix] = NOISE_MATRICES,
    seeds: int = NOISE_SEEDS,
) -> list[NoiseCase]:
    """Super-resolve images of noise alone, and of noise on a constant."""
    cases = []
    for matrix in matrices:
        with opener(matrix) as backend:
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                noise = rng.normal(size=matrix) + 1j * rng.normal(size=matrix)
                for kind, image in (("noise", noise), ("constant", 1 + CONSTANT_NOISE * noise)):
                    lr = np.abs(image).astype(np.float32)
                    sr = backend.run(lr[None, None])[0, 0]
                    added = added_energy(sr, lr)
                    middle = tuple(slice(n // 4, n - n // 4) for n in sr.shape)
                    interpolated = zero_fill(lr, upscale)
                    cases.append(
                        NoiseCase(
                            kind=kind,
                            matrix=matrix,
                            seed=seed,
                            share=added.share,
                            ratio=added.ratio,
                            gain=float(sr[middle].std() / interpolated[middle].std()),
                        )
                    )
    return cases


def real_slices(
    opener: Opener,
    upscale: int,
    data: Iterable[Path],
    *,
    residual: Callable[[FloatArray, FloatArray], float] = measured_residual,
    reading: Reading | None = None,
) -> list[RealSlice]:
    """Degrade and super-resolve every slice that holds tissue, and measure what was added.

    Parameters
    ----------
    opener
        What super-resolves.
    upscale
        HR samples per LR sample and axis.
    data
        Folders or files of HR images.
    residual
        How far SR is from LR, by what the model promises to keep.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.
    """
    rows = []
    for root in data:
        for volume in read_volumes(root, reading):
            hr = divisible_crop(volume.slices[tissue_slices(volume.slices)], upscale)
            if not len(hr):
                continue
            lr = degrade(hr / hr.max(), upscale).astype(np.float32)
            with opener((lr.shape[1], lr.shape[2])) as backend:
                for source, truth in zip(lr, hr / hr.max(), strict=True):
                    sr = backend.run(source[None, None])[0, 0]
                    ours = added_energy(sr, source)
                    rows.append(
                        RealSlice(
                            data=root.name,
                            series=volume.label,
                            share=ours.share,
                            ratio=ours.ratio,
                            true_ratio=added_energy(truth, source).ratio,
                            intensity_drift=intensity_drift(sr, source),
                            measured_residual=residual(sr, source),
                        )
                    )
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Hallucination:
    """All that was measured of one model."""

    model: str
    """Its name."""
    upscale: int
    """SR samples per LR sample and axis."""
    keeps_measured: bool
    """Whether it promises to keep measured samples: hard data consistency, real output."""
    phantom: tuple[PhantomCase, ...] = ()
    """See `phantom_cases`."""
    noise: tuple[NoiseCase, ...] = ()
    """See `noise_cases`."""
    slices: tuple[RealSlice, ...] = ()
    """See `real_slices`."""

    def phantom_rows(self) -> list[dict[str, float]]:
        """Return the extremes over the phantoms of each noise level."""
        rows = []
        for noise in sorted({case.noise for case in self.phantom}):
            cases = [case for case in self.phantom if case.noise == noise]
            rows.append(
                {
                    "percent_noise": 100.0 * noise,
                    "n_phantoms": len(cases),
                    "rms_ratio_median": float(np.median([case.rms_ratio for case in cases])),
                    "rms_ratio_max": max(case.rms_ratio for case in cases),
                    "largest_ratio_max": max(
                        case.largest / case.zero_fill_largest for case in cases
                    ),
                    "speck_max": max(case.speck for case in cases),
                    "blob_max": max(case.blob for case in cases),
                    "added_energy_ratio_max": max(case.ratio for case in cases),
                    "true_energy_ratio_max": max(case.true_ratio for case in cases),
                }
            )
        return rows

    def noise_rows(self) -> list[dict[str, float | str]]:
        """Return the maxima over the images of each kind."""
        rows: list[dict[str, float | str]] = []
        for kind in dict.fromkeys(case.kind for case in self.noise):
            cases = [case for case in self.noise if case.kind == kind]
            rows.append(
                {
                    "image": kind,
                    "n_images": len(cases),
                    "added_energy_share_max": max(case.share for case in cases),
                    "added_energy_ratio_max": max(case.ratio for case in cases),
                    "gain_max": max(case.gain for case in cases),
                }
            )
        return rows

    def data_rows(self) -> list[dict[str, float | str]]:
        """Return quantiles over the slices of each data set, then over all of them."""
        groups: dict[str, list[RealSlice]] = {}
        for one in self.slices:
            groups.setdefault(one.data, []).append(one)
        rows: list[dict[str, float | str]] = []
        for data, own in [*groups.items(), ("all", list(self.slices))] if groups else []:
            rows.append(
                {
                    "data": data,
                    "n_slices": len(own),
                    **_quantiles("added_energy_ratio", [one.ratio for one in own]),
                    **_quantiles("true_energy_ratio", [one.true_ratio for one in own]),
                    "added_energy_share_max": max(one.share for one in own),
                    "intensity_drift_max": max(one.intensity_drift for one in own),
                    "measured_residual_max": max(one.measured_residual for one in own),
                }
            )
        return rows

    def to_dict(self) -> dict[str, object]:
        """Return every table, and the bounds, as plain values for strict JSON."""
        return {
            "model": self.model,
            "upscale": self.upscale,
            "phantom": self.phantom_rows(),
            "noise": self.noise_rows(),
            "data": self.data_rows(),
            "bounds": bounds_from(self),
        }


def _quantiles(name: str, values: list[float]) -> dict[str, float]:
    return {
        f"{name}_median": float(np.median(values)),
        f"{name}_p99": float(np.quantile(values, 0.99)),
        f"{name}_max": max(values),
    }


def why_not_measured(spec: ModelSpec) -> str:
    """Say why what a model adds cannot be measured; empty if it can."""
    if spec.input == "kspace":
        return "takes k-space, and lesions are planted in magnitude images"
    if spec.sample_grid != "kspace":
        return (
            "does not answer on the grid of k-space, where lesions are planted and measured "
            "samples compared"
        )
    if any(spec.fixed_matrix):
        return "takes one matrix only, and lesions are planted in several"
    return ""


def measure(
    model: ModelFile,
    data: Iterable[Path] = (),
    *,
    backend: str = "ort-cpu",
    threads: int = 0,
    reading: Reading | None = None,
) -> Hallucination:
    """Measure what one model adds: on phantoms, on noise and, if there are any, on real series.

    Parameters
    ----------
    model
        What is measured.
    data
        Folders or files of HR images that it was not trained on.
    backend, threads
        What runs it.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.

    Raises
    ------
    InputError
        If the model answers on another grid than that of k-space.
    """
    if why := why_not_measured(model.spec):
        raise InputError(
            f"model '{model.spec.name}' {why}",
            hint="kspacesr-rt evaluate without --cards judges it",
        )
    opener = opener_of(model, backend, threads)
    spec = model.spec
    signs = spec.data_consistency == "magnitude"
    return Hallucination(
        model=spec.name,
        upscale=spec.upscale,
        keeps_measured=signs or (spec.data_consistency == "hard" and spec.output == "real"),
        phantom=tuple(phantom_cases(opener, spec.upscale)),
        noise=tuple(noise_cases(opener, spec.upscale)),
        slices=tuple(
            real_slices(
                opener,
                spec.upscale,
                data,
                residual=magnitude_residual if signs else measured_residual,
                reading=reading,
            )
        ),
    )


def bounds_from(hallucination: Hallucination) -> dict[str, float]:
    """Return the figures a model file keeps in `kspacesr_rt.model.spec.ModelSpec.bounds`.

    Returns
    -------
        The limits, named in `BOUNDED`, if real series were measured: `LIMIT_MARGIN` times the
        largest value of a slice, those of rounding at least `ROUNDING`; ``measured_residual`` only
        of models that promise it. Beside them what was measured: ``phantom_*``, ``noise_*``,
        ``constant_*`` and ``data_*``. Four significant digits each.
    """
    figures: dict[str, float] = {}
    for row in hallucination.phantom_rows():
        level = f"at_{row['percent_noise']:g}_percent_noise"
        figures[f"phantom_lesion_free_rms_ratio_{level}"] = row["rms_ratio_max"]
        figures[f"phantom_lesion_free_largest_ratio_{level}"] = row["largest_ratio_max"]
        figures[f"phantom_added_speck_{level}"] = row["speck_max"]
        figures[f"phantom_added_blob_{level}"] = row["blob_max"]
    if cases := hallucination.phantom:
        figures["phantom_lesion_free_rms_ratio"] = max(case.rms_ratio for case in cases)
        figures["phantom_added_energy_ratio"] = max(case.ratio for case in cases)
    for noise in hallucination.noise_rows():
        for name in ("added_energy_share", "added_energy_ratio", "gain"):
            figures[f"{noise['image']}_{name}"] = float(noise[f"{name}_max"])
    if hallucination.slices:
        overall = hallucination.data_rows()[-1]
        figures |= {f"data_{k}": float(v) for k, v in overall.items() if k != "data"}
        floors = dict(zip(BOUNDED, (0.0, ROUNDING, ROUNDING), strict=True))
        if not hallucination.keeps_measured:
            del floors["measured_residual"]
        for name, floor in floors.items():
            figures[name] = max(floor, LIMIT_MARGIN * float(overall[f"{name}_max"]))
    return {name: float(f"{value:.4g}") for name, value in sorted(figures.items())}


def as_text(hallucinations: Sequence[Hallucination]) -> str:
    """Return Markdown tables: phantoms, noise, real series and the limits that follow."""
    limits: list[Mapping[str, float | str]] = [
        {
            "model": one.model,
            **{name: value for name, value in bounds_from(one).items() if name in BOUNDED},
        }
        for one in hallucinations
    ]
    tables: dict[str, Sequence[Mapping[str, float | str]]] = {
        "Region without lesion; errors against the truth over zero-fill's, blobs over the local "
        "intensity": [
            {"model": one.model, **row} for one in hallucinations for row in one.phantom_rows()
        ],
        "Noise alone, and on a constant": [
            {"model": one.model, **row} for one in hallucinations for row in one.noise_rows()
        ],
        "Real series": [
            {"model": one.model, **row} for one in hallucinations for row in one.data_rows()
        ],
        "Limits": [row for row in limits if len(row) > 1],
    }
    return "\n\n".join(f"{title}.\n\n{_table(rows)}" for title, rows in tables.items() if rows)


_WORDS = ("model", "image", "data")
"""Columns that hold words."""


def _table(rows: Sequence[Mapping[str, float | str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "| " + " | ".join("---" if name in _WORDS else "--:" for name in names) + " |",
    ]
    for row in rows:
        cells = [row.get(name, "") for name in names]
        words = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)
