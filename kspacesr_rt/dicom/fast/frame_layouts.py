"""Read functional groups by what frames of a file have in common: their layout.

A thousand frames have the same elements at the same places, and differ in a few values. So the
groups of one frame are walked through element by element, and from them a layout is made: all tags,
value representations, lengths and delimiters on the way, and the values that triage asks for. Other
frames are compared to it, at their places, and where all of that is the same, they say the same;
only where their plane lies is read of each. What fits no layout is walked through itself. Whatever
is odd is an `UnusualEncodingError`: such a file is left to pydicom.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword

from kspacesr_rt.dicom.fast.element_steps import (
    EXPLICIT,
    IMPLICIT,
    LENGTH,
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
from kspacesr_rt.dicom.fast.plain_values import DECODERS, Plain

PLANE_POSITION: Final = "PlanePositionSequence"
FRAME_KEYWORDS: Final = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    PLANE_POSITION: ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "MRImageFrameTypeSequence": (
        *("FrameType", "ComplexImageComponent", "VolumeBasedCalculationTechnique"),
    ),
    "MRFOVGeometrySequence": (
        *("MRAcquisitionFrequencyEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane"),
    ),
}
"""What triage asks of a frame's functional groups."""

GroupValues = dict[str, dict[str, Plain | None]]
"""The values of `FRAME_KEYWORDS`, by group, as far as they are there; None for an empty one."""

KNOWN_MAX: Final = 8
"""Layouts that a frame is compared to: of several kinds of files, or of frames, in any order."""
POSITION_MAX: Final = 64
"""Bytes of a position whose length others may have instead: three decimal strings have 50."""
_RUN_BEGINS: Final = 16
"""Frames alike one after another from which on many are compared at once."""
_RUN_GROWS: Final = 8
"""How many times as many are tried then as were alike before."""

_ITEM, _ITEM_END, _SEQUENCE_END = (key_of(tag) for tag in (0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD))
_DELIMITERS: Final = 0xFFFE
_CHARACTER_SET: Final = key_of(0x00080005)
_POSITION: Final = key_of(0x00200032)
_SHORT: Final = struct.Struct("<H")
_LONG: Final = struct.Struct("<L")


def _key(keyword: str) -> int:
    return key_of(tag_for_keyword(keyword) or 0)


_MACROS: Final = {
    _key(macro): (macro, {_key(one): (one, dictionary_VR(one)) for one in keywords})
    for macro, keywords in FRAME_KEYWORDS.items()
}


class FrameKind:
    """What frames say that differ in nothing but the position of their plane."""

    __slots__ = ("values",)

    def __init__(self, values: GroupValues) -> None:
        self.values = values
        """Of the groups that a frame has by itself; without the position."""


