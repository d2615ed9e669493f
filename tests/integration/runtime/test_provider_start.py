"""A library that ends the process which loads it ends another one, and is named."""

from __future__ import annotations

import pytest

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.runtime import provider_start
from kspacesr_rt.runtime.provider_start import require_start, why_not_started


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Return a function that plants a module of a name in the other process's path."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()

    def plant(name, text):
        (tmp_path / f"site/{name}.py").write_text(text)
        return tmp_path / "cache/started"

    return plant


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("print('Segmentation fault'); os._exit(77)", "exit code 77"),
        ("os._exit(0)", "exit code 0"),
    ],
)
@pytest.mark.parametrize(
    ("backend", "module"), [("ort-webgpu", "onnxruntime"), ("tensorrt", "tensorrt")]
)
def test_how_it_ended_is_said(planted, backend, module, ending, how):
    """By a signal, or quietly; what it printed is no answer."""
    kept = planted(module, f"import os, signal\n{ending}\n")
    with pytest.raises(BackendUnavailableError) as caught:
        require_start(backend)
    assert str(caught.value) == (
        f"backend '{backend}' cannot run here: its library ends the process that starts it ({how})"
    )
    assert caught.value.exit_code == 3
    assert "install both again" in caught.value.hint
    assert not kept.exists()


def test_one_that_hangs_is_not_waited_for(planted, monkeypatch):
    monkeypatch.setattr(provider_start, "SECONDS", 0.5)
    planted("onnxruntime", "import time\ntime.sleep(60)\n")
    with pytest.raises(BackendUnavailableError, match=r"does not start within 0\.5 s"):
        require_start("ort-cuda")


def test_an_error_is_left_to_who_opens_it(planted):
    """It has its own words there; only an end without any is refused before."""
    kept = planted("onnxruntime", "raise ImportError('libcudart is of another world')\n")
    assert why_not_started("ort-webgpu") == "libcudart is of another world"
    require_start("ort-webgpu")
    assert not kept.exists()


def test_what_is_on_the_cpu_is_not_tried(monkeypatch):
    """Nor a plug-in, of which nothing is known."""
    monkeypatch.setattr(provider_start, "why_not_started", None)
    require_start("ort-cpu")
    require_start("somebody-elses")


def test_one_that_started_is_not_tried_again(planted, monkeypatch):
    """Until its version, the driver or the GPU is another."""
    kept = planted("onnxruntime", "")
    asked = []
    monkeypatch.setattr(provider_start, "why_not_started", asked.append)
    require_start("ort-cuda")
    require_start("ort-cuda")
    assert asked == ["ort-cuda"]
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr(provider_start, "library_versions", lambda backend: "onnxruntime-gpu 9")
    require_start("ort-cuda")
    assert asked == ["ort-cuda", "ort-cuda"]
