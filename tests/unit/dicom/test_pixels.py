"""Stored integers become real-world values and come back as they were, in every encoding."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from kspacesr_rt.dicom import codecs, read_slice, to_stored
from kspacesr_rt.dicom.pixels import (
    is_between,
    limit_padding,
    occurs,
    real_world_values,
    stored_range,
)
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import NonFiniteError, SliceFailed

NATIVE = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


def noise(dtype, bits, shape=(20, 24)):
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    values = np.random.default_rng(7).integers(low, low + 2**bits, shape)
    values[0, :2] = low, low + 2**bits - 1
    return values.astype(dtype)


FLAVOURS = [("<u2", 16), ("<u2", 12), ("<i2", 16), ("<i2", 12)]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize(("dtype", "bits"), FLAVOURS)
def test_uncompressed_values_are_exact(syntax, dtype, bits, mr, save, load):
    """A swapped byte or a lost sign shows nowhere but in the picture."""
    stored = noise(dtype, bits)
    decoded = load(save(mr(stored, BitsStored=bits), syntax=syntax))
    assert decoded.values.dtype == np.float32
    np.testing.assert_array_equal(decoded.values, stored)
    assert "PixelData" not in decoded.dataset


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(("dtype", "bits"), FLAVOURS)
def test_losslessly_compressed_values_are_exact(syntax, dtype, bits, mr, save, load):
    """The codecs disagree about sign and precision in their own headers."""
    ds = mr(stored := noise(dtype, bits, (40, 48)), BitsStored=bits)
    path = save(ds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(path)
        ds.compress(syntax)
    ds.save_as(path)
    np.testing.assert_array_equal(load(path).values, stored)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_scan_in_many_encodings_has_one_content(name, load):
    """Pydicom ships one MR slice in every common transfer syntax."""
    paths = [get_testdata_file(n, download=False) for n in ("MR_small.dcm", name)]
    if None in paths:
        pytest.skip(f"this pydicom does not ship {name}")
    plain, other = (load(Path(p)).values for p in paths)
    np.testing.assert_array_equal(other, plain)
    assert (plain.min(), plain.max()) == (127, 2145)


def test_bits_above_high_bit_are_not_part_of_the_value(mr, save, load):
    """Old files keep an overlay in bit 12 of the pixels."""
    stored = noise("<u2", 12)
    decoded = load(save(mr(stored | 0xF000, BitsStored=12)))
    np.testing.assert_array_equal(decoded.values, stored)


def test_the_sign_is_bit_11_of_12(mr, save, load):
    """Signed 12-bit values need not be sign-extended in the file."""
    stored = noise("<i2", 12)
    decoded = load(save(mr(stored & 0x0FFF, BitsStored=12)))
    np.testing.assert_array_equal(decoded.values, stored)


def test_values_in_the_upper_bits_are_shifted_down(mr, save, load):
    """High Bit 15 with 12 stored bits: legal before 2011."""
    stored = noise("<u2", 12)
    decoded = load(save(mr(stored << 4, BitsStored=12, HighBit=15)))
    np.testing.assert_array_equal(decoded.values, stored)


def test_rescale_gives_real_world_values(mr, save, load):
    """Philips stores every series with another slope: without it, intensities mean nothing."""
    stored = noise("<u2", 12)
    decoded = load(save(mr(stored, RescaleSlope="1.5", RescaleIntercept="-100")))
    np.testing.assert_allclose(decoded.values, stored * 1.5 - 100, rtol=1e-6)


@pytest.mark.parametrize("attributes", [{"RescaleSlope": 0}, {"RescaleSlope": "1\\2"}])
def test_an_unusable_slope_fails(attributes, mr, save, load):
    """A slope of 0 has no way back to stored values."""
    path = save(mr(RescaleIntercept=0, **attributes))
    with pytest.raises(SliceFailed, match="Rescale Slope") as caught:
        load(path)
    assert caught.value.reason == "bad-rescale"


def test_padding_is_found_and_cannot_ring(mr, save, load):
    """A padding of -2000 beside tissue would ring through the k-space of the whole slice."""
    stored = noise("<i2", 10).clip(0)
    stored[:3] = -2000
    decoded = load(save(mr(stored, PixelPaddingValue=-2000)))
    np.testing.assert_array_equal(decoded.padding, stored == -2000)
    assert decoded.values[:3].max() == 0.0
    np.testing.assert_array_equal(decoded.values[3:], stored[3:])


def test_padding_can_be_a_range(mr, save, load):
    """Pixel Padding Range Limit marks an interval."""
    stored = noise("<i2", 10).clip(0)
    stored[:3] = -2000
    stored[3:5] = -1500
    stored[5] = -1499
    decoded = load(save(mr(stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500)))
    np.testing.assert_array_equal(decoded.padding, stored <= -1500)


def test_a_padding_value_among_the_signal_is_no_padding(mr, save, load):
    """GE writes 0 as padding value, and 0 wherever it is dark."""
    stored = noise("<i2", 10).clip(0)
    decoded = load(save(mr(stored, PixelPaddingValue=0)))
    assert decoded.padding is None
    np.testing.assert_array_equal(decoded.values, stored)


def test_without_padded_pixels_there_is_no_mask(mr, save, load):
    """The attribute alone says nothing."""
    assert load(save(mr(PixelPaddingValue=4095))).padding is None
    assert load(save(mr())).padding is None


def test_a_missing_codec_names_the_package(mr, save, source, monkeypatch):
    """The user must be able to type the next line."""
    ds = mr()
    path = save(ds)
    ds = dcmread(path)
    ds.compress(RLELossless)
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    ds.save_as(path)
    monkeypatch.setattr(codecs, "find_spec", lambda name: None)
    with pytest.raises(SliceFailed, match="nothing installed decodes JPEG Lossless") as caught:
        read_slice(source(path))
    assert (caught.value.reason, caught.value.hint) == ("codec", "pip install imagecodecs")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless])
def test_rubbish_for_a_decoder_fails_as_decode(syntax, mr, save, load):
    """A decoder's error must neither end the run nor become a picture of zeros."""
    ds = mr()
    path = save(ds)
    ds = dcmread(path)
    ds.compress(RLELossless)
    ds.PixelData = ds.PixelData[:20] + bytes(len(ds.PixelData) - 20)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    with pytest.raises(SliceFailed) as caught:
        load(path)
    assert caught.value.reason == "decode"


