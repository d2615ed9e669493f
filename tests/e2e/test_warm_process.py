"""Forks of a process that has loaded the command line are processes as it would be itself."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_process
from fault_cases import environment

from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.train.untrusted_checkpoint import read_document

pytestmark = [
    pytest.mark.usefixtures("from_a_warm_process"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is forked"),
]
CLI = (sys.executable, "-m", "kspacesr_rt")


def both(monkeypatch, *words, **how):
    """Run words as a fork and as ever; return what became of both."""
    fork = subprocess.run(words, capture_output=True, text=True, check=False, **how)
    monkeypatch.setattr(subprocess, "Popen", warm_process.WarmProcess.__base__)
    real = subprocess.run(words, capture_output=True, text=True, check=False, **how)
    return fork, real


@pytest.fixture
def forked(monkeypatch):
    """Note which commands are forked."""
    seen = []
    fork = warm_process._Server.fork

    def noted(server, request, streams):
        seen.append(request["words"])
        return fork(server, request, streams)

    monkeypatch.setattr(warm_process._Server, "fork", noted)
    return seen


@pytest.mark.parametrize(
    "words",
    [["--version"], ["inspect", "x2-fast"], ["no-command"], ["infer", "/nowhere", "out", "--json"]],
    ids=lambda words: words[0],
)
def test_it_says_and_returns_what_the_command_line_does(monkeypatch, forked, tmp_path, words):
    fork, real = both(monkeypatch, *CLI, *words, cwd=tmp_path)
    assert vars(fork) == vars(real)
    assert forked == [[*CLI, *words]]


def test_it_has_the_folder_and_the_environment_that_were_asked_for(tmp_path):
    (tmp_path / "study").mkdir()
    shutil.copy(min(sample_folder().glob("*.dcm")), tmp_path / "study")
    told = {**os.environ, "KSPACESR_RT_BACKEND": "zero-fill"}
    subprocess.run([*CLI, "infer", "study", "out"], cwd=tmp_path, env=told, check=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["backend"] == "zero-fill"


def test_it_is_a_child_whose_end_by_a_signal_is_seen(tmp_path):
    """It would go on for ever."""
    (tmp_path / "in").mkdir()
    process = subprocess.Popen(
        [*CLI, "watch", "in", "out", "--backend", "zero-fill"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    assert process.stderr.readline()
    assert process.poll() is None
    stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(stat[1]) == os.getpid()
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.stderr.close()


@pytest.mark.parametrize(
    "how",
    [
        {"env": {**os.environ, "PYTHONHASHSEED": "1"}},
        {"start_new_session": True},
        {"close_fds": False},
    ],
    ids=lambda how: next(iter(how)),
)
def test_what_a_fork_cannot_stand_for_is_started_as_ever(forked, how):
    assert subprocess.run([*CLI, "--version"], stdout=subprocess.DEVNULL, **how).returncode == 0
    assert subprocess.run([sys.executable, "-c", "pass"]).returncode == 0
    assert forked == []


def test_a_slowed_command_line_is_forked_too(forked, tmp_path):
    fork = subprocess.run(
        [sys.executable, str(warm_process.SCRIPTS[0]), "--version"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert fork.stdout.startswith("kspacesr-rt ")
    assert len(forked) == 1


def test_what_loads_torch_is_forked_with_it_and_nothing_else_is(monkeypatch, forked, tmp_path):
    """The same weights come out, by as many threads as were asked for."""
    stack = np.stack([brain_phantom((64, 72), seed=seed) for seed in range(2)])
    np.save(tmp_path / "data.npy", stack.astype(np.float32))
    small = (
        "--width",
        "4",
        "--blocks",
        "1",
        "--matrix",
        "16",
        "--steps",
        "2",
        "--batch",
        "2",
        "-q",
    )
    words = [*CLI, "train", ".", *small, "-o", "made.pt"]
    told, made = {**os.environ, "OMP_NUM_THREADS": "1"}, []
    for _ in ("fork", "real"):
        subprocess.run(words, cwd=tmp_path, env=told, check=True)
        made.append(read_document(tmp_path / "made.pt")["state_dict"])
        for path in tmp_path.glob("made.*"):
            path.unlink()
        monkeypatch.setattr(subprocess, "Popen", warm_process.WarmProcess.__base__)
    assert forked == [words]
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    maps = {
        kind: Path(f"/proc/{server.process.pid}/maps").read_text()
        for kind, server in warm_process._running.items()
    }
    assert "libtorch" in maps[True]
    assert "libtorch" not in maps[False]


@pytest.mark.parametrize("words", ["--version", "no-command"])
def test_shells_find_it(warm_programs, words):
    path = os.pathsep.join([str(warm_programs), os.environ["PATH"]])
    line = f'echo before; kspacesr-rt {words} || echo "ended with $?"'
    told = {**os.environ, "PATH": path}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=told)
    program = Path(sys.executable).with_name("kspacesr-rt")
    real = subprocess.run([program, words], capture_output=True, text=True)
    end = f"ended with {real.returncode}\n" if real.returncode else ""
    assert done.stdout == f"before\n{real.stdout}{end}"
    assert done.stderr == real.stderr


def test_a_program_that_ends_before_it_asks_ends_nothing_else(warm_programs):
    door = warm_process._server().door
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(door))
    done = subprocess.run([warm_programs / "kspacesr-rt", "--version"], stdout=subprocess.DEVNULL)
    assert done.returncode == 0


def test_signals_to_a_shells_program_reach_it(warm_programs, tmp_path):
    """As Ctrl-C and the end of a page's long-running commands do."""
    program, source = warm_programs / "kspacesr-rt", tmp_path / "in"
    source.mkdir()
    process = subprocess.Popen(
        [program, "watch", ".", str(tmp_path / "out"), "--backend", "zero-fill"],
        cwd=source,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    process.stderr.close()
