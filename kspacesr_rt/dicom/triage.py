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

from dataclasses import replace
from pathlib import Path

from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from kspacesr_rt.dicom.attributes import (
    acquired_samples,
    numbers,
    term,
)
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.fast.skim import SkimmedHeader
from kspacesr_rt.dicom.fast.skimmed import Skimmed
from kspacesr_rt.dicom.file_limits import current_limits
from kspacesr_rt.dicom.header import Header
from kspacesr_rt.dicom.source_slice import (
    IMAGE_ATTRIBUTES,
    PLANE_ATTRIBUTES,
    SourceSlice,
    missing,
    order_of,
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
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed, SliceSkipped


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
    with as_slice_failure(), quiet_pydicom():
        judged = header.judged if isinstance(header, SkimmedHeader) else None
        key = include_derived, current_limits()
        if judged is not None and (alike := judged.get(key)) is not None:
            return _like(alike, header, path)
        if header.dataset.get("SOPClassUID") == EnhancedMRImageStorage:
            # Imported here: it builds on this module.
            from kspacesr_rt.dicom.enhanced.triage import examine_frames

            found = examine_frames(header, path, include_derived=include_derived)
            if judged is not None:
                judged[key] = found
            return found
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
        dataset = header.dataset
        acquired = acquired_samples(dataset)
        found = source_slice(dataset, path, position=position_mm(dataset), acquired=acquired)
        if judged is not None:
            judged[key] = found
        return found


def _like(alike: SourceSlice, header: Header | SkimmedHeader, path: Path) -> SourceSlice:
    """Return the slice of a header that differs from a judged one in `PER_SLICE` alone.

    Frames differ in their positions, too. What of `examine` looks at these, or at the pixels of
    this file, in its order.
    """
    dataset = header.dataset
    if isinstance(dataset, Skimmed) and alike.n_frames is not None:
        require(dataset, "SOPInstanceUID")
        require_pixel_data(header, n_frames=alike.n_frames)
        position = dataset.frames.lowest_position_mm()
    else:
        require(dataset, "SOPInstanceUID", "ImagePositionPatient")
        require_possible_plane(dataset)
        require_pixel_data(header)
        position = position_mm(dataset)
    return replace(
        alike,
        path=path,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        order=order_of(dataset, position),
    )


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
        if term(dataset, "Modality") == "MR" or stored_as == MRImageStorage:
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
