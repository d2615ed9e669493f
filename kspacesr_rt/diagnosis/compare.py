"""Run two sides on one input, value by value, within a memory limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from kspacesr_rt.diagnosis.findings import Difference, Findings, Row
from kspacesr_rt.diagnosis.graphs import FlatGraph, Pairing, flat_graph, pair
from kspacesr_rt.diagnosis.runners import Runner
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.slice_arrays import network_input

MEMORY_BYTES = 2 * 1024**3
"""Bound on what one pass exposes."""
COPIES = 6
"""How often a value exists while it is compared: the runtime's and ours on both sides, and float64
while a difference is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A model on a backend."""

    bound: BoundModel
    """The model, bound to the matrix of the input."""
    runner: Runner
    """What runs it."""

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.bound.spec.name} ({self.bound.spec.precision}) on {self.runner.name}"

    def graph(self) -> FlatGraph:
        """Return what the backend gives its runtime, flat."""
        given = self.runner.rewritten(self.bound.proto)
        return flat_graph(replace(self.bound, proto=given))


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosisResult:
    """Findings with what a repro needs."""

    findings: Findings
    """What was found."""
    sides: tuple[Side, Side]
    """What was compared."""
    graphs: tuple[FlatGraph, FlatGraph]
    """Their flat graphs."""
    lr: FloatArray
    """The input, ``(1, 1, y, x)`` float32."""
    outputs: tuple[Any, Any]
    """The results, nothing else exposed."""


def diagnose(
    first: Side,
    second: Side,
    lr: FloatArray,
    *,
    source: str,
    tolerance: float = 1e-4,
    memory_bytes: int = MEMORY_BYTES,
) -> DiagnosisResult:
    """Compare two sides value by value and keep what a repro needs.

    Parameters
    ----------
    first, second
        What is trusted, and what is suspected.
    lr
        Shape ``(y, x)``, float32, finite; the matrix both are bound to.
    source
        Where it comes from, in words.
    tolerance
        Largest relative error, by norm and by maximum, that is agreement.
    memory_bytes
        About what the exposed values of one pass may take.

    Raises
    ------
    InputError
        If the sides have different upscales or matrices, or the input cannot be used.
    """
    if first.bound.spec.upscale != second.bound.spec.upscale:
        raise InputError(
            f"the models have different upscales: {first.bound.spec.upscale} and "
            f"{second.bound.spec.upscale}",
            hint="compare models of one upscale",
        )
    if not 0.0 < tolerance < 1.0:
        raise InputError(f"a tolerance of {tolerance} is not between 0 and 1")
    matrices = {lr.shape, first.bound.spec.matrix, second.bound.spec.matrix}
    if len(matrices) != 1 or not np.isfinite(lr).all():
        raise InputError("the input does not fit the matrix, or is not finite")
    batch = network_input(lr, first.bound.spec)
    graphs = (first.graph(), second.graph())
    outputs = tuple(
        _read(side, graph, batch, [])[OUTPUT_NAME]
        for side, graph in zip((first, second), graphs, strict=True)
    )
    pairing = pair(*graphs)
    rows: list[Row] = []
    passes = 0
    for chunk in _chunks(graphs, pairing, memory_bytes):
        rows += _compare_chunk(first, second, graphs, pairing, batch, chunk)
        passes += 1
    findings = Findings(
        sides=(first.title, second.title),
        matrix=first.bound.spec.matrix,
        source=source,
        tolerance=tolerance,
        rows=tuple(rows),
        unpaired=pairing.unpaired,
        output=Difference.between(*outputs),
        passes=passes,
    )
    return DiagnosisResult(
        findings=findings,
        sides=(first, second),
        graphs=graphs,
        lr=batch,
        outputs=(outputs[0], outputs[1]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """A value, and the part of the second graph that makes it from known ones."""

    value: str
    nodes: tuple[Any, ...]
    taken: tuple[str, ...]
    """Values of the second graph."""
    sources: dict[str, str]
    """The same to their partners in the first."""


def _chunks(
    graphs: tuple[FlatGraph, FlatGraph], pairing: Pairing, memory_bytes: int
) -> Iterator[list[_Step]]:
    partner = {b: a for a, b in pairing.pairs.items()} | {INPUT_NAME: INPUT_NAME}
    chunk: list[_Step] = []
    sizes: dict[str, int] = {}
    for a, b in pairing.pairs.items():
        nodes, taken = graphs[1].segment(b, set(partner) - {b})
        step = _Step(
            value=a,
            nodes=tuple(nodes),
            taken=tuple(taken),
            sources={name: partner[name] for name in taken},
        )
        needed = {a, *step.sources.values()}
        added = {name: graphs[0].size_bytes(name) for name in needed - set(sizes)}
        if chunk and COPIES * (sum(sizes.values()) + sum(added.values())) > memory_bytes:
            yield chunk
            chunk, sizes = [], {}
            added = {name: graphs[0].size_bytes(name) for name in needed}
        chunk.append(step)
        sizes |= added
    if chunk:
        yield chunk


def _read(side: Side, graph: FlatGraph, batch: FloatArray, names: list[str]) -> dict[str, Any]:
    wanted = [OUTPUT_NAME, *(name for name in names if name not in (OUTPUT_NAME, INPUT_NAME))]
    fed = {INPUT_NAME: batch}
    results = side.runner.run(graph.whole(batch, wanted), graph.feeds(fed))
    return dict(zip(wanted, results, strict=True)) | {INPUT_NAME: batch}


def _compare_chunk(
    first: Side,
    second: Side,
    graphs: tuple[FlatGraph, FlatGraph],
    pairing: Pairing,
    batch: FloatArray,
    chunk: list[_Step],
) -> list[Row]:
    needed = {step.value for step in chunk} | {a for s in chunk for a in s.sources.values()}
    values = _read(first, graphs[0], batch, sorted(needed))
    partners = [pairing.pairs[step.value] for step in chunk]
    accumulated = {}
    others = _read(second, graphs[1], batch, partners)
    for step, b in zip(chunk, partners, strict=True):
        accumulated[step.value] = Difference.between(values[step.value], others[b])
    del others
    rows = []
    for step, b in zip(chunk, partners, strict=True):
        fed = {name: _fed(values[a]) for name, a in step.sources.items()}
        made = second.runner.run(graphs[1].excerpt(step.nodes, fed, [b]), graphs[1].feeds(fed))
        rows.append(
            Row(
                value=step.value,
                partner=b,
                paired_by=pairing.by[step.value],
                place=graphs[0].places[step.value],
                shape=tuple(np.shape(values[step.value])),
                dtypes=(_type(graphs[0], step.value), _type(graphs[1], b)),
                accumulated=accumulated[step.value],
                own=Difference.between(values[step.value], made[0]),
            )
        )
    return rows


def _fed(array: Any) -> Any:
    values = np.asarray(array)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _type(graph: FlatGraph, name: str) -> str:
    return str(TensorProto.DataType.Name(graph.types.get(name, 0))).lower()
