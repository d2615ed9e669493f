"""`kspacesr-rt bench`: latency beside image quality and parity, in one table.

What it measures: every row of `kspacesr_rt.bench.plans` that this machine can run, on real slices,
timed in turns (`kspacesr_rt.bench.conductor`), with quality against HR, agreement with PyTorch
fp32, and the share of the machine's own matrix-product rate that it reaches.
What it leaves out: reading and writing DICOM.
How to read it: compare ratios and quality within one table. A row that failed or is wrong stays.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from kspacesr_rt.bench.conductor import (
    SETTLED,
    Inputs,
    Measured,
    RowFailed,
    conduct,
    ratio_of,
    reference_of,
)
from kspacesr_rt.bench.environment import environment
from kspacesr_rt.bench.flops import Flops, count_flops
from kspacesr_rt.bench.layer_shares import PROFILED, layer_shares
from kspacesr_rt.bench.plans import PEERS, RowPlan, chosen, default_plan
from kspacesr_rt.bench.quality import CONVENTION
from kspacesr_rt.bench.rows import (
    FAILED,
    OK,
    SCHEMA,
    UNSTABLE,
    WRONG,
    WRONG_DB,
    BenchRow,
    Latency,
    with_pareto,
)
from kspacesr_rt.bench.scaling import Scaling, measure_scaling
from kspacesr_rt.bench.variants import SEED_SHAPE, VariantFailed, Variants
from kspacesr_rt.bench.worker import GEMM
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray, degrade, divisible_crop
from kspacesr_rt.metrics import Quality, evaluate, json_number, psnr_between, tissue_slices
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.spec import Precision
from kspacesr_rt.train.volumes import read_volumes
from kspacesr_rt.verify import REQUIRED_DB

GEMM_PRECISIONS = ("fp32", "bf16", "int8")
"""In which the machine's peak is measured, interleaved with the rows."""
SLICES = 4
"""Slices that quality and parity are judged on, evenly spaced over the data's tissue."""
SEED_HR = (320, 320)
"""HR matrix of the seed's network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """What is measured, and how long."""

    models: tuple[str, ...]
    """Names or paths; `SEED_SHAPE` stands for the seed's network with random weights."""
    data: Path | None = None
    """Folder of HR images; None takes the shipped sample."""
    batches: tuple[int, ...] = (1,)
    """Batch sizes."""
    threads: int = 1
    """CPU threads of every row."""
    peers: bool = True
    """Also what is not ours."""
    only: tuple[str, ...] = ()
    """Words that a row's label must have."""
    budget_s: float = 300.0
    """Time for rounds."""
    slices: int = SLICES
    """Slices to judge on."""
    scaling: tuple[str, ...] = ()
    """Backends whose cost is also followed over matrix, batch and threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What a run found."""

    rows: tuple[BenchRow, ...]
    peaks: dict[str, float]
    """FLOP/s of a matrix product by precision: median over the rounds."""
    environment: dict[str, Any]
    data: str
    """What slices were taken, in words."""
    scaling: tuple[Scaling, ...] = ()
    """Curves, one a model and backend."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "schema": SCHEMA,
            "environment": self.environment,
            "data": self.data,
            "convention": CONVENTION,
            "gemm_flop_per_s": self.peaks,
            "rows": [row.to_dict() for row in self.rows],
            "scaling": [curves.to_dict() for curves in self.scaling],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slices:
    hr: FloatArray
    """``(k, s*y, s*x)``, scaled by the series' maximum."""
    lr: FloatArray
    """``(k, y, x)``."""
    file: Path
    """`lr` as ``.npy``."""


