"""Who reaches the node's port: strangers, broken programs and attackers lock out no sender."""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import struct
import sys
import threading
import tracemalloc
from random import Random

import pytest
from node_cases import (
    PATIENCE_S,
    association,
    dataset_bytes,
    few_files,
    make_series,
    send,
    store,
    wait_until,
)
from node_wire import (
    ABORT,
    REJECT,
    Wire,
    command,
    item,
    pdu,
    pdv,
    request,
    status_of,
)
from pydicom import dcmread

from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.log import REPEAT_AFTER_S, Log, RateLimitedLog
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node import acceptor, incoming_instance, listener
from kspacesr_rt.services.node.peers import ANY_ON_THIS_MACHINE, parse_peer
from kspacesr_rt.services.node.receiver import Receiver
from kspacesr_rt.services.node.spool import Spool
from kspacesr_rt.services.node.spool_part import Limits, State

SUCCESS, OUT_OF_RESOURCES, DOES_NOT_MATCH = 0x0000, 0xA700, 0xA900
ELSEWHERE = "127.0.0.9"
"""Another address of this machine; only Linux has it without being asked."""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux listens on all of 127.0.0.0/8"
)


class Place:
    """A receiver on a port of its own."""

    def __init__(self, folder, peers) -> None:
        self.spool, self.metrics, self.text = Spool(folder / "spool"), Metrics(), io.StringIO()
        self.receiver = Receiver("KSPACESR", peers, self.spool, self.metrics, Log(self.text))
        self.port = self.receiver.start("127.0.0.1", 0)

    def rejected(self, reason):
        return self.metrics.value("associations_rejected_total", reason=reason)

    def aborted(self, reason):
        return self.metrics.value("associations_aborted_total", reason=reason)

    def incoming(self):
        return list((self.spool.root / "incoming").iterdir())

    def is_quiet(self):
        """Return whether nobody is left: neither a thread nor a connection nor a file."""
        threads = [one for one in threading.enumerate() if "AcceptorThread" in one.name]
        nobody = not (threads or self.receiver.n_associations or self.receiver.n_waiting)
        return nobody and not self.incoming()

    def stop(self):
        self.receiver.stop(timeout_s=5)
        self.spool.close_all()


@pytest.fixture
def make_place(tmp_path):
    made = []

    def make(*accepted):
        made.append(Place(tmp_path, [parse_peer(one) for one in accepted] or [ANY_ON_THIS_MACHINE]))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def place(make_place):
    return make_place()


@contextlib.contextmanager
def echo_from(source, port, title="MRI1"):
    """Associate from one of this machine's addresses; yields the association."""
    with association(port, calling=title, echo=True, source=source) as held:
        yield held


def answers_echo(source, port):
    with echo_from(source, port) as held:
        return held.is_established and held.send_c_echo().Status == SUCCESS


# Before an association ----------------------------------------------------------------------------


def test_an_address_that_nobody_may_send_from_is_turned_away_unheard(make_place):
    """A load balancer's health check, or a scanner: it costs no thread, and is told of once."""
    place = make_place(f"MRI1@{ELSEWHERE}")
    for _ in range(60):
        with Wire(place.port) as wire:
            assert wire.answer() == b"", "it is closed before anything was sent"
    assert place.rejected("address") == 60
    assert answers_echo(ELSEWHERE, place.port)
    wait_until(place.is_quiet, "the end of the echo")
    lines = place.text.getvalue().splitlines()
    assert sum("event=association-rejected reason=address" in line for line in lines) == 1


def test_a_stranger_can_neither_wait_nor_flood(make_place):
    """Connections that say nothing, and requests that are far too long: none is read."""
    place = make_place(f"MRI1@{ELSEWHERE}")
    held = [Wire(place.port) for _ in range(100)]
    for wire in held:
        with contextlib.suppress(ConnectionError):
            wire.send(struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + bytes(4096))
    assert answers_echo(ELSEWHERE, place.port)
    assert all(wire.answer() == b"" for wire in held)
    for wire in held:
        wire.close()
    wait_until(place.is_quiet, "an empty port")


