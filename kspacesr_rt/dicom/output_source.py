"""Which source an output was made from, by what its own header tells."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from kspacesr_rt.dicom.attributes import items
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import OUR_UID, TOOL_NAME
from kspacesr_rt.errors import SliceError


def source_uid_of(path: Path) -> str:
    """Return the SOP Instance UID of the source of one of our outputs.

    Returns
    -------
        Empty if the file is none of our outputs, or cannot be read.

    References
    ----------
    .. [1] PS3.3 C.7.6.1 (Source Image Sequence), C.7.6.16.2.6 (Derivation Image Sequence): this
       tool's reference is the last one, see `kspacesr_rt.dicom.provenance`
    """
    try:
        with as_slice_failure(), quiet_pydicom():
            return _source_uid(read_header(path).dataset)
    except SliceError:
        return ""


def _source_uid(output: Dataset) -> str:
    equipment = items(output, "ContributingEquipmentSequence")
    if not any(item.get("ManufacturerModelName") == TOOL_NAME for item in equipment):
        return ""
    if OUR_UID.fullmatch(str(output.get("SOPInstanceUID", ""))) is None:
        return ""
    frames = items(output, "PerFrameFunctionalGroupsSequence")
    for frame in frames[:1]:
        steps = items(frame, "DerivationImageSequence")
        return _last_reference(steps[-1]) if steps else ""
    return _last_reference(output)


def _last_reference(dataset: Dataset) -> str:
    references = items(dataset, "SourceImageSequence")
    return str(references[-1].get("ReferencedSOPInstanceUID", "")) if references else ""
