"""``--trust-map`` of NIfTI files and arrays: a file like the result, of half-widths."""

import json
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from volume_files import save_nifti, smooth

import kspacesr_rt as ks
from kspacesr_rt.errors import NoMRImageError, StaleOutputError
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.pipeline import trust_maps
from kspacesr_rt.quality.trust_interval import half_width
from kspacesr_rt.volumes import is_volume_file
from kspacesr_rt.volumes.output_names import is_volume_output, trust_map_name

AFFINE = np.array(
    [[0.9, 0.1, 0, -20], [-0.1, 1.1, 0.2, 5], [0, -0.2, 2.5, 7], [0, 0, 0, 1]], dtype=float
)


def option(**values):
    asked = {"model": "x2-fast", "backend": "ort-cpu", "trust_map": True, "threads": 1}
    return ks.InferOptions(**(asked | values))


@pytest.fixture(scope="module")
def model():
    with ks.load("x2-fast", backend="ort-cpu", threads=1) as opened:
        yield opened


def brain(n=3, matrix=(24, 20)):
    """Slices ``(n, y, x)`` that differ from each other."""
    return np.stack([smooth(matrix, seed=seed) for seed in range(n)])


def stored(folder, kind):
    """Write some slices as a file of one kind; return it and what reads slices of such a file."""
    slices = brain()
    folder.mkdir()
    if kind == "int16 NIfTI, scaled":
        path = save_nifti(
            folder / "sub-01_T2w.nii.gz", np.rint(slices.T).astype(np.int16), AFFINE,
            scl_slope=0.5, scl_inter=3.0,
        )  # fmt: skip
        return path, lambda found: nibabel.load(found).get_fdata().T
    if kind == "big-endian NIfTI":
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(">f8")
        path = folder / "scan.nii"
        nibabel.save(nibabel.Nifti1Image(slices.T, AFFINE, header), path)
        return path, lambda found: nibabel.load(found).get_fdata().T
    if kind == "sagittal NIfTI":  # its slices do not lie one after the other
        affine = np.diag([3.0, 1.0, 1.0, 1.0])
        path = save_nifti(
            folder / "scan.nii.gz", slices.transpose(0, 2, 1).astype(np.float32), affine
        )
        return path, lambda found: nibabel.load(found).get_fdata().transpose(0, 2, 1)
    if kind == "4-D NIfTI":
        data = np.stack([slices.T, 2 * slices.T], axis=-1).astype(np.float32)
        path = save_nifti(folder / "bold.nii", data, AFFINE)
        return path, lambda found: np.concatenate(
            [one.T for one in np.moveaxis(nibabel.load(found).get_fdata(), -1, 0)]
        )
    if kind == "array in Fortran's order":
        path = folder / "a.npy"
        np.save(path, np.asfortranarray(np.rint(slices).astype(np.uint16)))
        return path, np.load
    if kind == "compressed array":
        path = folder / "b.npz"
        np.savez_compressed(path, image=slices)
        return path, lambda found: np.load(found)["image"]
    path = folder / "knee.h5"
    with h5py.File(path, "w") as file:
        file["reconstruction_rss"] = slices.astype(np.float32)
        file.attrs["max"] = slices.max()
    return path, lambda found: h5py.File(found)["reconstruction_rss"][:]


