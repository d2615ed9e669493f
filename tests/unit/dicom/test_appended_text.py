"""Words of ours behind a text of the source: appended to its bytes, correct in its alphabet."""

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from kspacesr_rt.dicom.appended_text import add_text, decoded_text
from kspacesr_rt.dicom.raw_header import RawHeader
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

MARK = "[SR x2 RESEARCH]"
ROOM = 64 - len(MARK) - 1


def description(value, charset=None, *, vr="LO", keyword="SeriesDescription"):
    """Return what a series of this description is called, as bytes."""
    tag = Tag(keyword)
    raw = RawDataElement(tag, vr, len(value), value, 0, False, True)
    dataset = RawHeader({tag: raw})
    names = {None: "iso8859", "ISO_IR 100": "latin_1", "ISO_IR 192": "utf8", "GB18030": "GB18030"}
    names |= {"ISO_IR 13": "shift_jis"}
    known = charset if isinstance(charset, list) else names[charset]
    dataset.set_original_encoding(False, True, known)
    with quiet_pydicom():
        add_text(dataset, keyword, MARK, joint=" ", limit=64)
    found = dataset.get_item(tag)
    assert found.VR == "LO" if keyword == "SeriesDescription" else found.VR
    if isinstance(found, RawDataElement):  # a value has an even length (PS3.5 7.1)
        assert (len(found.value), len(found.value) % 2) == (found.length, 0)
    value = found.value if isinstance(found.value, bytes) else str(found.value).encode()
    return value.rstrip()


@pytest.mark.parametrize(
    ("value", "charset"),
    [
        (b"t2 axial", None),
        ("Schädel".encode("latin-1"), "ISO_IR 100"),
        ("Schädel".encode(), "ISO_IR 192"),
        ("Schädel".encode("latin-1"), "ISO_IR 192"),  # fits no UTF-8
        ("Schädel".encode(), None),  # declares nothing
        ("頭部".encode("gb18030"), "GB18030"),
        ("試験".encode("shift_jis"), "ISO_IR 13"),
        (b"T2\xff\\AX", "ISO_IR 192"),
    ],
)
def test_what_has_room_keeps_its_bytes(value, charset):
    """Whether they can be decoded or not."""
    assert description(value + b" ", charset) == value + b" " + MARK.encode()


def test_words_of_ours_are_ascii_again_behind_kanji():
    """A text that does not end in ASCII would turn ours into kanji."""
    kanji = b"\x1b$B;3ED"
    found = description(kanji, ["iso8859", "iso2022_jp"])
    assert found == kanji + b"\x1b(B " + MARK.encode()
    ended = kanji + b"\x1b(B"
    assert description(ended, ["iso8859", "iso2022_jp"]) == ended + b" " + MARK.encode()


@pytest.mark.parametrize(
    ("value", "charset", "kept"),
    [
        (b"a" * 80, None, b"a" * ROOM),
        ("頭部".encode() * 40, "ISO_IR 192", ("頭部" * 40)[:ROOM].encode()),
        ("頭部".encode("gb18030") * 40, "GB18030", ("頭部" * 40)[:ROOM].encode("gb18030")),
        (b"\xe4" * 80, "ISO_IR 192", b""),  # where to cut cannot be told
        (b"T2 AX " + b"\xe4" * 80, "ISO_IR 192", b"T2 AX"),
        (("Schädel " * 12).encode(), None, ("Schädel " * 5).encode().rstrip()),
    ],
)
def test_what_is_too_long_is_cut_between_characters(value, charset, kept):
    """In characters, not bytes; undecodable bytes at a blank."""
    joint = b" " if kept else b""
    assert description(value, charset) == kept + joint + MARK.encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"T2 AX\\FLAIR", b"T2 AX FLAIR"),
        (b"\\FLAIR ", b"FLAIR"),
        (b"A\\\\B", b"A B"),
        (b"\\", b""),
    ],
)
def test_several_values_become_one(value, expected):
    """Series Description has one value; a list's Python form is none."""
    assert description(value) == (expected + b" " + MARK.encode()).strip()


@pytest.mark.parametrize("vr", ["US", "FD", "SQ", "UN", "OB"])
def test_what_is_no_text_is_replaced(vr):
    """A number under the tag of a text says nothing, and must not end a run."""
    assert description(bytes(8), vr=vr) == MARK.encode()


def test_a_backslash_in_a_short_text_is_a_character():
    """Derivation Description is one text, whatever is in it (PS3.5 6.2)."""
    found = description(b"C:\\scan", vr="ST", keyword="DerivationDescription")
    assert found == b"C:\\scan " + MARK.encode()


def test_whose_a_text_is_can_be_told_of_any_bytes():
    """Two names of different bytes are two names, whether they can be decoded or not."""
    names = []
    for value in (b"M\xdcLLER", b"M\xd6LLER", "MÜLLER".encode()):
        tag = Tag("PatientName")
        dataset = RawHeader({tag: RawDataElement(tag, "PN", len(value), value, 0, False, True)})
        dataset.set_original_encoding(False, True, "utf8")
        with quiet_pydicom():
            names.append(decoded_text(dataset, "PatientName"))
    assert names == ["MÜLLER", "MÖLLER", "MÜLLER"]
