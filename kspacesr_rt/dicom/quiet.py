"""Keep pydicom from speaking: its warnings and log lines quote values, which can be a patient's.

``Invalid value for VR UI: 'JANE.DOE.1970…'`` went straight to stderr before this module existed.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = logging.getLogger("pydicom")
_lock = threading.Lock()
_depth = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom while the block runs, in every thread that is inside one.

    Notes
    -----
    `warnings.catch_warnings` alone is not thread-safe: two overlapping blocks of a pipeline could
    restore each other's filters. The first thread in silences, the last one out restores.
    """
    global _depth, _filters
    with _lock:
        if _depth == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
            _LOGGER.disabled = True
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
                _LOGGER.disabled = False
