"""Ctrl-C and SIGTERM: finish the slice or the step, write what is known, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_signals() -> Iterator[Callable[[], bool]]:
    """Hold back the first SIGINT or SIGTERM until the block ends, then deliver it.

    Yields
    ------
        A function that tells whether a signal waits. A second signal is delivered at once: whoever
        presses Ctrl-C twice does not want to wait for the block to end.

    Notes
    -----
    Outside the main thread Python delivers no signals, so nothing is held.
    """
    waiting: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    # What a shell has told this process to ignore (a job in the background) stays ignored.
    handlers = {number: signal.getsignal(number) for number in HELD}
    before = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, frame: FrameType | None) -> None:
        if waiting:
            restore()
            signal.raise_signal(number)
        waiting.append(number)

    for number in before:
        signal.signal(number, hold)
    try:
        yield lambda: bool(waiting)
    finally:
        restore()
    if waiting:
        signal.raise_signal(waiting[0])
