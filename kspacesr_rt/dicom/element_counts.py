"""Count the items and elements of a file before pydicom makes an object of each.

Only what is large beside its pixels is looked into. Elements are stepped over by their lengths,
without recursion and as pydicom would step; what ends early is searched for items as a whole.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import BinaryIO, Final

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from kspacesr_rt.dicom.character_sets import require_few_character_sets
from kspacesr_rt.dicom.fast.element_steps import (
    FIRST_GROUPS,
    LONG_VRS,
    UNDEFINED_LENGTH,
    UnusualEncodingError,
)
from kspacesr_rt.dicom.file_limits import current_limits, too_large

_LEAST_BYTES: Final = 8
"""Of an empty item or element."""
_STEP: Final = 1 << 20
_SYNTAX: Final = (0x0002, 0x0010)
_CHARACTER_SET: Final = (0x0008, 0x0005)
_DELIMITERS: Final = 0xFFFE
_PIXELS: Final = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_ITEM_TAGS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""Little and big endian."""


def require_bounded_size(file: BinaryIO) -> None:
    """Refuse a file of more items or elements than are allowed, or of a header that is too long.

    A deflated data set is left to `require_few_elements`.

    Parameters
    ----------
    file
        Stands at its beginning, and does so afterwards.

    Raises
    ------
    SliceFailed
        ``too-large``.
    """
    size = os.fstat(file.fileno()).st_size
    if size > min(_LEAST_BYTES * current_limits().items, current_limits().extra):
        start = file.read(132)
        has_preamble = start[128:] == b"DICM"
        file.seek(132 if has_preamble else 0)
        if has_preamble or start[:2] in FIRST_GROUPS:
            try:
                _Walk(file, size, header_only=True).go()
            except (UnusualEncodingError, struct.error):
                file.seek(0)
                _search(file)
        file.seek(0)


def require_few_elements(file: BinaryIO, *, little: bool = True) -> None:
    """Refuse more items or elements than are allowed from here to the end, pixels or not.

    Parameters
    ----------
    file
        Stands where an element begins, and does so afterwards.
    little
        Whether they are little-endian.

    Raises
    ------
    SliceFailed
        ``too-large``.
    """
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    allowed = current_limits()
    if size - here > _LEAST_BYTES * min(allowed.items, allowed.elements):
        with suppress(
            UnusualEncodingError, struct.error
        ):  # pydicom gets no farther, and so far it has few
            _Walk(file, size, little=little).go()
        file.seek(here)


def require_few_items(n_items: int) -> None:
    """Refuse a number of items, or of fragments.

    Raises
    ------
    SliceFailed
        ``too-large``.
    """
    if n_items > current_limits().items:
        raise too_large("holds more items of sequences, or fragments of pixels, than", "items")


class ItemSearch:
    """Counts what reads like the beginning of an item in bytes that come one after the other."""

    def __init__(self) -> None:
        self._count, self._tail = 0, b""

    def add(self, data: bytes) -> None:
        """Count in some more bytes.

        Raises
        ------
        SliceFailed
            ``too-large``.
        """
        joined = self._tail + data
        self._count += max(joined.count(tag) for tag in _ITEM_TAGS)
        self._tail = joined[-3:]
        require_few_items(self._count)


def _search(file: BinaryIO) -> None:
    search = ItemSearch()
    while data := file.read(_STEP):
        search.add(data)


