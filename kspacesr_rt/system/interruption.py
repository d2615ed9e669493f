"""Ctrl-C and SIGTERM: finish the slice or the step, write what is known, then stop.

A second signal ends the process at once, by the signal itself (130 or 143 in a shell). In a process
that is ours, the command line's, the system sees to that, not Python: a Python handler runs when
the main thread next interprets, which is never, while native code is stuck with the interpreter.
What such an end leaves behind is what ``kill -9`` leaves, and the same command goes on from there.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

HELD: Final = (signal.SIGINT, signal.SIGTERM)


class TerminatedError(BaseException):
    """SIGTERM arrived; unwinds like Ctrl-C so that half-written files are removed."""

    exit_code = 128 + signal.SIGTERM


class _Process:
    """What is known of signals in this process."""

    is_ours = False
    """Whether this is the command line's; a library leaves its host alive."""
    arrived: int | None = None
    """The first signal that asked this process to end."""
    holding = 0
    """Blocks that hold signals, one in another."""


def install_signal_handlers() -> None:
    """Make the signals of this process ours, for as long as it lives: it is the command line's."""
    _Process.is_ours = True
    for number in HELD:
        if signal.getsignal(number) is not signal.SIG_IGN:
            set_handler(number, _raise_interrupt)


def owns_signals() -> bool:
    """Return whether this process is the command line's."""
    return _Process.is_ours


def received_signal() -> int | None:
    """Return the first signal that asked a process of ours to end, whatever became of it.

    An exception that a signal raises may be lost: extension modules turn what happens while they
    are imported into an ImportError, and finalisers print and forget.
    """
    return _Process.arrived


def set_handler(number: int, handler: Any) -> None:
    """Set a handler; in a process of ours it is called once, and a second signal is the system's.

    Parameters
    ----------
    number
        SIGINT or SIGTERM.
    handler
        What `signal.signal` takes. Once a signal has arrived, none is set any more.
    """
    if _Process.is_ours and _Process.arrived is not None:
        return
    signal.signal(number, handler)
    if _Process.is_ours and callable(handler):
        _reset_once_called(number)


def call_once(act: Callable[[], None]) -> None:
    """Call `act` at the first signal instead of ending; a second one ends the process."""

    def first(number: int, frame: FrameType | None) -> None:
        _note(number)
        _Process.arrived = None  # it is dealt with
        act()

    for number in _handlers():
        set_handler(number, first)


@contextmanager
def deferred_signals() -> Iterator[Callable[[], int]]:
    """Hold back the first SIGINT or SIGTERM until the block ends, then deliver it.

    Yields
    ------
        A function that returns the number of the signal that waits, or 0. A second signal is
        delivered at once: whoever presses Ctrl-C twice does not want to wait for the block to end.

    Notes
    -----
    Outside the main thread Python delivers no signals, so nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
    elif _Process.is_ours:
        with _deferred_here():
            yield lambda: _Process.arrived or 0
    else:
        with _deferred_for_host() as waiting:
            yield lambda: waiting[0] if waiting else 0


@contextmanager
def _deferred_here() -> Iterator[None]:
    before = _handlers()
    for number in before:
        set_handler(number, lambda number, frame: _note(number))
    _Process.holding += 1
    try:
        yield
    finally:
        _Process.holding -= 1
        for number, handler in before.items():
            set_handler(number, handler)
    first = received_signal()
    if first is not None and not _Process.holding:
        deliver = before.get(signal.Signals(first))
        (deliver if callable(deliver) else _raise_interrupt)(first, None)


@contextmanager
def _deferred_for_host() -> Iterator[list[int]]:
    waiting: list[int] = []
    before = _handlers()

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
        yield waiting
    finally:
        restore()
    if waiting:
        signal.raise_signal(waiting[0])


def _handlers() -> dict[signal.Signals, Any]:
    """Return who handles which signal.

    What a shell has told this process to ignore (a job in the background) stays ignored.
    """
    handlers = {number: signal.getsignal(number) for number in HELD}
    return {
        number: signal.SIG_DFL if handler is _end else handler
        for number, handler in handlers.items()
        if handler is not signal.SIG_IGN
    }


def _raise_interrupt(number: int, frame: FrameType | None) -> None:
    _note(number)
    raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError


def _note(number: int) -> None:
    """Remember the first signal and leave the next one to the system."""
    if _Process.arrived is None:
        _Process.arrived = number
    for one in _handlers():
        _restore_default(one)


def _end(number: int, frame: FrameType | None) -> None:
    """End by a signal that came before the first one was dealt with, so that it is the second."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _restore_default(number: int) -> None:
    """Let a signal end the process, one too that Python has noted but not yet handled.

    Of that, Python would find the handler gone, say so with a traceback and forget the signal.
    """
    if (set_handler := _system_v_signal()) is None:
        signal.signal(number, signal.SIG_DFL)
    else:
        signal.signal(number, _end)
        set_handler(number, None)  # SIG_DFL


def _reset_once_called(number: int) -> None:
    """Have the system forget the handler as it calls it: what comes next is the default, the end.

    That is SA_RESETHAND, which glibc's System V signal function sets. Elsewhere the handler itself
    sees to it, as soon as the main thread comes to run it.
    """
    if (set_handler := _system_v_signal()) is not None:
        get_handler = ctypes.pythonapi.PyOS_getsig
        get_handler.restype = ctypes.c_void_p
        set_handler(number, get_handler(number))


def _system_v_signal() -> Callable[[int, int | None], Any] | None:
    """Return the function of glibc that sets a handler past Python; None elsewhere."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "sysv_signal", None)
    if function is not None:  # musl has none
        function.restype, function.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return function
