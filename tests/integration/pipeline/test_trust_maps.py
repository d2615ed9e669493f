"""``--trust-map``: what the maps say, when they are made, and what keeps a series from one."""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import enhanced_cases
import numpy as np
import onnx
import pydicom
import pytest
from classic_series import write_series
from dicom_fixtures import dciodvfy as dciodvfy
from pydicom.uid import ParametricMapStorage
from volume_files import save_nifti, smooth

import kspacesr_rt as ks
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.errors import InputError, StaleOutputError
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.model.spec import METADATA_KEY
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.pipeline import trust_maps
from kspacesr_rt.quality.trust_interval import half_width
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.services.mercure import MercureTask, run_task
from kspacesr_rt.services.watch import watch

PLUGINS = Path("/tmp/plugins/hd")
"""Where highdicom may lie, if the environment has none."""
SECRET = "SECRET^PATIENT"


def shipped():
    return load_model(resolve_model("x2-fast", upscale=None))


def option(**values):
    asked = {"model": "x2-fast", "backend": "ort-cpu", "trust_map": True, "threads": 1}
    return ks.InferOptions(**(asked | values))


def maps_in(out):
    return sorted(
        path
        for path in out.glob("*/*.dcm")
        if pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID == ParametricMapStorage
    )


def outputs_in(out):
    return sorted(set(out.glob("*/*.dcm")) - set(maps_in(out)))


def values_of(path):
    dataset = pydicom.dcmread(path)
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    return (dataset.pixel_array * float(slope) + float(intercept)).astype(np.float32)


@pytest.fixture
def series(tmp_path):
    """Four slices, each with its own texture, of a patient with a name."""
    folder = write_series(tmp_path / "in")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.StudyDate = SECRET, "20200102"
        dataset.save_as(path)
    return folder


@pytest.fixture
def done(series, tmp_path):
    """Make that series with its map; return report and output folder."""
    return ks.infer(series, tmp_path / "out", option()), tmp_path / "out"


def test_a_map_is_what_the_model_says_of_source_and_output(done, series):
    """Frame by frame, in floating point, for whoever has both files and the model."""
    report, out = done
    [path] = maps_in(out)
    found = pydicom.dcmread(path)
    calibration = TrustCalibration.of(shipped().spec)
    sources = {pydicom.dcmread(one).SOPInstanceUID: one for one in series.iterdir()}
    outputs = {pydicom.dcmread(one).SOPInstanceUID: one for one in outputs_in(out)}
    frames = found.PerFrameFunctionalGroupsSequence
    assert len(frames) == len(sources) == 4
    for number, groups in enumerate(frames):
        sr, lr = groups.DerivationImageSequence[0].SourceImageSequence
        expected = half_width(
            values_of(sources[lr.ReferencedSOPInstanceUID]),
            values_of(outputs[sr.ReferencedSOPInstanceUID]),
            calibration,
        )
        np.testing.assert_array_equal(found.pixel_array[number], expected)
    assert report.summary()["trust_maps"] == 1
    [record] = report.series_records
    assert (out / record.trust_map, record.trust_map_outcome) == (path, "written")
    assert "1 trust map written" in report.as_text()


