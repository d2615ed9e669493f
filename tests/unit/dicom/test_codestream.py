"""A compressed frame says what it holds, and a cut one is found out before a codec fills it up."""

from contextlib import suppress

import imagecodecs
import numpy as np
import pytest

from kspacesr_rt.dicom.codestream import ENDS_EARLY, CodeStreamError, read_jpeg, read_jpeg2000

PIXELS = np.random.default_rng(5).integers(0, 4096, (37, 45), dtype=np.uint16)
LOSSLESS = imagecodecs.jpeg8_encode(PIXELS, lossless=True, predictor=1)
EXTENDED = imagecodecs.jpeg8_encode(PIXELS, level=90, bitspersample=12)
JPEG_LS = imagecodecs.jpegls_encode(PIXELS)
J2K = imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k", reversible=True)
TILED = imagecodecs.htj2k_encode(PIXELS, reversible=True, tile=(16, 16))


@pytest.mark.parametrize(
    ("frame", "process"), [(LOSSLESS, 0xC3), (EXTENDED, 0xC1), (JPEG_LS, 0xF7)]
)
def test_jpeg_says_what_it_holds(frame, process):
    """Before any decoder allocates."""
    stream = read_jpeg(frame)
    assert (stream.rows, stream.columns, stream.components) == (37, 45, 1)
    assert stream.process == process
    assert frame[stream.end :].lstrip(b"\xff") == b"\xd9"


@pytest.mark.parametrize("frame", [J2K, TILED])
def test_jpeg2000_says_what_it_holds(frame):
    """One tile or many."""
    stream = read_jpeg2000(frame)
    assert (stream.rows, stream.columns, stream.components) == (37, 45, 1)
    assert stream.precision == 16


@pytest.mark.parametrize("frame", [LOSSLESS, EXTENDED, JPEG_LS])
def test_a_jpeg_stream_without_end_is_cut(frame):
    """Wherever it is cut, unless between two bytes of padding."""
    for end in range(2, len(frame) - 2):
        with pytest.raises(CodeStreamError):
            read_jpeg(frame[:end])


@pytest.mark.parametrize("frame", [J2K, TILED])
@pytest.mark.parametrize("tail", [b"", b"\xff\xd9"])
def test_a_jpeg2000_stream_without_its_tiles_is_cut(frame, tail):
    """An End of Codestream after the cut changes nothing."""
    for end in range(4, len(frame) - 4, 7):
        with pytest.raises(CodeStreamError):
            read_jpeg2000(frame[:end] + tail)


def test_missing_restart_intervals_are_counted():
    """The data of the last interval may be whole although lines are missing."""
    frame = bytearray(EXTENDED)
    at = frame.index(b"\xff\xda")
    frame[at:at] = b"\xff\xdd\x00\x04\x00\x06"  # an interval of one line of blocks
    with pytest.raises(CodeStreamError, match=ENDS_EARLY):
        read_jpeg(bytes(frame))


@pytest.mark.parametrize("read", [read_jpeg, read_jpeg2000])
def test_rubbish_is_an_error_and_nothing_else(read):
    """No IndexError, no struct.error, no endless loop."""
    rng = np.random.default_rng(1)
    for frame in (LOSSLESS, EXTENDED, JPEG_LS, J2K, TILED):
        for _ in range(300):
            damaged = bytearray(frame)
            for at in rng.integers(0, min(len(frame), 200), 3):
                damaged[at] = rng.integers(256)
            with suppress(CodeStreamError):
                read(bytes(damaged))
