"""Character sets and values of impossible lengths: bounded, and read as far as they can be."""

import struct

import enhanced_cases
import pytest
import raw_elements
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from kspacesr_rt.dicom import derive, examine_file, raw_header, read_slice
from kspacesr_rt.dicom.character_sets import VALUES_MAX
from kspacesr_rt.dicom.store import encode
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace.resampling import zero_fill

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


@quiet_pydicom()
def content(ds, syntax=ExplicitVRLittleEndian, *replaced):
    ds.file_meta = FileMetaDataset()
    return raw_elements.content(ds, syntax, *replaced)


def implicit(tag, value):
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def output(path, run):
    decoded = read_slice(examine_file(path))
    return raw_elements.elements(encode(derive(decoded, zero_fill(decoded.values, 2), run())))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
@pytest.mark.parametrize("value", ["ISO_IR@192", "@ISO_IR 100", "IBM@2022 IR 87@X"])
def test_a_zero_among_the_letters_of_a_character_set_costs_no_slice(
    value, syntax, mr, tmp_path, run
):
    """Pydicom stops at it; names leave as the bytes that came, and the zero as a blank."""
    name = "MUSTER^JÖRG".encode()
    ds = mr(SpecificCharacterSet=value.replace("@", "#"), PatientName="N" * len(name))
    letters = (value.replace("@", "#").encode(), value.replace("@", "\0").encode())
    path = tmp_path / "slice.dcm"
    path.write_bytes(content(ds, syntax, letters, (b"N" * len(name), name)))
    found = output(path, run)
    assert found[(0x00080005,)][1].rstrip(b" ") == value.replace("@", " ").encode()
    assert found[(0x00100010,)][1].rstrip(b" ") == name


@pytest.mark.parametrize("open_ends", [False, True])
def test_in_an_item_it_costs_no_slice_either(open_ends, mr, tmp_path, run):
    inner = mr()
    inner.clear()
    inner.SpecificCharacterSet, inner.CodeMeaning = "ISO_IR#192", "brain"
    inner.is_undefined_length_sequence_item = open_ends
    ds = mr(AnatomicRegionSequence=Sequence([inner]))
    ds["AnatomicRegionSequence"].is_undefined_length = open_ends
    path = tmp_path / "slice.dcm"
    path.write_bytes(content(ds, ExplicitVRLittleEndian, (b"ISO_IR#192", b"ISO_IR\x00192")))
    assert output(path, run)[(0x00082218, 0, 0x00080104)][1] == b"brain "


def big(ds, raw):
    return raw_elements.insert(content(ds), raw, 0x00080008)


def many(n):
    return b"ISO_IR 6\\" * (n - 1) + b"ISO_IR 6"


def as_unknown(ds):
    """More than two megabytes, as no code string can be."""
    return big(ds, raw_elements.element(0x00080005, b"UN", many(300_000)))


def as_implicit(ds):
    data = content(ds, ImplicitVRLittleEndian)
    return raw_elements.insert(data, implicit(0x00080005, many(300_000)), 0x00080008)


def as_deflated(ds):
    return raw_elements.deflate(as_unknown(ds))


def as_letters(ds):
    """One that is endless: looking it up took minutes."""
    return big(ds, raw_elements.element(0x00080005, b"UN", b"A" * 3_000_000))


@pytest.mark.parametrize(
    "make",
    [
        lambda ds: big(ds, raw_elements.element(0x00080005, b"CS", many(VALUES_MAX + 1))),
        *(as_unknown, as_implicit, as_deflated, as_letters),
    ],
    ids=["short", "unknown", "implicit", "deflated", "one"],
)
def test_more_character_sets_than_there_are_are_too_large(make, mr, tmp_path):
    """Three million took minutes: each was looked up for each data set that they hold for."""
    path = tmp_path / "slice.dcm"
    path.write_bytes(make(mr()))
    failure = examine_file(path)
    assert (failure.reason, "character sets" in str(failure)) == ("too-large", True)


