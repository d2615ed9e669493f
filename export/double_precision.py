"""A user's network in fp64: what its own rounding in fp32 is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.export.isolated_process import in_own_process
from kspacesr_rt.kspace import FloatArray

LEAST_ROUNDED_DB = 60.0
"""Agreement from which on rounding in fp32 may be what parts two results; below, they compute
something else, and fp64 is not asked."""
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def in_double(
    maker: Callable[[], nn.Module],
    batches: Sequence[FloatArray],
    *,
    time_limit_s: float,
) -> list[FloatArray]:
    """Return what a network makes of each slice of batches in fp64, in a process of its own.

    Parameters
    ----------
    maker
        Makes the network, in fp32.
    batches
        As it takes them, in fp32.
    time_limit_s
        Seconds that this may take.

    Returns
    -------
        float64 arrays of the results; none at all where the network does not run in fp64, as one
        does not that casts to float32 within, or in time.
    """

    def work() -> list[FloatArray]:
        module = widened(maker())
        return [_answer(module, values) for values in batches]

    try:
        return in_own_process(
            work,
            "running the network in fp64",
            time_limit_s,
        )
    except KspaceSRError:
        return []


def widened(module: nn.Module) -> nn.Module:
    """Bring weights, buffers and plain tensors of a network to fp64, in place; return it."""
    torch.set_default_dtype(torch.float64)  # of what `forward` makes anew
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            tensor.data = _wide(tensor.data)
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor):
                setattr(part, name, _wide(value))
    return module


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))


def _answer(module: nn.Module, values: FloatArray) -> FloatArray:
    batch = torch.from_numpy(values.astype(np.float64))
    with torch.no_grad():
        results = [module(batch[at : at + 1]).numpy() for at in range(len(batch))]
    joined = np.ascontiguousarray(np.concatenate(results))
    if joined.dtype != np.float64:
        raise TypeError(f"the network gives {joined.dtype} in fp64")
    return joined
