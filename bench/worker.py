"""The process of one row: opens a contestant, and runs it when told to.

A line of JSON in, a line of JSON out; the conductor says when, so that no two rows ever run at
the same time. Whatever a library prints goes to stderr.

Run by `kspacesr_rt.bench.conductor`: ``python -m kspacesr_rt.bench.worker ROW MODEL SLICES``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.bench.plans import PEERS, RowPlan
from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.kspace import FloatArray

GEMM = "gemm-peak"
"""Contestant that is no model: one square matrix product, for the machine's own peak."""
Runner = Callable[[FloatArray], Any]


def open_runner(row: RowPlan, file: Path, lr: FloatArray) -> Runner:
    """Return what runs a batch of a row's contestant.

    Parameters
    ----------
    row
        What to open.
    file
        The model, or the checkpoint of a peer.
    lr
        A batch ``(n, 1, y, x)``, for its shape.

    Raises
    ------
    KspaceSRError
        If it cannot run here.
    """
    if row.contestant == GEMM:
        from kspacesr_rt.export.pytorch_peers import gemm

        multiply = gemm(row.precision, threads=row.threads)
        return lambda batch: multiply()
    if row.contestant in PEERS:
        return _open_peer(row, file, lr)
    return _open_backend(row, file, (lr.shape[2], lr.shape[3]))


def _open_peer(row: RowPlan, file: Path, lr: FloatArray) -> Runner:
    from kspacesr_rt.export import pytorch_peers as peers
    from kspacesr_rt.train.checkpoint import load_checkpoint

    generator = load_checkpoint(file).generator
    if row.contestant == "torch-compile":
        return peers.compiled(generator, threads=row.threads)
    if row.contestant == "exporter-graph":
        return peers.exporter_graph(generator, lr, threads=row.threads)
    if row.contestant == "openvino-from-torch":
        return peers.openvino_from_pytorch(generator, lr, threads=row.threads)
    narrow = row.contestant == "torch-bf16"
    return peers.eager(
        generator, precision=row.precision, channels_last=narrow, threads=row.threads
    )


def _open_backend(row: RowPlan, file: Path, matrix: tuple[int, int]) -> Runner:
    from kspacesr_rt.backends import BACKENDS, BackendOptions, baseline_spec, open_backend
    from kspacesr_rt.binding import bind
    from kspacesr_rt.model_file import load_model

    options = BackendOptions(threads=row.threads)
    model = load_model(file)
    if not BACKENDS[row.contestant].model:
        spec = baseline_spec(row.contestant, model.spec.upscale, matrix)
        return open_backend(row.contestant, spec, options).__enter__().run
    return open_backend(row.contestant, bind(model, matrix), options).__enter__().run


class Worker:
    """One opened contestant and the slices it is given."""

    def __init__(self, row: RowPlan, file: Path, slices: FloatArray) -> None:
        """Remember what to open; `slices` are LR ``(k, y, x)``."""
        self.row, self.file, self.slices = row, file, slices
        self._run: Runner | None = None

    def open(self) -> dict[str, Any]:
        """Load libraries and model and compute the first result."""
        started = time.perf_counter()
        batch = self._batch(0)
        self._run = open_runner(self.row, self.file, batch)
        self._run(batch)
        return {"load_s": time.perf_counter() - started}

    def time(self, seconds: float) -> dict[str, Any]:
        """Run one batch again and again for so long, at least once; time every call."""
        assert self._run is not None
        batch, times = self._batch(0), list[float]()
        before = _energy_uj()
        ends = time.perf_counter() + seconds
        while not times or time.perf_counter() < ends:
            started = time.perf_counter()
            self._run(batch)
            times.append(time.perf_counter() - started)
        after = _energy_uj()
        joules = None if before is None or after is None else (after - before) * 1e-6
        return {"times_s": times, "energy_j": joules}

    def results(self, to: str) -> dict[str, Any]:
        """Super-resolve every slice and store the results."""
        assert self._run is not None
        if self.row.contestant == GEMM:
            return {}
        done: list[FloatArray] = []
        for start in range(0, len(self.slices), self.row.batch):
            done += list(self._run(self._batch(start))[:, 0])
        np.save(to, np.stack(done[: len(self.slices)]))
        return {}

    def memory(self) -> dict[str, Any]:
        """Tell the largest resident size this process has had."""
        return {"peak_rss_bytes": _peak_rss_bytes()}

    def _batch(self, start: int) -> FloatArray:
        chosen = [(start + i) % len(self.slices) for i in range(self.row.batch)]
        return np.ascontiguousarray(self.slices[chosen][:, None])


def _peak_rss_bytes() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _energy_uj() -> int | None:
    """Read the package energy counter (RAPL) where this user may."""
    try:
        return int(Path("/sys/class/powercap/intel-rapl:0/energy_uj").read_text())
    except (OSError, ValueError):
        return None


def _answers(worker: Worker, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        command = json.loads(line)
        try:
            yield getattr(worker, command.pop("do"))(**command)
        except KspaceSRError as exc:
            yield {"error": str(exc), "hint": exc.hint}
        except Exception as exc:  # a peer may fail in any way; the row shows it
            reason = str(exc).strip().split("\n", 1)[0][:200]
            yield {"error": f"{type(exc).__name__}: {reason}"}


def main() -> None:
    """Answer commands from stdin until it ends."""
    row = RowPlan.from_dict(json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(row, Path(sys.argv[2]), np.load(sys.argv[3]))
    for answer in _answers(worker, iter(sys.stdin)):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
