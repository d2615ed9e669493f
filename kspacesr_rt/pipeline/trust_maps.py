"""Trust maps beside derived series: ``--trust-map``.

A NIfTI file or an array gets a file like its result, of 32-bit floats; a series a Parametric Map.
A map follows from two files of every slice, its source and its output, and from the coefficients of
the model's file. So it is made once a series is complete, says the same whoever computed the slices
and whenever, and can be made of a folder that was finished without. A few slices at a time are in
memory; the frames go straight into the file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from kspacesr_rt.dicom import (
    Derivation,
    EnhancedWriter,
    Series,
    SourceSlice,
    read_slice,
    undo_interpolation,
)
from kspacesr_rt.dicom.attributes import Attributes, numbers
from kspacesr_rt.dicom.enhanced.groups import FunctionalGroups
from kspacesr_rt.dicom.enhanced.pixels import read_slices
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.output_names import trust_map_files, trust_map_folder
from kspacesr_rt.dicom.output_places import OutputPlace
from kspacesr_rt.dicom.parametric_map import Instance, MapFrame, map_series_uid, new_trust_map
from kspacesr_rt.dicom.raw_header import raw_header
from kspacesr_rt.dicom.store import writing_outputs
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import InputError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.pipeline.journal_entries import (
    FileState,
    JournalEntry,
    MapEntry,
    digest_of_sources,
)
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.quality.trust_interval import half_width
from kspacesr_rt.system.durability import folders_up_to, sync_folder
from kspacesr_rt.volumes import SourceVolume, read_volume, volume_slices
from kspacesr_rt.volumes.layout import Stored
from kspacesr_rt.volumes.output_names import trust_map_name
from kspacesr_rt.volumes.provenance import trust_map_description
from kspacesr_rt.volumes.sidecar import Beside, trust_map_sidecar
from kspacesr_rt.volumes.writer import write_beside

AHEAD: Final = 2
"""Slices that are read and computed ahead of the file, for each thread."""
WINDOW_PERCENTILE: Final = 99.5
"""The window goes from 0 to this percentile of the widest frame."""
WINDOW_STEP: Final = 4
"""Every fourth sample along both axes is enough for that."""
INCOMPLETE: Final = "not every slice of it has a result"
ZERO_FILLED: Final = "it was zero-filled instead, and no interval is calibrated for that"
LATE: Final = "slices came after it was made; infer --trust-map over the same folders makes it anew"
_STAND_INS: Final = ("-8888888888888.5", "-7777777777777.5")
"""For window centre and width, which follow from the pixels."""

Pair = tuple[FloatArray, FloatArray]
"""LR and SR of a slice, real-world values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slices:
    """The slices of one matrix of a series, complete."""

    series: Series
    matrix: Matrix
    outputs: Mapping[str, SourceSlice]
    """Paths relative to the output folder, to sources; in the order of the series."""
    computed_on: Mapping[str, Matrix]
    """LR matrix of each output: as stored, or what was acquired."""
    number: int
    """Of its map in the series of maps, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settled:
    """What became of a map; the fields of a series' record."""

    trust_map: str = ""
    trust_map_outcome: Literal["", "written", "present"] = ""
    trust_map_problem: str = ""


def require_intervals(options: InferOptions, spec: ModelSpec) -> None:
    """Refuse a run that is to write maps with what has no calibrated intervals.

    Raises
    ------
    InputError
        If the model's file holds no trust calibration, or a baseline computes.
    """
    if not options.trust_map:
        return
    if not spec.provenance.weights_sha256:
        raise InputError(
            f"no trust map can be written: '{spec.name}' is no model, and no interval is "
            "calibrated for it",
            hint="name a model and a backend that runs it, such as --model x2-fast --backend auto",
        )
    TrustCalibration.of(spec)


