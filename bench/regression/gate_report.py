"""What the regression gate found, in words and for machines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from kspacesr_rt.bench.regression.sequential import FINE, SLOWER, UNDECIDED
from kspacesr_rt.errors import RegressionError
from kspacesr_rt.quality.metrics import Quality, json_number

NOT_GATED = "not gated"
"""Speed of a comparison that the baseline does not know on this kind of machine."""
NO_FIGURE = "failed"
"""Speed of a comparison that did not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRow:
    """One comparison, judged."""

    name: str
    """Of the comparison."""
    against: str
    """What its ratio is relative to."""
    speed: str
    """``ok``, ``slower``, ``undecided``, ``not gated`` or ``failed``."""
    ratio: float | None = None
    """Speed relative to `against`, above 1 is faster: median over the rounds."""
    low: float | None = None
    """Lower end of the interval that was decided on."""
    high: float | None = None
    """Upper end."""
    rounds: int = 0
    """Rounds measured."""
    before: float | None = None
    """The ratio in the baseline."""
    quality: Quality | None = None
    """Against HR, convention ``slice-range1``."""
    psnr_between_db: float | None = None
    """Against PyTorch fp32; for FFT layers alone, against NumPy's zero-fill."""
    problems: tuple[str, ...] = ()
    """What is wrong besides speed: quality, parity, or why it did not run."""
    note: str = ""
    """What else to know."""

    @property
    def failed(self) -> bool:
        """Whether the gate fails because of it."""
        return self.speed == SLOWER or bool(self.problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """Every comparison of a run."""

    rows: tuple[GateRow, ...]
    machine: str
    """Kind of machine, as `kspacesr_rt.bench.regression.baseline.machine_class` names it."""
    environment: dict[str, Any]
    """As `kspacesr_rt.bench.run.environment` tells it."""
    warnings: tuple[str, ...]
    """What the verdict does not cover, or may depend on."""
    seconds: float
    """How long it took."""

    @property
    def failed(self) -> tuple[GateRow, ...]:
        """Contests that got slower or worse."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def undecided(self) -> tuple[GateRow, ...]:
        """Contests whose speed this machine was too restless to judge; they do not fail."""
        return tuple(row for row in self.rows if row.speed == UNDECIDED)

    def require_passed(self) -> None:
        """Turn a failure into an error.

        Raises
        ------
        RegressionError
            If a comparison got slower or worse; all are named.
        """
        if self.failed:
            details = "; ".join(f"{row.name}: {', '.join(_reasons(row))}" for row in self.failed)
            raise RegressionError(
                f"the benchmark gate failed: {details}",
                hint="if that is meant, measure a new baseline: kspacesr-rt bench gate --update",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return it for strict JSON."""
        rows = []
        for row in self.rows:
            values = dataclasses.asdict(row)
            for name in ("low", "high", "psnr_between_db"):
                if values[name] is not None:
                    values[name] = json_number(values[name])
            rows.append({**values, "failed": row.failed})
        return {
            "passed": not self.failed,
            "failed": [row.name for row in self.failed],
            "undecided": [row.name for row in self.undecided],
            "machine": self.machine,
            "environment": self.environment,
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            "rows": rows,
        }

    def as_text(self) -> str:
        """Return a table for a terminal, with what it does not cover below."""
        heads = ("", "against", "ratio", "interval", "baseline", "rounds", "PSNR dB", "SSIM")
        table = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
        lines = [
            "  ".join(
                (*(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), end)
            ).rstrip()
            for line, end in zip(table, ["", *(_end(row) for row in self.rows)], strict=True)
        ]
        lines += ["", *(f"warning: {one}" for one in self.warnings)]
        undecided = [row.name for row in self.undecided]
        if undecided:
            lines.append(f"warning: speed undecided, not passed: {', '.join(undecided)}")
        passed = "failed" if self.failed else "passed"
        lines.append(f"gate {passed} in {self.seconds:.0f} s on {self.machine}")
        return "\n".join(lines)


def _reasons(row: GateRow) -> list[str]:
    reasons = list(row.problems)
    if row.speed == SLOWER and row.ratio is not None and row.before is not None:
        reasons.insert(0, f"{row.ratio:.2f} times {row.against}, {row.before:.2f} in the baseline")
    return reasons


def _cells(row: GateRow) -> tuple[str, ...]:
    interval = ""
    if row.low is not None and row.high is not None:
        interval = f"{row.low:.2f} to {row.high:.2f}"
    return (
        row.name,
        row.against,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        interval,
        "" if row.before is None else f"{row.before:.2f}",
        str(row.rounds or ""),
        "" if row.quality is None else f"{row.quality.psnr_db:.3f}",
        "" if row.quality is None else f"{row.quality.ssim:.5f}",
    )


def _end(row: GateRow) -> str:
    speed = {FINE: "ok", NOT_GATED: "speed not gated", UNDECIDED: "undecided", SLOWER: "SLOWER"}
    words = [speed.get(row.speed, ""), *(f"WORSE: {one}" for one in row.problems), row.note]
    return "; ".join(word for word in words if word)
