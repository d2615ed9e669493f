"""Services and containers: closed streams, full disks behind a pipe, no home, another locale."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_cases import wait_until

from kspacesr_rt.errors import OutputError
from kspacesr_rt.runtime.self_test_cache import VerificationCache
from kspacesr_rt.runtime.tensorrt.cache import EngineCache
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.cache_folder import default_folder

PROGRAM = (sys.executable, "-m", "kspacesr_rt")
FULL = Path("/dev/full")
NOT_UTF_8 = [
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]
NOBODY = """
import pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
from kspacesr_rt.cli import main
main()
"""


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[:2]:
        shutil.copy(path, folder)
    return folder


def shell(line, *arguments, **environment):
    """Run a line of sh, in which "$@" is the program with its arguments."""
    return subprocess.run(
        ["sh", "-c", line, "sh", *PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
        check=False,
    )


def infer(study, output, *more):
    return ("infer", study, output, "--backend", "zero-fill", "--preview", *more)


def written(output):
    return len(list(output.glob("*/*.dcm")))


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_closed_streams_cost_nothing(study, tmp_path, closed, more):
    """systemd, cron and containers may start a process without any."""
    output = tmp_path / "out"
    done = shell(f'"$@" {closed}', *infer(study, output, *more))
    assert (done.returncode, written(output)) == (0, 2), done.stderr
    assert json.loads((output / "report.json").read_bytes())["written"] == 2
    assert (output / "report.json").read_bytes().endswith(b"}\n")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """What a library then prints would go into that file."""
    told = tmp_path / "told"
    script = (
        "import os, sys; from kspacesr_rt.cli import streams; streams.make_usable()\n"
        f"file = open({str(told)!r}, 'w')\n"
        "os.write(1, b'from a library'); os.write(2, b'from a library'); print('from us')\n"
        "print(file.fileno(), sys.stdin.read(), file=file)"
    )
    subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", script], check=True
    )
    assert int(told.read_text().split()[0]) > 2


def test_a_watch_without_streams_goes_on(study, tmp_path):
    output = tmp_path / "out"
    arguments = ("watch", study, output, "--backend", "zero-fill", "--settle", "0", "--poll", "0.1")
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *PROGRAM, *map(str, arguments), "--json"]
    )
    try:
        assert wait_until(lambda: written(output) == 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "command", [["backends"], ["backends", "--json"], ["--help"], ["bench", "--help"]]
)
def test_what_cannot_be_printed_is_told_in_a_sentence(command):
    done = shell('"$@" > /dev/full', *command)
    assert done.returncode == 7
    assert "standard output cannot be written: No space left on device" in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_costs_no_slice(study, tmp_path):
    output = tmp_path / "out"
    done = shell('"$@" > /dev/full', *infer(study, output))
    assert (done.returncode, written(output)) == (7, 2)
    assert "what the command did is done" in done.stderr
    done = shell('"$@" 2> /dev/full', *infer(study, tmp_path / "other"))
    assert (done.returncode, written(tmp_path / "other")) == (0, 2)


def test_an_error_that_cannot_be_told_keeps_its_exit_code(tmp_path):
    done = shell('"$@" > /dev/full 2>&-', *infer(tmp_path / "none", tmp_path / "out"))
    assert done.returncode == 2


def test_a_reader_that_has_enough_is_no_error(study, tmp_path):
    """``| head``: the command's own exit code counts, and nobody reads of a broken pipe."""
    line = 'exec 3>&1; { "$@"; echo "code $?" >&3; } | true'
    for command in (infer(study, tmp_path / "out"), ("backends",), ("infer", "--help")):
        done = shell(line, *command)
        assert done.stdout == "code 0\n"
        assert done.stderr == ""


@pytest.mark.parametrize("locale", NOT_UTF_8)
@pytest.mark.parametrize("command", ["infer", "serve", "bench"])
def test_help_is_printed_in_every_locale(command, locale):
    """An ellipsis or a frame of the help is no latin-1."""
    done = shell('"$@"', command, "--help", **locale)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("locale", [{}, *NOT_UTF_8])
def test_names_of_files_need_not_be_text(study, tmp_path, locale):
    """Old archives name files in latin-1, which is no UTF-8."""
    (study / os.fsdecode(b"caf\xe9.txt")).write_text("no image")
    done = shell('"$@"', *infer(study, tmp_path / "out", "--show-paths", "-v"), **locale)
    assert done.returncode == 0, done.stderr
    assert "not-dicom" in done.stdout


def without_home(*arguments, **environment):
    told = {name: value for name, value in os.environ.items() if name != "HOME"}
    told.pop("KSPACESR_RT_CACHE")
    return subprocess.run(
        [sys.executable, "-c", NOBODY, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**told, **environment},
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "command", [["backends"], ["cache", "ls"], ["cache", "prune", "--all"], ["doctor"]]
)
def test_a_user_without_a_home_lacks_the_cache_alone(command):
    """A container's, without an entry in passwd."""
    done = without_home(*command)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_a_run_without_a_home_says_that_nothing_is_cached(study, tmp_path, backend):
    output = tmp_path / "out"
    done = without_home("infer", study, output, "--backend", backend)
    assert (done.returncode, written(output)) == (0, 2), done.stderr
    assert ("there is no cache" in done.stderr) == (backend == "auto")


def test_what_must_be_kept_says_how(monkeypatch):
    """An engine without a place is an error with a hint, not a crash."""
    monkeypatch.setenv("KSPACESR_RT_CACHE", "~nobody-has-this-name/cache")
    with pytest.raises(OutputError, match="no home folder") as caught:
        default_folder("engines")
    assert "KSPACESR_RT_CACHE" in caught.value.hint
    assert EngineCache().listing() == ()
    assert "there is no cache" in EngineCache().as_text()
    assert VerificationCache().forget() == 0
