"""Charts of what a slice costs: layer groups under the machine's caps, growth over sizes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from kspacesr_rt.bench.report.html_charts import READOUT, Axis, Chart, Point, axis_over
from kspacesr_rt.bench.report.html_marks import legend_mark

PANEL = (440, 270)
"""Width and height of a chart, px; on a phone it fills the page."""
AXES = {"matrix": "LR samples per axis", "batch": "slices a call", "threads": "CPU threads"}
"""Axes of growth, and what their values are."""


def roofline_chart(
    name: str, groups: Sequence[dict[str, Any]], peak: float | None, bandwidth: float | None
) -> str:
    """Draw a row's layer groups under the machine's two caps; empty if nothing has a place.

    Parameters
    ----------
    name
        The row's runtime.
    groups
        Its ``roofline``.
    peak, bandwidth
        Operations and bytes a second that the machine reached in this run.
    """
    known = [
        (group["flop"] / group["bytes"], group["flop"] / group["seconds"] / 1e9, group["group"])
        for group in groups
        if group["flop"] > 0 and group["bytes"] > 0 and group["seconds"] > 0
    ]
    if not known:
        return ""
    x = axis_over([x for x, _, _ in known], "FLOP a byte (log)", log=True)
    roof: list[tuple[float, float]] = []
    if peak and bandwidth and min(peak, bandwidth) > 0:
        # The ridge is shown even if every group lies on one side of it.
        x = axis_over([*(x for x, _, _ in known), peak / bandwidth], x.label, log=True)
        corners = (x.low, peak / bandwidth, x.high)
        roof = [(one, min(peak, one * bandwidth) / 1e9) for one in corners]
    rates = [y for _, y, _ in known] + [y for _, y in roof]
    chart = Chart(
        width=PANEL[0],
        height=PANEL[1],
        x=x,
        y=axis_over(rates, "GFLOP/s (log)", log=True),
        title=f"Roofline of {name}",
    )
    chart.axes()
    if roof:
        chart.path(roof, "fit")
    chart.marks(
        [
            Point(
                x=x,
                y=y,
                text=f"{group}: {x:.3g} FLOP a byte, {y:.3g} GFLOP/s",
                label=group,
                runtime=name,
            )
            for x, y, group in known
        ]
    )
    return chart.svg()


Known = tuple[float, float, dict[str, Any]]
"""Size, figure, and the point it is of."""


def scaling_charts(curves: Sequence[dict[str, Any]]) -> str:
    """Draw one model's cost over matrix, batch and threads, and the share of its FFT layers.

    Parameters
    ----------
    curves
        Entries of a result's ``scaling``, one a contestant.
    """
    drawn: list[str] = []
    for axis, name in AXES.items():
        cost: list[tuple[list[Known], float | None]] = []
        shares: list[list[Known]] = []
        for one in curves:
            points = [
                (float(point["value"]), point)
                for point in one["points"]
                if point["axis"] == axis and point["value"] > 0 and point["seconds_per_slice"]
            ]
            known = [(x, point["seconds_per_slice"] * 1e3, point) for x, point in points]
            if known and min(y for _, y, _ in known) > 0:
                cost.append((known, one["exponents"].get(axis)))
            shares.append([(x, p["fft_share"] * 100, p) for x, p in points if p["fft_share"]])
        shared = [share for share in shares if len(share) > 1]
        drawn += [_growth(name, cost)] if cost else []
        drawn += [_share_chart(name, shared)] if shared else []
    missing = "".join(
        f"<li>{escape(point['backend'])}, {escape(point['axis'])} {point['value']}: "
        f"{escape(point['reason'])}</li>"
        for one in curves
        for point in one["points"]
        if point["reason"]
    )
    left_out = f'<ul class="reasons">{missing}</ul>' if missing else ""
    return f'<div class="plot"><div class="panels">{"".join(drawn)}</div>{READOUT}</div>{left_out}'


def _growth(name: str, cost: Sequence[tuple[list[Known], float | None]]) -> str:
    every = [point for known, _ in cost for point in known]
    width, height = PANEL
    chart = Chart(
        width=width,
        height=height,
        x=_sizes(sorted({x for x, _, _ in every}), name),
        y=axis_over([y for _, y, _ in every], "ms a slice (log)", log=True),
        title=f"Cost of a slice over {name}",
    )
    chart.axes()
    legend = ""
    for known, slope in cost:
        if slope is not None and len(known) > 1:
            chart.path(_fitted(known, slope, chart.y), "fit")
        exponent = "" if slope is None else f", exponent {slope:.2f}".replace("-", "−")
        runtime = known[0][2]["backend"]
        legend += f"<li>{legend_mark(runtime)}{escape(runtime + exponent)}</li>"
    chart.marks([_growth_mark(name, one) for one in every])
    return (
        f"<figure><figcaption>Cost over {escape(name)}</figcaption>{chart.svg()}"
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _growth_mark(name: str, one: Known) -> Point:
    x, y, point = one
    ratio = point.get("ratio")
    times = "" if ratio is None else f", {ratio:.2f}× PyTorch"
    tooltip = f"{point['backend']}, {name} {x:.0f}: {y:.3g} ms a slice{times}"
    return Point(x=x, y=y, text=tooltip, runtime=point["backend"])


def _fitted(known: Sequence[Known], slope: float, axis: Axis) -> list[tuple[float, float]]:
    """Return both ends of the line with this slope through the middle of the points' logarithms."""
    logs = np.log([[x, y] for x, y, _ in known])
    offset = float(np.mean(logs[:, 1] - slope * logs[:, 0]))
    ends = min(x for x, _, _ in known), max(x for x, _, _ in known)
    # A fit may leave the chart at an end; where it does, it ends at the border.
    low, high = np.log([axis.low, axis.high])
    return [(x, float(np.exp(np.clip(offset + slope * np.log(x), low, high)))) for x in ends]


def _share_chart(name: str, shares: Sequence[Sequence[Known]]) -> str:
    every = [point for known in shares for point in known]
    width, height = PANEL
    chart = Chart(
        width=width,
        height=height,
        x=_sizes(sorted({x for x, _, _ in every}), name),
        y=Axis(label="share of time, %", low=0.0, high=max(y for _, y, _ in every) * 1.15),
        title=f"Share of the FFT layers over {name}",
    )
    chart.axes()
    for known in shares:
        chart.path([(x, y) for x, y, _ in sorted(known, key=lambda one: one[0])], "fit")
    chart.marks(
        [
            Point(
                x=x,
                y=y,
                text=f"{point['backend']}, {name} {x:.0f}: FFT layers take {y:.1f} %",
                runtime=point["backend"],
            )
            for x, y, point in every
        ]
    )
    caption = f"FFT layers' share over {name}"
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart.svg()}</figure>"


def _sizes(values: Sequence[float], name: str) -> Axis:
    """Return a logarithmic axis that writes the sizes that were measured."""
    whole = axis_over(values, f"{name} (log)", log=True)
    return Axis(label=whole.label, low=whole.low, high=whole.high, log=True, at=tuple(values))
