"""Which GPUs Vulkan has here, of any vendor: asked of its loader, through ctypes alone.

Dawn, ONNX Runtime's WebGPU, computes with Vulkan on Linux; it says of a missing loader, a missing
driver and an empty machine alike that there is no adapter.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError

LOADER = "libvulkan.so.1"
LOADER_HINT = "apt-get install libvulkan1 (Fedora: dnf install vulkan-loader)"
DRIVER_HINT = (
    "AMD and Intel: apt-get install mesa-vulkan-drivers; NVIDIA: its driver (in a container: start "
    "it with --device /dev/dri, or --gpus all)"
)
KINDS = {1: "integrated GPU", 2: "GPU", 3: "virtual GPU", 4: "software"}
"""VkPhysicalDeviceType; 0 is none of them."""
_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1
"""VkStructureType."""
_VULKAN_1_1 = 1 << 22 | 1 << 12
_TYPE_AT, _NAME_AT, _NAME_BYTES, _PROPERTIES_BYTES = 16, 20, 256, 2048
"""Of VkPhysicalDeviceProperties, which has 824 bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A device that Vulkan lists."""

    name: str
    """As its driver calls it, such as ``AMD Radeon RX 7900 XTX (RADV NAVI31)``."""
    kind: str
    """A value of `KINDS`, or ``other``."""

    @property
    def is_software(self) -> bool:
        """Say whether the CPU does its work."""
        return self.kind == KINDS[4]

    def __str__(self) -> str:
        """Return both for people."""
        return f"{self.name} ({self.kind})"


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("application", ctypes.c_char_p),
        ("application_version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("n_layers", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("n_extensions", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


def adapters() -> tuple[Adapter, ...]:
    """Return what Vulkan lists, in its order.

    Raises
    ------
    BackendUnavailableError
        If there is no loader, or it has no device to give; with the command that brings it.
    """
    try:
        vulkan = ctypes.CDLL(LOADER)
    except OSError as exc:
        raise BackendUnavailableError(
            f"there is no Vulkan here: {LOADER} cannot be loaded", hint=LOADER_HINT
        ) from exc
    application = _ApplicationInfo(type=_APPLICATION_INFO, api_version=_VULKAN_1_1)
    asked = _InstanceCreateInfo(type=_INSTANCE_CREATE_INFO, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(ctypes.byref(asked), None, ctypes.byref(instance)) != 0:
        raise _no_device()
    try:
        found = _devices(vulkan, instance)
    finally:
        vulkan.vkDestroyInstance(instance, None)
    if not found:
        raise _no_device()
    return found


def require_adapter() -> None:
    """Refuse a Linux machine without a device for Vulkan; others have Metal or Direct3D.

    Raises
    ------
    BackendUnavailableError
        As from `adapters`.
    """
    if sys.platform == "linux":
        adapters()


def every_adapter_is_software() -> bool:
    """Say whether programs alone would compute, and no GPU; on Linux, where Vulkan is asked.

    Raises
    ------
    BackendUnavailableError
        As from `adapters`.
    """
    return sys.platform == "linux" and all(one.is_software for one in adapters())


def adapters_text() -> str:
    """Return them for people, or why there is none; for `doctor`."""
    if sys.platform != "linux":
        return "not asked: Metal or Direct3D computes here"
    try:
        return ", ".join(str(one) for one in adapters())
    except BackendUnavailableError as exc:
        return f"none ({exc})"


def _devices(vulkan: Any, instance: ctypes.c_void_p) -> tuple[Adapter, ...]:
    count = ctypes.c_uint32()
    if vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None) != 0:
        return ()
    handles = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    return tuple(_adapter(vulkan, handle) for handle in handles[: count.value] if handle)


def _adapter(vulkan: Any, handle: int) -> Adapter:
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
    kind = int.from_bytes(properties.raw[_TYPE_AT : _TYPE_AT + 4], sys.byteorder)
    name = properties.raw[_NAME_AT : _NAME_AT + _NAME_BYTES].split(b"\0")[0]
    return Adapter(name=name.decode("utf-8", "replace"), kind=KINDS.get(kind, "other"))


def _no_device() -> BackendUnavailableError:
    return BackendUnavailableError(
        "Vulkan has no GPU here: no driver of one is installed", hint=DRIVER_HINT
    )
