"""Runs that are killed, starved, lied to and broken: after each, what was lost is counted.

It must be zero: after a fault and one more run, the files and their bytes are those of a run that
nothing disturbed. ``KSPACESR_KILLS`` says how often to kill (default 6), ``KSPACESR_FAULT_SEED``
from which seed the moments are drawn.
"""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import fault_cases
import pydicom
import pytest
from fault_cases import MATRIX, NOTHING_LOST, OTHER_MATRIX, contents, ended, losses, start

from kspacesr_rt.bench.run.archive import make_archive
from kspacesr_rt.dicom.content_digest import digest_of_file
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.errors import OutputError, RunMismatchError
from kspacesr_rt.pipeline import (
    InferOptions,
    Session,
    backend_pool,
    infer,
    preflight,
    slice_work,
)
from kspacesr_rt.pipeline.compute import BatchRunner
from kspacesr_rt.pipeline.file_in_progress import MADE_AGAIN, FileInProgress
from kspacesr_rt.pipeline.journal_entries import valid_entry
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.pipeline.scheduler import COMMITTING_AT_ONCE, READ_AHEAD
from kspacesr_rt.pipeline.slice_processes.process import why_no_processes
from kspacesr_rt.pipeline.slice_processes.remote_work import RemoteSliceWork
from kspacesr_rt.pipeline.stage_timer import auto_workers

pytestmark = pytest.mark.usefixtures("from_a_warm_process")

KILLS = int(os.environ.get("KSPACESR_KILLS", "6"))
SEED = int(os.environ.get("KSPACESR_FAULT_SEED", "6"))
ZERO_FILL = InferOptions(backend="zero-fill", batch=3)
CLI = ("--backend", "zero-fill", "--batch", "3", "--threads", "1")
AT_ONCE = 8
"""Runs of one study that are started together."""
SLOW = 0.03
"""Seconds that a batch takes longer where a run is to be met in its middle."""
BESIDE = 2
"""Processes of the runs that have some beside the one that computes."""
NUMBERS = [
    pytest.param(0, id="alone"),
    pytest.param(
        BESIDE,
        id=f"{BESIDE} beside",
        marks=pytest.mark.skipif(why_no_processes() is not None, reason="processes need Linux"),
    ),
]
in_both = pytest.mark.parametrize("processes", NUMBERS)
"""Runs in one process, and with others that read and write."""


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two series of two matrices each, and a multi-frame file; read only."""
    folder = tmp_path_factory.mktemp("mixed") / "in"
    fault_cases.make_mixed(folder)
    return folder


@pytest.fixture(scope="module")
def n_computed(mixed):
    """How often an undisturbed run computes: once a slice, and once a frame."""
    return len(list(mixed.rglob("*.dcm"))) - 1 + fault_cases.N_FRAMES


@pytest.fixture(scope="module")
def undisturbed(mixed, tmp_path_factory):
    """Return what a run of `mixed` writes that nothing disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    code, stderr = ended(start("infer", mixed, out, *CLI))
    assert code == 0, stderr
    return contents(out)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Make a series of 20 slices and the beginning of another; read only."""
    folder = tmp_path_factory.mktemp("slices") / "in"
    fault_cases.make_slices(folder, 23)
    return folder


@pytest.fixture
def study(slices, tmp_path):
    """Copy the slices; a test's own."""
    return shutil.copytree(slices, tmp_path / "study")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def beside():
    """Keep processes from test to test, as a session does, whatever has happened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)
        with Session(replace(ZERO_FILL, processes=BESIDE)) as session:
            yield session


@pytest.fixture(params=NUMBERS)
def run(request):
    """Return `infer`, or what does the same with processes beside."""
    if request.param == 0:
        return infer
    session = request.getfixturevalue("beside")
    session.release()  # backends are opened anew, as a test may have changed them

    def run_beside(source, output, options, **more):
        return session.run(
            source, output, options=replace(options, processes=request.param), **more
        )

    return run_beside


_expected: dict[object, dict[str, str]] = {}


def expected_of(study, tmp_path, options=ZERO_FILL):
    """Return what an undisturbed run of a test's own study writes; the same files are run once."""
    files = {path.relative_to(study): path.read_bytes() for path in sorted(study.rglob("*.dcm"))}
    key = (repr(options), *files.items())
    if key not in _expected:
        folder = tmp_path / "expected"
        infer(study, folder, options)
        _expected[key] = contents(folder)
    return _expected[key]


def in_flight(batch=3, processes=0):
    """Slices that may be computed, but not noted, when a run dies."""
    ahead = auto_workers(on_gpu=False) + READ_AHEAD * processes
    return 3 * batch + ahead + fault_cases.N_FRAMES


def some(folder, number=5):
    return sorted(folder.rglob("*.dcm"))[number]


def digests_noted(out):
    """Return what the journal says of outputs, by their names."""
    journal = out / ".kspacesr-rt" / "journal.jsonl"
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    entries = [one for one in map(valid_entry, lines) if one and "record" in one]
    return {one["record"]["output"]: one["output_sha256"] for one in entries}


