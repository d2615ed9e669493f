"""Whole slices in wrappings that other tools read: written, with the pixels that are in them."""

import struct

import jpeg_ls
import numpy as np
import pytest
import raw_elements
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from kspacesr_rt.dicom import derive, examine_file, read_slice
from kspacesr_rt.dicom.codecs import find_decoder
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace.resampling import zero_fill

END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
OPEN_PIXELS = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
PIXELS = np.random.default_rng(5).integers(0, 900, (64, 72)).astype(np.uint16)
"""Small pictures are too small for OpenJPEG's encoder."""


def pixels_of(ds):
    return np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)


def stream(ds, syntax=JPEG2000Lossless):
    """Return the pixels as one frame of a compression."""
    from pydicom.encaps import generate_frames

    if syntax == JPEGLSLossless:
        return bytes(jpeg_ls.encode_array(pixels_of(ds)))
    twin = type(ds)(ds)
    twin.file_meta = FileMetaDataset()
    twin.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    twin.compress(syntax, generate_instance_uid=False)
    return next(generate_frames(twin.PixelData, number_of_frames=1))


def even(data):
    return data + bytes(len(data) % 2)


def packed(ds, frame, syntax=JPEG2000Lossless):
    ds.file_meta = FileMetaDataset()
    ds.PixelData = encapsulate([even(frame)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return raw_elements.content(ds, syntax)


def plain(ds, syntax=ExplicitVRLittleEndian):
    ds.file_meta = FileMetaDataset()
    return raw_elements.content(ds, syntax)


def saying(data, uid):
    """Return a file with another Transfer Syntax UID."""
    at = data.index(struct.pack("<HH2s", 2, 0x10, b"UI"))
    (length,) = struct.unpack_from("<H", data, at + 6)
    value = raw_elements.element(0x00020010, b"UI", uid)
    return data[:at] + value + data[at + 8 + length :]


def with_pixel_vr(vr):
    old = struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW")
    return lambda ds: plain(ds).replace(old, old[:4] + vr)


def fragments(*parts, offsets=b"", end=END):
    """Return a maker of a file whose pixel data are these fragments."""

    def make(ds):
        frame = even(stream(ds))
        half = len(frame) // 4 * 2
        head = packed(ds, frame)
        head = head[: head.index(OPEN_PIXELS)] + OPEN_PIXELS
        places = {"first": frame[:half], "second": frame[half:], "whole": frame, "none": b""}
        table = struct.pack(f"<{len(offsets)}L", *(half + 8 if n else 0 for n in offsets))
        items = [table, *(places[part] for part in parts)]
        return head + b"".join(raw_elements.item(item) for item in items) + end

    return make


def with_segment(marker, body):
    """Return a maker of a JPEG-LS file with a segment before its frame header."""

    def make(ds):
        frame = stream(ds, JPEGLSLossless)
        segment = bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
        return packed(ds, frame[:2] + segment + frame[2:], JPEGLSLossless)

    return make


def attributes(**changed):
    def make(ds):
        for keyword, value in changed.items():
            setattr(ds, keyword, value)
        return plain(ds)

    return make


def empty_offset_tables(ds):
    ds.ExtendedOffsetTable = ds.ExtendedOffsetTableLengths = b""
    return packed(ds, stream(ds))


WRITTEN = {
    "pixel-vr-ox": with_pixel_vr(b"OX"),
    "pixel-vr-un": with_pixel_vr(b"UN"),
    "says-implicit-is-explicit": lambda ds: saying(plain(ds), b"1.2.840.10008.1.2\0"),
    "says-explicit-is-implicit": lambda ds: saying(
        plain(ds, ImplicitVRLittleEndian), b"1.2.840.10008.1.2.1\0"
    ),
    "empty-syntax-explicit": lambda ds: saying(plain(ds), b""),
    "empty-syntax-implicit": lambda ds: saying(plain(ds, ImplicitVRLittleEndian), b""),
    "blank-before-photometric": attributes(PhotometricInterpretation=" MONOCHROME2"),
    "blank-before-image-type": attributes(ImageType=[" ORIGINAL", " PRIMARY", " OTHER"]),
    "no-frames": attributes(NumberOfFrames=0),
    "empty-offset-tables": empty_offset_tables,
    "an-offset-for-each-fragment": fragments("first", "second", offsets=[0, 1]),
    "an-empty-fragment-first": fragments("none", "whole"),
    "empty-fragments-between": fragments("first", "none", "none", "second"),
    "one-wrong-offset": fragments("first", "second", offsets=[1]),
    "ff-behind-the-pixels": lambda ds: plain(ds) + b"\xff" * 512,
    "zeros-behind-the-pixels": lambda ds: plain(ds) + bytes(512),
    "text-behind-the-pixels": lambda ds: plain(ds) + b"end of the file, really" * 9,
    "delimiter-behind-the-pixels": lambda ds: plain(ds) + END,
    "ff-behind-fragments": lambda ds: packed(ds, stream(ds)) + b"\xff" * 512,
    "jpeg-ls-comment": with_segment(0xFE, b"hello"),
    "jpeg-ls-jfif": with_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
    "jpeg-ls-empty-huffman-table": with_segment(0xC4, bytes(5)),
    "jpeg-ls-number-of-lines": with_segment(0xDC, b"\0\x14"),
}


@pytest.mark.parametrize("make", WRITTEN.values(), ids=WRITTEN)
def test_a_whole_slice_in_odd_wrapping_is_read(make, mr, tmp_path, run):
    """Its pixels are all there, and no reader needs more."""
    ds = mr(PIXELS)
    expected = pixels_of(ds)
    path = tmp_path / "slice.dcm"
    path.write_bytes(make(ds))
    decoded = read_slice(examine_file(path))
    assert np.array_equal(decoded.values, expected)
    derived = derive(decoded, zero_fill(decoded.values, 2), run())
    assert derived.PhotometricInterpretation == "MONOCHROME2"
    assert derived.get("NumberOfFrames") is None


@pytest.mark.parametrize(
    ("make", "reason", "message"),
    [
        (fragments("whole", end=b""), "truncated", "do not end as they should"),
        (fragments("whole", "whole"), "decode", "several frames"),
        (lambda ds: saying(packed(ds, stream(ds)), b""), "decode", "cannot be decoded"),
        (
            lambda ds: saying(plain(ds, ExplicitVRBigEndian), b"1.2.840.10008.1.2.1\0"),
            "unreadable",
            "byte order",
        ),
        (lambda ds: saying(plain(ds), b"1.2.840.10008.1.2.2\0"), "unreadable", "byte order"),
        (lambda ds: saying(plain(ds), b"1.2.840.10008.1.2.1.99"), "unreadable", "inflated"),
        (
            lambda ds: plain(ds, DeflatedExplicitVRLittleEndian)[:-200],
            "truncated",
            "deflated data set ends early",
        ),
    ],
    ids=[
        *("no-end", "two-frames", "compressed-without-syntax", "says-little-is-big"),
        *("says-big-is-little", "says-deflated-is-not", "deflated-and-cut"),
    ],
)
def test_what_is_not_read_has_a_true_reason(make, reason, message, mr, tmp_path):
    """It is not called too short where it is not."""
    path = tmp_path / "slice.dcm"
    path.write_bytes(make(mr(PIXELS)))
    looked = examine_file(path)
    if not hasattr(looked, "reason"):
        with pytest.raises(SliceFailed, match=message) as caught:
            read_slice(looked)
        assert caught.value.reason == reason
    else:
        assert (looked.reason, message in looked.message) == (reason, True)


def test_big_endian_bytes_are_no_words(mr, tmp_path):
    """Eight-bit pixels written as OW are turned round by pairs, as OB they are not."""
    pixels = np.arange(480, dtype=np.uint16).reshape(20, 24) % 251
    ds = mr(pixels.astype(np.uint8))
    ds["PixelData"].VR = "OB"
    path = tmp_path / "slice.dcm"
    path.write_bytes(plain(ds, ExplicitVRBigEndian))
    assert np.array_equal(read_slice(examine_file(path)).values, pixels)


def test_the_table_uses_syntaxes_that_can_be_decoded():
    """Else a case would prove nothing."""
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        assert find_decoder(UID(syntax))
