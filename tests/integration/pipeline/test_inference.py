"""From a folder to derived series, as a Python user runs it: real files, real bad input."""

import dataclasses
import hashlib
import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import (
    BackendUnavailableError,
    InputError,
    NoMRImageError,
    OutputError,
    RunMismatchError,
    SliceFailed,
)
from kspacesr_rt.kspace import degrade
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.pipeline import InferOptions, Session, backend_pool, infer, preflight
from kspacesr_rt.quality.result_checks import MEASURED_TOLERANCE, check_result
from kspacesr_rt.runtime import baselines
from kspacesr_rt.sample import sample_folder

ZERO_FILL = InferOptions(backend="zero-fill")


@pytest.fixture
def study(tmp_path):
    """Four slices of the shipped sample in a folder of their own."""
    folder = tmp_path / "study"
    folder.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[8:12]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def tree_digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def outputs(folder):
    return sorted(folder.rglob("*.dcm"))


def write_slice(source, target, pixels, **changes):
    dataset = pydicom.dcmread(source)
    dataset.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    dataset.Rows, dataset.Columns = pixels.shape
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(target)


def test_every_slice_becomes_one_of_a_derived_series(study, out):
    """The main job: as many slices, twice the matrix, half the spacing, one new series."""
    report = infer(study, out, InferOptions(backend="ort-cpu", threads=1))
    assert (report.exit_code, report.count("written"), report.backend) == (0, 4, "ort-cpu")
    derived = [pydicom.dcmread(path) for path in outputs(out)]
    sources = {str(pydicom.dcmread(path).SOPInstanceUID) for path in study.iterdir()}
    assert len({dataset.SeriesInstanceUID for dataset in derived}) == 1
    for dataset in derived:
        assert dataset.pixel_array.shape == (512, 512)
        source = dataset.SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source in sources
        assert dataset.ImageType[0] == "DERIVED"
    original = pydicom.dcmread(next(study.iterdir()))
    assert float(derived[0].PixelSpacing[0]) == pytest.approx(float(original.PixelSpacing[0]) / 2)


def test_simpleitk_reads_the_series_at_half_the_spacing_in_the_same_place(study, out):
    """An independent reader sees one volume: same corner, same direction, same extent."""
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    infer(study, out, InferOptions(threads=1))

    def volume(folder):
        return itk.ReadImage(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))

    source, derived = volume(study), volume(outputs(out)[0].parent)
    assert derived.GetSize() == (512, 512, 4)
    expected = [source.GetSpacing()[0] / 2, source.GetSpacing()[1] / 2, source.GetSpacing()[2]]
    assert derived.GetSpacing() == pytest.approx(expected)
    assert derived.GetOrigin() == pytest.approx(source.GetOrigin())
    assert derived.GetDirection() == pytest.approx(source.GetDirection())
    assert itk.GetArrayFromImage(derived)[:, ::2, ::2] == pytest.approx(
        itk.GetArrayFromImage(source), abs=0.15 * itk.GetArrayFromImage(source).max()
    )


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="dcmtk's dcmdump is not installed")
def test_dcmtk_reads_every_output_without_a_word_of_complaint(study, out):
    """The strictest reader at hand: warnings count."""
    infer(study, out, InferOptions(threads=1))
    for path in outputs(out):
        dumped = subprocess.run(
            ["dcmdump", "+P", "Rows", "+P", "PixelSpacing", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert dumped.stderr == ""
        assert "US 512" in dumped.stdout


def test_the_model_adds_detail_that_zero_fill_does_not(study, out, tmp_path):
    """A silent fallback to interpolation would pass every other test."""
    infer(study, out, InferOptions(threads=1))
    infer(study, tmp_path / "baseline", ZERO_FILL)

    def rim_energy(folder):
        image = pydicom.dcmread(outputs(folder)[0]).pixel_array.astype(float)
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2(image))) ** 2
        return spectrum.sum() - spectrum[128:384, 128:384].sum()

    assert rim_energy(out) > 3 * rim_energy(tmp_path / "baseline")