def run_and_meet(rng, source, out, *arguments, log, most, hold=None):
    """Start a slow run and return it anywhere within its first `most` slices, or ended.

    With a file to `hold` it, it goes no further than those until the file is gone: a test that
    stalls meets it all the same.
    """
    ready = log.with_name("ready")
    ready.unlink(missing_ok=True)

    def n_logged():
        return log.stat().st_size if log.exists() else 0

    wanted = n_logged() + rng.randint(0, most)
    command = ("infer", source, out, *CLI, *arguments)
    held = {}
    if hold is not None:
        hold.touch()
        held = {"FAULT_HOLD": str(hold), "FAULT_FREE": str(most // 3)}
    process = start(*command, sleep_s=SLOW, log=log, FAULT_READY=str(ready), **held)
    fault_cases.wait_until(ready.exists, process)
    fault_cases.wait_until(lambda: n_logged() >= wanted, process)
    time.sleep(rng.uniform(0.0, SLOW))
    return process


@in_both
@pytest.mark.parametrize("durability", ["file", "batch", "none"])
def test_killed_runs_are_completed_and_nothing_is_lost(
    durability, processes, mixed, undisturbed, n_computed, tmp_path, record_property
):
    """Kill -9 at random moments; nothing half-written is ever seen, what is noted is whole.

    And nothing computed for naught, but of a group that was not closed yet.
    """
    rng, log = random.Random(SEED), tmp_path / "computed"
    wanted = KILLS if processes == 0 else KILLS // 2
    kills = recomputed = runs = torn = noted = met_nothing = 0
    while kills < wanted:
        out, before = tmp_path / f"out{runs}", kills
        log.unlink(missing_ok=True)
        runs += 1
        while True:
            how = ("--durability", durability, "--processes", processes)
            process = run_and_meet(rng, mixed, out, *how, log=log, most=45)
            process.kill()
            code, stderr = ended(process)
            if code == 0:  # it was faster than the kill
                break
            assert code == -signal.SIGKILL, stderr
            kills += 1
            seen, named = contents(out), digests_noted(out)
            assert named.keys() <= seen.keys()
            assert {name: digest_of_file(out / name, alike=named[name]) for name in named} == named
            noted += len(named)
            met_nothing += not seen
            torn += sum(undisturbed.get(name) != digest for name, digest in seen.items())
            if kills >= wanted:
                break
        code, stderr = ended(start("infer", mixed, out, *CLI, log=log))
        assert code == 0, stderr
        assert losses(undisturbed, out) == NOTHING_LOST
        assert not fault_cases.leftovers(out)
        again = log.stat().st_size - n_computed
        in_group = 0 if durability != "batch" else COMMITTING_AT_ONCE
        most = in_flight(processes=processes) + in_group
        assert 0 <= again <= (kills - before) * most
        recomputed += again
    told = {"kills": kills, "runs": runs, "torn": torn, "lost": 0, "recomputed": recomputed}
    told |= {"noted": noted}
    record_property("kills", told)
    print(durability, told, f"killed before the first output: {met_nothing}")
    assert torn == 0
    if durability != "batch":  # a group may be open for longer than these runs live
        assert met_nothing < kills, "no kill met a run in its middle"


@in_both
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_runs_write_their_report_and_are_completed(
    mixed, undisturbed, n_computed, tmp_path, number, code, processes
):
    """Ctrl-C and SIGTERM finish what is under way; not one slice is computed twice."""
    rng, log, out = random.Random(SEED + number), tmp_path / "computed", tmp_path / "out"
    stopped = 0
    for _ in range(4):
        hold = tmp_path / "hold"
        how = ("--processes", processes)
        process = run_and_meet(rng, mixed, out, *how, log=log, most=36, hold=hold)
        process.send_signal(number)
        hold.unlink()
        returned, stderr = ended(process)
        if returned in (0, -number):  # done; the interpreter, on its way out, holds no signal
            assert not json.loads((out / "report.json").read_text())["interrupted"]
            assert losses(undisturbed, out) == NOTHING_LOST
            break
        assert returned == code, stderr
        stopped += 1
        assert not fault_cases.leftovers(out)
        seen = contents(out)
        assert all(undisturbed.get(name) == digest for name, digest in seen.items())
        report = json.loads((out / "report.json").read_text())
        assert report["interrupted"]
        assert report["written"] + report["present"] == len(seen)
    returned, stderr = ended(start("infer", mixed, out, *CLI, log=log))
    assert returned == 0, stderr
    assert stopped > 0
    assert losses(undisturbed, out) == NOTHING_LOST
    # Frames of a file that was not finished are computed again; slices are not.
    assert log.stat().st_size - n_computed <= stopped * (fault_cases.N_FRAMES + 3 * 3)


@in_both
def test_killed_replacements_are_completed_and_no_name_is_left(study, out, tmp_path, processes):
    """Kill -9 while corrected slices take the place of others: in the end all say the new name."""
    rng, log = random.Random(SEED), tmp_path / "computed"
    infer(study, out, ZERO_FILL)
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "NEW^NAME"
        dataset.save_as(path)
    kills = 0
    for _ in range(3):
        more = {"log": log, "most": 18, "hold": tmp_path / "hold"}
        how = ("--stale", "replace", "--processes", processes)
        process = run_and_meet(rng, study, out, *how, **more)
        process.kill()
        code, stderr = ended(process)
        kills += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), stderr
    code, stderr = ended(start("infer", study, out, *CLI, "--stale", "replace"))
    assert (code, kills > 0) == (0, True), stderr
    assert losses(expected_of(study, tmp_path), out) == NOTHING_LOST
    assert not fault_cases.leftovers(out)


@pytest.fixture
def small_disk(tmp_path):
    """Return what mounts a small file system, and gives it another size."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def resize(size_bytes):
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size_bytes}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            assert not mounted, done.stderr
            pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
        mounted = True
        return place

    yield resize
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(("processes", "attempts"), [(0, 5), (2, 2)])
def test_a_full_disk_ends_the_run_and_room_completes_it(
    small_disk, mixed, undisturbed, processes, attempts
):
    """Wherever the last byte runs out: exit 7, nothing half-written, and one more run is enough."""
    rng = random.Random(SEED)
    needed = 4096 * len(undisturbed) * 6
    for attempt in range(attempts):
        place = small_disk(4096 * rng.randint(3, needed // 4096))
        out = place / "out"
        how = ("--processes", processes)
        code, stderr = ended(start("infer", mixed, out, *CLI, *how))
        seen = contents(out)
        assert code == 7, (attempt, stderr)
        assert "cannot be written" in stderr or "cannot be used" in stderr or "write" in stderr
        assert not fault_cases.leftovers(out)
        assert len(seen) < len(undisturbed)
        assert all(undisturbed[name] == digest for name, digest in seen.items())
        small_disk(1 << 26)
        code, stderr = ended(start("infer", mixed, out, *CLI))
        assert code == 0, stderr
        assert losses(undisturbed, out) == NOTHING_LOST
        shutil.rmtree(out)


@pytest.fixture
def read_only():
    """Return what makes a folder read-only, for whoever opens something in it from then on."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a folder read-only needs root")
    mounted = []

    def mount(*words):
        return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)

    def make(place):
        done = mount("--bind", str(place), str(place))
        if done.returncode:
            pytest.skip(f"no folder can be mounted: {done.stderr.strip()}")
        mounted.append(place)
        done = mount("-o", "remount,bind,ro", str(place))
        assert done.returncode == 0, done.stderr

    def undo():
        while mounted:
            subprocess.run(["umount", str(mounted.pop())], check=True)

    make.undo = undo
    yield make
    undo()


