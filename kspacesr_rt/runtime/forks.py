"""What a library of several threads has open, in a forked process: left alone, and opened anew.

Its threads do not come along through ``fork()``. OpenVINO's destructors wait for them for ever, and
so does a call of ONNX Runtime that has shared its work out to them.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import Any


class OpenedAnewAfterFork(ABC):
    """A backend that each process opens for itself; `open` it first, and `require_own` in `run`."""

    def open(self) -> None:
        """Open it in this process."""
        self._opening = threading.Lock()
        self._is_inherited = False
        self._open()
        _opened.add(self)

    @abstractmethod
    def _open(self) -> None:
        """Open it, and let go of what was open before."""

    @abstractmethod
    def _opened(self) -> tuple[Any, ...]:
        """Return what must not end in another process."""

    def require_own(self) -> None:
        """Open it again if what is open is of the process that this one was forked from."""
        if self._is_inherited:
            with self._opening:
                if self._is_inherited:
                    self._open()
                    self._is_inherited = False

    def _leave_alone(self) -> None:
        """In a forked process, never end what was open before."""
        for one in self._opened():
            keep_for_ever(one)
        self._is_inherited = True
        self._opening = threading.Lock()


_opened: weakref.WeakSet[OpenedAnewAfterFork] = weakref.WeakSet()


def keep_for_ever(value: Any) -> None:
    """Never let a destructor run, not even at the interpreter's end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _after_fork() -> None:
    for backend in tuple(_opened):
        backend._leave_alone()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
