"""NIfTI and arrays through a run: the same guarantees as DICOM, in files like those that came."""

import gzip
import json
import os
import shutil
import sys
import threading
import tracemalloc

import h5py
import nibabel
import numpy as np
import pytest
from fault_cases import make_slices
from typer.testing import CliRunner
from volume_files import save_nifti, set_field, smooth

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.errors import (
    BackendUnavailableError,
    NoMRImageError,
    OutputError,
    RunMismatchError,
    StaleOutputError,
    StrictRefusalError,
)
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.pipeline.run_state import RunState, StopRequestedError
from kspacesr_rt.volumes import sidecar as sidecar_module

ZERO_FILL = ks.InferOptions(backend="zero-fill", upscale=2)
SHOWN = ks.InferOptions(backend="zero-fill", upscale=2, show_paths=True)


def option(**values):
    return ks.InferOptions(**({"backend": "zero-fill", "upscale": 2} | values))


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def contents(folder):
    """Return every output below a folder, and what stands beside it."""
    return {path: path.read_bytes() for path in folder.rglob("*_desc-SRx2*")}


def outcome(report):
    return {record.file: (record.outcome, record.reason) for record in report.slices}


def expected_of(data, axis):
    """Return zero-filled slices along an axis of an array, each by itself."""
    slices = np.moveaxis(np.asarray(data, np.float32), axis, 0)
    results = [zero_fill(one.T, 2).T for one in slices]
    return np.moveaxis(np.stack(results), 0, axis)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("plane", "axis"), [("first", 0), ("second", 1), ("third", 2)])
def test_nifti_comes_out_as_it_went_in(study, out, ending, plane, axis):
    """Type, scaling, codes and voxels, along every axis; 4-D files volume by volume."""
    data = np.stack([smooth((14, 13, 12), seed) for seed in range(3)], axis=-1)
    stored = np.rint((data - 5.0) / 0.25).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.diag([2.0, 1.0, 1.0, 1.0]))
    image.header.set_slope_inter(0.25, 5.0)
    image.header["pixdim"][4] = 2.5
    nibabel.save(image, study_file(study, f"bold{ending}"))
    set_field(study / f"bold{ending}", "scl_slope", 0.25)
    set_field(study / f"bold{ending}", "scl_inter", 5.0)
    report = ks.infer(study, out, option(plane=plane))
    assert [(one.outcome, one.n_frames) for one in report.slices] == [
        ("written", 3 * data.shape[axis])
    ]
    result = nibabel.load(out / f"bold_desc-SRx2{ending}")
    values = result.get_fdata()
    for number in range(3):
        wanted = expected_of(stored[..., number] * 0.25 + 5.0, axis)
        assert np.abs(values[..., number] - wanted).max() <= 0.126
    assert result.get_data_dtype() == np.int16
    assert (result.dataobj.slope, result.dataobj.inter) == (0.25, 5.0)
    assert result.header.get_zooms()[3] == 2.5


def study_file(study, name):
    path = study / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_auto_takes_the_header_then_the_thickest_voxels_then_the_third_axis(study, out):
    data = smooth((10, 12, 14)).astype(np.float32)
    save_nifti(study / "iso.nii", data)
    save_nifti(study / "thick.nii", data, np.diag([5.0, 1.0, 1.0, 1.0]))
    save_nifti(study / "said.nii", data)
    header = nibabel.load(study / "said.nii").header
    header.set_dim_info(slice=1)
    set_field(study / "said.nii", "dim_info", header["dim_info"])
    save_nifti(study / "flat.nii", smooth((1, 12, 14)).astype(np.float32))
    ks.infer(study, out, ZERO_FILL)
    shapes = {
        name: nibabel.load(out / f"{name}_desc-SRx2.nii").shape
        for name in ("iso", "thick", "said", "flat")
    }
    assert shapes == {
        "iso": (20, 24, 14),
        "thick": (10, 24, 28),
        "said": (20, 12, 28),
        "flat": (1, 24, 28),
    }


