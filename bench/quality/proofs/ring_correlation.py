"""Patch-wise Fourier ring correlation with HR: up to which frequency a patch shows what is there.

In every patch of tissue the spectra of image and HR are correlated ring by ring. Where the
correlation has fallen below a threshold, what the image shows there is not what HR shows. A patch
that fails before the edge of the measured band has lost, or replaced, what was measured.

References
----------
.. [1] van Heel and Schatz 2005, doi:10.1016/j.jsb.2005.05.009 (Fourier ring correlation)
.. [2] Kc et al. 2023, arXiv:2310.06166 (by patches, to find invented structure: sFRC)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.quality.metrics import tissue_mask

PATCH = 32
"""Edge of a patch in HR samples."""
STEP = 16
"""Distance of patches: half of them overlaps."""
IN_TISSUE = 0.75
"""Share of a patch that tissue fills at least."""
THRESHOLD = 0.5
"""Correlation below which half of the power is something else."""

_Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class RingCorrelation:
    """What the patches of one image are worth, beside each other."""

    cutoffs: tuple[float, ...]
    """Share of HR's Nyquist frequency at which the correlation falls below `THRESHOLD`, by patch;
    1 where it never does."""

    def below(self, frequency: float) -> float:
        """Return the share of patches that fail before a share of Nyquist."""
        return float(np.mean(np.array(self.cutoffs) < frequency)) if self.cutoffs else 0.0


def ring_correlation(image: FloatArray, hr: FloatArray) -> RingCorrelation:
    """Correlate every patch of tissue of one slice with HR, ring by ring.

    Parameters
    ----------
    image, hr
        Shape ``(y, x)``.
    """
    mask = tissue_mask(hr)
    rows, columns = hr.shape
    cutoffs = [
        _cutoff(image[y : y + PATCH, x : x + PATCH], hr[y : y + PATCH, x : x + PATCH])
        for y in range(0, rows - PATCH + 1, STEP)
        for x in range(0, columns - PATCH + 1, STEP)
        if mask[y : y + PATCH, x : x + PATCH].mean() >= IN_TISSUE
    ]
    return RingCorrelation(cutoffs=tuple(cutoffs))


_WINDOW = np.outer(np.hanning(PATCH), np.hanning(PATCH))
_FREQUENCY = np.hypot(*np.meshgrid(*[np.fft.fftfreq(PATCH) * PATCH] * 2, indexing="ij"))
_RING = np.rint(_FREQUENCY).astype(int)
"""Ring of every coefficient of a patch: whole cycles across it."""


def _cutoff(image: FloatArray, hr: FloatArray) -> float:
    ours, truth = (_spectrum(one) for one in (image, hr))
    last = PATCH // 2
    inside = last + 1  # rings that are whole

    def per_ring(values: _Wide) -> _Wide:
        summed = np.bincount(_RING.ravel(), values.ravel(), minlength=inside)[:inside]
        return summed.astype(np.float64)

    cross = per_ring((ours * truth.conj()).real)
    norm = np.sqrt(per_ring(np.abs(ours) ** 2) * per_ring(np.abs(truth) ** 2))
    correlation = np.where(norm > 0.0, cross / np.where(norm > 0.0, norm, 1.0), 0.0)
    failed = np.flatnonzero(correlation[1:] < THRESHOLD)
    return float((failed[0] + 1) / last) if len(failed) else 1.0


def _spectrum(patch: FloatArray) -> npt.NDArray[np.complex128]:
    wide = patch.astype(np.float64)
    spectrum: npt.NDArray[np.complex128] = np.fft.fft2((wide - wide.mean()) * _WINDOW)
    return spectrum
