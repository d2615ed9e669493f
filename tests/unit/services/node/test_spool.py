"""The spool loses nothing and repeats nothing, wherever a crash falls between two system calls."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

import pytest
from spool_cases import CrashError, contents, put

from kspacesr_rt.errors import InputError, OutputError
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.peers import (
    ANY_ON_THIS_MACHINE,
    bind_address,
    parse_peer,
    parse_target,
)
from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import Spool
from kspacesr_rt.services.node.spool_part import Limits, SpoolFullError, State
from kspacesr_rt.services.node.target_queue import Backoff

SERIES = ("1.2.3", "1.2.3.4")
OTHER = ("1.2.3", "1.2.3.5")


# What arrives ------------------------------------------------------------------------------------


def test_a_series_becomes_one_part_whoever_sends_it_and_closes_when_it_is_silent(spool, clock):
    """Two senders may share a series; instances of another one do not disturb it."""
    put(spool, SERIES, "1")
    put(spool, OTHER, "2")
    clock.now = 8
    put(spool, SERIES, "3", b"more")
    clock.now = 12
    closed = spool.close(timeout_s=10)
    assert [contents(part) for part in closed] == [[b"pixels"]]
    clock.now = 18
    assert [contents(part) for part in spool.close(timeout_s=10)] == [[b"more", b"pixels"]]
    assert spool.parts(State.received) == []


def test_a_series_whose_size_the_sender_told_closes_at_its_last_instance(spool):
    """No need to wait where it is known; a repetition does not count as a further instance."""
    put(spool, SERIES, "1", expected=2)
    put(spool, SERIES, "1", b"in another syntax", expected=2)
    assert spool.close(timeout_s=10) == []
    put(spool, SERIES, "2", expected=2)
    assert len(spool.close(timeout_s=10)) == 1


def test_a_size_that_was_told_once_holds_for_the_series(spool):
    """Not every instance of it tells, and not every sender."""
    put(spool, SERIES, "1", expected=2)
    put(spool, SERIES, "2")
    assert len(spool.close(timeout_s=10)) == 1


def test_a_released_association_that_brought_a_series_completes_it(spool, clock):
    """The sender has nothing more to say; another series of its own is still under way."""
    for uid in ("1", "2"):
        put(spool, SERIES, uid, association="first")
        put(spool, OTHER, f"{uid}.1", association="second")
    clock.now = 8
    spool.note_release("first")
    clock.now = 9
    assert spool.close(30, 2) == []
    clock.now = 10
    [part] = spool.close(30, 2)
    assert len(contents(part)) == 2
    assert len(spool.parts(State.received)) == 1


def test_a_release_says_nothing_of_a_series_that_comes_in_pieces(spool, clock):
    """An association an instance, or several at a time: who releases one may open the next."""
    put(spool, SERIES, "1", association="first")
    spool.note_release("first")
    clock.now = 10
    assert spool.close(30, 2) == []
    put(spool, SERIES, "2", association="second")
    spool.note_release("second")
    clock.now = 20
    assert spool.close(30, 2) == []
    clock.now = 40
    assert len(spool.close(30, 2)) == 1


def test_a_release_after_a_restart_says_nothing_of_what_came_before(tmp_path, clock):
    """What the process before has received came over another association."""
    root = tmp_path / "again"
    first = Spool(root, clock=clock)
    put(first, SERIES, "1", association="first")
    first.close_all()
    second = Spool(root, clock=clock)
    put(second, SERIES, "2", association="second")
    put(second, SERIES, "3", association="second")
    second.note_release("second")
    clock.now = 10
    assert second.close(30, 2) == []
    second.close_all()


def test_what_may_be_a_reason_to_look_again_is_counted(spool):
    """The last instance of a known number, and every step; who waits need not wait for a tick."""
    put(spool, SERIES, "1", expected=2)
    seen = spool.changes.n
    assert not spool.changes.wait(seen, 0)
    put(spool, SERIES, "2", expected=2)
    assert spool.changes.wait(seen, 0)
    seen = spool.changes.n
    [part] = spool.close(10)
    assert spool.changes.wait(seen, 0)
    seen = spool.changes.n
    spool.finish_processing(part)
    assert spool.changes.wait(seen, 0)


def test_what_is_refused_anew_is_told_anew(spool):
    """The reasons of the time before would send somebody to the wrong archive."""
    put(spool, SERIES, "1")
    [part] = spool.close(timeout_s=0)
    spool.finish_processing(part)
    for refused in ({"ONE": {"2.25.1": "status-0122"}}, {"OTHER": {"2.25.2": "status-a900"}}):
        [part] = spool.parts(State.processed)
        spool.keep_undelivered(part, refused)
        [part] = spool.parts(State.undelivered)
        assert json.loads((part.folder / "refused.json").read_bytes()) == refused
        assert spool.requeue_undelivered() == 1


def test_an_instance_that_is_sent_again_is_kept_once(spool):
    """A sender that lost our answer sends again."""
    assert put(spool, SERIES, "1") == "stored"
    assert put(spool, SERIES, "1") == "duplicate"
    [part] = spool.parts(State.received)
    assert contents(part) == [b"pixels"]
    assert list((spool.root / "incoming").iterdir()) == []


def test_what_comes_after_the_end_is_a_further_part(spool, clock):
    """A series that pauses for longer than the timeout is not lost, and not mixed up."""
    put(spool, SERIES, "1")
    clock.now = 10
    [first] = spool.close(timeout_s=10)
    put(spool, SERIES, "2", b"late")
    clock.now = 20
    [second] = spool.close(timeout_s=10)
    assert (contents(first), contents(second)) == ([b"pixels"], [b"late"])


def test_uids_from_the_network_never_become_paths(spool):
    """A series UID of ``../..`` is a value like any other."""
    put(spool, ("../../x", "/etc"), "../../../passwd")
    [part] = spool.parts(State.received)
    [path] = part.inputs.iterdir()
    assert path.resolve().parent == part.inputs.resolve()
    assert "passwd" not in path.name


def test_nobody_else_can_read_it(spool):
    """A spool holds patients' images."""
    put(spool, SERIES, "1")
    for path in (spool.root, *spool.root.rglob("*")):
        if path.name != "kspacesr-spool":
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_full_queue_refuses_new_series_but_lets_one_that_has_begun_end(spool, clock):
    """Half a series would be worse than none."""
    spool.limits = Limits(n_parts=1)
    put(spool, SERIES, "1")
    with pytest.raises(SpoolFullError) as raised:
        put(spool, OTHER, "2")
    assert raised.value.reason == "queue"
    assert put(spool, SERIES, "3") == "stored"
    assert not spool.refuses_all()
    clock.now = 99
    spool.close(timeout_s=10)
    assert spool.refuses_all()


