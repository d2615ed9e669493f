"""NIfTI headers: what moves with the grid, what stays as it is, and what is refused."""

import gzip

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_files import centre_of_mass, save_nifti, set_field, smooth

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.errors import SliceError
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.volumes.layout import SliceJoiner, stored_slices
from kspacesr_rt.volumes.nifti import NiftiVolume

PERMUTATIONS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
GRIDS = ("kspace", "pixel-centre", "first-sample")
SEVERAL = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)


def derivation(upscale=2, grid="kspace"):
    return Derivation(
        upscale=upscale,
        backend="zero-fill",
        model="zero-fill",
        weights_sha256=None,
        tool_version="1.2.3",
        sample_grid=grid,
    )


def super_resolved(path, target, plane="auto", upscale=2, grid="kspace"):
    """Write the zero-filled result of a file, as a run does, without the run."""
    volume = NiftiVolume.read(path, plane)
    result = volume.result(target, derivation(upscale, grid))
    joiner = SliceJoiner(result.layout)
    with volume.samples() as source, result.begin("what was done") as sink:
        for stored in stored_slices(source, volume.layout):
            sr = zero_fill(volume.layout.values(stored), upscale, grid)
            for chunk in joiner.chunks([volume.layout.to_stored(sr)]):
                sink.write(chunk)
    return nibabel.load(target)


def rotation(order, signs, tilt):
    """Return the directions of three axes: permuted, flipped, and tilted by an angle."""
    c, s = np.cos(tilt), np.sin(tilt)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return turned @ np.diag(signs)[:, order]


@SEVERAL
@given(
    order=st.sampled_from(PERMUTATIONS),
    signs=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
    tilt=st.sampled_from([0.0, 0.3]),
    shape=st.tuples(*[st.integers(15, 24)] * 3),
    zooms=st.tuples(*[st.sampled_from([0.8, 1.0, 1.7])] * 3),
    plane=st.sampled_from(["auto", "axial", "coronal", "sagittal", "first", "second", "third"]),
    upscale=st.sampled_from([2, 3, 4]),
    grid=st.sampled_from(GRIDS),
)
def test_a_blob_stays_at_its_millimetre(
    tmp_path, order, signs, tilt, shape, zooms, plane, upscale, grid
):
    """By sform and by qform, whatever the orientation, the parity, the plane and the grid."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(order, signs, tilt) * zooms
    affine[:3, 3] = [-31.0, 12.5, 77.0]
    data = smooth(shape).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii", data, affine, sform=2, qform=1)
    image = super_resolved(path, tmp_path / "b.nii", plane, upscale, grid)
    before = affine @ [*centre_of_mass(data), 1.0]
    result = np.asarray(image.dataobj, np.float64)
    for moved, code in (image.header.get_sform(coded=True), image.header.get_qform(coded=True)):
        assert code in (1, 2)
        after = moved @ [*centre_of_mass(result), 1.0]
        assert np.abs(after - before).max() < 0.05  # a wrong rule is off by 0.1 mm or more
    assert sorted(result.shape) == sorted(
        n * (1 if axis == changed_not(image, shape) else upscale) for axis, n in enumerate(shape)
    )
    assert image.header.get_zooms() == pytest.approx(
        np.linalg.norm(image.header.get_sform()[:3, :3], axis=0), rel=1e-5
    )


def changed_not(image, shape):
    """Return the axis that has as many samples as before."""
    [axis] = [axis for axis in range(3) if image.shape[axis] == shape[axis]]
    return axis


def test_every_sample_of_an_even_matrix_stays_where_it_was(tmp_path):
    """So that zero-filled results hold the source's own samples, at equal millimetres."""
    data = smooth((12, 16, 3)).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii", data, np.diag([1.0, 2.0, 6.0, 1.0]))
    image = super_resolved(path, tmp_path / "b.nii")
    assert np.allclose(image.get_fdata()[::2, ::2], data, atol=1e-3)
    assert np.allclose(image.affine, np.diag([0.5, 1.0, 6.0, 1.0]))


