"""From Enhanced MR files to derived ones, as users run it: geometry, memory, failures, reports."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import enhanced_cases as cases
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from kspacesr_rt import kspace
from kspacesr_rt.errors import StrictRefusalError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.pipeline import InferOptions, RunProgress, infer, multi_frame_file
from kspacesr_rt.runtime import baselines
from kspacesr_rt.sample import sample_folder

ZERO_FILL = InferOptions(backend="zero-fill")


@pytest.fixture
def place(tmp_path):
    """Return what saves data sets into the input, under numbers as names."""

    def put(*datasets):
        for number, ds in enumerate(datasets):
            cases.save(ds, tmp_path / "in" / f"{number}.dcm")
        return tmp_path / "in"

    return put


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def outputs(folder):
    return sorted(folder.rglob("*.dcm"))


def only(folder):
    (path,) = outputs(folder)
    return dcmread(path)


def test_a_file_becomes_one_file_of_as_many_frames(place, out):
    """One record a file, with its frames; half the spacing, twice the matrix."""
    source = place(cases.build(cases.sample_frames(4)))
    report = infer(source, out, InferOptions(threads=1, batch=3))
    (record,) = report.slices
    assert (record.outcome, record.n_frames, record.matrix) == ("written", 4, (64, 64))
    assert record.sop_instance_uid == cases.INSTANCE
    assert 0 < record.measured_residual < 1e-4
    assert report.exit_code == 0
    assert report.as_text().startswith("4 slices written in 1 series")
    ds = only(out)
    assert str(out / record.output) == str(outputs(out)[0])
    assert ds.pixel_array.shape == (4, 128, 128)
    stored = json.loads((out / "report.json").read_text())
    assert (stored["written"], stored["written_slices"]) == (1, 4)
    assert stored["slices"][0]["n_frames"] == 4


@pytest.mark.parametrize("backend", ["zero-fill", "bicubic", "ort-cpu"])
def test_frames_are_what_the_same_classic_slices_become(tmp_path, place, backend):
    """One pair of eyes for both kinds of file: equal pixels in, equal pixels out."""
    frames = cases.sample_frames(3, step=1)
    classic = tmp_path / "classic"
    classic.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[8:11]:
        shutil.copy(path, classic)
    options = InferOptions(backend=backend, threads=1, batch=2)
    slices = infer(classic, tmp_path / "one", options).slices
    (record,) = infer(place(cases.build(frames)), tmp_path / "many", options).slices
    expected = sorted(
        (dcmread(path) for path in outputs(tmp_path / "one")), key=lambda ds: ds.InstanceNumber
    )
    # The classic sample is signed: it can hold the undershoot that 12 unsigned bits clip at 0.
    found = only(tmp_path / "many").pixel_array
    for image, slice_ in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, slice_.pixel_array.clip(0, 4095))
    if backend == "zero-fill":
        return  # it adds nothing: what is left is rounding
    for name in ("measured_residual", "added_energy_share", "added_energy_ratio"):
        told = [getattr(one, name) for one in slices]
        assert getattr(record, name) == pytest.approx(max(told)), name


def test_a_file_tells_of_its_worst_frame_wherever_it_stands(place, out):
    """Whoever reads the report would otherwise see the last frame's figures alone."""
    orders = [cases.sample_frames(3, step=4), cases.sample_frames(3, step=4)[::-1]]
    records = [
        infer(place(cases.build(frames)), out / str(number), InferOptions(threads=1, batch=1))
        .slices[0]
        .added_energy_share
        for number, frames in enumerate(orders)
    ]
    assert records[0] == pytest.approx(records[1])


def test_strict_refuses_what_a_header_alone_gives_reason_to_warn_about(place, out):
    """Nothing of the pixels would tell."""
    ds = cases.build(cases.sample_frames(2))
    index = Dataset()
    index.DimensionIndexPointer, index.DimensionIndexPrivateCreator = 0x20050029, "NOBODY"
    ds.DimensionIndexSequence = Sequence([index])
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.FrameContentSequence[0].DimensionIndexValues = [1]
    source = place(ds)
    with pytest.raises(StrictRefusalError, match=r"names a private element .* \(1 series: 1\)"):
        infer(source, out, InferOptions(backend="zero-fill", strict=True))
    assert not out.exists()
    assert infer(source, out, ZERO_FILL).count("written") == 1


