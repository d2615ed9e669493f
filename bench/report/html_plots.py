"""Charts of a benchmark's rows: latency against image quality, and against agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from kspacesr_rt.bench.report.html_charts import READOUT, Chart, Point, axis_over
from kspacesr_rt.bench.report.html_marks import legend_mark
from kspacesr_rt.bench.run.plans import PEERS
from kspacesr_rt.bench.run.rows import OK, UNSTABLE, BenchRow
from kspacesr_rt.quality.metrics import JSON_INFINITE

SIZES = {"wide": (1040, 430), "narrow": (340, 380)}
"""Width and height of a scatter on a desk and on a phone, px; CSS shows one of the two."""
LEAST_SSIM, LEAST_DB = 0.002, 2.0
"""What an axis spans at least, so that rounding does not look like a difference."""
FEW = 12
"""With so many marks or fewer, every one is named where there is room."""


def measured(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Return the rows whose answer is right and whose speed is known."""
    return [
        row
        for row in rows
        if row.status in (OK, UNSTABLE) and row.slices_per_s and row.slices_per_s > 0
    ]


def is_baseline(row: BenchRow) -> bool:
    """Say whether a row runs no model, so that agreement with PyTorch says nothing of it."""
    return not (row.plan.lowering or row.plan.contestant in PEERS)


def row_name(row: BenchRow, models: Sequence[str] = ()) -> str:
    """Return what tells a row from the others; with its model if there are several."""
    plan = row.plan
    parts = [
        plan.model if len(models) > 1 else "",
        plan.contestant,
        plan.lowering if plan.lowering != "gemm" else "",
        plan.precision if plan.precision not in ("fp32", plan.contestant[-4:]) else "",
        f"batch {plan.batch}" if plan.batch > 1 else "",
    ]
    return " ".join(part for part in parts if part)


def quality_scatter(rows: Sequence[BenchRow]) -> str:
    """Draw milliseconds a slice against SSIM, with the Pareto front; empty without such rows."""
    return _scatter(
        rows,
        lambda row: row.quality.ssim if row.quality else None,
        "SSIM against HR",
        "Latency against image quality",
        front=True,
        least=LEAST_SSIM,
    )


def agreement_scatter(rows: Sequence[BenchRow]) -> str:
    """Draw milliseconds a slice against the agreement with PyTorch; empty without such rows."""

    def agreement(row: BenchRow) -> float | None:
        known = row.psnr_between_db is not None and row.psnr_between_db < JSON_INFINITE
        return row.psnr_between_db if known and not is_baseline(row) else None

    return _scatter(
        rows,
        agreement,
        "PSNR to PyTorch fp32, dB",
        "Latency against agreement with PyTorch",
        front=False,
        least=LEAST_DB,
    )


def _scatter(
    rows: Sequence[BenchRow],
    value: Callable[[BenchRow], float | None],
    y_name: str,
    title: str,
    *,
    front: bool,
    least: float,
) -> str:
    shown = [(row, y) for row in measured(rows) if (y := value(row)) is not None]
    shown = [(row, y) for row, y in shown if math.isfinite(y)]
    if not shown:
        return ""
    models = list(dict.fromkeys(row.plan.model for row, _ in shown))
    shown.sort(key=lambda one: _ms(one[0]))
    ranks = _label_ranks([row for row, _ in shown])
    points = [
        Point(
            x=_ms(row),
            y=y,
            text=f"{row.plan.model}, {row.plan.label}: {_ms(row):.3g} ms a slice, {y_name} {y:.5g}",
            runtime=row.plan.contestant,
            hollow=models.index(row.plan.model) % 2 == 1,
            label=row_name(row, models) if i in ranks else "",
            rank=ranks.get(i, 0),
        )
        for i, (row, y) in enumerate(shown)
    ]
    fronts = _fronts(shown) if front else []
    pictures = []
    for css, (width, height) in SIZES.items():
        chart = Chart(
            width=width,
            height=height,
            x=axis_over([p.x for p in points], "ms a slice (logarithmic)", log=True),
            y=axis_over([p.y for p in points], y_name, least=least),
            title=title,
        )
        chart.axes()
        for steps in fronts:
            chart.path(_staircase(steps), "front")
        chart.marks(points)
        pictures.append(chart.svg(css))
    legend = _legend(points, models, bool(fronts))
    return f'<div class="plot">{"".join(pictures)}{legend}{READOUT}</div>'


def _fronts(shown: Sequence[tuple[BenchRow, float]]) -> list[list[tuple[float, float]]]:
    """Return the Pareto points of each upscale, from fast to slow, where there are two or more."""
    found: dict[int | None, list[tuple[float, float]]] = {}
    for row, y in shown:
        if row.pareto:
            found.setdefault(row.upscale, []).append((_ms(row), y))
    return [sorted(steps) for steps in found.values() if len(steps) > 1]


def _label_ranks(rows: Sequence[BenchRow]) -> dict[int, int]:
    """Rank what is named in the chart: the Pareto rows, then the fastest of each runtime.

    The others are named last, and only if there are few.
    """
    best: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        key = (row.plan.model, row.plan.contestant)
        if key not in best or _ms(row) < _ms(rows[best[key]]):
            best[key] = i
    ranks = {i: 2 if rows[i].plan.contestant in PEERS else 1 for i in best.values()}
    others = dict.fromkeys(range(len(rows)), 3) if len(rows) <= FEW else {}
    return others | ranks | {i: 0 for i, row in enumerate(rows) if row.pareto}


def _staircase(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the border of what is reached: quality stays until a slower row has more."""
    corners = [steps[0]]
    for x, y in steps[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return corners


def _legend(points: Sequence[Point], models: Sequence[str], front: bool) -> str:
    runtimes = sorted({point.runtime for point in points})
    items = [f"<li>{legend_mark(name)}{escape(name)}</li>" for name in runtimes]
    if len(models) > 1:
        filled = ", ".join(escape(name) for name in models[::2])
        hollow = ", ".join(escape(name) for name in models[1::2])
        items.append(f"<li>filled: {filled}; outline: {hollow}</li>")
    if front:
        items.append(
            '<li><svg class="key" width="22" height="16" aria-hidden="true">'
            '<line class="front" x1="1" y1="8" x2="21" y2="8"/></svg>Pareto front</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _ms(row: BenchRow) -> float:
    return 1e3 / (row.slices_per_s or math.nan)
