"""Measure which share of a series' k-space was acquired, however it was interpolated or masked.

Scanners fill k-space with zeros up to a larger matrix and filter what they measured, so that the
outer part of many clinical images' k-space is empty. Two profiles of power over frequency tell:
that of the whole slices, and that of the inside of the tissue. The second is needed because an
empty rim does not stay empty: taking the magnitude folds ringing in air, and cutting out the
background leaves hard edges, and both spread energy over all of k-space. Inside bright tissue
neither happens, so there the end of the acquired samples shows as a cliff.
"""

from __future__ import annotations

import numpy as np

from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.percentiles import high_percentile

REFERENCE = 0.4
"""Share of Nyquist that falls are measured from: every series holds signal there."""
BAND_DROP_DB = 12.0
"""A spectrum that fell this far below its value at `REFERENCE` has ended. Measured on the
training series: acquired samples fall by 8 to 11 dB up to Nyquist, empty rims by 16 to 23 dB."""
SMALLEST_BAND = 0.5
"""No series is cropped below this share of Nyquist, whatever its spectrum looks like."""
SMALLEST_MEASURED = 31
"""Samples of an axis below which its profile tells nothing: its share is taken to be 1."""
CLIFF_DB = 17.0
"""A fall by this much within `CLIFF_WIDTH`, inside the tissue, is the end of what was acquired.
Measured: fully sampled series fall by 16 dB at most, interpolated ones by 18 to 35."""
CLIFF_WIDTH = 0.12
"""Share of Nyquist: the soft window around the tissue blurs any edge to about this width."""
CLIFF_EDGE_DB = 6.0
"""How far below the cliff's top its edge lies: blurring a step leaves a quarter of the power."""
INSIDE_RADIUS = 8
"""Pixels that must all be bright around one that counts as inside the tissue."""
INSIDE_SIGMA = 5.0
"""Pixels of the Gaussian that softens the inside: wider sees frequencies sharper, but fits less
tissue."""
INSIDE_LEVEL = 0.1
"""Bright means above this share of the 99th percentile."""


def measured_band(slices: FloatArray) -> tuple[float, float]:
    """Measure which share of Nyquist along y and x holds acquired signal.

    Parameters
    ----------
    slices
        Shape ``(n, y, x)``; a few slices from the middle of a series are enough.

    Returns
    -------
        Two shares between `SMALLEST_BAND` and 1.

    Notes
    -----
    The profile along an axis is the mean of the power in dB over the other axis, averaged over
    both signs of frequency. Interpolated or filtered acquisitions fall steeply at the edge of
    what they measured; `BAND_DROP_DB` says when. Where the inside of the tissue has a cliff
    and the whole slices claim signal beyond its foot, the cliff is believed.
    """
    wide = slices.astype(np.float64)
    return band_within(wide, mean_power(wide, inside(wide)))


def band_within(slices: FloatArray, power_inside: FloatArray) -> tuple[float, float]:
    """Return `measured_band` of slices in float64, given `mean_power` of their `inside`."""
    rows_and_columns: Matrix = (slices.shape[1], slices.shape[2])
    whole = _profiles(mean_power(slices), rows_and_columns)
    within = _profiles(power_inside, rows_and_columns)
    rows, columns = (_share(one, other) for one, other in zip(whole, within, strict=True))
    return rows, columns