def benchmark(
    options: BenchOptions,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> BenchResult:
    """Measure every row.

    Raises
    ------
    InputError
        If no row is left, or a model or the data cannot be read.
    """
    plans = default_plan(
        options.models, batches=options.batches, threads=options.threads, peers=options.peers
    )
    if options.only:
        plans = chosen(plans, options.only)
    peaks = [
        RowPlan(contestant=GEMM, model="", precision=precision, threads=options.threads)
        for precision in GEMM_PRECISIONS
    ]
    with tempfile.TemporaryDirectory(prefix="kspacesr-bench-") as temporary:
        folder = Path(temporary)
        variants = Variants(folder)
        slices = _prepare(options, variants, folder)

        def inputs(plan: RowPlan) -> Inputs:
            if plan.contestant == GEMM:
                any_slices = next(iter(slices.values()))
                return Inputs(model=any_slices.file, slices=any_slices.file)
            try:
                return Inputs(model=variants.path_for(plan), slices=slices[plan.model].file)
            except VariantFailed as exc:
                raise RowFailed(str(exc)) from exc

        found = conduct(
            [*plans, *peaks], inputs, folder, budget_s=options.budget_s, on_progress=on_progress
        )
        rates = _rates([one for one in found if one.plan.contestant == GEMM])
        rows = [
            _Judge(variants, slices[one.plan.model], rates, found).row(one)
            for one in found
            if one.plan.contestant != GEMM
        ]
        curves = [
            measure_scaling(
                variants.original(name),
                variants.path_for(RowPlan(contestant=backend, model=name, lowering="gemm")),
                folder,
                backend=backend,
                threads=range(1, (os.cpu_count() or 1) + 1),
                on_progress=on_progress,
            )
            for name in options.models
            for backend in options.scaling
        ]
    described = "the shipped sample" if options.data is None else "a folder of the user's"
    return BenchResult(
        rows=tuple(with_pareto(rows)),
        peaks=rates,
        environment=environment(),
        data=f"{options.slices} slices of {described}",
        scaling=tuple(curves),
    )


def precision_of(plan: RowPlan) -> Precision:
    """Return a plan's precision as a model's specification has it."""
    return cast(Precision, plan.precision)


def _prepare(options: BenchOptions, variants: Variants, folder: Path) -> dict[str, _Slices]:
    volume = next(iter(read_volumes(options.data or sample_folder())), None)
    if volume is None:
        raise InputError("the data holds no image")
    scaled = (volume.slices / volume.slices.max()).astype(np.float32)
    kept = scaled[tissue_slices(volume.slices)]
    places = np.linspace(0, len(kept) - 1, options.slices + 2)[1:-1].round().astype(int)
    made: dict[str, _Slices] = {}
    for model in options.models:
        upscale = variants.original(model).spec.upscale
        hr = kept[places]
        if model == SEED_SHAPE:
            hr = _tiled(hr, SEED_HR)
        hr = np.ascontiguousarray(divisible_crop(hr, upscale))
        lr = degrade(hr, upscale).astype(np.float32)
        file = folder / f"lr-{len(made)}.npy"
        np.save(file, lr)
        made[model] = _Slices(hr=hr, lr=lr, file=file)
    return made


def _tiled(hr: FloatArray, matrix: tuple[int, int]) -> FloatArray:
    """Repeat slices to fill a matrix; only speed is read off them."""
    rows, columns = (-(-wanted // have) for wanted, have in zip(matrix, hr.shape[1:], strict=True))
    return np.tile(hr, (1, rows, columns))[:, : matrix[0], : matrix[1]]


def _rates(found: Sequence[Measured]) -> dict[str, float]:
    from kspacesr_rt.export.pytorch_peers import GEMM_FLOP

    return {
        one.plan.precision: GEMM_FLOP / float(np.median(np.concatenate(one.times_s)))
        for one in found
        if not one.failed and one.times_s
    }


@dataclass(frozen=True, slots=True)
class _Judge:
    variants: Variants
    slices: _Slices
    rates: dict[str, float]
    found: Sequence[Measured]

    def row(self, one: Measured) -> BenchRow:
        plan = one.plan
        if one.failed or one.result is None or not one.times_s:
            return BenchRow(plan=plan, status=FAILED, reason=one.failed)
        sr = np.load(one.result)
        reference = reference_of(one, self.found)
        between = ratio = spread = None
        status, reason = OK, ""
        if reference is not None and reference.result is not None:
            ratio, spread = ratio_of(one, reference)
            truth = np.load(reference.result)
            between = psnr_between(sr, truth, float(truth.max()))
            baseline = not (plan.lowering or plan.contestant in PEERS)
            if spread > SETTLED:
                status, reason = UNSTABLE, f"the ratio still moves by {spread:.0%}"
            required = REQUIRED_DB[precision_of(plan)] if plan.lowering else WRONG_DB
            if not baseline and not between >= required:
                status, reason = WRONG, f"{between:.1f} dB from PyTorch fp32"
        times = np.concatenate(one.times_s)
        p50, p90, p95, p99 = (float(value) for value in np.percentile(times, [50, 90, 95, 99]))
        cost = self._cost(plan)
        rate = None if cost is None else cost.total * plan.batch / p50
        peak = self.rates.get(plan.precision)
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
            ratio_spread=spread,
            slices_per_s=plan.batch / p50,
            load_s=one.load_s,
            first_result_s=one.first_result_s,
            peak_rss_bytes=one.peak_rss_bytes,
            model_bytes=self._file(plan).stat().st_size if plan.lowering else None,
            flop=None if cost is None else cost.total,
            flop_per_s=rate,
            peak_share=None if rate is None or peak is None else rate / peak,
            fft_share=self._fft_share(plan),
            joules_per_slice=float(np.median(one.joules)) / plan.batch if one.joules else None,
            psnr_between_db=None if between is None else json_number(between),
            quality=self._quality(plan, sr),
        )

    def _file(self, plan: RowPlan) -> Path:
        return self.variants.path_for(plan)

    def _quality(self, plan: RowPlan, sr: FloatArray) -> Quality | None:
        if plan.model == SEED_SHAPE:
            return None  # random weights
        return evaluate(np.maximum(sr, 0.0), self.slices.hr, CONVENTION)

    def _cost(self, plan: RowPlan) -> Flops | None:
        """Count what the convolutions and transforms of a row cost: as lowered to `gemm`."""
        if not (plan.lowering or plan.contestant in PEERS):
            return None
        return count_flops(self.variants.original(plan.model), self._matrix())

    def _fft_share(self, plan: RowPlan) -> float | None:
        if not plan.lowering or plan.contestant not in PROFILED:
            return None
        from kspacesr_rt.binding import bind
        from kspacesr_rt.model_file import load_model

        batch = np.repeat(self.slices.lr[:1, None], plan.batch, axis=0)
        bound = bind(load_model(self._file(plan)), self._matrix())
        return layer_shares(bound, batch, plan.contestant, plan.threads)["fft"]

    def _matrix(self) -> tuple[int, int]:
        return self.slices.lr.shape[1], self.slices.lr.shape[2]
