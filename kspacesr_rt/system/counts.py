"""The most that may be asked for of what a run starts or holds: more is a slip of the finger.

Libraries do not say so: one starts as many threads as it is asked for, and answers no signal
meanwhile; another one blames the model.
"""

from __future__ import annotations

import operator
from typing import Any, Final

THREADS_MOST: Final = 1024
"""Threads of one kind, or streams; more than the cores of any machine that this was run on."""
PROCESSES_MOST: Final = 1024
"""Processes that read and write beside the one that computes."""
ACTORS_MOST: Final = 65_536
"""Processes on a cluster."""
BATCH_MOST: Final = 65_536
"""Slices given to a backend at once; multi-frame files have some thousands."""


def is_count(value: Any, most: int) -> bool:
    """Tell whether a value is a whole number from 0 to `most`; NumPy's are, too."""
    try:
        return 0 <= operator.index(value) <= most and not isinstance(value, bool)
    except TypeError:
        return False
