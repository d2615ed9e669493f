"""What a run did, slice by slice, in a form that holds no patient data.

Files are named by their number in the (sorted) input and a hash of their relative path; paths
stand in the report only if the user asks for them. UIDs are kept: without them a result could not
be traced.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kspacesr_rt.files import replace_file

SCHEMA = 1
Outcome = Literal["written", "present", "skipped", "failed"]
RESULT_REASONS = frozenset({"non-finite", "data-consistency"})
"""Reasons that mean the computation went wrong, not the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceRecord:
    """What became of one file."""

    file: str
    """``sha256:`` and 12 digits of the path relative to the input, or that path if asked for."""
    outcome: Outcome
    """``present``: an earlier run had written the same result."""
    reason: str = ""
    """Reason word of a skip or failure."""
    message: str = ""
    """What was expected and found; no values of the data set."""
    sop_instance_uid: str = ""
    """Of the source."""
    output: str = ""
    """Path of the result relative to the output folder."""
    matrix: tuple[int, int] | None = None
    """LR rows and columns."""
    measured_residual: float | None = None
    """Largest deviation of a measured k-space sample, relative to the largest one."""
    warnings: tuple[str, ...] = ()
    """What is unusual about the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """A whole run."""

    version: str
    """Of kspacesr-rt."""
    backend: str
    """What computed the results: the backend that was asked for, never another."""
    model: str
    """Name of the model or baseline."""
    weights_sha256: str
    """Digest of the weights; empty for baselines."""
    upscale: int
    """SR samples per LR sample and axis."""
    slices: tuple[SliceRecord, ...]
    """In input order of series and slices, then what was left out."""
    series: int
    """Series that were processed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage: scan, read, infer, write, and the total."""
    intended_use: str = ""
    """From the model."""

    def count(self, outcome: Outcome) -> int:
        """Return how many slices had an outcome."""
        return sum(record.outcome == outcome for record in self.slices)

    @property
    def exit_code(self) -> int:
        """0, or 5 if a result was unusable, or 8 if slices failed otherwise."""
        failed = [record for record in self.slices if record.outcome == "failed"]
        if any(record.reason in RESULT_REASONS for record in failed):
            return 5
        return 8 if failed else 0

    def reasons(self) -> list[tuple[str, str, int]]:
        """Return ``(outcome, reason, count)`` of everything that was left out."""
        counts = Counter(
            (record.outcome, record.reason)
            for record in self.slices
            if record.outcome in ("skipped", "failed")
        )
        return [(outcome, reason, n) for (outcome, reason), n in sorted(counts.items())]

    def warnings(self) -> list[tuple[str, int]]:
        """Return each warning with the number of slices it was given for."""
        counts = Counter(warning for record in self.slices for warning in record.warnings)
        return sorted(counts.items())

    def as_text(self, *, verbose: bool = False) -> str:
        """Return a summary for people: counts, reasons, warnings; each file if `verbose`."""
        done = self.count("written")
        lines = [
            f"{done} slices written in {self.series} series (x{self.upscale}, {self.model} on "
            f"{self.backend}, {self.seconds.get('total', 0.0):.1f} s)"
        ]
        if present := self.count("present"):
            lines.append(f"{present} slices were already there")
        lines += [f"{n} {outcome}: {reason}" for outcome, reason, n in self.reasons()]
        lines += [f"warning for {n} slices: {warning}" for warning, n in self.warnings()]
        if verbose:
            lines += [
                f"  {record.outcome} {record.file}: {record.reason}: {record.message}"
                for record in self.slices
                if record.outcome in ("skipped", "failed")
            ]
        return "\n".join([*lines, self.intended_use] if self.intended_use else lines)

    def summary(self) -> dict[str, Any]:
        """Return the counts and the run's parameters, without the slices."""
        values = dataclasses.asdict(self)
        del values["slices"]
        return {
            "schema": SCHEMA,
            **values,
            "written": self.count("written"),
            "present": self.count("present"),
            "skipped": self.count("skipped"),
            "failed": self.count("failed"),
            "exit_code": self.exit_code,
            "reasons": [
                {"outcome": outcome, "reason": reason, "count": n}
                for outcome, reason, n in self.reasons()
            ],
        }

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        document = {**self.summary(), "slices": [dataclasses.asdict(one) for one in self.slices]}
        replace_file(path, (json.dumps(document, indent=1) + "\n").encode())


def file_label(path: Path, root: Path, *, show_path: bool) -> str:
    """Name an input file without its name (which often is the patient's)."""
    relative = path.name if path == root else str(path.relative_to(root))
    if show_path:
        return relative
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()
    return f"sha256:{digest[:12]}"
