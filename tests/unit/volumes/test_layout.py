"""How samples lie: slices out of any order of axes and back, scaled, rounded, clipped, counted."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt.errors import SliceError
from kspacesr_rt.volumes.layout import Layout, SliceJoiner, read_exactly, stored_slices


def layout(**fields):
    return Layout(**({"n_blocks": 1, "block": (2, 3, 4), "slice_at": 0, "dtype": "<i2"} | fields))


@given(
    n_blocks=st.integers(1, 3),
    block=st.tuples(*[st.integers(1, 5)] * 3),
    slice_at=st.integers(0, 2),
    dtype=st.sampled_from(["<i2", ">u2", "|u1", "<f4", ">f8"]),
)
def test_slices_come_back_where_they_were(n_blocks, block, slice_at, dtype):
    """For every axis, byte order and number of volumes."""
    one = layout(n_blocks=n_blocks, block=block, slice_at=slice_at, dtype=dtype)
    samples = np.arange(n_blocks * np.prod(block)).astype(dtype).reshape(n_blocks, *block)
    slices = list(stored_slices(io.BytesIO(samples.tobytes()), one))
    expected = np.moveaxis(samples, 1 + slice_at, 1).reshape(-1, *one.matrix)
    assert np.array_equal(np.stack(slices), expected)
    joiner = SliceJoiner(one)
    joined = b"".join(chunk for each in slices for chunk in joiner.chunks([each]))
    assert joined == samples.tobytes()


class Counted(io.BytesIO):
    largest = 0

    def read(self, n_bytes=-1):
        self.largest = max(self.largest, n_bytes)
        return super().read(n_bytes)


@pytest.mark.parametrize(("slice_at", "at_once"), [(0, 3 * 4 * 2), (1, 2 * 3 * 4 * 2)])
def test_no_more_than_a_slice_or_a_volume_is_read_at_a_time(slice_at, at_once):
    """However many volumes follow."""
    one = layout(n_blocks=200, slice_at=slice_at)
    source = Counted(bytes(one.n_bytes))
    for _ in stored_slices(source, one):
        pass
    assert source.largest == at_once


def test_missing_samples_are_never_made_up():
    with pytest.raises(SliceError) as caught:
        read_exactly(io.BytesIO(bytes(9)), 10)
    assert caught.value.reason == "truncated"


def test_integers_are_rounded_and_clipped_and_counted():
    """An edge that overshoots the type must not turn white into black."""
    one = layout(dtype="|u1", slope=2.0, intercept=-10.0)
    lr = np.full((2, 2), 400.0, np.float32)
    sr = np.array([[-50.0, -10.0, 0.0, 1.1], [4.9, 500.0, 501.2, 900.0]] * 2, np.float32)
    stored = one.to_stored(sr)
    assert stored.dtype == np.uint8
    assert stored[:2].tolist() == [[0, 0, 5, 6], [7, 255, 255, 255]]
    cut = one.measure_cut(stored, sr, lr)
    assert cut.share == 4 / 16  # 501.2 and 900; 500 is 255 exactly, and below zero is no signal
    assert cut.residual is not None


def test_a_signed_type_counts_both_ends():
    one = layout(dtype="<i2")
    sr = np.array([[-40000.0, 40000.0], [0.4, 0.5]], np.float32)
    stored = one.to_stored(sr)
    assert stored.tolist() == [[-32768, 32767], [0, 0]]
    assert one.measure_cut(stored, sr, np.ones((1, 1), np.float32)).share == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(value):
    stored = np.array([[1.0, value]], np.float32)
    with pytest.raises(SliceError) as caught:
        layout(dtype="<f4").values(stored)
    assert caught.value.reason == "bad-values"


@pytest.mark.parametrize(
    ("dtype", "value"), [("<f8", 1e30), ("<f4", 1e-30), ("<i4", 1 << 20), ("<i8", 1 << 40)]
)
def test_values_that_rounding_would_change_are_refused(dtype, value):
    """float32 does not tell neighbouring integers apart there, after two transforms."""
    with pytest.raises(SliceError) as caught:
        layout(dtype=dtype).values(np.array([[0, value]], dtype))
    assert caught.value.reason == "bad-rescale"


def test_a_volume_that_must_be_held_is_bounded(monkeypatch):
    """One whose slices lie one after the other is not."""
    from kspacesr_rt.dicom import file_limits

    monkeypatch.setattr(file_limits, "_current", file_limits.Limits(volume=100))
    assert layout(block=(20, 20, 20)).streams
    with pytest.raises(SliceError) as caught:
        layout(block=(20, 20, 20), slice_at=1)
    assert caught.value.reason == "too-large"
    assert "--limit volume=200" in caught.value.hint
