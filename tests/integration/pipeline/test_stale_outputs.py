"""What the input no longer says is named, never taken for a result, and replaced only if asked for.

Whatever happens to sources between two runs: the outputs that are not stale are those of a fresh
run into an empty folder, byte for byte.
"""

import json
import os
import shutil
import time
from pathlib import Path

import enhanced_cases
import fault_cases
import pydicom
import pytest
from fault_cases import contents
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydicom.uid import ImplicitVRLittleEndian
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.dicom.output_names import short_uid
from kspacesr_rt.errors import NoMRImageError, StaleOutputError
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.output_folder import Journal

REFUSE = InferOptions(backend="zero-fill", batch=3)
KEEP = InferOptions(backend="zero-fill", batch=3, stale="keep")
REPLACE = InferOptions(backend="zero-fill", batch=3, stale="replace")


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture
def study(tmp_path):
    fault_cases.make_slices(tmp_path / "study", 5)
    return tmp_path / "study"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def fresh(study, tmp_path):
    """Return what a run into an empty folder writes."""
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    infer(study, tmp_path / "fresh", REFUSE)
    return contents(tmp_path / "fresh")


def correct(path, **elements):
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def replace_pixels(path):
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData[2:] + dataset.PixelData[:2]
    dataset.save_as(path)


def source_series(output):
    """Return the UID of the series that an output tells it was made from."""
    dataset = pydicom.dcmread(output, stop_before_pixels=True)
    return dataset.ReferencedSeriesSequence[-1].SeriesInstanceUID


def said(outputs):
    """Return what outputs say, whatever they are called: what is stale may have their name."""
    return sorted(outputs.values())


def stale_names(report):
    return {one.output for one in report.stale}


def not_stale(report, out):
    return {name: one for name, one in contents(out).items() if name not in stale_names(report)}


