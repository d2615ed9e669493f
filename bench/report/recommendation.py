"""What to take here, after a benchmark: for each model, target and tier the fastest right row.

A target is the CPU or the GPU of the machine that was measured; the tiers are those of
`kspacesr_rt.conversion.parity`: ``exact`` computes in fp32, ``fast`` allows 16 bits as well,
``max`` 8 bits. A tier is left out where no faster row than that of the tier before keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kspacesr_rt.bench.report.html_plots import is_baseline, measured
from kspacesr_rt.bench.run.model_variants import SEED_SHAPE
from kspacesr_rt.bench.run.plans import ON_ANY_GPU, PEERS
from kspacesr_rt.bench.run.rows import BenchRow
from kspacesr_rt.conversion.parity import TIER_OF, TIERS

ORDER = tuple(TIERS)
"""From the most careful tier to the one that allows most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The fastest right row of a model on a target, within a tier."""

    target: str
    """``CPU`` or ``GPU``."""
    tier: str
    """A key of `kspacesr_rt.conversion.parity.TIERS`."""
    row: BenchRow
    gain: float | None
    """Its slices a second over those of the exact row; None for that itself, or without one."""

    def as_text(self) -> str:
        """Return it for people, with the command that does it."""
        plan = self.row.plan
        gain = "" if self.gain is None else f", {self.gain:.2f} times exact"
        return (
            f"{plan.model} on the {self.target}, {self.tier}: {plan.label}, "
            f"{self.row.slices_per_s or 0.0:.3g} slices/s{gain}: {self._command()}"
        )

    def _command(self) -> str:
        plan = self.row.plan
        where = f"--backend {plan.contestant} --batch {plan.batch}"
        if plan.precision == "fp32" and plan.lowering == "gemm":
            return f"infer IN OUT --model {plan.model} {where}"
        made = (
            f"convert {plan.model} -o M.onnx --precision {plan.precision} --fft {plan.lowering} "
            f"--runtime {plan.contestant}"
        )
        return f"{made}; infer IN OUT --model M.onnx {where}"


def recommended(rows: Sequence[BenchRow]) -> list[Recommendation]:
    """Return what to take of these rows, model by model; peers are for comparison only."""
    ours = [
        row
        for row in measured(rows)
        if not is_baseline(row)
        and row.plan.contestant not in PEERS
        and row.plan.model != SEED_SHAPE
    ]
    groups: dict[tuple[str, str], list[BenchRow]] = {}
    for row in ours:
        groups.setdefault((row.plan.model, _target(row)), []).append(row)
    return [one for (_, target), group in groups.items() for one in _of_target(target, group)]


def recommended_text(rows: Sequence[BenchRow]) -> str:
    """Return a line for each, or nothing if no row is right."""
    lines = [one.as_text() for one in recommended(rows)]
    return "\n".join(["Fastest here that keeps its tier:", *lines]) if lines else ""


def _of_target(target: str, group: Iterable[BenchRow]) -> Iterable[Recommendation]:
    best: BenchRow | None = None
    exact: BenchRow | None = None
    for allowed, tier in enumerate(ORDER):
        kept = [row for row in group if _tier(row) in ORDER[: allowed + 1]]
        found = max(kept, key=_speed, default=None)
        if found is not None and found is not best:
            gain = None if exact is None else _speed(found) / _speed(exact)
            yield Recommendation(target=target, tier=tier, row=found, gain=gain)
            best = found
        if tier == ORDER[0]:
            exact = found


def _target(row: BenchRow) -> str:
    return "GPU" if row.plan.on_gpu or row.plan.contestant == ON_ANY_GPU else "CPU"


def _tier(row: BenchRow) -> str:
    return next(tier for precision, tier in TIER_OF.items() if precision == row.plan.precision)


def _speed(row: BenchRow) -> float:
    return row.slices_per_s or 0.0