def test_arrays_come_out_as_they_went_in(study, out):
    """``.npy`` and ``.npz``, 2-D to 4-D, in the order of C or of Fortran, any type."""
    data = smooth((3, 16, 15))
    study.mkdir()
    np.save(study / "c.npy", data.astype(np.float32))
    np.save(study / "f.npy", np.asfortranarray(data.astype(np.float32)))
    np.save(study / "flat.npy", data[0].astype(np.uint16))
    np.save(study / "four.npy", np.rint(np.stack([data, data])).astype(">i2"))
    np.savez_compressed(study / "z.npz", image=data)
    np.savez(study / "plain.npz", image=data, spacing=np.ones(3))
    report = ks.infer(study, out, SHOWN)
    assert {one.outcome for one in report.slices} == {"written"}
    wanted = np.stack([zero_fill(one.astype(np.float32), 2) for one in data])
    c, f, flat, four = (
        np.load(out / f"{name}_desc-SRx2.npy") for name in ("c", "f", "flat", "four")
    )
    assert np.array_equal(c, f)
    assert np.allclose(c, wanted, atol=1e-3)
    assert (flat.dtype, flat.shape) == (np.uint16, (32, 30))
    assert (four.dtype.str, four.shape) == (">i2", (2, 3, 32, 30))
    rounded = np.stack([zero_fill(one, 2) for one in np.rint(data).astype(np.float32)])
    assert np.abs(four[1] - rounded).max() <= 0.51
    with np.load(out / "z_desc-SRx2.npz") as archive:
        assert archive.files == ["image"]
        assert archive["image"].dtype == np.float64
        assert np.allclose(archive["image"], wanted, atol=1e-3)
    with np.load(out / "plain_desc-SRx2.npz") as archive:
        assert archive.files == ["image"]
    [warned] = [one for one in report.slices if one.warnings]
    assert (warned.file, "arrays beside the image" in warned.warnings[0]) == ("plain.npz", True)


def test_fastmri_files_hold_the_result_with_its_own_figures(study, out):
    """``max`` and ``norm`` are of the image, so they are the result's; k-space is not carried."""
    data = smooth((4, 16, 18)).astype(np.float32)
    with h5py.File(study_file(study, "file1.h5"), "w") as file:
        file["reconstruction_rss"] = data
        file["kspace"] = np.zeros((4, 2, 16, 18), np.complex64)
        file.attrs.update({"max": 1.0, "norm": 2.0, "acquisition": "AXT2", "patient_id": "abc"})
    with h5py.File(study / "raw.h5", "w") as file:
        file["kspace"] = np.zeros((4, 2, 16, 18), np.complex64)
    report = ks.infer(study, out, SHOWN)
    assert outcome(report)["raw.h5"] == ("skipped", "no-reconstruction")
    with h5py.File(out / "file1_desc-SRx2.h5") as file:
        result = file["reconstruction_rss"][...]
        attributes = dict(file.attrs)
        assert list(file) == ["reconstruction_rss"]
    assert np.allclose(result, np.stack([zero_fill(one, 2) for one in data]), atol=1e-3)
    assert attributes["acquisition"] == "AXT2"
    assert attributes["patient_id"] == "abc"
    assert attributes["max"] == pytest.approx(result.max())
    assert attributes["norm"] == pytest.approx(np.linalg.norm(result.astype(np.float64)))
    assert report.series_records[0].dropped == {"data set": 1}


