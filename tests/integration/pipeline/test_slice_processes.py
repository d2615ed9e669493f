"""Processes beside the run's: the same bytes and words, and what is lost with one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fault_cases
import pydicom
import pytest
from pydicom.uid import RLELossless
from stuck_processes import wait_until_called

from kspacesr_rt.errors import BackendUnavailableError, InputError, SliceFailed
from kspacesr_rt.pipeline import InferOptions, Session, infer, process_choice
from kspacesr_rt.pipeline.journal_entries import valid_entry
from kspacesr_rt.pipeline.slice_processes import process as process_module
from kspacesr_rt.pipeline.slice_processes.messages import ReadSlice, SharedSamples, WriteDraft
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess, why_no_processes

pytestmark = pytest.mark.skipif(why_no_processes() is not None, reason="processes need Linux")
OF_THE_CLOCK = ("seconds", "stages", "bottleneck", "headers")
"""Of a report: what depends on time, and on how many have read the first header of a series."""


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Series of two matrices, a multi-frame file, and files of every other kind; read only."""
    folder = tmp_path_factory.mktemp("mixed") / "in"
    fault_cases.make_mixed(folder, n_slices=12, n_others=9)
    files = sorted((folder / "one").rglob("*.dcm"))
    for path in files[:2]:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    content = files[2].read_bytes()
    files[2].write_bytes(content[: len(content) - 300])
    dataset = pydicom.dcmread(files[3])
    dataset.RescaleSlope = "1e-30"
    dataset.save_as(files[3])
    dataset = pydicom.dcmread(files[4])
    dataset.PixelPaddingValue = 0
    dataset.PatientName = "GRÖSSE^JÖRG"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.save_as(files[4])
    return folder


