"""What a run did, slice by slice, in a form that holds no patient data.

Files are named by their number in the (sorted) input and a hash of their relative path; paths
stand in the report only if the user asks for them. UIDs are kept: without them a result could not
be traced.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kspacesr_rt.errors import OutputError, StaleOutputError
from kspacesr_rt.files import replace_file

SCHEMA = 1
Outcome = Literal["written", "present", "skipped", "failed"]
FLAGS_SHOWN = 20
"""Flagged slices that the text names; the report names all."""
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
    n_frames: int | None = None
    """Frames of a multi-frame file; None for a classic slice."""
    measured_residual: float | None = None
    """Largest deviation of a measured k-space sample, relative to the largest one; of a
    multi-frame file, its worst frame's."""
    added_energy_share: float | None = None
    """Energy outside the measured band, over that of the whole result; worst frame's."""
    added_energy_ratio: float | None = None
    """The same, over that of the outer half of the measured band; worst frame's."""
    intensity_drift: float | None = None
    """Change of the mean intensity, over that of the source; worst frame's."""
    tissue_drift: float | None = None
    """Change of the mean over tissue, signed, over that of the source; worst frame's."""
    clipped_share: float | None = None
    """Samples that the top of the stored range cut off (of signed pixels its bottom too), of all;
    worst frame's."""
    stored_residual: float | None = None
    """`measured_residual` of what is stored, where something was cut off; worst frame's."""
    flags: tuple[str, ...] = ()
    """Figures that are beyond the model card's bounds; ``clipped``, if samples were cut off."""
    warnings: tuple[str, ...] = ()
    """What is unusual about the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesRecord:
    """What is known of the slices of one matrix of a series, from its header and its k-space."""

    series_instance_uid: str
    """Of the source."""
    n_slices: int
    """Slices of this matrix, each frame of a multi-frame file counted."""
    matrix: tuple[int, int]
    """Stored rows and columns."""
    measured_shares: tuple[float | None, float | None]
    """Share of k-space along rows and columns that holds signal; None where it cannot be told."""
    acquired: tuple[int | None, int | None]
    """Samples acquired along rows and columns by the header; None where it does not tell."""
    interpolated: bool
    """Whether the scanner interpolated, by the header or by the measured shares."""
    handled: Literal["as-stored", "cropped", "skipped"] = "as-stored"
    """What was done about that."""
    cropped_to: tuple[int, int] | None = None
    """LR matrix after k-space was cropped; even along each cropped axis."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Elements by kind (private, overlay, ...) that the first slice's output leaves out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleRecord:
    """An output of what the input no longer says; not to be sent on."""

    output: str
    """Its path relative to the output folder."""
    reason: str
    """``source-changed``, ``source-gone``, or ``unclaimed``: no source of the input gives it."""
    sop_instance_uid: str = ""
    """Of its source, as far as that is known."""
    handled: Literal["kept", "removed", "refused"] = "kept"
    """What was done about it; ``refused``: nothing, and the exit code says so."""

    def handled_as(self, handled: Literal["removed", "refused"]) -> StaleRecord:
        """Return the record of what was done."""
        return dataclasses.replace(self, handled=handled)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTiming:
    """How busy one stage of a run was."""

    name: str
    """A word of `kspacesr_rt.pipeline.clock.STAGES`."""
    busy_s: float
    """Seconds, added up over its workers; stages overlap, so these add up to more than the run."""
    workers: int
    """Threads that could do it at the same time, together with the other stages of its group."""
    utilisation: float
    """`busy_s` over the time that these threads had: wall time times `workers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """A whole run."""

    version: str
    """Of kspacesr-rt."""
    backend: str
    """What computed the results: what was asked for or, for ``auto``, chosen; never another."""
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
    backend_choice: dict[str, Any] = field(default_factory=dict)
    """What was asked for, why this backend ran, and why those before it did not."""
    backend_text: str = ""
    """The same in one line."""
    backend_notes: tuple[str, ...] = ()
    """What the backend told about itself, each once."""
    series_records: tuple[SeriesRecord, ...] = ()
    """One for each matrix of each series."""
    stale: tuple[StaleRecord, ...] = ()
    """Outputs in the folder that the input no longer says."""
    bounds: dict[str, float] = field(default_factory=dict)
    """Limits that the model's card states on a slice's figures; empty: nothing can be flagged."""
    interrupted: bool = False
    """Whether something ended the run before its last slice: a signal, a full disk."""
    ended_with: int | None = None
    """The exit code of what did."""
    not_reached: int = 0
    """Slices that an interrupted run did not come to."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage was busy, and ``total``: wall time."""
    stages: tuple[StageTiming, ...] = ()
    """Every stage, in the order a slice meets them."""
    bottleneck: str = ""
    """The stage that held the others up: the busiest one of the busiest group of stages."""
    intended_use: str = ""
    """From the model."""

    def count(self, outcome: Outcome) -> int:
        """Return how many files had an outcome."""
        return sum(record.outcome == outcome for record in self.slices)

    def count_slices(self, outcome: Outcome) -> int:
        """Return how many slices had an outcome, each frame of a multi-frame file counted."""
        return sum(record.n_frames or 1 for record in self.slices if record.outcome == outcome)

    @property
    def exit_code(self) -> int:
        """0, or 5 if a result was unusable, 8 if slices failed otherwise, 10 if outputs are stale.

        Or `ended_with`. Stale outputs that were to be kept, or are removed, count for nothing.
        """
        if self.ended_with is not None:
            return self.ended_with
        failed = [record for record in self.slices if record.outcome == "failed"]
        if any(record.reason in RESULT_REASONS for record in failed):
            return 5
        if failed:
            return 8
        refused = any(one.handled == "refused" for one in self.stale)
        return StaleOutputError.exit_code if refused else 0

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
        counts: Counter[str] = Counter()
        for record in self.slices:
            for warning in record.warnings:
                counts[warning] += record.n_frames or 1
        return sorted(counts.items())

    @property
    def flagged(self) -> list[SliceRecord]:
        """The files with a figure beyond the model's bounds, or cut off by their stored range."""
        return [record for record in self.slices if record.flags]

    def _trust_lines(self) -> list[str]:
        """Say which results are beyond the model's bounds, or that it states none."""
        clipped = sum(record.n_frames or 1 for record in self.slices if record.clipped_share)
        lines = []
        if clipped:
            lines.append(f"{clipped} slices flagged as clipped: brighter than pixels can store")
        if not self.bounds:
            if self.weights_sha256:
                other = "other " if clipped else ""
                lines.append(f"the model states no bounds: no {other}slice is flagged")
            return lines
        flagged = [one for one in self.flagged if set(one.flags) & self.bounds.keys()]
        if flagged:
            lines.append(f"{len(flagged)} slices flagged as beyond the model's bounds")
        for record in flagged[:FLAGS_SHOWN]:
            told = ", ".join(
                f"{name} {getattr(record, name):.3g} > {self.bounds[name]:.3g}"
                for name in record.flags
                if name in self.bounds
            )
            lines.append(f"  {record.file}: {told}")
        if len(flagged) > FLAGS_SHOWN:
            lines.append(f"  and {len(flagged) - FLAGS_SHOWN} more: see the report")
        return lines

    def as_text(self, *, verbose: bool = False) -> str:
        """Return a summary for people: counts, reasons, warnings; each file if `verbose`."""
        done = self.count_slices("written")
        lines = [
            f"{done} slices written in {self.series} series (x{self.upscale}, {self.model} on "
            f"{self.backend}, {self.seconds.get('total', 0.0):.1f} s)"
        ]
        if self.backend_choice.get("asked", self.backend) != self.backend:
            lines.append(self.backend_text)
        if present := self.count_slices("present"):
            lines.append(f"{present} slices were already there")
        lines += [f"{n} {outcome}: {reason}" for outcome, reason, n in self.reasons()]
        lines += [f"warning for {n} slices: {warning}" for warning, n in self.warnings()]
        stale = Counter((one.handled, one.reason) for one in self.stale)
        lines += [
            f"{n} stale outputs, {handled}: {reason}"
            for (handled, reason), n in sorted(stale.items())
        ]
        lines += self._trust_lines()
        if self.bottleneck and done:
            busy = {one.name: one.utilisation for one in self.stages}[self.bottleneck]
            lines.append(f"bottleneck: {self.bottleneck}, busy {busy:.0%} of the time it had")
        if self.interrupted:
            lines.append(f"interrupted: {self.not_reached} slices were not reached; run it again")
        if verbose:
            lines += [
                f"  {record.outcome} {record.file}: {record.reason}: {record.message}"
                for record in self.slices
                if record.outcome in ("skipped", "failed")
            ]
        return "\n".join([*lines, self.intended_use] if self.intended_use else lines)

    def summary(self) -> dict[str, Any]:
        """Return the counts and the run's parameters, without the slices."""
        values = dataclasses.asdict(dataclasses.replace(self, slices=()))
        del values["slices"], values["ended_with"]  # that is the exit code
        return {
            "schema": SCHEMA,
            **values,
            "written": self.count("written"),
            "written_slices": self.count_slices("written"),
            "present": self.count("present"),
            "skipped": self.count("skipped"),
            "failed": self.count("failed"),
            "flagged": len(self.flagged),
            "exit_code": self.exit_code,
            "reasons": [
                {"outcome": outcome, "reason": reason, "count": n}
                for outcome, reason, n in self.reasons()
            ],
        }

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        # One slice after the other: as one document, ten thousand took 100 MB on their way.
        head = json.dumps(self.summary(), indent=1).removesuffix("\n}")
        lines = [json.dumps(dataclasses.asdict(one)).encode() for one in self.slices]
        replace_file(
            path,
            b'%s,\n "slices": [\n  %s\n ]\n}\n' % (head.encode(), b",\n  ".join(lines)),
        )


