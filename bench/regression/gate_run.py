"""Run the regression gate's comparisons on the shipped sample, and judge each."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from kspacesr_rt.bench.quality.evaluation import CONVENTION
from kspacesr_rt.bench.regression.gate_profile import MODEL, Comparison
from kspacesr_rt.bench.regression.gate_report import NO_FIGURE, NOT_GATED, GateRow
from kspacesr_rt.bench.regression.rules import parity_loss, quality_losses, speed_line
from kspacesr_rt.bench.regression.sequential import (
    LOOK_CONFIDENCE,
    median_interval,
    rounds_at_look,
    verdict,
)
from kspacesr_rt.bench.run.benchmark import BenchOptions, prepare_slices
from kspacesr_rt.bench.run.kernels import FFT_ALONE, UPSCALE
from kspacesr_rt.bench.run.model_variants import VariantFailed, Variants
from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.bench.run.scheduler import Inputs, Measured, RowFailed, measure_rows, ratios_of
from kspacesr_rt.bench.run.scored_slices import ScoredSlices
from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.quality.metrics import Quality, evaluate, psnr_between
from kspacesr_rt.system.install_hints import install_hint

Progress = Callable[[int, int, str], None]
Found = dict[RowPlan, Measured]
"""What one set of processes measured."""


class GateRun:
    """The model, slices and files of a run; a context manager that removes the files."""

    def __init__(self, *, budget_s: float, on_progress: Progress) -> None:
        """Remember how long the rounds of one set may take."""
        self._budget_s, self._on_progress = budget_s, on_progress
        self._temporary = tempfile.TemporaryDirectory(prefix="kspacesr-gate-")
        self._sets = 0

    def __enter__(self) -> Self:
        self._folder = Path(self._temporary.name)
        self._variants = Variants(self._folder)
        bench = BenchOptions(models=(MODEL,))
        self._slices: ScoredSlices = prepare_slices(bench, self._variants, self._folder)[MODEL]
        self.weights_sha256 = self._variants.original(MODEL).spec.provenance.weights_sha256
        self.data = f"{len(self._slices.lr)} slices of the shipped sample"
        return self

    def __exit__(self, *exc: object) -> None:
        self._temporary.cleanup()

    def measure(
        self,
        comparisons: Iterable[Comparison],
        enough: Callable[[Sequence[Comparison], Sequence[Measured]], bool],
    ) -> Found:
        """Run the rows of comparisons in fresh processes."""
        comparisons = tuple(comparisons)
        plans = list(dict.fromkeys(plan for one in comparisons for plan in (one.against, one.plan)))
        self._sets += 1
        folder = self._folder / f"set-{self._sets}"
        folder.mkdir()
        found = measure_rows(
            plans,
            self._inputs,
            folder,
            budget_s=self._budget_s,
            enough=lambda measured: enough(comparisons, measured),
            own_time=True,
            on_progress=self._on_progress,
        )
        for one in found:
            if one.plan.is_reference and one.failed:
                raise BackendUnavailableError(
                    f"the gate's ratios are to PyTorch eager, which failed: {one.failed}",
                    hint=install_hint("bench"),
                )
        return {one.plan: one for one in found}

    def row(
        self,
        comparison: Comparison,
        found: Found,
        *,
        before: float | None = None,
        quality_before: Quality | None = None,
    ) -> GateRow:
        """Judge one comparison by its ratio and quality in the baseline, as far as it has them."""
        row = GateRow(name=comparison.name, against=comparison.against_label, speed=NO_FIGURE)
        for measured in (found[comparison.plan], found[comparison.against]):
            if measured.failed or measured.result is None:
                reason = f"{measured.plan.label} did not run: {measured.failed}"
                return dataclasses.replace(row, problems=(reason,))
        ratios = comparison_ratios(comparison, found)
        low, high = median_interval(ratios[: rounds_at_look(len(ratios))], LOOK_CONFIDENCE)
        quality, between, problems = self._quality_and_parity(comparison.plan, found)
        if quality is not None and quality_before is not None:
            losses = quality_losses(quality_before, quality, comparison.plan.precision)
            problems += tuple(f"{one} (baseline)" for one in losses)
        return dataclasses.replace(
            row,
            speed=NOT_GATED if before is None else verdict(ratios, speed_line(before)),
            ratio=float(np.median(ratios)),
            low=low,
            high=high,
            rounds=len(ratios),
            before=before,
            quality=quality,
            psnr_between_db=between,
            problems=problems,
        )

    def _quality_and_parity(
        self, plan: RowPlan, found: Found
    ) -> tuple[Quality | None, float | None, tuple[str, ...]]:
        sr = _result(found[plan])
        if plan.model == FFT_ALONE:
            truth = zero_fill(self._slices.lr, UPSCALE)
            between = psnr_between(sr, truth, float(truth.max()))
            return None, between, parity_loss(between, plan.precision, "NumPy's zero-fill")
        quality = evaluate(np.maximum(sr, 0.0), self._slices.hr, CONVENTION)
        reference = next((one for other, one in found.items() if other.is_reference), None)
        if not plan.lowering or reference is None:
            return quality, None, ()
        truth = _result(reference)
        between = psnr_between(sr, truth, float(truth.max()))
        wanted = evaluate(np.maximum(truth, 0.0), self._slices.hr, CONVENTION)
        losses = quality_losses(wanted, quality, plan.precision)
        return (
            quality,
            between,
            (
                *parity_loss(between, plan.precision),
                *(f"{one} (PyTorch in this run)" for one in losses),
            ),
        )

    def _inputs(self, plan: RowPlan) -> Inputs:
        if plan.model == FFT_ALONE:  # makes its graph itself
            return Inputs(model=self._slices.file, slices=self._slices.file)
        try:
            return Inputs(model=self._variants.path_for(plan), slices=self._slices.file)
        except VariantFailed as exc:
            raise RowFailed(str(exc)) from exc


def _result(one: Measured) -> FloatArray:
    assert one.result is not None
    stored: FloatArray = np.load(one.result)
    return stored


def comparison_ratios(comparison: Comparison, found: Found) -> list[float]:
    """Return a comparison's ratio in each round; none where a row did not run."""
    one, other = found.get(comparison.plan), found.get(comparison.against)
    if one is None or other is None or one.failed or other.failed:
        return []
    return ratios_of(one, other)