def test_a_bids_sidecar_is_kept_and_completed(study, out):
    """Under ``desc-``, with what was done; fields of the old grid are named, and left out."""
    save_nifti(
        study / "sub-01/anat/sub-01_T1w.nii.gz",
        smooth((8, 9, 3)).astype(np.float32),
        descrip=b"TE=3.1",
    )
    (study / "sub-01/anat/sub-01_T1w.json").write_text(
        json.dumps(
            {
                "EchoTime": 0.0031,
                "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
                "ReconMatrixPE": 9,
                "GeneratedBy": [{"Name": "other"}],
            }
        )
    )
    (study / "sub-01/anat/sub-01_T1w.bval").write_text("0 1000\n")
    (study / "participants.json").write_text("{}")
    report = ks.infer(study, out, SHOWN)
    assert outcome(report)["sub-01/anat/sub-01_T1w.json"] == ("skipped", "sidecar")
    assert outcome(report)["participants.json"] == ("skipped", "not-dicom")
    folder = out / "sub-01/anat"
    fields = json.loads((folder / "sub-01_desc-SRx2_T1w.json").read_text())
    assert fields["EchoTime"] == 0.0031
    assert fields["ImageType"] == ["DERIVED", "SECONDARY", "M", "ND"]
    assert "ReconMatrixPE" not in fields
    assert fields["KspaceSuperResolution"]["Removed"] == ["ReconMatrixPE"]
    assert fields["KspaceSuperResolution"]["SourceDescription"] == "TE=3.1"
    assert [one["Name"] for one in fields["GeneratedBy"]] == ["other", "kspacesr-rt"]
    assert "research use only" in fields["GeneratedBy"][1]["Description"]
    assert fields["Sources"] == ["bids::sub-01/anat/sub-01_T1w.nii.gz"]
    assert (folder / "sub-01_desc-SRx2_T1w.bval").read_text() == "0 1000\n"
    said = nibabel.load(folder / "sub-01_desc-SRx2_T1w.nii.gz").header["descrip"].item()
    assert said.startswith(b"SR x2 RESEARCH USE ONLY, kspacesr-rt ")


def test_a_sidecar_that_is_none_is_said_and_left_out(study, out):
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    (study / "a.json").write_text("[1, 2")
    report = ks.infer(study, out, SHOWN)
    [record] = [one for one in report.slices if one.file == "a.nii"]
    assert record.warnings == ("the .json beside it is no sidecar, and is left out",)
    assert sidecar_module.OUR_KEY in json.loads((out / "a_desc-SRx2.json").read_text())


