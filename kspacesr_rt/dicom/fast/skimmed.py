"""The attributes that triage asks for, and where their values are kept when nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, PrivateBlock
from pydicom.tag import BaseTag

from kspacesr_rt.dicom.character_sets import BYTES_MAX, require_few_character_sets
from kspacesr_rt.dicom.fast.element_steps import VRS, UnusualEncodingError, key_of, tag_of
from kspacesr_rt.dicom.fast.plain_values import DECODERS, Plain
from kspacesr_rt.dicom.fast.skimmed_frames import SkimmedFrames

TRIAGE_KEYWORDS: Final = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality"),
    *("AcquisitionMatrix", "EchoNumbers", "TriggerTime", "ContributingEquipmentSequence"),
    *("ComplexImageComponent", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "TemporalPositionIdentifier"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    "VolumeBasedCalculationTechnique",
)
"""What triage asks of a data set, without groups; a `Skimmed` refuses to be asked for more."""
PER_SLICE: Final = (
    *("SOPInstanceUID", "ImagePositionPatient", "InstanceNumber"),
    *("EchoNumbers", "TriggerTime", "TemporalPositionIdentifier"),
)
"""Of these, what differs between slices of a series that are judged alike otherwise."""
TRIAGE_PRIVATE: Final = {0x0019: 0x0A, 0x0043: 0x2F, 0x0051: 0x0B}
"""Private elements that it asks for: the last byte of the element, by group."""

_CHARACTER_SET, _EQUIPMENT = "SpecificCharacterSet", "ContributingEquipmentSequence"


def _kept() -> dict[int, tuple[str, str]]:
    tags = {keyword: tag_for_keyword(keyword) for keyword in TRIAGE_KEYWORDS}
    return {
        key_of(tag): (keyword, dictionary_VR(tag))
        for keyword, tag in tags.items()
        if tag is not None
    }


KEPT: Final = _kept()
"""Keyword and value representation, by key."""


class Skimmed:
    """What triage may ask of a data set: `pydicom.Dataset` as far as that goes."""

    __slots__ = ("_raw", "_values", "file_meta", "frames", "implicit")

    def __init__(self, file_meta: Mapping[str, str], *, implicit: bool) -> None:
        self.file_meta = file_meta
        """Media Storage SOP Class UID and Transfer Syntax UID, as far as the file tells them."""
        self.implicit = implicit
        """Whether value representations are not in the file."""
        self.frames = SkimmedFrames()
        """Of Enhanced MR; others have none."""
        self._values: dict[str, Plain | None] = {}
        self._raw: dict[BaseTag, RawDataElement] = {}

    def copy(self) -> Skimmed:
        """Return one that says the same, to take elements that another header has else."""
        twin = Skimmed(self.file_meta, implicit=self.implicit)
        twin._values, twin._raw = dict(self._values), dict(self._raw)
        twin.frames = self.frames.copy()
        return twin

    def take(self, key: int, value: bytes, vr: bytes | None, value_tell: int) -> None:
        """Keep an element if triage could ask for it.

        Raises
        ------
        UnusualEncodingError
            If its value is not as usual.
        SliceFailed
            ``too-large``: it names more character sets than there are.
        """
        keyword, usual = KEPT.get(key, ("", "LO"))
        if keyword == _CHARACTER_SET:
            require_few_character_sets(len(value), value)
        if len(value) > BYTES_MAX and keyword != _EQUIPMENT:
            raise UnusualEncodingError
        if vr is not None and keyword and VRS[vr] != usual:
            raise UnusualEncodingError
        if decode := DECODERS.get(usual):
            self._values[keyword] = decode(value) if value else None
        if keyword == _CHARACTER_SET:
            found = self._values[keyword] or ""
            terms = found if isinstance(found, list) else [found]
            if not all(term in python_encoding for term in terms):
                raise UnusualEncodingError
        elif keyword == _EQUIPMENT:
            self._values[keyword] = None
        elif keyword:
            return
        tag = BaseTag(tag_of(key))
        if not keyword and not tag & 0xFF00 and vr not in (b"LO", None):
            raise UnusualEncodingError  # a private creator
        name = None if vr is None else VRS[vr]
        stored = value or cast("bytes | None", empty_value_for_VR(name, raw=True))
        self._raw[tag] = RawDataElement(tag, name, len(value), stored, value_tell, vr is None, True)

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return the value of an attribute, None if it is empty, `default` if it is absent."""
        try:
            value = self._values[keyword]
        except KeyError:
            if keyword not in TRIAGE_KEYWORDS:
                # No PARSE_ERROR: it must not pass for a fault of the file.
                raise AssertionError(f"{keyword} is not in TRIAGE_KEYWORDS") from None
            return default
        return self._by_pydicom().get(keyword) if keyword == _EQUIPMENT else value

    def __getattr__(self, keyword: str) -> Any:
        if (value := self.get(keyword, self)) is self:
            raise AttributeError(keyword)
        return value

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._values or self.get(keyword, self) is not self

    def private_block(self, group: int, creator: str) -> PrivateBlock:
        """Return the private block of a creator, or raise KeyError; see `pydicom.Dataset`.

        A block in which the element of `TRIAGE_PRIVATE` is absent counts as absent.
        """
        last = TRIAGE_PRIVATE[group]
        if any(tag >> 16 == group and tag & 0xFF00 and tag & 0xFF == last for tag in self._raw):
            return self._by_pydicom().private_block(group, creator)
        raise KeyError(creator)

    def _by_pydicom(self) -> Dataset:
        dataset = Dataset(dict(self._raw))
        dataset.set_original_encoding(self.implicit, True, dataset._character_set)
        return dataset


def is_asked_private(key: int) -> bool:
    """Return whether a private element is a creator, or one that triage asks for."""
    element = key >> 16
    return element <= 0xFF or element & 0xFF == TRIAGE_PRIVATE[key & 0xFFFF]


def is_kept(key: int) -> bool:
    """Return whether `Skimmed.take` keeps an element."""
    return key in KEPT or (key & 0xFFFF in TRIAGE_PRIVATE and is_asked_private(key))
