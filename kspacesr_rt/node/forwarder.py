"""Derived series to their targets: for ever, with capped backoff, and no instance twice.

An instance is journalled as sent (on the disk) when its target has answered Success or a warning.
Killed between that answer and the journal, the one instance in doubt is sent again under the same
UID: C-STORE has no way to ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from kspacesr_rt.dicom.quiet import quiet_pydicom
from kspacesr_rt.node.events import Log
from kspacesr_rt.node.metrics import Labels, Metrics
from kspacesr_rt.node.network import load_pynetdicom
from kspacesr_rt.node.part import Part, State
from kspacesr_rt.node.peers import Target
from kspacesr_rt.node.sent import SentJournal
from kspacesr_rt.node.spool import Spool

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 10, 60
FIRST_DELAY_S: Final = 1.0
ACCEPTED: Final = 0x00
"""Result of an A-ASSOCIATE-AC."""
STORED_WITH_WARNING: Final = (0xB000, 0xB006, 0xB007)
OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)
"""PS3.4 B.2.3, Table B.2-1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Instance:
    """A derived file to send."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    syntax: str


class Backoff:
    """Says when to try again: twice as long after each failure, up to a cap.

    Parameters
    ----------
    cap_s
        The longest delay.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, cap_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cap_s, self._clock = cap_s, clock
        self._delay_s: dict[object, float] = {}
        self._until: dict[object, float] = {}

    def failed(self, key: object) -> None:
        """Put off the next attempt."""
        delay = min(2 * self._delay_s.get(key, FIRST_DELAY_S / 2), self._cap_s)
        self._delay_s[key] = delay
        self._until[key] = self._clock() + delay

    def succeeded(self, key: object) -> None:
        """Begin anew."""
        self._delay_s.pop(key, None)
        self._until.pop(key, None)

    def wait_s(self, key: object) -> float:
        """Return how long to wait for the next attempt."""
        return max(0.0, self._until.get(key, 0.0) - self._clock())