def broken_files(study):
    """Write one good file and one of each kind that is not, with the reason of each."""
    data = smooth((10, 11, 4)).astype(np.float32)
    save_nifti(study / "good.nii.gz", data)
    packed = (study / "good.nii.gz").read_bytes()
    (study / "cut.nii.gz").write_bytes(packed[:-30])
    (study / "checksum.nii.gz").write_bytes(packed[:-8] + b"\0\1\2\3" + packed[-4:])
    (study / "text.nii").write_text("no header " * 60)
    (study / "empty.nii.gz").write_bytes(b"")
    holes = data.copy()
    holes[3, 3, 2] = np.nan
    save_nifti(study / "nan.nii", holes)
    save_nifti(study / "inf.nii", np.where(np.isnan(holes), np.inf, data).astype(np.float32))
    save_nifti(study / "complex.nii", data.astype(np.complex64))
    save_nifti(study / "vector.nii", np.stack([data] * 3, -1)[:, :, :, None, :])
    save_nifti(study / "sub-1_mask.nii", data)
    save_nifti(study / "sub-1_part-phase_bold.nii", data)
    save_nifti(study / "sub-1_T1map.nii", data)
    set_field(save_nifti(study / "zeros.nii", data), "srow_x", [0, 0, 0, 0])
    colours = np.zeros((10, 11, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save_nifti(study / "rgb.nii", colours)
    np.save(study / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    np.save(study / "mask.npy", data > 1)
    np.save(study / "empty.npy", np.zeros((0, 4, 4), np.float32))
    np.save(study / "line.npy", data.ravel())
    (study / "cut.npy").write_bytes(b"\x93NUMPY\1\0")
    (study / "no.npz").write_bytes(b"PK\3\4 nothing")
    np.savez(study / "two.npz", a=data, b=data)
    (study / "no.h5").write_text("no HDF5")
    return {
        "good.nii.gz": ("written", ""),
        "cut.nii.gz": ("failed", "truncated"),
        "checksum.nii.gz": ("failed", "unreadable"),
        "text.nii": ("failed", "unreadable"),
        "empty.nii.gz": ("failed", "unreadable"),
        "nan.nii": ("failed", "bad-values"),
        "inf.nii": ("failed", "bad-values"),
        "complex.nii": ("skipped", "complex"),
        "vector.nii": ("skipped", "not-an-image"),
        "sub-1_mask.nii": ("skipped", "not-an-image"),
        "sub-1_part-phase_bold.nii": ("skipped", "phase"),
        "sub-1_T1map.nii": ("skipped", "derived-map"),
        "zeros.nii": ("failed", "bad-geometry"),
        "rgb.nii": ("skipped", "not-grayscale"),
        "objects.npy": ("failed", "unreadable"),
        "mask.npy": ("skipped", "not-an-image"),
        "empty.npy": ("failed", "bad-geometry"),
        "line.npy": ("skipped", "not-an-image"),
        "cut.npy": ("failed", "unreadable"),
        "no.npz": ("failed", "unreadable"),
        "two.npz": ("skipped", "not-an-image"),
        "no.h5": ("failed", "unreadable"),
    }


def test_one_bad_file_is_its_own_failure_and_leaves_nothing(study, out):
    """Each with its reason; the good one beside them is written, and the exit code is 8."""
    wanted = broken_files(study)
    report = ks.infer(study, out, SHOWN)
    assert outcome(report) == wanted
    assert report.exit_code == 8
    assert [one.message for one in report.slices if one.reason == "accident"] == []
    [nan] = [one for one in report.slices if one.file == "nan.nii"]
    assert nan.message.startswith("slice 3: ")
    assert sorted(path.name for path in out.iterdir()) == [
        ".kspacesr-rt",
        "good_desc-SRx2.json",
        "good_desc-SRx2.nii.gz",
        "manifest.json",
        "report.json",
    ]


def test_no_name_of_a_file_leaves_the_output_folder(study, out, tmp_path):
    """Names of files are names of patients: not in the report, the text, a hint or an error."""
    secret = "SMITH"
    for name in broken_files(study):
        (study / name).rename(study / f"{secret}_{name}")
    (study / f"{secret}_good.json").write_text("{}")
    runner = CliRunner()
    arguments = ["infer", str(study), str(out), "--backend", "zero-fill", "--upscale", "2"]
    result = runner.invoke(app, [*arguments, "-v", "--report", str(tmp_path / "r.json")])
    assert result.exit_code == 8
    texts = result.output + result.stderr + (tmp_path / "r.json").read_text()
    assert secret not in texts
    (out / f"{secret}_good_desc-SRx2.nii.gz").unlink()
    (out / f"{secret}_good_desc-SRx2.nii.gz").mkdir()
    with pytest.raises(OutputError) as caught:
        ks.infer(study, out, ZERO_FILL)
    assert secret not in str(caught.value) + str(caught.value.hint)
    by_uid = tmp_path / "by-uid"
    result = runner.invoke(app, [*arguments[:2], str(by_uid), *arguments[3:], "--name", "uid"])
    assert secret not in result.output + "".join(map(str, by_uid.rglob("*")))
    assert secret not in "".join(path.read_text() for path in by_uid.glob("*_desc-SRx2.json"))


def test_nothing_of_another_file_is_taken_for_an_output(study, out):
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    ks.infer(study, out, ZERO_FILL)
    (out / "sub").mkdir()
    (out / "sub" / "notes.nii").write_text("mine")
    with pytest.raises(OutputError, match="not outputs of this tool"):
        ks.infer(study, out, ZERO_FILL)


def test_a_second_run_computes_nothing_and_changes_nothing(study, out):
    """By the journal; and, without it, by the bytes."""
    save_nifti(study / "a/b.nii.gz", smooth((8, 9, 3)).astype(np.float32))
    np.save(study / "c.npy", smooth((3, 8, 9)))
    ks.infer(study, out, ZERO_FILL)
    before = contents(out)
    again = ks.infer(study, out, ZERO_FILL)
    assert [one.outcome for one in again.slices] == ["present", "present"]
    shutil.rmtree(out / ".kspacesr-rt")
    once_more = ks.infer(study, out, ZERO_FILL)
    assert [one.outcome for one in once_more.slices] == ["present", "present"]
    assert contents(out) == before
    with pytest.raises(RunMismatchError, match="plane"):
        ks.infer(study, out, option(plane="second"))


def test_own_outputs_are_no_input(study, out, tmp_path):
    """Of each format: nothing is super-resolved twice."""
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    np.save(study / "c.npy", smooth((3, 8, 9)))
    np.savez(study / "d.npz", x=smooth((3, 8, 9)))
    with h5py.File(study / "e.h5", "w") as file:
        file["reconstruction"] = smooth((3, 8, 9)).astype(np.float32)
    ks.infer(study, out, ZERO_FILL)
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(out, tmp_path / "again", ZERO_FILL)
    reasons = [one.reason for one in caught.value.report.slices]
    assert reasons.count("already-derived") == 4


def change(study):
    save_nifti(study / "a.nii", smooth((8, 9, 3), seed=7).astype(np.float32))


def test_a_changed_source_is_refused_kept_or_replaced_as_the_user_says(study, out, tmp_path):
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    save_nifti(study / "b.nii", smooth((8, 9, 3), 2).astype(np.float32))
    ks.infer(study, out, ZERO_FILL)
    old = (out / "a_desc-SRx2.nii").read_bytes()
    change(study)
    with pytest.raises(StaleOutputError, match="have changed"):
        ks.infer(study, out, ZERO_FILL)
    assert (out / "a_desc-SRx2.nii").read_bytes() == old
    shutil.copytree(out, tmp_path / "kept")
    kept = ks.infer(study, tmp_path / "kept", option(stale="keep", show_paths=True))
    assert (tmp_path / "kept" / "a_desc-SRx2.nii").read_bytes() == old
    [new] = [one.output for one in kept.slices if one.outcome == "written"]
    assert new.startswith("a_desc-SRx2v")
    assert [(one.output, one.handled) for one in kept.stale] == [("a_desc-SRx2.nii", "kept")]
    replaced = ks.infer(study, out, option(stale="replace", show_paths=True))
    [record] = [one for one in replaced.slices if one.outcome == "written"]
    assert record.output == "a_desc-SRx2.nii"
    assert "was replaced" in record.warnings[0]
    assert (out / "a_desc-SRx2.nii").read_bytes() == (tmp_path / "kept" / new).read_bytes()
    assert [one.outcome for one in ks.infer(study, out, ZERO_FILL).slices] == ["present"] * 2


def test_a_source_that_is_gone_leaves_its_output(study, out):
    """Files may be processed one after the other into one folder: each is a series by itself."""
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    save_nifti(study / "b.nii", smooth((8, 9, 3), 2).astype(np.float32))
    for name in ("a.nii", "b.nii"):
        assert ks.infer(study / name, out, ZERO_FILL).exit_code == 0
    assert {path.name for path in out.glob("*.nii")} == {"a_desc-SRx2.nii", "b_desc-SRx2.nii"}


def test_a_file_that_says_the_same_in_other_bytes_is_known_again(study, out):
    path = save_nifti(study / "a.nii.gz", smooth((8, 9, 3)).astype(np.float32))
    ks.infer(study, out, ZERO_FILL)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9, mtime=7))
    os.utime(path, (1, 1))
    assert [one.outcome for one in ks.infer(study, out, ZERO_FILL).slices] == ["present"]


def test_a_damaged_output_is_made_again(study, out):
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    ks.infer(study, out, ZERO_FILL)
    path = out / "a_desc-SRx2.nii"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    report = ks.infer(study, out, ZERO_FILL)
    assert report.slices[0].warnings == ("its output was damaged, and was made again",)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1] + b"x")
    report = ks.infer(study, out, option(verify_existing=True))
    assert report.slices[0].outcome == "written"
    assert path.read_bytes() == whole


