"""What nobody asks for leaves as the bytes that came, and costs no slice."""

from __future__ import annotations

import copy
import io
import struct

import enhanced_cases
import numpy as np
import pytest
import raw_elements
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from kspacesr_rt.dicom import (
    Derivation,
    EnhancedWriter,
    FrameReader,
    decode_slice,
    derive,
    derive_enhanced,
    dropped_elements,
    examine_file,
    load_slice,
    read_slice,
    scan_folder,
    to_stored,
)
from kspacesr_rt.dicom.raw_header import RawHeader, header_copy, plain_element_bytes, raw_header
from kspacesr_rt.dicom.store import encode
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.sample import sample_folder

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
DERIVATION = Derivation(
    upscale=2, backend="zero-fill", model="zero-fill", weights_sha256=None, tool_version="0"
)
TEXTS = {
    "PatientName": 0x00100010,  # PN
    "PatientID": 0x00100020,  # LO
    "AccessionNumber": 0x00080050,  # SH
    "InstitutionAddress": 0x00080081,  # ST
    "PatientComments": 0x00104000,  # LT
    "TextValue": 0x0040A160,  # UT
    "LongCodeValue": 0x00080119,  # UC
}
"""One attribute of each VR that a character set applies to."""
KANJI = "試験^太郎"
BYTES = {
    "utf8-holds-latin1": ("ISO_IR 192", "MUSTER^JÖRG".encode("latin1")),
    "ir13-holds-shift-jis": ("ISO_IR 13", KANJI.encode("shift_jis")),
    "undeclared-escapes": (None, b"\x1b$B;n83\x1b(B^\x1b$BB@O:\x1b(B"),
    "undeclared-utf8": (None, KANJI.encode()),
    "gb18030-holds-rubbish": ("GB18030", b"Test^\xff\xfe\x80x"),
    "unknown-set": ("ISO_IR 999", "MÜLLER".encode("latin1")),
    "several-sets": (["", "ISO 2022 IR 87"], b"Y^T=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    "several-sets-end-in-kanji": (["", "ISO 2022 IR 87"], b"A^\x1b$B;3ED"),
    "several-sets-unknown-escape": (["", "ISO 2022 IR 149"], b"A^\x1b$)X\xb1\xe8\x1b-Q"),
    "korean": (["", "ISO 2022 IR 149"], b"Hong^\x1b$)C\xfb\xf3=\x1b$)C\xd1\xce\xd4\xd7"),
    "greek-holds-undefined": ("ISO_IR 126", b"\xd2\xff\xae^A"),
    "blanks-and-zeros": ("ISO_IR 100", b"  A B  \0\0"),
}


@quiet_pydicom()
def raw_file(ds, text, syntax, charset=None):
    """Return a file in which each attribute of TEXTS, on top and in an item, holds these bytes."""
    text += b" " * (len(text) % 2)
    replaced = []

    def fill(dataset, mark):
        for number, keyword in enumerate(TEXTS):
            stand_in = f"{mark}{number}".ljust(len(text), "#")[: max(len(text), 2)]
            assert len(stand_in) == len(text)
            setattr(dataset, keyword, stand_in)
            replaced.append((stand_in.encode(), text))

    ds.file_meta = FileMetaDataset()
    if charset is not None:
        ds.SpecificCharacterSet = charset
    fill(ds, "t")
    around, inherits, own = Dataset(), Dataset(), Dataset()
    fill(inherits, "i")
    own.SpecificCharacterSet = "ISO_IR 192"
    fill(own, "o")
    around.RequestAttributesSequence = Sequence([inherits])
    ds.RequestAttributesSequence = Sequence([around, own])
    return raw_elements.content(ds, syntax, *replaced), text


def paths():
    """Return where `raw_file` puts its texts."""
    requests = 0x00400275
    for place in ((), (requests, 0, requests, 0), (requests, 1)):
        yield from ((*place, tag) for tag in TEXTS.values())


def derived_bytes(path, **changed):
    """Return the output of a file as bytes."""
    source = examine_file(path)
    derivation = Derivation(
        **{name: getattr(DERIVATION, name) for name in ("upscale", "backend", "model")},
        weights_sha256=None,
        tool_version="0",
        **changed,
    )
    if source.n_frames is None:
        decoded = read_slice(source)
        return encode(derive(decoded, zero_fill(decoded.values, 2), derivation))
    reader = FrameReader(source)
    derived = derive_enhanced(reader.take_header(), derivation)
    with EnhancedWriter(path.parent / "out", derived, derivation) as writer:
        for number, frame in enumerate(reader, start=1):
            writer.write(number, to_stored(zero_fill(frame.values, 2), frame.dataset))
        return writer.finish()[0].read_bytes()


def enhanced():
    """Return a small Enhanced MR data set."""
    return enhanced_cases.build(enhanced_cases.sample_frames(2, step=16))


@pytest.mark.matrix(strength=1)
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize(("charset", "text"), BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_text_leaves_as_the_bytes_that_came(kind, charset, text, syntax, mr, tmp_path):
    """An archive would file a name with other bytes under another patient."""
    ds = mr() if kind == "classic" else enhanced()
    data, text = raw_file(ds, text, syntax, charset)
    path = tmp_path / "slice.dcm"
    path.write_bytes(data)
    found = raw_elements.elements(derived_bytes(path))
    assert {path: found[path][1] for path in paths()} == dict.fromkeys(paths(), text)
    if charset is not None:
        told = "\\".join(charset) if isinstance(charset, list) else charset
        assert found[0x00080005,][1].rstrip() == told.encode()
    assert found[0x00400275, 1, 0x00080005][1] == b"ISO_IR 192"


@given(text=st.binary(min_size=4, max_size=40))
def test_any_bytes_of_a_text_leave_as_they_came(text, tmp_path_factory):
    """Whatever they are: no table of odd texts is complete."""
    text += b" " * (len(text) % 2)
    item = raw_elements.element(0x00400007, b"LO", text)
    raw = raw_elements.element(0x00400275, b"SQ", raw_elements.item(item))
    source = Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = bytes(128) + b"DICM" + raw_elements.element(0x00100010, b"PN", text) + raw
    read = dcmread(io.BytesIO(content), force=True)
    kept = raw_header(read)
    assert kept[0x00100010].tag == 0x00100010  # whoever looks, silently
    assert kept[0x00400275].value[0][0x00400007].tag == 0x00400007
    twin = header_copy(kept)
    twin.file_meta, twin.preamble = source.file_meta, None
    twin.file_meta.MediaStorageSOPClassUID = twin.file_meta.MediaStorageSOPInstanceUID = "1.2"
    found = raw_elements.elements(encode(twin))
    assert found[0x00100010,] == ("PN", text)
    assert found[0x00400275, 0, 0x00400007] == ("LO", text)


CREATOR = raw_elements.element(0x00210010, b"LO", b"ACME")
PRIVATE = {
    "fd-holds-text": raw_elements.element(0x00211001, b"FD", b"0.264 "),
    "us-of-3-bytes": raw_elements.element(0x00211001, b"US", bytes(3)),
    "sl-of-2-bytes": raw_elements.element(0x00211001, b"SL", b"\1\0"),
    "sq-of-junk": raw_elements.element(0x00211001, b"SQ", b"ABCDEFGHIJKLMNOP"),
    "sq-cut": raw_elements.element(0x00211001, b"SQ", raw_elements.item(bytes(20))[:-6]),
    "at-of-2-bytes": raw_elements.element(0x00211001, b"AT", b"\1\0"),
    "ds-of-letters": raw_elements.element(0x00211001, b"DS", b"abcdef"),
    "unknown-vr": raw_elements.element(0x00211001, b"ZZ", b"ab"),
}
PUBLIC = {
    "fd-of-4-bytes": (0x00189087, b"FD", bytes(4)),
    "ul-of-2-bytes": (0x00189074, b"UL", bytes(2)),
    "ss-of-1-byte": (0x00209001, b"SS", b"\1"),
    "ds-of-letters": (0x00181318, b"DS", b"abcdef"),
    "ds-far-too-long": (0x00181318, b"DS", b"0.123456789012345678"),
    "is-of-letters": (0x00180086, b"IS", b"1a"),
    "is-with-comma": (0x00200011, b"IS", b"1,5 "),
    "da-of-letters": (0x00080022, b"DA", b"tomorrow"),
    "us-for-a-text": (0x00181030, b"US", b"\1\0"),
    "fd-for-a-text": (0x00181030, b"FD", bytes(8)),
    "sq-for-a-text": (0x00181030, b"SQ", b""),
    "ui-of-letters": (0x00200052, b"UI", b"JANE.DOE"),
    "at-of-3-bytes": (0x00189999, b"AT", bytes(3)),
    "acquisition-matrix-of-3-bytes": (0x00181310, b"US", bytes(3)),
    "echo-number-of-letters": (0x00180086, b"IS", b"one "),
    "trigger-time-of-letters": (0x00181060, b"DS", b"soon"),
    "window-of-letters": (0x00281050, b"DS", b"wide"),
    "padding-of-1-byte": (0x00280120, b"US", b"\1"),
    "number-of-frames-of-letters": (0x00280008, b"IS", b"many"),
    "time-zone-as-a-number": (0x00080201, b"US", b"\1\0"),
}
WRITTEN_ANEW = {0x00200011, 0x00280008, 0x00280120}
"""Series Number; Number of Frames and padding speak of the old pixels, and may go."""


def plain(mr, raw, before):
    """Return a classic file with these bytes before an element, which they replace."""
    ds = mr()
    ds.file_meta = FileMetaDataset()
    tag = struct.unpack("<HH", raw[:4])
    ds.pop((tag[0], tag[1]), None)
    return raw_elements.insert(raw_elements.content(ds), raw, before)


def following(ds, tag):
    return min(other for other in (*ds.keys(), 0x7FE00010) if other > tag)


@pytest.mark.parametrize("keep_private", [False, True])
@pytest.mark.parametrize("raw", PRIVATE.values(), ids=PRIVATE)
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_private_element_that_is_no_value_costs_no_slice(kind, raw, keep_private, mr, tmp_path):
    """It is dropped before anybody looks into it; or it is kept as bytes; or counted."""
    ds = mr() if kind == "classic" else enhanced()
    ds.file_meta = FileMetaDataset()
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(raw_elements.content(ds), CREATOR + raw, 0x00280002))
    found = raw_elements.elements(derived_bytes(path, keep_private=keep_private))
    private = {tags[0]: value for tags, value in found.items() if tags[0] >> 16 == 0x0021}
    if not keep_private:
        assert private == {}
    elif raw[4:6] == b"SQ":
        assert set(private) == {0x00210010}
    else:
        value = raw[8:] + b"\0" * (len(raw) % 2)
        vr = "DS" if raw[4:6] == b"DS" else "UN"
        assert private[0x00211001] == (vr, value)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (place, name)
        for place in ("on top", "in an item", "in Enhanced MR")
        for name in PUBLIC
        # A multi-frame file does need its number of frames.
        if (place, name) != ("in Enhanced MR", "number-of-frames-of-letters")
    ],
)
def test_a_value_that_nobody_needs_travels_as_bytes(place, name, mr, tmp_path):
    """Other readers take such files; so what cannot be converted must not cost the slice."""
    tag, vr, value = PUBLIC[name]
    raw = raw_elements.element(tag, vr, value)
    ds = enhanced() if place == "in Enhanced MR" else mr()
    ds.file_meta = FileMetaDataset()
    if place == "in an item":
        raw = raw_elements.element(0x00400275, b"SQ", raw_elements.item(raw))
    (outer,) = (struct.unpack("<HH", raw[:4]),)
    ds.pop(outer, None)
    before = following(ds, outer[0] << 16 | outer[1])
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(raw_elements.content(ds), raw, before))
    found = raw_elements.elements(derived_bytes(path))
    where = (0x00400275, 0, tag) if place == "in an item" else (tag,)
    if place != "in an item" and tag in WRITTEN_ANEW:
        assert found.get(where, ("", b""))[1] != value
        return
    padding = b"" if len(value) % 2 == 0 else b"\0"
    whole = len(value) % {b"FD": 8, b"UL": 4, b"AT": 4, b"US": 2, b"SS": 2}.get(vr, 1) == 0
    assert found[where] == (vr.decode() if whole else "UN", value + padding)


