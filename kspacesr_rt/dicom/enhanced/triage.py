"""Decide whether an Enhanced MR file can be super-resolved: every frame of it, or none.

The reason words are those of `triage`. One frame that is a phase image or a map leaves the whole
file out, since the output is one file again; the message names the frame.
"""

from __future__ import annotations

import dataclasses
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
from kspacesr_rt.dicom.enhanced.groups import FunctionalGroups, naming_the_frame
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


def examine_frames(header: Header, path: Path, *, include_derived: bool = False) -> SourceSlice:
    """Return the multi-frame source that a header describes; see `triage.examine`.

    Raises
    ------
    SliceSkipped, SliceFailed
        With one of the words of `triage`.
    """
    dataset = header.dataset
    refuse_own_output(dataset)
    refuse_other_pixels(header)
    groups = FunctionalGroups(dataset)
    if not groups.frames:
        refuse_other_contents(dataset, include_derived=include_derived, multi_frame=True)
        raise missing("PerFrameFunctionalGroupsSequence")
    require(dataset, *IMAGE_ATTRIBUTES, "NumberOfFrames")
    require_possible_pixels(dataset)
    n_frames = int(dataset.NumberOfFrames)
    if n_frames != len(groups.frames):
        raise SliceFailed(
            "missing-attribute",
            f"has functional groups for {len(groups.frames)} of {n_frames} frames",
        )
    frames = list(groups.attributes())
    for frame, classic in enumerate(frames, start=1):
        with naming_the_frame(frame):
            _refuse_other_frames(classic, include_derived=include_derived)
    for frame, classic in enumerate(frames, start=1):
        with naming_the_frame(frame):
            require(classic, *PLANE_ATTRIBUTES)
            require_possible_plane(classic)
    require_pixel_data(header, n_frames=n_frames)
    source = source_slice(
        dataset,
        path,
        position=min(position_mm(classic) for classic in frames),
        acquired=_acquired_samples(dataset, groups),
        n_frames=n_frames,
    )
    if dangles(dataset, groups):
        return dataclasses.replace(source, warnings=(*source.warnings, DANGLING))
    return source


def _refuse_other_frames(classic: Attributes, *, include_derived: bool) -> None:
    refuse_other_contents(classic, include_derived=include_derived, multi_frame=True)
    if include_derived:
        return
    technique = term(classic, "VolumeBasedCalculationTechnique").replace("_", " ")
    if technique in _PROJECTIONS:
        raise derived_map()


def _acquired_samples(dataset: Dataset, groups: FunctionalGroups) -> int | None:
    """Return the larger side of the acquired matrix (MR FOV/Geometry, PS3.3 C.8.13.5.3)."""
    geometries = list(groups.every("MRFOVGeometrySequence"))
    samples = [
        number
        for item in geometries
        for keyword in (
            "MRAcquisitionFrequencyEncodingSteps",
            "MRAcquisitionPhaseEncodingStepsInPlane",
        )
        for number in numbers(item, keyword)
    ]
    largest = int(max(samples, default=0.0))
    return largest if largest >= 1 else acquired_samples(dataset)
