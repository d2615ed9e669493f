"""Associations of pynetdicom without its server: begun with a request that the listener has read.

Its server gives everybody who connects two threads, counts those of peers that have long gone, and
keeps what has come to an irregular end for 30 s and more. Here an association begins when it is
known to be wanted, and what does not end by itself is ended.
"""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from kspacesr_rt.services.node.association_end import AssociationEnd
from kspacesr_rt.services.node.connection import BoundedConnection
from kspacesr_rt.services.node.incoming_instance import Arrival, Arrivals
from kspacesr_rt.services.node.pynetdicom_setup import load_pynetdicom

MAX_ASSOCIATIONS: Final = 16
MAX_PER_ADDRESS: Final = 12
"""One sender that does not end its associations leaves a place to the others."""
ACSE_TIMEOUT_S, NETWORK_TIMEOUT_S = 30, 60
BEGINNING_S, ENDING_S = 30.0, 5.0
"""How long an association may take to be established, which needs nothing of its sender any more,
and to end once it has begun to."""
MAX_PDU_BYTES: Final = 1 << 18
"""Larger than pynetdicom's 16 KiB: its cost is by PDU."""


@dataclass(kw_only=True, slots=True, eq=False)
class _ActiveAssociation:
    """An association, and what is ours of it."""

    association: Any
    connection: BoundedConnection
    arrivals: Arrivals
    ending: AssociationEnd
    address: str
    since: float
    """When it began, or began to end."""
    was_established: bool = False

    @property
    def is_over(self) -> bool:
        one = self.association
        return bool(one.is_released or one.is_aborted or one.is_rejected) or not one.is_alive()

    @property
    def has_threads(self) -> bool:
        return bool(self.association.is_alive() or self.association.dul.is_alive())


