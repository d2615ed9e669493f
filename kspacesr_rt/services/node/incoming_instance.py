"""An instance while it streams in: onto the spool's disk, within what there is room for.

pynetdicom collects a whole message in memory and then asks what to do with it. Here the pieces of
a data set are taken from it as they come; what is refused is read to its end and thrown away, since
only then may the sender be told.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.node.spool_part import SpoolFullError

if TYPE_CHECKING:
    from pynetdicom.pdu_primitives import P_DATA

MAX_INSTANCE_BYTES: Final = 1 << 32
"""Longest data set: a value of uncompressed pixels can be no longer (PS3.5 7.1.1)."""
MAX_COMMAND_BYTES: Final = 1 << 16
"""Longest command set, and longest data set of anything but C-STORE; both stay in memory."""
MAX_OUTSTANDING: Final = 8
"""Requests that wait for their answer. No asynchronous operations are negotiated, so a sender may
have one (PS3.7 D.3.3.3)."""
MIN_BYTES_PER_S, MESSAGE_GRACE_S = 1024, 60.0
"""Slowest message that is waited for, after the grace."""
ROOM_STEP: Final = 1 << 20
"""Bytes between two questions whether there is room."""
COMMAND, LAST = 1, 2
"""Bits of a PDV's message control header (PS3.8 E.2)."""


