"""A spool with one closed part, and what works on it, step by step."""

from __future__ import annotations

from pydicom import dcmread

from kspacesr_rt.pipeline import InferOptions, Session
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.forwarder import Forwarder
from kspacesr_rt.services.node.peers import parse_target
from kspacesr_rt.services.node.processing import Keep, Processor, node_options
from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import SENT, Spool
from kspacesr_rt.services.node.target_queue import TargetQueue

ZERO_FILL = InferOptions(backend="zero-fill")


def put(spool, paths):
    for path in paths:
        ds = dcmread(path, stop_before_pixels=True)
        series = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
        spool.store(series, str(ds.SOPInstanceUID), spool.incoming(path.read_bytes()))


def session_of(options):
    return Session(node_options(options))


class Bench:
    """A spool with one closed part of three slices, and what works on it."""

    def __init__(self, folder, paths, keep=Keep.all, options=ZERO_FILL) -> None:
        self.spool = Spool(folder / "spool")
        put(self.spool, paths)
        self.spool.close(timeout_s=0)
        self.metrics, self.log = Metrics(), Log(quiet=True)
        self.stop = lambda: False
        self.processor = Processor(
            self.spool, session_of(options), keep, self.metrics, self.log, lambda: self.stop()
        )

    def forwarder(self, *targets):
        def asked():
            return self.stop()  # tests replace it

        journal = SentJournal(self.spool.root / SENT)
        common = (self.spool, journal, 0.05, self.metrics, self.log, asked)
        queues = [TargetQueue("KSPACESR", parse_target(one.name), *common) for one in targets]
        return Forwarder(queues, self.spool, self.processor.reasons, self.log, asked)

    def only(self, state):
        [part] = self.spool.parts(state)
        return part

    def states(self):
        return {state: n for state, n in self.spool.counts().items() if n}


def step(forwarder):
    """Do once, one after the other, what the node's threads do again and again."""
    for queue in forwarder.queues:
        queue.step()
    forwarder.move_finished()