def test_series_of_several_matrices_each_get_their_own_binding(study, out):
    """Odd and rectangular slices of one study go through the same model file."""
    source = sorted(study.iterdir())[0]
    for number, matrix in enumerate([(101, 90), (64, 75)]):
        write_slice(
            source,
            study / f"odd{number}.dcm",
            np.rint(brain_phantom(matrix) * 900),
            SOPInstanceUID=f"2.25.77{number}",
            SeriesInstanceUID="2.25.7",
        )
    report = infer(study, out, InferOptions(threads=1))
    assert report.count("written") == 6
    shapes = {pydicom.dcmread(path).pixel_array.shape for path in outputs(out)}
    assert shapes == {(512, 512), (202, 180), (128, 150)}


def test_the_input_is_never_touched(study, out):
    """An archive is read, not changed: the same bytes before and after."""
    before = tree_digest(study)
    infer(study, out, ZERO_FILL)
    assert tree_digest(study) == before


def test_running_again_changes_nothing(study, out):
    """A re-run completes what is missing and overwrites nothing."""
    infer(study, out, ZERO_FILL)
    before = tree_digest(out)
    outputs(out)[1].unlink()
    report = infer(study, out, ZERO_FILL)
    assert (report.count("present"), report.count("written")) == (3, 1)
    assert before.keys() == tree_digest(out).keys()


@pytest.mark.parametrize("backend", ["zero-fill", "bicubic", "ort-cpu"])
def test_results_do_not_depend_on_the_batch(study, tmp_path, backend, monkeypatch):
    """Trap 2: a slice's pixels must not depend on which slices it was computed with."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    digests = []
    for batch in (1, 3):
        folder = tmp_path / f"batch{batch}"
        infer(study, folder, InferOptions(backend=backend, batch=batch, threads=1))
        digests.append(
            {name: digest for name, digest in tree_digest(folder).items() if "json" not in name}
        )
    assert digests[0] == digests[1]


def test_broken_slices_fail_and_the_others_are_written(study, out):
    """One bad file in an archive must not cost the rest of the night's run."""
    broken = sorted(study.iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:-1000])
    (study / "notes.txt").write_text("nothing to see")
    report = infer(study, out, ZERO_FILL)
    assert report.exit_code == 8
    assert len(outputs(out)) == 3
    assert report.reasons() == [("failed", "truncated", 1), ("skipped", "not-dicom", 1)]
    stored = json.loads((out / "report.json").read_text())
    failed = [one for one in stored["slices"] if one["outcome"] == "failed"]
    assert [one["reason"] for one in failed] == ["truncated"]
    assert failed[0]["file"].startswith("sha256:")


def test_a_report_names_no_patient_and_no_path(study, out):
    """Reports get mailed: names of files and patients stay out unless asked for."""
    source = sorted(study.iterdir())[0]
    dataset = pydicom.dcmread(source)
    dataset.PatientName, dataset.PatientID = "Meier^Anna", "4711-0815"
    dataset.save_as(study / "Meier_Anna.dcm")
    source.unlink()
    infer(study, out, ZERO_FILL)
    text = (out / "report.json").read_text()
    assert not any(word in text for word in ("Meier", "4711", str(study)))
    shown = infer(study, out, InferOptions(backend="zero-fill", show_paths=True))
    assert "Meier_Anna.dcm" in {one.file for one in shown.slices}