@pytest.mark.parametrize(
    "kind",
    ["int16 NIfTI, scaled", "big-endian NIfTI", "sagittal NIfTI", "4-D NIfTI",
     "array in Fortran's order", "compressed array", "fastMRI"],
)  # fmt: skip
def test_a_map_is_what_the_model_says(kind, tmp_path, model):
    """Slice by slice, as from Python, in the place of the result's samples."""
    path, read = stored(tmp_path / "in", kind)
    report = ks.infer(path.parent, tmp_path / "out", option(show_paths=True))
    assert report.exit_code == 0
    [record] = report.series_records
    assert record.trust_map_outcome == "written"
    [slice_record] = report.slices
    result, found = (tmp_path / "out" / one for one in (slice_record.output, record.trust_map))
    lr, sr, widths = (read(one).astype(np.float32) for one in (path, result, found))
    calibration = TrustCalibration.of(model.spec)
    expected = [half_width(*pair, calibration) for pair in zip(lr, sr, strict=True)]
    np.testing.assert_array_equal(widths, expected)
    from_python = model(lr, trust=True)[1]  # of results that were not rounded for a file
    assert abs(np.median(widths) / np.median(from_python) - 1) < 0.15
    if ".nii" in path.name:
        image, beside = nibabel.load(found), nibabel.load(result)
        assert image.get_data_dtype().newbyteorder("=") == np.float32
        np.testing.assert_array_equal(image.affine, beside.affine)
        assert image.header.get_zooms() == beside.header.get_zooms()
        assert image.header["sform_code"] == beside.header["sform_code"]
        assert b"half-widths" in image.header["descrip"].tobytes()
    own = json.loads(_sidecar(found).read_text())["KspaceSuperResolution"]
    assert own["TrustMapOf"] == result.name
    assert own["Coverage"] == 0.9


def _sidecar(path):
    if ".nii" in path.name:
        return path.with_name(path.name.split(".nii")[0] + ".json")
    return path.with_name(path.name + ".json")


@pytest.fixture
def done(tmp_path):
    """Process one file that is called as a patient may be; return input and output folder."""
    path = save_nifti(tmp_path / "in" / "SECRET_PATIENT.nii", brain().T.astype(np.float32), AFFINE)
    report = ks.infer(path.parent, tmp_path / "out", option())
    assert report.exit_code == 0
    return path, tmp_path / "out", report


def content(out):
    return {
        one.relative_to(out): (one.read_bytes(), one.stat().st_mtime_ns)
        for one in out.rglob("*.nii")
    }


def test_nobody_is_named(done):
    _, out, report = done
    said = report.as_text(verbose=True) + json.dumps(report.summary())
    assert "SECRET" not in said + (out / "report.json").read_text()
    assert "sha256:" in report.series_records[0].trust_map


def test_a_rerun_finds_what_stands(done):
    path, out, _ = done
    before = content(out)
    report = ks.infer(path.parent, out, option())
    assert content(out) == before
    assert report.series_records[0].trust_map_outcome == "present"
    assert "1 trust map already there" in report.as_text()


def test_a_finished_folder_gets_maps_without_computing(tmp_path, monkeypatch):
    path = save_nifti(tmp_path / "in" / "scan.nii.gz", brain().T.astype(np.float32), AFFINE)
    ks.infer(path.parent, tmp_path / "out", option(trust_map=False))
    assert not list((tmp_path / "out").glob("*trust*"))
    report = ks.infer(path.parent, tmp_path / "out", option())
    assert report.count("written") == 0
    assert report.series_records[0].trust_map_outcome == "written"
    assert len(list((tmp_path / "out").glob("*trust*"))) == 2


def test_a_map_follows_its_source(done):
    """A changed source makes result and map stale; both are replaced, or both stand beside."""
    path, out, _ = done
    before = content(out)
    save_nifti(path, 2.0 * brain().T.astype(np.float32), AFFINE)
    with pytest.raises(StaleOutputError):
        ks.infer(path.parent, out, option())
    assert content(out) == before
    ks.infer(path.parent, out, option(stale="replace", trust_map=False))
    after = {name: nibabel.Nifti1Image.from_bytes(one).get_fdata() for name, (one, _) in
             content(out).items()}  # fmt: skip
    assert after.keys() == before.keys()
    for name, (old, _) in before.items():
        values = nibabel.Nifti1Image.from_bytes(old).get_fdata()
        np.testing.assert_allclose(after[name], 2.0 * values, rtol=1e-3, atol=1e-3 * values.max())


def test_kept_versions_have_a_map_each(done):
    path, out, _ = done
    before = content(out)
    save_nifti(path, 2.0 * brain().T.astype(np.float32), AFFINE)
    ks.infer(path.parent, out, option(stale="keep"))
    after = content(out)
    assert {name: one for name, one in after.items() if name in before} == before
    assert sorted(trust_map_name(str(name)) for name in after if "trust" not in name.stem) == (
        sorted(str(name) for name in after if "trust" in name.stem)
    )
    assert len(after) == 4


