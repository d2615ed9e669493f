"""What a sender corrects is delivered, and what it said before is not sent any more."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import pytest
from node_cases import TargetServer, make_series, send, wait_until
from power_cut import tree, watched
from pydicom import dcmread
from pydicom.uid import ParametricMapStorage
from spool_cases import CrashError, Crashing, contents, put
from step_cases import Bench, step
from step_cases import put as put_files

from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.services.node import corrections
from kspacesr_rt.services.node.processing import node_options
from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import SENT, Spool
from kspacesr_rt.services.node.spool_part import State

SERIES = ("1.2.3", "1.2.3.4")


@pytest.fixture
def paths(tmp_path):
    return make_series(tmp_path / "source", 1)


@pytest.fixture
def bench(tmp_path, paths):
    one = Bench(tmp_path, paths)
    yield one
    one.spool.close_all()


def corrected(paths, **elements):
    """Change the header of slices, under the UIDs that they have."""
    for path in paths:
        dataset = dcmread(path)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    return paths


def next_part(bench, paths):
    put_files(bench.spool, paths)
    bench.spool.close(timeout_s=0)
    for part in bench.spool.parts(State.closed):
        assert bench.processor.process(part)


# In the spool ------------------------------------------------------------------------------------


def test_within_a_part_the_last_content_is_the_one(spool):
    """Whatever falls into one silence is what the sender says at its end."""
    assert put(spool, SERIES, "1") == "stored"
    assert put(spool, SERIES, "1", b"corrected") == "corrected"
    assert put(spool, SERIES, "2", b"other") == "stored"
    [part] = spool.parts(State.received)
    assert contents(part) == [b"corrected", b"other"]
    assert put(spool, SERIES, "1") == "corrected"  # and back again
    assert put(spool, SERIES, "1") == "duplicate"
    assert contents(part) == [b"other", b"pixels"]
    assert spool.n_bytes() == len(b"other") + len(b"pixels")


def test_a_crash_between_a_correction_and_what_it_replaces_keeps_the_correction(tmp_path):
    """Both lie there then; the later one is the answer, by when it was written."""
    spool = Spool(tmp_path / "spool")
    put(spool, SERIES, "1", b"before")
    [part] = spool.parts(State.received)
    [old] = part.inputs.iterdir()
    content = old.read_bytes()
    put(spool, SERIES, "1", b"after")
    old.write_bytes(content)
    os.utime(old, ns=(0, 0))
    spool.close_all()
    spool = Spool(tmp_path / "spool")
    assert contents(part) == [b"after"]
    spool.close_all()


def test_only_other_content_is_said_anew(spool, clock):
    """What is repeated as it was holds nothing back that waits to be sent."""
    parts = []
    for contents_now in ({"1": b"a", "2": b"b"}, {"1": b"a", "2": b"corrected", "3": b"c"}):
        for uid, content in contents_now.items():
            put(spool, SERIES, uid, content)
        clock.now += 10
        parts += spool.close(timeout_s=10)
    older, newer = parts
    [name] = corrections.corrected_inputs(older, newer)
    assert (older.inputs / name).read_bytes() == b"b"
    assert corrections.corrected_inputs(newer, newer) == set()


def test_a_note_outlives_a_power_cut(spool, tmp_path):
    """Without it, what the sender took back would be sent after all."""
    put(spool, SERIES, "1")
    [part] = spool.close(timeout_s=0)
    with watched(part.folder) as disk:
        corrections.mark_superseded(part, {"a-b.dcm"})
        restored = tree(disk.restore(tmp_path / "restored"))
    assert restored[corrections.SUPERSEDED] == b"a-b.dcm\n"


def test_a_torn_note_is_none(spool, clock):
    """Half a name could be another input's."""
    put(spool, SERIES, "1")
    clock.now = 10
    [part] = spool.close(timeout_s=10)
    corrections.mark_superseded(part, {"a-b.dcm"})
    with (part.folder / corrections.SUPERSEDED).open("ab") as file:
        file.write(b"c-d")
    assert corrections.superseded_inputs(part) == {"a-b.dcm"}


