"""C-ECHO and C-STORE: who may associate, and Success only for what is safe in the spool.

=========================================== ==================================================
met                                         answered
=========================================== ==================================================
an address that nobody may send from        the connection is closed, see `listener`
another called AE title                     A-ASSOCIATE-RJ permanent, called AE not recognised
a sender that was not named                 A-ASSOCIATE-RJ permanent, calling AE not recognised
only C-STORE wanted while the spool is full A-ASSOCIATE-RJ transient, temporary congestion
too many associations at a time             A-ASSOCIATE-RJ transient, local limit exceeded
another SOP class, an undecodable syntax    that presentation context refused
a new series while the spool is full        C-STORE 0xA700 Out of resources
a full disk, or no file descriptor left     C-STORE 0xA700 Out of resources
a data set that has no room in the spool    C-STORE 0xA700, read to its end and thrown away
a data set that is not what it is said to be C-STORE 0xA900 Data set does not match SOP class
a data set that cannot be parsed            C-STORE 0xC000 Cannot understand
=========================================== ==================================================
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from kspacesr_rt.dicom.header import PARSE_ERRORS, read_header
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from kspacesr_rt.errors import SliceError
from kspacesr_rt.services.durable_files import FILE_LIMITS
from kspacesr_rt.services.log import Log, RateLimitedLog
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.acceptor import (
    ACSE_TIMEOUT_S,
    MAX_PDU_BYTES,
    NETWORK_TIMEOUT_S,
    Acceptor,
)
from kspacesr_rt.services.node.association_end import BROKEN_OFF
from kspacesr_rt.services.node.connection import INVALID_PARAMETER, abort_pdu, reject_pdu
from kspacesr_rt.services.node.incoming_instance import Arrival
from kspacesr_rt.services.node.listener import Listener
from kspacesr_rt.services.node.peers import Peer
from kspacesr_rt.services.node.ports import bind_port
from kspacesr_rt.services.node.pynetdicom_setup import (
    STORED_CLASSES,
    accepted_syntaxes,
    load_pynetdicom,
)
from kspacesr_rt.services.node.spool import Spool
from kspacesr_rt.services.node.spool_part import SpoolFullError

if TYPE_CHECKING:
    from pathlib import Path

    from pynetdicom.events import Event

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
"""PS3.4 B.2.3, Table B.2-1."""
REJECTED_PERMANENT, REJECTED_TRANSIENT = 1, 2
BY_USER, BY_ACSE_PROVIDER, BY_PROVIDER = 1, 2, 3
CALLING_UNKNOWN: Final = (REJECTED_PERMANENT, BY_USER, 3)
CALLED_UNKNOWN: Final = (REJECTED_PERMANENT, BY_USER, 7)
VERSION_UNKNOWN: Final = (REJECTED_PERMANENT, BY_ACSE_PROVIDER, 2)
CONGESTION: Final = (REJECTED_TRANSIENT, BY_PROVIDER, 1)
TOO_MANY: Final = (REJECTED_TRANSIENT, BY_PROVIDER, 2)
"""PS3.8 9.3.4, Table 9-21: result, source, reason."""
PROTOCOL_VERSION: Final = 1
VERIFICATION: Final = "1.2.840.10008.1.1"
NUMBER_OF_SERIES_INSTANCES: Final = "NumberOfSeriesRelatedInstances"
"""(0020,1209), which some archives add. Images in Acquisition says less than a series."""

_REASONS: Final = {
    CALLING_UNKNOWN: "calling-ae",
    CALLED_UNKNOWN: "called-ae",
    VERSION_UNKNOWN: "protocol-version",
    CONGESTION: "congested",
    TOO_MANY: "too-many",
}


class Receiver:
    """A storage SCP that writes into a spool.

    Parameters
    ----------
    ae_title
        Its own; associations for another title are refused.
    peers
        Who may associate.
    spool
        Where instances go.
    metrics, log
        What happened.
    """

    def __init__(
        self, ae_title: str, peers: Sequence[Peer], spool: Spool, metrics: Metrics, log: Log
    ) -> None:
        self._title, self._peers, self._spool = ae_title, tuple(peers), spool
        self._metrics, self._log, self._limited_log = metrics, log, RateLimitedLog(log)
        self._closing = False
        self._acceptor: Acceptor | None = None
        self._listener: Listener | None = None

    def start(self, address: str, port: int) -> int:
        """Listen; return the port (that of port 0 is chosen by the system).

        Raises
        ------
        OutputError
            If the port is taken or not allowed.
        """
        return self.listen(bind_port(address, port))

    def listen(self, bound: socket.socket) -> int:
        """Listen on a port that was taken; return its number.

        Raises
        ------
        OutputError
            If another program listens there already.
        """
        pynetdicom = load_pynetdicom()
        ae = pynetdicom.AE(ae_title=self._title)
        ae.acse_timeout, ae.network_timeout = ACSE_TIMEOUT_S, NETWORK_TIMEOUT_S
        ae.dimse_timeout = NETWORK_TIMEOUT_S
        # Counted here: pynetdicom counts the threads of those that have gone, too.
        ae.maximum_associations, ae.maximum_pdu_size = 1 << 30, MAX_PDU_BYTES
        ae.add_supported_context(VERIFICATION)
        for sop_class in STORED_CLASSES:
            ae.add_supported_context(sop_class, accepted_syntaxes())
        self._acceptor = Acceptor(
            ae, self._begin, self._on_store, self._on_ending, self._spool.note_release
        )
        self._listener = Listener(
            lambda place: any(peer.is_at(place) for peer in self._peers),
            self._answer,
            self._maintain,
            self._metrics,
            self._log,
        )
        return self._listener.listen(bound)

    @property
    def n_associations(self) -> int:
        """Associations that are established, or about to be."""
        return self._acceptor.n_associations if self._acceptor else 0

    @property
    def n_waiting(self) -> int:
        """Connections that have not asked for an association yet."""
        return self._listener.n_waiting if self._listener else 0

    def is_open(self) -> bool:
        """Return whether somebody can come in."""
        return self._listener is not None and self._listener.is_open()

    def stop(self, timeout_s: float) -> None:
        """Accept nobody any more, let the associations end, abort those that do not."""
        if self._listener is None or self._acceptor is None:
            return
        self._closing = True
        self._listener.close()
        self._acceptor.stop(timeout_s)
        self._listener = None

    # Associations -----------------------------------------------------------------------------

    def _maintain(self) -> None:
        if self._acceptor is not None:
            self._acceptor.maintain()
        self._limited_log.flush()

    def _answer(self, connection: socket.socket, content: bytes, address: str) -> bytes | None:
        """Begin an association, or return what refuses it."""
        from pynetdicom.pdu import A_ASSOCIATE_RQ

        assert self._acceptor is not None
        assert self._listener is not None
        request = A_ASSOCIATE_RQ()
        try:
            with quiet_pydicom():
                request.decode(content)
                primitive = request.to_primitive()
        except Exception:  # whatever a parser meets in what anybody may send
            self._listener.refused("malformed", address)
            return abort_pdu(INVALID_PARAMETER)
        try:
            refusal = self._refusal(request.protocol_version, primitive, address)
            if refusal is None:
                self._acceptor.accept(connection, request, address)
                return None
        except Exception as exc:  # an accident must not let anybody in, nor turn them away for good
            self._record_failure(exc)
            refusal = CONGESTION
        self._listener.refused(_REASONS[refusal], address)
        return reject_pdu(*refusal)

    def _refusal(self, version: int, request: Any, address: str) -> tuple[int, int, int] | None:
        assert self._acceptor is not None
        if version != PROTOCOL_VERSION:
            return VERSION_UNKNOWN
        if request.called_ae_title.strip() != self._title:
            return CALLED_UNKNOWN
        calling = request.calling_ae_title
        if not any(peer.is_from(calling, address) for peer in self._peers):
            return CALLING_UNKNOWN
        wanted = {
            context.abstract_syntax for context in request.presentation_context_definition_list
        }
        if self._closing or (VERIFICATION not in wanted and self._spool.refuses_all()):
            return CONGESTION
        return None if self._acceptor.has_capacity(address) else TOO_MANY

    def _on_ending(self, reason: str, sender: str) -> None:
        if reason in BROKEN_OFF:
            self._metrics.count("associations_broken_off_total", reason=reason)
            self._limited_log.write("association-broken-off", reason=reason, sender=sender)
        else:
            self._metrics.count("associations_aborted_total", reason=reason)
            self._limited_log.write("association-aborted", reason=reason, sender=sender)

    # Instances ----------------------------------------------------------------------------------

    def _on_store(self, event: Event) -> int:
        try:
            return self._store(event)
        except SpoolFullError as exc:
            return self._refuse(event, OUT_OF_RESOURCES, f"full-{exc.reason}")
        except OSError as exc:  # an OutputError, too
            out_of_files = exc.errno in FILE_LIMITS
            reason = "file-limit" if out_of_files else "spool-error"
            return self._refuse(event, OUT_OF_RESOURCES, reason)
        except Exception as exc:  # pynetdicom would log it, with values of the data set
            self._record_failure(exc)
            return self._refuse(event, CANNOT_UNDERSTAND, "internal-error")

    def _begin(self, sop_class: str, sop_instance: str, syntax: str) -> Arrival:
        return self._spool.arrival(_file_start(sop_class, sop_instance, syntax))

    def _store(self, event: Event) -> int:
        request: Any = event.request
        announced_class = str(request.AffectedSOPClassUID)
        announced_instance = str(request.AffectedSOPInstanceUID)
        assert self._acceptor is not None
        arrivals = self._acceptor.arrivals_of(event.assoc)
        arrival = arrivals.take(request.MessageID) if arrivals else None
        if arrival is None:
            return self._refuse(event, CANNOT_UNDERSTAND, "no-data-set")
        try:
            arrival.finish()
            if arrival.refusal is not None:
                return self._refuse(event, OUT_OF_RESOURCES, arrival.refusal)
            incoming = arrival.path
            found = _identity(incoming)
            if found is None:
                return self._refuse(event, CANNOT_UNDERSTAND, "unreadable")
            study, series, sop_class, sop_instance, expected = found
            if (sop_class, sop_instance) != (announced_class, announced_instance):
                return self._refuse(event, DOES_NOT_MATCH, "identity")
            if not (study and series):
                return self._refuse(event, DOES_NOT_MATCH, "no-series")
            outcome = self._spool.store(
                (study, series),
                sop_instance,
                incoming,
                expected=expected,
                sender=_sender(event.assoc),
                association=arrivals,
            )
        finally:
            arrival.discard()
        self._metrics.count(
            "instances_repeated_total" if outcome == "duplicate" else "instances_received_total"
        )
        if outcome == "corrected":
            self._metrics.count("instances_corrected_total")
        return SUCCESS

    def _record_failure(self, exc: Exception) -> None:
        kind = type(exc).__name__
        self._metrics.count("internal_errors_total", where="receive", kind=kind)
        self._limited_log.write("internal-error", where="receive", kind=kind)

    def _refuse(self, event: Event, status: int, reason: str) -> int:
        self._metrics.count("instances_refused_total", reason=reason)
        if reason == "file-limit":
            self._metrics.count("file_limit_total", where="receive")
        self._limited_log.write(
            "instance-refused",
            reason=reason,
            status=f"{status:04x}",
            sender=_sender(event.assoc),
        )
        return status


def _sender(association: Any) -> str:
    """Return the AE title and the address of an association's sender."""
    requestor = association.requestor
    return f"{requestor.ae_title.strip()}@{requestor.address_info.address}"


def _file_start(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Return preamble and File Meta Information; the data set follows as it came."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance)
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    buffer.write(b"\x00" * 128 + b"DICM")
    with quiet_pydicom():
        write_file_meta_info(buffer, meta)
    return buffer.getvalue()


def _identity(path: Path) -> tuple[str, str, str, str, int | None] | None:
    """Return study, series, class, instance and number of instances; None if unparsable."""
    try:
        dataset = read_header(path).dataset
        with quiet_pydicom():
            study, series, sop_class, sop_instance = (
                str(dataset.get(keyword) or "")
                for keyword in (
                    *("StudyInstanceUID", "SeriesInstanceUID"),
                    *("SOPClassUID", "SOPInstanceUID"),
                )
            )
            expected = dataset.get(NUMBER_OF_SERIES_INSTANCES)
            n_expected = int(expected) if expected else None
    except (SliceError, *PARSE_ERRORS):
        return None
    return study, series, sop_class, sop_instance, n_expected if (n_expected or 0) > 0 else None
