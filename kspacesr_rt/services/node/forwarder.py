"""Derived series to their targets: every target at its own pace, and no instance twice.

::

    processed/ --+--> queue of target 1 --+
                 +--> queue of target 2 --+--all have it--------------> forwarded/
                 +--> ...              --+--some target refused some--> undelivered/

An instance is journalled as sent (on the disk) when its target has answered Success or a warning.
Killed between that answer and the journal, the one instance in doubt is sent again under the same
UID: C-STORE has no way to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Labels
from kspacesr_rt.services.node.spool import Spool
from kspacesr_rt.services.node.spool_part import Part, State
from kspacesr_rt.services.node.target_queue import TargetQueue


class Forwarder:
    """Sends what is processed, part by part, to each target from a queue of its own.

    Parameters
    ----------
    lanes
        One a target; each is sent everything.
    spool
        Where parts are.
    reasons
        Tells which inputs of a part go into quarantine.
    log
        What happened.
    stop_requested
        Asked after every part.
    """

    def __init__(
        self,
        queues: Sequence[TargetQueue],
        spool: Spool,
        reasons: Callable[[Part], dict[str, str]],
        log: Log,
        stop_requested: Callable[[], bool],
    ) -> None:
        self.queues = tuple(queues)
        self._spool, self._reasons, self._log, self._stop_requested = (
            spool,
            reasons,
            log,
            stop_requested,
        )

    def move_finished(self) -> None:
        """Move on the parts that all lanes are done with, and remove what has arrived."""
        for part in self._spool.parts(State.processed):
            if self._stop_requested():
                return
            outcomes = {str(queue.target): queue.outcome(part) for queue in self.queues}
            if None in outcomes.values():
                continue
            refused = {name: one for name, one in outcomes.items() if one}
            if refused:
                self._spool.keep_undelivered(part, refused)
                n = len({uid for one in refused.values() for uid in one})
                self._log.write(
                    "undelivered", part=part.name, instances=n, targets=",".join(refused)
                )
            else:
                self._spool.finish_forwarding(part)
                self._log.write("delivered", part=part.name, targets=",".join(outcomes))
        for part in self._spool.parts(State.forwarded):
            if self._stop_requested():
                return
            reasons = self._reasons(part)
            self._spool.tidy(part, reasons)
            if reasons:
                self._log.write("quarantined", part=part.name, files=len(reasons))

    def cut_off(self, *, unanswered_too: bool) -> None:
        """End what queues wait for; see `TargetQueue.cut_off`."""
        for queue in self.queues:
            queue.cut_off(unanswered_too=unanswered_too)

    def waits(self) -> dict[Labels, float]:
        """Return the seconds until each target is tried again."""
        return {(("target", str(queue.target)),): queue.wait_s() for queue in self.queues}
