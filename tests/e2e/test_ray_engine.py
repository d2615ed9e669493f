"""Archives on Ray: the same bytes as the local engine, whatever happens to workers and nodes."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import enhanced_cases
import fault_cases
import pydicom
import pytest
import ray_actors
from fault_cases import NOTHING_LOST, contents, leftovers, losses
from repository import SUPPORT
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import (
    BackendUnavailableError,
    InputError,
    OutputError,
    RunMismatchError,
    StaleOutputError,
)
from kspacesr_rt.pipeline import InferOptions, RayExecutor, infer
from kspacesr_rt.pipeline.ray import actor_pool
from kspacesr_rt.pipeline.ray.cluster import Placement, connected, head_address, is_reachable

try:
    import ray
except ImportError:
    pytest.skip("ray is not installed: pip install 'kspacesr-rt[cluster]'", allow_module_level=True)

ZERO_FILL = InferOptions(backend="zero-fill", threads=1)
FILE_BY_FILE = dataclasses.replace(ZERO_FILL, durability="file")
"""For workers that die: of a group that is not closed nothing is noted."""
STORE = 100_000_000
PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="finds workers in /proc")

CLI = """
import os, sys, ray_actors
from kspacesr_rt.pipeline.ray import actor_pool
actor_pool.SeriesActor = ray_actors.Slow
actor_pool.HEAD_S = float(os.environ.get("RAY_ACTORS_HEAD_S", actor_pool.HEAD_S))
from kspacesr_rt.cli import main
main()
"""


@pytest.fixture(autouse=True)
def repeatable(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))  # workers import ray_actors
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Six series of twenty small slices."""
    folder = tmp_path_factory.mktemp("archive") / "in"
    fault_cases.make_slices(folder, 120)
    return folder


