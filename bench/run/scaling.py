"""How the cost of a slice grows with matrix, batch and threads, and the exponent of that growth.

What it measures: one model on some backends and on PyTorch eager, bound to each size, on phantoms,
in rounds over all points of an axis; seconds a slice, how many times PyTorch's speed that is at the
same point, the FFT layers' share from the runtime's profile, and the slope of log(seconds) over
log(size).
What it leaves out: quality, which does not depend on batch or threads, and binding a matrix, which
is done once a series.
How to read it: convolutions cost the number of samples, exponent 2 in the matrix; FFT layers as
matrix products cost its third power, so their share grows. A point without a figure says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.bench.run.layer_shares import PROFILED
from kspacesr_rt.bench.run.plans import REFERENCE, RowPlan
from kspacesr_rt.bench.run.scheduler import Inputs, RowFailed, RowProcess
from kspacesr_rt.errors import InputError
from kspacesr_rt.graph.layer_costs import FFT
from kspacesr_rt.kspace import degrade, upscaled
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import ModelFile

MATRICES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""LR samples per axis."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BASE_MATRIX = 128
"""LR samples per axis while batch and threads change."""
ROUNDS = 3
VISIT_S = 0.5
"""Time of a visit; one call at least."""
LARGEST_BYTES = 8e9
"""Points whose feature maps would take more are not run, whatever memory there is."""
MEMORY_SHARE = 0.5
"""Of the memory that is free, what all points of an axis may take together: they stay open."""
LONGEST_CALL_S = 30.0
"""Points whose call would take longer, by the next smaller point, are not run."""
GROWTH = {"matrix": 2.5, "batch": 1.0, "threads": 0.0}
"""Exponent of a call's time along an axis, to tell what a larger point would take: convolutions
have 2 in the matrix, FFT layers 3, and measured curves up to 2.2."""
MEMINFO = Path("/proc/meminfo")


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
    ratio: float | None = None
    """Speed relative to PyTorch eager at the same point: median over rounds."""
    fft_share: float | None = None
    """Share of a profiled run, on the matrix axis."""
    reason: str = ""
    """Why there is no figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """The curves of one model on one contestant."""

    points: tuple[ScalingPoint, ...]
    exponents: dict[str, float]
    """By axis: slope of log(seconds a slice) over log(value), least squares over its points."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


def measure_scaling(
    model: ModelFile,
    contestants: Mapping[str, Path],
    folder: Path,
    *,
    matrices: Iterable[int] = MATRICES,
    batches: Iterable[int] = BATCHES,
    threads: Iterable[int] = (1,),
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> tuple[Scaling, ...]:
    """Measure the three curves of one model on each contestant, side by side.

    Parameters
    ----------
    model
        The model whose weights run.
    contestants
        Backends and `kspacesr_rt.bench.run.plans.REFERENCE`, and the file that each runs.
    folder
        For the phantoms.
    matrices, batches, threads
        Values of each axis; the others stay at `BASE_MATRIX`, 1 and 1.
    on_progress
        Called with visits done, of how many, and a word.

    Returns
    -------
        One entry a contestant, in their order.

    Raises
    ------
    InputError
        If an axis has no value.
    """
    wanted = {
        "matrix": tuple(sorted(matrices)),
        "batch": tuple(sorted(batches)),
        "threads": tuple(sorted(threads)),
    }
    if not all(wanted.values()):
        raise InputError("each axis of a scaling curve takes at least one value")
    found: dict[str, list[ScalingPoint]] = {name: [] for name in contestants}
    for axis, values in wanted.items():
        for point in _axis(model, contestants, folder, axis, values, on_progress):
            found[point.backend].append(point)
    return tuple(
        Scaling(
            points=tuple(points),
            exponents={
                axis: slope for axis in wanted if (slope := _exponent(points, axis)) is not None
            },
        )
        for points in found.values()
    )


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and all of a machine's processors."""
    doubled = [2**k for k in range(cores.bit_length())]
    return tuple(sorted({*(n for n in doubled if n <= cores), cores}))


@dataclass(slots=True)
class _Visited:
    """One point of one contestant, while it is measured."""

    name: str
    value: int
    plan: RowPlan
    n: int
    """LR samples per axis."""
    process: RowProcess | None = None
    rounds_s: list[float] = field(default_factory=list)
    """Median call of each round."""
    fft_share: float | None = None
    reason: str = ""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask its process; a failure becomes the point's reason, and there is no process then."""
        if self.process is None:
            return {}
        try:
            return self.process.ask(do, **arguments)
        except RowFailed as exc:
            self.reason, self.process = str(exc), None
            return {}


