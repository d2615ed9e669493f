"""The command line as a user and as a script meets it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import fault_cases
import onnx
import pytest
from typer.testing import CliRunner

from kspacesr_rt import __version__
from kspacesr_rt.cli import app
from kspacesr_rt.model.file import shipped_models
from kspacesr_rt.model.spec import METADATA_KEY, SCHEMA
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.progress_messages import on_step

COMMANDS = ("infer", "export", "train", "inspect", "backends", "verify", "evaluate")


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(one) for one in arguments])


@pytest.fixture
def one_slice():
    return sorted(sample_folder().glob("*.dcm"))[10]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command):
    """``--help`` works everywhere and says what the command is for."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"kspacesr-rt {command}" in " ".join(result.stdout.split()) or "Usage" in result.stdout


def test_version(run):
    """Bug reports begin with it."""
    assert run("--version").stdout == f"kspacesr-rt {__version__}\n"


def test_infer_prints_a_summary_and_json_is_one_line(run, one_slice, tmp_path):
    """People get sentences; scripts get one JSON object and the same exit code."""
    result = run("infer", one_slice, tmp_path / "a", "--threads", 1, "--backend", "ort-cpu")
    assert result.exit_code == 0
    assert "1 slice written in 1 series (x2, x2-fast on ort-cpu" in result.stdout
    assert "Research use only" in result.stdout
    result = run("infer", one_slice, tmp_path / "b", "--json", "--upscale", 4, "--threads", 1)
    assert result.stdout.count("\n") == 1
    summary = json.loads(result.stdout)
    assert (summary["written"], summary["model"], summary["exit_code"]) == (1, "x4-fast", 0)


def test_quiet_prints_nothing_and_a_pipe_gets_no_progress_bar(one_slice, tmp_path):
    """Cron mails whatever is printed; a progress bar in a log is noise."""
    command = [sys.executable, "-m", "kspacesr_rt", "infer", str(one_slice)]
    options = ["--backend", "zero-fill"]
    quiet = subprocess.run(
        [*command, str(tmp_path / "a"), *options, "-q"], capture_output=True, check=True
    )
    assert (quiet.stdout, quiet.stderr) == (b"", b"")
    loud = subprocess.run(
        [*command, str(tmp_path / "b"), *options], capture_output=True, check=True
    )
    assert loud.stderr == b""


def test_a_terminal_is_told_what_is_done_before_the_first_slice(one_slice, tmp_path):
    """Loading and verifying may take a minute: whoever waits sees that, and for what."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kspacesr_rt", "infer", str(one_slice), str(tmp_path / "out")],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "200", "KSPACESR_RT_CACHE": str(tmp_path / "cache")},
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # what Linux says when the other side is closed
        while more := os.read(ours, 4096):
            drawn += more
    os.close(ours)
    assert process.wait(timeout=300) == 0
    told = drawn.decode()
    steps = ["loading x2-fast.onnx", "verifying ", "reading headers", "measuring k-space", "1/1"]
    places = [told.find(step) for step in steps]
    assert -1 not in places, told
    assert places == sorted(places)


def test_steps_are_told_to_whoever_listens(one_slice, tmp_path):
    """From Python too; and a run without a listener tells nobody."""
    told = []
    options = InferOptions(backend="zero-fill")
    with on_step(told.append):
        infer(one_slice, tmp_path / "a", options)
    assert told == ["reading headers", "opening zero-fill, measuring k-space"]
    infer(one_slice, tmp_path / "b", options)
    assert len(told) == 2


def test_known_errors_are_two_lines_with_their_exit_code(run, tmp_path):
    """``error:`` says what, ``hint:`` says what to do; no traceback."""
    result = run("inspect", "x3-imaginary")
    assert result.exit_code == 2
    error, hint = result.stderr.strip().splitlines()
    assert error == "error: no model file 'x3-imaginary'"
    assert hint.startswith("hint: shipped models: x2-base")
    (tmp_path / "empty").mkdir()
    assert run("infer", tmp_path / "empty", tmp_path / "out").exit_code == 9


def test_usage_errors_exit_2(run, tmp_path):
    """As every Unix tool."""
    assert run("infer").exit_code == 2
    assert run("infer", tmp_path, tmp_path / "o", "--batch", "0").exit_code == 2
    assert run("infer", tmp_path, tmp_path / "o", "--uids", "lucky").exit_code == 2
    assert run("infer", tmp_path, tmp_path / "o", "--on-interpolated", "drop").exit_code == 2
    assert run("levitate").exit_code == 2


def test_an_internal_error_shows_no_values_unless_debugging(run, monkeypatch, one_slice, tmp_path):
    """An exception's text can quote a patient: only its type is printed unasked."""

    def explode(*args, **kwargs):
        raise RuntimeError("PatientName Meier^Anna is odd")

    monkeypatch.setattr("kspacesr_rt.pipeline.infer", explode)
    result = run("infer", one_slice, tmp_path / "out")
    assert result.exit_code == 1
    assert "internal error (RuntimeError)" in result.stderr
    assert "Meier" not in result.stderr + result.stdout
    assert "Meier" in run("--debug", "infer", one_slice, tmp_path / "out").stderr


