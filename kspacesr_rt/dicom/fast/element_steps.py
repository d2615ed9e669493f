"""Step over the elements of a little-endian data set by their lengths, without a look inside.

Where pydicom would read a byte of it in another way, or complain, or guess, there is an
`UnusualEncodingError`: what is odd is not stepped over but left to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

EXPLICIT: Final = struct.Struct("<L2sH").unpack_from
"""Key, value representation and 16-bit length."""
IMPLICIT: Final = struct.Struct("<LL").unpack_from
"""Key and length."""
LENGTH: Final = struct.Struct("<L").unpack_from
_SHORT_LENGTH: Final = struct.Struct("<H").unpack_from
UNDEFINED_LENGTH: Final = 0xFFFFFFFF

VRS: Final = {str(vr).encode(): str(vr) for vr in VR if len(vr) == 2}
LONG_VRS: Final = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)
"""With 32 bits of length (PS3.5 7.1.2)."""
SEQUENCE_VRS: Final = (b"SQ", b"UN")
"""What can have undefined length beside pixels; UN is then a sequence too (PS3.5 6.2.2)."""

FIRST_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""How a data set without preamble can begin: group 0002 or 0008, little or big endian."""
_META_GROUP: Final = b"\x02\0"
_META_BEGINS: Final = b"\x02\0\0\0UL\x04\0"
OWN_META: Final = frozenset({0x00020000, 0x00020003})
"""Of File Meta Information, what each file has its own of: its length, and the instance's UID."""
Note = Callable[[int, int], None]
"""Told of a stretch of bytes: where it begins, and where it ends."""
DEPTH_MAX: Final = 16
"""Sequences in sequences; a dozen is the most that any IOD has."""


class UnusualEncodingError(Exception):
    """Something that is left to pydicom."""


def explicit_value(data: bytes, value: int, vr: bytes, length: int) -> tuple[int, int]:
    """Return where the value of an explicit element begins, and its length in bytes.

    Parameters
    ----------
    data
        What it stands in.
    value
        Where the value begins if its length has 16 bits.
    vr, length
        What `EXPLICIT` read.

    Raises
    ------
    UnusualEncodingError
        If there is no such value representation.
    """
    if vr in LONG_VRS:
        return value + 4, LENGTH(data, value)[0]
    if vr not in VRS:
        raise UnusualEncodingError
    return value, length


def key_of(tag: int) -> int:
    """Return a tag as its four bytes read as one little-endian number: element, then group."""
    return (tag & 0xFFFF) << 16 | tag >> 16


def tag_of(key: int) -> int:
    """Return the tag of a key."""
    return (key & 0xFFFF) << 16 | key >> 16


_ITEM: Final = key_of(0xFFFEE000)
_ITEM_END: Final = key_of(0xFFFEE00D)
_SEQUENCE_END: Final = key_of(0xFFFEE0DD)
_DELIMITERS: Final = 0xFFFE
_CHARACTER_SET: Final = key_of(0x00080005)


def looks_explicit(data: bytes, at: int) -> bool:
    """Return whether the element at `at` has two capitals where an explicit VR stands."""
    first, second = data[at + 4 : at + 6]
    return 0x40 < first < 0x5B and 0x40 < second < 0x5B


def after_sequence(
    data: bytes, at: int, *, implicit: bool, depth: int = 0, note: Note | None = None
) -> int:
    """Return where a sequence of undefined length ends, whose first item begins at `at`.

    Parameters
    ----------
    data
        Bytes of a little-endian data set.
    at
        Index of the first item.
    implicit
        Whether the data set around it has implicit VRs.
    depth
        Sequences around it.
    note
        Told of what is no value on the way: tags, value representations, lengths and delimiters.

    Raises
    ------
    UnusualEncodingError
        For what pydicom has to judge.
    struct.error
        If `data` ends before the sequence does.
    """
    if depth > DEPTH_MAX:
        raise UnusualEncodingError
    while True:
        key, length = IMPLICIT(data, at)
        if note is not None:
            note(at, at + 8)
        at += 8
        if key == _SEQUENCE_END:
            return at
        if key != _ITEM:
            raise UnusualEncodingError
        end = None if length == UNDEFINED_LENGTH else at + length
        if end != at:
            at = _after_item(data, at, end, implicit=implicit, depth=depth, note=note)


