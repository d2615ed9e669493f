"""Outputs are called by what a reader knows; what stands is found again, whatever it is called."""

import dataclasses
import os
import re
import shutil

import enhanced_cases
import fault_cases
import pydicom
import pytest
from fault_cases import contents

from kspacesr_rt.dicom import output_names
from kspacesr_rt.dicom.output_names import (
    DEFAULT_NAME,
    FILE_MAX,
    FOLDER_MAX,
    SHORT,
    is_output_folder,
    is_output_name,
    parsed_name,
    short_uid,
)
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.errors import InputError, OutputError
from kspacesr_rt.pipeline import InferOptions, infer, slice_work

OPTIONS = InferOptions(backend="zero-fill", batch=2)
BY_UID = dataclasses.replace(OPTIONS, name="uid")
REPLACE = dataclasses.replace(OPTIONS, stale="replace")
OTHER = "{ProtocolName}-{model}-{short_uid}/slice{InstanceNumber:2}.dcm"


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture
def study(tmp_path):
    fault_cases.make_slices(tmp_path / "study", 3)
    return tmp_path / "study"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def files(folder):
    return sorted(folder.rglob("*.dcm"))


def change(path, **elements):
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def names(out):
    return sorted(contents(out))


def lose_journal(out):
    (out / ".kspacesr-rt" / "journal.jsonl").unlink()


def with_name(name, **more):
    return dataclasses.replace(OPTIONS, name=name, **more)


def uids(out):
    return [str(pydicom.dcmread(path).SOPInstanceUID) for path in files(out)]


# What names are ----------------------------------------------------------------------------------


def test_a_folder_is_called_by_its_series_and_a_file_by_its_instance(study, out):
    """A number that the scanner's console shows, what was done, and what tells two of it apart."""
    for path in files(study):
        change(path, SeriesNumber=7)
    report = infer(study, out, OPTIONS)
    [folder] = {path.parent for path in files(out)}
    uid = pydicom.dcmread(files(out)[0]).SeriesInstanceUID
    assert folder.name == f"0007_x2_{int(uid[5:]):032x}"[: len("0007_x2_") + 6]
    for path in files(out):
        assert path.name == f"{int(pydicom.dcmread(path).InstanceNumber):04d}.dcm"
    assert sorted(one.output for one in report.slices) == names(out)


def test_names_by_uid_are_what_they_were(study, out):
    """For those who want them."""
    infer(study, out, BY_UID)
    for path in files(out):
        dataset = pydicom.dcmread(path)
        assert (path.parent.name, path.stem) == (dataset.SeriesInstanceUID, dataset.SOPInstanceUID)


def test_names_change_nothing_else(study, out, tmp_path):
    """The bytes of outputs hang on no name."""
    infer(study, out, OPTIONS)
    infer(study, tmp_path / "uid", BY_UID)
    assert sorted(contents(out).values()) == sorted(contents(tmp_path / "uid").values())


@pytest.mark.parametrize(
    ("elements", "folder", "file"),
    [
        ({"SeriesNumber": None}, "none_x2_", r"000\d"),
        ({"SeriesNumber": 12345}, "12345_x2_", r"000\d"),
        ({"SeriesNumber": -3}, "neg0003_x2_", r"000\d"),
        ({"InstanceNumber": None}, "0002_x2_", r"none_[0-9a-f]{6}"),
        ({"InstanceNumber": 5}, "0002_x2_", r"0005_[0-9a-f]{6}"),
        ({"InstanceNumber": -5}, "0002_x2_", r"neg0005_[0-9a-f]{6}"),
    ],
)
def test_numbers_that_are_missing_odd_or_repeated(study, tmp_path, elements, folder, file):
    """The same names in every order: what tells slices apart is their own UID."""
    for path in files(study):
        change(path, **elements)
    infer(study, tmp_path / "one", OPTIONS)
    assert len(names(tmp_path / "one")) == 3
    for name in names(tmp_path / "one"):
        assert re.fullmatch(rf"{folder}[0-9a-f]{{6}}{re.escape(os.sep)}{file}\.dcm", name)
    for number, path in enumerate(files(study)):
        path.rename(path.with_name(f"{9 - number}.dcm"))
    infer(study, tmp_path / "two", dataclasses.replace(OPTIONS, batch=1, workers=3))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_multi_frame_files_have_such_names_too(tmp_path, out):
    """One file a series, mostly."""
    frames = enhanced_cases.build(enhanced_cases.sample_frames(2), SeriesNumber=9, InstanceNumber=4)
    enhanced_cases.save(frames, tmp_path / "in" / "frames.dcm")
    infer(tmp_path / "in", out, OPTIONS)
    [name] = names(out)
    assert re.fullmatch(rf"0009_x2_[0-9a-f]{{6}}{re.escape(os.sep)}0004\.dcm", name)
    assert infer(tmp_path / "in", out, OPTIONS).count("present") == 1


