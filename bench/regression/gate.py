"""The regression gate: what is slower, or worse, than when the baseline was measured.

What it measures: `profile`'s comparisons on slices of the shipped sample, rows in turns as in
`kspacesr_rt.bench.run.scheduler`; speed as a ratio to another row of the same round, quality
against HR, and agreement with PyTorch fp32.
What it leaves out: milliseconds, GPUs, 8 bits, DICOM, and the speed of machines that the baseline
does not know: there quality and parity are gated, and the report says that speed is not.
How to read it: ``slower`` means that the whole interval of the median ratio lies below 80 % of the
baseline's, in two sets of fresh processes; ``undecided``, that this machine was too restless to
tell within the rounds, which fails nothing and is named. What is worse fails however fast it is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.bench.regression.baseline import (
    Baseline,
    BaselineMachine,
    BaselineRatio,
    machine_class,
)
from kspacesr_rt.bench.regression.gate_profile import MODEL, Comparison, profile
from kspacesr_rt.bench.regression.gate_report import GateReport, GateRow
from kspacesr_rt.bench.regression.gate_run import GateRun, Progress, comparison_ratios
from kspacesr_rt.bench.regression.rules import speed_line
from kspacesr_rt.bench.regression.sequential import (
    CONFIDENCE,
    LOOKS,
    SLOWER,
    UNDECIDED,
    median_interval,
    rounds_at_look,
    verdict,
)
from kspacesr_rt.bench.run.environment import environment
from kspacesr_rt.bench.run.scheduler import Measured
from kspacesr_rt.errors import RegressionError
from kspacesr_rt.system.files import replace_file

BASELINE = Path(__file__).parents[1] / "results" / "baseline.json"
"""The committed file."""
BUDGET_S = 60.0
"""Rounds of one set end after so many seconds, decided or not."""
UPDATE_SETS, UPDATE_ROUNDS = 2, 16
"""A baseline is the median over so many sets of fresh processes, of so many rounds each: where a
process's memory lands moves its speed by per cents, and stays for its life."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    """What is compared with what."""

    baseline: Path = BASELINE
    """File to compare with, or to update."""
    threads: int = 1
    """CPU threads of every row."""
    comparisons: tuple[Comparison, ...] = ()
    """What runs; empty takes `profile`."""
    budget_s: float = BUDGET_S
    """Seconds of rounds; a slower row is measured again, for as long again at most."""

    @property
    def chosen(self) -> tuple[Comparison, ...]:
        """What runs."""
        return self.comparisons or profile(self.threads)


def gate(
    options: GateOptions, on_progress: Progress = lambda done, total, text: None
) -> GateReport:
    """Measure the comparisons and compare them with the baseline.

    Raises
    ------
    InputError
        If the baseline cannot be read.
    BackendUnavailableError
        If PyTorch, which ratios are taken to, does not run here.
    """
    started = time.perf_counter()
    baseline = Baseline.read(options.baseline)
    kind = machine_class(options.threads)
    known = baseline.machines[kind].ratios if kind in baseline.machines else {}
    before = {name: one.ratio for name, one in known.items()}

    def enough(comparisons: Sequence[Comparison], found: Sequence[Measured]) -> bool:
        rounds = min((len(one.times_s) for one in found if not one.failed), default=LOOKS[-1])
        if rounds_at_look(rounds) != rounds:
            return False
        by_plan = {one.plan: one for one in found}
        return rounds >= LOOKS[-1] or not any(
            verdict(comparison_ratios(one, by_plan), speed_line(before[one.name])) == UNDECIDED
            for one in comparisons
            if one.name in before
        )

    with GateRun(budget_s=options.budget_s, on_progress=on_progress) as run:
        found = run.measure(options.chosen, enough)
        rows = [
            run.row(
                one,
                found,
                before=before.get(one.name),
                quality_before=baseline.quality.get(one.name),
            )
            for one in options.chosen
        ]
        to_confirm = [
            one
            for one, row in zip(options.chosen, rows, strict=True)
            if row.speed == SLOWER and not row.problems
        ]
        if to_confirm:
            again = run.measure(to_confirm, enough)
            rows = [
                _confirmed(
                    row, verdict(comparison_ratios(one, again), speed_line(before[one.name]))
                )
                if one in to_confirm
                else row
                for one, row in zip(options.chosen, rows, strict=True)
            ]
        weights = run.weights_sha256
    here = environment()
    return GateReport(
        rows=tuple(rows),
        machine=kind,
        environment=here,
        warnings=tuple(_warnings(baseline, kind, weights, here, options.chosen)),
        seconds=time.perf_counter() - started,
    )