def test_an_interpolated_file_is_not_cropped_but_left_with_a_hint(place, out):
    """Whoever asks for what was acquired must not get what was stored, and be told `cropped`."""
    acquired = kspace.centre_crop(kspace.fft2c(2000.0 * brain_phantom((128, 128))), (64, 64))
    stored = np.abs(kspace.ifft2c(kspace.centre_fill(acquired, (128, 128))))
    frame = cases.Frame(pixels=np.rint(stored).astype(np.uint16))
    options = InferOptions(backend="zero-fill", on_interpolated="crop")
    (record,) = infer(place(cases.build([frame] * 2)), out, options).slices
    assert (record.outcome, record.reason) == ("skipped", "interpolated")
    assert outputs(out) == []


def test_a_file_that_has_other_frames_than_were_scanned_is_left(place, out, monkeypatch):
    """Same UID, same matrix: the report would count frames that nobody made."""
    source = place(cases.build(cases.sample_frames(3)))
    look = multi_frame_file.status

    def exchange_first(one):
        cases.save(cases.build(cases.sample_frames(2)), one.path)
        return look(one)

    monkeypatch.setattr(multi_frame_file, "status", exchange_first)
    (record,) = infer(source, out, ZERO_FILL).slices
    assert (record.outcome, record.reason) == ("failed", "changed")
    assert outputs(out) == []


@pytest.mark.parametrize("backend", ["zero-fill", "ort-cpu"])
def test_results_do_not_depend_on_the_batch(place, tmp_path, backend, monkeypatch):
    """Nor do the bytes of the file."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source = place(cases.build(cases.sample_frames(5)))
    contents = set()
    for batch in (1, 2, 5, 9):
        folder = tmp_path / f"batch{batch}"
        infer(source, folder, InferOptions(backend=backend, batch=batch, threads=1))
        contents.add(outputs(folder)[0].read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compression_of_the_input_changes_nothing(place, tmp_path, syntax):
    """The same pixels have the same UID, however they travelled."""
    frames = cases.sample_frames(3)
    infer(place(cases.build(frames)), tmp_path / "plain", ZERO_FILL)
    compressed = cases.compress(cases.build(frames), syntax, offsets="extended")
    infer(place(compressed), tmp_path / "packed", ZERO_FILL)
    assert only(tmp_path / "plain").SOPInstanceUID == only(tmp_path / "packed").SOPInstanceUID


def test_running_again_changes_nothing(place, out):
    """`present`, not a second copy, and no temporary beside it."""
    source = place(cases.build(cases.sample_frames(3)))
    infer(source, out, ZERO_FILL)
    content = outputs(out)[0].read_bytes()
    report = infer(source, out, ZERO_FILL)
    assert [(one.outcome, one.n_frames) for one in report.slices] == [("present", 3)]
    assert "nothing new: 3 slices in 1 series were already there" in report.as_text()
    assert outputs(out)[0].read_bytes() == content
    assert len(outputs(out)) == 1
    assert not list(out.rglob("*.part"))


class _SpoilsTheThird(baselines.BaselineBackend):
    """Spoils the third slice it meets."""

    seen = 0

    def run(self, batch):
        result = super().run(batch).copy()
        for number in range(len(result)):
            type(self).seen += 1
            if type(self).seen == 3:
                result[number] *= self.factor
        return result


@pytest.mark.parametrize(("factor", "reason"), [(np.nan, "non-finite"), (1.01, "data-consistency")])
def test_one_bad_frame_fails_the_file_and_the_others_are_written(
    place, out, monkeypatch, factor, reason
):
    """Five good frames of six are no volume; the next file is a patient's too."""
    broken = type("Broken", (_SpoilsTheThird,), {"factor": factor, "seen": 0})
    monkeypatch.setattr(baselines, "BaselineBackend", broken)
    good = cases.build(cases.sample_frames(2), SOPInstanceUID="1.2.9", InstanceNumber=2)
    source = place(cases.build(cases.sample_frames(6, first=4)), good)
    seen: list[RunProgress] = []
    report = infer(
        source, out, InferOptions(backend="zero-fill", preview=True), on_progress=seen.append
    )
    outcomes = {one.sop_instance_uid: one for one in report.slices}
    failed = outcomes[cases.INSTANCE]
    assert (failed.outcome, failed.reason, failed.n_frames) == ("failed", reason, 6)
    assert failed.message.startswith("frame 3: ")
    assert outcomes["1.2.9"].outcome == "written"
    assert report.exit_code == 5
    assert only(out).NumberOfFrames == 2
    assert not list(out.rglob("*.part"))
    assert [seen[-1].done, seen[-1].total] == [8, 8]
    assert [one.done for one in seen] == sorted(one.done for one in seen)


