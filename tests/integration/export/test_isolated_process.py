"""Work in a process of its own, beside what the one that asked for it has left behind."""

from __future__ import annotations

import gc
import os
import sys
import time

import pytest

from kspacesr_rt.export.isolated_process import TimeLimitError, in_own_process


class Left:
    """Garbage in a circle, as of a runtime whose threads a fork does not have."""

    def __init__(self, freed) -> None:
        self.itself, self._freed, self._owner = self, freed, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self._owner:
            self._freed.touch()


def test_what_the_parent_left_to_the_collector_is_not_freed_in_the_child(tmp_path):
    """OpenVINO's requests wait there, for ever, for threads that are not there."""
    freed = tmp_path / "freed"
    gc.disable()
    try:
        Left(freed)
        in_own_process(gc.collect, "collecting")
    finally:
        gc.enable()
    assert not freed.exists()


def test_nothing_is_collected_before_the_child_has_put_it_aside(tmp_path):
    """Python's own code in a new process would free it, and did: an export hung until its limit."""
    seen = tmp_path / "seen"
    parent = os.getpid()

    def note() -> None:  # hooks cannot be taken back: of this test's child alone
        if os.getppid() == parent and seen.parent.is_dir() and not seen.exists():
            seen.write_text(str(gc.isenabled()))

    os.register_at_fork(after_in_child=note)
    assert in_own_process(gc.isenabled, "looking")
    assert seen.read_text() == "False"
    assert gc.isenabled()


def _compute_on():
    while True:
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="this system counts no processor time")
def test_processor_time_is_limited_whatever_else_the_computer_does():
    """What a network becomes is not decided by how busy a computer is."""
    assert in_own_process(lambda: time.sleep(1.2), "waiting", processor_limit_s=1) is None
    with pytest.raises(TimeLimitError, match="not done after 1 s of processor time") as caught:
        in_own_process(_compute_on, "computing", processor_limit_s=1)
    assert "--fixed-matrix" in caught.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="this system counts no processor time")
def test_a_limit_of_the_system_stays():
    """Only root may raise what ``ulimit -t`` allows at most, and nobody asked for it."""
    import resource

    def allowed():
        return resource.getrlimit(resource.RLIMIT_CPU)

    def limited():
        resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
        return [
            in_own_process(allowed, "looking", processor_limit_s=seconds) for seconds in (300, 50)
        ]

    assert in_own_process(limited, "limiting") == [(100, 100), (50, 100)]