def test_a_run_that_is_stopped_leaves_whole_files_and_is_completed(study, out, monkeypatch):
    for number in range(4):
        save_nifti(study / f"sub/{number}.nii.gz", smooth((8, 9, 6), number).astype(np.float32))
    stop_after = 9
    whole = RunState.advance

    def advance(run, n_slices):
        whole(run, n_slices)
        if run.done >= stop_after and not run.ending:
            raise StopRequestedError

    monkeypatch.setattr(RunState, "advance", advance)
    report = ks.infer(study, out, ZERO_FILL)
    assert report.interrupted
    assert 0 < report.not_reached < 24
    assert not list(out.rglob(".*.part"))
    monkeypatch.undo()
    (out / "sub" / ".3_desc-SRx2.nii.gz.0123abcd.part").write_bytes(b"left by a killed run")
    report = ks.infer(study, out, ZERO_FILL)
    assert report.count("written") + report.count("present") == 4
    assert report.count("present") > 0
    assert not list(out.rglob(".*.part"))
    for path in out.rglob("*.nii.gz"):
        assert nibabel.load(path).get_fdata().shape == (16, 18, 6)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(study, out, monkeypatch):
    save_nifti(study / "a/b.nii", smooth((8, 9, 3)).astype(np.float32))
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        ks.infer(study, out, ZERO_FILL)
    monkeypatch.undo()
    assert not list(out.rglob("*.nii"))
    assert not list(out.rglob(".*.part"))
    assert ks.infer(study, out, ZERO_FILL).exit_code == 0