CHANGES = {
    "name of all": lambda study: [correct(path, PatientName="NEW^NAME") for path in files(study)],
    "name of one": lambda study: correct(files(study)[2], PatientName="NEW^NAME"),
    "pixels of one": lambda study: replace_pixels(files(study)[2]),
    "one gone": lambda study: files(study)[2].unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_kept_or_replaced_as_the_user_says(study, out, tmp_path, change):
    """Nothing is written before somebody has decided; then the folder is what a fresh one is."""
    infer(study, out, REFUSE)
    before = contents(out)
    CHANGES[change](study)
    n_stale = 5 if change == "name of all" else 1
    what = "not in the input any more" if change == "one gone" else "have changed since"
    with pytest.raises(StaleOutputError, match=rf"{n_stale} of sources that .*{what}") as caught:
        infer(study, out, REFUSE)
    assert (caught.value.exit_code, caught.value.reason) == (10, "stale-output")
    what = "this 1 output" if n_stale == 1 else f"these {n_stale} outputs"
    assert f"--stale replace deletes {what}" in caught.value.hint
    assert contents(out) == before
    expected = fresh(study, tmp_path)

    kept = infer(study, out, KEEP)
    reason = "source-gone" if change == "one gone" else "source-changed"
    assert [(one.reason, one.handled) for one in kept.stale] == [(reason, "kept")] * n_stale
    assert all(one.sop_instance_uid for one in kept.stale)
    assert kept.exit_code == 0
    assert said(not_stale(kept, out)) == said(expected)
    assert before.items() <= contents(out).items()
    told = json.loads((out / "report.json").read_text())
    assert len(told["stale"]) == n_stale
    assert f"{n_stale} stale output{'s' * (n_stale != 1)}, kept: {reason}" in kept.as_text()
    with pytest.raises(StaleOutputError):  # what was kept once is not forgotten
        infer(study, out, REFUSE)

    replaced = infer(study, out, REPLACE)
    assert [one.handled for one in replaced.stale] == ["removed"] * n_stale
    assert said(contents(out)) == said(expected)
    assert infer(study, out, REFUSE).stale == ()


def test_a_corrected_name_is_in_every_output(study, out):
    """The reason for all of this."""
    infer(study, out, REFUSE)
    CHANGES["name of all"](study)
    infer(study, out, REPLACE)
    names = {str(pydicom.dcmread(path).PatientName) for path in out.glob("*/*.dcm")}
    assert names == {"NEW^NAME"}
    assert len(contents(out)) == 5


def test_no_series_holds_two_patients(study, out):
    """If some slices were corrected, theirs are a series of their own."""
    CHANGES["name of one"](study)
    infer(study, out, REFUSE)
    folders = [path for path in out.iterdir() if path.name.startswith("0002_x2_")]
    assert len(folders) == 2
    for folder in folders:
        assert len({str(pydicom.dcmread(path).PatientName) for path in folder.iterdir()}) == 1


def test_a_multi_frame_file_is_replaced_as_a_whole(tmp_path, out):
    """Its frames share one header."""
    path = tmp_path / "frames" / "a.dcm"
    frames = enhanced_cases.sample_frames(3)
    enhanced_cases.save(enhanced_cases.build(frames), path)
    infer(path.parent, out, REFUSE)
    enhanced_cases.save(enhanced_cases.build(frames, PatientName="NEW^NAME"), path)
    with pytest.raises(StaleOutputError):
        infer(path.parent, out, REFUSE)
    report = infer(path.parent, out, REPLACE)
    [output] = out.glob("*/*.dcm")
    assert str(pydicom.dcmread(output).PatientName) == "NEW^NAME"
    assert [one.handled for one in report.stale] == ["removed"]
    assert infer(path.parent, out, REFUSE).count("present") == 1


@pytest.mark.parametrize("how", ["moved", "copied", "touched", "renamed", "other encoding"])
def test_what_says_the_same_is_not_stale(study, out, tmp_path, how):
    """Neither path, nor dates, nor inode, nor transfer syntax is what a file says."""
    infer(study, out, REFUSE)
    before = contents(out)
    if how == "moved":
        study = study.rename(tmp_path / "elsewhere")
    elif how == "copied":
        study = shutil.copytree(study, tmp_path / "copy")
    elif how == "touched":
        for path in files(study):
            path.touch()
    elif how == "renamed":
        for number, path in enumerate(files(study)):
            path.rename(path.with_name(f"{9 - number}.ima"))
    else:
        for path in files(study):
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            dataset.save_as(path, implicit_vr=True, little_endian=True)
    report = infer(study, out, REFUSE)
    assert (report.count("present"), report.stale) == (5, ())
    assert contents(out) == before


def test_a_change_that_no_status_shows_is_seen(study, out):
    """Same size, same dates: put there at once after the run, or with its dates set back."""
    for old, new, set_back in ((b"OLD^NAME", b"NEW^NAME", False), (b"NEW^NAME", b"OLD^NAME", True)):
        for path in files(study):
            correct(path, PatientName=old.decode())
        shutil.rmtree(out, ignore_errors=True)
        infer(study, out, REFUSE)
        path = files(study)[1]
        status, content = path.stat(), path.read_bytes()
        assert content.count(old) == 1
        with path.open("r+b") as file:  # in place: the same inode
            file.write(content.replace(old, new))
        if set_back:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
        with pytest.raises(StaleOutputError):
            infer(study, out, REFUSE)


def test_finished_work_is_known_without_a_file_being_read(study, out, monkeypatch):
    """Twenty thousand slices are asked for their status alone, if that is old enough to tell."""
    real_time = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_time() + 10**10)
    infer(study, out, REFUSE)
    read = []
    real = FileState.read.__func__
    monkeypatch.setattr(
        FileState, "read", classmethod(lambda cls, path: read.append(path) or real(cls, path))
    )
    assert infer(study, out, REFUSE).count("present") == 5
    assert read == []
    for path in files(study):
        path.touch()
    assert infer(study, out, REFUSE).count("present") == 5
    assert {path.suffix for path in read} == {files(study)[0].suffix}
    n_read = len(read)
    assert n_read >= 5
    assert infer(study, out, REFUSE).count("present") == 5
    assert len(read) == n_read, "what was read once is known by its new status"


def test_a_status_that_is_as_young_as_the_look_at_it_is_not_believed():
    """As git's index: a later change within the same tick would not show."""
    at = 1_700_000_000 * 10**9
    young = FileState(size=1, mtime_ns=at, ctime_ns=at, inode=1, sha256="a", seen_ns=at + 10**9)
    old = FileState(size=1, mtime_ns=at, ctime_ns=at, inode=1, sha256="a", seen_ns=at + 3 * 10**9)
    skewed = FileState(size=1, mtime_ns=at + 10**12, ctime_ns=at, inode=1, sha256="a", seen_ns=at)
    assert (young.settled, old.settled, skewed.settled) == (False, True, False)
    assert young.looks_like(old)


def test_a_source_that_is_reverted_takes_its_output_back(study, out):
    """Both contents were noted; which one is stale follows from the file alone."""
    infer(study, out, REFUSE)
    first = contents(out)
    path = files(study)[0]
    original = path.read_bytes()
    correct(path, PatientName="NEW^NAME")
    infer(study, out, KEEP)
    path.write_bytes(original)
    report = infer(study, out, REPLACE)
    assert (report.count("present"), len(report.stale)) == (5, 1)
    assert contents(out) == first


