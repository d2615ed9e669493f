"""Models are judged on what was acquired, or the table says that they were not."""

import dataclasses

import numpy as np
import pydicom
import pytest

from kspacesr_rt.bench.quality.evaluation import QualityRow, as_text, evaluate_models
from kspacesr_rt.kspace import centre_crop, centre_fill, fft2c, ifft2c
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.train.volumes import interpolation_of, read_volumes, resampled

STORED, ACQUIRED = (256, 256), (152, 168)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Two slices as they were acquired, and as a scanner stores them larger."""
    paths = sorted(sample_folder().glob("*.dcm"))[8:10]
    slices = np.stack([pydicom.dcmread(path).pixel_array.astype(np.float64) for path in paths])
    folder = tmp_path_factory.mktemp("hr")
    spectrum = centre_crop(fft2c(slices), ACQUIRED)
    acquired = np.abs(ifft2c(spectrum))
    gain = np.sqrt(np.prod(STORED) / np.prod(ACQUIRED))
    stored = np.rint(gain * np.abs(ifft2c(centre_fill(fft2c(acquired), STORED))))
    np.save(folder / "acquired.npy", acquired.astype(np.float32))
    np.save(folder / "stored.npy", stored.astype(np.float32))
    return folder


def gains(rows):
    found = {row.method: row.quality.psnr_db for row in rows}
    return {name: db - found["zero-fill"] for name, db in found.items()}


def test_interpolated_hr_is_judged_as_it_was_acquired(series):
    """Whoever stored it larger: the figures are those of the acquired matrix."""
    pytest.importorskip("onnxruntime")
    models = [load_model(resolve_model("x2-fast", upscale=None))]
    cropped = evaluate_models([series / "stored.npy"], models, threads=1)
    told = as_text(cropped)
    [matrix] = {row.cropped_to for row in cropped}
    assert all(0 <= found - n <= 8 for found, n in zip(matrix, ACQUIRED, strict=True))
    assert f"the rim is empty; judged at {matrix[0]} x {matrix[1]}." in told
    expected = evaluate_models([series / "acquired.npy"], models, threads=1)
    assert "judged" not in as_text(expected)
    for method, gain in gains(expected).items():
        assert gains(cropped)[method] == pytest.approx(gain, abs=0.3), method


def test_hr_that_is_judged_as_it_is_says_so(series):
    """What a model adds where HR is empty reads like a broken model."""
    pytest.importorskip("onnxruntime")
    models = [load_model(resolve_model("x2-fast", upscale=None))]
    asked = evaluate_models([series / "stored.npy"], models, threads=1, on_interpolated="warn")
    assert {row.cropped_to for row in asked} == {None}
    assert {row.interpolated for row in asked} != {""}
    assert "the rim is empty; judged as it is: what a model adds there counts as wrong." in as_text(
        asked
    )


def test_means_are_shown_of_several_series():
    """Of a single one they would be its rows again."""
    quality = Quality(mae=0.1, psnr_db=30.0, ssim=0.9)
    one = QualityRow(
        data="d", series="s1", method="zero-fill", upscale=2, n_slices=3, quality=quality
    )
    assert "all 1 of d" not in as_text([one])
    assert "all 1 of d" in as_text([one], series=False)
    assert "all 2 of d" in as_text([one, dataclasses.replace(one, series="s2")])


def test_a_dicom_header_counts_for_hr_too(tmp_path):
    """It gives the exact matrix, where k-space alone is known to a few samples."""
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[8:10]):
        dataset = pydicom.dcmread(path)
        spectrum = centre_crop(fft2c(dataset.pixel_array.astype(float)), (144, 192))
        filled = np.abs(ifft2c(centre_fill(spectrum, (256, 256))))
        dataset.PixelData = np.rint(filled).astype("<u2").tobytes()
        dataset.AcquisitionMatrix = [0, 192, 144, 0]
        dataset.InPlanePhaseEncodingDirection = "COL"
        dataset.save_as(tmp_path / f"{number}.dcm")
    [volume] = read_volumes(tmp_path)
    support = interpolation_of(volume)
    assert (volume.acquired, support.cropped_matrix) == ((144, 192), (144, 192))
    cropped = resampled(volume, support.cropped_matrix)
    assert cropped.matrix == (144, 192)
    assert cropped.slices.mean() == pytest.approx(volume.slices.mean(), rel=0.01)
    assert resampled(volume, volume.matrix) is volume
