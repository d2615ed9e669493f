"""A long run: what it keeps open and in memory from start to end; whether all outputs are whole.

`infer` runs on the null backend (`kspacesr_rt.bench.run.null_backend`) through an archive of small
slices. It is looked at after every tenth of them: memory and descriptors of its process and of
those beside it, and slices a second. What it has written is read again afterwards, file by file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

from kspacesr_rt.bench.run.archive import make_archive
from kspacesr_rt.bench.run.environment import environment
from kspacesr_rt.bench.run.null_backend import NULL, null_backend
from kspacesr_rt.bench.run.pipeline_cost import cpu_s_of
from kspacesr_rt.dicom.content_digest import digest_of_file
from kspacesr_rt.errors import RegressionError
from kspacesr_rt.pipeline import InferOptions, Session
from kspacesr_rt.pipeline.journal_entries import valid_entry
from kspacesr_rt.pipeline.options import RunProgress

SCHEMA: Final = 1
UPSCALE: Final = 2
LOOKS: Final = 10
"""How often a run is looked at, beside before its first slice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SoakOptions:
    """What is run."""

    slices: int = 20_000
    matrix: int = 64
    """LR rows and columns."""
    batch: int = 16
    """Slices a call of the backend."""
    processes: int = 0
    """Processes that read and write beside the one that computes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What was seen of a run at a moment."""

    slices: int
    """Done so far."""
    seconds: float
    """Since the run began."""
    slices_per_s: float
    """Since the look before."""
    cpu_s: float
    """Processor time of all processes so far."""
    cpu_ms: float
    """Of it, a slice since the look before; of the first look, the scan too."""
    rss_mb: float
    """Resident memory of the process that computes."""
    beside_rss_mb: tuple[float, ...]
    """Of each process beside it."""
    all_pss_mb: float
    """Of all, what several share counted once."""
    open_files: int
    """Descriptors of the process that computes."""
    beside_open_files: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """All that was seen."""

    options: SoakOptions
    looks: tuple[Look, ...]
    written: int
    """Outputs whose bytes are those that the journal notes, no two of one UID."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON, with what they depend on."""
        return {"schema": SCHEMA, "environment": environment(), **asdict(self)}

    def as_text(self) -> str:
        """Return a short table for people."""
        options = self.options
        lines = [
            f"{options.slices} slices of {options.matrix} x {options.matrix}, x{UPSCALE}, "
            f"{options.processes} processes beside; {self.written} outputs read again",
            "  slices      s  slices/s  CPU ms a slice  MB (RSS)  MB of all (PSS)  open files",
        ]
        for one in self.looks:
            rss = " + ".join(f"{mb:.0f}" for mb in (one.rss_mb, *one.beside_rss_mb))
            files = " + ".join(map(str, (one.open_files, *one.beside_open_files)))
            lines.append(
                f"{one.slices:8} {one.seconds:6.0f} {one.slices_per_s:9.0f} {one.cpu_ms:15.2f}  "
                f"{rss}  {one.all_pss_mb:.0f}  {files}"
            )
        return "\n".join(lines)


def soak(options: SoakOptions, on_step: Callable[[str], None] = lambda step: None) -> Soak:
    """Run through an archive, and read again what was written.

    Parameters
    ----------
    options
        How large it is.
    on_step
        Called with what comes next, in a few words.

    Raises
    ------
    RegressionError
        If a slice was not written, or an output is not what the journal notes.
    KspaceSRError
        As `infer` does.
    """
    with tempfile.TemporaryDirectory() as folder, null_backend():
        archive, output = Path(folder) / "in", Path(folder) / "out"
        on_step("making the archive")
        make_archive(archive, options.slices, matrix=(options.matrix, options.matrix))
        on_step("running")
        looks = _watched_run(archive, output, options)
        on_step("reading the outputs")
        written = _require_whole(output, options.slices)
    return Soak(options=options, looks=looks, written=written)


def _watched_run(archive: Path, output: Path, options: SoakOptions) -> tuple[Look, ...]:
    looks: list[Look] = []
    own = InferOptions(
        backend=NULL, upscale=UPSCALE, batch=options.batch, processes=options.processes
    )
    with Session(own) as session:
        started, started_cpu = time.perf_counter(), time.process_time()

        def look(progress: RunProgress) -> None:
            if progress.done * LOOKS >= len(looks) * options.slices:
                before = looks[-1] if looks else None
                seconds = time.perf_counter() - started
                cpu_s = time.process_time() - started_cpu + cpu_s_of(session.process_ids)
                looks.append(_look(progress.done, seconds, cpu_s, session.process_ids, before))

        report = session.run(archive, output, on_progress=look)
    if report.count("written") != options.slices:
        raise RegressionError(f"{report.count('written')} of {options.slices} slices were written")
    return tuple(looks)


def _look(
    done: int, seconds: float, cpu_s: float, beside: Iterable[int], before: Look | None
) -> Look:
    beside = tuple(beside)
    every: tuple[int | str, ...] = ("self", *beside)
    n_slices, elapsed, cpu = done, seconds, cpu_s
    if before is not None:
        n_slices, elapsed = done - before.slices, seconds - before.seconds
        cpu = cpu_s - before.cpu_s
    return Look(
        slices=done,
        seconds=seconds,
        slices_per_s=n_slices / elapsed,
        cpu_s=cpu_s,
        cpu_ms=cpu / n_slices * 1e3,
        rss_mb=_resident_mb("self"),
        beside_rss_mb=tuple(map(_resident_mb, beside)),
        all_pss_mb=sum(_resident_mb(one, "Pss:") for one in every),
        open_files=_open_files("self"),
        beside_open_files=tuple(map(_open_files, beside)),
    )


def _resident_mb(process: int | str, which: str = "Rss:") -> float:
    """Return a figure of a process's memory: proc(5)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def _open_files(process: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def _require_whole(output: Path, n_slices: int) -> int:
    """Read every output again; return how many there are."""
    lines = (output / ".kspacesr-rt" / "journal.jsonl").read_bytes().splitlines()
    entries = [one for one in map(valid_entry, lines) if one and "record" in one]
    noted = {one["record"]["output"]: one["output_sha256"] for one in entries}
    found = {str(path.relative_to(output)) for path in output.glob("*/*.dcm")}
    uids = set()
    for name in found:
        if digest_of_file(output / name, alike=noted[name]) != noted[name]:
            raise RegressionError(f"{name} is not what the journal notes")
        uids.add(dcmread(output / name, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    if not (n_slices == len(found) == len(noted) == len(uids)):
        raise RegressionError(
            f"{n_slices} slices, {len(found)} outputs, {len(noted)} noted, {len(uids)} UIDs"
        )
    return len(found)