def test_the_disk_limit_reserves_what_processing_will_add(spool):
    """x2 makes 4 bytes of 1: a spool that takes what it cannot process would stand still."""
    spool.limits = Limits(n_bytes=1000, growth=4.0)
    put(spool, SERIES, "1", bytes(150))
    with pytest.raises(SpoolFullError) as raised:
        put(spool, SERIES, "2", bytes(100))
    assert raised.value.reason == "disk"
    put(spool, SERIES, "3", bytes(50))


def test_the_last_bytes_of_an_arrival_are_counted_too(spool):
    """Room is asked for in steps; what came since the last one must not pass the limit either."""
    spool.limits = Limits(n_bytes=1000, growth=4.0)
    arrival = spool.arrival(b"")
    arrival.write(bytes(150))
    arrival.write(bytes(100))
    assert arrival.refusal is None
    arrival.finish()
    assert arrival.refusal == "full-disk"
    arrival.discard()


def test_a_full_disk_refuses_and_leaves_nothing(spool, monkeypatch):
    """ENOSPC in the middle of a file must not leave half of it, and not be a Success."""
    written = os.write

    def full(descriptor, content):
        written(descriptor, bytes(content[:3]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpoolFullError):
        spool.incoming(b"pixels")
    assert list((spool.root / "incoming").iterdir()) == []


# Opening -----------------------------------------------------------------------------------------


def test_two_processes_cannot_use_one_spool(spool):
    """Both would send everything."""
    with pytest.raises(OutputError, match="another process uses this spool"):
        Spool(spool.root)


def test_a_folder_of_something_else_is_refused(tmp_path):
    """A typing error must not have the node take over a home folder."""
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds something else"):
        Spool(tmp_path)


def test_an_unknown_layout_is_refused(tmp_path):
    """A newer version may keep things elsewhere."""
    (tmp_path / "kspacesr-spool").write_text("7\n")
    with pytest.raises(OutputError, match="layout"):
        Spool(tmp_path)


# Crashes -----------------------------------------------------------------------------------------


def test_half_of_what_was_being_removed_is_never_taken_up(spool, clock, tmp_path, monkeypatch):
    """The rest of a series would be processed as if it were one, and its attempts counted anew."""
    for number in range(3):
        put(spool, SERIES, str(number))
    clock.now = 10
    [part] = spool.close(timeout_s=10)
    spool.begin_attempt(part)
    real, done = Path.unlink, []

    def unlink(path, **more):
        if done:
            raise CrashError
        done.append(real(path, **more))

    with monkeypatch.context() as patch, contextlib.suppress(CrashError):
        patch.setattr(Path, "unlink", unlink)
        spool.set_aside(part, {}, keep=False)
    spool.close_all()
    again = Spool(tmp_path / "spool")
    assert done
    assert [again.parts(state) for state in State] == [[]] * len(State)
    again.close_all()


def test_a_part_that_ends_the_process_again_and_again_is_known(spool, clock):
    """The attempt is on the disk before it begins, so that a crash counts."""
    put(spool, SERIES, "1")
    clock.now = 10
    [part] = spool.close(timeout_s=10)
    assert [spool.begin_attempt(part) for _ in range(3)] == [0, 1, 2]
    spool.reset_attempts(part)
    assert spool.begin_attempt(part) == 0


# The journal -------------------------------------------------------------------------------------


def test_a_line_that_a_crash_cut_is_no_acknowledgement(tmp_path):
    """Half a UID could be another instance's."""
    journal = SentJournal(tmp_path)
    journal.record("PACS", "2.25.1", "2.25.11")
    [path] = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes() + b"2.25.2")
    assert journal.acknowledged("PACS", "2.25.1") == {"2.25.11"}
    journal.record("PACS", "2.25.1", "2.25.22")
    assert journal.acknowledged("PACS", "2.25.1") == {"2.25.11", "2.25.22"}
    assert journal.acknowledged("OTHER", "2.25.1") == set()


