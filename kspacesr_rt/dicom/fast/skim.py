"""Read from a header only what `triage` asks for, in one read where the header is short.

Of the hundreds of elements of a header, triage looks at some thirty, and pydicom makes objects of
all. Here the others are stepped over by their lengths, and the plain values among the thirty are
decoded directly; the frames of Enhanced MR are told apart by `frame_layouts`. Only usual, sound
files are read so: whatever is odd in any way goes to `header.parse_header`, which sees everything.
So each file is judged as it would be by its whole header, only sooner.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from kspacesr_rt.dicom.element_counts import require_bounded_size
from kspacesr_rt.dicom.fast.element_steps import (
    EXPLICIT,
    IMPLICIT,
    LENGTH,
    LONG_VRS,
    SEQUENCE_VRS,
    UNDEFINED_LENGTH,
    VRS,
    UnusualEncodingError,
    after_sequence,
    explicit_value,
    key_of,
    looks_explicit,
    require_sequence,
)
from kspacesr_rt.dicom.fast.frame_layouts import FrameLayouts
from kspacesr_rt.dicom.fast.plain_values import plain_uid
from kspacesr_rt.dicom.fast.skimmed import KEPT, TRIAGE_PRIVATE, Skimmed, is_asked_private
from kspacesr_rt.dicom.fast.skimmed_frames import GROUP_KEYS, SkimmedFrames
from kspacesr_rt.dicom.file_limits import current_limits
from kspacesr_rt.dicom.header import (
    FLOAT_PIXEL_TAGS,
    META_BYTES,
    PIXEL_DATA,
    Header,
    PixelFacts,
    fragments,
    parse_header,
    unreadable,
)

WINDOW: Final = 1 << 16
"""Bytes of a read, 64 KiB: most headers in one."""
WINDOW_MAX: Final = 1 << 22
"""Bytes that an element may take that has to be seen whole, 4 MiB."""
GROUPS_MAX: Final = 1 << 24
"""Bytes of functional groups, 16 MiB: two million elements at the least would be too many."""
_GROUPS_GROW: Final = 4
"""How many times as long the window becomes in which their end was not found."""

_MEDIA_CLASS, _SYNTAX = "MediaStorageSOPClassUID", "TransferSyntaxUID"
_META: Final = {key_of(0x00020002): _MEDIA_CLASS, key_of(0x00020010): _SYNTAX}
_META_BEGINS: Final = struct.pack("<HH2sH", 2, 0, b"UL", 4)
_PIXELS: Final = {key_of(tag): tag for tag in (PIXEL_DATA, *FLOAT_PIXEL_TAGS)}
_PIXEL_GROUP: Final = 0x7FE0
_PIXEL_VRS: Final = (b"OB", b"OW", b"OF", b"OD")
_IMPLICIT_VRS: Final = {
    str(ImplicitVRLittleEndian): True,
    str(ExplicitVRLittleEndian): False,
    str(RLELossless): False,
}
"""Whether a transfer syntax has implicit VRs."""
_CODEC_SYNTAXES: Final = "1.2.840.10008.1.2.4."
"""Begins the UIDs of the others that are explicit and little-endian (PS3.5 A.4)."""
_LEAST_BYTES: Final = 8
"""Of an empty item or element."""
_ITEM_TAG: Final = struct.pack("<HH", 0xFFFE, 0xE000)
_CHARACTER_SET: Final = struct.pack("<HH", 0x0008, 0x0005)
_DEFLATED: Final = str(DeflatedExplicitVRLittleEndian).encode()
_ENHANCED: Final = str(EnhancedMRImageStorage)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkimmedHeader(PixelFacts):
    """What a file says before its pixels, as far as triage asks."""

    dataset: Skimmed
    """The attributes."""
    judged: dict[object, Any] | None = None
    """Kept by whoever judges it, for headers that say the same but for `PER_SLICE`."""


def skim_header(
    path: Path, read: Callable[[Skim], SkimmedHeader] | None = None
) -> Header | SkimmedHeader:
    """Read what triage needs of a header.

    The file is opened once, asked for its size once, and read once if its header is shorter than
    `WINDOW` and its pixels are in no fragments: on a file share each further call is a round trip.
    An odd file is read again, by pydicom.

    Parameters
    ----------
    path
        The file.
    read
        Given the beginning of a file; None: `Skim.header`. See
        `kspacesr_rt.dicom.fast.repeated_skim`.

    Raises
    ------
    SliceSkipped, SliceFailed
        As `header.read_header`.
    """
    try:
        with path.open("rb", buffering=0) as file:
            try:
                skim = Skim(file)
                return skim.header() if read is None else read(skim)
            except (UnusualEncodingError, struct.error):
                file.seek(0)
                with io.BufferedReader(file) as buffered:
                    require_bounded_size(buffered)
                    return parse_header(buffered)
    except OSError as exc:
        raise unreadable(exc) from exc


def skim_content(
    parts: Sequence[memoryview], read: Callable[[Skim], SkimmedHeader] | None = None
) -> Header | SkimmedHeader:
    """Read of a file that is in memory what `skim_header` reads of one on disk.

    It may be in parts, if the first of them has all that stands before the pixels.
    """
    head = io.BytesIO(parts[0])
    try:
        skim = Skim(head, sum(map(len, parts)))
        return skim.header() if read is None else read(skim)
    except (UnusualEncodingError, struct.error):
        return parse_header(io.BytesIO(b"".join(parts)))


class Skim:
    """A window on a file, which moves on where a value or the header is longer."""

    def __init__(self, file: BinaryIO | io.FileIO, size: int | None = None) -> None:
        """Read its beginning; its `size` in bytes is looked up if it is not given."""
        self._file = file
        self._data = self.beginning = file.read(WINDOW)
        self._base = 0
        """Where in the file the window begins."""
        self.layouts = FrameLayouts()
        """Of frames that were read before."""
        self._counted = self._n_items = 0
        """Bytes of functional groups that were searched for items, and how many there can be."""
        if self._data[128:132] != b"DICM" or _DEFLATED in self._data[:META_BYTES]:
            raise UnusualEncodingError
        self.size = os.fstat(file.fileno()).st_size if size is None else size

    def beginning_of(self, n_bytes: int) -> bytes:
        """Return so many bytes of the file's beginning, all of it if it is shorter, or more."""
        missing = min(n_bytes, self.size) - len(self.beginning)
        if missing > 0:
            self._file.seek(len(self.beginning))
            self.beginning += self._file.read(missing)
        return self.beginning

    def header(self) -> SkimmedHeader:
        """Return the header, or raise `UnusualEncodingError` or `struct.error` for an odd one."""
        meta, at = self._meta()
        implicit = self._implicit(meta.get(_SYNTAX, ""))
        skimmed = Skimmed(meta, implicit=implicit)
        if implicit == looks_explicit(self._data, at):
            raise UnusualEncodingError
        key, at, length = self._elements(skimmed, at)
        sop_class, here = skimmed.get("SOPClassUID"), self._base + at
        if sop_class is None or (sop_class == _ENHANCED and not skimmed.frames.n_frames):
            raise UnusualEncodingError
        if sop_class == _ENHANCED:
            self._require_few(here)
        if length == UNDEFINED_LENGTH:
            self._file.seek(here)
            n_bytes, complete = fragments(self._file)
        else:
            n_bytes, complete = min(length, self.size - here), length <= self.size - here
        return SkimmedHeader(
            dataset=skimmed,
            pixel_tag=_PIXELS[key],
            pixel_bytes=n_bytes,
            pixel_offset=here,
            encapsulated=length == UNDEFINED_LENGTH,
            complete=complete,
            non_pixel_bytes=self.size - n_bytes,
        )

    def _meta(self) -> tuple[dict[str, str], int]:
        """Return the File Meta Information that matters, and where the data set begins."""
        data, at, found = self._data, 132, dict[str, str]()
        if not data.startswith(_META_BEGINS, at):
            raise UnusualEncodingError
        while True:
            key, vr, length = EXPLICIT(data, at)
            if key & 0xFFFF != 2:
                return found, at
            at, length = explicit_value(data, at + 8, vr, length)
            if keyword := _META.get(key):
                if vr != b"UI":
                    raise UnusualEncodingError
                found[keyword] = plain_uid(data[at : at + length])
            at += length  # one of undefined length leads past the end

    @staticmethod
    def _implicit(syntax: str) -> bool:
        if syntax in _IMPLICIT_VRS:
            return _IMPLICIT_VRS[syntax]
        if not syntax.startswith(_CODEC_SYNTAXES):
            raise UnusualEncodingError
        return False

    def _elements(self, skimmed: Skimmed, at: int) -> tuple[int, int, int]:
        """Go through the data set; return key, place of the value and length of the pixel data."""
        data, implicit = self._data, skimmed.implicit
        vr: bytes | None = None
        while True:
            if at + 12 > len(data):
                data, at = self._move(at, WINDOW), 0
            if implicit:
                key, length = IMPLICIT(data, at)
                value = at + 8
            else:
                key, vr, length = EXPLICIT(data, at)
                value = at + 8
                if vr in LONG_VRS:  # as `explicit_value`, without a call for every element
                    (length,) = LENGTH(data, value)
                    value += 4
                elif vr not in VRS:
                    raise UnusualEncodingError
            group = key & 0xFFFF
            if not 8 <= group < _PIXEL_GROUP:
                if key in _PIXELS and (vr is None or vr in _PIXEL_VRS):
                    return key, value, length
                if key in _PIXELS or group != _PIXEL_GROUP:
                    raise UnusualEncodingError
            if key in KEPT or (group in TRIAGE_PRIVATE and is_asked_private(key)):
                if length > WINDOW_MAX:
                    raise UnusualEncodingError
                if value + length > len(data):
                    data, at = self._move(at, length + WINDOW), 0
                    continue
                skimmed.take(key, data[value : value + length], vr, self._base + value)
            if key in GROUP_KEYS and skimmed.get("SOPClassUID") == _ENHANCED:
                data, at = self._groups(skimmed.frames, key, vr, at, value, length)
            elif length != UNDEFINED_LENGTH:
                at = value + length
            else:
                data, at = self._after_sequence(key, vr, at, value)

    def _groups(
        self, frames: SkimmedFrames, key: int, vr: bytes | None, at: int, value: int, length: int
    ) -> tuple[bytes, int]:
        """Read a sequence that tells of frames; return the window, and where in it it ends."""
        if vr not in (None, b"SQ"):
            raise UnusualEncodingError
        if length != UNDEFINED_LENGTH and value + length > len(self._data):
            self._move(at, value - at + length + WINDOW, GROUPS_MAX)
            at, value = 0, value - at
            if value + length > len(self._data):
                raise UnusualEncodingError
        while True:
            try:
                after = frames.take(
                    key, self._data, value, length, self.layouts, implicit=vr is None
                )
            except struct.error:
                if length != UNDEFINED_LENGTH:
                    raise
                self._move(at, _GROUPS_GROW * len(self._data), GROUPS_MAX)
                at, value = 0, value - at
            else:
                self._count(value, after)
                return self._data, after

    def _count(self, start: int, end: int) -> None:
        """Count the items of functional groups, if there could be more than are allowed."""
        if end - start > _LEAST_BYTES * current_limits().items:
            self._counted += end - start
            self._n_items += self._data.count(_ITEM_TAG, start, end)
            if self._data.count(_CHARACTER_SET, start, end):  # it could name any number of them
                raise UnusualEncodingError

    def _require_few(self, n_bytes: int) -> None:
        """Leave to pydicom what it would refuse: see `element_counts.require_bounded_size`."""
        allowed = current_limits()
        others = (n_bytes - self._counted) // _LEAST_BYTES
        if (
            n_bytes > min(allowed.extra, _LEAST_BYTES * allowed.elements)
            or self._n_items + others > allowed.items
        ):
            raise UnusualEncodingError

    def _after_sequence(self, key: int, vr: bytes | None, at: int, value: int) -> tuple[bytes, int]:
        """Return the window, and where in it a sequence of undefined length ends."""
        if vr is None:
            require_sequence(key, self._data, value)
        elif vr not in SEQUENCE_VRS:
            raise UnusualEncodingError
        while True:
            try:
                return self._data, after_sequence(self._data, value, implicit=vr is None)
            except struct.error:
                self._move(at, 2 * len(self._data))
                at, value = 0, value - at

    def _move(self, at: int, n_bytes: int, longest: int = WINDOW_MAX) -> bytes:
        """Let the window begin at its index `at`, and hold more than it did."""
        before = self._base + len(self._data)
        self._base += at
        if n_bytes > longest + WINDOW or self.size < self._base + 12:
            raise UnusualEncodingError
        self._file.seek(self._base)
        self._data = self._file.read(n_bytes)
        if self._base + len(self._data) <= before:
            raise UnusualEncodingError
        return self._data