class _Spoiled(baselines.BaselineBackend):
    """Spoils the second slice it meets, as a half-precision overflow would."""

    seen = 0

    def run(self, batch):
        result = super().run(batch).copy()
        for number in range(len(result)):
            type(self).seen += 1
            if type(self).seen == 2:
                result[number] = self.spoil(result[number])
        return result


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda image: image * np.nan, "non-finite"),
        (lambda image: image * 1.01, "data-consistency"),
        (lambda image: np.roll(image, 1, axis=-1), "data-consistency"),
    ],
)
def test_an_unusable_result_is_never_written(study, out, monkeypatch, spoil, reason):
    """NaN, a wrong scale or a shift is caught slice by slice and ends in exit code 5."""
    broken = type("Broken", (_Spoiled,), {"spoil": staticmethod(spoil), "seen": 0})
    monkeypatch.setattr(baselines, "BaselineBackend", broken)
    report = infer(study, out, ZERO_FILL)
    assert (report.exit_code, report.reasons()) == (5, [("failed", reason, 1)])
    assert len(outputs(out)) == 3


def test_rounding_is_not_mistaken_for_an_inconsistency():
    """The tolerance is wide enough for fp32 and for every parity of the matrix."""
    spec = ModelSpec(name="m", architecture="dc-residual", upscale=2, data_consistency="hard")
    for matrix in ((64, 64), (65, 64), (63, 81)):
        lr = (degrade(brain_phantom((2 * matrix[0], 2 * matrix[1])), 2) * 4000).astype(np.float32)
        residual = check_result(zero_fill(lr, 2), lr, spec).measured_residual
        assert 0.0 < residual < MEASURED_TOLERANCE / 10
    with pytest.raises(SliceFailed, match="measured k-space samples are off by"):
        check_result(zero_fill(lr, 2) + 30.0, lr, spec)


def test_no_mr_image_is_an_error_that_writes_nothing(tmp_path, out):
    """Exit 9, told apart from success by a script that only looks at the status."""
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "letter.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(NoMRImageError, match="no MR image to process: 1 not-dicom") as caught:
        infer(folder, out, ZERO_FILL)
    assert caught.value.exit_code == 9
    assert not out.exists()
    [left] = caught.value.report.slices
    assert (left.outcome, left.reason) == ("skipped", "not-dicom")


@pytest.mark.parametrize("more", [[], ["-v"], ["-v", "--show-paths"], ["--json"]])
def test_where_nothing_can_be_done_each_file_is_named_if_asked(tmp_path, out, more):
    """Nothing is written, so what is printed is all that a user has to find out why."""
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "letter.pdf").write_bytes(b"%PDF-1.7")
    told = CliRunner().invoke(app, ["infer", str(folder), str(out), *more])
    assert told.exit_code == 9
    if "--json" in more:
        document = json.loads(told.stdout)
        assert document["reasons"] == [{"outcome": "skipped", "reason": "not-dicom", "count": 1}]
        assert document["error"]["kind"] == "no-mr-image"
    else:
        assert ("sha256:" in told.stdout) == (more == ["-v"])
        assert ("letter.pdf" in told.output) == ("--show-paths" in more)
    assert not out.exists()


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda folder: (folder / "a.txt").write_text("a"), "expected magnitude MR Image Storage"),
        (lambda folder: (folder / "a").symlink_to("/usr"), "name that folder as the input"),
        (lambda folder: None, "expected magnitude MR Image Storage"),
    ],
)
def test_the_hint_fits_what_was_found(tmp_path, out, make, advice):
    """Advice that does not help costs a user the next half hour."""
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    with pytest.raises(NoMRImageError) as caught:
        infer(folder, out, ZERO_FILL)
    assert advice in caught.value.hint
    assert "include-derived" not in caught.value.hint


def test_a_folder_of_another_backend_says_how_to_complete_it(study, out):
    """``auto`` may choose another one after an installation: its user has changed nothing."""
    infer(study, out, ZERO_FILL)
    with pytest.raises(RunMismatchError) as caught:
        infer(study, out, dataclasses.replace(ZERO_FILL, backend="bicubic"))
    assert "--backend zero-fill" in caught.value.hint


