"""Names of volumes: as the source, with what was done; known again; never in a report."""

import pytest

from kspacesr_rt.volumes.output_names import (
    is_volume_file,
    is_volume_output,
    kind_of,
    output_label,
    output_names,
)

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("relative", "name"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_desc-SRx2_T1w.nii.gz"),
        ("sub-01_ses-2_run-1_bold.nii", "sub-01_ses-2_run-1_desc-SRx2_bold.nii"),
        ("sub-01_desc-preproc_T1w.nii.gz", "sub-01_desc-preprocSRx2_T1w.nii.gz"),
        ("sub-01_desc-a_space-b_T2w.nii", "sub-01_desc-aSRx2_space-b_T2w.nii"),
        ("brain.nii.gz", "brain_desc-SRx2.nii.gz"),
        ("Brain.NII.GZ", "Brain_desc-SRx2.NII.GZ"),
        ("a b/x.y.npy", "a b/x.y_desc-SRx2.npy"),
        ("file1000.h5", "file1000_desc-SRx2.h5"),
        ("sub-_odd.npz", "sub-_odd_desc-SRx2.npz"),
    ],
)
def test_a_name_says_what_was_done(relative, name):
    names = list(output_names(relative, upscale=2, content_digest=DIGEST))
    assert names[0] == name
    assert names[1] == name.replace("SRx2", "SRx2vabababababab")
    for one in names:
        assert is_volume_output(one.rsplit("/", 1)[-1])


def test_names_by_uid_say_nothing_of_the_source():
    first, second = output_names(
        "SMITH^JOHN/t1.nii.gz", upscale=4, content_digest=DIGEST, template="uid"
    )
    assert first.endswith("_desc-SRx4.nii.gz")
    assert "SMITH" not in first + second
    assert "/" not in first
    other, _ = output_names("b/t1.nii.gz", upscale=4, content_digest=DIGEST, template="uid")
    assert other != first


@pytest.mark.parametrize(
    "name", ["brain.nii.gz", "desc-SR.nii", "x_desc-SRx2.dcm", "desc-SRx2.nii.txt", "a.json"]
)
def test_other_files_are_not_taken_for_results(name):
    assert not is_volume_file(name)


def test_what_stands_beside_a_result_is_ours_and_no_result():
    assert is_volume_file("brain_desc-SRx2.json")
    assert is_volume_file("slices_desc-SRx2.npy.json")
    assert is_volume_file("sub-01_desc-SRx2_dwi.bval")
    assert not is_volume_output("brain_desc-SRx2.json")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.nii", "nifti"),
        ("a.NII.gz", "nifti"),
        ("a.npy", "npy"),
        ("a.npz", "npz"),
        ("a.h5", "hdf5"),
        ("a.hdf5", "hdf5"),
        ("a.dcm", None),
        ("nii", None),
        ("a.gz", None),
    ],
)
def test_the_format_is_said_by_the_name(name, kind):
    assert kind_of(name) == kind


def test_a_report_names_a_result_by_a_digest():
    """Results are called as their sources, and those as patients, often."""
    assert output_label("SMITH_desc-SRx2.nii", show_path=False).startswith("sha256:")
    assert output_label("SMITH_desc-SRx2.nii", show_path=True) == "SMITH_desc-SRx2.nii"
    assert output_label("0003_x2_abcdef/0001.dcm", show_path=False) == "0003_x2_abcdef/0001.dcm"
