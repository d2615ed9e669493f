"""A header as the bytes it came as, on its way from the source's file to the output's.

Most of a header is of no concern to a super-resolution, and what nobody asks for must neither
change nor cost the slice: a name whose bytes do not fit its character set, a private number of the
wrong length, a value representation that is newer than this program. So elements stay bytes, in
the one encoding that outputs have; they become values only for whoever asks, and only for him.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from struct import pack, unpack_from
from typing import Any, Final, TypeVar, cast

import numpy as np
from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_sequence
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.hooks import raw_element_vr
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from kspacesr_rt.dicom.character_sets import names_endless_character_sets, without_zeros
from kspacesr_rt.dicom.fast.element_steps import DEPTH_MAX, LONG_VRS, UNDEFINED_LENGTH, VRS
from kspacesr_rt.dicom.parse_errors import PARSE_ERRORS
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

_CHARACTER_SET: Final = 0x00080005
CHARACTER_SET: Final = BaseTag(_CHARACTER_SET)
Fact = TypeVar("Fact")
PIXEL_DATA: Final = 0x7FE00010
_ITEM: Final = b"\xfe\xff\x00\xe0"
_ITEM_END: Final = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
_SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_WORD_BYTES: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""Bytes whose order a big-endian file turns round."""
_ITEM_BYTES: Final = _WORD_BYTES | {"AT": 4}
"""Bytes of one number."""
TEXT_VRS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
)
"""Hold text; padded to an even length with a blank, others with a zero (PS3.5 6.2)."""
_SHORT_MAX: Final = 0xFFFE
"""Bytes of a value whose length has 16 bits; a longer one is written as UN (PS3.5 6.2.2)."""
_PLAIN_PADDING: Final = {
    "UI": b"\0",
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM"), b" "),
}
"""What texts of one value are padded with."""
_is_plain: Final = re.compile(r"[A-Za-z0-9 .,:;()\[\]/+_-]{1,1024}").fullmatch


