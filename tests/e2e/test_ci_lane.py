"""The lanes of CI: a test that failed has one more try, and nobody can overlook that it had."""

import os
import subprocess

import pytest
from repository import ROOT

SCRIPT = """
set -euo pipefail
work=$1
. "$2"
lane "a lane" pytest -q -n 1 test_lane.py
try "what comes after it" true
tell_the_end
"""
TESTS = """
import os
import signal
from pathlib import Path

import pytest

seen = Path("seen")


def is_first_time():
    first = not seen.exists()
    seen.touch()
    return first


def test_fine():
    pass


def test_it():
    if {condition}:
        {trouble}
"""
FINE = ("True", "pass")
ONCE = ("is_first_time()", "pytest.fail('not yet')")
ALWAYS = ("True", "pytest.fail('never')")
SKIPS = ("True", "pytest.fail('not yet') if is_first_time() else pytest.skip('later')")
CRASHES = ("is_first_time()", "os.kill(os.getpid(), signal.SIGKILL)")
BROKEN = ("True", "(")


@pytest.mark.parametrize(
    ("case", "code", "tries", "last"),
    [
        (FINE, 0, 1, "== what comes after it"),
        (ONCE, 0, 2, "PASSED ONLY AT THE SECOND TRY: a lane: test_lane.py::test_it"),
        (ALWAYS, 1, 2, "failed: a lane (1)"),
        (SKIPS, 1, 2, "failed: a lane (1)"),
        (CRASHES, 1, 1, "failed: a lane (1)"),
        (BROKEN, 1, 1, "failed: a lane ("),
    ],
    ids=["passes", "fails-once", "fails-twice", "skips-then", "crashes", "is-broken"],
)
def test_what_failed_has_one_more_try_and_is_named(tmp_path, case, code, tries, last):
    """A test that passes at last is no reason to lose a run, nor to forget it."""
    condition, trouble = case
    (tmp_path / "test_lane.py").write_text(TESTS.format(condition=condition, trouble=trouble))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ours = ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "lane", str(tmp_path / "work"), str(ROOT / ".ci" / "lane.sh")],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in ours},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert done.stdout.splitlines()[-1].startswith(last), told
    # The first failure stands there in full; a file that cannot be collected is tried as a file.
    assert ("the second try of what failed" in told) == (tries == 2 or case is BROKEN), told
    assert ("not yet" in told) == (case in (ONCE, SKIPS)), told


BESIDE = """
set -euo pipefail
work=$1
. "$2"
trap stop_all_beside EXIT
says() { echo "$1"; return "$2"; }
beside fine says "not shown" 0
beside broken says "shown" 3
beside slow sleep 600
finish fine
finish broken || echo "broken ended with $?"
echo "the slow one is ${running[*]}"
false
"""


def test_what_runs_beside_is_shown_only_if_it_fails_and_ends_with_the_run(tmp_path):
    """Two builds in one log are hard to read, and one that goes on fills the disk of nobody."""
    script = ["bash", "-c", BESIDE, "lane", str(tmp_path), str(ROOT / ".ci" / "lane.sh")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    shown, ended, slow = done.stdout.splitlines()
    assert (shown, ended) == ("shown", "broken ended with 3")
    with pytest.raises(ProcessLookupError):
        os.kill(int(slow.split()[-1]), 0)