def test_a_lost_journal_hides_no_stale_output(study, out, tmp_path):
    """Then it is found out at the end, by what headers tell: exit 10, and nothing is removed."""
    infer(study, out, REFUSE)
    correct(files(study)[0], PatientName="NEW^NAME")
    (out / ".kspacesr-rt" / "journal.jsonl").unlink()
    report = infer(study, out, REFUSE)
    told = [(one.reason, one.handled) for one in report.stale]
    assert (told, report.exit_code) == ([("source-changed", "refused")], 10)
    assert len(contents(out)) == 6
    expected = fresh(study, tmp_path)
    assert said(not_stale(report, out)) == said(expected)
    infer(study, out, REPLACE)
    assert said(contents(out)) == said(expected)


def test_a_file_that_cannot_be_read_loses_no_result(study, out, tmp_path, monkeypatch):
    """A share that is away for a moment must not cost what was computed from it."""
    infer(study, out, REFUSE)
    before = contents(out)
    path = files(study)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    report = infer(study, out, REPLACE)
    assert (report.exit_code, [one.handled for one in report.stale]) == (8, ["kept"])
    assert contents(out) == before
    path.write_bytes(whole)
    assert infer(study, out, REFUSE).count("present") == 5


def test_two_sources_that_come_to_share_a_uid_make_their_output_stale(study, out, tmp_path):
    """Which of them is right cannot be told any more: neither is processed."""
    infer(study, out, REFUSE)
    other = shutil.copy(files(study)[0], study / "other.dcm")
    correct(Path(other), PatientName="NEW^NAME")
    with pytest.raises(StaleOutputError):
        infer(study, out, REFUSE)
    report = infer(study, out, KEEP)
    assert report.reasons() == [("failed", "duplicate-conflict", 2)]
    assert not_stale(report, out) == fresh(study, tmp_path)


def test_an_interrupted_run_removes_nothing(study, out):
    """What it has not come to may still need its old output."""
    infer(study, out, REFUSE)
    before = contents(out)
    CHANGES["name of all"](study)

    def fall_over(progress):
        if progress.done == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        infer(study, out, REPLACE, on_progress=fall_over)
    assert before.items() <= contents(out).items()
    report = infer(study, out, REPLACE)
    assert len(contents(out)) == 5
    assert report.exit_code == 0


@pytest.fixture
def other(tmp_path):
    """Another study, whose files have the names of the first one's."""
    fault_cases.make_slices(tmp_path / "other", 3, salt="another study")
    return tmp_path / "other"


def test_studies_one_after_the_other_into_one_folder(study, other, out):
    """Each run is about what it was given; what it was not given is no loss of a source."""
    infer(study, out, REFUSE)
    first = contents(out)
    report = infer(other, out, REFUSE)
    assert (report.exit_code, report.count("written"), report.stale) == (0, 3, ())
    both = contents(out)
    assert first.items() <= both.items()
    for options in (REFUSE, KEEP, REPLACE):
        again = infer(study, out, options)
        assert (again.exit_code, again.count("present"), again.stale) == (0, 5, ())
        assert contents(out) == both


def test_an_archive_and_then_a_part_of_it(study, other, out, tmp_path):
    """A smaller input says nothing about the rest."""
    together = tmp_path / "together"
    shutil.copytree(study, together / "one")
    shutil.copytree(other, together / "two")
    infer(together, out, REFUSE)
    everything = contents(out)
    for part in (study, other):
        report = infer(part, out, REPLACE)
        assert (report.count("present"), report.stale) == (len(files(part)), ())
        assert contents(out) == everything


@pytest.mark.parametrize("journal", ["kept", "lost"])
@pytest.mark.parametrize("handling", ["refuse", "keep", "replace"])
def test_replace_with_another_study_leaves_the_first_as_it_is(study, other, out, journal, handling):
    """Byte for byte, and also if only the headers can tell whose outputs these are."""
    infer(study, out, REFUSE)
    files(study)[0].unlink()  # what is gone there is not this run's business either
    first = {path: path.read_bytes() for path in out.glob("*/*.dcm")}
    if journal == "lost":
        (out / ".kspacesr-rt" / "journal.jsonl").unlink()
    report = infer(other, out, InferOptions(backend="zero-fill", stale=handling))
    assert (report.exit_code, report.stale) == (0, ())
    assert all(path.read_bytes() == was for path, was in first.items())