def test_a_map_lies_where_its_slices_do(done):
    _, out = done
    [found] = map(pydicom.dcmread, maps_in(out))
    outputs = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, outputs_in(out))}
    shared = found.SharedFunctionalGroupsSequence[0]
    for groups in found.PerFrameFunctionalGroupsSequence:
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        own = outputs[reference.ReferencedSOPInstanceUID]
        plane = groups.PlanePositionSequence[0].ImagePositionPatient
        assert plane == own.ImagePositionPatient
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert orientation == own.ImageOrientationPatient
        assert shared.PixelMeasuresSequence[0].PixelSpacing == own.PixelSpacing
        assert (found.Rows, found.Columns) == (own.Rows, own.Columns)
        assert found.FrameOfReferenceUID == own.FrameOfReferenceUID
        assert found.PatientName == own.PatientName == SECRET
        assert found.StudyInstanceUID == own.StudyInstanceUID
        assert found.SeriesInstanceUID != own.SeriesInstanceUID
        assert found.SeriesNumber == own.SeriesNumber + 100
    places = [one.FrameContentSequence[0] for one in found.PerFrameFunctionalGroupsSequence]
    assert [list(one.DimensionIndexValues) for one in places] == [[1, n] for n in (1, 2, 3, 4)]
    referred = {one.SeriesInstanceUID for one in found.ReferencedSeriesSequence}
    assert len(referred) == 2
    mapping = shared.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[arb'U]"
    assert mapping.RealWorldValueSlope == 1
    assert found.ContentLabel == "TRUST_MAP"
    assert found.ContentQualification == "RESEARCH"
    assert "research use only" in found.ContentDescription
    window = shared.FrameVOILUTSequence[0]
    assert 0 < window.WindowWidth <= 1.1 * found.pixel_array.max()


def test_a_validator_finds_no_error(done, dciodvfy):
    [path] = maps_in(done[1])
    assert dciodvfy(path) == set()


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_a_map(done):
    [path] = maps_in(done[1])
    dumped = subprocess.run(["dcmdump", path], capture_output=True, text=True, check=True)
    assert "=ParametricMapStorage" in dumped.stdout
    assert "FloatPixelData" in dumped.stdout


def test_highdicom_reads_the_values_back(done, monkeypatch):
    """As a volume, through the real-world value mapping."""
    if PLUGINS.is_dir():
        monkeypatch.syspath_prepend(PLUGINS)
    highdicom = pytest.importorskip("highdicom", reason="pip install highdicom")
    [path] = maps_in(done[1])
    image = highdicom.imread(path)
    volume = image.get_volume(apply_real_world_transform=True)
    stored = pydicom.dcmread(path).pixel_array
    assert volume.spatial_shape == stored.shape
    order = 1 if np.array_equal(volume.array[0], stored[0]) else -1
    np.testing.assert_array_equal(volume.array, stored[::order])
    np.testing.assert_allclose(volume.spacing, (3.0, 0.6, 0.45), atol=1e-4)


def test_nobody_is_named_outside_of_the_header(done):
    _, out = done
    for path in out.rglob("*"):
        assert "SECRET" not in path.name
    assert "SECRET" not in (out / "report.json").read_text()


def test_a_rerun_finds_what_stands(done, series):
    _, out = done
    [path] = maps_in(out)
    before = path.read_bytes(), path.stat().st_mtime_ns
    again = ks.infer(series, out, option())
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert again.series_records[0].trust_map_outcome == "present"
    assert again.exit_code == 0
    assert "1 trust map already there" in again.as_text()


def test_uids_are_those_of_another_run(done, series, tmp_path):
    """Who sends both to an archive has the map there once."""
    ks.infer(series, tmp_path / "other", option())
    [one], [other] = maps_in(done[1]), maps_in(tmp_path / "other")
    assert pydicom.dcmread(one).SOPInstanceUID == pydicom.dcmread(other).SOPInstanceUID
    assert one.relative_to(done[1]) == other.relative_to(tmp_path / "other")


def test_uids_follow_the_content(done, series, tmp_path):
    changed = pydicom.dcmread(series / "001.dcm")
    changed.PixelData = bytes(reversed(changed.PixelData))
    changed.save_as(series / "001.dcm")
    ks.infer(series, tmp_path / "other", option())
    [one], [other] = maps_in(done[1]), maps_in(tmp_path / "other")
    assert pydicom.dcmread(one).SOPInstanceUID != pydicom.dcmread(other).SOPInstanceUID
    assert one.parent.name == other.parent.name


def test_random_uids_are_those_of_the_folder(series, tmp_path):
    ks.infer(series, tmp_path / "out", option(random_uids=True))
    ks.infer(series, tmp_path / "other", option(random_uids=True))
    [one], [other] = maps_in(tmp_path / "out"), maps_in(tmp_path / "other")
    assert pydicom.dcmread(one).SOPInstanceUID != pydicom.dcmread(other).SOPInstanceUID
    again = ks.infer(series, tmp_path / "out", option(random_uids=True))
    assert again.series_records[0].trust_map_outcome == "present"


def test_names_by_uid(series, tmp_path):
    ks.infer(series, tmp_path / "out", option(name="uid"))
    [path] = maps_in(tmp_path / "out")
    found = pydicom.dcmread(path)
    assert path.relative_to(tmp_path / "out") == Path(
        found.SeriesInstanceUID, f"{found.SOPInstanceUID}.dcm"
    )


def test_maps_are_added_to_a_finished_folder_without_computing(series, tmp_path):
    ks.infer(series, tmp_path / "out", option(trust_map=False))
    assert maps_in(tmp_path / "out") == []
    report = ks.infer(series, tmp_path / "out", option())
    assert report.count("present") == 4
    assert len(maps_in(tmp_path / "out")) == 1
    text = report.as_text()
    assert text.startswith("no new slice: 4 slices in 1 series were already there")
    assert "1 trust map written" in text


def test_a_map_that_stands_is_kept_up_to_date(done, series):
    """Without the option, too: a map of another content would be believed."""
    _, out = done
    (path,) = maps_in(out)
    path.unlink()
    ks.infer(series, out, option(trust_map=False))
    assert maps_in(out) == [path]


def add_slice(folder):
    dataset = copy.deepcopy(pydicom.dcmread(folder / "004.dcm"))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = stable_uid("one more")
    dataset.InstanceNumber = 5
    dataset.ImagePositionPatient[2] += 3
    dataset.save_as(folder / "005.dcm")


def test_a_slice_more_makes_a_map_stale(done, series):
    _, out = done
    [path] = maps_in(out)
    add_slice(series)
    before = {one: one.stat().st_mtime_ns for one in out.rglob("*.dcm")}
    with pytest.raises(StaleOutputError):
        ks.infer(series, out, option())
    assert {one: one.stat().st_mtime_ns for one in out.rglob("*.dcm")} == before
    kept = ks.infer(series, out, option(stale="keep"))
    assert [one.handled for one in kept.stale] == ["kept"]
    assert kept.stale[0].output == str(path.relative_to(out))
    assert len(maps_in(out)) == 2
    replaced = ks.infer(series, out, option(stale="replace"))
    assert [one.handled for one in replaced.stale] == ["removed"]
    [left] = maps_in(out)
    assert left != path
    assert pydicom.dcmread(left).NumberOfFrames == 5
    assert ks.infer(series, out, option()).stale == ()


def test_maps_of_other_series_are_left_alone(done, tmp_path):
    other = write_series(tmp_path / "other")
    report = ks.infer(other, done[1], option())
    assert report.stale == ()
    assert len(maps_in(done[1])) == 2


def test_a_run_that_ends_within_a_map_leaves_nothing_of_it(series, tmp_path, monkeypatch):
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return half_width(*args)

    with monkeypatch.context() as patched:
        patched.setattr(trust_maps, "half_width", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ks.infer(series, tmp_path / "out", option())
    assert maps_in(tmp_path / "out") == []
    assert not list(tmp_path.rglob("*.part"))
    report = ks.infer(series, tmp_path / "out", option())
    assert report.count("present") == 4
    assert report.series_records[0].trust_map_outcome == "written"


def test_frames_wait_for_the_file_and_not_in_memory(tmp_path, monkeypatch):
    """However many slices: those that are computed and not written are a few."""
    folder = write_series(tmp_path / "in", places=range(40))
    waiting, most = [0], [0]

    def counted(*args):
        waiting[0] += 1
        most[0] = max(most[0], waiting[0])
        return half_width(*args)

    write = trust_maps.EnhancedWriter.write

    def written(self, number, stored):
        waiting[0] -= 1
        write(self, number, stored)

    monkeypatch.setattr(trust_maps, "half_width", counted)
    monkeypatch.setattr(trust_maps.EnhancedWriter, "write", written)
    ks.infer(folder, tmp_path / "out", option(workers=2))
    assert 0 < most[0] <= 2 * trust_maps.AHEAD + 1
    [found] = map(pydicom.dcmread, maps_in(tmp_path / "out"))
    assert found.NumberOfFrames == 40


def test_a_damaged_map_is_made_again(done, series):
    _, out = done
    [path] = maps_in(out)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    ks.infer(series, out, option())
    assert values_in(path) == values_in_bytes(whole)
    path.write_bytes(whole[:-1000] + bytes(1000))
    ks.infer(series, out, option(verify_existing=True))
    assert values_in(path) == values_in_bytes(whole)


def values_in(path):
    return pydicom.dcmread(path).FloatPixelData


def values_in_bytes(content):
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)).FloatPixelData


