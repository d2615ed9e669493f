"""The fastest backend and precision on this machine that keep a tier, made at first use.

Every row (a backend and a precision) is timed as a run will use it. Then, the fastest first, its
model is converted and proved on that backend, on the sample and on slices of the study's matrices.
The first row that keeps the tier is taken; if none but fp32 does, or none is faster, it is fp32,
and that is said. Nothing is chosen silently, and what was made is kept for the next run.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kspacesr_rt.conversion.convert import converted
from kspacesr_rt.conversion.matrix_gate import gate_on
from kspacesr_rt.conversion.mixed_precision import ROUNDED_RESULTS
from kspacesr_rt.conversion.row_speed import seconds_per_slice
from kspacesr_rt.conversion.tier_cache import TierCache
from kspacesr_rt.errors import InputError, KspaceSRError, OutputError, ShapeError, first_line
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.graph.quantisation import (
    QUANTISED_TYPES,
    image_readers,
    quantisable,
    quantised,
    with_named_convolutions,
)
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile, parse_model
from kspacesr_rt.model.spec import Precision, Tier
from kspacesr_rt.quality.metrics import json_number
from kspacesr_rt.runtime.backends import BackendOptions, auto_plugins, backend_info
from kspacesr_rt.runtime.selection import AUTO, PREFERENCE, BackendChoice, verified_here
from kspacesr_rt.runtime.self_test_cache import VerificationInputs
from kspacesr_rt.system.cpu_wait import queued_s
from kspacesr_rt.system.progress_messages import report_step
from kspacesr_rt.system.quantities import agreement_text

NARROW: dict[Tier, tuple[Precision, ...]] = {
    "exact": (),
    "fast": ("bf16", "fp16"),
    "max": ("int8", "fp8", "bf16", "fp16"),
}
"""Tier to the precisions that may keep it, besides fp32."""
TRIED: dict[str, tuple[Precision, ...]] = {
    "ort-cpu": ("int8", "fp16"),
    "openvino": ("bf16", "int8", "fp16"),
    "ort-cuda": ("fp16", "int8"),
    "ort-tensorrt": ("fp16", "bf16", "int8"),
    "tensorrt": ("fp16", "bf16", "int8", "fp8"),
    "tensorrt-rtx": ("fp16", "bf16", "int8", "fp8"),
}
"""Backend to the precisions that it has kernels for; CPUs emulate fp8, in minutes a slice."""
BUSY_SHARE = 0.25
"""Waiting for a core, over the time that rows were timed: from there on other work decided too."""
LEAST_GAIN = 0.05
"""Share of the time of fp32 that a narrower row must save, or exactness is not given up for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierRow:
    """A backend and a precision, and what was found out about them."""

    backend: str
    """What runs it."""
    precision: Precision
    """Of the CNN."""
    seconds: float | None = None
    """That a slice takes, of those computed side by side; None if it does not run."""
    psnr_between_db: float | None = None
    """The least that the gate found to fp32; None if it was not asked, or not reached."""
    remark: str = ""
    """Why it was not taken, in a sentence."""

    @property
    def name(self) -> str:
        """What it is in words."""
        return f"{self.precision} on {self.backend}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "ms_per_slice": None if self.seconds is None else round(1e3 * self.seconds, 3),
            "psnr_between_db": json_number(self.psnr_between_db)
            if self.psnr_between_db is not None
            else None,
            "remark": self.remark,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TierChoice:
    """What computes for a tier, and what else was tried."""

    tier: Tier
    """What was asked for."""
    matrices: tuple[Matrix, ...]
    """LR matrices that it was proved on; the first one is what was timed."""
    row: TierRow
    """What is taken."""
    rows: tuple[TierRow, ...]
    """Every row that was tried, the taken one too, the fastest first."""
    model: ModelFile
    """What runs: the fp32 file, or what was converted from it."""
    cached: bool = False
    """Whether an earlier run found it out."""
    notes: tuple[str, ...] = ()
    """What a user should know."""

    def as_text(self) -> str:
        """Return what was taken, and below it what else was tried."""
        rows, columns = self.matrices[0]
        took = f"{_ms(self.row.seconds)} a slice of {rows} x {columns}"
        head = f"tier {self.tier}: {self.row.name}, {took}"
        others = [
            f"{one.name} {_ms(one.seconds)}" + (f" ({one.remark})" if one.remark else "")
            for one in self.rows
            if one != self.row
        ]
        if self.row.psnr_between_db is not None and math.isfinite(self.row.psnr_between_db):
            head += f", at least {agreement_text(self.row.psnr_between_db)} to fp32"
        if self.row.precision == "fp32":
            head += " (no narrower row that keeps the tier is faster here)"
        return "\n".join([head, *(f"  tried: {one}" for one in others)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "asked": self.tier,
            "backend": self.row.backend,
            "precision": self.row.precision,
            "matrices": [list(matrix) for matrix in self.matrices],
            "cached": self.cached,
            "rows": [one.to_dict() for one in self.rows],
        }


def _ms(seconds: float | None) -> str:
    return "does not run" if seconds is None else f"{1e3 * seconds:.1f} ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class TierSearch:
    """What a choice depends on."""

    tier: Tier
    """What is asked for: ``fast`` or ``max``."""
    model: ModelFile
    """In fp32."""
    exact: BackendChoice
    """What computes without a tier; it was verified."""
    options: BackendOptions
    """Threads of the run."""
    streams_of: Callable[[str], int]
    """Backend to the calls that the run makes side by side."""
    cache: TierCache
    """Where models, verdicts and choices are kept."""

    def choose(self, matrices: Sequence[Matrix]) -> TierChoice:
        """Return what computes: the fastest row that keeps the tier on every matrix.

        Parameters
        ----------
        matrices
            LR ``(rows, columns)`` of the study, the most frequent first.

        Raises
        ------
        KspaceSRError
            If not even fp32 runs any longer.
        """
        inputs = self._inputs(matrices)
        if (kept := self._kept(inputs)) is not None:
            return kept
        able = [matrix for matrix in matrices if _is_bindable(self.model, matrix)]
        found = self._search(able or [self.model.spec.matrix])
        note = {
            "matrices": [list(matrix) for matrix in found.matrices],
            "backend": found.row.backend,
            "precision": found.row.precision,
            "rows": [one.to_dict() for one in found.rows],
        }
        try:
            self.cache.keep_note("choice", inputs, note)
        except OutputError as exc:
            notes = (*found.notes, f"what was found for tier {self.tier} was not kept: {exc}")
            return dataclasses.replace(found, notes=notes)
        return found

    def _inputs(self, matrices: Sequence[Matrix]) -> dict[str, Any]:
        backends = self._backends()
        each = [VerificationInputs.of(self.model, name) for name in backends]
        return {
            "tier": self.tier,
            "model": self.model.spec.name,
            "model_sha256": each[0].model_sha256,
            "machine": each[0].machine,
            "versions": {one.backend: one.versions for one in each},
            "threads": self.options.threads,
            "streams": {name: self.streams_of(name) for name in backends},
            "matrices": [list(matrix) for matrix in matrices],
        }

    def _backends(self) -> list[str]:
        """Return what may compute: what the user named, or all that can run here."""
        if self.exact.asked != AUTO:
            return [self.exact.backend]
        known = (*auto_plugins(), *PREFERENCE)
        usable = [name for name in known if backend_info(name).why_not() is None]
        return [self.exact.backend, *(name for name in usable if name != self.exact.backend)]

    def _kept(self, inputs: dict[str, Any]) -> TierChoice | None:
        note = self.cache.find_note("choice", inputs)
        if note is None:
            return None
        try:
            rows = tuple(_row_of(one) for one in note["rows"])
            matrices = tuple((int(y), int(x)) for y, x in note["matrices"])
            taken = next(
                row
                for row in rows
                if (row.backend, row.precision) == (note["backend"], note["precision"])
            )
        except (LookupError, TypeError, ValueError, StopIteration):
            return None
        model: ModelFile | None = self.model
        if taken.precision != "fp32":
            model = self.cache.find_model(self._model_inputs(taken.backend, taken.precision))
        if model is None or taken.seconds is None or not matrices:
            return None
        return TierChoice(
            tier=self.tier,
            matrices=matrices,
            row=taken,
            rows=rows,
            model=model,
            cached=True,
        )

    def _search(self, matrices: Sequence[Matrix]) -> TierChoice:
        began, waited = time.perf_counter(), queued_s()
        waiting, settled, notes = self._timed(matrices[0])
        if waited is not None and (now := queued_s()) is not None:
            share = (now - waited) / (time.perf_counter() - began)
            notes += [_busy_note(self.tier)] if share > BUSY_SHARE else []
        made: dict[tuple[str, Precision], ModelFile] = {}
        while True:
            waiting.sort(key=_cost)
            row = waiting.pop(0)
            if row.precision == "fp32":
                model = self.model
                break
            key = (row.backend, row.precision)
            try:
                if key not in made:
                    made[key], note = self._converted(*key)
                    notes += [note] if note else []
                    if row.precision in QUANTISED_TYPES:  # some layers stayed in fp32
                        row = dataclasses.replace(
                            row, seconds=self._seconds(made[key], row.backend, matrices[0])
                        )
                        waiting.append(row)
                        continue
                row = self._proved(row, made[key], matrices)
            except KspaceSRError as exc:
                settled.append(dataclasses.replace(row, remark=first_line(exc)))
                continue
            if row.remark:
                settled.append(row)
                continue
            model = made[key]
            break
        slower = [dataclasses.replace(one, remark=_why_slower(one, row)) for one in waiting]
        rows = sorted([row, *slower, *settled], key=lambda one: one.seconds or math.inf)
        return TierChoice(
            tier=self.tier,
            matrices=tuple(matrices),
            row=row,
            rows=tuple(rows),
            model=model,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _timed(self, matrix: Matrix) -> tuple[list[TierRow], list[TierRow], list[str]]:
        """Return rows that run, those that do not, and notes."""
        running, others, notes = [], [], []
        for backend in self._backends():
            try:
                if backend != self.exact.backend:
                    verification, _, note = verified_here(self.model, backend, self.options)
                    notes += [note] if note else []
                    if not verification.passed:
                        remark = f"only {verification.psnr_between_db:.1f} dB in fp32"
                        others.append(TierRow(backend=backend, precision="fp32", remark=remark))
                        continue
                seconds = self._seconds(self.model, backend, matrix)
            except ShapeError:
                raise
            except KspaceSRError as exc:
                if backend == self.exact.backend:
                    raise
                others.append(TierRow(backend=backend, precision="fp32", remark=first_line(exc)))
                continue
            running.append(TierRow(backend=backend, precision="fp32", seconds=seconds))
            for precision in TRIED.get(backend, ()):
                if precision not in NARROW[self.tier]:
                    continue
                row = TierRow(backend=backend, precision=precision)
                try:
                    draft = drafted(self.model, precision, backend)
                    seconds = self._seconds(draft, backend, matrix)
                    running.append(dataclasses.replace(row, seconds=seconds))
                except KspaceSRError as exc:
                    others.append(dataclasses.replace(row, remark=first_line(exc)))
        return running, others, notes

    def _seconds(self, model: ModelFile, backend: str, matrix: Matrix) -> float:
        report_step(f"tier {self.tier}: timing {model.spec.precision} on {backend}")
        options = dataclasses.replace(self.options, streams=self.streams_of(backend))
        return seconds_per_slice(model, backend, matrix, options)

    def _model_inputs(self, backend: str, precision: Precision) -> dict[str, Any]:
        return {
            **VerificationInputs.of(self.model, backend).to_dict(),
            "model": self.model.spec.name,
            "precision": precision,
        }

    def _converted(self, backend: str, precision: Precision) -> tuple[ModelFile, str]:
        """Return a proved model for a backend, and why it was not kept, if so."""
        inputs = self._model_inputs(backend, precision)
        if (found := self.cache.find_model(inputs)) is not None:
            return found, ""
        proved = converted(
            self.model,
            precision,
            lowering=self.model.spec.lowering,
            runtime=backend,
            backend=backend,
            advise=False,
        )
        note = ""
        try:
            self.cache.keep_model(inputs, proved.content)
        except OutputError as exc:
            note = f"the {precision} model for tier {self.tier} was not kept: {exc}"
        return parse_model(proved.content, name=f"{self.model.spec.name}.onnx"), note

    def _proved(self, row: TierRow, model: ModelFile, matrices: Sequence[Matrix]) -> TierRow:
        """Return a row with what the gate says of it on every matrix."""
        least = math.inf
        for matrix in matrices:
            verdict = gate_on(matrix, self.model, model, row.backend, self.tier, self.cache)
            if verdict.failures:
                return dataclasses.replace(row, remark=verdict.failures[0])
            least = min(least, verdict.psnr_between_db)
        return dataclasses.replace(row, psnr_between_db=least)


def _is_bindable(model: ModelFile, matrix: Matrix) -> bool:
    try:
        bind(model, matrix)
    except ShapeError:
        return False
    return True


def _row_of(stored: dict[str, Any]) -> TierRow:
    """Read what `TierRow.to_dict` wrote."""
    ms = stored["ms_per_slice"]
    return TierRow(
        backend=stored["backend"],
        precision=stored["precision"],
        seconds=None if ms is None else float(ms) / 1e3,
        psnr_between_db=stored["psnr_between_db"],
        remark=str(stored["remark"]),
    )


def _busy_note(tier: Tier) -> str:
    return (
        f"other work ran while rows were timed for tier {tier}: what was chosen may not be the "
        "fastest; `kspacesr-rt cache prune --all` lets it be chosen anew"
    )


def _cost(row: TierRow) -> float:
    """Return what rows are ordered by: seconds, with a bonus for exactness."""
    seconds = math.inf if row.seconds is None else row.seconds
    return seconds * (1.0 - LEAST_GAIN) if row.precision == "fp32" else seconds


def _why_slower(row: TierRow, taken: TierRow) -> str:
    if row.precision == "fp32" or taken.precision != "fp32" or row.seconds is None:
        return ""
    return f"saves less than {LEAST_GAIN:.0%} of the time of {taken.name}"


def drafted(model: ModelFile, precision: Precision, backend: str) -> ModelFile:
    """Return a model as fast as it can be in a precision, for a stopwatch alone.

    Its 8-bit ranges are made up, and no layer stays in fp32 that need not: what it computes is
    meaningless. Choosing ranges and layers well takes a minute, which a row that is no faster at
    its best is not worth.

    Raises
    ------
    ExportError
        If the graph cannot be brought to that precision.
    """
    proto = model.proto
    if precision in QUANTISED_TYPES:
        proto = with_named_convolutions(proto)
        layers = quantisable(proto)
        names = [name for layer in layers for name in (layer.input[0], layer.output[0])]
        proto = quantised(
            proto,
            precision,
            dict.fromkeys(names, np.float32(1.0)),
            wide=image_readers(proto),
            results=precision == "int8" and backend in ROUNDED_RESULTS,
        )
    else:
        proto = narrowed(proto, precision)
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, proto=proto, spec=spec)


def require_wide(model: ModelFile) -> None:
    """Refuse a tier for a file whose precision was chosen already.

    Raises
    ------
    InputError
        If it is not in fp32, or takes k-space.
    """
    if model.spec.input == "kspace":
        raise InputError(
            f"a tier is chosen on slices of images, and {model.name} takes k-space",
            hint="leave the tier out, or convert the file: kspacesr-rt convert MODEL -o OUT "
            "--precision bf16",
        )
    if model.spec.precision != "fp32":
        raise InputError(
            f"a tier chooses the precision of an fp32 file, and {model.name} is in "
            f"{model.spec.precision}",
            hint="leave the tier out, or name the fp32 file",
        )
