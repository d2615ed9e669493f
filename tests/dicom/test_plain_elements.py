"""Elements that stay bytes: only those that a conversion would give back unchanged, silently."""

from __future__ import annotations

import copy
import io
import shutil
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from kspacesr_rt.dicom import Derivation, decode_slice, derive, load_slice, scan_folder
from kspacesr_rt.dicom.plain_elements import PLAIN_VRS, _is_canonical
from kspacesr_rt.dicom.quiet import quiet_pydicom
from kspacesr_rt.dicom.store import encode
from kspacesr_rt.interpolation import zero_fill
from kspacesr_rt.sample import sample_folder

LATIN = ("ISO_IR 100",)
PRIVATE = Tag(0x00191001)
DERIVATION = Derivation(
    upscale=2, backend="zero-fill", model="zero-fill", weights_sha256=None, tool_version="0"
)


def may_stay(vr, value):
    """Ask as a reader does: pydicom's warnings, which quote values, are kept quiet."""
    with quiet_pydicom():
        return _is_canonical(PRIVATE, vr, value, LATIN)


def raw_tags(dataset):
    tags = sorted(dataset.keys())
    return {tag for tag in tags if isinstance(dataset.get_item(tag), RawDataElement)}


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("CS", b"ORIGINAL\\PRIMARY"),
        ("DS", b"0.5\\0.5 "),
        ("IS", b"12"),
        ("UI", b"1.2.840.10"),
        ("PN", b"DOE^JANE"),
        ("LO", "Müller".encode("latin-1")),
        ("US", b"\x00\x01"),
        ("AT", b"\x08\x00\x18\x00"),
        ("SH", b""),
    ],
)
def test_what_a_scanner_writes_well_stays_bytes(vr, value):
    """Each VR that a header holds many of."""
    assert may_stay(vr, value + b" " * (len(value) % 2))


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("CS", b"lower "),
        ("DS", b"+12,5 "),
        ("DS", b"abcdef"),
        ("IS", b"1.5 "),
        ("UI", b"JANE.DOE.1970 "),
        ("UI", b"1.2.3"),  # an odd number of bytes
        ("SH", b"far too long for a short string!"),
        ("LO", b"padded\0\0"),
        ("LO", b"trailing    "),
        ("US", b"\x00\x01\x02"),
        ("DA", b"yesterday "),
        ("ST", b"\0\0\0\0\0\x1b"),
        ("PN", b"DOE^\x1b$BJANE"),
    ],
)
def test_what_a_conversion_would_change_or_warn_of_is_converted(vr, value):
    """Where a warning may quote a patient's value, it must fall while pydicom is kept quiet."""
    assert not may_stay(vr, value)


@given(vr=st.sampled_from(sorted(PLAIN_VRS)), value=st.binary(max_size=40))
def test_bytes_that_stay_are_those_a_conversion_would_write(vr, value):
    """Of any bytes: else the output would depend on who looked at an element before."""
    if not may_stay(vr, value):
        return
    raw = RawDataElement(PRIVATE, vr, len(value), value, 0, False, True)
    written = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for element in (raw, convert_raw_data_element(raw, encoding=list(LATIN))):
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, False
            write_data_element(buffer, element, list(LATIN))
            written.append(buffer.getvalue())
    assert written[0] == written[1]


def test_most_of_a_header_stays_bytes_and_the_output_is_the_same(tmp_path, monkeypatch):
    """Read once as it is, and once with every value converted, as before this was there."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (source,) = scan_folder(sorted(sample_folder().glob("*.dcm"))[8]).series[0].slices
    loaded, converted = load_slice(source), load_slice(source)
    assert len(raw_tags(loaded)) > len(loaded) // 2
    list(converted.iterall())
    assert not raw_tags(converted)
    outputs = []
    for dataset in (loaded, converted):
        decoded = decode_slice(dataset)
        outputs.append(encode(derive(decoded, zero_fill(decoded.values, 2), DERIVATION)))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("character_set", [None, "ISO_IR 100", "ISO_IR 192"])
def test_files_are_those_that_pydicom_writes(tmp_path, character_set):
    """Whatever is bytes and whatever is not."""
    source = dcmread(sorted(sample_folder().glob("*.dcm"))[8])
    source.SpecificCharacterSet = character_set
    source.ProtocolName = "Kopf" if character_set is None else "Schädel"
    source.UnformattedTextValue = "x" * 300
    source.save_as(tmp_path / "source.dcm")
    (one,) = scan_folder(tmp_path).series[0].slices
    decoded = decode_slice(load_slice(one))
    derived = derive(decoded, zero_fill(decoded.values, 2), DERIVATION)
    assert raw_tags(derived)
    expected = io.BytesIO()
    dcmwrite(expected, copy.deepcopy(derived), enforce_file_format=True)
    assert encode(derived) == expected.getvalue()


def test_nothing_stays_bytes_of_another_encoding(tmp_path):
    """Implicit VR has other bytes around the same values; so has big-endian order inside."""
    dataset = dcmread(sorted(sample_folder().glob("*.dcm"))[8])
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "implicit.dcm", implicit_vr=True, little_endian=True)
    (source,) = scan_folder(tmp_path).series[0].slices
    assert not raw_tags(load_slice(source))


def test_a_copy_shares_only_what_nobody_can_change(tmp_path):
    """`derive` must not change its source, even where both hold the same bytes."""
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[8], tmp_path)
    (source,) = scan_folder(tmp_path).series[0].slices
    decoded = decode_slice(load_slice(source))
    before = {tag: decoded.dataset.get_item(tag) for tag in raw_tags(decoded.dataset)}
    derived = derive(decoded, zero_fill(decoded.values, 2), DERIVATION)
    assert derived.SeriesDescription != decoded.dataset.SeriesDescription
    for tag, element in before.items():
        assert bytes(element.value) == bytes(dcmread(source.path).get_item(tag).value)
