"""What a run has noted or reported is on the disk, whatever a power cut leaves of the rest."""

from __future__ import annotations

import json
import random
from pathlib import Path

import fault_cases
import pytest
from write_back_cache import Recorder, Tree, recorded, written

from kspacesr_rt.pipeline import InferOptions, group_commit, infer
from kspacesr_rt.pipeline.group_commit import GroupCommit
from kspacesr_rt.pipeline.journal_entries import valid_entry
from kspacesr_rt.pipeline.output_folder import Journal
from kspacesr_rt.pipeline.report import LEFT_TO_THE_SYSTEM
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.slice_processes.process import why_no_processes

STATES = 6
"""That are drawn for a power cut after each call, beside the two extremes."""
POLICIES = ("file", "batch", "none")


def options_of(durability, processes=0):
    return InferOptions(backend="zero-fill", batch=2, durability=durability, processes=processes)


needs_processes = pytest.mark.skipif(why_no_processes() is not None, reason="they need Linux")
in_both = pytest.mark.parametrize(
    "processes",
    [pytest.param(0, id="alone"), pytest.param(2, id="2 beside", marks=needs_processes)],
)
"""Runs in one process, and with others that write: those name nothing and sync nothing."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two series of slices and a multi-frame file; read only."""
    folder = tmp_path_factory.mktemp("study") / "in"
    fault_cases.make_mixed(folder, n_slices=7, n_others=4)
    return folder


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Several groups in a run that is over in no time; and outputs whose bytes repeat."""
    monkeypatch.setattr(group_commit, "GROUP_FILES", 3)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def outputs_of(folder: Path) -> Tree:
    names = [path for path in folder.rglob("*") if path.suffix in (".dcm", ".nii")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def recorded_run(study, out, options, *, on_disk=True) -> Recorder:
    """Return what a run did to the disk, and which outputs it had reported when."""
    record = RunState.record_outcome
    with recorded(out, on_disk=on_disk) as disk, pytest.MonkeyPatch.context() as patch:

        def say(run, task, outcome, **more):
            disk.say(outcome.output)
            record(run, task, outcome, **more)

        patch.setattr(RunState, "record_outcome", say)
        assert infer(study, out, options).exit_code == 0
    return disk


def noted_in(tree: Tree) -> set[str]:
    entries = map(valid_entry, tree.get(".kspacesr-rt/journal.jsonl", b"").splitlines())
    return {one["record"]["output"] for one in entries if one and "record" in one}


def reported_in(tree: Tree) -> set[str]:
    report = json.loads(tree.get("report.json", b'{"slices": []}'))
    return {one["output"] for one in report["slices"] if one["output"]}


def problems(disk: Recorder, whole: Tree) -> set[str]:
    """Return what is wrong in any of the states that a power cut may leave."""
    found = set()
    for said, tree in disk.states(random.Random(19), each=STATES):
        is_whole = {name for name, content in whole.items() if tree.get(name) == content}
        noted = noted_in(tree)
        if (tree.keys() & whole.keys()) - is_whole:
            found.add("a name stands for a part of a file")
        if noted - is_whole:
            found.add("noted and not whole")
        if reported_in(tree) - is_whole:
            found.add("in the report and not whole")
        if set(said) - is_whole:
            found.add("reported and not whole")
        if set(said) - noted:
            found.add("reported and not noted")
    return found


@in_both
@pytest.mark.parametrize("durability", ["file", "batch"])
def test_what_is_noted_or_reported_survives_a_power_cut_at_any_call(
    durability, processes, study, out
):
    """In every order of writing that POSIX allows; and no name ever stands for half a file."""
    disk = recorded_run(study, out, options_of(durability, processes))
    assert len(outputs_of(out)) == 12
    assert problems(disk, outputs_of(out)) == set()


def test_nothing_survives_by_itself(study, out):
    """Of ``none`` the same test says what is given up, so it can see it."""
    disk = recorded_run(study, out, options_of("none"))
    assert problems(disk, outputs_of(out)) == {
        "a name stands for a part of a file",
        "noted and not whole",
        "in the report and not whole",
        "reported and not whole",
        "reported and not noted",
    }


def noted_first(commit, group):
    """Note before anything is synced."""
    journal = commit._run.journal
    journal.add(*(one.finished.entry for one in group))
    left = [one for one in commit._synced(group) if commit._published(one)]
    assert commit._placed(left)
    for one in left:
        one.future.set_result(one.finished.entry)


def named_first(commit, group):
    """Give names before the content is synced."""
    for one in group:
        assert commit._published(one)
        group_commit.sync_file(one.finished.path)
    assert commit._placed(group)
    commit._noted(group)


def reported_first(commit, group):
    """Report before the journal is synced."""
    for one in group:
        one.future.set_result(one.finished.entry)
    left = [one for one in commit._synced(group) if commit._published(one)]
    assert commit._placed(left)
    commit._run.journal.add(*(one.finished.entry for one in left))


def nothing(*arguments):
    return True


MUTANTS = {
    "notes before it syncs": (GroupCommit, "_commit", noted_first, "noted and not whole"),
    "names before it syncs": (
        *(GroupCommit, "_commit", named_first),
        "a name stands for a part of a file",
    ),
    "reports first": (GroupCommit, "_commit", reported_first, "reported and not noted"),
    "syncs no folder": (group_commit, "sync_folder", nothing, "noted and not whole"),
    "syncs no file": (
        *(GroupCommit, "_sync_drafts", lambda commit, drafts: [None] * len(drafts)),
        "a name stands for a part of a file",
    ),
    "syncs no journal": (Journal, "sync", nothing, "reported and not noted"),
}


@in_both
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_test_sees_a_planted_fault(mutant, processes, study, out, monkeypatch):
    """Each step left out, or in another order; which states a run goes through is up to threads."""
    *planted, problem = MUTANTS[mutant]
    monkeypatch.setattr(*planted)
    seen = set()
    for number in range(4):
        folder = out / str(number)
        folder.mkdir()
        seen = problems(
            recorded_run(study, folder, options_of("batch", processes)), outputs_of(folder)
        )
        if problem in seen:
            return
    pytest.fail(f"not seen: {problem}, only {seen}")


@pytest.mark.parametrize("durability", POLICIES)
def test_a_run_after_a_power_cut_completes_the_folder(durability, study, out, tmp_path):
    """Whatever was left: outputs without a note, notes of outputs that are gone or half zeros."""
    disk = recorded_run(study, out, options_of(durability))
    states = [tree for _, tree in disk.states(random.Random(3), each=1) if "manifest.json" in tree]
    for number, tree in enumerate(random.Random(7).sample(states, 8)):
        left = written(tree, tmp_path / f"left{number}")
        assert infer(study, left, options_of("batch")).exit_code == 0
        assert outputs_of(left) == outputs_of(out)


@pytest.mark.parametrize("mutant", [False, True])
def test_what_is_found_without_a_note_is_synced_before_it_is_noted(mutant, study, out, monkeypatch):
    """A killed run had given it its name; nothing of that need be on the disk yet."""
    assert infer(study, out, options_of("batch")).exit_code == 0
    (out / ".kspacesr-rt" / "journal.jsonl").unlink()
    (out / "report.json").unlink()  # of that run
    if mutant:
        monkeypatch.setattr(group_commit, "sync_file", nothing)
    disk = recorded_run(study, out, options_of("batch"), on_disk=False)
    found = problems(disk, outputs_of(out)) - {"a name stands for a part of a file"}
    assert ("noted and not whole" in found) == mutant
    assert mutant or not found


@pytest.mark.parametrize("mutant", [False, True])
def test_what_a_run_left_to_the_system_is_synced_by_one_that_does_not(
    mutant, study, out, monkeypatch
):
    """It is noted, as what nobody has synced."""
    assert infer(study, out, options_of("none")).exit_code == 0
    (out / "report.json").unlink()  # of that run
    if mutant:
        monkeypatch.setattr("kspacesr_rt.pipeline.output_folder.sync_file", nothing)
    disk = recorded_run(study, out, options_of("batch"), on_disk=False)
    assert ("reported and not whole" in problems(disk, outputs_of(out))) == mutant


def test_what_nobody_has_synced_is_compared_before_it_is_believed(study, out):
    """A power cut may leave a file of the right length whose second half is zeros."""
    infer(study, out, options_of("none"))
    expected, torn = outputs_of(out), min(out.glob("*/*.dcm"))
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))
    report = infer(study, out, options_of("none"))
    assert (report.count("written"), report.count("present")) == (1, 11)
    assert outputs_of(out) == expected


@pytest.mark.parametrize("durability", POLICIES)
def test_the_report_says_how_durable_its_outputs_are(durability, study, out):
    """And the last words of the run, where it is less than usual."""
    report = infer(study, out, options_of(durability))
    stored = json.loads((out / "report.json").read_bytes())
    assert stored["options"]["durability"] == durability
    assert (LEFT_TO_THE_SYSTEM in report.as_text().splitlines()) == (durability == "none")