def tree(folder):
    """Return every output and contact sheet, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".dcm", ".png")
    }


def said(folder):
    """Return what a report says, but for what depends on time."""
    report = json.loads((folder / "report.json").read_bytes())
    report["options"]["processes"] = None
    return {name: value for name, value in report.items() if name not in OF_THE_CLOCK}


def noted(folder):
    """Return what the journal notes of outputs, but for their digests.

    These are of the whole file or by parts, as it was made; the outputs themselves are compared.
    """
    lines = (folder / ".kspacesr-rt" / "journal.jsonl").read_bytes().splitlines()
    entries = [one for one in map(valid_entry, lines) if one and "record" in one]
    for one in entries:
        one.pop("seen_ns", None)
        one.pop("output_sha256")
    return sorted(entries, key=lambda one: one["source"])


@pytest.mark.parametrize(
    "options",
    [
        {"preview": True},
        {"compress": "rle", "on_interpolated": "crop", "durability": "file"},
        {"name": "uid", "show_paths": True, "keep_private": True, "durability": "none"},
    ],
    ids=["preview", "compressed", "by uid"],
)
def test_nobody_can_tell_how_many_processes_there_were(mixed, tmp_path, options):
    found = []
    for processes in (0, 1, 2):
        out = tmp_path / "out"
        infer(
            mixed, out, InferOptions(backend="zero-fill", batch=3, processes=processes, **options)
        )
        found.append((tree(out), said(out), noted(out)))
        out.rename(tmp_path / str(processes))
    for outputs, report, journal in found[1:]:
        assert outputs.keys() == found[0][0].keys()
        assert outputs == found[0][0]
        assert report == found[0][1]
        assert journal == found[0][2]
    reasons = {one["reason"] for one in found[0][1]["slices"] if one["outcome"] == "failed"}
    assert reasons == {"truncated", "bad-rescale"}


def slices(folder, n=8):
    return fault_cases.make_slices(folder, n)


def lost_at(monkeypatch, step, *, source=None, times=1):
    """Have a process killed as it is about to take a step; return what was met."""
    ask, met = SliceProcess.ask, []

    def killing(self, asked, sr=None):
        own = source is None or getattr(asked, "source", None) is None
        own = own or asked.source.path == source
        if isinstance(asked, step) and own and len(met) < times:
            self.start()
            os.kill(self.id, signal.SIGKILL)
            met.append(asked)
        return ask(self, asked, sr)

    monkeypatch.setattr(SliceProcess, "ask", killing)
    return met


@pytest.mark.parametrize("step", process_module.Step.__args__[:-1], ids=lambda one: one.__name__)
def test_a_process_that_is_killed_costs_no_slice(tmp_path, monkeypatch, step):
    """Whatever it was doing: another one does it again, the same, and the report says so."""
    slices(tmp_path / "in")
    expected = infer(tmp_path / "in", tmp_path / "expected", InferOptions(backend="zero-fill"))
    met = lost_at(monkeypatch, step)
    options = InferOptions(backend="zero-fill", processes=2)
    report = infer(tmp_path / "in", tmp_path / "out", options)
    assert len(met) == 1
    assert report.count("written") == expected.count("written")
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    assert not fault_cases.leftovers(tmp_path / "out")
    assert any("was lost (signal SIGKILL)" in one for one in report.backend_notes)


@pytest.mark.parametrize("step", [ReadSlice, WriteDraft], ids=lambda one: one.__name__)
def test_a_slice_that_takes_processes_with_it_fails_alone(tmp_path, monkeypatch, step):
    files = slices(tmp_path / "in")
    source = files[0] if step is ReadSlice else None
    met = lost_at(monkeypatch, step, source=source, times=2)
    options = InferOptions(backend="zero-fill", processes=1)
    report = infer(tmp_path / "in", tmp_path / "out", options)
    assert len(met) == 2
    [failed] = [one for one in report.slices if one.outcome == "failed"]
    assert (failed.reason, report.count("written")) == ("lost-worker", len(files) - 1)
    assert "signal SIGKILL" in failed.message
    assert str(tmp_path) not in failed.message
    assert report.exit_code == 8
    assert not fault_cases.leftovers(tmp_path / "out")


def test_a_series_that_cannot_be_surveyed_is_processed(tmp_path, monkeypatch):
    """Two are lost over its survey: nothing is known of its k-space, and it is written."""
    files = slices(tmp_path / "in")
    lost_at(monkeypatch, process_module.Step.__args__[0], times=2)
    options = InferOptions(backend="zero-fill", processes=1)
    report = infer(tmp_path / "in", tmp_path / "out", options)
    assert report.count("written") == len(files)
    assert report.series_records[0].measured_shares == (None, None)


def test_a_source_that_changes_while_its_process_is_lost_is_not_mixed_up(tmp_path, monkeypatch):
    """The result is of what was read first, the header would be of what is read again."""
    [path] = slices(tmp_path / "in", 1)
    ask, done = SliceProcess.ask, []

    def changing(self, asked, sr=None):
        if isinstance(asked, WriteDraft) and not done:
            done.append(asked)
            os.kill(self.id, signal.SIGKILL)
            dataset = pydicom.dcmread(path)
            dataset.PatientName = "SOMEBODY^ELSE"
            dataset.save_as(path)
        return ask(self, asked, sr)

    monkeypatch.setattr(SliceProcess, "ask", changing)
    report = infer(
        tmp_path / "in", tmp_path / "out", InferOptions(backend="zero-fill", processes=1)
    )
    assert [one.reason for one in report.slices] == ["changed"]


def test_processes_of_a_session_stay_and_end_with_it(tmp_path):
    slices(tmp_path / "in")
    with Session(InferOptions(backend="zero-fill", processes=1)) as session:
        session.run(tmp_path / "in", tmp_path / "one")
        [pid] = session.process_ids
        session.run(tmp_path / "in", tmp_path / "two")
        assert session.process_ids == (pid,)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_process_loads_neither_a_runtime_nor_a_client_of_networks():
    """There are several, and each takes its time and memory."""
    begin, _ = process_module._MAIN.splitlines()
    code = (
        f"{begin.format(path=sys.path)}\nimport kspacesr_rt.pipeline.slice_processes.child\n"
        "never = ('onnx', 'onnxruntime', 'openvino', 'torch', 'rich', 'urllib3')\n"
        "print([name for name in never if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_cannot_be_started_is_an_error_with_its_reason(tmp_path, monkeypatch):
    slices(tmp_path / "in", 1)
    broken = tmp_path / "python-that-is-broken"
    broken.write_text("#!/bin/sh\necho what is wrong >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    options = InferOptions(backend="zero-fill", processes=1)
    with pytest.raises(BackendUnavailableError, match="cannot be started: what is wrong") as caught:
        infer(tmp_path / "in", tmp_path / "out", options)
    assert "--processes 0" in caught.value.hint


def test_where_there_can_be_none_a_number_is_refused_and_auto_is_none(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert process_choice.chosen_processes("auto", "zero-fill", 10_000) == 0
    with pytest.raises(InputError, match="--processes 2: this program"):
        process_choice.chosen_processes(2, "zero-fill", 1)


@pytest.mark.parametrize(
    ("cores", "backend", "n_slices", "number"),
    [
        (2, "ort-cuda", 10_000, 0),
        (4, "ort-cpu", 399, 0),
        (4, "ort-cpu", 400, 2),
        (4, "ort-cuda", 400, 3),
        (64, "ort-cpu", 400, 8),
    ],
)
def test_auto_goes_by_cores_backend_and_slices(monkeypatch, cores, backend, n_slices, number):
    monkeypatch.setattr(process_choice, "available_cores", lambda: cores)
    assert process_choice.chosen_processes("auto", backend, n_slices) == number


def test_errors_cross_whole():
    import pickle

    error = pickle.loads(pickle.dumps(SliceFailed("decode", "a message", hint="a hint")))
    assert (type(error), error.reason, str(error), error.hint) == (
        *(SliceFailed, "decode", "a message", "a hint"),
    )


def test_shared_memory_grows_and_has_no_name():
    before = set(Path("/dev/shm").iterdir())
    samples = SharedSamples.create()
    other = SharedSamples(os.dup(samples.descriptor))
    for shape in ((3, 5), (700, 900), (2, 2)):
        samples.array(shape)[...] = shape[0]
        assert (other.array(shape) == shape[0]).all()
    assert set(Path("/dev/shm").iterdir()) == before
    for one in (samples, other):
        one.close()


SCRIPT = """
import sys, threading
import kspacesr_rt as ks
if threading.current_thread() is threading.main_thread():
    print("begun", flush=True)
