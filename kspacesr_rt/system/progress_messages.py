"""Messages about what a long call does before its first result, for a listener such as a terminal.

A step is told from deep inside, where it is known; nothing else has to hand it through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def on_step(callback: Callable[[str], None]) -> Iterator[None]:
    """Have the steps that begin in the block told, in the thread that begins them.

    Parameters
    ----------
    callback
        Takes a few words, such as ``reading headers``. What it raises ends the call.
    """
    before = _listener.set(callback)
    try:
        yield
    finally:
        _listener.reset(before)


def report_step(step: str) -> None:
    """Tell that a step begins; a thread that nobody listens to tells nothing."""
    if (callback := _listener.get()) is not None:
        callback(step)
