"""What was found: a row per value, the wrong node and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kspacesr_rt.diagnosis.graphs import Place
from kspacesr_rt.errors import NonFiniteError, ParityError
from kspacesr_rt.quality.metrics import json_number

AROUND = 4
"""Rows shown before and after the first divergence."""
WORST = 5
"""Worst nodes listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """By how much one array differs from another."""

    norm: float
    """Norm of the difference over the norm of the first; infinite where only one is finite."""
    largest: float
    """Largest difference over the first one's largest magnitude."""
    bad: tuple[int, int]
    """How many NaN and infinite samples either holds."""

    @property
    def worst(self) -> float:
        """What is held against the tolerance."""
        return max(self.norm, self.largest)

    @property
    def db(self) -> float:
        """The norm in dB, more is better; infinite where they are equal."""
        if self.norm == 0.0:
            return math.inf
        return -20.0 * math.log10(self.norm) if math.isfinite(self.norm) else -math.inf

    @classmethod
    def between(cls, first: Any, second: Any) -> Difference:
        """Measure how far `second` is from `first`, in float64."""
        a, b = (np.asarray(one, dtype=np.float64) for one in (first, second))
        if a.shape != b.shape:
            return cls(norm=math.inf, largest=math.inf, bad=(0, 0))
        fine = [np.isfinite(one) for one in (a, b)]
        bad = (int(a.size - fine[0].sum()), int(b.size - fine[1].sum()))
        if not np.array_equal(fine[0], fine[1]):
            return cls(norm=math.inf, largest=math.inf, bad=bad)
        a, b = a[fine[0]], b[fine[0]]
        if a.size == 0:
            return cls(norm=0.0, largest=0.0, bad=bad)
        gap, size = np.abs(b - a), np.abs(a)
        return cls(
            norm=_ratio(float(np.linalg.norm(gap)), float(np.linalg.norm(size))),
            largest=_ratio(float(gap.max()), float(size.max())),
            bad=bad,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON; None stands for infinite."""
        return {
            "relative_error": json_number(self.norm),
            "largest_error": json_number(self.largest),
            "db": json_number(self.db),
            "not_finite": list(self.bad),
        }


def _ratio(gap: float, size: float) -> float:
    if gap == 0.0:
        return 0.0
    return gap / size if size > 0.0 else math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One value, in graph order."""

    value: str
    """Its name on the first side."""
    partner: str
    """Its name on the second side."""
    paired_by: str
    """Name, layer or topology."""
    place: Place
    """Where the first side makes it."""
    shape: tuple[int, ...]
    """Its shape."""
    dtypes: tuple[str, str]
    """Its types in either graph."""
    accumulated: Difference
    """With the errors of everything before it."""
    own: Difference | None
    """Of its node alone, fed by the first side; None where the second side could not be cut."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "value": self.value,
            "partner": self.partner,
            "paired_by": self.paired_by,
            "node": self.place.node,
            "op_type": self.place.op_type,
            "layer": self.place.layer,
            "layer_kind": self.place.kind,
            "shape": list(self.shape),
            "dtypes": list(self.dtypes),
            "accumulated": self.accumulated.to_dict(),
            "own": None if self.own is None else self.own.to_dict(),
        }

    def as_text(self) -> str:
        """Return one line of the table."""
        own = "-" if self.own is None else f"{self.own.worst:.1e}"
        bad = "" if not any(self.accumulated.bad) else f"  not finite {self.accumulated.bad}"
        types = self.dtypes[0] if len(set(self.dtypes)) == 1 else "/".join(self.dtypes)
        shape = "x".join(str(length) for length in self.shape)
        return (
            f"{self.place.node[:34]:<34} {self.place.op_type:<12} {self.place.kind:<12} "
            f"{shape:<16} {types:<15} {self.accumulated.norm:>8.1e} "
            f"{self.accumulated.largest:>8.1e} {self.accumulated.db:>6.1f} {own:>8}{bad}"
        )


HEADER = (
    f"{'node':<34} {'op':<12} {'layer':<12} {'shape':<16} {'type':<15} {'norm':>8} {'max':>8} "
    f"{'dB':>6} {'own':>8}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """A comparison of two sides on one input."""

    sides: tuple[str, str]
    """``model on backend`` of either."""
    matrix: tuple[int, int]
    """LR matrix."""
    source: str
    """Where the input comes from; never a path."""
    tolerance: float
    """Largest relative error that is agreement."""
    rows: tuple[Row, ...]
    """In graph order of the first side."""
    unpaired: tuple[tuple[str, ...], tuple[str, ...]]
    """Values without a partner, of either side."""
    output: Difference
    """Of the result, with nothing else exposed: what users get."""
    passes: int
    """How often each graph was run, to keep within the memory limit."""

    def exceeds(self, difference: Difference | None) -> bool:
        """Tell whether a difference is more than the tolerance."""
        return difference is not None and not difference.worst <= self.tolerance

    @property
    def first(self) -> Row | None:
        """The first value that differs, whichever node is wrong."""
        return next((row for row in self.rows if self.exceeds(row.accumulated)), None)

    @property
    def culprit(self) -> Row | None:
        """The first node that is wrong by itself."""
        return next((row for row in self.rows if self.exceeds(row.own)), None)

    @property
    def not_finite(self) -> Row | None:
        """The first value that is not finite on both sides."""
        return next((row for row in self.rows if all(row.accumulated.bad)), None)

    @property
    def diverges(self) -> bool:
        """Whether the result, or a node by itself, differs by more than the tolerance.

        A value inside may do so alone: what is left of large numbers that cancel, such as the
        imaginary part of a real image, is as large as their rounding.
        """
        return bool(self.exceeds(self.output) or self.culprit)

    @property
    def hidden(self) -> bool:
        """Whether the result differs only while nothing is exposed."""
        exposed = self.rows[-1].accumulated if self.rows else None
        return self.exceeds(self.output) and not self.exceeds(exposed)

    def verdict(self) -> str:
        """Say in a sentence or two which node is wrong."""
        result = f"the result differs by {self.output.worst:.1e} ({self.output.db:.1f} dB)"
        if not self.diverges:
            bad = self.not_finite
            if bad is not None:
                return (
                    f"AGREE, but both are not finite from node '{bad.place.node}' "
                    f"({bad.place.op_type}, {bad.place.kind}) on"
                )
            agreed = f"AGREE: {result}, tolerance {self.tolerance:.0e}"
            if self.first is None:
                return agreed
            place = self.first.place
            return (
                f"{agreed}. No node is wrong by itself; what '{place.node}' ({place.op_type}, "
                f"{place.kind}) gives differs by more, as what is left of values that cancel does"
            )
        parts = [f"DIVERGE: {result}, tolerance {self.tolerance:.0e}."]
        culprit, first = self.culprit, self.first
        if culprit is not None and culprit.own is not None:
            parts.append(
                f"First wrong: node '{culprit.place.node}' ({culprit.place.op_type}, "
                f"{culprit.place.kind}): wrong by {culprit.own.worst:.1e} on equal inputs."
            )
        elif first is not None:
            parts.append(
                f"No node is wrong by itself: small errors add up, or the runtime changes nodes "
                f"that it sees together. Beyond the tolerance from node '{first.place.node}' "
                f"({first.place.op_type}, {first.place.kind}) on."
            )
        if self.hidden:
            parts.append("Exposing the values hides it: a fusion of the runtime is the suspect.")
        elif not self.exceeds(self.output):
            parts.append("The result itself is within the tolerance.")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "sides": list(self.sides),
            "matrix": list(self.matrix),
            "input": self.source,
            "tolerance": self.tolerance,
            "diverges": self.diverges,
            "hidden_by_exposing": self.hidden,
            "guilty": None if self.culprit is None else self.culprit.place.node,
            "first_beyond": None if self.first is None else self.first.place.node,
            "verdict": self.verdict(),
            "output": self.output.to_dict(),
            "unpaired": [list(names) for names in self.unpaired],
            "passes": self.passes,
            "rows": [row.to_dict() for row in self.rows],
        }

    def as_text(self) -> str:
        """Return the table around the divergence, the worst nodes and the verdict."""
        lines = [
            f"A  {self.sides[0]}",
            f"B  {self.sides[1]}",
            f"LR {self.matrix[0]} x {self.matrix[1]}, {self.source}; {len(self.rows)} values "
            f"compared in {self.passes} passes",
            "norm, max and dB accumulate over the graph; own is the node alone, fed with A's "
            "inputs.",
            "Exposed values keep runtimes from fusing nodes; the verdict's result is unexposed.",
            "",
            HEADER,
        ]
        anchor = self.culprit or self.first or (self.rows[-1] if self.rows else None)
        centre = self.rows.index(anchor) if anchor is not None else 0
        start = max(0, centre - AROUND)
        for row in self.rows[start : centre + AROUND + 1]:
            mark = "> " if row is anchor and self.diverges else "  "
            lines.append(mark + row.as_text())
        compared = [row for row in self.rows if row.own is not None]
        compared.sort(key=lambda row: -(row.own.worst if row.own is not None else 0.0))
        lines += ["", "worst nodes by own error"]
        lines += ["  " + row.as_text() for row in compared[:WORST]]
        uncertain = [row.value for row in self.rows if row.paired_by != "name"]
        if uncertain:
            lines.append(f"paired by layer or topology: {', '.join(uncertain)}")
        for side, names in zip("AB", self.unpaired, strict=True):
            if names:
                lines.append(f"{len(names)} values of {side} not paired: {', '.join(names[:8])}")
        return "\n".join([*lines, "", self.verdict()])


def require_agreement(findings: Findings) -> None:
    """Raise if the sides diverge, or are not finite.

    Raises
    ------
    ParityError
        If they diverge.
    NonFiniteError
        If both hold NaN or infinity at the same samples.
    """
    if findings.diverges:
        raise ParityError(findings.verdict())
    if findings.not_finite is not None:
        raise NonFiniteError(findings.verdict())
