"""Decide what a file is: a slice to super-resolve, or left out with a reason word.

The reason words (the report carries them; messages never quote a value of the file):

================== ======== ==================================================================
word               outcome  the file
================== ======== ==================================================================
not-dicom          skipped  is something else, or holds no data set
dicomdir           skipped  is the index of a DICOM medium
not-an-image       skipped  is DICOM without an image: report, presentation state, raw data, ...
not-mr             skipped  is an image of another modality, or a secondary capture
not-grayscale      skipped  is a colour image (such as a Siemens fractional anisotropy picture)
float-pixels       skipped  stores floating-point pixels
phase              skipped  is phase, velocity, real or imaginary: k-space of it means nothing
derived-map        skipped  is a map, projection, reformat or subtraction (`include_derived`)
mosaic             skipped  shows many slices as tiles
enhanced-unsupported skipped is a multi-frame object other than Enhanced MR
already-derived    skipped  was written by this tool
special-file       skipped  is a FIFO, socket or device, a link to a folder, or to nothing
duplicate          skipped  repeats another file, pixel for pixel
duplicate-conflict failed   shares its SOP Instance UID with a file that tells something else
missing-attribute  failed   lacks what the output cannot do without; nothing is invented
bad-geometry       failed   has an impossible spacing, position or orientation
unsupported-bits   failed   has bits that fit no MR image (PS3.3 C.8.3.1.1.4)
too-large          failed   asks for more than `limits` allow: samples, bytes, items, depth
truncated          failed   ends early
codec              failed   is compressed in a way that nothing installed here can decode
decode             failed   is compressed in a way that its codec does not accept
bad-rescale        failed   has a rescale slope or intercept that would lose its stored values
encode             failed   cannot be compressed as asked without loss
unreadable         failed   cannot be opened or parsed
accident           failed   meets a fault of this tool
changed            failed   was replaced between the scan and its turn
================== ======== ==================================================================
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_description
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from kspacesr_rt.dicom import geometry
from kspacesr_rt.dicom.attributes import (
    Attributes,
    acquired_samples,
    ge_component,
    image_type,
    mosaic_tiles,
    numbers,
    sort_numbers,
    value_of,
)
from kspacesr_rt.dicom.failures import failing_the_file
from kspacesr_rt.dicom.header import FLOAT_PIXEL_TAGS, PIXEL_DATA, Header
from kspacesr_rt.dicom.image_types import shows_map, shows_phase
from kspacesr_rt.dicom.limits import current_limits, too_large
from kspacesr_rt.dicom.quiet import quiet_pydicom
from kspacesr_rt.dicom.skim import SkimmedHeader
from kspacesr_rt.dicom.uids import TOOL_NAME
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.kspace import Matrix

INTERPOLATED_BELOW: Final = 0.9
"""Acquired samples over matrix below which the scanner must have interpolated (DICOM.md, 2)."""
UNIT_TOLERANCE: Final = 0.01
"""Allowed error of the direction cosines: some scanners write them with two decimals."""

_UID: Final = re.compile(r"[0-9.]{1,64}")
"""Loosely a UID (PS3.5 9.1): scanners have written components with leading zeros."""
IMAGE_ATTRIBUTES: Final = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
"""What no output can do without."""
PLANE_ATTRIBUTES: Final = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
"""Nor without these: in the header of a slice, or in the functional groups of a frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSlice:
    """One file that can be super-resolved: what it is and where it belongs, without pixels."""

    path: Path
    """The file."""
    sop_class_uid: str
    """MR or Enhanced MR Image Storage."""
    sop_instance_uid: str
    """Names this slice; kept as the source of the derived one."""
    series_instance_uid: str
    """Names its series."""
    study_instance_uid: str
    """Names its study."""
    matrix: Matrix
    """``(rows, columns)``."""
    order: tuple[float, ...]
    """Position along the normal (mm), temporal position, echo, trigger time (ms), instance."""
    interpolated_from: int | None = None
    """Samples acquired along the longer axis, if the scanner stored more: the rim of k-space is
    empty. None where it did not, or the header does not tell."""
    warnings: tuple[str, ...] = ()
    """What a user should know, such as ``interpolated 160->320``; no values of a patient."""
    n_frames: int | None = None
    """Frames of a multi-frame file (`enhanced_triage`); None for a classic single-frame one."""