@in_both
@pytest.mark.parametrize("exists", [True, False])
def test_a_read_only_output_is_refused_before_anything_is_computed(
    read_only, mixed, undisturbed, tmp_path, exists, processes
):
    """The folder itself, or the one that it would be made in; nothing is spent on it."""
    place = tmp_path / "disk"
    out = place / "out"
    out.mkdir(parents=True)
    if not exists:
        out.rmdir()
    read_only(out if exists else place)
    log = tmp_path / "log"
    how = ("--processes", processes)
    code, stderr = ended(start("infer", mixed, out, *CLI, *how, log=log))
    assert code == 7, stderr
    assert "error: " in stderr
    assert "permissions" in stderr or "may not be written" in stderr
    assert log.stat().st_size == 0
    assert [one.name for one in place.iterdir()] == ["out"] * exists
    read_only.undo()
    code, stderr = ended(start("infer", mixed, out, *CLI, *how))
    assert code == 0, stderr
    assert losses(undisturbed, out) == NOTHING_LOST


@in_both
@pytest.mark.parametrize("free", [3, 12])
def test_an_output_that_becomes_read_only_ends_the_run(
    read_only, mixed, undisturbed, out, tmp_path, free, processes
):
    """As a file system does that met an error: exit 7, and the next run takes up what it can."""
    hold = tmp_path / "hold"
    hold.touch()
    how = ("--processes", processes)
    held = {"FAULT_HOLD": str(hold), "FAULT_FREE": str(free)}
    running = start("infer", mixed, out, *CLI, *how, **held)
    assert fault_cases.wait_until(
        lambda: (out / ".kspacesr-rt" / "journal.jsonl").exists(), running
    )
    read_only(out)
    hold.unlink()
    code, stderr = ended(running)
    assert code == 7, stderr
    assert "Read-only file system" in stderr
    seen = contents(out)
    assert len(seen) < len(undisturbed)
    assert all(undisturbed[name] == digest for name, digest in seen.items())
    read_only.undo()
    code, stderr = ended(start("infer", mixed, out, *CLI, *how))
    assert code == 0, stderr
    assert losses(undisturbed, out) == NOTHING_LOST
    assert not fault_cases.leftovers(out)


@in_both
@pytest.mark.parametrize("limit", [300, 17_000, 24_000, 40_000])
def test_a_limit_of_file_sizes_ends_the_run_and_its_end_completes_it(
    mixed, undisturbed, out, limit, processes
):
    """A quota met by the manifest, a slice, the journal or a multi-frame file: exit 7."""
    how = ("--processes", processes)
    code, stderr = ended(start("infer", mixed, out, *CLI, *how, FAULT_FILE_SIZE=str(limit)))
    assert code == 7, stderr
    assert "File too large" in stderr
    seen = contents(out)
    assert all(undisturbed[name] == digest for name, digest in seen.items())
    assert not fault_cases.leftovers(out)
    code, stderr = ended(start("infer", mixed, out, *CLI))
    assert code == 0, stderr
    assert losses(undisturbed, out) == NOTHING_LOST


