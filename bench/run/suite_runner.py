"""Run the suites of pytest-benchmark, which are part of the source tree and of no wheel.

Also what the suites share: whom they time, and on how many threads.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kspacesr_rt.errors import InputError, KspaceSRError, RegressionError
from kspacesr_rt.runtime.backends import BACKENDS

SUITES = Path(__file__).parents[1] / "suites"
THREADS = 1
"""CPU threads of everything that a suite times."""
TEST_FAILED, BAD_USAGE, NOTHING_CHOSEN = 1, 4, 5
"""Exit codes of pytest."""


def usable_backends(*, model: bool = True) -> list[str]:
    """Return the backends that can run here: those that take a model, or the baselines."""
    return [
        name for name, info in BACKENDS.items() if info.model == model and info.why_not() is None
    ]


def run_suites(
    *, output: Path | None = None, only: Sequence[str] = (), quiet: bool = False
) -> None:
    """Run the suites in an interpreter of their own; what pytest prints goes to stdout.

    Parameters
    ----------
    output
        pytest-benchmark's JSON.
    only
        Words that a benchmark's name must have, such as ``kernels`` or ``openvino``.
    quiet
        Leave out pytest-benchmark's tables.

    Raises
    ------
    InputError
        If this installation has no suites, or no benchmark has all the words.
    RegressionError
        If a benchmark's result was wrong.
    """
    if not SUITES.is_dir():
        raise InputError(
            "the suites are in the source tree, and this installation has none",
            hint="in a clone: pip install -c constraints.txt -e '.[bench]', "
            "then kspacesr-rt bench --suite",
        )
    command = [sys.executable, "-m", "pytest", str(SUITES)]
    if output is not None:
        command += ["--benchmark-json", str(output)]
    if only:
        command += ["-k", " and ".join(only)]
    if quiet:
        command += ["-q", "--benchmark-quiet"]
    code = subprocess.run(command, check=False).returncode
    if code in (BAD_USAGE, NOTHING_CHOSEN):
        raise InputError(
            f"no benchmark has all of: {' '.join(only)}",
            hint="words of suites' and benchmarks' names, such as kernels, openvino, x2-fast",
        )
    if code == TEST_FAILED:
        raise RegressionError(
            "a suite failed: a result is wrong, or could not be computed; pytest says which"
        )
    if code:
        raise KspaceSRError(f"pytest ended with {code}")
