"""From what was measured of a row to its line of the table: right or wrong, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from kspacesr_rt.bench.quality.evaluation import CONVENTION, HEADLINE
from kspacesr_rt.bench.run.model_variants import SEED_SHAPE, Variants
from kspacesr_rt.bench.run.plans import ON_ANY_GPU, PEERS, RowPlan
from kspacesr_rt.bench.run.roofline import RooflineGroup, roofline
from kspacesr_rt.bench.run.rows import (
    FAILED,
    OK,
    UNSTABLE,
    WRONG,
    WRONG_DB,
    BenchRow,
    Latency,
    median_uncertainty,
)
from kspacesr_rt.bench.run.scheduler import (
    SETTLED,
    Measured,
    ratio_of,
    reference_of,
    speed_reference_of,
)
from kspacesr_rt.bench.run.worker import GEMM, GEMM_CUDA, TRIAD
from kspacesr_rt.graph.flops import Flops
from kspacesr_rt.graph.layer_costs import FFT
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import Precision
from kspacesr_rt.quality.metrics import Quality, evaluate, json_number, psnr_between
from kspacesr_rt.runtime.self_test import REQUIRED_DB

if TYPE_CHECKING:
    from kspacesr_rt.bench.run.scored_slices import ScoredSlices

CUDA = "cuda "
"""Before a precision: the GPU's peak in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineRates:
    """What this machine can do at most, measured in turns with the rows: medians."""

    flop_per_s: Mapping[str, float]
    """Of a matrix product, by precision; the GPU's under ``cuda PRECISION``."""
    bytes_per_s: float | None = None
    """Of a triad on the CPU; None if it failed."""

    @classmethod
    def of(cls, found: Sequence[Measured]) -> MachineRates:
        """Take them from the contestants that are no model; those that failed are left out."""
        from kspacesr_rt.export.machine_peaks import gemm_flop, triad_bytes

        calls: dict[tuple[str, str], list[float]] = {}
        for one in found:
            if not one.failed and one.times_s:
                key = (one.plan.contestant, one.plan.precision)
                calls.setdefault(key, []).extend(np.concatenate(one.times_s))
        medians = {key: float(np.median(times)) for key, times in calls.items()}
        rates = {
            (CUDA if contestant == GEMM_CUDA else "") + precision: gemm_flop(
                cuda=contestant == GEMM_CUDA
            )
            / median_s
            for (contestant, precision), median_s in medians.items()
            if contestant in (GEMM, GEMM_CUDA)
        }
        triad_s = next((s for (name, _), s in medians.items() if name == TRIAD), None)
        return cls(
            flop_per_s=rates, bytes_per_s=None if triad_s is None else triad_bytes() / triad_s
        )

    def peak(self, plan: RowPlan) -> float | None:
        """Return the rate of a matrix product where and in what a row computes, where known."""
        if plan.contestant == ON_ANY_GPU:
            return None
        return self.flop_per_s.get((CUDA if plan.on_gpu else "") + plan.precision)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Judges the rows of one model."""

    variants: Variants
    slices: ScoredSlices
    rates: MachineRates
    found: Sequence[Measured]
    """Everything that was measured, references among it."""

    def row(self, one: Measured) -> BenchRow:
        """Return the line of one row."""
        plan = one.plan
        if one.failed or one.result is None or not one.times_s:
            return BenchRow(
                plan=plan, status=FAILED, reason=one.failed, upscale=self.slices.upscale
            )
        sr = np.load(one.result)
        between = self._between(one, sr)
        speed = speed_reference_of(one, self.found)
        ratio, spread = ratio_of(one, speed) if speed is not None else (None, None)
        known = None if spread is None else median_uncertainty(spread, len(one.times_s))
        status, reason = _verdict(plan, sr, between, known)
        times = np.concatenate(one.times_s)
        p50, p90, p95, p99 = (float(value) for value in np.percentile(times, [50, 90, 95, 99]))
        cost = self._cost(plan)
        rate = None if cost is None else cost.total * plan.batch / p50
        peak = self.rates.peak(plan)
        layers = self._roofline(one)
        return BenchRow(
            plan=plan,
            status=status,
            reason=reason,
            latency=Latency(
                p50_s=p50,
                p90_s=p90,
                p95_s=p95,
                p99_s=p99,
                calls=len(times),
                rounds=len(one.times_s),
            ),
            ratio=ratio,
            ratio_to="" if speed is None else speed.plan.contestant,
            ratio_spread=spread,
            slices_per_s=plan.batch / p50,
            copies_s=one.copies_s,
            device_s=one.device_s,
            load_s=one.load_s,
            first_result_s=one.first_result_s,
            peak_rss_bytes=one.peak_rss_bytes,
            device_bytes=one.device_bytes,
            model_bytes=self.variants.path_for(plan).stat().st_size if plan.lowering else None,
            engine_bytes=one.engine_bytes,
            flop=None if cost is None else cost.total,
            flop_per_s=rate,
            peak_share=None if rate is None or peak is None else rate / peak,
            fft_share=_fft_share(layers),
            joules_per_slice=float(np.median(one.joules)) / plan.batch if one.joules else None,
            energy_source=one.energy_source if one.joules else "",
            roofline=layers,
            psnr_between_db=None if between is None else json_number(between),
            quality=self._quality(plan, sr, CONVENTION),
            tissue=self._quality(plan, sr, HEADLINE),
            upscale=self.slices.upscale,
        )

    def _between(self, one: Measured, sr: FloatArray) -> float | None:
        """Return the PSNR against PyTorch fp32 on the CPU; None if that failed."""
        reference = reference_of(one, self.found)
        if reference is None or reference.result is None:
            return None
        truth = np.load(reference.result)
        return psnr_between(sr, truth, float(truth.max()))

    def _quality(self, plan: RowPlan, sr: FloatArray, convention: str) -> Quality | None:
        if plan.model == SEED_SHAPE or not np.isfinite(sr).all():
            return None  # random weights, or nothing that is an image
        return evaluate(np.maximum(sr, 0.0), self.slices.hr, convention)

    def _cost(self, plan: RowPlan) -> Flops | None:
        """Count what the convolutions and transforms of a row cost: as lowered to `gemm`."""
        if not (plan.lowering or plan.contestant in PEERS):
            return None
        rows, columns = self.slices.lr.shape[1:]
        return self.variants.flops(plan.model, (rows, columns))

    def _roofline(self, one: Measured) -> tuple[RooflineGroup, ...] | None:
        if not one.work:
            return None
        return roofline(
            one.work,
            peaks=self.rates.flop_per_s,
            precision=one.plan.precision,
            bandwidth=self.rates.bytes_per_s,
        )


def _verdict(
    plan: RowPlan, sr: FloatArray, between: float | None, known: float | None
) -> tuple[str, str]:
    """Say whether a row's result is right, and if it is, whether its speed is known."""
    baseline = not (plan.lowering or plan.contestant in PEERS)
    if not np.isfinite(sr).all():
        return WRONG, "values that are not finite"
    if between is not None and not baseline:
        required = REQUIRED_DB[cast(Precision, plan.precision)] if plan.lowering else WRONG_DB
        if not between >= required:
            return WRONG, f"{between:.1f} dB from PyTorch fp32"
    if known is not None and known > SETTLED:
        return UNSTABLE, f"the ratio is known to within {known:.1%} only"
    return OK, "" if between is not None else "PyTorch fp32 failed: compared with nothing"


def _fft_share(layers: Sequence[RooflineGroup] | None) -> float | None:
    if not layers:
        return None
    seconds = {one.group: one.seconds for one in layers}
    return seconds.get(FFT, 0.0) / sum(seconds.values())
