"""Read fastMRI's HDF5 files: a magnitude reconstruction, or raw k-space that becomes one.

The layout is that of the fastMRI data set (Zbontar et al., arXiv:1811.08839; an ISMRMRD header as
XML beside the arrays): slices first, then coils if several, then the readout (the header's x, as a
rule oversampled twice), then phase encode (its y).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from kspacesr_rt.errors import TrainingDataError, library_message
from kspacesr_rt.kspace import ComplexArray, FloatArray, Matrix, centre_crop, ifft2c
from kspacesr_rt.train.formats import Samples

if TYPE_CHECKING:
    import h5py

RECONSTRUCTIONS = ("reconstruction_rss", "reconstruction_esc")
"""Magnitude images, shape ``(n, y, x)``: of several coils, and of the single-coil data set."""
KSPACE = "kspace"
HEADER = "ismrmrd_header"
SINGLE_COIL_AXES, MULTI_COIL_AXES = 3, 4


_Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Geometry:
    """What the header says; triples are ``(x, y, z)``."""

    encoded: _Triple
    """Samples of k-space."""
    matrix: _Triple
    """Samples of the reconstruction."""
    fov_mm: _Triple
    """FOV of the reconstruction."""

    def axes(self, matrix: Matrix) -> tuple[int, int]:
        """Tell which of x and y (0, 1) lies along the rows and the columns of an array."""
        # fastMRI puts the readout, x, along the rows; only a matrix that says so is the other way.
        swapped = matrix[0] != matrix[1] and matrix in (
            (self.encoded[1], self.encoded[0]),
            (self.matrix[1], self.matrix[0]),
        )
        return (1, 0) if swapped else (0, 1)


def read_fastmri(path: Path) -> Samples:
    """Read a reconstruction if the file has one, else reconstruct its k-space.

    Raises
    ------
    TrainingDataError
        If the file is not HDF5, holds neither, or k-space of which lines were left out.

    Notes
    -----
    K-space is centred and orthonormal. Each coil's image is its inverse FFT; coils are combined by
    the root of the sum of squares; the FOV is cropped to that of the header's reconstruction,
    which takes the readout oversampling away.
    """
    with _opened(path) as file:
        return _read(path, file)


def read_coil_images(path: Path) -> ComplexArray:
    """Return the complex image of each slice and coil of a file's raw k-space.

    Returns
    -------
        Shape ``(n, y, x)``, the coils of a slice behind each other; FOV as for `read_fastmri`.

    Raises
    ------
    TrainingDataError
        If the file is not HDF5, or does not hold k-space with all of its lines.
    """
    with _opened(path) as file:
        if KSPACE not in file:
            raise TrainingDataError(f"{path.name}: holds no {KSPACE}, but {_contents(file)}")
        return np.concatenate(list(_coil_images(path, file, _geometry(path, file))))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file; what is wrong with it, or found wrong while it is read, is one sentence."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except TrainingDataError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as exc:
        raise TrainingDataError(
            f"{path.name}: not a readable HDF5 file: {library_message(exc)}"
        ) from exc


def _read(path: Path, file: h5py.File) -> Samples:
    geometry = _geometry(path, file)
    for name in RECONSTRUCTIONS:
        if name in file:
            values = np.asarray(_dataset(path, file, name, (SINGLE_COIL_AXES,))[()])
            break
    else:
        if KSPACE not in file:
            raise TrainingDataError(
                f"{path.name}: holds no fastMRI data, but {_contents(file)}",
                hint=f"expected {', '.join(RECONSTRUCTIONS)} or {KSPACE}; "
                "save other arrays as .npy or NIfTI",
            )
        values = _reconstructed(path, file, geometry)
    spacing = None
    if geometry is not None:
        edges = [mm / n for mm, n in zip(geometry.fov_mm, geometry.matrix, strict=True)]
        rows, columns = geometry.axes((values.shape[1], values.shape[2]))
        spacing = (edges[2], edges[rows], edges[columns])
    return Samples(values=values, spacing_mm=spacing, slice_axis=0, patient_id=_patient_id(file))


def _patient_id(file: h5py.File) -> str:
    found = file.attrs.get("patient_id", "")
    if isinstance(found, bytes):
        found = found.decode(errors="replace")
    return found.strip() if isinstance(found, str) else ""


def _dataset(path: Path, file: h5py.File, name: str, n_axes: tuple[int, ...]) -> h5py.Dataset:
    found: Any = file[name]
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) not in n_axes or 0 in shape:
        axes = " or ".join(map(str, n_axes))
        raise TrainingDataError(
            f"{path.name}: {name} is {_what(found)}, expected an array of {axes} axes"
        )
    return found


def _reconstructed(path: Path, file: h5py.File, geometry: _Geometry | None) -> FloatArray:
    """Return the root-sum-of-squares image of each slice."""
    return np.stack(
        [np.sqrt((np.abs(coils) ** 2).sum(axis=0)) for coils in _coil_images(path, file, geometry)]
    )


def _coil_images(path: Path, file: h5py.File, geometry: _Geometry | None) -> Iterator[ComplexArray]:
    """Yield the complex images of the coils of each slice, the FOV cropped around the origin."""
    kspace = _dataset(path, file, KSPACE, (SINGLE_COIL_AXES, MULTI_COIL_AXES))
    if kspace.dtype.kind != "c":
        raise TrainingDataError(f"{path.name}: {KSPACE} is {_what(kspace)}, expected complex")
    mask: Any = file.get("mask")
    if mask is not None and not np.asarray(mask[()]).all():
        raise TrainingDataError(
            f"{path.name}: k-space of which lines were left out, without a reconstruction",
            hint="train on fully sampled files; fastMRI's test and challenge sets are not",
        )
    have: Matrix = (kspace.shape[-2], kspace.shape[-1])
    want = have
    if geometry is not None:
        rows, columns = geometry.axes(have)
        want = (
            min(have[0], int(geometry.matrix[rows])),
            min(have[1], int(geometry.matrix[columns])),
        )
    for one in kspace:  # a multi-coil file is gigabytes
        yield centre_crop(ifft2c(one), want).reshape(-1, *want)


def _geometry(path: Path, file: h5py.File) -> _Geometry | None:
    if HEADER not in file:
        return None
    header: Any = file[HEADER]
    try:
        root = ElementTree.fromstring(header[()])
        return _Geometry(
            encoded=_triple(root, "encodedSpace", "matrixSize"),
            matrix=_triple(root, "reconSpace", "matrixSize"),
            fov_mm=_triple(root, "reconSpace", "fieldOfView_mm"),
        )
    except (ElementTree.ParseError, ValueError, TypeError) as exc:
        raise TrainingDataError(
            f"{path.name}: {HEADER} cannot be understood: {library_message(exc)}"
        ) from exc


def _triple(root: ElementTree.Element, space: str, size: str) -> _Triple:
    values = []
    for axis in "xyz":
        text = root.findtext(f"{{*}}encoding/{{*}}{space}/{{*}}{size}/{{*}}{axis}")
        if text is None or not (np.isfinite(value := float(text)) and value > 0):
            raise ValueError(f"{space} {size} {axis} is {text}")
        values.append(value)
    return values[0], values[1], values[2]


def _contents(file: h5py.File) -> str:
    listed = [f"{name}: {_what(file[name])}" for name in sorted(file)]
    shown = ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
    return shown or "nothing"


def _what(found: object) -> str:
    shape = getattr(found, "shape", None)
    return "a group" if shape is None else f"{getattr(found, 'dtype', '')} {tuple(shape)}"
