"""Undo a scanner's interpolation: the slice as it would have stored what it acquired."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import numpy.typing as npt

from kspacesr_rt.dicom import geometry
from kspacesr_rt.dicom.attributes import numbers
from kspacesr_rt.dicom.pixels import DecodedSlice
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.kspace import FloatArray, Matrix, centre_crop, fft2c, ifft2c, resample_to


def undo_interpolation(decoded: DecodedSlice, matrix: Matrix) -> DecodedSlice:
    """Crop the k-space of a slice to `matrix` samples; the field of view stays.

    Parameters
    ----------
    decoded
        The slice as stored; it is not changed.
    matrix
        ``(rows, columns)`` that were acquired, neither larger than the stored matrix.

    Returns
    -------
        A slice that `derive` treats like any source: Rows, Columns, Pixel Spacing and Image
        Position (Patient) are those of the cropped grid, everything else, the UIDs included, is
        the source's. Intensities are kept. Padding is found at the nearest stored sample.

    Raises
    ------
    ShapeError
        If `matrix` is larger than the stored one.

    Notes
    -----
    Where every stored value is positive the magnitude is taken, as a scanner takes it; else the
    real part, since a magnitude would turn signs.
    """
    stored: Matrix = (decoded.values.shape[0], decoded.values.shape[1])
    if matrix == stored:
        return decoded
    with quiet_pydicom():
        dataset = copy.deepcopy(decoded.dataset)
        spacing, position = _plane(decoded, matrix)
        dataset.Rows, dataset.Columns = matrix
        dataset.PixelSpacing = geometry.as_ds(spacing)
        if position is not None:
            dataset.ImagePositionPatient = geometry.as_ds(position)
    padding = decoded.padding
    if padding is not None:
        rows, columns = (_nearest(n, m) for n, m in zip(stored, matrix, strict=True))
        padding = padding[np.ix_(rows, columns)]
    return dataclasses.replace(
        decoded, dataset=dataset, values=_cropped(decoded.values, matrix), padding=padding
    )


def _plane(
    decoded: DecodedSlice, matrix: Matrix
) -> tuple[tuple[float, float], tuple[float, float, float] | None]:
    """Return the spacing, and the position unless it is the stored one."""
    stored: Matrix = (decoded.values.shape[0], decoded.values.shape[1])
    spacing = numbers(decoded.dataset, "PixelSpacing")
    between_rows, between_columns = (
        step * n / m for step, n, m in zip(spacing, stored, matrix, strict=True)
    )
    origins = [geometry.resampled_origin(n, m) for n, m in zip(stored, matrix, strict=True)]
    if not any(origins):
        return (between_rows, between_columns), None
    moved = geometry.moved_position_mm(
        numbers(decoded.dataset, "ImagePositionPatient"),
        numbers(decoded.dataset, "ImageOrientationPatient"),
        spacing,
        (origins[0], origins[1]),
    )
    return (between_rows, between_columns), moved


def _cropped(values: FloatArray, matrix: Matrix) -> FloatArray:
    if values.min() >= 0.0:
        return resample_to(values, matrix)
    gain = np.sqrt(matrix[0] * matrix[1] / values.size)
    real: FloatArray = (ifft2c(centre_crop(fft2c(values), matrix)).real * gain).astype(values.dtype)
    return real


def _nearest(n: int, m: int) -> npt.NDArray[np.intp]:
    """Return, for every sample of the cropped axis, the stored sample next to it."""
    position = geometry.resampled_origin(n, m) + np.arange(m) * (n / m)
    nearest: npt.NDArray[np.intp] = np.floor(position + 0.5).clip(0, n - 1).astype(np.intp)
    return nearest