@pytest.mark.parametrize("is_implicit", [False, True])
def test_in_an_item_they_cost_the_sequence(is_implicit, mr, tmp_path, run):
    """Nobody needs it."""
    sets = many(100_000) + b" "
    if is_implicit:
        item = raw_elements.item(implicit(0x00080005, sets))
        syntax, raw = ImplicitVRLittleEndian, implicit(0x00400275, item)
    else:
        item = raw_elements.item(raw_elements.element(0x00080005, b"UN", sets))
        syntax, raw = ExplicitVRLittleEndian, raw_elements.element(0x00400275, b"SQ", item)
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(content(mr(), syntax), raw, 0x7FE00010))
    assert not [where for where in output(path, run) if where[0] == 0x00400275]


def test_as_many_as_there_are_may_be_named(mr, tmp_path, run):
    path = tmp_path / "slice.dcm"
    path.write_bytes(big(mr(), raw_elements.element(0x00080005, b"CS", many(VALUES_MAX) + b" ")))
    assert output(path, run)[(0x00080005,)][1].startswith(b"ISO_IR 6")


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("EchoNumbers", 0x00180086),
        ("AcquisitionMatrix", 0x00181310),
        ("PatientName", 0x00100010),
        ("WindowCenter", 0x00281050),
        ("SmallestImagePixelValue", 0x00280106),
        ("ImageComments", 0x00204000),
    ],
)
def test_a_value_longer_than_its_kind_may_be_is_not_taken_apart(
    keyword, tag, mr, tmp_path, run, monkeypatch
):
    """Fifteen million values took a minute; nobody needs them, and the slice is written."""
    value = b"1\\" * 40_000
    ds = mr()
    ds.pop(tag, None)
    data = content(ds, ImplicitVRLittleEndian)
    before = min(int(other) for other in ds.keys() if other > tag)  # noqa: SIM118 - iterating gives elements
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(data, implicit(tag, value), before))
    converted = []
    convert = raw_header.convert_raw_data_element

    def watched(raw, **options):
        converted.append(len(raw.value or b""))
        return convert(raw, **options)

    monkeypatch.setattr(raw_header, "convert_raw_data_element", watched)
    found = output(path, run)
    assert converted
    assert max(converted) < len(value)
    assert keyword == "SmallestImagePixelValue" or found[(tag,)][1] == value


@pytest.mark.parametrize("value", [b"1\\" * 40_000, b"abc ", b"\xff\xfe", b"1\\2 "], ids=len)
def test_a_rescale_slope_that_is_no_number_is_no_slope_of_one(value, mr, tmp_path):
    """What stands there but cannot be understood is not absent."""
    ds = mr(RescaleIntercept="0")
    ds.pop("RescaleSlope", None)
    data = content(ds, ImplicitVRLittleEndian)
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(data, implicit(0x00281053, value), 0x7FE00010))
    with pytest.raises(SliceFailed) as caught:
        read_slice(examine_file(path))
    assert caught.value.reason == "bad-rescale"


@pytest.mark.parametrize("written", ["monochrome2", "Monochrome1 ", " MonoChrome2"])
def test_terms_in_small_letters_are_terms(written, mr, save, run):
    """The output has them as the Standard has."""
    found = output(save(mr(PhotometricInterpretation=written)), run)
    assert found[(0x00280004,)][1].decode() == written.strip().upper() + " "


def test_an_enhanced_file_says_it_in_small_letters_too(tmp_path):
    ds = enhanced_cases.build(
        enhanced_cases.sample_frames(2), PhotometricInterpretation="monochrome2"
    )
    assert examine_file(enhanced_cases.save(ds, tmp_path / "file.dcm")).n_frames == 2


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "rgb"}, "not-grayscale"),
        ({"PhotometricInterpretation": "Palette Color"}, "not-grayscale"),
        ({"PhotometricInterpretation": "MONOCHROME9"}, "missing-attribute"),
        ({"ComplexImageComponent": "phase"}, "phase"),
        ({"ImageType": ["original", "primary", "phase map"]}, "phase"),
    ],
)
def test_small_letters_do_not_let_another_picture_through(attributes, reason, mr, save):
    assert examine_file(save(mr(**attributes))).reason == reason
