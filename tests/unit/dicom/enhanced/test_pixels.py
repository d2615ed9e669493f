"""Frames come one after another, each with its own rescale, from every transfer syntax."""

import tracemalloc

import enhanced_cases as cases
import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from kspacesr_rt.dicom.enhanced.pixels import FrameReader, read_slices
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceError, SliceFailed

NATIVE = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
ENCAPSULATED = {"rle": RLELossless, "jpeg-ls": JPEGLSLossless, "j2k": JPEG2000Lossless}


@pytest.fixture
def reader(tmp_path):
    """Return what saves a data set and opens the file."""

    def open_saved(ds):
        path = cases.save(ds, tmp_path / "file.dcm")
        return FrameReader(examine(read_header(path), path))

    return open_saved


def expect(reader, frames):
    found = [frame.values for frame in reader]
    assert len(found) == len(frames) == len(reader)
    for values, frame in zip(found, frames, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, frame.pixels * frame.slope + frame.intercept, rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", NATIVE)
def test_native_frames_are_read_from_their_places(name, bits, reader):
    """Odd matrices too: frames of an odd number of bytes are packed without a gap."""
    frames = cases.sample_frames(3)
    for frame in frames:
        frame.pixels = frame.pixels[:-1, :-1].astype(f"u{bits // 8}")
    expect(reader(cases.build(frames, syntax=NATIVE[name])), frames)


@pytest.mark.parametrize("offsets", ["basic", "extended", "none"])
@pytest.mark.parametrize("name", ENCAPSULATED)
def test_encapsulated_frames_are_found_with_any_offset_table(name, offsets, reader):
    """Tables may be basic, extended (over 4 GiB) or absent."""
    frames = cases.sample_frames(3)
    expect(reader(cases.compress(cases.build(frames), ENCAPSULATED[name], offsets=offsets)), frames)


def test_frames_of_several_fragments_are_joined(reader):
    """The basic table tells which fragments belong together."""
    frames = cases.sample_frames(3)
    ds = cases.compress(cases.build(frames), JPEG2000Lossless, fragments=3)
    expect(reader(ds), frames)


def test_each_frame_has_its_own_rescale(reader):
    """Philips scales each frame to its own 12 bits: pooling them would mix units."""
    frames = cases.sample_frames(3)
    for number, frame in enumerate(frames):
        frame.slope, frame.intercept = 0.5 + number, -100.0 * number
    expect(reader(cases.build(frames)), frames)


def test_a_shared_rescale_holds_for_all(reader):
    """And none at all means stored values."""
    frames = cases.sample_frames(2)
    frames[0].slope = frames[1].slope = 2.5
    ds = cases.build(frames, shared=(*cases.SHARED, "PixelValueTransformationSequence"))
    expect(reader(ds), frames)
    frames[0].slope = frames[1].slope = 1.0
    del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    expect(reader(ds), frames)


def test_padding_does_not_ring(reader):
    """Padding far from the signal is limited to it before any transform sees it."""
    frames = cases.sample_frames(2)
    frames[1].pixels[:, :5] = 4095
    found = [frame.values for frame in reader(cases.build(frames, PixelPaddingValue=4095))]
    assert found[1].max() == frames[1].pixels[:, 5:].max()
    np.testing.assert_array_equal(found[0], frames[0].pixels)


@pytest.mark.parametrize(
    ("damage", "reason", "message"),
    [
        (lambda encoded: encoded[:2], "truncated", "frame 3: is missing; 3 frames are announced"),
        (lambda encoded: [encoded[0], b"\0" * 200, encoded[2]], "decode", "frame 2: its RLE"),
        (lambda encoded: [*encoded, encoded[0]], "decode", "holds more than the 3 frames"),
    ],
)
def test_a_bad_frame_is_named(damage, reason, message, reader):
    """Whoever looks for the fault in a file of 300 frames needs its number."""
    ds = cases.compress(cases.build(cases.sample_frames(3)), RLELossless)
    ds.PixelData = encapsulate(damage(list(generate_frames(ds.PixelData, number_of_frames=3))))
    with pytest.raises(SliceFailed) as caught:
        list(reader(ds))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(message)


def test_a_useless_slope_is_named_before_anything_is_decoded(reader):
    """A slope of 0 cannot be undone."""
    frames = cases.sample_frames(3)
    frames[1].slope = 0.0
    with pytest.raises(SliceFailed, match="frame 2: Rescale Slope") as caught:
        reader(cases.build(frames))
    assert caught.value.reason == "bad-rescale"


def test_the_digest_does_not_depend_on_the_syntax(reader):
    """It tells repeated files from contradicting ones."""
    frames = cases.sample_frames(2)
    digests = {
        reader(cases.build(frames)).digest(),
        reader(cases.build(frames, syntax=ExplicitVRBigEndian)).digest(),
        reader(cases.compress(cases.build(frames), JPEGLSLossless)).digest(),
    }
    assert len(digests) == 1
    frames[1].pixels[0, 0] += 1
    assert reader(cases.build(frames)).digest() not in digests


@pytest.mark.parametrize("name", ["native", "j2k"])
def test_one_frame_is_in_memory_at_a_time(name, reader):
    """A file of 96 frames must not take the memory of 96 frames."""
    frames = [cases.Frame(pixels=np.full((256, 256), n, np.uint16)) for n in range(96)]
    ds = cases.build(frames)
    open_file = reader(ds if name == "native" else cases.compress(ds, JPEG2000Lossless))
    tracemalloc.start()
    try:
        for n, frame in enumerate(open_file):
            assert frame.values[0, 0] == n
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A frame is 0.25 MiB as float32; float64 and int32 stand beside it while it is rescaled.
    assert peak < 3 * 2**20


def test_a_classic_file_is_read_the_same_way(mr, save):
    """Training takes both kinds from one call."""
    path = save(mr())
    (only,) = read_slices(examine(read_header(path), path))
    assert only.values.shape == (20, 24)


@pytest.mark.parametrize("name", ["native", "rle", "j2k"])
def test_a_damaged_file_ends_in_a_word(name, tmp_path):
    """Whatever bit flips or cuts do to header and pixels: an outcome, never a traceback."""
    ds = cases.build(cases.sample_frames(2))
    ds = ds if name == "native" else cases.compress(ds, ENCAPSULATED[name])
    path = cases.save(ds, tmp_path / "file.dcm")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for number in range(60):
        content = bytearray(whole[: rng.integers(200, len(whole))] if number % 5 == 0 else whole)
        # Most of the flips go where the functional groups are.
        for place in rng.integers(132, min(len(content), 6000), 4 if number % 5 else 0):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            for _ in FrameReader(examine(read_header(path), path)):
                pass
            outcomes.add("read")
        except SliceError as exc:
            outcomes.add(exc.reason)
    assert {"read", "truncated", "missing-attribute"} <= outcomes
