"""The node's log: an operator follows one series through it, from its senders to every target."""

from __future__ import annotations

import re

from node_cases import (
    PATIENT,
    Running,
    TargetServer,
    make_series,
    no_series_ends,
    send,
    wait_until,
)
from pydicom import dcmread

from kspacesr_rt.services.node import parse_target
from kspacesr_rt.services.node.spool import MAX_SENDERS, Spool

SUCCESS = 0x0000


def events(node, name):
    """Return the values of every line of an event."""
    lines = [line for line in node.text.getvalue().splitlines() if f" event={name} " in line]
    return [{k: v.strip('"') for k, v in re.findall(r'(\S+?)=("[^"]*"|\S+)', one)} for one in lines]


def test_a_series_can_be_followed_from_its_senders_to_its_targets(tmp_path):
    """Every line that is about it names its part; those about a target name that, with counts."""
    first, second = make_series(tmp_path / "in", 1), make_series(tmp_path / "in", 2)
    phase = dcmread(first[2])
    phase.ImageType = ["ORIGINAL", "PRIMARY", "PHASE"]
    with TargetServer() as good, TargetServer() as full:
        full.answer = lambda n: 0x0111
        targets = (parse_target(good.name), parse_target(full.name))
        with Running(tmp_path / "spool", targets=targets, series_timeout_s=0.5) as node:
            with no_series_ends():
                assert send(node.port, [first[0], first[0]], calling="MRI1") == [SUCCESS] * 2
                assert send(node.port, [first[1], phase], calling="MRI2") == [SUCCESS] * 2
            wait_until(lambda: events(node, "undelivered"), "the first series")
            full.answer = lambda n: SUCCESS
            with no_series_ends():
                assert send(node.port, second, calling="MRI1") == [SUCCESS] * 3
            wait_until(lambda: events(node, "delivered"), "the second series")
            text = node.text.getvalue()
    assert PATIENT not in text
    assert "2.25." not in text
    one, other = [told["part"] for told in events(node, "closed")]

    def about(part, name):
        return [told for told in events(node, name) if told["part"] == part]

    received = {told["sender"]: told for told in about(one, "received")}
    assert received.keys() == {"MRI1@127.0.0.1", "MRI2@127.0.0.1"}
    assert (received["MRI1@127.0.0.1"]["instances"], received["MRI1@127.0.0.1"]["repeated"]) == (
        "1",
        "1",
    )
    assert received["MRI2@127.0.0.1"]["instances"] == "2"
    [closed], [processed] = about(one, "closed"), about(one, "processed")
    assert closed["instances"] == "3"
    assert (processed["written"], processed["skipped"], processed["failed"]) == ("2", "1", "0")
    forwarded = {told["target"]: told for told in about(one, "forwarded")}
    assert (forwarded[good.name]["instances"], forwarded[good.name]["refused"]) == ("2", "0")
    assert (forwarded[full.name]["instances"], forwarded[full.name]["refused"]) == ("0", "2")
    [undelivered] = about(one, "undelivered")
    assert (undelivered["instances"], undelivered["targets"]) == ("2", full.name)
    [delivered] = about(other, "delivered")
    assert delivered["targets"] == f"{good.name},{full.name}"
    assert [told["instances"] for told in about(other, "forwarded")] == ["3", "3"]


def test_what_is_withheld_or_set_aside_is_named(tmp_path):
    """An earlier part whose results wait, and the later one that corrects it."""
    paths = make_series(tmp_path / "in", 1)
    corrected = dcmread(paths[0])
    corrected.PatientName = "OTHER^NAME"
    phase = dcmread(paths[1])
    phase.ImageType, phase.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "PHASE"], "1.2.3"
    with TargetServer() as down:
        pass  # its port is free again
    target = parse_target(down.name)
    how = {"targets": (target,), "series_timeout_s": 0.5, "retry_max_s": 0.1}
    with Running(tmp_path / "spool", **how) as node:
        with no_series_ends():
            assert send(node.port, paths) == [SUCCESS] * 3
        wait_until(lambda: events(node, "forward-failed"), "an attempt")
        assert send(node.port, [corrected, phase]) == [SUCCESS] * 2
        wait_until(lambda: events(node, "withheld") and events(node, "set-aside"), "both")
        with down:
            wait_until(lambda: len(events(node, "delivered")) == 2, "the rest")
        [older] = [told["part"] for told in events(node, "closed") if told["instances"] == "3"]
        [failed, *_] = events(node, "forward-failed")
        assert (failed["part"], failed["target"]) == (older, str(target))
        [withheld], [aside] = events(node, "withheld"), events(node, "set-aside")
        assert (withheld["part"], withheld["instances"]) == (older, "1")
        assert withheld["corrected_by"] in [told["part"] for told in events(node, "closed")]
        assert (aside["files"], aside["reasons"]) == ("1", "skipped: phase x1")
        [forwarded] = [told for told in events(node, "forwarded") if told["part"] == older]
        assert (forwarded["instances"], forwarded["withheld"]) == ("2", "1")
    assert len(down.received) == 3


def test_what_was_sent_before_a_restart_is_told_apart(tmp_path):
    """Nothing is sent twice, and the log does not say so either."""
    paths = make_series(tmp_path / "in", 1)
    with TargetServer() as target:
        how = {"targets": (parse_target(target.name),), "series_timeout_s": 0.5}
        target.answer = lambda n: 0xA700 if n == 2 else SUCCESS
        with Running(tmp_path / "spool", **how) as node:
            with no_series_ends():
                assert send(node.port, paths) == [SUCCESS] * 3
            wait_until(lambda: events(node, "forward-failed"), "the third")
        target.answer = lambda n: SUCCESS
        with Running(tmp_path / "spool", **how) as node:
            wait_until(lambda: events(node, "delivered"), "the end")
            [forwarded] = events(node, "forwarded")
    assert (forwarded["instances"], forwarded["before"]) == ("1", "2")


def test_a_refused_instance_names_its_sender(tmp_path):
    """Somebody has to call the scanner's engineer."""
    [path] = make_series(tmp_path / "in", 1, 1)
    ds = dcmread(path)
    ds.SeriesInstanceUID = ""
    with Running(tmp_path / "spool") as node:
        assert send(node.port, [ds], calling="MRI1") == [0xA900]
        [refused] = events(node, "instance-refused")
    assert (refused["sender"], refused["reason"]) == ("MRI1@127.0.0.1", "no-series")


def test_senders_of_a_series_are_told_apart_up_to_a_bound(tmp_path):
    """Whoever is let in under any title must not fill the memory with titles."""
    spool = Spool(tmp_path)
    for number in range(3 * MAX_SENDERS):
        spool.store(("a", "b"), f"1.{number}", spool.incoming(b"x"), sender=f"A{number}@host")
    [part] = spool.close(timeout_s=0)
    assert len(part.arrived) == MAX_SENDERS + 1
    assert sum(sum(one.values()) for one in part.arrived.values()) == 3 * MAX_SENDERS
    spool.close_all()


def test_a_series_that_came_over_one_association_waits_for_no_silence(tmp_path):
    """An hour of it is asked for; its sender has released the association."""
    paths = make_series(tmp_path / "in", 1)
    with TargetServer() as target:
        how = {"targets": (parse_target(target.name),), "released_timeout_s": 0.2}
        with Running(tmp_path / "spool", series_timeout_s=3600, **how) as node:
            with no_series_ends():
                assert send(node.port, paths) == [SUCCESS] * len(paths)
            wait_until(lambda: events(node, "delivered"), "the series")
    assert events(node, "closed")[0]["instances"] == str(len(paths))
