"""A run that is stuck says what it waits for, even where no thread of Python can speak."""

from __future__ import annotations

import shutil
import signal
import threading
import time

import pytest
from stuck_processes import BLOCKS, STUCK, start, system

from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.pipeline.backend_pool import BackendPool
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.stalls import AFTER_S, VARIABLE, StallWatch, stall_seconds
from kspacesr_rt.sample import sample_folder

UNDER_WAY = ("of 4 slices are done, on zero-fill", "1 batch in 'infer' for")
ONE_AFTER_ANOTHER = ("--backend", "zero-fill", "--workers", "1")


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[:4]:
        shutil.copy(path, folder)
    return folder


def read_until(process, stream, *words):
    """Return the line that has all the words; a process that never prints it is ended."""
    read, deadline = [], threading.Timer(120.0, process.kill)
    deadline.start()
    try:
        for line in stream:
            read.append(line)
            if all(word in line for word in words):
                return line
    finally:
        deadline.cancel()
    raise AssertionError("".join(read))


SEEN = """
        def is_seen():
            stacks = map(traceback.walk_stack, sys._current_frames().values())
            names = [frame.f_code.co_name for stack in stacks for frame, _ in stack]
            return any("1 batch in 'infer'" in name for name in names)
        while not is_seen():
            threading.Event().wait(0.01)
"""
"""Waits until the watch has looked: what it says without the interpreter is from its last look."""


def stuck(block, *arguments):
    held = f"{SEEN.strip()}\n        {BLOCKS[block]}"
    script = STUCK.format(system=system(block), block=held, baseline="BaselineBackend")
    return start(script, *arguments, **{VARIABLE: "0.5"})


@pytest.mark.parametrize("block", ["python", "native-code"])
def test_a_run_that_is_stuck_says_what_it_waits_for(study, tmp_path, block):
    """Stage, backend and how far it is: nothing that only a debugger could tell."""
    process = stuck(block, "infer", study, tmp_path / "out", *ONE_AFTER_ANOTHER)
    try:
        line = read_until(process, process.stderr, "warning: nothing has finished for")
        assert all(words in line for words in UNDER_WAY)
        read_until(process, process.stderr, "nothing has finished for")  # it does not fall silent
    finally:
        process.kill()
        process.communicate()


def test_native_code_that_keeps_the_interpreter_cannot_hush_it(study, tmp_path):
    """Then every thread of Python is silent, and where each of them is tells why."""
    process = stuck(
        "native-code-with-the-interpreter", "infer", study, tmp_path / "out", *ONE_AFTER_ANOTHER
    )
    try:
        read_until(process, process.stderr, "Timeout (")
        read_until(process, process.stderr, *UNDER_WAY)
        read_until(process, process.stderr, "compute.py", "in _computed")
    finally:
        process.kill()
        process.communicate()


def test_a_watch_says_it_in_its_log(study, tmp_path):
    process = stuck(
        "python", "watch", study, tmp_path / "out", *ONE_AFTER_ANOTHER, "--settle", "0", "--json"
    )
    try:
        line = read_until(process, process.stdout, '"event": "stalled"')
        assert all(words in line for words in UNDER_WAY)
    finally:
        process.kill()
        process.communicate()


def test_whoever_ends_a_stuck_run_is_told_what_the_first_signal_waits_for(study, tmp_path):
    process = stuck("native-code", "infer", study, tmp_path / "out", *ONE_AFTER_ANOTHER)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        # The main thread is in native code and learns of no signal: the system ends the second.
        read_until(process, process.stderr, "nothing has finished for")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM
    finally:
        process.kill()


class Watched:
    """Something that moved at a time of our choosing."""

    def __init__(self):
        self.idle(0)

    def idle(self, seconds):
        self.progress_at = time.monotonic() - seconds

    def describe_activity(self):
        return "this and that"


def test_what_moves_is_not_told_of_and_what_is_stuck_less_and_less_often(monkeypatch):
    monkeypatch.setenv(VARIABLE, "60")
    told, watched = [], Watched()
    watch = StallWatch(watched, told.append)
    for idle_s in (0, 59, 61, 100, 119, 123, 240, 250, 10, 30, 62):
        watched.idle(idle_s)
        watch._sentence()
    seconds = [sentence.split(" for ")[1].split(":")[0] for sentence in told]
    assert seconds == ["61 s", "123 s", "250 s", "62 s"]


def test_every_stage_that_begins_or_ends_is_a_movement(tmp_path):
    options = InferOptions(backend="zero-fill")
    with BackendPool(options) as backends:
        run = RunState(tmp_path, tmp_path / "out", options, backends)
        before = run.progress_at
        with run.timer.busy("read"):
            begun = run.progress_at
            assert begun > before
            assert "1 file in 'read' for 0 s" in run.describe_activity()
        assert run.progress_at > begun
        assert "'read'" not in run.describe_activity()


def test_how_long_to_wait_is_a_number_of_seconds(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert stall_seconds() == AFTER_S
    for text in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(InputError, match=VARIABLE):
            stall_seconds()
    monkeypatch.setenv(VARIABLE, "0")
    with StallWatch(Watched(), None) as watch:
        assert not watch._thread.is_alive()
