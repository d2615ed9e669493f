"""The ACR phantom: what becomes of holes that HR hardly resolves.

Slice 1 of the phantom [1]_ holds an insert with three pairs of arrays of holes, 1.1, 1.0 and 0.9 mm
wide and twice that apart. LR is cropped from the k-space of HR, so at x2 no hole can be seen by
itself. Judged are the contrast of each pair of arrays, as the standard deviation of its samples
over the phantom's signal, and whether it is resolved: all four holes of a line can be told apart. A
model should bring the contrast nearer to HR's than zero-filling does, and must not show an array
resolved that HR does not.

References
----------
.. [1] American College of Radiology, Large Phantom Guidance (2022), "high-contrast resolution"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import TrainingDataError
from kspacesr_rt.kspace import FloatArray, degrade, divisible_crop
from kspacesr_rt.kspace.resampling import zero_fill

ARRAYS = {"1.1 mm": (0.29, 0.45), "1.0 mm": (0.50, 0.66), "0.9 mm": (0.71, 0.86)}
"""Pair of arrays to where it lies along the insert, from the end with the bright squares."""
ACROSS = (0.24, 0.76)
"""Where they lie across it."""
SIGNAL = 0.3
"""Share of bright samples above which a sample is phantom."""
DARK = 0.5
"""Share of the phantom's signal below which a sample is insert."""
WITHIN = 0.93
"""Radius that is looked at, in radii of the phantom: its wall holds dark marks."""
DIP = 0.9
"""Share of the lower of two peaks that the valley between them stays below: told apart."""
FAINT = 0.05
"""Share of the phantom's signal below which a peak is noise."""
HOLES = 4
"""In each line of an array."""
APART = (0.7, 1.4)
"""Distance of neighbouring peaks, in distances of neighbouring holes: whole samples round it."""
DIAMETER_MM = 190.0
"""Of the phantom, inside: what its samples are measured by."""
FILLED = 0.65
"""Share of its box that an insert fills: 0.81 in these; a ventricle of a head does not."""
INSERT = ((0.55, 0.66), (0.2, 0.27))
"""Length and width of an insert in diameters of the phantom: 0.60 and 0.24 in 15 series."""

_Wide = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class AcrCase:
    """One pair of arrays in one series."""

    series: str
    """Its name."""
    array: str
    """A key of `ARRAYS`."""
    hr: float
    """Contrast: standard deviation over the phantom's signal."""
    sr: float
    """The same of SR."""
    zero_fill: float
    """The same of zero-filling."""
    hr_resolved: bool
    """Whether HR shows the four holes of a line."""
    sr_resolved: bool
    """The same of SR."""
    zero_fill_resolved: bool
    """The same of zero-filling."""

    @property
    def is_made_up(self) -> bool:
        """Whether SR resolves what HR does not."""
        return self.sr_resolved and not self.hr_resolved


def is_nearer(cases: list[AcrCase]) -> bool:
    """Return whether the arrays of one series are nearer to HR in SR than in zero-filling."""
    ours, base = (sum(abs(getattr(one, name) - one.hr) for one in cases) for name in _IMAGES)
    return bool(ours < base)


_IMAGES = ("sr", "zero_fill")


def acr_cases(
    series: str, volume: FloatArray, run: Callable[[FloatArray], FloatArray], upscale: int
) -> list[AcrCase]:
    """Judge the arrays of one series.

    Parameters
    ----------
    series
        Its name.
    volume
        Its slices, shape ``(n, y, x)``; the first or the last is slice 1 of the phantom.
    run
        LR slice to SR slice.
    upscale
        HR samples per LR sample and axis.

    Raises
    ------
    TrainingDataError
        If neither end shows an insert.
    """
    hr, box = _slice_with_insert(volume, upscale)
    hr = hr / hr.max()
    lr = degrade(hr, upscale).astype(np.float32)
    images = {
        "hr": hr,
        "sr": np.maximum(run(lr), 0.0),
        "zero_fill": np.maximum(zero_fill(lr, upscale), 0.0),
    }
    signal = float(np.median(hr[hr > SIGNAL * np.percentile(hr, 95)]))
    cases = []
    for array in ARRAYS:
        cut = {name: _array(one.astype(np.float64), hr, box, array) for name, one in images.items()}
        pitch = 2.0 * float(array.split()[0]) * _diameter(hr) / DIAMETER_MM
        seen = {name: is_resolved(one, signal, pitch) for name, one in cut.items()}
        contrasts = {name: float(one.std()) / signal for name, one in cut.items()}
        cases.append(
            AcrCase(
                series=series,
                array=array,
                hr=contrasts["hr"],
                sr=contrasts["sr"],
                zero_fill=contrasts["zero_fill"],
                hr_resolved=seen["hr"],
                sr_resolved=seen["sr"],
                zero_fill_resolved=seen["zero_fill"],
            )
        )
    return cases


