"""What a newcomer meets first: what is missing, how to get it, and what a long step is doing."""

import hashlib
import json
import re
import subprocess
import sys
import tomllib

import pytest
from pydicom import dcmread
from repository import ROOT
from typer.testing import CliRunner

from kspacesr_rt.cli import app, progress, shell
from kspacesr_rt.errors import BackendUnavailableError, StrictRefusalError
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.pipeline.report import RunReport, series_numbers
from kspacesr_rt.runtime.selection import BackendChoice, PassedOver
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system import install_hints
from kspacesr_rt.system.install_hints import TORCH, WITH_TORCH, install_hint


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(one) for one in arguments])


def test_a_clone_is_told_of_its_constraints(monkeypatch, tmp_path):
    """Without them pip brings gigabytes of CUDA on Linux."""
    command = "pip install -c constraints.txt 'kspacesr-rt[bench]'"
    monkeypatch.chdir(ROOT)
    assert install_hint("bench") == command
    monkeypatch.chdir(tmp_path)
    assert install_hint("bench") == f"{command}, in the folder of the clone"
    assert install_hint("cpu") == "pip install 'kspacesr-rt[cpu]'"


def test_a_wheel_is_told_the_build_itself(monkeypatch, tmp_path):
    """A file that is not in reach helps nobody."""
    monkeypatch.setattr(install_hints, "_constraints", lambda: tmp_path / "constraints.txt")
    assert install_hint("train") == f"pip install 'kspacesr-rt[train]' {TORCH}"


def test_the_hint_names_the_build_of_the_constraints():
    """Two places, one build."""
    assert TORCH in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_extras_that_bring_torch_are_known():
    """Whoever adds torch to an extra adds it to the hint."""
    bring = {
        name
        for name, needs in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ].items()
        if any(re.match(r"torch\b|kspacesr-rt\[.*export", need) for need in needs)
    }
    assert bring == WITH_TORCH


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("bench",), "bench"),
        (("bench", "--suite"), "bench --suite"),
        (("bench", "gate"), "bench gate"),
    ],
)
def test_bench_says_at_once_what_is_missing(words, command):
    """Minutes of exports before the first word about a missing package are minutes lost."""
    code = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: (\n"
        "    None if name in ('torch', 'safetensors') else real(name, *more))\n"
        f"sys.argv = {['kspacesr-rt', *words]!r}\n"
        "sys.modules['torch'] = None\n"
        "from kspacesr_rt.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines() == [
        f"error: '{command}' needs the packages 'torch' and 'safetensors'",
        "hint: pip install -c constraints.txt 'kspacesr-rt[bench]'",
    ]


def test_what_is_installed_is_not_missing():
    """All or one of them: the sentence names what lacks."""
    shell.require_packages("x", "bench", "json")
    with pytest.raises(BackendUnavailableError, match="needs the package 'no_such_thing'"):
        shell.require_packages("x", "bench", "json", "no_such_thing")


def test_a_long_step_says_what_it_does_without_a_terminal(capsys):
    """In a log, a line for each step, not for each percent."""
    with progress.progress_bar("bench", False, lines=True) as update:
        for done in range(3):
            update(done, 3, "exports")
        update(0, 1, "rounds\x1b[2J")
    assert capsys.readouterr().err == "bench: exports\nbench: rounds\\x1b[2J\n"
    with progress.progress_bar("bench", True, lines=True) as update:
        update(0, 1, "exports")
    assert capsys.readouterr().err == ""


def test_auto_s_choice_is_one_short_clause(run):
    """Six backends passed over are for those who ask: with -v, and in JSON."""
    choice = BackendChoice(
        asked="auto",
        backend="ort-cpu",
        reason="chosen by auto: the reference",
        passed_over=(PassedOver(backend="openvino", reason="is not installed"),),
    )
    assert choice.as_text() == "backend ort-cpu, chosen by auto (-v says why)"
    assert "openvino (is not installed)" in choice.as_text(verbose=True)
    done = run("verify", "x2-fast", "--backend", "auto", "--threads", 1)
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    assert len(line) < 60
    done = run("verify", "x2-fast", "--backend", "auto", "--threads", 1, "-v")
    assert "passed over: tensorrt (" in done.stderr


def test_a_run_s_summary_is_as_short():
    """The report keeps the whole sentence."""
    report = RunReport(
        version="1",
        backend="ort-cpu",
        backend_choice={"asked": "auto"},
        backend_text="backend ort-cpu: chosen by auto: because; passed over: many",
        model="m",
        weights_sha256="",
        upscale=2,
        slices=(),
        series=0,
    )
    assert "passed over" not in report.as_text()
    assert "backend ort-cpu, chosen by auto (-v says why)" in report.as_text()
    assert "passed over: many" in report.as_text(verbose=True)
    assert "passed over: many" in json.dumps(report.summary())


def test_what_the_readme_writes_is_ignored():
    """The first command of the README must not leave a dirty checkout."""
    assert "/out/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_warning_names_its_series(tmp_path):
    """Of twenty series in a folder, a user must know which one was interpolated."""
    paths = sorted(sample_folder().glob("*.dcm"))[8:12]
    for number, path in enumerate(paths):
        source = dcmread(path)
        series = 1 + number % 2
        source.SeriesInstanceUID = f"1.2.826.0.{series}"
        source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.1.{number}"
        if series == 2:
            source.AcquisitionMatrix = [0, 128, 128, 0]
        source.save_as(tmp_path / f"jane-{number}.dcm")
    options = InferOptions(backend="zero-fill")
    report = infer(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", options)
    told = [one for one in report.series_warnings if one.warning == "interpolated 128->256"]
    label = "sha256:" + hashlib.sha256(b"jane-1.dcm").hexdigest()[:12]
    assert [(one.number, one.file, one.n_slices) for one in told] == [(2, label, 2)]
    assert report.series_records[1].series_instance_uid == told[0].series_instance_uid
    lines = report.as_text().splitlines()
    assert f"warning for 2 slices of series 2 (from {label}): interpolated 128->256" in lines
    assert report.as_text(verbose=True).count("interpolated 128->256") == 1, "no second time"
    assert "jane" not in report.as_text(verbose=True)


def test_a_strict_refusal_names_the_series(tmp_path):
    """What is refused can be looked at only if one knows which it is."""
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[8:10]):
        source = dcmread(path)
        source.SeriesInstanceUID = f"1.2.826.0.{number}"
        if number:
            source.AcquisitionMatrix = [0, 128, 128, 0]
        source.save_as(tmp_path / path.name)
    options = InferOptions(backend="zero-fill", strict=True)
    with pytest.raises(StrictRefusalError, match=r"interpolated 128->256 \(1 series: 2\)"):
        infer(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", options)


def test_many_series_are_not_all_listed():
    """A thousand numbers are no message."""
    assert series_numbers([2, 5]) == "2, 5"
    assert series_numbers(range(1, 24)).endswith("19, 20 and 3 more")
