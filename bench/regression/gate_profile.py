"""What the regression gate runs: pairs of rows whose speeds are divided."""

from __future__ import annotations

from dataclasses import dataclass

from kspacesr_rt.bench.run.kernels import FFT_ALONE
from kspacesr_rt.bench.run.plans import REFERENCE, RowPlan

MODEL = "x2-fast"
"""Whose weights run: the smallest shipped model, so that a round takes under two seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two rows whose speeds are divided."""

    name: str
    """In the baseline and in reports."""
    plan: RowPlan
    """What is gated."""
    against: RowPlan
    """What it is compared with in the same rounds."""

    @property
    def against_label(self) -> str:
        """Name `against` in a report."""
        return f"{self.against.contestant} {self.against.lowering}".strip()


def profile(threads: int = 1) -> tuple[Comparison, ...]:
    """Return what the gate runs: backends against PyTorch eager, and the FFT layers' lowerings."""

    def row(contestant: str, lowering: str = "", model: str = MODEL) -> RowPlan:
        return RowPlan(contestant=contestant, model=model, lowering=lowering, threads=threads)

    against = row(REFERENCE)
    return (
        Comparison(name="ort-cpu gemm fp32", plan=row("ort-cpu", "gemm"), against=against),
        Comparison(name="openvino gemm fp32", plan=row("openvino", "gemm"), against=against),
        Comparison(name="zero-fill", plan=row("zero-fill"), against=against),
        Comparison(
            name="FFT layers alone, gemm",
            plan=row("ort-cpu", "gemm", FFT_ALONE),
            against=row("ort-cpu", "dft", FFT_ALONE),
        ),
    )
