"""A run that is stopped, however rudely, leaves a checkpoint that goes on as if nothing was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import SUPPORT

from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.train.checkpoint import load_checkpoint
from kspacesr_rt.train.untrusted_checkpoint import read_document

STEPS = 60
"""Four times those it is held at: a run that ignores its signal fails by its step count."""
OPTIONS = (
    *("--width", "4", "--blocks", "2", "--cascades", "2", "--matrix", "32", "--batch", "2"),
    *("--steps", str(STEPS), "--validate-every", "10", "--threads", "1", "--device", "cpu", "-q"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    stack = np.stack([brain_phantom((64, 72), seed=seed) for seed in range(4)])
    np.save(folder / "series.npy", stack.astype(np.float32))
    return folder


pytestmark = pytest.mark.usefixtures("from_a_warm_process")
HELD = SUPPORT / "held_training.py"
"""The command line, which stays at step 15 as long as there is a file to hold it."""


def start(data: Path, output: Path, *more: str, hold: str = "no file") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HELD), "train", str(data), "-o", str(output), *OPTIONS, *more],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOLD": hold},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there, or the process has died of something."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    assert path.exists(), process.stderr.read()


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Weights of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("whole") / "model.pt"
    code, stderr = finished(start(data, output))
    assert code == 0, stderr
    return read_document(output)["state_dict"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_stopped_run_leaves_a_usable_checkpoint_and_resumes_bit_for_bit(
    data, tmp_path, uninterrupted, number, code
):
    """Ctrl-C and SIGTERM save first; after kill -9 the last validation's checkpoint is there."""
    output, hold = tmp_path / "model.pt", tmp_path / "hold"
    hold.touch()  # it must not be done before the signal
    process = start(data, output, hold=str(hold))
    wait_for(output, process)
    process.send_signal(number)
    hold.unlink()
    returned, stderr = finished(process)
    assert returned == code, stderr
    done = read_document(output)["training"]["step"]
    assert 10 <= done < STEPS
    load_checkpoint(output).generator(torch.zeros(1, 1, 32, 32))
    returned, stderr = finished(start(data, output, "--resume"))
    assert returned == 0, stderr
    resumed = read_document(output)
    assert resumed["training"]["step"] == STEPS
    for name, value in uninterrupted.items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_a_signal_waits_for_the_end_of_the_block():
    """The first signal only sets a flag; it arrives when the block has ended."""
    seen = []

    def step() -> None:
        with deferred_signals() as asked:
            seen.append(asked())
            signal.raise_signal(signal.SIGINT)
            seen.append(asked())

    with pytest.raises(KeyboardInterrupt):
        step()
    assert seen == [0, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_is_delivered_at_once():
    """Whoever presses Ctrl-C twice wants out."""
    seen = []

    def step() -> None:
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
            seen.append("after the first")
            signal.raise_signal(signal.SIGINT)
            seen.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert seen == ["after the first"]


def test_outside_the_main_thread_nothing_is_held():
    """Python delivers signals to the main thread only; a library user may train elsewhere."""
    answers = []

    def work() -> None:
        with deferred_signals() as asked:
            answers.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


def test_an_ignored_signal_stays_ignored():
    """A run in the background is not stopped by the Ctrl-C that was meant for the foreground."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)
