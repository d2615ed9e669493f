"""A script that asked for JSON gets an object where a command fails, too: one, without a path."""

import json

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from kspacesr_rt import cli
from kspacesr_rt.cli.json_errors import kind_of, without_paths
from kspacesr_rt.errors import BackendUnavailableError, NoMRImageError, ParityError
from kspacesr_rt.sample import sample_folder

PATIENT = "DOE^JANE"


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(one) for one in arguments])


def _commands(command, words=()):
    below = getattr(command, "commands", {})
    if words and any("--json" in one.opts for one in command.params):
        yield words
    for name, one in below.items():
        yield from _commands(one, (*words, name))


def told_by(done):
    """Return the error of a command that must have printed it alone, and nothing on stdout."""
    assert done.stdout == ""
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
    return json.loads(line)


EVERY = sorted(_commands(get_command(cli.app)))


def test_the_list_of_commands_is_not_empty():
    """What follows tries every command that knows ``--json``."""
    assert {("infer",), ("bench", "gate"), ("cache", "ls"), ("evaluate",)} <= set(EVERY)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_usage_error_is_an_object(run, words):
    """What cannot be parsed fails before any command runs: a script still finds JSON."""
    done = run(*words, "--json", "--no-such-option")
    assert done.exit_code == 2
    told = told_by(done)
    assert told["exit_code"] == 2
    assert told["error"]["kind"] == "usage"
    assert "--no-such-option" in told["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("infer", "{file}/none", "{out}"), 2, "input"),
        (("infer", "{folder}", "{out}", "--uids", "odd"), 2, "usage"),
        (("evaluate", "{folder}/none"), 2, "usage"),
        (("evaluate", "{folder}", "--model", "{file}"), 2, "model-file"),
        (("inspect", "{file}"), 2, "model-file"),
        (("verify", "{folder}/none.onnx"), 2, "input"),
        (("verify", "x2-fast", "--backend", "none"), 2, "usage"),
        (("export", "{file}", "-o", "{out}"), 2, "checkpoint"),
        (("diagnose", "{file}"), 2, "model-file"),
        (("build", "{file}", "-o", "{out}"), 2, "model-file"),
        (("backends", "--model", "{file}"), 2, "model-file"),
        (("bench", "--from", "{file}"), 2, "input"),
        (("bench", "compare", "{file}", "{file}"), 2, "input"),
        (("bench", "gate", "--baseline", "{file}"), 2, "input"),
        (("watch", "{file}/none", "{out}"), 2, "input"),
        (("mercure",), 2, "input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_error_is_an_object_without_paths(run, tmp_path, monkeypatch, words, code, kind):
    """Kind, message, hint and exit code; a path may be a patient's name, so it is left out."""
    for name in ("MERCURE_IN_DIR", "MERCURE_OUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / PATIENT
    folder.mkdir()
    file = folder / "scan of jane"
    file.write_bytes(b"no model, no picture, no result")
    places = {"folder": folder, "file": file, "out": tmp_path / "out" / PATIENT}
    done = run(*(word.format(**places) for word in words), "--json")
    told = told_by(done)
    assert done.exit_code == told["exit_code"] == code
    assert told["error"].keys() == {"kind", "message", "hint"}
    assert told["error"]["kind"] == kind
    assert told["error"]["message"]
    for secret in (PATIENT, "jane", str(tmp_path)):
        assert secret not in json.dumps(told)
    assert "error: " in done.stderr or "Error" in done.stderr  # people still read it there


def test_a_run_that_found_nothing_has_a_result(run, tmp_path):
    """What was there, by reason, is one; it stands where results do, with the error in it."""
    (tmp_path / PATIENT).mkdir()
    (tmp_path / PATIENT / "letter").write_bytes(b"no picture")
    done = run("infer", tmp_path / PATIENT, tmp_path / "out", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == told["exit_code"] == 9
    assert told["error"]["kind"] == "no-mr-image"
    assert told["reasons"]
    assert PATIENT not in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith("{")]


def test_show_paths_shows_them(run, tmp_path):
    """Where a user says that paths may be shown, the object names the file."""
    done = run("infer", sample_folder(), tmp_path, "--json", "--model", "none.onnx")
    assert "<path>" in told_by(done)["error"]["message"]
    done = run("infer", sample_folder(), tmp_path, "--json", "--model", "none.onnx", "--show-paths")
    assert "none.onnx" in told_by(done)["error"]["message"]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_that_knows_json_can_be_asked_for_paths(run, words):
    """So a script may hand the same words to all of them."""
    done = run(*words, "--json", "--show-paths", "--no-such-option")
    assert "--no-such-option" in told_by(done)["error"]["message"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("cannot read /data/Jane Doe/T1 ax/1 2.dcm: gone", "cannot read <path>: gone"),
        ("'/data/x/Jane Doe' is missing", "'<path>' is missing"),
        ('"/data/Jane Doe" and "/data/O\'Hara"', '"<path>" and "<path>"'),
        ("/m/x.onnx was exported by onnx 1.2", "<path> was exported by onnx 1.2"),
        ("neither /a/b nor /c/d", "neither <path> nor <path>"),
        ("{home}/torch/x.pth", "<path>"),
        ("{cwd}: no model", "<path>: no model"),
        ("{cwd}/T1 ax/1.dcm: no model", "<path>: no model"),
    ],
)
def test_a_path_goes_on_behind_a_blank(message, expected, tmp_path, monkeypatch):
    """Folders are named after patients, who have two names."""
    here = tmp_path / "Jane Doe"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here / "John Doe"))
    text = message.format(cwd=here, home=here / "John Doe")
    assert without_paths(text, ["infer", "--json"]) == expected