def test_a_slice_that_left_a_series_beside_another_study(study, other, out, tmp_path):
    """The series is still there, so the slice was taken out of it: only its output is stale."""
    infer(study, out, REFUSE)
    infer(other, out, REFUSE)
    files(study)[2].unlink()
    with pytest.raises(StaleOutputError, match="1 of sources that are not in the input any more"):
        infer(study, out, REFUSE)
    report = infer(study, out, REPLACE)
    assert [(one.reason, one.handled) for one in report.stale] == [("source-gone", "removed")]
    shutil.copytree(other, study / "other")
    assert contents(out) == fresh(study, tmp_path)


@pytest.mark.parametrize("handling", ["refuse", "keep", "replace"])
def test_what_nothing_tells_the_source_of_is_left_in_other_folders(study, other, out, handling):
    """It may be the result of anybody: it is named, and neither removed nor a reason to end."""
    infer(study, out, REFUSE)
    broken = next(out.glob("*/*.dcm"))
    broken.write_bytes(b"broken")
    (out / ".kspacesr-rt" / "journal.jsonl").unlink()
    report = infer(other, out, InferOptions(backend="zero-fill", stale=handling))
    assert [(out / one.output, one.reason, one.handled) for one in report.stale] == [
        (broken, "unclaimed", "kept")
    ]
    assert report.exit_code == 0
    assert broken.read_bytes() == b"broken"


def test_what_nothing_tells_the_source_of_goes_from_a_series_that_is_there(study, out):
    """A run into an empty folder would not have it."""
    infer(study, out, REFUSE)
    whole = contents(out)
    stray = next(out.glob("*/*.dcm")).with_name("2.25.7.dcm")
    stray.write_bytes(b"broken")
    report = infer(study, out, REFUSE)
    assert [(one.reason, one.handled) for one in report.stale] == [("unclaimed", "refused")]
    assert report.exit_code == 10
    report = infer(study, out, REPLACE)
    assert [one.handled for one in report.stale] == ["removed"]
    assert contents(out) == whole


