"""Stack slices by where they lie in the patient into a volume, as dcm2niix stores one.

DICOM counts millimetres to the left, posterior and head; NIfTI to the right, anterior and head. A
volume's first axis follows the columns, the second the rows, upwards, and the third the slices,
along their normal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import Matrix

EVEN_WITHIN_MM: Final = 0.15
EVEN_WITHIN: Final = 0.05
"""How far a slice may lie from where equal distances would have it, in mm or, if that is more, of
the distance of two: GE rounds positions to tenths of a millimetre."""
SAME_WITHIN: Final = 1e-3
"""Direction cosines, and spacings in mm, that differ by less are the same."""
LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Where one slice lies."""

    position_mm: tuple[float, float, float]
    """Image Position (Patient)."""
    orientation: tuple[float, ...]
    """Image Orientation (Patient)."""
    spacing_mm: tuple[float, float]
    """Pixel Spacing: between rows, between columns."""
    thickness_mm: float
    """Distance to the next slice, if there is none to measure it to."""
    matrix: Matrix
    order: tuple[float, ...]
    """What sorts slices of one place: time, echo, instance number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Slices as a volume, or as volumes that follow each other."""

    numbers: tuple[tuple[int, ...], ...]
    """For each volume, which of the given slices lie along the third axis."""
    affine: npt.NDArray[np.float64]
    """From indices to mm, right, anterior and superior, shape ``(4, 4)``."""


def stacked(slices: Sequence[Placed]) -> Stack:
    """Return slices in the order of a volume, with its affine.

    Raises
    ------
    SliceFailed
        ``bad-geometry``: they are no even stack, or not the same number at every place.
    """
    first = slices[0]
    for one in slices:
        if one.matrix != first.matrix:
            raise _uneven("its slices differ in matrix")
        theirs = (*one.orientation, *one.spacing_mm)
        if not np.allclose(theirs, (*first.orientation, *first.spacing_mm), atol=SAME_WITHIN):
            raise _uneven("its slices differ in orientation or spacing")
    along_columns, along_rows = np.asarray(first.orientation, np.float64).reshape(2, 3)
    normal = np.cross(along_columns, along_rows)
    by_place: defaultdict[float, list[int]] = defaultdict(list)
    for number, one in enumerate(slices):
        by_place[round(float(np.dot(normal, one.position_mm)), 2)].append(number)
    places = [sorted(by_place[key], key=lambda n: slices[n].order) for key in sorted(by_place)]
    if len({len(numbers) for numbers in places}) != 1:
        raise _uneven("its places do not have the same number of slices each")
    positions = np.array([slices[numbers[0]].position_mm for numbers in places])
    step = normal * first.thickness_mm
    if len(places) > 1:
        step = (positions[-1] - positions[0]) / (len(places) - 1)
        even = positions[0] + np.arange(len(places))[:, None] * step
        allowed = max(EVEN_WITHIN_MM, EVEN_WITHIN * float(np.linalg.norm(step)))
        if np.abs(positions - even).max() > allowed:
            raise _uneven("its slices are not at equal distances")
    between_rows, between_columns = first.spacing_mm
    rows = first.matrix[0]
    affine = np.eye(4)
    affine[:3, 0] = along_columns * between_columns
    affine[:3, 1] = -along_rows * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0] + along_rows * between_rows * (rows - 1)
    affine[:3] = LPS_TO_RAS @ affine[:3]
    n_volumes = len(places[0])
    volumes = tuple(tuple(numbers[at] for numbers in places) for at in range(n_volumes))
    return Stack(numbers=volumes, affine=affine)


def _uneven(what: str) -> SliceFailed:
    return SliceFailed("bad-geometry", what)
