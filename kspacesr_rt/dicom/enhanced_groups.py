"""Functional groups: what an Enhanced MR header says about one of its frames.

A group stands once for all frames or once for each (PS3.3 C.7.6.16); readers of one frame need not
know which. Frames are counted from 1, as DICOM counts them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pydicom.dataset import Dataset

from kspacesr_rt.errors import SliceError

_OF_ALL_FRAMES: Final = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PatientID", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ImageType", "ComplexImageComponent", "VolumeBasedCalculationTechnique"),
)
_OF_A_FRAME: Final = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "MRImageFrameTypeSequence": ("ComplexImageComponent", "VolumeBasedCalculationTechnique"),
}


class FunctionalGroups:
    """The functional groups of a multi-frame data set, by frame."""

    def __init__(self, dataset: Dataset) -> None:
        self._root = dataset
        shared = dataset.get("SharedFunctionalGroupsSequence") or ()
        self.shared = _first(shared) if len(shared) else Dataset()
        self.frames: list[Dataset] = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())

    def macro(self, frame: int, keyword: str) -> Dataset | None:
        """Return the first item of a group: the frame's own, else the shared one, else None."""
        for groups in (self.frames[frame - 1], self.shared):
            if items := groups.get(keyword):
                return _first(items)
        return None

    def every(self, keyword: str) -> Iterator[Dataset]:
        """Yield the first item of a group wherever it stands."""
        for groups in (self.shared, *self.frames):
            if items := groups.get(keyword):
                yield _first(items)

    def classic_header(self, frame: int) -> Dataset:
        """Return what a classic header of this frame alone would say of pixels, plane and type.

        Whatever asks a classic slice for its matrix, spacing, position, rescale or Image Type can
        ask this. Changing it changes nothing else.
        """
        header = Dataset()
        for keyword in _OF_ALL_FRAMES:
            if keyword in self._root:
                header.add(copy.copy(self._root[keyword]))
        for macro, keywords in _OF_A_FRAME.items():
            item = self.macro(frame, macro) or Dataset()
            for keyword in keywords:
                if keyword in item:
                    header.add(copy.copy(item[keyword]))
        if words := (self.macro(frame, "MRImageFrameTypeSequence") or Dataset()).get("FrameType"):
            header.ImageType = words
        return header


def _first(items: Sequence[Dataset]) -> Dataset:
    return items[0]


@contextmanager
def told_by_frame(frame: int) -> Iterator[None]:
    """Put the frame's number before the message of an error."""
    try:
        yield
    except SliceError as exc:
        raise type(exc)(exc.reason, f"frame {frame}: {exc}", hint=exc.hint) from exc
