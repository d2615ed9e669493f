"""Which of its three axes a volume is cut along."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.volumes.source_volume import Plane

THICKER: Final = 1.2
"""A voxel's longest edge over its middle one from which slices are taken to lie along it: 3-D
sequences differ by less, 2-D ones by far more."""
_BY_NUMBER: Final = {"first": 0, "second": 1, "third": 2}
_NORMALS: Final = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Along which of left-right, posterior-anterior and inferior-superior the slices of a plane lie."""


def chosen_axis(
    plane: Plane,
    shape: tuple[int, ...],
    zooms: tuple[float, float, float],
    affine: npt.NDArray[np.float64] | None,
    declared: int | None = None,
) -> int:
    """Return the axis that slices lie along.

    Parameters
    ----------
    plane
        What is asked for. ``auto``: the axis of one sample if there is one, else the one that the
        header declares, else the one with the thickest voxels, else the third.
    shape
        Samples along three axes.
    zooms
        Edges of a voxel, mm.
    affine
        From index to mm, right, anterior and superior; None if it is not known.
    declared
        What the header says.

    Raises
    ------
    SliceFailed
        ``bad-geometry``: an anatomical plane is asked for, and nothing says how the volume lies.
    """
    if plane in _BY_NUMBER:
        return _BY_NUMBER[plane]
    if plane in _NORMALS:
        if affine is None:
            raise SliceFailed(
                "bad-geometry",
                f"does not say how it lies, so that no slice is {plane}",
                hint="--plane first, second or third",
            )
        return _axis_along(affine, _NORMALS[plane])
    single = [axis for axis in range(3) if shape[axis] == 1]
    if len(single) == 1:
        return single[0]
    if declared is not None:
        return declared
    *_, middle, longest = sorted(range(3), key=lambda axis: zooms[axis])
    return longest if zooms[longest] >= THICKER * zooms[middle] else 2


def _axis_along(affine: npt.NDArray[np.float64], direction: int) -> int:
    """Return the axis next to a direction of the patient, each axis having one of its own."""
    cosines = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    axes: dict[int, int] = {}
    while len(axes) < 3:
        row, column = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
        axes[int(row)] = int(column)
        cosines[row, :] = cosines[:, column] = -1.0
    return axes[direction]
