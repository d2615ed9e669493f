"""How much a model could gain at most: what is missed and is not noise.

HR is itself noisy. No network can predict the noise of samples that were not measured, so the
squared error of zero-filling cannot fall below it. A gain is fairly judged as a share of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kspacesr_rt.kspace import FloatArray, fft2c
from kspacesr_rt.train.noise import rim_signal_share

SMALLEST_NOISE = 1e-3
"""Share of the missed power below which no noise was seen, and no ceiling is stated: 30 dB."""

SMALLEST_DB = 0.1
"""Least ceiling that is divided by: where zero-filling leaves little but noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CeilingCase:
    """Gain and ceiling of one series, over whole slices: noise is everywhere."""

    series: str
    """Its name."""
    gain_db: float
    """Mean squared error of zero-filling over that of SR."""
    ceiling_db: float | None
    """The same over the noise of what was missed; None where no noise was seen there."""

    @property
    def share(self) -> float | None:
        """`gain_db` over `ceiling_db`; None without one."""
        return None if self.ceiling_db is None else self.gain_db / self.ceiling_db


def ceiling_case(
    series: str, sr: FloatArray, interpolated: FloatArray, hr: FloatArray, upscale: int
) -> CeilingCase:
    """Compare a gain with what noise leaves possible.

    Parameters
    ----------
    series
        Its name.
    sr, interpolated, hr
        SR, zero-filled and HR slices, shape ``(n, y, x)``.
    upscale
        HR samples per LR sample and axis.
    """
    ours, base = (float(np.mean((one - hr) ** 2)) for one in (sr, interpolated))
    gain = 10.0 * math.log10(base / ours) if ours > 0.0 and base > 0.0 else 0.0
    noise = missed_noise(hr, upscale)
    return CeilingCase(
        series=series,
        gain_db=gain,
        ceiling_db=None if noise is None else max(10.0 * math.log10(base / noise), SMALLEST_DB),
    )


def missed_noise(hr: FloatArray, upscale: int) -> float | None:
    """Return the noise power of the samples outside the LR band, as a mean square of an image.

    Parameters
    ----------
    hr
        Shape ``(n, y, x)``.
    upscale
        HR samples per LR sample and axis.

    Returns
    -------
        In the square of the unit of `hr`; None where the corners of k-space hold no noise.
    """
    share = 1.0 - rim_signal_share(hr, upscale)
    if share < SMALLEST_NOISE:
        return None
    power = np.abs(fft2c(hr.astype(np.float64))) ** 2
    rows, columns = power.shape[1:]
    y, x = (np.abs(np.arange(n) - n // 2) * upscale > n // 2 for n in (rows, columns))
    missed = y[:, None] | x
    return float(share * power[:, missed].sum() / power.size)