def run_through(root: Path, acknowledged: set, sent: list) -> None:
    """Receive an image and its correction while the target is away; then forward what there is."""
    spool = Spool(root)
    try:
        for content in (b"before", b"after"):
            if content not in acknowledged:
                put(spool, SERIES, "1", content)
                acknowledged.add(content)  # Success has been answered
            spool.close(timeout_s=0)
            for part in spool.parts(State.closed):
                process(spool, part)
        journal = SentJournal(root / SENT)
        for part in spool.parts(State.processed):
            withheld = spool.superseded(part)
            for path in part.results():
                known = journal.acknowledged("PACS", path.parent.name)
                if path not in withheld and path.stem not in known:
                    sent.append(path.read_bytes())
                    journal.record("PACS", path.parent.name, path.stem)
            spool.finish_forwarding(part)
        for part in spool.parts(State.forwarded):
            spool.tidy(part, {})
    finally:
        spool.close_all()


def process(spool, part):
    """Stand for the pipeline: each input becomes a result of its content's own name."""
    told = []
    part.outputs.mkdir(exist_ok=True)
    for path in part.inputs.iterdir():
        result = part.outputs / "2.25.1" / f"2.25.{int(path.stem[25:], 16)}.dcm"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_bytes(path.read_bytes())
        output = str(result.relative_to(part.outputs))
        told.append(f'{{"file": "{path.name}", "output": "{output}"}}')
    report = f'{{"slices": [{", ".join(told)}], "series_records": []}}'
    (part.outputs / "report.json").write_text(report)
    spool.finish_processing(part)


def test_a_crash_at_any_change_of_the_disk_sends_the_correction_and_nothing_else(
    tmp_path, monkeypatch
):
    """Once the correction has its Success, what was said before goes to nobody."""
    for after in range(10_000):
        root = tmp_path / str(after)
        acknowledged: set = set()
        sent: list = []
        with monkeypatch.context() as patch:
            crashing = Crashing(patch, after, fsync=lambda descriptor: None)
            with contextlib.suppress(CrashError):
                run_through(root, acknowledged, sent)
            crashing.left = -1
            run_through(root, acknowledged, sent)
        # Only what was in doubt, between the target's Success and the journal, may go twice.
        assert set(sent) == {b"after"}, f"after {after} changes"
        assert len(sent) <= 2, f"after {after} changes"
        if not crashing.crashed:
            break
    assert after > 40, "the crashes must have reached every step"


def test_a_correction_is_answered_with_success_and_counted(receiver, paths):
    """Its sender is told that it is safe, as of any other instance."""
    port, spool, metrics = receiver
    assert send(port, [paths[0]]) == [0x0000]
    assert send(port, corrected(paths[:1], PatientName="NEW^NAME")) == [0x0000]
    [part] = spool.parts(State.received)
    [path] = part.inputs.iterdir()
    assert str(dcmread(path).PatientName) == "NEW^NAME"
    assert metrics.value("instances_corrected_total") == 1
    assert metrics.value("instances_received_total") == 2


# With the pipeline and a target ------------------------------------------------------------------


def test_a_corrected_series_is_delivered_under_new_uids(bench, paths):
    """An archive keeps what it has under a known UID, and answers Success."""
    bench.processor.process(bench.only(State.closed))
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        wait_until(lambda: step(forwarder) or len(target.received) == 3, "the first part")
        before = set(target.received)
        next_part(bench, corrected(paths, PatientName="NEW^NAME"))
        wait_until(lambda: step(forwarder) or len(target.received) == 6, "the corrected part")
        assert not before & set(target.received[3:])
        next_part(bench, paths)  # identical: nothing new
        wait_until(lambda: step(forwarder) or not bench.states(), "the end")
        assert set(Counter(target.received).values()) == {1}
    assert len(target.received) == 6


def test_only_what_was_corrected_is_delivered_again(bench, paths):
    """The rest is known by its UIDs, whatever part it comes in."""
    bench.processor.process(bench.only(State.closed))
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        wait_until(lambda: step(forwarder) or len(target.received) == 3, "the first part")
        corrected(paths[:1], PatientName="NEW^NAME")
        next_part(bench, paths)
        wait_until(lambda: step(forwarder) or not bench.states(), "the end")
    assert len(target.received) == 4


