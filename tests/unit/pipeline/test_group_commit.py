"""When a group is closed, and what becomes of its files if the disk does not take them."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from kspacesr_rt.dicom.store import OutputDraft, StoredFile, create_new
from kspacesr_rt.errors import OutputError
from kspacesr_rt.pipeline import InferOptions, group_commit
from kspacesr_rt.pipeline.group_commit import NO_FOLDER_SYNC, Finished, GroupCommit
from kspacesr_rt.pipeline.journal_entries import FileState, JournalEntry
from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.pipeline.stage_timer import StageTimer

PATIENCE_S = 60.0
"""A test that waits for longer has failed."""
NEVER_S = 1e6


class Notes:
    """A journal that remembers what it was given, a group an item."""

    def __init__(self):
        self.groups = []

    def add(self, *entries):
        self.groups.append([one.source for one in entries])


@pytest.fixture
def run(tmp_path):
    return SimpleNamespace(
        options=InferOptions(), output=tmp_path, timer=StageTimer(), journal=Notes(), notes={}
    )


@pytest.fixture(autouse=True)
def patient_groups(monkeypatch):
    monkeypatch.setattr(group_commit, "GROUP_S", NEVER_S)


def finished(folder, name, *, n_bytes=5):
    path = folder / "series" / f"{name}.dcm"
    temporary = path.with_name(f".{name}.dcm.01234567.part")
    descriptor = create_new(temporary)
    os.write(descriptor, b"bytes")
    state = FileState(size=0, mtime_ns=0, ctime_ns=0, inode=0)
    return Finished(
        entry=JournalEntry(
            source=name,
            state=state,
            n_bytes=n_bytes,
            output_sha256="",
            record=SliceRecord(file="", outcome="written", output=str(path.relative_to(folder))),
        ),
        path=path,
        draft=OutputDraft(path, temporary, descriptor, StoredFile(size=5, sha256="")),
    )


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_group_is_closed_when_it_has_enough_files(run, tmp_path, monkeypatch):
    """And not before: one sync of the journal is for all of them."""
    monkeypatch.setattr(group_commit, "GROUP_FILES", 3)
    with GroupCommit(run) as commit:
        first = [commit.add(finished(tmp_path, name)) for name in "abc"]
        assert [one.result(PATIENCE_S).source for one in first] == ["a", "b", "c"]
        last = commit.add(finished(tmp_path, "d"))
        assert not last.done()
        assert names(tmp_path) == [".d.dcm.01234567.part", "a.dcm", "b.dcm", "c.dcm"]
    assert last.result(0).source == "d"
    assert run.journal.groups == [["a", "b", "c"], ["d"]]


def test_a_group_is_closed_when_it_has_enough_bytes(run, tmp_path):
    """What is not on the disk is in memory."""
    with GroupCommit(run) as commit:
        large = commit.add(finished(tmp_path, "a", n_bytes=group_commit.GROUP_BYTES))
        assert large.result(PATIENCE_S).source == "a"


def test_a_group_is_closed_when_it_is_old(run, tmp_path, monkeypatch):
    """A slow run holds no slice back that is finished."""
    monkeypatch.setattr(group_commit, "GROUP_S", 0.01)
    with GroupCommit(run) as commit:
        assert commit.add(finished(tmp_path, "a")).result(PATIENCE_S).source == "a"


def test_a_group_is_closed_when_that_is_asked_for(run, tmp_path):
    """At the end of a series; with nothing in it that is nothing."""
    with GroupCommit(run) as commit:
        commit.flush()
        one = commit.add(finished(tmp_path, "a"))
        commit.flush()
        assert one.result(PATIENCE_S).source == "a"


def test_each_file_by_itself_is_durable_when_it_was_added(run, tmp_path):
    """No thread, no waiting: who asks for that wants it at once."""
    run.options = InferOptions(durability="file")
    with GroupCommit(run) as commit:
        assert commit.add(finished(tmp_path, "a")).result(0).source == "a"


def test_a_file_that_the_disk_does_not_take_is_left_out_alone(run, tmp_path, monkeypatch):
    """The others of its group are whole: they are published, and noted, before the run ends."""
    group = [finished(tmp_path, name) for name in "abc"]
    bad, real = group[1].draft.descriptor, os.fsync

    def full(descriptor):
        if descriptor == bad:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with GroupCommit(run) as commit:
        futures = [commit.add(one) for one in group]
    with pytest.raises(OutputError, match="No space left on device"):
        futures[1].result(0)
    assert [futures[0].result(0).source, futures[2].result(0).source] == ["a", "c"]
    assert names(tmp_path) == ["a.dcm", "c.dcm"]
    assert run.journal.groups == [["a", "c"]]


def test_what_has_come_to_stand_there_is_not_replaced(run, tmp_path):
    """Another process was faster; the cause is told, since Ray's actors look for it."""
    one = finished(tmp_path, "a")
    one.path.write_bytes(b"of another")
    with GroupCommit(run) as commit:
        future = commit.add(one)
    with pytest.raises(OutputError, match="exists already") as caught:
        future.result(0)
    assert isinstance(caught.value.__cause__, FileExistsError)
    assert one.path.read_bytes() == b"of another"
    assert (names(tmp_path), run.journal.groups) == (["a.dcm"], [])


def test_nobody_waits_for_ever_for_what_ends_the_thread(run, tmp_path, monkeypatch):
    """Whatever it is."""
    monkeypatch.setattr(GroupCommit, "_placed", lambda commit, group: 1 / 0)
    with GroupCommit(run) as commit:
        future = commit.add(finished(tmp_path, "a"))
    with pytest.raises(ZeroDivisionError):
        future.result(0)


def test_a_file_system_without_synced_names_is_a_note(run, tmp_path, monkeypatch):
    """The outputs stand all the same."""
    monkeypatch.setattr(group_commit, "sync_folder", lambda folder: False)
    with GroupCommit(run) as commit:
        future = commit.add(finished(tmp_path, "a"))
    assert future.result(0).source == "a"
    assert list(run.notes) == [NO_FOLDER_SYNC]
