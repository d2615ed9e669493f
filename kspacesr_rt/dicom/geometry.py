"""Where the super-resolved samples lie in the patient: pure functions, millimetres, float64.

A k-space zero-fill keeps *samples*, not the edges of the field of view: SR sample ``j`` lies at LR
index ``grid_origin + j / upscale``. So Image Position (Patient) stays for even matrices and moves
by half a source pixel along each odd axis (for an even upscale). A network that was trained on
resized images keeps the edges: sample 0 moves by ``-(s - 1) / (2 s)`` pixels along every axis. The
wrong one of the two is off by up to 1.5 SR samples, so a model says which is its own
(`kspacesr_rt.model.spec.ModelSpec.output_grid`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.valuerep import format_number_as_ds

from kspacesr_rt import kspace
from kspacesr_rt.kspace import Matrix, SampleGrid


def sr_spacing_mm(spacing_mm: Sequence[float], upscale: int) -> tuple[float, float]:
    """Return the Pixel Spacing of the SR slice: the same field of view over more samples.

    Parameters
    ----------
    spacing_mm
        Pixel Spacing of the source, ``(between rows, between columns)`` (PS3.3 10.7.1.3).
    upscale
        SR samples per LR sample and axis.
    """
    between_rows, between_columns = spacing_mm
    return between_rows / upscale, between_columns / upscale


def sr_position_mm(
    position_mm: Sequence[float],
    orientation: Sequence[float],
    spacing_mm: Sequence[float],
    matrix: Matrix,
    upscale: int,
    grid: SampleGrid = "kspace",
) -> tuple[float, float, float]:
    """Return Image Position (Patient) of the SR slice: the centre of its first sample.

    Parameters
    ----------
    position_mm
        Image Position (Patient) of the source.
    orientation
        Image Orientation (Patient): the direction of increasing column index, then of increasing
        row index, as unit vectors.
    spacing_mm
        Pixel Spacing of the source, ``(between rows, between columns)``.
    matrix
        Source ``(rows, columns)``.
    upscale
        SR samples per LR sample and axis.
    grid
        Where SR samples lie, see `kspacesr_rt.kspace.sample_origin`.

    Notes
    -----
    The SR samples of a patient point stay at that point, for odd and even matrices.

    References
    ----------
    .. [1] PS3.3 C.7.6.2.1.1, the mapping from pixel to patient
    """
    rows, columns = (kspace.sample_origin(n, upscale, grid) for n in matrix)
    return moved_position_mm(position_mm, orientation, spacing_mm, (rows, columns))


def moved_position_mm(
    position_mm: Sequence[float],
    orientation: Sequence[float],
    spacing_mm: Sequence[float],
    index: tuple[float, float],
) -> tuple[float, float, float]:
    """Return the patient point of a source ``(row, column)`` index, whole or not.

    References
    ----------
    .. [1] PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1
    """
    along_columns, along_rows = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = spacing_mm
    row, column = index
    moved = (
        np.asarray(position_mm, dtype=np.float64)
        + along_columns * between_columns * column
        + along_rows * between_rows * row
    )
    x, y, z = (float(value) for value in moved)
    return x, y, z


def resampled_origin(n: int, m: int) -> float:
    """Return where sample 0 lies after k-space of `n` samples was cropped or filled to `m`.

    In source samples: ``n // 2 - (m // 2) n / m``, since both grids have the image origin at their
    ``// 2``. It is 0 if both are even; `kspace.grid_origin` is the case ``m = upscale n``.
    """
    return n // 2 - (m // 2) * n / m


def moves(matrix: Matrix, upscale: int, grid: SampleGrid = "kspace") -> bool:
    """Return whether SR sample (0, 0) lies elsewhere than LR sample (0, 0).

    It does where an axis is odd; on the ``pixel-centre`` grid it always does.
    """
    return any(kspace.sample_origin(n, upscale, grid) != 0 for n in matrix)


def slice_position_mm(position_mm: Sequence[float], orientation: Sequence[float]) -> float:
    """Return how far a slice lies along its own normal: what orders the slices of a stack."""
    # Without numpy, whose calls cost more than these dozen products: a scan asks for every file.
    a, b, c = slice_normal(orientation)
    x, y, z = position_mm
    return float(a * x + b * y + c * z)


def slice_normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    """Return the normal of a plane: the cross product of its two direction cosines."""
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def as_ds(values: Sequence[float]) -> list[str]:
    """Write numbers as decimal strings of at most 16 characters (PS3.5 6.2, VR DS)."""
    return [format_number_as_ds(float(value)) for value in values]