def test_a_template_may_name_free_text_made_safe(study, out):
    """What anybody has typed becomes letters that every system can have in a name."""
    for path in files(study):
        change(path, SeriesDescription='../T2*/Köpf: "ax" <3mm>|?. long long long long')
    infer(study, out, with_name("{SeriesDescription}_{short_uid}/{InstanceNumber:1}.dcm"))
    [folder] = {path.parent.name for path in files(out)}
    assert re.fullmatch(r"T2-Kopf-ax-3mm-[a-z-]{1,20}_[0-9a-f]{6}", folder)
    assert [path.name for path in files(out)] == ["1.dcm", "2.dcm", "3.dcm"]


@pytest.mark.parametrize("said", ["brain of KIMURA", "id 77-Q-1234", "born 19620317", "Taro k"])
def test_free_text_that_holds_a_patients_value_is_left_out(study, out, said):
    """Somebody typed it into the description; a name of a folder does not repeat it."""
    for path in files(study):
        change(
            path,
            SeriesDescription=said,
            PatientName="Kimura^Taro",
            PatientID="77Q1234",
            PatientBirthDate="19620317",
        )
    infer(study, out, with_name("{SeriesDescription}_{short_uid}/{InstanceNumber}.dcm"))
    assert {path.parent.name[:5] for path in files(out)} == {"none_"}


@pytest.mark.parametrize("name", ["CON", "nul", "Com1"])
def test_names_of_windows_devices_are_none(study, out, name):
    """No file there can be called so, with any suffix."""
    for path in files(study)[1:]:
        path.unlink()
    change(files(study)[0], ProtocolName=name)
    template = "{short_uid}/{ProtocolName}.dcm"
    infer(study, out, with_name(template))
    [path] = files(out)
    assert path.stem.lower() not in {"con", "nul", "com1"}


@pytest.mark.parametrize(
    "field",
    [
        *("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "OtherPatientIDs"),
        *("patient_name", "patient_id", "birth_date", "accession", "name", "id", "StudyDate"),
        *("EthnicGroup", "ReferringPhysicianName", "InstitutionName"),
    ],
)
def test_a_patients_values_are_no_names(field):
    """Names are listed, logged and mailed by people who never open a header."""
    for template in (f"{{{field}}}_{{short_uid}}/a.dcm", f"{{short_uid}}/{{{field}}}.dcm"):
        with pytest.raises(InputError, match="tells whose or which examination") as caught:
            InferOptions(name=template)
        assert DEFAULT_NAME in caught.value.hint


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "FOLDER/FILE.dcm"),
        ("{short_uid}.dcm", "FOLDER/FILE.dcm"),
        ("a/{short_uid}/b.dcm", "FOLDER/FILE.dcm"),
        ("../x_{short_uid}/b.dcm", "FOLDER/FILE.dcm"),
        ("/{short_uid}/b.dcm", "FOLDER/FILE.dcm"),
        ("{short_uid}/{InstanceNumber}", "FOLDER/FILE.dcm"),
        ("{SeriesNumber}/{InstanceNumber}.dcm", "ends in _{short_uid}"),
        ("{short_uid}_x/b.dcm", "ends in _{short_uid}"),
        ("x{short_uid}/b.dcm", "ends in _{short_uid}"),
        (".._{short_uid}/b.dcm", "letters of ASCII"),
        ("a b_{short_uid}/b.dcm", "letters of ASCII"),
        ("a:_{short_uid}/b.dcm", "letters of ASCII"),
        ("ä_{short_uid}/b.dcm", "letters of ASCII"),
        ("{_{short_uid}/b.dcm", "letters of ASCII"),
        ("{short_uid}/.dcm", "letters of ASCII"),
        ("{short_uid}/a.b.dcm", "letters of ASCII"),
        ("{NoSuch}_{short_uid}/b.dcm", "is no field"),
        ("{Rows}_{short_uid}/b.dcm", "is no field"),
        ("{model:4}_{short_uid}/b.dcm", "only numbers"),
        ("x" * 90 + "_{short_uid}/b.dcm", "longer than"),
        ("{short_uid}/" + "x" * 60 + ".dcm", "longer than"),
    ],
)
def test_what_cannot_be_a_name_is_refused_before_anything_is_read(template, message):
    """With what is wrong, and what to type."""
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        InferOptions(name=template)
    assert "--name uid" in caught.value.hint


