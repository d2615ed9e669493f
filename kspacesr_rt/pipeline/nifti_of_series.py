"""Derived series as NIfTI, beside them: ``--format nifti``.

A file is made of what stands in the output folder, so it says what the series says, whoever
computed it and whenever; once it stands there, every run over its series makes it anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from kspacesr_rt.dicom import Derivation, Series, SourceSlice
from kspacesr_rt.dicom.attributes import is_signed, numbers, sort_numbers
from kspacesr_rt.dicom.enhanced.groups import FunctionalGroups
from kspacesr_rt.dicom.enhanced.pixels import read_slices
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.pixels import read_slice, rescale, to_stored
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.volumes import SourceVolume
from kspacesr_rt.volumes.layout import Stored
from kspacesr_rt.volumes.nifti import new_nifti
from kspacesr_rt.volumes.provenance import description
from kspacesr_rt.volumes.sidecar import Beside, sidecar
from kspacesr_rt.volumes.stacking import Placed, stacked
from kspacesr_rt.volumes.triage import library_problem
from kspacesr_rt.volumes.writer import write_beside


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """One slice of the derived series."""

    source: SourceSlice
    """Its file."""
    placed: Placed
    echo: float
    """Its number."""
    stored_as: tuple[str, float, float]
    """Type, slope and intercept."""


def write_series_as_nifti(run: RunState, series: Sequence[Series]) -> None:
    """Write derived series as NIfTI, too, if that is asked for, or was and so stands there.

    What keeps a series from it goes into its record.

    Raises
    ------
    OutputError
        If a file cannot be written.
    StopRequestedError
        If a signal waits.
    """
    found = {one.sop_instance_uid: one.output for one in run.records.values() if one.output}
    for one in series:
        outputs = {
            found[item.sop_instance_uid]: item
            for item in one.slices
            if item.sop_instance_uid in found and not isinstance(item, SourceVolume)
        }
        if not outputs:
            continue  # the report says why
        folder = Path(next(iter(outputs))).parent
        name, problem = f"{folder}_desc-SRx{run.derivation.upscale}.nii.gz", ""
        if run.options.format != "nifti" and not (run.output / name).exists():
            continue
        run.check_stop()
        complete = len(outputs) == len(one.slices)
        if run.adds_to_series:
            outputs |= _earlier_outputs(run, folder, one)
        try:
            if (missing := library_problem("nifti")) is not None:
                raise SliceFailed("missing-library", missing)
            with as_slice_failure(), run.timer.busy("write"):
                if not complete:
                    raise SliceFailed("bad-geometry", "not every slice of it has a result")
                _write(run, one, outputs, name)
        except SliceFailed as exc:
            name, problem = "", str(exc)
        run.series_records[one.uid] = [
            replace(record, nifti=name, nifti_problem=problem)
            for record in run.series_records.get(one.uid, [])
        ]


def _earlier_outputs(run: RunState, folder: Path, series: Series) -> dict[str, SourceSlice]:
    """Return what stands of a series that was processed before, each source's last output."""
    if run.journal is None:
        return {}
    these = {item.sop_instance_uid for item in series.slices}
    last = {
        noted.source: noted.record
        for noted in run.journal.all_entries()
        if Path(noted.record.output).parent == folder and noted.source not in these
    }
    return {
        record.output: replace(series.slices[0], n_frames=record.n_frames)
        for record in last.values()
        if (run.output / record.output).exists()
    }


def _write(run: RunState, series: Series, outputs: Mapping[str, SourceSlice], name: str) -> None:
    frames: list[_Frame] = []
    for output, source in outputs.items():
        frames += _frames_of(replace(source, path=run.output / output))
    if len({one.echo for one in frames}) > 1:
        raise SliceFailed("bad-geometry", "it holds several echoes, which one file cannot tell")
    stack = stacked([one.placed for one in frames])
    kinds = {one.stored_as for one in frames}
    dtype, slope, intercept = kinds.pop() if len(kinds) == 1 else ("<f4", 1.0, 0.0)
    path = run.output / name
    volume = new_nifti(
        path.with_name(f".{path.name}.{secrets.token_hex(4)}.part"),
        frames[0].placed.matrix,
        stack,
        dtype,
        slope=slope,
        intercept=intercept,
    )
    order = [number for numbers_of in stack.numbers for number in numbers_of]
    slices = _slices(frames, order, as_float=dtype == "<f4", n_bytes=volume.layout.n_bytes)
    derivation = _derivation(run, series)
    beside = sidecar(Beside(), derivation, source="", source_uid=series.uid, slice_axis=2)
    durable = run.options.durability != "none"
    write_beside(volume, slices, path, description(derivation), {".json": beside}, durable=durable)


def _derivation(run: RunState, series: Series) -> Derivation:
    """Return what made the slices of a series: one file holds those of one kind."""
    records = run.series_records.get(series.uid, [])
    filled = [one.outside for one in records if one.outside_handled == "zero-filled"]
    if filled and len(filled) < len(records):
        raise SliceFailed("bad-geometry", "a part of it is zero-filled, which one file cannot tell")
    return run.computation(filled[0] if filled else ()).derivation


def _frames_of(source: SourceSlice) -> Iterator[_Frame]:
    """Yield what a derived file says of each of its slices, without pixels."""
    header = read_header(source.path).dataset
    if source.n_frames is None:
        yield _frame(source, header, sort_numbers(header))
        return
    groups = FunctionalGroups(header)
    for number in range(1, len(groups.frames) + 1):
        yield _frame(source, groups.classic_header(number), (float(number),))


def _frame(source: SourceSlice, header: Dataset, order: tuple[float, ...]) -> _Frame:
    thickness = [
        value
        for keyword in ("SpacingBetweenSlices", "SliceThickness")
        for value in numbers(header, keyword)[:1]
        if value > 0
    ]
    x, y, z = numbers(header, "ImagePositionPatient")
    between_rows, between_columns = numbers(header, "PixelSpacing")
    kind = f"<{'i' if is_signed(header) else 'u'}{int(header.BitsAllocated) // 8}"
    return _Frame(
        source=source,
        placed=Placed(
            position_mm=(x, y, z),
            orientation=numbers(header, "ImageOrientationPatient"),
            spacing_mm=(between_rows, between_columns),
            thickness_mm=thickness[0] if thickness else 1.0,
            matrix=(int(header.Rows), int(header.Columns)),
            order=order,
        ),
        echo=(numbers(header, "EchoNumbers") or (0.0,))[0],
        stored_as=(np.dtype(kind).str, *rescale(header)),
    )


def _slices(
    frames: Sequence[_Frame], order: Sequence[int], *, as_float: bool, n_bytes: int
) -> Iterator[Stored]:
    """Yield the slices in the order of the volume, the first row at the top of its second axis."""

    def stored(decoded: Any) -> Stored:
        values = decoded.values if as_float else to_stored(decoded.values, decoded.dataset)
        return values[::-1]

    if all(one.source.n_frames is None for one in frames):
        for number in order:
            yield stored(read_slice(frames[number].source))
        return
    # Frames come one after the other, in the order of their files.
    if n_bytes > current_limits().volume:
        raise too_large(
            "has frames in another order than a volume's, and more bytes than", "volume"
        )
    held: list[Stored] = []
    for source in dict.fromkeys(one.source for one in frames):
        held += [stored(decoded) for decoded in read_slices(source)]
    yield from (held[number] for number in order)
