"""Make the derived MR data set: read it as the table of what changes, and why.

Everything that is not named here is kept as the scanner wrote it: patient, study, equipment,
acquisition, frame of reference, slice thickness, window, sorting keys.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit

from kspacesr_rt import kspace
from kspacesr_rt.dicom import geometry, provenance
from kspacesr_rt.dicom.appended_text import add_text
from kspacesr_rt.dicom.attributes import image_type, is_signed, items, numbers, term
from kspacesr_rt.dicom.content_digest import pixel_digest
from kspacesr_rt.dicom.header import PARSE_ERRORS
from kspacesr_rt.dicom.output_identity import header_digest, output_header_digest, patient_and_study
from kspacesr_rt.dicom.pixels import DecodedSlice, IntArray, is_between, to_stored
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.raw_header import header_copy
from kspacesr_rt.dicom.source_only_attributes import drop_source_only
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from kspacesr_rt.errors import ShapeError, SliceFailed
from kspacesr_rt.kspace import FloatArray

DEFINED_TERMS: Final = frozenset(
    {
        "MPR",
        "PROJECTION IMAGE",
        "T1 MAP",
        "T2 MAP",
        "DIFFUSION MAP",
        "DENSITY MAP",
        "PHASE MAP",
        "VELOCITY MAP",
        "IMAGE ADDITION",
        "PHASE SUBTRACT",
        "MODULUS SUBTRACT",
        "OTHER",
    }
)
"""Image Type value 3 of an MR image (PS3.3 C.8.3.1.1.1)."""
LO_MAX: Final = 64
"""Characters in a long string (PS3.5 6.2)."""
IS_MAX: Final = 2**31 - 1
"""Largest integer string (PS3.5 6.2)."""
US_MAX: Final = 2**16 - 1
"""Largest Rows or Columns."""
SERIES_NUMBER_STEP: Final = 1000
"""Series 3 upscaled by 2 becomes series 3002: next to its source, clear of other scanner series."""

_CODE_STRING: Final = re.compile(r"[A-Z0-9 _]{1,16}")


def derive(
    decoded: DecodedSlice,
    sr_values: FloatArray,
    derivation: Derivation,
    *,
    moment: datetime | None = None,
) -> Dataset:
    """Make the data set of a super-resolved slice.

    Parameters
    ----------
    decoded
        The source, which is not changed.
    sr_values
        Real-world values in the source's units, float32 ``(upscale * y, upscale * x)``.
    derivation
        What made them.
    moment
        When; by default now.

    Returns
    -------
        A complete MR Image Storage data set with new `file_meta`, ready for `write_atomically`.

    Raises
    ------
    ShapeError
        If the values are not `upscale` times the source matrix.
    SliceFailed
        ``too-large``: DICOM cannot count that many rows or columns.
    NonFiniteError
        If a value is NaN or infinite.

    References
    ----------
    .. [1] PS3.3 C.7.6.1.1.2 (a derived image is a new instance), C.12.4 (derivation),
       C.12.1 (equipment), C.7.6.2 (plane)
    """
    source = decoded.dataset
    require_sr_matrix(source, sr_values, derivation.upscale)
    with quiet_pydicom():
        derived = header_copy(source)
        drop_source_only(derived, keep_private=derivation.keep_private)
        stored = impose_padding(to_stored(sr_values, source), decoded.padding, derived, derivation)
        moment = moment or provenance.now_for(source)

        _set_identification(derived, source, derivation)
        name_series(derived, source, derivation, moment)
        _set_plane(derived, source, derivation)
        _set_source_references(derived, source, derivation, moment)
        _set_pixels(derived, source, stored)
        _set_uids(derived, source, stored, derivation)
        derived.file_meta = new_file_meta(derived)
        derived.preamble = bytes(128)  # PS3.10 7.1; the source's may hold anything
    return derived


def dropped_elements(decoded: DecodedSlice, *, keep_private: bool = False) -> dict[str, int]:
    """Count, by kind, the elements of a source that its derived data set leaves out."""
    with quiet_pydicom():
        return drop_source_only(header_copy(decoded.dataset), keep_private=keep_private)


def kept_header_digest(source: Dataset, *, keep_private: bool = False) -> str:
    """Return the SHA-256 of the elements of a source that an output would carry over.

    Raises
    ------
    SliceFailed
        ``unreadable``: a value cannot be written.
    """
    try:
        with quiet_pydicom():
            carried = header_copy(source)
            drop_source_only(carried, keep_private=keep_private)
    except PARSE_ERRORS as exc:
        raise SliceFailed("unreadable", "the header holds impossible values") from exc
    carried.pop("PixelData", None)
    return header_digest(carried)


def require_sr_matrix(source: Dataset, sr_values: FloatArray, upscale: int) -> None:
    """Refuse values of another matrix than the source's upscaled one, or one that is too large."""
    matrix = kspace.upscaled((int(source.Rows), int(source.Columns)), upscale)
    if sr_values.shape != matrix:
        raise ShapeError(f"expected SR values of shape {matrix}, found {sr_values.shape}")
    if max(matrix) > US_MAX:
        raise SliceFailed("too-large", f"DICOM counts at most {US_MAX} rows or columns")