def examine(
    header: Header | SkimmedHeader, path: Path, *, include_derived: bool = False
) -> SourceSlice:
    """Return the slice that a header describes.

    Parameters
    ----------
    header
        From `header.read_header`, or `skim.skim_header`, which is faster.
    path
        Where it was read.
    include_derived
        Take maps, projections and subtractions too.

    Raises
    ------
    SliceSkipped, SliceFailed
        With one of the words above.
    """
    # A header that parsed can still hold values that pydicom cannot convert when asked.
    with failing_the_file(), quiet_pydicom():
        if (
            isinstance(header, Header)
            and header.dataset.get("SOPClassUID") == EnhancedMRImageStorage
        ):
            # Imported here: it builds on this module.
            from kspacesr_rt.dicom.enhanced_triage import examine_frames

            return examine_frames(header, path, include_derived=include_derived)
        _refuse_other_classes(header)
        refuse_own_output(header.dataset)
        if header.pixel_tag is None:  # what else it lacks may have been cut off with them
            refuse_other_contents(header.dataset, include_derived=include_derived)
            raise SliceFailed("truncated", "holds no pixel data")
        refuse_other_pixels(header)
        refuse_other_contents(header.dataset, include_derived=include_derived)
        require(header.dataset, *IMAGE_ATTRIBUTES, *PLANE_ATTRIBUTES)
        require_possible_pixels(header.dataset)
        require_possible_plane(header.dataset)
        require_pixel_data(header)
        return _source_slice(header.dataset, path)


def _refuse_other_classes(header: Header | SkimmedHeader) -> None:
    dataset = header.dataset
    stored_as = dataset.file_meta.get("MediaStorageSOPClassUID")
    sop_class = dataset.get("SOPClassUID")
    if MediaStorageDirectoryStorage in (stored_as, sop_class):
        raise SliceSkipped("dicomdir", "a DICOMDIR, the index of a medium")
    of_mr = stored_as in (MRImageStorage, EnhancedMRImageStorage)
    if of_mr and sop_class != stored_as and header.pixel_tag is None:
        raise SliceFailed("truncated", "holds no pixel data")  # even its SOP Class is cut
    if not sop_class:
        if dataset.get("Modality") == "MR" or stored_as == MRImageStorage:
            raise missing("SOPClassUID")
        raise SliceSkipped("not-an-image", "names no SOP Class")
    if sop_class == LegacyConvertedEnhancedMRImageStorage:
        raise SliceSkipped(
            "enhanced-unsupported",
            f"{UID(sop_class).name} is multi-frame",
            hint="send the classic MR images that it was converted from",
        )
    if sop_class != MRImageStorage:
        name = UID(sop_class).name if UID(sop_class).is_valid else "an unknown SOP Class"
        name = "an unknown SOP Class" if name == sop_class else name
        if header.pixel_tag is None and "Rows" not in dataset:
            raise SliceSkipped("not-an-image", f"{name} holds no image")
        raise SliceSkipped("not-mr", f"{name} is not MR Image Storage")
    if numbers(dataset, "NumberOfFrames") not in ((), (0.0,), (1.0,)):
        raise SliceSkipped("enhanced-unsupported", "a classic MR object with several frames")


def refuse_own_output(dataset: Attributes) -> None:
    """Skip what this tool wrote."""
    for item in value_of(dataset, "ContributingEquipmentSequence") or ():
        if value_of(item, "ManufacturerModelName") == TOOL_NAME:
            raise SliceSkipped("already-derived", f"was written by {TOOL_NAME}")


def refuse_other_pixels(header: Header | SkimmedHeader) -> None:
    """Skip pixels that are not integers of one sample."""
    dataset = header.dataset
    if header.pixel_tag in FLOAT_PIXEL_TAGS:
        raise SliceSkipped("float-pixels", "stores floating-point pixels")
    photometric = _term(dataset, "PhotometricInterpretation")
    if photometric and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SliceSkipped("not-grayscale", "a colour image")
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation"):
        if not dataset.get(keyword):
            raise missing(keyword)
    if numbers(dataset, "SamplesPerPixel") != (1.0,):
        raise SliceSkipped("not-grayscale", "several samples per pixel")


def refuse_other_contents(dataset: Attributes, *, include_derived: bool) -> None:
    """Skip what is no magnitude image of one slice, judged by its type."""
    words = image_type(dataset)
    if "MOSAIC" in words or mosaic_tiles(dataset) > 1:
        raise SliceSkipped("mosaic", "shows many slices as tiles of one picture")
    if (
        shows_phase(words)
        or _term(dataset, "ComplexImageComponent") in ("PHASE", "REAL", "IMAGINARY", "MIXED")
        or ge_component(dataset) not in (0, None)
    ):
        raise SliceSkipped("phase", "a phase, velocity, real or imaginary image")
    if not include_derived and shows_map(words):
        raise derived_map()


def derived_map() -> SliceSkipped:
    """Return why a picture that was computed from images is left out."""
    return SliceSkipped(
        "derived-map",
        "a map, projection, reformat or subtraction",
        hint="--include-derived processes it all the same",
    )


def _term(dataset: Attributes, keyword: str) -> str:
    """Return a code string; blanks around it mean nothing (PS3.5 6.2)."""
    return str(value_of(dataset, keyword) or "").strip()


