"""`auto` asks about a backend in a process of its own, which may crash."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.runtime.backends import BackendOptions
from kspacesr_rt.runtime.selection import verify_in_subprocess

ONE_THREAD = BackendOptions(threads=1)


def test_a_process_of_its_own_gives_the_same_figures(model_file, model):
    """What runs apart is the command itself; its answer comes back as a verification."""
    found = verify_in_subprocess(model_file, "ort-cpu", ONE_THREAD)
    assert (found.model, found.backend, found.passed) == (model.spec.name, "ort-cpu", True)


def test_options_of_the_command_that_is_run_are_not_the_other_process(
    model_file, tmp_path, monkeypatch
):
    """A file for `infer` may hold what `verify` refuses: every GPU would be passed over."""
    config = tmp_path / "box.toml"
    config.write_text("preview = true\n")
    monkeypatch.setenv("KSPACESR_RT_CONFIG", str(config))
    assert verify_in_subprocess(model_file, "ort-cpu", ONE_THREAD).passed


def test_what_the_other_process_says_is_the_reason(model_file, monkeypatch):
    """An error line; a crash by its signal; a hang by its limit."""
    with pytest.raises(BackendUnavailableError, match="'nothing' is not one of"):
        verify_in_subprocess(model_file, "nothing", ONE_THREAD)
    crashed = SimpleNamespace(returncode=-11, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: crashed)
    with pytest.raises(BackendUnavailableError, match=r"its library crashed \(SIGSEGV\)"):
        verify_in_subprocess(model_file, "tensorrt", ONE_THREAD)
    empty = SimpleNamespace(returncode=3, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: empty)
    with pytest.raises(BackendUnavailableError, match="exit code 3"):
        verify_in_subprocess(model_file, "tensorrt", ONE_THREAD)

    def hang(command, **kwargs):
        raise subprocess.TimeoutExpired(command, kwargs["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(BackendUnavailableError, match="no answer within 1800 s"):
        verify_in_subprocess(model_file, "tensorrt", ONE_THREAD)