def test_a_frame_that_cannot_be_decoded_fails_the_file(place, out):
    """Found after frames were written: nothing of the file may stay."""
    ds = cases.compress(cases.build(cases.sample_frames(4)), RLELossless)
    # The end of the last fragment, before the item that ends the sequence.
    ds.PixelData = ds.PixelData[:-208] + bytes(200) + ds.PixelData[-8:]
    report = infer(place(ds), out, ZERO_FILL)
    (record,) = report.slices
    assert (record.outcome, record.reason) == ("failed", "truncated")
    assert record.message.startswith("frame 4: its RLE Lossless pixel data end early")
    assert outputs(out) == []
    assert report.exit_code == 8


def test_nothing_is_said_about_a_files_values(place, out, capfd, recwarn):
    """Pydicom quotes an illegal UID, here one with a leading zero, whenever it meets it."""
    source = place(cases.build(cases.sample_frames(2), SOPInstanceUID="1.2.826.1.5"))
    path = source / "0.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.826.1.5", b"1.2.026.1.5"))
    assert infer(source, out, ZERO_FILL).count("written") == 1
    said = capfd.readouterr()
    assert (said.out, said.err, [str(one.message) for one in recwarn]) == ("", "", [])


def test_a_matrix_that_no_model_fits_fails_by_name(place, out):
    """As for classic slices."""
    tiny = [cases.Frame(pixels=np.ones((6, 6), np.uint16))] * 2
    report = infer(place(cases.build(tiny)), out, InferOptions(threads=1))
    assert report.reasons() == [("failed", "matrix", 1)]


def test_previews_show_frames_of_finished_files(place, out):
    """A contact sheet a series, as for classic slices."""
    report = infer(
        place(cases.build(cases.sample_frames(5))),
        out,
        InferOptions(backend="zero-fill", preview=True),
    )
    series = report.slices[0].output.split("/")[0]
    assert [path.name for path in out.glob("*.png")] == [f"preview-{series}.png"]


def test_classic_and_enhanced_files_of_one_folder_are_all_processed(place, out):
    """A study holds both kinds, and the progress counts slices."""
    source = place(cases.build(cases.sample_frames(3)))
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[9], source / "classic.dcm")
    seen: list[RunProgress] = []
    report = infer(source, out, ZERO_FILL, on_progress=seen.append)
    assert sorted(one.n_frames or 0 for one in report.slices) == [0, 3]
    assert (seen[-1].done, seen[-1].total, len(outputs(out))) == (4, 4, 2)


def test_training_takes_the_frames_as_slices(place):
    """`train` and `evaluate` read what `infer` reads."""
    from kspacesr_rt.train.volumes import read_volumes

    frames = cases.sample_frames(3)
    (volume,) = read_volumes(place(cases.build(frames)))
    np.testing.assert_array_equal(volume.slices, [frame.pixels for frame in frames])


