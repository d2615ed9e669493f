"""Every proof of one model, and what they come to: figures for its file, its card and a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kspacesr_rt.bench.quality.hallucination import why_not_measured
from kspacesr_rt.bench.quality.open_model import Opener, opener_of
from kspacesr_rt.bench.quality.proofs.acr import ARRAYS, AcrCase, acr_cases, is_nearer
from kspacesr_rt.bench.quality.proofs.lesions import DIAMETERS, LesionCase, lesion_cases
from kspacesr_rt.bench.quality.proofs.noise_ceiling import CeilingCase, ceiling_case
from kspacesr_rt.bench.quality.proofs.ring_correlation import ring_correlation
from kspacesr_rt.bench.quality.proofs.segmentation import mean_dice
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray, degrade, divisible_crop
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.quality.metrics import tissue_slices
from kspacesr_rt.runtime.backends import Backend
from kspacesr_rt.system.plurals import counted
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.volumes import interpolation_of, read_volumes, resampled

SLICES: Final = 2
"""Slices of each series, spread over its middle."""
PREFIX: Final = "proof_"
"""How the names of these figures begin in `kspacesr_rt.model.spec.ModelSpec.bounds`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceProof:
    """One real slice; figures of SR and of zero-filling."""

    series: str
    """Name of its series."""
    cutoff: float
    """Median over patches of the share of Nyquist that ring correlation reaches."""
    zero_fill_cutoff: float
    """The same of zero-filling."""
    below: float
    """Share of patches that fail before the edge of the measured band."""
    zero_fill_below: float
    """The same of zero-filling."""
    dice: float
    """See `kspacesr_rt.bench.quality.proofs.segmentation`."""
    zero_fill_dice: float
    """The same of zero-filling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proofs:
    """All that was measured of one model."""

    model: str
    """Its name."""
    upscale: int
    """SR samples per LR sample and axis."""
    ceilings: tuple[CeilingCase, ...] = ()
    """One a series."""
    slices: tuple[SliceProof, ...] = ()
    """A few of each series."""
    lesions: tuple[LesionCase, ...] = ()
    """In these slices."""
    acr: dict[str, list[AcrCase]] = field(default_factory=dict)
    """By series of the phantom."""

    def figures(self) -> dict[str, float]:
        """Return what a model file keeps, four significant digits each; of what was measured."""
        found = {**self._of_slices(), **self._of_lesions(), **self._of_phantom()}
        return {f"{PREFIX}{name}": float(f"{value:.4g}") for name, value in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return every case and the figures, as plain values for strict JSON."""
        return {**dataclasses.asdict(self), "figures": self.figures()}

    def _of_slices(self) -> dict[str, float]:
        if not self.slices:
            return {}
        names = [one.name for one in dataclasses.fields(SliceProof) if one.name != "series"]
        found = {
            name: float(np.mean([getattr(one, name) for one in self.slices])) for name in names
        }
        found["n_slices"] = len(self.slices)
        nearer = [one.dice > one.zero_fill_dice for one in self.slices]
        found["dice_nearer_share"] = float(np.mean(nearer))
        known = [one for one in self.ceilings if one.ceiling_db is not None]
        found["n_series"] = len(self.ceilings)
        found["n_ceilings"] = len(known)
        if known:
            found["gain_of_ceiling"] = float(np.mean([one.share or 0.0 for one in known]))
            found["ceiling_db"] = float(np.mean([one.ceiling_db or 0.0 for one in known]))
        return found

    def _of_lesions(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for diameter in DIAMETERS:
            own = [one for one in self.lesions if one.diameter == diameter]
            if own:
                at = f"at_{diameter:g}_samples"
                kept, base = (
                    np.array([getattr(one, name) for one in own])
                    for name in ("kept", "zero_fill_kept")
                )
                found[f"lesion_kept_{at}"] = float(np.median(kept))
                found[f"lesion_zero_fill_kept_{at}"] = float(np.median(base))
        if self.lesions:
            found["lesions"] = len(self.lesions)
            found["lesions_made_up"] = sum(one.is_made_up for one in self.lesions)
            found["lesions_kept_as_zero_fill"] = float(
                np.mean([one.kept >= one.zero_fill_kept for one in self.lesions])
            )
        return found

    def _of_phantom(self) -> dict[str, float]:
        if not self.acr:
            return {}
        found: dict[str, float] = {
            "acr_series": len(self.acr),
            "acr_nearer": sum(is_nearer(cases) for cases in self.acr.values()),
        }
        every = [one for cases in self.acr.values() for one in cases]
        found["acr_made_up"] = sum(one.is_made_up for one in every)
        for image in ("hr", "sr", "zero_fill"):
            found[f"acr_resolved_{image}"] = sum(getattr(one, f"{image}_resolved") for one in every)
        for array in ARRAYS:
            own = [one for one in every if one.array == array]
            name = array.replace(" ", "_")
            for image in ("hr", "sr", "zero_fill"):
                contrast = float(np.median([getattr(one, image) for one in own]))
                found[f"acr_contrast_{image}_{name}"] = contrast
        return found


def measure_proofs(
    model: ModelFile,
    data: Iterable[Path] = (),
    *,
    acr: Path | None = None,
    backend: str = "ort-cpu",
    threads: int = 0,
    reading: Reading | None = None,
) -> Proofs:
    """Measure every proof of one model.

    Parameters
    ----------
    model
        What is measured.
    data
        Folders or files of HR images that it was not trained on.
    acr
        Folder or file of series of the ACR phantom.
    backend, threads
        What runs it.
    reading
        See `kspacesr_rt.bench.quality.evaluation.evaluate_models`.

    Raises
    ------
    InputError
        If the model answers on another grid than that of k-space, or takes one matrix only.
    """
    if why := why_not_measured(model.spec):
        raise InputError(
            f"model '{model.spec.name}' {why}",
            hint="leave --proofs out: evaluate judges it all the same",
        )
    opener = opener_of(model, backend, threads)
    upscale = model.spec.upscale
    series = [_of_series(*one, opener, upscale) for one in _series(data, upscale, reading)]
    return Proofs(
        model=model.spec.name,
        upscale=upscale,
        ceilings=tuple(ceiling for ceiling, _, _ in series),
        slices=tuple(one for _, slices, _ in series for one in slices),
        lesions=tuple(one for _, _, lesions in series for one in lesions),
        acr={} if acr is None else _of_phantoms(acr, opener, upscale, reading),
    )


def _series(
    data: Iterable[Path], upscale: int, reading: Reading | None
) -> Iterable[tuple[str, FloatArray]]:
    """Yield the name and a few HR slices of each series that holds tissue."""
    for root in data:
        for stored in read_volumes(root, reading):
            band = interpolation_of(stored)
            volume = resampled(stored, band.cropped_matrix) if band.interpolated else stored
            kept = np.flatnonzero(tissue_slices(volume.slices))
            if len(kept):
                middle = np.linspace(0.3 * (len(kept) - 1), 0.7 * (len(kept) - 1), SLICES)
                chosen = volume.slices[kept[np.unique(middle.astype(int))]] / volume.slices.max()
                yield volume.label, divisible_crop(chosen.astype(np.float32), upscale)


def _of_series(
    label: str, hr: FloatArray, opener: Opener, upscale: int
) -> tuple[CeilingCase, list[SliceProof], list[LesionCase]]:
    lr = degrade(hr, upscale).astype(np.float32)
    filled = np.maximum(zero_fill(lr, upscale), 0.0)
    with opener((lr.shape[1], lr.shape[2])) as backend:
        sr = np.maximum(np.concatenate([backend.run(one[None, None])[0] for one in lr]), 0.0)
        lesions = [
            case for one in hr for case in lesion_cases(one, lambda lr: _run(backend, lr), upscale)
        ]
    slices = []
    for ours, base, truth in zip(sr, filled, hr, strict=True):
        rings = [ring_correlation(one, truth) for one in (ours, base)]
        if not rings[0].cutoffs:
            continue
        slices.append(
            SliceProof(
                series=label,
                cutoff=float(np.median(rings[0].cutoffs)),
                zero_fill_cutoff=float(np.median(rings[1].cutoffs)),
                below=rings[0].below(1.0 / upscale),
                zero_fill_below=rings[1].below(1.0 / upscale),
                dice=mean_dice(ours, truth),
                zero_fill_dice=mean_dice(base, truth),
            )
        )
    return ceiling_case(label, sr, filled, hr, upscale), slices, lesions


def _run(backend: Backend, lr: FloatArray) -> FloatArray:
    result: FloatArray = backend.run(lr[None, None])[0, 0]
    return result


def _of_phantoms(
    root: Path, opener: Opener, upscale: int, reading: Reading | None
) -> dict[str, list[AcrCase]]:
    found: dict[str, list[AcrCase]] = {}
    for volume in read_volumes(root, reading):

        def run(lr: FloatArray) -> FloatArray:
            with opener((lr.shape[0], lr.shape[1])) as backend:
                return _run(backend, lr)

        found[volume.label] = acr_cases(volume.label, volume.slices, run, upscale)
    return found


ROWS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("gain, share of what noise leaves possible", "gain_of_ceiling", "", ".0%"),
    ("patches that fail inside the measured band", "below", "zero_fill_below", ".1%"),
    ("ring correlation reaches, share of Nyquist", "cutoff", "zero_fill_cutoff", ".3f"),
    *(
        (
            f"lesion of {size:g} LR samples, contrast kept",
            f"lesion_kept_at_{size:g}_samples",
            f"lesion_zero_fill_kept_at_{size:g}_samples",
            ".2f",
        )
        for size in DIAMETERS
    ),
    ("tissue classes, Dice with HR's", "dice", "zero_fill_dice", ".4f"),
    *(
        (
            f"ACR holes of {array}, contrast",
            f"acr_contrast_sr_{array.replace(' ', '_')}",
            f"acr_contrast_zero_fill_{array.replace(' ', '_')}",
            ".3f",
        )
        for array in ARRAYS
    ),
    ("ACR arrays resolved", "acr_resolved_sr", "acr_resolved_zero_fill", ".0f"),
)
"""Words, figure of SR, figure of zero-filling (if there is one), format."""


