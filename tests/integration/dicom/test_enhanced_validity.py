"""A validator finds no error in derived Enhanced MR that its source had not."""

import gzip
import shutil

import enhanced_cases as cases
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine

FALSE_ERRORS = "may not be present otherwise"
"""dciodvfy takes the attributes of MR Pulse Sequence for forbidden where value 1 of Image Type is
DERIVED; PS3.3 2024e C.8.13.4 says of each of them "May be present otherwise"."""


CASES = {
    "per frame": lambda: cases.build(cases.sample_frames(4)),
    "shared": lambda: cases.build(
        [cases.sample_frames(1)[0]] * 2,
        shared=(*cases.SHARED, "PixelMeasuresSequence", "PlaneOrientationSequence"),
    ),
    "one frame": lambda: cases.build(cases.sample_frames(1)),
    "compressed": lambda: cases.compress(cases.build(cases.sample_frames(2)), JPEG2000Lossless),
}


def new_errors(dciodvfy, source, output):
    errors = dciodvfy(output) - dciodvfy(source)
    return {line for line in errors if FALSE_ERRORS not in line and "Illegal root" not in line}


@pytest.mark.parametrize("case", CASES)
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(case, dciodvfy, tmp_path, run):
    """The false ones aside, which a clause allows."""
    path = cases.save(CASES[case](), tmp_path / "in" / "file.dcm")
    output = cases.written(examine(read_header(path), path), tmp_path / "out", run())
    assert new_errors(dciodvfy, path, output) == set()


def test_vendors_files_go_through_without_a_new_error(zoo, dciodvfy, tmp_path, run):
    """Siemens, Philips and Hyperfine, as their scanners wrote them."""
    packed = zoo / "deb_python3-nibabel" / "philips_mprage.dcm.gz"
    (tmp_path / "in").mkdir()
    with gzip.open(packed) as file:
        (tmp_path / "in" / "mprage.dcm").write_bytes(file.read())
    for path in zoo.rglob("*.dcm"):
        if any(word in path.name for word in ("enhanced", "multiframe", "hyperfine", "6_1")):
            shutil.copy(path, tmp_path / "in")
    sources = [item for series in scan_folder(tmp_path / "in").series for item in series.slices]
    assert len(sources) == 7
    for source in sources:
        output = cases.written(source, tmp_path / "out", run())
        assert new_errors(dciodvfy, source.path, output) == set(), source.path.name
        assert int(dcmread(output, stop_before_pixels=True).NumberOfFrames) == source.n_frames
