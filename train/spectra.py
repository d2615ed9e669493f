"""h_LR and h_HR: the mean spectra that a k-space network's input and output are scaled by."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kspacesr_rt.kspace import FloatArray, divisible_crop, fft2c
from kspacesr_rt.kspace.mean_spectrum import resample_spectrum
from kspacesr_rt.train.degradation import DEGRADATIONS
from kspacesr_rt.train.layers import MeanSpectrum
from kspacesr_rt.train.pairs import TrainingSeries

SPECTRUM_SLICES = 64
"""Slices whose spectra are averaged for h_LR and h_HR."""


def measure_spectrum(
    series: list[TrainingSeries],
    upscale: int,
    size: int,
    *,
    of_lr: bool,
    degradation: str = "kspace-crop",
) -> FloatArray:
    """Average the magnitude spectra of LR slices, or of their HR ones.

    Parameters
    ----------
    series
        What is trained on.
    upscale
        HR samples per LR sample and axis.
    size
        Samples per axis of the result.
    of_lr
        True for h_LR, False for h_HR.
    degradation
        How LR is made, a key of `DEGRADATIONS`.

    Returns
    -------
        Shape ``(size, size)``, float32, positive, in the unit the generators work in: the LR
        slice's maximum is 1, and LR k-space has the amplitude of the centre of HR k-space.
    """
    rng = np.random.default_rng(0)
    total = np.zeros((size, size))
    for _ in range(SPECTRUM_SLICES):
        chosen = series[int(rng.integers(len(series)))]
        one = chosen.slices[int(rng.integers(len(chosen.slices)))].astype(np.float32)
        hr = divisible_crop(one, upscale)
        lr = DEGRADATIONS[degradation](hr[None], upscale)[0]
        image = lr * upscale if of_lr else hr
        spectrum = np.abs(fft2c(image / max(float(lr.max()), 1e-6))) + 1e-6
        total += resample_spectrum(spectrum, (size, size))
    mean: FloatArray = (total / SPECTRUM_SLICES).astype(np.float32)
    return mean


def fill_spectra(
    generator: nn.Module, series: list[TrainingSeries], upscale: int, degradation: str
) -> None:
    """Measure every mean spectrum that a generator holds, from the training slices."""
    for module in generator.modules():
        if isinstance(module, MeanSpectrum):
            spectrum = measure_spectrum(
                series,
                upscale,
                module.spectrum.shape[-1],
                of_lr=module.divide,
                degradation=degradation,
            )
            module.spectrum.copy_(torch.from_numpy(spectrum))
