"""The node's TCP port: who may come in is settled before a thread is spent on them.

One thread accepts, and reads A-ASSOCIATE-RQ of all who connect, each within a bounded length and
one deadline for the whole of it.

=================================== =========================================================
met                                 what follows
=================================== =========================================================
an address nobody may send from     the connection is closed before a byte is read
no request, or one that is too long A-ABORT
a request that is late              the connection is closed
a request that is refused           A-ASSOCIATE-RJ
a request that is welcome           `welcome` takes the connection over
more connections than have room     the oldest of the same address, without a request yet, goes
no file descriptor left             said; the port rests for a moment, and goes on
=================================== =========================================================
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kspacesr_rt.services.durable_files import FILE_LIMITS
from kspacesr_rt.services.log import Log, RateLimitedLog
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.connection import (
    HEADER,
    INVALID_PARAMETER,
    UNEXPECTED,
    UNRECOGNISED,
    abort_pdu,
)
from kspacesr_rt.services.node.ports import open_port

MAX_REQUEST_BYTES: Final = 1 << 18
"""Longest A-ASSOCIATE-RQ. One of 128 presentation contexts, each with 20 transfer syntaxes of 30
characters, has half of that."""
HANDSHAKE_S: Final = 30.0
"""From the connection to the last byte of the request, however it drips."""
LINGER_S: Final = 2.0
"""For the other end to read why it was refused, and to close."""
MAX_WAITING, MAX_WAITING_PER_ADDRESS = 64, 16
"""Connections without a whole request."""
REST_S: Final = 0.5
"""Pause of the port when the system gives it no further connection."""
TICK_S: Final = 0.5
BACKLOG: Final = 128
ASSOCIATE_RQ, KNOWN_TYPES = 0x01, range(1, 8)


@dataclass(kw_only=True, slots=True, eq=False)
class _Caller:
    """Somebody who is connected, and has no association."""

    connection: socket.socket
    address: str
    deadline: float
    request: bytearray = field(default_factory=bytearray)
    wanted: int = HEADER.size
    refused: bool = False


class Listener:
    """Listens, and decides who comes in.

    Parameters
    ----------
    admits
        Whether anybody may send from an address.
    answer
        Given a whole A-ASSOCIATE-RQ and an address: bytes to refuse it with, or None once it has
        taken the connection over.
    maintain
        Called about twice a second.
    metrics, log
        What happened.
    """

    def __init__(
        self,
        admits: Callable[[str], bool],
        answer: Callable[[socket.socket, bytes, str], bytes | None],
        maintain: Callable[[], None],
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._admits, self._answer, self._maintain = admits, answer, maintain
        self._metrics, self._limited_log = metrics, RateLimitedLog(log)
        self._callers: list[_Caller] = []
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._resting_until: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def n_waiting(self) -> int:
        """Connections without a whole request."""
        return sum(not caller.refused for caller in list(self._callers))

    def listen(self, bound: socket.socket) -> int:
        """Listen on a port that was taken (`ports.bind_port`); return its number.

        Raises
        ------
        OutputError
            If another program listens there already.
        """
        self._listener = bound
        open_port(bound, BACKLOG)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def is_open(self) -> bool:
        """Return whether somebody can come in."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Accept nobody any more; who has no association yet is cut off."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def refused(self, reason: str, address: str) -> None:
        """Count a refusal, and say so now and then."""
        self._metrics.count("associations_rejected_total", reason=reason)
        self._limited_log.write("association-rejected", reason=reason, address=address)

    # In the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                for key, _ in self._selector.select(TICK_S):
                    if key.data is None:
                        self._accept()
                    elif key.data in self._callers:  # else pushed out since
                        self._receive_request(key.data)
                self._expire()
                self._maintain()
                self._limited_log.flush()
            except Exception as exc:  # an accident with one caller must not close the door
                kind = type(exc).__name__
                self._metrics.count("internal_errors_total", where="door", kind=kind)
                self._limited_log.write("internal-error", where="door", kind=kind)
                self._closing.wait(TICK_S)
        for caller in list(self._callers):
            self._drop(caller)
        if self._listener is not None:
            self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(MAX_WAITING):  # then the others have their turn
            try:
                connection, place = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as exc:
                if exc.errno in FILE_LIMITS:
                    self._pause_accepting(exc)
                return
            address = str(place[0])
            if not self._is_admitted(address):
                self.refused("address", address)
                connection.close()
                continue
            self._make_room(address)
            connection.setblocking(False)
            caller = _Caller(
                connection=connection,
                address=address,
                deadline=time.monotonic() + HANDSHAKE_S,
            )
            self._selector.register(connection, selectors.EVENT_READ, caller)
            self._callers.append(caller)

    def _is_admitted(self, address: str) -> bool:
        try:
            return self._admits(address)
        except Exception as exc:  # fail closed
            self._metrics.count("internal_errors_total", where="receive", kind=type(exc).__name__)
            return False

    def _make_room(self, address: str) -> None:
        """Push out the oldest: a sender's request follows its connection within milliseconds."""
        same = [caller for caller in self._callers if caller.address == address]
        crowd = same if len(same) >= MAX_WAITING_PER_ADDRESS else self._callers
        if len(same) >= MAX_WAITING_PER_ADDRESS or len(self._callers) >= MAX_WAITING:
            self.refused("too-many-waiting", crowd[0].address)
            self._drop(crowd[0])

    def _pause_accepting(self, error: OSError) -> None:
        """Wait for file descriptors: a port that is ready all the time would keep a core busy."""
        assert self._listener is not None
        self._metrics.count("file_limit_total", where="accept")
        self._limited_log.write("file-limit", where="accept", error=error.strerror)
        self._selector.unregister(self._listener)
        self._resting_until = time.monotonic() + REST_S
        for caller in self._callers[: len(self._callers) // 2]:
            self._drop(caller)

    def _receive_request(self, caller: _Caller) -> None:
        try:
            content = caller.connection.recv(min(caller.wanted - len(caller.request), 1 << 16))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            content = b""
        if not content:
            if caller.request and not caller.refused:
                self.refused("incomplete", caller.address)
            self._drop(caller)  # a check whether the port is open says nothing, and costs nothing
            return
        if caller.refused:
            return
        caller.request += content
        if len(caller.request) == HEADER.size:
            kind, _, n_bytes = HEADER.unpack(caller.request)
            if kind != ASSOCIATE_RQ:
                known = kind in KNOWN_TYPES
                self._refuse(caller, "malformed", abort_pdu(UNEXPECTED if known else UNRECOGNISED))
            elif n_bytes > MAX_REQUEST_BYTES:
                self._refuse(caller, "too-long", abort_pdu(INVALID_PARAMETER))
            caller.wanted += n_bytes
        if len(caller.request) == caller.wanted and not caller.refused:
            self._answer_to(caller)

    def _answer_to(self, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        self._callers.remove(caller)
        try:
            refusal = self._answer(caller.connection, bytes(caller.request), caller.address)
        except BaseException:
            caller.connection.close()
            raise
        if refusal is not None:
            self._selector.register(caller.connection, selectors.EVENT_READ, caller)
            self._callers.append(caller)
            self._reject(caller, refusal)

    def _refuse(self, caller: _Caller, reason: str, answer: bytes) -> None:
        self.refused(reason, caller.address)
        self._reject(caller, answer)

    def _reject(self, caller: _Caller, answer: bytes) -> None:
        # Closed at once, with bytes of theirs unread, the answer might never reach them.
        caller.refused, caller.wanted = True, 1 << 62
        caller.deadline = time.monotonic() + LINGER_S
        with contextlib.suppress(OSError):
            caller.connection.send(answer)
            caller.connection.shutdown(socket.SHUT_WR)

    def _expire(self) -> None:
        now = time.monotonic()
        for caller in [one for one in self._callers if one.deadline <= now]:
            if not caller.refused:
                self.refused("late", caller.address)
            self._drop(caller)
        if self._resting_until is not None and now >= self._resting_until:
            assert self._listener is not None
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._resting_until = None

    def _drop(self, caller: _Caller) -> None:
        self._callers.remove(caller)
        self._selector.unregister(caller.connection)
        caller.connection.close()
