"""What a run did, slice by slice, in a form that holds no patient data.

Files are named by their number in the (sorted) input and a hash of their relative path; paths
stand in the report only if the user asks for them. UIDs are kept: without them a result could not
be traced.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from kspacesr_rt.dicom.clipping import CLIPPED
from kspacesr_rt.errors import OutputError, StaleOutputError, failing_the_output
from kspacesr_rt.model.contracts import NOT_DECLARED
from kspacesr_rt.pipeline.batch_size import AUTO, batch_text
from kspacesr_rt.system.file_labels import is_digest
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.number_ranges import ranges_text
from kspacesr_rt.system.plurals import counted

SCHEMA = 1
Outcome = Literal["written", "present", "skipped", "failed"]
SERIES_SHOWN = 20
"""Series of a warning that the text names; the report names all."""
CHOOSING_SHOWN = 2.0
"""Seconds that settling what computes has to take to be told."""
LEFT_OUT = frozenset({"skipped", "failed"})
"""Outcomes of files that have no result."""
FAILURES_SHOWN = 20
"""Failed files that the text names without ``-v``; the report names all."""
FLAGS_SHOWN = 20
"""Files with flagged slices that the text names; the report names all."""
LEFT_TO_THE_SYSTEM = (
    "durability none: a power cut may still take what was written; a later run over the same "
    "folder compares it, and makes it durable with --durability batch"
)
"""Said last where nothing was brought to the disk."""
RESULT_REASONS = frozenset({"non-finite", "data-consistency", "output-range", "homogeneity"})
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
    flagged_frames: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of a multi-frame file, the frames that have each of its flags: numbers from 1, in the file's
    own order. Empty, too, where an earlier version has noted flags without them."""
    warnings: tuple[str, ...] = ()
    """What is unusual about the input."""

    def as_line(self) -> str:
        """Name a file that was left out, and say what is wrong with it, for people."""
        parts = (part for part in (self.reason, self.message) if part)
        return f"  {self.outcome} {self.file}: {': '.join(parts)}"

    def frames_with(self, flags: Iterable[str]) -> list[int]:
        """Return the frames that have any of some flags; none of a classic slice."""
        return sorted({one for flag in flags for one in self.flagged_frames.get(flag, ())})

    def count_flagged(self, flags: Iterable[str]) -> int:
        """Return how many slices have any of some flags; 1 where it is not known which frames."""
        shared = set(self.flags).intersection(flags)
        return max(1, len(self.frames_with(shared))) if shared else 0

    def frames_text(self, flags: Iterable[str]) -> str:
        """Name the frames that have any of some flags, for people; empty of a classic slice."""
        if self.n_frames is None:
            return ""
        frames = self.frames_with(flags)
        if not frames:
            return f"at least 1 of {counted(self.n_frames, 'frame')}"
        return f"{'frame' if len(frames) == 1 else 'frames'} {ranges_text(frames)}"


_SLICE_FIELDS: Final = tuple(field.name for field in dataclasses.fields(SliceRecord))


