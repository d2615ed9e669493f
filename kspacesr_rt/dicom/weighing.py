"""Count the items of a file before pydicom makes an object of each.

Only files that are large beside their pixels are looked into. Elements are stepped over by their
lengths, without recursion; a file whose structure is odd is searched for items as a whole.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Final

from kspacesr_rt.dicom.element_steps import LONG_VRS, UNDEFINED_LENGTH, VRS, OddError
from kspacesr_rt.dicom.limits import current_limits, too_large

_ITEM_BYTES: Final = 8
"""Of an empty item."""
_STEP: Final = 1 << 20
_META_BYTES: Final = 4096
"""More than File Meta Information ever takes."""
_META_GROUP: Final = 0x0002
_DELIMITERS: Final = 0xFFFE
_PIXEL_GROUP: Final = 0x7FE0
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_OTHER_SYNTAXES: Final = (b"1.2.840.10008.1.2.2\0", b"1.2.840.10008.1.2.1.99")
"""Big endian and deflated."""
_ITEM_TAGS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""Little and big endian."""


def require_modest(file: BinaryIO) -> None:
    """Refuse a file of more items than are allowed, or of a header that is too long.

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
    if size > min(_ITEM_BYTES * current_limits().items, current_limits().extra):
        try:
            _Walk(file).header()
        except (OddError, struct.error):
            file.seek(0)
            _search(file)
        file.seek(0)


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
    """Steps from element to element, up to the pixels, and through sequences as they come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(_META_BYTES)
        if start[128:132] != b"DICM" or any(uid in start for uid in _OTHER_SYNTAXES):
            raise OddError
        file.seek(132)
        self._n_items = self._n_elements = self._depth = 0
        self._implicit: bool | None = None  # not known before the first element of the data set
        self._inside = 0
        """Where the sequence of known length ends that is walked through; 0 outside of one."""
        self._implicit_inside = False

    def header(self) -> None:
        """Go up to the pixels."""
        file = self._file
        while True:
            if self._inside and file.tell() >= self._inside:
                self._leave()
            start = file.read(8)
            if len(start) < 8:
                break
            if file.tell() > current_limits().extra:
                raise too_large("has a header of more bytes than", "extra")
            group, element = struct.unpack("<HH", start[:4])
            if group == _DELIMITERS:
                self._delimiter(element, *struct.unpack("<L", start[4:]))
            elif not self._element(group, start):
                return
        if self._depth or file.tell() > os.fstat(file.fileno()).st_size:
            raise OddError

    def _element(self, group: int, start: bytes) -> bool:
        """Step over an element, or into it; return whether it was not the pixels."""
        vr = self._vr(group, start[4:6])
        if vr is None:  # rubbish in a sequence, of which the end is known
            self._leave()
            return True
        self._n_elements += 1
        if self._n_elements > current_limits().elements:
            raise too_large("holds more elements than", "elements")
        if not vr:
            (length,) = struct.unpack("<L", start[4:])
        elif vr in LONG_VRS:
            (length,) = struct.unpack("<L", self._file.read(4))
        else:
            (length,) = struct.unpack("<H", start[6:])
        if group == _PIXEL_GROUP and self._depth == 0 and not self._inside:
            return False
        if length == UNDEFINED_LENGTH:
            if vr not in (b"", b"SQ", b"UN"):
                raise OddError
            self._depth += not self._inside
        elif vr in (b"", b"SQ", b"UN"):
            self._enter(length, implicit=vr != b"SQ")
        else:
            self._file.seek(length, os.SEEK_CUR)
        return True

    def _vr(self, group: int, vr: bytes) -> bytes | None:
        """Return the VR, empty where none is told; None for rubbish."""
        if group != _META_GROUP and self._implicit is None:
            self._implicit = vr not in VRS
        if self._implicit_inside or (self._implicit and group != _META_GROUP):
            return b""
        if vr in VRS:
            return vr
        if self._inside:
            return None
        raise OddError

    def _delimiter(self, element: int, length: int) -> None:
        if element == _ITEM:
            if not self._inside:  # those have been counted
                self._n_items += 1
                require_few_items(self._n_items)
                if length != UNDEFINED_LENGTH:
                    self._enter(length, implicit=bool(self._implicit), is_item=True)
            return
        if element not in (_ITEM_END, _SEQUENCE_END):
            raise OddError
        if not self._inside:
            self._depth -= element == _SEQUENCE_END

    def _enter(self, length: int, *, implicit: bool, is_item: bool = False) -> None:
        """Count the items in a value of known length, and go through it if it holds some."""
        if self._inside:
            if implicit:  # then nothing tells a value from a sequence but that it begins like one
                holds_items = self._file.read(min(length, 4)) == _ITEM_TAGS[0]
                back = min(length, 4)
                self._file.seek(-back if holds_items else length - back, os.SEEK_CUR)
            return
        if length > current_limits().extra:
            raise too_large("has a header of more bytes than", "extra")
        data = self._file.read(length)
        if len(data) < length:
            raise OddError
        self._n_items += data.count(_ITEM_TAGS[0])
        require_few_items(self._n_items)
        if is_item or data.startswith(_ITEM_TAGS[0]):
            self._inside, self._implicit_inside = self._file.tell(), implicit
            self._file.seek(-length, os.SEEK_CUR)

    def _leave(self) -> None:
        self._file.seek(self._inside)
        self._inside, self._implicit_inside = 0, False
