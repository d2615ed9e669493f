"""Every kind of file gets the outcome and the word that DICOM.md, section 2, gives it."""

import io

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from kspacesr_rt.dicom.attributes import acquired_samples, is_marked_interpolated
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceFailed, SliceSkipped

TYPES = ["ORIGINAL", "PRIMARY"]


def examined(path, **options):
    return examine(read_header(path), path, **options)


def with_private(ds, group, creator, offset, vr, value):
    ds.private_block(group, creator, create=True).add_new(offset, vr, value)
    return ds


def own_output(ds):
    item = Dataset()
    item.ManufacturerModelName = "kspacesr-rt"
    ds.ContributingEquipmentSequence = Sequence([item])
    return ds


SKIPPED = {
    "phase-value-p": ("phase", {"ImageType": [*TYPES, "P", "ND"]}),
    "phase-map": ("phase", {"ImageType": [*TYPES, "PHASE MAP", "P", "FFE"]}),
    "velocity": ("phase", {"ImageType": [*TYPES, "VELOCITY MAP"]}),
    "real": ("phase", {"ImageType": [*TYPES, "R_IR", "R", "IR"]}),
    "imaginary-philips": ("phase", {"ImageType": [*TYPES, "I_SE"]}),
    "complex-component": ("phase", {"ComplexImageComponent": "MIXED"}),
    "adc": ("derived-map", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}),
    "t1-map": ("derived-map", {"ImageType": ["DERIVED", "PRIMARY", "T1_MAP"]}),
    "mip": ("derived-map", {"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}),
    "mpr": ("derived-map", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
    "mosaic": ("mosaic", {"ImageType": [*TYPES, "M", "ND", "MOSAIC"]}),
    "ct": ("not-mr", {"SOPClassUID": CTImageStorage}),
    "secondary-capture": ("not-mr", {"SOPClassUID": SecondaryCaptureImageStorage}),
    "rgb": ("not-grayscale", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
    "palette": ("not-grayscale", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "legacy": ("enhanced-unsupported", {"SOPClassUID": LegacyConvertedEnhancedMRImageStorage}),
    "multi-frame": ("enhanced-unsupported", {"NumberOfFrames": 2}),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_what_is_not_a_magnitude_slice_is_skipped_with_its_word(case, mr, save):
    """Super-resolving a phase image or a mosaic gives a picture that looks right and is wrong."""
    reason, attributes = SKIPPED[case]
    with pytest.raises(SliceSkipped) as caught:
        examined(save(mr(**attributes)))
    assert caught.value.reason == reason


@pytest.mark.parametrize("case", [name for name, row in SKIPPED.items() if row[0] == "derived-map"])
def test_maps_are_taken_when_asked_for(case, mr, save):
    """`--include-derived` is the user's word against ours."""
    assert examined(save(mr(**SKIPPED[case][1])), include_derived=True).matrix == (20, 24)


def test_original_mpr_is_a_plain_acquisition(mr, save):
    """GE writes ORIGINAL, PRIMARY, MPR on everything, the shipped sample included."""
    assert examined(save(mr(ImageType=[*TYPES, "MPR"])))


@pytest.mark.parametrize(
    ("reason", "private"),
    [
        ("mosaic", (0x0019, "SIEMENS MR HEADER", 0x0A, "US", 30)),
        ("mosaic", (0x0019, "SIEMENS MR HEADER", 0x0A, "UN", b"\x1e\x00")),
        ("phase", (0x0043, "GEMS_PARM_01", 0x2F, "SS", 1)),
    ],
)
def test_vendors_private_marks_are_believed(reason, private, mr, save):
    """Some mosaics and phase images say so in private elements only."""
    with pytest.raises(SliceSkipped) as caught:
        examined(save(with_private(mr(), *private)))
    assert caught.value.reason == reason


def test_a_private_element_of_another_creator_means_nothing(mr, save):
    """(0019,xx0A) is the number of tiles under Siemens' creator only."""
    assert examined(save(with_private(mr(), 0x0019, "GEMS_ACQU_01", 0x0A, "US", 30)))


def test_our_own_output_is_recognised(mr, save):
    """Upscaling twice makes a 16-fold image out of nothing."""
    with pytest.raises(SliceSkipped) as caught:
        examined(save(own_output(mr())))
    assert caught.value.reason == "already-derived"


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels_are_skipped(keyword, mr, save):
    """The MR image object has integer pixels; the others belong to parametric maps."""
    ds = mr(PixelData=None)
    setattr(ds, keyword, bytes(20 * 24 * 8))
    with pytest.raises(SliceSkipped) as caught:
        examined(save(ds))
    assert caught.value.reason == "float-pixels"


def test_a_report_is_not_an_image(mr, save):
    """Structured reports, presentation states and raw data lie in every archive."""
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    ds.SOPInstanceUID = "1.2.3"
    with pytest.raises(SliceSkipped) as caught:
        examined(save(ds))
    assert caught.value.reason == "not-an-image"


def test_a_dicomdir_is_recognised_by_its_file_meta(tmp_path):
    """It has no SOP Class in its data set, and any name."""
    ds = Dataset()
    ds.FileSetID = "CD"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    path = tmp_path / "whatever"
    dcmwrite(path, ds, enforce_file_format=True)
    with pytest.raises(SliceSkipped) as caught:
        examined(path)
    assert caught.value.reason == "dicomdir"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(300),
        b"\x1f\x8b\x08" + bytes(300),
        bytes(128) + b"DICM",
        bytes(1000),
        b"\x08\x00\x05\x00 but then it goes on as text, " * 20,
        b"\x02\x00",
    ],
    ids=["empty", "text", "png", "gzip", "prefix-only", "zeros", "looks-like-group-8", "2-bytes"],
)
def test_what_is_not_dicom_is_skipped(content, tmp_path):
    """`dcmread(force=True)` would find an element or two in any of these."""
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    with pytest.raises(SliceSkipped) as caught:
        examined(path)
    assert caught.value.reason == "not-dicom"


FAILED = {
    "no-position": ("missing-attribute", {"ImagePositionPatient": None}),
    "empty-spacing": ("missing-attribute", {"PixelSpacing": ""}),
    "no-orientation": ("missing-attribute", {"ImageOrientationPatient": None}),
    "no-series": ("missing-attribute", {"SeriesInstanceUID": None}),
    "no-instance": ("missing-attribute", {"SOPInstanceUID": ""}),
    "no-rows": ("missing-attribute", {"Rows": None}),
    "no-bits": ("missing-attribute", {"BitsStored": None}),
    "no-class": ("missing-attribute", {"SOPClassUID": None}),
    "zero-spacing": ("bad-geometry", {"PixelSpacing": [0.0, 1.0]}),
    "negative-spacing": ("bad-geometry", {"PixelSpacing": [1.0, -1.0]}),
    "one-spacing": ("bad-geometry", {"PixelSpacing": [1.0]}),
    "not-unit": ("bad-geometry", {"ImageOrientationPatient": [2.0, 0, 0, 0, 1, 0]}),
    "not-orthogonal": ("bad-geometry", {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}),
    "zero-orientation": ("bad-geometry", {"ImageOrientationPatient": [0] * 6}),
    "32-bit": ("unsupported-bits", {"BitsAllocated": 32}),
    "more-stored-than-allocated": ("unsupported-bits", {"BitsStored": 17}),
    "short": ("truncated", {"PixelData": bytes(20 * 24 * 2 - 2)}),
    "no-pixels": ("truncated", {"PixelData": None}),
    "more-rows-than-pixels": ("truncated", {"Rows": 21}),
}


@pytest.mark.parametrize("case", FAILED)
def test_a_broken_slice_fails_with_its_word(case, mr, save):
    """Nothing is invented: a position that is missing stays missing, and the file fails."""
    reason, attributes = FAILED[case]
    ds = mr(**attributes)
    if case == "no-class":
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if case == "no-instance":
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    with pytest.raises(SliceFailed) as caught:
        examined(save(ds))
    assert caught.value.reason == reason


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_anywhere_is_never_processed(kept, mr, save):
    """Pydicom returns what it has read of a cut file, without a word."""
    path = save(mr())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises((SliceFailed, SliceSkipped)) as caught:
        examined(path)
    assert caught.value.reason in ("truncated", "missing-attribute", "not-an-image")
    assert kept < 0.9 or caught.value.reason == "truncated"


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.995])
def test_cut_fragments_are_truncated(kept, mr, save):
    """Encapsulated pixel data has no length to compare with: the fragments are walked."""
    ds = mr()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.compress(RLELossless)
    path = save(ds)
    assert examined(path)
    whole = path.read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(whole[: start + int((len(whole) - start) * kept)])
    with pytest.raises(SliceFailed) as caught:
        examined(path)
    assert caught.value.reason == "truncated"


def test_a_deflated_file_is_measured_after_inflation(mr, save):
    """Its size on disk says nothing about its pixels."""
    path = save(mr(), syntax=DeflatedExplicitVRLittleEndian)
    assert examined(path).matrix == (20, 24)
    short = save(mr(PixelData=bytes(100)), "short.dcm", syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(SliceFailed) as caught:
        examined(short)
    assert caught.value.reason == "truncated"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SliceFailed) as caught:
        examined(path)
    assert caught.value.reason == "truncated"
    assert "deflated data set ends early" in str(caught.value)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_data_set_without_preamble_is_read(implicit, mr, tmp_path, load):
    """Old scanners and some exports write no file meta; the encoding can be told all the same."""
    ds = mr()
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=True)
    path = tmp_path / "IM1"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(Exception, match="missing DICOM File Meta"):
        dcmread(path)
    expected = np.frombuffer(ds.PixelData, "<u2").reshape(20, 24)
    np.testing.assert_array_equal(load(path).values, expected)