BROKEN = {
    "nothing": (b"", None, None),
    "http": (b"GET / HTTP/1.0\r\n\r\n", ABORT, "malformed"),
    "tls": (bytes.fromhex("16030100510100004d0303") + bytes(81), ABORT, "malformed"),
    "half a header": (b"\1\0\0", None, "incomplete"),
    "no body": (struct.pack(">BBL", 1, 0, 100), None, "incomplete"),
    "half a request": (request()[:50], None, "incomplete"),
    "4 GiB": (struct.pack(">BBL", 1, 0, 0xFFFFFFFF), ABORT, "too-long"),
    "an empty request": (pdu(1, b""), ABORT, "malformed"),
    "junk as a request": (pdu(1, b"\xff" * 100), ABORT, "malformed"),
    "control character": (request(calling=b"A\nB"), ABORT, "malformed"),
    "no calling title": (request(calling=b" "), ABORT, "malformed"),
    "user identity cut off": (
        request(user=struct.pack(">BBHBBH", 0x58, 0, 10, 2, 1, 4) + b"user\0\2pw"),
        ABORT,
        "malformed",
    ),
    "item with a length that lies": (
        pdu(1, request()[6:-4] + item(0x52, b"1.2")[:3]),
        ABORT,
        "malformed",
    ),
    "answer instead": (b"\2" + request()[1:], ABORT, "malformed"),
    "data first": (pdv(3, b"ab"), ABORT, "malformed"),
    "abort first": (pdu(7, bytes(4)), ABORT, "malformed"),
    "release first": (pdu(5, bytes(4)), ABORT, "malformed"),
    "unknown type": (pdu(0x55, bytes(4)), ABORT, "malformed"),
    "version": (request(version=0xFFFE), REJECT, "protocol-version"),
    "called": (request(called=b"OTHER"), REJECT, "called-ae"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_program_leaves_nothing_behind(place, what):
    """However it is broken, many of it take no place; each is counted by its reason."""
    content, answer, reason = BROKEN[what]
    n = listener.MAX_WAITING_PER_ADDRESS
    for _ in range(n):
        with Wire(place.port) as wire:
            wire.send(content)
            if answer is not None:
                assert wire.answer()[:1] == bytes([answer])
                assert wire.answer() == b""
    if reason:
        wait_until(lambda: place.rejected(reason) == n, "the count")
    wait_until(place.is_quiet, "an empty port")
    assert place.metrics.value("associations_rejected_total") == (n if reason else 0)
    assert place.metrics.value("internal_errors_total") == 0
    assert answers_echo("127.0.0.1", place.port)


def test_whoever_hangs_up_right_after_the_request_takes_no_place(place):
    """The association is established for nobody; pynetdicom alone would keep it for a while."""
    for _ in range(2 * acceptor.MAX_ASSOCIATIONS):
        with Wire(place.port) as wire:
            wire.send(request())
    wait_until(place.is_quiet, "an empty port")
    assert answers_echo("127.0.0.1", place.port)


def test_the_deadline_is_for_the_whole_request_not_for_each_byte(make_place, monkeypatch):
    """Who drips is cut off as if he said nothing."""
    monkeypatch.setattr(listener, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(listener, "TICK_S", 0.05)
    place = make_place()
    with Wire(place.port) as wire, contextlib.suppress(ConnectionError):
        for byte in request():
            wire.send(bytes([byte]))
            threading.Event().wait(0.05)  # in all, it would take twelve seconds
    assert place.rejected("late") == 1
    wait_until(place.is_quiet, "an empty port")


def test_of_many_who_wait_the_oldest_goes(make_place):
    """A sender's request follows at once: it is never the oldest."""
    place = make_place()
    n = listener.MAX_WAITING_PER_ADDRESS
    held = [Wire(place.port) for _ in range(n)]
    wait_until(lambda: place.receiver.n_waiting == n, "those who wait")
    assert answers_echo("127.0.0.1", place.port)
    assert held[0].answer() == b"", "it made room"
    assert place.rejected("too-many-waiting") == 1
    assert place.receiver.n_waiting == n - 1
    with Wire(place.port, source=ELSEWHERE):
        wait_until(lambda: place.receiver.n_waiting == n, "another address: nobody has to go")
    for wire in held:
        wire.close()


def test_whoever_asks_while_it_stops_is_turned_away_for_the_time_being(place, monkeypatch):
    """A sender tries again later; one that was let in would be cut off in an instance."""
    close, answers = listener.Listener.close, []

    def asked_first(one):
        answers.append(answers_echo("127.0.0.1", place.port))
        close(one)

    monkeypatch.setattr(listener.Listener, "close", asked_first)
    place.stop()
    assert answers == [False]
    assert place.rejected("congested") == 1


def test_only_associations_count_and_no_address_takes_every_place(place):
    """Established ones; and one sender that forgets to end its own leaves room for the others."""
    with contextlib.ExitStack() as stack:
        for _ in range(acceptor.MAX_PER_ADDRESS):
            stack.enter_context(Wire(place.port)).associate()
        with Wire(place.port) as wire:
            wire.send(request())
            assert wire.answer()[:1] == bytes([REJECT])
        assert place.rejected("too-many") == 1
        others = acceptor.MAX_ASSOCIATIONS - acceptor.MAX_PER_ADDRESS
        for _ in range(others):
            stack.enter_context(Wire(place.port, source=ELSEWHERE)).associate()
        with Wire(place.port, source="127.0.0.5") as wire:
            wire.send(request())
            answer = wire.answer()
        assert (answer[0], tuple(answer[7:10])) == (REJECT, (2, 3, 2)), "transient, local limit"
    wait_until(place.is_quiet, "an empty port")
    assert answers_echo("127.0.0.1", place.port)


def test_a_door_without_file_descriptors_says_so_rests_and_goes_on(place):
    """EMFILE, for real: the port stays, and nobody is served meanwhile."""
    with contextlib.ExitStack() as stack:
        # Made before: their own descriptors must not be those that run out.
        callers = [stack.enter_context(socket.socket()) for _ in range(3)]
        stack.enter_context(few_files(spare=0))
        for caller in callers:
            caller.connect(("127.0.0.1", place.port))
        wait_until(lambda: place.metrics.value("file_limit_total", where="accept"), "the limit")
        threading.Event().wait(0.2)
    assert answers_echo("127.0.0.1", place.port)
    assert "event=file-limit where=accept" in place.text.getvalue()
    # It rests between two attempts: without, there are thousands a second.
    assert place.metrics.value("file_limit_total", where="accept") < 100
    assert place.metrics.value("internal_errors_total") == 0


# Within an association ----------------------------------------------------------------------------


def ends_with_abort(wire):
    return wire.answer()[:1] == bytes([ABORT]) and wire.answer() == b""


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 7])
def test_no_pdu_is_read_that_is_longer_than_was_negotiated(place, kind):
    """Of whatever type: its length alone must not make us wait, nor reserve memory."""
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(struct.pack(">BBL", kind, 0, acceptor.MAX_PDU_BYTES + 7))
        assert ends_with_abort(wire)
    assert place.aborted("pdu-too-long") == 1
    wait_until(place.is_quiet, "the end")


def test_a_pdu_of_the_negotiated_length_is_read(place, tmp_path):
    """Exactly as long, and longer by the overhead that some senders do not count."""
    [path] = make_series(tmp_path, 1, 1)
    content = padded(path, acceptor.MAX_PDU_BYTES + 2)
    first = acceptor.MAX_PDU_BYTES
    uid = str(dcmread(path).SOPInstanceUID)
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(pdv(3, command(uid)) + pdv(0, content[:first]) + pdv(2, content[first:]))
        assert status_of(wire.answer()) == SUCCESS


def test_a_pdu_that_drips_ends_its_association(place, monkeypatch):
    """A fragment of which nothing more comes would hold its thread for ever."""
    monkeypatch.setattr(acceptor, "NETWORK_TIMEOUT_S", 0.5)
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(pdv(3, command())[:20])
        assert wire.answer() == b""
    assert place.aborted("slow") == 1
    wait_until(place.is_quiet, "the end")


def test_a_pdus_deadline_is_for_the_whole_of_it(place, monkeypatch):
    """Byte by byte, each in time, 256 KiB would hold a thread for half a year."""
    monkeypatch.setattr(acceptor, "NETWORK_TIMEOUT_S", 0.5)
    with Wire(place.port) as wire:
        wire.associate()
        with contextlib.suppress(ConnectionError):
            for byte in pdv(3, command()):  # in all, twelve seconds and more
                wire.send(bytes([byte]))
                threading.Event().wait(0.1)
            pytest.fail("the whole PDU was waited for")
    assert place.aborted("slow") == 1
    wait_until(place.is_quiet, "the end")


def test_a_message_that_drips_ends_its_association(place, monkeypatch):
    """Each PDU in time, and no end of them."""
    monkeypatch.setattr(incoming_instance, "MESSAGE_GRACE_S", 0.0)
    monkeypatch.setattr(incoming_instance, "MIN_BYTES_PER_S", 1 << 30)
    with Wire(place.port) as wire:
        wire.associate()
        for content in (pdv(3, command()), pdv(0, b"x")):
            wire.send(content)
        assert ends_with_abort(wire)
    assert place.aborted("slow") == 1
    wait_until(place.is_quiet, "the end")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pdv(1, bytes(16000)) * 6, "command-too-long"),
        (pdv(2, b"data without a command"), "unintelligible"),
        (pdv(3, b"\0\0\0\0 no command set"), "unintelligible"),
        (pdv(3, command(field=0x7777)), "unintelligible"),
        (pdv(3, command(message_id=None)) + pdv(2, bytes(5000)), "unintelligible"),
        (pdv(3, command()) + pdv(3, command()), "unintelligible"),
        (pdu(4, struct.pack(">LB", 1, 1)), "unintelligible"),
        (pdv(3, command(), context=77) + pdv(2, b""), "unintelligible"),
        (pdv(3, command(field=0x0020)) + pdv(0, bytes(16000)) * 6, "command-too-long"),
    ],
)
def test_what_breaks_the_protocol_is_aborted(place, content, reason, capfd):
    """No thread dies of it, nothing is kept of it, nothing is printed of it."""
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(content)
        assert ends_with_abort(wire)
    assert place.aborted(reason) == 1
    wait_until(place.is_quiet, "the end")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pdu(0x55, b""), "invalid-pdu"),
        (pdu(4, b"\0\0"), "invalid-pdu"),
        (pdu(4, struct.pack(">L", 100) + b"\1\3"), "invalid-pdu"),
        (request(), "unexpected-pdu"),
        (pdu(6, bytes(4)), "unexpected-pdu"),
        (pdu(3, bytes((0, 1, 1, 1))), "unexpected-pdu"),
    ],
)
def test_every_pdu_that_is_wrong_is_counted_and_told(place, content, reason):
    """The library ends such associations by itself, and in silence."""
    for _ in range(3):
        with Wire(place.port) as wire:
            wire.associate()
            wire.send(content)
            assert ends_with_abort(wire)
    wait_until(lambda: place.aborted(reason) == 3, "the counts")
    wait_until(place.is_quiet, "the end")
    assert place.metrics.value("associations_aborted_total") == 3
    assert place.metrics.value("associations_broken_off_total") == 0
    lines = [line for line in place.text.getvalue().splitlines() if "association-aborted" in line]
    assert len(lines) == 1, "once a minute"
    assert f"reason={reason} sender=SENDER@127.0.0.1" in lines[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "connection-lost"),
        (pdv(3, command())[:9], "connection-lost"),
        (pdv(3, command()), "connection-lost"),
        (pdu(7, bytes(4)), "aborted"),
        (pdv(3, command()) + pdu(7, bytes(4)), "aborted"),
    ],
)
def test_every_association_that_its_sender_breaks_off_is_counted_and_told(place, content, reason):
    """A scanner that does so has images that never arrive: its engineer wants to know."""
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(content)
    wait_until(
        lambda: place.metrics.value("associations_broken_off_total", reason=reason) == 1,
        "the count",
    )
    wait_until(place.is_quiet, "the end")
    assert place.metrics.value("associations_broken_off_total") == 1
    assert place.metrics.value("associations_aborted_total") == 0
    assert f"association-broken-off reason={reason} sender=SENDER@127" in place.text.getvalue()


