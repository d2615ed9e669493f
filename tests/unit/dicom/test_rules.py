"""The table of what becomes of an attribute, one row a rule: the source's value and the output's.

A classic MR slice of 20 x 24 samples, super-resolved by 2. `test_derive` has the reasons and the
edges of each rule; this is the whole of it on two pages.
"""

import re

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kspacesr_rt.dicom import derive
from kspacesr_rt.kspace import zero_fill_image

KEPT, GONE, NEW_UID, TOLD = "kept", "gone", re.compile(r"2\.25\.\d{1,39}"), "told"
"""As in the source; not in the output; a UID of ours; filled in whatever the source said."""


def items(**attributes):
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return Sequence([item])


REFERENCE = items(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.4", ReferencedSOPInstanceUID="1.9")
CODE = items(CodeValue="113091", CodingSchemeDesignator="DCM", CodeMeaning="Pixel filtering")

RULES = [
    # keyword, value in the source, rule
    ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4", KEPT),
    ("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["DERIVED", "SECONDARY", "OTHER"]),
    ("SOPInstanceUID", "1.2.3.4.5", NEW_UID),
    ("SeriesInstanceUID", "1.2.3.4", NEW_UID),
    ("StudyInstanceUID", "1.2.3", KEPT),
    ("StudyDescription", "head", KEPT),
    ("AccessionNumber", "A1", KEPT),
    ("PatientName", "Doe^Jane", KEPT),
    ("PatientID", "1", KEPT),
    ("ReferringPhysicianName", "House", KEPT),
    ("FrameOfReferenceUID", "1.2.3.9", KEPT),
    ("PositionReferenceIndicator", "AC", KEPT),
    ("SeriesNumber", 3, 3002),
    ("SeriesDescription", "t2 axial", "t2 axial [SR x2 RESEARCH]"),
    ("InstanceNumber", 5, KEPT),
    ("AcquisitionNumber", 1, KEPT),
    ("EchoNumbers", 1, KEPT),
    ("TemporalPositionIdentifier", 4, KEPT),
    ("TriggerTime", 12.5, KEPT),
    ("AcquisitionDate", "20200102", KEPT),
    ("AcquisitionTime", "101213", KEPT),
    ("ContentDate", "20200102", KEPT),
    ("ContentTime", "101214", KEPT),
    ("InstanceCreationDate", "20200102", "20231114"),
    ("InstanceCreationTime", "101214", "221320.000000"),
    ("InstanceCreatorUID", "1.2", GONE),
    ("InstanceCoercionDateTime", "20200101", GONE),
    ("OriginalAttributesSequence", items(SourceOfPreviousValues="x"), GONE),
    ("RetrieveAETitle", "PACS", GONE),
    ("InstanceAvailability", "ONLINE", GONE),
    ("StorageMediaFileSetUID", "1.2", GONE),
    ("DerivationDescription", "filtered", TOLD),
    ("DerivationCodeSequence", CODE, TOLD),
    ("SourceImageSequence", REFERENCE, TOLD),
    ("ReferencedSeriesSequence", None, TOLD),
    ("Rows", 20, 40),
    ("Columns", 24, 48),
    ("PixelSpacing", [0.9, 0.8], [0.45, 0.4]),
    ("ImagePositionPatient", [-10.0, -20.0, 30.0], KEPT),
    ("ImageOrientationPatient", [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], KEPT),
    ("SliceThickness", 4.0, KEPT),
    ("SpacingBetweenSlices", 4.4, KEPT),
    ("SliceLocation", 30.0, KEPT),
    ("AcquisitionMatrix", [0, 24, 20, 0], KEPT),
    ("PercentSampling", 100.0, KEPT),
    ("PercentPhaseFieldOfView", 100.0, KEPT),
    ("PixelBandwidth", 200.0, KEPT),
    ("ReconstructionDiameter", 220.0, KEPT),
    ("EchoTime", 90.0, KEPT),
    ("RepetitionTime", 3000.0, KEPT),
    ("BitsAllocated", 16, KEPT),
    ("BitsStored", 12, KEPT),
    ("HighBit", 11, KEPT),
    ("PixelRepresentation", 0, KEPT),
    ("PhotometricInterpretation", "MONOCHROME2", KEPT),
    ("SamplesPerPixel", 1, KEPT),
    ("RescaleSlope", 2.0, KEPT),
    ("RescaleIntercept", -10.0, KEPT),
    ("RescaleType", "US", KEPT),
    ("WindowCenter", 500.0, KEPT),
    ("WindowWidth", 900.0, KEPT),
    ("WindowCenterWidthExplanation", "brain", KEPT),
    ("VOILUTFunction", "LINEAR", KEPT),
    ("PresentationLUTShape", "IDENTITY", KEPT),
    ("SmallestImagePixelValue", 77, 0),
    ("LargestImagePixelValue", 77, TOLD),
    ("SmallestPixelValueInSeries", 0, GONE),
    ("LargestPixelValueInSeries", 1000, GONE),
    ("LossyImageCompression", "01", KEPT),
    ("LossyImageCompressionRatio", 12.0, KEPT),
    ("LossyImageCompressionMethod", "ISO_10918_1", KEPT),
    ("BurnedInAnnotation", "YES", KEPT),
    ("ContentQualification", "PRODUCT", "RESEARCH"),
    ("SyntheticData", None, GONE),
    ("ContributingEquipmentSequence", None, TOLD),
    ("Manufacturer", "SIEMENS", KEPT),
    ("ManufacturerModelName", "Trio", KEPT),
    ("StationName", "MRC1", KEPT),
    ("SoftwareVersions", "syngo MR B17", KEPT),
    ("DeviceSerialNumber", "4711", KEPT),
    ("ReferencedPerformedProcedureStepSequence", REFERENCE, GONE),
    ("PerformedProcedureStepStartDate", "20200102", GONE),
    ("PerformedProcedureStepID", "1", GONE),
    ("RequestAttributesSequence", items(ScheduledProcedureStepID="1"), KEPT),
    ("ReferencedImageSequence", REFERENCE, KEPT),
    ("IconImageSequence", items(Rows=8), GONE),
    ("DigitalSignaturesSequence", items(MACIDNumber=1), GONE),
    ("MACParametersSequence", items(MACIDNumber=1), GONE),
    ("EncryptedAttributesSequence", items(EncryptedContent=b"\0\0"), GONE),
    ("DataSetTrailingPadding", b"\0\0", GONE),
    ("PatientIdentityRemoved", "YES", KEPT),
    ("DeidentificationMethod", "by hand", KEPT),
    ("SpecificCharacterSet", "ISO_IR 100", KEPT),
]


@pytest.fixture
def both(mr, save, load, run, monkeypatch):
    """Return a source that holds every attribute of the table, and its derived data set."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    pixels = np.zeros((20, 24), np.uint16)
    pixels[8:12, 9:15] = 900
    source = mr(pixels, **{keyword: value for keyword, value, _ in RULES if value is not None})
    source.add_new(0x60000010, "US", 20)
    source.add_new(0x50000005, "US", 1)
    source.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"\0\0")
    decoded = load(save(source))
    sr = zero_fill_image(decoded.values, 2).real.astype(np.float32)
    return decoded.dataset, derive(decoded, sr, run())


def test_every_rule_of_the_table_holds(both):
    """Kept, gone, new or told: one row each, all failures at once."""
    source, derived = both
    wrong = []
    for keyword, value, rule in RULES:
        found = derived.get(keyword)
        if value is not None:
            assert keyword in source, keyword
        if rule is KEPT:
            right = keyword in derived and found == source[keyword].value
        elif rule is GONE:
            right = keyword not in derived
        elif rule is NEW_UID:
            right = bool(NEW_UID.fullmatch(str(found)))
        elif rule is TOLD:
            right = keyword in derived and bool(found) and found != value
        elif isinstance(rule, list) and isinstance(rule[0], float):
            right = [float(v) for v in found] == pytest.approx(rule)
        else:
            right = (list(found) if isinstance(rule, list) else found) == rule
        if not right:
            wrong.append((keyword, rule, found))
    assert wrong == []


def test_nothing_appears_that_no_rule_speaks_of(both):
    """A new attribute of an output is a decision, and stands in the table."""
    source, derived = both
    ruled = {keyword for keyword, _, rule in RULES if rule is not GONE}
    assert set(derived.dir()) - set(source.dir()) - {"PixelData"} <= ruled
    assert not [element.tag for element in derived if element.tag.is_private]
    assert not [element.tag for element in derived if element.tag.group >> 8 in (0x50, 0x60)]