@pytest.mark.parametrize("n_frames", [1, 5])
def test_enhanced_files_have_maps(n_frames, tmp_path, dciodvfy):
    enhanced_cases.save(
        enhanced_cases.build(enhanced_cases.sample_frames(n_frames)), tmp_path / "in" / "file.dcm"
    )
    report = ks.infer(tmp_path / "in", tmp_path / "out", option())
    [path], [output] = maps_in(tmp_path / "out"), outputs_in(tmp_path / "out")
    found, derived = pydicom.dcmread(path), pydicom.dcmread(output)
    assert report.series_records[0].trust_map == str(path.relative_to(tmp_path / "out"))
    assert found.NumberOfFrames == n_frames
    for number, (ours, theirs) in enumerate(
        zip(
            found.PerFrameFunctionalGroupsSequence,
            derived.PerFrameFunctionalGroupsSequence,
            strict=True,
        ),
        start=1,
    ):
        for one in ours.DerivationImageSequence[0].SourceImageSequence:
            assert one.ReferencedFrameNumber == number
        position = (theirs.get("PlanePositionSequence") or [])[0].ImagePositionPatient
        assert ours.PlanePositionSequence[0].ImagePositionPatient == position
    assert dciodvfy(path) == set()
    assert ks.infer(tmp_path / "in", tmp_path / "out", option()).exit_code == 0
    assert maps_in(tmp_path / "out") == [path]


