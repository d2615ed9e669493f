"""What decides the UIDs of an output: its content, and whose it is.

An archive answers *Success* to an instance whose UID it knows, and keeps what it has: an output
that tells anything else than an earlier one needs another UID. So SOP Instance UIDs follow the
output itself, element by element and sample by sample, but for when it was made and for how
values are padded: a name with one more blank behind it is the same name. What does not
reach an output (private elements, retrieval references, how the file was encoded, its path) does
not matter, so an unchanged source gives the same UIDs in every run and on every machine.

Series Instance UIDs follow the source series and whose it is, not its content: slices that come
late, or were made anew, join their series, and slices that name another patient or study never do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.uid import ParametricMapStorage

from kspacesr_rt.dicom.appended_text import decoded_text
from kspacesr_rt.dicom.header import PARSE_ERRORS, PIXEL_DATA
from kspacesr_rt.dicom.padding import plainly_padded
from kspacesr_rt.dicom.raw_header import selected_elements, write_elements
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed

_SOP_INSTANCE_UID: Final = 0x00080018
SET_AT_CREATION: Final = frozenset({_SOP_INSTANCE_UID, 0x00080012, 0x00080013, PIXEL_DATA})
"""Its own UID, Instance Creation Date and Time; pixels have a digest of their own."""
_CONTENT_MOMENT: Final = frozenset({0x00080023, 0x00080033})
"""Content Date and Time."""
EQUIPMENT: Final = "ContributingEquipmentSequence"
_WHEN: Final = 0x0018A002
"""Contribution DateTime."""
_IDENTITY_KEYWORDS: Final = (
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate"),
    "StudyInstanceUID",
)
"""What an archive files a series under."""


def output_header_digest(output: Dataset) -> str:
    """Return the SHA-256 of what an output tells beside its pixels, but for when it was made.

    Parameters
    ----------
    output
        A derived data set, complete but for SOP Instance UID and pixels; the last item of its
        Contributing Equipment Sequence is this tool's.

    Raises
    ------
    SliceFailed
        ``unreadable``: it has kept a value of its source that cannot be written.
    """
    return header_digest(undated(output))


def undated(output: Dataset) -> Dataset:
    """Return an output without what it only has since it was made; elements are shared."""
    is_map = output.get("SOPClassUID") == ParametricMapStorage  # whose content is made by us
    timeless = _without(output, SET_AT_CREATION | (_CONTENT_MOMENT if is_map else frozenset()))
    with quiet_pydicom():
        if equipment := output.get(EQUIPMENT):
            *earlier, ours = equipment
            items = Sequence([*earlier, _without(ours, {_WHEN})])
            timeless.add_new(output[EQUIPMENT].tag, "SQ", items)  # elements are shared: a new one
    return timeless


def _without(dataset: Dataset, tags: Collection[int]) -> Dataset:
    return selected_elements(dataset, lambda tag: tag not in tags)


def header_digest(dataset: Dataset) -> str:
    """Return the SHA-256 of elements, however the file that they came from was encoded.

    Raises
    ------
    SliceFailed
        ``unreadable``: a value cannot be written.
    """
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    try:
        with quiet_pydicom():
            write_elements(buffer, plainly_padded(dataset))
    except PARSE_ERRORS as exc:
        raise SliceFailed("unreadable", "the header holds values that cannot be written") from exc
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def patient_and_study(source: Dataset) -> tuple[str, ...]:
    """Return what must be equal in all slices of a derived series, beside the source series."""
    with quiet_pydicom():
        return tuple(decoded_text(source, keyword).strip(" ^") for keyword in _IDENTITY_KEYWORDS)
