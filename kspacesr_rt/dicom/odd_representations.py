"""Step over elements whose value representation is none, such as ``??``, blanks or zeros.

pydicom takes such an element for an implicit one: it reads the representation as part of a length,
and the rest of the file as one value, pixels and all. Other readers take it for what it mostly is,
a short element of a converter that did not know better. Here the elements behind it decide: it is
as long as they say.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from kspacesr_rt.dicom.character_sets import without_zeros
from kspacesr_rt.dicom.fast.element_steps import (
    DEPTH_MAX,
    EXPLICIT,
    FIRST_GROUPS,
    LENGTH,
    LONG_VRS,
    UNDEFINED_LENGTH,
    VRS,
    UnusualEncodingError,
    after_sequence,
    looks_explicit,
    tag_of,
)
from kspacesr_rt.dicom.file_limits import current_limits
from kspacesr_rt.dicom.parse_errors import PARSE_ERRORS
from kspacesr_rt.dicom.raw_header import found_encoding, items_of

_CHARACTER_SET: Final = 0x00080005
_PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_DELIMITERS, _ITEM, _ITEM_END = 0xFFFE, 0xFFFEE000, 0xFFFEE00D
_FUNCTIONAL_GROUPS: Final = (0x52009229, 0x52009230)
_ITEM_OR_END: Final = (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0")
_SHORT, _LONG = b"ZZ", b"UN"
"""What such an element is called instead, if the dictionary does not know better: an unknown
representation of a 16-bit or 32-bit length, which travels along as bytes."""


def with_known_representations(file: BinaryIO) -> bytes | None:
    """Return a file with the odd representations of an explicit little-endian one replaced.

    A character set of another representation than a text's, which pydicom stumbles over, becomes
    one. A zero among the letters of a character set,
    which it stumbles over as well, becomes a blank in any file.

    Parameters
    ----------
    file
        Of any size; a file of more bytes than a header and a slice may take is left alone.

    Returns
    -------
        As many bytes as the file has; None if there is nothing to replace. What the elements behind
        an odd one would not bear out is none.

    References
    ----------
    .. [1] PS3.5 7.1.2 (16 or 32 bits of length); dcmtk's ``DcmVR`` takes them for short as well
    """
    size = file.seek(0, os.SEEK_END)
    if size > current_limits().extra + 2 * current_limits().samples:
        return None
    file.seek(0)
    data = bytearray(file.read())
    at = 132 if data[128:132] == b"DICM" else 0
    found = without_zeros(bytes(data))
    with suppress(UnusualEncodingError, struct.error):
        found |= dict(list(_replacements(bytes(data), at)))
    for place, value in found.items():
        data[place : place + len(value)] = value
    return bytes(data) if found else None


def hides_elements(dataset: Dataset) -> bool:
    """Return whether an element of an explicit data set was read as an implicit one.

    Of a sequence the first item is looked into, if it was read already or tells of frames: a
    converter writes all of them alike.
    """
    try:
        return not found_encoding(dataset)[0] and _hides(dataset, 0)
    except (OSError, *PARSE_ERRORS):  # of an item: an odd element leads out of it
        return True


def _hides(dataset: Dataset, depth: int) -> bool:
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement):
            if element.VR is None:
                return True
            if element.VR != "SQ" or (depth == 0 and tag not in _FUNCTIONAL_GROUPS):
                continue
        elif element.VR != "SQ":
            continue
        if depth < DEPTH_MAX and any(_hides(one, depth + 1) for one in _first(element, dataset)):
            return True
    return False


def _first(element: DataElement | RawDataElement, dataset: Dataset) -> list[Dataset]:
    """Return the first item of a sequence, in a list; none if there is none."""
    if not isinstance(element, RawDataElement):
        return list(element.value[:1])
    value, order = element.value or b"", "<L" if element.is_little_endian else ">L"
    if len(value) >= 8 and (length := struct.unpack(order, value[4:8])[0]) != UNDEFINED_LENGTH:
        element = element._replace(value=value[: 8 + length], length=8 + length)
    return list(items_of(element, dataset))


def _replacements(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield where a representation is to be replaced, and by which, also in items of sequences."""
    if data[at : at + 2] not in FIRST_GROUPS[:2] or not looks_explicit(data, at):
        return
    around: list[int | None] = []  # where the sequences and items end that were entered
    while len(data) >= at + 8:
        while around and around[-1] == at:
            around.pop()
        key, vr, length = EXPLICIT(data, at)
        tag = tag_of(key)
        if tag >> 16 == _DELIMITERS:
            at = _delimited(data, at, tag, around)
            continue
        if tag in _PIXEL_TAGS and not around:
            return
        if vr not in VRS and not looks_explicit(data, at):
            vr, end = _borne_out(data, at, tag, around[-1] if around else None)
            if vr:
                yield at + 4, _usual_vr(tag) if vr == _SHORT else vr
            at = end
            continue
        start = at + 8
        if vr in LONG_VRS:
            (length,), start = LENGTH(data, start), start + 4
        if tag == _CHARACTER_SET and vr not in (b"CS", b"UN"):
            yield at + 4, _LONG if vr in LONG_VRS else b"CS"
        open_end = length == UNDEFINED_LENGTH
        if vr == b"SQ" and length and data[start : start + 4] in _ITEM_OR_END:
            around.append(None if open_end else start + length)
            at = start
        elif open_end:
            at = after_sequence(data, start, implicit=False)
        else:
            at = start + length


def _usual_vr(tag: int) -> bytes:
    """Return the representation that an element has by the dictionary, if its length is short."""
    vr = dictionary_VR(tag).encode() if dictionary_has_tag(tag) else _SHORT
    return vr if vr in VRS and vr not in LONG_VRS else _SHORT


def _delimited(data: bytes, at: int, tag: int, around: list[int | None]) -> int:
    """Enter or leave an item, or leave a sequence; return where the next element begins."""
    (length,) = LENGTH(data, at + 4)
    if tag == _ITEM:
        around.append(None if length == UNDEFINED_LENGTH else at + 8 + length)
    elif not around or around.pop() is not None:
        raise UnusualEncodingError
    return at + 8


def _borne_out(data: bytes, at: int, tag: int, item_end: int | None) -> tuple[bytes, int]:
    """Return what to call an odd element, nothing if it is implicit indeed, and where it ends."""
    (_, odd, short), (implicit,) = EXPLICIT(data, at), LENGTH(data, at + 4)
    candidates = [(_SHORT, at + 8 + short), (b"", at + 8 + implicit)]
    if short == 0 and len(data) >= at + 12:
        candidates.insert(0, (_LONG, at + 12 + LENGTH(data, at + 8)[0]))
    for vr, end in candidates:
        if len(data) < end + 8:
            continue
        if end == item_end:
            return vr, end
        key, following, _ = EXPLICIT(data, end)
        if tag_of(key) == _ITEM_END or (
            tag_of(key) > tag and (following in VRS or following == odd)
        ):
            return vr, end
    raise UnusualEncodingError