@pytest.mark.matrix
@pytest.mark.parametrize("value", [b"", b"ab", b"1.5 ", b"A" * 200], ids=len)
@pytest.mark.parametrize("vr", [b"??", b"  ", b"\0\0", b"--", b"Us", b"ox", b"\xff\xff"])
@pytest.mark.parametrize("tag", [0x00089999, 0x00189999, 0x00211001, 0x00409999], ids=hex)
def test_an_element_of_no_representation_costs_no_slice(tag, vr, value, mr, tmp_path):
    """Dcmtk reads it as short; pydicom takes the rest of the file for its value, pixels and all."""
    raw = raw_elements.element(tag, vr, value)
    path = tmp_path / "slice.dcm"
    path.write_bytes(plain(mr, raw, following(mr(), tag)))
    found = raw_elements.elements(derived_bytes(path))
    assert (tag,) not in found if tag == 0x00211001 else found[(tag,)][1] == value


def test_several_of_them_are_stepped_over_also_with_long_values(mr, tmp_path):
    """Whatever follows bears out how long an element is: 16 bits of length, or 32."""
    long = struct.pack("<HH2sHL", 0x0018, 0x9998, b"ob", 0, 6) + b"abcdef"
    short = [raw_elements.element(0x00409990 + n, b"??", b"ab" * n) for n in range(3)]
    path = tmp_path / "slice.dcm"
    data = raw_elements.insert(plain(mr, long, 0x0020000D), b"".join(short), 0x7FE00010)
    path.write_bytes(data)
    found = raw_elements.elements(derived_bytes(path))
    assert found[(0x00189998,)][1] == b"abcdef"
    assert [found[(0x00409990 + n,)][1] for n in range(3)] == [b"", b"ab", b"abab"]


