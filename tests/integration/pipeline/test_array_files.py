"""Which array of a file is its image, and what is said where there is none."""

from __future__ import annotations

import numpy as np
import pytest

import kspacesr_rt as ks
from kspacesr_rt.errors import NoMRImageError, RunMismatchError

OPTIONS = ks.InferOptions(backend="zero-fill", upscale=2)
IMAGE = np.ones((2, 8, 6), np.float32)


@pytest.mark.parametrize(
    "beside",
    [
        {"kspace": np.ones((2, 8, 6), np.complex64)},
        {"notes": np.array([{"a": 1}], dtype=object)},
        {"affine": np.eye(4)},
        {"matrix": np.eye(4), "rotations": np.zeros((5, 3, 3))},
    ],
    ids=["kspace", "objects", "affine", "transformations"],
)
def test_what_is_no_image_is_left_out_of_an_npz(tmp_path, beside):
    """Complex values, Python objects and an affine stand beside images."""
    np.savez(tmp_path / "a.npz", image=IMAGE, **beside)
    ks.infer(tmp_path / "a.npz", tmp_path / "out", OPTIONS)
    [made] = (tmp_path / "out").glob("*.npz")
    with np.load(made) as found:
        assert found.files == ["image"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"affine": np.eye(4)}, "holds no image"),
        ({"matrix": np.eye(4)}, "holds no image"),
        ({"a": IMAGE, "b": IMAGE}, "several arrays that may be its image"),
    ],
)
def test_a_refused_array_hears_what_arrays_need(tmp_path, arrays, said):
    """DICOM is no hint for it."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(tmp_path / "a.npz", tmp_path / "out", OPTIONS)
    assert said in caught.value.hint
    assert "arrays (..., y, x)" in caught.value.hint
    assert "Storage" not in caught.value.hint


def test_an_affine_beside_arrays_is_skipped(tmp_path):
    """``affine.npy`` of the folder was super-resolved to 8 x 8."""
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "image.npy", IMAGE)
    np.save(tmp_path / "in" / "affine.npy", np.eye(4))
    ks.infer(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert [one.name for one in (tmp_path / "out").glob("*.npy")] == ["image_desc-SRx2.npy"]
    said = (tmp_path / "out" / "report.json").read_text()
    assert "holds 4 x 4 numbers, as an affine does" in said


def test_a_folder_begun_with_the_usual_plane_says_so(tmp_path):
    """Its manifest leaves it out."""
    np.save(tmp_path / "a.npy", IMAGE)
    ks.infer(tmp_path / "a.npy", tmp_path / "out", OPTIONS)
    other = ks.InferOptions(backend="zero-fill", upscale=2, plane="second")
    with pytest.raises(RunMismatchError, match=r"plane \(auto, now second\)"):
        ks.infer(tmp_path / "a.npy", tmp_path / "out", other)
