"""C-ECHO and C-STORE: who may associate, and Success only for what is safe in the spool.

=========================================== ==================================================
met                                         answered
=========================================== ==================================================
another called AE title                     A-ASSOCIATE-RJ permanent, called AE not recognised
a sender that was not named                 A-ASSOCIATE-RJ permanent, calling AE not recognised
only C-STORE wanted while the spool is full A-ASSOCIATE-RJ transient, temporary congestion
too many associations at a time             A-ASSOCIATE-RJ transient, local limit exceeded
another SOP class, an undecodable syntax    that presentation context refused
a new series while the spool is full        C-STORE 0xA700 Out of resources
a full disk                                 C-STORE 0xA700 Out of resources
a data set that is not what it is said to be C-STORE 0xA900 Data set does not match SOP class
a data set that cannot be parsed            C-STORE 0xC000 Cannot understand
=========================================== ==================================================
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from kspacesr_rt.dicom.header import PARSE_ERRORS, read_header
from kspacesr_rt.dicom.quiet import quiet_pydicom
from kspacesr_rt.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from kspacesr_rt.errors import OutputError, SliceError
from kspacesr_rt.node.events import Log
from kspacesr_rt.node.metrics import Metrics
from kspacesr_rt.node.network import STORED_CLASSES, accepted_syntaxes, load_pynetdicom
from kspacesr_rt.node.part import SpoolFullError
from kspacesr_rt.node.peers import Peer
from kspacesr_rt.node.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from pynetdicom.events import Event

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
"""PS3.4 B.2.3, Table B.2-1."""
REJECTED_PERMANENT, REJECTED_TRANSIENT = 1, 2
BY_USER, BY_PROVIDER = 1, 3
CALLING_UNKNOWN: Final = (REJECTED_PERMANENT, BY_USER, 3)
CALLED_UNKNOWN: Final = (REJECTED_PERMANENT, BY_USER, 7)
CONGESTION: Final = (REJECTED_TRANSIENT, BY_PROVIDER, 1)
"""PS3.8 9.3.4, Table 9-21: result, source, reason."""
MAX_ASSOCIATIONS: Final = 16
ACSE_TIMEOUT_S, NETWORK_TIMEOUT_S = 30, 60
MAX_PDU_BYTES: Final = 1 << 18
"""Larger than pynetdicom's 16 KiB: its cost is by PDU."""
VERIFICATION: Final = "1.2.840.10008.1.1"
NUMBER_OF_SERIES_INSTANCES: Final = "NumberOfSeriesRelatedInstances"
"""(0020,1209), which some archives add. Images in Acquisition says less than a series."""