Box = tuple[slice, slice]


def _slice_with_insert(volume: FloatArray, upscale: int) -> tuple[FloatArray, Box]:
    for number in (0, -1):
        hr = divisible_crop(volume[number][None].astype(np.float32), upscale)[0]
        if (box := find_insert(hr)) is not None:
            return hr, box
    raise TrainingDataError("no resolution insert of an ACR phantom was found", reason="no-insert")


def find_insert(hr: FloatArray) -> Box | None:
    """Return where the insert lies in a slice: the largest dark part inside the phantom.

    Parameters
    ----------
    hr
        Shape ``(y, x)``.

    Returns
    -------
        Rows and columns; None if that part is not as long and wide as an insert.
    """
    rows, columns = _extent(hr)
    if not len(rows) or not len(columns):
        return None
    diameter = _diameter(hr)
    y, x = np.indices(hr.shape)
    centre = (rows[-1] + rows[0]) / 2.0, (columns[-1] + columns[0]) / 2.0
    inside = np.hypot(y - centre[0], x - centre[1]) < WITHIN * diameter / 2.0
    dark = inside & (hr < DARK * np.median(hr[inside]))
    part = _largest_part(dark)
    if not part.any():
        return None
    found = tuple(np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    extents = sorted(((one[-1] - one[0] + 1) / diameter for one in found), reverse=True)
    if not all(low <= one <= high for one, (low, high) in zip(extents, INSERT, strict=True)):
        return None
    rows_of_it, columns_of_it = (slice(int(one[0]), int(one[-1]) + 1) for one in found)
    box = rows_of_it, columns_of_it
    return box if part[box].mean() >= FILLED else None


def _extent(hr: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    bright = hr > SIGNAL * np.percentile(hr, 95)
    rows, columns = (np.flatnonzero(bright.mean(axis=axis) > 0.05) for axis in (1, 0))
    return rows, columns


def _diameter(hr: FloatArray) -> int:
    """Return the diameter of the phantom in samples, along the axis where nothing sticks out."""
    rows, columns = _extent(hr)
    return int(min(rows[-1] - rows[0], columns[-1] - columns[0])) + 1


def _largest_part(mask: _Mask) -> _Mask:
    """Return the largest connected part of a mask, by neighbours along both axes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while not np.array_equal(grown := _along_rows(_along_rows(labels).T).T, labels):
        labels = grown
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: _Mask = (labels == sizes.argmax()) & mask
    return largest


def _along_rows(labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Give each uninterrupted run of labels in a row its largest one; 0 is none."""
    if not labels.any():
        return labels
    bordered = np.pad(labels, ((0, 0), (1, 0)))
    flat = bordered.ravel()
    begins = np.flatnonzero((flat[1:] > 0) & (flat[:-1] == 0)) + 1
    n_begun = np.zeros(flat.shape, np.intp)
    n_begun[begins] = 1
    run = np.cumsum(n_begun) - 1
    grown = np.where(flat > 0, np.maximum.reduceat(flat, begins)[run], 0)
    return grown.reshape(bordered.shape)[:, 1:]


def _array(image: _Wide, hr: FloatArray, box: Box, array: str) -> _Wide:
    """Return the samples of one pair of arrays."""
    insert, reference = image[box], hr[box]
    if insert.shape[0] < insert.shape[1]:
        insert, reference = insert.T, reference.T
    n, across = insert.shape
    ends = [reference[: n // 4].mean(), reference[-(n // 4) :].mean()]
    if ends[1] > ends[0]:  # the bright squares are at its other end
        insert = insert[::-1]
    first, last = ARRAYS[array]
    left, right = ACROSS
    return insert[int(first * n) : int(last * n), int(left * across) : int(right * across)]


def is_resolved(image: _Wide, signal: float, pitch: float) -> bool:
    """Return whether a row or a column shows four peaks that can be told apart.

    Parameters
    ----------
    image
        One pair of arrays, shape ``(y, x)``.
    signal
        Of the phantom.
    pitch
        Distance of neighbouring holes in samples.
    """
    lines = [*image, *image.T]
    return any(_longest_run(line, FAINT * signal, pitch) >= HOLES for line in lines)


def _longest_run(line: _Wide, faint: float, pitch: float) -> int:
    """Return how many peaks follow each other as far apart as holes do, with valleys between."""
    inner = line[1:-1]
    peaks = 1 + np.flatnonzero((inner > line[:-2]) & (inner >= line[2:]) & (inner > faint))
    longest = run = min(len(peaks), 1)
    for before, after in pairwise(peaks):
        apart = APART[0] * pitch <= after - before <= APART[1] * pitch
        valley = line[before : after + 1].min() < DIP * min(line[before], line[after])
        run = run + 1 if apart and valley else 1
        longest = max(longest, run)
    return longest
