"""Several processes train one generator: `torchrun` with gloo on the CPU, as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.train.distributed import Ranks, choose_device, joined
from kspacesr_rt.train.untrusted_checkpoint import read_document

RANKS = 2
TASKS = Path("/proc/self/task")
COMMON = (
    *("--architecture", "seed-kspace", "--width", "4", "--matrix", "16", "--batch", "2"),
    *("--validate-every", "4", "--threads", "1", "--device", "cpu", "-q"),
)
"""A k-space network has BatchNorm, whose statistics must agree as well."""


def launch(*arguments: str, ranks: int = RANKS, script: str | None = None) -> str:
    """Run the command line (or a script) under torchrun; return what it printed."""
    target = [script] if script else ["-m", "kspacesr_rt", "train"]
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(ranks), *target, *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return completed.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    stack = np.stack([brain_phantom((64, 72), seed=seed) for seed in range(4)])
    np.save(folder / "series.npy", stack.astype(np.float32))
    return folder


WHOLE = f"""
import sys
from pathlib import Path
from kspacesr_rt.cli import app
from kspacesr_rt.train import loop
def of_gloo():
    names = [(one / "comm").read_text() for one in Path({str(TASKS)!r}).glob("*")]
    return [name for name in names if "gloo" in name]
seen, advance = [], loop._Run.advance
def looking(run):
    advance(run)
    seen[:] = of_gloo()
loop._Run.advance = looking
app(["train", *sys.argv[1:]], standalone_mode=False)
print("threads of gloo:", len(seen), len(of_gloo()), flush=True)
"""
"""Trains, and says how many threads gloo had meanwhile, and has afterwards."""


@pytest.fixture(scope="module")
def training(data, tmp_path_factory):
    """Train eight steps on two ranks; return the checkpoint, and what they said."""
    folder = tmp_path_factory.mktemp("trained")
    script = folder.with_name("whole.py")
    script.write_text(WHOLE)
    output = folder / "both.pt"
    said = launch(str(data), "-o", str(output), "--steps", "8", *COMMON, script=str(script))
    return output, said


@pytest.fixture(scope="module")
def trained(training):
    return training[0]


def test_two_ranks_draw_different_slices_and_write_one_checkpoint(trained):
    """Each rank has its own random state; the checkpoint keeps both."""
    training = read_document(trained)["training"]
    first, second = training["random_states"]
    assert training["step"] == 8
    assert first["numpy"] != second["numpy"]
    assert [path.name for path in sorted(trained.parent.iterdir())] == ["both.csv", "both.pt"]


def test_a_distributed_run_resumes_bit_for_bit(trained, data, tmp_path):
    """Stopped at half time and resumed on as many ranks, the weights are the same."""
    output = tmp_path / "again.pt"
    script = tmp_path / "half.py"
    # Stop after four steps of eight, as a Ctrl-C that reaches one rank alone would.
    script.write_text(
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from kspacesr_rt.cli import app\n"
        "from kspacesr_rt.train import loop\n"
        "advance = loop._Run.advance\n"
        "def stopping(run):\n"
        "    advance(run)\n"
        "    if run.step == 3 and run.ranks.rank == 1:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "loop._Run.advance = stopping\n"
        "try:\n"
        "    app(['train', *sys.argv[1:]], standalone_mode=False)\n"
        "except BaseException as exc:\n"
        "    assert 'Exit' in type(exc).__name__ or isinstance(exc, KeyboardInterrupt), exc\n"
    )
    arguments = (str(data), "-o", str(output), "--steps", "8", *COMMON)
    launch(*arguments, script=str(script))
    assert read_document(output)["training"]["step"] == 3
    launch(*arguments, "--resume")
    ours, reference = read_document(output), read_document(trained)
    assert ours["training"]["step"] == 8
    for name, value in reference["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], value), name


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads in /proc, which only Linux has")
def test_no_thread_of_gloo_is_left_when_the_ranks_part(training):
    """Threads that outlive the process group abort the interpreter's end now and then.

    What PyTorch's optimisers import as they are first made could keep the group.
    """
    told = re.findall(r"threads of gloo: (\d+) (\d+)", training[1])
    assert len(told) == RANKS
    assert all(int(meanwhile) > 0 and int(left) == 0 for meanwhile, left in told), told


def test_another_number_of_ranks_cannot_resume(trained, data, tmp_path):
    """The random states of a rank that is gone cannot be continued."""
    from typer.testing import CliRunner

    from kspacesr_rt.cli import app

    output = tmp_path / "both.pt"
    output.write_bytes(trained.read_bytes())
    result = CliRunner().invoke(
        app, ["train", str(data), "-o", str(output), "--steps", "8", *COMMON, "--resume"]
    )
    assert result.exit_code == 2
    assert "this run has 2 processes, not 1" in result.stderr
    assert "torchrun --nproc-per-node 2" in result.stderr


def test_one_process_is_a_rank_of_its_own():
    """Without torchrun nothing is joined, gathered or averaged."""
    with joined("cpu") as ranks:
        assert ranks == Ranks(device=torch.device("cpu"))
        assert ranks.first
        assert ranks.any(True)
        assert not ranks.any(False)
        assert ranks.gather("state") == ["state"]


def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(monkeypatch):
    """``--device cuda`` means it; ``auto`` takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailableError, match="no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        choose_device("tpu")