def test_what_nothing_bears_out_is_not_guessed(mr, tmp_path):
    """An element that leads nowhere hides where the others begin: no pixels are found."""
    raw = struct.pack("<HH2sH", 0x0018, 0x9999, b"??", 400) + b"ab"
    path = tmp_path / "slice.dcm"
    path.write_bytes(plain(mr, raw, 0x0020000D))
    assert examine_file(path).reason == "truncated"


@pytest.mark.parametrize("value", [b"AAAAAAAA", b"ISO_IR 100", b""], ids=repr)
@pytest.mark.parametrize("vr", [b"SS", b"FD", b"LT", b"OD", b"OB", b"UT", b"UI"])
def test_a_character_set_of_another_representation_costs_no_slice(vr, value, mr, tmp_path):
    """Nobody needs it to carry bytes over."""
    raw = raw_elements.element(0x00080005, vr, value)
    path = tmp_path / "slice.dcm"
    path.write_bytes(plain(mr, raw, 0x00080008))
    assert raw_elements.elements(derived_bytes(path))[(0x00080005,)][1] == value


def odd_inside(ds, tag, odd, *, open_ends):
    """Return a file of which each element with this tag, in whatever item, has an odd VR."""
    for element in ds.iterall() if open_ends else ():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for one in element.value:
                one.is_undefined_length_sequence_item = True
    ds.file_meta = FileMetaDataset()
    data = raw_elements.content(ds)
    old = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + dictionary_VR(tag).encode()
    assert old in data
    return data.replace(old, old[:4] + odd)


