"""A service's log: one line an event, ``key=value`` or JSON, without UIDs, names or paths."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

from kspacesr_rt.system.plain_text import printable

REPEAT_AFTER_S: Final = 60.0
"""Shortest time between two lines of the same kind, where others decide how often it happens."""


class Log:
    """Writes lines such as ``2026-11-23T00:03:21Z event=closed part=... instances=20``.

    Parameters
    ----------
    stream
        Where to; None means standard error, looked up at each line.
    quiet
        Write nothing.
    as_json
        Write ``{"time": "2026-11-23T00:03:21Z", "event": "closed", ...}`` instead.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, as_json: bool = False
    ) -> None:
        self._stream, self._quiet, self._as_json = stream, quiet, as_json
        self._lock = threading.Lock()

    def write(self, event: str, **values: object) -> None:
        """Write one line; values with blanks are quoted."""
        if self._quiet:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self._as_json:
            line = json.dumps({"time": now, "event": event, **values}, default=str)
        else:
            fields = " ".join(f"{key}={_quoted(value)}" for key, value in values.items())
            line = f"{now} event={event} {fields}".rstrip()
        with self._lock:
            print(line, file=self._stream or sys.stderr, flush=True)


class RateLimitedLog:
    """Writes a kind of line at once, and what follows of it as a count, once a minute.

    Parameters
    ----------
    log
        Where to.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._due: dict[tuple[str, str], float] = {}
        self._kept: dict[tuple[str, str], tuple[int, dict[str, object]]] = {}

    def write(self, event: str, **values: object) -> None:
        """Write a line, or count it to the next of its event and reason."""
        key = (event, str(values.get("reason", values.get("where", ""))))
        with self._lock:
            if self._clock() < self._due.get(key, -float("inf")):
                n, _ = self._kept.get(key, (0, {}))
                self._kept[key] = (n + 1, values)
                return
            n, _ = self._kept.pop(key, (0, {}))
            self._due[key] = self._clock() + REPEAT_AFTER_S
        self._log.write(event, **values, **({"times": n + 1} if n else {}))

    def flush(self) -> None:
        """Write the counts that are due."""
        with self._lock:
            due = [key for key in self._kept if self._clock() >= self._due[key]]
            entries = [(key[0], *self._kept.pop(key)) for key in due]
            for key in due:
                self._due[key] = self._clock() + REPEAT_AFTER_S
        for event, n, values in entries:
            self._log.write(event, **values, times=n)


def _quoted(value: object) -> str:
    text = printable("none" if value is None else str(value).replace("\n", " "))
    plain = text and not any(character in text for character in ' "=')
    return text if plain else '"' + text.replace('"', "'") + '"'
