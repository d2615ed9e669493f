"""Associations with a target, within bounds: nothing that it does, or does not do, lasts for ever.

pynetdicom alone waits for ever for a target that does not read, believes a PDU's own length, takes
any message for the answer that it waits for, and keeps the process from ending until its own
timeouts have passed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from kspacesr_rt.services.node.association_end import ignore_late_events
from kspacesr_rt.services.node.connection import BoundedConnection
from kspacesr_rt.services.node.peers import Target
from kspacesr_rt.services.node.pynetdicom_setup import load_pynetdicom

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 10, 60
MAX_ANSWER_BYTES: Final = 1 << 16
"""Longest PDU that a target may send: nothing but answers comes from it."""
REFUSED: Final = (1, 2)
"""Results of A-ASSOCIATE-RJ: for good, and for now (PS3.8 table 9-21)."""
MAX_MESSAGE_ID: Final = 0xFFFF


class WrongAnswerError(Exception):
    """A target answered something else than what it was asked."""


class Requestor:
    """Associates with one target, once at a time, and can be cut off by another thread.

    Parameters
    ----------
    ae_title
        The node's own.
    target
        Where to.
    """

    def __init__(self, ae_title: str, target: Target) -> None:
        self._title, self._target = ae_title, target
        self._lock = threading.Lock()
        self._current: Any = None
        self._cut_off = False
        self._message_id = 0

    def associate(self, offered: Iterable[tuple[str, str]]) -> Any:
        """Return pynetdicom's association, established or not.

        Parameters
        ----------
        offered
            SOP classes and transfer syntaxes; of each class Implicit VR Little Endian, too.

        Raises
        ------
        OSError
            If the target's name is not known, or the system gives no file.
        """
        pairs = sorted(set(offered))
        ae = self._new_ae()
        ae.connection_timeout, ae.acse_timeout = CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S
        ae.dimse_timeout = ae.network_timeout = ANSWER_TIMEOUT_S
        for sop_class, syntax in pairs:
            ae.add_requested_context(sop_class, [syntax])
        build_context = load_pynetdicom().build_context
        # A context of its own: of several syntaxes in one, the target would choose.
        ae.requested_contexts = [
            *ae.requested_contexts,
            *(
                build_context(sop_class, [ImplicitVRLittleEndian])
                for sop_class in sorted({one for one, _ in pairs})
            ),
        ]
        association = ae.associate(
            self._target.host, self._target.port, ae_title=self._target.ae_title
        )
        if association.is_established:
            self._bound_answers(association)
        elif not association.is_rejected:
            association.is_rejected = _was_refused(association)
        return association

    def store(self, association: Any, instance: Path | Dataset) -> int | None:
        """Send C-STORE; return the answer's status, or None if there was none.

        Raises
        ------
        WrongAnswerError
            If something else was answered; the association has ended then.
        """
        self._message_id = self._message_id % MAX_MESSAGE_ID + 1
        association.wrong_answer = False
        try:
            answer = association.send_c_store(instance, msg_id=self._message_id)
        except RuntimeError:  # the association has ended
            return None
        if association.wrong_answer:
            association.abort()
            raise WrongAnswerError
        status = answer.get("Status")
        return None if status is None else int(status)

    def cut_off(self) -> None:
        """End the association, and those to come, whatever they wait for."""
        with self._lock:
            self._cut_off = True
            if self._current is not None:
                _cut(self._current)

    def _new_ae(self) -> Any:
        requestor = self

        # The base class is loaded when a node starts, so type checkers cannot know it.
        class Bounded(load_pynetdicom().AE):  # type: ignore[misc]
            """pynetdicom's, with a connection of ours; nothing else comes before its threads."""

            def _create_socket(self, assoc: Any, *how: Any) -> Any:
                made = super()._create_socket(assoc, *how)
                made.socket = BoundedConnection.take_over(
                    made.socket,
                    max_pdu_bytes=MAX_ANSWER_BYTES,
                    timeout_s=ANSWER_TIMEOUT_S,
                    on_violation=lambda reason: None,  # told as a lost connection
                )
                # The process ends although a target hangs.
                assoc.dul.daemon = True
                ignore_late_events(assoc)
                requestor._begin(made.socket)
                return made

        return Bounded(ae_title=self._title)

    def _begin(self, connection: socket.socket) -> None:
        with self._lock:
            self._current = connection
            if self._cut_off:
                _cut(connection)

    def _bound_answers(self, association: Any) -> None:
        """Take what answers the request, all of it and nothing else.

        pynetdicom's own thread is to pause while `send_c_store` waits, but on a busy machine may be
        on its last round still: it would take the answer for a request and drop it, and what the
        target has stored would be sent once more. And any answer is right to pynetdicom: of a
        target that answers once too often, the next instance would count as stored.
        """
        get_message = association.dimse.get_msg

        def get_answer(block: bool = False) -> Any:
            if not block:
                return None, None
            context_id, answer = get_message(block)
            responded_to = getattr(answer, "MessageIDBeingRespondedTo", None)
            if answer is not None and responded_to != self._message_id:
                association.wrong_answer = True
            return context_id, answer

        association.dimse.get_msg = get_answer


def _was_refused(association: Any) -> bool:
    """Return whether a refusal waits that pynetdicom has not looked at.

    A target that refuses and closes before the waiting thread runs again counts as one that was
    never reached.
    """
    while (answer := association.dul.receive_pdu(wait=False)) is not None:
        if getattr(answer, "result", None) in REFUSED:
            association.acceptor.primitive = answer
            return True
    return False


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    # Connecting is not ended by that.
    with contextlib.suppress(OSError):
        connection.close()