def test_repetitions_of_a_place_are_in_stacks_of_their_own(tmp_path, dciodvfy):
    folder = write_series(tmp_path / "in", places=range(2), times=3)
    ks.infer(folder, tmp_path / "out", option())
    [path] = maps_in(tmp_path / "out")
    found = pydicom.dcmread(path)
    places = [
        tuple(one.FrameContentSequence[0].DimensionIndexValues)
        for one in found.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(places) == [(stack, n) for stack in (1, 2, 3) for n in (1, 2)]
    assert dciodvfy(path) == set()


def test_each_matrix_of_a_series_has_a_map(series, tmp_path):
    path = series / "004.dcm"
    dataset = pydicom.dcmread(path)
    dataset.Rows = 17
    dataset.PixelData = dataset.PixelData[: 17 * 24 * 2]
    dataset.save_as(path)
    report = ks.infer(series, tmp_path / "out", option())
    found = [pydicom.dcmread(one) for one in maps_in(tmp_path / "out")]
    assert sorted(one.NumberOfFrames for one in found) == [1, 3]
    assert len({one.SeriesInstanceUID for one in found}) == 1
    assert sorted(one.InstanceNumber for one in found) == [1, 2]
    assert report.trust_maps == 2


def test_what_is_zero_filled_instead_has_no_map(series, tmp_path, monkeypatch):
    """That is what was asked for, and no failure; the contact sheet shows no interval either."""
    monkeypatch.setattr(
        "kspacesr_rt.pipeline.pending_files.outside_of", lambda *args: {"low-snr": "too noisy"}
    )
    report = ks.infer(series, tmp_path / "out", option(on_outside="zero-fill", preview=True))
    assert maps_in(tmp_path / "out") == []
    [record] = report.series_records
    assert record.trust_map_problem == trust_maps.ZERO_FILLED
    assert report.exit_code == 0
    assert "no trust map of series 1: it was zero-filled" in report.as_text()


def test_a_file_that_is_cut_off_has_no_frame(series, tmp_path):
    content = (series / "003.dcm").read_bytes()
    (series / "003.dcm").write_bytes(content[:-300])
    report = ks.infer(series, tmp_path / "out", option())
    assert (report.count("written"), report.count("failed")) == (3, 1)
    # A file that is cut off is of no series: the map is of the three that are whole.
    [found] = map(pydicom.dcmread, maps_in(tmp_path / "out"))
    assert found.NumberOfFrames == 3
    assert report.exit_code == 8


def test_a_slice_that_fails_while_it_is_processed_keeps_its_series_from_a_map(
    series, tmp_path, monkeypatch
):
    from kspacesr_rt.errors import SliceFailed
    from kspacesr_rt.pipeline import slice_work

    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise SliceFailed("non-finite", "the test says so")
        return check_result(*args)

    check_result = slice_work.check_result
    with monkeypatch.context() as patched:
        patched.setattr(slice_work, "check_result", failing)
        report = ks.infer(series, tmp_path / "out", option())
    assert report.series_records[0].trust_map_problem == trust_maps.INCOMPLETE
    assert maps_in(tmp_path / "out") == []
    again = ks.infer(series, tmp_path / "out", option())
    assert again.series_records[0].trust_map_outcome == "written"
    assert again.exit_code == 0


def stripped(tmp_path):
    """Save a model whose file has no trust calibration."""
    proto = onnx.load(resolve_model("x2-fast", upscale=None))
    [own] = [one for one in proto.metadata_props if one.key == METADATA_KEY]
    own.value = json.dumps(json.loads(own.value) | {"trust": {}})
    onnx.save(proto, tmp_path / "stripped.onnx")
    return tmp_path / "stripped.onnx"


@pytest.mark.parametrize("case", ["zero-fill", "bicubic", "stripped"])
def test_without_calibrated_intervals_nothing_is_written(case, series, tmp_path):
    if case == "stripped":
        options = option(model=str(stripped(tmp_path)))
    else:
        options = option(model=None, backend=case, upscale=2)
    with pytest.raises(InputError) as refused:
        ks.infer(series, tmp_path / "out", options)
    assert refused.value.exit_code == 2
    assert refused.value.hint
    assert "trust" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_volume_beside_a_series_has_a_map_of_its_own_kind(series, tmp_path):
    save_nifti(series / "volume.nii", smooth((16, 18, 3)))
    report = ks.infer(series, tmp_path / "out", option(show_paths=True))
    assert report.exit_code == 0
    assert len(maps_in(tmp_path / "out")) == 1
    assert "2 trust maps written" in report.as_text()
    assert {record.trust_map for record in report.series_records} == {
        str(maps_in(tmp_path / "out")[0].relative_to(tmp_path / "out")),
        "volume_desc-SRx2trust.nii",
    }


def test_a_watch_says_to_add_maps_afterwards(series, tmp_path):
    with pytest.raises(InputError, match="a watch writes no trust maps") as refused:
        watch(series, tmp_path / "out", option())
    assert "infer --trust-map" in refused.value.hint


def test_mercure_is_handed_the_map(series, tmp_path):
    (series / "task.json").write_text("{}")
    output = tmp_path / "out"
    output.mkdir()
    assert run_task(MercureTask(source=series, output=output, options=option())) == 0
    classes = [pydicom.dcmread(one).SOPClassUID for one in output.glob("*.dcm")]
    assert classes.count(ParametricMapStorage) == 1
    assert len(classes) == 5
    assert json.loads((output / "result.json").read_text())["trust_maps"] == 1


def test_contact_sheets_show_intervals(series, tmp_path):
    from PIL import Image

    ks.infer(series, tmp_path / "without", option(trust_map=False, preview=True))
    ks.infer(series, tmp_path / "with", option(preview=True))
    [plain], [wide] = ((tmp_path / one).glob("preview-*.png") for one in ("without", "with"))
    with Image.open(plain) as one, Image.open(wide) as other:
        assert other.width > one.width
        assert other.height == one.height
    wide.unlink()
    ks.infer(series, tmp_path / "with", option(preview=True))  # of what stands
    with Image.open(plain) as one, Image.open(wide) as other:
        assert other.width > one.width


def test_cropped_series_have_maps_of_what_was_computed_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, path in enumerate(sorted(Path(sample_folder()).glob("*.dcm"))[8:10]):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array[::2, ::2].astype(float)
        spectrum = np.fft.fftshift(np.fft.fft2(pixels))
        padded = np.zeros((256, 256), complex)
        padded[64:192, 64:192] = spectrum
        image = np.abs(np.fft.ifft2(np.fft.ifftshift(padded))) * 4
        dataset.PixelData = np.rint(image).astype(np.uint16).tobytes()
        dataset.AcquisitionMatrix = [0, 128, 128, 0]
        dataset.save_as(folder / f"{number}.dcm")
    report = ks.infer(folder, tmp_path / "out", option(on_interpolated="crop"))
    assert report.series_records[0].handled == "cropped"
    [found] = map(pydicom.dcmread, maps_in(tmp_path / "out"))
    assert (found.Rows, found.Columns) == (256, 256)
    assert found.NumberOfFrames == 2
