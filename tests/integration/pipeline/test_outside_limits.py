"""A series outside its model's limits is warned about, left out or zero-filled, and says so."""

import dataclasses
import json

import numpy as np
import pydicom
import pytest

from kspacesr_rt.bench.quality.cards import stamp
from kspacesr_rt.errors import InputError, NoMRImageError, RunMismatchError, StrictRefusalError
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.file import shipped_models
from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

pytest.importorskip("onnxruntime")

LIMITS = ModelLimits(smallest_snr=8.0, smallest_share=0.6, body_parts=("BRAIN", "HEAD"))
NOISE = 90.0
"""Deviation added to the sample, whose tissue is about 370: SNR 4."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a shipped model that states limits."""
    path = tmp_path_factory.mktemp("model") / "x2-fast.onnx"
    path.write_bytes(shipped_models()["x2-fast"].read_bytes())
    stamp(path, None, limits=LIMITS)
    return path


def write(folder, *, noise=0.0, series="2.25.1", part=None, n=3):
    """Write slices of the sample as a series, with noise as a weak scan has it."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[8 : 8 + n]):
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array.astype(np.float64)
        values = np.hypot(values + noise * rng.normal(size=values.shape),
                          noise * rng.normal(size=values.shape))  # fmt: skip
        dataset.PixelData = np.rint(values).clip(0, 4095).astype("<u2").tobytes()
        dataset.SeriesInstanceUID = series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
        if part is not None:
            dataset.BodyPartExamined = part
        dataset.save_as(folder / f"{series}.{number}.dcm")
    return folder


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Return one series of SNR 4, and one that is within the limits."""
    folder = write(tmp_path_factory.mktemp("noisy") / "study", noise=NOISE)
    return write(folder, series="2.25.2", part="HEAD", n=2)


def options(model, **changes):
    return InferOptions(model=str(model), backend="ort-cpu", threads=1, **changes)


def outputs(folder, source_series):
    found = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    return [
        one for one in found if one.ReferencedSeriesSequence[0].SeriesInstanceUID == source_series
    ]


def test_the_model_computes_it_all_the_same_with_a_warning(model, noisy, tmp_path):
    """The default: a user is told, and nothing changes."""
    report = infer(noisy, tmp_path / "out", options(model))
    weak, good = report.series_records
    assert weak.snr == pytest.approx(4.0, abs=1.0)
    assert (weak.outside, weak.outside_handled) == (("low-snr",), "warned")
    assert (good.outside, good.outside_handled) == ((), "")
    assert report.limits == LIMITS.to_dict()
    text = f"outside the model's limits: SNR is about {weak.snr:.1f}, it helps from 8.0"
    assert {one.warnings[-1] for one in report.slices if one.warnings} == {text}
    assert sum(text in one.warnings for one in report.slices) == 3
    assert all("x2-fast" in one.DerivationDescription for one in outputs(tmp_path, "2.25.1"))


def test_zero_filling_stands_in_and_every_output_says_so(model, noisy, tmp_path):
    """Pixels, description, equipment and report; the other series is the model's."""
    report = infer(noisy, tmp_path / "out", options(model, on_outside="zero-fill", batch=4))
    weak, good = report.series_records
    assert (weak.outside_handled, good.outside_handled) == ("zero-filled", "")
    assert "; zero-filled instead" in report.as_text()
    assert report.exit_code == 0
    filled = outputs(tmp_path, "2.25.1")
    assert len(filled) == 3
    for derived in filled:
        step = "zero-fill instead of x2-fast: low-snr"
        assert step in derived.DerivationDescription
        assert "predicted" not in derived.DerivationDescription
        assert step in derived.ContributingEquipmentSequence[-1].ContributionDescription
        uid = derived.SourceImageSequence[0].ReferencedSOPInstanceUID
        source = pydicom.dcmread(noisy / f"{uid}.dcm")
        expected = zero_fill(source.pixel_array.astype(np.float32), 2)
        assert np.abs(derived.pixel_array - expected).max() <= 0.51
    by_model = outputs(tmp_path, "2.25.2")
    assert len(by_model) == 2
    assert all("zero-fill" not in one.DerivationDescription for one in by_model)
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["series_records"][0]["outside"] == ["low-snr"]
    again = infer(noisy, tmp_path / "out", options(model, on_outside="zero-fill"))
    assert again.count("present") == 5
    with pytest.raises(RunMismatchError):
        infer(noisy, tmp_path / "out", options(model))


def test_zero_filled_series_differ_from_a_run_of_zero_filling(model, tmp_path):
    """Both may be sent to one archive: their UIDs say which is which."""
    study = write(tmp_path / "study", part="WRIST", n=1)
    infer(study, tmp_path / "stand-in", options(model, on_outside="zero-fill"))
    infer(study, tmp_path / "asked", InferOptions(backend="zero-fill", upscale=2))
    [one], [other] = (
        [pydicom.dcmread(path) for path in (tmp_path / name).rglob("*.dcm")]
        for name in ("stand-in", "asked")
    )
    assert np.array_equal(one.pixel_array, other.pixel_array)
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert "other-body-part" in one.DerivationDescription
    assert "WRIST" not in one.DerivationDescription


def test_skip_leaves_it_out_with_a_reason_word(model, noisy, tmp_path):
    """Alone, such a series is exit code 9 with nothing written."""
    report = infer(noisy, tmp_path / "out", options(model, on_outside="skip"))
    assert report.reasons() == [("skipped", "outside-limits", 3)]
    assert report.count("written") == 2
    assert report.series_records[0].outside_handled == "skipped"
    alone = write(tmp_path / "alone", part="KNEE", n=1)
    with pytest.raises(NoMRImageError, match="1 outside-limits") as caught:
        infer(alone, tmp_path / "none", options(model, on_outside="skip"))
    assert caught.value.skipped_for == "outside-limits"
    assert "--on-outside" in caught.value.hint
    assert not (tmp_path / "none").exists()


def test_strict_refuses_what_is_only_warned_about(model, tmp_path):
    """What is handled is not only warned about."""
    study = write(tmp_path / "study", part="KNEE", n=1)
    with pytest.raises(StrictRefusalError, match="outside the model's limits"):
        infer(study, tmp_path / "out", options(model, strict=True))
    handled = options(model, strict=True, on_outside="zero-fill")
    assert infer(study, tmp_path / "out", handled).exit_code == 0


def test_a_model_without_limits_and_a_baseline_claim_none(noisy, tmp_path):
    """The option changes nothing for them."""
    asked = InferOptions(backend="zero-fill", upscale=2, on_outside="skip")
    report = infer(noisy, tmp_path / "out", asked)
    assert report.count("written") == 5
    assert report.limits == {}
    assert report.series_records[0].snr is not None


def test_an_unknown_way_of_handling_is_refused():
    """A typing error must not mean `warn`."""
    with pytest.raises(InputError, match="one of warn, skip, zero-fill, not 'drop'"):
        InferOptions(on_outside="drop")


def test_stamping_limits_leaves_quality_and_bounds(tmp_path):
    """A builder may add limits to a file that is shipped already."""
    path = tmp_path / "m.onnx"
    path.write_bytes(shipped_models()["x4-fast"].read_bytes())
    before = stamp(path, None)
    after = stamp(path, None, limits=LIMITS)
    assert after.spec == dataclasses.replace(before.spec, limits=LIMITS.to_dict())
    assert after.spec.quality
    assert after.spec.bounds