def test_an_association_that_falls_silent_is_counted(place, monkeypatch):
    """A cable was pulled: nothing says so but time."""
    monkeypatch.setattr(place.receiver._acceptor._ae, "_network_timeout", 0.5)
    with Wire(place.port) as wire:
        wire.associate()
        assert ends_with_abort(wire)
    assert place.aborted("idle") == 1
    wait_until(place.is_quiet, "the end")
    assert place.metrics.value("associations_broken_off_total") == 0


def test_what_follows_the_end_of_an_association_is_no_accident(place):
    """Several things may be wrong at once: the library's thread would die of the second."""
    with Wire(place.port) as wire:
        wire.associate()
        [held] = place.receiver._acceptor._held
        wire.send(pdu(0x55, b""))
        assert ends_with_abort(wire)
    wait_until(place.is_quiet, "the end")
    for event in ("Evt19", "Evt10", "Evt9", "Evt17", "Evt14"):
        held.association.dul.state_machine.do_action(event)
    assert place.aborted("invalid-pdu") == 1


def test_a_release_and_the_end_of_the_node_are_no_faults(make_place):
    """Nothing was wrong with either."""
    place = make_place()
    assert answers_echo("127.0.0.1", place.port)
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(pdu(5, bytes(4)))
        assert wire.answer()[:1] == b"\6"
    wait_until(place.is_quiet, "the end")
    with Wire(place.port) as wire:
        wire.associate()
        place.receiver.stop(timeout_s=0)
        assert ends_with_abort(wire)
    for name in ("associations_aborted_total", "associations_broken_off_total"):
        assert place.metrics.value(name) == 0


