"""Read the samples of one image file: NIfTI, NRRD or NumPy, each by its own library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kspacesr_rt.errors import TrainingDataError, library_message
from kspacesr_rt.kspace import Array
from kspacesr_rt.system.array_files import load_array


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """What a file holds, as it holds it."""

    values: Array
    """Any shape, real or complex."""
    spacing_mm: tuple[float, ...] | None = None
    """Distance of samples along each axis, if the format says it."""
    slice_axis: int | None = None
    """Which axis is the slice, if the format says it."""
    patient_id: str = ""
    """What the file calls the patient; empty if it does not. Hash it before keeping it."""


def read_nifti(path: Path) -> Samples:
    """Read ``.nii`` or ``.nii.gz``."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import SpatialImage

    try:
        with np.errstate(over="ignore"):  # of dimensions that no file has: an error below
            image = nibabel.load(path)
            if not isinstance(image, SpatialImage):
                raise TrainingDataError(f"{path.name}: holds no image")
            values = np.asarray(image.dataobj)
    except (OSError, ValueError, EOFError, OverflowError, ImageFileError) as exc:
        raise TrainingDataError(
            f"{path.name}: not a readable NIfTI image: {library_message(exc)}"
        ) from exc
    return Samples(values=values, spacing_mm=tuple(map(float, image.header.get_zooms())))


def read_nrrd(path: Path) -> Samples:
    """Read ``.nrrd``."""
    import nrrd

    try:
        values, header = nrrd.read(str(path))
    except (OSError, ValueError, StopIteration, OverflowError, nrrd.NRRDError) as exc:
        raise TrainingDataError(
            f"{path.name}: not a readable NRRD image: {library_message(exc)}"
        ) from exc
    directions = header.get("space directions")
    spacing = header.get("spacings")
    if directions is not None:
        spacing = np.linalg.norm(np.asarray(directions, dtype=float), axis=1)
    edges = None if spacing is None else tuple(float(edge) for edge in spacing)
    return Samples(values=np.asarray(values), spacing_mm=edges)


def read_numpy(path: Path) -> Samples:
    """Read ``.npy``, slices along the first axis."""
    try:
        values = load_array(path)
    except (OSError, ValueError) as exc:
        raise TrainingDataError(
            f"{path.name}: not a readable .npy array: {library_message(exc)}"
        ) from exc
    return Samples(values=np.asarray(values), slice_axis=0)
