"""The doctor tells the truth about this machine, and finds the clash people run into."""

from __future__ import annotations

import getpass
import json
import platform
import socket

import numpy as np
import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.runtime.doctor import diagnose_machine


def test_it_reports_what_is_here():
    """Versions, the provider that really loads, and each backend with its reason."""
    found = diagnose_machine()
    assert found.python == platform.python_version()
    assert found.packages["numpy"] == np.__version__
    assert found.providers["CPUExecutionProvider"] == "loads"
    assert found.backends.keys() == BACKENDS.keys()
    assert found.backends["ort-cpu"] == "usable"
    for name, info in BACKENDS.items():
        if (reason := info.why_not()) is not None:
            assert found.backends[name] == f"{reason}; {info.hint()}"


def test_it_names_no_host_and_no_user():
    """People paste this into public issues."""
    text = diagnose_machine().as_text()
    assert socket.gethostname() not in text
    user = getpass.getuser()
    assert f"/{user}/" not in text


def test_a_clash_of_wheels_is_found(monkeypatch, tmp_path):
    """Both ONNX Runtime packages write into one folder: the symptom is a GPU that vanished."""
    for name in ("onnxruntime-1.32.0", "onnxruntime_gpu-1.31.1"):
        described = tmp_path / f"{name}.dist-info"
        described.mkdir()
        word, version = name.replace("_", "-").rsplit("-", 1)
        (described / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {word}\nVersion: {version}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    problems = diagnose_machine().problems
    assert len(problems) == 1
    assert problems[0].startswith("'onnxruntime' 1.32.0 and 'onnxruntime-gpu' 1.31.1 are both ")
    assert "; pip uninstall -y onnxruntime onnxruntime-gpu && pip install" in problems[0]


def test_a_machine_that_can_run_nothing_is_a_problem(monkeypatch):
    """The base install has no runtime: the doctor says which line adds one."""
    monkeypatch.setattr(
        "kspacesr_rt.runtime.backends.BackendInfo._is_missing", lambda self: self.model
    )
    found = diagnose_machine()
    assert any("pip install 'kspacesr-rt[cpu]'" in problem for problem in found.problems)


def test_a_provider_that_is_compiled_in_but_does_not_load_is_told_apart(monkeypatch):
    """`get_available_providers` lists what was compiled in."""
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    states = diagnose_machine().providers
    assert states["CPUExecutionProvider"] == "loads"
    if states["CUDAExecutionProvider"] != "loads":
        assert states["CUDAExecutionProvider"].startswith("does not load")


def test_a_library_s_words_come_without_its_source_lines(monkeypatch):
    """ONNX Runtime's errors begin with the file and the function that met them."""
    import onnxruntime

    def fail(*args, **kwargs):
        raise RuntimeError(
            "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void f(A&, const "
            "B&) Please install the libraries.\nStacktrace"
        )

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    states = diagnose_machine().providers
    assert states["CPUExecutionProvider"] == "does not load: Please install the libraries."


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_shows_it(arguments):
    """For people, and for scripts that gather machines."""
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exit_code == 0
    if arguments:
        assert json.loads(result.stdout)["backends"]["ort-cpu"] == "usable"
    else:
        assert "no problem found" in result.stdout or "problem: " in result.stdout
