"""A watched folder: real processes and real files that land as scanners and routers put them."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import fault_cases
import pydicom
import pytest
from fault_cases import MATRIX, NOTHING_LOST, OTHER_MATRIX, contents, ended, losses, start

from kspacesr_rt.errors import BackendUnavailableError, InputError, OutputError, SliceFailed
from kspacesr_rt.kspace import degrade
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.pipeline import InferOptions, backend_pool, infer, run_folder
from kspacesr_rt.pipeline.classic_file import ClassicFile
from kspacesr_rt.pipeline.report import SliceRecord
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.watch import (
    WatchOptions,
    arrivals,
    change_events,
    retry_policy,
    service,
    watch,
)
from kspacesr_rt.services.watch import report as tally
from kspacesr_rt.services.watch.arrivals import Arrivals

pytestmark = pytest.mark.usefixtures("from_a_warm_process")

ZERO_FILL = InferOptions(backend="zero-fill", batch=3)
CLI = ("--backend", "zero-fill", "--batch", "3", "--threads", "1")
SETTLE = 1.0
WAYS = {"notified": (), "polled": ("--poll", "0.2")}


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Make series of two matrices and a multi-frame file that tests copy from."""
    folder = tmp_path_factory.mktemp("stock") / "in"
    fault_cases.make_mixed(folder, n_slices=24, n_others=6)
    return folder


@pytest.fixture(scope="module")
def expected(stock, tmp_path_factory):
    """Return what `infer` writes of all that."""
    out = tmp_path_factory.mktemp("expected") / "out"
    code, stderr = ended(start("infer", stock, out, *CLI))
    assert code == 0, stderr
    return contents(out)


@pytest.fixture
def landing(tmp_path):
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@contextmanager
def watching(landing, out, *arguments, settle=SETTLE, **faults):
    """Watch in a process of its own, which is killed if a test leaves it."""
    command = ("watch", landing, out, *CLI, "--settle", settle, *arguments)
    process = start(*command, **faults)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def stopped(process, number=signal.SIGTERM):
    process.send_signal(number)
    return ended(process)


def hear(process, *events):
    """Read the log until it has told of these; return what was read."""
    read = []
    for event in events:
        while not read or f"event={event}" not in read[-1]:
            read.append(process.stderr.readline())
            assert read[-1], f"ended without event={event}"
    return "".join(read)


def told(out):
    """Return the report, or nothing as long as there is none."""
    try:
        return json.loads((out / "report.json").read_text())
    except FileNotFoundError:
        return {"written": 0, "present": 0, "failed": 0, "skipped": 0, "waiting": -1}


def wait_for(out, process, **counts):
    """Wait until the report counts this much."""
    fault_cases.wait_until(lambda: all(told(out)[name] >= n for name, n in counts.items()), process)
    assert process.poll() is None, process.communicate()


def land(path, source, folder):
    """Copy a file to its place under the folder, as programs do that know of watchers."""
    target = folder / path.relative_to(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".tmp")
    shutil.copy(path, partial)
    return partial.rename(target)


