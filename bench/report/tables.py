"""A benchmark's rows as Markdown, CSV and text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from kspacesr_rt.bench.run.rows import FAILED, OK, BenchRow, milliseconds
from kspacesr_rt.bench.run.scaling import Scaling

HEADINGS = {
    "model": "---",
    "runtime": "---",
    "FFT": "---",
    "precision": "---",
    "batch": "--:",
    "times PyTorch": "--:",
    "slices/s": "--:",
    "p50 ms": "--:",
    "p90 ms": "--:",
    "p95 ms": "--:",
    "p99 ms": "--:",
    "copies ms": "--:",
    "device ms": "--:",
    "first result s": "--:",
    "peak MB": "--:",
    "GPU MB": "--:",
    "model MB": "--:",
    "engine MB": "--:",
    "J/slice": "--:",
    "FFT share": "--:",
    "of GEMM peak": "--:",
    "PSNR to PyTorch": "--:",
    "tissue dB": "--:",
    "tissue SSIM": "--:",
    "MAE": "--:",
    "PSNR dB": "--:",
    "SSIM": "--:",
    "note": "---",
}
"""Columns, with their alignment in Markdown."""
ONLY_IF_FILLED = (
    *("copies ms", "device ms", "GPU MB", "engine MB", "J/slice", "tissue dB", "tissue SSIM"),
)
"""Columns that a table without a GPU, an energy counter or quality inside tissue (of an older
result) has no use for."""
NOT_IN_A_TERMINAL = ("p90 ms", "p95 ms", "model MB", "MAE")
"""Columns for tables that have more room."""


def columns_for(rows: Iterable[BenchRow], names: Sequence[str] = tuple(HEADINGS)) -> list[str]:
    """Return the columns that a table of these rows needs, of `names` and in their order."""
    cells = [row_cells(row) for row in rows]
    return [name for name in names if name not in ONLY_IF_FILLED or any(row[name] for row in cells)]


def markdown(rows: Sequence[BenchRow], columns: Sequence[str] | None = None) -> str:
    """Return the rows as a Markdown table, the chosen columns (default: all they need)."""
    shown = list(columns or columns_for(rows))
    lines = [
        "| " + " | ".join(shown) + " |",
        "| " + " | ".join(HEADINGS[name] for name in shown) + " |",
    ]
    for row in rows:
        cells = row_cells(row)
        lines.append("| " + " | ".join(markdown_text(cells[name]) for name in shown) + " |")
    return "\n".join(lines)


def as_text(rows: Sequence[BenchRow]) -> str:
    """Return the rows in columns for a terminal."""
    shown = columns_for(rows, [name for name in HEADINGS if name not in NOT_IN_A_TERMINAL])
    table = [dict(zip(HEADINGS, HEADINGS, strict=True)), *(row_cells(row) for row in rows)]
    widths = {name: max(len(line[name]) for line in table) for name in shown}
    return "\n".join(
        "  ".join(
            line[name].ljust(widths[name])
            if HEADINGS[name] == "---"
            else line[name].rjust(widths[name])
            for name in shown
        ).rstrip()
        for line in table
    )


def as_csv(rows: Iterable[BenchRow]) -> str:
    """Return every figure of the rows, one line each, in SI units."""
    flat = [_flat(row.to_dict()) for row in rows]
    names = list(dict.fromkeys(name for line in flat for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def scaling_text(curves: Iterable[Scaling]) -> str:
    """Return cost curves in columns for a terminal."""
    lines = []
    for one in curves:
        for axis in dict.fromkeys(point.axis for point in one.points):
            points = [point for point in one.points if point.axis == axis]
            exponent = one.exponents.get(axis)
            growth = "no exponent" if exponent is None else f"exponent {exponent:.2f}"
            lines.append(
                f"{points[0].model} on {points[0].backend}: seconds a slice over {axis}, {growth}"
            )
            for point in points:
                cost = point.reason
                if point.seconds_per_slice is not None:
                    share = "" if point.fft_share is None else f"  FFT {point.fft_share:.1%}"
                    ratio = "" if point.ratio is None else f"  {point.ratio:.2f} times PyTorch"
                    cost = f"{point.seconds_per_slice * 1e3:9.1f} ms{share}{ratio}"
                lines.append(f"  {point.value:5d}  {cost}")
    return "\n".join(lines)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):  # groups of layers, each with its name
            for one in value:
                flat |= _flat(
                    {one["group"]: {k: v for k, v in one.items() if k != "group"}},
                    f"{prefix}{name}.",
                )
        else:
            flat[prefix + name] = value
    return flat


def markdown_text(text: str) -> str:
    """Keep a runtime's message text, and inside its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def row_cells(row: BenchRow) -> dict[str, str]:
    """Return what each column of `HEADINGS` shows of a row; empty where nothing is known."""
    plan, quality, latency = row.plan, row.quality, row.latency
    note = "" if row.status == OK else f"{row.status}: {row.reason}"
    if row.status == FAILED:
        note = row.reason
    if row.pareto:
        note = f"Pareto; {note}" if note else "Pareto"
    return {
        "model": plan.model,
        "runtime": plan.contestant,
        "FFT": plan.lowering,
        "precision": plan.precision,
        "batch": str(plan.batch),
        "times PyTorch": _number(row.ratio, "{:.2f}"),
        "slices/s": _number(row.slices_per_s, "{:.1f}"),
        "p50 ms": milliseconds(latency.p50_s if latency else None),
        "p90 ms": milliseconds(latency.p90_s if latency else None),
        "p95 ms": milliseconds(latency.p95_s if latency else None),
        "p99 ms": milliseconds(latency.p99_s if latency else None),
        "copies ms": milliseconds(row.copies_s),
        "device ms": milliseconds(row.device_s),
        "first result s": _number(row.first_result_s, "{:.1f}"),
        "peak MB": _megabytes(row.peak_rss_bytes, "{:.0f}"),
        "GPU MB": _megabytes(row.device_bytes, "{:.0f}"),
        "model MB": _megabytes(row.model_bytes, "{:.1f}"),
        "engine MB": _megabytes(row.engine_bytes, "{:.1f}"),
        "J/slice": _number(row.joules_per_slice, "{:.3g}"),
        "FFT share": _number(row.fft_share and row.fft_share * 100, "{:.1f} %"),
        "of GEMM peak": _number(row.peak_share and row.peak_share * 100, "{:.0f} %"),
        "PSNR to PyTorch": _between(row),
        "tissue dB": _number(row.tissue.psnr_db if row.tissue else None, "{:.2f}"),
        "tissue SSIM": _number(row.tissue.ssim if row.tissue else None, "{:.4f}"),
        "MAE": _number(quality.mae if quality else None, "{:.5f}"),
        "PSNR dB": _number(quality.psnr_db if quality else None, "{:.2f}"),
        "SSIM": _number(quality.ssim if quality else None, "{:.4f}"),
        "note": note,
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _megabytes(size: int | None, form: str) -> str:
    return _number(None if size is None else size / 1e6, form)


def _between(row: BenchRow) -> str:
    if row.plan.is_reference:
        return "reference"
    return _number(row.psnr_between_db, "{:.1f} dB")
