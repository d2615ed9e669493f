"""Elements that can stay bytes, from the source's file to the output's.

Most of a header is the same in every slice of a series, and pydicom takes longer to turn it into
values and back than a GPU takes for the slice. An element whose bytes are just what pydicom would
write for their value is left as it was read: it still becomes a value for whoever asks for one.
"""

from __future__ import annotations

from functools import lru_cache
from struct import pack
from typing import Final

from pydicom import config
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value

from kspacesr_rt.dicom.header import PARSE_ERRORS

_NUMBERS: Final = frozenset({"AT", "FD", "FL", "SL", "SS", "UL", "US"})
"""Binary value representations: any bytes of the right length are valid."""
PLAIN_VRS: Final = _NUMBERS | {
    *("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI"),
    *("UR", "UT"),
}
"""Value representations that hold neither items nor raw payloads."""
REMEMBERED: Final = 4096
"""Elements whose judgement is kept; longer values are not judged, but converted."""
LONGEST: Final = 256
"""Bytes of a value."""
ESCAPE: Final = b"\x1b"
_CHARACTER_SET: Final = BaseTag(0x00080005)
_SHORT_START: Final = 8
_LONG_START: Final = 12
"""Bytes before a value: tag, VR and length (PS3.5 7.1.2)."""
_LONG_VRS: Final = frozenset({"UC", "UR", "UT"})


def convert_values(dataset: FileDataset) -> None:
    """Turn the elements of a data set into values, but for those that may stay bytes.

    Raises
    ------
    Exception
        One of `kspacesr_rt.dicom.header.PARSE_ERRORS`, if a value is impossible.
    """
    told = dataset.original_character_set
    character_set = (told,) if isinstance(told, str) else tuple(told or ())
    for tag in sorted(dataset.keys()):
        raw = plain_bytes(dataset, tag)
        if raw is None or tag == _CHARACTER_SET or not _stays(raw, character_set):
            element = dataset[tag]
            if element.VR == "SQ":
                for item in element.value:
                    for _ in item.iterall():
                        pass


def plain_bytes(dataset: Dataset, tag: BaseTag) -> RawDataElement | None:
    """Return an element if it is bytes that an output may hold: short, explicit, little-endian."""
    element = dataset.get_item(tag)
    if not isinstance(element, RawDataElement):
        return None
    explicit = element.is_little_endian and not element.is_implicit_VR
    short = element.value is not None and len(element.value) <= LONGEST
    return element if explicit and short and element.VR in PLAIN_VRS else None


def _stays(raw: RawDataElement, character_set: tuple[str, ...]) -> bool:
    known = all(character_set)  # "" stands for one that pydicom has not found out
    return known and _is_canonical(raw.tag, str(raw.VR), raw.value or b"", character_set)


@lru_cache(maxsize=REMEMBERED)
def _is_canonical(tag: BaseTag, vr: str, value: bytes, character_set: tuple[str, ...]) -> bool:
    """Return whether bytes are a valid value, and what pydicom would write for it."""
    if vr not in _NUMBERS and ESCAPE in value:
        return False  # a change of character set: pydicom warns of those that it does not know
    encoding = list(character_set)
    raw = RawDataElement(tag, vr, len(value), value, 0, False, True)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    try:
        element = convert_raw_data_element(raw, encoding=encoding)
        if vr not in _NUMBERS:
            values = element.value if isinstance(element.value, MultiValue) else (element.value,)
            for one in values:
                validate_value(vr, str(one or ""), config.RAISE)
        write_data_element(buffer, element, encoding)
    except PARSE_ERRORS:
        return False  # whoever converts it tells what is wrong with it
    start = _LONG_START if vr in _LONG_VRS else _SHORT_START
    return str(element.VR) == vr and buffer.getvalue()[start:] == value


def write_elements(buffer: DicomBytesIO, dataset: Dataset) -> None:
    """Write a data set, Explicit VR Little Endian, after its file meta.

    What `pydicom.dcmwrite` does, without its cost for each element that is bytes already.

    Raises
    ------
    Exception
        One of `kspacesr_rt.dicom.header.PARSE_ERRORS`, if a value cannot be written.
    """
    character_set = dataset.get("SpecificCharacterSet") or default_encoding
    for tag in sorted(dataset.keys()):
        raw = plain_bytes(dataset, tag)
        if raw is None:
            write_data_element(buffer, dataset[tag], character_set)
            continue
        vr, value = str(raw.VR), raw.value or b""
        length = pack("<HL", 0, len(value)) if vr in _LONG_VRS else pack("<H", len(value))
        buffer.write(pack("<HH", tag.group, tag.element) + vr.encode() + length + value)