report = ks.infer(sys.argv[1], sys.argv[2], ks.InferOptions(backend="zero-fill", processes=2))
print(report.count("written"), flush=True)
"""


def test_a_script_without_a_guard_of_its_main_runs_once(tmp_path):
    """A start method that imports the script again would process everything anew, for ever."""
    slices(tmp_path / "in", 3)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["begun", "3"]


def children_of(pid):
    """Return the processes of a process."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def held(tmp_path):
    """Return a run of two processes that is in its middle, in a group of its own, and its hold."""
    slices(tmp_path / "in", 30)
    hold, log = tmp_path / "hold", tmp_path / "log"
    hold.touch()
    command = ("infer", tmp_path / "in", tmp_path / "out", "--backend", "zero-fill")
    process = subprocess.Popen(
        [sys.executable, fault_cases.__file__, *map(str, command), "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=fault_cases.environment(log=log, FAULT_HOLD=str(hold)),
        start_new_session=True,
    )
    fault_cases.wait_until(lambda: log.exists() and log.stat().st_size >= 5, process)
    yield process, hold
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
def test_processes_end_when_the_runs_is_killed(held, stuck, tmp_path):
    """By themselves, one too that is stopped (as good as stuck in a codec), and leave no memory."""
    process, _ = held
    children = children_of(process.pid)
    assert len(children) == 2
    if stuck:
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    for pid in children:
        if stuck:
            os.kill(pid, signal.SIGCONT)
        fault_cases.wait_until(lambda pid=pid: not is_alive(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_the_run_after_what_is_under_way(held, number, tmp_path):
    """Ctrl-C goes to every process of a terminal's group: those beside have to finish first."""
    process, hold = held
    children = children_of(process.pid)
    os.killpg(process.pid, number)
    time.sleep(0.2)
    assert all(map(is_alive, children))
    hold.unlink()
    code, stderr = fault_cases.ended(process)
    assert code == 128 + number, stderr
    assert "Traceback" not in stderr
    assert not any(map(is_alive, children))
    assert not fault_cases.leftovers(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["interrupted"]
    assert report["written"] == len(fault_cases.contents(tmp_path / "out")) > 0


def test_a_second_signal_ends_all_at_once(held):
    process, _ = held
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    wait_until_called(process, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    for pid in children:
        fault_cases.wait_until(lambda pid=pid: not is_alive(pid))
