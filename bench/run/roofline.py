"""What bounds each group of layers: the machine's arithmetic, or its memory.

What it measures: seconds of each group in a profiled run (`kspacesr_rt.bench.run.layer_shares`),
set against what the group must compute and move (`kspacesr_rt.graph.layer_costs`), and against two
rates of the same machine, measured in turns with the rows: a matrix product in the precision the
group computes in, and a triad ``a = b + s c`` over arrays larger than the last-level cache.

How to read it: a roofline [1]_ caps operations a second at ``min(peak, intensity * bandwidth)``.
`peak_share` and `bandwidth_share` say how near a group is to either cap, `bound` which is nearer.
A share of bandwidth above 1 means that the data stayed in a cache, which a small matrix does.

Limits: bytes are a lower bound; an FFT layer counts as one layer. An elementwise layer that a
runtime computes inside a convolution is counted with the convolutions: its operations, and what it
reads besides the convolution's result, which itself does not move. Profiling makes small kernels
look dearer. So a low share of both rates is a group of many small kernels, or one that moves more
than it must.

References
----------
.. [1] Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
   multicore architectures", Communications of the ACM 52(4), 2009, doi:10.1145/1498765.1498785
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kspacesr_rt.bench.run.layer_shares import CALLS, profiled, transforms_run_in_phases
from kspacesr_rt.graph.layer_costs import (
    ACTIVATION,
    CONVOLUTION,
    FFT,
    GROUPS,
    OTHER,
    LayerCost,
    layer_costs,
)
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel

COMPUTE, MEMORY, UNKNOWN = "compute", "memory", "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupWork:
    """What a group of layers did for one slice."""

    group: str
    """One of `kspacesr_rt.graph.layer_costs.GROUPS`."""
    flop: float
    """Operations."""
    bytes: float
    """Compulsory traffic."""
    seconds: float
    """In a profiled run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RooflineGroup:
    """The same, beside what the machine can do."""

    group: str
    flop: float
    bytes: float
    seconds: float
    peak_share: float | None = None
    """Of the matrix product's rate; None where that was not measured."""
    bandwidth_share: float | None = None
    """Of the triad's rate."""
    bound: str = UNKNOWN
    """``compute`` or ``memory``: the larger share; ``unknown`` without both."""


def group_work(
    model: BoundModel, lr: FloatArray, backend: str, threads: int, *, calls: int = CALLS
) -> list[GroupWork]:
    """Profile a bound model, and count what each group of its layers does for one slice.

    Parameters
    ----------
    model, lr, backend, threads, calls
        As of `kspacesr_rt.bench.run.layer_shares.profiled`.

    Raises
    ------
    InputError
        If profiles of the backend are not read.
    """
    profile = profiled(model, lr, backend, threads, calls=calls)
    batch = len(lr)
    costs = layer_costs(model, in_phases=transforms_run_in_phases(model, backend))
    work = work_by_group(costs, profile.ran, batch)
    return [
        GroupWork(
            group=group,
            flop=work[group][0],
            bytes=work[group][1],
            seconds=profile.seconds[group] / batch,
        )
        for group in GROUPS
        if profile.seconds.get(group, 0.0) > 0.0
    ]


def work_by_group(
    costs: Iterable[LayerCost], ran: Collection[str], batch: int
) -> dict[str, tuple[float, float]]:
    """Add layers up to operations and bytes of one slice, by group.

    Parameters
    ----------
    costs
        Of every layer.
    ran
        Names of those that had a kernel of their own. Convolutions and FFT layers always have; of
        the others, arithmetic went into a convolution, and rearrangements into nothing at all.
    batch
        Slices a call, which share the weights.
    """
    work: dict[str, tuple[float, float]] = dict.fromkeys(GROUPS, (0.0, 0.0))

    def add(group: str, flop: float, n_bytes: float) -> None:
        work[group] = (work[group][0] + flop, work[group][1] + n_bytes)

    for cost in costs:
        if cost.group in (CONVOLUTION, FFT) or cost.name in ran:
            add(cost.group, cost.flop, cost.bytes(batch))
        elif cost.group in (ACTIVATION, OTHER):
            add(CONVOLUTION, cost.flop, cost.extra_bytes)
    return work


def roofline(
    work: Iterable[GroupWork],
    *,
    peaks: Mapping[str, float],
    precision: str,
    bandwidth: float | None,
) -> tuple[RooflineGroup, ...]:
    """Set what groups did against what the machine can do.

    Parameters
    ----------
    work
        One entry a group, with seconds above 0.
    peaks
        Operations a second of a matrix product, by precision.
    precision
        What the CNN computes in; everything that is not of the CNN is in fp32 in every model.
    bandwidth
        Bytes a second of a triad; None if it was not measured.
    """
    found = []
    for one in work:
        narrow = one.group in (CONVOLUTION, ACTIVATION)
        peak = peaks.get(precision if narrow else "fp32")
        peak_share = None if peak is None else one.flop / one.seconds / peak
        bandwidth_share = None if bandwidth is None else one.bytes / one.seconds / bandwidth
        found.append(
            RooflineGroup(
                group=one.group,
                flop=one.flop,
                bytes=one.bytes,
                seconds=one.seconds,
                peak_share=peak_share,
                bandwidth_share=bandwidth_share,
                bound=_bound(peak_share, bandwidth_share),
            )
        )
    return tuple(found)


def _bound(peak_share: float | None, bandwidth_share: float | None) -> str:
    if peak_share is None or bandwidth_share is None:
        return UNKNOWN
    return COMPUTE if peak_share >= bandwidth_share else MEMORY
