"""How far a result may be off: the half-width of an interval around every SR sample.

Nobody sees the error of a prediction, but it is not equally large everywhere: it is larger beside
edges, in noise, and where a model has added much. The half-width is a product of powers of such
features (`features`), whose exponents were fitted, and whose factor was calibrated on series that
the fit did not see, so that a stated share of HR lies within (conformal calibration of a quantile
regression, references 1 and 2). Everything is computed on the LR grid from LR and SR alone, and
costs little beside a network. A share that was calibrated on some series holds on others as far as
they are alike; each model file says what was measured elsewhere.

References
----------
.. [1] Romano, Patterson and Candes, "Conformalized quantile regression", NeurIPS 2019,
   arXiv:1905.03222
.. [2] Angelopoulos et al., "Image-to-image regression with distribution-free uncertainty
   quantification", ICML 2022, arXiv:2202.05265
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix, sample_origin, upscaled
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.spec import TRUST_FEATURES
from kspacesr_rt.model.trust_calibration import TrustCalibration

RINGS: Final = {"ring_2": (0.5, 0.75), "ring_3": (0.75, 1.0), "ring_4": (1.0, 1.5)}
"""Rings of LR's k-space, in shares of its Nyquist frequency: how fast they fall says what to expect
beyond, and a flat end is noise."""
SMALLEST: Final = 1e-6
"""Least value of a feature, as a share of the slice's root mean square: below lies rounding."""

_Wide = npt.NDArray[np.float64]


def features(lr: FloatArray, sr: FloatArray) -> dict[str, _Wide]:
    """Measure what the error of a slice goes with, at every LR sample.

    Parameters
    ----------
    lr
        Magnitude slice, shape ``(y, x)``.
    sr
        Its result on the grid of k-space, shape ``(s*y, s*x)``, same unit.

    Returns
    -------
        Root mean squares in that unit, by the names of
        `kspacesr_rt.model.spec.TRUST_FEATURES`, shape ``(y, x)`` or, of a whole slice, ``()``:
        ``intensity`` and ``intensity_3`` (over the slice, and over 3 x 3 LR samples); ``added``,
        ``added_3``, ``added_7`` and ``added_slice``: what the model adds to zero-filling, around a
        LR sample, over 3 x 3 and 7 x 7 of them, and over the slice; ``edges_3`` and ``edges_7``:
        second differences along both axes; ``diagonal_7``: those across, which hold little but
        noise; and `RINGS`. None is below `SMALLEST` of the slice.

    Raises
    ------
    ShapeError
        If `sr` is no whole multiple of `lr`.
    """
    upscale = sr.shape[1] // lr.shape[1] if lr.ndim == sr.ndim == 2 and lr.size else 0
    if upscale < 1 or sr.shape != upscaled((lr.shape[0], lr.shape[1]), upscale):
        raise ShapeError(f"expected one LR and one SR slice, found {lr.shape} and {sr.shape}")
    added = _around_samples((sr - zero_fill(lr, upscale)) ** 2, (lr.shape[0], lr.shape[1]), upscale)
    wide = lr.astype(np.float64)
    padded = np.pad(wide, 1, mode="edge")
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    edges = (4.0 * wide - above - below - left - right) ** 2 / 20.0
    diagonal = (wide - above - left + padded[:-2, :-2]) ** 2 / 4.0
    energy = wide**2
    squares = {
        "intensity": np.asarray(energy.mean()),
        "intensity_3": _window_mean(energy, 3),
        "added": added,
        "added_3": _window_mean(added, 3),
        "added_7": _window_mean(added, 7),
        "added_slice": np.asarray(added.mean()),
        "edges_3": _window_mean(edges, 3),
        "edges_7": _window_mean(edges, 7),
        "diagonal_7": _window_mean(diagonal, 7),
        **_ring_energies(wide),
    }
    least = (SMALLEST**2) * squares["intensity"]
    return {name: np.sqrt(np.maximum(squares[name], least)) for name in TRUST_FEATURES}


