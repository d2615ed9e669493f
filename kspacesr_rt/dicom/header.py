"""Read the header of any file, whatever it is, without its pixels and without a traceback."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from kspacesr_rt.dicom.quiet import quiet_pydicom
from kspacesr_rt.errors import SliceFailed, SliceSkipped, system_says

PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_TAGS: Final = (0x7FE00008, 0x7FE00009)

PARSE_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    RuntimeError,  # also RecursionError and NotImplementedError
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom raises on junk: whatever its parser stumbles over, or a value when it is asked."""

MAX_INFLATED: Final = 1 << 30
"""Bytes that a deflated data set may inflate to: 1 GiB, as much as 8192 slices of 256 squared."""
_STEP: Final = 1 << 20
META_BYTES: Final = 4096
"""More than File Meta Information ever takes."""

_FIRST_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a data set without preamble can begin: group 0002 or 0008, little or big endian."""
_LONG_VRS: Final = (b"OB", b"OW", b"OF", b"OD", b"UN")
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_SEQUENCE_END: Final = 0xFFFEE0DD


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelFacts:
    """What can be said of a file's pixels without reading them, and whether they are all there."""

    has_preamble: bool
    """Whether the file begins as PS3.10 7.1 demands."""
    pixel_tag: int | None
    """Tag of the pixel data element (integer, float or double), or None without one."""
    pixel_bytes: int
    """Bytes of pixel data: of the value as far as the file holds it, or of all its fragments."""
    pixel_offset: int | None
    """Where in the file the value of the pixel data begins; None without one, or deflated."""
    encapsulated: bool
    """Whether the pixel data has undefined length, that is, comes in fragments."""
    complete: bool
    """Whether the file holds as many bytes as the pixel data element announces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header(PixelFacts):
    """What a file says before its pixels."""

    dataset: FileDataset
    """The data set without pixel data; `file_meta` may be empty."""


def read_header(path: Path) -> Header:
    """Read a file up to its pixels.

    Raises
    ------
    SliceSkipped
        ``not-dicom``: nothing in it says DICOM.
    SliceFailed
        ``unreadable``: the file cannot be opened, or its header cannot be parsed; ``truncated``
        or ``too-large``: a deflated data set that ends early, or inflates to too much.
    """
    try:
        with path.open("rb") as file:
            return parse_header(file)
    except OSError as exc:
        raise unreadable(exc) from exc


def unreadable(error: OSError) -> SliceFailed:
    """Return the error for a file that cannot be opened or read.

    pydicom raises `OSError` too, for sequences that do not end as they must: no system said so.
    """
    if error.errno is None:
        return SliceFailed("unreadable", "the header cannot be parsed")
    return SliceFailed("unreadable", f"cannot be read: {system_says(error)}")


def parse_header(file: BinaryIO) -> Header:
    """Read an open file, which stands at its beginning, up to its pixels; see `read_header`.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    start = file.read(132)
    has_preamble = start[128:] == b"DICM"
    if not has_preamble and start[:2] not in _FIRST_GROUPS:
        raise SliceSkipped("not-dicom", "not a DICOM file")
    file.seek(0)
    try:
        with quiet_pydicom():
            if has_preamble:
                _require_inflatable(file)
            dataset = dcmread(file, stop_before_pixels=True, force=not has_preamble)
            plausible = len(dataset) > 0 and (has_preamble or "SOPClassUID" in dataset)
            plausible |= bool(dataset.file_meta.get("MediaStorageSOPClassUID"))
            body = _body(file, dataset)
            tag, n_bytes, offset, encapsulated, complete = _pixel_element(body, dataset)
    except zlib.error as exc:
        raise SliceFailed("truncated", "the deflated data set ends early") from exc
    except (OSError, *PARSE_ERRORS) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        if not has_preamble:
            raise SliceSkipped("not-dicom", "not a DICOM file") from exc
        raise SliceFailed("unreadable", "the header cannot be parsed") from exc
    if not plausible:
        raise SliceSkipped("not-dicom", "holds no DICOM data set")
    return Header(
        dataset=dataset,
        has_preamble=has_preamble,
        pixel_tag=tag,
        pixel_bytes=n_bytes,
        pixel_offset=offset if body is file else None,
        encapsulated=encapsulated,
        complete=complete,
    )


def _require_inflatable(file: BinaryIO) -> None:
    """Fail for a deflated data set that inflates to too much; leave other files alone."""
    start = file.read(META_BYTES)
    file.seek(132)
    if str(DeflatedExplicitVRLittleEndian).encode() in start:
        # The File Meta Information; the deflated data set begins where it ends.
        read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        inflate, n_bytes, waiting = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
        while not inflate.eof and (waiting := waiting or file.read(_STEP)):
            n_bytes += len(inflate.decompress(waiting, _STEP))
            waiting = inflate.unconsumed_tail
            if n_bytes > MAX_INFLATED:
                raise SliceFailed("too-large", "its deflated data set is too large to inflate")
    file.seek(0)


def _body(file: BinaryIO, dataset: FileDataset) -> BinaryIO:
    """Return the stream that stands at the pixel data element."""
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return file
    # pydicom inflates into memory and leaves `file` at its end, so take the element from there.
    file.seek(0)
    with quiet_pydicom():
        whole = dcmread(file, force=True)
    for tag in (PIXEL_DATA, *FLOAT_PIXEL_TAGS):
        if tag in whole:
            value = whole.get_item(tag).value or b""
            start = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"OW", 0, len(value))
            return io.BytesIO(start + value)
    return io.BytesIO()


def _pixel_element(
    file: BinaryIO, dataset: FileDataset
) -> tuple[int | None, int, int | None, bool, bool]:
    """Return the tag, the bytes present, where, and whether in fragments and whether complete."""
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    start = file.read(8)
    if len(start) < 8:
        return None, 0, None, False, True
    group, element = struct.unpack(f"{order}HH", start[:4])
    tag = group << 16 | element
    if tag not in (PIXEL_DATA, *FLOAT_PIXEL_TAGS):
        return None, 0, None, False, True
    if implicit or start[4:6] not in _LONG_VRS:
        (length,) = struct.unpack(f"{order}L", start[4:])
    else:
        (length,) = struct.unpack(f"{order}L", file.read(4))
    here = file.tell()
    if length == _UNDEFINED_LENGTH:
        n_bytes, complete = fragments(file)
        return tag, n_bytes, here, True, complete
    present = file.seek(0, os.SEEK_END) - here
    return tag, min(length, present), here, False, length <= present


def fragments(file: BinaryIO) -> tuple[int, bool]:
    """Return the bytes in the fragments of encapsulated pixel data, and whether it ends well.

    Parameters
    ----------
    file
        Stands where the value of the pixel data begins.
    """
    total = -1  # the first item is the offset table, not a fragment
    while len(start := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", start)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return max(total, 0), True
        if tag != _ITEM:
            break
        total = 0 if total < 0 else total + length
        file.seek(length, os.SEEK_CUR)  # past the end of a cut file, where nothing more is read
    return max(total, 0), False
