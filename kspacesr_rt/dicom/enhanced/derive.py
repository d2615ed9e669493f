"""Make the derived Enhanced MR header: read it as the table of what changes, and why.

As in `derive`, what is not named here is kept: frame content, stacks, dimensions, per-frame windows
and rescales, acquisition groups. Beside it, three rules are Enhanced MR's own: Image Type speaks in
other terms, the plane stands in functional groups, and the derivation is told frame by frame.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kspacesr_rt import kspace
from kspacesr_rt.dicom import geometry, provenance
from kspacesr_rt.dicom.attributes import items, numbers
from kspacesr_rt.dicom.derive import (
    US_MAX,
    append_item,
    describe_pixels,
    name_series,
    new_file_meta,
    qualify,
)
from kspacesr_rt.dicom.enhanced.dimensions import PrivateDimensions
from kspacesr_rt.dicom.enhanced.groups import FunctionalGroups
from kspacesr_rt.dicom.header import PIXEL_DATA
from kspacesr_rt.dicom.output_identity import patient_and_study
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.raw_header import selected_elements
from kspacesr_rt.dicom.source_only_attributes import drop_source_only
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.errors import SliceFailed

_CODE_STRING: Final = re.compile(r"[A-Z0-9 _]{1,16}")
_DESCRIBES_SOURCE_PIXELS: Final = (
    *("SmallestImagePixelValue", "LargestImagePixelValue"),
    # Padding is limited to the signal before inference and not imposed again: the value could not
    # be told from a result in the frames where it is signal (PS3.3 C.7.5.1.1.2).
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_CONCATENATION_UIDS: Final = ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource")


def derive_enhanced(header: Dataset, derivation: Derivation) -> Dataset:
    """Turn the header of an Enhanced MR file into the one of its super-resolved copy.

    Parameters
    ----------
    header
        From `FrameReader.take_header`: the file up to its pixels. What follows them (private group
        7FE1, signatures, padding) is not carried over. The header is used up, since a second copy
        of some thousand functional groups is nothing to hold for tidiness.
    derivation
        What makes the pixels.

    Returns
    -------
        An Enhanced MR Image Storage data set with new `file_meta`. It lacks pixels, and its SOP
        Instance UID is still the source's: `EnhancedWriter` knows it when it knows the pixels.

    Raises
    ------
    SliceFailed
        ``too-large``: DICOM cannot count that many rows or columns.

    References
    ----------
    .. [1] PS3.3 C.8.13.1 and C.8.16 (types), C.7.6.16.2.1 to .4 (plane), C.7.6.16.2.6 (derivation),
       C.7.6.16.2.6 and C.8.13.2 (evidence)
    """
    matrix = (int(header.Rows), int(header.Columns))
    sr_matrix = kspace.upscaled(matrix, derivation.upscale)
    if max(sr_matrix) > US_MAX:
        raise SliceFailed("too-large", f"DICOM counts at most {US_MAX} rows or columns")
    with quiet_pydicom():
        source = _root(header)
        dimensions = PrivateDimensions.of(header)
        drop_source_only(header, keep_private=derivation.keep_private)
        dimensions.put_back(header)
        # What sorts behind the pixels would stand behind them, where the writer has nothing.
        derived = selected_elements(header, lambda tag: tag < PIXEL_DATA)
        for keyword in _DESCRIBES_SOURCE_PIXELS:
            derived.pop(keyword, None)
        groups = FunctionalGroups(derived)
        moment = provenance.now_for(source)

        _set_identification(derived, groups, source, derivation)
        name_series(derived, source, derivation, moment)
        _name_concatenation(derived, source, derivation)
        _set_frame_planes(groups, matrix, derivation)
        _set_root_plane(derived, matrix, derivation)
        _set_source_references(derived, source, derivation, moment)
        _set_frame_source_references(groups, source, derivation)
        derived.Rows, derived.Columns = sr_matrix
        describe_pixels(derived, source)
        derived.file_meta = new_file_meta(derived)
        derived.preamble = bytes(128)  # PS3.10 7.1; the source's may hold anything
    return derived


def _root(header: Dataset) -> Dataset:
    """Return the elements of the source outside of sequences, and its file meta."""
    root = selected_elements(header, lambda tag: header.get_item(tag).VR != "SQ")
    root.file_meta = header.file_meta
    return root


def _set_identification(
    derived: Dataset, groups: FunctionalGroups, source: Dataset, derivation: Derivation
) -> None:
    for dataset, keyword in (
        (derived, "ImageType"),
        *((item, "FrameType") for item in groups.every("MRImageFrameTypeSequence")),
    ):
        value = dataset.get(keyword) or ()
        words = [value] if isinstance(value, str) else [str(word).strip() for word in value]
        flavour, contrast = (
            words[at] if len(words) > at and _CODE_STRING.fullmatch(words[at]) else other
            for at, other in ((2, "OTHER"), (3, "NONE"))
        )
        # Value 2 enumerates PRIMARY alone for these classes (C.8.16.1.2). Value 4 says what the
        # pixels mean (TRACEW, ADC); that they are resampled too, their derivation tells.
        contrast = "RESAMPLED" if contrast == "NONE" else contrast
        setattr(dataset, keyword, ["DERIVED", "PRIMARY", flavour, contrast])
        if not dataset.get("VolumeBasedCalculationTechnique"):
            dataset.VolumeBasedCalculationTechnique = "NONE"
    qualify(derived, source, derivation)


def _name_concatenation(derived: Dataset, source: Dataset, derivation: Derivation) -> None:
    """Let the parts of a file that was split belong together again, and not to the source's."""
    for keyword in _CONCATENATION_UIDS:
        if earlier := derived.get(keyword):
            parts = (
                "concatenation",
                str(earlier),
                *patient_and_study(source),
                *derivation.identity,
            )
            setattr(derived, keyword, stable_uid(*parts))