def test_an_unknown_transfer_syntax_fails_as_codec(mr, save):
    """A private syntax is no reason for a traceback."""
    ds = mr()
    path = save(ds, syntax=ImplicitVRLittleEndian)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2\0", b"1.2.840.10009.1.2\0"))
    with pytest.raises((SliceFailed, SliceSkipped)) as caught:
        examined(path)
    assert caught.value.reason in ("codec", "unreadable", "missing-attribute", "not-an-image")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"AcquisitionMatrix": [0, 12, 10, 0]}, 12),
        ({"AcquisitionMatrix": [0, 22, 20, 0]}, None),
        ({"AcquisitionMatrix": [24, 0, 0, 20]}, None),
        ({"AcquisitionMatrix": [0, 0, 0, 0]}, None),
        ({}, None),
    ],
)
def test_interpolation_by_the_scanner_is_seen_in_the_header(attributes, expected, mr, save):
    """The outer k-space of such a slice is empty: the user must know."""
    found = examined(save(mr(**attributes)))
    assert found.interpolated_from == expected
    assert found.warnings == ((f"interpolated {expected}->24",) if expected else ())


def test_siemens_acquisition_text_is_read_without_a_matrix(mr, save):
    """(0051,100B) is all that some Siemens exports keep."""
    ds = with_private(mr(), 0x0051, "SIEMENS MR HEADER", 0x0B, "LO", "10*12s")
    assert examined(save(ds)).interpolated_from == 12