def test_changed_bytes_leave_nothing(place, tmp_path):
    """Wherever they are, in lengths, commands or data: neither a file, nor a thread, nor room."""
    [path] = make_series(tmp_path, 1, 1)
    body = padded(path, 6000)
    random = Random(1)
    with quiet_pydicom():  # as the node is; here, a warning of a thread is an error
        for number in range(150):
            content = bytearray(pdv(3, command(f"1.2.3.{number}")) + pdv(2, body))
            for _ in range(random.choice((1, 2, 8))):
                content[random.randrange(random.choice((60, 200, 2200)))] = random.randrange(256)
            with Wire(place.port, timeout_s=0.05) as wire, contextlib.suppress(OSError):
                wire.send(request())
                wire.answer()
                wire.send(content)
                wire.answer()
        wait_until(place.is_quiet, "the end")
    wait_until(lambda: not place.spool._claims, "its room, given back right after the file")
    assert place.metrics.value("internal_errors_total") == 0


def test_requests_without_waiting_for_answers_are_bounded(place, monkeypatch):
    """Nothing of the kind is negotiated; they would pile up in memory and on the disk."""
    free = threading.Event()
    original = durable_files.sync_file
    monkeypatch.setattr(
        durable_files, "sync_file", lambda *told: free.wait(PATIENCE_S) or original(*told)
    )
    with Wire(place.port) as wire:
        wire.associate()
        for number in range(3 * incoming_instance.MAX_OUTSTANDING):
            with contextlib.suppress(ConnectionError):
                wire.send(pdv(3, command(message_id=number + 1)) + pdv(2, b"x" * 100))
        wait_until(lambda: place.aborted("too-many-requests"), "the end")
        free.set()
    wait_until(place.is_quiet, "the end")


