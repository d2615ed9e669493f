"""Derived series to their targets: every target at its own pace, and no instance twice.

::

    processed/ --+--> lane of target 1 --+
                 +--> lane of target 2 --+--all have it--------------> forwarded/
                 +--> ...              --+--some target refused some--> undelivered/

An instance is journalled as sent (on the disk) when its target has answered Success or a warning.
Killed between that answer and the journal, the one instance in doubt is sent again under the same
UID: C-STORE has no way to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kspacesr_rt.node.events import Log
from kspacesr_rt.node.lane import Lane
from kspacesr_rt.node.metrics import Labels, Metrics
from kspacesr_rt.node.part import Part, State
from kspacesr_rt.node.peers import Target
from kspacesr_rt.node.sent import SentJournal
from kspacesr_rt.node.spool import Spool


class Forwarder:
    """Sends what is processed, part by part, to each target in a lane of its own.

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
        self._spool, self._reasons = spool, reasons
        self._metrics, self._log, self._stop_asked = metrics, log, stop_asked
        self.lanes = tuple(
            Lane(ae_title, target, spool, journal, retry_max_s, metrics, log, stop_asked)
            for target in dict.fromkeys(targets)
        )

    def settle(self) -> None:
        """Move on the parts that all lanes are done with, and remove what has arrived."""
        for part in self._spool.parts(State.processed):
            if self._stop_asked():
                return
            outcomes = {str(lane.target): lane.outcome(part) for lane in self.lanes}
            if None in outcomes.values():
                continue
            refused = {name: one for name, one in outcomes.items() if one}
            if refused:
                self._spool.keep_undelivered(part, refused)
                n = len({uid for one in refused.values() for uid in one})
                self._log.write("undelivered", part=part.name, instances=n)
            else:
                self._spool.finish_forwarding(part)
                self._log.write("forwarded", part=part.name)
        for part in self._spool.parts(State.forwarded):
            if self._stop_asked():
                return
            self._spool.tidy(part, self._reasons(part))

    def waits(self) -> dict[Labels, float]:
        """Return the seconds until each target is tried again."""
        return {(("target", str(lane.target)),): lane.wait_s() for lane in self.lanes}
