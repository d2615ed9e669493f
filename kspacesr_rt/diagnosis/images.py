"""The image a comparison is made on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray, Matrix, resample_to
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import require_bindable
from kspacesr_rt.model.file import KNOWN_ANSWER_KEY, ModelFile
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.array_files import load_array

SAMPLE_SLICE = 10
"""Of the shipped series: the middle of the brain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenImage:
    """A LR image and where it comes from, in words."""

    lr: FloatArray
    """Shape ``(y, x)``, float32."""
    source: str
    """Never a path or a header's value."""


def choose_image(model: ModelFile, path: Path | None, matrix: Matrix | None) -> ChosenImage:
    """Take the user's image, the model's stored input, or the shipped sample.

    Raises
    ------
    InputError
        If the file holds no single real image, or not one of the wanted matrix.
    """
    if path is not None:
        lr = _array(path) if path.suffix == ".npy" else _dicom(path)
        if matrix is not None and lr.shape != matrix:
            raise InputError(
                f"the input is {lr.shape[0]} x {lr.shape[1]}, not {matrix[0]} x {matrix[1]}"
            )
        return ChosenImage(lr=lr, source="the user's image")
    stored = any(item.key == KNOWN_ANSWER_KEY for item in model.proto.metadata_props)
    if matrix is None and stored and model.spec.input == "image":
        return ChosenImage(lr=model.known_answer().lr, source="the model's stored input")
    image = _dicom(sorted(sample_folder().glob("*.dcm"))[SAMPLE_SLICE])
    wanted = matrix or model.spec.matrix
    require_bindable(wanted)
    if max(wanted) > min(image.shape):
        return ChosenImage(lr=brain_phantom(wanted), source="a phantom")
    lr = resample_to(image, wanted).astype(np.float32)
    return ChosenImage(lr=lr, source="a slice of the shipped sample, resampled")


def _array(path: Path) -> FloatArray:
    try:
        array = load_array(path)
    except (OSError, ValueError) as exc:
        raise InputError(f"{path.name}: not a readable .npy file") from exc
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(f"{path.name}: expected one real image (y, x)")
    if not np.isfinite(array).all():
        raise InputError(f"{path.name}: holds NaN or infinity")
    return array.astype(np.float32)


def _dicom(path: Path) -> FloatArray:
    if not path.is_file():
        raise InputError(f"{path.name}: expected one file: a DICOM slice or a .npy array")
    series = scan_folder(path).series
    if not series:
        raise InputError(f"{path.name}: holds no MR image that could be processed")
    return np.asarray(read_slice(series[0].slices[0]).values, dtype=np.float32)