class _Walk:
    """Steps from element to element, and through sequences as they come."""

    def __init__(
        self, file: BinaryIO, size: int, *, little: bool = True, header_only: bool = False
    ) -> None:
        self._file, self._size = file, size
        self._header_only = header_only
        """Whether it begins with File Meta Information and ends at the pixels."""
        self._in_meta, self._big, self._deflated = header_only, False, False
        self._set_order(little=little)
        self._n_items = self._n_elements = self._depth = 0
        self._implicit: bool | None = None  # not known before the first element of the data set
        self._inside = 0
        """Where the sequence of known length ends that is walked through; 0 outside of one."""
        self._implicit_inside = False

    def go(self) -> None:
        """Go up to the pixels, or to the end."""
        file = self._file
        while True:
            if self._inside and file.tell() >= self._inside:
                self._leave()
            start = file.read(8)
            if len(start) < 8:
                break
            self._require_short(file.tell())
            group, element = self._tag(start)
            if self._deflated and not self._in_meta:
                return
            if group == _DELIMITERS and element in (_ITEM, _ITEM_END, _SEQUENCE_END):
                self._delimiter(element, self._long(start[4:]))
            elif not self._element((group, element), start):
                return
        if self._depth or file.tell() > self._size:
            raise UnusualEncodingError

    def _set_order(self, *, little: bool) -> None:
        self._order, self._item_tag = "<" if little else ">", _ITEM_TAGS[not little]
        self._end_tag = struct.pack(f"{self._order}HH", _DELIMITERS, _SEQUENCE_END)

    def _tag(self, start: bytes) -> tuple[int, int]:
        if self._in_meta and start[:2] != b"\2\0":  # the data set begins
            self._in_meta = False
            self._set_order(little=not (self._big or start[:2] == b"\0\x08"))
        group, element = struct.unpack(f"{self._order}HH", start[:4])
        return group, element

    def _long(self, data: bytes) -> int:
        (length,) = struct.unpack(f"{self._order}L", data)
        return int(length)

    def _require_short(self, n_bytes: int) -> None:
        if self._header_only and n_bytes > current_limits().extra:
            raise too_large("has a header of more bytes than", "extra")

    def _element(self, tag: tuple[int, int], start: bytes) -> bool:
        """Step over an element, or into it; return whether to go on."""
        self._n_elements += 1
        if self._n_elements > current_limits().elements:
            raise too_large("holds more elements than", "elements")
        vr = self._vr(start[4:6])
        if not vr:
            length = self._long(start[4:])
        elif vr in LONG_VRS:
            length = self._long(self._file.read(4))
        else:
            (length,) = struct.unpack(f"{self._order}H", start[6:])
        if tag in _PIXELS and self._depth == 0 and not self._inside:
            if self._header_only:
                return False
            vr = b"OB"  # whatever they hold, pydicom makes no objects of it
        if tag == _CHARACTER_SET:
            require_few_character_sets(length)
        if tag == _SYNTAX and self._in_meta:
            uid = self._file.read(length).rstrip(b"\0 ").decode("ascii", "replace")
            self._big, self._deflated = (
                uid == ExplicitVRBigEndian,
                uid == DeflatedExplicitVRLittleEndian,
            )
            return True
        if length == UNDEFINED_LENGTH:
            if vr not in (b"", b"SQ", b"UN") or (vr != b"SQ" and not self._items_follow()):
                self._skip_to_end()
            else:
                self._depth += not self._inside
        elif vr in (b"", b"SQ", b"UN"):
            self._enter(length, implicit=vr != b"SQ")
        else:
            self._file.seek(length, os.SEEK_CUR)
        return True

    def _vr(self, vr: bytes) -> bytes:
        """Return the VR, empty where none is told; what is none in capitals is a short one."""
        is_explicit = b"AA" <= vr <= b"ZZ"
        if self._in_meta:
            return vr if is_explicit else b""
        if self._implicit is None:
            self._implicit = not is_explicit
        return b"" if self._implicit or self._implicit_inside or not is_explicit else vr

    def _items_follow(self) -> bool:
        start = self._file.read(4)
        self._file.seek(-len(start), os.SEEK_CUR)
        return start in (self._item_tag, self._end_tag)

    def _skip_to_end(self) -> None:
        """Go behind the end of a value of undefined length that is no sequence."""
        end, tail = self._inside or self._size, b""
        while data := self._file.read(min(_STEP, max(0, end - self._file.tell()))):
            data = tail + data
            if (at := data.find(self._end_tag)) >= 0:
                self._file.seek(at + _LEAST_BYTES - len(data), os.SEEK_CUR)
                return
            tail = data[-3:]
        if not self._inside:
            raise UnusualEncodingError
        self._leave()  # what is odd in a sequence of known length ends with it

    def _delimiter(self, element: int, length: int) -> None:
        if element == _ITEM:
            if not self._inside:  # those have been counted
                self._n_items += 1
                require_few_items(self._n_items)
                if length != UNDEFINED_LENGTH:
                    self._enter(length, implicit=bool(self._implicit), is_item=True)
        elif not self._inside:
            self._depth -= element == _SEQUENCE_END

    def _enter(self, length: int, *, implicit: bool, is_item: bool = False) -> None:
        """Count the items in a value of known length, and go through it if it holds some."""
        if self._inside:
            if implicit:  # then nothing tells a value from a sequence but that it begins like one
                holds_items = self._file.read(min(length, 4)) == self._item_tag
                back = min(length, 4)
                self._file.seek(-back if holds_items else length - back, os.SEEK_CUR)
            return
        self._require_short(length)
        if self._file.tell() + length > self._size:
            raise UnusualEncodingError
        data = self._file.read(length)
        self._n_items += data.count(self._item_tag)
        require_few_items(self._n_items)
        if is_item or data.startswith(self._item_tag):
            self._inside, self._implicit_inside = self._file.tell(), implicit
            self._file.seek(-length, os.SEEK_CUR)

    def _leave(self) -> None:
        self._file.seek(self._inside)
        self._inside, self._implicit_inside = 0, False