@pytest.mark.matrix
@pytest.mark.parametrize("open_ends", [False, True], ids=["known-lengths", "open-ends"])
@pytest.mark.parametrize("odd", [b"??", b"\0\0", b"ds"], ids=repr)
@pytest.mark.parametrize(
    "keyword",
    ["SliceThickness", "PixelSpacing", "ImagePositionPatient", "StackID", "RescaleIntercept"],
)
def test_an_odd_element_of_functional_groups_hides_nothing(
    keyword, odd, open_ends, tmp_path, monkeypatch
):
    """First, in the middle or last in its item; the dictionary knows what it is."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    tag = tag_for_keyword(keyword)
    path = tmp_path / "slice.dcm"
    path.write_bytes(odd_inside(enhanced(), tag, odd, open_ends=open_ends))
    twin = tmp_path / "twin.dcm"
    twin.write_bytes(odd_inside(enhanced(), tag, dictionary_VR(tag).encode(), open_ends=open_ends))
    found = raw_elements.elements(derived_bytes(path))
    (tmp_path / "out").rename(tmp_path / "before")
    assert found == raw_elements.elements(derived_bytes(twin))


def test_an_odd_element_before_an_icon_is_stepped_over(mr, tmp_path):
    """The pixels of an icon are not yet those of the slice."""
    icon = raw_elements.element(0x7FE00010, b"OB", bytes(4))
    icons = raw_elements.element(0x00880200, b"SQ", raw_elements.item(icon))
    odd = icons + raw_elements.element(0x00889999, b"??", b"ab")
    path = tmp_path / "slice.dcm"
    path.write_bytes(plain(mr, odd, following(mr(), 0x00889999)))
    assert raw_elements.elements(derived_bytes(path))[(0x00889999,)][1] == b"ab"


@pytest.mark.matrix
@pytest.mark.parametrize("vr", [b"UT", b"SH", b"DS", b"OW", b"LT", b"AT", b"UI", b"UN"])
@pytest.mark.parametrize(
    "keyword", ["DerivationCodeSequence", "ContributingEquipmentSequence", "SourceImageSequence"]
)
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_sequence_that_is_coded_as_none_costs_no_slice(kind, keyword, vr, mr, tmp_path):
    """We add an item to it; what stood there was none."""
    tag = tag_for_keyword(keyword)
    ds = mr() if kind == "classic" else enhanced()
    ds.file_meta = FileMetaDataset()
    ds.pop(tag, None)
    raw = raw_elements.element(tag, vr, b"ABCDEFGH")
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(raw_elements.content(ds), raw, following(ds, tag)))
    found = raw_elements.elements(derived_bytes(path))
    if kind == "classic" or keyword == "ContributingEquipmentSequence":
        assert found[(tag,)][0] == "SQ"
        assert {where[1] for where in found if where[0] == tag and len(where) > 1} == {0}


def test_a_junk_sequence_is_dropped_and_counted(mr, tmp_path):
    """What stands in it cannot be told, so whether it still holds cannot either."""
    ds = mr()
    ds.file_meta = FileMetaDataset()
    raw = raw_elements.element(0x00189117, b"SQ", b"ABCDEFGHIJKLMNOP")
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(raw_elements.content(ds), raw, 0x0020000D))
    assert (0x00189117,) not in raw_elements.elements(derived_bytes(path))
    assert dropped_elements(read_slice(examine_file(path))) == {"unreadable sequence": 1}


def test_a_junk_sequence_that_is_needed_fails_the_slice(tmp_path):
    """Only what must be understood can."""
    ds = enhanced()
    ds.file_meta = FileMetaDataset()
    del ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence
    raw = raw_elements.element(0x52009230, b"SQ", b"ABCDEFGHIJKLMNOP")
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(raw_elements.content(ds), raw, 0x7FE00010))
    assert examine_file(path).reason in ("unreadable", "missing-attribute")


def test_numbers_of_a_big_endian_file_are_turned_round(mr, tmp_path):
    """Of every width, on top and in items."""
    ds = mr(EchoTrainLength=3, DiffusionBValue=1000.5)
    ds.SimpleFrameList = [258, 70000]
    ds.FrameIncrementPointer = 0x00181063
    item = Dataset()
    item.ReferencedFrameNumbers, item.DiffusionBValue = [1], 0.25
    item.add_new(0x00281201, "OW", b"\x02\x01\x04\x03")  # as it lies in the file
    ds.RequestAttributesSequence = Sequence([item])
    ds.file_meta = FileMetaDataset()
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.content(ds, ExplicitVRBigEndian))
    found = raw_elements.elements(derived_bytes(path))
    assert found[0x00189087,][1] == struct.pack("<d", 1000.5)
    assert found[0x00081161,][1] == struct.pack("<2L", 258, 70000)
    assert found[0x00280009,][1] == struct.pack("<HH", 0x0018, 0x1063)
    assert found[0x00400275, 0, 0x00189087][1] == struct.pack("<d", 0.25)
    assert found[0x00400275, 0, 0x00281201][1] == b"\x01\x02\x03\x04"


@pytest.mark.parametrize(("signed", "vr"), [(0, "US"), (1, "SS")])
def test_an_implicit_file_means_the_vr_that_fits_its_pixels(signed, vr, mr, tmp_path):
    """Pixel Padding Value is US or SS; a lookup table's descriptor too, in an item."""
    pixels = np.zeros((20, 24), np.int16 if signed else np.uint16)
    pixels[5:9] = 700
    ds = mr(pixels, PixelPaddingValue=5)
    ds[0x00280120].VR = vr
    lut = Dataset()
    lut.add_new(0x00283002, "US", [4, 0, 16])
    lut.add_new(0x00283006, "OW", struct.pack("<4H", 1, 2, 3, 4))
    ds.VOILUTSequence = Sequence([lut])
    ds.file_meta = FileMetaDataset()
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.content(ds, ImplicitVRLittleEndian))
    found = raw_elements.elements(derived_bytes(path))
    assert found[0x00280120,] == (vr, struct.pack("<H", 5))
    assert found[0x00283010, 0, 0x00283002][0] in ("US", "SS")
    assert found[0x00283010, 0, 0x00283006] == ("OW", struct.pack("<4H", 1, 2, 3, 4))