def test_auto_goes_on_with_what_a_folder_was_begun_with(study, out):
    """And says so, whatever it would have taken in a new folder."""
    pytest.importorskip("onnxruntime")
    began = infer(study, out, InferOptions(backend="ort-cpu", threads=1))
    assert began.count("written")
    report = infer(study, out, InferOptions(threads=1))
    assert (report.backend, report.backend_choice["asked"]) == ("ort-cpu", "auto")
    assert report.count("present") == began.count("written")
    assert "the output folder was begun with it" in report.as_text()


def test_a_report_says_how_long_it_took_to_settle_what_computes(study, tmp_path):
    """Of the run that it was for: a session has it open for those that follow."""
    report = infer(study, tmp_path / "one", ZERO_FILL)
    assert 0.0 < report.seconds["choose"] <= report.seconds["total"]
    with Session(ZERO_FILL) as session:
        assert "choose" not in session.run(study, tmp_path / "two").seconds
    slow = dataclasses.replace(report, seconds={"choose": 61.23, "total": 70.0})
    assert "settling what computes took 61.2 s of that" in slow.as_text()
    assert "settling" not in report.as_text()


def test_the_start_is_told_before_the_first_slice(study, out):
    """How much there is, and what computes it; and what an earlier run had done."""
    told = []
    infer(study, out, ZERO_FILL, on_start=told.append, on_progress=told.append)
    n = len(told) - 1
    assert told[0].startswith(f"{n} slices, ")
    assert told[0].endswith("x2 with zero-fill")
    assert [one.present for one in told[1:]] == [0] * n
    told.clear()
    infer(study, out, ZERO_FILL, on_progress=told.append)
    assert [one.present for one in told] == [one.done for one in told]


def test_folders_may_be_named_by_strings(study, out):
    report = infer(str(study), str(out), ZERO_FILL, report_file=str(out / "r.json"))
    assert report.exit_code == 0
    assert (out / "r.json").exists()


@pytest.mark.parametrize("where", ["same", "inside", "foreign"])
def test_an_unsafe_output_is_refused_before_anything_is_touched(study, tmp_path, where):
    """Exit 7: outputs never mix with inputs or with files of others."""
    target = {"same": study, "inside": study / "sr", "foreign": tmp_path / "foreign"}[where]
    if where == "foreign":
        target.mkdir()
        (target / "thesis.docx").write_bytes(b"years of work")
    before = tree_digest(tmp_path)
    with pytest.raises(OutputError) as caught:
        infer(study, target, ZERO_FILL)
    assert caught.value.exit_code == 7
    assert tree_digest(tmp_path) == before


def test_a_report_inside_the_input_is_refused(study, out):
    """The input is only read, and a report there would be scanned the next time."""
    before = tree_digest(study)
    with pytest.raises(OutputError, match="the report lies inside the input"):
        infer(study, out, ZERO_FILL, report_file=study / "report.json")
    assert tree_digest(study) == before
    assert not out.exists()
    infer(study, out, ZERO_FILL, report_file=out.parent / "elsewhere.json")
    assert (out.parent / "elsewhere.json").exists()
    assert not (out / "report.json").exists()


def test_what_a_killed_run_left_behind_does_not_stop_the_next(study, out):
    """A report or a slice that was being written when the power went is no foreign file."""
    infer(study, out, ZERO_FILL)
    (out / ".report.json.0123abcd.part").write_text("{")
    first = outputs(out)[0]
    (first.parent / f".{first.name}.0123abcd.part").write_bytes(b"half")
    assert infer(study, out, ZERO_FILL).count("present") == 4


def test_contradicting_options_are_refused(study, out):
    """A model that upscales by 2 does not answer a call for 4, and baselines take no model."""
    with pytest.raises(InputError, match="upscales by 2, an upscale of 4 was asked for"):
        infer(study, out, InferOptions(model="x2-fast", upscale=4))
    with pytest.raises(InputError, match="takes no model"):
        infer(study, out, InferOptions(backend="bicubic", model="x2-fast"))
    with pytest.raises(InputError, match="no backend is called 'cuda'"):
        infer(study, out, InferOptions(backend="cuda"))
    with pytest.raises(InputError, match="no model for upscale 3 is shipped"):
        infer(study, out, InferOptions(upscale=3))
    with pytest.raises(InputError, match="no such file or folder as the input") as caught:
        infer(study / "nowhere", out, ZERO_FILL)
    assert "IN" in caught.value.hint
    assert not out.exists()


