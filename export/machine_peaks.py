"""What this machine can do at most: rates of a matrix product and of a pass over memory.

They are contestants of a benchmark, so that they are measured in turns with the models and on the
same threads. Every function returns what does the work once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.export.pytorch_peers import DTYPES, set_threads

GEMM_SIZE = 2048
"""Rows and columns of the matrices on a CPU: 24 MiB to 48 MiB of operands, enough that a library's
packing no longer shows."""
GEMM_SIZE_CUDA = 8192
"""The same on a GPU, which a smaller product does not fill."""
SLOWEST_GEMM_S = 2.0
"""A product that would take longer has no kernel for its precision, only an emulation."""
TRIAL_SIZE, TRIALS = 256, 5
CACHE_INFO = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHE_BYTES = 32 << 20
"""Last-level cache where the kernel does not tell."""
CACHES_AN_ARRAY = 4
"""STREAM's rule: each array at least four times the last-level cache [1]_.

.. [1] McCalpin, https://www.cs.virginia.edu/stream/ref.html
"""
SMALLEST_ARRAY_BYTES, LARGEST_ARRAY_BYTES = 64 << 20, 256 << 20
"""Three such arrays have to fit beside the rows; on a cache beyond 64 MiB the rule is not kept, as
in a virtual machine that is shown the cache of its whole host."""
FLOAT_BYTES = 4


def gemm_flop(*, cuda: bool = False) -> float:
    """Return the operations of one `gemm`."""
    return 2.0 * float(GEMM_SIZE_CUDA if cuda else GEMM_SIZE) ** 3


def gemm(precision: str, *, threads: int = 1, cuda: bool = False) -> Callable[[], None]:
    """Return a function that multiplies two square matrices: `gemm_flop` operations.

    Parameters
    ----------
    precision
        ``fp32`` (no TF32), ``bf16`` or ``fp16`` by torch's own libraries, or ``int8`` with 32-bit
        sums.
    threads
        CPU threads; 0 takes every core.
    cuda
        On the first GPU; the device is waited for.

    Raises
    ------
    InputError
        For another precision, or one that this processor only emulates.
    BackendUnavailableError
        If PyTorch has no GPU.
    """
    if precision != "int8" and precision not in DTYPES:
        raise InputError(f"no matrix-product peak is measured in {precision}")
    if cuda and not torch.cuda.is_available():
        raise BackendUnavailableError(f"PyTorch {torch.__version__} has no CUDA device here")
    set_threads(threads)
    device, size = ("cuda", GEMM_SIZE_CUDA) if cuda else ("cpu", GEMM_SIZE)
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        _require_kernel(precision, size)
    return _product(precision, size, device)


def triad(*, threads: int = 1) -> Callable[[], None]:
    """Return a function that computes ``a = b + s c`` once: `triad_bytes` of traffic.

    Parameters
    ----------
    threads
        CPU threads; 0 takes every core.
    """
    set_threads(threads)
    n = array_bytes() // FLOAT_BYTES
    a, b, c = (torch.full((n,), value) for value in (0.0, 1.0, 2.0))

    def once() -> None:
        with torch.inference_mode():
            torch.add(b, c, alpha=3.0, out=a)

    return once


def triad_bytes() -> float:
    """Return the traffic of one `triad`: two arrays read and one written.

    What a processor reads only to overwrite it is not counted, as in STREAM.
    """
    return 3.0 * (array_bytes() // FLOAT_BYTES) * FLOAT_BYTES


def array_bytes(cache_info: Path = CACHE_INFO) -> int:
    """Return the size of each array of a `triad` on this machine."""
    wanted = CACHES_AN_ARRAY * last_level_cache_bytes(cache_info)
    return min(max(wanted, SMALLEST_ARRAY_BYTES), LARGEST_ARRAY_BYTES)


def last_level_cache_bytes(cache_info: Path = CACHE_INFO) -> int:
    """Return the size of the first processor's largest cache, as the kernel tells it."""
    sizes = []
    for file in cache_info.glob("index*/size"):
        text = file.read_text().strip()
        factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        if (number := text.rstrip("KM")).isdigit():
            sizes.append(int(number) * factor)
    return max(sizes, default=USUAL_CACHE_BYTES)


def _product(precision: str, size: int, device: str) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    multiply: Callable[..., Any] = torch.mm
    if precision == "int8":
        # torch has no public product of 8-bit integers.
        multiply = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]
        left, right = (
            torch.randint(-127, 127, (size, size), dtype=torch.int8, generator=generator)
            for _ in "lr"
        )
    else:
        left, right = (
            torch.rand((size, size), generator=generator).to(DTYPES[precision]) for _ in "lr"
        )
    left, right = left.to(device), right.to(device)

    def once() -> None:
        with torch.inference_mode():
            multiply(left, right)
        if device == "cuda":
            torch.cuda.synchronize()

    return once


def _require_kernel(precision: str, size: int) -> None:
    """Refuse a precision in which one product would take minutes."""
    trial = _product(precision, TRIAL_SIZE, "cpu")
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        trial()
        times.append(time.perf_counter() - started)
    expected_s = min(times) * (size / TRIAL_SIZE) ** 3
    if expected_s > SLOWEST_GEMM_S:
        raise InputError(f"this processor has no fast matrix product in {precision}")
