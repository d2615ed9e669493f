"""Several processes training one generator, as `torchrun` starts them: each draws its own batches.

Gradients are averaged over the ranks in one all-reduce a step. The generators hold a few hundred
thousand weights, so hiding that exchange behind the backward pass, as DistributedDataParallel
does, would gain nothing, and a discriminator that sees two batches per step needs no care here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kspacesr_rt.errors import BackendUnavailableError, InputError

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """One process among those that train together."""

    rank: int = 0
    """Number of this process, from 0; rank 0 validates, prints and writes."""
    count: int = 1
    """Processes in all."""
    device: torch.device = CPU
    """What this process computes on."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on any rank; the same answer everywhere."""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def gather(self, value: Any) -> list[Any]:
        """Collect one picklable value of every rank, in their order, on every rank."""
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, value)
        return gathered

    def wait(self) -> None:
        """Let every rank arrive before any goes on."""
        if self.count > 1:
            dist.barrier()

    def average(self, module: nn.Module) -> None:
        """Average gradients, and the statistics of BatchNorm layers, over the ranks."""
        if self.count == 1:
            return
        tensors = [one.grad for one in module.parameters() if one.grad is not None]
        tensors += list(_statistics(module))
        flat = torch.cat([one.reshape(-1).float() for one in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [one.numel() for one in tensors])
        for one, mean in zip(tensors, parts, strict=True):
            one.copy_(mean.view_as(one))


def _statistics(module: nn.Module) -> Iterable[Tensor]:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    yield statistic


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device a run computes on.

    Parameters
    ----------
    name
        ``cpu``, ``cuda``, or ``auto``: a GPU where PyTorch sees one.
    local_rank
        Which GPU of this machine.

    Raises
    ------
    BackendUnavailableError
        If a GPU is asked for and PyTorch sees none.
    InputError
        If the name is none of the three.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device is auto, cpu or cuda, not '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "PyTorch sees no CUDA device",
            hint="install a CUDA build of torch and a driver, or train with --device cpu",
        )
    if name == "cpu" or not torch.cuda.is_available():
        return CPU
    return torch.device("cuda", local_rank)


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """Join the other processes of a `torchrun`, or stay alone where there are none.

    Parameters
    ----------
    device
        See `choose_device`. Ranks talk through NCCL on GPUs and through gloo on CPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if count == 1:
        yield Ranks(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # The first optimizer imports this module, and its functions take the process group of that
    # moment as their default: imported after the group was made, it would keep the group, and
    # gloo's threads, alive until the interpreter ends, where they can abort the process.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), count=count, device=chosen)
    finally:
        dist.destroy_process_group()
