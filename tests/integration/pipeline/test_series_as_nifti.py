"""``--format``: derived series as NIfTI beside them, and what cannot honestly be another format."""

import json
import shutil
import subprocess
import threading
from pathlib import Path

import enhanced_cases
import nibabel
import numpy as np
import pydicom
import pytest
from classic_series import write_series
from volume_files import save_nifti, smooth

import kspacesr_rt as ks
from kspacesr_rt.errors import BackendUnavailableError, InputError, NoMRImageError

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "turned": (0, -1, 0, -1, 0, 0),
    "oblique": (0.955336, 0.295520, 0, -0.236416, 0.764269, 0.6),
}


def option(**values):
    return ks.InferOptions(**({"backend": "zero-fill", "upscale": 2, "format": "nifti"} | values))


def nifti_of(out, report):
    [record] = report.series_records
    assert record.nifti_problem == ""
    return nibabel.load(out / record.nifti)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("step", [3.0, -3.0])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_it_is_what_dcm2niix_makes_of_the_series(tmp_path, name, step):
    """Voxel for voxel, with its affine: sform and qform, codes and order of axes."""
    study = write_series(tmp_path / "in", ORIENTATIONS[name], step=step)
    report = ks.infer(study, tmp_path / "out", option())
    image = nifti_of(tmp_path / "out", report)
    folder = tmp_path / "out" / Path(report.slices[0].output).parent
    command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "theirs", "-o", tmp_path, folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    theirs = nibabel.load(tmp_path / "theirs.nii")
    assert np.array_equal(image.get_fdata(), theirs.get_fdata())
    assert np.allclose(image.affine, theirs.affine, atol=1e-4)
    assert np.allclose(image.header.get_qform(), theirs.header.get_qform(), atol=1e-4)
    for code in ("sform_code", "qform_code"):
        assert image.header[code] == theirs.header[code]


@pytest.mark.parametrize("name", ["axial", "oblique"])
def test_every_voxel_is_where_its_dicom_pixel_is(tmp_path, name):
    """Without dcm2niix: by the derived headers, read by pydicom alone."""
    study = write_series(tmp_path / "in", ORIENTATIONS[name])
    report = ks.infer(study, tmp_path / "out", option())
    image = nifti_of(tmp_path / "out", report)
    voxels, inverse = np.asarray(image.dataobj), np.linalg.inv(image.affine)
    for record in report.slices:
        ds = pydicom.dcmread(tmp_path / "out" / record.output)
        along_columns, along_rows = np.reshape(np.array(ds.ImageOrientationPatient, float), (2, 3))
        for row, column in ((0, 0), (37, 47), (11, 30)):
            lps = np.array(ds.ImagePositionPatient, float)
            lps = lps + along_columns * ds.PixelSpacing[1] * column
            lps = lps + along_rows * ds.PixelSpacing[0] * row
            index = inverse @ [*(lps * [-1, -1, 1]), 1]
            assert np.abs(index - np.rint(index)).max() < 1e-3
            i, j, k = np.rint(index[:3]).astype(int)
            assert voxels[i, j, k] == ds.pixel_array[row, column]


def test_a_dynamic_series_has_four_axes(tmp_path):
    study = write_series(tmp_path / "in", times=3)
    report = ks.infer(study, tmp_path / "out", option())
    image = nifti_of(tmp_path / "out", report)
    assert image.shape == (48, 38, 4, 3)
    last = pydicom.dcmread(tmp_path / "out" / report.slices[-1].output).pixel_array
    assert np.array_equal(np.asarray(image.dataobj)[:, ::-1, 3, 2].T, last)


def test_an_enhanced_series_is_written_too(tmp_path):
    frames = enhanced_cases.build(enhanced_cases.sample_frames(5, step=4))
    enhanced_cases.save(frames, tmp_path / "in" / "frames.dcm")
    report = ks.infer(tmp_path / "in", tmp_path / "out", option())
    image = nifti_of(tmp_path / "out", report)
    ds = pydicom.dcmread(tmp_path / "out" / report.slices[0].output)
    mine = np.moveaxis(np.asarray(image.dataobj)[:, ::-1], (2, 1, 0), (0, 1, 2))
    stored = {one.tobytes() for one in ds.pixel_array}
    assert {np.ascontiguousarray(one).tobytes() for one in mine} == stored


def test_it_says_what_was_done_and_nothing_of_the_patient(tmp_path):
    study = write_series(tmp_path / "in")
    report = ks.infer(study, tmp_path / "out", option())
    [record] = report.series_records
    image = nibabel.load(tmp_path / "out" / record.nifti)
    assert image.header["descrip"].item().startswith(b"SR x2 RESEARCH USE ONLY, kspacesr-rt ")
    beside = (tmp_path / "out" / record.nifti).with_name(record.nifti.replace(".nii.gz", ".json"))
    fields = json.loads(beside.read_text())
    assert fields["KspaceSuperResolution"]["SourceUID"] == record.series_instance_uid
    assert "Sources" not in fields


