"""Read the frames of an Enhanced MR file one after another, never all of them.

Native frames are read from their place in the file; encapsulated ones fragment by fragment, by the
extended or basic offset table where there is one. Only a deflated file is inflated as a whole,
since nothing in it has a place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from kspacesr_rt.dicom.codecs import decode_failure, find_decoder
from kspacesr_rt.dicom.element_counts import require_bounded_size
from kspacesr_rt.dicom.enhanced.groups import FunctionalGroups, naming_the_frame
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.header import Header, parse_header
from kspacesr_rt.dicom.pixels import (
    DecodedSlice,
    IntArray,
    limit_padding,
    pixel_options,
    read_slice,
    real_world_values,
    rescale,
    stored_integers,
)
from kspacesr_rt.dicom.raw_header import raw_header
from kspacesr_rt.dicom.source_slice import SourceSlice
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed

_OFFSET_TABLES: Final = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def read_slices(source: SourceSlice) -> Iterator[DecodedSlice]:
    """Yield what a file shows, one slice after another: its one slice, or its frames.

    Raises
    ------
    SliceFailed
        As `read_slice` and `FrameReader`.
    """
    if source.n_frames is None:
        yield read_slice(source)
    else:
        yield from FrameReader(source)


class FrameReader:
    """The decoded frames of a multi-frame file, in the order of the file.

    >>> for frame in FrameReader(source):                                # doctest: +SKIP
    ...     frame.values                                                 # one frame in memory
    """

    def __init__(self, source: SourceSlice) -> None:
        """Read the header.

        Raises
        ------
        SliceFailed
            ``codec``, ``unreadable`` or ``bad-rescale``, as for `read_slice`.
        """
        with as_slice_failure(), source.path.open("rb") as file:
            require_bounded_size(file)
            header = parse_header(file)
        self._path = source.path
        self._offset = header.pixel_offset
        self._header: Dataset | None = None
        with as_slice_failure(), quiet_pydicom():
            self._prepare(header)

    def _prepare(self, header: Header) -> None:
        dataset = raw_header(header.dataset)
        self._header = dataset
        self._syntax = UID(dataset.file_meta.TransferSyntaxUID)
        self._decoder = find_decoder(self._syntax)
        groups = FunctionalGroups(dataset)
        self._frames = [groups.classic_header(n + 1) for n in range(len(groups.frames))]
        n_frames = len(self._frames)
        self._options = pixel_options(dataset, self._syntax, n_frames=n_frames, vr="OW")
        tables = [dataset.get(keyword) for keyword in _OFFSET_TABLES]
        if all(tables):  # an empty one says nothing
            self._options["extended_offsets"] = tuple(tables)
        for number, classic in enumerate(self._frames, start=1):
            with naming_the_frame(number):
                rescale(classic)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._frames)

    def take_header(self) -> Dataset:
        """Hand the header over, for `derive_enhanced` to change; the frames do not need it."""
        header, self._header = self._header, None
        if header is None:
            raise RuntimeError("the header was taken already")
        return header

    def __iter__(self) -> Iterator[DecodedSlice]:
        """Yield the frames, decoded one at a time.

        Raises
        ------
        SliceFailed
            ``truncated``, ``decode`` or ``unreadable``, with the number of the frame.
        """
        for number, stored in self._stored_frames():
            classic = self._frames[number - 1]
            with naming_the_frame(number):
                values = real_world_values(stored, classic)
            limit_padding(classic, stored, values)
            yield DecodedSlice(dataset=classic, values=values, padding=None)

    def digest(self) -> str:
        """Return the SHA-256 of all stored values, the same for every transfer syntax."""
        digest = hashlib.sha256()
        for _, stored in self._stored_frames():
            digest.update(repr(stored.shape).encode() + stored.astype(np.int32).tobytes())
        return digest.hexdigest()

    def _stored_frames(self) -> Iterator[tuple[int, IntArray]]:
        with ExitStack() as stack:
            with as_slice_failure():
                pixels = self._open(stack)
            decoded = self._decoder.iter_array(
                pixels,
                raw=True,
                **self._options,
            )
            number = 0
            for number, classic in enumerate(self._frames, start=1):
                with naming_the_frame(number):
                    array = self._next(decoded)
                    if array is None:
                        n = len(self._frames)
                        raise SliceFailed("truncated", f"is missing; {n} frames are announced")
                    stored = stored_integers(array, classic, self._syntax)
                yield number, stored
            if self._next(decoded) is not None:
                raise SliceFailed("decode", f"holds more than the {number} frames it announces")

    def _open(self, stack: ExitStack) -> BinaryIO | bytes:
        if self._offset is None:
            with quiet_pydicom():
                pixels: bytes = dcmread(self._path, force=True).PixelData
            return pixels
        file = stack.enter_context(self._path.open("rb"))
        if not self._syntax.is_implicit_VR:  # an 8-bit frame of a big-endian file hangs on it
            file.seek(self._offset - 8)
            self._options["pixel_vr"] = file.read(2).decode("ascii", "replace")
        file.seek(self._offset)
        return file

    def _next(self, decoded: Iterator[tuple[npt.NDArray[Any], Any]]) -> npt.NDArray[Any] | None:
        try:
            with quiet_pydicom():
                array, _ = next(decoded)
                return array
        except StopIteration:
            return None
        except Exception as exc:  # a decoder's error can be anything, and quotes what it likes
            raise decode_failure(exc, self._syntax) from exc
