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
    """Steps from element to element, up to the pixels."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(_META_BYTES)
        if start[128:132] != b"DICM" or any(uid in start for uid in _OTHER_SYNTAXES):
            raise OddError
        file.seek(132)
        self._n_items = self._n_elements = 0

    def header(self) -> None:
        """Go up to the pixels."""
        file, depth = self._file, 0
        while len(start := file.read(8)) == 8:
            group, element, vr, length = struct.unpack("<HH2sH", start)
            if file.tell() > current_limits().extra:
                raise too_large("has a header of more bytes than", "extra")
            if group == _DELIMITERS:
                (length,) = struct.unpack("<L", start[4:])
                depth += self._delimiter(element, length)
                continue
            if vr not in VRS:
                raise OddError  # implicit, or something else
            self._n_elements += 1
            if self._n_elements > current_limits().elements:
                raise too_large("holds more elements than", "elements")
            if vr in LONG_VRS:
                (length,) = struct.unpack("<L", file.read(4))
            if group == _PIXEL_GROUP and depth == 0:
                return
            if length == UNDEFINED_LENGTH:
                if vr not in (b"SQ", b"UN"):
                    raise OddError
                depth += 1
            elif vr in (b"SQ", b"UN"):
                self._look_into(length)
            else:
                file.seek(length, os.SEEK_CUR)
        if depth or file.tell() > os.fstat(file.fileno()).st_size:
            raise OddError

    def _delimiter(self, element: int, length: int) -> int:
        """Return by how much the depth changes."""
        if element == _ITEM:
            self._n_items += 1
            require_few_items(self._n_items)
            if length != UNDEFINED_LENGTH:
                self._look_into(length)
            return 0
        if element not in (_ITEM_END, _SEQUENCE_END):
            raise OddError
        return -1 if element == _SEQUENCE_END else 0

    def _look_into(self, length: int) -> None:
        """Count the items in a value of known length."""
        if length > current_limits().extra:
            raise too_large("has a header of more bytes than", "extra")
        data = self._file.read(length)
        if len(data) < length:
            raise OddError
        self._n_items += data.count(_ITEM_TAGS[0])
        require_few_items(self._n_items)