def meddling(monkeypatch, harm):
    """Let `harm` happen between the scan of the input and the first slice that is read."""
    real = preflight.scan_folder

    def scan_and_harm(root, **options):
        found = real(root, **options)
        harm()
        return found

    monkeypatch.setattr(preflight, "scan_folder", scan_and_harm)


def cut(path, n_bytes=200):
    os.truncate(path, path.stat().st_size - n_bytes)


def replace_by_a_broken_disk(path):
    path.unlink()
    path.symlink_to("/proc/self/mem")  # opens, and answers every read with EIO


HARMS = {
    "gone": (lambda path: path.unlink(), "unreadable"),
    "truncated": (cut, "truncated"),
    "emptied": (lambda path: os.truncate(path, 0), "changed"),
    "another file": (lambda path: path.write_bytes(b"a note" * 99), "changed"),
    "another instance": (lambda path: shutil.copy(some(path.parent, 0), path), "changed"),
    "read error": (replace_by_a_broken_disk, "unreadable"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", [3, 10], ids=["met by a worker", "met by the survey"])
def test_a_file_that_changes_before_its_turn_fails_alone(
    study, out, tmp_path, monkeypatch, harm, number, run
):
    """Scanners overwrite, archives purge: the slice fails by name, the others are as ever."""
    expected = expected_of(study, tmp_path)
    path = some(study, number)
    whole = path.read_bytes()
    do, reason = HARMS[harm]
    with monkeypatch.context() as patch:
        meddling(patch, lambda: do(path))
        report = run(study, out, ZERO_FILL)
    assert report.reasons() == [("failed", reason, 1)]
    assert (report.count("written"), report.exit_code) == (22, 8)
    assert losses(expected, out) == {"lost": 1, "changed": 0, "added": 0}
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    report = run(study, out, ZERO_FILL)
    assert (report.count("present"), report.count("written"), report.exit_code) == (22, 1, 0)
    assert losses(expected, out) == NOTHING_LOST


FRAMES_HARMS = {
    "gone": (lambda path, stock: path.unlink(), "unreadable"),
    "truncated": (lambda path, stock: cut(path), "decode"),
    "emptied": (lambda path, stock: os.truncate(path, 0), "changed"),
    "another file": (lambda path, stock: path.write_bytes(b"a note" * 99), "changed"),
    "another instance": (lambda path, stock: shutil.copy(stock / "other.dcm", path), "changed"),
    "fewer frames": (lambda path, stock: shutil.copy(stock / "shorter.dcm", path), "changed"),
    "one slice": (lambda path, stock: shutil.copy(stock / "slice.dcm", path), "changed"),
    "read error": (lambda path, stock: replace_by_a_broken_disk(path), "unreadable"),
}


@pytest.mark.parametrize("harm", FRAMES_HARMS)
def test_a_multi_frame_file_that_changes_before_its_turn_fails_alone(
    study, tmp_path, out, monkeypatch, harm
):
    """A header of one file must not be joined with what was decided on another's."""
    cases, folder, stock = fault_cases.enhanced_cases, tmp_path / "frames", tmp_path / "stock"
    frames = cases.sample_frames(4)
    target = cases.save(cases.build(frames), folder / "target.dcm")
    series = {"SeriesInstanceUID": "1.2.9", "StudyInstanceUID": "1.2.99"}
    other = cases.build(cases.sample_frames(4, first=2), SOPInstanceUID="1.2.8", **series)
    cases.save(other, folder / "other.dcm")
    cases.save(other, stock / "other.dcm")
    cases.save(cases.build(frames[:3]), stock / "shorter.dcm")
    shutil.copy(some(study), stock / "slice.dcm")
    do, reason = FRAMES_HARMS[harm]
    meddling(monkeypatch, lambda: do(target, stock))
    report = infer(folder, out, ZERO_FILL)
    assert report.reasons() == [("failed", reason, 1)]
    assert (report.count("written"), report.exit_code, len(contents(out))) == (1, 8, 1)
    assert not fault_cases.leftovers(out)


@pytest.mark.parametrize("what", ["open", "stat"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "EIO")])
def test_what_a_worker_may_not_read_fails_alone(study, out, tmp_path, monkeypatch, what, error):
    """A share that answers with an error for one file says nothing about the others."""
    expected, path = expected_of(study, tmp_path), some(study, 3)
    where, name = (io, "open") if what == "open" else (os, "fstat")
    real = getattr(where, name)

    def refusing(file, *arguments, **options):
        named = (
            str(Path(f"/proc/self/fd/{file}").readlink()) if isinstance(file, int) else str(file)
        )
        if named == str(path) and threading.current_thread().name.startswith("kspacesr-rt"):
            raise error
        return real(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, refusing)
        report = infer(study, out, ZERO_FILL)
    assert report.reasons() == [("failed", "unreadable", 1)]
    assert losses(expected, out) == {"lost": 1, "changed": 0, "added": 0}
    assert infer(study, out, ZERO_FILL).exit_code == 0
    assert losses(expected, out) == NOTHING_LOST


def raise_on(number, real, error):
    """Return `real`, which raises at its call of that number, counted over all threads."""
    calls, lock = [0], threading.Lock()

    def raising(*arguments, **options):
        with lock:
            calls[0] += 1
            mine = calls[0]
        if mine == number:
            raise error
        return real(*arguments, **options)

    return raising


def no_worker_left():
    return not [one for one in threading.enumerate() if one.name.startswith("kspacesr-rt")]


SIDE_BY_SIDE = InferOptions(backend="ort-cpu", model="x2-fast", streams=2)


def fall_over_at(number, where, run, study, out, tmp_path, options):
    """Have a call of a worker, or of the backend, raise; check what is left, and complete it."""
    expected = expected_of(study, tmp_path, options)
    with pytest.MonkeyPatch.context() as patch:
        place = BatchRunner if where == "_computed" else FileInProgress
        patch.setattr(place, where, raise_on(number, getattr(place, where), LookupError("SECRET")))
        with pytest.raises(LookupError, match="SECRET"):
            run(study, out, options)
    assert no_worker_left()
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"]
    assert report["not_reached"] == 23 - report["written"]
    assert "SECRET" not in json.dumps(report)
    assert len(contents(out)) >= report["written"] > (number - 2) * (where != "_computed") - 9
    assert run(study, out, options).exit_code == 0
    assert losses(expected, out) == NOTHING_LOST


@pytest.mark.parametrize("where", ["read", "write", "_computed"])
@pytest.mark.parametrize("number", [1, 7, 8])
def test_an_accident_ends_the_run_with_its_report(study, out, tmp_path, where, number, run):
    """A bug in a worker, or a driver that crashes: no hang, no thread left, all of it recorded."""
    fall_over_at(number, where, run, study, out, tmp_path, ZERO_FILL)


@pytest.mark.parametrize("where", ["write", "_computed"])
@pytest.mark.parametrize("number", [1, 7, 8])
def test_an_accident_beside_another_stream_does_so_too(study, out, tmp_path, where, number):
    """Two batches are computed side by side: what the other one was about is no loss."""
    fall_over_at(number, where, infer, study, out, tmp_path, SIDE_BY_SIDE)


def test_an_accident_on_the_command_line_is_exit_1_without_a_value(study, out, monkeypatch):
    """Messages of accidents may quote a patient; the type is enough to start with."""
    from typer.testing import CliRunner

    from kspacesr_rt.cli import app

    failing = raise_on(5, FileInProgress.write, LookupError("SECRET"))
    monkeypatch.setattr(FileInProgress, "write", failing)
    result = CliRunner().invoke(app, ["infer", str(study), str(out), "--backend", "zero-fill"])
    assert result.exit_code == 1
    assert "internal error (LookupError)" in result.output
    assert "SECRET" not in result.output
    assert (out / "report.json").exists()


def with_backend(monkeypatch, change):
    """Let `change(run, batch)` stand for every backend's `run`."""
    real = backend_pool.open_backend

    def open_changed(*arguments):
        backend = real(*arguments)
        run = backend.run
        backend.run = lambda batch: change(run, batch)
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", open_changed)


def test_one_unusable_result_fails_its_slice_and_says_5(study, out, tmp_path, monkeypatch, run):
    """NaN in one slice of a batch says nothing about its neighbours; the run says 5."""
    expected, calls = expected_of(study, tmp_path), []

    def run_with_a_hole(compute, batch):
        calls.append(len(batch))
        result = compute(batch)
        if len(calls) == 3:
            result[1, 0, 5, 5] = float("nan")
        return result

    with monkeypatch.context() as patch:
        with_backend(patch, run_with_a_hole)
        report = run(study, out, ZERO_FILL)
    assert report.reasons() == [("failed", "non-finite", 1)]
    assert (report.count("written"), report.exit_code) == (22, 5)
    assert losses(expected, out) == {"lost": 1, "changed": 0, "added": 0}
    assert run(study, out, ZERO_FILL).exit_code == 0
    assert losses(expected, out) == NOTHING_LOST


def test_a_backend_that_raises_ends_the_run_and_is_not_replaced(
    study, out, tmp_path, monkeypatch, run
):
    """What was finished is kept; nothing else computes in its place."""
    expected, calls = expected_of(study, tmp_path), []

    def run_until_it_breaks(compute, batch):
        calls.append(len(batch))
        if len(calls) == 4:
            raise RuntimeError("the device fell off the bus")
        return compute(batch)

    with monkeypatch.context() as patch:
        with_backend(patch, run_until_it_breaks)
        with pytest.raises(RuntimeError, match="fell off the bus"):
            run(study, out, ZERO_FILL)
    assert no_worker_left()
    kept = contents(out)
    assert kept.items() <= expected.items()
    report = run(study, out, ZERO_FILL)
    assert (report.count("present"), report.count("written")) == (len(kept), 23 - len(kept))
    assert losses(expected, out) == NOTHING_LOST


def test_runs_at_once_do_not_meet(study, tmp_path):
    """Nothing is shared between runs but the input."""
    for path in sorted(study.rglob("*.dcm"))[6:]:
        path.unlink()
    expected = expected_of(study, tmp_path)
    places = [tmp_path / f"out{number}" for number in range(AT_ONCE)]
    running = [start("infer", study, place, *CLI, sleep_s=0.2) for place in places]
    for process in running:
        code, stderr = ended(process, timeout_s=300)
        assert code == 0, stderr
    assert [losses(expected, place) for place in places] == [NOTHING_LOST] * AT_ONCE


def test_a_second_run_into_the_same_folder_is_refused(mixed, undisturbed, out, tmp_path):
    """It says so, with 7, and the first one does not notice."""
    hold = tmp_path / "hold"
    hold.touch()
    first = start("infer", mixed, out, *CLI, FAULT_HOLD=str(hold))
    fault_cases.wait_until(lambda: contents(out), first)
    seconds = [ended(start("infer", mixed, out, *CLI)) for _ in range(3)]
    hold.unlink()
    for code, stderr in seconds:
        assert code == 7, stderr
        assert "another run writes into this output folder" in stderr
    code, stderr = ended(first)
    assert code == 0, stderr
    assert losses(undisturbed, out) == NOTHING_LOST


def test_runs_that_start_at_the_same_moment_are_one_run(mixed, undisturbed, out, tmp_path):
    """Of several into one new folder, one goes on; the others say 7."""
    hold = tmp_path / "hold"
    hold.touch()  # until the last of the others has come, however late it starts
    running = [start("infer", mixed, out, *CLI, FAULT_HOLD=str(hold)) for _ in range(4)]
    fault_cases.wait_until(lambda: sum(one.poll() is not None for one in running) >= 3)
    hold.unlink()
    told = [ended(process) for process in running]
    assert sorted(code for code, _ in told) == [0, 7, 7, 7], told
    for code, stderr in told:
        assert code == 0 or "another run writes into this output folder" in stderr
    assert losses(undisturbed, out) == NOTHING_LOST


def interrupted_after(study, out, n_slices, options=ZERO_FILL, run=infer):
    """Run until some slices are done, then fall over."""

    def fall_over(progress):
        if progress.done == n_slices:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(study, out, options, on_progress=fall_over)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (InferOptions(backend="bicubic", batch=3), ["backend", "model"]),
        (InferOptions(backend="zero-fill", upscale=3), ["upscale"]),
        (InferOptions(backend="zero-fill", keep_private=True), ["keep_private"]),
        (InferOptions(backend="zero-fill", on_interpolated="crop"), ["on_interpolated"]),
        (InferOptions(backend="zero-fill", random_uids=True), ["random_uids"]),
        (InferOptions(backend="zero-fill", compress="rle"), ["compress"]),
        (InferOptions(backend="ort-cpu", threads=1), ["backend", "model"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_parameters_do_not_continue_a_run(study, out, tmp_path, options, named):
    """Half a series by one model and half by another is the worst that could be sent on."""
    interrupted_after(study, out, 9)
    before = contents(out)
    with pytest.raises(RunMismatchError) as caught:
        infer(study, out, options)
    assert caught.value.exit_code == 7
    for name in named:
        assert f"{name} (" in str(caught.value)
    assert contents(out) == before
    # What changes no byte may change: the run goes on.
    assert infer(study, out, InferOptions(backend="zero-fill", batch=1, workers=1)).exit_code == 0
    assert losses(expected_of(study, tmp_path), out) == NOTHING_LOST


def journal_of(out):
    return out / ".kspacesr-rt" / "journal.jsonl"


@pytest.mark.parametrize(
    "harm", ["torn journal", "no journal", "torn start", "deleted", "leftover"]
)
def test_a_run_is_completed_over_what_it_finds(study, out, tmp_path, harm, run):
    """Whatever of the folder's memory is lost costs time, never a slice."""
    expected = expected_of(study, tmp_path)
    interrupted_after(study, out, 9, run=run)
    [*_, last] = sorted(out.glob("*/*.dcm"))
    if harm == "torn journal":
        cut(journal_of(out), 40)
    elif harm == "no journal":
        journal_of(out).unlink()
    elif harm == "torn start":
        journal_of(out).write_bytes(b"\0" * 99 + journal_of(out).read_bytes()[99:])
    elif harm == "deleted":
        last.unlink()
    else:
        for folder, name in (
            (last.parent, last.name),
            (out, "report.json"),
            (out, "manifest.json"),
        ):
            (folder / f".{name}.0123abcd.part").write_bytes(b"half")
    report = run(study, out, ZERO_FILL)
    assert report.exit_code == 0
    assert report.count("present") + report.count("written") == 23
    assert losses(expected, out) == NOTHING_LOST
    assert not fault_cases.leftovers(out)


@pytest.mark.parametrize("no_journal", [False, True])
@pytest.mark.parametrize("n_bytes", [1, 200, 10_000])
def test_an_output_that_was_cut_off_is_made_again(study, out, tmp_path, n_bytes, no_journal, run):
    """Its name says what belongs there: it is made again, and the report says so."""
    expected = expected_of(study, tmp_path)
    interrupted_after(study, out, 9)
    harmed = min(out.glob("*/*.dcm"))
    cut(harmed, n_bytes)
    if no_journal:
        journal_of(out).unlink()
    report = run(study, out, ZERO_FILL)
    assert report.exit_code == 0
    again = [one.output for one in report.slices if MADE_AGAIN in one.warnings]
    assert again == [str(harmed.relative_to(out))]
    assert losses(expected, out) == NOTHING_LOST


def test_a_link_under_an_outputs_name_is_not_written_through(
    study, out, tmp_path, monkeypatch, run
):
    """It may lead to a file of the input; the run says what stands in its way, with 7."""
    infer(study, out, ZERO_FILL)
    harmed = min(out.glob("*/*.dcm"))
    harmed.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody's")
    meddling(monkeypatch, lambda: harmed.symlink_to(elsewhere))
    with pytest.raises(OutputError, match="another file stands under an output's name") as caught:
        run(study, out, ZERO_FILL)
    assert (caught.value.exit_code, caught.value.hint) == (
        7,
        "remove it, or choose another folder",
    )
    assert elsewhere.read_bytes() == b"somebody's"


@pytest.mark.parametrize("compress", ["none", "rle"])
def test_a_multi_frame_output_that_was_cut_off_is_made_again(mixed, out, compress, undisturbed):
    """Its name is known only after all frames are computed; then it is looked at, too."""
    options = InferOptions(backend="zero-fill", compress=compress)
    source = mixed / "frames"
    infer(source, out, options)
    [harmed] = out.glob("*/*.dcm")
    whole = harmed.read_bytes()
    cut(harmed, 2000)
    report = infer(source, out, options)
    assert (report.count("written"), report.exit_code) == (1, 0)
    assert [one.warnings[-1] for one in report.slices] == [MADE_AGAIN]
    assert harmed.read_bytes() == whole
    journal_of(out).unlink()
    report = infer(source, out, options)
    assert (report.count("present"), report.count("written")) == (1, 0)


def test_a_source_that_changed_is_computed_anew(study, out, tmp_path, run):
    """Its old output is not replaced: UIDs hang on pixels, so the new one has another name."""
    interrupted_after(study, out, 12, run=run)
    before = contents(out)  # some more than 12: they were under way
    entries = [json.loads(line) for line in journal_of(out).read_text().splitlines()]
    done = {one["source"] for one in entries if "source" in one}
    path = next(
        path
        for path in sorted(study.rglob("*.dcm"))
        if str(pydicom.dcmread(path).SOPInstanceUID) in done
    )
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData[2:] + dataset.PixelData[:2]
    dataset.save_as(path)
    report = run(study, out, replace(ZERO_FILL, stale="keep"))
    assert (report.count("written"), report.exit_code) == (23 - len(before) + 1, 0)
    expected = expected_of(study, tmp_path)
    # By content: the new output cannot have the old one's name.
    found = sorted(contents(out).values())
    assert set(expected.values()) <= set(found)
    assert len(found) == len(expected) + 1
    assert before.items() <= contents(out).items()


def test_a_source_that_is_overwritten_while_it_is_read_is_computed_anew(
    study, out, tmp_path, monkeypatch, run
):
    """What the survey has read is not written once its file says something else."""
    path = some(study, 10)  # in the middle of its series: the survey reads it
    work_of = slice_work.SliceWork if run is infer else RemoteSliceWork
    real = work_of.read

    def overwrite_and_read(work):
        if work._source.path == path:
            assert run is not infer or work._stored is not None
            dataset = pydicom.dcmread(path)
            dataset.PixelData = dataset.PixelData[2:] + dataset.PixelData[:2]
            dataset.save_as(path)
        return real(work)

    with monkeypatch.context() as patch:
        patch.setattr(work_of, "read", overwrite_and_read)
        report = run(study, out, ZERO_FILL)
    assert report.reasons() == [("failed", "changed", 1)]
    run(study, out, ZERO_FILL)
    assert losses(expected_of(study, tmp_path), out) == NOTHING_LOST


@pytest.mark.parametrize("number", [3, 10], ids=["met by a worker", "met by the survey"])
def test_a_source_that_is_overwritten_right_after_it_was_read_is_computed_anew(
    study, out, tmp_path, monkeypatch, number, run
):
    """The journal must hold the status from before: one from after would vouch for other pixels."""
    path, once = some(study, number), []

    def overwrite(item):
        if item.path == path and not once:
            once.append(item)
            dataset = pydicom.dcmread(path)
            dataset.PixelData = dataset.PixelData[2:] + dataset.PixelData[:2]
            dataset.save_as(path)

    with monkeypatch.context() as patch:
        place, name = (SeriesReader, "load") if run is infer else (RemoteSliceWork, "_read")
        real = getattr(place, name)

        def read_and_overwrite(reader, *item):
            found = real(reader, *item)
            overwrite(*item or [reader._source])
            return found

        patch.setattr(place, name, read_and_overwrite)
        run(study, out, ZERO_FILL)
    assert once
    run(study, out, ZERO_FILL)
    assert losses(expected_of(study, tmp_path), out)["lost"] == 0


def test_random_uids_are_the_same_after_a_fall(study, out, tmp_path, run):
    """A completed run has as many outputs as slices, each under the name it had."""
    options = InferOptions(backend="zero-fill", batch=3, random_uids=True)
    interrupted_after(study, out, 9, options, run)
    before = contents(out)
    journal_of(out).unlink()
    run(study, out, options)
    after = contents(out)
    assert before.items() <= after.items()
    assert len(after) == 23
    assert not after.keys() & expected_of(study, tmp_path).keys()


def test_nothing_is_computed_twice_but_what_was_in_flight(study, out, tmp_path, monkeypatch, run):
    """Counted by the backend, over a run that falls over again and again."""
    expected, computed = expected_of(study, tmp_path), []

    def run_and_count(compute, batch):
        computed.append(len(batch))
        return compute(batch)

    with_backend(monkeypatch, run_and_count)
    for done in (3, 9, 14):
        interrupted_after(study, out, done, run=run)
    run(study, out, ZERO_FILL)
    n_computed = sum(computed)
    assert 23 <= n_computed <= 23 + 3 * in_flight(processes=BESIDE)
    run(study, out, ZERO_FILL)
    assert sum(computed) == n_computed
    assert losses(expected, out) == NOTHING_LOST


def asleep(real, rng, longest_s):
    """Return `real`, which sleeps first for a random time."""

    def sleepy(*arguments, **options):
        time.sleep(rng.uniform(0.0, longest_s))
        return real(*arguments, **options)

    return sleepy


def told_of_slices(report: RunReport):
    return [(one.file, one.output, one.sop_instance_uid) for one in report.slices]


@pytest.mark.parametrize(
    ("backend", "streams"),
    [("zero-fill", 1), ("bicubic", 1), ("ort-cpu", 1), ("ort-cpu", 2), ("ort-cpu", 3)],
)
def test_neither_workers_nor_batch_nor_timing_change_a_byte(
    mixed, tmp_path, monkeypatch, backend, streams
):
    """Files, bytes, and the order of the report: nobody can tell which thread was the faster."""
    rng, seen = random.Random(SEED), []
    for name in ("read", "write"):
        sleepy = asleep(getattr(FileInProgress, name), rng, 0.004)
        monkeypatch.setattr(FileInProgress, name, sleepy)
    computed = BatchRunner._computed
    monkeypatch.setattr(BatchRunner, "_computed", asleep(computed, rng, 0.004))
    for workers, batch in ((1, 1), (1, 16), (2, 3), (5, 1), (5, 16)):
        options = InferOptions(
            backend=backend,
            model=None if backend != "ort-cpu" else "x2-fast",
            threads=1,
            streams=streams,
            batch=batch,
            workers=workers,
        )
        folder = tmp_path / f"{workers}-{batch}"
        report = infer(mixed, folder, options)
        assert report.exit_code == 0
        seen.append((contents(folder), told_of_slices(report)))
        shutil.rmtree(folder)
    assert all(one == seen[0] for one in seen)


def recorded_batches(monkeypatch, source, out, **options):
    batches = []

    def run_and_record(run, batch):
        batches.append(batch.shape)
        return run(batch)

    with monkeypatch.context() as patch:
        with_backend(patch, run_and_record)
        infer(source, out, InferOptions(backend="zero-fill", **options))
    return batches


def test_batches_fill_across_series_and_never_across_matrices(mixed, tmp_path, monkeypatch):
    """Two series of 20 and 5 slices are one batch after the other; timing does not group them."""
    rng, seen = random.Random(SEED), []
    for number in range(3):
        out = tmp_path / f"out{number}"
        seen.append(recorded_batches(monkeypatch, mixed, out, batch=16, workers=2))
        if number == 0:
            for name in ("read", "write"):
                sleepy = asleep(getattr(FileInProgress, name), rng, 0.005)
                monkeypatch.setattr(FileInProgress, name, sleepy)
    assert all(one == seen[0] for one in seen)
    by_matrix = {}
    for n, _, *matrix in seen[0]:
        by_matrix.setdefault(tuple(matrix), []).append(n)
    assert by_matrix[MATRIX] == [16, 9]
    assert by_matrix[OTHER_MATRIX] == [16, 6]
    assert sum(by_matrix[64, 64]) == fault_cases.N_FRAMES


def test_slices_of_many_matrices_do_not_pile_up(tmp_path, monkeypatch):
    """No batch of them ever fills: without a bound all wait, decoded, until the last is read."""
    for number in range(40):
        matrix = (32 + number, 40)
        make_archive(tmp_path / "in" / str(number), 1, matrix=matrix)
        fault_cases.renamed(tmp_path / "in" / str(number), str(number))
    waiting, most, real = 0, 0, FileInProgress.read
    lock = threading.Lock()

    def read_and_count(*arguments):
        nonlocal waiting, most
        decoded = real(*arguments)
        with lock:
            waiting += 1
            most = max(most, waiting)
        return decoded

    def run_and_count(run, batch):
        nonlocal waiting
        with lock:
            waiting -= len(batch)
        return run(batch)

    monkeypatch.setattr(FileInProgress, "read", read_and_count)
    with_backend(monkeypatch, run_and_count)
    options = InferOptions(backend="zero-fill", batch=3, workers=1)
    report = infer(tmp_path / "in", tmp_path / "out", options)
    assert report.count("written") == 40
    ahead = 2 * 3 + 1
    # Read ahead, gathered, and on their way from one to the other or to the backend.
    assert most <= 2 * ahead + 3


def test_a_slice_of_every_series_is_where_it_was(mixed, tmp_path):
    """The report names files in the order of series and slices, then what was left out."""
    shutil.copytree(mixed, tmp_path / "in")
    (tmp_path / "in" / "note.txt").write_text("not an image")
    report = infer(tmp_path / "in", tmp_path / "out", ZERO_FILL)
    scan = preflight.scan_folder(tmp_path / "in")
    expected = [item.sop_instance_uid for series in scan.series for item in series.slices]
    assert [one.sop_instance_uid for one in report.slices] == [*expected, ""]