def test_a_text_too_long_for_its_vr_is_written_as_unknown(mr, tmp_path):
    """An implicit file has 32 bits for its length, an explicit one has 16 (PS3.5 6.2.2)."""
    with quiet_pydicom():
        ds = mr(PatientComments="x" * 70000)
    ds.file_meta = FileMetaDataset()
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.content(ds, ImplicitVRLittleEndian))
    assert raw_elements.elements(derived_bytes(path))[0x00104000,] == ("UN", b"x" * 70000)


def test_a_public_element_said_to_be_unknown_is_known(mr, tmp_path):
    """Archives write UN for what they do not know; private parts of such a sequence go too."""
    inner = raw_elements.element(0x00211001, b"LO", b"ab")
    implicit = struct.pack("<HHL", 0x0040, 0x0007, 4) + b"head" + CREATOR + inner
    raw = raw_elements.element(0x00400275, b"UN", raw_elements.item(implicit[:12]))
    ds = mr()
    ds.file_meta = FileMetaDataset()
    path = tmp_path / "slice.dcm"
    path.write_bytes(raw_elements.insert(raw_elements.content(ds), raw, 0x7FE00010))
    found = raw_elements.elements(derived_bytes(path))
    assert found[0x00400275, 0, 0x00400007] == ("LO", b"head")