def test_an_instance_that_ends_halfway_leaves_nothing(place, tmp_path):
    """The sender was switched off, or says that it gives up."""
    [path] = make_series(tmp_path, 1, 1)
    content = padded(path, 20_000)
    for goodbye in (b"", pdu(7, bytes(4))):
        with Wire(place.port) as wire:
            wire.associate()
            wire.send(pdv(3, command()) + pdv(0, content[:9000]))
            wait_until(place.incoming, "the first half")
            wire.send(goodbye)
        wait_until(place.is_quiet, "the end")
    assert send(place.port, [path]) == [SUCCESS]


# What an accepted sender may send -----------------------------------------------------------------


def padded(path, n_bytes):
    """Return an instance's data set, behind File Meta Information, filled up to a length."""
    ds = dcmread(path)
    ds.DataSetTrailingPadding = bytes(8)
    ds["DataSetTrailingPadding"].VR = "OB"
    buffer = io.BytesIO()
    ds.save_as(buffer)
    whole = buffer.getvalue()
    start = 132 + 12 + int(dcmread(io.BytesIO(whole)).file_meta.FileMetaInformationGroupLength)
    plain = whole[start:-20]  # tag, VR, length and value of the padding
    filler = n_bytes - len(plain) - 12
    return plain + struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, filler) + bytes(filler)


