"""Nothing is sent to the makers of the runtimes, and nothing is left in the home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system import telemetry

CI = ("CI", "TF_BUILD", "JENKINS_URL")
"""Variables that make OpenVINO silent by themselves."""
RUNTIMES = [name for name in ("ort-cpu", "openvino") if BACKENDS[name].why_not() is None]


@pytest.fixture
def environment(tmp_path):
    """Return a new user's: nothing is set, and the home folder is empty."""
    home = tmp_path / "home"
    home.mkdir()
    ours = {*CI, *telemetry.SWITCHES, telemetry.VARIABLE, "KSPACESR_RT_CACHE", "XDG_CACHE_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def one_slice(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(min(sample_folder().glob("*.dcm")), folder)
    return folder


def run(environment, *arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_in(environment):
    """Return every file in the home folder that is not in our own cache."""
    home = Path(environment["HOME"])
    files = [path.relative_to(home) for path in home.rglob("*") if not path.is_dir()]
    return [str(path) for path in files if path.parts[:2] != (".cache", "kspacesr-rt")]


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_run_leaves_nothing_in_the_home_folder(environment, one_slice, tmp_path, backend):
    """Both runtimes keep a device's or client's name there before they send anything."""
    options = ("--backend", backend, "--threads", "2", "--streams", "2")
    run(environment, "-m", "kspacesr_rt", "infer", one_slice, tmp_path / "out", *options)
    assert left_in(environment) == []


@pytest.mark.parametrize("command", [["doctor"], ["backends"], ["verify", "x2-fast"]])
def test_a_look_at_the_machine_leaves_nothing_in_the_home_folder(environment, command):
    run(environment, "-m", "kspacesr_rt", *command)
    assert left_in(environment) == []


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_runtime_that_a_user_imports_after_us_is_silent_too(environment, backend):
    """Scripts import us and the runtime; so do workers, which import us to find their code."""
    run(environment, "-c", f"import kspacesr_rt, {BACKENDS[backend].needs}")
    assert left_in(environment) == []


def test_silence_reaches_child_processes_and_the_builder_of_engines(environment):
    """What a child does not inherit, importing us sets."""
    told = run(
        {**environment, "ORT_DISABLE_TELEMETRY": "0"},
        "-c",
        "import os, sys, kspacesr_rt.runtime.tensorrt.worker as worker\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'],\n"
        "      sys.modules['openvino_telemetry'])",
    )
    assert told.split() == ["1", "0", "None"]


def test_whoever_wants_the_reports_says_so(environment):
    told = run(
        {**environment, telemetry.VARIABLE: "1"},
        "-c",
        "import os, sys, kspacesr_rt\n"
        "print(os.environ.get('ORT_DISABLE_TELEMETRY'), 'openvino_telemetry' in sys.modules)",
    )
    assert told.split() == ["None", "False"]


def test_the_script_of_a_reproduction_is_silent_without_us(environment, tmp_path):
    """It runs where this package is not, and imports the runtimes itself."""
    if "openvino" not in RUNTIMES:
        pytest.skip(BACKENDS["openvino"].why_not())
    path = tmp_path / "repro.zip"
    options = ("--backend", "ort-cpu", "--against", "openvino", "--matrix", "32", "32")
    run(environment, "-m", "kspacesr_rt", "diagnose", "x2-fast", *options, "-o", path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "repro")
    run(environment, "-P", tmp_path / "repro" / "run.py")
    assert left_in(environment) == []
