"""A run on a backend that copies one batch while it computes another."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import dcmread

from kspacesr_rt import infer
from kspacesr_rt.errors import BackendUnavailableError, KspaceSRError
from kspacesr_rt.pipeline import backend_pool, stage_timer
from kspacesr_rt.pipeline.compute import BatchRunner
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.quality import result_checks
from kspacesr_rt.quality.half_spectra import HalfSpectra
from kspacesr_rt.runtime.backends import BatchResult, baseline_spec

AT_ONCE = 2
"""Batches that may be under way."""


class Overlapped:
    """A backend whose batches are computed when their results are wanted."""

    def __init__(self, backend, log, *, fails=None, sums=False):
        self._backend, self.log, self._fails, self._sums = backend, log, fails or {}, sums
        self.spec, self.notes, self.transfer_s = backend.spec, backend.notes, 0.0
        self.under_way, self._numbers = set(), iter(range(1000))

    def run(self, batch):
        raise AssertionError("a run that may overlap starts batches")

    def start(self, batch):
        number = next(self._numbers)
        self.log.append(("start", number))
        self.under_way.add(number)
        assert len(self.under_way) <= AT_ONCE, "more memory than was asked for"
        if (number, "start") in self._fails:
            self.under_way.remove(number)
            raise self._fails[number, "start"]
        return Batch(self, number, batch.copy())

    def finish(self, number, batch):
        self.log.append(("result", number))
        self.under_way.remove(number)
        if (number, "result") in self._fails:
            raise self._fails[number, "result"]
        slices = self._backend.run(batch)
        return BatchResult(slices=slices, sums=self._summed(slices, batch), transfer_s=0.25)

    def _summed(self, slices, batch):
        if not self._sums:
            return ()
        made = []
        for sr, lr in zip(slices[:, 0], batch[:, 0], strict=True):
            unit = np.abs(lr).max()
            made.append(HalfSpectra.of(sr / unit, lr / unit).sums())
        return tuple(made)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        assert not self.under_way, "closed with batches under way"


class Batch:
    def __init__(self, backend, number, batch):
        self._backend, self._number, self._batch = backend, number, batch

    def done(self):
        return False

    def result(self):
        return self._backend.finish(self._number, self._batch)


@pytest.fixture
def overlap(monkeypatch):
    """Return ``overlap(fails, sums)``, which lets every backend overlap, and returns its log."""
    real = backend_pool.open_backend

    def put(fails=None, *, sums=False):
        log = []
        monkeypatch.setattr(
            backend_pool,
            "open_backend",
            lambda *what: Overlapped(real(*what), log, fails=fails, sums=sums),
        )
        return log

    return put


ONE = InferOptions(backend="zero-fill", batch=1, preview=False)


def test_a_batch_is_started_before_the_one_before_it_is_waited_for(study, tmp_path, overlap):
    """Or a GPU stands still while the host copies; order and bytes are those of one at a time."""
    infer(study, tmp_path / "plain", ONE)
    log = overlap()
    report = infer(study, tmp_path / "out", ONE)
    assert report.count("written") == 3
    assert log == [
        ("start", 0),
        ("start", 1),
        ("result", 0),
        ("start", 2),
        ("result", 1),
        ("result", 2),
    ]
    pixels = [
        [(path.name, dcmread(path).PixelData) for path in sorted((tmp_path / where).rglob("*.dcm"))]
        for where in ("out", "plain")
    ]
    assert len(pixels[0]) == 3
    assert pixels[0] == pixels[1]


def test_copies_are_counted_beside_computing(study, tmp_path, overlap):
    """They are no part of the time that passes."""
    overlap()
    report = infer(study, tmp_path / "out", ONE)
    seconds = {one.name: one.busy_s for one in report.stages}
    assert seconds["transfer"] == pytest.approx(0.75)
    assert 0.0 < seconds["infer"] <= report.seconds["total"]


def test_what_passes_between_start_and_result_is_not_the_devices(monkeypatch):
    """A run that waits for its disk would be told to buy a faster GPU."""
    now = [0.0]
    clock = SimpleNamespace(
        perf_counter=lambda: now[0], thread_time=lambda: 0.0, monotonic=lambda: now[0]
    )
    monkeypatch.setattr(stage_timer, "time", clock)
    spec = baseline_spec("zero-fill", 2, (4, 4))

    def passing(seconds, result):
        def pass_and_return(*args):
            now[0] += seconds
            return result

        return pass_and_return

    started = SimpleNamespace(
        done=lambda: True,
        result=passing(2.0, BatchResult(slices=np.ones((1, 1, 8, 8), np.float32))),
    )
    backend = SimpleNamespace(spec=spec, notes=(), start=passing(1.0, started))
    pool = SimpleNamespace(
        streams=1, get=lambda matrix: backend, judging=lambda matrix: contextlib.nullcontext()
    )
    run = SimpleNamespace(timer=stage_timer.StageTimer(), notes={}, backends=pool)
    batch = BatchRunner(run).start((4, 4), [SimpleNamespace(values=np.ones((4, 4), np.float32))])
    now[0] += 100.0  # the next slices are read
    batch.result()
    assert run.timer.seconds["infer"] == 3.0


@pytest.mark.parametrize("where", ["start", "result"])
def test_a_batch_that_memory_does_not_hold_fails_alone(study, tmp_path, overlap, where):
    """The slices of the batch that met it are named, and the others are written."""
    log = overlap({(1, where): MemoryError("no room")})
    report = infer(study, tmp_path / "out", ONE)
    plain = [one.outcome for one in report.slices]
    assert plain == ["written", "failed", "written"]
    assert ("result", 2) in log


@pytest.mark.parametrize("where", ["start", "result"])
def test_a_device_that_is_lost_ends_the_run(study, tmp_path, overlap, monkeypatch, where):
    """What is under way is given up, not left: its memory is the backend's again."""
    log = overlap({(1, where): BackendUnavailableError("the GPU failed while it computed")})
    with pytest.raises(KspaceSRError, match="the GPU failed"):
        infer(study, tmp_path / "out", ONE)
    started = {number for what, number in log if what == "start"}
    taken = {number for what, number in log if what == "result"}
    assert started - taken == ({1} if where == "start" else set())
    monkeypatch.undo()
    again = infer(study, tmp_path / "out", ONE)  # the same command goes on
    assert again.exit_code == 0
    assert again.count("written") + again.count("present") == 3


def test_sums_reach_the_check_of_their_slice(study, tmp_path, overlap, monkeypatch):
    """And nothing is transformed for the check; figures are those of NumPy."""
    plain = infer(study, tmp_path / "plain", ONE)
    overlap(sums=True)
    measured = []
    measure = result_checks.measure_slice

    def seen(*slices, sums, **how):
        measured.append(sums)
        return measure(*slices, sums=sums, **how)

    monkeypatch.setattr(result_checks, "measure_slice", seen)
    report = infer(study, tmp_path / "out", dataclasses.replace(ONE, batch=2))
    assert len(measured) == 3
    assert all(sums is not None for sums in measured)
    for one, other in zip(report.slices, plain.slices, strict=True):
        assert one.added_energy_ratio == pytest.approx(other.added_energy_ratio, abs=1e-9)
        assert one.tissue_drift == other.tissue_drift
