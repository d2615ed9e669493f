"""The process of one row: opens a contestant, and runs it when told to.

A line of JSON in, a line of JSON out; the conductor says when, so that no two rows ever run at
the same time. Whatever a library prints goes to stderr.

Run by `kspacesr_rt.bench.run.scheduler`: ``python -m kspacesr_rt.bench.run.worker ROW MODEL
SLICES``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from kspacesr_rt.bench.run.plans import NARROW, ON_ANY_GPU, PEERS, RowPlan
from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import Lowering
from kspacesr_rt.system.cpu_wait import queued_s
from kspacesr_rt.system.energy import Meter, NoEnergy, open_meter
from kspacesr_rt.system.gpu_state import GpuUnknown, open_gpu

GEMM = "gemm-peak"
"""Contestant that is no model: one square matrix product, for the machine's own peak."""
GEMM_CUDA = "gemm-peak-cuda"
"""The same on the GPU."""
TRIAD = "triad-peak"
"""Contestant that is no model: one pass over memory, for the machine's own bandwidth."""
PEAKS = (GEMM, GEMM_CUDA, TRIAD)
PROFILE_S = 3.0
"""A profile takes so long, or one call."""
REPLAYS = 50
"""Runs without copies that the device's own time is the median of."""
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
    if row.contestant in PEAKS:
        return _open_peak(row)
    if row.contestant in PEERS:
        return _open_peer(row, file, lr)
    return _open_backend(row, file, (lr.shape[2], lr.shape[3]))


def _open_peak(row: RowPlan) -> Runner:
    from kspacesr_rt.export import machine_peaks

    if row.contestant == TRIAD:
        once = machine_peaks.triad(threads=row.threads)
    else:
        once = machine_peaks.gemm(row.precision, threads=row.threads, cuda=row.on_gpu)
    return lambda batch: once()


def _open_peer(row: RowPlan, file: Path, lr: FloatArray) -> Runner:
    from kspacesr_rt.export import pytorch_peers
    from kspacesr_rt.train.checkpoint import load_checkpoint

    generator = load_checkpoint(file).generator
    if row.contestant in ("torch-compile", "torch-cuda-compile"):
        return pytorch_peers.compiled(generator, threads=row.threads, cuda=row.on_gpu)
    if row.contestant == "exporter-graph":
        return pytorch_peers.exporter_graph(generator, lr, threads=row.threads)
    if row.contestant == "openvino-from-torch":
        return pytorch_peers.openvino_from_pytorch(generator, lr, threads=row.threads)
    return pytorch_peers.eager(
        generator,
        precision=row.precision,
        channels_last=row.contestant in NARROW,
        threads=row.threads,
        cuda=row.on_gpu,
    )


