"""NIfTI-1 and NIfTI-2: one file, compressed or not, either byte order; header and affine moved.

The header's fields go through nibabel; samples are a plain stream behind them. Everything that is
not about the grid is kept byte by byte, extensions too.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

import numpy as np
import numpy.typing as npt

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.volumes.layout import ByteSource, Layout, read_exactly
from kspacesr_rt.volumes.planes import chosen_axis
from kspacesr_rt.volumes.provenance import is_own
from kspacesr_rt.volumes.source_volume import Plane
from kspacesr_rt.volumes.stacking import Stack
from kspacesr_rt.volumes.volume import ByteSink, Volume, reading_volume

Affine = npt.NDArray[np.float64]
Header = Any
"""`nibabel.Nifti1Header` or `Nifti2Header`; nibabel is an extra."""

GZIP: Final = b"\x1f\x8b"
COMPRESSION: Final = 3
"""Of gzip: beyond, twice the time gains some percent of noisy voxels."""
INFLATES: Final = 1032
"""Times that gzip can make a stream smaller, at most."""
_SIZES: Final = {348: (b"n+1\0", 4), 540: (b"n+2\0\r\n\x1a\n", 8)}
"""Bytes of a header, its magic, and bytes of its dimensions: NIfTI-1 and NIfTI-2."""
_COLOURS: Final = frozenset({128, 2304})
_COMPLEX: Final = frozenset({32, 1792, 2048})
_LABELS: Final = 1002
"""Intent code of label maps (nifti1.h, NIFTI_INTENT_LABEL)."""
_OF_THE_GRID: Final = {
    **{2: "DICOM", 4: "AFNI", 10: "JIMDIMINFO", 14: "FREESURFER"},
    **{28: "VOXBO", 32: "CIFTI", 44: "MRS"},
}
"""Extensions by their codes (nifti1.h) that speak of the old grid, and of the patient in words."""
_NIFTI1_MAX: Final = 32767
"""Samples along an axis of NIfTI-1, whose dimensions have 16 bits."""
_SMALLEST_DETERMINANT: Final = 1e-6
"""Of an affine, over the product of its voxel's edges: below, its axes lie in a plane."""
SHEARED: Final = 1e-3
"""Cosine of two axes of a voxel beyond which it is no box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NiftiVolume(Volume):
    """See `Volume`."""

    header: Header
    extensions: bytes
    """What an output keeps of what lies between header and samples."""
    offset: int
    """Where samples begin."""
    axes: tuple[int, int]
    """Of the header's axes, those that are rows and columns."""
    compressed: bool

    @classmethod
    def read(cls, path: Path, plane: Plane) -> Self:
        """Read a header.

        Raises
        ------
        SliceFailed, SliceSkipped
            See `kspacesr_rt.volumes.triage`.
        """
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP
        if compressed != path.name.lower().endswith(".gz"):
            raise SliceFailed(
                "unreadable",
                "is compressed, and its name says .nii"
                if compressed
                else "is not compressed, though its name ends in .gz",
                hint="give it the ending that it is",
            )
        with _opened(path, compressed=compressed) as file, reading_volume():
            header, extensions, offset = _read_header(file)
        _refuse_other_contents(header)
        shape = _shape(header)
        warnings: list[str] = []
        affine = _affine(header, warnings)
        zooms = _zooms(header)
        flat = int(header["dim"][0]) == 2  # no axis to have slices along but the one it has not
        declared = 2 if flat else _declared_axis(header, shape)
        axis = chosen_axis("auto" if flat else plane, shape[:3], zooms, affine, declared)
        slow, middle, fast = reversed(shape[:3])
        layout = Layout(
            n_blocks=math.prod(shape[3:]),
            block=(slow, middle, fast),
            slice_at=2 - axis,
            dtype=header.get_data_dtype().newbyteorder(header.endianness).str,
            **_scaling(header),
        )
        columns, rows = (number for number in range(3) if number != axis)
        _require_all_samples(path, offset + layout.n_bytes, compressed=compressed)
        kept, dropped = _kept_extensions(extensions, header.endianness)
        if dropped:
            names = ", ".join(sorted(dropped))
            warnings.append(f"header extensions are left out that describe the old grid: {names}")
        if header.get_dim_info()[2] in (rows, columns) and header["slice_code"]:
            warnings.append("slice timing of the header is of another plane, and is left out")
        return cls(
            path=path,
            layout=layout,
            warnings=tuple(warnings),
            dropped={"header extension": len(dropped)} if dropped else {},
            header=header,
            extensions=kept,
            offset=offset,
            axes=(rows, columns),
            compressed=compressed,
        )

    @property
    def header_content(self) -> bytes:
        """The header, and the extensions that are kept."""
        return bytes(self.header.binaryblock) + self.extensions

    @property
    def description(self) -> str:
        """What ``descrip`` says."""
        return _text(self.header["descrip"])

    @property
    def slice_axis(self) -> int:
        """Of the header's axes."""
        return 2 - self.layout.slice_at

    @contextmanager
    def samples(self) -> Iterator[ByteSource]:
        """Open the file where its samples begin; see `Volume.samples`."""
        with _opened(self.path, compressed=self.compressed) as file:
            with reading_volume():
                read_exactly(file, self.offset)
            source = _Guarded(file)
            yield source
            extra = 0
            while self.compressed and (more := source.read(1 << 20)):  # to its checksum
                extra += len(more)
                if extra > current_limits().extra:
                    raise too_large("holds more bytes behind its samples than", "extra")

    def result(self, path: Path, derivation: Derivation) -> Self:
        """Return what the result is; see `Volume.result`."""
        header = self._moved(derivation)
        return replace(
            self,
            path=path,
            layout=self.layout.upscaled(derivation.upscale),
            header=header,
            offset=int(header["vox_offset"]),
        )

    def of_floats(self, path: Path) -> Self:
        """Return a file of 32-bit floats like this; see `Volume.of_floats`."""
        header = self.header.copy()
        header.set_data_dtype(np.float32)
        header["scl_slope"], header["scl_inter"] = 1.0, 0.0
        header["cal_max"] = header["cal_min"] = 0.0  # of other values
        return replace(self, path=path, layout=self.layout.of_floats(), header=header)

    @contextmanager
    def begin(self, said: str) -> Iterator[ByteSink]:
        """Write the header; see `Volume.begin`."""
        self.header["descrip"] = said.encode()
        begin = bytes(self.header.binaryblock) + (self.extensions or bytes(4))
        begin += bytes(self.offset - len(begin))
        with self.path.open("wb") as file:
            if not self.compressed:
                file.write(begin)
                yield file
                return
            # No name and no time in the stream: equal voxels give equal bytes.
            with gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as packed:
                packed.write(begin)
                yield packed

    def _moved(self, derivation: Derivation) -> Header:
        """Return the header of the result.

        SR sample 0 lies at index `moved_by` of the old grid, so each affine's origin moves by that
        many of its own voxel's edges, and the edges shrink.
        """
        header, upscale = self.header.copy(), derivation.upscale
        moved = dict(zip(self.axes, self.moved_by(derivation), strict=True))
        index = np.array([moved.get(axis, 0.0) for axis in range(3)] + [1.0])
        scale = np.array([1 / upscale if axis in moved else 1.0 for axis in range(3)])
        if int(header["qform_code"]) > 0:
            quaternion = self.header.get_qform()
            for name, value in zip("xyz", (quaternion @ index)[:3], strict=True):
                header[f"qoffset_{name}"] = value
        sform = self.header.get_sform()
        if np.isfinite(sform).all():
            for name, row in zip("xyz", sform[:3], strict=True):
                header[f"srow_{name}"] = [*(row[:3] * scale), row @ index]
        for axis in self.axes:
            n = int(header["dim"][1 + axis]) * upscale
            if len(header.binaryblock) == 348 and n > _NIFTI1_MAX:
                raise SliceFailed("too-large", "its output would be too large for NIfTI-1")
            header["dim"][1 + axis] = n
            header["pixdim"][1 + axis] /= upscale
        if header.get_dim_info()[2] in self.axes:
            for name in ("slice_code", "slice_start", "slice_end", "slice_duration"):
                header[name] = 0
        if len(header.binaryblock) == 348:
            header["glmax"] = header["glmin"] = 0  # of the source's samples
        begins = len(header.binaryblock) + max(4, len(self.extensions))
        header["vox_offset"] = -(-begins // 16) * 16
        return header


def new_nifti(
    path: Path, matrix: Matrix, stack: Stack, dtype: str, *, slope: float, intercept: float
) -> NiftiVolume:
    """Return a compressed NIfTI-1 file of stacked slices, of which nothing is written yet.

    Parameters
    ----------
    path
        Of the file.
    matrix
        Rows and columns of a slice.
    stack
        Which slices it has, and where they lie.
    dtype, slope, intercept
        Of its samples, see `Layout`.

    Raises
    ------
    SliceFailed
        ``too-large``: NIfTI-1 cannot hold it.
    """
    rows, columns = matrix
    n_volumes, n_slices = len(stack.numbers), len(stack.numbers[0])
    shape = [columns, rows, n_slices, *([n_volumes] if n_volumes > 1 else [])]
    if max(shape) > _NIFTI1_MAX:
        raise SliceFailed("too-large", "its output would be too large for NIfTI-1")
    header = header_class(348)(endianness="<")
    header.set_data_shape(shape)
    header.set_data_dtype(np.dtype(dtype))
    header.set_zooms([*np.linalg.norm(stack.affine[:3, :3], axis=0), *([1.0] * (len(shape) - 3))])
    header.set_sform(stack.affine, 1)
    header.set_qform(stack.affine, 1, strip_shears=True)
    header.set_xyzt_units("mm", "sec")
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"] = 352
    header["magic"] = _SIZES[348][0]
    return NiftiVolume(
        path=path,
        layout=Layout(
            n_blocks=n_volumes,
            block=(n_slices, rows, columns),
            slice_at=0,
            dtype=np.dtype(dtype).newbyteorder("<").str,
            slope=slope,
            intercept=intercept,
        ),
        header=header,
        extensions=b"",
        offset=352,
        axes=(1, 0),
        compressed=True,
    )


class _Guarded:
    """A file whose errors are said in our words."""

    def __init__(self, file: ByteSource) -> None:
        self._file = file

    def read(self, n_bytes: int, /) -> bytes:
        with reading_volume():
            return self._file.read(n_bytes)


def header_class(n_bytes: int) -> Any:
    """Return nibabel's class of a header of so many bytes."""
    import nibabel

    return nibabel.Nifti1Header if n_bytes == 348 else nibabel.Nifti2Header


@contextmanager
def _opened(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        if not compressed:
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield cast(BinaryIO, unpacked)


def _read_header(file: BinaryIO) -> tuple[Header, bytes, int]:
    """Return the header, what lies between it and the samples, and where they begin."""
    first = file.read(4)
    if len(first) < 4:
        raise SliceFailed("truncated", "ends within its header")
    sizes = {int.from_bytes(first, order): order for order in ("little", "big")}
    size = next((n for n in _SIZES if n in sizes), None)
    if size is None:
        raise SliceFailed("unreadable", "is no NIfTI file, whatever its name says")
    block = first + file.read(size - 4)
    if len(block) < size:
        raise SliceFailed("truncated", "ends within its header")
    magic, at = _SIZES[size][0], 344 if size == 348 else 4
    if block[at : at + len(magic)] != magic:
        pair = block[at : at + 3] in (b"ni1", b"ni2")
        what = "is the header of a pair of files" if pair else "has the magic of no NIfTI file"
        hint = "nibabel or fslchfiletype make one .nii.gz of a pair, or of Analyze 7.5"
        raise SliceFailed("unreadable", what, hint=hint)
    order = "<" if sizes[size] == "little" else ">"
    # Unchecked: nibabel would mend what is wrong, and say so on a stream of its own.
    header = header_class(size)(block, order, check=False)
    begins = float(header["vox_offset"])
    if not (math.isfinite(begins) and begins == int(begins) and (begins == 0 or begins >= size)):
        raise SliceFailed("unreadable", "has no place where its voxels begin")
    offset = int(begins) or size + 4
    if offset - size > current_limits().extra:
        raise too_large("holds more bytes before its samples than", "extra")
    between = file.read(offset - size)
    if len(between) < offset - size:
        raise SliceFailed("truncated", "ends before its voxels")
    return header, between, offset


def _refuse_other_contents(header: Header) -> None:
    if is_own(_text(header["descrip"])):
        raise SliceSkipped("already-derived", "was written by kspacesr-rt")
    code = int(header["datatype"])
    if code in _COLOURS:
        raise SliceSkipped("not-grayscale", "a colour image")
    if code in _COMPLEX:
        raise SliceSkipped(
            "complex", "holds complex values", hint="networks take magnitudes: numpy.abs"
        )
    if int(header["intent_code"]) == _LABELS:
        raise SliceSkipped("not-an-image", "holds labels")
    try:
        dtype = header.get_data_dtype()
    except Exception as exc:
        raise SliceFailed("unsupported-bits", "has a type of voxels that is unknown") from exc
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise SliceFailed("unsupported-bits", "has a type of voxels that is not computed with")


def _shape(header: Header) -> tuple[int, ...]:
    """Return the samples along each axis: three, or four."""
    n_axes = int(header["dim"][0])
    if not 1 <= n_axes <= 7:
        raise SliceFailed("unreadable", "has an impossible number of axes")
    shape = [int(n) for n in header["dim"][1 : 1 + n_axes]]
    if min(shape) < 1:
        raise SliceFailed("bad-geometry", "has an axis without samples")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 4 or len(shape) < 2:
        raise SliceSkipped(
            "not-an-image",
            f"has {len(shape)} axes, and an image has two, three or four",
        )
    return tuple(shape + [1] * (3 - len(shape)))


def _zooms(header: Header) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in header["pixdim"][1:4])
    n_axes = int(header["dim"][0])
    if n_axes == 2:
        z = abs(z) if math.isfinite(z) and z else 1.0
    if not all(0 < value < math.inf for value in (x, y, z)):
        raise SliceFailed("bad-geometry", "its voxel sizes are not three positive lengths")
    return x, y, z


def _affine(header: Header, warnings: list[str]) -> Affine | None:
    """Return where voxels lie, by sform before qform; None if the header does not say."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if min(codes) < 0:
        raise SliceFailed("bad-geometry", "has an impossible code of its affine")
    affine: Affine | None = None
    if codes[1] > 0:
        _zooms(header)
        try:
            affine = np.asarray(header.get_qform(), np.float64)
        except (ValueError, ArithmeticError) as exc:
            raise SliceFailed("bad-geometry", "its qform is no rotation") from exc
        _require_affine(affine, "qform")
    if codes[0] > 0:
        affine = np.asarray(header.get_sform(), np.float64)
        _require_affine(affine, "sform")
        edges = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if np.abs(edges.T @ edges - np.eye(3)).max() > SHEARED:
            warnings.append("the voxels of its sform are sheared")
    if affine is None:
        warnings.append("has neither sform nor qform: where it lies is not known, nor said")
    return affine


def _require_affine(affine: Affine, name: str) -> None:
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not np.isfinite(affine).all()
        or edges.min() <= 0.0
        or abs(np.linalg.det(affine[:3, :3])) < _SMALLEST_DETERMINANT * edges.prod()
    ):
        raise SliceFailed("bad-geometry", f"its {name} is no affine of a volume")


def _scaling(header: Header) -> dict[str, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or math.isnan(slope):  # nifti1.h: then values are as stored
        return {}
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise SliceFailed("bad-rescale", "scl_slope or scl_inter is no usable number")
    return {"slope": slope, "intercept": intercept}


def _declared_axis(header: Header, shape: tuple[int, ...]) -> int | None:
    """Return the axis that the header calls the slices', unless that cannot be."""
    axis = header.get_dim_info()[2]
    return None if axis is None or axis > 2 or shape[axis] == 1 else int(axis)


def _require_all_samples(path: Path, n_bytes: int, *, compressed: bool) -> None:
    size = path.stat().st_size
    most = size * INFLATES if compressed else size
    if most < n_bytes:
        raise SliceFailed("truncated", "holds fewer samples than its header announces")


def _kept_extensions(between: bytes, order: str) -> tuple[bytes, dict[str, int]]:
    """Return the extensions that an output keeps, as bytes, and the names of the others."""
    if len(between) < 4 or between[0] == 0:
        return b"", {}
    kept, dropped, place = b"", {}, 4
    byte_order = "little" if order == "<" else "big"
    while place + 8 <= len(between):
        size, code = (
            int.from_bytes(between[at : at + 4], cast(Any, byte_order)) for at in (place, place + 4)
        )
        if size == 0:
            break
        if size < 8 or place + size > len(between):
            raise SliceFailed("unreadable", "its header extensions do not end as they should")
        if code in _OF_THE_GRID:
            dropped[_OF_THE_GRID[code]] = 1
        else:
            kept += between[place : place + size]
        place += size
    return (between[:4] + kept if kept else b""), dropped


def _text(field: npt.NDArray[Any]) -> str:
    return bytes(field.item()).split(b"\0")[0].decode("utf-8", "replace")
