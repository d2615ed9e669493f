"""What a result holds that was not measured: the energy outside the band of k-space scanned.

Hard data consistency keeps every measured sample, so whatever a network invents lies outside the
measured band, and Parseval says how much it is. Energy says how much was added, not whether it is
true, nor where: a small lesion drawn from nothing is a small energy.

The measured band of an LR matrix of n samples is ``|k| <= n // 2`` along each axis. For even n that
includes both ends of the Nyquist line: a real image cannot tell them apart, and zero-filling one
spreads the measured end over both. So a zero-filled image adds nothing, whatever its matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import Array, ComplexArray, FloatArray, Matrix, fft2c

RING_FLOOR = 1e-12
"""Share of an LR slice's energy below which its ring holds rounding only: (1e-6)^2, what fp32
transforms leave of a sample. Keeps the ratio finite for a slice without any detail."""

_Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedEnergy:
    """How much energy one result holds outside the measured band, in two units."""

    share: float
    """Over the energy of the whole SR slice, in [0, 1]. Most of that is DC, so it says how much of
    a picture is predicted, and mainly follows how much air and contrast the picture has."""
    ratio: float
    """Over the energy of the measured ring next to the band's edge (see `added_energy`), at least
    0. Spectra of tissue fall smoothly across that edge, so the energies on its two sides go
    together: the ratio of slices of different contrast is comparable, and a slice that stands out
    was given more detail than the detail it came with explains. The one to set a bound on: over
    208 unseen slices, 1 % to 99 % of x2-fast's ratios span a factor of 3, of its shares 16."""


def added_energy(sr: Array, lr: FloatArray) -> AddedEnergy:
    """Measure what one SR slice holds outside the band that its LR slice measured.

    Parameters
    ----------
    sr
        The result before clipping, shape ``(s * y, s * x)``, real or complex.
    lr
        Its source, shape ``(y, x)``, same FOV and intensities.

    Returns
    -------
        ``share`` is ``sum(|S(k)|^2, k outside) / sum(|S(k)|^2)`` where S is `fft2c` of the result,
        and k is outside where ``|ky| > rows // 2`` or ``|kx| > columns // 2``. ``ratio`` is
        ``sum(|S(k)|^2, k outside) / (s^2 sum(|L(k)|^2, k in the ring))``: L is `fft2c` of the LR
        slice, s^2 its samples' gain on the SR matrix, and the ring is the outer half of the
        measured band, ``max(|ky| / rows, |kx| / columns) >= 1/4`` (half of Nyquist). It comes from
        the source, so that no network can widen it. Both are 0 if nothing was added.

    Raises
    ------
    ShapeError
        If either is not one slice, or SR has fewer samples than LR.
    """
    if sr.ndim != 2 or lr.ndim != 2:
        raise ShapeError(f"expected one SR and one LR slice, found {sr.shape} and {lr.shape}")
    return energy_of_spectra(fft2c(_wide(sr)), fft2c(_wide(lr)))


def energy_of_spectra(sr_kspace: ComplexArray, lr_kspace: ComplexArray) -> AddedEnergy:
    """Return `added_energy` of two slices given by their `fft2c`, in double precision."""
    rows, columns = lr_kspace.shape
    _require_within(sr_kspace.shape, (rows, columns))
    outside, total = _outside(sr_kspace, (rows // 2, columns // 2))
    beyond_half, measured = _outside(lr_kspace, (_inside_half(rows), _inside_half(columns)))
    gain = sr_kspace.size / lr_kspace.size
    ring = gain * max(float(beyond_half), RING_FLOOR * float(measured))
    return AddedEnergy(
        share=float(outside) / float(total) if total > 0.0 else 0.0,
        # An empty source measured nothing: relative to itself, whatever is there was added.
        ratio=float(outside) / (ring or float(total)) if outside > 0.0 else 0.0,
    )


def intensity_drift(sr: Array, lr: FloatArray) -> float:
    """Return how far the mean intensity of one result is from that of its source.

    Parameters
    ----------
    sr, lr
        One slice each, same FOV and intensities, not clipped.

    Returns
    -------
        ``|mean(sr) - mean(lr)| / mean(|lr|)``, dimensionless; relative to 1 for an empty source.
        Rounding alone under hard data consistency, which keeps DC.
    """
    wide_sr, wide_lr = _wide(sr), _wide(lr)
    drift = float(abs(wide_sr.mean() - wide_lr.mean()))
    return drift / (float(np.abs(wide_lr).mean()) or 1.0)


def _inside_half(n: int) -> int:
    """Return the largest ``|k|`` below half of the Nyquist frequency of `n` samples, n / 4."""
    return (n - 1) // 4


def _require_within(sr_shape: tuple[int, ...], lr_matrix: Matrix) -> None:
    if not all(1 <= to <= n for to, n in zip(lr_matrix, sr_shape, strict=True)):
        raise ShapeError(f"expected an LR matrix within {sr_shape}, found {lr_matrix}")


def _outside(kspace: ComplexArray, reach: Matrix) -> tuple[_Wide, _Wide]:
    """Return the energies where ``|k|`` exceeds `reach` along an axis, and everywhere.

    The first is summed by itself: as a difference of two large sums it would be rounding.
    """
    power = np.abs(kspace) ** 2
    total = power.sum(axis=(-2, -1))
    rows, columns = (
        slice(max(0, n // 2 - far), n // 2 + far + 1)
        for n, far in zip(power.shape[-2:], reach, strict=True)
    )
    power[..., rows, columns] = 0.0
    return power.sum(axis=(-2, -1)), total


def _wide(image: Array) -> npt.NDArray[Any]:
    """Widen to double precision: energies span more decades than fp32 has digits."""
    return image.astype(np.complex128 if np.iscomplexobj(image) else np.float64)
