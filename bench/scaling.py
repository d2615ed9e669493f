"""How the cost of a slice grows with matrix, batch and threads, and the exponent of that growth.

What it measures: one model on one backend, bound to each size, on phantoms, in rounds over all
points of a curve; seconds a slice, the FFT layers' share from the runtime's profile, and the slope
of log(seconds) over log(size).
What it leaves out: quality, which does not depend on batch or threads, and binding a matrix, which
is done once a series.
How to read it: convolutions cost the number of samples, exponent 2 in the matrix; FFT layers as
matrix products cost its third power, so their share grows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.bench.conductor import Inputs, RowFailed, RowProcess
from kspacesr_rt.bench.layer_shares import PROFILED, layer_shares
from kspacesr_rt.bench.plans import RowPlan
from kspacesr_rt.binding import bind
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import degrade, upscaled
from kspacesr_rt.model_file import ModelFile
from kspacesr_rt.phantoms import brain_phantom

MATRICES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""LR samples per axis."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BASE_MATRIX = 128
"""LR samples per axis while batch and threads change."""
ROUNDS = 3
VISIT_S = 0.5
"""Time of a visit; one call at least."""
LARGEST_BYTES = 8e9
"""Points whose feature maps alone would take more are left out, with that reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingPoint:
    """One point of a curve."""

    axis: str
    """``matrix``, ``batch`` or ``threads``."""
    value: int
    """LR samples per axis, slices a call, or threads."""
    backend: str
    """What ran it."""
    model: str
    """Whose weights."""
    seconds_per_slice: float | None = None
    """Median over rounds of the median call, divided by the batch."""
    fft_share: float | None = None
    """Share of a profiled run, on the matrix axis."""
    reason: str = ""
    """Why there is no figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """The curves of one model on one backend."""

    points: tuple[ScalingPoint, ...]
    exponents: dict[str, float]
    """By axis: slope of log(seconds a slice) over log(value), least squares over its points."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


def measure_scaling(
    model: ModelFile,
    path: Path,
    folder: Path,
    *,
    backend: str = "ort-cpu",
    matrices: Iterable[int] = MATRICES,
    batches: Iterable[int] = BATCHES,
    threads: Iterable[int] = (1,),
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Scaling:
    """Measure the three curves.

    Parameters
    ----------
    model, path
        A model, and the file it was read from.
    folder
        For the phantoms.
    backend
        What runs it.
    matrices, batches, threads
        Values of each axis; the others stay at `BASE_MATRIX`, 1 and 1.
    on_progress
        Called with points done, of how many, and a word.

    Raises
    ------
    InputError
        If an axis has no value.
    """
    wanted = {"matrix": tuple(matrices), "batch": tuple(batches), "threads": tuple(threads)}
    if not all(wanted.values()):
        raise InputError("each axis of a scaling curve takes at least one value")
    points: list[ScalingPoint] = []
    for axis, values in wanted.items():
        points += _curve(model, path, folder, backend, axis, values, on_progress)
    exponents = {axis: slope for axis in wanted if (slope := _exponent(points, axis)) is not None}
    return Scaling(points=tuple(points), exponents=exponents)


def _curve(
    model: ModelFile,
    path: Path,
    folder: Path,
    backend: str,
    axis: str,
    values: Sequence[int],
    on_progress: Callable[[int, int, str], None],
) -> list[ScalingPoint]:
    points = [
        ScalingPoint(axis=axis, value=value, backend=backend, model=model.spec.name)
        for value in values
    ]
    times: dict[int, list[float]] = {value: [] for value in values}
    reasons: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        opened: dict[int, RowProcess] = {}
        for value in values:
            plan, n = _plan(model, backend, axis, value)
            if _feature_bytes(model, n, plan.batch) > LARGEST_BYTES:
                reasons[value] = "more feature maps than fit"
                continue
            slices = _phantom(n, model.spec.upscale, folder)
            process = stack.enter_context(RowProcess(plan, Inputs(model=path, slices=slices)))
            try:
                process.ask("open")
                opened[value] = process
            except RowFailed as exc:
                reasons[value] = str(exc)
        for round_ in range(ROUNDS):
            for done, (value, process) in enumerate(opened.items()):
                on_progress(round_ * len(opened) + done, ROUNDS * len(opened), axis)
                try:
                    answer = process.ask("time", seconds=VISIT_S)
                    times[value].append(float(np.median(answer["times_s"])))
                except RowFailed as exc:
                    reasons[value] = str(exc)
    return [
        dataclasses.replace(
            point,
            seconds_per_slice=_per_slice(times[point.value], axis, point.value),
            fft_share=_share(model, backend, axis, point.value) if times[point.value] else None,
            reason=reasons.get(point.value, ""),
        )
        for point in points
    ]


def _plan(model: ModelFile, backend: str, axis: str, value: int) -> tuple[RowPlan, int]:
    plan = RowPlan(
        contestant=backend,
        model=model.spec.name,
        lowering=model.spec.lowering,
        precision=model.spec.precision,
        batch=value if axis == "batch" else 1,
        threads=value if axis == "threads" else 1,
    )
    return plan, value if axis == "matrix" else BASE_MATRIX


def _feature_bytes(model: ModelFile, n: int, batch: int) -> float:
    """Estimate what the CNN holds at once: input, output and skip of a block, in fp32."""
    return 3.0 * 4.0 * batch * model.spec.width * n * n


def _phantom(n: int, upscale: int, folder: Path) -> Path:
    path = folder / f"phantom-{n}.npy"
    if not path.exists():
        hr = brain_phantom(upscaled((n, n), upscale)).astype(np.float32)
        np.save(path, degrade(hr[None], upscale).astype(np.float32))
    return path


def _per_slice(times: Sequence[float], axis: str, value: int) -> float | None:
    if not times:
        return None
    return float(np.median(times)) / (value if axis == "batch" else 1)


def _share(model: ModelFile, backend: str, axis: str, value: int) -> float | None:
    if axis != "matrix" or backend not in PROFILED:
        return None
    lr = np.random.default_rng(0).random((1, 1, value, value), dtype=np.float32)
    return layer_shares(bind(model, (value, value)), lr, backend, 1)["fft"]


def _exponent(points: Sequence[ScalingPoint], axis: str) -> float | None:
    known = [
        (math.log(point.value), math.log(point.seconds_per_slice))
        for point in points
        if point.axis == axis and point.seconds_per_slice
    ]
    if len(known) < 2:
        return None
    values, seconds = np.array(known).T
    return float(np.polyfit(values, seconds, 1)[0])
