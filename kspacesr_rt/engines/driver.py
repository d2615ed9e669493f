"""Is there an NVIDIA GPU, and which: asked of the driver itself, before any CUDA library loads.

TensorRT reports a missing driver as a null pointer, and may crash when it is handed an engine
without one. So the driver is asked first, through ctypes alone.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import CDLL
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DEVICE = 0
"""The first GPU; CUDA_VISIBLE_DEVICES decides which one that is."""
_NAME_BYTES = 256
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_HINT = "install the NVIDIA driver (in a container: start it with --gpus all)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """The GPU of this machine."""

    name: str
    """As the driver calls it, such as ``NVIDIA L4``."""
    sm: int
    """Compute capability without its dot: 89 for 8.9."""


def current_gpu() -> Gpu:
    """Ask the driver for the first GPU.

    Raises
    ------
    BackendUnavailableError
        If there is no driver, or it has no GPU to give.
    """
    try:
        cuda = CDLL(LIBRARY)
    except OSError as exc:
        raise BackendUnavailableError(
            f"there is no NVIDIA driver here: {LIBRARY} cannot be loaded", hint=_HINT
        ) from exc
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _require(cuda, cuda.cuInit(0))
    _require(cuda, cuda.cuDeviceGet(ctypes.byref(device), DEVICE))
    _require(cuda, cuda.cuDeviceGetName(name, _NAME_BYTES, device))
    _require(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device))
    _require(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device))
    return Gpu(name=name.value.decode("utf-8", "replace"), sm=10 * major.value + minor.value)


def why_no_gpu() -> str | None:
    """Say in one sentence why nothing can run on a GPU here; None if there is one."""
    try:
        current_gpu()
    except BackendUnavailableError as exc:
        return str(exc)
    return None


def why_no_cuda() -> str | None:
    """Say in one sentence why this process cannot use CUDA; None if it has GPU and bindings."""
    if (reason := why_no_gpu()) is not None:
        return reason
    try:
        bindings = find_spec("cuda.bindings")
    except ModuleNotFoundError:
        bindings = None
    return "the package 'cuda-python' is not installed" if bindings is None else None


def _require(cuda: Any, status: int) -> None:
    if status == 0:
        return
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    said = text.value.decode("utf-8", "replace") if text.value else "unknown error"
    raise BackendUnavailableError(
        f"the NVIDIA driver has no GPU to give: error {status}, {said}", hint=_HINT
    )
