"""Which rows a benchmark has: contestants, precisions, lowerings and batches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from kspacesr_rt.errors import InputError
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.system.gpu_driver import why_no_gpu

PEERS = {
    "torch-eager": "PyTorch as it is",
    "torch-compile": "torch.compile",
    "torch-bf16": "PyTorch, channels-last, bf16 autocast",
    "torch-fp16": "PyTorch, channels-last, fp16 autocast",
    "exporter-graph": "ONNX Runtime on what torch.onnx.export writes (DFT op, PRelu)",
    "openvino-from-torch": "OpenVINO on what its PyTorch front end makes",
    "torch-cuda": "PyTorch as it is, on the GPU",
    "torch-cuda-compile": "torch.compile, on the GPU",
    "torch-cuda-fp16": "PyTorch, channels-last, fp16 autocast, on the GPU",
}
"""What is not ours, from the same weights; `kspacesr_rt.export.pytorch_peers` has them."""
REFERENCE = "torch-eager"
"""Ratios are to this one, at the same batch and thread count, in fp32; parity always is."""
GPU_REFERENCE = "torch-cuda"
"""Ratios of what runs on a GPU are to this one: a GPU beats any CPU, whatever runs on it."""
NARROW = {"torch-bf16": "bf16", "torch-fp16": "fp16", "torch-cuda-fp16": "fp16"}
"""Precision of peers that are not in fp32."""
ON_GPU = ("ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx")
"""Backends that run on an NVIDIA GPU."""
ON_ANY_GPU = "ort-webgpu"
"""The one that runs on a GPU of any vendor: no counter of energy, no peak and no PyTorch of it is
known here, so its ratios are to PyTorch on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlan:
    """One row: what runs, and how."""

    contestant: str
    """A backend's name, or a key of `PEERS`."""
    model: str
    """Name or path of the model whose weights run; rows of one model are compared."""
    lowering: str = ""
    """Of the FFT layers, for our models; empty for peers and baselines."""
    precision: str = "fp32"
    """What the CNN computes in."""
    batch: int = 1
    """Slices a call."""
    threads: int = 1
    """CPU threads."""

    @property
    def label(self) -> str:
        """Return what tells this row from the others of its table."""
        parts = [self.contestant, self.lowering, self.precision, f"batch {self.batch}"]
        return " ".join(part for part in parts if part)

    @property
    def is_reference(self) -> bool:
        """Say whether other rows are compared with this one."""
        return self.contestant == REFERENCE and self.precision == "fp32"

    @property
    def on_gpu(self) -> bool:
        """Say whether an NVIDIA GPU does the work."""
        return self.contestant in ON_GPU or "cuda" in self.contestant.split("-")

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**values)


LOWERINGS = ("gemm", "conv", "dynamic", "dft")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def _everything() -> tuple[tuple[str, str], ...]:
    """Pair each lowering with each precision; 8 bits besides ``gemm``, dear to make, come last."""
    pairs = [(lowering, precision) for lowering in LOWERINGS for precision in PRECISIONS]
    return tuple(sorted(pairs, key=lambda pair: pair[0] != "gemm" and pair[1] == "int8"))


def _on_gpu(*extra: str) -> tuple[tuple[str, str], ...]:
    """Return ``gemm`` in every precision, other lowerings in fp32: an engine takes minutes."""
    lowered = [(lowering, "fp32") for lowering in LOWERINGS[1:]]
    return (*(("gemm", precision) for precision in (*PRECISIONS, *extra)), *lowered)


RUNNABLE = {
    "ort-cpu": _everything(),
    "openvino": _everything(),
    "ort-cuda": _on_gpu(),
    "ort-tensorrt": _on_gpu(),
    ON_ANY_GPU: (("gemm", "fp32"), ("gemm", "fp16"), ("conv", "fp32")),
    "tensorrt": _on_gpu("fp8"),
    "tensorrt-rtx": _on_gpu("fp8"),
}
"""Lowering and precision of each backend's rows. What a runtime refuses is there as well: the table
then shows the refusal."""


def default_plan(
    models: Iterable[str], *, batches: Iterable[int] = (1,), threads: int = 1, peers: bool = True
) -> list[RowPlan]:
    """Return every row: all that can be tried on this machine, and one for each that cannot.

    Parameters
    ----------
    models
        Names or paths of models.
    batches
        Batch sizes; every row is there with each.
    threads
        CPU threads of every row.
    peers
        Also the rows of `PEERS`; PyTorch eager is always there, and on the GPU if there is one.
    """
    batches = tuple(batches)
    gpu = why_no_gpu() is None
    rows: list[RowPlan] = []
    for model in models:
        for batch in batches:
            first = batch == batches[0]
            row = functools.partial(RowPlan, model=model, batch=batch, threads=threads)
            rows += [
                row(contestant=peer, precision=NARROW.get(peer, "fp32"))
                for peer in PEERS
                if _is_shown(peer, peers=peers, gpu=gpu, first=first)
            ]
            for name, info in BACKENDS.items():
                if not info.model:
                    continue
                usable = info.why_not() is None
                rows += [
                    row(contestant=name, lowering=lowering, precision=precision)
                    for lowering, precision in RUNNABLE[name][: None if usable else int(first)]
                ]
            rows += [row(contestant=name) for name, info in BACKENDS.items() if not info.model]
    return rows


def _is_shown(peer: str, *, peers: bool, gpu: bool, first: bool) -> bool:
    """Say whether a peer has a row; without a GPU one row says so for all of them."""
    wanted = peers or peer in (REFERENCE, GPU_REFERENCE)
    if "cuda" not in peer.split("-"):
        return wanted
    return wanted if gpu else peers and first and peer == GPU_REFERENCE


def why_not(row: RowPlan) -> str | None:
    """Say in one sentence why a row cannot run on this machine; None if nothing is known.

    Imports no inference library.
    """
    if row.contestant in BACKENDS:
        return BACKENDS[row.contestant].why_not()
    return why_no_gpu() if row.on_gpu else None


def chosen(rows: Iterable[RowPlan], words: Iterable[str]) -> list[RowPlan]:
    """Keep the rows whose label holds every word, and each reference that they need.

    Raises
    ------
    InputError
        If none is left.
    """
    rows, words = list(rows), list(words)
    kept = [row for row in rows if all(word in row.label.split() for word in words)]
    if not kept:
        raise InputError(
            f"no row has all of: {' '.join(words)}",
            hint="rows are named like: ort-cpu gemm fp32 batch 1",
        )
    needed = {(row.model, row.batch) for row in kept}
    needed_on_gpu = {(row.model, row.batch) for row in kept if row.on_gpu}
    return [
        row
        for row in rows
        if row in kept
        or (row.is_reference and (row.model, row.batch) in needed)
        or (row.contestant == GPU_REFERENCE and (row.model, row.batch) in needed_on_gpu)
    ]
