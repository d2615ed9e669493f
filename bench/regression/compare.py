"""Set two results of `kspacesr-rt bench` side by side, row by row.

Ratios to PyTorch eager are compared, since each was taken within its own run; milliseconds are
shown, and mean something between two results of one machine only. A quotient has an interval of
95 %, from the spread of both ratios over their rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kspacesr_rt.bench.regression.rules import quality_losses, speed_line
from kspacesr_rt.bench.regression.sequential import FINE, SLOWER, UNDECIDED
from kspacesr_rt.bench.run.plans import REFERENCE
from kspacesr_rt.bench.run.rows import FAILED, WRONG, BenchRow, median_uncertainty
from kspacesr_rt.bench.run.stored_result import rows_of
from kspacesr_rt.errors import InputError, RegressionError
from kspacesr_rt.runtime.self_test import REQUIRED_DB

NOT_COMPARED = "not compared"
"""Speed of a row that has no ratio on one side, or was measured on another machine or data."""
MACHINE = ("cpu", "cpu_class", "cores", "gpu.name", "system")
"""Parts of an environment that make two machines different."""

PASSING = ("start", "end", "threads")
"""Parts that differ between any two runs, and the threads, which are told by row."""

Key = tuple[str, str, str, str, int, int]
"""Model, runtime, lowering, precision, batch, threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One row of both results."""

    before: BenchRow
    after: BenchRow
    speed: str
    """``ok``, ``slower``, ``undecided`` or ``not compared``."""
    quotient: float | None = None
    """Ratio to PyTorch after over before; above 1 is faster."""
    uncertainty: float | None = None
    """Half of its 95 % interval, relative to it."""
    problems: tuple[str, ...] = ()
    """How quality, parity or status are worse."""

    @property
    def regressed(self) -> bool:
        """Whether the row got slower or worse."""
        return self.speed == SLOWER or bool(self.problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultComparison:
    """Two results side by side."""

    pairs: tuple[Pair, ...]
    """Rows that both have, in the order of the first."""
    only_before: tuple[BenchRow, ...]
    """Rows that the second lacks."""
    only_after: tuple[BenchRow, ...]
    """Rows that the first lacks."""
    differences: dict[str, tuple[str, str]]
    """Parts of the environment, data and convention that differ: before, after."""
    same_machine: bool
    """Whether milliseconds, and changes of a ratio, can be compared."""
    same_data: bool
    """Whether quality can be compared; speed neither, since it hangs on the matrix."""

    @property
    def regressions(self) -> tuple[Pair, ...]:
        """Rows that got slower or worse."""
        return tuple(pair for pair in self.pairs if pair.regressed)

    @property
    def undecided(self) -> tuple[Pair, ...]:
        """Rows whose quotient is too uncertain to say whether they are slower."""
        return tuple(pair for pair in self.pairs if pair.speed == UNDECIDED)

    def require_no_regression(self) -> None:
        """Turn rows that got slower or worse into an error.

        Raises
        ------
        RegressionError
            Naming each row; also if there is no row to compare, which proves nothing.
        """
        if not self.pairs:
            raise RegressionError("the two results have no row in common")
        if self.regressions:
            details = "; ".join(
                f"{name_of(pair.after)}: {', '.join(reasons(pair))}" for pair in self.regressions
            )
            raise RegressionError(f"rows got slower or worse: {details}")


def compare_results(before: dict[str, Any], after: dict[str, Any]) -> ResultComparison:
    """Match the rows of two results.

    Parameters
    ----------
    before, after
        As `kspacesr_rt.bench.run.stored_result.read_result` gives them.

    Raises
    ------
    InputError
        If a result has two rows of one name.
    """
    old, new = _by_key(before, "first"), _by_key(after, "second")
    environments = _flat(before["environment"]), _flat(after["environment"])
    # Results of older versions lack parts, and what one of them does not tell cannot differ; but a
    # GPU has a name wherever there is one.
    described = [
        name for name in MACHINE if name == "gpu.name" or all(name in one for one in environments)
    ]
    same_machine = all(environments[0].get(name) == environments[1].get(name) for name in described)
    same_data = all(before[name] == after[name] for name in ("data", "convention"))
    return ResultComparison(
        pairs=tuple(
            _pair(row, new[key], speed=same_machine and same_data, quality=same_data)
            for key, row in old.items()
            if key in new
        ),
        only_before=tuple(row for key, row in old.items() if key not in new),
        only_after=tuple(row for key, row in new.items() if key not in old),
        differences=_differences(before, after, (old, new)),
        same_machine=same_machine,
        same_data=same_data,
    )


def name_of(row: BenchRow) -> str:
    """Name a row within both results."""
    threads = f"{row.plan.threads or 'all'} threads" if row.plan.threads != 1 else "1 thread"
    return f"{row.plan.model} {row.plan.label}, {threads}"


def reasons(pair: Pair) -> list[str]:
    """Say how a row got slower or worse."""
    texts = list(pair.problems)
    if pair.speed == SLOWER and pair.quotient is not None and pair.uncertainty is not None:
        texts.insert(0, f"{pair.quotient:.2f} times as fast (±{pair.uncertainty:.0%})")
    return texts


def _by_key(result: dict[str, Any], which: str) -> dict[Key, BenchRow]:
    found: dict[Key, BenchRow] = {}
    for row in rows_of(result):
        plan = row.plan
        key = (
            *(plan.model, plan.contestant, plan.lowering, plan.precision),
            *(plan.batch, plan.threads),
        )
        if key in found:
            raise InputError(f"the {which} result has two rows '{name_of(row)}'")
        found[key] = row
    return found


def _pair(before: BenchRow, after: BenchRow, *, speed: bool, quality: bool) -> Pair:
    quotient = uncertainty = None
    status = NOT_COMPARED
    # Results of older versions do not say what their ratios are relative to: PyTorch on the CPU.
    against = (before.ratio_to or REFERENCE) == (after.ratio_to or REFERENCE)
    if before.ratio and after.ratio and against and not after.plan.is_reference:
        quotient = after.ratio / before.ratio
        parts = [_uncertainty(before), _uncertainty(after)]
        if None not in parts:
            uncertainty = math.hypot(*(part for part in parts if part is not None))
            if speed:
                status = _speed_status(quotient, uncertainty)
    problems = [*_status(before, after), *_parity(before, after)]
    if quality and before.quality is not None and after.quality is not None:
        problems += quality_losses(before.quality, after.quality, after.plan.precision)
    return Pair(
        before=before,
        after=after,
        speed=status,
        quotient=quotient,
        uncertainty=uncertainty,
        problems=tuple(problems),
    )


def _uncertainty(row: BenchRow) -> float | None:
    """Return half the 95 % interval of a row's ratio, relative to it."""
    if row.ratio_spread is None or row.latency is None or row.latency.rounds < 1:
        return None
    return median_uncertainty(row.ratio_spread, row.latency.rounds)


