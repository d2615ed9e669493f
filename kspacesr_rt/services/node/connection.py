"""A TCP connection that bounds what its other end can make us hold, and for how long.

pynetdicom believes a PDU's own length (4 GiB, if it says so) and waits for it as long as bytes
drip. It reads through the methods of a socket, so the bounds are here and it need not know.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, Self

HEADER: Final = struct.Struct(">BBL")
"""Type, a reserved byte, and the length of what follows (PS3.8 9.3.1)."""
PDV_OVERHEAD: Final = 6
"""Length, context and control header of one PDV. Some senders do not count them to the maximum
length that was negotiated, though PS3.8 D.1.1 does."""
UNRECOGNISED, UNEXPECTED, INVALID_PARAMETER = 1, 2, 6


def abort_pdu(reason: int) -> bytes:
    """Return an A-ABORT of the service provider (PS3.8 9.3.8, Table 9-26)."""
    return HEADER.pack(0x07, 0, 4) + bytes((0, 0, 2, reason))


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 9.3.4, Table 9-21)."""
    return HEADER.pack(0x03, 0, 4) + bytes((0, result, source, reason))


class BoundedConnection(socket.socket):
    """A connected socket on which every PDU is bounded in length and in time."""

    max_pdu_bytes = 0
    timeout_s = 0.0

    @classmethod
    def take_over(
        cls,
        connection: socket.socket,
        *,
        max_pdu_bytes: int,
        timeout_s: float,
        on_violation: Callable[[str], None],
    ) -> Self:
        """Go on with a connection that stands between two PDUs.

        Parameters
        ----------
        connection
            Is used up.
        max_pdu_bytes
            Longest PDU that is read, its header not counted.
        timeout_s
            Seconds from a PDU's first byte to its last, and for what is sent.
        on_violation
            Called with a word before the connection is given up.
        """
        own = cls(connection.family, connection.type, connection.proto, connection.detach())
        if own.family in (socket.AF_INET, socket.AF_INET6):
            # A command and its data set are two writes: the second would wait some 40 ms for the
            # other end to acknowledge the first (Nagle's algorithm, RFC 9293 3.7.4).
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        own.max_pdu_bytes, own.timeout_s = max_pdu_bytes, timeout_s
        own._on_violation = on_violation
        own._header, own._left, own._deadline = bytearray(), 0, 0.0
        return own

    _on_violation: Callable[[str], None]
    _header: bytearray
    _left: int
    _deadline: float

    def recv(self, n_bytes: int, flags: int = 0, /) -> bytes:
        """Read, unless that would break a bound.

        Raises
        ------
        OSError
            If it would; pynetdicom takes that as the end of the connection.
        """
        if not self._header:
            self._deadline = time.monotonic() + self.timeout_s
        self.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            content = super().recv(n_bytes, flags)
        except TimeoutError:
            self._on_violation("slow")
            raise
        self._follow(content)
        return content

    def send(self, content: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        """Write, in bounded time."""
        self.settimeout(self.timeout_s)
        return super().send(content, flags)

    def shutdown(self, how: int, /) -> None:
        """End it, also if the other end has gone or never was there.

        pynetdicom closes no connection whose `shutdown` fails.
        """
        try:
            super().shutdown(how)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise

    def _follow(self, content: bytes) -> None:
        at = 0
        while at < len(content):
            if len(self._header) < HEADER.size:
                part = content[at : at + HEADER.size - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) < HEADER.size:
                    return
                self._left = HEADER.unpack(self._header)[2]
                if self._left > self.max_pdu_bytes + PDV_OVERHEAD:
                    self._on_violation("pdu-too-long")
                    self.send(abort_pdu(INVALID_PARAMETER))
                    raise ConnectionAbortedError("a PDU is longer than was negotiated")
            part_bytes = min(self._left, len(content) - at)
            self._left -= part_bytes
            at += part_bytes
            if not self._left:
                self._header.clear()
