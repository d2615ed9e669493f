"""From the start of a process to the first written slice, as a router that starts us a slice sees.

What it measures: `kspacesr-rt infer` of one slice of the sample in a new interpreter, by backend;
before each, an interpreter that imports the backend's library and ends. Both are whole processes.
What it leaves out: the operating system's cold file cache (a warm-up run fills it), and what a node
that stays up (`kspacesr-rt serve`) never pays.
How to read it: `beyond_import_s` in the extra information is what is ours: the median of infer's
process less the median of its library's. Compare backends within one run.

Run: ``pytest bench/suites/test_cold_start.py``, or ``kspacesr-rt bench --suite --only cold``.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time

import pytest

from kspacesr_rt.bench.run.suite_runner import THREADS, usable_backends
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.sample import sample_folder

ROUNDS = 5
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}


def run(*arguments):
    """Run an interpreter to its end; its output shows if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("backend", [*usable_backends(), "zero-fill"])
def test_first_slice(benchmark, tmp_path, backend):
    """Time one slice from nothing."""
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[10], study)
    library = BACKENDS[backend].needs or "numpy"
    numbers, imports = itertools.count(), []

    def import_library():
        started = time.perf_counter()
        run("-c", f"import kspacesr_rt, {library}")  # which keeps the library from reporting
        imports.append(time.perf_counter() - started)

    def once():
        output = tmp_path / str(next(numbers))
        options = ["--backend", backend, "--threads", THREADS, "--quiet"]
        run("-m", "kspacesr_rt", "infer", study, output, *options)
        return output

    benchmark.group = "cold start"
    output = benchmark.pedantic(once, setup=import_library, rounds=ROUNDS, warmup_rounds=1)
    assert len(list(output.rglob("*.dcm"))) == 1
    benchmark.extra_info.update(backend=backend, library=library, threads=THREADS)
    if not benchmark.disabled:
        imported = statistics.median(imports[1:])
        benchmark.extra_info["import_s"] = imported
        benchmark.extra_info["beyond_import_s"] = benchmark.stats["median"] - imported
