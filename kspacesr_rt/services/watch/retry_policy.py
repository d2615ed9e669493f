"""What went wrong in a watch, and what follows: a pause, another attempt, or giving up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Final

from kspacesr_rt.errors import OutputError
from kspacesr_rt.services.watch.arrivals import SeriesKey

MAX_ATTEMPTS: Final = 3
"""Attempts at a series that ends every one of them; then it is set aside."""
MAX_SET_ASIDE: Final = 3
"""Series set aside one after the other, with no slice between them: then it is not the series."""
FIRST_PAUSE_S: Final = 1.0
"""Pause after a first error; it doubles with each that follows."""


class RetryPolicy:
    """What is held against the place, and against single series."""

    def __init__(self, *, retry_max_s: float) -> None:
        """Begin without any; pauses grow to `retry_max_s`."""
        self._retry_max_s = retry_max_s
        self._attempts: Counter[SeriesKey] = Counter()
        self._not_before: dict[SeriesKey, float] = {}
        self._n_pauses = self._n_set_aside = 0
        self._paused_until = 0.0
        self.alone: set[SeriesKey] = set()
        """Series to be processed by themselves: one of them ended a round."""

    @property
    def paused(self) -> bool:
        """Whether nothing is to be written for now."""
        return time.monotonic() < self._paused_until

    @property
    def on_hold(self) -> set[SeriesKey]:
        """Series that are not to be tried for now."""
        now = time.monotonic()
        return {key for key, due in self._not_before.items() if due > now}

    @property
    def is_permanent(self) -> bool:
        """Whether one series after the other was set aside."""
        return self._n_set_aside >= MAX_SET_ASIDE

    def pause(self) -> float:
        """Write nothing for a while; return the seconds."""
        delay_s = min(self._retry_max_s, FIRST_PAUSE_S * 2.0**self._n_pauses)
        self._n_pauses += delay_s < self._retry_max_s
        self._paused_until = time.monotonic() + delay_s
        return delay_s

    def record_failure(self, keys: Collection[SeriesKey], *, n_series: int) -> bool:
        """Hold a round of `n_series` against its series; return whether to set them aside."""
        self.alone.update(keys)
        if n_series > 1:  # which of them it was is found out one by one
            return False
        for key in keys:
            self._attempts[key] += 1
            pause_s = FIRST_PAUSE_S * 2.0 ** self._attempts[key]
            self._not_before[key] = time.monotonic() + pause_s
        if not any(self._attempts[key] >= MAX_ATTEMPTS for key in keys):
            return False
        for key in keys:
            self.forget(key)
        self._n_set_aside += 1
        return True

    def forget(self, key: SeriesKey) -> None:
        """Hold nothing against a series any more."""
        self.alone.discard(key)
        self._attempts.pop(key, None)
        self._not_before.pop(key, None)

    def round_ended(self) -> None:
        """Note that a round went through."""
        self._n_pauses = 0

    def slice_written(self) -> None:
        """Note that something computes, and can be written."""
        self._n_set_aside = 0


def is_disk_error(error: Exception) -> bool:
    """Tell a full or missing disk, which no series is to blame for, from a name that is taken."""
    cause = error.__cause__
    return (
        isinstance(error, OutputError)
        and isinstance(cause, OSError)
        and cause.errno is not None  # without, it is of pydicom, about a value
        and not isinstance(cause, FileExistsError)
    )


def cause_text(error: Exception) -> str:
    """Say what the system said; our own message may name a path."""
    cause = error.__cause__
    return (isinstance(cause, OSError) and cause.strerror) or type(error).__name__