def test_sequences_nested_too_deeply_are_dropped(mr, tmp_path):
    """A hundred levels, defined and undefined lengths: no recursion without an end."""
    defined = undefined = b""
    for _ in range(100):
        defined = raw_elements.element(0x00400275, b"SQ", raw_elements.item(defined))
        undefined = (
            struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
            + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
            + undefined
            + struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        )
    for raw in (defined, undefined):
        ds = mr()
        ds.file_meta = FileMetaDataset()
        path = tmp_path / "slice.dcm"
        path.write_bytes(raw_elements.insert(raw_elements.content(ds), raw, 0x7FE00010))
        found = raw_elements.elements(derived_bytes(path))
        assert 5 < max(len(tags) for tags in found if tags[0] == 0x00400275) < 60
        assert dropped_elements(read_slice(examine_file(path))) == {"unreadable sequence": 1}


def test_looking_changes_nothing():
    """Values are for whoever asks, and only for him."""
    dataset = RawHeader(
        {0x00100010: RawDataElement(0x00100010, "PN", 4, b"A\xff^B", 0, False, True)}
    )
    dataset.set_original_encoding(False, True, ["utf8"])
    assert "\ufffd" in str(dataset.PatientName.family_name or dataset.PatientName)
    assert dataset.get_item(0x00100010).value == b"A\xff^B"