def test_maps_of_other_files_are_left_alone(done):
    """They belong to another input, as their results do."""
    path, out, _ = done
    before = content(out)
    path.unlink()
    save_nifti(path.with_name("other.nii"), brain().T.astype(np.float32), AFFINE)
    ks.infer(path.parent, out, option(stale="replace"))
    after = content(out)
    assert {name: one for name, one in after.items() if name in before} == before
    assert {str(name) for name in after.keys() - before.keys()} == {
        "other_desc-SRx2.nii", "other_desc-SRx2trust.nii",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["scan_desc-SRx2trust.nii", "renamed.nii"])
def test_a_map_is_no_image_to_process(name, done, tmp_path):
    """Its name says so, or its header."""
    _, out, _ = done
    [found] = out.glob("*trust.nii")
    (tmp_path / "maps").mkdir()
    shutil.copy(found, tmp_path / "maps" / name)
    with pytest.raises(NoMRImageError, match="already-derived"):
        ks.infer(tmp_path / "maps", tmp_path / "again", option(trust_map=False))


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    """The result is there, the map is not, and the report says why."""
    path = save_nifti(tmp_path / "in" / "scan.nii", brain().T.astype(np.float32), AFFINE)
    ks.infer(path.parent, tmp_path / "out", option(trust_map=False))
    theirs = tmp_path / "out" / "scan_desc-SRx2trust.nii"
    theirs.write_bytes(b"by hand")
    report = ks.infer(path.parent, tmp_path / "out", option(stale="keep"))
    assert report.exit_code == 8
    assert "another file stands under its name" in report.as_text()
    assert theirs.read_bytes() == b"by hand"
    assert (tmp_path / "out" / "scan_desc-SRx2.nii").exists()


def test_a_run_that_ends_within_a_map_leaves_nothing_of_it(tmp_path, monkeypatch):
    path = save_nifti(tmp_path / "in" / "scan.nii", brain().T.astype(np.float32), AFFINE)
    widths = trust_maps.half_width
    calls = []

    def half_width(lr, sr, calibration):
        calls.append(lr)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return widths(lr, sr, calibration)

    monkeypatch.setattr(trust_maps, "half_width", half_width)
    with pytest.raises(KeyboardInterrupt):
        ks.infer(path.parent, tmp_path / "out", option())
    assert {one.name for one in (tmp_path / "out").glob("*scan*")} == {
        "scan_desc-SRx2.nii", "scan_desc-SRx2.json",
    }  # fmt: skip
    monkeypatch.setattr(trust_maps, "half_width", widths)
    assert ks.infer(path.parent, tmp_path / "out", option()).exit_code == 0
    assert (tmp_path / "out" / "scan_desc-SRx2trust.nii").exists()


def test_names_by_uid(tmp_path):
    path = save_nifti(tmp_path / "in" / "scan.nii", brain().T.astype(np.float32), AFFINE)
    report = ks.infer(path.parent, tmp_path / "out", option(name="uid", show_paths=True))
    [one] = report.slices
    [record] = report.series_records
    assert record.trust_map == trust_map_name(one.output)
    assert (tmp_path / "out" / record.trust_map).exists()


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("scan_desc-SRx2.nii.gz", "scan_desc-SRx2trust.nii.gz"),
        ("a/sub-01_ses-1_desc-SRx4_T1w.nii", "a/sub-01_ses-1_desc-SRx4trust_T1w.nii"),
        ("sub-1_desc-preprocSRx2_bold.nii.gz", "sub-1_desc-preprocSRx2trust_bold.nii.gz"),
        ("x_desc-SRx2v0123456789ab.npy", "x_desc-SRx2v0123456789abtrust.npy"),
        ("x_desc-SRx2_desc-SRx2.npz", "x_desc-SRx2_desc-SRx2trust.npz"),
    ],
)
def test_names_of_maps(output, name):
    """A map is told from its result by its name, and known as an output."""
    assert trust_map_name(output) == name
    assert is_volume_output(Path(name).name)
    assert is_volume_file(Path(name).name)