@pytest.fixture(scope="module")
def local(archive, tmp_path_factory):
    """Return the local engine's report and outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)
        out = tmp_path_factory.mktemp("local") / "out"
        report = infer(archive, out, ZERO_FILL)
    return report, contents(out)


@pytest.fixture
def cluster():
    """Connect to a cluster, as a caller may have done, and keep it for the tests that follow."""
    if not ray.is_initialized():
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=1,  # a number: there is none
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=STORE,
        )
        signal.signal(signal.SIGTERM, handler)
    yield
    assert ray.is_initialized(), "the caller's connection was cut"


@pytest.fixture(scope="module", autouse=True)
def shut_down():
    yield
    ray.shutdown()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def with_actors(monkeypatch, kind):
    monkeypatch.setattr(actor_pool, "SeriesActor", kind)


def writers(out):
    """Find the workers of a run: they hold journals of its output folder open."""
    found = set()
    for link in PROC.glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = link.readlink()
            if target.name.startswith("journal-") and target.parts[: len(out.parts)] == out.parts:
                found.add(int(link.parts[2]))
    return found


def lines(out):
    return sum(len(path.read_bytes().splitlines()) for path in out.glob("*/journal-*.jsonl"))


@pytest.fixture
def hold(out):
    """Return a file that keeps slow actors from finishing before a test has stepped in."""
    path = out.parent / ray_actors.HOLD
    path.touch()
    return path


def when(condition, act):
    """Do something from another thread as soon as something is true."""

    def wait():
        fault_cases.wait_until(condition)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def told(report):
    """Return what a report says that must not depend on who did it."""
    return report.slices, report.series_records, report.exit_code, report.not_reached


@pytest.mark.parametrize("backend", ["zero-fill", "ort-cpu"])
def test_the_same_bytes_and_the_same_report_come_out(cluster, backend, tmp_path):
    """Two matrices, a multi-frame file and a broken one; contact sheets and trust maps too."""
    source = tmp_path / "in"
    n_files = fault_cases.make_mixed(source, n_slices=22, n_others=21)
    broken = next(source.glob("one/*/000.dcm"))
    broken.write_bytes(broken.read_bytes()[:-500])
    has_intervals = backend == "ort-cpu"
    options = InferOptions(
        backend=backend, threads=1, preview=True, random_uids=False, trust_map=has_intervals
    )
    one = infer(source, tmp_path / "one", options)
    two = infer(source, tmp_path / "two", options, executor=RayExecutor(actors=2))
    assert losses(contents(tmp_path / "one"), tmp_path / "two") == NOTHING_LOST
    assert told(one) == told(two)
    assert one.trust_maps == two.trust_maps
    assert bool(two.trust_maps) is has_intervals
    assert (two.count("written"), two.count("failed")) == (n_files - 1, 1)
    sheets = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")}
        for name in ("one", "two")
    ]
    assert sheets[0] == sheets[1] != {}
    assert {one.name: one.workers for one in two.stages}["infer"] == 2


def test_flagged_frames_are_those_of_the_local_engine(cluster, tmp_path):
    """They come from an actor, and from its journal when a run goes on."""
    frames = enhanced_cases.sample_frames(3)
    frames[1].pixels[20:40, 20:40] = 4095  # the ceiling of 12 bits: edges overshoot it
    enhanced_cases.save(enhanced_cases.build(frames), tmp_path / "in" / "frames.dcm")
    for name, executor in (("one", None), ("two", RayExecutor(actors=1))):
        report = infer(tmp_path / "in", tmp_path / name, ZERO_FILL, executor=executor)
        (record,) = report.slices
        assert (record.outcome, record.flagged_frames) == ("written", {"clipped": (2,)})
        assert report.flagged_slices == 1
    again = infer(tmp_path / "in", tmp_path / "two", ZERO_FILL, executor=RayExecutor(actors=1))
    assert again.slices == (dataclasses.replace(record, outcome="present"),)


def test_stale_outputs_are_refused_kept_or_replaced_as_by_the_local_engine(cluster, tmp_path):
    """Whichever engine noted what, and whichever goes on: the workers' journals count, too."""
    source, out = tmp_path / "in", tmp_path / "out"
    first, *_ = fault_cases.make_slices(source, 6)
    options = InferOptions(backend="zero-fill", threads=1)
    original = first.read_bytes()
    engines = [lambda: RayExecutor(actors=1), lambda: None, lambda: RayExecutor(actors=1)]
    for number, engine in enumerate(engines):
        report = infer(source, out, options, executor=engine())
        assert (report.exit_code, report.stale) == (0, ())
        before = contents(out)
        dataset = pydicom.dcmread(first)
        dataset.RetrieveAETitle = f"AT-{number}"  # which no output tells
        dataset.save_as(first)
        report = infer(source, out, options, executor=engine())
        assert (report.count("present"), report.stale) == (6, ())
        dataset.PatientName = f"NEW^{number}"
        dataset.save_as(first)
        with pytest.raises(StaleOutputError):
            infer(source, out, options, executor=engine())
        assert contents(out) == before
        for stale, handled in (("keep", "kept"), ("replace", "removed")):
            told_what = dataclasses.replace(options, stale=stale)
            report = infer(source, out, told_what, executor=engine())
            assert [(one.reason, one.handled) for one in report.stale] == [
                ("source-changed", handled)
            ]
        infer(source, tmp_path / f"fresh{number}", options)
        assert losses(contents(tmp_path / f"fresh{number}"), out) == NOTHING_LOST
    first.write_bytes(original)


def test_random_uids_hang_on_the_folder_not_on_the_worker(cluster, archive, local, out):
    """Slices of one series, whoever writes them, share its new UID."""
    options = InferOptions(backend="zero-fill", threads=1, random_uids=True)
    report = infer(archive, out, options, executor=RayExecutor(actors=2))
    assert (report.count("written"), len({Path(one.output).parent for one in report.slices})) == (
        120,
        6,
    )
    assert not contents(out).keys() & local[1].keys()


@needs_proc
def test_a_killed_worker_costs_nothing_but_time(cluster, archive, local, out, hold, monkeypatch):
    """Its series goes on where it was; nothing is lost, and nothing twice under another name."""
    with_actors(monkeypatch, ray_actors.Slow)
    killed = []

    def kill():
        killed.append(min(writers(out)))
        os.kill(killed[0], signal.SIGKILL)
        hold.unlink()

    thread = when(lambda: lines(out) > 12 and len(writers(out)) == 2, kill)
    report = infer(archive, out, FILE_BY_FILE, executor=RayExecutor(actors=2))
    thread.join()
    assert killed
    assert losses(local[1], out) == NOTHING_LOST
    assert len(leftovers(out)) <= 4  # what the killed one was writing
    assert told(report) == told(local[0])
    assert report.backend_notes == ("1 workers were lost; others took over their series",)
    # What was finished was not computed again: a journal has a line for each slice, and few more.
    assert lines(out) <= 120 + 2 * 6 + 8
    again = infer(archive, out, ZERO_FILL)  # the local engine completes what Ray began
    assert (again.count("present"), leftovers(out)) == (120, [])