def require(dataset: Attributes, *keywords: str) -> None:
    """Fail for the first attribute that is absent or empty."""
    for keyword in keywords:
        value = getattr(dataset, keyword) if keyword in dataset else None
        if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
            raise missing(keyword)
        # Letters in a UID have been names of patients; the report carries UIDs.
        if keyword.endswith("UID") and not _UID.fullmatch(str(value)):
            raise SliceFailed(
                "missing-attribute", f"has no {dictionary_description(keyword)} that is one"
            )


def require_possible_pixels(dataset: Attributes) -> None:
    """Fail for bits or a matrix that no MR image has."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high, signed = int(dataset.HighBit), int(dataset.PixelRepresentation)
    if (
        allocated not in (8, 16)
        or not 1 <= stored <= high + 1 <= allocated
        or signed not in (0, 1)
        or stored + signed < 2
    ):
        raise SliceFailed("unsupported-bits", "Bits Allocated, Stored and High Bit fit no MR image")
    if min(int(dataset.Rows), int(dataset.Columns)) < 1:
        raise SliceFailed("bad-geometry", "has no rows or no columns")
    if int(dataset.Rows) * int(dataset.Columns) > current_limits().samples:
        raise too_large("announces a slice of more samples than", "samples")


def require_possible_plane(dataset: Attributes) -> None:
    """Fail for a spacing, position or orientation that no slice has."""
    spacing = numbers(dataset, "PixelSpacing")
    position = numbers(dataset, "ImagePositionPatient")
    orientation = numbers(dataset, "ImageOrientationPatient")
    if len(spacing) != 2 or not all(0 < value < math.inf for value in spacing):
        raise SliceFailed("bad-geometry", "Pixel Spacing is not two positive lengths")
    if len(position) != 3 or not all(math.isfinite(value) for value in position):
        raise SliceFailed("bad-geometry", "Image Position (Patient) is not a point")
    if len(orientation) != 6 or not _orthonormal(orientation):
        raise SliceFailed("bad-geometry", "Image Orientation (Patient) is not two unit vectors")


def require_pixel_data(header: Header | SkimmedHeader, *, n_frames: int = 1) -> None:
    """Fail if the file holds fewer pixels than its header announces."""
    dataset = header.dataset
    if header.pixel_tag != PIXEL_DATA or header.pixel_bytes == 0:
        raise SliceFailed("truncated", "holds no pixel data")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and not UID(syntax).is_transfer_syntax:
        raise SliceFailed("codec", "its transfer syntax is unknown")
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    expected *= n_frames
    if header.encapsulated and not header.complete:
        raise SliceFailed("truncated", "its compressed pixel data do not end as they should")
    if not header.complete or (not header.encapsulated and header.pixel_bytes < expected):
        raise SliceFailed("truncated", "holds less pixel data than its matrix needs")
    # A codec may make a frame of noise larger than it was, but not twice.
    allowed = expected * 2 if header.encapsulated else expected
    if header.beside_bytes + max(0, header.pixel_bytes - allowed) > current_limits().extra:
        raise too_large("holds more bytes beside the pixels that its matrix needs than", "extra")


def _source_slice(dataset: Attributes, path: Path) -> SourceSlice:
    matrix = (int(dataset.Rows), int(dataset.Columns))
    position = geometry.slice_position_mm(
        numbers(dataset, "ImagePositionPatient"), numbers(dataset, "ImageOrientationPatient")
    )
    acquired = acquired_samples(dataset)
    interpolated = acquired is not None and acquired < INTERPOLATED_BELOW * max(matrix)
    return SourceSlice(
        path=path,
        # Interned: ten thousand slices of a study share these.
        sop_class_uid=sys.intern(str(dataset.SOPClassUID)),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=sys.intern(str(dataset.SeriesInstanceUID)),
        study_instance_uid=sys.intern(str(dataset.StudyInstanceUID)),
        matrix=matrix,
        # Rounded: repetitions of one slice differ in the last digits of their positions.
        order=(round(position, 2), *sort_numbers(dataset)),
        interpolated_from=acquired if interpolated else None,
        warnings=(f"interpolated {acquired}->{max(matrix)}",) if interpolated else (),
    )


def _orthonormal(orientation: tuple[float, ...]) -> bool:
    along_columns, along_rows = orientation[:3], orientation[3:]
    products = (
        (_dot(along_columns, along_columns), 1.0),
        (_dot(along_rows, along_rows), 1.0),
        (_dot(along_columns, along_rows), 0.0),
    )
    return all(abs(product - wanted) <= UNIT_TOLERANCE for product, wanted in products)


def _dot(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def missing(keyword: str) -> SliceFailed:
    """Return the error for an attribute that is absent or empty."""
    return SliceFailed("missing-attribute", f"has no {dictionary_description(keyword)}")