STACKS = {
    "in order": lambda frames: frames,
    "shuffled": lambda frames: [
        frames[n] for n in np.random.default_rng(3).permutation(len(frames))
    ],
    "reversed": lambda frames: frames[::-1],
}
MATRICES = [(40, 36), (41, 36), (39, 45)]


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("order", STACKS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_a_blob_stays_where_it_is_in_the_patient(place, out, matrix, order, upscale):
    """The one property that matters: same anatomy, same millimetre, even or odd, in any order."""
    point = np.array([12.0, -9.0, 21.0])
    frames = STACKS[order](cases.blob_frames(matrix, 12, point=point))
    infer(place(cases.build(frames)), out, InferOptions(backend="zero-fill", upscale=upscale))
    found = cases.centroid_mm(only(out))
    assert np.abs(found - point).max() < 0.02
    # The wrong formula (field-of-view edges) would be off by more than ten times that.
    assert (upscale - 1) / (2 * upscale) * 0.9 > 0.2


def centroid_of(volume, to_patient):
    """Return the centre of mass of a volume ``(i, j, k)`` under a 4 x 4 matrix."""
    volume = np.where(volume > 0.05 * volume.max(), volume, 0.0)
    index = [(np.indices(volume.shape)[axis] * volume).sum() / volume.sum() for axis in range(3)]
    return (to_patient @ np.array([*index, 1.0]))[:3]


@pytest.mark.parametrize("order", STACKS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_highdicom_sees_the_blob_in_the_same_place(place, out, matrix, order):
    """It reads the functional groups its own way and sorts the frames itself."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    point = np.array([12.0, -9.0, 21.0])
    source = place(cases.build(STACKS[order](cases.blob_frames(matrix, 12, point=point))))
    infer(source, out, ZERO_FILL)
    volume = highdicom.imread(outputs(out)[0]).get_volume()
    assert np.abs(centroid_of(volume.array.astype(float), volume.affine) - point).max() < 0.02
    before = highdicom.imread(source / "0.dcm").get_volume()
    expected = (before.spacing[0], before.spacing[1] / 2, before.spacing[2] / 2)
    assert volume.spacing == pytest.approx(expected)


@pytest.mark.parametrize("matrix", MATRICES)
def test_simpleitk_sees_the_blob_in_the_same_place(place, out, matrix):
    """GDCM's reader of Enhanced MR."""
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    point = np.array([12.0, -9.0, 21.0])
    infer(place(cases.build(cases.blob_frames(matrix, 12, point=point))), out, ZERO_FILL)
    image = itk.ReadImage(str(outputs(out)[0]))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    volume = itk.GetArrayFromImage(image).transpose(2, 1, 0).astype(float)
    assert np.abs(centroid_of(volume, affine) - point).max() < 0.02


def dcm2niix_centroid(folder, scratch):
    """Return the centre of mass, in DICOM's axes, of what dcm2niix makes of a folder."""
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    scratch.mkdir()
    subprocess.run(
        ["dcm2niix", "-o", str(scratch), "-f", "v", str(folder)], check=True, capture_output=True
    )
    (path,) = scratch.glob("*.nii")
    image = nibabel.load(path)
    found = centroid_of(np.asarray(image.dataobj, dtype=float), image.affine)
    return found * [-1, -1, 1]  # NIfTI's axes point to R and A


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("order", ["in order", "shuffled"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_dcm2niix_sees_the_blob_in_the_same_place(place, out, tmp_path, matrix, order):
    """The converter in front of most research pipelines."""
    point = np.array([12.0, -9.0, 21.0])
    source = place(cases.build(STACKS[order](cases.blob_frames(matrix, 12, point=point))))
    infer(source, out, ZERO_FILL)
    before = dcm2niix_centroid(source, tmp_path / "before")
    after = dcm2niix_centroid(outputs(out)[0].parent, tmp_path / "after")
    assert np.abs(after - before).max() < 0.02
    if order == "in order":  # v1.0.20220720 loses the place of shuffled frames, of the source too
        assert np.abs(after - point).max() < 0.02


def test_stacks_and_times_keep_their_frames(place, out):
    """Two stacks, two times each, in the scanner's order: values and places stay together."""
    frames = []
    for stack, orientation in (("1", cases.AXIAL), ("2", cases.OBLIQUE)):
        for temporal in (1, 2):
            for frame in cases.blob_frames((32, 33), 3, orientation=orientation):
                frame.stack, frame.temporal = stack, temporal
                frame.pixels = frame.pixels // temporal
                frames.append(frame)
    infer(place(cases.build(frames)), out, ZERO_FILL)
    ds = only(out)
    for number, frame in enumerate(frames, start=1):
        content = cases.frame_groups(ds, number)["FrameContentSequence"]
        assert (content.StackID, content.TemporalPositionIndex) == (frame.stack, frame.temporal)
        assert int(content.InStackPositionNumber) == frame.in_stack
        peak = ds.pixel_array[number - 1].max()
        assert abs(int(peak) - int(frame.pixels.max())) <= 0.02 * 3000
    # Even rows, odd columns: positions moved along the row's own direction by half a pixel.
    moved = cases.frame_groups(ds, 1)["PlanePositionSequence"].ImagePositionPatient
    expected = np.array(frames[0].position) - 0.5 * 0.9 * np.array(cases.AXIAL[:3])
    assert [float(v) for v in moved] == pytest.approx(expected, abs=1e-6)


MEASURE = """
import sys
from pathlib import Path
from kspacesr_rt.pipeline import InferOptions, infer
report = infer(Path(sys.argv[1]), Path(sys.argv[2]), InferOptions(backend="bicubic"))
assert report.count("written") == 1, report.as_text(verbose=True)
(line,) = [one for one in Path("/proc/self/status").open() if one.startswith("VmHWM")]
print(line.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc tells a peak here")
@pytest.mark.parametrize("kind", ["native", "rle"])
def test_memory_does_not_grow_with_the_pixels_of_a_file(place, tmp_path, kind):
    """120 frames of 256 x 256 take what 20 take, and their headers: kilobytes a frame."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 4096, (16, 16)), np.ones((16, 16))).astype(np.uint16)
    peaks = {}
    for n in (20, 120):
        frames = [
            cases.Frame(pixels=np.roll(image, k, axis=1), position=(0.0, 0.0, float(k)))
            for k in range(n)
        ]
        ds = cases.build(frames)
        source = place(ds if kind == "native" else cases.compress(ds, RLELossless))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(source), str(tmp_path / f"out{n}")],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[n] = int(done.stdout) * 1024
    # The pixels of 100 more frames: 12 MiB stored, 25 MiB as float32, 100 MiB super-resolved.
    assert peaks[120] - peaks[20] < 100 * 100 * 1024, peaks