def _after_item(
    data: bytes, at: int, end: int | None, *, implicit: bool, depth: int, note: Note | None
) -> int:
    if len(data) < at + 8:
        raise struct.error
    # In a sequence of an explicit data set, an item may be implicit: one written as UN is.
    implicit = implicit or not looks_explicit(data, at)
    while end is None or at < end:
        key, length = IMPLICIT(data, at)
        if key & 0xFFFF == _DELIMITERS or key == _CHARACTER_SET:
            if key == _ITEM_END and end is None and length == 0:
                if note is not None:
                    note(at, at + 8)
                return at + 8
            raise UnusualEncodingError
        begins = at
        at += 8
        if implicit:
            nested = length == UNDEFINED_LENGTH and require_sequence(key, data, at)
        else:
            _, vr, length = EXPLICIT(data, at - 8)
            at, length = explicit_value(data, at, vr, length)
            nested = length == UNDEFINED_LENGTH
            if nested and vr not in SEQUENCE_VRS:
                raise UnusualEncodingError
        if note is not None:
            note(begins, at)
        if nested:
            at = after_sequence(data, at, implicit=implicit, depth=depth + 1, note=note)
        else:
            at += length
    if at != end:
        raise UnusualEncodingError
    return at


def require_sequence(key: int, data: bytes, at: int) -> bool:
    """Return True for an implicit element of undefined length that is a sequence."""
    tag = tag_of(key)
    try:
        is_sequence = dictionary_VR(tag) == "SQ"
    except KeyError:  # private, or newer than pydicom: then items tell
        (following,) = LENGTH(data, at)
        is_sequence = following == _ITEM
    if not is_sequence:
        raise UnusualEncodingError
    return True


class MetaOfSeries:
    """The File Meta Information of a file, and where it ends in others that share it."""

    def __init__(self, content: bytes) -> None:
        """Take it apart.

        Raises
        ------
        UnusualEncodingError, struct.error
            If there is none, or it is odd.
        """
        at, shared = 132, bytearray()
        self._runs: list[bytes] = []
        """What is shared, around the elements that each file has its own of."""
        if content[128:132] != b"DICM" or not content.startswith(_META_BEGINS, at):
            raise UnusualEncodingError
        while True:
            key, vr, length = EXPLICIT(content, at)
            if key & 0xFFFF != 2:
                break
            value, length = explicit_value(content, at + 8, vr, length)
            end = value + length
            if end > len(content):
                raise UnusualEncodingError
            if tag_of(key) in OWN_META:
                if vr in LONG_VRS:
                    raise UnusualEncodingError
                shared += content[at : at + 6]
                self._runs.append(bytes(shared))
                shared.clear()
            else:
                shared += content[at:end]
            at = end
        self._last = bytes(shared)
        self.end = at
        """Where the data set begins."""

    def end_in(self, content: bytes) -> int:
        """Return where the data set begins in another file.

        Raises
        ------
        UnusualEncodingError, struct.error
            If it shares none of this.
        """
        at = 132
        if content[128:132] != b"DICM":
            raise UnusualEncodingError
        for run in self._runs:
            if not content.startswith(run, at):
                raise UnusualEncodingError
            at += len(run)
            at += 2 + _SHORT_LENGTH(content, at)[0]
        if not content.startswith(self._last, at) or at + len(self._last) > len(content):
            raise UnusualEncodingError
        at += len(self._last)
        if content[at : at + 2] == _META_GROUP:  # it has more of it
            raise UnusualEncodingError
        return at