def _set_frame_planes(
    groups: FunctionalGroups, matrix: kspace.Matrix, derivation: Derivation
) -> None:
    frames = [groups.classic_header(n + 1) for n in range(len(groups.frames))]
    if geometry.moves(matrix, derivation.upscale, derivation.sample_grid):
        moved = [_moved(classic, matrix, derivation) for classic in frames]
        _set_positions(groups, moved)
    for measures in groups.every("PixelMeasuresSequence"):
        if spacing := numbers(measures, "PixelSpacing"):
            measures.PixelSpacing = geometry.as_ds(
                geometry.sr_spacing_mm(spacing, derivation.upscale)
            )


def _moved(classic: Dataset, matrix: kspace.Matrix, derivation: Derivation) -> list[str]:
    return geometry.as_ds(
        geometry.sr_position_mm(
            numbers(classic, "ImagePositionPatient"),
            numbers(classic, "ImageOrientationPatient"),
            numbers(classic, "PixelSpacing"),
            matrix,
            derivation.upscale,
            derivation.sample_grid,
        )
    )


def _set_positions(groups: FunctionalGroups, positions: list[list[str]]) -> None:
    """Write the positions; a shared one stays shared while all frames agree."""
    shared = groups.shared.get("PlanePositionSequence")
    own = [frame for frame in groups.frames if frame.get("PlanePositionSequence")]
    if shared and not own and all(position == positions[0] for position in positions):
        shared[0].ImagePositionPatient = positions[0]
        return
    for frame, position in zip(groups.frames, positions, strict=True):
        if not frame.get("PlanePositionSequence"):
            frame.PlanePositionSequence = copy.deepcopy(shared)
        frame.PlanePositionSequence[0].ImagePositionPatient = position
    groups.shared.pop("PlanePositionSequence", None)


def _set_root_plane(derived: Dataset, matrix: kspace.Matrix, derivation: Derivation) -> None:
    """Keep a plane true that stands in the root, where it has no place but some write it."""
    spacing = numbers(derived, "PixelSpacing")
    has_plane = len(spacing) == 2 and len(numbers(derived, "ImageOrientationPatient")) == 6
    if has_plane and len(numbers(derived, "ImagePositionPatient")) == 3:
        derived.ImagePositionPatient = _moved(derived, matrix, derivation)
    elif geometry.moves(matrix, derivation.upscale, derivation.sample_grid):
        derived.pop("ImagePositionPatient", None)
    if len(spacing) == 2:
        derived.PixelSpacing = geometry.as_ds(geometry.sr_spacing_mm(spacing, derivation.upscale))


def _set_source_references(
    derived: Dataset, source: Dataset, derivation: Derivation, moment: datetime
) -> None:
    derived.SourceImageEvidenceSequence = _evidence(
        items(derived, "SourceImageEvidenceSequence"), source
    )
    derived.ReferencedSeriesSequence = provenance.referenced_series(
        items(derived, "ReferencedSeriesSequence"), source
    )
    append_item(
        derived, "ContributingEquipmentSequence", provenance.equipment_item(derivation, moment)
    )


def _evidence(earlier: Iterable[Dataset], source: Dataset) -> Sequence:
    """Return Source Image Evidence Sequence with the source in it (PS3.3 C.8.13.2, 10.3)."""
    instance = Dataset()
    instance.ReferencedSOPClassUID = source.SOPClassUID
    instance.ReferencedSOPInstanceUID = source.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedSOPSequence = Sequence([instance])
    studies = list(earlier)
    for study in studies:
        if study.get("StudyInstanceUID") == source.StudyInstanceUID:
            append_item(study, "ReferencedSeriesSequence", series)
            return Sequence(studies)
    study = Dataset()
    study.StudyInstanceUID = source.StudyInstanceUID
    study.ReferencedSeriesSequence = Sequence([series])
    return Sequence([*studies, study])


def _set_frame_source_references(
    groups: FunctionalGroups, source: Dataset, derivation: Derivation
) -> None:
    """Add this step to each frame's Derivation Image Sequence: its source is one frame."""
    shared = items(groups.shared, "DerivationImageSequence")
    for number, frame in enumerate(groups.frames, start=1):
        # What was shared belongs to the frame now: a group stands in one of the two places.
        earlier = items(frame, "DerivationImageSequence") or copy.deepcopy(shared)
        frame.DerivationImageSequence = Sequence([*earlier, _step(source, number, derivation)])
    groups.shared.pop("DerivationImageSequence", None)


def _step(source: Dataset, number: int, derivation: Derivation) -> Dataset:
    reference = provenance.source_image_item(source)
    reference.ReferencedFrameNumber = number
    step = Dataset()
    step.DerivationDescription = provenance.derivation_text(derivation)
    step.DerivationCodeSequence = Sequence([provenance.code_item(provenance.SPATIAL_RESAMPLING)])
    step.SourceImageSequence = Sequence([reference])
    return step
