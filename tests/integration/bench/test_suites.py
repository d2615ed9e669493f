"""The suites of pytest-benchmark: collected, run by the command, and each says what it measures."""

import ast
import json
import platform
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from kspacesr_rt.bench.run import suite_runner
from kspacesr_rt.bench.run.suite_runner import SUITES, run_suites, usable_backends
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError, KspaceSRError, RegressionError

FILES = sorted(SUITES.glob("test_*.py"))


@pytest.fixture(autouse=True)
def _as_by_itself(monkeypatch):
    """pytest-benchmark warns of, and times nothing in, a process that knows it is xdist's."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_suite_says_how_to_read_it(path):
    """A number without its meaning gets quoted with another one."""
    opening = " ".join(ast.get_docstring(ast.parse(path.read_text())).split())
    for part in ("What it measures:", "What it leaves out:", "How to read it:", "Run:"):
        assert part in opening
    word = opening.split("--only ")[1].split("`")[0]
    assert word in path.name


def test_every_suite_is_collected():
    """With every lowering, and every backend that is here."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(SUITES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    names = {path.name for path in FILES}
    assert names == {
        *("test_cold_start.py", "test_kernels.py", "test_latency.py"),
        *("test_overhead.py", "test_phases.py", "test_pipeline.py", "test_resident.py"),
        *("test_scan.py", "test_serve.py"),
    }
    assert all(f"{name}::" in done.stdout for name in names)
    for lowering in ("gemm", "conv", "dft", "dynamic"):
        for matrix in (80, 320):
            assert f"test_fft_layers[{lowering}-ort-cpu-{matrix}]" in done.stdout
    for backend in usable_backends():
        assert f"test_one_slice[x4-fast-{backend}]" in done.stdout
        assert f"test_first_slice[{backend}]" in done.stdout


def test_the_command_runs_a_suite_and_stores_its_result(tmp_path):
    """With what its figures depend on, and nothing that names the machine."""
    file = tmp_path / "kernels.json"
    words = ["--only", "kernels", "--only", "ort-cpu-80", "--only", "gemm"]
    result = CliRunner().invoke(app, ["bench", "--suite", *words, "-o", str(file), "-q"])
    assert result.exit_code == 0, result.output
    stored = json.loads(file.read_text())
    (one,) = stored["benchmarks"]
    assert one["extra_info"] == {"lowering": "gemm", "backend": "ort-cpu", "threads": 1}
    assert one["stats"]["median"] > 0
    assert stored["environment"]["cpu_class"]
    assert "node" not in stored["machine_info"]
    assert f'"{platform.node()}"' not in file.read_text()


def test_words_that_no_benchmark_has_are_refused(monkeypatch, tmp_path):
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    monkeypatch.setattr(suite_runner, "SUITES", tmp_path)
    refused = CliRunner().invoke(app, ["bench", "--suite", "--only", "no-such-suite", "-q"])
    assert refused.exit_code == 2
    assert "no benchmark has all of: no-such-suite" in refused.stderr
    with pytest.raises(InputError, match="no benchmark has"):
        run_suites(only=("not and",), quiet=True)


def test_an_installation_without_suites_says_where_they_are(monkeypatch, tmp_path):
    """A wheel has none: pytest must not go looking through somebody's working folder."""
    monkeypatch.setattr(suite_runner, "SUITES", tmp_path / "missing")
    with pytest.raises(InputError, match="source tree") as caught:
        run_suites()
    assert "--suite" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "error"),
    [("assert False", RegressionError), ("import pytest; pytest.exit('', 3)", KspaceSRError)],
)
def test_a_suite_that_fails_does_not_pass(monkeypatch, tmp_path, body, error):
    """A fast wrong answer is not a result."""
    (tmp_path / "test_wrong.py").write_text(f"def test_wrong():\n    {body}\n")
    monkeypatch.setattr(suite_runner, "SUITES", tmp_path)
    with pytest.raises(error):
        run_suites(quiet=True)
