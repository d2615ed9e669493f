"""Files that unfold into gigabytes are refused before they do, by limits that a user can raise."""

import struct
import zlib

import numpy as np
import pytest
from hard_cases import content, sample
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.dicom import header, pixels, scan_folder
from kspacesr_rt.dicom.codestream import CodeStreamError, read_jpeg, read_jpeg2000
from kspacesr_rt.dicom.element_counts import require_bounded_size
from kspacesr_rt.dicom.fast import skim
from kspacesr_rt.dicom.file_limits import Limits, current_limits, limited_to, parsed_limits
from kspacesr_rt.dicom.rle import decode_rle
from kspacesr_rt.errors import InputError, NoMRImageError, SliceFailed
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.services.mercure import read_task

ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
UNDEFINED = 0xFFFFFFFF
SEQUENCE = (0x0040, 0x0275)
PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)


def delimiter(element, length=0):
    return struct.pack("<HHL", 0xFFFE, element, length)


def long_element(tag, vr, length):
    return struct.pack("<HH2sHL", *tag, vr, 0, length)


def slice_bytes(syntax=ExplicitVRLittleEndian):
    """Return a file of 32 x 32 samples."""
    ds = sample(0)
    stored = ds.pixel_array[:32, :32].astype("<u2")
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = stored.tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    return content(ds)


def with_elements(raw, *, syntax=ExplicitVRLittleEndian):
    """Return a file with some raw elements before its pixels."""
    before = slice_bytes(syntax)
    at = before.rindex(PIXELS)
    return before[:at] + raw + before[at:]


def many_items(n, *, undefined, implicit=False):
    """Return a sequence of empty items."""
    inside = delimiter(ITEM) * n
    length = UNDEFINED if undefined else len(inside)
    head = struct.pack("<HHL", *SEQUENCE, length) if implicit else long_element(*_SQ, length)
    return head + inside + (delimiter(SEQUENCE_END) if undefined else b"")


_SQ = (SEQUENCE, b"SQ")


def nested(depth):
    """Return empty sequences in sequences, of undefined length."""
    inside = b""
    for _ in range(depth):
        inside = (
            long_element(*_SQ, UNDEFINED)
            + delimiter(ITEM, UNDEFINED)
            + inside
            + delimiter(ITEM_END)
            + delimiter(SEQUENCE_END)
        )
    return inside


def deflated(raw, *, meta=b""):
    """Return a deflated file with raw elements before its pixels, others before what it is."""
    plain = with_elements(raw)
    begin = 144 + struct.unpack("<L", plain[140:144])[0]
    named = slice_bytes(DeflatedExplicitVRLittleEndian)
    own = 144 + struct.unpack("<L", named[140:144])[0]
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(plain[begin:]) + packer.flush()
    return named[:140] + struct.pack("<L", own - 144 + len(meta)) + meta + named[144:own] + body


def outcome_of(data, tmp_path, **limits):
    """Return reason, message and hint of the one file of a run; None where it is written."""
    (tmp_path / "in").mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / "a.dcm").write_bytes(data)
    options = InferOptions(backend="zero-fill", threads=1, limits=Limits(**limits))
    try:
        report = infer(tmp_path / "in", tmp_path / "out", options)
    except NoMRImageError:
        with limited_to(options.limits):
            (left,) = scan_folder(tmp_path / "in").left_out
        return left.reason, f"{left.message} ({left.hint})"
    (record,) = report.slices
    return None if record.outcome == "written" else (record.reason, record.message)


