"""Programs other people use read source and output: the same anatomy at the same millimetre."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

ZERO_FILL = InferOptions(backend="zero-fill")
NEAR_PIXELS = 0.05
"""Of a source pixel: how far the centre of mass may move. Clipping undershoot moves it a little."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five slices of the shipped sample, and their derived series."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for path in sorted(sample_folder().glob("*.dcm"))[6:11]:
        shutil.copy(path, source)
    infer(source, out / "derived", ZERO_FILL)
    (series,) = {path.parent for path in (out / "derived").rglob("*.dcm")}
    return source, series


def centroid_mm(volume, affine):
    """Return the centre of mass of a volume ``(i, j, k)`` in the axes of its affine."""
    weights = volume / volume.sum()
    index = [(weights.sum(axis=others) * np.arange(n)).sum() for n, others in axes_of(volume)]
    return affine[:3, :3] @ index + affine[:3, 3]


def axes_of(volume):
    for axis, n in enumerate(volume.shape):
        yield n, tuple(other for other in range(3) if other != axis)


def source_spacing(folder: Path) -> float:
    return float(pydicom.dcmread(next(folder.glob("*.dcm"))).PixelSpacing[0])


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_converts_to_the_same_place(study, tmp_path):
    """The converter in front of most research pipelines."""
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    images = []
    for name, folder in zip(("source", "derived"), study, strict=True):
        target = tmp_path / name
        target.mkdir()
        done = subprocess.run(
            ["dcm2niix", "-o", str(target), "-f", "v", str(folder)],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "Warning" not in done.stdout
        (path,) = target.glob("*.nii")
        images.append(nibabel.load(path))
    before, after = images
    assert after.shape == (2 * before.shape[0], 2 * before.shape[1], before.shape[2])
    assert after.header.get_zooms()[2] == pytest.approx(before.header.get_zooms()[2])
    moved = centroid_mm(after.get_fdata(), after.affine) - centroid_mm(
        before.get_fdata(), before.affine
    )
    assert np.abs(moved).max() < NEAR_PIXELS * source_spacing(study[0])


def test_highdicom_builds_the_same_volume(study):
    """It checks spacing, orientation and gaps on its own."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    before, after = (
        highdicom.get_volume_from_series([pydicom.dcmread(path) for path in folder.glob("*.dcm")])
        for folder in study
    )
    assert after.spatial_shape == (5, 512, 512)
    spacing = before.spacing
    assert after.spacing == pytest.approx((spacing[0], spacing[1] / 2, spacing[2] / 2))
    moved = centroid_mm(after.array.astype(float), after.affine) - centroid_mm(
        before.array.astype(float), before.affine
    )
    assert np.abs(moved).max() < NEAR_PIXELS * source_spacing(study[0])


def test_a_planted_shift_would_be_seen(study):
    """A quarter of a source pixel, the error of the FOV-edge formula, moves the centre of mass."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    datasets = [pydicom.dcmread(path) for path in study[1].glob("*.dcm")]
    volume = highdicom.get_volume_from_series(datasets)
    spacing = source_spacing(study[0])
    shifted = volume.affine.copy()
    shifted[:3, 3] += 0.25 * spacing * volume.affine[:3, 2] / np.linalg.norm(volume.affine[:3, 2])
    array = volume.array.astype(float)
    moved = centroid_mm(array, shifted) - centroid_mm(array, volume.affine)
    assert np.abs(moved).max() > NEAR_PIXELS * spacing
