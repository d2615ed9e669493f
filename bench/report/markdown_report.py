"""A benchmark's result as Markdown: what it depends on, then the table."""

from __future__ import annotations

from typing import Any

from kspacesr_rt.bench.report.recommendation import recommended
from kspacesr_rt.bench.report.report_header import report_header
from kspacesr_rt.bench.report.tables import markdown, markdown_text, scaling_text
from kspacesr_rt.bench.run.plans import PEERS
from kspacesr_rt.bench.run.scaling import Scaling, ScalingPoint
from kspacesr_rt.bench.run.stored_result import rows_of


def scaling_of(result: dict[str, Any]) -> tuple[Scaling, ...]:
    """Return the cost curves of a result."""
    names = ScalingPoint.__dataclass_fields__
    return tuple(
        Scaling(
            points=tuple(
                ScalingPoint(**{name: point[name] for name in names if name in point})
                for point in one["points"]
            ),
            exponents={
                axis: slope
                for axis, slope in one["exponents"].items()
                if any(point["axis"] == axis for point in one["points"])
            },
        )
        for one in result.get("scaling") or ()
    )


def as_markdown(result: dict[str, Any]) -> str:
    """Return a heading, the facts, every row, and cost curves if there are any."""
    known = report_header(result)
    rows = rows_of(result)
    present = {row.plan.contestant for row in rows}
    lines = [
        f"# kspacesr-rt benchmark, {markdown_text(known.pop('date'))}",
        "",
        *(f"- {name}: {markdown_text(text)}" for name, text in known.items()),
        "",
        "Times PyTorch: speed relative to PyTorch eager fp32 in the same run, above 1 is faster. "
        "Compare within this table only. A row that failed, is wrong or did not settle stays, "
        "with its reason.",
        "",
        markdown(rows),
        "",
        *(f"- `{name}`: {text}" for name, text in PEERS.items() if name in present),
    ]
    if taken := recommended(rows):
        lines += ["", "Fastest here that keeps its tier:", ""]
        lines += [f"- {markdown_text(one.as_text())}" for one in taken]
    curves = scaling_of(result)
    if curves:
        lines += ["", "```", scaling_text(curves), "```"]
    return "\n".join(lines).rstrip() + "\n"