BOMBS = {
    "items, undefined": (with_elements(many_items(3000, undefined=True)), "items", 1000),
    "items, defined": (with_elements(many_items(3000, undefined=False)), "items", 1000),
    "items, deflated": (deflated(many_items(3000, undefined=False)), "items", 1000),
    "items, implicit": (
        with_elements(
            many_items(3000, undefined=True, implicit=True), syntax=ImplicitVRLittleEndian
        ),
        "items",
        1000,
    ),
    "private bytes": (
        with_elements(long_element((0x0029, 0x1010), b"OB", 200_000) + bytes(200_000)),
        "extra",
        100_000,
    ),
    "bytes behind the pixels": (
        slice_bytes() + long_element((0xFFFC, 0xFFFC), b"OB", 200_000) + bytes(200_000),
        "extra",
        100_000,
    ),
    "inflated": (
        deflated(long_element((0x0029, 0x1010), b"OB", 3 << 20) + bytes(3 << 20)),
        "inflated",
        1 << 20,
    ),
    "samples": (slice_bytes(), "samples", 1000),
    "elements": (
        with_elements(
            b"".join(
                struct.pack("<HH2sH", 0x0041, tag, b"LO", 2) + b"a " for tag in range(4096, 9096)
            )
            + nested(20)
        ),
        "elements",
        2000,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_exceeds_a_limit_is_too_large_and_the_option_raises_it(name, tmp_path):
    """The hint is the option, and with what it says the file goes through."""
    data, limit, allowed = BOMBS[name]
    limits = {limit: allowed}
    if limit in ("items", "elements"):  # only files that are large are looked into
        limits["extra"] = 20_000 if limit == "elements" else 64 << 20
    if limit == "elements":
        limits = {limit: allowed, "items": 100}
    reason, message = outcome_of(data, tmp_path, **limits)
    assert reason == "too-large"
    if limit == "elements":
        limits = {limit: 1 << 20, "items": 100}
        assert outcome_of(data, tmp_path, **limits) is None
        return
    assert f"--limit {limit}={2 * allowed} raises it" in message
    assert outcome_of(data, tmp_path) is None


def _plain(tags, *, implicit):
    form = "<HHL" if implicit else "<HH2sH"
    parts = (2,) if implicit else (b"LO", 2)
    return b"".join(struct.pack(form, 0x0041, tag, *parts) + b"a " for tag in tags)


@pytest.mark.parametrize("rubbish", [b"", b"\xff" * 16])
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("place", ["on top", "in an item", "in an open item", "in an unknown"])
def test_elements_are_counted_wherever_they_are(place, implicit, rubbish, tmp_path):
    """In implicit files too, and in sequences whose length is told, behind rubbish or not."""
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian

    def sequence(content, *, vr=b"SQ"):
        item = delimiter(ITEM, len(content)) + content
        head = struct.pack("<HH2sH", 0x0040, 0x0275, vr, 0)[: 4 if implicit else 8]
        return head + struct.pack("<L", len(item)) + item

    implicit_inside = implicit or place == "in an unknown"
    many = _plain(range(4096, 9096), implicit=implicit_inside)
    if place == "in an item":
        many = sequence(many)
    elif place == "in an unknown":
        many = sequence(many, vr=b"UN")
    elif place == "in an open item":
        item = delimiter(ITEM, 0xFFFFFFFF) + many + delimiter(ITEM_END)
        head = struct.pack("<HH2sH", 0x0040, 0x0275, b"SQ", 0)[: 4 if implicit else 8]
        many = head + struct.pack("<L", 0xFFFFFFFF) + item + delimiter(SEQUENCE_END)
    data = with_elements((sequence(rubbish) if rubbish else b"") + many, syntax=syntax)
    path = tmp_path / "in.dcm"
    path.write_bytes(data)
    with limited_to(Limits(elements=2000, items=100)), path.open("rb") as file:
        with pytest.raises(SliceFailed) as caught:
            require_bounded_size(file)
        assert caught.value.reason == "too-large"
        assert "elements" in str(caught.value)
    with limited_to(Limits(elements=6000, items=100)), path.open("rb") as file:
        require_bounded_size(file)
        assert file.tell() == 0


def in_big_endian(raw):
    """Return an Explicit VR Big Endian file with raw elements before its pixels."""
    data = slice_bytes(ExplicitVRBigEndian)
    at = data.rindex(b"\x7f\xe0\x00\x10")
    return data[:at] + raw + data[at:]


def _short(n, *, vr=b"LO", order="<", distinct=True):
    """Return elements of eight bytes."""
    return b"".join(
        struct.pack(f"{order}HH2sH", 0x0041, 0x1000 + i * distinct, vr, 0) for i in range(n)
    )


SOME, FEW = _short(5000), _short(1)
OPEN_BYTES = long_element((0x0041, 0x0FFF), b"OB", UNDEFINED) + b"abcd" + delimiter(SEQUENCE_END)
IN_AN_ITEM = long_element(*_SQ, 8 + len(SOME)) + delimiter(ITEM, len(SOME)) + SOME
BEHIND = long_element((0x7FE0, 0x0010), b"OW", 4) + b"abcd" + SOME
CROWDS = {
    "plain": with_elements(SOME),
    "plain, of one tag": with_elements(_short(5000, distinct=False)),
    "plain, one VR unknown": with_elements(_short(1, vr=b"XX") + SOME),
    "plain, one VR missing": with_elements(_short(1, vr=b"\0\0") + SOME),
    "plain, open bytes first": with_elements(OPEN_BYTES + SOME),
    "plain, an offset table first": with_elements(
        long_element((0x7FE0, 0x0001), b"OV", 8) + bytes(8) + SOME
    ),
    "plain, a syntax named in a comment": with_elements(
        long_element((0x0041, 0x0FFF), b"OB", 20) + b"1.2.840.10008.1.2.2\0" + SOME
    ),
    "plain, deflation named in a comment": with_elements(
        long_element((0x0041, 0x0FFF), b"OB", 22) + b"1.2.840.10008.1.2.1.99" + SOME
    ),
    "deflated, said late": deflated(
        SOME, meta=long_element((0x0002, 0x0001), b"OB", 5000) + bytes(5000)
    ),
    "plain, no preamble": with_elements(SOME)[132:],
    "behind the pixels": slice_bytes() + SOME,
    "deflated": deflated(SOME),
    "deflated, of one tag": deflated(_short(5000, distinct=False)),
    "deflated, in an item": deflated(IN_AN_ITEM),
    "deflated, one VR unknown": deflated(_short(1, vr=b"XX") + SOME),
    "deflated, open bytes first": deflated(OPEN_BYTES + SOME),
    "deflated, behind the pixels": deflated(BEHIND),
    "big endian": in_big_endian(_short(5000, order=">")),
    "big endian, in an item": in_big_endian(
        struct.pack(">HH2sHL", *SEQUENCE, b"SQ", 0, 8 + 40_000)
        + struct.pack(">HHL", 0xFFFE, ITEM, 40_000)
        + _short(5000, order=">")
    ),
    "big endian, in an open item": in_big_endian(
        struct.pack(">HH2sHL", *SEQUENCE, b"SQ", 0, UNDEFINED)
        + struct.pack(">HHL", 0xFFFE, ITEM, UNDEFINED)
        + _short(5000, order=">")
        + struct.pack(">HHLHHL", 0xFFFE, ITEM_END, 0, 0xFFFE, SEQUENCE_END, 0)
    ),
}


@pytest.mark.parametrize("name", CROWDS)
def test_elements_are_counted_in_every_transfer_syntax(name, tmp_path):
    """Deflated and big endian ones were not, nor those behind pixels or an odd element."""
    data = CROWDS[name]
    reason, message = outcome_of(data, tmp_path, elements=2000, items=100)
    assert reason == "too-large"
    assert "elements" in message
    assert "--limit elements=4000 raises it" in message


@pytest.mark.parametrize("raw", [SOME, IN_AN_ITEM, OPEN_BYTES + SOME], ids=len)
def test_a_deflated_file_of_as_many_elements_as_are_allowed_goes_through(raw, tmp_path):
    """And one in big endian."""
    assert outcome_of(deflated(raw), tmp_path, elements=6000, items=100) is None
    big = in_big_endian(_short(5000, order=">"))
    assert outcome_of(big, tmp_path / "big", elements=6000, items=100) is None


def test_elements_of_a_deflated_file_are_counted_before_pydicom_reads_them(tmp_path, monkeypatch):
    """Three million took most of a minute."""

    def forbidden(*args, **kwargs):
        pytest.fail("pydicom was asked")

    monkeypatch.setattr(header, "dcmread", forbidden)
    assert outcome_of(deflated(SOME), tmp_path, elements=2000)[0] == "too-large"


@pytest.mark.parametrize("undefined", [True, False])
def test_items_are_counted_before_pydicom_makes_objects_of_them(undefined, tmp_path, monkeypatch):
    """A million of them took 2 GB and two minutes."""
    data = with_elements(many_items(3000, undefined=undefined))

    def forbidden(*args, **kwargs):
        pytest.fail("pydicom was asked")

    monkeypatch.setattr(skim, "parse_header", forbidden)
    monkeypatch.setattr(pixels, "parse_file", forbidden)
    assert outcome_of(data, tmp_path, items=1000)[0] == "too-large"


def packed(frames):
    """Return an RLE file of given fragments."""
    ds = sample(0)
    ds.Rows = ds.Columns = 32
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return content(ds)


def rle_frame(planes):
    """Return a frame of segments that are given as they are."""
    offsets, at = [], 64
    for one in planes:
        offsets.append(at)
        at += len(one)
    header = struct.pack("<16L", len(planes), *offsets, *([0] * (15 - len(planes))))
    return header + b"".join(planes)


def test_many_fragments_and_much_of_one(tmp_path):
    """Empty ones take eight bytes each; one can hold a thousand times the matrix."""
    plane = b"\x81\x07" * 8
    assert outcome_of(packed([rle_frame([plane, plane])]), tmp_path) is None
    many = packed([rle_frame([plane, plane])] + [b"\0\0"] * 3000)
    assert outcome_of(many, tmp_path, items=1000)[0] == "too-large"
    long = packed([rle_frame([plane, plane]) + bytes(300_000)])
    assert outcome_of(long, tmp_path, extra=100_000)[0] == "too-large"


@pytest.mark.parametrize("tail", [b"\x81\x07", b"\x03abcd", b"\x81\x00" * 50_000])
def test_an_overlong_rle_segment_is_no_frame(tail, tmp_path):
    """It was written, less what was too much of it."""
    plane = b"\x81\x07" * 8
    reason, _ = outcome_of(packed([rle_frame([plane, plane + tail])]), tmp_path)
    assert reason == "decode"


def test_rle_segments_are_decoded_to_the_last_sample():
    """Literals, runs, bytes that say nothing and padding; against what is too short."""
    high, low = b"\x01\x05\x06\x80\xff\x07\x00", b"\x03\x01\x02\x03\x04"
    decoded = np.frombuffer(decode_rle(rle_frame([high, low + b"\0"]), 4, 2), "<u2")
    assert decoded.tolist() == [0x0501, 0x0602, 0x0703, 0x0704]
    for planes in ([high, low[:3]], [high], [high, low, low]):
        with pytest.raises(CodeStreamError):
            decode_rle(rle_frame(planes), 4, 2)
    for offsets in ((64, 10), (0, 70), (64, 1 << 31)):
        frame = struct.pack("<16L", 2, *offsets, *([0] * 13)) + high + low
        with pytest.raises(CodeStreamError):
            decode_rle(frame, 4, 2)
    with pytest.raises(CodeStreamError, match="ends early"):
        decode_rle(b"\2", 4, 2)


def test_sequences_are_nested_as_deep_as_anything_needs(tmp_path):
    """A dozen is what IODs have; what exhausts the stack is refused."""
    assert outcome_of(with_elements(nested(30)), tmp_path) is None
    assert outcome_of(with_elements(nested(3000)), tmp_path)[0] == "too-large"


def test_a_code_stream_is_the_one_that_the_codec_reads():
    """A box or a second frame header before it could claim a small matrix."""
    size = struct.pack(">8LHBBB", 8, 8, 0, 0, 8, 8, 0, 0, 1, 7, 1, 1)
    stream = b"\xff\x4f\xff\x51" + struct.pack(">HH", 2 + 2 + len(size), 0) + size
    stream += b"\xff\x90" + struct.pack(">HHLBB", 10, 0, 14, 0, 1) + b"\xff\x93\xff\xd9"
    assert read_jpeg2000(stream).rows == 8
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    fake = stream.replace(size[:8], struct.pack(">2L", 16, 16), 1)
    boxed = struct.pack(">L4s", 8 + len(fake), b"uuid") + fake
    assert read_jpeg2000(signature + boxed + struct.pack(">L4s", 0, b"jp2c") + stream).rows == 8
    for junk in (b"junk" + stream, signature + boxed):
        with pytest.raises(CodeStreamError):
            read_jpeg2000(junk)
    header = b"\xff\xc3" + struct.pack(">HBHHB", 8 + 3, 8, 8, 8, 1) + b"\x01\x11\x00"
    scan = b"\xff\xda" + struct.pack(">H", 2 + 6) + bytes(6) + b"\x12\x34\xff\xd9"
    assert read_jpeg(b"\xff\xd8" + header + scan).rows == 8
    with pytest.raises(CodeStreamError, match="several frame headers"):
        read_jpeg(b"\xff\xd8" + header + header + scan)


def test_limits_are_named_and_parsed():
    """With units; what is no limit is told with those that are."""
    found = parsed_limits(["items=5", "extra=2M", "inflated=1G", "samples=3K"])
    assert found == Limits(items=5, extra=2 << 20, inflated=1 << 30, samples=3 << 10)
    for text in ("items", "items=", "items=-1", "nothing=5", "items=5T", "ITEMS=5"):
        with pytest.raises(InputError, match="NAME=NUMBER") as caught:
            parsed_limits([text])
        assert caught.value.hint.startswith("names: samples, extra, inflated, items, elements")
    with pytest.raises(InputError, match="at least 1"):
        parsed_limits(["items=0"])


def test_limits_hold_within_a_run():
    """And are what they were afterwards."""
    with limited_to(Limits(items=7)):
        assert current_limits().items == 7
    assert current_limits() == Limits()


def test_commands_and_modules_take_limits(tmp_path):
    """The option of `infer`, the setting of mercure."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(slice_bytes())
    arguments = ["infer", str(source), str(tmp_path / "out"), "--backend", "zero-fill"]
    refused = CliRunner().invoke(app, [*arguments, "--limit", "samples=1000"])
    assert refused.exit_code == 9
    assert "1 too-large" in refused.output
    assert CliRunner().invoke(app, [*arguments, "--limit", "sample=1"]).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--limit", "samples=1024"]).exit_code == 0
    settings = '{"process": {"settings": {"limits": ["samples=1000"]}}}'
    (source / "task.json").write_text(settings)
    task = read_task({"MERCURE_IN_DIR": str(source), "MERCURE_OUT_DIR": str(tmp_path)})
    assert task.options.limits == Limits(samples=1000)


def test_a_digest_of_a_bomb_fails_the_bomb(tmp_path):
    """Two files of one UID are compared by their pixels."""
    (tmp_path / "a.dcm").write_bytes(with_elements(many_items(3000, undefined=False)))
    (tmp_path / "b.dcm").write_bytes(with_elements(many_items(3000, undefined=False)))
    with limited_to(Limits(items=1000)):
        scan = scan_folder(tmp_path)
    assert [one.reason for one in scan.left_out] == ["too-large", "too-large"]