_REASONS: Final = {
    CALLING_UNKNOWN: "calling-ae",
    CALLED_UNKNOWN: "called-ae",
    CONGESTION: "congested",
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
        self._metrics, self._log = metrics, log
        self._closing = False
        self._ae: Any = None
        self._server: Any = None

    def start(self, address: str, port: int) -> int:
        """Listen; return the port (that of port 0 is chosen by the system).

        Raises
        ------
        OutputError
            If the port is taken or not allowed.
        """
        pynetdicom = load_pynetdicom()
        ae = pynetdicom.AE(ae_title=self._title)
        ae.acse_timeout, ae.network_timeout = ACSE_TIMEOUT_S, NETWORK_TIMEOUT_S
        ae.dimse_timeout = NETWORK_TIMEOUT_S
        ae.maximum_associations, ae.maximum_pdu_size = MAX_ASSOCIATIONS, MAX_PDU_BYTES
        ae.add_supported_context(VERIFICATION)
        for sop_class in STORED_CLASSES:
            ae.add_supported_context(sop_class, accepted_syntaxes())
        events = pynetdicom.evt
        handlers = [
            (events.EVT_REQUESTED, self._on_requested),
            (events.EVT_REJECTED, self._on_rejected),
            (events.EVT_C_STORE, self._on_store),
        ]
        try:
            server = ae.start_server((address, port), block=False, evt_handlers=handlers)
        except OSError as exc:
            raise OutputError(
                f"cannot listen on port {port}: {exc.strerror or exc}",
                hint="choose another with --port, above 1023 without special rights",
            ) from exc
        self._ae, self._server = ae, server
        return int(server.server_address[1])

    def stop(self, patience_s: float) -> None:
        """Accept nobody any more, let the associations end, abort those that do not."""
        if self._server is None:
            return
        self._closing = True
        self._server.shutdown()
        deadline = time.monotonic() + patience_s
        while self._ae.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in self._ae.active_associations:
            association.abort()
        self._server = None

    # Associations -----------------------------------------------------------------------------

    def _on_requested(self, event: Event) -> None:
        association = event.assoc
        try:
            refusal = self._refusal(association)
        except Exception as exc:  # an accident must not let anybody in, nor turn them away for good
            self._accident(exc)
            refusal = CONGESTION
        if refusal is None:
            return
        self._metrics.count("associations_rejected_total", reason=_REASONS[refusal])
        self._log.write("association-rejected", reason=_REASONS[refusal])
        association.acse.send_reject(*refusal)
        association.kill()

    def _refusal(self, association: Any) -> tuple[int, int, int] | None:
        request = association.requestor.primitive
        if request.called_ae_title.strip() != self._title:
            return CALLED_UNKNOWN
        calling, address = request.calling_ae_title, association.requestor.address
        if not any(peer.is_from(calling, address) for peer in self._peers):
            return CALLING_UNKNOWN
        wanted = {
            context.abstract_syntax for context in request.presentation_context_definition_list
        }
        if self._closing or (VERIFICATION not in wanted and self._spool.takes_nothing()):
            return CONGESTION
        return None

    def _on_rejected(self, event: Event) -> None:
        # Only pynetdicom's own refusals come here: too many associations.
        self._metrics.count("associations_rejected_total", reason="too-many")

    # Instances ----------------------------------------------------------------------------------

    def _on_store(self, event: Event) -> int:
        try:
            return self._store(event)
        except SpoolFullError as exc:
            return self._refuse(OUT_OF_RESOURCES, f"full-{exc.reason}")
        except (OSError, OutputError):
            return self._refuse(OUT_OF_RESOURCES, "spool-error")
        except Exception as exc:  # pynetdicom would log it, with values of the data set
            self._accident(exc)
            return self._refuse(CANNOT_UNDERSTAND, "internal-error")

    def _store(self, event: Event) -> int:
        request: Any = event.request
        body = event.encoded_dataset(include_meta=False)
        syntax = event.context.transfer_syntax
        told_class = str(request.AffectedSOPClassUID)
        told_instance = str(request.AffectedSOPInstanceUID)
        incoming = self._spool.incoming(_file_start(told_class, told_instance, syntax), body)
        try:
            found = _identity(incoming)
            if found is None:
                return self._refuse(CANNOT_UNDERSTAND, "unreadable")
            study, series, sop_class, sop_instance, expected = found
            if (sop_class, sop_instance) != (told_class, told_instance):
                return self._refuse(DOES_NOT_MATCH, "identity")
            if not (study and series):
                return self._refuse(DOES_NOT_MATCH, "no-series")
            outcome = self._spool.store((study, series), sop_instance, incoming, expected=expected)
        finally:
            self._spool.discard(incoming)
        self._metrics.count(
            "instances_received_total" if outcome == "stored" else "instances_repeated_total"
        )
        return SUCCESS

    def _accident(self, exc: Exception) -> None:
        kind = type(exc).__name__
        self._metrics.count("internal_errors_total", where="receive", kind=kind)
        self._log.write("internal-error", where="receive", kind=kind)

    def _refuse(self, status: int, reason: str) -> int:
        self._metrics.count("instances_refused_total", reason=reason)
        return status


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