def test_what_was_sent_long_ago_is_forgotten(tmp_path):
    """A journal of years would fill the disk."""
    journal = SentJournal(tmp_path)
    journal.record("PACS", "2.25.1", "2.25.11")
    journal.record("PACS", "2.25.2", "2.25.22")
    [old] = tmp_path.glob("*/2.25.1")
    os.utime(old, (0, 0))
    assert journal.forget(older_than_days=1) == 1
    assert journal.acknowledged("PACS", "2.25.1") == set()
    assert journal.acknowledged("PACS", "2.25.2") == {"2.25.22"}


# Small parts -------------------------------------------------------------------------------------


def test_backoff_doubles_to_its_cap_and_begins_anew(clock):
    """A target that is down for a night is not asked ten times a second, nor forgotten."""
    backoff = Backoff(10.0, clock)
    waits = []
    for _ in range(6):
        backoff.failed("PACS")
        waits.append(backoff.wait_s("PACS"))
    assert waits == [1, 2, 4, 8, 10, 10]
    clock.now = 10
    assert backoff.wait_s("PACS") == 0
    backoff.succeeded("PACS")
    backoff.failed("PACS")
    assert backoff.wait_s("PACS") == 1


@pytest.mark.parametrize(
    ("text", "calling", "address", "accepted"),
    [
        ("MRI1@10.1.2.3", "MRI1", "10.1.2.3", True),
        ("MRI1@10.1.2.3", " MRI1 ", "10.1.2.3", True),
        ("MRI1@10.1.2.3", "MRI1", "::ffff:10.1.2.3", True),
        ("MRI1@10.1.2.3", "MRI2", "10.1.2.3", False),
        ("MRI1@10.1.2.3", "mri1", "10.1.2.3", False),
        ("MRI1@10.1.2.3", "MRI1", "10.1.2.4", False),
        ("MRI1@10.1.2.0/24", "MRI1", "10.1.2.77", True),
        ("MRI1@[fe80::1]", "MRI1", "fe80::1%eth0", True),
        ("MRI1@localhost", "MRI1", "127.0.0.1", True),
    ],
)
def test_a_peer_is_a_title_and_an_address(text, calling, address, accepted):
    """Titles are case-sensitive and easily copied: the address must fit too."""
    assert parse_peer(text).is_from(calling, address) is accepted


def test_unnamed_peers_come_from_this_machine_alone():
    """Nothing was said, so nobody outside is meant."""
    assert ANY_ON_THIS_MACHINE.is_from("ANY", "127.0.0.1")
    assert not ANY_ON_THIS_MACHINE.is_from("ANY", "10.1.2.3")
    assert bind_address([ANY_ON_THIS_MACHINE]) == "127.0.0.1"
    assert bind_address([parse_peer("A@127.0.0.1"), parse_peer("B@10.1.2.3")]) == "0.0.0.0"


@pytest.mark.parametrize("text", ["MRI1", "@host", "A@", "A" * 17 + "@10.1.2.3", "A\\B@10.1.2.3"])
def test_what_names_no_peer_is_refused(text):
    """A typing error must not open or close the door by accident."""
    with pytest.raises(InputError):
        parse_peer(text)


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "PACS@host:0", "PACS@host:x", "@host:104"])
def test_what_names_no_target_is_refused(text):
    """Found at the start, not when the first series is through."""
    with pytest.raises(InputError):
        parse_target(text)


def test_targets_are_read_with_names_and_both_kinds_of_addresses():
    """As the option prints them."""
    for text in ("PACS@pacs.example:104", "PACS@10.1.2.3:104", "PACS@[::1]:11112"):
        assert str(parse_target(text)) == text


def test_metrics_are_prometheus_text():
    """A quote in a label must not break the whole page."""
    metrics = Metrics()
    metrics.count("forward_failures_total", target='A"B\\C', reason="x")
    metrics.count("forward_failures_total", 2, target="D", reason="x")
    metrics.gauge("parts", "Parts.", lambda: {(("state", "closed"),): 3.0})
    text = metrics.as_text()
    assert 'forward_failures_total{reason="x",target="A\\"B\\\\C"} 1\n' in text
    assert "# TYPE kspacesr_node_parts gauge\n" in text
    assert 'kspacesr_node_parts{state="closed"} 3\n' in text
    assert metrics.value("forward_failures_total", reason="x") == 3
