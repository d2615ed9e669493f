"""Bytes of the DICOM upper layer, written by hand: what no decent library would send."""

from __future__ import annotations

import contextlib
import socket
import struct

VERIFICATION, MR = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
ABORT, REJECT, ACCEPT = 0x07, 0x03, 0x02
C_STORE = 0x0001


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def request(
    *, called=b"KSPACESR", calling=b"SENDER", contexts=((MR, (EXPLICIT,)),), version=1, user=b""
) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    body = struct.pack(">HH", version, 0) + called.ljust(16)[:16] + calling.ljust(16)[:16]
    body += bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, syntaxes) in enumerate(contexts):
        inner = item(0x30, abstract.encode()) + b"".join(
            item(0x40, syntax.encode()) for syntax in syntaxes
        )
        body += item(0x20, bytes([2 * number + 1, 0, 0, 0]) + inner)
    body += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3") + user)
    return pdu(0x01, body)


def pdv(control: int, content: bytes, context: int = 1) -> bytes:
    """Return a P-DATA-TF of one fragment; control 1 is command, 2 is last."""
    return pdu(0x04, struct.pack(">LBB", len(content) + 2, context, control) + content)


def command(sop_instance="1.2.3.4", sop_class=MR, *, field=C_STORE, message_id=1) -> bytes:
    """Return the command set of a C-STORE request, in implicit VR little endian."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    body = element(0x0002, uid(sop_class)) + element(0x0100, struct.pack("<H", field))
    if message_id is not None:
        body += element(0x0110, struct.pack("<H", message_id))
    body += element(0x0700, bytes(2))
    body += element(0x0800, struct.pack("<H", 1)) + element(0x1000, uid(sop_instance))
    return element(0x0000, struct.pack("<L", len(body))) + body


def status_of(answer: bytes) -> int:
    """Return the status in a response's command set."""
    place = answer.find(struct.pack("<HHL", 0, 0x0900, 2))
    assert place >= 0, answer
    return int(struct.unpack("<H", answer[place + 8 : place + 10])[0])


class Wire:
    """A connection to a node, below any association."""

    def __init__(self, port: int, *, source: str = "127.0.0.1", timeout_s: float = 90) -> None:
        # Longer than the node waits for anything: it is the node that gives up.
        self.socket = socket.create_connection(
            ("127.0.0.1", port), timeout_s, source_address=(source, 0)
        )

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def answer(self) -> bytes:
        """Return the next PDU; nothing if the other end has closed."""
        header = self._read(6)
        return header + self._read(struct.unpack(">BBL", header)[2]) if len(header) == 6 else b""

    def _read(self, n_bytes: int) -> bytes:
        content = b""
        with contextlib.suppress(ConnectionError):
            while len(content) < n_bytes and (part := self.socket.recv(n_bytes - len(content))):
                content += part
        return content

    def associate(self, **how) -> None:
        self.send(request(**how))
        assert self.answer()[:1] == bytes([ACCEPT])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()