def _axis(
    model: ModelFile,
    contestants: Mapping[str, Path],
    folder: Path,
    axis: str,
    values: Sequence[int],
    on_progress: Callable[[int, int, str], None],
) -> list[ScalingPoint]:
    points = [
        _Visited(name, value, *_plan(model, name, axis, value))
        for value in values
        for name in contestants
    ]
    with contextlib.ExitStack() as stack:
        taken, allowed = 0.0, MEMORY_SHARE * _free_bytes()
        call_s: dict[str, tuple[int, float]] = {}
        for point in points:
            needed = _feature_bytes(model, point.n, point.plan.batch)
            point.reason = _too_large(needed, taken, allowed) or _too_long(
                call_s.get(point.name), axis, point.value
            )
            if point.reason:
                continue
            taken += needed
            slices = _phantom(point.n, model.spec.upscale, folder)
            inputs = Inputs(model=contestants[point.name], slices=slices)
            point.process = stack.enter_context(RowProcess(point.plan, inputs))
            point.ask("open")
            # The second call is the first that is like the others.
            if times := point.ask("time", seconds=0.0).get("times_s"):
                call_s[point.name] = (point.value, times[0])
        for round_ in range(ROUNDS):
            for done, point in enumerate(points):
                on_progress(round_ * len(points) + done, ROUNDS * len(points), axis)
                if times := point.ask("time", seconds=VISIT_S).get("times_s"):
                    point.rounds_s.append(float(np.median(times)))
        for point in points:
            if axis == "matrix" and point.name in PROFILED:
                on_progress(0, 1, "layers")
                point.fft_share = _fft_share(point.ask("profile").get("groups"))
    references = {point.value: point for point in points if point.name == REFERENCE}
    return [_point(one, references.get(one.value), axis, model.spec.name) for one in points]


def _point(one: _Visited, reference: _Visited | None, axis: str, model: str) -> ScalingPoint:
    whole = len(one.rounds_s) == ROUNDS
    ratio = None
    if whole and reference is not None and len(reference.rounds_s) == ROUNDS:
        pairs = zip(reference.rounds_s, one.rounds_s, strict=True)
        ratio = float(np.median([theirs / ours for theirs, ours in pairs]))
    return ScalingPoint(
        axis=axis,
        value=one.value,
        backend=one.name,
        model=model,
        seconds_per_slice=float(np.median(one.rounds_s)) / one.plan.batch if whole else None,
        ratio=ratio,
        fft_share=one.fft_share,
        reason=one.reason if not whole else "",
    )


def _plan(model: ModelFile, name: str, axis: str, value: int) -> tuple[RowPlan, int]:
    ours = name != REFERENCE
    plan = RowPlan(
        contestant=name,
        model=model.spec.name,
        lowering=model.spec.lowering if ours else "",
        precision=model.spec.precision if ours else "fp32",
        batch=value if axis == "batch" else 1,
        threads=value if axis == "threads" else 1,
    )
    return plan, value if axis == "matrix" else BASE_MATRIX


def _too_large(needed: float, taken: float, allowed: float) -> str:
    if needed > LARGEST_BYTES:
        return f"feature maps of {needed / 1e9:.1f} GB, more than {LARGEST_BYTES / 1e9:.1f} GB"
    if taken + needed > allowed:
        return (
            f"feature maps of {needed / 1e9:.1f} GB beside {taken / 1e9:.1f} GB of other points "
            f"are more than half of the free memory"
        )
    return ""


def _too_long(known: tuple[int, float] | None, axis: str, value: int) -> str:
    """Say that a point would take too long, by how long a smaller one took."""
    if known is None:
        return ""
    smaller, seconds = known
    expected = seconds * (value / smaller) ** GROWTH[axis]
    if expected <= LONGEST_CALL_S:
        return ""
    return f"a call would take about {expected:.0f} s, more than {LONGEST_CALL_S:.0f} s"


def _free_bytes(file: Path = MEMINFO) -> float:
    """Return the memory that new processes can have; without limit where the system is silent."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024.0
    return math.inf


def _feature_bytes(model: ModelFile, n: int, batch: int) -> float:
    """Estimate what the CNN holds at once: input, output and skip of a block, in fp32."""
    return 3.0 * 4.0 * batch * model.spec.width * n * n


def _phantom(n: int, upscale: int, folder: Path) -> Path:
    path = folder / f"phantom-{n}.npy"
    if not path.exists():
        hr = brain_phantom(upscaled((n, n), upscale)).astype(np.float32)
        np.save(path, degrade(hr[None], upscale).astype(np.float32))
    return path


def _fft_share(groups: Sequence[Mapping[str, Any]] | None) -> float | None:
    if not groups:
        return None
    total = sum(group["seconds"] for group in groups)
    return float(sum(group["seconds"] for group in groups if group["group"] == FFT) / total)


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