def _speed_status(quotient: float, uncertainty: float) -> str:
    line = speed_line(1.0)
    if quotient * (1.0 + uncertainty) < line:
        return SLOWER
    return FINE if quotient * (1.0 - uncertainty) >= line else UNDECIDED


def _status(before: BenchRow, after: BenchRow) -> Iterable[str]:
    bad = (FAILED, WRONG)
    if after.status in bad and before.status not in bad:
        yield f"{after.status}: {after.reason}"


def _parity(before: BenchRow, after: BenchRow) -> Iterable[str]:
    """Hold our own rows to their tier; `bench` itself calls a peer wrong."""
    required = REQUIRED_DB.get(after.plan.precision)  # type: ignore[call-overload]
    now, then = after.psnr_between_db, before.psnr_between_db
    if not after.plan.lowering or required is None or now is None or then is None:
        return
    if now < required <= then and after.status != WRONG:
        yield f"{now:.1f} dB against PyTorch fp32, {required:.0f} dB are required"


def _flat(environment: dict[str, Any]) -> dict[str, str]:
    """Return an environment's parts by name, the parts of a part behind a dot; no moments."""
    parts: dict[str, str] = {}
    for name, value in environment.items():
        if name == "packages":
            parts |= {package: str(version) for package, version in value.items()}
        elif isinstance(value, dict):
            parts |= {f"{name}.{key}": str(one) for key, one in value.items()}
        else:
            parts[name] = str(value)
    return {name: text for name, text in parts.items() if name.split(".")[0] not in PASSING}


def _differences(
    before: dict[str, Any],
    after: dict[str, Any],
    rows: tuple[dict[Key, BenchRow], dict[Key, BenchRow]],
) -> dict[str, tuple[str, str]]:
    descriptions = []
    for result, own in zip((before, after), rows, strict=True):
        parts = _flat(result["environment"])
        parts |= {"data": result["data"], "convention": result["convention"]}
        parts["threads"] = ", ".join(
            str(n or "all") for n in sorted({row.plan.threads for row in own.values()})
        )
        descriptions.append(parts)
    names = dict.fromkeys([*descriptions[0], *descriptions[1]])
    pairs = {
        name: (descriptions[0].get(name, "none"), descriptions[1].get(name, "none"))
        for name in names
    }
    # What a version did not tell yet is no difference; a package or a GPU that is missing is one.
    packages = {name for one in (before, after) for name in one["environment"].get("packages", {})}
    both = (descriptions[0].keys() & descriptions[1].keys()) | packages | {"gpu.name"}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name in both}