def write_trust_maps(run: RunState, series: Sequence[Series], *, workers: int) -> None:
    """Write the map of each series that is to have one, or had one before.

    What keeps a series from it goes into its record.

    Parameters
    ----------
    run
        Whose outputs stand.
    series
        That were processed.
    workers
        Threads that read and compute.

    Raises
    ------
    OutputError
        If a file cannot be written.
    StopRequestedError
        If a signal waits.
    """
    spec = run.backends.spec
    if not spec.trust:
        return
    calibration = TrustCalibration.of(spec)
    for one in series:
        noted = run.journal.trust_maps(one.uid) if run.journal is not None else []
        if not (run.options.trust_map or noted):
            continue
        settled = {
            matrix: _settled(run, one, matrix, number, calibration, workers)
            for number, matrix in enumerate(_matrices(one), start=1)
        }
        run.series_records[one.uid] = [
            replace(
                record,
                trust_map=settled[record.matrix].trust_map,
                trust_map_outcome=settled[record.matrix].trust_map_outcome,
                trust_map_problem=settled[record.matrix].trust_map_problem,
            )
            if record.matrix in settled
            else record
            for record in run.series_records.get(one.uid, [])
        ]


def _matrices(series: Series) -> list[Matrix]:
    return list(dict.fromkeys(item.matrix for item in series.slices))


def _settled(
    run: RunState,
    series: Series,
    matrix: Matrix,
    number: int,
    calibration: TrustCalibration,
    workers: int,
) -> _Settled:
    """Have the map of one matrix of a series, unless there is a reason against it."""
    if run.adds_to_series:
        return _Settled(trust_map_problem=LATE)
    records = {one.sop_instance_uid: one for one in run.records.values() if one.output}
    sources = [item for item in series.slices if item.matrix == matrix]
    done = [item for item in sources if item.sop_instance_uid in records]
    if not done:
        return _Settled()  # the report says why
    if len(done) < len(sources):
        return _Settled(trust_map_problem=INCOMPLETE)
    own = [one for one in run.series_records.get(series.uid, []) if one.matrix == matrix]
    if any(one.outside_handled == "zero-filled" for one in own):
        return _Settled(trust_map_problem=ZERO_FILLED)
    outputs = {records[item.sop_instance_uid].output: item for item in sources}
    slices = _Slices(
        series=series,
        matrix=matrix,
        outputs=outputs,
        computed_on={
            name: records[item.sop_instance_uid].matrix or matrix for name, item in outputs.items()
        },
        number=number,
    )
    try:
        return _of_complete(run, slices, calibration, workers)
    except SliceFailed as exc:
        return _Settled(trust_map_problem=str(exc))


def _of_complete(
    run: RunState, slices: _Slices, calibration: TrustCalibration, workers: int
) -> _Settled:
    sources = digest_of_sources(_noted(run, name, item) for name, item in slices.outputs.items())
    coefficients = digest_of(calibration)
    if run.journal is not None:
        for noted in reversed(run.journal.trust_maps(slices.series.uid)):
            said = (noted.matrix, noted.sources, noted.calibration)
            if said == (slices.matrix, sources, coefficients) and run.journal.stands(noted):
                return _Settled(trust_map=noted.output, trust_map_outcome="present")
    run.check_stop()
    with as_slice_failure(), quiet_pydicom():
        path, fresh = _written(run, slices, calibration, workers)
    with run.timer.busy("verify"), writing_outputs():
        state = FileState.read(path)
    if run.options.durability != "none":
        with run.timer.busy("sync"), writing_outputs():
            for folder in folders_up_to([path], run.output):
                sync_folder(folder)
    name = str(path.relative_to(run.output))
    if run.journal is not None:
        run.journal.note_trust_map(
            MapEntry(
                series=slices.series.uid,
                matrix=slices.matrix,
                sources=sources,
                calibration=coefficients,
                output=name,
                n_bytes=state.size,
                output_sha256=state.sha256,
            )
        )
    return _Settled(trust_map=name, trust_map_outcome="written" if fresh else "present")


