"""Drop the attributes that describe the source instance only.

Overlays, curves and icons show the old matrix; signatures, encrypted attributes and offset tables
speak of the old bytes; retrieval, storage and procedure-step references of the old instance.
Private elements are dropped unless asked for: Siemens' CSA header repeats sizes and positions and
mis-steers converters. Dropping them loses Philips' private scale slope (2005,100E).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

_BY_GROUP: Final = {
    0x0000: "command group",
    0x0002: "file meta",
    0x0004: "directory",
    0x5000: "curve",
    0x6000: "overlay",
    0xFFFA: "digital signature",
    0xFFFC: "trailing padding",
}

_BY_TAG: Final = {
    0x00080001: "retired",  # Length to End
    0x00080012: "source instance",  # Instance Creation Date: written anew
    0x00080013: "source instance",  # Instance Creation Time
    0x00080014: "source instance",  # Instance Creator UID
    0x00080015: "source instance",  # Instance Coercion DateTime
    0x00080054: "source instance",  # Retrieve AE Title
    0x00080056: "source instance",  # Instance Availability
    0x00081111: "procedure step",  # Referenced Performed Procedure Step Sequence
    0x00081190: "source instance",  # Retrieve URL
    0x00200030: "retired",  # Image Position: the old coordinate system
    0x00280108: "pixel range",  # Smallest Pixel Value in Series
    0x00280109: "pixel range",  # Largest Pixel Value in Series
    0x00280110: "pixel range",  # Smallest Image Pixel Value in Plane
    0x00280111: "pixel range",  # Largest Image Pixel Value in Plane
    0x00880130: "source instance",  # Storage Media File-set ID
    0x00880140: "source instance",  # Storage Media File-set UID
    0x00880200: "icon",
    0x00400241: "procedure step",  # Performed Station AE Title
    0x00400244: "procedure step",  # Performed Procedure Step Start Date
    0x00400245: "procedure step",  # Performed Procedure Step Start Time
    0x00400250: "procedure step",  # Performed Procedure Step End Date
    0x00400251: "procedure step",  # Performed Procedure Step End Time
    0x00400252: "procedure step",  # Performed Procedure Step Status
    0x00400253: "procedure step",  # Performed Procedure Step ID
    0x0040E011: "source instance",  # Retrieve Location UID
    0x04000500: "encrypted attributes",
    0x04000561: "source instance",  # Original Attributes Sequence
    0x4FFE0001: "digital signature",  # MAC Parameters Sequence
    0x7FE00001: "offset table",
    0x7FE00002: "offset table",
    0x7FE00003: "offset table",  # Encapsulated Pixel Data Value Total Length
    0x7FE00008: "pixel data",
    0x7FE00009: "pixel data",
    0x7FE00010: "pixel data",
}


def drop_source_only(dataset: Dataset, *, keep_private: bool) -> dict[str, int]:
    """Remove from a data set, and from its sequences, what no longer holds.

    Parameters
    ----------
    dataset
        Changed in place.
    keep_private
        Keep private elements, with their risk.

    Returns
    -------
        How many elements of each kind went, such as ``{"overlay": 9, "private": 31}``.
    """
    dropped: Counter[str] = Counter()
    for tag in list(dataset.keys()):
        kind = dropped_kind(tag, keep_private=keep_private)
        if kind is not None:
            dropped[kind] += 1
            del dataset[tag]
            continue
        element = dataset.get_item(tag)
        if element.VR != "SQ":
            continue
        if isinstance(element, RawDataElement):  # nobody can tell what stands in it
            dropped["unreadable sequence"] += 1
            del dataset[tag]
            continue
        for item in element.value:
            dropped.update(drop_source_only(item, keep_private=keep_private))
    return dict(dropped)


def dropped_kind(tag: BaseTag, *, keep_private: bool) -> str | None:
    """Return the kind of what outputs never have, None of what they keep."""
    if tag.is_private:
        return None if keep_private else "private"
    if tag.element == 0:
        return "group length"
    # Overlays and curves repeat in the even groups of 60xx and 50xx.
    repeating = tag.group & 0xFF00 if tag.group >> 8 in (0x50, 0x60) else tag.group
    return _BY_GROUP.get(repeating) or _BY_TAG.get(int(tag))
