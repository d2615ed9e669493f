"""Why an association did not end with a release: the first thing that went wrong, counted once.

pynetdicom ends an association by itself for much that a sender does, and says so in its log alone.
Its state machine (PS3.8 9.2) passes every such end; of what follows from the first, nothing is new.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

ESTABLISHED: Final = frozenset({"Sta3", "Sta6", "Sta7", "Sta8"})
"""States from the request to the release (PS3.8 Table 9-1 to 9-5), of who was asked."""
_INVALID, _CLOSED, _ABORTED, _WE_ABORT = "Evt19", "Evt17", "Evt16", "Evt15"
_UNEXPECTED_PDU: Final = frozenset({"Evt3", "Evt4", "Evt6", "Evt13"})
"""A-ASSOCIATE-AC, -RJ and -RQ, A-RELEASE-RP: nobody sends them to us then."""
_UNEXPECTED_AT_RELEASE: Final = _UNEXPECTED_PDU | {"Evt10", "Evt12"}
BROKEN_OFF: Final = frozenset({"aborted", "connection-lost"})
"""What a sender does; everything else is answered with an abort of ours."""


class AssociationEnd:
    """Watches one association.

    Parameters
    ----------
    report
        Called once, at most, with a word of why it ends.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._known = False

    def note(self, reason: str) -> None:
        """Take a reason, if it is the first."""
        if self._first():
            self._report(reason)

    def expect(self) -> None:
        """Tell nothing any more: the node is what ends."""
        self._first()

    def watch(self, association: Any) -> None:
        """See what becomes of an association of pynetdicom that has not begun."""
        machine = association.dul.state_machine
        ignore_late_events(association)
        act = machine.do_action

        def do_action(event: str) -> None:
            if machine.current_state in ESTABLISHED:
                reason = _reason(event, machine.current_state, association)
                if reason is not None:
                    self.note(reason)
            act(event)

        machine.do_action = do_action

    def _first(self) -> bool:
        with self._lock:
            known, self._known = self._known, True
            return not known


def ignore_late_events(association: Any) -> None:
    """Have an association that has not begun pass over what comes when it is ending already.

    An answer that is still to be sent, a second thing that is wrong: pynetdicom's thread would die
    of an event that its state machine does not foresee.
    """
    from pynetdicom.fsm import TRANSITION_TABLE

    machine = association.dul.state_machine
    act = machine.do_action

    def do_action(event: str) -> None:
        if (event, machine.current_state) in TRANSITION_TABLE:
            act(event)

    machine.do_action = do_action


def _reason(event: str, state: str, association: Any) -> str | None:
    if event == _INVALID:
        return "invalid-pdu"
    if event in (_UNEXPECTED_AT_RELEASE if state == "Sta8" else _UNEXPECTED_PDU):
        return "unexpected-pdu"
    if event == _ABORTED:
        return "aborted"
    if event == _CLOSED:
        return "connection-lost"
    if event == _WE_ABORT:
        return "idle" if association.dul.idle_timer_expired() else "unintelligible"
    return None
