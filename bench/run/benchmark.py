"""`kspacesr-rt bench`: latency beside image quality and parity, in one table.

What it measures: every row of `kspacesr_rt.bench.run.plans` that this machine can run, on real
slices, timed in turns (`kspacesr_rt.bench.run.scheduler`), with quality against HR, agreement with
PyTorch fp32, the share of the machine's own matrix-product rate that it reaches, and what bounds
each group of its layers. The machine's state before and after is in the result's environment.
What it leaves out: reading and writing DICOM.
How to read it: compare ratios and quality within one table. A row that failed or is wrong stays.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.bench.quality.evaluation import CONVENTION
from kspacesr_rt.bench.run.environment import environment
from kspacesr_rt.bench.run.model_variants import SEED_SHAPE, Variants
from kspacesr_rt.bench.run.pictures import SAMPLE, USER, WINDOW_PERCENTILE, Picture, pictures_of
from kspacesr_rt.bench.run.plans import REFERENCE, RowPlan, chosen, default_plan, why_not
from kspacesr_rt.bench.run.preparation import prepare, time_for
from kspacesr_rt.bench.run.rows import OK, SCHEMA, UNSTABLE, BenchRow, with_pareto
from kspacesr_rt.bench.run.scaling import Scaling, measure_scaling, thread_counts
from kspacesr_rt.bench.run.scheduler import Inputs, Measured, RowFailed, measure_rows
from kspacesr_rt.bench.run.scored_slices import ScoredSlices
from kspacesr_rt.bench.run.scoring import MachineRates, Scoring
from kspacesr_rt.bench.run.stage_times import stage_split
from kspacesr_rt.bench.run.worker import GEMM, GEMM_CUDA, PEAKS, TRIAD
from kspacesr_rt.errors import InputError, KspaceSRError
from kspacesr_rt.kspace import FloatArray, divisible_crop
from kspacesr_rt.quality.metrics import tissue_slices
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.cpu import available_cores
from kspacesr_rt.system.machine_conditions import conditions, snapshot
from kspacesr_rt.train.degradation import DEGRADATIONS, degradation_for
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.volumes import read_volumes

GEMM_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
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
    """Time for rounds; exports, opening rows and profiles come on top, about as much again."""
    slices: int = SLICES
    """Slices to judge on."""
    scaling: tuple[str, ...] = ()
    """Backends whose cost is also followed over matrix, batch and threads."""
    pictures: bool = False
    """Also keep slices to look at."""

    def command(self) -> str:
        """Return the command line that measures this, naming no folder."""
        words = ["kspacesr-rt bench"]
        words += [f"--model {Path(model).name}" for model in self.models]
        words += ["--data DATA"] if self.data is not None else []
        words += [f"--batch {batch}" for batch in self.batches if self.batches != (1,)]
        words += [f"--threads {self.threads}"] if self.threads != 1 else []
        words += [] if self.peers else ["--no-peers"]
        words += [f"--only {word}" for word in self.only]
        words += [f"--scaling {backend}" for backend in self.scaling]
        return " ".join([*words, f"--budget {self.budget_s:g}"])


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What a run found."""

    rows: tuple[BenchRow, ...]
    peaks: dict[str, float]
    """FLOP/s of a matrix product by precision: median over the rounds."""
    environment: dict[str, Any]
    data: str
    """What slices were taken, in words."""
    memory_bytes_per_s: float | None = None
    """Of a triad over arrays larger than the last-level cache: median over the rounds."""
    scaling: tuple[Scaling, ...] = ()
    """Curves, one a model and contestant."""
    stages: dict[str, Any] | None = None
    """Where the time of `kspacesr-rt infer` goes on the shipped sample, with the fastest right
    row's model and backend; see `kspacesr_rt.bench.run.stage_times`. None without a choice of
    ours."""
    pictures: tuple[Picture, ...] = ()
    """Slices to look at, if they were asked for."""
    command: str = ""
    """What measured this."""

    def to_dict(self, *, pictures: bool = False) -> dict[str, Any]:
        """Return it for JSON, with its pictures if told so."""
        shown = {"pictures": [one.to_dict() for one in self.pictures]} if pictures else {}
        return {
            "schema": SCHEMA,
            "environment": self.environment,
            "data": self.data,
            "convention": CONVENTION,
            "gemm_flop_per_s": self.peaks,
            "memory_bytes_per_s": self.memory_bytes_per_s,
            "rows": [row.to_dict() for row in self.rows],
            "scaling": [curves.to_dict() for curves in self.scaling],
            "stages": self.stages,
            "command": self.command,
            **shown,
        }