def test_a_series_that_is_no_even_stack_is_said_and_the_exit_code_is_8(tmp_path):
    """Its DICOM outputs are written all the same."""
    study = write_series(tmp_path / "in", places=(0, 1, 3))
    report = ks.infer(study, tmp_path / "out", option())
    assert report.count("written") == 3
    assert report.exit_code == 8
    assert report.series_records[0].nifti_problem == "its slices are not at equal distances"
    assert "no NIfTI of series 1: its slices are not at equal distances" in report.as_text()
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert ks.infer(study, tmp_path / "out", option(format="same")).exit_code == 0


def test_a_series_with_several_echoes_is_no_single_volume(tmp_path):
    study = write_series(tmp_path / "in", times=2)
    for path in sorted(study.iterdir())[4:]:
        ds = pydicom.dcmread(path)
        ds.EchoNumbers = 2
        ds.save_as(path)
    report = ks.infer(study, tmp_path / "out", option())
    assert "several echoes" in report.series_records[0].nifti_problem


def test_it_follows_its_series(tmp_path):
    """Made once, it is made anew with every change, whatever the format that is asked for then."""
    study, out = write_series(tmp_path / "in"), tmp_path / "out"
    first = ks.infer(study, out, option(format="same"))
    assert first.series_records[0].nifti == ""
    second = ks.infer(study, out, option())
    assert {one.outcome for one in second.slices} == {"present"}
    assert second.as_text().startswith("no new slice: ")
    before = nifti_of(out, second).get_fdata()
    path = sorted(study.iterdir())[0]
    ds = pydicom.dcmread(path)
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(path)
    third = ks.infer(study, out, option(format="same", stale="replace"))
    after = nifti_of(out, third).get_fdata()
    assert before[:, :, 0].any()
    assert not after[:, :, 0].any()
    assert np.array_equal(after[:, :, 1:], before[:, :, 1:])
    assert ks.infer(study, out, option()).exit_code == 0


def test_a_watch_adds_late_slices_to_the_file(tmp_path):
    """What came in two rounds stands in one volume."""
    from kspacesr_rt.services.watch import WatchOptions, watch

    series = sorted(write_series(tmp_path / "all", places=range(5)).iterdir())
    landing, out = tmp_path / "landing", tmp_path / "out"
    landing.mkdir()
    ended, pause = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=watch,
        args=(landing, out, option(), WatchOptions(settle_s=0.1, poll_s=0.05)),
        kwargs={"stop_requested": ended.is_set},
    )
    thread.start()
    try:
        for files, n_slices in ((series[:3], 3), (series[3:], 5)):
            for path in files:
                shutil.copy(path, landing / f".{path.name}.part")
                (landing / f".{path.name}.part").rename(landing / path.name)
            for _ in range(1200):
                found = list(out.glob("*.nii.gz"))
                if found and nibabel.load(found[0]).shape[2] == n_slices:
                    break
                pause.wait(0.1)
            assert nibabel.load(found[0]).shape == (48, 38, n_slices)
    finally:
        ended.set()
        thread.join(60)
    whole = ks.infer(tmp_path / "all", tmp_path / "whole", option())
    assert np.array_equal(
        nibabel.load(found[0]).get_fdata(), nifti_of(tmp_path / "whole", whole).get_fdata()
    )


def test_equal_series_give_equal_files(tmp_path):
    study = write_series(tmp_path / "in")
    for name in ("a", "b"):
        ks.infer(study, tmp_path / name, option())
    [one], [other] = ((tmp_path / name).glob("*.nii.gz") for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_its_own_nifti_is_no_input(tmp_path):
    study = write_series(tmp_path / "in")
    ks.infer(study, tmp_path / "out", option())
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(tmp_path / "out", tmp_path / "again", option())
    reasons = {one.reason for one in caught.value.report.slices}
    assert reasons >= {"already-derived", "sidecar"}


def test_volumes_are_not_made_into_dicom(tmp_path):
    """One sentence and exit 9: a series without a patient would be made up."""
    save_nifti(tmp_path / "in" / "a.nii", smooth((8, 9, 3)).astype(np.float32))
    with pytest.raises(NoMRImageError) as caught:
        ks.infer(tmp_path / "in", tmp_path / "out", option(format="dicom"))
    [record] = caught.value.report.slices
    assert (record.outcome, record.reason) == ("skipped", "no-patient")
    assert "patient, study and UIDs" in record.message
    assert "needs a patient, a study and UIDs" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_arrays_are_not_made_into_nifti(tmp_path):
    write_series(tmp_path / "in")
    np.save(tmp_path / "in" / "a.npy", smooth((3, 8, 9)))
    save_nifti(tmp_path / "in" / "b.nii", smooth((8, 9, 3)).astype(np.float32))
    report = ks.infer(tmp_path / "in", tmp_path / "out", option(show_paths=True))
    outcomes = {one.file: (one.outcome, one.reason) for one in report.slices}
    assert outcomes["a.npy"] == ("skipped", "no-geometry")
    assert outcomes["b.nii"] == ("written", "")


def test_without_nibabel_it_is_refused_before_anything(tmp_path, monkeypatch):
    from kspacesr_rt.volumes import triage

    study = write_series(tmp_path / "in")
    monkeypatch.setattr(triage, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="needs nibabel"):
        ks.infer(study, tmp_path / "out", option())
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="format is"):
        option(format="nrrd")