def test_an_internal_error_is_an_object_without_values(run, monkeypatch):
    """A fault of ours has exit code 1, and quotes nothing."""
    monkeypatch.setattr("kspacesr_rt.runtime.doctor.diagnose_machine", lambda: {}[PATIENT])
    done = run("doctor", "--json")
    told = told_by(done)
    assert done.exit_code == told["exit_code"] == 1
    assert told["error"]["kind"] == "internal"
    assert PATIENT not in done.output


def test_a_signal_is_an_object(run, monkeypatch):
    """Ctrl-C is an end like others."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("kspacesr_rt.runtime.doctor.diagnose_machine", interrupted)
    done = run("doctor", "--json")
    told = told_by(done)
    assert done.exit_code == told["exit_code"] == 130
    assert told["error"]["kind"] == "interrupted"


def test_a_missing_package_is_an_object(run, monkeypatch):
    """A base install that is asked for more says so to scripts, too."""

    def missing():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("kspacesr_rt.runtime.doctor.diagnose_machine", missing)
    done = run("doctor", "--json")
    told = told_by(done)
    assert done.exit_code == told["exit_code"] == 3
    assert told["error"]["kind"] == "backend-unavailable"
    assert "pip install" in told["error"]["hint"]


def test_a_result_that_failed_is_the_only_object(run, monkeypatch):
    """A self-test that fails has printed its figures: a second object would break a script."""

    def refuse(result):
        raise ParityError("too far off")

    monkeypatch.setattr("kspacesr_rt.runtime.self_test.require_verified", refuse)
    done = run("verify", "x2-fast", "--threads", 1, "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout)["model"] == "x2-fast"
    assert "error: too far off" in done.stderr


def test_without_json_standard_output_stays_empty(run):
    """People read errors on standard error."""
    done = run("inspect", "none.onnx")
    assert (done.exit_code, done.stdout) == (2, "")
    done = run("infer", "--", "--json", "none")  # a folder of that name
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/DOE^JANE/a.dcm exists", "<path> exists"),
        ("cannot read '/data/x.npy': gone", "cannot read '<path>': gone"),
        ("my scan/1.dcm: odd", "<path>: odd"),
        ("jane.nii: holds no image", "<path>: holds no image"),
        ("matrix 24/7, n/a, a SR / LR of 2, at /metrics", None),
        ("a writing tool", None),
    ],
)
def test_paths_are_told_from_words(text, told):
    """What was given is a path with all its parts; what only looks alike stays."""
    arguments = ["infer", "my scan", "--model=/m/jane.nii", "--batch", "2"]
    assert without_paths(text, [*arguments, "my scan/1.dcm"]) == (told or text)


def test_a_kind_is_the_word_of_its_class():
    """Scripts compare words, not sentences."""
    assert kind_of(BackendUnavailableError("")) == "backend-unavailable"
    assert kind_of(NoMRImageError("")) == "no-mr-image"
