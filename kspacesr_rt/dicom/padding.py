"""Values that differ in their padding alone are equal: write them alike before they are compared.

Only what is compared is written so; files keep the bytes that came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from kspacesr_rt.dicom.character_sets import BYTES_MAX
from kspacesr_rt.dicom.raw_header import TEXT_VRS, RawHeader

_LEADING_TOO: Final = frozenset({"AE", "CS", "DS", "IS", "LO", "SH"})
"""In these, blanks in front do not count either."""
_SINGLE_VALUED: Final = frozenset({"LT", "ST", "UR", "UT"})
"""In these, a backslash separates nothing."""


def plainly_padded(dataset: Dataset) -> RawHeader:
    """Return a data set whose texts and UIDs are padded to an even length and no further.

    Parameters
    ----------
    dataset
        From `raw_header`; not changed. Values of other kinds are shared.

    References
    ----------
    .. [1] PS3.5 6.2 (which blanks are padding), 9.1 (UIDs are padded with one NUL)
    """
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            element = padded_bytes(element)
        elif element.VR == "SQ":
            element = DataElement(tag, "SQ", _items_padded(element.value))
        elements[tag] = element
    twin = RawHeader(elements)
    twin.set_original_encoding(False, True, dataset.original_character_set)
    return twin


def _items_padded(items: Iterable[Dataset]) -> Sequence:
    return Sequence([plainly_padded(item) for item in items])


def padded_bytes(element: RawDataElement) -> RawDataElement:
    """Return an element as `plainly_padded` has it."""
    vr, value = element.VR or "", element.value
    if not value or not (vr == "UI" or vr in TEXT_VRS):
        return element
    if len(value) > BYTES_MAX and vr not in _SINGLE_VALUED:
        return element  # no value of its kind: fifteen million of them took half a minute
    if vr == "UI":
        plain = b"\\".join(map(_ended, value.split(b"\\")))
        plain += b"\0" * (len(plain) % 2)
    else:
        plain = _without_blanks(value, vr)
        plain += b" " * (len(plain) % 2)
    if plain == value:
        return element
    return element._replace(value=plain, length=len(plain))


def _without_blanks(value: bytes, vr: str) -> bytes:
    # Beyond ASCII, the byte of a backslash may be half of a character; that of a blank never is.
    several = vr not in _SINGLE_VALUED and value.isascii() and b"\x1b" not in value
    return b"\\".join(
        one.lstrip(b" ") if vr in _LEADING_TOO else one
        for one in map(_ended, value.split(b"\\") if several else [value])
    )


def _ended(value: bytes) -> bytes:
    return value.rstrip(b" \0")  # some write texts with the padding of UIDs, or UIDs with theirs
