"""How busy a machine was and how it was clocked, at the start and the end of a benchmark.

A figure needs this as much as the processor's name: another job, a hot GPU or a power limit changes
it more than a runtime does. Nothing is changed here and nothing refused; the result records it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.system.cpu import CPUINFO, available_cores, cpuinfo
from kspacesr_rt.system.energy import energy_source
from kspacesr_rt.system.gpu_state import gpu_facts, gpu_snapshot

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
STOLEN = Path("/proc/stat")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What numeric libraries read when they load; the scheduler sets them for each row's process."""


def snapshot() -> dict[str, Any]:
    """Return what changes from minute to minute.

    Returns
    -------
        ``time_s`` (monotonic), ``cpu_mhz`` (median over processors, as the kernel tells it),
        ``load`` (runnable processes, mean of a minute: well below 1 before a run if nothing else
        does), ``stolen_s`` (processor time that a host gave to others, since boot), and ``gpu``.
        What the system does not tell is None.
    """
    return {
        "time_s": time.monotonic(),
        "cpu_mhz": _cpu_mhz(CPUINFO),
        "load": _load(),
        "stolen_s": _stolen_s(STOLEN),
        "gpu": gpu_snapshot(),
    }


def conditions(start: dict[str, Any], *, threads: int) -> dict[str, Any]:
    """Describe a run that began with the snapshot `start` and ends now.

    Parameters
    ----------
    start
        What `snapshot` gave.
    threads
        CPU threads of every row; 0: as many as there are.

    Returns
    -------
        For a result's environment: ``threads`` and how they were pinned, ``governor``, ``gpu``
        (`kspacesr_rt.system.gpu_state.GpuMonitor.facts`, or the reason why there are none),
        ``gpu_exclusive``, ``energy`` (source of the rows' joules, or why there are none), ``start``
        and ``end``.
    """
    gpu = gpu_facts()
    return {
        "threads": {
            "count": threads or available_cores(),
            "set_by": [*THREAD_VARIABLES, "the runtime's own option"] if threads else [],
        },
        "governor": _first_line(GOVERNOR),
        "gpu": gpu,
        "gpu_exclusive": _is_exclusive(gpu, start["gpu"]),
        "energy": {"cpu": energy_source(False), "gpu": energy_source(True)},
        "start": start,
        "end": snapshot(),
    }


def _is_exclusive(gpu: dict[str, Any], start: dict[str, Any]) -> bool | None:
    """Say whether nothing else computed on the GPU when the run began; None if not known."""
    processes = start.get("processes")
    if processes is None:
        return None
    return gpu.get("compute_mode") == "exclusive-process" or processes == 0


def _cpu_mhz(file: Path) -> float | None:
    try:
        clocks = [float(text) for text in cpuinfo("cpu MHz", file)]
    except ValueError:
        return None
    return float(np.median(clocks)) if clocks else None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _stolen_s(file: Path) -> float | None:
    """Return the eighth field of ``cpu``: time in which this virtual machine was not let run."""
    try:
        fields = file.read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _first_line(file: Path) -> str | None:
    try:
        return file.read_text().split("\n", 1)[0]
    except OSError:
        return None