def test_a_node_without_the_package_is_named(cluster, archive, out, monkeypatch):
    """Not even the first line of an actor runs there."""
    monkeypatch.syspath_prepend(out.parent)
    (out.parent / "only_here.py").write_text(
        "from kspacesr_rt.pipeline.ray.actor import SeriesActor\n"
        "class Unknown(SeriesActor):\n    pass\n"
    )
    import only_here

    with_actors(monkeypatch, only_here.Unknown)
    with pytest.raises(BackendUnavailableError, match=r"load on node [\d.]+: ModuleNotFoundError"):
        infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=1))


def test_a_series_that_kills_its_workers_is_given_up(cluster, archive, local, out, monkeypatch):
    """It fails by name; the other series, and what was finished of it, are there."""
    with_actors(monkeypatch, ray_actors.DiesOverOneSeries)
    deadly = local[0].series_records[2].series_instance_uid
    (out.parent / "deadly").write_text(deadly)
    report = infer(archive, out, FILE_BY_FILE, executor=RayExecutor(actors=2))
    assert report.exit_code == 8
    ((_, reason, n_failed),) = report.reasons()
    assert reason == "lost-worker"
    assert 0 < n_failed <= 20 - 3  # each of three workers finished some
    assert report.count("written") == 120 - n_failed
    assert contents(out).items() <= local[1].items()
    assert {place for place, one in enumerate(report.slices) if one.outcome == "failed"} <= set(
        range(40, 60)
    )
    saved = json.loads((out / "report.json").read_text())
    assert (saved["failed"], saved["interrupted"]) == (n_failed, False)
    monkeypatch.undo()
    infer(archive, out, InferOptions(backend="zero-fill"))
    assert contents(out).keys() == local[1].keys()


def test_workers_that_die_while_they_open_are_not_started_for_ever(
    cluster, archive, out, monkeypatch
):
    """A library that crashes takes the process with it: that is said, with 3."""
    with_actors(monkeypatch, ray_actors.DiesOnOpening)
    with pytest.raises(BackendUnavailableError, match="3 actors died while they opened backend"):
        infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=1))
    assert contents(out) == {}


def test_a_worker_has_two_series_at_most(cluster, archive, local, out, monkeypatch):
    """The queue stays with the driver, however long it is; the second waits for the first."""
    seen = []
    real = actor_pool.ActorPool._await

    def watched(crew, timeout_s):
        seen.append([len(member.assigned) for member in crew._members])
        real(crew, timeout_s)

    monkeypatch.setattr(actor_pool.ActorPool, "_await", watched)
    assert infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=2)).exit_code == 0
    assert {len(counts) for counts in seen} <= {1, 2}
    assert max(max(counts, default=0) for counts in seen) == 2
    assert losses(local[1], out) == NOTHING_LOST


def test_no_more_workers_than_series_are_started(cluster, archive, local, out, monkeypatch):
    """A start costs seconds."""
    crews = []
    real = actor_pool.ActorPool.work
    monkeypatch.setattr(actor_pool.ActorPool, "work", lambda crew: (crews.append(crew), real(crew)))
    one = next(path for path in sorted(archive.iterdir()))
    assert infer(one, out, ZERO_FILL, executor=RayExecutor()).count("written") == 20
    assert (crews[0]._hired, crews[0].most) == (1, 1)
    assert contents(out).items() <= local[1].items()


def test_a_backend_that_a_node_lacks_is_named_with_the_node(cluster, archive, out):
    """Never another one: not on that node, not on the others."""
    node = ray.util.get_node_ip_address()
    with pytest.raises(BackendUnavailableError, match=f"ort-cuda.*on node {re.escape(node)}"):
        infer(archive, out, InferOptions(backend="ort-cuda"), executor=RayExecutor())
    assert contents(out) == {}
    assert json.loads((out / "report.json").read_text())["interrupted"]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (ray_actors.Elsewhere, InputError, "input and output are not there, or are other folders"),
        (ray_actors.OtherVersion, InputError, "something else: version differ"),
        (ray_actors.FullDisk, OutputError, "No space left on device"),
    ],
)
def test_what_a_node_refuses_ends_the_run(
    cluster, archive, local, out, monkeypatch, kind, error, message
):
    """With its own error and exit code; the report tells what was done."""
    with_actors(monkeypatch, kind)
    with pytest.raises(error, match=message):
        infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=1))
    saved = json.loads((out / "report.json").read_text())
    assert saved["interrupted"]
    assert saved["written"] + saved["not_reached"] == 120
    assert saved["written"] <= len(contents(out)) <= 1
    assert contents(out).items() <= local[1].items()


