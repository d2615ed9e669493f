"""How many processes read and write beside the one that computes."""

from __future__ import annotations

from typing import Final

from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline.options import Processes
from kspacesr_rt.pipeline.slice_processes.process import NO_PROCESSES, why_no_processes
from kspacesr_rt.runtime.backends import backend_info
from kspacesr_rt.system.cpu import available_cores

CORES_LEAST: Final = 4
"""With fewer, the process that computes leaves them no core to gain by."""
SLICES_LEAST: Final = 400
"""Of a run; fewer are done before processes that start would have paid."""
PROCESSES_MOST: Final = 8
"""What stays in the process that computes keeps no more of them busy."""


def chosen_processes(asked: Processes, backend: str, n_slices: int) -> int:
    """Return how many processes read and write.

    Parameters
    ----------
    asked
        A number, or ``auto``: on a GPU a core less than there are, beside a CPU backend half of
        them, at most `PROCESSES_MOST`; none on few cores, and for few slices.
    backend
        What computes.
    n_slices
        Classic slices of the run.

    Raises
    ------
    InputError
        If some are asked for, and none can be started here.
    """
    why_not = why_no_processes()
    if asked != "auto":
        if asked and why_not is not None:
            raise InputError(f"--processes {asked}: {why_not}", hint=NO_PROCESSES)
        return asked if n_slices else 0
    cores = available_cores()
    if why_not is not None or cores < CORES_LEAST or n_slices < SLICES_LEAST:
        return 0
    beside = cores - 1 if backend_info(backend).on_gpu else cores // 2
    return min(PROCESSES_MOST, beside)