def test_what_waits_for_a_target_is_not_sent_once_it_is_corrected(bench, paths):
    """A wrong name that waited a night must not arrive after the right one, or before it."""
    bench.processor.process(bench.only(State.closed))
    old = {path.stem for path in bench.only(State.processed).results()}
    next_part(bench, corrected(paths[:2], PatientName="NEW^NAME"))
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        wait_until(lambda: step(forwarder) or not bench.states(), "the end")
    assert len(target.received) == 3
    assert len(old & set(target.received)) == 1


def test_another_study_holds_nothing_of_the_first_back(bench, paths, tmp_path):
    """It corrects nothing: both are delivered whole, whichever the target saw first."""
    bench.processor.process(bench.only(State.closed))
    next_part(bench, make_series(tmp_path / "another", 1, study="another"))
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        wait_until(lambda: step(forwarder) or not bench.states(), "the end")
    assert len(set(target.received)) == len(target.received) == 6


def test_what_is_corrected_as_a_whole_waits_for_no_target(bench, paths):
    """There is nothing left to send of it, however long the target is away."""
    bench.processor.process(bench.only(State.closed))
    next_part(bench, corrected(paths, PatientName="NEW^NAME"))
    with TargetServer() as target:
        target.stop()
        step(bench.forwarder(target))
        assert bench.states() == {State.processed: 1}


def test_a_correction_that_has_just_come_holds_the_old_results_back(bench, paths):
    """It has its Success, but its part is still open."""
    bench.processor.process(bench.only(State.closed))
    put_files(bench.spool, corrected(paths, PatientName="NEW^NAME"))
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        step(forwarder)
        assert target.received == []


def test_a_correction_that_comes_while_they_are_sent_holds_the_rest_back(bench, paths):
    """A series is on its way for a minute; the archive would get the wrong name after that."""
    bench.processor.process(bench.only(State.closed))

    def correct_all(n_received):
        put_files(bench.spool, corrected(paths, PatientName="NEW^NAME"))
        return 0x0000

    with TargetServer() as target:
        target.answer = correct_all
        step(bench.forwarder(target))
        assert len(target.received) == 1


def test_a_repetition_in_another_syntax_is_delivered_once(bench, paths):
    """Other bytes, the same image: the archive gets it once, whichever part is sent."""
    from pydicom.uid import ImplicitVRLittleEndian

    bench.processor.process(bench.only(State.closed))
    for path in paths:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    next_part(bench, paths)
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        wait_until(lambda: step(forwarder) or not bench.states(), "the end")
    assert len(target.received) == 3
    assert set(Counter(target.received).values()) == {1}


# With trust maps ---------------------------------------------------------------------------------


@pytest.fixture
def mapping(tmp_path, paths):
    options = InferOptions(model="x2-fast", backend="ort-cpu", threads=1, trust_map=True)
    one = Bench(tmp_path, paths, options=node_options(options))
    yield one
    one.spool.close_all()


def sent_with_maps(mapping):
    """Send all that waits to a target that takes maps too; return it, for what it has received."""
    with TargetServer() as target:
        target.classes.append(str(ParametricMapStorage))
        target.stop()
        target.start()
        forwarder = mapping.forwarder(target)
        wait_until(lambda: step(forwarder) or not mapping.states(), "the end")
    return target


def test_a_trust_map_is_sent_with_its_series(mapping):
    mapping.processor.process(mapping.only(State.closed))
    target = sent_with_maps(mapping)
    assert len(target.received) == 4
    assert sum(b"FSE PD" in one and b"[TRUST MAP]" in one for one in target.datasets.values()) == 1


def test_a_map_of_what_was_corrected_is_not_sent_any_more(mapping, paths):
    """It shows the old content, and names the old patient."""
    mapping.processor.process(mapping.only(State.closed))
    next_part(mapping, corrected(paths[:1], PatientName="NEW^NAME"))
    target = sent_with_maps(mapping)
    maps = [one for one in target.datasets.values() if b"[TRUST MAP]" in one]
    assert len(maps) == 1
    assert b"NEW^NAME" in maps[0]
