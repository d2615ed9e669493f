"""Noise of a series, estimated where k-space holds little else, and noise added to LR slices."""

from __future__ import annotations

import numpy as np

from kspacesr_rt.kspace import FloatArray, fft2c
from kspacesr_rt.quality.metrics import tissue_mask

CORNER = 0.85
"""Share of the measured k-space, on both axes, from which a sample counts as a corner: about 2 % of
them, where anatomy has fallen furthest."""
SURVEYED = 6
"""Slices of a series that its noise is estimated on."""


def rim_signal_share(
    slices: FloatArray, upscale: int, *, band: tuple[float, float] = (1.0, 1.0)
) -> float:
    """Estimate which share of the power that a LR scan would miss is signal, not noise.

    Parameters
    ----------
    slices
        HR slices of one series, shape ``(n, y, x)``.
    upscale
        HR samples per LR sample and axis: what lies beyond ``1 / upscale`` of Nyquist is missed.
    band
        Share of Nyquist along y and x that was measured; the rest holds neither.

    Returns
    -------
        Between 0 and 1; 1 if nothing lies in the corners (k-space measured as an ellipse, say), or
        nothing is missed.

    Notes
    -----
    White noise has one power in all of k-space, which the corners show. Its power there is
    exponentially distributed, whose median is ln 2 of its mean and forgives a few bright samples.
    """
    n = len(slices)
    chosen = np.unique(np.linspace(0.2 * (n - 1), 0.8 * (n - 1), SURVEYED).astype(int))
    power = np.abs(fft2c(slices[chosen].astype(np.float32))) ** 2
    y, x = (
        np.abs(np.arange(length) - length // 2) / (length / 2) / share
        for length, share in zip(power.shape[1:], band, strict=True)
    )
    measured = (y[:, None] <= 1.0) & (x <= 1.0)
    corners = measured & (y[:, None] > CORNER) & (x > CORNER)
    within = (y[:, None] * band[0] <= 1.0 / upscale) & (x * band[1] <= 1.0 / upscale)
    missed = measured & ~within
    if not corners.any() or not missed.any():
        return 1.0
    noise = float(np.median(power[:, corners])) / np.log(2.0)
    rim = float(power[:, missed].mean())
    return float(np.clip(1.0 - noise / rim, 0.0, 1.0)) if rim > 0.0 else 1.0


def rician(lr: FloatArray, snr: float, rng: np.random.Generator) -> FloatArray:
    """Add the noise of a shorter or weaker scan to LR magnitude slices.

    Parameters
    ----------
    lr
        Shape ``(n, y, x)``, magnitudes.
    snr
        Mean of the tissue (`kspacesr_rt.quality.metrics.tissue_mask`) over the noise's standard
        deviation in the real part, of each slice.
    rng
        Source of all randomness.

    Returns
    -------
        Same shape, float32: the magnitude of what complex Gaussian noise makes of the slice. Of a
        slice's phase nothing need be known: turning white complex noise leaves it what it is.
    """
    deviation = deviation_at(lr, snr)[:, None, None]
    noise = rng.standard_normal((2, *lr.shape), dtype=np.float32) * deviation
    noisy: FloatArray = np.hypot(lr + noise[0], noise[1]).astype(np.float32)
    return noisy


def deviation_at(lr: FloatArray, snr: float) -> FloatArray:
    """Return the standard deviation of noise, in one part of complex slices, at a given SNR.

    Parameters
    ----------
    lr, snr
        As for `rician`.

    Returns
    -------
        One of each slice, shape ``(n,)``, float32; 0 of a slice without tissue.
    """
    mask = tissue_mask(lr)
    tissue = np.array(
        [one[where].mean() if where.any() else 0.0 for one, where in zip(lr, mask, strict=True)]
    )
    deviation: FloatArray = (tissue / snr).astype(np.float32)
    return deviation