def full_disk(descriptor):
    raise OSError(28, os.strerror(28))


def test_a_file_that_changes_meanwhile_is_not_used(study, out, monkeypatch):
    from kspacesr_rt.pipeline import volume_file

    path = save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    save_nifti(study / "b.nii", smooth((8, 9, 3), 3).astype(np.float32))
    check = volume_file.check_result

    def check_and_change(*arguments):
        if path.exists():
            path.write_bytes(path.read_bytes() + b"more")
        return check(*arguments)

    monkeypatch.setattr(volume_file, "check_result", check_and_change)
    report = ks.infer(study, out, SHOWN)
    assert outcome(report) == {"a.nii": ("failed", "changed"), "b.nii": ("written", "")}
    assert not (out / "a_desc-SRx2.nii").exists()


def test_clipped_voxels_are_counted_and_flagged(study, out):
    """Where an unsigned type is full, an edge that overshoots is cut off, and that is said."""
    data = np.zeros((16, 16, 2), np.uint8)
    data[4:12, 4:12] = 255
    save_nifti(study / "a.nii", data)
    report = ks.infer(study, out, ZERO_FILL)
    assert report.slices[0].flags == ("clipped",)
    assert report.slices[0].clipped_share > 0
    result = np.asarray(nibabel.load(out / "a_desc-SRx2.nii").dataobj)
    assert result.dtype == np.uint8
    assert np.array_equal(result[8:23:2, 8:23:2], np.full((8, 8, 2), 255))


def test_a_folder_of_dicom_and_volumes_is_processed_each_by_its_kind(study, out):
    """A DICOM file is one whatever its name says."""
    first, second = make_slices(study, 2)
    first.rename(study / "slice.dcm")
    second.rename(study / "odd.nii")
    save_nifti(study / "a.nii.gz", smooth((8, 9, 3)).astype(np.float32))
    report = ks.infer(study, out, option(preview=True, show_paths=True))
    assert {one.outcome for one in report.slices} == {"written"}
    assert len(list(out.glob("*_x2_*/*.dcm"))) == 2
    assert (out / "a_desc-SRx2.nii.gz").exists()
    assert len(list(out.glob("preview-*.png"))) == 2


def test_sources_that_share_a_stem_share_no_sidecar(study, out):
    """``a.nii``, ``a.nii.gz`` and ``a.npy`` come out as three, each with what was done to it."""
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32), descrip=b"one")
    save_nifti(study / "a.nii.gz", smooth((8, 9, 3), 2).astype(np.float32), descrip=b"two")
    np.save(study / "a.npy", smooth((3, 8, 9)))
    for _ in range(2):
        report = ks.infer(study, out, option(workers=1, show_paths=True))
        outputs = {one.file: one.output for one in report.slices}
        said = {}
        for file, output in outputs.items():
            [beside] = [one for one in sidecar_module.companions_of(out / output).values()
                        if one.suffix == ".json"]  # fmt: skip
            said[file] = json.loads(beside.read_text())
        assert len(set(outputs.values())) == 3
        assert {file: one["Sources"] for file, one in said.items()} == {
            file: [file] for file in outputs
        }
        shutil.rmtree(out / ".kspacesr-rt")


