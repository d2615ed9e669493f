"""Makes the files of all rows before any is timed, the dear ones last and only while time allows.

An 8-bit export searches for the layers that may become narrow, and does so again for every lowering
of the FFT layers, which do not matter to it: minutes for rows that few ask for. So a run without a
choice of rows keeps to a limit; what did not fit stays in the table with that reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kspacesr_rt.bench.run.model_variants import VariantFailed, Variants
from kspacesr_rt.bench.run.plans import PEERS, RowPlan, why_not

EXPENSIVE = {"conv": 1.5, "dynamic": 3.0, "dft": 1.5}
"""How many times an 8-bit export with ``gemm`` one with another lowering takes, at most."""
SHORTEST_S = 60.0
SHARE_OF_BUDGET = 0.8


def time_for(budget_s: float) -> float:
    """Return the seconds that exports may take when rounds may take `budget_s`."""
    return max(SHORTEST_S, SHARE_OF_BUDGET * budget_s)


def prepare(
    plans: Sequence[RowPlan],
    variants: Variants,
    *,
    limit_s: float | None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[RowPlan, str]:
    """Make the file of every row that can run here.

    Parameters
    ----------
    plans
        Rows.
    variants
        Makes and remembers files.
    limit_s
        Seconds after which no dear export is begun; None makes them all.
    on_progress
        Called with files done, of how many, and a word.
    clock
        Seconds.

    Returns
    -------
        Why each row that cannot run has no file; the others' is there.
    """
    reasons = {row: reason for row in plans if (reason := why_not(row)) is not None}
    waiting = [row for row in plans if row not in reasons]
    waiting.sort(key=lambda row: (_is_expensive(row), EXPENSIVE.get(row.lowering, 0.0)))
    took: dict[tuple[str, str], float] = {}
    started = clock()
    for done, row in enumerate(waiting):
        on_progress(done, len(waiting), "exports")
        key = (row.model, row.contestant)
        if limit_s is not None and _is_expensive(row):
            expected = EXPENSIVE[row.lowering] * took.get(key, 0.0)
            if clock() - started + expected > limit_s:
                reasons[row] = (
                    f"not exported: 8 bits with '{row.lowering}' did not fit into the "
                    f"{limit_s:.0f} s for exports; it is with a larger --budget, or --only int8"
                )
                continue
        before = clock()
        try:
            variants.path_for(row)
        except VariantFailed as exc:
            reasons[row] = str(exc)
        if (row.lowering, row.precision) == ("gemm", "int8"):
            took[key] = max(took.get(key, 0.0), clock() - before)
    return reasons


def _is_expensive(row: RowPlan) -> bool:
    return row.precision == "int8" and row.lowering in EXPENSIVE and row.contestant not in PEERS