def table(figures: dict[str, float]) -> list[str]:
    """Return the figures of one model as lines of Markdown; none if there are none.

    Parameters
    ----------
    figures
        With or without others beside those that begin with `PREFIX`.
    """
    own = {
        name.removeprefix(PREFIX): value
        for name, value in figures.items()
        if name.startswith(PREFIX)
    }
    rows = [
        f"| {words} | {own[name]:{form}} | {f'{own[base]:{form}}' if base in own else ''} |"
        for words, name, base, form in ROWS
        if name in own
    ]
    if not rows:
        return []
    return [
        "| proof | SR | zero-fill |",
        "| --- | --: | --: |",
        *rows,
        "",
        " ".join(_sentences(own)),
    ]


def _sentences(own: dict[str, float]) -> Iterable[str]:
    if "n_slices" in own:
        slices = counted(round(own["n_slices"]), "slice")
        yield (
            f"{slices} of {own['n_series']:.0f} series; noise was "
            f"seen in HR of {own['n_ceilings']:.0f}. Tissue classes are nearer to HR's than "
            f"zero-filling's in {own['dice_nearer_share']:.0%} of the slices."
        )
    if "lesions" in own:
        yield (
            f"Of {own['lesions']:.0f} planted lesions {own['lesions_kept_as_zero_fill']:.0%} keep "
            f"at least zero-filling's contrast; {own['lesions_made_up']:.0f} are shown, above "
            "noise and beyond zero-filling, where none was planted."
        )
    if "acr_series" in own:
        names = (f"acr_contrast_hr_{array.replace(' ', '_')}" for array in ARRAYS)
        contrasts = ", ".join(f"{own[name]:.3f}" for name in names)
        yield (
            f"The contrast of the ACR arrays is nearer to HR's ({contrasts}) than zero-filling's "
            f"in {own['acr_nearer']:.0f} of {own['acr_series']:.0f} series. HR resolves "
            f"{own['acr_resolved_hr']:.0f} of their arrays; {own['acr_made_up']:.0f} are resolved "
            "that HR does not resolve."
        )


def as_text(proofs: Sequence[Proofs]) -> str:
    """Return a table for each model."""
    return "\n\n".join(
        "\n".join([f"Proof that detail is real: {one.model}.", "", *table(one.figures())])
        for one in proofs
    )
