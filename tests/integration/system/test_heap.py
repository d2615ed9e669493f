"""Freed memory is used again, in processes of ours, unless their user chose otherwise."""

import os
import subprocess
import sys

import pytest

from kspacesr_rt.system import heap

GLIBC = pytest.mark.skipif(not heap._is_glibc(), reason="mallopt is glibc's")
FAULTS = """
import resource, sys
import numpy as np
from kspacesr_rt.system.heap import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    first = np.ones(1 << 18)  # 2 MB each, all free at the end of a turn
    second, third = first + 1, first + 2
    del first, second, third
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(word, **variables):
    ours = {name: one for name, one in os.environ.items() if not name.startswith(heap.CHOSEN_BY)}
    found = subprocess.run(
        [sys.executable, "-c", FAULTS, word], env=ours | variables,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept, faults = found.stdout.split()
    return kept, int(faults)


@GLIBC
def test_pages_are_used_again():
    """Without, each turn asks the system for its pages anew."""
    _, before = run("as it is")
    kept, after = run("kept")
    assert kept == "True"
    assert after < before / 2


@GLIBC
@pytest.mark.parametrize(
    "variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"]
)
def test_what_a_user_chose_stays(variable):
    """Whoever sets these has measured something."""
    value = "glibc.malloc.arena_max=3" if variable == "GLIBC_TUNABLES" else "3"
    assert run("kept", **{variable: value})[0] == "False"