def benchmark(
    options: BenchOptions,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    reading: Reading | None = None,
) -> BenchResult:
    """Measure every row.

    Parameters
    ----------
    options
        What to measure.
    on_progress
        Called with what is done, of how much, and what is under way.
    reading
        Takes note of files that cannot be read; None raises.

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
    started = snapshot()
    with tempfile.TemporaryDirectory(prefix="kspacesr-bench-") as temporary:
        folder = Path(temporary)
        variants = Variants(folder)
        slices = prepare_slices(options, variants, folder, reading)
        limit_s = None if options.only else time_for(options.budget_s)
        reasons = prepare(plans, variants, limit_s=limit_s, on_progress=on_progress)
        files = _Files(variants, slices, reasons)
        found = _in_groups(plans, files, folder, options, on_progress)
        rates = MachineRates.of([one for one in found if one.plan.contestant in PEAKS])
        scored = [one for one in found if one.plan.contestant not in PEAKS]
        rows = with_pareto(
            [Scoring(variants, slices[one.plan.model], rates, found).row(one) for one in scored]
        )
        pictures: list[Picture] = []
        if options.pictures:
            source = SAMPLE if options.data is None else USER
            pictures = pictures_of(list(zip(rows, scored, strict=True)), slices, source)
        curves = [
            curve
            for name in options.models
            for curve in _curves(name, variants, folder, options, on_progress)
        ]
        on_progress(0, 1, "stages")
        stages, why_no_stages = _stages(rows, variants)
    described = "the shipped sample" if options.data is None else "a folder of the user's"
    return BenchResult(
        rows=tuple(rows),
        peaks=dict(rates.flop_per_s),
        memory_bytes_per_s=rates.bytes_per_s,
        environment={
            **environment(),
            **conditions(started, threads=options.threads),
            "why_no_stages": why_no_stages,
        },
        data=f"{options.slices} slices of {described}",
        scaling=tuple(curves),
        stages=stages,
        pictures=tuple(pictures),
        command=options.command(),
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """Finds the files of a row, or tells why it has none."""

    variants: Variants
    slices: dict[str, ScoredSlices]
    reasons: dict[RowPlan, str]

    def __call__(self, plan: RowPlan) -> Inputs:
        if plan.contestant in PEAKS:
            any_slices = next(iter(self.slices.values()))
            return Inputs(model=any_slices.file, slices=any_slices.file)
        if plan in self.reasons:
            raise RowFailed(self.reasons[plan])
        return Inputs(model=self.variants.path_for(plan), slices=self.slices[plan.model].file)


def _in_groups(
    plans: Sequence[RowPlan],
    files: _Files,
    folder: Path,
    options: BenchOptions,
    on_progress: Callable[[int, int, str], None],
) -> list[Measured]:
    """Conduct the rows that are compared with each other together, and no others.

    Those of one model and batch: every row is a process that stays open through its rounds, and
    all of a large run at once would not fit into memory. Each group gets the share of the budget
    that its rows are of all rows, and measures the machine's peaks for itself.
    """
    groups: dict[tuple[str, int], list[RowPlan]] = {}
    for plan in plans:
        groups.setdefault((plan.model, plan.batch), []).append(plan)
    found: list[Measured] = []
    for number, group in enumerate(groups.values()):
        place = folder / f"group-{number}"
        place.mkdir()
        found += measure_rows(
            [*group, *_peaks(group, options.threads)],
            files,
            place,
            budget_s=options.budget_s * len(group) / len(plans),
            profile=True,
            on_progress=on_progress,
        )
    return found


def _peaks(group: Sequence[RowPlan], threads: int) -> list[RowPlan]:
    """Return what measures the machine itself: its CPU, and its GPU if a row runs there.

    In the precisions that rows compute in; transforms are in fp32 in every row.
    """
    wanted = {"fp32", *(row.precision for row in group)}
    peaks = [
        RowPlan(contestant=GEMM, model="", precision=precision, threads=threads)
        for precision in GEMM_PRECISIONS
        if precision in wanted
    ]
    if any(row.on_gpu and why_not(row) is None for row in group):
        peaks += [dataclasses.replace(peak, contestant=GEMM_CUDA) for peak in peaks]
    return [*peaks, RowPlan(contestant=TRIAD, model="", threads=threads)]


def _curves(
    name: str,
    variants: Variants,
    folder: Path,
    options: BenchOptions,
    on_progress: Callable[[int, int, str], None],
) -> list[Scaling]:
    if not options.scaling:
        return []
    model = variants.original(name)
    plan = RowPlan(contestant=REFERENCE, model=name)
    contestants = {REFERENCE: variants.path_for(plan)}
    contestants |= {
        backend: variants.path_for(
            dataclasses.replace(plan, contestant=backend, lowering=model.spec.lowering)
        )
        for backend in options.scaling
    }
    threads = thread_counts(available_cores())
    return list(
        measure_scaling(model, contestants, folder, threads=threads, on_progress=on_progress)
    )


def _stages(rows: Sequence[BenchRow], variants: Variants) -> tuple[dict[str, Any] | None, str]:
    """Split `infer` up for the fastest row of ours that is right; or say why not."""
    ours = [
        row
        for row in rows
        if row.status in (OK, UNSTABLE) and row.plan.lowering and row.plan.model != SEED_SHAPE
    ]
    if not ours:
        return None, "no model of ours ran"
    fastest = max(ours, key=lambda row: row.slices_per_s or 0.0).plan
    try:
        found = stage_split(fastest.contestant, str(variants.path_for(fastest)))
    except (KspaceSRError, ImportError) as exc:  # the rows are worth more than this
        said = str(exc).split("\n", 1)[0]
        return None, said.replace(str(variants.folder), "...")
    return found, "" if found else "the pipeline's report does not tell"


def prepare_slices(
    options: BenchOptions, variants: Variants, folder: Path, reading: Reading | None = None
) -> dict[str, ScoredSlices]:
    """Cut slices for each model of `options` and degrade them; `folder` takes the files.

    Raises
    ------
    InputError
        If the data holds no image.
    """
    volume = next(iter(read_volumes(options.data or sample_folder(), reading)), None)
    if volume is None:
        if reading is not None:
            reading.require_any(volume)
        raise InputError("the data holds no image")
    scaled = (volume.slices / volume.slices.max()).astype(np.float32)
    tissue = np.flatnonzero(tissue_slices(volume.slices))
    if not len(tissue):
        raise InputError("the first series of the data holds no tissue")
    kept = scaled[tissue]
    places = np.linspace(0, len(kept) - 1, options.slices + 2)[1:-1].round().astype(int)
    labels = tuple(f"slice {tissue[place] + 1} of {len(scaled)}" for place in places)
    white = float(np.percentile(scaled, WINDOW_PERCENTILE))
    made: dict[str, ScoredSlices] = {}
    for model in options.models:
        spec = variants.original(model).spec
        upscale = spec.upscale
        hr = kept[places]
        if model == SEED_SHAPE:
            hr = _tiled(hr, SEED_HR)
        hr = np.ascontiguousarray(divisible_crop(hr, upscale))
        made_lr = DEGRADATIONS[degradation_for(spec.output_grid)]
        lr = made_lr(hr, upscale).astype(np.float32)
        file = folder / f"lr-{len(made)}.npy"
        np.save(file, lr)
        made[model] = ScoredSlices(hr=hr, lr=lr, file=file, labels=labels, white=white)
    return made


def _tiled(hr: FloatArray, matrix: tuple[int, int]) -> FloatArray:
    """Repeat slices to fill a matrix; only speed is read off them."""
    rows, columns = (-(-wanted // have) for wanted, have in zip(matrix, hr.shape[1:], strict=True))
    return np.tile(hr, (1, rows, columns))[:, : matrix[0], : matrix[1]]