def mean_power(slices: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return the mean power of slices ``(n, y, x)``, weighed or not, over half of k-space.

    A real image's other half mirrors this one. One slice after the other: what fits into a cache,
    and is allocated in no new pages, takes half the time.
    """
    power = np.zeros((slices.shape[1], slices.shape[2] // 2 + 1))
    for number, one in enumerate(slices):
        half = np.fft.rfft2(one if weights is None else one * weights[number], norm="ortho")
        power += half.real**2 + half.imag**2
    return power / len(slices)


def _profiles(power: FloatArray, matrix: Matrix) -> list[FloatArray]:
    """Return power in dB over frequency, DC first, along y and along x, from `mean_power`."""
    rows, columns = matrix
    decibels = 10.0 * np.log10(power + np.finfo(float).tiny)
    stands_for = np.full(power.shape[1], 2.0)
    stands_for[0] = 1.0
    if columns % 2 == 0:
        stands_for[-1] = 1.0
    along_y = (decibels * stands_for).sum(axis=1) / columns  # no BLAS: its threads contend
    mirrored = along_y[-np.arange(rows)]
    folded = ((along_y + mirrored) / 2)[: (rows + 1) // 2]
    return [_smooth(folded), _smooth(decibels.mean(axis=0)[: (columns + 1) // 2])]


def _smooth(folded: FloatArray) -> FloatArray:
    """Average three neighbours; an axis too short to tell anything gives nothing."""
    if 2 * len(folded) <= SMALLEST_MEASURED - 1:
        return folded[:0]
    return np.convolve(folded, np.ones(3) / 3, mode="valid")


def _share(whole: FloatArray, inside: FloatArray) -> float:
    if not len(whole):
        return 1.0
    start = int(REFERENCE * len(whole))
    held = np.flatnonzero(whole[start:] >= whole[start] - BAND_DROP_DB)
    share = float((start + held[-1] + 2) / len(whole))
    if (cliff := _cliff(inside)) is not None:
        edge, foot = cliff
        share = edge if share > foot else share
    return float(np.clip(share, SMALLEST_BAND, 1.0))


def _cliff(profile: FloatArray) -> tuple[float, float] | None:
    """Return the shares of Nyquist at the edge and the foot of the steepest fall, if a cliff."""
    n, start = len(profile), int(REFERENCE * len(profile))
    width = max(1, round(CLIFF_WIDTH * n))
    falls = profile[start : n - width] - profile[start + width :]
    top = start + int(np.argmax(falls))
    if falls[top - start] < CLIFF_DB:
        return None
    held = np.flatnonzero(profile[top:] >= profile[top] - CLIFF_EDGE_DB)
    return (top + int(held[-1]) + 1) / n, (top + width) / n


def inside(slices: FloatArray, *, bordered: bool = False) -> FloatArray:
    """Weigh pixels by how bright their darkest neighbour is, softly: 0 in air and at its edge.

    Parameters
    ----------
    slices
        Shape ``(n, y, x)``, float64.
    bordered
        Tissue ends at the border of the image too, as where a scanner cut it; else it goes on.
    """
    return insides(slices)[1 if bordered else 0]


def insides(slices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `inside` of slices of any precision, not bordered and bordered, in float64.

    One array for both, if they are the same.
    """
    level = INSIDE_LEVEL * high_percentile(slices, 99.0)
    gaussian = _Gaussian((slices.shape[1], slices.shape[2]))
    not_bordered, bordered = np.empty(slices.shape), np.empty(slices.shape)
    is_same = True
    # One slice after the other: what fits into a cache takes half the time.
    for one, weights, cut_weights in zip(slices, not_bordered, bordered, strict=True):
        darkest = one
        for axis in (0, 1):
            around = [(INSIDE_RADIUS, INSIDE_RADIUS) if at == axis else (0, 0) for at in range(2)]
            padded = np.pad(darkest, around, mode="edge")
            darkest = _running_minimum(padded, 2 * INSIDE_RADIUS + 1, axis)
        # Beyond the border all is zero: whatever is near it has a neighbour that is no brighter.
        cut = np.minimum(darkest, 0.0)
        within = (slice(INSIDE_RADIUS, -INSIDE_RADIUS),) * 2
        cut[within] = darkest[within]
        above, cut_above = _above(level, darkest), _above(level, cut)
        weights[:] = gaussian.soften(above)
        if np.array_equal(above, cut_above):  # as where air is all around
            cut_weights[:] = weights
        else:
            cut_weights[:], is_same = gaussian.soften(cut_above), False
    return not_bordered, not_bordered if is_same else bordered


def _above(level: float, image: FloatArray) -> FloatArray:
    """Return how much brighter than a level samples are, in float64."""
    above = image.astype(np.float64)
    above -= level
    return np.maximum(above, 0.0, out=above)


class _Gaussian:
    """Softens slices by `INSIDE_SIGMA`, in k-space, as far as that reaches there."""

    def __init__(self, matrix: tuple[int, int]) -> None:
        self._columns = matrix[1]
        y, x = np.fft.fftfreq(matrix[0]), np.fft.rfftfreq(matrix[1])
        along_y, along_x = (np.exp(-2.0 * (np.pi * INSIDE_SIGMA * one) ** 2) for one in (y, x))
        # What is below the rounding of the rest is nothing, and need not be transformed.
        self._along_x = along_x[along_x > np.finfo(np.float64).eps]
        self._along_y = along_y[:, None]

    def soften(self, image: FloatArray) -> FloatArray:
        """Return a slice ``(y, x)``, softened."""
        half = np.fft.rfft(image)[:, : len(self._along_x)] * self._along_x
        np.fft.fft(half, axis=0, out=half)
        half *= self._along_y
        np.fft.ifft(half, axis=0, out=half)
        softened: FloatArray = np.fft.irfft(half, n=self._columns)
        return softened


def _running_minimum(array: FloatArray, width: int, axis: int) -> FloatArray:
    """Return the minimum over each run of `width` samples, doubling what one sample stands for."""
    found, covered = np.moveaxis(array, axis, -1), 1
    while covered < width:
        step = min(covered, width - covered)
        found = np.minimum(found[..., :-step], found[..., step:])
        covered += step
    return np.moveaxis(found, -1, axis)
