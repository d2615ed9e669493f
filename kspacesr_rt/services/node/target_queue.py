"""The way to one target: what it has not acknowledged is offered to it, oldest trouble last."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.services.durable_files import FILE_LIMITS
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.peers import Target
from kspacesr_rt.services.node.requestor import Requestor, WrongAnswerError
from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import Spool
from kspacesr_rt.services.node.spool_part import Part, State
from kspacesr_rt.services.node.store_responses import (
    MAX_TRIES,
    OUT_OF_RESOURCES,
    Meaning,
    meaning_of,
)

FIRST_DELAY_S: Final = 1.0
ACCEPTED: Final = 0x00
"""Result of an A-ASSOCIATE-AC."""


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


@dataclass(kw_only=True, slots=True)
class _Progress:
    """How far a part has come in this queue."""

    tried: int = 0
    """Number of the last attempt; parts are tried in this order."""
    tries: Counter[str]
    """Offers of each instance that were refused."""
    refused: dict[str, str]
    """Why each instance is refused that is not offered any more."""
    sent: int = 0
    """Instances that the target has acknowledged since the process began."""
    done: bool = False


class TargetQueue:
    """Sends what is processed to one target, and knows of each part how far it is.

    Parameters
    ----------
    ae_title
        The node's own.
    target
        Where to.
    spool, journal
        Where parts are, and what was sent.
    retry_max_s
        Longest delay between two attempts.
    metrics, log
        What happened.
    stop_requested
        Asked after every instance.
    """

    def __init__(
        self,
        ae_title: str,
        target: Target,
        spool: Spool,
        journal: SentJournal,
        retry_max_s: float,
        metrics: Metrics,
        log: Log,
        stop_requested: Callable[[], bool],
    ) -> None:
        self.target = target
        self._name, self._requestor = str(target), Requestor(ae_title, target)
        self._spool, self._journal = spool, journal
        self._metrics, self._log, self._stop_requested = metrics, log, stop_requested
        self._backoff = Backoff(retry_max_s)
        self._parts: dict[str, _Progress] = {}
        self._lock = threading.Lock()
        self._n_attempts = 0
        self._cut_off = self._awaits_answer = False
        # In doubt is an instance that was offered, until its answer is noted.

    def step(self) -> None:
        """Try every part that waits."""
        waiting = {part.name: part for part in self._spool.parts(State.processed)}
        with self._lock:
            for name in self._parts.keys() - waiting.keys():
                del self._parts[name]
                self._backoff.succeeded(name)
            for name in waiting.keys() - self._parts.keys():
                self._parts[name] = _Progress(tries=Counter(), refused={})
            todo = {name: one for name, one in self._parts.items() if not one.done}
        # Least recently tried first: a part that the target chokes on must not keep its place.
        for name in sorted(todo, key=lambda one: (todo[one].tried, one)):
            if self._stop_requested() or self._backoff.wait_s(self.target):
                return
            if not self._backoff.wait_s(name):
                self._try(waiting[name], todo[name])

    def outcome(self, part: Part) -> dict[str, str] | None:
        """Return the instances of a part that were refused for good, and why; None before that."""
        with self._lock:
            progress = self._parts.get(part.name)
            return dict(progress.refused) if progress and progress.done else None

    def wait_s(self) -> float:
        """Return the seconds until the target is tried again."""
        return self._backoff.wait_s(self.target)

    def cut_off(self, *, unanswered_too: bool) -> None:
        """End what the queue waits for, as the node ends; without, not an answer to an instance.

        What was offered and is not answered by then is offered again at the next start.
        """
        with self._lock:
            if self._awaits_answer and not unanswered_too:
                return
            self._cut_off = True
        self._requestor.cut_off()

    def _try(self, part: Part, progress: _Progress) -> None:
        try:
            waiting = self._pending(part, progress)
            if waiting and not self._deliver(part, progress, waiting):
                return
            self._log_forwarded(part, progress)
        except OSError as exc:  # the spool's disk; the target is not to blame
            self._failed(part, "file-limit" if _is_file_limit(exc) else "spool-error")
            return
        with self._lock:
            progress.done = True

    def _log_forwarded(self, part: Part, progress: _Progress) -> None:
        withheld = len(self._spool.superseded(part))
        before = len(part.results()) - withheld - len(progress.refused) - progress.sent
        self._log.write(
            "forwarded",
            part=part.name,
            target=self._name,
            instances=progress.sent,
            before=max(0, before),
            refused=len(progress.refused),
            withheld=withheld,
        )

    def _pending(self, part: Part, progress: _Progress) -> list[_Instance]:
        acknowledged: dict[str, set[str]] = {}
        pending = []
        withheld = self._spool.superseded(part)
        for path in part.results():
            if path in withheld:
                continue
            series = path.parent.name
            if series not in acknowledged:
                acknowledged[series] = self._journal.acknowledged(self._name, series)
            if path.stem in acknowledged[series] or path.stem in progress.refused:
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

    def _deliver(self, part: Part, progress: _Progress, instances: list[_Instance]) -> bool:
        """Offer instances; return whether none of them is to be offered again."""
        self._n_attempts += 1
        progress.tried = self._n_attempts
        for series_uid in sorted({one.series_uid for one in instances}):
            self._journal.prepare(self._name, series_uid)
        association = self._associate(part, instances)
        if association is None:
            return False
        turned_down: list[tuple[_Instance, str, Meaning]] = []
        wrong_answer = False
        try:
            for instance in instances:
                if self._stop_requested():
                    return False
                if instance.path in self._spool.superseded(part):  # corrected this very moment
                    continue
                try:
                    status = self._offer(association, instance)
                except WrongAnswerError:
                    turned_down.append((instance, "wrong-answer", Meaning.some_tries))
                    wrong_answer = True
                    break
                if status is None:
                    self._settle(part, progress, turned_down)
                    return self._failed(part, "connection-lost")
                meaning = meaning_of(status)
                if meaning is Meaning.stored:
                    progress.sent += 1
                    self._metrics.count("instances_forwarded_total", target=self._name)
                elif meaning is Meaning.later:
                    return self._failed(part, _reason(status))
                elif status == NO_CONTEXT:
                    turned_down.append((instance, "no-context", Meaning.some_tries))
                else:
                    turned_down.append((instance, _reason(status), meaning))
        finally:
            if association.is_established:
                association.release()
        self._backoff.succeeded(self.target)
        return self._settle(part, progress, turned_down) and not wrong_answer

    def _settle(
        self, part: Part, progress: _Progress, turned_down: list[tuple[_Instance, str, Meaning]]
    ) -> bool:
        """Note refusals; return whether nothing of the part is to be offered again."""
        again, given_up = Counter[str](), Counter[str]()
        for instance, reason, meaning in turned_down:
            uid = instance.sop_instance_uid
            self._metrics.count("forward_failures_total", target=self._name, reason=reason)
            progress.tries[uid] += 1
            if meaning is Meaning.refused or progress.tries[uid] >= MAX_TRIES:
                with self._lock:
                    progress.refused[uid] = reason
                given_up[reason] += 1
            else:
                again[reason] += 1
        for reason, n in given_up.items():
            self._metrics.count("instances_undelivered_total", n, target=self._name, reason=reason)
            self._log.write(
                "refused", part=part.name, target=self._name, reason=reason, instances=n
            )
        if not again:
            self._backoff.succeeded(part.name)
            return True
        self._backoff.failed(part.name)
        for reason, n in again.items():
            self._log_failure(part.name, part, reason, instances=n)
        return False

    def _associate(self, part: Part, instances: list[_Instance]) -> Any:
        """Return an association, which may have no context; None if there is none."""
        try:
            association = self._requestor.associate(
                (one.sop_class_uid, one.syntax) for one in instances
            )
        except OSError as exc:
            self._failed(part, "file-limit" if _is_file_limit(exc) else "unknown-host")
            return None
        if association.is_established:
            return association
        answer = association.acceptor.primitive
        if answer is not None and answer.result == ACCEPTED:
            return association  # it took the association and none of the contexts
        # For good or not: whatever is wrong there is wrong for every part, so all wait, visibly,
        # until somebody mends it; nothing is set aside for it.
        self._failed(part, "rejected" if association.is_rejected else "no-connection")
        return None

    def _offer(self, association: Any, instance: _Instance) -> int | None:
        """Send an instance, and note it if it is stored; return the answer's status."""
        with self._lock:
            if self._cut_off:
                return None
            self._awaits_answer = True
        try:
            status = self._send(association, instance)
            if status is not None and meaning_of(status) is Meaning.stored:
                self._journal.record(self._name, instance.series_uid, instance.sop_instance_uid)
            return status
        finally:
            self._awaits_answer = False

    def _send(self, association: Any, instance: _Instance) -> int | None:
        """Return the answer's status; None if there was none."""
        accepted = {
            (context.abstract_syntax, context.transfer_syntax[0])
            for context in association.accepted_contexts
        }
        what: Path | Dataset
        if (instance.sop_class_uid, instance.syntax) in accepted:
            what = instance.path
        elif (
            instance.syntax == ExplicitVRLittleEndian
            and (instance.sop_class_uid, ImplicitVRLittleEndian) in accepted
        ):
            with quiet_pydicom():
                what = dcmread(instance.path)
        else:
            return NO_CONTEXT
        with quiet_pydicom():
            return self._requestor.store(association, what)

    def _failed(self, part: Part, reason: str) -> Literal[False]:
        self._backoff.failed(self.target)
        self._metrics.count("forward_failures_total", target=self._name, reason=reason)
        if reason == "file-limit":
            self._metrics.count("file_limit_total", where="forward")
        self._log_failure(self.target, part, reason)
        return False

    def _log_failure(self, key: object, part: Part, reason: str, **values: object) -> None:
        self._log.write(
            "forward-failed",
            part=part.name,
            target=self._name,
            reason=reason,
            **values,
            retry_s=f"{self._backoff.wait_s(key):.0f}",
        )


NO_CONTEXT: Final = -1
"""In place of a status: the target took no context that would fit."""


def _reason(status: int) -> str:
    return "out-of-resources" if status in OUT_OF_RESOURCES else f"status-{status:04x}"


def _is_file_limit(error: OSError) -> bool:
    return error.errno in FILE_LIMITS