def digest_of(calibration: TrustCalibration) -> str:
    """Return the SHA-256 of what half-widths follow from."""
    values = calibration.to_dict()
    del values["measured"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _noted(run: RunState, output: str, source: SourceSlice) -> JournalEntry:
    """Return what is noted of an output; the map is of what its source says now.

    Raises
    ------
    SliceFailed
        ``changed``: it says something else since.
    """
    noted = run.journal.match(source) if run.journal is not None else None
    if noted is None or noted.record.output != output:
        raise SliceFailed("changed", "a file of it was replaced after it was processed")
    return noted


def _written(
    run: RunState, slices: _Slices, calibration: TrustCalibration, workers: int
) -> tuple[Path, bool]:
    output, source = next(iter(slices.outputs.items()))
    if isinstance(source, SourceVolume):
        return _volume_written(
            run, slices, output, source, calibration=calibration, workers=workers
        )
    with run.timer.busy("read"):
        like, frames, sr_matrix = _frames(run, slices)
    derived = new_trust_map(
        like,
        frames,
        _derivation(run, slices),
        matrix=sr_matrix,
        coverage=calibration.coverage,
        instance_number=slices.number,
        window=_STAND_INS,
    )
    folder = Path(next(iter(slices.outputs))).parent.name
    maps = trust_map_folder(folder, map_series_uid(frames[0].sr.series_instance_uid))
    journal = run.journal
    place = OutputPlace(
        folder=run.output / maps,
        names=lambda uid: trust_map_files(folder, uid),
        given=lambda name: journal is not None and journal.has_output(str(Path(maps, name))),
    )
    trusted = not (run.options.verify_existing or (journal is not None and journal.may_lose))
    top = 0.0
    with EnhancedWriter(run.output, derived, run.computation().derivation, place=place) as writer:
        widths = _half_widths(run, slices, calibration, workers)
        for number, width in enumerate(widths, start=1):
            top = max(top, float(np.percentile(_thinned(width), WINDOW_PERCENTILE)))
            with run.timer.busy("write"):
                writer.write(number, width.astype("<f4", copy=False))
            run.check_stop()
        top = float(f"{top:.2g}") or 1.0
        texts = (format_number_as_ds(top / 2), format_number_as_ds(top))
        late: dict[str, str] = dict(zip(_STAND_INS, texts, strict=True))
        with run.timer.busy("write"):
            durable = run.options.durability != "none"
            return writer.finish(trusted=trusted, durable=durable, late=late)


def _volume_written(
    run: RunState,
    slices: _Slices,
    output: str,
    source: SourceVolume,
    *,
    calibration: TrustCalibration,
    workers: int,
) -> tuple[Path, bool]:
    """Write the map of a NIfTI file or an array: a file like its result, of 32-bit floats.

    Raises
    ------
    SliceFailed
        ``bad-geometry``: what stands under its name is no map of ours.
    """
    path = run.output / trust_map_name(output)
    derivation = run.computation().derivation
    if path.exists() and not Beside.of(path).is_of_our_output:
        raise SliceFailed("bad-geometry", "another file stands under its name")
    result = read_volume(source).result(run.output / output, derivation)
    volume = result.of_floats(path.with_name(f".{path.name}.{secrets.token_hex(4)}.part"))
    widths = _half_widths(run, slices, calibration, workers)
    beside = trust_map_sidecar(
        derivation,
        output=Path(output).name,
        source_uid=source.sop_instance_uid,
        slice_axis=volume.slice_axis,
        coverage=calibration.coverage,
    )
    fresh = write_beside(
        volume,
        _stored(run, widths, volume.layout.dtype),
        path,
        trust_map_description(derivation),
        {".json": beside},
        durable=run.options.durability != "none",
    )
    return path, fresh


def _stored(run: RunState, widths: Iterator[FloatArray], dtype: str) -> Iterator[Stored]:
    for width in widths:
        run.check_stop()
        yield width.astype(dtype)


def _thinned(width: FloatArray) -> FloatArray:
    return width[::WINDOW_STEP, ::WINDOW_STEP]


def _derivation(run: RunState, slices: _Slices) -> Derivation:
    cropped = {one for one in slices.computed_on.values() if one != slices.matrix}
    derivation = run.computation().derivation
    return replace(derivation, cropped_to=cropped.pop()) if cropped else derivation


def _frames(run: RunState, slices: _Slices) -> tuple[Dataset, list[MapFrame], Matrix]:
    """Return the first output's header, what each frame is about, and their matrix."""
    frames: list[MapFrame] = []
    matrices: set[Matrix] = set()
    first: Dataset | None = None
    for name, source in slices.outputs.items():
        header = read_header(run.output / name).dataset
        if first is None:
            first = raw_header(header)
        matrices.add((int(header.Rows), int(header.Columns)))
        sr = _instance(header)
        lr = Instance(
            sop_class_uid=source.sop_class_uid,
            sop_instance_uid=source.sop_instance_uid,
            series_instance_uid=source.series_instance_uid,
        )
        if source.n_frames is None:
            frames.append(_frame(header, sr, lr))
            continue
        for number, plane in enumerate(FunctionalGroups(header).attributes(), start=1):
            frames.append(_frame(plane, replace(sr, frame=number), replace(lr, frame=number)))
    if first is None or len({one.sr.series_instance_uid for one in frames}) != 1:
        raise SliceFailed("bad-geometry", "its slices name several patients or studies")
    if len(matrices) != 1:
        raise SliceFailed("bad-geometry", "its results differ in matrix")
    return first, frames, matrices.pop()


def _instance(header: Dataset) -> Instance:
    return Instance(
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
    )


def _frame(plane: Attributes, sr: Instance, lr: Instance) -> MapFrame:
    thickness = numbers(plane, "SliceThickness")
    return MapFrame(
        sr=sr,
        lr=lr,
        position_mm=numbers(plane, "ImagePositionPatient"),
        orientation=numbers(plane, "ImageOrientationPatient"),
        spacing_mm=numbers(plane, "PixelSpacing"),
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
    )


def _half_widths(
    run: RunState, slices: _Slices, calibration: TrustCalibration, workers: int
) -> Iterator[FloatArray]:
    """Yield the half-widths of every slice in order, a few computed ahead."""
    waiting: deque[Future[FloatArray]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="kspacesr-rt-trust") as pool:
        try:
            for read in _readers(run, slices):
                waiting.append(pool.submit(_half_width, run, read, calibration))
                while len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _half_width(
    run: RunState, read: Callable[[], Pair], calibration: TrustCalibration
) -> FloatArray:
    with as_slice_failure(), quiet_pydicom():
        with run.timer.busy("read"):
            lr, sr = read()
        with run.timer.busy("check"):
            return half_width(lr, sr, calibration)


def _readers(run: RunState, slices: _Slices) -> Iterator[Callable[[], Pair]]:
    """Yield what reads each slice: a classic file in a worker, frames here, one after another."""
    for name, source in slices.outputs.items():
        if isinstance(source, SourceVolume):
            result = read_volume(source).result(run.output / name, run.computation().derivation)
            pairs = zip(volume_slices(read_volume(source)), volume_slices(result), strict=True)
            yield from (partial(_same, (lr.values, sr.values)) for lr, sr in pairs)
            continue
        output = replace(source, path=run.output / name)
        if source.n_frames is None:
            yield partial(_pair, source, output, slices.computed_on[name])
            continue
        for lr, sr in zip(read_slices(source), read_slices(output), strict=True):
            yield partial(_same, (lr.values, sr.values))


def _pair(source: SourceSlice, output: SourceSlice, matrix: Matrix) -> Pair:
    lr = undo_interpolation(read_slice(source), matrix)
    return lr.values, read_slice(output).values


def _same(pair: Pair) -> Pair:
    return pair