def file_label(path: Path, root: Path, *, show_path: bool) -> str:
    """Name an input file without its name (which often is the patient's)."""
    relative = path.name if path == root else str(path.relative_to(root))
    if show_path:
        return relative
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()
    return f"sha256:{digest[:12]}"


def require_replaceable(path: Path) -> None:
    """Refuse to write a report over anything but a report.

    Raises
    ------
    OutputError
        If `path` exists and is no report of this tool.
    """
    if not (path.exists() or path.is_symlink()):
        return
    try:
        # No FIFO is opened: that would wait for ever.
        stored = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or not {"schema", "slices"} <= stored.keys():
        raise OutputError(
            "a file that is no report stands where the report would go",
            hint="remove it, or name another file with --report",
        )


def require_writable(path: Path) -> None:
    """Make sure, before the work, that a report can be written afterwards; leave nothing.

    Raises
    ------
    OutputError
        If it cannot.
    """
    folder = next((place for place in path.parents if place.exists()), path.parent)
    trial = folder / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # As long a name as the report's own partial file has, so that this fails where that would.
        with trial.open("xb"):
            pass
        trial.unlink()
    except OSError as exc:
        raise OutputError(
            f"the report cannot be written where --report says: {exc.strerror or exc}",
            hint="name a file in a folder that may be written",
        ) from exc
