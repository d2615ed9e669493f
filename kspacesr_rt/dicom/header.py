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
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from kspacesr_rt.dicom.element_counts import ItemSearch, require_few_elements, require_few_items
from kspacesr_rt.dicom.fast.element_steps import FIRST_GROUPS, LONG_VRS
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.dicom.odd_representations import hides_elements, with_known_representations
from kspacesr_rt.dicom.parse_errors import PARSE_ERRORS as PARSE_ERRORS
from kspacesr_rt.dicom.raw_header import RawHeader, found_encoding, header_view
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed, SliceSkipped, system_message

PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_TAGS: Final = (0x7FE00008, 0x7FE00009)

_STEP: Final = 1 << 20
META_BYTES: Final = 4096
"""More than File Meta Information ever takes."""

_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_SEQUENCE_END_BYTES: Final = 8
_ITEM: Final = 0xFFFEE000
_SEQUENCE_END: Final = 0xFFFEE0DD
PACKED: Final = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
"""How archives begin that DICOM is often kept in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelFacts:
    """What can be said of a file's pixels without reading them, and whether they are all there."""

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
    non_pixel_bytes: int
    """Bytes of the file that are not of its pixels; of a deflated one, none are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header(PixelFacts):
    """What a file says before its pixels."""

    dataset: RawHeader
    """The data set without pixel data; `file_meta` tells or guesses the transfer syntax."""


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
    return SliceFailed("unreadable", f"cannot be read: {system_message(error)}")


def parse_header(file: BinaryIO) -> Header:
    """Read an open file, which stands at its beginning, up to its pixels; see `read_header`.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    return _parse(file)[0]


def parse_file(file: BinaryIO) -> tuple[Header, DataElement | None, Dataset]:
    """Read an open file whole, which stands at its beginning; see `parse_header`.

    Returns
    -------
        The header; the pixel data, still encoded, None if they are not there or end early; and what
        follows them, as far as it can be read.
    """
    header, body, pixels, after = _parse(file)
    if pixels is None or not pixels.complete:
        return header, None, Dataset()
    body.seek(pixels.offset)
    element = DataElement(pixels.tag, pixels.vr, body.read(pixels.value_bytes))
    element.is_undefined_length = pixels.encapsulated
    if after is None:
        body.seek(_SEQUENCE_END_BYTES if pixels.encapsulated else 0, os.SEEK_CUR)
        require_few_elements(body, little=found_encoding(header.dataset)[1])
        try:
            with quiet_pydicom():
                after = read_dataset(body, *found_encoding(header.dataset))
        except (OSError, *PARSE_ERRORS):
            after = Dataset()  # rubbish behind the pixels harms nobody
    return header, element, after


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pixels:
    """Where the pixel data element is in a stream."""

    tag: int
    vr: str
    """OB or OW: bytes, or words whose order a big-endian file turns round."""
    offset: int
    """Of its value."""
    value_bytes: int
    """Of its value in the stream, items and all, without the delimiter."""
    n_bytes: int
    """Of its value, or of all its fragments."""
    encapsulated: bool
    complete: bool


def _parse(file: BinaryIO) -> tuple[Header, BinaryIO, _Pixels | None, Dataset | None]:
    """Return the header, the stream that holds the pixels, where, and what follows if known."""
    try:
        found = _parsed(file)
    except SliceFailed as exc:
        if exc.reason != "unreadable" or (replaced := with_known_representations(file)) is None:
            raise
        return _parsed(io.BytesIO(replaced))
    # Its pixels, or what is to be known of them, may be hidden behind an odd element.
    if found[1] is file and (found[2] is None or hides_elements(found[0].dataset)):
        replaced = with_known_representations(file)
        return found if replaced is None else _parsed(io.BytesIO(replaced))
    return found


def _parsed(file: BinaryIO) -> tuple[Header, BinaryIO, _Pixels | None, Dataset | None]:
    file.seek(0)
    start = file.read(132)
    has_preamble = start[128:] == b"DICM"
    if not has_preamble and start[:2] not in FIRST_GROUPS:
        packed = next((name for magic, name in PACKED.items() if start.startswith(magic)), None)
        raise SliceSkipped(
            "not-dicom",
            f"a {packed} file; what is packed in it is not read: unpack it"
            if packed
            else "not a DICOM file",
        )
    file.seek(0)
    try:
        with quiet_pydicom():
            if has_preamble:
                _require_inflatable(file)
            dataset = dcmread(file, stop_before_pixels=True, force=not has_preamble)
            plausible = len(dataset) > 0 and (has_preamble or "SOPClassUID" in dataset)
            plausible |= bool(dataset.file_meta.get("MediaStorageSOPClassUID"))
            body, after = _body(file, dataset)
            view = header_view(dataset)
            if not view.file_meta.get("TransferSyntaxUID"):
                view.file_meta.TransferSyntaxUID = _guessed_syntax(view)
            implicit, little = found_encoding(view)
            pixels = _pixels(body, implicit=implicit, little=little)
    except RecursionError as exc:
        raise SliceFailed("too-large", "its sequences are nested too deeply") from exc
    except zlib.error as exc:
        raise SliceFailed("unreadable", "its deflated data set cannot be inflated") from exc
    except (OSError, *PARSE_ERRORS) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        if not has_preamble:
            raise SliceSkipped("not-dicom", "not a DICOM file") from exc
        raise SliceFailed("unreadable", "the header cannot be parsed") from exc
    if not plausible:
        raise SliceSkipped("not-dicom", "holds no DICOM data set")
    if pixels is None and body is file and _is_turned_round(file, little=little):
        raise SliceFailed("unreadable", "its byte order is another than its transfer syntax says")
    header = Header(
        dataset=view,
        pixel_tag=pixels.tag if pixels else None,
        pixel_bytes=pixels.n_bytes if pixels else 0,
        pixel_offset=pixels.offset if pixels and body is file else None,
        encapsulated=pixels is not None and pixels.encapsulated,
        complete=pixels is None or pixels.complete,
        non_pixel_bytes=_non_pixel_bytes(file, pixels) if body is file else 0,
    )
    return header, body, pixels, after


