"""A service's log: one line an event, ``key=value`` or JSON, without UIDs, names or paths."""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO


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
            told = " ".join(f"{key}={_quoted(str(value))}" for key, value in values.items())
            line = f"{now} event={event} {told}".rstrip()
        with self._lock:
            print(line, file=self._stream or sys.stderr, flush=True)


def _quoted(text: str) -> str:
    plain = text and not any(character in text for character in ' "=\n')
    return text if plain else '"' + text.replace('"', "'").replace("\n", " ") + '"'