def stream(wire, n_bytes, piece):
    """Send a C-STORE of so many bytes; return its status."""
    wire.send(pdv(3, command()))
    for _ in range(n_bytes // len(piece)):
        wire.send(pdv(0, piece))
    wire.send(pdv(2, b"xx"))
    return status_of(wire.answer())


@pytest.mark.parametrize("bound", ["spool", "instance"])
def test_a_data_set_without_room_is_refused_while_it_streams(place, tmp_path, monkeypatch, bound):
    """Out of Resources, after its last byte: neither the disk nor memory holds more than fits."""
    if bound == "spool":
        place.spool.limits = Limits(n_bytes=1_000_000, growth=4.0)
    else:
        monkeypatch.setattr(incoming_instance, "MAX_INSTANCE_BYTES", 1_000_000)
    n_bytes = 40_000_000 if bound == "spool" else 1_800_000
    piece = bytes(200_000)
    with Wire(place.port) as wire:
        wire.associate()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            status = stream(wire, n_bytes, piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert status == OUT_OF_RESOURCES
        assert peak - before < 8_000_000
        reason = "full-disk" if bound == "spool" else "too-large"
        assert place.metrics.value("instances_refused_total", reason=reason) == 1
        wait_until(lambda: not place.incoming(), "nothing to be left")
    wait_until(place.is_quiet, "the end")
    [path] = make_series(tmp_path, 1, 1)
    assert send(place.port, [path]) == [SUCCESS], "a small one fits"


def test_a_data_set_of_another_instance_than_was_named_is_refused(place, tmp_path):
    """The sender would take the one for delivered, and the target get the other."""
    [path] = make_series(tmp_path, 1, 1)
    content = dataset_bytes(path)
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(pdv(3, command("1.2.3.4")) + pdv(0, content[:9000]) + pdv(2, content[9000:]))
        assert status_of(wire.answer()) == DOES_NOT_MATCH
    assert place.metrics.value("instances_refused_total", reason="identity") == 1
    assert place.spool.parts(State.received) == []
    assert send(place.port, [path]) == [SUCCESS]


def test_two_that_stream_in_share_the_room(place):
    """Each alone would fit: the second is refused before the disk is fuller than it may be."""
    place.spool.limits = Limits(n_bytes=3_000_000)
    with Wire(place.port) as first, Wire(place.port) as second:
        for wire in (first, second):
            wire.associate()
        first.send(pdv(3, command()))
        for _ in range(20):
            first.send(pdv(0, bytes(100_000)))
        wait_until(
            lambda: sum(path.stat().st_size for path in place.incoming()) > 2_000_000, "the first"
        )
        assert stream(second, 2_500_000, bytes(100_000)) == OUT_OF_RESOURCES
        first.send(pdv(2, b"xx"))
        assert status_of(first.answer()) != OUT_OF_RESOURCES
    wait_until(place.is_quiet, "the end")
    wait_until(lambda: not place.spool._claims, "its room, given back right after the file")


def test_a_data_set_without_end_is_given_up(place, monkeypatch):
    """Refused long since, and read on for politeness only."""
    monkeypatch.setattr(incoming_instance, "MAX_INSTANCE_BYTES", 100_000)
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(pdv(3, command()))
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                wire.send(pdv(0, bytes(16_000)))
        wait_until(lambda: place.aborted("too-large"), "the end of patience")
    wait_until(place.is_quiet, "the end")


def test_a_full_disk_halfway_is_out_of_resources(place, tmp_path, monkeypatch):
    """What is on it goes at once, and the association goes on."""
    [path] = make_series(tmp_path, 1, 1)
    original, full = durable_files.extend, []

    def extend(descriptor, content):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor, content)

    monkeypatch.setattr(durable_files, "extend", extend)
    with Wire(place.port) as wire:
        wire.associate()
        wire.send(pdv(3, command()) + pdv(0, bytes(10_000)))
        wait_until(place.incoming, "the file")
        full.append(1)
        wire.send(pdv(0, bytes(10_000)))
        wait_until(lambda: not place.incoming(), "room")
        wire.send(pdv(2, bytes(10_000)))
        assert status_of(wire.answer()) == OUT_OF_RESOURCES
        assert place.metrics.value("instances_refused_total", reason="full-disk") == 1
        full.clear()
    assert send(place.port, [path]) == [SUCCESS]


def test_a_spool_without_file_descriptors_says_so_and_recovers(place, tmp_path):
    """The sender keeps its instance, and sends it again."""
    [path] = make_series(tmp_path, 1, 1)
    with association(place.port) as held:
        with few_files(spare=0):
            assert store(held, path) == OUT_OF_RESOURCES
        assert store(held, path) == SUCCESS
    assert place.metrics.value("file_limit_total", where="receive") == 1
    assert "event=instance-refused reason=file-limit" in place.text.getvalue()
    [part] = place.spool.parts(State.received)
    assert len(list(part.inputs.iterdir())) == 1


# What is told -------------------------------------------------------------------------------------


def test_what_others_cause_is_told_once_a_minute_with_a_count():
    """A log that anybody can fill is a full disk."""
    now, text = [0.0], io.StringIO()
    seldom = RateLimitedLog(Log(text), clock=lambda: now[0])
    for _ in range(5):
        seldom.write("refused", reason="a")
    seldom.write("refused", reason="b")
    assert [line.split(" ", 1)[1] for line in text.getvalue().splitlines()] == [
        "event=refused reason=a",
        "event=refused reason=b",
    ]
    seldom.flush()
    assert len(text.getvalue().splitlines()) == 2
    now[0] = REPEAT_AFTER_S
    seldom.flush()
    seldom.flush()
    assert text.getvalue().splitlines()[2:][0].endswith("event=refused reason=a times=4")
    assert len(text.getvalue().splitlines()) == 3