def test_names_stay_short_and_are_known_as_ours():
    """Windows takes 260 characters of a path; what a template gives, a later run recognises."""
    fields = {"SeriesDescription": "x" * 32, "ProtocolName": "y" * 32, "InstanceNumber": "-123"}
    template = parsed_name("{SeriesDescription}_{short_uid}/{ProtocolName}.dcm")
    uid = stable_uid("any")
    folders, found = template.folders(fields, uid), template.files(fields, uid)
    assert max(map(len, folders)) <= FOLDER_MAX
    assert max(map(len, found)) <= FILE_MAX + len(".dcm")
    assert [len(one) - len(folders[0]) for one in folders] == [n - SHORT[0] for n in SHORT]
    assert all(map(is_output_folder, folders))
    assert all(map(is_output_name, found))
    assert not any(map(is_output_folder, ["scans", "a.b_123456", "x123456", ".123456"]))
    assert not any(map(is_output_name, ["0001.txt", ".0001.dcm", "a b.dcm", "report.json"]))


# What stands is found ----------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["kept", "lost"])
@pytest.mark.parametrize("then", [DEFAULT_NAME, "uid", OTHER])
@pytest.mark.parametrize("first", [DEFAULT_NAME, "uid", OTHER])
def test_a_finished_run_is_found_under_any_names(study, out, first, then, journal):
    """The journal knows what it is called, and without it the header says what it is."""
    infer(study, out, with_name(first))
    before = contents(out)
    if journal == "lost":
        lose_journal(out)
    report = infer(study, out, with_name(then))
    assert (report.count("present"), report.stale, report.exit_code) == (3, (), 0)
    assert contents(out) == before


@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_a_run_that_was_begun_by_uid_is_gone_on_with_so(study, out, tmp_path, journal):
    """A series is not spread over two folders."""
    infer(study, tmp_path / "whole", BY_UID)
    late = files(study)[2]
    late.rename(tmp_path / "late.dcm")
    infer(study, out, BY_UID)
    shutil.move(tmp_path / "late.dcm", late)
    if journal == "lost":
        lose_journal(out)
    report = infer(study, out, OPTIONS)
    assert (report.count("written"), report.count("present")) == (1, 2)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("part", ["pixels", "header"])
@pytest.mark.parametrize("then", [DEFAULT_NAME, "uid", OTHER])
def test_a_damaged_output_is_made_again_under_its_name(study, out, part, then):
    """As far as it still says what it is; and a damaged one is never beside a whole one."""
    infer(study, out, OPTIONS)
    before = contents(out)
    harmed = files(out)[1]
    size = harmed.stat().st_size
    os.truncate(harmed, size - 100 if part == "pixels" else 40)
    report = infer(study, out, with_name(then, stale="replace"))
    assert (report.count("written"), report.count("present")) == (1, 2)
    assert sorted(contents(out).values()) == sorted(before.values())
    if part == "pixels" or then == DEFAULT_NAME:
        assert contents(out) == before


