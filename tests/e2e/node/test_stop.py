"""How a node ends while a target hangs: within its grace, and with nothing lost or sent twice."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading

import pytest
from node_cases import (
    PATIENCE_S,
    NodeProcess,
    TargetServer,
    make_series,
    send,
    wait_until,
)
from node_wire import item, pdu
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.acse import ACSE

from kspacesr_rt.services.node import parse_target, requestor

pytestmark = pytest.mark.usefixtures("from_a_warm_process")

GRACE_S = 2
SUCCESS = 0x0000


class Hanging:
    """A target that goes so far, and no further."""

    def __init__(self, stage) -> None:
        self.stage, self.reached = stage, threading.Event()
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.name = f"PACS@127.0.0.1:{self._listener.getsockname()[1]}"
        self._held = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._held.append(connection)
                self._go(connection)

    def _go(self, connection) -> None:
        header = connection.recv(6, socket.MSG_WAITALL)
        asked = connection.recv(struct.unpack(">BBL", header)[2], socket.MSG_WAITALL)
        if self.stage == "request":
            self.reached.set()
            return
        if self.stage == "refusal":
            connection.sendall(pdu(3, bytes([0, 1, 1, 7])))  # called AE title not recognised
            connection.close()
            self.reached.set()
            return
        contexts = b"".join(
            item(0x21, bytes([number, 0, 0, 0]) + item(0x40, syntax))
            for number, syntax in ((1, b"1.2.840.10008.1.2.1"), (3, b"1.2.840.10008.1.2"))
        )
        user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
        about = item(0x10, b"1.2.840.10008.3.1.1.1")
        connection.sendall(pdu(2, asked[:68] + about + contexts + user))
        if self.stage == "answer":
            connection.recv(1)
        self.reached.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # else the thread's accept would hold the port
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._held:
            connection.close()


@pytest.mark.parametrize("stage", ["request", "answer"])
def test_a_hanging_target_holds_up_the_end_no_longer_than_the_grace(tmp_path, stage):
    """It would be killed before it had closed its spool: containers are given ten seconds."""
    paths = make_series(tmp_path / "in", 1, 1)
    hanging = Hanging(stage)
    more = ("--series-timeout", "0.5", "--grace", str(GRACE_S))
    try:
        with NodeProcess(tmp_path / "spool", hanging.name, *more) as node:
            assert send(node.port, paths) == [SUCCESS]
            assert hanging.reached.wait(PATIENCE_S)
            assert node.terminate() == 0
            [last] = [line for line in node.lines if "event=stopped" in line]
            assert "cut_off=nothing" in last, "its own threads have ended"
            assert " waiting=1" in last, "the part is still to be sent"
    finally:
        hanging.close()
    # With the same name, the next start finds a target that is well.
    target = TargetServer()
    target.port = int(hanging.name.rpartition(":")[2])
    with target:
        with NodeProcess(tmp_path / "spool", hanging.name, *more) as node:
            target.wait_for(1)
            wait_until(lambda: not list((tmp_path / "spool").glob("[rcpfu]*ed/*")), "the end")
            assert node.terminate() == 0
        assert len(target.received) == 1


def test_an_answer_that_comes_within_the_grace_is_noted(tmp_path):
    """What was offered when the signal came is not offered again."""
    paths = make_series(tmp_path / "in", 1, 2)
    free, asked = threading.Event(), threading.Event()

    def answer(n):
        asked.set()
        free.wait(PATIENCE_S)
        return SUCCESS

    more = ("--series-timeout", "0.5", "--grace", "60")
    with TargetServer() as target:
        target.answer = answer
        with NodeProcess(tmp_path / "spool", target.name, *more) as node:
            assert send(node.port, paths) == [SUCCESS] * 2
            assert asked.wait(PATIENCE_S)
            node.process.send_signal(signal.SIGTERM)
            node.wait_for("stopping")
            free.set()
            assert node.process.wait(PATIENCE_S) == 0
        assert len(target.received) == 1
        with NodeProcess(tmp_path / "spool", target.name, *more) as node:
            target.wait_for(2)
            assert node.terminate() == 0
        assert len(set(target.received)) == len(target.received) == 2


def test_a_second_sigterm_ends_it_at_once(tmp_path):
    """Whatever it still waits for."""
    paths = make_series(tmp_path / "in", 1, 1)
    hanging = Hanging("answer")
    more = ("--series-timeout", "0.5", "--grace", "3600")
    try:
        with NodeProcess(tmp_path / "spool", hanging.name, *more) as node:
            assert send(node.port, paths) == [SUCCESS]
            assert hanging.reached.wait(PATIENCE_S)
            node.process.send_signal(signal.SIGTERM)
            node.wait_for("stopping")
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(PATIENCE_S) == -signal.SIGTERM, "143 in a shell"
    finally:
        hanging.close()


def test_a_target_that_reads_nothing_is_given_up(tmp_path, monkeypatch):
    """More than the buffers of a connection take: its lane would wait for ever."""
    monkeypatch.setattr(requestor, "ANSWER_TIMEOUT_S", 0.5)
    ds = dcmread(make_series(tmp_path, 1, 1)[0])
    ds.PixelData = bytes(40_000_000)
    hanging, answers = Hanging("answer"), []

    def offer():
        one = requestor.Requestor("KSPACESR", parse_target(hanging.name))
        association = one.associate([(MRImageStorage, ExplicitVRLittleEndian)])
        assert association.is_established
        answers.append(one.store(association, ds))

    thread = threading.Thread(target=offer, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    hanging.close()
    assert answers == [None]


def test_a_target_that_refuses_and_closes_at_once_has_refused(tmp_path, monkeypatch):
    """Pynetdicom asks only then whether it ever was connected, and finds that it is not."""
    hanging = Hanging("refusal")
    send_request = ACSE.send_request

    def send_and_dawdle(self):
        send_request(self)
        hanging.reached.wait(PATIENCE_S)
        wait_until(lambda: not self.dul.is_alive() or self.socket.socket is None, "its end")

    monkeypatch.setattr(ACSE, "send_request", send_and_dawdle)
    one = requestor.Requestor("KSPACESR", parse_target(hanging.name))
    association = one.associate([(MRImageStorage, ExplicitVRLittleEndian)])
    hanging.close()
    assert not association.is_established
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == 7
