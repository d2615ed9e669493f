"""Functional groups: what an Enhanced MR header says about one of its frames.

A group stands once for all frames or once for each (PS3.3 C.7.6.16); readers of one frame need not
know which. Frames are counted from 1, as DICOM counts them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pydicom.dataset import Dataset, PrivateBlock

from kspacesr_rt.dicom.attributes import items, value_of
from kspacesr_rt.errors import SliceError

_OF_ALL_FRAMES: Final = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ImageType", "ComplexImageComponent", "VolumeBasedCalculationTechnique"),
)
_OF_A_FRAME: Final = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "MRImageFrameTypeSequence": (
        *("ComplexImageComponent", "VolumeBasedCalculationTechnique", "FrameType"),
    ),
}
_ABSENT: Final = object()


class FrameAttributes:
    """The values of a `FunctionalGroups.classic_header`, to be read only."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return the value of an attribute."""
        return self._values.get(keyword, default)

    def __getattr__(self, keyword: str) -> Any:
        try:
            return self._values[keyword]
        except KeyError:
            raise AttributeError(keyword) from None

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._values

    def private_block(self, group: int, creator: str) -> PrivateBlock:
        """Raise KeyError: it has none."""
        raise KeyError(f"{group:04X} {creator}")


class FunctionalGroups:
    """The functional groups of a multi-frame data set, by frame."""

    def __init__(self, dataset: Dataset) -> None:
        self._root = dataset
        shared = items(dataset, "SharedFunctionalGroupsSequence")
        self.shared = shared[0] if shared else Dataset()
        self.frames: list[Dataset] = items(dataset, "PerFrameFunctionalGroupsSequence")

    def macro(self, frame: int, keyword: str) -> Dataset | None:
        """Return the first item of a group: the frame's own, else the shared one, else None."""
        for groups in (self.frames[frame - 1], self.shared):
            if found := items(groups, keyword):
                return found[0]
        return None

    def every(self, keyword: str) -> Iterator[Dataset]:
        """Yield the first item of a group wherever it stands."""
        for groups in (self.shared, *self.frames):
            if found := items(groups, keyword):
                yield found[0]

    def classic_header(self, frame: int) -> Dataset:
        """Return what a classic header of this frame alone would say of pixels, plane and type.

        Whatever asks a classic slice for its matrix, spacing, position, rescale or Image Type can
        ask this. Changing it changes nothing else.
        """
        header = Dataset()
        for keyword in _OF_ALL_FRAMES:
            _add(header, self._root, keyword)
        for macro, keywords in _OF_A_FRAME.items():
            item = self.macro(frame, macro) or Dataset()
            for keyword in keywords:
                if keyword != "FrameType":
                    _add(header, item, keyword)
        frame_type = self.macro(frame, "MRImageFrameTypeSequence") or Dataset()
        if words := value_of(frame_type, "FrameType"):
            header.ImageType = words
        return header

    def attributes(self) -> Iterator[FrameAttributes]:
        """Yield for every frame what its `classic_header` holds, in a fraction of the time."""
        root = _values(self._root, _OF_ALL_FRAMES)
        shared: dict[str, dict[str, Any]] = {}
        for groups in self.frames:
            values = dict(root)
            for macro, keywords in _OF_A_FRAME.items():
                if found := items(groups, macro):
                    values |= _values(found[0], keywords)
                    continue
                if macro not in shared:
                    found = items(self.shared, macro)
                    shared[macro] = _values(found[0], keywords) if found else {}
                values |= shared[macro]
            if words := values.pop("FrameType", None):
                values["ImageType"] = words
            yield FrameAttributes(values)


def _values(item: Dataset, keywords: Sequence[str]) -> dict[str, Any]:
    found = {keyword: value_of(item, keyword, _ABSENT) for keyword in keywords}
    return {keyword: value for keyword, value in found.items() if value is not _ABSENT}


def _add(header: Dataset, source: Dataset, keyword: str) -> None:
    """Add an element of a source, if it is there and has a value."""
    if value_of(source, keyword, _ABSENT) is not _ABSENT:
        header.add(copy.copy(source[keyword]))


@contextmanager
def naming_the_frame(frame: int) -> Iterator[None]:
    """Put the frame's number before the message of an error."""
    try:
        yield
    except SliceError as exc:
        raise type(exc)(exc.reason, f"frame {frame}: {exc}", hint=exc.hint) from exc