def test_a_name_never_means_two_things(study, out, tmp_path):
    """What replaces a stale output is called otherwise, so who knows names is never wrong.

    A source that is corrected twice and then reverted: a name that was given anew would hold the
    second correction, be as long as what the journal noted there, and be taken for the first.
    """
    infer(study, out, OPTIONS)
    path = files(study)[1]
    first, original = path.read_bytes(), contents(out)
    for comment in ("corrected", "corrected again", "and once more"):
        change(path, ImageComments=comment)
        report = infer(study, out, REPLACE)
        assert (report.count("written"), [one.handled for one in report.stale]) == (1, ["removed"])
        shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
        infer(study, tmp_path / "fresh", OPTIONS)
        assert sorted(contents(out).values()) == sorted(contents(tmp_path / "fresh").values())
        [new] = contents(out).keys() - original.keys()
        [stale] = original.keys() - contents(out).keys()
        stem = stale.removesuffix(".dcm")
        assert re.fullmatch(rf"{re.escape(stem)}_[0-9a-f]{{6}}\.dcm", new)
        again = infer(study, out, OPTIONS)
        assert (again.count("present"), again.stale) == (3, ())
    path.write_bytes(first)
    report = infer(study, out, REPLACE)
    assert report.count("written") == 1
    assert contents(out) == original


def test_a_late_slice_with_a_number_that_is_taken_takes_another_name(study, out, tmp_path):
    """What was there first keeps its name, and a run of both finds both."""
    late = files(study)[2]
    change(late, InstanceNumber=pydicom.dcmread(files(study)[0]).InstanceNumber)
    late.rename(tmp_path / "late.dcm")
    infer(study, out, OPTIONS)
    before = contents(out)
    shutil.move(tmp_path / "late.dcm", late)
    assert infer(study, out, OPTIONS).count("written") == 1
    assert before.items() <= contents(out).items()
    everything = contents(out)
    lose_journal(out)
    report = infer(study, out, OPTIONS)
    assert (report.count("present"), report.stale) == (3, ())
    assert contents(out) == everything


def test_two_series_whose_digits_are_equal_have_folders_of_their_own(
    study, out, tmp_path, monkeypatch
):
    """Six digits are equal once in 17 million; a folder still never holds two patients."""
    real = output_names.short_uid
    monkeypatch.setattr(
        output_names,
        "short_uid",
        lambda uid, digits=6: "abcdef" + real(uid, digits)[6:],
    )
    fault_cases.make_slices(study / "other", 3, salt="another")
    infer(study, out, OPTIONS)
    found = {}
    for path in files(out):
        found.setdefault(path.parent.name, set()).add(pydicom.dcmread(path).SeriesInstanceUID)
    assert sorted(map(len, found)) == [len("0002_x2_") + 6, len("0002_x2_") + 12]
    assert [len(one) for one in found.values()] == [1, 1]
    everything = contents(out)
    for journal in ("kept", "lost"):
        if journal == "lost":
            lose_journal(out)
        report = infer(study, out, OPTIONS)
        assert (report.count("present"), report.stale) == (6, ())
        assert contents(out) == everything


def test_a_name_that_comes_to_be_taken_meanwhile_is_not_written_over(study, out, monkeypatch):
    """Of two that write the same slice one is first, and the other one takes its result."""
    for name in ("draft_dataset", "draft_encoded"):
        real = getattr(slice_work, name)

        def raced(content, path, *, real=real, **more):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"of another")
            return real(content, path, **more)

        monkeypatch.setattr(slice_work, name, raced)
    with pytest.raises(OutputError, match="exists already"):
        infer(study, out, OPTIONS)
    assert {path.read_bytes() for path in files(out)} == {b"of another"}


@pytest.mark.parametrize("folder", ["scan_202401", "0002_x2_abcdef"])
def test_a_folder_of_somebody_elses_files_is_no_output_folder(study, tmp_path, folder):
    """Even if it is called like ours: what is in it is not, and nothing is written there."""
    foreign = tmp_path / "out" / folder
    foreign.mkdir(parents=True)
    shutil.copy(files(study)[0], foreign / "0001.dcm")
    with pytest.raises(OutputError, match="not outputs of this tool") as caught:
        infer(study, tmp_path / "out", OPTIONS)
    assert "remove" not in caught.value.hint
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder]


def test_short_uids_are_digits_of_the_uuid():
    """Anybody can tell which folder a series is in."""
    assert short_uid("2.25.1") == "000000"
    assert short_uid(f"2.25.{0xABCDEF << 104}") == "abcdef"
