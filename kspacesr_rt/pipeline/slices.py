"""What a worker does for one classic slice: before the backend, and after it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from kspacesr_rt.dicom import (
    DecodedSlice,
    Derivation,
    SourceSlice,
    decode_slice,
    derive,
    load_slice,
    output_path,
    read_slice,
    stands_whole,
    uninterpolated,
    write_atomically,
    writing_outputs,
)
from kspacesr_rt.dicom.clipping import Clipping, measure_clipping
from kspacesr_rt.dicom.compress import native_samples
from kspacesr_rt.dicom.failures import failing_the_file
from kspacesr_rt.dicom.source_digest import SourceDigest
from kspacesr_rt.errors import SliceFailed, SliceSkipped, system_says
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.noted import FileState
from kspacesr_rt.pipeline.previews import Shown
from kspacesr_rt.pipeline.state import RunState, SeriesState, Unit
from kspacesr_rt.report import SliceRecord
from kspacesr_rt.trust import SliceFigures, check_result

LeftOutError = SliceFailed | SliceSkipped
"""Why a slice has no output."""
MADE_AGAIN: Final = "its output was damaged, and was made again"


@dataclass(kw_only=True, slots=True)
class SlicePlan:
    """How the classic slices of one matrix of a series are processed."""

    state: SeriesState
    """Of their series."""
    matrix: Matrix
    """LR matrix: as stored, or what was acquired."""
    read: dict[Path, tuple[DecodedSlice, os.stat_result]]
    """Slices that the survey has read, and the status that their files had before."""
    derivation: Derivation
    """What their outputs tell."""
    warning: str | None
    """What their records tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A slice that waits for the backend."""

    slice: DecodedSlice
    before: os.stat_result
    """Status of its file when it was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A slice whose output stands."""

    record: SliceRecord
    before: FileState
    """What its source held when it was read."""
    output: FileState
    """What was written."""
    told: str
    """Digest of what of the source reached the output."""
    series_uid: str
    """Of the output."""
    shown: list[Shown]
    """For the contact sheet."""


def decode(run: RunState, unit: Unit, plan: SlicePlan) -> Decoded | LeftOutError:
    """Read and decode a slice, or return why that is not possible."""
    source = unit.source
    try:
        with failing_the_file():
            return _decoded(run, source, plan)
    except SliceSkipped:
        return replaced()
    except SliceFailed as exc:
        return exc


def _decoded(run: RunState, source: SourceSlice, plan: SlicePlan) -> Decoded:
    with run.clock.busy("read"):
        found = plan.read.pop(source.path, None)
        before = found[1] if found else status(source)
        loaded = found[0] if found else load_slice(source)
    with run.clock.busy("decode"):
        stored = loaded if isinstance(loaded, DecodedSlice) else decode_slice(loaded)
        _require_scanned(stored, source)
        return Decoded(slice=uninterpolated(stored, plan.matrix), before=before)


def replaced() -> SliceFailed:
    """Return the error for a file that is not what was scanned any more."""
    return SliceFailed("changed", "the file was replaced while it waited to be read")


def _require_scanned(stored: DecodedSlice, source: SourceSlice) -> None:
    """Refuse what was put under a file's name since it was scanned."""
    uid = str(stored.dataset.get("SOPInstanceUID", ""))
    if uid != source.sop_instance_uid or stored.values.shape != source.matrix:
        raise replaced()


def status(source: SourceSlice) -> os.stat_result:
    """Return the status of a source's file, so that a change can be told later.

    Raises
    ------
    SliceFailed
        ``unreadable``: it is gone, say.
    """
    try:
        return source.path.stat()
    except OSError as exc:
        raise SliceFailed("unreadable", f"cannot be read: {system_says(exc)}") from exc


def finish(
    run: RunState, unit: Unit, plan: SlicePlan, decoded: Decoded, sr: FloatArray
) -> Finished | SliceFailed:
    """Check a result and put it on disk, or return why it is none.

    Raises
    ------
    OutputError
        If the output cannot be written: that ends the run.
    """
    spec = run.backends.spec
    try:
        with failing_the_file():
            with run.clock.busy("check"):
                figures = check_result(sr, decoded.slice.values, spec)
            with run.clock.busy("encode"):
                dataset = derive(decoded.slice, sr, plan.derivation)
                told = SourceDigest.of_slice(dataset, decoded.slice).hexdigest()
            with run.clock.busy("check"):
                clipping = measure_clipping(
                    native_samples(dataset), sr, decoded.slice.values, decoded.slice.dataset
                )
            with run.clock.busy("read"):
                before = FileState.read_after(unit.source.path, decoded.before)
        path = output_path(run.output, dataset)
        with failing_the_file(), writing_outputs():
            with run.clock.busy("verify"):
                existed = path.exists()
                fresh = not stands_whole(path, dataset, trusted=not run.options.verify_existing)
            if fresh:
                write_atomically(dataset, path, syntax=run.syntax, timed=run.clock.busy)
            with run.clock.busy("verify"):
                output = FileState.read(path)
    except SliceFailed as exc:
        return exc
    previews = plan.state.previews
    wanted = previews is not None and previews.wants(unit.number)
    return Finished(
        record=SliceRecord(
            file=run.label(unit.source.path),
            outcome="written" if fresh else "present",
            sop_instance_uid=unit.source.sop_instance_uid,
            output=str(path.relative_to(run.output)),
            matrix=plan.matrix,
            **told_figures(figures, clipping, figures.beyond(spec.bounds)),
            warnings=(
                *unit.source.warnings,
                *([plan.warning] if plan.warning else []),
                *([MADE_AGAIN] if existed and fresh else []),
            ),
        ),
        before=before,
        output=output,
        told=told,
        series_uid=str(dataset.SeriesInstanceUID),
        shown=[(unit.number, decoded.slice.values, sr)] if wanted else [],
    )


def shown_again(run: RunState, unit: Unit, record: SliceRecord) -> tuple[str, list[Shown]]:
    """Return the output's series and, for the contact sheet, a slice that an earlier run has done.

    Nothing is shown of multi-frame files, and of files that cannot be read any more.
    """
    path = run.output / record.output
    if record.n_frames is not None or record.matrix is None:
        return path.parent.name, []
    try:
        with failing_the_file():
            lr = uninterpolated(read_slice(unit.source), record.matrix)
            sr = read_slice(replace(unit.source, path=path))
    except SliceFailed:
        return path.parent.name, []
    return path.parent.name, [(unit.number, lr.values, sr.values)]


def told_figures(
    figures: SliceFigures | None, clipping: Clipping, flags: tuple[str, ...]
) -> dict[str, Any]:
    """Return what a record tells of figures and flags."""
    return {
        "flags": (*flags, *clipping.flags),
        "clipped_share": clipping.share,
        "stored_residual": clipping.residual,
        **(asdict(figures) if figures else {}),
    }