def test_an_endless_siemens_acquisition_text_is_not_searched(mr):
    """A few megabytes of it would keep the scan of a folder for minutes."""
    ds = with_private(mr(), 0x0051, "SIEMENS MR HEADER", 0x0B, "UT", "10*12" + "*1" * 40 + "*999s")
    assert acquired_samples(ds) == 12
    assert not is_marked_interpolated(ds)


HOSTILE = {
    "uid": {"SeriesInstanceUID": b"SECRET.DOE.1970"},
    "number": {"InstanceNumber": b"SECRET"},
    "position": {"ImagePositionPatient": b"SECRET\\1\\2 "},
    "spacing": {"PixelSpacing": b"SECRET"},
    "date": {"StudyDate": b"SECRET12"},
    "charset": {"SpecificCharacterSet": b"SECRET"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_value_of_a_file_reaches_a_message_a_warning_or_a_log(
    case, mr, save, load, capfd, caplog, recwarn
):
    """Pydicom's own warnings quote the value: ``Invalid value for VR UI: 'JANE.DOE.1970'``."""
    ((keyword, content),) = HOSTILE[case].items()
    ds = mr()
    marker = {"charset": "ISO_IR 6"}.get(case)
    if marker:
        ds.SpecificCharacterSet = marker
    path = save(ds)
    raw = path.read_bytes()
    tag = ds[keyword].tag
    at = raw.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"), 132)
    length = int.from_bytes(raw[at + 6 : at + 8], "little")
    content += b" " * (len(content) % 2)
    path.write_bytes(
        raw[: at + 6] + len(content).to_bytes(2, "little") + content + raw[at + 8 + length :]
    )
    said = ""
    try:
        load(path)
    except (SliceFailed, SliceSkipped) as exc:
        said = f"{exc} {exc.hint}"
    output = capfd.readouterr()
    said += output.out + output.err + caplog.text + "".join(str(w.message) for w in recwarn)
    assert "SECRET" not in said
