"""NumPy's files: ``(..., y, x)``, every leading axis one of slices; no millimetres are known."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

import numpy as np

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.dicom.element_counts import require_few_items
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.system.array_files import HEADER_ERRORS
from kspacesr_rt.volumes.layout import ByteSource, Layout, read_exactly
from kspacesr_rt.volumes.planes import chosen_axis
from kspacesr_rt.volumes.source_volume import Plane
from kspacesr_rt.volumes.volume import ByteSink, Volume, reading_volume

EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
"""The time of a zip file's members: one that never changes."""
AXES_MAX: Final = 8
LARGEST_TRANSFORMATION: Final = 4
"""Rows and columns of an affine of space; slices have more, on one axis at least."""
HEADER_MAX: Final = 1 << 16
"""Bytes of an array's header; most have 128."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayVolume(Volume):
    """A ``.npy`` file, or the one array of a ``.npz``; see `Volume`."""

    shape: tuple[int, ...]
    """Of the whole array."""
    fortran: bool
    """Whether its first axis is the fastest: then it is held as a whole."""
    member: str | None = None
    """Of a ``.npz``, the file that the array is."""
    deflated: bool = False
    """Whether that is compressed."""

    @classmethod
    def read_npy(cls, path: Path, plane: Plane) -> Self:
        """Read the header of a ``.npy``; raises as `kspacesr_rt.volumes.triage` says."""
        with path.open("rb") as file:
            shape, fortran, dtype = _read_header(file)
            offset = file.tell()
        layout = array_layout(shape, dtype, plane)
        if path.stat().st_size < offset + layout.n_bytes:
            raise SliceFailed("truncated", "holds fewer samples than its header announces")
        return cls(path=path, layout=layout, shape=shape, fortran=_held(fortran, layout))

    @classmethod
    def read_npz(cls, path: Path, plane: Plane) -> Self:
        """Read the header of the one array that a ``.npz`` holds; raises as `read_npy`."""
        with _opened_zip(path) as archive, reading_volume():
            images, others = [], 0
            members = archive.infolist()
            require_few_items(len(members))
            for info in members:
                if re.search(r"[/\\:]", info.filename):
                    raise SliceFailed("unreadable", "has members with the names of folders")
                with archive.open(info) as file:
                    shape, fortran, dtype = _read_header(cast(BinaryIO, file), objects=True)
                if _may_be_image(shape, dtype):
                    images.append((info, shape, fortran, dtype))
                else:
                    others += 1
        if real := [one for one in images if one[3].kind != "c"]:  # complex is never an image
            others += len(images) - len(real)
            images = real
        most_axes = max((len(shape) for _, shape, _, _ in images), default=0)
        chosen = [one for one in images if len(one[1]) == most_axes]
        if len(chosen) != 1:
            raise SliceSkipped(
                "not-an-image",
                "holds several arrays that may be its image" if chosen else "holds no image",
                hint="save the image alone",
            )
        [(info, shape, fortran, dtype)] = chosen
        layout = array_layout(shape, dtype, plane)
        if info.file_size < layout.n_bytes:
            raise SliceFailed("truncated", "holds fewer samples than its header announces")
        others += len(images) - 1
        return cls(
            path=path,
            layout=layout,
            shape=shape,
            fortran=_held(fortran, layout),
            member=info.filename,
            deflated=info.compress_type != zipfile.ZIP_STORED,
            warnings=(
                ("arrays beside the image are left out: they may describe the old grid",)
                if others
                else ()
            ),
            dropped={"array": others} if others else {},
        )

    @property
    def header_content(self) -> bytes:
        """The shape and the name: all that an array says beside its samples."""
        return repr((self.shape, self.layout.dtype, self.member)).encode()

    @contextmanager
    def samples(self) -> Iterator[ByteSource]:
        """Open the file where its samples begin; see `Volume.samples`."""
        with self._opened() as file, reading_volume():
            _read_header(file)
            if self.fortran:
                content = read_exactly(file, self.layout.n_bytes)
                array = np.frombuffer(content, np.dtype(self.layout.dtype))
                array = np.ascontiguousarray(array.reshape(self.shape[::-1]).T)
                yield io.BytesIO(array.tobytes())
            else:
                yield cast(ByteSource, file)
            if self.member is not None and file.read(1):  # a zip file's checksum is at the end
                raise SliceFailed("unreadable", "holds more samples than its header announces")

    def result(self, path: Path, derivation: Derivation) -> Self:
        """Return what the result is, in the order of C; see `Volume.result`."""
        layout = self.layout.upscaled(derivation.upscale)
        shape = upscaled_shape(self.shape, layout)
        return replace(self, path=path, layout=layout, shape=shape, fortran=False)

    def of_floats(self, path: Path) -> Self:
        """Return a file of 32-bit floats like this; see `Volume.of_floats`."""
        return replace(self, path=path, layout=self.layout.of_floats())

    @contextmanager
    def begin(self, said: str) -> Iterator[ByteSink]:
        """Write the header; see `Volume.begin`."""
        header = io.BytesIO()
        described = {"descr": self.layout.dtype, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, described)
        if self.member is None:
            with self.path.open("wb") as file:
                file.write(header.getvalue())
                yield file
            return
        info = zipfile.ZipInfo(self.member, EARLIEST)
        info.compress_type = zipfile.ZIP_DEFLATED if self.deflated else zipfile.ZIP_STORED
        with (
            zipfile.ZipFile(self.path, "w") as archive,
            archive.open(info, "w", force_zip64=True) as inner,
        ):
            inner.write(header.getvalue())
            yield inner

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        with _opened_zip(self.path) as archive, archive.open(self.member) as inner:
            yield cast(BinaryIO, inner)


def array_layout(shape: tuple[int, ...], dtype: np.dtype[Any], plane: Plane) -> Layout:
    """Return how the samples of an array lie, with its last three axes as those of a volume.

    Raises
    ------
    SliceFailed, SliceSkipped
        If it is no stack of real images.
    """
    if dtype.kind == "c":
        raise SliceSkipped(
            "complex", "holds complex values", hint="networks take magnitudes: numpy.abs"
        )
    if dtype.kind == "b":
        raise SliceSkipped("not-an-image", "holds a mask")
    if dtype == np.uint8 and len(shape) > 2 and shape[-1] in (3, 4):
        raise SliceSkipped("not-grayscale", "a colour image, by its last axis")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise SliceFailed("unsupported-bits", "has a type of samples that is not computed with")
    if not 2 <= len(shape) <= AXES_MAX:
        raise SliceSkipped("not-an-image", f"has {len(shape)} axes, and an image has two or more")
    if min(shape) < 1:
        raise SliceFailed("bad-geometry", "has an axis without samples")
    lengths: list[int] = [1, *shape]  # one block of a plane
    if _is_transformation(shape):
        raise SliceSkipped(
            "not-an-image", f"holds {lengths[-2]} x {lengths[-1]} numbers, as an affine does"
        )
    block = (lengths[-3], lengths[-2], lengths[-1])
    given = plane == "auto" or len(shape) == 2
    axis = 0 if given else chosen_axis(plane, block, (1.0, 1.0, 1.0), None)
    return Layout(n_blocks=math.prod(shape[:-3]), block=block, slice_at=axis, dtype=dtype.str)


def upscaled_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Return the shape of the result of an array, whose last axes lie as `layout` says."""
    n_spatial = min(3, len(shape))
    return (*shape[:-n_spatial], *layout.block[-n_spatial:])


