"""Read image series from folders: DICOM, NIfTI, NRRD and NumPy, without torch.

Every series becomes one `Volume` of slices that share a matrix. For training, `supported` brings a
volume to the matrix that was really measured, and `training_planes` adds the other two planes of a
3-D acquisition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.errors import SliceError, TrainingDataError
from kspacesr_rt.kspace import Array, FloatArray, Matrix, fft2c, resample_to

NIFTI_ENDINGS = (".nii", ".nii.gz")
ISOTROPIC = 1.5
"""Largest over smallest voxel edge up to which a volume counts as 3-D and gives three planes."""
SUPPORT_DROP_DB = 12.0
"""A spectrum that fell this far below its value at 0.4 of Nyquist has ended. Measured on the
training series: acquired samples fall by 8 to 11 dB up to Nyquist, empty rims by 16 to 23 dB."""
SMALLEST_SUPPORT = 0.5
"""No series is cropped below this share of Nyquist, whatever its spectrum looks like."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """The slices of one series."""

    name: str
    """File or series name for logs; never written to a model."""
    slices: FloatArray
    """Shape ``(n, y, x)``, float32, real-world values, not negative."""
    spacing_mm: tuple[float, float, float] | None = None
    """Distance of samples along ``(slice, y, x)``, if the format says it."""

    @property
    def matrix(self) -> Matrix:
        """Rows and columns of a slice."""
        return self.slices.shape[1], self.slices.shape[2]


def read_volumes(root: Path) -> Iterator[Volume]:
    """Yield every image series below a folder (or in a file), in a fixed order.

    Parameters
    ----------
    root
        A folder or one file: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.npy`` (``(n, y, x)`` or
        ``(y, x)``), or DICOM under any name.

    Raises
    ------
    TrainingDataError
        If nothing there is an image, or an image cannot be read.
    """
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    found = 0
    readers = {"nifti": _read_nifti, "nrrd": _read_nrrd, "numpy": _read_numpy}
    for path in files:
        kind = _kind(path)
        if kind is None:
            continue
        found += 1
        yield readers[kind](path)
    for volume in _read_dicom(root):
        found += 1
        yield volume
    if not found:
        raise TrainingDataError(
            f"{root}: no DICOM, NIfTI, NRRD or .npy image found",
            hint="name a folder that holds magnitude images",
        )


def _kind(path: Path) -> str | None:
    if path.name.endswith(NIFTI_ENDINGS):
        return "nifti"
    return {".nrrd": "nrrd", ".npy": "numpy"}.get(path.suffix)


def _as_volume(
    path: Path, data: Array, spacing: tuple[float, ...] | None, slice_axis: int | None
) -> Volume:
    """Take the magnitude and put the slice axis first: if not given, that of widest spacing."""
    if data.ndim == 4:
        data, spacing = data[..., 0], spacing[:3] if spacing else None
    if data.ndim == 2:
        data, slice_axis = data[None], 0
        spacing = (1.0, *spacing) if spacing else None
    if data.ndim != 3:
        raise TrainingDataError(f"{path.name}: expected 2 to 4 axes, found shape {data.shape}")
    if data.size == 0:
        raise TrainingDataError(f"{path.name}: holds no samples, its shape is {data.shape}")
    if data.dtype.kind not in "biufc":
        raise TrainingDataError(f"{path.name}: holds {data.dtype}, not numbers")
    data = np.abs(data).astype(np.float32)
    if not np.isfinite(data).all():
        raise TrainingDataError(f"{path.name}: holds NaN or infinity")
    if slice_axis is None:
        flat = spacing is not None and max(spacing) / min(spacing) > ISOTROPIC
        slice_axis = int(np.argmax(spacing)) if flat and spacing else 2
    data = np.moveaxis(data, slice_axis, 0)
    edges = None
    if spacing is not None:
        rest = [length for axis, length in enumerate(spacing) if axis != slice_axis]
        edges = (float(spacing[slice_axis]), float(rest[0]), float(rest[1]))
    return Volume(
        name=path.name, slices=np.ascontiguousarray(data, dtype=np.float32), spacing_mm=edges
    )


def _read_nifti(path: Path) -> Volume:
    import nibabel

    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise TrainingDataError(f"{path.name}: holds no image")
        data = np.asarray(image.dataobj)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as exc:
        raise TrainingDataError(f"{path.name}: not a readable NIfTI image: {exc}") from exc
    return _as_volume(path, data, tuple(map(float, image.header.get_zooms())), None)


def _read_nrrd(path: Path) -> Volume:
    import nrrd

    try:
        data, header = nrrd.read(str(path))
    except (OSError, ValueError, StopIteration, nrrd.NRRDError) as exc:
        raise TrainingDataError(f"{path.name}: not a readable NRRD image: {exc}") from exc
    directions = header.get("space directions")
    spacing = header.get("spacings")
    if directions is not None:
        spacing = np.linalg.norm(np.asarray(directions, dtype=float), axis=1)
    edges = None if spacing is None else tuple(float(edge) for edge in spacing)
    return _as_volume(path, np.asarray(data), edges, None)


def _read_numpy(path: Path) -> Volume:
    try:
        data = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise TrainingDataError(f"{path.name}: not a readable .npy array: {exc}") from exc
    return _as_volume(path, np.asarray(data), None, 0)


def _read_dicom(root: Path) -> Iterator[Volume]:
    scan = scan_folder(root)
    for left in scan.left_out:
        if left.outcome == "failed":
            raise _broken(left.path, root, left.reason, left.message)
    for number, series in enumerate(scan.series, start=1):
        by_matrix: dict[Matrix, list[FloatArray]] = {}
        for source in series.slices:
            try:
                values = read_slice(source).values
            except SliceError as exc:
                raise _broken(source.path, root, exc.reason, str(exc)) from exc
            by_matrix.setdefault((values.shape[0], values.shape[1]), []).append(np.abs(values))
        for matrix, slices in sorted(by_matrix.items()):
            name = f"dicom series {number} ({matrix[0]}x{matrix[1]})"
            yield Volume(name=name, slices=np.stack(slices).astype(np.float32))


def _broken(path: Path, root: Path, reason: str, message: str) -> TrainingDataError:
    """Make the error for a broken MR slice: leaving it out unasked would change the data set."""
    name = path.name if path == root else str(path.relative_to(root))
    return TrainingDataError(
        f"{name}: a broken DICOM slice ({reason}: {message})",
        hint="repair it or take it out of the folder",
    )


def measured_support(slices: FloatArray) -> tuple[float, float]:
    """Measure which share of Nyquist along y and x holds acquired signal.

    Parameters
    ----------
    slices
        Shape ``(n, y, x)``; a few slices from the middle of a series are enough.

    Returns
    -------
        Two shares between `SMALLEST_SUPPORT` and 1.

    Notes
    -----
    The profile along an axis is the mean of the power in dB over the other axis, averaged over
    both signs of frequency. Interpolated or filtered acquisitions fall steeply at the edge of
    what they measured; `SUPPORT_DROP_DB` says when.
    """
    power = np.mean(np.abs(fft2c(slices.astype(np.float64))) ** 2, axis=0)
    decibels = 10.0 * np.log10(power + np.finfo(float).tiny)
    shares = [_profile_end(decibels.mean(axis=1 - axis)) for axis in (0, 1)]
    return shares[0], shares[1]


def _profile_end(profile: FloatArray) -> float:
    centre = len(profile) // 2
    reach = len(profile) - centre
    if reach < 16:
        return 1.0
    right = profile[centre:]
    left = profile[centre::-1][:reach]
    folded = (right[: len(left)] + left) / 2
    smooth = np.convolve(folded, np.ones(3) / 3, mode="valid")
    start = int(0.4 * len(smooth))
    held = np.flatnonzero(smooth[start:] >= smooth[start] - SUPPORT_DROP_DB)
    return float(np.clip((start + held[-1] + 2) / len(smooth), SMALLEST_SUPPORT, 1.0))


def supported(volume: Volume) -> Volume:
    """Crop a volume's k-space to what was measured, so that no rim of it is empty.

    Returns
    -------
        The volume itself if all of its k-space is measured; else one of a smaller, even matrix
        and the same FOV.
    """
    n = len(volume.slices)
    middle = volume.slices[int(0.3 * n) : max(int(0.7 * n), int(0.3 * n) + 1)][:: max(1, n // 20)]
    shares = measured_support(middle)
    rows, columns = (
        length if share > 0.97 else 2 * round(length * share / 2)
        for length, share in zip(volume.matrix, shares, strict=True)
    )
    if (rows, columns) == volume.matrix:
        return volume
    spacing = volume.spacing_mm and (
        volume.spacing_mm[0],
        volume.spacing_mm[1] * volume.matrix[0] / rows,
        volume.spacing_mm[2] * volume.matrix[1] / columns,
    )
    slices = np.stack([resample_to(one, (rows, columns)) for one in volume.slices])
    return Volume(name=volume.name, slices=slices.astype(np.float32), spacing_mm=spacing)


def training_planes(volume: Volume) -> list[Volume]:
    """Return a volume's planes: one for 2-D acquisitions, all three for 3-D ones."""
    spacing = volume.spacing_mm
    if spacing is None or max(spacing) / min(spacing) > ISOTROPIC:
        return [volume]
    planes = [volume]
    for axis in (1, 2):
        order = (axis, *(other for other in range(3) if other != axis))
        planes.append(
            Volume(
                name=f"{volume.name}:{axis}",
                slices=np.ascontiguousarray(volume.slices.transpose(order)),
                spacing_mm=(spacing[order[0]], spacing[order[1]], spacing[order[2]]),
            )
        )
    return planes
