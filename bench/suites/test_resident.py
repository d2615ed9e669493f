"""The second series of a service beside a start of its own: what a resident session saves.

What it measures: the whole of a run (scan, decode, run, check, write and verify every file) of a
series, with a session that has met this matrix before, as `serve` and `watch` keep one, and with
one that is opened for the series, as a process of its own does.
What it leaves out: loading Python and the libraries (the cold-start suite has that), the network,
and the silence that tells a node that a series is complete.
How to read it: ``opened`` over ``resident`` is how many times sooner a service's second series is
ready. The model, its choice and its binding cost the same for any series, so the factor falls as
slices become more, or larger.

Run: ``pytest bench/suites/test_resident.py``, or ``kspacesr-rt bench --suite --only resident``.
"""

import itertools
import os

import pytest

from kspacesr_rt.bench.run.sample_series import cut_sample
from kspacesr_rt.bench.run.suite_runner import THREADS, usable_backends
from kspacesr_rt.pipeline import InferOptions, Session

ROUNDS = 7
SLICES = int(os.environ.get("KSPACESR_RT_SLICES", "20"))
SERIES = ((3, 64), (3, 256), (SLICES, 256))
"""Slices, and rows and columns cut out of the sample: a localizer, a few slices, a whole series."""


@pytest.fixture(scope="module", params=SERIES, ids=lambda one: f"{one[0]}x{one[1]}")
def series(request, tmp_path_factory):
    """Write the middle of some slices of the sample as a series of its own."""
    n_slices, size = request.param
    folder = tmp_path_factory.mktemp(f"{n_slices}x{size}")
    for number, dataset in enumerate(cut_sample(n_slices, size)):
        dataset.save_as(folder / f"{number:04}.dcm")
    return folder


@pytest.mark.parametrize("kept", ["opened", "resident"])
@pytest.mark.parametrize("backend", usable_backends())
def test_series(benchmark, series, tmp_path, backend, kept):
    """Time whole runs of one series, one after another."""
    options = InferOptions(model="x2-fast", backend=backend, threads=THREADS)
    benchmark.group = f"{series.name[:-1]}, {backend}"
    outputs = (tmp_path / str(number) for number in itertools.count())
    resident = Session(options)
    resident.run(series, next(outputs))

    def run(output):
        if kept == "resident":
            return resident.run(series, output)
        with Session(options) as session:
            return session.run(series, output)

    report = benchmark.pedantic(
        run, setup=lambda: ((next(outputs),), {}), rounds=ROUNDS, warmup_rounds=1
    )
    resident.close()
    assert report.exit_code == 0