class Forwarder:
    """Sends what is processed, part by part.

    Parameters
    ----------
    ae_title
        The node's own.
    targets
        Each is sent everything.
    spool, journal
        Where parts are, and what was sent.
    reasons
        Tells which inputs of a part go into quarantine.
    retry_max_s
        Longest delay between two attempts.
    metrics, log
        What happened.
    stop_asked
        Asked after every instance.
    """

    def __init__(
        self,
        ae_title: str,
        targets: Sequence[Target],
        spool: Spool,
        journal: SentJournal,
        reasons: Callable[[Part], dict[str, str]],
        retry_max_s: float,
        metrics: Metrics,
        log: Log,
        stop_asked: Callable[[], bool],
    ) -> None:
        self._title, self._targets = ae_title, tuple(targets)
        self._spool, self._journal, self._reasons = spool, journal, reasons
        self._metrics, self._log, self._stop_asked = metrics, log, stop_asked
        self._backoff = Backoff(retry_max_s)
        self._complete: set[tuple[str, Target]] = set()
        self._tried: dict[str, int] = {}
        self._n_tries = 0

    def step(self) -> None:
        """Try every part that waits, and remove what has arrived everywhere."""
        # Least recently tried first: a part that a target chokes on must not keep its place.
        for part in sorted(
            self._spool.parts(State.processed), key=lambda one: self._tried.get(one.name, 0)
        ):
            if self._stop_asked():
                return
            # Every target is tried, whatever became of the one before.
            delivered = [self._delivered(part, target) for target in self._targets]
            if all(delivered):
                self._spool.finish_forwarding(part)
                self._complete -= {(part.name, target) for target in self._targets}
                self._tried.pop(part.name, None)
                self._log.write("forwarded", part=part.name)
        for part in self._spool.parts(State.forwarded):
            if self._stop_asked():
                return
            self._spool.tidy(part, self._reasons(part))

    def waits(self) -> dict[Labels, float]:
        """Return the seconds until each target is tried again."""
        return {
            (("target", str(target)),): self._backoff.wait_s(target) for target in self._targets
        }

    def _delivered(self, part: Part, target: Target) -> bool:
        key = (part.name, target)
        if key in self._complete:
            return True
        if self._backoff.wait_s(target) or self._backoff.wait_s(key):
            return False
        try:
            waiting = self._pending(part, target)
            if waiting and not self._deliver(part, target, waiting):
                return False
        except OSError:  # the spool's disk; the target is not to blame
            return self._failed(target, target, "spool-error")
        self._complete.add(key)
        return True

    def _pending(self, part: Part, target: Target) -> list[_Instance]:
        acknowledged: dict[str, set[str]] = {}
        pending = []
        for path in part.results():
            series = path.parent.name
            if series not in acknowledged:
                acknowledged[series] = self._journal.acknowledged(str(target), series)
            if path.stem in acknowledged[series]:
                continue
            meta = read_file_meta_info(path)
            pending.append(
                _Instance(
                    path=path,
                    sop_class_uid=str(meta.MediaStorageSOPClassUID),
                    sop_instance_uid=path.stem,
                    series_uid=series,
                    syntax=str(meta.TransferSyntaxUID),
                )
            )
        return pending

    def _deliver(self, part: Part, target: Target, instances: list[_Instance]) -> bool:
        self._n_tries += 1
        self._tried[part.name] = self._n_tries
        for series_uid in sorted({one.series_uid for one in instances}):
            self._journal.prepare(str(target), series_uid)
        association = self._associate(part, target, instances)
        if association is None:
            return False
        refused = 0
        try:
            for instance in instances:
                if self._stop_asked():
                    return False
                status = self._send(association, instance)
                if status is None:
                    return self._failed(target, target, "connection-lost")
                if status in OUT_OF_RESOURCES:
                    return self._failed(target, target, "out-of-resources")
                if status and status not in STORED_WITH_WARNING:
                    refused += 1
                    self._failed(target, (part.name, target), f"status-{status:04x}")
                    continue
                self._journal.record(str(target), instance.series_uid, instance.sop_instance_uid)
                self._metrics.count("instances_forwarded_total", target=str(target))
        finally:
            if association.is_established:
                association.release()
        self._backoff.succeeded(target)
        if not refused:
            self._backoff.succeeded((part.name, target))
        return not refused

    def _associate(self, part: Part, target: Target, instances: list[_Instance]) -> Any:
        pynetdicom = load_pynetdicom()
        ae = pynetdicom.AE(ae_title=self._title)
        ae.connection_timeout, ae.acse_timeout = CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S
        ae.dimse_timeout = ae.network_timeout = ANSWER_TIMEOUT_S
        for sop_class, syntax in sorted({(one.sop_class_uid, one.syntax) for one in instances}):
            ae.add_requested_context(sop_class, [syntax])
        for sop_class in sorted({one.sop_class_uid for one in instances}):
            # A context of its own: of several syntaxes in one, the target would choose.
            ae.requested_contexts = [
                *ae.requested_contexts,
                pynetdicom.build_context(sop_class, [ImplicitVRLittleEndian]),
            ]
        try:
            association = ae.associate(target.host, target.port, ae_title=target.ae_title)
        except OSError:
            self._failed(target, target, "unknown-host")
            return None
        if association.is_established:
            return association
        answer = association.acceptor.primitive
        if answer is not None and answer.result == ACCEPTED:
            # It took the association and none of the contexts: not down, but this is not for it.
            self._failed(target, (part.name, target), "no-context")
        else:
            reason = "rejected" if association.is_rejected else "no-connection"
            self._failed(target, target, reason)
        return None

    def _send(self, association: Any, instance: _Instance) -> int | None:
        """Return the answer's status; None if there was none."""
        accepted = {
            (context.abstract_syntax, context.transfer_syntax[0])
            for context in association.accepted_contexts
        }
        try:
            if (instance.sop_class_uid, instance.syntax) in accepted:
                answer = association.send_c_store(instance.path)
            elif (
                instance.syntax == ExplicitVRLittleEndian
                and (instance.sop_class_uid, ImplicitVRLittleEndian) in accepted
            ):
                with quiet_pydicom():
                    answer = association.send_c_store(dcmread(instance.path))
            else:
                return _NOT_NEGOTIATED
        except RuntimeError:  # the association has ended
            return None
        status = answer.get("Status")
        return None if status is None else int(status)

    def _failed(self, target: Target, key: object, reason: str) -> bool:
        self._backoff.failed(key)
        self._metrics.count("forward_failures_total", target=str(target), reason=reason)
        self._log.write(
            "forward-failed",
            target=target,
            reason=reason,
            retry_s=f"{self._backoff.wait_s(key):.0f}",
        )
        return False


_NOT_NEGOTIATED: Final = 0x0122
"""SOP Class not supported (PS3.7 C.5.6): what the target says by refusing the context."""
