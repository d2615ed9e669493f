"""What computes here: the CPU, what it can do, and how many of its cores there are to share out."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
CPU_FEATURES = {
    "avx2": "fp32 kernels of every runtime",
    "avx512f": "wider fp32 kernels",
    "avx512_vnni": "int8",
    "avx512_bf16": "bf16",
    "amx_bf16": "bf16, as matrices",
    "amx_int8": "int8, as matrices",
    "fma": "fused multiply-add",
    "asimd": "fp32 kernels on ARM",
    "bf16": "bf16 on ARM",
}
"""Flags of the CPU, as Linux names them, and what they speed up."""
BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Those that compute in bf16; without one of them libraries emulate it."""
INT8_FEATURES = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Those of x86 that sum int8 products in 32 bits."""


def available_cores() -> int:
    """Return the cores that this process may use: fewer than the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Return what the CPU is called."""
    return next(iter(cpuinfo("model name")), platform.processor())


def cpu_features() -> tuple[str, ...]:
    """Return those of `CPU_FEATURES` it has; none where the system does not say."""
    flags = _flags()
    return tuple(name for name in CPU_FEATURES if name in flags)


def _flags() -> set[str]:
    return {flag for line in (*cpuinfo("flags"), *cpuinfo("Features")) for flag in line.split()}


def lacks_bf16() -> bool:
    """Tell whether this CPU is known to have no bf16 arithmetic; what is not known is not told."""
    found = cpu_features()
    return bool(found) and BF16_FEATURES.isdisjoint(found)


def saturates_int8() -> bool:
    """Tell whether this CPU is known to sum pairs of int8 products in 16 bits.

    AVX2's ``vpmaddubsw`` is the fastest way of an x86 CPU without VNNI, and ends at 32,767, which
    two products of an unsigned and a signed byte can exceed.
    """
    flags = _flags()
    return "avx2" in flags and INT8_FEATURES.isdisjoint(flags)


def cpu_identity() -> str:
    """Name the CPU and what it can do, for what was measured on it."""
    return f"{cpu_model()} ({' '.join(cpu_features())})"


def cpuinfo(field: str, file: Path = CPUINFO) -> list[str]:
    """Return what Linux says of every processor under a field's name; nothing elsewhere."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(field)]
