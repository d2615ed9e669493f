"""What a process has open, after os.fork(): both sides go on, and both end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from kspacesr_rt.pipeline.slice_processes.process import why_no_processes
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.sample import sample_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

LIMIT_S = 50
BEGIN = """
import os, sys
import numpy as np
import kspacesr_rt as ks
slices = np.random.default_rng(0).random((5, 24, 20), np.float32)
def opened(streams=1, processes=0):
    return ks.Session(ks.InferOptions(
        backend={backend!r}, streams=streams, batch=1, processes=processes))
"""
FORK = """
child = os.fork()
if not child:
    import signal
    signal.alarm(30)
"""
END = """
    sys.exit(0)
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def in_two_processes(backend, before, child, after=""):
    """Run what is before a fork, what the child does then, and its parent after; both must end."""
    body = "".join(f"    {line}\n" for line in child.splitlines())
    code = BEGIN.format(backend=backend) + before + FORK + body + END + after + "sys.exit(ended)\n"
    # No output is captured: a child that hangs would hold its pipe open, and this test with it.
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as program:
        try:
            return program.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            raise


@pytest.mark.parametrize("backend", ["openvino", "ort-cpu"])
@pytest.mark.parametrize(
    "child",
    [
        pytest.param("", id="exit"),
        pytest.param("del model", id="let go"),
        pytest.param("model.close()", id="close"),
        pytest.param(
            "assert np.array_equal(model(slices), expected)\nmodel(slices[:, :20])\nmodel.close()",
            id="use",
        ),
    ],
)
def test_a_model_that_was_used_before_a_fork_can_be_used_and_closed_after_it(backend, child):
    """OpenVINO's destructors wait for threads that a forked process does not have."""
    if (reason := BACKENDS[backend].why_not()) is not None:
        pytest.skip(reason)
    before = "model = ks.load('x2-fast', backend={!r})\nexpected = model(slices)\n"
    assert in_two_processes(backend, before.format(backend), child) == 0


@pytest.mark.parametrize("closed", [False, True])
def test_sessions_of_several_streams_compute_after_a_fork(closed):
    """Each stream is a thread of OpenVINO's; a child's own sessions end, too."""
    if (reason := BACKENDS["openvino"].why_not()) is not None:
        pytest.skip(reason)
    before = "session = opened(2)\nexpected = session.super_resolve(slices)\n"
    child = (
        "with opened(2) as own:\n    assert np.array_equal(own.super_resolve(slices), expected)\n"
    )
    if closed:
        before += "session.close()\n"
    else:
        child += "assert np.array_equal(session.super_resolve(slices), expected)\n"
    assert in_two_processes("openvino", before, child) == 0


@pytest.mark.skipif(why_no_processes() is not None, reason="processes need Linux")
def test_a_forked_session_has_processes_of_its_own(tmp_path):
    """Two that asked the same ones would read each other's answers."""
    before = (
        "session = opened(processes=1)\n"
        f"session.run({str(sample_folder())!r}, {str(tmp_path / 'one')!r})\n"
        "ids = session.process_ids\nassert ids\n"
    )
    child = (
        f"assert not session.process_ids\n"
        f"session.run({str(sample_folder())!r}, {str(tmp_path / 'two')!r})\n"
        "assert session.process_ids and session.process_ids != ids\n"
        "session.close()\n"
    )
    assert in_two_processes("zero-fill", before, child) == 0
    made = [sorted(p.name for p in (tmp_path / run).rglob("*.dcm")) for run in ("one", "two")]
    assert made[0] == made[1] != []


@pytest.mark.skipif(why_no_processes() is not None, reason="processes need Linux")
def test_a_fork_ends_no_process_of_the_session_that_it_came_from(tmp_path):
    """Nor where a thread waited for one at that moment, which the child would wait for for ever."""
    before = (
        "from kspacesr_rt.pipeline.slice_processes import process\n"
        "session = opened(processes=1)\n"
        f"session.run({str(sample_folder())!r}, {str(tmp_path / 'one')!r})\n"
        "ids = session.process_ids\n"
        "(own,) = process._opened\n"
        "waiting = own._processes[0]._running._process._waitpid_lock\n"
        "waiting.acquire()\n"
    )
    after = (
        "waiting.release()\n"
        f"session.run({str(sample_folder())!r}, {str(tmp_path / 'two')!r})\n"
        "assert session.process_ids == ids\n"
        "session.close()\n"
    )
    assert in_two_processes("zero-fill", before, "", after) == 0
