"""What an NVIDIA GPU's driver tells (NVML): whose it is, how it is clocked, what it holds and uses.

Asked through `pynvml` of the package nvidia-ml-py, which the benchmark does without: a result then
says that it is missing. Names and users of other processes are never read, only how many there are.
Written against NVML's documentation [1]_ and tested with a stand-in; not yet run on a GPU.

References
----------
.. [1] https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError, library_message
from kspacesr_rt.system import gpu_driver

COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive-process"}
"""NVML's numbers; 1 was dropped with CUDA 8."""
_SM, _MEMORY = 1, 2
"""NVML_CLOCK_SM and NVML_CLOCK_MEM."""


class GpuUnknown(Exception):  # noqa: N818 - an answer, not a fault
    """The driver tells nothing about a GPU here; the message says why."""


class GpuMonitor:
    """The GPU that CUDA takes first, as NVML knows it.

    Parameters
    ----------
    nvml
        `pynvml`, initialised.
    handle
        Its handle of the device.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def facts(self) -> dict[str, Any]:
        """Return what does not change during a run; what the driver does not tell is None.

        Returns
        -------
            Name, driver, memory, and the limits set on it: compute mode, power limit, persistence
            mode, and whether a part of it (MIG) was given.
        """
        memory = self._query_device("nvmlDeviceGetMemoryInfo")
        mode = self._query_device("nvmlDeviceGetComputeMode")
        limit = self._query_device("nvmlDeviceGetEnforcedPowerLimit")
        mig = self._query_device("nvmlDeviceGetMigMode")
        return {
            "name": _text(self._query_device("nvmlDeviceGetName")),
            "driver": _text(self._query(self._nvml.nvmlSystemGetDriverVersion)),
            "memory_bytes": None if memory is None else int(memory.total),
            "compute_mode": None if mode is None else COMPUTE_MODES.get(mode, str(mode)),
            "power_limit_w": None if limit is None else limit / 1e3,
            "persistence": _flag(self._query_device("nvmlDeviceGetPersistenceMode")),
            "mig": _flag(None if mig is None else mig[0]),
        }

    def snapshot(self) -> dict[str, Any]:
        """Return what changes: clocks in MHz, temperature in degrees Celsius, processes, memory."""
        return {
            "sm_mhz": self._query_device("nvmlDeviceGetClockInfo", _SM),
            "memory_mhz": self._query_device("nvmlDeviceGetClockInfo", _MEMORY),
            "temperature_c": self._query_device("nvmlDeviceGetTemperature", 0),
            "throttled": self._throttled(),
            "processes": self.processes(),
            "used_bytes": self.used_bytes(),
        }

    def processes(self) -> int | None:
        """Count the processes that compute on it, this one included if it does."""
        found = self._query_device("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else len(found)

    def process_bytes(self, pid: int) -> int | None:
        """Return the device memory of a process; None where the driver does not tell.

        In a container the driver counts processes by the host's numbers, and finds none.
        """
        found = self._query_device("nvmlDeviceGetComputeRunningProcesses") or []
        return next(
            (int(one.usedGpuMemory) for one in found if one.pid == pid and one.usedGpuMemory), None
        )

    def used_bytes(self) -> int | None:
        """Return the device memory that all processes and the driver hold."""
        memory = self._query_device("nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def energy_mj(self) -> int | None:
        """Return the millijoules used since the driver was loaded; None before Volta."""
        value = self._query_device("nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else int(value)

    def _throttled(self) -> bool | None:
        """Say whether heat or power holds the clocks down; being idle does not count."""
        reasons = self._query_device("nvmlDeviceGetCurrentClocksEventReasons")
        # SW power cap, HW slowdown, SW thermal, HW thermal, HW power brake.
        return None if reasons is None else bool(reasons & (0x4 | 0x8 | 0x20 | 0x40 | 0x80))

    def _query_device(self, name: str, *arguments: Any) -> Any:
        function = getattr(self._nvml, name, None)
        if function is None:
            return None
        return self._query(function, self._handle, *arguments)

    def _query(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call NVML; None for what this GPU or this user is not told."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def open_gpu(nvml: Any = None, bus_id: str | None = None) -> GpuMonitor:
    """Open the GPU that CUDA takes first.

    Parameters
    ----------
    nvml
        `pynvml`, or what stands in for it; None imports it.
    bus_id
        PCI address; None asks CUDA's driver, since NVML counts GPUs in another order and knows
        nothing of ``CUDA_VISIBLE_DEVICES``.

    Raises
    ------
    GpuUnknown
        If the package, the driver or the GPU is missing.
    """
    nvml = nvml or _nvml()
    try:
        bus_id = bus_id or gpu_driver.bus_id()
    except BackendUnavailableError as exc:
        raise GpuUnknown(str(exc)) from exc
    try:
        nvml.nvmlInit()
        return GpuMonitor(nvml, nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode()))
    except nvml.NVMLError as exc:
        raise GpuUnknown(f"NVML tells nothing about the GPU: {library_message(exc)}") from exc


def gpu_facts() -> dict[str, Any]:
    """Return `GpuMonitor.facts`, or ``{"reason": why not}``."""
    try:
        return open_gpu().facts()
    except GpuUnknown as exc:
        return {"reason": str(exc)}


def gpu_snapshot() -> dict[str, Any]:
    """Return `GpuMonitor.snapshot`, or nothing where `gpu_facts` says why."""
    with contextlib.suppress(GpuUnknown):
        return open_gpu().snapshot()
    return {}


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError as exc:
        raise GpuUnknown(
            "the package nvidia-ml-py is not installed (pip install nvidia-ml-py)"
        ) from exc
    return pynvml


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)