def test_setting_replaces_whatever_vr_came():
    """A data set of pydicom would keep a wrong VR, and fail when it is written."""
    raw = RawDataElement(0x0008103E, "US", 2, b"\1\0", 0, False, True)
    dataset = RawHeader({0x0008103E: raw})
    dataset.SeriesDescription = "head"
    assert (dataset[0x0008103E].VR, dataset.SeriesDescription) == ("LO", "head")


def test_the_output_is_the_same_whoever_has_looked_before(monkeypatch):
    """Read once as it is, and once with every value asked for."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (source,) = scan_folder(sorted(sample_folder().glob("*.dcm"))[8]).series[0].slices
    outputs = []
    for looked in (False, True):
        decoded = decode_slice(load_slice(source))
        if looked:
            assert len(list(decoded.dataset.iterall())) > 50
        outputs.append(encode(derive(decoded, zero_fill(decoded.values, 2), DERIVATION)))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("character_set", [None, "ISO_IR 100", "ISO_IR 192"])
def test_files_of_well_written_values_are_those_that_pydicom_writes(tmp_path, character_set):
    """Bytes that stay are what a conversion would give back."""
    source = dcmread(sorted(sample_folder().glob("*.dcm"))[8])
    source.SpecificCharacterSet = character_set
    source.ProtocolName = "Kopf" if character_set is None else "Schädel"
    source.UnformattedTextValue = "x" * 300
    source.save_as(tmp_path / "source.dcm")
    (one,) = scan_folder(tmp_path).series[0].slices
    decoded = decode_slice(load_slice(one))
    derived = derive(decoded, zero_fill(decoded.values, 2), DERIVATION)
    expected = io.BytesIO()
    plain = Dataset(copy.deepcopy(derived))
    plain.file_meta = derived.file_meta
    dcmwrite(expected, plain, enforce_file_format=True)
    assert encode(derived) == expected.getvalue()


def test_a_copy_shares_only_what_nobody_can_change():
    """`derive` must not change its source, even where both hold the same bytes."""
    (source,) = scan_folder(sorted(sample_folder().glob("*.dcm"))[8]).series[0].slices
    decoded = decode_slice(load_slice(source))
    before = {tag: decoded.dataset.get_item(tag) for tag in decoded.dataset.keys()}  # noqa: SIM118 - iterating gives elements
    derived = derive(decoded, zero_fill(decoded.values, 2), DERIVATION)
    assert derived.SeriesDescription != decoded.dataset.SeriesDescription
    assert before == {tag: decoded.dataset.get_item(tag) for tag in before}


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("vr", [b"AS", b"IS", b"DS", b"LO"])
def test_what_describes_pixels_is_written_as_numbers(vr, kind, mr, tmp_path):
    """It was understood, so the output must not need a reader that understands it too."""
    tags = {0x00280002: b"1 ", 0x00280100: b"16", 0x00280101: b"16", 0x00280102: b"15"}
    ds = mr() if kind == "classic" else enhanced()
    stored = np.arange(-900, -900 + len(ds.PixelData) // 2, dtype=np.int16)
    stored = stored.reshape(
        (ds.get("NumberOfFrames"), -1, ds.Columns) if kind == "enhanced" else (ds.Rows, ds.Columns)
    )
    ds.file_meta = FileMetaDataset()
    ds.PixelData, ds.PixelRepresentation = stored.tobytes(), 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    for tag in (*tags, 0x00280103):
        del ds[tag]
    data = raw_elements.content(ds)
    for tag, value in {**tags, 0x00280103: b"1 "}.items():
        raw = raw_elements.element(tag, vr, value)
        data = raw_elements.insert(data, raw, following(ds, tag))
    path = tmp_path / "slice.dcm"
    path.write_bytes(data)
    content = derived_bytes(path)
    found = raw_elements.elements(content)
    assert [found[(tag,)] for tag in tags] == [
        ("US", struct.pack("<H", int(value))) for value in tags.values()
    ]
    assert found[(0x00280103,)] == ("US", b"\1\0")
    sr = dcmread(io.BytesIO(content)).pixel_array
    np.testing.assert_array_equal(sr[..., ::2, ::2], stored)


PLAIN_TEXT = st.text("ABCZabcz0129 .,:;()[]/+_-", min_size=1, max_size=40)


@given(text=PLAIN_TEXT, charset=st.sampled_from(["ISO_IR 100", "ISO_IR 192", "GBK", "ISO_IR 13"]))
def test_a_plain_text_is_written_as_pydicom_writes_it(text, charset):
    """What is written without pydicom is told apart by nothing, in any character set."""
    for vr in ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UI"):
        tag = {"UI": 0x00080018}.get(vr, 0x00104000)
        with quiet_pydicom(), config.disable_value_validation():
            element = DataElement(tag, vr, text)
            expected = DicomBytesIO()
            expected.is_little_endian, expected.is_implicit_VR = True, False
            write_data_element(expected, element, charset)
        assert plain_element_bytes(element) in (None, expected.getvalue())
    assert plain_element_bytes(DataElement(0x00104000, "LT", "plain")) is not None


@given(number=st.integers(0, 0xFFFF))
def test_an_unsigned_number_is_written_as_pydicom_writes_it(number):
    """Rows, Columns, bits: each output has a dozen."""
    element, expected = DataElement(0x00280010, "US", number), DicomBytesIO()
    expected.is_little_endian, expected.is_implicit_VR = True, False
    write_data_element(expected, element)
    assert plain_element_bytes(element) == expected.getvalue()


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        *[("LO", "é"), ("LO", "a~"), ("LO", "a\\b"), ("LO", None), ("CS", ["A", "B"]), ("CS", "")],
        *[("US", [1, 2]), ("US", None), ("DS", "1.5"), ("PN", "A^B"), ("SQ", []), ("OB", b"ab")],
    ],
)
def test_what_is_not_plain_is_left_to_pydicom(vr, value):
    """Character sets, several values and numbers as texts are not ours to write."""
    with config.disable_value_validation():
        assert plain_element_bytes(DataElement(0x00104000, vr, value)) is None


def test_elements_are_found_however_they_are_asked_for():
    """By keyword, tag or number, there or not: the short ways answer as pydicom's data set does."""
    with quiet_pydicom():
        ds = raw_header(dcmread(next(sample_folder().glob("*.dcm"))))
        plain = Dataset(dict(ds.items()))
        plain.set_original_encoding(False, True, ds.original_character_set)
        for keyword in ("Rows", "PixelSpacing", "PatientComments", "ImageType", "NoKeyword"):
            assert (keyword in ds) == (keyword in plain)
            assert ds.get(keyword, 7) == plain.get(keyword, 7)
            assert getattr(ds, keyword, 8) == getattr(plain, keyword, 8)
        for key in (0x00280010, (0x0028, 0x0010), BaseTag(0x00280010), 0x00280008, "Rows"):
            assert (key in ds) == (key in plain)
            assert ds.get_item(key) == ds._dict.get(Tag(key))
            assert getattr(ds.get(key), "value", ds.get(key)) == getattr(
                plain.get(key), "value", plain.get(key)
            )
    with pytest.raises(AttributeError):
        _ = ds.PatientComments
    with pytest.raises(KeyError):
        _ = ds[0x00104000]
