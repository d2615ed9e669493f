"""How long this process waited for a core: what other work on the machine costs it, and no more.

A call of 60 ms is interrupted on a busy machine, one of half a millisecond hardly ever, so their
ratio depends on what else runs. Linux counts the time that each thread stood in the scheduler's
queue [1]_; without it, a call's time is its own: computing, sleeping, waiting for locks and disks.
Shared caches and memory, and a hypervisor that takes the core away, still show.

References
----------
.. [1] Linux, Documentation/scheduler/sched-stats.rst: second field of ``/proc/<pid>/schedstat``
"""

from __future__ import annotations

import os
from pathlib import Path

TASKS = Path("/proc/self/task")


def queued_s() -> float | None:
    """Return the seconds that all threads have waited for a core; None where nobody counts."""
    waited_ns = 0
    try:
        for thread in os.listdir(TASKS):  # noqa: PTH208 - names alone, between timed calls
            with open(f"{TASKS}/{thread}/schedstat") as file:  # noqa: PTH123
                waited_ns += int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return waited_ns * 1e-9
