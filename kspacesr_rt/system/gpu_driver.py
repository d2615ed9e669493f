"""Is there an NVIDIA GPU, and which: asked of the driver itself, before any CUDA library loads.

TensorRT reports a missing driver as a null pointer, and may crash when it is handed an engine
without one. So the driver is asked first, through ctypes alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import CDLL
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.system.plain_text import shortened

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DEVICE = 0
"""The first GPU; CUDA_VISIBLE_DEVICES decides which one that is."""
_NAME_BYTES, _BUS_ID_BYTES = 256, 32
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR."""
DRIVER_FLOOR = "580"
"""First branch of NVIDIA's driver that runs CUDA 13, which GPU libraries here are built for [1]_.

.. [1] NVIDIA, CUDA Toolkit Release Notes, "CUDA Driver", table of minimum driver versions
"""
_CUDA_FLOOR = 13000
"""The same as `cuDriverGetVersion` counts."""
_HINT = (
    f"install the NVIDIA driver, version {DRIVER_FLOOR} or newer (in a container: start it with "
    "--gpus all)"
)
_NO_DEVICE = (100, 101)
"""CUDA_ERROR_NO_DEVICE and CUDA_ERROR_INVALID_DEVICE: the driver is there."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that hides GPUs from programs."""
_BINDINGS = "cuda-bindings>=13,<14"
"""What brings `cuda.bindings`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """The GPU of this machine."""

    name: str
    """As the driver calls it, such as ``NVIDIA L4``."""
    sm: int
    """Compute capability without its dot: 89 for 8.9."""
    cuda: str = ""
    """Newest CUDA that its driver runs, such as ``13.0``."""


def current_gpu() -> Gpu:
    """Ask the driver for the first GPU.

    Raises
    ------
    BackendUnavailableError
        If there is no driver, it is older than `DRIVER_FLOOR`, or it has no GPU to give.
    """
    cuda, device = _first_device()
    newest = _newest_cuda(cuda)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _require(cuda, cuda.cuDeviceGetName(name, _NAME_BYTES, device))
    _require(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device))
    _require(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device))
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        sm=10 * major.value + minor.value,
        cuda=newest,
    )


def bus_id() -> str:
    """Ask the driver where the first GPU is: its PCI address.

    Raises
    ------
    BackendUnavailableError
        As from `current_gpu`.
    """
    cuda, device = _first_device()
    text = ctypes.create_string_buffer(_BUS_ID_BYTES)
    _require(cuda, cuda.cuDeviceGetPCIBusId(text, _BUS_ID_BYTES, device))
    return text.value.decode("ascii", "replace")


def why_no_gpu() -> str | None:
    """Say in one sentence why nothing can run on a GPU here; None if there is one."""
    try:
        current_gpu()
    except BackendUnavailableError as exc:
        return str(exc)
    return None


def require_cuda() -> None:
    """Refuse a process that cannot use CUDA itself.

    Raises
    ------
    BackendUnavailableError
        If the GPU is missing, as from `current_gpu`, or the bindings are.
    """
    current_gpu()
    try:
        bindings = find_spec("cuda.bindings")
    except ModuleNotFoundError:
        bindings = None
    if bindings is None:
        raise BackendUnavailableError(
            "the package 'cuda-bindings' is not installed", hint=f"pip install '{_BINDINGS}'"
        )


def _driver() -> Any:
    try:
        cuda = CDLL(LIBRARY)
    except OSError as exc:
        raise BackendUnavailableError(
            f"there is no NVIDIA driver here: {LIBRARY} cannot be loaded", hint=_HINT
        ) from exc
    if not hasattr(cuda, "cuDriverGetVersion"):
        raise BackendUnavailableError(
            f"the NVIDIA driver here is damaged, or {LIBRARY} is another library", hint=_HINT
        )
    return cuda


def _newest_cuda(cuda: Any) -> str:
    """Return what a driver runs, such as ``13.0``; may be asked before `cuInit`."""
    version = ctypes.c_int()
    _require(cuda, cuda.cuDriverGetVersion(ctypes.byref(version)))
    newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if version.value < _CUDA_FLOOR:
        raise BackendUnavailableError(
            f"the NVIDIA driver here runs programs up to CUDA {newest}, and CUDA 13 needs driver "
            f"{DRIVER_FLOOR} or newer",
            hint=f"install NVIDIA driver {DRIVER_FLOOR} or newer; nvidia-smi shows which it is",
        )
    return newest


def _first_device() -> tuple[Any, Any]:
    """Return the driver, initialised, and its handle of the first GPU."""
    cuda = _driver()
    device = ctypes.c_int()
    _require(cuda, cuda.cuInit(0))
    _require(cuda, cuda.cuDeviceGet(ctypes.byref(device), DEVICE))
    return cuda, device


def _require(cuda: Any, status: int) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    said = text.value.decode("utf-8", "replace") if text.value else "unknown error"
    raise BackendUnavailableError(
        f"the NVIDIA driver has no GPU to give: error {status}, {said}",
        hint=_where_the_gpu_is() if status in _NO_DEVICE else _HINT,
    )


def _where_the_gpu_is() -> str:
    """Say what to do where the driver is there, and shows no GPU."""
    hidden = os.environ.get(VISIBLE)
    if hidden is not None:
        return f"{VISIBLE} is '{shortened(hidden, 40)}': unset it, or name one of nvidia-smi's GPUs"
    return "nvidia-smi lists the driver's GPUs (in a container: start it with --gpus all)"