def _set_identification(derived: Dataset, source: Dataset, derivation: Derivation) -> None:
    # Value 2 is SECONDARY: made after the examination. MOSAIC would make converters cut tiles.
    words = image_type(source)
    flavour = words[2] if len(words) > 2 and words[2] in DEFINED_TERMS else "OTHER"
    raw = source.get("ImageType") or ()
    further = [str(word) for word in raw[3:]] if isinstance(raw, (MultiValue, list)) else []
    kept = [word for word in further if word != "MOSAIC" and _CODE_STRING.fullmatch(word)]
    derived.ImageType = ["DERIVED", "SECONDARY", flavour, *kept]
    qualify(derived, source, derivation)


def qualify(derived: Dataset, source: Dataset, derivation: Derivation) -> None:
    """Say how far the content can be trusted: research, synthetic, lossy."""
    derived.ContentQualification = "RESEARCH"
    if derivation.synthetic:  # or as the source says: its element is carried over
        derived.SyntheticData = "YES"
    # Once lossy, always lossy. These two syntaxes cannot be anything else.
    if _transfer_syntax(source) in (JPEGBaseline8Bit, JPEGExtended12Bit):
        derived.LossyImageCompression = "01"


def _set_uids(derived: Dataset, source: Dataset, stored: IntArray, derivation: Derivation) -> None:
    content = f"{output_header_digest(derived)}/{pixel_digest(stored)}"
    derived.SOPInstanceUID = provenance.instance_uid(source.SOPInstanceUID, content, derivation)


def name_series(
    derived: Dataset, source: Dataset, derivation: Derivation, moment: datetime
) -> None:
    """Give the new series its UID, number and description, and the instance its date."""
    derived.SeriesInstanceUID = provenance.series_uid(
        source.SeriesInstanceUID, patient_and_study(source), derivation
    )
    derived.InstanceCreationDate = f"{moment:%Y%m%d}"
    derived.InstanceCreationTime = f"{moment:%H%M%S.%f}"
    derived.SeriesNumber = _series_number(source, derivation.upscale)
    mark = f"[SR x{derivation.upscale} RESEARCH]"
    add_text(derived, "SeriesDescription", mark, joint=" ", limit=LO_MAX)


def _series_number(source: Dataset, upscale: int) -> int | None:
    number = (numbers(source, "SeriesNumber") or (None,))[0]
    if number is None:
        return None
    derived = int(number) * SERIES_NUMBER_STEP + upscale
    return derived if -IS_MAX <= derived <= IS_MAX else None