def test_a_bug_is_told_without_what_it_quotes(cluster, archive, out, monkeypatch):
    """Neither the error nor Ray's log files hold a patient's value."""
    with_actors(monkeypatch, ray_actors.Buggy)
    with pytest.raises(RuntimeError, match=r"^KeyError at .*ray_actors\.py:\d+$"):
        infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=1))
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    written = [path.read_bytes() for path in logs.rglob("*") if path.is_file()]
    assert written
    assert not any(ray_actors.PATIENT.encode() in content for content in written)


def test_other_parameters_are_not_mixed_in(cluster, archive, local, out):
    """The folder's manifest holds for both engines."""
    infer(next(archive.iterdir()), out, ZERO_FILL)
    with pytest.raises(RunMismatchError, match=r"upscale \(2, now 3\)"):
        infer(
            archive,
            out,
            InferOptions(backend="zero-fill", upscale=3),
            executor=RayExecutor(actors=1),
        )
    report = infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=2))
    assert (report.count("present"), report.count("written")) == (20, 100)
    assert losses(local[1], out) == NOTHING_LOST


def test_a_cluster_that_stays_taken_is_not_waited_for_for_ever(cluster, archive, out, monkeypatch):
    """Somebody else holds every core."""
    monkeypatch.setattr(actor_pool, "START_S", 2.0)

    class Other:
        def there(self):
            return True

    other = ray.remote(Other).options(num_cpus=4).remote()
    assert ray.get(other.there.remote())
    try:
        with pytest.raises(BackendUnavailableError, match="no actor came up within 2 s"):
            infer(archive, out, ZERO_FILL, executor=RayExecutor(actors=1))
    finally:
        ray.kill(other)


@needs_proc
def test_a_lost_node_costs_nothing_but_time(archive, local, out, hold, monkeypatch):
    """Two nodes in processes of this machine; one goes away with its worker and its store."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    with_actors(monkeypatch, ray_actors.Slow)
    settings = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=settings)
    try:
        second = nodes.add_node(num_cpus=2, object_store_memory=STORE)
        seen = []

        def remove():
            seen.extend(writers(out))
            nodes.remove_node(second, allow_graceful=False)
            hold.unlink()

        thread = when(lambda: lines(out) > 12 and len(writers(out)) == 2, remove)
        options = InferOptions(backend="zero-fill", threads=2)
        report = infer(archive, out, options, executor=RayExecutor(nodes.address))
        thread.join()
        assert len(seen) == 2
        assert losses(local[1], out) == NOTHING_LOST
        assert told(report) == told(local[0])
        # On a machine that stalls, Ray may take the other node for dead meanwhile.
        [note] = report.backend_notes
        assert re.fullmatch("[12] workers were lost; others took over their series", note)
        assert not ray.is_initialized()  # what the engine connected, it has cut
    finally:
        nodes.shutdown()


def start(*arguments, slice_s=0.03, **more):
    return subprocess.Popen(
        [sys.executable, "-c", CLI, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=fault_cases.environment(RAY_ACTORS_SLICE_S=str(slice_s), **more),
    )


ON_RAY = ("--backend", "zero-fill", "--engine", "ray", "--actors", "2", "--threads", "1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_is_reported_and_completed(archive, local, out, number, code):
    """Workers finish their slices; the cluster is gone; another engine goes on."""
    process = start("infer", archive, out, *ON_RAY, slice_s=0.2)  # it must not end before that
    fault_cases.wait_until(lambda: lines(out) > 12, process)
    process.send_signal(number)
    returned, stderr = fault_cases.ended(process)
    assert returned == code, stderr
    assert leftovers(out) == []
    saved = json.loads((out / "report.json").read_text())
    assert saved["interrupted"]
    assert 0 < saved["written"] == len(contents(out)) == 120 - saved["not_reached"] < 120
    report = infer(archive, out, ZERO_FILL)
    assert report.count("present") == saved["written"]
    assert losses(local[1], out) == NOTHING_LOST


@needs_proc
def test_a_killed_driver_takes_its_workers_along(archive, local, out, hold):
    """Kill -9: nobody goes on writing into a folder that the next run takes."""
    process = start("infer", archive, out, *ON_RAY)
    fault_cases.wait_until(lambda: lines(out) > 12 and writers(out), process)
    process.kill()
    process.communicate()
    fault_cases.wait_until(lambda: not writers(out))
    report = infer(archive, out, ZERO_FILL)
    assert report.count("present") > 0
    assert losses(local[1], out) == NOTHING_LOST


def descendants(pid):
    """Return command lines of a process's children, theirs, and so on, by process id."""
    found, parents = {}, {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for child in [one for one, its in parents.items() if its == parent]:
            with contextlib.suppress(OSError):
                found[child] = (PROC / str(child) / "cmdline").read_bytes().decode(errors="replace")
            waiting.append(child)
    return found


@needs_proc
@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("raylet/raylet", "the only node of the Ray cluster of this run has ended"),
        ("gcs_server", "the head node of the Ray cluster does not answer"),
    ],
)
def test_a_cluster_that_dies_ends_the_run_with_a_sentence(archive, local, out, server, told):
    """It hung for ever, or Ray ended it after a minute without a report.

    A thread of Ray's asks a head that is gone again and again, and keeps a core busy: not for long.
    """
    # So slow that it does not end before a process of its cluster is killed.
    process = start("infer", archive, out, *ON_RAY, slice_s=2.0, RAY_ACTORS_HEAD_S="5")
    fault_cases.wait_until(lambda: lines(out) > 2, process)
    (victim,) = [pid for pid, line in descendants(process.pid).items() if server in line]
    os.kill(victim, signal.SIGKILL)
    returned, stderr = fault_cases.ended(process)
    assert returned == 3, stderr
    assert told in stderr
    assert "the same command completes the run" in stderr
    assert json.loads((out / "report.json").read_text())["interrupted"]
    fault_cases.wait_until(lambda: not writers(out))
    assert infer(archive, out, ZERO_FILL).count("present") > 0
    assert losses(local[1], out) == NOTHING_LOST


