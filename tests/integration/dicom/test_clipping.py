"""What the stored range cuts off a result: measured on what is stored, flagged, and told."""

import enhanced_cases
import numpy as np
import pytest
from hard_cases import content, sample, set_pixels
from pydicom import dcmread

from kspacesr_rt.kspace import measured_residual
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.pipeline import InferOptions, infer


def bright(peak, dtype, bits):
    """Return a slice with a bright plateau of hard edges, which overshoot by a tenth."""
    pixels = np.full((48, 40), peak // 20, dtype)
    pixels[12:30, 9:31] = peak
    return set_pixels(sample(), pixels, bits)


def run(ds, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "slice.dcm").write_bytes(content(ds))
    report = infer(folder, tmp_path / "out", InferOptions(backend="zero-fill"))
    (record,) = report.slices
    stored = dcmread(tmp_path / "out" / record.output).pixel_array
    return report, record, stored.astype(np.float32)


@pytest.mark.parametrize(
    ("peak", "dtype", "bits"), [(4095, np.uint16, 12), (255, np.uint8, 8), (32767, np.int16, 16)]
)
def test_a_slice_at_the_ceiling_is_flagged(peak, dtype, bits, tmp_path):
    """The figures of the result before it was stored say that nothing was changed."""
    report, record, stored = run(bright(peak, dtype, bits), tmp_path)
    lr = bright(peak, dtype, bits).pixel_array.astype(np.float32)
    cut = zero_fill(lr, 2) > peak + 0.5
    assert record.flags == ("clipped",)
    assert record.measured_residual < 1e-6
    assert record.clipped_share == pytest.approx(cut.mean())
    assert record.stored_residual == pytest.approx(measured_residual(stored, lr), rel=1e-3)
    assert record.stored_residual > 1e-4
    assert "1 slice flagged as clipped" in report.as_text()


@pytest.mark.parametrize(("peak", "dtype", "bits"), [(3000, np.uint16, 12), (9000, np.int16, 16)])
def test_a_slice_with_room_above_it_is_not(peak, dtype, bits, tmp_path):
    """Undershoot below zero is no loss to a magnitude: nothing was there."""
    report, record, stored = run(bright(peak, dtype, bits), tmp_path)
    assert (record.flags, record.clipped_share, record.stored_residual) == ((), 0.0, None)
    assert "clipped" not in report.as_text()
    if dtype is np.uint16:
        assert stored.min() == 0


def test_a_slope_below_zero_turns_the_range_round(tmp_path):
    """The brightest stored value is the darkest one then, and the bottom cuts at zero."""
    ds = bright(4095, np.uint16, 12)
    ds.RescaleSlope, ds.RescaleIntercept = "-1", "4095"
    _, record, _ = run(ds, tmp_path)
    assert record.clipped_share > 0


def test_the_worst_frame_speaks_for_a_file(tmp_path):
    """One frame of an Enhanced MR file at the ceiling flags the file."""
    frames = enhanced_cases.sample_frames(2, step=4)
    ds = enhanced_cases.build(frames)
    bits = int(ds.BitsStored)
    pixels = np.stack([frame.pixels for frame in frames]).astype(np.uint16)
    pixels[1, 20:40, 20:40] = (1 << bits) - 1
    ds.PixelData = pixels.tobytes()
    enhanced_cases.save(ds, tmp_path / "in" / "file.dcm")
    report = infer(tmp_path / "in", tmp_path / "out", InferOptions(backend="zero-fill"))
    (record,) = report.slices
    assert record.flags == ("clipped",)
    assert record.stored_residual > 1e-4
    assert record.flagged_frames == {"clipped": (2,)}
    assert "1 slice flagged as clipped" in report.as_text()
