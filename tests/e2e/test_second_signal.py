"""A second SIGINT or SIGTERM ends the process at once, whatever holds the first one up."""

from __future__ import annotations

import shutil
import signal
import sys

import pytest
from stuck_processes import BLOCKS, STUCK, ended, start, system, wait_until_called

from kspacesr_rt.sample import sample_folder

START = """
import threading
from kspacesr_rt.system.interruption import deferred_signals, install_signal_handlers
{system}
install_signal_handlers()
with deferred_signals():
    print("ready", flush=True)
    {block}
"""
NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc; glibc's signals")
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_second_signal_ends_a_process_that_is_stuck(block, number):
    """Python runs no handler while C code holds the interpreter; the system needs none."""
    held = BLOCKS[block].replace("\n", "\n    ")
    process = start(START.format(system=system(block), block=held))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    wait_until_called(process, number)
    process.send_signal(number)
    assert ended(process)[0] == -number


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_other_signal_is_a_second_one_too():
    process = start(START.format(system="", block=BLOCKS["python"]))
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    wait_until_called(process, signal.SIGINT)
    wait_until_called(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM


AT_ONCE = """
import os, signal
from kspacesr_rt.system.interruption import deferred_signals, install_signal_handlers
install_signal_handlers()
both = [signal.SIGINT, signal.SIGTERM]
{hold}
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    for number in both:
        os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
    while True:
        pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's signals")
@pytest.mark.parametrize("hold", ["with deferred_signals():", "if True:"])
def test_a_second_signal_that_comes_with_the_first_is_not_lost(hold):
    """Python found its handler gone, printed that it "ignored" the signal, and did."""
    code, stderr = ended(start(AT_ONCE.format(hold=hold)))
    assert "ignored" not in stderr
    assert code == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc; glibc's signals")
@pytest.mark.parametrize("block", ["python", "native-code-with-the-interpreter"])
def test_a_run_that_is_stuck_ends_and_is_completed_by_the_same_command(tmp_path, block):
    """As after kill -9: what was written stays, no lock is left, and nothing is done twice."""
    study, output = tmp_path / "study", tmp_path / "out"
    study.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[:4]:
        shutil.copy(path, study)
    script = STUCK.format(system=system(block), block=BLOCKS[block], baseline="BaselineBackend")
    command = ("infer", study, output, "--backend", "zero-fill")
    process = start(script, *command)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    wait_until_called(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM
    written = {path.name: path.read_bytes() for path in output.glob("*/*.dcm")}
    resumed = start("from kspacesr_rt.cli import main; main()", *command)
    code, stderr = ended(resumed)
    assert code == 0, stderr
    assert len(list(output.glob("*/*.dcm"))) == 4
    assert all(
        one.read_bytes() == written[one.name]
        for one in output.glob("*/*.dcm")
        if one.name in written
    )
    assert not list(output.rglob("*.part"))


LOADING = """
import pathlib, sys, time
print("ready", flush=True)
try:
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.01)
except BaseException as exc:  # what the initialisation of an extension module makes of a signal
    raise ImportError("initialization failed") from exc
"""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("module", ["onnxruntime", "pydicom"])
def test_a_signal_while_a_library_loads_is_not_the_librarys_fault(tmp_path, number, module):
    """`onnxruntime does not load` (exit 3) was one; what else an import breaks off is another."""
    go, package = tmp_path / "go", tmp_path / "packages" / module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(LOADING.format(go=str(go)))
    process = start(
        "from kspacesr_rt.cli import main; main()",
        *("infer", sample_folder(), tmp_path / "out", "--backend", "ort-cpu"),
        PYTHONPATH=str(package.parent),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    wait_until_called(process, number)
    go.touch()
    code, stderr = ended(process)
    assert code == 128 + number
    assert stderr.splitlines() == ["interrupted" if number == signal.SIGINT else "terminated"]
