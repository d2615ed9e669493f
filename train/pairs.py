"""Training pairs: HR slices as they were measured, and the LR slices a shorter scan would give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kspacesr_rt.errors import TrainingDataError
from kspacesr_rt.kspace import FloatArray, centre_crop, degrade, fft2c, ifft2c
from kspacesr_rt.train.volumes import Volume, read_volumes, supported, training_planes

TISSUE_LEVEL = 0.05
"""Share of the series maximum above which a pixel counts as tissue when the FOV is trimmed."""
TISSUE_SHARE = 0.02
"""A slice with less tissue than this share of its pixels is not trained on."""
MARGIN = 8
"""Pixels of air kept around the tissue."""
SMALLEST_MATRIX = 64
"""HR slices below this are not trained on: k-space of so few samples says nothing about edges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSeries:
    """HR slices of one series, trimmed to the patient and scaled to a maximum of 1."""

    name: str
    """For logs only."""
    slices: FloatArray
    """Shape ``(n, y, x)``, float16 between 0 and 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How a HR batch is varied before it is degraded."""

    matrix_shrink: float = 0.7
    """Smallest factor by which k-space may be cropped further (1 turns it off)."""
    noise_share: float = 0.25
    """Share of the batches that get complex Gaussian noise before the magnitude (Rician)."""
    noise_level: float = 0.015
    """Largest standard deviation of that noise, in units of the series maximum."""


def prepare_series(volume: Volume) -> TrainingSeries | None:
    """Crop to the measured k-space, drop air and empty slices, scale to a maximum of 1.

    Returns
    -------
        None if nothing worth training on is left.
    """
    measured = supported(volume)
    top = float(measured.slices.max())
    if top <= 0.0:
        return None
    scaled = measured.slices / top
    tissue = scaled > TISSUE_LEVEL
    keep = tissue.mean(axis=(1, 2)) >= TISSUE_SHARE
    if not keep.any():
        return None
    boxes = []
    for axis in (1, 2):
        other = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(tissue[keep].any(axis=other))
        length = scaled.shape[axis]
        low, high = max(0, used[0] - MARGIN), min(length, used[-1] + 1 + MARGIN)
        boxes.append(slice(low, high - (high - low) % 4))
    trimmed = scaled[keep][:, boxes[0], boxes[1]]
    if min(trimmed.shape[1:]) < SMALLEST_MATRIX:
        return None
    return TrainingSeries(name=volume.name, slices=trimmed.astype(np.float16))


def load_training_series(roots: Iterable[Path]) -> list[TrainingSeries]:
    """Read, prepare and keep in memory every series below the given folders.

    Raises
    ------
    TrainingDataError
        If nothing is left to train on.
    """
    prepared = [
        series
        for root in roots
        for volume in read_volumes(root)
        for plane in training_planes(volume)
        if (series := prepare_series(plane)) is not None
    ]
    if not prepared:
        raise TrainingDataError("no slice holds enough tissue to train on")
    return prepared


class PairSampler:
    """Draw random batches of (LR, HR) slices; one batch comes from one series.

    Parameters
    ----------
    series
        What to draw from; a series of n slices is drawn with weight sqrt(n), so that one 3-D scan
        does not outweigh many 2-D ones.
    upscale
        HR samples per LR sample and axis.
    batch
        Slices in a batch.
    augmentation
        How to vary them.
    rng
        Source of all randomness.
    """

    def __init__(
        self,
        series: list[TrainingSeries],
        *,
        upscale: int,
        batch: int,
        augmentation: Augmentation,
        rng: np.random.Generator,
    ) -> None:
        self._series = series
        self._upscale = upscale
        self._batch = batch
        self._augmentation = augmentation
        self.rng = rng
        weights = np.sqrt([len(one.slices) for one in series])
        self._weights = weights / weights.sum()

    def draw(self) -> tuple[FloatArray, FloatArray]:
        """Return LR ``(n, 1, y, x)`` and HR ``(n, 1, s*y, s*x)``, float32."""
        chosen = self._series[int(self.rng.choice(len(self._series), p=self._weights))]
        index = self.rng.choice(len(chosen.slices), size=self._batch, replace=True)
        hr = self._vary(chosen.slices[index].astype(np.float32))
        lr = degrade(hr, self._upscale)
        return lr[:, None].astype(np.float32), hr[:, None].astype(np.float32)

    def _vary(self, hr: FloatArray) -> FloatArray:
        rng, options, s = self.rng, self._augmentation, self._upscale
        if rng.random() < 0.5:
            hr = hr[:, ::-1]
        if rng.random() < 0.5:
            hr = hr[:, :, ::-1]
        if rng.random() < 0.5:
            hr = hr.transpose(0, 2, 1)
        kspace = fft2c(hr)
        if rng.random() < options.noise_share:
            level = np.float32(rng.uniform(0.0, options.noise_level))
            noise = rng.standard_normal((2, *kspace.shape), dtype=np.float32)
            kspace = kspace + level * (noise[0] + 1j * noise[1])
        shrink = rng.uniform(options.matrix_shrink, 1.0)
        have = kspace.shape[-2:]
        rows, columns = (max(s, round(length * shrink / s) * s) for length in have)
        rows, columns = min(rows, have[0] - have[0] % s), min(columns, have[1] - have[1] % s)
        gain = np.float32(np.sqrt(rows * columns / (have[0] * have[1])))
        varied: FloatArray = np.abs(ifft2c(centre_crop(kspace, (rows, columns)))) * gain
        return varied