class Arrival:
    """A new file of the spool that grows by what a sender sends.

    Parameters
    ----------
    path
        Of the file.
    start
        What stands in front of the data set.
    claim
        Called with the bytes so far before more are written; raises if they have no room.
    """

    def __init__(self, path: Path, start: bytes, claim: Callable[[int], None]) -> None:
        self.path, self._claim = path, claim
        self.refusal: str | None = None
        """Why it will be refused: ``full-disk``, ``too-large``, ``file-limit``, ``spool-error``."""
        self.n_bytes = 0
        """Of the data set, whether kept or not."""
        self._claimed = 0
        self._descriptor = -1
        self._or_refuse(lambda: self._open(start))

    def write(self, content: bytes) -> None:
        """Add to the file; once it is refused, only count."""
        self.n_bytes += len(content)
        if self.refusal is None:
            self._or_refuse(lambda: self._write(content))

    def finish(self) -> None:
        """Put the content on the disk; the name is not yet."""
        if self.refusal is None:
            self._or_refuse(self._sync)

    def discard(self) -> None:
        """Leave nothing of it; once it has its place, do nothing."""
        self._close()
        durable_files.remove_file(self.path)
        self._claim(0)

    def _open(self, start: bytes) -> None:
        self._claim(1)
        self._descriptor = durable_files.open_new(self.path)
        durable_files.extend(self._descriptor, start)

    def _write(self, content: bytes) -> None:
        if self.n_bytes > MAX_INSTANCE_BYTES:
            self._refuse("too-large")
            return
        if self.n_bytes > self._claimed:
            self._claimed = -(-self.n_bytes // ROOM_STEP) * ROOM_STEP
            self._claim(self.n_bytes)
        durable_files.extend(self._descriptor, content)

    def _sync(self) -> None:
        self._claim(max(1, self.n_bytes))
        durable_files.sync_file(self._descriptor)
        self._close()

    def _or_refuse(self, step: Callable[[], None]) -> None:
        try:
            step()
        except SpoolFullError as exc:
            self._refuse(f"full-{exc.reason}")
        except OSError as exc:
            if exc.errno in durable_files.FULL_DISK:
                self._refuse("full-disk")
            else:
                self._refuse(
                    "file-limit" if exc.errno in durable_files.FILE_LIMITS else "spool-error"
                )

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        with contextlib.suppress(OSError):
            self.discard()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class ProtocolError(Exception):
    """A sender broke the protocol or a bound; `reason` is a word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Arrivals:
    """Takes the data sets of C-STORE out of the messages of one association.

    Parameters
    ----------
    dimse
        pynetdicom's DIMSE provider of the association, given all but these data sets.
    begin
        Given class, instance and context of a C-STORE: the file for its data set.
    on_violation
        Called with a word when the association is to be aborted.
    """

    def __init__(
        self,
        dimse: Any,
        begin: Callable[[str, str, int], Arrival],
        on_violation: Callable[[str], None],
    ) -> None:
        self._dimse, self._begin, self._on_violation = dimse, begin, on_violation
        self._pass_on: Callable[[P_DATA], None] = dimse.receive_primitive
        self._lock = threading.Lock()
        self._growing: Arrival | None = None
        self._complete: dict[int, Arrival] = {}
        self._n_bytes, self._began = 0, 0.0

    def take(self, message_id: int) -> Arrival | None:
        """Return the data set of a C-STORE; it is the caller's from now on."""
        with self._lock:
            return self._complete.pop(message_id, None)

    def close(self) -> None:
        """Leave nothing of what was not taken."""
        with self._lock:
            left = [*self._complete.values(), *([self._growing] if self._growing else ())]
            self._complete.clear()
            self._growing = None
        for arrival in left:
            with contextlib.suppress(OSError):
                arrival.discard()

    def receive(self, primitive: P_DATA) -> None:
        """Stand in for ``dimse.receive_primitive``."""
        try:
            with quiet_pydicom():  # it quotes UIDs
                self._receive(primitive)
        except ProtocolError as exc:
            self._on_violation(exc.reason)
        except Exception:  # pynetdicom would end its thread, with values of the data set in the log
            self._on_violation("unintelligible")

    def _receive(self, primitive: P_DATA) -> None:
        for context_id, content in primitive.presentation_data_value_list:
            self._take_in(type(primitive), context_id, content)

    def _take_in(self, kind: type[P_DATA], context_id: int, content: bytes) -> None:
        if not content:
            raise ProtocolError("unintelligible")
        self._watch_over(len(content))
        control, data = content[0], content[1:]
        if control & COMMAND or self._growing is None:
            self._forward(kind, context_id, content)
            return
        self._growing.write(data)
        if self._growing.n_bytes > 2 * MAX_INSTANCE_BYTES:
            raise ProtocolError("too-large")
        if control & LAST:
            self._end(kind, context_id)

    def _forward(self, kind: type[P_DATA], context_id: int, content: bytes) -> None:
        """Pass on what stays in memory."""
        if self._growing is not None:
            raise ProtocolError("unintelligible")  # a command within a data set
        if self._n_bytes > MAX_COMMAND_BYTES:
            raise ProtocolError("command-too-long")
        is_last_of_command = content[0] & (COMMAND | LAST) == COMMAND | LAST
        if not content[0] & COMMAND and self._dimse.message is None:
            raise ProtocolError("unintelligible")  # a data set without a command
        self._pass_on(_one(kind, context_id, content))
        message = self._dimse.message
        if message is None:
            self._message_ended()
        elif is_last_of_command and type(message).__name__ == "C_STORE_RQ":
            command = message.command_set
            self._growing = self._begin(
                str(command.get("AffectedSOPClassUID", "")),
                str(command.get("AffectedSOPInstanceUID", "")),
                context_id,
            )

    def _end(self, kind: type[P_DATA], context_id: int) -> None:
        message_id = int(self._dimse.message.command_set.MessageID)
        with self._lock:
            arrival, self._growing = self._growing, None
            assert arrival is not None
            # Some that pynetdicom answers itself, as of a class for another context.
            dropped = [one for one in [self._complete.pop(message_id, None)] if one]
            while len(self._complete) >= MAX_OUTSTANDING:
                dropped.append(self._complete.pop(next(iter(self._complete))))
            # Before the message, which is answered in another thread.
            self._complete[message_id] = arrival
        for one in dropped:
            one.discard()
        self._pass_on(_one(kind, context_id, bytes((LAST,))))
        self._message_ended()

    def _message_ended(self) -> None:
        self._n_bytes, self._began = 0, 0.0
        if self._dimse.msg_queue.qsize() > MAX_OUTSTANDING:
            raise ProtocolError("too-many-requests")

    def _watch_over(self, n_bytes: int) -> None:
        now = time.monotonic()
        self._began = self._began or now
        self._n_bytes += n_bytes
        overdue_s = now - self._began - MESSAGE_GRACE_S
        if overdue_s > 0 and self._n_bytes < overdue_s * MIN_BYTES_PER_S:
            raise ProtocolError("slow")


def _one(kind: type[P_DATA], context_id: int, content: bytes) -> P_DATA:
    one = kind()
    one.presentation_data_value_list = [[context_id, content]]  # type: ignore[list-item]
    return one
