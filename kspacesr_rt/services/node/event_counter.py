"""Count events, so that the node's threads can wait for the next one, or for a while."""

from __future__ import annotations

import threading


class EventCounter:
    """Counts what happened, so that a thread can wait until more of it has."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._n = 0

    @property
    def n(self) -> int:
        """How many there were so far."""
        return self._n

    def note(self) -> None:
        """Count one more, and wake whoever waits."""
        with self._condition:
            self._n += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Wait for more than `seen`, for some seconds at most; return whether there were more."""
        with self._condition:
            return self._condition.wait_for(lambda: self._n != seen, timeout_s)
