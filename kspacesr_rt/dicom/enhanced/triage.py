"""Decide whether an Enhanced MR file can be super-resolved: every frame of it, or none.

The reason words are those of `triage`. One frame that is a phase image or a map leaves the whole
file out, since the output is one file again; the message names the frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from kspacesr_rt.dicom.attributes import (
    Attributes,
    acquired_samples,
    numbers,
    term,
)
from kspacesr_rt.dicom.enhanced.dimensions import DANGLING, dangles
from kspacesr_rt.dicom.enhanced.groups import (
    FrameAttributes,
    FunctionalGroups,
    naming_the_frame,
)
from kspacesr_rt.dicom.fast.frame_layouts import FRAME_KEYWORDS
from kspacesr_rt.dicom.fast.skim import SkimmedHeader
from kspacesr_rt.dicom.fast.skimmed import Skimmed
from kspacesr_rt.dicom.header import Header
from kspacesr_rt.dicom.source_slice import (
    IMAGE_ATTRIBUTES,
    PLANE_ATTRIBUTES,
    SourceSlice,
    derived_map,
    missing,
    position_mm,
    refuse_other_contents,
    refuse_other_pixels,
    refuse_own_output,
    require,
    require_pixel_data,
    require_possible_pixels,
    require_possible_plane,
    source_slice,
)
from kspacesr_rt.errors import SliceFailed

_PROJECTIONS: Final = frozenset(
    {"MAX IP", "MIN IP", "VOLUME RENDER", "SURFACE RENDER", "MPR", "CURVED MPR"}
)
"""Volume Based Calculation Technique of what is no plane of the acquisition (C.8.16.2.1.3)."""


def examine_frames(
    header: Header | SkimmedHeader, path: Path, *, include_derived: bool = False
) -> SourceSlice:
    """Return the multi-frame source that a header describes; see `triage.examine`.

    Raises
    ------
    SliceSkipped, SliceFailed
        With one of the words of `triage`.
    """
    dataset = header.dataset
    refuse_own_output(dataset)
    refuse_other_pixels(header)
    frames = dataset.frames if isinstance(dataset, Skimmed) else _WholeFrames(dataset)
    if not frames.n_frames:
        refuse_other_contents(dataset, include_derived=include_derived, multi_frame=True)
        raise missing("PerFrameFunctionalGroupsSequence")
    require(dataset, *IMAGE_ATTRIBUTES, "NumberOfFrames")
    require_possible_pixels(dataset)
    n_frames = int(dataset.NumberOfFrames)
    if n_frames != frames.n_frames:
        raise SliceFailed(
            "missing-attribute",
            f"has functional groups for {frames.n_frames} of {n_frames} frames",
        )
    kinds = list(frames.kinds(dataset))
    for frame, classic in kinds:
        with naming_the_frame(frame):
            _refuse_other_frames(classic, include_derived=include_derived)
    for frame, classic in kinds:
        with naming_the_frame(frame):
            require(classic, *PLANE_ATTRIBUTES)
            require_possible_plane(classic)
    require_pixel_data(header, n_frames=n_frames)
    source = source_slice(
        dataset,
        path,
        position=frames.lowest_position_mm(),
        acquired=frames.acquired_samples() or acquired_samples(dataset),
        n_frames=n_frames,
    )
    if isinstance(frames, _WholeFrames) and frames.dangles():
        return dataclasses.replace(source, warnings=(*source.warnings, DANGLING))
    return source


def _refuse_other_frames(classic: Attributes, *, include_derived: bool) -> None:
    refuse_other_contents(classic, include_derived=include_derived, multi_frame=True)
    if include_derived:
        return
    technique = term(classic, "VolumeBasedCalculationTechnique").replace("_", " ")
    if technique in _PROJECTIONS:
        raise derived_map()


class _WholeFrames:
    """What `SkimmedFrames` tells, from a header that was read whole: every frame by itself."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._groups = dataset, FunctionalGroups(dataset)
        self._frames: list[FrameAttributes] = []
        self.n_frames = len(self._groups.frames)

    def kinds(self, root: Attributes) -> Iterator[tuple[int, FrameAttributes]]:
        """Yield each frame's number, from 1, with what a classic header would say of it."""
        self._frames = list(self._groups.attributes())
        yield from enumerate(self._frames, start=1)

    def lowest_position_mm(self) -> float:
        """Return where the first plane lies along its normal; every frame has a plane."""
        return min(position_mm(classic) for classic in self._frames)

    def acquired_samples(self) -> int | None:
        """Return the larger side of the acquired matrix (MR FOV/Geometry, PS3.3 C.8.13.5.3)."""
        samples = [
            number
            for item in self._groups.every("MRFOVGeometrySequence")
            for keyword in FRAME_KEYWORDS["MRFOVGeometrySequence"]
            for number in numbers(item, keyword)
        ]
        largest = int(max(samples, default=0.0))
        return largest if largest >= 1 else None

    def dangles(self) -> bool:
        """Return whether a dimension names a private element that is not in every frame."""
        return dangles(self._dataset, self._groups)