def test_its_own_cluster_listens_on_loopback_and_keeps_its_token(tmp_path, monkeypatch):
    """Nobody else reaches it, and the home folder stays empty."""
    ray.shutdown()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with connected(None, cpus=1) as module:
        (node,) = module.nodes()
        ports = {head_address(module)[1], node["NodeManagerPort"], node["ObjectManagerPort"]}
        for port in ports:
            assert is_reachable(("127.0.0.1", port))
            # Another address of this machine: open if, and only if, it listens on all of them.
            assert not is_reachable(("127.0.0.2", port))
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert list(tmp_path.iterdir()) == []


@needs_proc
def test_the_command_prints_one_line_of_json_whatever_ray_has_to_say(archive, local, out, hold):
    """Ray announces lost workers on stdout, where a script reads."""
    process = start("infer", archive, out, *ON_RAY, "--json")
    fault_cases.wait_until(lambda: lines(out) > 12 and len(writers(out)) == 2, process)
    os.kill(max(writers(out)), signal.SIGKILL)
    hold.unlink()
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    (line,) = stdout.splitlines()
    assert json.loads(line)["written"] == 120
    assert stderr == "warning: 1 workers were lost; others took over their series\n"
    assert losses(local[1], out) == NOTHING_LOST


def at_work_in(folder):
    """Find the other processes that have files of a folder open, or are told of it."""
    found = set()
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "cmdline").read_bytes().decode(errors="replace")
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
            if any(str(folder) in text for text in (told, *links)):
                found.add(int(process.name))
    return found - {os.getpid()}


@pytest.fixture
def own_folders(monkeypatch):
    """Return where clusters of this process lie: other programs have theirs beside them."""
    found, real = [], tempfile.TemporaryDirectory

    def noted(*args, **settings):
        made = real(*args, **settings)
        if Path(made.name).name.startswith("ksr-"):
            found.append(Path(made.name))
        return made

    monkeypatch.setattr(tempfile, "TemporaryDirectory", noted)
    return found


@needs_proc
def test_nothing_is_left_of_its_own_cluster(archive, out, own_folders, monkeypatch):
    """No session folder with logs, no process, no variable, no handler."""
    ray.shutdown()
    for name in ("RAY_AUTH_MODE", "PYTHONBREAKPOINT"):  # of a cluster before
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ), signal.getsignal(signal.SIGTERM)
    thread = when(lambda: own_folders and len(at_work_in(own_folders[0])) > 2, lambda: None)
    one = next(archive.iterdir())
    assert infer(one, out, ZERO_FILL, executor=RayExecutor(actors=1)).exit_code == 0
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    assert not ray.is_initialized()
    thread.join()
    (folder,) = own_folders
    fault_cases.wait_until(lambda: not at_work_in(folder))
    assert not folder.exists()