def _set_plane(derived: Dataset, source: Dataset, derivation: Derivation) -> None:
    matrix = (int(source.Rows), int(source.Columns))
    spacing = numbers(source, "PixelSpacing")
    derived.PixelSpacing = geometry.as_ds(geometry.sr_spacing_mm(spacing, derivation.upscale))
    if geometry.moves(matrix, derivation.upscale, derivation.sample_grid):
        derived.ImagePositionPatient = geometry.as_ds(
            geometry.sr_position_mm(
                numbers(source, "ImagePositionPatient"),
                numbers(source, "ImageOrientationPatient"),
                spacing,
                matrix,
                derivation.upscale,
                derivation.sample_grid,
            )
        )


def _set_source_references(
    derived: Dataset, source: Dataset, derivation: Derivation, moment: datetime
) -> None:
    step = provenance.derivation_text(derivation)
    add_text(derived, "DerivationDescription", step, joint="; ", limit=provenance.ST_MAX)
    append_item(
        derived, "DerivationCodeSequence", provenance.code_item(provenance.SPATIAL_RESAMPLING)
    )
    derived.SourceImageSequence = Sequence([provenance.source_image_item(source)])
    derived.ReferencedSeriesSequence = provenance.referenced_series(
        items(derived, "ReferencedSeriesSequence"), source
    )
    append_item(
        derived,
        "ContributingEquipmentSequence",
        provenance.equipment_item(derivation, moment),
    )


def append_item(dataset: Dataset, keyword: str, item: Dataset) -> None:
    """Add an item after those that are there: more than one item means successive steps."""
    setattr(dataset, keyword, Sequence([*items(dataset, keyword), item]))


def impose_padding(
    stored: IntArray,
    padding: npt.NDArray[np.bool_] | None,
    derived: Dataset,
    derivation: Derivation,
) -> IntArray:
    """Write Pixel Padding Value where the nearest source sample held it.

    Where the source was not padded, the attribute goes if the value now occurs among the pixels:
    it would call them padding (PS3.3 C.7.5.1.1.2).
    """
    value = (numbers(derived, "PixelPaddingValue") or (None,))[0]
    if value is None:
        return stored
    if padding is None:
        last = (numbers(derived, "PixelPaddingRangeLimit") or (value,))[0]
        if is_between(stored, value, last).any():
            for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
                derived.pop(keyword, None)
        return stored
    rows, columns = (
        kspace.nearest_sample(n, derivation.upscale, derivation.sample_grid) for n in padding.shape
    )
    return np.where(padding[np.ix_(rows, columns)], stored.dtype.type(value), stored)


def _set_pixels(derived: Dataset, source: Dataset, stored: IntArray) -> None:
    derived.Rows, derived.Columns = stored.shape
    describe_pixels(derived, source)
    if numbers(derived, "NumberOfFrames") != (1.0,):
        derived.pop("NumberOfFrames", None)  # a 0, which some write for "not multi-frame"
    value_vr = "SS" if is_signed(source) else "US"
    for keyword, extreme in (
        ("SmallestImagePixelValue", stored.min()),
        ("LargestImagePixelValue", stored.max()),
    ):
        if keyword in derived:
            derived.add_new(keyword, value_vr, int(extreme))
    content = stored.tobytes()
    pixel_vr = "OW" if stored.dtype.itemsize == 2 else "OB"
    derived.add_new(0x7FE00010, pixel_vr, content + bytes(len(content) % 2))


def describe_pixels(derived: Dataset, source: Dataset) -> None:
    """Write as it should be what triage has understood in spite of how it was written."""
    for keyword in ("SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        setattr(derived, keyword, int(getattr(source, keyword)))
    derived.HighBit = int(source.BitsStored) - 1  # PS3.5 8.1.1; the values were shifted down
    photometric = term(source, "PhotometricInterpretation")
    if photometric != str(source.PhotometricInterpretation):
        derived.PhotometricInterpretation = photometric


def _transfer_syntax(source: Dataset) -> UID | None:
    meta: Dataset = getattr(source, "file_meta", Dataset())
    syntax: UID | None = meta.get("TransferSyntaxUID")
    return syntax


def new_file_meta(derived: Dataset) -> FileMetaDataset:
    """Return file meta without anything of the source's."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = derived.SOPClassUID
    meta.MediaStorageSOPInstanceUID = derived.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta
