"""The node as a whole: what runs beside what, how it starts, and how it ends."""

from __future__ import annotations

import math
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from kspacesr_rt.dicom.suppressed_warnings import redacted_thread_errors
from kspacesr_rt.errors import InputError, ResultError
from kspacesr_rt.pipeline import InferOptions, Session
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.runtime.backends import backend_info
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.health import LOOPBACK
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Labels, Metrics
from kspacesr_rt.services.node.event_counter import EventCounter
from kspacesr_rt.services.node.forwarder import Forwarder
from kspacesr_rt.services.node.peers import (
    ANY_ON_THIS_MACHINE,
    Peer,
    Target,
    bind_address,
    require_title,
    unreachable,
)
from kspacesr_rt.services.node.ports import bind_port, is_own_address
from kspacesr_rt.services.node.processing import Keep, Processor, check_inference, node_options
from kspacesr_rt.services.node.pynetdicom_setup import load_pynetdicom
from kspacesr_rt.services.node.receiver import Receiver
from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import INCOMING, SENT, Spool
from kspacesr_rt.services.node.spool_part import WAITING, Limits, Part, State
from kspacesr_rt.services.node.status_page import Sections
from kspacesr_rt.services.node.status_server import StatusServer
from kspacesr_rt.services.node.target_queue import TargetQueue

