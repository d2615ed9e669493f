"""What triage asks of the frames of an Enhanced MR file, and where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from kspacesr_rt.dicom.attributes import Attributes, numbers
from kspacesr_rt.dicom.enhanced.groups import FrameAttributes
from kspacesr_rt.dicom.fast.element_steps import (
    EXPLICIT,
    IMPLICIT,
    UNDEFINED_LENGTH,
    UnusualEncodingError,
    after_sequence,
    key_of,
)
from kspacesr_rt.dicom.fast.frame_layouts import (
    FRAME_KEYWORDS,
    PLANE_POSITION,
    FrameKind,
    FrameLayouts,
    GroupValues,
    shared_values,
)
from kspacesr_rt.dicom.fast.plain_values import plain_decimals
from kspacesr_rt.dicom.geometry import slice_normal

Point = tuple[float, float, float]
"""Where a plane begins, mm."""

_SHARED, PER_FRAME, _DIMENSIONS = (
    key_of(tag_for_keyword(keyword) or 0)
    for keyword in (
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
        "DimensionIndexSequence",
    )
)
GROUP_KEYS: Final = frozenset({_SHARED, PER_FRAME, _DIMENSIONS})
"""Sequences that are read as a whole, by key."""
_POINTERS: Final = tuple(
    tag.to_bytes(4, "little") for tag in (key_of(0x00209165), key_of(0x00209167))
)
"""How Dimension Index Pointer and Functional Group Pointer begin."""
_OF_ALL_FRAMES: Final = ("ImageType", "ComplexImageComponent", "VolumeBasedCalculationTechnique")
_GEOMETRY: Final = "MRFOVGeometrySequence"
_POSITION: Final = "ImagePositionPatient"


class SkimmedFrames:
    """The functional groups of a file, as far as triage asks: frames by what they have in common.

    Taken from a data set as it is gone through; frames are counted from 1.
    """

    __slots__ = ("_kinds", "_shared", "n_frames")

    def __init__(self) -> None:
        """Begin without frames."""
        self.n_frames = 0
        self._kinds: dict[FrameKind, tuple[int, list[Point]]] = {}
        """The first frame of each kind, and the positions of all of them, each once."""
        self._shared: GroupValues = {}

    def copy(self) -> SkimmedFrames:
        """Return one that says the same, to take sequences that another header has else."""
        twin = SkimmedFrames()
        twin.n_frames, twin._kinds, twin._shared = self.n_frames, self._kinds, self._shared
        return twin

    def take(
        self, key: int, data: bytes, at: int, length: int, layouts: FrameLayouts, *, implicit: bool
    ) -> int:
        """Read one of `GROUP_KEYS`, and return where it ends.

        Parameters
        ----------
        key
            Which of them.
        data
            What it stands in, its end included if its length is known.
        at
            Where its value begins.
        length
            Of its value, or `UNDEFINED_LENGTH`.
        layouts
            Knows frames that were read before.
        implicit
            Whether value representations are not there.

        Raises
        ------
        UnusualEncodingError
            If it is left to pydicom; so is a dimension that a private element orders.
        struct.error
            If the data end before the sequence does.
        """
        end = None if length == UNDEFINED_LENGTH else at + length
        if key == _SHARED:
            self._shared, after = shared_values(data, at, end, implicit=implicit)
        elif key == PER_FRAME:
            kinds, self.n_frames, after = layouts.read(data, at, end, implicit=implicit)
            self._kinds = {kind: (first, _points(said)) for kind, (first, said) in kinds.items()}
        else:
            after = after_sequence(data, at, implicit=implicit) if end is None else end
            _refuse_private_pointers(data[at:after], implicit=implicit)
        return after

    def alike(self) -> tuple[object, ...]:
        """Return what files have the same of whose frames differ in their positions alone."""
        return (self.n_frames, *self._kinds)

    def kinds(self, root: Attributes) -> Iterator[tuple[int, FrameAttributes]]:
        """Yield the first frame of each kind with what a classic header would say of it.

        What differs between frames of a kind is their position alone, and that it has one.
        """
        of_all: dict[str, Any] = {
            keyword: root.get(keyword) for keyword in _OF_ALL_FRAMES if keyword in root
        }
        for kind, (first, points) in self._kinds.items():
            values = dict(of_all)
            for group in FRAME_KEYWORDS:
                if group != _GEOMETRY:
                    values |= kind.values.get(group, self._shared.get(group, {}))
            if points:
                values[_POSITION] = list(points[0])
            if words := values.pop("FrameType", None):
                values["ImageType"] = words
            yield first, FrameAttributes(values)

    def lowest_position_mm(self) -> float:
        """Return where the first plane lies along its normal; every frame has a plane."""
        lowest = []
        for kind, (_, points) in self._kinds.items():
            plane = kind.values.get("PlaneOrientationSequence")
            plane = self._shared["PlaneOrientationSequence"] if plane is None else plane
            normal = slice_normal(numbers(FrameAttributes(plane), "ImageOrientationPatient"))
            if not points:
                shared = numbers(FrameAttributes(self._shared[PLANE_POSITION]), _POSITION)
                points = [(shared[0], shared[1], shared[2])]
            a, b, c = normal
            lowest.append(min([a * x + b * y + c * z for x, y, z in points]))
        return float(min(lowest))

    def acquired_samples(self) -> int | None:
        """Return the larger side of the acquired matrix that a group tells, None without one."""
        groups = (self._shared, *(kind.values for kind in self._kinds))
        samples = [
            number
            for values in groups
            if (geometry := values.get(_GEOMETRY)) is not None
            for keyword in FRAME_KEYWORDS[_GEOMETRY]
            for number in numbers(FrameAttributes(geometry), keyword)
        ]
        largest = int(max(samples, default=0.0))
        return largest if largest >= 1 else None


def _points(positions: list[bytes]) -> list[Point]:
    """Decode positions, each once; raise `UnusualEncodingError` for what is no point."""
    said = list(dict.fromkeys(positions))
    if not said:
        return []
    if any(one.count(b"\\") != 2 for one in said):
        raise UnusualEncodingError
    found = plain_decimals(b"\\".join(said))
    values = iter(found if isinstance(found, list) else [])
    return list(zip(values, values, values, strict=True))


def _refuse_private_pointers(sequence: bytes, *, implicit: bool) -> None:
    """Raise `UnusualEncodingError` if what orders the frames could be a private element."""
    for begins in _POINTERS:
        at = sequence.find(begins)
        while at >= 0:
            if len(sequence) < at + 12:
                raise UnusualEncodingError
            if implicit:
                _, length = IMPLICIT(sequence, at)
            else:
                _, vr, length = EXPLICIT(sequence, at)
                if vr != b"AT":
                    raise UnusualEncodingError
            if length != 4 or sequence[at + 8] % 2:
                raise UnusualEncodingError
            at = sequence.find(begins, at + 4)
