"""A comparison of two results, as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from kspacesr_rt.bench.regression.compare import Pair, ResultComparison, name_of, reasons
from kspacesr_rt.bench.regression.sequential import SLOWER, UNDECIDED
from kspacesr_rt.bench.run.rows import OK, BenchRow, milliseconds

HEADS = (
    *("row", "x PyTorch A", "x PyTorch B", "B / A", "p50 ms A", "p50 ms B", "dPSNR dB", "dSSIM"),
    *("dMAE", "parity dB A", "parity dB B", ""),
)
OTHER_MACHINE = (
    "the machines differ: milliseconds do not compare, a changed ratio may be the machine's, and "
    "speed is not judged"
)
OTHER_DATA = "the data or its convention differ: neither quality nor speed is judged"


def warnings(comparison: ResultComparison) -> list[str]:
    """Say what of the comparison does not hold."""
    lines = [] if comparison.same_machine else [OTHER_MACHINE]
    if not comparison.same_data:
        lines.append(OTHER_DATA)
    if comparison.undecided:
        names = ", ".join(name_of(pair.after) for pair in comparison.undecided)
        lines.append(f"speed undecided within its uncertainty: {names}")
    return lines


def as_text(comparison: ResultComparison) -> str:
    """Return the comparison for a terminal."""
    lines = [
        f"{name}: {before} -> {after}" for name, (before, after) in comparison.differences.items()
    ]
    lines += [f"warning: {one}" for one in warnings(comparison)]
    lines += ["", *_columns([HEADS, *(_cells(pair, comparison) for pair in comparison.pairs)])]
    return "\n".join([*lines, *_unpaired(comparison)])


def as_markdown(comparison: ResultComparison) -> str:
    """Return the comparison as a Markdown page."""
    lines = ["# Two benchmarks compared", "", "| | A | B |", "| --- | --- | --- |"]
    lines += [_line((name, *pair)) for name, pair in comparison.differences.items()]
    for one in warnings(comparison):
        lines += ["", f"**{one}.**"]
    align = ("---", *("--:" for _ in HEADS[1:-1]), "---")
    lines += ["", _line(HEADS), "| " + " | ".join(align) + " |"]
    lines += [_line(_cells(pair, comparison)) for pair in comparison.pairs]
    return "\n".join([*lines, *(_escaped(one) for one in _unpaired(comparison))]) + "\n"


def as_dict(comparison: ResultComparison) -> dict[str, Any]:
    """Return the comparison as plain values."""
    return {
        "same_machine": comparison.same_machine,
        "same_data": comparison.same_data,
        "differences": {name: list(pair) for name, pair in comparison.differences.items()},
        "warnings": warnings(comparison),
        "rows": [
            {
                "plan": pair.after.plan.to_dict(),
                "speed": pair.speed,
                "quotient": pair.quotient,
                "uncertainty": pair.uncertainty,
                "problems": list(pair.problems),
                "regressed": pair.regressed,
                "before": _figures(pair.before),
                "after": _figures(pair.after),
            }
            for pair in comparison.pairs
        ],
        "only_before": [row.plan.to_dict() for row in comparison.only_before],
        "only_after": [row.plan.to_dict() for row in comparison.only_after],
        "regressions": [name_of(pair.after) for pair in comparison.regressions],
    }


def _figures(row: BenchRow) -> dict[str, Any]:
    return {
        "status": row.status,
        "reason": row.reason,
        "ratio": row.ratio,
        "ratio_spread": row.ratio_spread,
        "p50_s": row.latency.p50_s if row.latency else None,
        "psnr_between_db": row.psnr_between_db,
        "quality": dataclasses.asdict(row.quality) if row.quality else None,
    }


def _cells(pair: Pair, comparison: ResultComparison) -> tuple[str, ...]:
    before, after = pair.before, pair.after
    deltas = ["", "", ""]
    if comparison.same_data and before.quality is not None and after.quality is not None:
        deltas = [
            f"{after.quality.psnr_db - before.quality.psnr_db:+.3f}",
            f"{after.quality.ssim - before.quality.ssim:+.5f}",
            f"{after.quality.mae - before.quality.mae:+.6f}",
        ]
    quotient = "" if pair.quotient is None else f"{pair.quotient:.2f}"
    if pair.uncertainty is not None:
        quotient += f" ±{pair.quotient * pair.uncertainty:.2f}" if pair.quotient else ""
    return (
        name_of(after),
        *(_number(row.ratio, 1.0, 2) for row in (before, after)),
        quotient,
        *(milliseconds(row.latency.p50_s if row.latency else None) for row in (before, after)),
        *deltas,
        *(
            "" if row.plan.is_reference else _number(row.psnr_between_db, 1.0, 1)
            for row in (before, after)
        ),
        _end(pair),
    )


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def _end(pair: Pair) -> str:
    words = {SLOWER: ["SLOWER"], UNDECIDED: ["undecided"]}.get(pair.speed, [])
    words += [f"WORSE: {one}" for one in pair.problems]
    if not pair.problems and OK not in (pair.before.status, pair.after.status):
        words.append(pair.after.status)
    elif pair.before.status != pair.after.status and not pair.problems:
        words.append(f"{pair.before.status} -> {pair.after.status}")
    return "; ".join(words)


def _unpaired(comparison: ResultComparison) -> list[str]:
    lines = []
    for name, rows in (("A", comparison.only_before), ("B", comparison.only_after)):
        if rows:
            lines += ["", f"only in {name}: {'; '.join(name_of(row) for row in rows)}"]
    if comparison.regressions:
        lines += ["", "slower or worse:"]
        lines += [
            f"- {name_of(pair.after)}: {', '.join(reasons(pair))}"
            for pair in comparison.regressions
        ]
    return lines


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Keep a runtime's message on its line, in its cell, and text."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
