"""Skim a header by what it has in common with the one before, and decode what differs.

As `kspacesr_rt.dicom.fast.repeated_header` reads whole headers: where the bytes of elements are
those of a header that was skimmed from its beginning to its end, so is what they say. Whatever has
other elements, or is odd in any way, is skimmed from its beginning to its end, too.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from kspacesr_rt.dicom.fast.element_steps import (
    EXPLICIT,
    IMPLICIT,
    SEQUENCE_VRS,
    UNDEFINED_LENGTH,
    MetaOfSeries,
    UnusualEncodingError,
    after_sequence,
    explicit_value,
    key_of,
    looks_explicit,
    require_sequence,
)
from kspacesr_rt.dicom.fast.frame_layouts import FrameLayouts
from kspacesr_rt.dicom.fast.skim import Skim, SkimmedHeader
from kspacesr_rt.dicom.fast.skimmed import PER_SLICE, Skimmed, is_kept
from kspacesr_rt.dicom.fast.skimmed_frames import GROUP_KEYS, PER_FRAME
from kspacesr_rt.dicom.header import PIXEL_DATA

ATTEMPTS: Final = 8
"""Headers in a row that are learned without one between them that fits: what is different every
time is not worth the comparison."""
AGAIN: Final = 64
"""After them, one of so many is."""
_ODD: Final = (UnusualEncodingError, struct.error, IndexError, ValueError)
"""What stepping over elements raises where that cannot be done."""
_PIXELS: Final = key_of(PIXEL_DATA)
_DECISIVE: Final = frozenset({key_of(0x00080005), key_of(0x00080016)})
"""Character set and SOP Class: how a file is read hangs on them."""

KNOWN_MAX: Final = 4
"""Headers that others are compared to: folders hold files of several kinds in any order."""
TRIED: Final = 2
"""Of them, those of the files that are nearest in size."""
HEAD_MAX: Final = 1 << 20
"""Bytes before the pixels of a header that others are compared to, 1 MiB. Enhanced MR is compared
only if one read has all of its header: the items of longer ones have to be counted."""
_SLACK: Final = 1 << 10
"""By how much the header of another file may be longer and still be in what is read of it."""
JUDGED_MAX: Final = 256
"""Sets of headers that differ in what they have per slice alone: of so many series, say."""
_PER_SLICE: Final = frozenset(key_of(tag_for_keyword(keyword) or 0) for keyword in PER_SLICE)

_Span = tuple[int, bytes | None, int, int, int]
"""Key, value representation if that is there, where element and value begin, and where it ends."""


class RepeatedSkim:
    """Skims headers that come one after another; for any threads."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._known: tuple[_Known, ...] = ()
        """Headers that others are compared to, the one that last fitted first."""
        self._n_others = 0
        """Headers in a row that did not fit."""
        self._layouts = FrameLayouts()

    def read(self, skim: Skim) -> SkimmedHeader:
        """Return what `Skim.header` returns, or raise what it raises."""
        size, skim.layouts = skim.size, self._layouts
        nearest = sorted(self._known, key=lambda one: abs(one.size - size))[:TRIED]
        # What is longer than what was read of the file asks for another read, so it comes last.
        for known in sorted(nearest, key=lambda one: one.n_bytes > len(skim.beginning)):
            with suppress(_OtherElementsError, *_ODD):
                found = known.header(skim.beginning_of(known.n_bytes), size, self._layouts)
                self._n_others = 0
                if known is not self._known[0]:
                    self._known = (known, *(one for one in self._known if one is not known))
                return found
        found = skim.header()
        self._n_others += 1
        if self._n_others <= ATTEMPTS or self._n_others % AGAIN == 0:
            with suppress(_OtherElementsError, *_ODD):
                learned = _Known(self._beginning(skim, found), found, size)
                self._known = (learned, *self._known[: KNOWN_MAX - 1])
        return found

    @staticmethod
    def _beginning(skim: Skim, header: SkimmedHeader) -> bytes:
        """Return what stands before a file's pixels, or the beginning of it."""
        n_bytes = header.pixel_offset or 0
        if header.encapsulated or header.dataset.frames.n_frames or n_bytes > HEAD_MAX:
            return skim.beginning
        return skim.beginning_of(n_bytes)


class _OtherElementsError(Exception):
    """A header has other elements than the one it is compared to."""