def half_width(lr: FloatArray, sr: FloatArray, calibration: TrustCalibration) -> FloatArray:
    """Return the half-width of the interval around every sample of one slice.

    Parameters
    ----------
    lr, sr
        As for `features`.
    calibration
        Of the model that made `sr`.

    Returns
    -------
        float32 in the unit of the slice, shape ``(s*y, s*x)``; HR is expected within ``sr`` plus
        or minus that in a share ``calibration.coverage`` of the samples. Zero for a slice of
        zeros.

    Raises
    ------
    ShapeError
        As `features`.

    Notes
    -----
    Linear between LR samples: a half-width is no finer than what it was measured on.
    """
    found = features(lr, sr)
    if not float(found["intensity"]):
        return np.zeros(sr.shape, np.float32)
    logarithm = np.full(lr.shape, np.log(calibration.constant))
    for name, exponent in calibration.exponents.items():
        logarithm += exponent * np.log(found[name])
    upscale = sr.shape[1] // lr.shape[1]
    width: FloatArray = np.exp(logarithm).astype(np.float32)
    first, share = _between(lr.shape[0], upscale)
    width = width[first] + share[:, None] * (width[first + 1] - width[first])
    first, share = _between(lr.shape[1], upscale)
    return width[:, first] + share * (width[:, first + 1] - width[:, first])


def logarithms(found: Mapping[str, _Wide], matrix: Matrix) -> _Wide:
    """Return the natural logarithms of features, shape ``(len(TRUST_FEATURES), y, x)``."""
    return np.stack([np.broadcast_to(np.log(found[name]), matrix) for name in TRUST_FEATURES])


def _around_samples(squares: FloatArray, matrix: Matrix, upscale: int) -> _Wide:
    """Average SR samples over the cell around each LR sample, shape ``matrix``."""
    shifts = [upscale // 2 + round(upscale * sample_origin(n, upscale, "kspace")) for n in matrix]
    rows, columns = matrix
    moved = np.roll(squares, shifts, axis=(0, 1)).reshape(rows, upscale, -1)
    sums = moved.sum(axis=1).reshape(rows, columns, upscale)
    cells: _Wide = sums.sum(axis=2, dtype=np.float64) / upscale**2
    return cells


def _window_mean(values: _Wide, window: int) -> _Wide:
    """Average over a square window around each sample; edge samples go on outside."""
    reach = window // 2
    padded = np.pad(values, reach, mode="edge")
    rows, columns = values.shape
    sums = padded[:rows].copy()
    for shift in range(1, window):
        sums += padded[shift : shift + rows]
    means = sums[:, :columns].copy()
    for shift in range(1, window):
        means += sums[:, shift : shift + columns]
    means /= window**2
    return means


def _ring_energies(lr: _Wide) -> dict[str, _Wide]:
    """Return the mean energy of a k-space sample in each of `RINGS`; 0 where a ring has none."""
    power = np.abs(np.fft.rfft2(lr, norm="ortho")) ** 2
    weights = _ring_weights((lr.shape[0], lr.shape[1]))
    # No `vdot`: threads of a BLAS took half of the time of a half-width.
    return {
        name: np.asarray((weight * power).sum(), dtype=np.float64)
        for name, weight in zip(RINGS, weights, strict=True)
    }


@lru_cache(maxsize=8)
def _ring_weights(matrix: Matrix) -> tuple[_Wide, ...]:
    """Return what each sample of a half spectrum counts for, one array a ring, sums 1 (or 0)."""
    rows, columns = matrix
    ky = 2.0 * np.fft.fftfreq(rows)[:, None]
    kx = 2.0 * np.fft.rfftfreq(columns)[None]
    radius = np.hypot(ky, kx)
    mirrored = np.ones_like(radius)  # what lies at kx stands for -kx too
    mirrored[:, 1 : (columns + 1) // 2] = 2.0
    found = []
    for low, high in RINGS.values():
        weight = mirrored * ((radius >= low) & (radius < high))
        weight /= weight.sum() or 1.0
        weight.flags.writeable = False
        found.append(weight)
    return tuple(found)


@lru_cache(maxsize=32)
def _between(n: int, upscale: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return before which of `n` samples each SR sample lies, and how far from it to the next.

    Both of shape ``(upscale * n,)``. Of one sample there is no next, and the share is 0: it is
    taken again. Index arithmetic, since threads of a BLAS cost more here than they save.
    """
    position = sample_origin(n, upscale, "kspace") + np.arange(upscale * n) / upscale
    position = np.clip(position, 0.0, n - 1.0)
    first = np.minimum(position.astype(np.intp), n - 2)
    share = (position - first).astype(np.float32)
    if n == 1:
        first, share = np.full(upscale, -1), np.zeros(upscale, np.float32)
    for array in (first, share):
        array.flags.writeable = False
    return first, share