def test_a_name_that_is_too_long_for_a_result_is_that_files_failure(study, out, tmp_path):
    save_nifti(study / f"{'x' * 240}.nii", smooth((8, 9, 3)).astype(np.float32))
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    report = ks.infer(study, out, ZERO_FILL)
    assert sorted(one.reason for one in report.slices) == ["", "too-large"]
    assert ks.infer(study, tmp_path / "b", option(name="uid")).exit_code == 0


def test_names_that_are_no_utf_8_are_kept(study, out):
    study.mkdir()
    path = study / os.fsdecode(b"M\xfcller.npy")
    np.save(path, smooth((3, 8, 9)))
    assert ks.infer(study, out, ZERO_FILL).exit_code == 0
    assert (out / os.fsdecode(b"M\xfcller_desc-SRx2.npy")).exists()


def test_colour_arrays_are_no_stack_of_slices(study, out):
    study.mkdir()
    np.save(study / "rgb.npy", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(study, out, ZERO_FILL)
    assert caught.value.report.slices[0].reason == "not-grayscale"


def test_a_file_cannot_have_another_one_read(study, out, tmp_path):
    """HDF5 may point to raw bytes of any file, or to another HDF5 file: neither is followed."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(3 * 8 * 9 * 4))
    study.mkdir()
    with h5py.File(study / "raw.h5", "w") as file:
        file.create_dataset(
            "reconstruction", (3, 8, 9), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["reconstruction"] = smooth((3, 8, 9)).astype(np.float32)
    with h5py.File(study / "link.h5", "w") as file:
        file["reconstruction"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "reconstruction")
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(study, out, ZERO_FILL)
    assert [one.reason for one in caught.value.report.slices] == ["unreadable"] * 2


def test_a_header_of_gigabytes_is_not_read(study, out):
    """NumPy would read as much as the header announces before it looks at it."""
    study.mkdir()
    (study / "a.npy").write_bytes(b"\x93NUMPY\2\0\xff\xff\xff\xff" + b"{" * 100)
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(study, out, ZERO_FILL)
    [record] = caught.value.report.slices
    assert (record.reason, "long header" in record.message) == ("unreadable", True)


def test_negative_values_are_warned_about(study, out, tmp_path):
    """As of a normalised image: a model was trained on magnitudes; a baseline takes them."""
    data = smooth((24, 24, 2)).astype(np.float32)
    save_nifti(study / "a.nii", data - 100.0)
    save_nifti(study / "b.nii", data)
    model = option(backend="ort-cpu", model="x2-fast", show_paths=True)
    report = ks.infer(study, out, model)
    warned = {one.file: any("negative" in text for text in one.warnings) for one in report.slices}
    assert warned == {"a.nii": True, "b.nii": False}
    zero_fill = ks.infer(study, tmp_path / "b", ZERO_FILL)
    assert not any("negative" in text for one in zero_fill.slices for text in one.warnings)


def test_what_is_warned_about_is_refused_under_strict(study, out):
    save_nifti(study / "a.nii", smooth((8, 9, 3)).astype(np.float32), sform=0, qform=0)
    with pytest.raises(StrictRefusalError, match="neither sform nor qform"):
        ks.infer(study, out, option(strict=True))


def test_an_interpolated_volume_is_warned_about_or_left_out(study, out, tmp_path):
    """Its k-space says so; volumes are not cropped."""
    rng = np.random.default_rng(0)
    small = smooth((48, 48, 5)) + rng.normal(0, 20, (48, 48, 5))
    save_nifti(study / "a.nii", expected_of(small, 2).astype(np.float32))
    report = ks.infer(study, out, ZERO_FILL)
    assert "the rim is empty" in report.slices[0].warnings[0]
    with pytest.raises(NoMRImageError, match="interpolated"):
        ks.infer(study, tmp_path / "b", option(on_interpolated="skip"))
    crop = ks.infer(study, tmp_path / "c", option(on_interpolated="crop"))
    assert crop.slices[0].reason == "interpolated"
    assert "volumes are not cropped" in crop.slices[0].message


@pytest.mark.parametrize(("library", "name"), [("nibabel", "a.nii"), ("h5py", "b.h5")])
def test_a_missing_library_is_one_sentence(study, out, tmp_path, monkeypatch, library, name):
    """Exit 3 if nothing else is there; beside DICOM the file fails, and says what to install."""
    from kspacesr_rt.volumes import triage

    real = triage.find_spec
    monkeypatch.setattr(triage, "find_spec", lambda one: None if one == library else real(one))
    study_file(study, name).write_bytes(b"whatever")
    with pytest.raises(BackendUnavailableError, match=f"needs {library}, which is not") as caught:
        ks.infer(study, out, ZERO_FILL)
    assert caught.value.exit_code == 3
    assert "pip install 'kspacesr-rt[nifti]'" in caught.value.hint
    assert not out.exists()
    [path] = make_slices(study, 1)
    path.rename(study / "slice.dcm")
    report = ks.infer(study, tmp_path / "b", SHOWN)
    assert outcome(report)[name] == ("failed", "missing-library")
    assert outcome(report)["slice.dcm"] == ("written", "")


def test_arrays_need_neither_library(study, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    study.mkdir()
    np.save(study / "a.npy", smooth((2, 8, 9)))
    assert ks.infer(study, out, ZERO_FILL).exit_code == 0


def test_many_volumes_are_never_held_together(study, out):
    """A 4-D file takes the memory of a few slices, not of its volumes, nor of its result."""
    one = smooth((32, 32, 12)).astype(np.float32)
    save_nifti(study / "bold.nii.gz", np.stack([one] * 60, axis=-1))
    source_bytes, result_bytes = 60 * one.nbytes, 240 * one.nbytes
    with ks.Session(ZERO_FILL) as session:
        session.run(study, out)  # what is loaded once is loaded
        shutil.rmtree(out)
        tracemalloc.start()
        try:
            session.run(study, out)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert nibabel.load(out / "bold_desc-SRx2.nii.gz").shape == (64, 64, 12, 60)
    assert peak < source_bytes
    assert peak < result_bytes / 4


def test_the_model_sees_slices_one_by_one_whatever_the_batch(study, out, tmp_path):
    save_nifti(study / "a.nii", smooth((8, 9, 7)).astype(np.float32))
    ks.infer(study, out, ZERO_FILL)
    ks.infer(study, tmp_path / "b", option(batch=3, workers=3))
    assert (out / "a_desc-SRx2.nii").read_bytes() == (
        tmp_path / "b" / "a_desc-SRx2.nii"
    ).read_bytes()


def test_a_watched_folder_takes_volumes(study, out):
    """What lands is written as `infer` would, beside its sidecar."""
    from kspacesr_rt.services.watch import WatchOptions, watch

    study.mkdir()
    done = threading.Event()
    thread = threading.Thread(
        target=watch,
        args=(study, out, ZERO_FILL, WatchOptions(settle_s=0.1, poll_s=0.05)),
        kwargs={"stop_requested": done.is_set},
    )
    thread.start()
    try:
        save_nifti(study.parent / "a.nii.gz", smooth((8, 9, 3)).astype(np.float32))
        (study.parent / "a.nii.gz").rename(study / "a.nii.gz")
        waiting = threading.Event()
        for _ in range(1200):
            if (out / "a_desc-SRx2.nii.gz").exists() or waiting.wait(0.1):
                break
    finally:
        done.set()
        thread.join(60)
    assert nibabel.load(out / "a_desc-SRx2.nii.gz").shape == (16, 18, 3)
    assert (out / "a_desc-SRx2.json").exists()
