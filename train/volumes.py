"""Read image series from folders: DICOM, NIfTI, NRRD, NumPy and fastMRI's HDF5, without torch.

Every series becomes one `Volume` of slices that share a matrix. For training, `supported` brings a
volume to the matrix that was really measured, and `training_planes` adds the other two planes of a
3-D acquisition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kspacesr_rt.dicom import read_slices, scan_folder
from kspacesr_rt.dicom.attributes import acquired_matrix
from kspacesr_rt.dicom.scanner_interpolation import AcquiredBand, kspace_profile, surveyed_numbers
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceError, TrainingDataError
from kspacesr_rt.kspace import FloatArray, Matrix, resample_to
from kspacesr_rt.kspace.acquired_band import measured_band as measured_band
from kspacesr_rt.train.fastmri import read_fastmri
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.formats import Samples, read_nifti, read_nrrd, read_numpy
from kspacesr_rt.train.patients import hashed_identity, patient_of_file

READERS: dict[str, Callable[[Path], Samples]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_nrrd,
    ".npy": read_numpy,
    ".h5": read_fastmri,
    ".hdf5": read_fastmri,
}
"""By ending; DICOM has none of its own."""
ISOTROPIC = 1.5
"""Largest over smallest voxel edge up to which a volume counts as 3-D and gives three planes."""
FULL_BAND = 0.97
"""From this share of Nyquist on an axis counts as measured to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """The slices of one series."""

    name: str
    """File or series name for logs; never written to a model."""
    slices: FloatArray
    """Shape ``(n, y, x)``, float32, real-world values, not negative."""
    spacing_mm: tuple[float, float, float] | None = None
    """Distance of samples along ``(slice, y, x)``, if the format says it."""
    patient: str = ""
    """Hash of whose image it is, to split by and for nothing else; empty if nothing tells."""
    acquired: tuple[int | None, int | None] = (None, None)
    """Samples acquired along y and x, if a DICOM header says it."""
    label: str = ""
    """What tables and messages call it: its number, or by which its file is named there."""

    @property
    def matrix(self) -> Matrix:
        """Rows and columns of a slice."""
        return self.slices.shape[1], self.slices.shape[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is read in one go: one file, or all DICOM files of a folder."""

    label: str
    """How the names of its volumes begin; empty for DICOM."""
    files: tuple[Path, ...]
    """What the volumes depend on."""
    patient: str
    """Identity by the file's name, for volumes that do not know their own; empty for DICOM."""
    read: Callable[[], Iterable[Volume]]
    """Reads the volumes."""


def sources(root: Path, reading: Reading | None = None) -> Iterator[Source]:
    """Find what can be read below a folder (or in a file), in a fixed order, reading nothing."""
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    others = []
    for path in files:
        if (reader := reader_of(path)) is None:
            others.append(path)
            continue
        patient = patient_of_file(path, root)
        label = reading.label(path, root) if reading else path.name
        yield Source(
            label=path.name,
            files=(path,),
            patient=patient,
            read=partial(_read_file, path, reader, patient, label, reading),
        )
    yield Source(
        label="", files=tuple(others), patient="", read=partial(_read_dicom, root, reading)
    )


def reader_of(path: Path) -> Callable[[Path], Samples] | None:
    """Return what reads a file by its ending; None for DICOM, or no image."""
    return next((READERS[end] for end in READERS if path.name.endswith(end)), None)


def read_volumes(root: Path, reading: Reading | None = None) -> Iterator[Volume]:
    """Yield every image series below a folder (or in a file), in a fixed order.

    Parameters
    ----------
    root
        A folder or one file: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.npy`` (``(n, y, x)`` or
        ``(y, x)``), fastMRI's ``.h5`` or ``.hdf5``, or DICOM under any name.
    reading
        Takes note of files that cannot be read, and the others are yielded; None raises.

    Raises
    ------
    TrainingDataError
        If nothing there is an image, or an image cannot be read.
    """
    found = len(reading.failures) if reading else 0
    n_volumes = 0
    for source in sources(root, reading):
        for volume in source.read():
            n_volumes += 1
            yield volume
    if not n_volumes and not (reading and len(reading.failures) > found):
        raise nothing_found(root, reading)


def nothing_found(root: Path, reading: Reading | None = None) -> TrainingDataError:
    """Make the error for a folder without images."""
    named = reading is None or reading.show_paths
    return TrainingDataError(
        f"{root if named else 'the data'}: no DICOM, NIfTI, NRRD, .npy or fastMRI .h5 image found",
        hint="name a folder that holds magnitude images",
    )


def _read_file(
    path: Path,
    reader: Callable[[Path], Samples],
    patient: str,
    label: str,
    reading: Reading | None,
) -> list[Volume]:
    if reading is None:
        return [_as_volume(path, reader(path), patient, label)]
    read = []
    with reading.failing(label, path):
        read.append(_as_volume(path, reader(path), patient, label))
    return read


def _as_volume(path: Path, samples: Samples, patient: str, label: str) -> Volume:
    """Take the magnitude and put the slice axis first: if not given, that of widest spacing."""
    data, spacing, slice_axis = samples.values, samples.spacing_mm, samples.slice_axis
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
        raise TrainingDataError(f"{path.name}: holds NaN or infinity", reason="non-finite")
    if slice_axis is None:
        flat = spacing is not None and max(spacing) / min(spacing) > ISOTROPIC
        slice_axis = int(np.argmax(spacing)) if flat and spacing else 2
    data = np.moveaxis(data, slice_axis, 0)
    edges = None
    if spacing is not None:
        rest = [length for axis, length in enumerate(spacing) if axis != slice_axis]
        edges = (float(spacing[slice_axis]), float(rest[0]), float(rest[1]))
    return Volume(
        name=path.name,
        slices=np.ascontiguousarray(data, dtype=np.float32),
        spacing_mm=edges,
        patient=hashed_identity(samples.patient_id) if samples.patient_id else patient,
        label=label,
    )


def _read_dicom(root: Path, reading: Reading | None) -> Iterator[Volume]:
    scan = scan_folder(root)

    def failed(path: Path, reason: str, message: str) -> None:
        if reading is None:
            raise _broken(path, root, reason, message)
        reading.fail(reading.label(path, root), reason, message)

    for left in scan.left_out:
        if reader_of(left.path) is not None:  # that has its own words
            continue
        if left.outcome == "failed":
            failed(left.path, left.reason, left.message)
        elif reading is not None:
            reading.skip(reading.label(left.path, root))
    for number, series in enumerate(scan.series, start=1):
        by_matrix: dict[Matrix, list[FloatArray]] = {}
        acquired: dict[Matrix, tuple[int | None, int | None]] = {}
        patient = ""
        for source in series.slices:
            try:
                for decoded in read_slices(source):
                    by_matrix.setdefault(source.matrix, []).append(np.abs(decoded.values))
                    with quiet_pydicom():
                        patient = patient or str(decoded.dataset.get("PatientID") or "").strip()
                        acquired.setdefault(source.matrix, acquired_matrix(decoded.dataset))
            except SliceError as exc:
                failed(source.path, exc.reason, str(exc))
        identity = hashed_identity(patient or f"study {series.slices[0].study_instance_uid}")
        for matrix, slices in sorted(by_matrix.items()):
            name = f"dicom series {number} ({matrix[0]}x{matrix[1]})"
            yield Volume(
                name=name,
                slices=np.stack(slices).astype(np.float32),
                patient=identity,
                acquired=acquired[matrix],
                label=name,
            )


def _broken(path: Path, root: Path, reason: str, message: str) -> TrainingDataError:
    """Make the error for a broken MR slice: leaving it out unasked would change the data set."""
    name = path.name if path == root else str(path.relative_to(root))
    return TrainingDataError(
        f"{name}: a broken DICOM slice ({reason}: {message})",
        hint="repair it or take it out of the folder",
    )


def band_of(volume: Volume) -> tuple[float, float]:
    """Measure which share of Nyquist along y and x a volume's middle slices hold signal in."""
    n = len(volume.slices)
    first = int(0.3 * n)
    return measured_band(volume.slices[first : max(int(0.7 * n), first + 1)][:: max(1, n // 20)])


def supported(volume: Volume, band: tuple[float, float] | None = None) -> Volume:
    """Crop a volume's k-space to what was measured, so that no rim of it is empty.

    Parameters
    ----------
    volume
        What to crop.
    band
        Of `band_of`; None measures it.

    Returns
    -------
        The volume itself if all of its k-space is measured; else one of a smaller, even matrix
        and the same FOV.
    """
    rows, columns = (
        length if share > FULL_BAND else 2 * round(length * share / 2)
        for length, share in zip(volume.matrix, band or band_of(volume), strict=True)
    )
    return resampled(volume, (rows, columns))


def interpolation_of(volume: Volume) -> AcquiredBand:
    """Find out, as `infer` does of a series, whether a volume's scanner interpolated it."""
    numbers = surveyed_numbers(len(volume.slices))
    profile = kspace_profile([volume.slices[number] for number in numbers], volume.acquired)
    return AcquiredBand(
        matrix=volume.matrix, profile=profile, acquired=volume.acquired, n_slices=len(numbers)
    )


def resampled(volume: Volume, matrix: Matrix) -> Volume:
    """Crop or fill a volume's k-space; the volume itself if it has that matrix."""
    rows, columns = matrix
    if matrix == volume.matrix:
        return volume
    spacing = volume.spacing_mm and (
        volume.spacing_mm[0],
        volume.spacing_mm[1] * volume.matrix[0] / rows,
        volume.spacing_mm[2] * volume.matrix[1] / columns,
    )
    slices = np.stack([resample_to(one, (rows, columns)) for one in volume.slices])
    return dataclasses.replace(volume, slices=slices.astype(np.float32), spacing_mm=spacing)


def training_planes(volume: Volume) -> list[Volume]:
    """Return a volume's planes: one for 2-D acquisitions, all three for 3-D ones."""
    spacing = volume.spacing_mm
    if spacing is None or max(spacing) / min(spacing) > ISOTROPIC:
        return [volume]
    planes = [volume]
    for axis in (1, 2):
        order = (axis, *(other for other in range(3) if other != axis))
        planes.append(
            dataclasses.replace(
                volume,
                name=f"{volume.name}:{axis}",
                slices=np.ascontiguousarray(volume.slices.transpose(order)),
                spacing_mm=(spacing[order[0]], spacing[order[1]], spacing[order[2]]),
            )
        )
    return planes