def test_an_unsupported_syntax_fails_as_codec(mr, save, source):
    """MPEG is a transfer syntax too."""
    ds = mr()
    path = save(ds)
    ds = dcmread(path)
    ds.compress(RLELossless)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    ds.save_as(path)
    with pytest.raises(SliceFailed) as caught:
        read_slice(source(path))
    assert caught.value.reason == "codec"


def test_a_file_that_was_cut_after_the_scan_fails(mr, save, source):
    """Minutes can pass between looking and reading."""
    path = save(mr())
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(SliceFailed) as caught:
        read_slice(source(path))
    assert caught.value.reason in ("truncated", "unreadable")


def module(bits, signed, slope=1.0, intercept=0.0):
    ds = Dataset()
    ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation = 16, bits, int(signed)
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    return ds


@given(
    bits=st.integers(2, 16),
    signed=st.booleans(),
    slope=st.floats(0.01, 50).map(lambda v: round(v, 4)).filter(bool),
    intercept=st.floats(-5000, 5000).map(lambda v: round(v, 3)),
    share=st.floats(0, 1),
)
def test_stored_values_survive_the_round_trip(bits, signed, slope, intercept, share):
    """A slice that nothing was done to comes out bit by bit as it went in."""
    ds = module(bits, signed, slope, intercept)
    low, high = stored_range(ds)
    stored = np.array([low, high, round(low + share * (high - low))])
    values = (stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)).astype(np.float32)
    np.testing.assert_array_equal(to_stored(values, ds), stored)


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high"),
    [(12, False, 0, 4095), (16, False, 0, 65535), (12, True, -2048, 2047), (8, False, 0, 255)],
)
def test_overshoot_is_clipped_never_wrapped(bits, signed, low, high):
    """Zero-fill of a real image overshoots by a tenth: wrapped, white turns black."""
    values = np.array([[-1e6, low - 1, high + 1, 1e6]], np.float32)
    stored = to_stored(values, module(bits, signed))
    np.testing.assert_array_equal(stored, [[low, low, high, high]])
    assert stored.dtype == ("<i2" if signed else "<u2")


def test_undershoot_is_not_folded_up():
    """`abs` would turn 129 grey levels of undershoot into signal."""
    assert to_stored(np.float32([[-129.0]]), module(12, signed=False)) == 0


def test_halves_round_to_even():
    """Always up would brighten every image by a hair."""
    values = np.float32([[0.5, 1.5, 2.5, 3.4999]])
    np.testing.assert_array_equal(to_stored(values, module(12, signed=False)), [[0, 2, 2, 3]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    """Cast to an integer, NaN becomes a number like any other."""
    with pytest.raises(NonFiniteError, match="not finite"):
        to_stored(np.float32([[value]]), module(12, signed=False))


def test_quiet_blocks_may_overlap():
    """A pipeline decodes in threads: the last one out restores the warning filters."""
    before = list(warnings.filters)
    one, two = quiet_pydicom(), quiet_pydicom()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    warnings.warn("not shown", stacklevel=1)
    two.__exit__(None, None, None)
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)


@given(
    stored=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
    padding=st.integers(-7, 7),
    slope=st.sampled_from([1.0, -1.0, 0.37, 2.0]),
    intercept=st.sampled_from([0.0, 3.0, -0.74]),
)
def test_padding_that_changes_nothing_is_seen_without_a_look_at_each_sample(
    stored, padding, slope, intercept
):
    """Nor is any padding missed that does: compared to limiting every sample."""
    found = np.array([stored], np.int16)
    ds = module(16, signed=True)
    ds.PixelPaddingValue, ds.RescaleSlope, ds.RescaleIntercept = padding, slope, intercept
    values = real_world_values(found, ds)
    expected, mask = values.copy(), is_between(found, padding, padding)
    signal = values[~mask]
    expected[mask] = values[mask].clip(signal.min(initial=0.0), signal.max(initial=0.0))
    changes = not np.array_equal(expected, values)
    limited = limit_padding(ds, found, values)
    np.testing.assert_array_equal(values, expected)
    assert (limited is not None) == changes
    assert limited is None or np.array_equal(limited, mask)


@given(
    stored=st.lists(st.integers(-5, 5), min_size=1, max_size=9),
    first=st.integers(-7, 7) | st.sampled_from([0.5, -2.25]),
    last=st.none() | st.integers(-7, 7),
)
def test_values_occur_if_any_sample_has_them(stored, first, last):
    """Extremes tell most of it; the rest is looked at."""
    found = np.array([stored], np.int16)
    expected = bool(is_between(found, first, first if last is None else last).any())
    assert occurs(found, first, last) == expected
