"""The parity gate on one LR matrix: what a study has need not be what a file was proved on."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from kspacesr_rt.conversion.convert import fp32_reference
from kspacesr_rt.conversion.parity import cases_on, check
from kspacesr_rt.conversion.proof import backend_runner
from kspacesr_rt.conversion.tier_cache import TierCache
from kspacesr_rt.errors import OutputError
from kspacesr_rt.kspace import (
    Matrix,
)
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import Precision
from kspacesr_rt.quality.metrics import json_number
from kspacesr_rt.runtime.self_test_cache import VerificationInputs
from kspacesr_rt.system.progress_messages import report_step


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says of a model on one matrix."""

    failures: tuple[str, ...]
    """A sentence for every number outside the tier's tolerance."""
    psnr_between_db: float
    """The least PSNR to the fp32 file in dB."""


def gate_on(
    matrix: Matrix,
    source: ModelFile,
    converted: ModelFile,
    backend: str,
    tier: str,
    cache: TierCache,
) -> Verdict:
    """Compare a converted model with the fp32 file on slices of one matrix, once a machine.

    Parameters
    ----------
    matrix
        LR ``(rows, columns)``.
    source
        In fp32.
    converted
        The same in another precision.
    backend
        What runs it.
    tier
        What it must keep.
    cache
        Where verdicts are kept.

    Raises
    ------
    ShapeError
        If the model cannot be bound to the matrix.
    BackendUnavailableError
        If the backend cannot run it.
    """
    inputs = {
        **VerificationInputs.of(converted, backend).to_dict(),
        "matrix": list(matrix),
        "tier": tier,
    }
    note = cache.find_note("verdict", inputs)
    if note is not None and isinstance(note.get("failures"), list):
        return Verdict(
            failures=tuple(str(one) for one in note["failures"]),
            psnr_between_db=_decibels(note.get("psnr_between_db")),
        )
    precision: Precision = converted.spec.precision
    report_step(f"proving {precision} on {backend} at {matrix[0]} x {matrix[1]}")
    reference = fp32_reference(source)
    report = check(
        cases_on(matrix, source.spec.upscale),
        reference.run,
        backend_runner(converted, backend),
        backend=backend,
        tier=tier,
        lowering=converted.spec.lowering,
        signs_predicted=converted.spec.data_consistency == "magnitude",
        reference_name=reference.name,
    )
    found = Verdict(
        failures=report.failures,
        psnr_between_db=min(one.psnr_between_db for one in report.agreements),
    )
    note = {
        "failures": list(found.failures),
        "psnr_between_db": json_number(found.psnr_between_db),
    }
    with suppress(OutputError):  # whoever chose the row says that nothing is kept
        cache.keep_note("verdict", inputs, note)
    return found


def _decibels(stored: object) -> float:
    """Return a figure as it was: JSON has no infinity, which equal results have."""
    return float(stored) if isinstance(stored, int | float) else math.inf