def fields_of_slice(record: SliceRecord) -> dict[str, Any]:
    """Return the fields of a record, which are plain values: `dataclasses.asdict` copies each."""
    return {name: getattr(record, name) for name in _SLICE_FIELDS}


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
    """Share of k-space along rows and columns that holds signal; None where that cannot be seen."""
    acquired: tuple[int | None, int | None]
    """Samples acquired along rows and columns by the header; None where it does not say."""
    interpolated: bool
    """Whether the scanner interpolated, by the header or by the measured shares."""
    handled: Literal["as-stored", "cropped", "skipped"] = "as-stored"
    """What was done about that."""
    cropped_to: tuple[int, int] | None = None
    """LR matrix after k-space was cropped; even along each cropped axis."""
    snr: float | None = None
    """Tissue over noise, estimated in air (`kspacesr_rt.quality.noise.series_snr`); None where no
    air shows noise."""
    outside: tuple[str, ...] = ()
    """Reason words of the model's limits that these slices are outside of."""
    outside_handled: Literal["", "warned", "skipped", "zero-filled"] = ""
    """What was done about that; empty if there was nothing to do."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Elements by kind (private, overlay, ...) that the first slice's output leaves out."""
    nifti: str = ""
    """Under ``--format nifti``, path of the derived series as NIfTI relative to the output folder;
    empty if there is none."""
    nifti_problem: str = ""
    """Why there is none, though it was asked for."""
    trust_map: str = ""
    """Path of the trust map of these slices relative to the output folder; empty if there is
    none."""
    trust_map_outcome: Literal["", "written", "present"] = ""
    """``present``: it stood already, and says what this run would write."""
    trust_map_problem: str = ""
    """Why there is none, though it was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesWarning:
    """What is unusual about some slices of one series."""

    number: int
    """Of the series, from 1, in the order of `RunReport.series_records`."""
    series_instance_uid: str
    """Of the source."""
    file: str
    """The first of its files that it was said of, named as in `SliceRecord`."""
    warning: str
    """In words."""
    n_slices: int
    """Slices it was said of, each frame of a multi-frame file counted."""

    def as_line(self) -> str:
        """Return it as a line that lets a user find the series."""
        slices = counted(self.n_slices, "slice")
        return f"  series {self.number} ({slices}, from {self.file}): {self.warning}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleRecord:
    """An output of what the input no longer says; not to be sent on."""

    output: str
    """Its path relative to the output folder."""
    reason: str
    """``source-changed``; ``source-gone``: from a series that is still there; or ``unclaimed``:
    no record names its source."""
    sop_instance_uid: str = ""
    """Of its source, as far as that is known."""
    file: str = ""
    """That source's file, named as in `SliceRecord`, as far as that is known."""
    handled: Literal["kept", "removed", "refused"] = "kept"
    """What was done about it; ``refused``: nothing, and the exit code says so."""

    def handled_as(self, handled: Literal["removed", "refused"]) -> StaleRecord:
        """Return the record of what was done."""
        return dataclasses.replace(self, handled=handled)

    def as_line(self) -> str:
        """Name it for people."""
        source = f" ({self.file})" if self.file else ""
        return f"  stale, {self.handled} {self.output}{source}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTiming:
    """How busy one stage of a run was."""

    name: str
    """A word of `kspacesr_rt.pipeline.stage_timer.STAGES`."""
    busy_s: float
    """Seconds, added up over its workers; stages overlap, so these add up to more than the run."""
    cpu_s: float
    """Processor time of the threads that were busy in it, in seconds; without that of threads that
    a library starts."""
    workers: int
    """Threads that could do it at the same time, together with the other stages of its group."""
    utilisation: float
    """`busy_s` over the time that these threads had: wall time times `workers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """A whole run: what became of every file, what computed, how long it took.

    Examples
    --------
    >>> from pathlib import Path
    >>> import kspacesr_rt as ks
    >>> from kspacesr_rt.sample import sample_folder
    >>> options = ks.InferOptions(backend="zero-fill", upscale=2)
    >>> report = ks.infer(sample_folder(), Path("out"), options)
    >>> report.exit_code, report.count("written"), report.count("failed")
    (0, 20, 0)
    """

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
    precision: str = "fp32"
    """What the model's CNN computed in."""
    backend_choice: dict[str, Any] = field(default_factory=dict)
    """What was asked for, why this backend ran, and why those before it did not."""
    batch_choice: dict[str, Any] = field(default_factory=dict)
    """How many slices were given to the backend at once: what was asked for, what was taken, why,
    and what was measured; empty if that was never settled, or by each process of a cluster."""
    backend_text: str = ""
    """The same in words; a line for the choice, then one for each backend passed over."""
    series_warnings: tuple[SeriesWarning, ...] = ()
    """What is unusual, by series."""
    backend_notes: tuple[str, ...] = ()
    """Notes of the backend about what it does, each once."""
    series_records: tuple[SeriesRecord, ...] = ()
    """One for each matrix of each series."""
    stale: tuple[StaleRecord, ...] = ()
    """Outputs in the folder that the input no longer says."""
    limits: dict[str, Any] = field(default_factory=dict)
    """Where the model's file says that it helps; empty: no series can be outside."""
    bounds: dict[str, float] = field(default_factory=dict)
    """Limits that the model's card states on a slice's figures; empty: nothing can be flagged."""
    interrupted: bool = False
    """Whether something ended the run before its last slice: a signal, a full disk."""
    ended_with: int | None = None
    """The exit code of what did."""
    not_reached: int = 0
    """Slices that an interrupted run did not come to."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage was busy, and ``total``: wall time; ``choose``, if it is there: what
    it took of that to load the model and to settle what computes."""
    stages: tuple[StageTiming, ...] = ()
    """Every stage, in the order a slice meets them."""
    bottleneck: str = ""
    """The stage that held the others up: the busiest one of the busiest group of stages."""
    headers: dict[str, int] = field(default_factory=dict)
    """Classic slices by how their headers were read, and encoded: ``read-repeated``,
    ``encoded-first``, ...; see `kspacesr_rt.dicom.header_counts`."""
    intended_use: str = ""
    """From the model."""
    contracts: dict[str, str] = field(default_factory=dict)
    """Of a network that is not one of ours: what is declared of it, and checked on every slice, and
    what is not declared; else empty."""
    options: dict[str, Any] = field(default_factory=dict)
    """How the run was done: every field of `InferOptions`; of a model's path only its last part."""
    option_sources: dict[str, str] = field(default_factory=dict)
    """Where options came from that were not left at their defaults, by their names there: the
    command line, a variable of the environment, a line of a file."""

    def count(self, outcome: Outcome) -> int:
        """Return how many files had an outcome."""
        return sum(record.outcome == outcome for record in self.slices)

    def count_slices(self, outcome: Outcome) -> int:
        """Return how many slices had an outcome, each frame of a multi-frame file counted."""
        return sum(record.n_frames or 1 for record in self.slices if record.outcome == outcome)

    @property
    def exit_code(self) -> int:
        """0, or 5 if a result was unusable, 8 if slices failed otherwise, 10 if outputs are stale.

        8, too, if a series could not be written as NIfTI, or has no trust map, though that was
        asked for; slices that were zero-filled instead, as asked for, have none.

        Or `ended_with`. Stale outputs that were to be kept, or are removed, count for nothing.
        """
        if self.ended_with is not None:
            return self.ended_with
        failed = [record for record in self.slices if record.outcome == "failed"]
        if any(record.reason in RESULT_REASONS for record in failed):
            return 5
        if failed or any(
            one.nifti_problem or (one.trust_map_problem and one.outside_handled != "zero-filled")
            for one in self.series_records
        ):
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

    def warning_lines(self) -> list[str]:
        """Return each warning with the numbers of its series, and the file of a single one."""
        lines = []
        for warning, n in self.warnings():
            own = [one for one in self.series_warnings if one.warning == warning]
            where = f" of series {series_numbers([one.number for one in own])}" if own else ""
            first = f" (from {own[0].file})" if len(own) == 1 else ""
            lines.append(f"warning for {counted(n, 'slice')}{where}{first}: {warning}")
        return lines

    @property
    def flagged(self) -> list[SliceRecord]:
        """The files with a figure beyond the model's bounds, or cut off by their stored range."""
        return [record for record in self.slices if record.flags]

    @property
    def flagged_slices(self) -> int:
        """How many slices have a flag, each frame of a multi-frame file by itself."""
        return sum(record.count_flagged(record.flags) for record in self.slices)

    def _flagged_text(self, flags: Collection[str]) -> str:
        """Return how many slices have any of some flags, in words; empty if none has."""
        own = [one for one in self.slices if not set(one.flags).isdisjoint(flags)]
        unknown = any((one.n_frames or 1) > 1 and not one.frames_with(flags) for one in own)
        n = sum(one.count_flagged(flags) for one in own)
        return f"{'at least ' if unknown else ''}{counted(n, 'slice')}" if n else ""

    def _check_lines(self) -> list[str]:
        """Say which results are beyond the model's bounds, or that it states none."""
        clipped = self._flagged_text((CLIPPED,))
        lines = []
        if undeclared := [name for name, text in self.contracts.items() if text == NOT_DECLARED]:
            lines.append(f"not declared of this network, so not checked: {', '.join(undeclared)}")
        if clipped:
            lines.append(f"{clipped} flagged as clipped: brighter than pixels can store")
        if not self.bounds:
            if self.weights_sha256:
                other = "other " if clipped else ""
                lines.append(f"the model states no bounds: no {other}slice is flagged")
            return lines
        flagged = [one for one in self.flagged if set(one.flags) & self.bounds.keys()]
        if flagged:
            slices = self._flagged_text(self.bounds)
            lines.append(f"{slices} flagged as beyond the model's bounds")
        for record in flagged[:FLAGS_SHOWN]:
            figures = ", ".join(
                f"{name} {getattr(record, name):.3g} > {self.bounds[name]:.3g}"
                for name in record.flags
                if name in self.bounds
            )
            frames = record.frames_text(self.bounds)
            lines.append(f"  {record.file}: {f'{frames}: ' if frames else ''}{figures}")
        if len(flagged) > FLAGS_SHOWN:
            lines.append(f"  and {len(flagged) - FLAGS_SHOWN} more: see the report")
        return lines

    def _nifti_lines(self) -> list[str]:
        """Say which derived series are written as NIfTI, too, and which could not be."""
        problems: dict[str, list[int]] = {}
        uids = list(dict.fromkeys(one.series_instance_uid for one in self.series_records))
        for one in self.series_records:
            if one.nifti_problem:
                number = uids.index(one.series_instance_uid) + 1
                problems.setdefault(one.nifti_problem, []).append(number)
        written = len({one.nifti for one in self.series_records if one.nifti})
        lines = [f"{written} series written as NIfTI, too"] if written else []
        return lines + [
            f"no NIfTI of series {series_numbers(sorted(set(numbers)))}: {problem}"
            for problem, numbers in sorted(problems.items())
        ]

    @property
    def trust_maps(self) -> int:
        """How many trust maps stand for the series of this run."""
        return len({one.trust_map for one in self.series_records if one.trust_map})

    def _trust_map_lines(self) -> list[str]:
        """Say how many trust maps there are, and which series have none."""
        problems: dict[str, list[int]] = {}
        uids = list(dict.fromkeys(one.series_instance_uid for one in self.series_records))
        for one in self.series_records:
            if one.trust_map_problem:
                number = uids.index(one.series_instance_uid) + 1
                problems.setdefault(one.trust_map_problem, []).append(number)
        fresh = {one.trust_map for one in self.series_records if one.trust_map_outcome == "written"}
        lines = [f"{counted(len(fresh), 'trust map')} written"] if fresh else []
        if present := self.trust_maps - len(fresh):
            lines.append(f"{counted(present, 'trust map')} already there")
        return lines + [
            f"no trust map of series {series_numbers(sorted(set(numbers)))}: {problem}"
            for problem, numbers in sorted(problems.items())
        ]

    @property
    def _wrote_beside(self) -> bool:
        """Whether it wrote files beside the slices: NIfTI files are written each time."""
        return any(one.nifti or one.trust_map_outcome == "written" for one in self.series_records)

    def _failure_lines(self, *, verbose: bool) -> list[str]:
        """Name the files that failed, each with what is wrong with it; all of them if `verbose`."""
        failed = [record for record in self.slices if record.outcome == "failed"]
        if verbose:
            return [one.as_line() for one in failed]
        lines = [one.as_line() for one in failed[:FAILURES_SHOWN]]
        if len(failed) > FAILURES_SHOWN:
            lines.append(f"  and {len(failed) - FAILURES_SHOWN} more: -v names all")
        if any(is_digest(one.file) for one in failed):
            lines.append("  files are named by a digest; --show-paths names them by their paths")
        return lines

    def as_text(self, *, verbose: bool = False) -> str:
        """Return a summary for people: counts, reasons, warnings; each file if `verbose`."""
        done, present = self.count_slices("written"), self.count_slices("present")
        computed = "" if self.precision == "fp32" else f" in {self.precision}"
        how = (
            f"(x{self.upscale}, {self.model}{computed} on {self.backend}, "
            f"{self.seconds.get('total', 0.0):.1f} s)"
        )
        if present and not done:
            new = "no new slice" if self._wrote_beside else "nothing new"
            slices = counted(present, "slice")
            lines = [f"{new}: {slices} in {self.series} series were already there {how}"]
        else:
            lines = [f"{counted(done, 'slice')} written in {self.series} series {how}"]
        if self.backend_choice.get("tier"):
            short = f"{self.backend_text.splitlines()[0]} (-v says more)"
            lines.append(self.backend_text if verbose else short)
        elif self.backend_choice.get("asked", self.backend) != self.backend:
            from kspacesr_rt.runtime.selection import BEGUN  # onnx, which few readers need

            why = f": {BEGUN}" if BEGUN in self.backend_choice.get("reason", "") else ""
            short = f"backend {self.backend}, chosen by auto{why} (-v says why)"
            lines.append(self.backend_text if verbose else short)
        if self.batch_choice.get("asked") == AUTO:
            lines.append(batch_text(self.batch_choice, verbose=verbose))
        if present and done:
            lines.append(f"{counted(present, 'slice')} already there")
        left_out: dict[str, list[str]] = {word: [] for word in ("failed", "skipped")}
        for outcome, reason, n in self.reasons():
            left_out[outcome].append(f"{n} {outcome}: {reason}")
        named = self._failure_lines(verbose=verbose)
        lines += [*left_out["failed"], *named, *left_out["skipped"]]
        lines += self.warning_lines()
        stale = Counter((one.handled, one.reason) for one in self.stale)
        lines += [
            f"{counted(n, 'stale output')}, {handled}: {reason}"
            for (handled, reason), n in sorted(stale.items())
        ]
        lines += self._nifti_lines()
        lines += self._trust_map_lines()
        lines += self._check_lines()
        if (choosing := self.seconds.get("choose", 0.0)) >= CHOOSING_SHOWN:
            lines.append(f"settling what computes took {choosing:.1f} s of that")
        if self.bottleneck and done:
            stage = next(one for one in self.stages if one.name == self.bottleneck)
            threads = (
                "its thread was" if stage.workers == 1 else f"its {stage.workers} threads were"
            )
            lines.append(
                f"bottleneck: {stage.name}; {threads} busy {stage.utilisation:.0%} of the run"
            )
        if self.interrupted:
            lines.append(f"interrupted: {progress_text(self.slices, self.not_reached)}")
        if verbose:
            # One of a single series was named above.
            counts = Counter(one.warning for one in self.series_warnings)
            lines += [one.as_line() for one in self.slices if one.outcome == "skipped"]
            lines += [one.as_line() for one in self.series_warnings if counts[one.warning] > 1]
            lines += [one.as_line() for one in self.stale]
        if self.options.get("durability") == "none":
            lines.append(LEFT_TO_THE_SYSTEM)
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
            "flagged_slices": self.flagged_slices,
            "trust_maps": self.trust_maps,
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
        lines = [json.dumps(fields_of_slice(one)).encode() for one in self.slices]
        replace_file(
            path,
            b'%s,\n "slices": [\n  %s\n ]\n}\n' % (head.encode(), b",\n  ".join(lines)),
        )


def series_numbers(numbers: Sequence[int]) -> str:
    """Return the first `SERIES_SHOWN` numbers of series as text, and how many more there are."""
    listed = ", ".join(map(str, numbers[:SERIES_SHOWN]))
    more = len(numbers) - SERIES_SHOWN
    return f"{listed} and {more} more" if more > 0 else listed


def progress_text(records: Iterable[SliceRecord], left: int) -> str:
    """Say how far a run came that `left` slices are left of, and how it is gone on with."""
    done = sum(one.n_frames or 1 for one in records if one.outcome not in LEFT_OUT)
    return f"{counted(done, 'slice')} done, {left} left; the same command goes on with them"


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
    what = "the report cannot be written where --report says"
    with failing_the_output(what, hint="name a file in a folder that may be written"):
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # As long a name as the report's own partial file has, so that this fails where that would.
        with trial.open("xb"):
            pass
        trial.unlink()