class SharedValues:
    """What elements were found to mean that many data sets share; nothing else may change it."""

    def __init__(self, elements: Iterable[DataElement | RawDataElement]) -> None:
        """Take the elements that are shared: they are told by what they are, not what they say."""
        self._owned = {id(one): one for one in elements}
        self._made: dict[int, DataElement] = {}
        self._facts: dict[tuple[object, ...], Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedValues:
        return self

    def get(self, element: RawDataElement) -> DataElement | None:
        """Return what an element means, if that is known."""
        key = id(element)
        return self._made.get(key) if self._owned.get(key) is element else None

    def keep(self, element: RawDataElement, made: DataElement) -> bool:
        """Note what an element means, if it is one of those that are shared; return whether."""
        key = id(element)
        is_shared = self._owned.get(key) is element
        if is_shared:
            self._made[key] = made
        return is_shared

    def fact(
        self, of: RawHeader, tags: tuple[BaseTag, ...], make: Callable[[Dataset], Fact]
    ) -> Fact:
        """Return what follows from some elements of a data set; made once if they are shared."""
        found = [of._dict.get(tag) for tag in tags]
        owned = self._owned
        if any(one is not None and owned.get(id(one)) is not one for one in found):
            return make(of)
        key = (make, *map(id, found))
        if key not in self._facts:
            self._facts[key] = make(of)
        fact: Fact = self._facts[key]
        return fact


class RawHeader(Dataset):
    """A data set whose elements stay bytes, whoever asks for their values.

    A value that is asked for by `get` and cannot be made of the bytes counts as absent; by
    attribute, it raises. Setting an attribute replaces the element, whatever it came as.
    """

    _shared: SharedValues | None = None
    _made: dict[BaseTag, tuple[RawDataElement, DataElement]]
    """What elements mean that no other data set has, once somebody has asked."""

    def share_values(self, values: SharedValues) -> None:
        """Keep, and take, the values of elements that other data sets have as well.

        Those that this one alone has are kept from then on, too.
        """
        self._shared, self._made = values, {}

    def fact(self, tags: tuple[BaseTag, ...], make: Callable[[Dataset], Fact]) -> Fact:
        """Return what a function makes of this data set, given all elements that it looks at.

        What it makes of elements that many data sets share is made once; it may raise.
        """
        return make(self) if self._shared is None else self._shared.fact(self, tags, make)

    def __getitem__(self, key: Any) -> Any:
        """Return an element; see `pydicom.Dataset`."""
        if type(key) is not BaseTag:
            if isinstance(key, slice):
                return super().__getitem__(key)
            key = Tag(key)
        element = self._dict[key]
        if not isinstance(element, RawDataElement):
            return element
        if self._shared is not None:
            if (made := self._shared.get(element)) is not None:
                return made
            own = self._made.get(key)
            if own is not None and own[0] is element:
                return own[1]
        _require_short(element)
        known = int(element.tag) != _CHARACTER_SET and self.original_character_set
        with quiet_pydicom():
            found = convert_raw_data_element(element, encoding=known or default_encoding, ds=self)
            if " or " in found.VR:
                return correct_ambiguous_vr_element(found, self, element.is_little_endian)
        if self._shared is not None and not self._shared.keep(element, found):
            self._made[key] = element, found
        return found

    def __getattr__(self, name: str) -> Any:
        """Return the value of a keyword; see `pydicom.Dataset`."""
        tag = _tag_of(name)
        if tag is not None and tag in self._dict:
            return self[tag].value
        return super().__getattr__(name)

    def __contains__(self, name: object) -> bool:
        """Return whether there is an element; see `pydicom.Dataset`."""
        tag = _tag_of(name) if type(name) is str else None
        return super().__contains__(cast("str", name)) if tag is None else tag in self._dict

    def get_item(self, key: Any, *, keep_deferred: bool = False) -> Any:
        """Return an element as it is; see `pydicom.Dataset`."""
        tag = _tag_of(key) if type(key) is str else key
        if type(tag) is BaseTag:
            element = self._dict.get(tag)
            if element is None or element.value is not None:
                return element
        return super().get_item(key, keep_deferred=keep_deferred)

    def get(self, key: Any, default: Any = None) -> Any:
        """Return a value (of a keyword) or an element; `default` if it is absent or impossible."""
        tag = _tag_of(key) if type(key) is str else None
        if tag is not None and tag not in self._dict:
            return default
        try:
            return super().get(key, default)
        except PARSE_ERRORS:
            return default

    def __setattr__(self, name: str, value: Any) -> None:
        """Replace an element, or set an attribute of Python's."""
        if name[:1] == "_":  # what pydicom sets a dozen times for each data set
            object.__setattr__(self, name, value)
            return
        tag = _tag_of(name) if name[:1].isupper() else None
        if tag is None:
            super().__setattr__(name, value)
        else:
            self[tag] = DataElement(tag, dictionary_VR(tag), value)


@lru_cache(maxsize=1 << 12)
def shared_tag(tag: int) -> BaseTag:
    """Return a tag as one object for all: to compare others takes a call of Python each."""
    return BaseTag(tag)


@lru_cache(maxsize=1 << 10)
def _tag_of(keyword: str) -> BaseTag | None:
    """Return the tag of a keyword, always the same object; None if it is none."""
    tag = tag_for_keyword(keyword)
    return None if tag is None else shared_tag(tag)


def shared_tags(*keywords: str) -> tuple[BaseTag, ...]:
    """Return the tags of keywords that the dictionary of DICOM has."""
    return tuple(tag for keyword in keywords if (tag := _tag_of(keyword)) is not None)


def fact_of(dataset: Dataset, tags: tuple[BaseTag, ...], make: Callable[[Dataset], Fact]) -> Fact:
    """Return what a function makes of a data set, as `RawHeader.fact` where it is one."""
    return dataset.fact(tags, make) if isinstance(dataset, RawHeader) else make(dataset)


def _require_short(raw: RawDataElement) -> None:
    """Raise ValueError for bytes that no value of their kind has, before an object is made of each.

    PS3.5 7.1.2 gives numbers and texts of one line 16 bits of length; implicit files, and elements
    coded as unknown, have been seen to claim megabytes, which took minutes.
    """
    if len(raw.value or b"") <= _SHORT_MAX:
        return
    vr = str(raw.VR)
    if raw.VR in (None, "UN"):
        vr = dictionary_VR(raw.tag) if dictionary_has_tag(raw.tag) else "LO"
    if all(one.encode() not in LONG_VRS for one in vr.split(" or ")):
        raise ValueError("a value is longer than its kind may be")


def header_view(source: Dataset) -> RawHeader:
    """Return a data set of the same elements, in whatever encoding they are, to be asked."""
    view = RawHeader(source)
    implicit, little = found_encoding(source)
    view.set_original_encoding(implicit, little, source.original_character_set)
    view.file_meta = source.file_meta
    return view


def found_encoding(source: Dataset) -> tuple[bool, bool]:
    """Return whether the elements are implicit and little-endian, whatever the file says."""
    for tag in list(source.keys()):
        element = source.get_item(tag, keep_deferred=True)  # else an empty one is converted
        if isinstance(element, RawDataElement):
            return bool(element.is_implicit_VR), bool(element.is_little_endian)
    implicit, little = source.original_encoding
    return bool(implicit), bool(little)


def raw_header(source: Dataset) -> RawHeader:
    """Return a data set with the same elements, as Explicit VR Little Endian has them.

    Parameters
    ----------
    source
        As pydicom has read it, from any transfer syntax. Its pixel data stay as they are.

    Returns
    -------
        Elements are bytes, or sequences of items that are `RawHeader`. A sequence that cannot be
        read, or is nested too deeply, stays a `RawDataElement`. `file_meta` is shared.
    """
    twin = _raw_header(source, signed=None, depth=0)
    if hasattr(source, "file_meta"):
        twin.file_meta = source.file_meta
    return twin


def header_copy(source: Dataset) -> RawHeader:
    """Return a copy of what `raw_header` returned, without what it remembers of a file.

    Its elements and the items of its sequences are its own; their values are shared, and are to be
    replaced, not changed.
    """
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for tag in sorted(source.keys()):
        element = source.get_item(tag)
        if not isinstance(element, RawDataElement):  # those nobody can change
            element = copy.copy(element)  # copy.deepcopy took a third of the time of a slice
            if element.VR == "SQ":
                element.value = Sequence([header_copy(item) for item in element.value])
        elements[tag] = element
    twin = RawHeader(elements)
    twin.set_original_encoding(False, True, source.original_character_set)
    return twin


def selected_elements(source: Dataset, keep: Callable[[BaseTag], bool] = bool) -> RawHeader:
    """Return a data set with some elements of another, by default all, as they are."""
    elements: dict[BaseTag, DataElement | RawDataElement] = {
        tag: source.get_item(tag) for tag in sorted(source.keys()) if keep(tag)
    }
    twin = RawHeader(elements)
    twin.set_original_encoding(False, True, source.original_character_set)
    return twin


def _raw_header(source: Dataset, *, signed: int | None, depth: int) -> RawHeader:
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    signed = sign_of(source, signed)
    for tag in sorted(source.keys()):
        element = source.get_item(tag, keep_deferred=True)
        if tag == PIXEL_DATA and depth == 0:
            elements[tag] = element
        elif isinstance(element, RawDataElement):
            elements[tag] = raw_element(element, source, signed=signed, depth=depth)
        elif element.VR == "SQ":
            elements[tag] = _raw_items(element, element.value, signed=signed, depth=depth)
        else:
            elements[tag] = copy.copy(element)
    twin = RawHeader(elements)
    twin.set_original_encoding(False, True, source.original_character_set)
    return twin


def sign_of(source: Dataset, around: int | None = None) -> int | None:
    """Return Pixel Representation, which decides the VR of some values, or that of around."""
    if "PixelRepresentation" not in source:
        return around
    raw = source.get_item("PixelRepresentation")
    value = raw.value
    return value[0] | value[-1] if isinstance(value, bytes) and value else around


def _raw_items(
    element: DataElement, items: Sequence, *, signed: int | None, depth: int
) -> DataElement | RawDataElement:
    if depth >= DEPTH_MAX:
        return RawDataElement(element.tag, "SQ", 0, b"", 0, False, True)
    inner = [_raw_header(item, signed=signed, depth=depth + 1) for item in items]
    return DataElement(element.tag, "SQ", Sequence(inner))  # of defined length, however it came


def raw_element(
    raw: RawDataElement, source: Dataset, *, signed: int | None, depth: int = 0
) -> DataElement | RawDataElement:
    """Return an element as `raw_header` does; `source` and `signed` say how it is understood."""
    vr = _vr(raw, source, signed)
    value = raw.value or b""
    # An implicit file does not say of private sequences that they are some.
    if vr == "SQ" or (vr == "UN" and raw.VR is None and value.startswith(_ITEM)):
        try:
            items = items_of(raw, source)
        except (OSError, *PARSE_ERRORS):
            return RawDataElement(raw.tag, vr, len(value), value, 0, False, True)
        element = DataElement(raw.tag, "SQ", Sequence())
        return _raw_items(element, items, signed=signed, depth=depth)
    if not raw.is_little_endian:
        value = _swapped(vr, value)
    if len(value) % 2:
        value += b" " if vr in TEXT_VRS else b"\0"
    return RawDataElement(raw.tag, vr, len(value), value, raw.value_tell, False, True)


def _vr(raw: RawDataElement, source: Dataset, signed: int | None) -> str:
    """Return the VR that an explicit file says, or the one that an implicit file means."""
    vr = str(raw.VR)
    if raw.VR is None or raw.VR == "UN" or vr.encode() not in VRS:
        found: dict[str, Any] = {}
        raw_element_vr(raw if raw.VR is None else raw._replace(VR="UN"), found, ds=source)
        vr = str(found["VR"])
    if " or " in vr:
        vr = _one_of(vr, raw, source, signed)
    # Numbers of a wrong length are bytes of unknown meaning: dciodvfy gives up at them.
    return "UN" if len(raw.value or b"") % _ITEM_BYTES.get(vr, 1) else vr


def _one_of(vr: str, raw: RawDataElement, source: Dataset, signed: int | None) -> str:
    """Decide between the VRs that the dictionary leaves open, as pydicom does."""
    around = Dataset()
    for keyword in ("LUTDescriptor", "BitsAllocated", "WaveformBitsAllocated"):
        if keyword in source:
            around.add(copy.copy(source.get_item(keyword)))
    around.PixelRepresentation = signed or 0
    try:
        # Its beginning: the whole is converted, and the elements around decide.
        element = DataElement(raw.tag, vr, (raw.value or b"")[:8])
        decided = str(correct_ambiguous_vr_element(element, around, raw.is_little_endian).VR)
    except (AttributeError, *PARSE_ERRORS):
        decided = vr
    return decided if len(decided) == 2 else vr.rsplit(" or ", 1)[-1]


def items_of(raw: RawDataElement, source: Dataset) -> Sequence:
    """Return the items of a sequence of defined length, not yet raw headers.

    Raises
    ------
    OSError, Exception
        One of `kspacesr_rt.dicom.parse_errors.PARSE_ERRORS`, if it is none.
    """
    value = raw.value or b""
    _require_items(value, "<HHL" if raw.is_little_endian else ">HHL")
    if names_endless_character_sets(value):
        raise ValueError("an item names more character sets than there are")
    try:
        return _read_items(value, raw, source)
    except PARSE_ERRORS:
        if not (zeros := without_zeros(value)):
            raise
        mended = bytearray(value)
        for at, replaced in zeros.items():
            mended[at : at + len(replaced)] = replaced
        return _read_items(bytes(mended), raw, source)


def _read_items(value: bytes, raw: RawDataElement, source: Dataset) -> Sequence:
    return read_sequence(
        BytesIO(value),
        bool(raw.is_implicit_VR),
        bool(raw.is_little_endian),
        len(value),
        source.original_character_set or default_encoding,
    )


def _require_items(value: bytes, head: str) -> None:
    """Raise if a sequence is not made of whole items: pydicom reads whatever stands there."""
    at = 0
    while at < len(value):
        group, element, length = unpack_from(head, value, at)
        if (group, element) == (0xFFFE, 0xE0DD) or length == UNDEFINED_LENGTH:
            return
        at += 8 + length
        if (group, element) != (0xFFFE, 0xE000) or at > len(value):
            raise ValueError("a sequence holds something else than items")


def _swapped(vr: str, value: bytes) -> bytes:
    word = _WORD_BYTES.get(vr, 1)
    n_bytes = len(value) // word * word
    words = np.frombuffer(value[:n_bytes], dtype=f"u{word}")
    return words.byteswap().tobytes() + value[n_bytes:]


def write_elements(
    buffer: DicomBytesIO, dataset: Dataset, character_set: str | list[str] = default_encoding
) -> None:
    """Write a data set, Explicit VR Little Endian, after its file meta or as an item.

    What `pydicom.dcmwrite` does, but bytes stay what they are.

    Parameters
    ----------
    buffer
        Where to.
    dataset
        From `raw_header`, with elements of our own.
    character_set
        Of the data set around an item, Python's names or DICOM's.

    Raises
    ------
    Exception
        One of `kspacesr_rt.dicom.parse_errors.PARSE_ERRORS`, if a value cannot be written.
    """
    character_set = dataset.get("SpecificCharacterSet") or character_set
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.is_little_endian and not element.is_implicit_VR:
                buffer.write(element_bytes(element))
                continue
            element = dataset[tag]
        if element.VR == "SQ":
            _write_sequence(buffer, element, character_set)
        elif (plain := plain_element_bytes(element)) is not None:
            buffer.write(plain)
        else:
            write_data_element(buffer, element, character_set)


def plain_element_bytes(element: DataElement) -> bytes | None:
    """Return one text or number as `pydicom` writes it to an explicit little-endian file.

    None, for `pydicom` to write it, unless it is a short text of letters, digits and marks that
    are the same bytes in every character set (PS3.3 C.12.1.1.2), or an unsigned 16-bit number.
    """
    value, padding = element.value, _PLAIN_PADDING.get(str(element.VR))
    content: bytes
    if padding is not None and type(value) in (str, UID) and _is_plain(value):
        content = value.encode("ascii")
        content += padding * (len(content) % 2)
    elif element.VR == "US" and type(value) is int and 0 <= value <= 0xFFFF:
        content = pack("<H", value)
    else:
        return None
    tag = int(element.tag)
    head = pack("<HH2sH", tag >> 16, tag & 0xFFFF, str(element.VR).encode(), len(content))
    return head + content


def element_bytes(raw: RawDataElement) -> bytes:
    """Return an element from `raw_header` as an explicit little-endian file has it."""
    value, vr = raw.value or b"", str(raw.VR).encode()
    if vr not in LONG_VRS and len(value) > _SHORT_MAX:
        vr = b"UN"
    length = pack("<HL", 0, len(value)) if vr in LONG_VRS else pack("<H", len(value))
    return pack("<HH", raw.tag.group, raw.tag.element) + vr + length + value


def _write_sequence(
    buffer: DicomBytesIO, element: DataElement, character_set: str | list[str]
) -> None:
    content = DicomBytesIO()
    content.is_little_endian, content.is_implicit_VR = True, False
    for item in element.value:
        inner = DicomBytesIO()
        inner.is_little_endian, inner.is_implicit_VR = True, False
        write_elements(inner, item, character_set)
        value, open_end = (
            inner.getvalue(),
            getattr(item, "is_undefined_length_sequence_item", False),
        )
        length = UNDEFINED_LENGTH if open_end else len(value)
        content.write(_ITEM + pack("<L", length) + value + (_ITEM_END if open_end else b""))
    value = content.getvalue()
    length = UNDEFINED_LENGTH if element.is_undefined_length else len(value)
    head = pack("<HH2sHL", element.tag.group, element.tag.element, b"SQ", 0, length)
    buffer.write(head + value + (_SEQUENCE_END if element.is_undefined_length else b""))