def update_baseline(
    options: GateOptions, on_progress: Progress = lambda done, total, text: None
) -> tuple[str, ...]:
    """Measure the comparisons and store them as this kind of machine's baseline.

    Entries of other machines stay, unless the model's weights changed: they are of other weights.

    Returns
    -------
        What changed, a line each.

    Raises
    ------
    RegressionError
        If a comparison failed, or disagrees with PyTorch: such a baseline would bless a fault.
    InputError
        If the file is there and damaged.
    """
    old = Baseline.read(options.baseline) if options.baseline.exists() else None
    kind = machine_class(options.threads)
    with GateRun(budget_s=options.budget_s, on_progress=on_progress) as run:
        sets = [
            run.measure(options.chosen, lambda comparisons, found: _at(UPDATE_ROUNDS, found))
            for _ in range(UPDATE_SETS)
        ]
        rows = [run.row(one, sets[0]) for one in options.chosen]
        weights, data = run.weights_sha256, run.data
    if faulty := [f"{row.name}: {', '.join(row.problems)}" for row in rows if row.problems]:
        raise RegressionError(f"no baseline is taken from what is wrong: {'; '.join(faulty)}")
    new = Baseline(
        model=MODEL,
        weights_sha256=weights,
        data=data,
        quality={row.name: row.quality for row in rows if row.quality is not None},
        machines=old.machines if old is not None and old.weights_sha256 == weights else {},
    ).with_machine(
        kind,
        BaselineMachine(
            environment=environment(),
            ratios={
                one.name: _baseline_ratio(
                    [r for found in sets for r in comparison_ratios(one, found)]
                )
                for one in options.chosen
            },
        ),
    )
    replace_file(options.baseline, new.to_json().encode())
    return tuple(_changes(old, new, kind))


def _at(rounds: int, found: Sequence[Measured]) -> bool:
    return all(len(one.times_s) >= rounds for one in found if not one.failed)


def _confirmed(row: GateRow, second: str) -> GateRow:
    if second == SLOWER:
        return dataclasses.replace(row, note="again in fresh processes")
    return dataclasses.replace(
        row, speed=UNDECIDED, note=f"slower in one set of processes, {second} in the next"
    )


def _baseline_ratio(ratios: Sequence[float]) -> BaselineRatio:
    low, high = median_interval(ratios, CONFIDENCE)
    return BaselineRatio(ratio=float(np.median(ratios)), low=low, high=high, rounds=len(ratios))


def _warnings(
    baseline: Baseline,
    kind: str,
    weights: str,
    here: dict[str, Any],
    comparisons: Sequence[Comparison],
) -> list[str]:
    lines = []
    if weights != baseline.weights_sha256:
        lines.append(f"the weights of {MODEL} are not those the baseline was measured with")
    machine = baseline.machines.get(kind)
    if machine is None:
        return [
            *lines,
            f"speed is not gated: the baseline knows no machine like this ({kind}); add it with "
            "kspacesr-rt bench gate --update",
        ]
    unknown = [one.name for one in comparisons if one.name not in machine.ratios]
    if unknown:
        lines.append(f"speed is not gated for {', '.join(unknown)}: not in the baseline")
    before, now = machine.environment.get("packages", {}), here["packages"]
    changed = [
        f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted({*before, *now} - {"kspacesr-rt"})
        if before.get(name) != now.get(name)
    ]
    if changed:
        lines.append(f"other versions than in the baseline: {', '.join(changed)}")
    return lines


def _changes(old: Baseline | None, new: Baseline, kind: str) -> list[str]:
    before = old.machines.get(kind) if old is not None else None
    lines = [f"baseline of {kind}:"]
    for name, ratio in new.machines[kind].ratios.items():
        was = before.ratios.get(name) if before is not None else None
        quality, past = new.quality.get(name), old.quality.get(name) if old is not None else None
        line = f"  {name}: {'' if was is None else f'{was.ratio:.3f} -> '}{ratio.ratio:.3f}"
        line += f" ({ratio.low:.3f} to {ratio.high:.3f}, {ratio.rounds} rounds)"
        if quality is not None:
            then = "" if past is None else f"{past.psnr_db:.3f} -> "
            line += f", {then}{quality.psnr_db:.3f} dB"
        lines.append(line)
    if old is not None and (dropped := sorted(old.machines.keys() - new.machines.keys())):
        lines.append(f"dropped, since the weights changed: {'; '.join(dropped)}")
    return lines