def test_a_missing_runtime_is_never_replaced(study, out, monkeypatch):
    """Asked for ort-cpu on a machine without ONNX Runtime: exit 3 and no output, not zero-fill."""
    monkeypatch.setattr("kspacesr_rt.runtime.protocol.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="needs the package 'onnxruntime'") as caught:
        infer(study, out, InferOptions(backend="ort-cpu"))
    assert caught.value.hint == "pip install 'kspacesr-rt[cpu]'"
    assert not out.exists()


def test_a_matrix_no_model_can_be_bound_to_fails_by_name(study, out):
    """A 6 x 6 picture under an MR class is a broken slice, not a crash."""
    source = sorted(study.iterdir())[0]
    pixels = np.ones((6, 6))
    write_slice(source, study / "tiny.dcm", pixels, SOPInstanceUID="2.25.66")
    report = infer(study, out, InferOptions(threads=1))
    assert report.reasons() == [("failed", "matrix", 1)]
    assert report.count("written") == 4


def test_the_report_keeps_the_hint_of_a_file_that_was_left_out(study, out, monkeypatch):
    """`codec` without the line that would install one helps nobody at 2 a.m."""
    real = preflight.scan_folder

    def scan_with_a_hint(root, **options):
        scan = real(root, **options)
        left = preflight.LeftOut(
            path=root / "x", outcome="failed", reason="codec", message="no codec", hint="pip it"
        )
        return dataclasses.replace(scan, left_out=(*scan.left_out, left))

    monkeypatch.setattr(preflight, "scan_folder", scan_with_a_hint)
    report = infer(study, out, ZERO_FILL)
    assert [one.message for one in report.slices if one.outcome == "failed"] == [
        "no codec (pip it)"
    ]


def test_slices_beyond_the_models_bounds_are_flagged_and_written(study, out, monkeypatch):
    """A flag is for a person to look: the slice is there, and the report names it."""
    real = backend_pool.baseline_spec

    def bounded(*arguments):
        return dataclasses.replace(real(*arguments), bounds={"intensity_drift": -1.0, "n": 4.0})

    monkeypatch.setattr(backend_pool, "baseline_spec", bounded)
    report = infer(study, out, ZERO_FILL)
    assert report.bounds == {"intensity_drift": -1.0}
    assert [one.flags for one in report.slices] == [("intensity_drift",)] * 4
    assert "4 slices flagged as beyond the model's bounds" in report.as_text()
    assert (report.count("written"), report.exit_code, report.summary()["flagged"]) == (4, 0, 4)


def test_figures_of_every_slice_are_in_the_report(study, out):
    """Bicubic promises nothing about measured samples, so what it did to them is told, no more."""
    infer(study, out, InferOptions(backend="bicubic"))
    for one in json.loads((out / "report.json").read_text())["slices"]:
        assert one["measured_residual"] > 1e-4
        assert 0 < one["added_energy_share"] < one["added_energy_ratio"] < 1
        assert abs(one["tissue_drift"]) < 0.05
        assert one["flags"] == []


def test_the_series_record_counts_what_the_outputs_leave_out(study, out):
    """A user who misses private elements finds out where they went."""
    for path in study.iterdir():
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", b"\0\0")
        dataset.add_new(0x60000010, "US", 256)
        dataset.save_as(path)
    (series,) = infer(study, out, ZERO_FILL).series_records
    assert series.dropped == {"private": 2, "overlay": 1}
    kept = dataclasses.replace(ZERO_FILL, keep_private=True)
    (series,) = infer(study, out.parent / "kept", kept).series_records
    assert series.dropped == {"overlay": 1}
