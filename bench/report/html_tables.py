"""The tables of a benchmark's report: speed as bars, every row, stages, layer groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from kspacesr_rt.bench.report.html_marks import legend_mark, style_of
from kspacesr_rt.bench.report.html_plots import is_baseline, measured, row_name
from kspacesr_rt.bench.report.tables import HEADINGS, columns_for, row_cells
from kspacesr_rt.bench.run.plans import PEERS, REFERENCE
from kspacesr_rt.bench.run.rows import FAILED, OK, UNSTABLE, BenchRow
from kspacesr_rt.quality.metrics import JSON_INFINITE

EXPLAINED = {
    "times PyTorch": "speed relative to PyTorch eager fp32 in the same run; above 1 is faster",
    "slices/s": "slices a second",
    "p50 ms": "median of one call",
    "p90 ms": "90th percentile of one call",
    "p95 ms": "95th percentile of one call",
    "p99 ms": "99th percentile of one call",
    "first result s": "from the start of a process to its first result",
    "peak MB": "resident memory of the whole process",
    "copies ms": "between host and device, in one call",
    "device ms": "one call without copies",
    "GPU MB": "GPU memory held after the rounds",
    "model MB": "size of the model file",
    "engine MB": "size of the TensorRT engine",
    "J/slice": "energy of the processor package or the GPU, by RAPL or NVML",
    "FFT share": "share of a profiled run that the FFT layers took",
    "of GEMM peak": "operations per second, relative to a matrix product here in that precision",
    "PSNR to PyTorch": "agreement with PyTorch fp32 on the same slices",
    "tissue dB": "PSNR against HR, inside tissue",
    "tissue SSIM": "SSIM against HR, inside tissue",
    "MAE": "against HR",
    "PSNR dB": "against HR",
    "SSIM": "against HR",
}
"""Titles of the columns that need one."""
BEFORE_REMARK = ("model", "runtime", "FFT", "precision", "batch")
FIRST_FIGURES = (
    *("times PyTorch", "p50 ms", "PSNR to PyTorch", "tissue dB", "tissue SSIM"),
    *("PSNR dB", "SSIM"),
)
_FIRST = (*BEFORE_REMARK, "note", *FIRST_FIGURES)
ORDER = (*_FIRST, *(name for name in HEADINGS if name not in _FIRST))
"""Columns: a remark is read before the figures, speed and quality before what explains them."""
MOST_BARS, FEW = 16, 5
"""Bars that are shown at once; the others are one click away, unless they are fewer than `FEW`."""


def headline(rows: Sequence[BenchRow]) -> str:
    """Return, for each model, the fastest right rows and a bar for each: speed over PyTorch."""
    models = list(dict.fromkeys(row.plan.model for row in rows))
    return (
        "<p>Speed relative to PyTorch eager fp32 in the same run, which is the upright line. "
        "Spread is half the interquartile range over rounds. What runs no model is not among the "
        "bars.</p>"
        + "".join(
            _headline_of(model, [row for row in rows if row.plan.model == model])
            for model in models
        )
    )


def _headline_of(model: str, rows: Sequence[BenchRow]) -> str:
    model_rows = [row for row in rows if not is_baseline(row)]
    known = [row for row in measured(model_rows) if row.ratio is not None and row.ratio > 0]
    name = f"<h3>{escape(model)}</h3>"
    if not known:
        return f"{name}<p>No row has a ratio to PyTorch eager in this run.</p>"
    # A ratio is to the same batch, and of a GPU's row to PyTorch on the GPU: each its own bars.
    groups: dict[tuple[int, str], list[BenchRow]] = {}
    for row in known:
        groups.setdefault((row.plan.batch, row.ratio_to or REFERENCE), []).append(row)
    bars = ""
    for (batch, reference), group in groups.items():
        if len(groups) > 1:
            bars += f"<h4>{batch} a call, relative to {escape(reference)}</h4>"
        bars += _bars(f"{model}: speed relative to {reference}", group)
    left_out = len(model_rows) - len(known)
    were = "row failed or is" if left_out == 1 else "rows failed or are"
    note = f"<p class=note>{left_out} more {were} wrong; the table says why.</p>"
    return f"{name}{bars}{note if left_out else ''}"


def _bars(caption: str, rows: Sequence[BenchRow]) -> str:
    ours = [row for row in rows if row.plan.contestant not in PEERS]
    exact = [row for row in ours if row.plan.precision == "fp32"]
    best, best_exact = (max(group, key=_ratio, default=None) for group in (ours, exact))
    tiles = _tile("fastest", best) if best else ""
    if best_exact is not None and best_exact is not best:
        tiles += _tile("fastest in fp32", best_exact)
    top = max(_ratio(row) for row in rows)
    ranked = sorted(rows, key=_ratio, reverse=True)
    shown, rest = ranked[:MOST_BARS], ranked[MOST_BARS:]
    if len(rest) < FEW:
        shown, rest = ranked, []
    text = f'<ul class="tiles">{tiles}</ul>{_bar_table(caption, shown, top)}'
    if rest:
        slower = _bar_table(f"{caption}, the slower rows", rest, top)
        text += f"<details><summary>{len(rest)} slower rows</summary>{slower}</details>"
    return text


def _bar_table(caption: str, rows: Sequence[BenchRow], top: float) -> str:
    return (
        f'<table class="bars"><caption class="hidden">{escape(caption)}</caption>'
        "<thead><tr><th scope=col>runtime</th><th scope=col>times PyTorch</th>"
        '<th scope=col class="spread">spread</th>'
        '<th scope=col class="track"><span class="hidden">bar</span></th></tr></thead>'
        f"<tbody>{''.join(_bar(row, top) for row in rows)}</tbody></table>"
    )


def _tile(title: str, row: BenchRow) -> str:
    db = row.psnr_between_db
    agreement = "" if db is None or db >= JSON_INFINITE else f", {db:.1f} dB to PyTorch"
    return (
        f'<li><b class="figure">{_ratio(row):.2f}×</b><span>{title}: '
        f"{escape(row_name(row))}{agreement}</span></li>"
    )


def _ratio(row: BenchRow) -> float:
    return row.ratio or 0.0


def _bar(row: BenchRow, top: float) -> str:
    colour, _ = style_of(row.plan.contestant)
    spread = "" if row.ratio_spread is None else f"± {row.ratio_spread * 100:.1f} %"
    if row.plan.contestant == (row.ratio_to or REFERENCE):
        spread = ""
    unsettled = " unsettled" if row.status == UNSTABLE else ""
    one = 100 / top
    return (
        f"<tr><th scope=row>{legend_mark(row.plan.contestant)}{escape(row_name(row))}</th>"
        f'<td class="n">{_ratio(row):.2f}×</td><td class="n spread{unsettled}">{spread}</td>'
        '<td class="track"><svg class="bar" width="100%" height="16" aria-hidden="true">'
        f'<rect class="fill {colour}" y="3" height="10" width="{100 * _ratio(row) / top:.2f}%"/>'
        f'<line class="one" x1="{one:.2f}%" x2="{one:.2f}%" y1="0" y2="16"/></svg></td></tr>'
    )


def full_table(rows: Sequence[BenchRow]) -> str:
    """Return every row with a heading that sorts; `report.js` reads ``data-v``."""
    heads, columns = "", columns_for(rows, ORDER)
    for name, side in ((name, HEADINGS[name]) for name in columns):
        help_text = escape(EXPLAINED.get(name, ""), quote=True)
        css = ' class="n"' if side == "--:" else ""
        heads += (
            f'<th scope="col"{css} aria-sort="none"><button type="button" title="{help_text}">'
            f"{escape(name) or 'remark'}</button></th>"
        )
    body = "".join(_table_row(row, columns) for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All rows">'
        f'<table class="rows"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _table_row(row: BenchRow, columns: Sequence[str]) -> str:
    values, cells = _values(row), ""
    texts = row_cells(row)
    for name in columns:
        text = texts[name]
        if not name and row.status == FAILED:
            cells += f'<td class="remark" colspan="{len(columns) - len(BEFORE_REMARK)}">'
            cells += f'<div class="reason">{_remark(row)}</div></td>'
            break
        if not name:
            cells += f'<td class="remark">{_remark(row)}</td>'
            continue
        css = ' class="n"' if HEADINGS[name] == "--:" else ""
        value = values.get(name)
        raw = "" if value is None or not math.isfinite(value) else f' data-v="{value!r}"'
        shown = (legend_mark(text) if name == "runtime" else "") + escape(text)
        cells += f"<td{css}{raw}>{shown}</td>"
    css = escape(f"{row.status} pareto" if row.pareto else row.status, quote=True)
    return f'<tr class="{css}">{cells}</tr>'


def _remark(row: BenchRow) -> str:
    pareto = '<b class="tag">Pareto</b> ' if row.pareto else ""
    if row.status == OK:
        return pareto.rstrip()
    reason = row.reason or ("no reason was given" if row.status == FAILED else "")
    return pareto + (
        f'<b class="tag {escape(row.status, quote=True)}">{escape(row.status)}</b> {escape(reason)}'
    )


def _values(row: BenchRow) -> dict[str, float | None]:
    """Return what a column sorts by."""
    latency, quality = row.latency, row.quality
    return {
        "batch": row.plan.batch,
        "times PyTorch": row.ratio,
        "slices/s": row.slices_per_s,
        "p50 ms": latency.p50_s if latency else None,
        "p90 ms": latency.p90_s if latency else None,
        "p95 ms": latency.p95_s if latency else None,
        "p99 ms": latency.p99_s if latency else None,
        "copies ms": row.copies_s,
        "device ms": row.device_s,
        "first result s": row.first_result_s,
        "peak MB": row.peak_rss_bytes,
        "GPU MB": row.device_bytes,
        "model MB": row.model_bytes,
        "engine MB": row.engine_bytes,
        "J/slice": row.joules_per_slice,
        "FFT share": row.fft_share,
        "of GEMM peak": row.peak_share,
        "PSNR to PyTorch": JSON_INFINITE if row.plan.is_reference else row.psnr_between_db,
        "tissue dB": row.tissue.psnr_db if row.tissue else None,
        "tissue SSIM": row.tissue.ssim if row.tissue else None,
        "MAE": quality.mae if quality else None,
        "PSNR dB": quality.psnr_db if quality else None,
        "SSIM": quality.ssim if quality else None,
    }


def stage_bars(stages: dict[str, Any]) -> str:
    """Return how busy each stage of a pipeline was; the bottleneck is marked."""
    lines = ""
    for stage in stages["stages"]:
        slowest = stage["name"] == stages["bottleneck"]
        used = min(max(stage["utilisation"], 0.0), 1.0)
        tag = ' <b class="tag">bottleneck</b>' if slowest else ""
        lines += (
            f"<tr><th scope=row>{escape(stage['name'])}{tag}</th>"
            f'<td class="n">{stage["workers"]:g}</td><td class="n">{stage["busy_s"]:.2f}</td>'
            f'<td class="n">{stage["utilisation"] * 100:.1f} %</td><td class="track">'
            f"{_share_bar(used, 'c2' if slowest else 'c1')}</td></tr>"
        )
    return (
        f'<table class="bars"><caption>{stages["wall_s"]:.2f} s for a run of `infer` on the '
        "shipped sample, files included. Utilisation: busy time over workers times that.</caption>"
        "<thead><tr><th scope=col>stage</th><th scope=col>workers</th><th scope=col>busy s</th>"
        '<th scope=col>utilisation</th><th scope=col class="track"><span class="hidden">bar</span>'
        f"</th></tr></thead><tbody>{lines}</tbody></table>"
    )


def roofline_table(name: str, groups: Sequence[dict[str, Any]]) -> str:
    """Return what bounds each layer group of a row: arithmetic or memory."""
    total = sum(group["seconds"] for group in groups) or math.nan
    lines = ""
    for group in groups:
        seconds, flop, moved = group["seconds"], group["flop"], group["bytes"]
        cells = (
            f"{seconds * 1e3:.2f}",
            f"{seconds / total * 100:.0f} %" if total == total else "",
            f"{flop / 1e9:.2f}",
            f"{moved / 1e6:.1f}",
            f"{flop / moved:.1f}" if moved else "",
            _percent(group.get("peak_share")),
            _percent(group.get("bandwidth_share")),
        )
        lines += (
            f"<tr><th scope=row>{escape(group['group'])}</th>"
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + f"<td>{escape(group['bound'])}</td></tr>"
        )
    heads = ("ms", "of time", "GFLOP", "MB", "FLOP/byte", "of peak", "of bandwidth")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name, quote=True)}">'
        f'<table class="rows"><caption>{escape(name)}</caption><thead><tr>'
        '<th scope="col">layers</th>'
        + "".join(f'<th scope="col" class="n">{head}</th>' for head in heads)
        + f'<th scope="col">bound by</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.0f} %"


def _share_bar(share: float, colour: str) -> str:
    return (
        '<svg class="bar" width="100%" height="16" aria-hidden="true">'
        '<rect class="whole" y="3" height="10" width="100%"/>'
        f'<rect class="fill {colour}" y="3" height="10" width="{share * 100:.2f}%"/></svg>'
    )
