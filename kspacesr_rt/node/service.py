"""The node as a whole: what runs beside what, how it starts, and how it ends."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom.quiet import discreet_threads
from kspacesr_rt.errors import InputError
from kspacesr_rt.node import durable
from kspacesr_rt.node.events import Log
from kspacesr_rt.node.forwarder import Forwarder
from kspacesr_rt.node.metrics import Labels, Metrics
from kspacesr_rt.node.network import load_pynetdicom
from kspacesr_rt.node.part import Limits, State
from kspacesr_rt.node.peers import (
    ANY_ON_THIS_MACHINE,
    Peer,
    Target,
    bind_address,
    require_title,
)
from kspacesr_rt.node.processing import Keep, Processor, prove
from kspacesr_rt.node.receiver import Receiver
from kspacesr_rt.node.sent import SentJournal
from kspacesr_rt.node.spool import INCOMING, SENT, Spool
from kspacesr_rt.node.status import StatusServer
from kspacesr_rt.pipeline import InferOptions

TICK_S: Final = 0.1
PROCESSING_RETRY_S: Final = 5.0
"""Pause after an attempt at processing that failed."""
FORGET_EVERY_S: Final = 3600.0
MIN_JOIN_S: Final = 10.0
"""What a slice or an instance under way is given to end, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """How a node is run."""

    ae_title: str
    """Its own AE title."""
    targets: tuple[Target, ...]
    """Where derived series go; at least one."""
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
    retry_max_s: float = 300.0
    """Longest delay between two attempts to forward."""
    quarantine: Keep = Keep.all
    """What is kept of the files that were not processed."""
    remember_days: float = 90.0
    """How long an instance is remembered as sent."""
    retry: bool = False
    """Whether to offer again, at the start, what targets have refused for good."""
    grace_s: float = 20.0
    """How long running associations may go on after SIGTERM."""

    def __post_init__(self) -> None:
        """Reject what cannot be run."""
        require_title(self.ae_title)
        if not self.targets:
            raise InputError("a node needs a target", hint="--forward PACS@10.1.2.3:104")
        limits = (self.n_parts, self.spool_gb, self.series_timeout_s, self.retry_max_s)
        if min(limits) <= 0:
            raise InputError("limits and times of a node are positive")
        for port in (self.port, self.http_port or 0):
            if not 0 <= port < 1 << 16:
                raise InputError(f"there is no TCP port {port}")


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
        with discreet_threads(lambda kind: self._tell_accident("thread", kind)):
            spool = Spool(options.spool)
            try:
                self._run(spool)
            finally:
                if not any(thread.is_alive() for thread in self._threads):
                    spool.close_all()

    def _run(self, spool: Spool) -> None:
        options = self._options
        scratch = options.spool / INCOMING / "proof"
        proof = prove(self._infer, scratch)
        durable.remove_tree(scratch)
        spool.limits = Limits(
            n_parts=options.n_parts,
            n_bytes=int(options.spool_gb * 1e9),
            growth=float(proof.upscale**2),
        )
        if options.retry:
            self._log.write("offered-again", parts=spool.offer_again())
        journal = SentJournal(options.spool / SENT)
        title = require_title(options.ae_title)
        processor = Processor(
            spool, self._infer, options.quarantine, self.metrics, self._log, self._stop.is_set
        )
        forwarder = Forwarder(
            title,
            options.targets,
            spool,
            journal,
            processor.reasons,
            options.retry_max_s,
            self.metrics,
            self._log,
            self._stop.is_set,
        )
        receiver = Receiver(title, options.peers, spool, self.metrics, self._log)
        self._register_gauges(spool, forwarder, receiver)
        status = StatusServer(
            f"kspacesr-rt node {title}",
            self.metrics.as_text,
            lambda: self._rows(spool, forwarder),
            lambda: processor.able and self._is_running() and receiver.is_open(),
        )
        try:
            http_port = None if options.http_port is None else status.start(options.http_port)
            self._start("process", lambda: self._process(spool, processor))
            for number, lane in enumerate(forwarder.lanes, start=1):
                self._start(f"forward-{number}", lane.step)
            self._start("settle", forwarder.settle)
            address = options.bind or bind_address(options.peers)
            port = receiver.start(address, options.port)
            self._log.write(
                "listening",
                ae=title,
                address=address,
                port=port,
                http_port=http_port or "none",
                backend=proof.backend,
                model=proof.model,
            )
            self._tick(spool, journal)
        finally:
            self._stop.set()
            self._log.write("stopping")
            receiver.stop(options.grace_s)
            deadline = time.monotonic() + max(options.grace_s, MIN_JOIN_S)
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            status.stop()
            # Whoever is still busy (a target that does not answer) is cut off as by a crash.
            busy = [thread.name for thread in self._threads if thread.is_alive()]
            self._log.write("stopped", cut_off=",".join(busy) or "nothing")

    def _tick(self, spool: Spool, journal: SentJournal) -> None:
        forget_at = 0.0
        while not self._stop.is_set():
            try:
                for part in spool.close(self._options.series_timeout_s):
                    self.metrics.count("series_closed_total")
                    self._log.write("closed", part=part.name)
                if time.monotonic() >= forget_at:
                    journal.forget(self._options.remember_days)
                    forget_at = time.monotonic() + FORGET_EVERY_S
            except OSError as exc:  # the disk may be well again
                self._accident("close", exc)
            self._stop.wait(TICK_S)

    def _process(self, spool: Spool, processor: Processor) -> None:
        for part in spool.parts(State.closed):
            if self._stop.is_set():
                return
            if not processor.process(part):
                self._stop.wait(PROCESSING_RETRY_S)

    def _start(self, name: str, step: Callable[[], None]) -> None:
        """Repeat a step in a thread until the node stops; an accident ends no thread."""

        def repeat() -> None:
            while not self._stop.is_set():
                try:
                    step()
                except Exception as exc:
                    self._accident(name, exc)
                self._stop.wait(TICK_S)

        # A daemon: a second signal is not held up by it.
        thread = threading.Thread(target=repeat, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accident(self, where: str, exc: Exception) -> None:
        """Note what nobody foresaw, without its text: that may quote a patient's values."""
        self._tell_accident(where, type(exc).__name__)
        self._stop.wait(PROCESSING_RETRY_S)

    def _tell_accident(self, where: str, kind: str) -> None:
        self.metrics.count("internal_errors_total", where=where, kind=kind)
        self._log.write("internal-error", where=where, kind=kind)

    # What it tells -------------------------------------------------------------------------

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
            "Connections that have not told yet what they want.",
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

    def _rows(self, spool: Spool, forwarder: Forwarder) -> dict[str, object]:
        rows: dict[str, object] = {f"series {state}": n for state, n in spool.counts().items()}
        rows["spool"] = f"{spool.n_bytes() / 1e9:.2f} of {spool.limits.n_bytes / 1e9:.0f} GB"
        rows["instances received"] = int(self.metrics.value("instances_received_total"))
        rows["instances refused"] = int(self.metrics.value("instances_refused_total"))
        rows["associations refused"] = int(self.metrics.value("associations_rejected_total"))
        for labels, wait in forwarder.waits().items():
            target = dict(labels)["target"]
            sent = int(self.metrics.value("instances_forwarded_total", target=target))
            failures = int(self.metrics.value("forward_failures_total", target=target))
            refused = int(self.metrics.value("instances_undelivered_total", target=target))
            told = f"{sent} sent, {failures} failures, {refused} refused for good"
            rows[f"target {target}"] = f"{told}, next attempt in {wait:.0f} s" if wait else told
        return rows


def _oldest(spool: Spool) -> dict[Labels, float]:
    ages: dict[Labels, float] = {}
    for state in State:
        parts = spool.parts(state)
        ages[(("state", str(state)),)] = parts[0].age_s if parts else 0.0
    return ages