def _may_be_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell whether an array of a ``.npz`` may be its image, by shape and type alone."""
    return len(shape) >= 2 and dtype.kind in "iufc" and not _is_transformation(shape)


def _is_transformation(shape: tuple[int, ...]) -> bool:
    """Tell whether an array is an affine or a rotation, or many: no image is as small."""
    return max(shape[-2:]) <= LARGEST_TRANSFORMATION


def _held(fortran: bool, layout: Layout) -> bool:
    """Return whether the array has to be held as a whole, if that may be."""
    if fortran and layout.n_bytes > current_limits().volume:
        raise too_large(
            "has its first axis fastest, so is held as a whole, and is larger than", "volume"
        )
    return fortran


def _read_header(
    file: BinaryIO, *, objects: bool = False
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type, also of `objects`; nothing that a file says is executed."""
    limited = cast(BinaryIO, _Limited(file))
    try:
        version = np.lib.format.read_magic(limited)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        with quiet_pydicom():  # NumPy warns of headers by Python 2, too
            shape, fortran, dtype = reader(limited)
    except HEADER_ERRORS as exc:
        raise SliceFailed("unreadable", "has no header of a NumPy array") from exc
    if dtype.hasobject and not objects:
        raise SliceFailed("unreadable", "holds Python objects, which are not loaded")
    return tuple(int(n) for n in shape), bool(fortran) and len(shape) > 1, dtype


class _Limited:
    """A file of which nothing huge is read at once: a header may announce gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, n_bytes: int, /) -> bytes:
        if n_bytes > HEADER_MAX:
            raise SliceFailed("unreadable", "announces an impossibly long header")
        return self._file.read(n_bytes)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as exc:
        raise SliceFailed("unreadable", "is no sound zip file, as .npz is") from exc
    with archive:
        try:
            yield archive
        except zipfile.BadZipFile as exc:
            raise SliceFailed("unreadable", "its compressed data are damaged") from exc