class _Known:
    """A header in pieces, and what it says."""

    def __init__(self, data: bytes, header: SkimmedHeader, size: int) -> None:
        self.size = size
        self.n_bytes = (header.pixel_offset or 0) + _SLACK
        """Of another file's beginning that it is compared to."""
        self._skimmed = header.dataset
        self._implicit = header.dataset.implicit
        self._meta = MetaOfSeries(data)
        at = self._meta.end
        self._spans: list[tuple[int, bytes | None, bytes]] = []
        self._enhanced = header.dataset.frames.n_frames > 0
        while (span := _span(data, at, implicit=self._implicit))[0] != _PIXELS:
            key, vr, start, _, at = span
            if at > len(data):
                raise _OtherElementsError
            self._spans.append((key, vr, data[start:at]))
        if header.encapsulated or header.pixel_offset != span[3] or span[3] == span[4]:
            raise _OtherElementsError
        self._pixel_vr = span[1]
        self._varying: frozenset[int] = frozenset()
        self._runs = self._new_runs()
        self._judged: dict[tuple[object, ...], dict[object, Any]] = {}

    def _new_runs(self) -> list[tuple[bytes, list[tuple[int, bytes | None, bytes]]]]:
        """Return the elements joined as far as none between them was seen to vary."""
        runs: list[tuple[bytes, list[tuple[int, bytes | None, bytes]]]] = []
        joined = False
        for key, vr, raw in self._spans:
            if key not in self._varying and joined:
                before, elements = runs[-1]
                runs[-1] = (before + raw, [*elements, (key, vr, raw)])
            else:
                runs.append((raw, [(key, vr, raw)]))
            joined = key not in self._varying
        return runs

    def _span(self, data: bytes, at: int, skimmed: Skimmed, layouts: FrameLayouts) -> _Span:
        """Return what stands at a place, as `_span`; what of it tells of frames is taken."""
        if not self._enhanced or IMPLICIT(data, at)[0] not in GROUP_KEYS:
            return _span(data, at, implicit=self._implicit)
        key, vr, value, length = _element(data, at, implicit=self._implicit)
        if vr not in (None, b"SQ"):
            raise UnusualEncodingError
        if length != UNDEFINED_LENGTH and value + length > len(data):
            raise _OtherElementsError
        end = skimmed.frames.take(key, data, value, length, layouts, implicit=vr is None)
        return key, vr, at, value, end

    def header(self, data: bytes, size: int, layouts: FrameLayouts) -> SkimmedHeader:
        """See `RepeatedSkim.header`; raises `_OtherElementsError` if it does not fit."""
        at, implicit = self._meta.end_in(data), self._implicit
        if implicit == looks_explicit(data, at):
            raise _OtherElementsError
        changed: list[_Span] = []
        skimmed = self._skimmed.copy()
        for run, elements in self._runs:
            if data.startswith(run, at):
                at += len(run)
                continue
            for key, vr, raw in elements:
                if data.startswith(raw, at):
                    at += len(raw)
                    continue
                if key in _DECISIVE:
                    raise _OtherElementsError
                span = self._span(data, at, skimmed, layouts)
                if span[:2] != (key, vr) or span[4] > len(data):
                    raise _OtherElementsError
                changed.append(span)
                at = span[4]
        key, vr, _, value, end = _span(data, at, implicit=implicit)
        if (key, vr) != (_PIXELS, self._pixel_vr) or value == end:
            raise _OtherElementsError
        keys = {span[0] for span in changed}
        if not keys <= self._varying:
            self._varying |= keys
            self._runs = self._new_runs()
        if not changed:
            skimmed = self._skimmed
        others: list[tuple[int, bytes]] = []
        for key, vr, _, value_at, after in changed:
            if key in GROUP_KEYS and self._enhanced:
                if key != PER_FRAME:
                    others.append((key, data[value_at:after]))
            elif is_kept(key):
                said = data[value_at:after]
                skimmed.take(key, said, vr, value_at)
                if key not in _PER_SLICE:
                    others.append((key, said))
        n_bytes = min(end, size) - value
        return SkimmedHeader(
            dataset=skimmed,
            pixel_tag=PIXEL_DATA,
            pixel_bytes=n_bytes,
            pixel_offset=value,
            encapsulated=False,
            complete=end <= size,
            non_pixel_bytes=size - n_bytes,
            judged=self._judged_of((*others, *skimmed.frames.alike())),
        )

    def _judged_of(self, others: tuple[object, ...]) -> dict[object, Any]:
        """Return what those have in common that differ from this header in these elements."""
        if (found := self._judged.get(others)) is None:
            if len(self._judged) >= JUDGED_MAX:
                self._judged.clear()
            found = self._judged[others] = {}
        return found


def _span(data: bytes, at: int, *, implicit: bool) -> _Span:
    """Return what stands at a place; pixel data of undefined length end where they begin."""
    key, vr, value, length = _element(data, at, implicit=implicit)
    if length != UNDEFINED_LENGTH:
        return key, vr, at, value, value + length
    if key == _PIXELS:
        return key, vr, at, value, value
    if vr is None:
        require_sequence(key, data, value)
    elif vr not in SEQUENCE_VRS:
        raise UnusualEncodingError
    return key, vr, at, value, after_sequence(data, value, implicit=vr is None)


def _element(data: bytes, at: int, *, implicit: bool) -> tuple[int, bytes | None, int, int]:
    """Return key, value representation if that is there, place of the value, and its length."""
    if implicit:
        key, length = IMPLICIT(data, at)
        return key, None, at + 8, length
    key, vr, length = EXPLICIT(data, at)
    value, length = explicit_value(data, at + 8, vr, length)
    return key, vr, value, length
