"""The node's log: one line an event, ``key=value``, without UIDs, names or paths."""

from __future__ import annotations

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
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._lock = threading.Lock()

    def write(self, event: str, **values: object) -> None:
        """Write one line; values with blanks are quoted."""
        if self._quiet:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = " ".join(f"{key}={_quoted(str(value))}" for key, value in values.items())
        with self._lock:
            print(
                f"{now} event={event} {told}".rstrip(), file=self._stream or sys.stderr, flush=True
            )


def _quoted(text: str) -> str:
    plain = text and not any(character in text for character in ' "=\n')
    return text if plain else '"' + text.replace('"', "'").replace("\n", " ") + '"'