def _open_backend(row: RowPlan, file: Path, matrix: tuple[int, int]) -> Runner:
    from kspacesr_rt.bench.run.kernels import FFT_ALONE, fft_alone
    from kspacesr_rt.model.binding import bind
    from kspacesr_rt.model.file import load_model
    from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, baseline_spec, open_backend

    options = BackendOptions(threads=row.threads)
    if row.model == FFT_ALONE:
        alone = fft_alone(cast(Lowering, row.lowering), matrix)
        return open_backend(row.contestant, alone, options).__enter__().run
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
        self._meter: Meter | None = None
        self._device_growth: int | None = None
        self._copied_s, self._calls = 0.0, 0

    def open(self) -> dict[str, Any]:
        """Load libraries and model and compute the first result."""
        held = self._device_bytes()
        started = time.perf_counter()
        batch = self._batch(0)
        self._run = open_runner(self.row, self.file, batch)
        self._run(batch)
        load_s = time.perf_counter() - started
        if held is not None and (now := self._device_bytes()) is not None:
            self._device_growth = max(now - held, 0)
        if self.row.contestant != ON_ANY_GPU:
            with contextlib.suppress(NoEnergy):  # the result's environment says why
                self._meter = open_meter(self.row.on_gpu)
        return {"load_s": load_s}

    def time(self, seconds: float, *, own: bool = False) -> dict[str, Any]:
        """Run one batch again and again for so long, at least once; time every call.

        With `own`, without the time that a single thread waited for a core, where that is counted.
        """
        assert self._run is not None
        batch, times = self._batch(0), list[float]()
        before, copied_s = self._counts(), self._transfer_s()
        ends = time.perf_counter() + seconds
        while not times or time.perf_counter() < ends:
            waited = queued_s() if own and self.row.threads == 1 else None
            started = time.perf_counter()
            self._run(batch)
            elapsed = time.perf_counter() - started
            if waited is not None and (now := queued_s()) is not None:
                elapsed = max(elapsed - (now - waited), 1e-9)
            times.append(elapsed)
        self._copied_s += self._transfer_s() - copied_s
        self._calls += len(times)
        after, joules = self._counts(), None
        if self._meter is not None and before is not None and after is not None:
            joules = self._meter.joules(before, after)
        return {"times_s": times, "energy_j": joules}

    def results(self, to: str) -> dict[str, Any]:
        """Super-resolve every slice and store the results."""
        assert self._run is not None
        if self.row.contestant in PEAKS:
            return {}
        done: list[FloatArray] = []
        for start in range(0, len(self.slices), self.row.batch):
            done += list(self._run(self._batch(start))[:, 0])
        np.save(to, np.stack(done[: len(self.slices)]))
        return {}

    def memory(self) -> dict[str, Any]:
        """Tell the largest resident size this process has had, and what it holds on the GPU.

        The driver knows a process's own device memory, but not in a container; there it is what
        all memory in use rose by while this row alone was opened.
        """
        device = None
        if self.row.on_gpu:
            with contextlib.suppress(GpuUnknown):
                device = open_gpu().process_bytes(os.getpid()) or self._device_growth
        return {
            "peak_rss_bytes": _peak_rss_bytes(),
            "device_bytes": device,
            "engine_bytes": self._engine_bytes(),
            "copies_s": self._copied_s / self._calls if self._copied_s and self._calls else None,
            "device_s": self._device_s(),
            "energy_source": "" if self._meter is None else self._meter.source,
        }

    def profile(self) -> dict[str, Any]:
        """Tell what each group of layers did, for one slice; of profiled backends' models."""
        from kspacesr_rt.bench.run.layer_shares import CALLS
        from kspacesr_rt.bench.run.roofline import group_work
        from kspacesr_rt.model.binding import bind
        from kspacesr_rt.model.file import load_model

        call_s = self.time(0.0)["times_s"][0]
        calls = int(np.clip(PROFILE_S / max(call_s, 1e-9), 1, CALLS))
        model = bind(load_model(self.file), (self.slices.shape[1], self.slices.shape[2]))
        work = group_work(model, self._batch(0), self.row.contestant, self.row.threads, calls=calls)
        return {"groups": [dataclasses.asdict(one) for one in work]}

    def _counts(self) -> tuple[int, ...] | None:
        """Read the energy counter, where there is one that still answers."""
        if self._meter is not None:
            with contextlib.suppress(NoEnergy):
                return self._meter.counts()
        return None

    def _transfer_s(self) -> float:
        """Return the seconds that the backend has spent on copies; 0.0 for what is none."""
        return float(getattr(getattr(self._run, "__self__", None), "transfer_s", 0.0))

    def _device_s(self) -> float | None:
        """Time what is computed without the copies, where the backend can repeat it."""
        replay = getattr(getattr(self._run, "__self__", None), "replay", None)
        if not self.row.on_gpu or replay is None:
            return None
        times = []
        for _ in range(REPLAYS):
            started = time.perf_counter()
            replay(self.row.batch)
            times.append(time.perf_counter() - started)
        return float(np.median(times))

    def _device_bytes(self) -> int | None:
        if not self.row.on_gpu:
            return None
        try:
            return open_gpu().used_bytes()
        except GpuUnknown:
            return None

    def _engine_bytes(self) -> int | None:
        """Return the size of a TensorRT engine: the cache has it, since the row was opened."""
        if self.row.contestant not in ("tensorrt", "tensorrt-rtx"):
            return None
        from kspacesr_rt.model.binding import bind
        from kspacesr_rt.model.file import load_model
        from kspacesr_rt.runtime.tensorrt.cache import EngineCache
        from kspacesr_rt.runtime.tensorrt.inputs import EngineOptions

        model = bind(load_model(self.file), (self.slices.shape[1], self.slices.shape[2]))
        options = EngineOptions(runtime=self.row.contestant)  # type: ignore[arg-type]
        return EngineCache().get_or_build(model, options).path.stat().st_size

    def _batch(self, start: int) -> FloatArray:
        chosen = [(start + i) % len(self.slices) for i in range(self.row.batch)]
        return np.ascontiguousarray(self.slices[chosen][:, None])


def _peak_rss_bytes() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


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
