"""What a benchmark found out about one row, and which rows are worth having."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.bench.run.roofline import RooflineGroup
from kspacesr_rt.quality.metrics import Quality

SCHEMA = 1
"""Of the result file; see ``bench/results/schema.json``."""
OK, FAILED, WRONG, UNSTABLE = "ok", "failed", "wrong", "unstable"
WRONG_DB = 60.0
"""PSNR against PyTorch fp32 below which a peer is wrong rather than less precise: bf16 convolutions
leave 75 dB, a misread FFT less than 30 dB. Ours are held to
`kspacesr_rt.runtime.self_test.REQUIRED_DB`."""


NORMAL_95 = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""
MEDIAN_ERROR = math.sqrt(math.pi / 2.0)
"""Standard error of a median, in standard deviations over the root of the number of values."""
HALF_QUARTILES = 0.6745
"""Half the interquartile range of a normal distribution, in standard deviations."""


def median_uncertainty(spread: float, rounds: int) -> float:
    """Return half the 95 % interval of a median over rounds.

    Parameters
    ----------
    spread
        Half the interquartile range over the rounds; the result has its unit.
    rounds
        How many there were, taken to be independent and about normal.
    """
    return NORMAL_95 * MEDIAN_ERROR * spread / HALF_QUARTILES / math.sqrt(rounds)


def milliseconds(seconds: float | None) -> str:
    """Return seconds in ms, with as many digits as a call of some microseconds needs."""
    if seconds is None:
        return ""
    value = seconds * 1e3
    return f"{value:.1f}" if value >= 1.0 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Seconds of one call, over every timed call of a run."""

    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    calls: int
    """How many were timed."""
    rounds: int
    """How many turns they came from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """One row of the table."""

    plan: RowPlan
    """What ran."""
    status: str
    """``ok``, ``failed`` (with its reason), ``wrong``, or ``unstable``: ratio not well known."""
    reason: str = ""
    """Why it is not ok."""
    latency: Latency | None = None
    """Of one call with `plan.batch` slices."""
    ratio: float | None = None
    """Speed relative to PyTorch eager fp32 at the same batch: above 1 is faster. Median over rounds
    of the ratio of medians within a round."""
    ratio_to: str = ""
    """The row that is: ``torch-eager``, or ``torch-cuda`` for what runs on a GPU."""
    ratio_spread: float | None = None
    """Half the interquartile range of that ratio over the rounds, relative to it."""
    slices_per_s: float | None = None
    copies_s: float | None = None
    """Of one call: between host and device, for rows on a GPU that copy outside their graph."""
    device_s: float | None = None
    """Of one call without copies, likewise: the graph alone."""
    load_s: float | None = None
    """From an interpreter with numpy to the first result: library, model and first call."""
    first_result_s: float | None = None
    """From the start of the process to the first result."""
    peak_rss_bytes: int | None = None
    """Of the whole process, libraries included."""
    device_bytes: int | None = None
    """GPU memory it holds after the rounds, for rows on a GPU; not yet run on one."""
    model_bytes: int | None = None
    """Size of the file that ran."""
    engine_bytes: int | None = None
    """Size of the TensorRT engine that was built from it; not yet run on a GPU."""
    flop: float | None = None
    """Of one slice; see `kspacesr_rt.graph.flops`."""
    flop_per_s: float | None = None
    peak_share: float | None = None
    """`flop_per_s` over the machine's measured matrix-product rate in `plan.precision`."""
    fft_share: float | None = None
    """Share of a profiled run that the FFT layers took."""
    joules_per_slice: float | None = None
    """Of the processor package or the GPU, where the machine tells."""
    energy_source: str = ""
    """``rapl`` or ``nvml``; see `kspacesr_rt.system.energy`."""
    roofline: tuple[RooflineGroup, ...] | None = None
    """By group of layers, where the runtime's profile is read; see
    `kspacesr_rt.bench.run.roofline`."""
    psnr_between_db: float | None = None
    """Against PyTorch fp32 on the same slices, range = its maximum; None when identical, too."""
    quality: Quality | None = None
    """Against HR, convention ``slice-range1``."""
    tissue: Quality | None = None
    """Against HR inside tissue, convention ``tissue``; None in older files."""
    upscale: int | None = None
    """Of its model, so that quality is compared for the same task; None in older files."""
    pareto: bool = False
    """No other row of its upscale beats it in speed or SSIM without losing in the other."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON: a model by its file's name, since folders may tell who a user is."""
        values = dataclasses.asdict(self)
        values["plan"]["model"] = Path(self.plan.model).name
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        values = dict(values)
        values["plan"] = RowPlan.from_dict(values["plan"])
        if values.get("latency"):
            values["latency"] = Latency(**values["latency"])
        for name in ("quality", "tissue"):
            if values.get(name):
                values[name] = Quality(**values[name])
        if values.get("roofline"):
            values["roofline"] = tuple(RooflineGroup(**one) for one in values["roofline"])
        return cls(**values)


SSIM_STEP = 1e-4
"""Differences in SSIM below this are rounding, not quality."""


def with_pareto(rows: list[BenchRow]) -> list[BenchRow]:
    """Flag the rows that no other row of their upscale beats in both speed and SSIM.

    By the middle of what was measured, however well that is known.
    """
    points = {
        index: _Point(row.upscale, row.slices_per_s, round(row.quality.ssim / SSIM_STEP))
        for index, row in enumerate(rows)
        if row.status in (OK, UNSTABLE) and row.quality is not None and row.slices_per_s is not None
    }
    return [
        dataclasses.replace(row, pareto=index in points and _undominated(index, points))
        for index, row in enumerate(rows)
    ]


class _Point(NamedTuple):
    upscale: int | None
    speed: float
    ssim: int


def _undominated(index: int, points: dict[int, _Point]) -> bool:
    own = points[index]
    return not any(
        other.speed >= own.speed and other.ssim >= own.ssim and other != own
        for other in points.values()
        if other.upscale == own.upscale
    )