class Acceptor:
    """Runs associations.

    Parameters
    ----------
    ae
        pynetdicom's, with the contexts that are supported.
    begin
        Given class, instance and transfer syntax of a C-STORE: the file for its data set.
    store
        pynetdicom's handler of C-STORE.
    on_ending
        Called when an association ends otherwise than by a release: with a word, and its sender's
        title and address.
    on_release
        Called with the `Arrivals` of an association that its sender has released.
    """

    def __init__(
        self,
        ae: Any,
        begin: Callable[[str, str, str], Arrival],
        store: Callable[[Any], int],
        on_ending: Callable[[str, str], None],
        on_release: Callable[[Arrivals], None],
    ) -> None:
        self._ae, self._begin, self._store = ae, begin, store
        self._on_ending, self._on_release = on_ending, on_release
        self._pynetdicom = load_pynetdicom()
        self._lock = threading.Lock()
        self._held: list[_ActiveAssociation] = []

    @property
    def n_associations(self) -> int:
        """Associations that are established, or about to be."""
        with self._lock:
            return sum(not one.is_over for one in self._held)

    def has_capacity(self, address: str) -> bool:
        """Return whether one more association may begin from an address."""
        with self._lock:
            alive = Counter(one.address for one in self._held if not one.is_over)
            # Those that end take threads too, for some seconds.
            return (
                alive.total() < MAX_ASSOCIATIONS
                and alive[address] < MAX_PER_ADDRESS
                and len(self._held) < 4 * MAX_ASSOCIATIONS
            )

    def accept(self, connection: socket.socket, request: Any, address: str) -> None:
        """Take over a connection on which an A-ASSOCIATE-RQ has come.

        Parameters
        ----------
        connection
            Is used up.
        request
            pynetdicom's ``A_ASSOCIATE_RQ``.
        address
            Where it came from.
        """
        from pynetdicom.association import Association
        from pynetdicom.transport import AddressInformation, AssociationSocket

        sender = f"{request.calling_ae_title.strip()}@{address}"
        ending = AssociationEnd(lambda reason: self._on_ending(reason, sender))
        own = BoundedConnection.take_over(
            connection,
            max_pdu_bytes=MAX_PDU_BYTES,
            timeout_s=NETWORK_TIMEOUT_S,
            on_violation=ending.note,
        )
        try:
            association = Association(self._ae, "acceptor")
            association.name = "AcceptorThread"
            association.dul.daemon = True  # a peer that hangs must not hold up the end
            association.set_socket(AssociationSocket(association, client_socket=own))
            acceptor = association.acceptor
            acceptor.maximum_length, acceptor.ae_title = MAX_PDU_BYTES, self._ae.ae_title
            acceptor.implementation_class_uid = self._ae.implementation_class_uid
            acceptor.implementation_version_name = self._ae.implementation_version_name
            acceptor.supported_contexts = copy.deepcopy(self._ae.supported_contexts)
            acceptor.address_info = AddressInformation.from_tuple(own.getsockname())
            association.requestor.address_info = AddressInformation.from_tuple(own.getpeername())
            association.bind(self._pynetdicom.evt.EVT_C_STORE, self._store)
            arrivals = Arrivals(
                association.dimse,
                lambda sop_class, sop_instance, context_id: self._begin(
                    sop_class, sop_instance, _syntax(association, context_id)
                ),
                lambda reason: self._give_up(association, ending, reason),
            )
            association.bind(
                self._pynetdicom.evt.EVT_RELEASED, lambda event: self._on_release(arrivals)
            )
            association.dimse.receive_primitive = arrivals.receive  # type: ignore[method-assign]
            ending.watch(association)
            # As if it had read the request itself: behind the event that the connection is there.
            association.dul._recv_pdu.put(request)
            association.dul.event_queue.put("Evt6")
            held = _ActiveAssociation(
                association=association,
                connection=own,
                arrivals=arrivals,
                ending=ending,
                address=address,
                since=time.monotonic(),
            )
            with self._lock:
                self._held.append(held)
            association.start()
        except BaseException:
            own.close()
            raise

    def arrivals_of(self, association: Any) -> Arrivals | None:
        """Return what arrives over an association."""
        with self._lock:
            for held in self._held:
                if held.association is association:
                    return held.arrivals
        return None

    def maintain(self) -> None:
        """Forget associations that have ended, and end those that cannot by themselves."""
        now = time.monotonic()
        with self._lock:
            held = list(self._held)
        for one in held:
            if not one.has_threads:
                one.connection.close()
                one.arrivals.close()
                with self._lock:
                    self._held.remove(one)
                continue
            if one.association.is_established and not one.is_over:
                one.was_established = True
                one.since = now
            elif now - one.since > (ENDING_S if one.was_established else BEGINNING_S):
                one.ending.note("late")
                self._cut_off(one)

    def stop(self, timeout_s: float) -> None:
        """Let the associations end; abort, then cut off those that do not."""
        self._wait(timeout_s)
        with self._lock:
            left = list(self._held)
        for one in left:
            one.ending.expect()
            with contextlib.suppress(Exception):  # pynetdicom's, while it is ending anyway
                one.association.abort(block=False)
        self._wait(1.0, for_threads=True)  # they have an abort to send
        for one in left:
            self._cut_off(one)
        self._wait(1.0, for_threads=True)

    def _wait(self, timeout_s: float, *, for_threads: bool = False) -> None:
        deadline = time.monotonic() + timeout_s
        self.maintain()
        while (self._held if for_threads else self.n_associations) and time.monotonic() < deadline:
            time.sleep(0.02)
            self.maintain()

    @staticmethod
    def _give_up(association: Any, ending: AssociationEnd, reason: str) -> None:
        ending.note(reason)
        association.dul.event_queue.put("Evt19")  # as after an invalid PDU: A-ABORT

    @staticmethod
    def _cut_off(held: _ActiveAssociation) -> None:
        with contextlib.suppress(OSError):
            held.connection.shutdown(socket.SHUT_RDWR)
        if not held.association.is_alive():
            held.association.dul.kill_dul()


def _syntax(association: Any, context_id: int) -> str:
    [context] = [one for one in association.accepted_contexts if one.context_id == context_id]
    return str(context.transfer_syntax[0])