def test_whatever_keeps_ray_from_starting_is_a_sentence(monkeypatch):
    """Ray raises plain `Exception` where a node does not come up in time."""
    ray.shutdown()

    def init(**settings):
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BackendUnavailableError, match=r"here: The current node.*startup\.$"):
        connected(None, cpus=1).__enter__()


def test_an_address_where_nothing_answers_is_an_error_at_once(archive, out, monkeypatch):
    """Ray would try for minutes: it is asked only for what it finds by itself."""
    ray.shutdown()
    services, real = ray._private.services, ray.init
    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: set())
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    services.find_gcs_addresses.cache_clear()
    asked = []
    monkeypatch.setattr(ray, "init", lambda **how: (asked.append(how["address"]), real(**how)))
    for address in ("127.0.0.1:1", "auto"):
        with pytest.raises(InputError, match="cannot be reached") as caught:
            infer(archive, out, ZERO_FILL, executor=RayExecutor(address))
        assert "RAY_AUTH_MODE=token" in caught.value.hint
    with pytest.raises(InputError, match="is no address of a Ray cluster"):
        infer(archive, out, ZERO_FILL, executor=RayExecutor("ray://"))
    assert asked == ["auto"]
    assert not out.exists()


def test_another_cluster_than_the_connected_one_is_refused(cluster, archive, out):
    """The caller's connection is not cut to make another."""
    with pytest.raises(InputError, match="connected to another Ray cluster"):
        infer(archive, out, ZERO_FILL, executor=RayExecutor("10.9.8.7:6379"))


def test_without_ray_the_hint_says_what_to_install(archive, out, monkeypatch):
    """Exit 3, as for any runtime that is missing; nothing is computed here instead."""
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["infer", str(archive), str(out), "--engine", "ray"])
    assert done.exit_code == 3
    assert "hint: pip install 'kspacesr-rt[cluster]'" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "dask"], "'dask' is not one of"),
        (["--actors", "2"], "--address and --actors go with --engine ray"),
        (["--address", "auto"], "--address and --actors go with --engine ray"),
    ],
)
def test_options_that_make_no_sense_are_refused(archive, out, arguments, message):
    """A typing error must not run for a night on one machine."""
    done = CliRunner().invoke(app, ["infer", str(archive), str(out), *arguments])
    assert (done.exit_code, message in done.stderr) == (2, True)


NODES = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 6.0}, {"CPU": 0.0}]


@pytest.mark.parametrize(
    ("backend", "threads", "actors", "expected"),
    [
        ("ort-cpu", 0, 0, (4, 0, 5)),  # four cores each: 4 + 1
        ("ort-cpu", 2, 0, (2, 0, 11)),
        ("ort-cpu", 0, 3, (4, 0, 3)),
        ("ort-cpu", 0, 22, (1, 0, 22)),
        ("ort-cpu", 16, 0, (16, 0, 1)),
        ("ort-cuda", 0, 0, (4, 1, 4)),  # a quarter of the node's cores beside each GPU
        ("ort-cuda", 0, 2, (4, 1, 2)),
    ],
)
def test_actors_are_placed_by_what_nodes_offer(backend, threads, actors, expected):
    """Cores for a CPU backend, a whole GPU for a GPU backend."""
    options = InferOptions(backend=backend, threads=threads)
    placement = Placement.of(NODES, options, backend, actors)
    assert (placement.cpus, placement.gpus, placement.wanted(NODES)) == expected
    assert placement.wanted([]) == 0


@pytest.mark.parametrize(
    ("nodes", "backend", "threads", "actors", "error", "message"),
    [
        (NODES[1:], "ort-cuda", 0, 0, BackendUnavailableError, "no node of the cluster offers one"),
        (NODES, "ort-cuda", 0, 5, InputError, "room for 4 actors of 4 cores and a GPU, not for 5"),
        (NODES, "ort-cpu", 20, 0, InputError, "room for 0 actors of 20 cores, not for 1"),
        (NODES, "ort-cpu", 0, 23, InputError, "room for 22 actors of 1 cores, not for 23"),
        (NODES[2:], "zero-fill", 0, 0, InputError, "room for 0 actors of 1 cores, not for 1"),
    ],
)
def test_what_does_not_fit_is_refused(nodes, backend, threads, actors, error, message):
    """Ray would wait for ever for a node that will never come."""
    with pytest.raises(error, match=message):
        Placement.of(nodes, InferOptions(threads=threads), backend, actors)