def damaged(kind, tmp_path):
    content = shipped_models()["x2-fast"].read_bytes()
    path = tmp_path / f"{kind}.onnx"
    if kind == "text":
        path.write_text("this is no model")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        proto = onnx.ModelProto.FromString(content)
        if kind == "foreign":
            del proto.metadata_props[:]
        for item in proto.metadata_props:
            if kind == "newer" and item.key == METADATA_KEY:
                item.value = json.dumps({**json.loads(item.value), "schema": 99})
        if kind == "edited":
            weight = next(one for one in proto.graph.initializer if "weight" in one.name)
            weight.raw_data = bytes(len(weight.raw_data))
        path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "not an ONNX file, or a truncated one"),
        ("truncated", "truncated"),
        ("foreign", "carries no 'kspacesr_rt.model_spec' metadata"),
        ("newer", f"specification schema 99 is newer than {SCHEMA}"),
        ("edited", "its weights or its graph differ from the digest stored at export"),
    ],
)
@pytest.mark.parametrize("command", ["infer", "inspect", "verify"])
def test_a_model_that_is_not_ours_or_not_whole_is_refused(
    run, tmp_path, one_slice, kind, reason, command
):
    """Exit 2 with the reason, whichever command meets it, and nothing is written."""
    path = damaged(kind, tmp_path)
    arguments = [command, path]
    if command == "infer":
        arguments = ["infer", one_slice, tmp_path / "out", "--model", path]
    result = run(*arguments)
    assert result.exit_code == 2, result.stderr
    assert reason in result.stderr
    assert not (tmp_path / "out").exists()


def test_shipped_models_verify_and_introduce_themselves(run):
    """Every model in the wheel gives its stored answer and says what it is."""
    assert set(shipped_models()) >= {"x2-fast", "x4-fast"}
    for name in shipped_models():
        verified = run("verify", name, "--json", "--threads", 1)
        assert verified.exit_code == 0
        assert json.loads(verified.stdout)["psnr_between_db"] >= 100.0
        text = run("inspect", name).stdout
        for word in ("licence", "attribution", "data consistency 'hard'", "parity", "quality"):
            assert word in text
        spec = json.loads(run("inspect", name, "--json").stdout)
        assert min(case["psnr_between_db"] for case in spec["parity"]["cases"]) >= 100.0


def test_verify_fails_with_exit_4_where_the_backend_computes_something_else(run, monkeypatch):
    """The self-test must be able to fail: a backend off by 1 % is not to be used."""
    from kspacesr_rt.runtime.ort_cpu import OrtCpuBackend

    honest = OrtCpuBackend.run
    monkeypatch.setattr(OrtCpuBackend, "run", lambda self, batch: honest(self, batch) * 1.01)
    result = run("verify", "x2-fast", "--threads", 1)
    assert result.exit_code == 4
    assert "100 dB are required" in result.stderr


def test_backends_says_why_one_cannot_run(run, monkeypatch):
    """The list is honest about this machine, and names the line that helps."""
    rows = json.loads(run("backends", "--json").stdout)
    assert rows["zero-fill"]["usable"]
    assert rows["bicubic"]["usable"]
    monkeypatch.setattr("kspacesr_rt.runtime.protocol.find_spec", lambda name: None)
    text = run("backends").stdout
    assert "needs the package 'onnxruntime'" in text
    assert "pip install 'kspacesr-rt[cpu]'" in text


def test_evaluate_prints_a_table_with_its_convention(run, one_slice):
    """A quality table without its convention means nothing."""
    result = run("evaluate", one_slice, "--model", "x2-fast", "--threads", 1)
    assert result.exit_code == 0
    tables = [line for line in result.stdout.splitlines() if line.startswith("Convention: ")]
    assert [line.split()[1].strip(",") for line in tables] == [
        *("tissue", "slice-range1", "slice-range1-gaussian")
    ]
    result = json.loads(
        run("evaluate", one_slice, "--model", "x2-fast", "--threads", 1, "--json").stdout
    )
    quality = {row["method"]: row["quality"] for row in result["rows"]}
    assert quality["x2-fast"]["psnr_db"] > quality["zero-fill"]["psnr_db"] + 0.5
    assert quality["x2-fast"]["ssim"] > quality["zero-fill"]["ssim"]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_its_own_status_and_no_half_files(tmp_path, signum, status):
    """Stopping a night's run leaves whole files only, and a script can tell why it ended."""
    study = tmp_path / "study"
    study.mkdir()
    for path in sample_folder().glob("*.dcm"):
        shutil.copy(path, study)
    out = tmp_path / "out"
    hold = tmp_path / "hold"
    hold.touch()  # it must not be done before the signal
    command = ("infer", study, out, "--upscale", "4", "--batch", "1")
    process = fault_cases.start(*command, sleep_s=0.1, FAULT_HOLD=str(hold))
    fault_cases.wait_until(lambda: list(out.rglob("*.dcm")), process)
    process.send_signal(signum)
    hold.unlink()
    code, stderr = fault_cases.ended(process)
    assert code == status, stderr
    left = {path.name for path in out.rglob("*") if path.is_file() and path.suffix != ".dcm"}
    # tests/test_safety.py looks into the report
    assert left == {"report.json", "manifest.json", "lock", "journal.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (("export", "x2-fast.pt", "-o", "m.onnx"), "torch", "export"),
        (("train", ".", "-o", "c.pt"), "torch", "train"),
        (("evaluate", "a.nii"), "nibabel", "bench"),
    ],
)
def test_a_command_without_its_extra_names_the_line_that_installs_it(
    tmp_path, arguments, package, extra
):
    """A base install has no torch: that is exit 3 and a hint, not an internal error."""
    for name in ("x2-fast.pt", "a.nii"):
        (tmp_path / name).write_bytes(b"")
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv = {['kspacesr-rt', *arguments]!r}\n"
        "from kspacesr_rt.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-2:] == [
        f"error: '{arguments[0]}' needs the package '{package}'",
        f"hint: pip install -c constraints.txt 'kspacesr-rt[{extra}]', in the folder of the clone",
    ]