def run_cli(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.mark.parametrize("place", ["default", "asked"])
def test_a_refusal_writes_its_report(study, out, tmp_path, place):
    """A script reads what is stale there, not in a sentence."""
    infer(study, out, REFUSE)
    CHANGES["name of all"](study)
    before = contents(out)
    report = out / "report.json" if place == "default" else tmp_path / "elsewhere" / "told.json"
    asked = () if place == "default" else ("--report", report)
    result = run_cli("infer", study, out, "--backend", "zero-fill", "--json", *asked)
    assert result.exit_code == 10
    told = json.loads(report.read_text())
    printed = json.loads(result.stdout)
    for one in (told, printed):
        assert one["exit_code"] == 10
        assert {item["output"] for item in one["stale"]} == before.keys()
        assert {item["handled"] for item in one["stale"]} == {"refused"}
        assert {item["reason"] for item in one["stale"]} == {"source-changed"}
        assert one["written"] == one["present"] == 0
    assert printed["error"]["kind"] == "stale-output"
    assert contents(out) == before


def test_a_refusal_says_what_replace_would_delete(study, out):
    """Nobody is to find out afterwards how many results a hint has cost."""
    infer(study, out, InferOptions(backend="zero-fill", show_paths=True))
    CHANGES["name of all"](study)
    outputs = contents(out)
    plain = run_cli("infer", study, out, "--backend", "zero-fill")
    assert "--stale replace deletes these 5 outputs" in plain.stderr
    assert not any(name in plain.output for name in outputs)
    named = run_cli("infer", study, out, "--backend", "zero-fill", "-v")
    assert all(name in named.stdout for name in outputs)
    assert named.stdout.count(".dcm (sha256:") == 5
    paths = run_cli("infer", study, out, "--backend", "zero-fill", "-v", "--show-paths")
    assert "sha256:" not in paths.stdout
    assert all(str(path.relative_to(study)) in paths.stdout for path in files(study))


def test_contact_sheets_of_removed_series_go_too(study, out):
    """They show the image of a patient who is not in the folder any more."""
    options = {"backend": "zero-fill", "preview": True}
    infer(study, out, InferOptions(**options))
    CHANGES["name of all"](study)
    infer(study, out, InferOptions(**options, stale="replace"))
    series = {path.parent.name for path in out.glob("*/*.dcm")}
    assert {path.name for path in out.glob("*.png")} == {f"preview-{one}.png" for one in series}


class EditedSources(RuleBasedStateMachine):
    """Sources are edited, removed and brought back, memory is lost, and runs follow."""

    place: Path

    @initialize()
    def begin(self):
        type(self).number = getattr(type(self), "number", 0) + 1
        self.root = self.place / str(self.number)
        self.study, self.out = self.root / "study", self.root / "out"
        self.stock = self.place / "stock"
        if not self.stock.exists():
            fault_cases.make_slices(self.stock, 4)
            frames = enhanced_cases.build(enhanced_cases.sample_frames(2, step=8))
            enhanced_cases.save(frames, self.stock / "frames.dcm")
        shutil.copytree(self.stock, self.study)
        self.report = None

    @property
    def sources(self):
        return files(self.study)

    which = st.integers(0, 9)

    def one(self, number):
        return self.sources[number % len(self.sources)] if self.sources else None

    @rule(number=which, name=st.sampled_from(["A^B", "C^D"]))
    def correct_a_name(self, number, name):
        if path := self.one(number):
            correct(path, PatientName=name)

    @rule(number=which, value=st.sampled_from(["1", "2"]))
    def correct_something_else(self, number, value):
        if path := self.one(number):
            correct(path, ImageComments=value)

    @rule(number=which)
    def replace_pixels(self, number):
        if path := self.one(number):
            replace_pixels(path)

    @rule(number=which)
    def change_what_no_output_tells(self, number):
        if path := self.one(number):
            correct(path, RetrieveAETitle=f"AE{number}")

    @rule(number=which)
    def remove(self, number):
        if path := self.one(number):
            path.unlink()

    @rule(number=which)
    def bring_back(self, number):
        known = files(self.stock)
        path = known[number % len(known)]
        target = self.study / path.relative_to(self.stock)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)

    @rule()
    def move_the_input(self):
        self.study = self.study.rename(self.root / f"moved{time.monotonic_ns()}")

    @rule()
    def lose_the_journal(self):
        (self.out / ".kspacesr-rt" / "journal.jsonl").unlink(missing_ok=True)

    @rule(number=which)
    def cut_an_output(self, number):
        if outputs := sorted(self.out.glob("*/*.dcm")):
            path = outputs[number % len(outputs)]
            os.truncate(path, path.stat().st_size // 2)

    def elsewhere(self, names):
        """Return the outputs of series that are not in the input."""
        present = {pydicom.dcmread(path).SeriesInstanceUID for path in self.sources}
        return {name for name in names if source_series(self.out / name) not in present}

    @rule()
    def run_and_keep(self):
        self.run(KEEP)

    @rule()
    def run_and_replace(self):
        self.run(REPLACE)

    @rule(options=st.sampled_from([REFUSE, KEEP, REPLACE]))
    def run(self, options):
        before = contents(self.out)
        elsewhere = self.elsewhere(before)
        try:
            self.report = infer(self.study, self.out, options)
        except StaleOutputError:
            assert options is REFUSE
            assert contents(self.out) == before
            self.report = None
            return
        except NoMRImageError:
            self.report = None
            return
        shutil.rmtree(self.root / "fresh", ignore_errors=True)
        infer(self.study, self.root / "fresh", REFUSE)
        expected = contents(self.root / "fresh")
        expected |= {name: before[name] for name in elsewhere}
        assert said(not_stale(self.report, self.out)) == said(expected)
        if options is REPLACE:
            assert said(contents(self.out)) == said(expected)
        if options is REFUSE:
            assert self.report.exit_code == (10 if self.report.stale else 0)

    @invariant()
    def no_output_is_there_twice(self):
        paths = sorted(self.out.glob("*/*.dcm")) if hasattr(self, "out") else ()
        found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        assert len({dataset.SOPInstanceUID for dataset in found}) == len(found)
        for path, dataset in zip(paths, found, strict=True):
            assert path.parent.name.endswith(short_uid(dataset.SeriesInstanceUID))


def test_outputs_that_are_not_stale_are_always_those_of_a_fresh_run(tmp_path_factory):
    """Whatever was edited between the runs, whatever they were told, whatever memory was lost."""
    EditedSources.place = tmp_path_factory.mktemp("edited")
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        EditedSources,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_journal_knows_what_every_content_gave(study, out):
    """One line a content: a run over finished work adds none."""
    infer(study, out, REFUSE)
    path = out / ".kspacesr-rt" / "journal.jsonl"
    infer(study, out, REFUSE)
    size = path.stat().st_size
    journal = Journal(out)
    assert len(list(journal.all_entries())) == 5
    journal.close()
    assert path.stat().st_size == size
