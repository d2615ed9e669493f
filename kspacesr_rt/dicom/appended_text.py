"""Append our words to a text of the source, whose bytes may fit no character set.

What we add is ASCII, which every character set of DICOM holds (PS3.3 C.12.1.1.2); so where there is
room, it is appended to the bytes, and the text before it stays what it was. Only a text that has to
be cut is decoded, since its length counts in characters.
"""

from __future__ import annotations

import re
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, encode_string
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import TEXT_VR_DELIMS

from kspacesr_rt.dicom.parse_errors import PARSE_ERRORS
from kspacesr_rt.dicom.raw_header import TEXT_VRS

_ESCAPE: Final = b"\x1b"
_TO_ASCII: Final = b"\x1b(B"
_DESIGNATION: Final = re.compile(rb"\x1b(?:\(.|\$[@B]|\$\(.)")
"""An escape sequence that says what bytes below 0x80 mean (PS3.3 table C.12-3)."""
_SINGLE_VALUED: Final = frozenset({"LT", "ST", "UT"})
"""In these, a backslash is a character (PS3.5 6.2)."""


def add_text(dataset: Dataset, keyword: str, ours: str, *, joint: str, limit: int) -> None:
    """Let a text attribute end in words of ours.

    Parameters
    ----------
    dataset
        Changed in place. What its attribute held before, if it is text, stays before the joint;
        several values become one, blanks between them.
    keyword
        Of an attribute with one value.
    ours
        ASCII.
    joint
        What stands between, ASCII.
    limit
        Characters in all. The text is cut, ours is not.
    """
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    vr = dictionary_VR(tag)
    element = dataset.get_item(tag) if tag in dataset else None
    if not isinstance(element, RawDataElement) or element.VR not in TEXT_VRS:
        dataset[tag] = DataElement(tag, vr, _added(_text(element), ours, joint, limit))
        return
    encodings = convert_encodings(dataset.original_character_set or default_encoding)
    room = limit - len(joint) - len(ours)
    theirs = (element.value or b"").strip(b" \0")
    kept = _kept(theirs, encodings, room, several=vr not in _SINGLE_VALUED)
    start = kept + _back_to_ascii(kept) + joint.encode("ascii") if kept else b""
    value = start + ours.encode("ascii")
    value += b" " * (len(value) % 2)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def decoded_text(dataset: Dataset, keyword: str) -> str:
    """Return a text without padding; bytes that fit no character set, as Latin-1 has them."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    if not isinstance(element, RawDataElement):
        return str(element.value or "").strip() if element is not None else ""
    value = (element.value or b"").strip(b" \0")
    text = _decoded(value, convert_encodings(dataset.original_character_set or default_encoding))
    return value.decode("latin-1") if text is None else text


def _text(element: DataElement | RawDataElement | None) -> str:
    """Return the text of an element that is a value, or no text at all."""
    if element is None or isinstance(element, RawDataElement) or element.VR not in TEXT_VRS:
        return ""
    if isinstance(element.value, MultiValue):
        return " ".join(str(one) for one in element.value if one)
    return str(element.value or "")


def _added(text: str, ours: str, joint: str, limit: int) -> str:
    kept = text.strip()[: max(limit - len(joint) - len(ours), 0)]
    return f"{kept}{joint}{ours}" if kept else ours


def _kept(value: bytes, encodings: list[str], room: int, *, several: bool) -> bytes:
    """Return as much of a text as there is room for, unchanged if it fits."""
    text = _decoded(value, encodings)
    if text is None:
        if len(value) <= room:
            return value
        # Where characters begin cannot be told, but a blank is part of none.
        return value[: value.rfind(b" ", 0, room + 1) + 1].rstrip(b" ")
    one = " ".join(filter(None, text.split("\\"))) if several else text
    if one == text and len(text) <= room:
        return value
    one = one[: max(room, 0)].rstrip()
    try:
        encoded = encode_string(one, encodings)
    except PARSE_ERRORS:
        return b""
    return encoded if _decoded(encoded, encodings) == one else b""


def _decoded(value: bytes, encodings: list[str]) -> str | None:
    """Return a text, or None if the bytes do not fit the character set."""
    if value.isascii() and _ESCAPE not in value:
        return value.decode("ascii")
    if encodings == [default_encoding]:
        return None
    try:
        text = decode_bytes(value, encodings, TEXT_VR_DELIMS)
    except PARSE_ERRORS:
        return None
    return None if "\ufffd" in text or "\x1b" in text else text


def _back_to_ascii(value: bytes) -> bytes:
    """Return what must stand between a text and words in ASCII."""
    found = _DESIGNATION.findall(value)
    return _TO_ASCII if found and found[-1] not in (_TO_ASCII, b"\x1b(J") else b""