def trickle(path, source, folder, rng):
    """Copy a file in pieces, under its final name: half of it is seen."""
    target = folder / path.relative_to(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes()
    cuts = sorted(rng.randrange(len(content)) for _ in range(2))
    with target.open("wb") as file:
        for first, last in zip([0, *cuts], [*cuts, len(content)], strict=True):
            file.write(content[first:last])
            file.flush()
            time.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
def test_what_lands_is_processed_as_infer_would(stock, expected, landing, out, way):
    """Interleaved series, renames and slow copies, what was there before: the same bytes."""
    rng, files = random.Random(1), sorted(stock.rglob("*.dcm"))
    rng.shuffle(files)
    for path in files[:5]:
        land(path, stock, landing)
    with watching(landing, out, *WAYS[way]) as process:
        for number, path in enumerate(files[5:]):
            if number % 2:
                land(path, stock, landing)
            else:
                trickle(path, stock, landing, rng)
            time.sleep(0.02)
        wait_for(out, process, written=len(files))
        code, stderr = stopped(process)
    assert code == 143, stderr
    assert losses(expected, out) == NOTHING_LOST
    report = told(out)
    assert (report["waiting"], report["ended"], report["failed"]) == (0, True, 0)
    assert (report["written"], report["written_slices"]) == (31, 30 + fault_cases.N_FRAMES)
    assert len(report["slices"]) == 31
    for secret in ("SECRET", str(landing), "2.25.", "1.2.826"):
        assert secret not in stderr
    again = infer(landing, out, ZERO_FILL)
    assert (again.count("present"), again.count("written")) == (31, 0)


def test_a_series_waits_for_its_last_slice(stock, landing, out):
    """A batch of half a series, sent on, would be a volume with a hole."""
    files, settle_s = sorted((stock / "one" / "series-00000").glob("*.dcm"))[:8], 4.0
    with watching(landing, out, settle=settle_s) as process:
        latest = 0.0  # on a machine that stalls the series may be complete, by its own clock
        for path in files:
            began = time.monotonic()
            land(path, stock, landing)
            time.sleep(0.6)
            latest = max(latest, time.monotonic() - began)
            assert not contents(out) or latest > settle_s / 2
        wait_for(out, process, written=8)
        assert told(out)["series"] == 1
        stopped(process)


def test_late_slices_join_their_series(stock, expected, landing, out):
    """The router was slow, or someone resent: the output series is the one that is there."""
    files = sorted((stock / "one" / "series-00000").glob("*.dcm"))
    with watching(landing, out, settle=0.3) as process:
        for n_more, n_written in ((12, 12), (7, 19), (1, 20)):
            for path in files[n_written - n_more : n_written]:
                land(path, stock, landing)
            wait_for(out, process, written=n_written)
        stopped(process)
    assert len(list(out.glob("*/"))) == 2  # the series, and .kspacesr-rt
    assert contents(out).items() <= expected.items()


def test_a_file_that_was_cut_off_fails_until_it_is_whole(stock, expected, landing, out):
    """A copy that stalled for longer than a series needs to settle is no reason to give it up."""
    first, *others = sorted((stock / "one" / "series-00000").glob("*.dcm"))
    content = first.read_bytes()
    target = landing / "first.dcm"
    with watching(landing, out, settle=0.3) as process:
        target.write_bytes(content[:-700])
        for path in others:
            land(path, stock, landing)
        (landing / "note.txt").write_text("no image")
        wait_for(out, process, written=19, failed=1, skipped=1)
        report = told(out)
        assert report["reasons"] == [
            {"outcome": "failed", "reason": "truncated", "count": 1},
            {"outcome": "skipped", "reason": "not-dicom", "count": 1},
        ]
        assert len(report["left_out"]) == 2
        with target.open("ab") as file:
            file.write(content[-700:])
        wait_for(out, process, written=20)
        code, stderr = stopped(process)
    assert code == 143
    assert "event=failed file=sha256:" in stderr
    assert "reason=truncated" in stderr
    assert contents(out).items() <= expected.items()
    assert len(contents(out)) == 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_is_under_way(stock, expected, landing, out, tmp_path, number, code):
    """Everything that was computed is recorded; the next start computes only the rest."""
    shutil.copytree(stock, landing, dirs_exist_ok=True)
    log, hold = tmp_path / "computed", tmp_path / "hold"
    hold.touch()
    held = {"sleep_s": 0.1, "FAULT_HOLD": str(hold)}
    with watching(landing, out, settle=0.2, log=log, **held) as process:
        fault_cases.wait_until(lambda: contents(out), process)
        process.send_signal(number)
        hold.unlink()
        returned, stderr = ended(process)
    assert returned == code, stderr
    report = told(out)
    assert report["ended"]
    assert report["written"] == len(contents(out)) < len(expected)
    assert not fault_cases.leftovers(out)
    with watching(landing, out, settle=0.2, log=log) as process:
        fault_cases.wait_until(lambda: told(out)["written"] + told(out)["present"] == 31, process)
        stopped(process)
    assert losses(expected, out) == NOTHING_LOST


def test_killed_watches_go_on_where_they_were(stock, expected, landing, out, tmp_path):
    """Kill -9 while files land: nothing is lost, nothing is computed for naught."""
    rng, log, kills = random.Random(3), tmp_path / "computed", 0
    files = sorted(stock.rglob("*.dcm"))
    rng.shuffle(files)
    feeder = threading.Thread(
        target=lambda: [(land(path, stock, landing), time.sleep(0.15)) for path in files]
    )
    feeder.start()
    torn = 0
    while kills < 4:
        with watching(landing, out, settle=0.2, sleep_s=0.05, log=log) as process:
            fault_cases.wait_until((out / ".kspacesr-rt" / "lock").exists, process)
            time.sleep(rng.uniform(0.6, 1.6))
            process.kill()
            assert ended(process)[0] == -signal.SIGKILL
        kills += 1
        torn += sum(expected.get(name) != digest for name, digest in contents(out).items())
    feeder.join()
    with watching(landing, out, settle=0.2, log=log) as process:
        fault_cases.wait_until(lambda: len(contents(out)) == len(expected), process)
        fault_cases.wait_until(lambda: told(out)["waiting"] == 0, process)
        stopped(process)
    assert torn == 0
    assert losses(expected, out) == NOTHING_LOST
    assert not fault_cases.leftovers(out)
    n_computed = len(files) - 1 + fault_cases.N_FRAMES
    assert log.stat().st_size <= n_computed + kills * (3 * 3 + 4 + fault_cases.N_FRAMES)


def test_a_full_disk_is_waited_for(stock, expected, landing, tmp_path):
    """Whoever frees the disk need not know that somebody has to be started again."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if (done := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        shutil.copytree(stock, landing, dirs_exist_ok=True)
        out = place / "out"
        with watching(landing, out, "--retry-max", "0.5", settle=0.2) as process:
            met = next(line for line in process.stderr if "event=output-error" in line)
            assert "No space left on device" in met
            seen = contents(out)
            assert seen.items() < expected.items()
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            fault_cases.wait_until(lambda: len(contents(out)) == len(expected), process)
            fault_cases.wait_until(lambda: told(out)["waiting"] == 0, process)
            code, _ = stopped(process)
        assert code == 143
        assert losses(expected, out) == NOTHING_LOST
        assert not fault_cases.leftovers(out)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_folder_is_held_as_long_as_the_watch_lasts(stock, landing, out):
    """A run into the same folder would be told apart by nobody."""
    shutil.copytree(stock / "other", landing, dirs_exist_ok=True)
    with watching(landing, out, settle=0.2) as process:
        wait_for(out, process, written=6)
        code, stderr = ended(start("infer", landing, out, *CLI))
        assert code == 7
        assert "another run writes into this output folder" in stderr
        code, stderr = ended(start("watch", landing, out, *CLI))
        assert code == 7
        stopped(process)


def test_the_log_can_be_lines_of_json(stock, landing, out):
    """One object an event, on standard output."""
    shutil.copytree(stock / "other", landing, dirs_exist_ok=True)
    with watching(landing, out, "--json", settle=0.2) as process:
        wait_for(out, process, written=6)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=300)
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["event"] for line in lines] == ["watching", "processed", "stopping"]
    assert lines[1]["written"] == 6


def test_outputs_that_were_taken_away_are_made_again_unless_that_is_meant(
    stock, landing, out, tmp_path
):
    """A router takes what it sends; at the next start that is no reason to compute it again."""
    shutil.copytree(stock / "other", landing, dirs_exist_ok=True)
    log = tmp_path / "computed"
    for number, (more, total) in enumerate([((), 6), (("--collected",), 6), ((), 12)]):
        for path in out.glob("*/*.dcm"):
            path.unlink()
        (out / "report.json").unlink(missing_ok=True)
        with watching(landing, out, *more, settle=0.2, log=log) as process:
            wait_for(out, process, **{"present" if more else "written": 6})
            stopped(process)
        assert log.stat().st_size == total, number


@pytest.mark.parametrize("returns", ["another", "itself"])
def test_a_folder_that_is_exchanged_is_still_watched(stock, landing, out, returns):
    """Notification clings to a folder that was renamed, and does not come back with a mount."""
    files = sorted((stock / "other").rglob("*.dcm"))
    with watching(landing, out, settle=0.2) as process:
        land(files[0], stock, landing)
        wait_for(out, process, written=1)
        landing.rename(landing.with_name("away"))
        heard = hear(process, "input-gone")
        if returns == "itself":
            landing.with_name("away").rename(landing)
        else:
            landing.mkdir()
        land(files[1], stock, landing)
        wait_for(out, process, written=2)
        _, stderr = stopped(process)
    heard += stderr
    assert "event=notification-lost" in heard
    assert "event=input-gone" in heard
    assert "event=input-back" in heard


# --- what is told before anything is processed


def test_a_watch_says_what_it_lacks(landing, out, monkeypatch):
    """Neither a missing package nor a share is replaced by polling that nobody asked for."""
    with pytest.raises(InputError, match="no such folder to watch"):
        watch(landing / "nowhere", out, ZERO_FILL)
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "watchdog.observers", None)
        with pytest.raises(BackendUnavailableError, match="needs the package 'watchdog'") as caught:
            watch(landing, out, ZERO_FILL)
    assert "kspacesr-rt[watch]" in caught.value.hint
    with monkeypatch.context() as patch:
        patch.setattr(change_events, "network_file_system", lambda folder: "nfs4")
        with pytest.raises(InputError, match=r"network share \(nfs4\)") as caught:
            watch(landing, out, ZERO_FILL)
    assert "--poll" in caught.value.hint
    with pytest.raises(OutputError, match="lies inside the input"):
        watch(landing, landing / "out", ZERO_FILL)
    for options in ({"settle_s": -1.0}, {"poll_s": 0.0}, {"settle_s": float("nan")}):
        with pytest.raises(InputError, match="seconds"):
            WatchOptions(**options)
    assert not out.exists()


def test_shares_are_known_by_their_mount(tmp_path, monkeypatch):
    """The mount that lies deepest counts, and blanks in its name are no end."""
    lines = (
        "1 0 0:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:2 / /data rw,x shared:1 - nfs4 server:/x rw\n"
        "3 1 0:3 / /data/my\\040disk rw - xfs /dev/b rw\n"
    )
    real = change_events.Path.read_text
    monkeypatch.setattr(
        change_events.Path,
        "read_text",
        lambda self, **told: lines if self.name == "mountinfo" else real(self, **told),
    )
    monkeypatch.setattr(change_events.Path, "resolve", lambda self: self)
    assert change_events.network_file_system(change_events.Path("/data/in")) == "nfs4"
    assert change_events.network_file_system(change_events.Path("/data/my disk/in")) is None
    assert change_events.network_file_system(change_events.Path("/home")) is None


# --- in this process: what is hard to bring about from outside


@contextmanager
def watching_here(landing, out, options=ZERO_FILL, *, settle=0.1, poll=0.05):
    """Watch in a thread; yields what tells the events, and collects what it raised."""
    lines, done = [], threading.Event()

    class Recorder(Log):
        def write(self, event, **values):
            lines.append({"event": event, **values})

    raised = []

    def run():
        try:
            told_options = WatchOptions(settle_s=settle, poll_s=poll, retry_max_s=0.2)
            watch(landing, out, options, told_options, log=Recorder(), stop_requested=done.is_set)
        except Exception as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lines, raised
    finally:
        done.set()
        thread.join(60)
    assert not thread.is_alive()


def with_backend(monkeypatch, change):
    real = backend_pool.open_backend

    def open_changed(*arguments):
        backend = real(*arguments)
        run = backend.run
        backend.run = lambda batch: change(run, batch)
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", open_changed)


@pytest.fixture
def quick(monkeypatch):
    """Make pauses between attempts short."""
    monkeypatch.setattr(retry_policy, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(service, "TICK_S", 0.02)
    monkeypatch.setattr(arrivals, "RETRY_S", 0.3)


def test_a_series_that_ends_every_attempt_is_set_aside(
    stock, expected, landing, out, monkeypatch, quick
):
    """The others are written; the report names its slices, the log no value of theirs."""

    def refuse_one_matrix(run, batch):
        if batch.shape[-2:] == OTHER_MATRIX:
            raise RuntimeError("SECRET")
        return run(batch)

    with_backend(monkeypatch, refuse_one_matrix)
    shutil.copytree(stock, landing, dirs_exist_ok=True)
    with watching_here(landing, out) as (lines, raised):
        fault_cases.wait_until(lambda: told(out)["waiting"] == 0 and told(out)["failed"] == 6)
    assert not raised
    report = told(out)
    assert (report["written"], report["failed"]) == (25, 6)
    assert report["errors"]["RuntimeError"] >= retry_policy.MAX_ATTEMPTS
    assert {one["reason"] for one in report["left_out"]} == {"accident"}
    assert "SECRET" not in json.dumps([lines, report])
    monkeypatch.undo()
    assert infer(landing, out, ZERO_FILL).exit_code == 0
    assert len(contents(out)) == len(expected)


@pytest.mark.parametrize(
    "error", [MemoryError(), BackendUnavailableError("it is busy")], ids=["memory", "busy"]
)
def test_a_series_whose_backend_failed_for_a_while_is_made(landing, out, monkeypatch, quick, error):
    """Nobody has to touch its files, or to start the watch again."""
    errors = [error]

    def fail(run, batch):
        if errors:
            raise errors[0]
        return run(batch)

    with_backend(monkeypatch, fail)
    fault_cases.make_slices(landing, 3)
    with watching_here(landing, out) as (lines, raised):
        fault_cases.wait_until(lambda: told(out)["failed"] == 3)
        assert {one["reason"] for one in told(out)["left_out"]} == {"backend"}
        assert {one["reason"] for one in lines if one["event"] == "failed"} == {"backend"}
        errors.clear()
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
    assert not raised
    assert len(contents(out)) == 3


def test_a_device_that_is_gone_ends_the_watch(landing, out, tmp_path, monkeypatch, quick):
    """Three series in a row without one slice: a supervisor is to start a new process."""

    def fall_off_the_bus(run, batch):
        raise RuntimeError("the device fell off the bus")

    with_backend(monkeypatch, fall_off_the_bus)
    fault_cases.make_slices(landing, 61)
    with watching_here(landing, out) as (lines, raised):
        fault_cases.wait_until(lambda: raised)
    assert str(raised[0]) == "the device fell off the bus"
    assert lines[-1]["event"] == "giving-up"
    assert told(out)["ended"]
    assert not contents(out)


def test_a_name_that_is_taken_is_the_fault_of_its_series(
    landing, out, tmp_path, quick, monkeypatch
):
    """What is no file of ours is not replaced, and does not hold up the others."""
    files = fault_cases.make_slices(landing, 3)
    infer(landing, out, ZERO_FILL)
    harmed = min(out.glob("*/*.dcm"))
    harmed.unlink()
    fault_cases.make_slices(landing / "more", 2, salt="other")
    real = run_folder.prepare

    def prepare_and_harm(*arguments):
        found = real(*arguments)
        harmed.symlink_to(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(run_folder, "prepare", prepare_and_harm)
    with watching_here(landing, out) as (_, raised):
        fault_cases.wait_until(lambda: told(out).get("waiting") == 0)
    assert not raised
    report = told(out)
    assert (report["written"], report["present"], report["failed"]) == (2, 2, 1)
    [one] = report["left_out"]
    assert f"another file stands under an output's name: {harmed.parent.name}/" in one["message"]
    assert len(files) == 3
    assert harmed.is_symlink()


def put(dataset, path):
    """Write a data set under a name that a watch sees only when it is whole."""
    partial = path.with_name(path.name + ".tmp")
    dataset.save_as(partial)
    partial.replace(path)


def arrive(folder, aside, n_slices, **how):
    """Let slices land at once, all of them whole."""
    fault_cases.make_slices(aside / folder.name, n_slices, **how)
    (aside / folder.name).rename(folder)


def corrected(path, **elements):
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    put(dataset, path)


@pytest.mark.parametrize("stale", ["refuse", "keep", "replace"])
def test_a_corrected_file_is_told_kept_or_replaced_as_the_user_says(landing, out, quick, stale):
    """The others go on; a source that goes away, as most do some day, is no correction."""
    first, _, third = fault_cases.make_slices(landing, 3)
    options = dataclasses.replace(ZERO_FILL, stale=stale)
    with watching_here(landing, out, options):
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
        before = contents(out)
        third.unlink()
        corrected(first, PatientName="NEW^NAME")
        counted = "failed" if stale == "refuse" else "written"
        expected = 1 if stale == "refuse" else 4
        fault_cases.wait_until(lambda: told(out)[counted] == expected)
        fault_cases.wait_until(lambda: len(told(out)["stale"]) == 1)
        after = contents(out)
    [one] = told(out)["stale"]
    handled = {"refuse": "refused", "keep": "kept", "replace": "removed"}[stale]
    assert (one["reason"], one["handled"]) == ("source-changed", handled)
    names = {str(pydicom.dcmread(path).PatientName) for path in out.glob("*/*.dcm")}
    if stale == "refuse":
        assert after == before
        assert [one["reason"] for one in told(out)["left_out"]] == ["stale-output"]
        return
    assert "NEW^NAME" in names
    assert len(after) == (3 if stale == "replace" else 4)
    assert len(after.keys() & before.keys()) == (2 if stale == "replace" else 3)
    with watching_here(landing, out, options):  # a restart tells the same
        fault_cases.wait_until(lambda: told(out).get("present") == 2)
    assert [one["handled"] for one in told(out)["stale"]] == (["kept"] if stale == "keep" else [])
    assert contents(out) == after


def test_a_round_of_stale_outputs_alone_is_told_once(landing, out, quick):
    """Whoever looks into the log would think that nothing had come."""
    first, second, _ = fault_cases.make_slices(landing, 3)
    with watching_here(landing, out) as (lines, _):
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
        del lines[:]
        corrected(first, PatientName="NEW^NAME")
        corrected(second, PatientName="NEW^NAME")
        fault_cases.wait_until(lambda: told(out)["failed"] == 2)
        fault_cases.wait_until(
            lambda: sum(one["failed"] for one in lines if one["event"] == "processed") == 2
        )
        stale = [one for one in lines if one["event"] == "stale-output"]
        assert {(one["reason"], one["handled"]) for one in stale} == {("source-changed", "refused")}
        assert sum(one["outputs"] for one in stale) == 2
        assert all("--stale replace" in one["hint"] for one in stale)
        del lines[:]
        corrected(first, PatientName="NEWER^NAME")  # refused again, and known to be
        fault_cases.wait_until(lambda: told(out)["failed"] == 3)
        fault_cases.wait_until(lambda: any(one["event"] == "processed" for one in lines))
        assert not [one for one in lines if one["event"] == "stale-output"]


@pytest.mark.parametrize("stale", ["refuse", "replace"])
def test_studies_that_follow_each_other_leave_each_other_alone(
    landing, out, quick, stale, tmp_path
):
    """What was processed is moved away by whoever put it there, and the next study comes."""
    options = dataclasses.replace(ZERO_FILL, stale=stale)
    fault_cases.make_slices(landing / "one", 3)
    fault_cases.make_slices(tmp_path / "two", 2, salt="another study")
    with watching_here(landing, out, options):
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
        before = contents(out)
        shutil.move(landing / "one", tmp_path / "one")
        shutil.move(tmp_path / "two", landing / "two")
        fault_cases.wait_until(lambda: told(out)["written"] == 5)
    with watching_here(landing, out, options):  # a restart knows the second one alone
        fault_cases.wait_until(lambda: told(out).get("present") == 2)
    assert told(out)["stale"] == []
    assert before.items() <= contents(out).items()
    assert len(contents(out)) == 5


def test_a_file_that_changes_in_nothing_that_is_told_is_present(landing, out, quick):
    """It was fetched anew from elsewhere: that is no correction, and nothing is computed again."""
    files = fault_cases.make_slices(landing, 3)
    with watching_here(landing, out):
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
        before = contents(out)
        corrected(files[0], RetrieveAETitle="MIRROR")
        fault_cases.wait_until(lambda: told(out)["present"] + told(out)["failed"] == 1)
    assert (told(out)["present"], told(out)["stale"]) == (1, [])
    assert contents(out) == before


def test_a_touched_file_is_present(landing, out, quick):
    """Its bytes are what they were: nothing is computed again."""
    files = fault_cases.make_slices(landing, 3)
    with watching_here(landing, out):
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
        before = contents(out)
        files[0].touch()
        fault_cases.wait_until(lambda: told(out)["present"] == 1)
    assert told(out)["stale"] == []
    assert contents(out) == before


def test_a_share_that_was_away_is_read_again(landing, out, monkeypatch, quick):
    """An error of the moment is not the file's; it counts once, and passes by itself."""
    [path, *_] = fault_cases.make_slices(landing, 4)
    away, real = threading.Event(), ClassicFile.read
    away.set()

    def read(file):
        if away.is_set() and file.task.source.path == path:
            raise SliceFailed("unreadable", "cannot be read: EIO")
        return real(file)

    monkeypatch.setattr(ClassicFile, "read", read)
    with watching_here(landing, out):
        fault_cases.wait_until(lambda: told(out)["failed"] == 1)
        time.sleep(0.8)
        assert told(out)["failed"] == 1
        away.clear()
        fault_cases.wait_until(lambda: told(out)["written"] == 4)


def test_what_is_there_twice_is_processed_once(stock, landing, out):
    """A copy is left out; another image under a known UID is told, not written beside it."""
    first, second, *_ = sorted((stock / "other").rglob("*.dcm"))
    shutil.copy(first, landing / "1.dcm")
    shutil.copy(second, landing / "2.dcm")
    with watching_here(landing, out):
        fault_cases.wait_until(lambda: told(out)["written"] == 2)
        before = contents(out)
        shutil.copy(first, landing / "again.tmp").rename(landing / "again.dcm")
        fault_cases.wait_until(lambda: told(out)["skipped"] == 1)
        dataset = pydicom.dcmread(second)
        dataset.PixelData = bytes(len(dataset.PixelData))
        put(dataset, landing / "other.dcm")
        fault_cases.wait_until(lambda: told(out)["failed"] == 1)
    assert [one["reason"] for one in told(out)["left_out"]] == ["duplicate", "duplicate-conflict"]
    assert contents(out) == before


def test_strict_leaves_out_the_series_and_goes_on(stock, landing, out, tmp_path):
    """Under ``--strict`` a run is refused as a whole; a watch refuses series by series."""
    shutil.copytree(stock / "other", landing / "good")
    for path in fault_cases.make_slices(landing / "interpolated", 3, salt="interpolated"):
        dataset = pydicom.dcmread(path)
        lr = degrade(dataset.pixel_array.astype("f8"), 2)
        dataset.PixelData = zero_fill(lr, 2).clip(0).astype("<u2").tobytes()
        dataset.save_as(path)
    options = dataclasses.replace(ZERO_FILL, strict=True)
    with watching_here(landing, out, options):
        fault_cases.wait_until(lambda: told(out)["written"] + told(out)["skipped"] == 9)
    assert told(out)["reasons"] == [{"outcome": "skipped", "reason": "strict", "count": 3}]


def test_late_slices_are_cropped_as_those_before(landing, out, tmp_path):
    """What a series was found to be when it came decides for what comes after."""
    files = fault_cases.make_slices(tmp_path / "stock", 6)
    for path in files[:4]:
        dataset = pydicom.dcmread(path)
        lr = degrade(dataset.pixel_array.astype("f8"), 2)
        dataset.PixelData = zero_fill(lr, 2).clip(0).astype("<u2").tobytes()
        dataset.save_as(landing / path.name)
    options = dataclasses.replace(ZERO_FILL, on_interpolated="crop")
    with watching_here(landing, out, options):
        fault_cases.wait_until(lambda: told(out)["written"] == 4)
        for path in files[4:]:
            land(path, path.parent, landing)
        fault_cases.wait_until(lambda: told(out)["written"] == 6)
    assert len({path.parent for path in out.glob("*/*.dcm")}) == 1
    shapes = {pydicom.dcmread(path).pixel_array.shape for path in out.glob("*/*.dcm")}
    assert shapes != {(2 * MATRIX[0], 2 * MATRIX[1])}
    assert len(shapes) == 1


@pytest.mark.parametrize("locked", [False, True], ids=["an empty one", "one of another run"])
def test_another_folder_in_the_place_of_the_output_is_not_written_to(
    landing, out, quick, locked, tmp_path
):
    """An unmounted disk leaves an empty folder, or shows another: nobody would find it there."""
    fault_cases.make_slices(landing, 2)
    with watching_here(landing, out) as (lines, raised):
        fault_cases.wait_until(lambda: told(out)["written"] == 2)
        out.rename(out.with_name("away"))
        (out / ".kspacesr-rt" if locked else out).mkdir(parents=True)
        if locked:
            (out / ".kspacesr-rt" / "lock").touch()
        before = sorted(out.rglob("*"))
        arrive(landing / "more", tmp_path / "aside", 2, salt="more")
        fault_cases.wait_until(lambda: "output-error" in [line["event"] for line in lines])
        time.sleep(0.3)
        assert sorted(out.rglob("*")) == before
        shutil.rmtree(out)
        out.with_name("away").rename(out)
        fault_cases.wait_until(lambda: told(out)["written"] == 4)
    assert not raised


def test_an_input_that_goes_away_is_waited_for(landing, out, quick, tmp_path):
    """Nothing of what is known is forgotten with it, so nothing is computed again."""
    fault_cases.make_slices(landing, 3)
    with watching_here(landing, out) as (lines, _):
        fault_cases.wait_until(lambda: told(out)["written"] == 3)
        landing.rename(landing.with_name("away"))
        fault_cases.wait_until(lambda: lines[-1]["event"] == "input-gone")
        landing.with_name("away").rename(landing)
        fault_cases.wait_until(lambda: lines[-1]["event"] == "input-back")
        arrive(landing / "more", tmp_path / "aside", 2, salt="more")
        fault_cases.wait_until(lambda: told(out)["written"] == 5)
    assert told(out)["present"] == 0


# --- the parts


@pytest.mark.parametrize(
    "name", [".hidden", "a.dcm.part", "a.tmp", "B.PART", "c.filepart", "d.dcm~", ".rsync.dcm.X1"]
)
def test_unfinished_names_are_not_looked_at(name, landing, stock):
    """Not before they are renamed: then they are looked at like any other."""
    source = some(stock)
    seen = Arrivals(landing, settle_s=0.0)
    shutil.copy(source, landing / name)
    seen.look(None)
    assert seen.ready(at_most=9) is None
    (landing / name).rename(landing / "a.dcm")
    seen.look([landing])
    assert seen.ready(at_most=9) is None  # not at first sight: it may still grow
    seen.look([])
    assert seen.ready(at_most=9).n_slices == 1


def some(stock):
    return min((stock / "one").rglob("*.dcm"))


def test_only_folders_that_changed_are_looked_into(landing, stock):
    """And new ones below them, with all they contain; what is gone is forgotten."""
    clock = [100.0]
    seen = Arrivals(landing, settle_s=5.0, clock=lambda: clock[0])
    seen.look(None)
    inner = landing / "a" / "b"
    inner.mkdir(parents=True)
    shutil.copy(some(stock), inner)
    seen.look([])
    assert seen.n_waiting == 0
    seen.look([landing])
    assert seen.n_waiting == 1
    assert seen.ready(at_most=9) is None
    clock[0] += 5.0
    assert seen.ready(at_most=9) is None  # it may have changed since
    seen.look([])
    assert seen.ready(at_most=9).n_slices == 1
    shutil.rmtree(landing / "a")
    seen.look([landing])
    assert (seen.n_waiting, seen.ready(at_most=9)) == (0, None)


def test_rounds_are_bounded_and_the_oldest_series_comes_first(landing, stock):
    """A backlog of years is worked off a thousand slices at a time."""
    shutil.copytree(stock / "one", landing, dirs_exist_ok=True)
    seen = Arrivals(landing, settle_s=0.0)
    seen.look(None)
    first = seen.ready(at_most=3)
    assert len(first.series) == 1
    for item in first.series[0].slices:
        seen.mark_done(item.path, uid=item.sop_instance_uid)
    second = seen.ready(at_most=3)
    assert {first.n_slices, second.n_slices} == {20, 4}
    held = [arrivals.key_of(second.series[0].slices[0])]
    assert seen.ready(at_most=3, held=held) is None


def test_the_report_stays_small(tmp_path):
    """Counts go on; records are the last thousand."""
    counted = tally.WatchReport({"model": "m"})
    for number in range(3 * tally.KEPT):
        outcome = "failed" if number % 2 else "written"
        counted.add(SliceRecord(file=str(number), outcome=outcome, reason="codec" * (number % 2)))
    counted.save(tmp_path / "report.json", waiting=0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["written"], report["failed"]) == (1500, 1500)
    assert len(report["slices"]) == len(report["left_out"]) == tally.KEPT
    assert report["slices"][-1]["file"] == "2999"


def test_a_watch_whose_notices_are_lost_looks_by_the_clock(
    landing, out, monkeypatch, quick, tmp_path
):
    """The system's limit may be met at any time; it is told, and nothing stays lying."""

    class Losing(change_events.PolledEvents):
        lost = True

    monkeypatch.setattr(service, "LOST_POLL_S", 0.05)
    monkeypatch.setattr(
        service,
        "PolledEvents",
        lambda every_s: Losing(every_s) if every_s == 9 else change_events.PolledEvents(every_s),
    )
    with watching_here(landing, out, poll=9) as (lines, _):
        fault_cases.wait_until(lambda: any(one["event"] == "notification-lost" for one in lines))
        arrive(landing / "more", tmp_path / "aside", 2)
        fault_cases.wait_until(lambda: told(out)["written"] == 2)


# What the system does not notify of ---------------------------------------------------------------


def limited(limit, value, *command):
    """Run a command in a user namespace of its own, with a limit of inotify there."""
    script = f'echo {value} > /proc/sys/user/{limit} && exec "$@"'
    return subprocess.run(
        ["unshare", "-Ur", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=120,
    )


def needs_user_namespaces():
    try:
        usable = limited("max_inotify_watches", 5, "true").returncode == 0
    except OSError:
        usable = False
    if not usable:
        pytest.skip("no user namespaces here, or no limits of inotify within them")


@pytest.mark.parametrize(
    ("limit", "value"), [("max_inotify_watches", 5), ("max_inotify_instances", 0)]
)
def test_a_watch_that_the_system_cannot_notify_does_not_begin(landing, out, limit, value):
    """It would run for months, and what lands in folder six would lie there: it says --poll."""
    needs_user_namespaces()
    for number in range(20):
        (landing / f"{number:02d}").mkdir()
    command = [*(sys.executable, "-m", "kspacesr_rt", "watch"), str(landing), str(out), *CLI]
    done = limited(limit, value, *command)
    assert done.returncode == 2, done.stderr
    assert "notif" in done.stderr
    assert "--poll 5" in done.stderr


def test_inotify_watches_are_counted_as_the_system_counts_them(landing):
    """A folder that comes, one that goes: as many as there are folders."""
    (landing / "a" / "b").mkdir(parents=True)
    before = change_events.n_inotify_watches() or 0
    with change_events.NotifiedEvents(landing) as listening:
        assert change_events.n_inotify_watches() == before + 3
        (landing / "c").mkdir()
        assert fault_cases.wait_until(lambda: change_events.n_inotify_watches() == before + 4)
        (landing / "a" / "b").rmdir()
        assert fault_cases.wait_until(lambda: change_events.n_inotify_watches() == before + 3)
        assert not listening.misses_folders(4), "known from before the folder went"


def test_a_folder_that_the_system_no_longer_watches_is_looked_at_by_the_clock(
    landing, out, monkeypatch, quick
):
    """The limit is met by a folder that comes later: said once, with --poll, and none is missed."""
    monkeypatch.setattr(service, "LOST_POLL_S", 0.05)
    monkeypatch.setattr(change_events, "IDENTIFY_S", 0.05)
    monkeypatch.setattr(change_events, "COUNT_AGAIN_S", 0.0)
    with watching_here(landing, out, poll=None) as (lines, _):
        assert fault_cases.wait_until(lambda: any(one["event"] == "watching" for one in lines))
        monkeypatch.setattr(change_events, "n_inotify_watches", lambda: 1)
        (landing / "late").mkdir()
        event = "notification-incomplete"
        assert fault_cases.wait_until(lambda: any(one["event"] == event for one in lines))
        fault_cases.make_slices(landing / "late", 2)
        assert fault_cases.wait_until(lambda: told(out)["written"] == 2)
    [told_once] = [one for one in lines if one["event"] == event]
    assert "--poll 5" in told_once["hint"]


def test_no_value_of_a_file_reaches_the_log(landing, out, capfd, quick):
    """Pydicom's warnings quote UIDs and names; a library's thread prints what ended it."""
    fault_cases.make_slices(landing / "x", 1)
    [path] = [one for one in (landing / "x").rglob("*") if one.is_file()]
    ds = pydicom.dcmread(path)
    odd = "1.2.840.113619.2.0099.12345.7"
    with pydicom.config.disable_value_validation():
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = odd
        ds.PatientName, ds.PatientBirthDate = "SECRET^NAME", "SECRETDATE"
        ds.save_as(path)
    with watching_here(landing, out) as (lines, _):
        assert fault_cases.wait_until(lambda: told(out)["written"] == 1)

        def broken():
            raise ValueError(odd)

        thread = threading.Thread(target=broken)
        thread.start()
        thread.join()
        assert fault_cases.wait_until(
            lambda: any(one["event"] == "internal-error" for one in lines)
        )
    printed = "".join(capfd.readouterr()) + json.dumps(lines)
    assert odd not in printed
    assert "SECRET" not in printed