def test_sform_and_qform_move_each_by_its_own(tmp_path):
    """Two affines that differ, as after a registration, are both moved, and codes are kept."""
    sform = np.array([[0, 2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    qform = np.diag([1.5, 2.0, 3.0, 1.0])
    path = save_nifti(
        tmp_path / "a.nii", smooth((9, 10, 4)), sform, sform=4, qform=3, qaffine=qform
    )
    header = super_resolved(path, tmp_path / "b.nii", "third").header
    assert header["sform_code"] == 4
    assert header["qform_code"] == 3
    # an odd axis of 9 samples: half a source sample before the first one
    assert np.allclose(header.get_sform()[:3, 3], sform[:3, 3] - 0.5 * sform[:3, 0])
    assert np.allclose(header.get_qform()[:3, 3], [-0.75, 0, 0], atol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
def test_byte_order_version_scaling_and_extensions_are_kept(tmp_path, order, kind):
    data = np.arange(6 * 8 * 2, dtype=np.int16).reshape(6, 8, 2)
    header = kind(endianness=order)
    header.set_data_shape(data.shape)
    header.set_data_dtype(np.int16)
    header["scl_slope"], header["scl_inter"] = 0.5, 100.0
    header["cal_max"], header["intent_name"] = 77.0, b"kept"
    header.set_sform(np.eye(4), 1)
    comment = (32).to_bytes(4, "little" if order == "<" else "big")
    comment += (6).to_bytes(4, "little" if order == "<" else "big") + b"a comment".ljust(24, b"\0")
    size = len(header.binaryblock)
    header["vox_offset"] = size + 4 + len(comment)
    path = tmp_path / "a.nii"
    path.write_bytes(
        bytes(header.binaryblock)
        + b"\1\0\0\0"
        + comment
        + data.astype(np.dtype(np.int16).newbyteorder(order)).tobytes("F")
    )
    image = super_resolved(path, tmp_path / "b.nii")
    result = image.header
    assert result.endianness == order
    assert type(image.header) is kind
    assert (image.dataobj.slope, image.dataobj.inter) == (0.5, 100.0)
    assert float(result["cal_max"]) == 77.0
    assert result.get_data_dtype().newbyteorder("=") == np.int16
    assert [one.get_code() for one in result.extensions] == [6]
    assert np.allclose(image.get_fdata()[::2, ::2], data * 0.5 + 100.0, atol=0.26)


def test_an_extension_that_describes_the_old_grid_is_left_out_and_said(tmp_path):
    image = nibabel.Nifti1Image(smooth((8, 8, 2)).astype(np.float32), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(4, b"<AFNI_attributes/>"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment"))
    nibabel.save(image, tmp_path / "a.nii")
    volume = NiftiVolume.read(tmp_path / "a.nii", "auto")
    assert volume.dropped == {"header extension": 1}
    assert any("AFNI" in text for text in volume.warnings)
    result = super_resolved(tmp_path / "a.nii", tmp_path / "b.nii")
    assert [one.get_code() for one in result.header.extensions] == [6]


def test_slice_timing_of_another_plane_is_left_out_and_said(tmp_path):
    path = save_nifti(tmp_path / "a.nii", smooth((9, 10, 11)), slice_code=1, slice_end=10)
    header = nibabel.load(path).header
    header.set_dim_info(slice=2)
    set_field(path, "dim_info", header["dim_info"])
    same = super_resolved(path, tmp_path / "b.nii").header
    assert (same["slice_code"], same["slice_end"]) == (1, 10)
    volume = NiftiVolume.read(path, "first")
    assert any("slice timing" in text for text in volume.warnings)
    other = super_resolved(path, tmp_path / "c.nii", "first").header
    assert (other["slice_code"], other["slice_end"]) == (0, 0)


def test_without_sform_and_qform_nothing_is_said_of_a_place(tmp_path):
    path = save_nifti(tmp_path / "a.nii", smooth((9, 9, 3)), sform=0, qform=0)
    volume = NiftiVolume.read(path, "auto")
    assert any("neither sform nor qform" in text for text in volume.warnings)
    header = super_resolved(path, tmp_path / "b.nii").header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)
    assert header.get_zooms() == (0.5, 0.5, 1.0)
    with pytest.raises(SliceError, match="does not say how it lies"):
        NiftiVolume.read(path, "axial")


def test_equal_voxels_give_equal_bytes(tmp_path):
    """No time and no name of a file in a gzip stream."""
    path = save_nifti(tmp_path / "a.nii.gz", smooth((8, 9, 4)).astype(np.float32))
    for name in ("b.nii.gz", "other.nii.gz"):
        super_resolved(path, tmp_path / name)
    packed = (tmp_path / "b.nii.gz").read_bytes()
    assert packed == (tmp_path / "other.nii.gz").read_bytes()
    assert packed[4:8] == bytes(4)
    assert packed[3] == 0  # no flag: no name


def damaged(tmp_path, what):
    """Return a file with one thing wrong."""
    data = smooth((8, 9, 4)).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii", data)
    fields = {
        "colour": ("datatype", 128),
        "complex": ("datatype", 32),
        "float128": ("datatype", 1536),
        "unknown type": ("datatype", 77),
        "labels": ("intent_code", 1002),
        "wrong magic": ("magic", b"abc"),
        "pair": ("magic", b"ni1"),
        "five axes": ("dim", [5, 8, 9, 2, 2, 2, 1, 1]),
        "one axis": ("dim", [1, 8, 1, 1, 1, 1, 1, 1]),
        "no axis": ("dim", [0, 8, 1, 1, 1, 1, 1, 1]),
        "empty axis": ("dim", [3, 8, 0, 4, 1, 1, 1, 1]),
        "negative axis": ("dim", [3, 8, -9, 4, 1, 1, 1, 1]),
        "more samples": ("dim", [3, 800, 90, 4, 1, 1, 1, 1]),
        "huge slice": ("dim", [3, 30000, 30000, 4, 1, 1, 1, 1]),
        "zero zoom": ("pixdim", [1, 1, 0, 1, 0, 0, 0, 0]),
        "nan zoom": ("pixdim", [1, 1, np.nan, 1, 0, 0, 0, 0]),
        "zero affine": ("srow_x", [0, 0, 0, 0]),
        "nan affine": ("srow_x", [np.nan, 0, 0, 0]),
        "flat affine": ("srow_z", [0, 1, 0, 0]),
        "bad quaternion": ("quatern_b", 7.0),
        "infinite slope": ("scl_slope", np.inf),
        "offset in the header": ("vox_offset", 100.0),
        "offset of nan": ("vox_offset", np.nan),
        "huge offset": ("vox_offset", 2.0**31),
        "own": ("descrip", b"SR x2 RESEARCH USE ONLY, kspacesr-rt 1.0, x2-fast"),
    }
    if what in fields:
        return set_field(path, *fields[what])
    content = path.read_bytes()
    contents = {
        "text": b"this is not NIfTI" * 40,
        "empty": b"",
        "cut in the header": content[:100],
        "cut in the voxels": content[:-100],
        "compressed": gzip.compress(content),
    }
    if what == "bad extension":
        set_field(path, "vox_offset", 368)
        contents[what] = path.read_bytes()[:348] + b"\1\0\0\0\7" + bytes(15) + content[352:]
    path.write_bytes(contents[what])
    return path


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("colour", "not-grayscale"),
        ("complex", "complex"),
        ("float128", "unsupported-bits"),
        ("unknown type", "unsupported-bits"),
        ("labels", "not-an-image"),
        ("wrong magic", "unreadable"),
        ("pair", "unreadable"),
        ("five axes", "not-an-image"),
        ("one axis", "not-an-image"),
        ("no axis", "unreadable"),
        ("empty axis", "bad-geometry"),
        ("negative axis", "bad-geometry"),
        ("more samples", "truncated"),
        ("huge slice", "too-large"),
        ("zero zoom", "bad-geometry"),
        ("nan zoom", "bad-geometry"),
        ("zero affine", "bad-geometry"),
        ("nan affine", "bad-geometry"),
        ("flat affine", "bad-geometry"),
        ("bad quaternion", "bad-geometry"),
        ("infinite slope", "bad-rescale"),
        ("offset in the header", "unreadable"),
        ("offset of nan", "unreadable"),
        ("huge offset", "too-large"),
        ("own", "already-derived"),
        ("text", "unreadable"),
        ("empty", "truncated"),
        ("cut in the header", "truncated"),
        ("cut in the voxels", "truncated"),
        ("compressed", "unreadable"),
        ("bad extension", "unreadable"),
    ],
)
def test_what_cannot_be_processed_has_its_reason(tmp_path, what, reason, capfd):
    """Each with a word of the table, and nothing of nibabel's own on a stream."""
    with pytest.raises(SliceError) as caught:
        NiftiVolume.read(damaged(tmp_path, what), "auto")
    assert caught.value.reason == reason
    assert capfd.readouterr() == ("", "")


def packed_volume(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", smooth((8, 9, 4)).astype(np.float32))
    return path, path.read_bytes()


def read_to_the_end(path):
    volume = NiftiVolume.read(path, "auto")
    with volume.samples() as source:
        return list(stored_slices(source, volume.layout))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda packed: packed[:-20], "truncated"),
        (lambda packed: packed[:-8] + b"abcd" + packed[-4:], "unreadable"),
        (lambda packed: packed[:200] + b"\xff" * 40 + packed[240:], "unreadable"),
        (lambda packed: gzip.decompress(packed), "unreadable"),
    ],
    ids=["cut", "wrong checksum", "overwritten", "not compressed"],
)
def test_a_damaged_gzip_stream_is_found(tmp_path, change, reason):
    """At its last byte at the latest: the checksum is behind the voxels."""
    path, packed = packed_volume(tmp_path)
    assert len(read_to_the_end(path)) == 4
    path.write_bytes(change(packed))
    with pytest.raises(SliceError) as caught:
        read_to_the_end(path)
    assert caught.value.reason == reason


def test_a_stream_that_goes_on_for_long_is_not_unpacked(tmp_path, monkeypatch):
    """What a bomb unfolds into is bounded by the limits, not by the disk or the memory."""
    from kspacesr_rt.dicom import file_limits

    path, packed = packed_volume(tmp_path)
    path.write_bytes(gzip.compress(gzip.decompress(packed) + bytes(1 << 22)))
    monkeypatch.setattr(file_limits, "_current", file_limits.Limits(extra=1 << 20))
    with pytest.raises(SliceError) as caught:
        read_to_the_end(path)
    assert caught.value.reason == "too-large"


def test_more_samples_than_a_stream_can_hold_are_not_believed(tmp_path):
    """A header of kilobytes that announces gigabytes is refused before anything is read."""
    path, _ = packed_volume(tmp_path)
    set_field(path, "dim", [4, 800, 900, 400, 50, 1, 1, 1])
    with pytest.raises(SliceError) as caught:
        NiftiVolume.read(path, "auto")
    assert caught.value.reason == "truncated"


def test_a_result_that_nifti_1_cannot_hold_is_refused(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.ones((20000, 2, 1), np.uint8))
    volume = NiftiVolume.read(path, "auto")
    with pytest.raises(SliceError, match="too large for NIfTI-1"):
        volume.result(tmp_path / "b.nii", derivation())
