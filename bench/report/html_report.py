"""A benchmark's result as one HTML file: no network, no other file, readable on a phone.

Every text of the result is escaped. The page's policy forbids all it does not need: styles and
script are named by their hash, pictures are data.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from kspacesr_rt.bench.report.html_charts import READOUT
from kspacesr_rt.bench.report.html_costs import roofline_chart, scaling_charts
from kspacesr_rt.bench.report.html_plots import (
    agreement_scatter,
    measured,
    quality_scatter,
    row_name,
)
from kspacesr_rt.bench.report.html_tables import full_table, headline, roofline_table, stage_bars
from kspacesr_rt.bench.report.html_viewer import viewer
from kspacesr_rt.bench.report.report_header import report_header
from kspacesr_rt.bench.run.plans import PEERS
from kspacesr_rt.bench.run.rows import BenchRow
from kspacesr_rt.bench.run.stored_result import rows_of

FIRST = (
    *("date", "machine", "GPU", "CPU threads", "data", "slices a call", "commit"),
    *("load at the start", "metrics"),
)
"""Facts that every reader wants; the others are one click away."""

LONG = 60
"""Characters beyond which a fact takes the width of the page."""


def as_html(result: dict[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    result
        As `kspacesr_rt.bench.run.stored_result.read_result` or `BenchResult.to_dict` gives it, with
        ``pictures`` if the viewer is to show any.
    """
    rows = rows_of(result)
    known = report_header(result)
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    body = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{content}</section>'
        for name, heading, content in _sections(result, rows)
        if content
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>kspacesr-rt benchmark, {escape(known["date"])}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header><h1>kspacesr-rt benchmark</h1>
<button type="button" id="theme" hidden>dark</button></header>
<main>
{_facts(known)}
{body}
</main>
<footer>Research software. Compare figures within this page only: milliseconds belong to one machine
and one hour.</footer>
<script>{script}</script>
</body>
</html>
"""


def _sections(result: dict[str, Any], rows: Sequence[BenchRow]) -> list[tuple[str, str, str]]:
    present = {row.plan.contestant for row in rows}
    peers = "".join(
        f"<li><b>{escape(name)}</b>: {escape(text)}</li>"
        for name, text in PEERS.items()
        if name in present
    )
    stages = result.get("stages")
    why_not = result["environment"].get("why_no_stages") or ""
    return [
        ("speed", "Speed over PyTorch eager", headline(rows)),
        ("quality", "Latency and image quality", quality_scatter(rows)),
        ("agreement", "Latency and agreement with PyTorch", agreement_scatter(rows)),
        ("viewer", "Before and after", viewer(result.get("pictures") or ())),
        (
            "rows",
            "Every row",
            "<p>A row that failed, is wrong or did not settle stays, with its reason. Headings "
            f'sort.</p>{full_table(rows)}<ul class="peers">{peers}</ul>',
        ),
        (
            "stages",
            "Stages of the pipeline",
            stage_bars(stages)
            if stages
            else (why_not and f"<p>Not measured: {escape(why_not)}</p>"),
        ),
        ("roofline", "What bounds each layer group", _rooflines(result, rows)),
        (
            "scaling",
            "How cost grows",
            _scaling(result.get("scaling") or ()),
        ),
    ]


def _rooflines(result: dict[str, Any], rows: Sequence[BenchRow]) -> str:
    models = list(dict.fromkeys(row.plan.model for row in measured(rows)))
    charts, tables = "", ""
    for raw, row in zip(result["rows"], rows, strict=True):
        if not raw.get("roofline"):
            continue
        name = row_name(row, models)
        peak = result["gemm_flop_per_s"].get(row.plan.precision)
        drawn = roofline_chart(
            row.plan.contestant, raw["roofline"], peak, result.get("memory_bytes_per_s")
        )
        if drawn:
            charts += f"<figure><figcaption>{escape(name)}</figcaption>{drawn}</figure>"
        tables += roofline_table(name, raw["roofline"])
    if not tables:
        return ""
    plot = f'<div class="plot"><div class="panels">{charts}</div>{READOUT}</div>' if charts else ""
    return (
        "<p>The line is what this machine reached in this run: memory (a triad) on the slope, a "
        "matrix product in the row's precision on the level. FFT layers compute in fp32. Bytes are "
        "a lower bound. Above the line, data stayed in a cache, or another job slowed the measured "
        f"rates.</p>{plot}<details><summary>Figures</summary>{tables}</details>"
    )


def _scaling(curves: Sequence[dict[str, Any]]) -> str:
    by_model: dict[str, list[dict[str, Any]]] = {}
    for one in curves:
        if one["points"]:
            by_model.setdefault(one["points"][0]["model"], []).append(one)
    return "".join(
        f"<h3>{escape(model)}</h3>{scaling_charts(group)}" for model, group in by_model.items()
    )


def _facts(known: dict[str, str]) -> str:
    def listed(names: Sequence[str]) -> str:
        return "".join(
            f'<div class="{"long" if len(known[name]) > LONG else "short"}">'
            f"<dt>{escape(name)}</dt><dd>{escape(known[name])}</dd></div>"
            for name in names
            if name in known
        )

    rest = [name for name in known if name not in FIRST]
    return (
        f'<dl class="facts">{listed(FIRST)}</dl><details><summary>Versions, peak, '
        f'command</summary><dl class="facts">{listed(rest)}</dl></details>'
    )


def _asset(name: str) -> str:
    return resources.files("kspacesr_rt.bench.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