class _Walk:
    """Goes through the functional groups of a frame, and notes what others have to repeat."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.kept: list[tuple[int, int]] = []
        """From where to where."""
        self.around: list[tuple[int, struct.Struct]] = []
        """Where the lengths of the position, and of all that it is in, stand, and their form."""
        self.position: tuple[int, int] | None = None
        """Where its value begins, and its bytes."""
        self.values: GroupValues = {}

    def frame(self, at: int, *, implicit: bool) -> int:
        """Go through an item of functional groups; return where it ends."""
        start, seen = at, set[int]()
        at, end = self._item(at, implicit=implicit)
        while at != end:
            key, vr, value, length = self._element(at, implicit=implicit)
            if key == _ITEM_END and end is None:
                at = value
                break
            if key not in _MACROS:
                at = self._after(key, vr, value, length, depth=0)
            else:
                if vr not in (None, b"SQ") or key in seen:
                    raise UnusualEncodingError
                seen.add(key)
                had = self.position
                at = self._macro(key, value, length, implicit=implicit)
                if self.position is not had:
                    self._note(value - 4, length)
            self._require_within(at, end)
        if self.position is not None:
            self._note(start + 4, LENGTH(self._data, start + 4)[0])
        return at

    def _macro(self, key: int, at: int, length: int, *, implicit: bool) -> int:
        name, keywords = _MACROS[key]
        end = None if length == UNDEFINED_LENGTH else at + length
        if at == end:  # no item: as if it were not there
            return at
        if end is None and IMPLICIT(self._data, at)[0] == _SEQUENCE_END:
            return self._sequence_end(at)
        self.values[name] = values = dict[str, Plain | None]()
        item, had = at, self.position
        at, inner = self._item(at, implicit=implicit)
        while at != inner:
            key, vr, value, n_bytes = self._element(at, implicit=implicit)
            if key == _ITEM_END and inner is None:
                at = value
                break
            if key not in keywords:
                at = self._after(key, vr, value, n_bytes, depth=1)
            else:
                keyword, usual = keywords[key]
                at = value + n_bytes  # one of undefined length leads past the end
                if keyword in values or (vr is not None and VRS[vr] != usual):
                    raise UnusualEncodingError
                self._require_within(at, inner)
                if key == _POSITION:
                    if not 0 < n_bytes <= POSITION_MAX:
                        raise UnusualEncodingError
                    self.position = value, n_bytes
                    self._note(value - (4 if vr is None else 2), n_bytes, short=vr is not None)
                else:
                    self._keep(value, at)
                    said = self._data[value:at]
                    values[keyword] = DECODERS[usual](said) if said else None
            self._require_within(at, inner)
        if self.position is not had:
            self._note(item + 4, LENGTH(self._data, item + 4)[0])
        if end is None:
            return self._sequence_end(at)
        if at != end:
            raise UnusualEncodingError
        return at

    def _note(self, at: int, length: int, *, short: bool = False) -> None:
        if length != UNDEFINED_LENGTH:
            self.around.append((at, _SHORT if short else _LONG))

    def _keep(self, start: int, end: int) -> None:
        if self.kept and self.kept[-1][1] == start:
            self.kept[-1] = self.kept[-1][0], end
        else:
            self.kept.append((start, end))

    def _require_within(self, at: int, end: int | None) -> None:
        if end is not None and at > end:
            raise UnusualEncodingError
        if at > len(self._data):
            raise struct.error

    def _item(self, at: int, *, implicit: bool) -> tuple[int, int | None]:
        """Return where the elements of an item begin, and where they end if it tells."""
        key, length = IMPLICIT(self._data, at)
        self._keep(at, at + 8)
        at += 8
        if key != _ITEM:
            raise UnusualEncodingError
        if length == UNDEFINED_LENGTH or length:
            if len(self._data) < at + 8:
                raise struct.error
            empty = IMPLICIT(self._data, at) == (_ITEM_END, 0)
            if not implicit and not empty and not looks_explicit(self._data, at):
                raise UnusualEncodingError
        return at, None if length == UNDEFINED_LENGTH else at + length

    def _sequence_end(self, at: int) -> int:
        if IMPLICIT(self._data, at) != (_SEQUENCE_END, 0):
            raise UnusualEncodingError
        self._keep(at, at + 8)
        return at + 8

    def _element(self, at: int, *, implicit: bool) -> tuple[int, bytes | None, int, int]:
        """Return key, value representation if it is there, place of the value, and its length."""
        key, length = IMPLICIT(self._data, at)
        value, vr = at + 8, None
        if key & 0xFFFF == _DELIMITERS:
            if (key, length) != (_ITEM_END, 0):
                raise UnusualEncodingError
        elif key == _CHARACTER_SET:
            raise UnusualEncodingError
        elif not implicit:
            _, vr, length = EXPLICIT(self._data, at)
            value, length = explicit_value(self._data, value, vr, length)
        self._keep(at, value)
        return key, vr, value, length

    def _after(self, key: int, vr: bytes | None, value: int, length: int, *, depth: int) -> int:
        """Return where an element ends that nothing is asked of."""
        if key & 0xFFFF == _DELIMITERS:
            raise UnusualEncodingError
        if length != UNDEFINED_LENGTH:
            return value + length
        if vr is None:
            require_sequence(key, self._data, value)
        elif vr not in SEQUENCE_VRS:
            raise UnusualEncodingError
        return after_sequence(self._data, value, implicit=vr is None, depth=depth, note=self._keep)


class _Layout:
    """What frames have to repeat that have a position of as many bytes."""

    __slots__ = ("_kept", "_spans", "_unpack", "position", "size")

    def __init__(
        self, spans: list[tuple[int, bytes]], size: int, position: tuple[int, int] | None
    ) -> None:
        self._spans = spans
        form, at = "<", 0
        for offset, kept in spans:
            form += f"{offset - at}x{len(kept)}s"
            at = offset + len(kept)
        self._unpack = struct.Struct(f"{form}{size - at}x").unpack_from
        self._kept = tuple(kept for _, kept in spans)
        self.size = size
        """Bytes of a frame's item."""
        self.position = position
        """Where in it the position begins and ends."""

    def fits(self, data: bytes, at: int) -> bool:
        """Return whether an item that begins at a place, as long as this, is laid out so."""
        return self._unpack(data, at) == self._kept

    def fitting(self, data: bytes, at: int, n_items: int) -> int:
        """Return how many of so many items, one after another, are laid out so."""
        items = np.frombuffer(data, np.uint8, n_items * self.size, at).reshape(n_items, -1)
        alike = np.ones(n_items, bool)
        for offset, kept in self._spans:
            wanted = np.frombuffer(kept, np.uint8)
            alike &= (items[:, offset : offset + len(kept)] == wanted).all(axis=1)
        return n_items if alike.all() else int(alike.argmin())


