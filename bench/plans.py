"""Which rows a benchmark has: contestants, precisions, lowerings and batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from kspacesr_rt.backends import BACKENDS
from kspacesr_rt.errors import InputError

PEERS = {
    "torch-eager": "PyTorch as it is",
    "torch-compile": "torch.compile",
    "torch-bf16": "PyTorch, channels-last, bf16 autocast",
    "exporter-graph": "ONNX Runtime on what torch.onnx.export writes (DFT op, PRelu)",
    "openvino-from-torch": "OpenVINO on what its PyTorch front end makes",
}
"""What is not ours, from the same weights; `kspacesr_rt.export.pytorch_peers` has them."""
REFERENCE = "torch-eager"
"""Ratios are to this one, at the same batch and thread count, in fp32."""


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

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**values)


RUNNABLE = {
    "ort-cpu": (
        ("gemm", "fp32"),
        ("conv", "fp32"),
        ("dynamic", "fp32"),
        ("dft", "fp32"),
        ("gemm", "fp16"),
        ("gemm", "bf16"),
        ("gemm", "int8"),
    ),
    "openvino": (
        ("gemm", "fp32"),
        ("conv", "fp32"),
        ("dynamic", "fp32"),
        ("dft", "fp32"),
        ("gemm", "fp16"),
        ("gemm", "bf16"),
        ("gemm", "int8"),
    ),
    "ort-cuda": (("gemm", "fp32"), ("gemm", "fp16"), ("gemm", "bf16")),
    "ort-tensorrt": (("gemm", "fp32"), ("gemm", "fp16"), ("gemm", "bf16"), ("gemm", "int8")),
    "tensorrt": (("gemm", "fp32"), ("gemm", "fp16"), ("gemm", "int8"), ("gemm", "fp8")),
    "tensorrt-rtx": (("gemm", "fp32"), ("gemm", "fp16"), ("gemm", "int8"), ("gemm", "fp8")),
}
"""Lowering and precision of each backend's rows. What a runtime refuses is there as well: the table
then shows the refusal."""


def default_plan(
    models: Iterable[str], *, batches: Iterable[int] = (1,), threads: int = 1, peers: bool = True
) -> list[RowPlan]:
    """Return every row that can be tried on this machine.

    Parameters
    ----------
    models
        Names or paths of models.
    batches
        Batch sizes; lowerings other than ``gemm`` are tried with the first alone.
    threads
        CPU threads of every row.
    peers
        Also the rows of `PEERS`; PyTorch eager is always there.
    """
    batches = tuple(batches)
    usable = [name for name, info in BACKENDS.items() if info.model and info.why_not() is None]
    rows = []
    for model in models:
        for batch in batches:
            for peer in PEERS if peers else (REFERENCE,):
                precision = "bf16" if peer == "torch-bf16" else "fp32"
                rows.append(
                    RowPlan(
                        contestant=peer,
                        model=model,
                        precision=precision,
                        batch=batch,
                        threads=threads,
                    )
                )
            for backend in usable:
                rows += [
                    RowPlan(
                        contestant=backend,
                        model=model,
                        lowering=lowering,
                        precision=precision,
                        batch=batch,
                        threads=threads,
                    )
                    for lowering, precision in RUNNABLE[backend]
                    if lowering == "gemm" or batch == batches[0]
                ]
            rows += [
                RowPlan(contestant=name, model=model, batch=batch, threads=threads)
                for name, info in BACKENDS.items()
                if not info.model and batch == batches[0]
            ]
    return rows


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
    return [
        row
        for row in rows
        if row in kept or (row.is_reference and (row.model, row.batch) in needed)
    ]
