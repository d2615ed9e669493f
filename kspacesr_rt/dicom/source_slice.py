"""What can be super-resolved, and what a file must hold for it, slice or frames.

The reason words of what is refused are `triage`'s.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_description
from pydicom.uid import (
    UID,
)

from kspacesr_rt.dicom import geometry
from kspacesr_rt.dicom.attributes import (
    Attributes,
    ge_component,
    image_type,
    items,
    mosaic_tiles,
    numbers,
    sort_numbers,
    term,
    value_of,
)
from kspacesr_rt.dicom.fast.skim import SkimmedHeader
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.dicom.header import FLOAT_PIXEL_TAGS, PIXEL_DATA, Header
from kspacesr_rt.dicom.image_types import shows_map, shows_phase
from kspacesr_rt.dicom.uids import TOOL_NAME
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.kspace import Matrix

INTERPOLATED_BELOW: Final = 0.9
"""Acquired samples over matrix below which the scanner must have interpolated (DICOM.md, 2)."""


UNIT_TOLERANCE: Final = 0.01
"""Allowed error of the direction cosines: some scanners write them with two decimals."""


_UID: Final = re.compile(r"[0-9.]{1,64}")
"""Loosely a UID (PS3.5 9.1): scanners have written components with leading zeros."""


_COLOURS: Final = ("RGB", "ARGB", "YBR", "HSV", "CMYK", "PALETTE", "XYB")
"""Begin the terms of Photometric Interpretation that are no shades of grey (PS3.3 C.7.6.3.1.2)."""


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


def refuse_own_output(dataset: Attributes) -> None:
    """Skip what this tool wrote."""
    for item in items(dataset, "ContributingEquipmentSequence"):
        if value_of(item, "ManufacturerModelName") == TOOL_NAME:
            raise SliceSkipped("already-derived", f"was written by {TOOL_NAME}")


def refuse_other_pixels(header: Header | SkimmedHeader) -> None:
    """Skip pixels that are not integers of one sample."""
    dataset = header.dataset
    if header.pixel_tag in FLOAT_PIXEL_TAGS:
        raise SliceSkipped("float-pixels", "stores floating-point pixels")
    photometric = term(dataset, "PhotometricInterpretation")
    if photometric.startswith(_COLOURS):
        raise SliceSkipped("not-grayscale", "a colour image")
    if photometric and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SliceFailed("missing-attribute", "has no Photometric Interpretation that is one")
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation"):
        if not dataset.get(keyword):
            raise missing(keyword)
    if numbers(dataset, "SamplesPerPixel") != (1.0,):
        raise SliceSkipped("not-grayscale", "several samples per pixel")


def refuse_other_contents(
    dataset: Attributes, *, include_derived: bool, multi_frame: bool = False
) -> None:
    """Skip what is no magnitude image of one slice, judged by its type."""
    words = image_type(dataset)
    if "MOSAIC" in words or mosaic_tiles(dataset) > 1:
        raise SliceSkipped("mosaic", "shows many slices as tiles of one picture")
    if (
        shows_phase(words)
        or term(dataset, "ComplexImageComponent") in ("PHASE", "REAL", "IMAGINARY", "MIXED")
        or ge_component(dataset) not in (0, None)
    ):
        raise SliceSkipped("phase", "a phase, velocity, real or imaginary image")
    if not include_derived and shows_map(words, multi_frame=multi_frame):
        raise derived_map()


def derived_map() -> SliceSkipped:
    """Return why a picture that was computed from images is left out."""
    return SliceSkipped(
        "derived-map",
        "a map, projection, reformat or subtraction",
        hint="--include-derived processes it all the same",
    )


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
    if syntax is not None and not _is_transfer_syntax(str(syntax)):
        raise SliceFailed("codec", "its transfer syntax is unknown")
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    expected *= n_frames
    if header.encapsulated and not header.complete:
        raise SliceFailed("truncated", "its compressed pixel data do not end as they should")
    if not header.complete or (not header.encapsulated and header.pixel_bytes < expected):
        raise SliceFailed("truncated", "holds less pixel data than its matrix needs")
    # A codec may make a frame of noise larger than it was, but not twice.
    allowed = expected * 2 if header.encapsulated else expected
    if header.non_pixel_bytes + max(0, header.pixel_bytes - allowed) > current_limits().extra:
        raise too_large("holds more bytes beside the pixels that its matrix needs than", "extra")


def position_mm(dataset: Attributes) -> float:
    """Return where a plane lies along its normal."""
    return geometry.slice_position_mm(
        numbers(dataset, "ImagePositionPatient"), numbers(dataset, "ImageOrientationPatient")
    )


def source_slice(
    dataset: Attributes,
    path: Path,
    *,
    position: float,
    acquired: int | None,
    n_frames: int | None = None,
) -> SourceSlice:
    """Describe a file by its first plane's position, mm, and its acquired matrix, if it tells."""
    matrix = (int(dataset.Rows), int(dataset.Columns))
    interpolated = acquired is not None and acquired < INTERPOLATED_BELOW * max(matrix)
    return SourceSlice(
        path=path,
        # Interned: ten thousand slices of a study share these.
        sop_class_uid=sys.intern(str(dataset.SOPClassUID)),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=sys.intern(str(dataset.SeriesInstanceUID)),
        study_instance_uid=sys.intern(str(dataset.StudyInstanceUID)),
        matrix=matrix,
        order=order_of(dataset, position),
        interpolated_from=acquired if interpolated else None,
        warnings=(f"interpolated {acquired}->{max(matrix)}",) if interpolated else (),
        n_frames=n_frames,
    )


def order_of(dataset: Attributes, position: float) -> tuple[float, ...]:
    """Return what a slice is sorted by: its position, mm, then time."""
    # Rounded: repetitions of one slice differ in the last digits of their positions.
    return (round(position, 2), *sort_numbers(dataset))


@lru_cache(maxsize=64)
def _is_transfer_syntax(uid: str) -> bool:
    return bool(UID(uid).is_transfer_syntax)


@lru_cache(maxsize=64)
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
