"""Steer a run: judge the averaged weights on slices that are never trained on, and draw them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from kspacesr_rt.kspace import FloatArray, divisible_crop, from_channels, to_channels
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.spec import Input
from kspacesr_rt.quality.metrics import Quality, evaluate, tissue_mask
from kspacesr_rt.train.complex_pairs import filled_image, kspace_crop, smooth_phase
from kspacesr_rt.train.degradation import DEGRADATIONS
from kspacesr_rt.train.generators import magnitude_image
from kspacesr_rt.train.pairs import Rim, TrainingSeries
from kspacesr_rt.train.volumes import Volume, supported

SLICES_PER_SERIES = 5
"""Enough to steer by, few enough to cost little; `kspacesr-rt evaluate` judges whole series."""
DIFFERENCE_GAIN = 5.0
"""What differences are multiplied by in a triptych, so that an eye sees them."""


def judged_series(series: Sequence[Volume], rim: Rim) -> list[Volume]:
    """Bring what a run is judged on to the k-space that it is judged in.

    Parameters
    ----------
    series
        Volumes as they were stored.
    rim
        ``crop`` and ``mix`` crop each to its measured k-space, as `kspacesr-rt evaluate` does: a
        rim that is empty pays for restraint alone, and weights that were picked by that gained
        little where there was something to predict. ``keep`` leaves them as stored.
    """
    return list(series) if rim == "keep" else [supported(one) for one in series]


def validation_slices(
    series: Sequence[Volume | TrainingSeries], total: int = 0
) -> list[FloatArray]:
    """Pick slices from the middle half of every series, scaled to the series' maximum.

    Parameters
    ----------
    series
        What may be judged on. Of a series that was prepared both cropped and as stored, the
        cropped version is.
    total
        Slices to pick in all, evenly; 0 takes `SLICES_PER_SERIES` of each.

    Returns
    -------
        HR slices ``(y, x)`` as the series holds them.
    """
    series = _without_stored_twins(series)
    each = math.ceil(total / len(series)) if total and series else SLICES_PER_SERIES
    picked: list[FloatArray] = []
    for one in series:
        n = len(one.slices)
        wanted = np.linspace(0.25 * (n - 1), 0.75 * (n - 1), each)
        top = float(one.slices.max()) or 1.0
        picked += [
            one.slices[index].astype(np.float32) / top for index in sorted(set(wanted.astype(int)))
        ]
    if total and len(picked) > total:
        picked = [picked[index] for index in np.linspace(0, len(picked) - 1, total).astype(int)]
    return picked


def _without_stored_twins(
    series: Sequence[Volume | TrainingSeries],
) -> Sequence[Volume | TrainingSeries]:
    cropped = {
        (one.patient, one.name) for one in series if isinstance(one, TrainingSeries) and one.cropped
    }
    return [
        one
        for one in series
        if isinstance(one, Volume) or one.cropped or (one.patient, one.name) not in cropped
    ]


def pairs_of(
    slices: list[FloatArray], upscale: int, degradation: str, given: Input = "image"
) -> list[tuple[FloatArray, FloatArray]]:
    """Return ``(lr, hr)`` of each HR slice, float32, HR cropped to a multiple of the upscale.

    For a network of k-space LR is ``(2, ky, kx)``, and each slice gets a smooth phase, the same
    whenever it is asked for.
    """
    pairs = []
    for number, one in enumerate(slices):
        hr = divisible_crop(one.astype(np.float32), upscale)
        if given == "kspace":
            phase = smooth_phase((hr.shape[0], hr.shape[1]), np.random.default_rng(number))
            lr = to_channels(kspace_crop((hr * phase)[None], upscale)[0])
        else:
            lr = DEGRADATIONS[degradation](hr[None], upscale)[0]
        pairs.append((lr.astype(np.float32), hr))
    return pairs


def super_resolve(generator: nn.Module, lr: FloatArray, device: torch.device) -> FloatArray:
    """Run a generator on one LR slice; negative values are clipped as DICOM does.

    Parameters
    ----------
    generator
        Of images or of k-space.
    lr
        An image ``(y, x)`` or k-space ``(2, ky, kx)``.
    device
        Where the generator is.

    Returns
    -------
        An image ``(s*y, s*x)``, of k-space the magnitude.
    """
    generator.eval()
    given = torch.from_numpy(lr).to(device)
    with torch.inference_mode():
        if lr.ndim == 3:
            sr = magnitude_image(generator(given[None]))
        else:
            sr = generator(given[None, None])
    result: FloatArray = sr[0, 0].float().clamp_min(0.0).cpu().numpy()
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationQuality:
    """Means over the validation slices."""

    whole: Quality
    """Convention ``slice-range1``: comparable with what is published."""
    tissue: Quality | None
    """Convention ``tissue``, over the slices that hold any: what decides which weights are best."""


def evaluate_slices(
    resolve: Callable[[FloatArray], FloatArray],
    slices: list[FloatArray],
    upscale: int,
    *,
    degradation: str = "kspace-crop",
    given: Input = "image",
) -> ValidationQuality:
    """Judge what makes SR of LR on HR slices (each scaled to its series' maximum, any matrix).

    Parameters
    ----------
    resolve
        LR slice ``(y, x)``, or k-space ``(2, ky, kx)``, to SR slice; negative values are clipped
        as DICOM does.
    slices
        HR.
    upscale, degradation, given
        How LR is made, and what of it is given; see `pairs_of`.
    """
    whole, tissue = [], []
    for lr, hr in pairs_of(slices, upscale, degradation, given):
        sr = np.maximum(resolve(lr), 0.0)[None]
        whole.append(evaluate(sr, hr[None], "slice-range1"))
        if tissue_mask(hr).any():
            tissue.append(evaluate(sr, hr[None], "tissue"))
    return ValidationQuality(
        whole=mean_quality(whole), tissue=mean_quality(tissue) if tissue else None
    )


def mean_quality(qualities: list[Quality]) -> Quality:
    """Average over slices."""
    return Quality(
        mae=float(np.mean([one.mae for one in qualities])),
        psnr_db=float(np.mean([one.psnr_db for one in qualities])),
        ssim=float(np.mean([one.ssim for one in qualities])),
    )


def validation_quality(
    generator: nn.Module,
    slices: list[FloatArray],
    upscale: int,
    *,
    degradation: str = "kspace-crop",
    given: Input = "image",
    device: torch.device | None = None,
) -> ValidationQuality:
    """Judge a generator on HR slices (each scaled to its series' maximum, any matrix)."""
    where = device or torch.device("cpu")
    return evaluate_slices(
        lambda lr: super_resolve(generator, lr, where),
        slices,
        upscale,
        degradation=degradation,
        given=given,
    )


def zero_fill_quality(
    slices: list[FloatArray],
    upscale: int,
    *,
    degradation: str = "kspace-crop",
    given: Input = "image",
) -> ValidationQuality:
    """Judge zero-filling on the same slices: what the run has to beat."""

    def resolve(lr: FloatArray) -> FloatArray:
        if given == "image":
            return zero_fill(lr, upscale)
        filled: FloatArray = np.abs(filled_image(from_channels(lr), upscale))
        return filled

    return evaluate_slices(resolve, slices, upscale, degradation=degradation, given=given)


def triptych(
    generator: nn.Module,
    one: FloatArray,
    upscale: int,
    *,
    degradation: str = "kspace-crop",
    given: Input = "image",
    device: torch.device | None = None,
) -> bytes:
    """Draw HR, SR and their difference (times `DIFFERENCE_GAIN`) side by side as a PNG."""
    ((lr, hr),) = pairs_of([one], upscale, degradation, given)
    sr = super_resolve(generator, lr, device or torch.device("cpu"))
    white = float(np.percentile(hr, 99.5)) or 1.0
    panels = np.concatenate([hr, sr, DIFFERENCE_GAIN * np.abs(sr - hr)], axis=1) / white
    grey = np.round(255.0 * np.clip(panels, 0.0, 1.0)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()