def _non_pixel_bytes(file: BinaryIO, pixels: _Pixels | None) -> int:
    return file.seek(0, os.SEEK_END) - (pixels.n_bytes if pixels else 0)


def _guessed_syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax that a file which names none must have."""
    implicit, little = found_encoding(dataset)
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else explicit


def _require_inflatable(file: BinaryIO) -> None:
    """Fail for a deflated data set that inflates to too much; leave other files alone.

    It is inflated in steps, so that it never takes more memory than is allowed.
    """
    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        search, whole = ItemSearch(), io.BytesIO()
        inflate, waiting = zlib.decompressobj(-zlib.MAX_WBITS), b""
        while not inflate.eof and (waiting := waiting or file.read(_STEP)):
            inflated = inflate.decompress(waiting, _STEP)
            whole.write(inflated)
            search.add(inflated)
            waiting = inflate.unconsumed_tail
            if whole.tell() > current_limits().inflated:
                raise too_large("its deflated data set inflates to more bytes than", "inflated")
        if not inflate.eof:
            raise SliceFailed("truncated", "the deflated data set ends early")
        whole.seek(0)
        require_few_elements(whole)
    file.seek(0)


def _is_turned_round(file: BinaryIO, *, little: bool) -> bool:
    """Return whether a data set begins with group 0008 in the other byte order."""
    file.seek(132 if file.seek(0, os.SEEK_END) > 132 else 0)
    with quiet_pydicom():
        read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    return file.read(2) == (b"\0\x08" if little else b"\x08\0")


def _body(file: BinaryIO, dataset: FileDataset) -> tuple[BinaryIO, Dataset | None]:
    """Return the stream that stands at the pixel data element, and what follows it if known."""
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return file, None
    # pydicom inflates into memory and leaves `file` at its end, so take the element from there.
    file.seek(0)
    whole = dcmread(file, force=True)
    after = Dataset({e: whole.get_item(e) for e in list(whole.keys()) if e > PIXEL_DATA})
    for tag in (PIXEL_DATA, *FLOAT_PIXEL_TAGS):
        if tag in whole:
            value = whole.get_item(tag).value or b""
            start = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"OW", 0, len(value))
            return io.BytesIO(start + value), after
    return io.BytesIO(), after


def _pixels(file: BinaryIO, *, implicit: bool, little: bool) -> _Pixels | None:
    """Return where the pixel data is, at whose element a stream stands; None if it does not."""
    order = "<" if little else ">"
    start = file.read(8)
    if len(start) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", start[:4])
    tag = group << 16 | element
    if tag not in (PIXEL_DATA, *FLOAT_PIXEL_TAGS):
        return None
    length = _pixel_length(file, start, order, implicit=implicit)
    here = file.tell()
    if length == _UNDEFINED_LENGTH:
        n_bytes, complete = fragments(file)
        value_bytes = file.tell() - here - (_SEQUENCE_END_BYTES if complete else 0)
    else:
        present = file.seek(0, os.SEEK_END) - here
        n_bytes, complete = min(length, present), length <= present
        value_bytes = n_bytes
    return _Pixels(
        tag=tag,
        vr="OB" if start[4:6] == b"OB" else "OW",
        offset=here,
        value_bytes=value_bytes,
        n_bytes=n_bytes,
        encapsulated=length == _UNDEFINED_LENGTH,
        complete=complete,
    )


def _pixel_length(file: BinaryIO, start: bytes, order: str, *, implicit: bool) -> int:
    """Return the length of pixel data, of which the first eight bytes were read.

    Whether they are explicit is told by themselves: scanners and converters have written the one
    in files that say the other, and value representations of their own (``OX``). Capitals cannot
    begin an implicit length: with ``O`` or ``U`` first it would be odd.
    """
    vr, reserved = start[4:6], start[6:8]
    length: int
    known = vr in LONG_VRS and not implicit
    if known or (vr.isalpha() and vr.isupper() and reserved == b"\0\0" and vr[0] % 2):
        (length,) = struct.unpack(f"{order}L", file.read(4))
    else:
        (length,) = struct.unpack(f"{order}L", start[4:])
    return length


def fragments(file: BinaryIO) -> tuple[int, bool]:
    """Return the bytes in the fragments of encapsulated pixel data, and whether it ends well.

    Parameters
    ----------
    file
        Stands where the value of the pixel data begins.
    """
    total, n_items = -1, 0  # the first item is the offset table, not a fragment
    while len(start := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", start)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return max(total, 0), True
        if tag != _ITEM:
            break
        total, n_items = (0 if total < 0 else total + length), n_items + 1
        require_few_items(n_items)
        file.seek(length, os.SEEK_CUR)  # past the end of a cut file, where nothing more is read
    return max(total, 0), False