class _Layouts:
    """What was learned of one frame: its layout, and that with a position of another length."""

    def __init__(self, data: bytes, start: int, *, implicit: bool) -> None:
        """Walk through an item that begins at `start`.

        Raises
        ------
        UnusualEncodingError
            If it is left to pydicom.
        struct.error
            If the data end before it does.
        """
        walk = _Walk(data)
        end = walk.frame(start, implicit=implicit)
        self.implicit = implicit
        self.kind = FrameKind(walk.values)
        self._item = data[start:end]
        self._spans = [(first - start, last - start) for first, last in walk.kept]
        self._around = [(at - start, form) for at, form in walk.around]
        self._position = None
        if walk.position is not None:
            value, n_bytes = walk.position
            self._position = value - start, n_bytes
        self._by_length: dict[int, _Layout] = {}

    def fitting(self, data: bytes, at: int) -> _Layout | None:
        """Return the layout of an item that begins at a place, if it is one of these."""
        n_bytes = 0
        if self._position is not None:
            place, form = self._around[0]
            if at + place + form.size > len(data):
                return None
            (n_bytes,) = form.unpack_from(data, at + place)
        layout = self._by_length.get(n_bytes)
        if layout is None:
            if n_bytes > POSITION_MAX:
                return None
            layout = self._by_length[n_bytes] = self._with_position_of(n_bytes)
        if at + layout.size > len(data):
            return None
        return layout if layout.fits(data, at) else None

    def _with_position_of(self, n_bytes: int) -> _Layout:
        item, size = bytearray(self._item), len(self._item)
        if self._position is None:
            return _Layout([(one, self._item[one:end]) for one, end in self._spans], size, None)
        place, had = self._position
        longer = n_bytes - had
        for at, form in self._around:
            (length,) = form.unpack_from(item, at)
            form.pack_into(item, at, length + longer)
        spans = [
            (first + (longer if first > place else 0), bytes(item[first:last]))
            for first, last in self._spans
        ]
        return _Layout(spans, size + longer, (place, place + n_bytes))


class FrameLayouts:
    """Reads the functional groups of files, one after another; for any threads."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._known: tuple[_Layouts, ...] = ()
        """The one that last fitted first."""

    def read(
        self, data: bytes, at: int, end: int | None, *, implicit: bool
    ) -> tuple[dict[FrameKind, tuple[int, list[bytes]]], int, int]:
        """Read a Per-Frame Functional Groups Sequence.

        Parameters
        ----------
        data
            What it stands in.
        at, end
            Where its first item begins, and where its last one ends, if that is known: else it
            ends with a delimiter.
        implicit
            Whether value representations are not there.

        Returns
        -------
            Of each kind of frames the first, counted from 1, and the bytes of their positions if
            they have some of their own; how many frames there are; and where the sequence ends.

        Raises
        ------
        UnusualEncodingError
            If it is left to pydicom.
        struct.error
            If the data end before the sequence does.
        """
        kinds: dict[FrameKind, tuple[int, list[bytes]]] = {}
        limit = len(data) if end is None else end
        layouts = before = None
        positions: list[bytes] = []
        n_frames = n_alike = 0
        while at != end:
            if end is None and IMPLICIT(data, at)[0] == _SEQUENCE_END:
                return kinds, n_frames, at + 8
            layout = None if layouts is None else layouts.fitting(data, at)
            if layout is None:
                layouts, layout = self._of(data, at, implicit=implicit)
                _, positions = kinds.setdefault(layouts.kind, (n_frames + 1, []))
            n_items, size = 1, layout.size
            if layout is not before:
                before, n_alike = layout, 0
            elif (n_alike := n_alike + 1) >= _RUN_BEGINS:
                wanted = min((limit - at) // size, _RUN_GROWS * n_alike)
                if wanted > 1:  # its first is known to fit
                    n_items = layout.fitting(data, at, wanted)
                    n_alike = n_alike + n_items if n_items == wanted else 0
            last = at + n_items * size
            if last > limit:
                if end is None:
                    raise struct.error
                raise UnusualEncodingError
            if layout.position is not None:
                first, behind = layout.position
                positions += [data[one + first : one + behind] for one in range(at, last, size)]
            n_frames += n_items
            at = last
        return kinds, n_frames, at

    def _of(self, data: bytes, at: int, *, implicit: bool) -> tuple[_Layouts, _Layout]:
        known = self._known
        for layouts in known:
            if layouts.implicit == implicit and (layout := layouts.fitting(data, at)) is not None:
                if layouts is not known[0]:
                    self._known = (layouts, *(one for one in known if one is not layouts))
                return layouts, layout
        learned = _Layouts(data, at, implicit=implicit)
        self._known = (learned, *known[: KNOWN_MAX - 1])
        if (layout := learned.fitting(data, at)) is None:
            raise UnusualEncodingError
        return learned, layout


def shared_values(
    data: bytes, at: int, end: int | None, *, implicit: bool
) -> tuple[GroupValues, int]:
    """Read a Shared Functional Groups Sequence; see `FrameLayouts.read`.

    Returns
    -------
        What its only item says, the position with the rest, and where it ends.
    """
    if at == end:
        return {}, at
    walk = _Walk(data)
    at = walk.frame(at, implicit=implicit)
    if end is None:
        if IMPLICIT(data, at) != (_SEQUENCE_END, 0):
            raise UnusualEncodingError
        at += 8
    elif at != end:
        raise UnusualEncodingError
    if walk.position is not None:
        first, n_bytes = walk.position
        said = DECODERS["DS"](data[first : first + n_bytes])
        walk.values[PLANE_POSITION]["ImagePositionPatient"] = said
    return walk.values, at
