"""A process that ends at any change of the disk loses nothing and repeats nothing."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from power_cut import Disk
from spool_cases import CrashError, Crashing

from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import SENT, Spool
from kspacesr_rt.services.node.spool_part import State
from kspacesr_rt.system.files import replace_file

SERIES = ("1.2.3", "1.2.3.4")


OTHER = ("1.2.3", "1.2.3.5")


LEFT_OUT = b"start of left out"
"""Content of an instance that the processing of these tests finds nothing in."""


def reasons_of(part):
    """Stand for the report: who was left out follows from the content."""
    found = part.inputs.iterdir() if part.inputs.exists() else ()
    return {path.name: "skipped: phase" for path in found if path.read_bytes() == LEFT_OUT}


def run_through(root: Path, acknowledged: set, sent: list) -> None:
    """Do what a node does: store three series, process and forward them, put away the rest."""
    spool = Spool(root)
    try:
        for series, uid, content in (
            (SERIES, "1", b"a"),
            (SERIES, "2", b"left out"),
            (OTHER, "3", b"b"),
            (("9", "9"), "4", b"left out"),
        ):
            if (series, uid) not in acknowledged:
                arrival = spool.arrival(b"start of ")
                try:
                    arrival.write(content)
                    arrival.finish()
                    spool.store(series, uid, arrival.path)
                finally:
                    arrival.discard()
                acknowledged.add((series, uid))  # Success has been answered
        spool.close(timeout_s=0)
        for part in spool.parts(State.closed):
            spool.begin_attempt(part)
            good = [path for path in part.inputs.iterdir() if path.read_bytes() != LEFT_OUT]
            if not good:
                spool.set_aside(part, reasons_of(part), keep=True)
                continue
            for path in good:
                result = part.outputs / f"2.25.{part.name[21:]}" / f"{path.name[:24]}.dcm"
                replace_file(result, path.read_bytes())  # as durable as the pipeline's own
            spool.finish_processing(part)
        journal = SentJournal(root / SENT)
        for part in spool.parts(State.processed):
            for path in part.results():
                if path.stem not in journal.acknowledged("PACS", path.parent.name):
                    sent.append(path.stem)
                    journal.record("PACS", path.parent.name, path.stem)
            spool.finish_forwarding(part)
        for part in spool.parts(State.forwarded):
            report = part.outputs.exists()  # it stands there, and goes with the results
            spool.tidy(part, reasons_of(part) if report else {})
    finally:
        spool.close_all()


@pytest.mark.parametrize("end", ["kill -9", "power cut"])
def test_an_end_at_any_change_of_the_disk_loses_and_repeats_nothing(end, tmp_path, monkeypatch):
    """Every system call of a node's life is once the last one; a restart brings it to its end."""
    repeated = 0
    for after in range(10_000):
        top = tmp_path / str(after)
        top.mkdir()
        acknowledged: set = set()
        sent: list = []
        with monkeypatch.context() as patch:
            disk = Disk(top, fsync=lambda descriptor: None, atomic_renames=True)
            patch.setattr(os, "rename", disk.rename)
            watched = disk.fsync if end == "power cut" else lambda descriptor: None
            crashing = Crashing(patch, after, fsync=watched)
            with contextlib.suppress(CrashError):
                run_through(top / "spool", acknowledged, sent)
            crashing.left = -1
            if end == "power cut" and crashing.crashed:
                top = disk.restore(tmp_path / f"{after} restored")
            run_through(top / "spool", acknowledged, sent)
            disk.close()  # of what the second life has touched too
        told = f"after {after} changes"
        assert len(set(sent)) == 2, told
        # Only what was in doubt, between the target's Success and the journal, may go twice.
        assert len(sent) <= 3, told
        repeated += len(sent) == 3
        spool = Spool(top / "spool")
        counts = spool.counts()
        kept = [path for part in spool.parts(State.quarantined) for path in part.inputs.iterdir()]
        told_why = [
            json.loads((part.folder / "reasons.json").read_bytes())
            for part in spool.parts(State.quarantined)
        ]
        spool.close_all()
        assert {state: n for state, n in counts.items() if n} == {State.quarantined: 2}, told
        assert [path.read_bytes() for path in kept] == [LEFT_OUT, LEFT_OUT], told
        assert {name for one in told_why for name in one} == {path.name for path in kept}, told
        if not crashing.crashed:
            break
    assert after > 60, "the ends must have reached every step"
    assert repeated <= 20, "two lines of the journal, ten system calls each"