TICK_S: Final = 0.1
PROCESSING_RETRY_S: Final = 5.0
"""Pause after an attempt at processing that failed."""
FORGET_EVERY_S: Final = 3600.0
STATE_LABELS: Final = {
    State.received: "being received",
    State.closed: "waiting to be processed",
    State.processed: "waiting to be sent",
    State.forwarded: "sent, being removed",
    State.quarantined: "quarantined, with files left out",
    State.undelivered: "refused by a target, see --retry",
}
CUT_OFF_S: Final = 1.0
"""For a thread to notice that its connection was cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """How a node is run."""

    ae_title: str
    """Its own AE title."""
    targets: tuple[Target, ...]
    """Where derived series go; at least one. One that is named twice is one."""
    spool: Path
    """Folder that survives a crash."""
    port: int = 11112
    """TCP port; 0 lets the system choose."""
    peers: tuple[Peer, ...] = (ANY_ON_THIS_MACHINE,)
    """Who may send."""
    bind: str | None = None
    """Address to listen on; None means loopback, or every one if a peer comes from elsewhere."""
    http_port: int | None = None
    """Port of the status page on loopback; None means no page."""
    n_parts: int = 200
    """Series that may wait."""
    spool_gb: float = 50.0
    """Gigabytes that the spool may take."""
    series_timeout_s: float = 30.0
    """Silence after which a series is taken as complete."""
    released_timeout_s: float = 5.0
    """The same once a sender has released the one association over which all of it came."""
    retry_max_s: float = 300.0
    """Longest delay between two attempts to forward."""
    quarantine: Keep = Keep.all
    """What is kept of the files that were not processed."""
    remember_days: float = 90.0
    """How long an instance is remembered as sent."""
    retry: bool = False
    """Whether to offer again, at the start, what targets have refused for good."""
    grace_s: float = 5.0
    """How long, after SIGTERM, associations may go on, and a slice and an answer are waited for.
    The node has ended three seconds later at the latest; a container's engine kills after ten."""

    def __post_init__(self) -> None:
        """Reject what cannot be run."""
        require_title(self.ae_title)
        if not self.targets:
            raise InputError("a node needs a target", hint="--forward PACS@10.1.2.3:104")
        object.__setattr__(self, "targets", tuple(dict.fromkeys(self.targets)))
        above_zero = {
            "--queue": self.n_parts,
            "--spool-gb": self.spool_gb,
            "--series-timeout": self.series_timeout_s,
            "--released-timeout": self.released_timeout_s,
            "--retry-max": self.retry_max_s,
        }
        or_zero = {"--remember-days": self.remember_days, "--grace": self.grace_s}
        for name, value in above_zero.items():
            if not 0 < value < math.inf:
                raise InputError(f"{name} is a number above 0, not {value}")
        for name, value in or_zero.items():
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is a number, 0 or more, not {value}")
        if self.bind is not None and not self.bind.strip():
            raise InputError("--bind names an address", hint="for example --bind 10.1.2.3")
        for port in (self.port, self.http_port or 0):
            if not 0 <= port < 1 << 16:
                raise InputError(f"there is no TCP port {port}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ports:
    """What a node will listen on: taken before anything else, so that failing leaves nothing."""

    dicom: socket.socket
    address: str
    http: socket.socket | None

    @classmethod
    def take(cls, options: NodeOptions, held: ExitStack) -> Self:
        """Take the ports; `held` gives them back.

        Raises
        ------
        OutputError
            If a port or an address cannot be had.
        InputError
            If a sender could never connect to the address, or the node would send to itself.
        """
        address = options.bind or bind_address(options.peers)
        dicom = held.enter_context(bind_port(address, options.port))
        place = dicom.getsockname()
        for peer in unreachable(options.peers, place[0]):
            raise InputError(
                f"--accept {peer}: nobody there can connect to {address}",
                hint="without --bind, the node listens where all senders can come",
            )
        for target in options.targets:
            if target.port == place[1] and is_own_address(target.host):
                raise InputError(
                    f"--forward {target}: that is this node itself",
                    hint="name the archive; results that come back are processed no further",
                )
        http = None
        if options.http_port is not None:
            taken = bind_port(LOOPBACK, options.http_port, option="--http-port")
            http = held.enter_context(taken)
        return cls(dicom=dicom, address=address, http=http)


class Node:
    """Receives, processes and forwards until it is told to stop.

    Parameters
    ----------
    options
        How.
    infer_options
        For the pipeline.
    log
        Where events are written.
    """

    def __init__(self, options: NodeOptions, infer_options: InferOptions, log: Log) -> None:
        if infer_options.random_uids:
            raise InputError("a node needs stable UIDs: it knows by them what it has sent")
        self._options, self._infer, self._log = options, infer_options, log
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listened = False
        self._started = datetime.now(UTC)
        self.metrics = Metrics()

    def stop(self) -> None:
        """Ask the node to end; returns at once, and may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop` is called and what runs has come to a safe end.

        Raises
        ------
        KspaceSRError
            Before the node listens: no backend, no model, an unusable spool, a port that is taken.
        """
        load_pynetdicom()
        options = self._options
        with (
            ExitStack() as ports,
            redacted_thread_errors(lambda kind: self._log_failure("thread", kind)),
        ):
            taken = _Ports.take(options, ports)
            spool = Spool(options.spool)
            try:
                with Session(node_options(self._infer)) as session:
                    self._run(spool, taken, session)
            finally:
                if not any(thread.is_alive() for thread in self._threads):
                    if not self._listened:
                        spool.undo()
                    spool.close_all()

    def _run(self, spool: Spool, ports: _Ports, session: Session) -> None:
        options = self._options
        scratch = options.spool / INCOMING / "proof"
        if (proof := self._proved(session, scratch)) is None:
            self._log.write("stopped", cut_off="nothing", waiting=_n_waiting(spool))
            return
        if backend_info(proof.backend).on_gpu:
            session.release()  # what a GPU holds belongs to the thread that computes
        durable_files.remove_tree(scratch)
        spool.limits = Limits(
            n_parts=options.n_parts,
            n_bytes=int(options.spool_gb * 1e9),
            growth=float(proof.upscale**2),
        )
        if options.retry:
            self._log.write("offered-again", parts=spool.requeue_undelivered())
        journal = SentJournal(options.spool / SENT)
        title = require_title(options.ae_title)
        processor = Processor(
            spool, session, options.quarantine, self.metrics, self._log, self._stop.is_set
        )
        common = (spool, journal, options.retry_max_s, self.metrics, self._log, self._stop.is_set)
        queues = [TargetQueue(title, target, *common) for target in options.targets]
        forwarder = Forwarder(queues, spool, processor.reasons, self._log, self._stop.is_set)
        receiver = Receiver(title, options.peers, spool, self.metrics, self._log)
        self._register_gauges(spool, forwarder, receiver)
        status = StatusServer(
            f"kspacesr-rt node {title}",
            self.metrics.as_text,
            lambda: self._sections(spool, forwarder),
            lambda: processor.can_infer and self._is_running() and receiver.is_open(),
        )
        try:
            http_port = None if ports.http is None else status.listen(ports.http)
            port = receiver.listen(ports.dicom)
            self._listened = True
            self._start("process", spool.changes, lambda: self._process(spool, processor))
            for number, queue in enumerate(forwarder.queues, start=1):
                self._start(f"forward-{number}", spool.changes, queue.step)
            self._start("settle", spool.changes, forwarder.move_finished)
            self._log.write(
                "listening",
                ae=title,
                address=ports.address,
                port=port,
                http_port=http_port or "none",
                backend=proof.backend,
                model=proof.model,
            )
            self._tick(spool, journal)
        finally:
            self._stop.set()
            self._log.write("stopping")
            deadline = time.monotonic() + options.grace_s
            forwarder.cut_off(unanswered_too=False)
            receiver.stop(options.grace_s)
            self._join(deadline)
            forwarder.cut_off(unanswered_too=True)
            self._join(time.monotonic() + CUT_OFF_S)
            status.stop()
            # Whoever is still busy (a slice that takes long) is cut off as by a crash.
            busy = [thread.name for thread in self._threads if thread.is_alive()]
            self._log.write(
                "stopped", cut_off=",".join(busy) or "nothing", waiting=_n_waiting(spool)
            )

    def _proved(self, session: Session, scratch: Path) -> RunReport | None:
        """Return what became of a shipped slice; None if a signal came, which cuts that short."""
        try:
            proof = check_inference(session, scratch)
        except ResultError:
            if not self._stop.is_set():
                raise
            return None
        return None if self._stop.is_set() else proof

    def _tick(self, spool: Spool, journal: SentJournal) -> None:
        options, forget_at = self._options, 0.0
        while not self._stop.is_set():
            seen = spool.changes.n
            try:
                for part in spool.close(options.series_timeout_s, options.released_timeout_s):
                    self.metrics.count("series_closed_total")
                    self._log_closed(part)
                if time.monotonic() >= forget_at:
                    journal.forget(options.remember_days)
                    forget_at = time.monotonic() + FORGET_EVERY_S
            except OSError as exc:  # the disk may be well again
                self._record_failure("close", exc)
            spool.changes.wait(seen, TICK_S)

    def _log_closed(self, part: Part) -> None:
        for sender, outcomes in part.arrived.items():
            self._log.write(
                "received",
                part=part.name,
                sender=sender,
                instances=outcomes.get("stored", 0),
                corrected=outcomes.get("corrected", 0),
                repeated=outcomes.get("duplicate", 0),
            )
        self._log.write("closed", part=part.name, instances=len(list(part.inputs.iterdir())))
        for older, n in part.supersedes.items():
            self._log.write("withheld", part=older, corrected_by=part.name, instances=n)

    def _process(self, spool: Spool, processor: Processor) -> None:
        for part in spool.parts(State.closed):
            if self._stop.is_set():
                return
            if not processor.process(part):
                self._stop.wait(PROCESSING_RETRY_S)

    def _start(self, name: str, changes: EventCounter, step: Callable[[], None]) -> None:
        """Repeat a step in a thread until the node stops; an accident ends no thread."""

        def repeat() -> None:
            while not self._stop.is_set():
                seen = changes.n
                try:
                    step()
                except Exception as exc:
                    self._record_failure(name, exc)
                changes.wait(seen, TICK_S)

        # A daemon: a second signal is not held up by it.
        thread = threading.Thread(target=repeat, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _join(self, deadline: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _record_failure(self, where: str, exc: Exception) -> None:
        """Note what nobody foresaw, without its text: that may quote a patient's values."""
        self._log_failure(where, type(exc).__name__)
        self._stop.wait(PROCESSING_RETRY_S)

    def _log_failure(self, where: str, kind: str) -> None:
        self.metrics.count("internal_errors_total", where=where, kind=kind)
        self._log.write("internal-error", where=where, kind=kind)

    # What it shows -------------------------------------------------------------------------

    def _is_running(self) -> bool:
        return not self._stop.is_set() and all(thread.is_alive() for thread in self._threads)

    def _register_gauges(self, spool: Spool, forwarder: Forwarder, receiver: Receiver) -> None:
        self.metrics.gauge(
            "associations",
            "Associations that are established.",
            lambda: {(): float(receiver.n_associations)},
        )
        self.metrics.gauge(
            "connections_waiting",
            "Connections that have not asked for an association yet.",
            lambda: {(): float(receiver.n_waiting)},
        )
        self.metrics.gauge(
            "parts",
            "Parts of series in the spool, by state.",
            lambda: {(("state", str(state)),): n for state, n in spool.counts().items()},
        )
        self.metrics.gauge(
            "oldest_part_seconds",
            "Age of the oldest part, by state.",
            lambda: _oldest(spool),
        )
        self.metrics.gauge(
            "spool_bytes", "Bytes in the spool.", lambda: {(): float(spool.n_bytes())}
        )
        self.metrics.gauge(
            "spool_limit_bytes", "Its limit.", lambda: {(): float(spool.limits.n_bytes)}
        )
        self.metrics.gauge(
            "disk_free_bytes",
            "Bytes free on the spool's disk.",
            lambda: {(): float(shutil.disk_usage(spool.root).free)},
        )
        self.metrics.gauge(
            "forward_wait_seconds", "Time until a target is tried again.", forwarder.waits
        )

    def _sections(self, spool: Spool, forwarder: Forwarder) -> Sections:
        counts = spool.counts()
        now: dict[str, object] = {label: counts[state] for state, label in STATE_LABELS.items()}
        now["spool, of what it may take"] = (
            f"{spool.n_bytes() / 1e9:.2f} of {spool.limits.n_bytes / 1e9:.0f} GB"
        )
        total = self.metrics.value
        since: dict[str, object] = {
            "instances received": int(total("instances_received_total")),
            "instances refused": int(total("instances_refused_total")),
            "associations refused": int(total("associations_rejected_total")),
            "associations that ended without a release": int(
                total("associations_aborted_total") + total("associations_broken_off_total")
            ),
            "slices made": int(total("slices_total", outcome="written")),
            "files left out": int(total("left_out_total")),
        }
        sections: dict[str, Mapping[str, object]] = {
            "Series in the spool now": now,
            f"Since the start, {self._started:%Y-%m-%d %H:%M}": since,
        }
        for labels, wait in forwarder.waits().items():
            target = dict(labels)["target"]
            sections[f"Target {target}, since the start"] = {
                "instances sent": int(total("instances_forwarded_total", target=target)),
                "attempts that failed": int(total("forward_failures_total", target=target)),
                "instances refused for good": int(
                    total("instances_undelivered_total", target=target)
                ),
                "now": f"next attempt in {wait:.0f} s" if wait else "no trouble",
            }
        return sections


def _n_waiting(spool: Spool) -> int | None:
    """Return how many parts the next start goes on with; None if the disk does not say."""
    try:
        counts = spool.counts()
    except OSError:
        return None
    return sum(counts[state] for state in WAITING)


def _oldest(spool: Spool) -> dict[Labels, float]:
    ages: dict[Labels, float] = {}
    for state in State:
        parts = spool.parts(state)
        ages[(("state", str(state)),)] = parts[0].age_s if parts else 0.0
    return ages
