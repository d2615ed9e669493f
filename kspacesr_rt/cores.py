"""How many cores there are to share out."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Return the cores that this process may use: fewer than the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
