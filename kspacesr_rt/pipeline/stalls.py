"""Say what a run waits for when nothing of it has finished for a while.

A run that is stuck, in a native library or on a share that went away, must not look busy for ever.
A thread says so in a sentence. Where native code keeps the interpreter, no thread of Python can say
anything: then the system's own thread of `faulthandler`, which this one winds up again and again
while it can, prints where each thread is, and the sentence is among its lines.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from types import FunctionType
from typing import Final, Protocol, Self

from kspacesr_rt.errors import InputError
from kspacesr_rt.system.interruption import owns_signals

VARIABLE: Final = "KSPACESR_RT_STALL_S"
"""Environment variable: seconds without a result after which it is told; 0 tells nothing."""
AFTER_S: Final = 60.0
TICK_S: Final = 1.0
STDERR: Final = 2
LONGEST_NAME: Final = 400
"""Characters; `faulthandler` cuts names at 500."""


class Watched(Protocol):
    """What may stall."""

    @property
    def progress_at(self) -> float:
        """When something last began or finished, by `time.monotonic`."""
        ...

    def describe_activity(self) -> str:
        """Say in a sentence what is under way."""
        ...


class Opening:
    """What a run is before anything is open."""

    def __init__(self, backend: str, tier: str = "exact") -> None:
        self._backend, self._tier, self.progress_at = backend, tier, time.monotonic()

    def describe_activity(self) -> str:
        """Say what is opened."""
        more = "" if self._tier == "exact" else f", or made for tier '{self._tier}' and proved"
        return (
            f"the engine starts, the model is loaded{more}, backend '{self._backend}' chosen or "
            "verified"
        )


class StallWatch:
    """Looks at a run from a thread of its own; a context manager.

    Parameters
    ----------
    watched
        What to look at first; `look_at` changes it.
    report
        Takes the sentence, in that thread; None: a warning of the logger ``kspacesr_rt``.

    Raises
    ------
    InputError
        If `VARIABLE` is no number of seconds.
    """

    def __init__(self, watched: Watched, report: Callable[[str], None] | None = None) -> None:
        self._watched, self._after_s = watched, stall_seconds()
        self._report = report or logging.getLogger("kspacesr_rt").warning
        self._next_report_s = self._after_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def look_at(self, watched: Watched) -> None:
        """Look at something else from now on."""
        self._watched = watched

    def __enter__(self) -> Self:
        if self._after_s:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._after_s:
            self._thread.join(TICK_S)

    def _watch(self) -> None:
        tick_s = min(TICK_S, self._after_s / 4)
        while not self._ended.is_set():
            sentence = self._sentence()
            if owns_signals():
                faulthandler.dump_traceback_later(self._after_s + 2 * tick_s, file=STDERR)
            _named(sentence)(self._ended, tick_s)
        if owns_signals():
            faulthandler.cancel_dump_traceback_later()

    def _sentence(self) -> str:
        """Return what the run waits for, and tell it if it has been waiting for long."""
        idle_s = time.monotonic() - self._watched.progress_at
        sentence = self._watched.describe_activity()
        if idle_s < self._after_s:
            self._next_report_s = self._after_s
        elif idle_s >= self._next_report_s:
            self._next_report_s = 2 * idle_s
            self._report(f"nothing has finished for {idle_s:.0f} s: {sentence}")
        return sentence


def stall_seconds() -> float:
    """Return after how many seconds a stall is told; 0: never.

    Raises
    ------
    InputError
        If `VARIABLE` is no such number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else AFTER_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{VARIABLE} is a number of seconds, or 0, not '{text}'")
    return seconds


def _rest(ended: threading.Event, tick_s: float) -> None:
    ended.wait(tick_s)


def _named(sentence: str) -> Callable[[threading.Event, float], None]:
    """Return `_rest` with a sentence as its name: `faulthandler` prints no more than names."""
    name = f"_rest, while: {sentence}"[:LONGEST_NAME]
    code = _rest.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, globals())
