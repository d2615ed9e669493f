"""Suppress pydicom's warnings and log lines: they quote values, which can be a patient's.

``Invalid value for VR UI: 'JANE.DOE.1970…'`` went straight to stderr before this module existed.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any, Final

_LOGGERS: Final = tuple(logging.getLogger(name) for name in ("pydicom", "pynetdicom"))
_OFF: Final = logging.CRITICAL + 1
"""A level, not `Logger.disabled`: loggers below, such as ``pydicom.pixels``, inherit it."""
_lock = threading.Lock()
_depth = 0
_filters: warnings.catch_warnings[None] | None = None
_levels: tuple[int, ...] = ()


class _Quiet(ContextDecorator):
    """See `quiet_pydicom`; a class, since a slice enters two dozen of these blocks."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _depth, _filters, _levels
        with _lock:
            if _depth == 0:
                _filters = warnings.catch_warnings()
                _filters.__enter__()
                warnings.simplefilter("ignore")
                _levels = tuple(logger.level for logger in _LOGGERS)
                for logger in _LOGGERS:
                    logger.setLevel(_OFF)
            _depth += 1

    def __exit__(self, *exc: object) -> None:
        global _depth, _filters
        with _lock:
            _depth -= 1
            if _depth == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
                for logger, level in zip(_LOGGERS, _levels, strict=True):
                    logger.setLevel(level)


_QUIET: Final = _Quiet()


def quiet_pydicom() -> _Quiet:
    """Silence pydicom, and pynetdicom, while the block runs, in every thread that is inside one.

    Notes
    -----
    `warnings.catch_warnings` alone is not thread-safe: two overlapping blocks of a pipeline could
    restore each other's filters. The first thread in silences, the last one out restores.
    """
    return _QUIET


@contextmanager
def redacted_thread_errors(on_error: Callable[[str], None]) -> Iterator[None]:
    """Silence pydicom, and have accidents of threads told by their kind, without their text.

    A thread of a library that ends in an exception prints it, and with it the values in it.

    Parameters
    ----------
    on_error
        Given the name of the exception's type.
    """

    def accident(failure: Any) -> None:
        on_error(getattr(failure.exc_type, "__name__", "unknown"))

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = accident
    try:
        with quiet_pydicom():
            yield
    finally:
        threading.excepthook, sys.unraisablehook = before
