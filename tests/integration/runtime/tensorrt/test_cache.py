"""The cache returns the engine that was asked for, whole, or builds it: never another, never half.

The builder is a stand-in here, in its own process like the real one: it copies the model, numbers
its builds, and so gives other bytes every time, as TensorRT does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import EngineError, ModelFileError, OutputError
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.spec import NEW_IN
from kspacesr_rt.runtime.tensorrt import build, inputs
from kspacesr_rt.runtime.tensorrt.build import build_engine
from kspacesr_rt.runtime.tensorrt.cache import EngineCache
from kspacesr_rt.runtime.tensorrt.inputs import EngineOptions
from kspacesr_rt.runtime.tensorrt.sidecar import load_engine, sidecar_path
from kspacesr_rt.runtime.tensorrt.targets import GpuTarget
from kspacesr_rt.system import cache_folder
from kspacesr_rt.system.cache_folder import default_folder

MATRIX = (40, 33)
FOR_SM89 = EngineOptions(gpu="sm89")
STAND_IN = """
import json, pathlib, secrets, sys
folder = pathlib.Path(sys.argv[1])
timing = folder / "timing"
seen = timing.read_bytes() if timing.exists() else b""
(folder / "plan").write_bytes(secrets.token_bytes(16) + (folder / "model.onnx").read_bytes())
timing.write_bytes(seen + b"." if {measures} else b"")
(folder / "result.json").write_text(json.dumps({{"layers": {{}}, "fused": []}}))
"""


@pytest.fixture
def builds(monkeypatch):
    """Count the builds, and let a stand-in do them."""
    counted = []
    real = build._run_worker

    def run(folder, on_progress):
        counted.append(json.loads((folder / "inputs.json").read_text()))
        return real(folder, on_progress)

    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", STAND_IN.format(measures=False)))
    monkeypatch.setattr(build, "_run_worker", run)
    monkeypatch.setattr(inputs, "load_runtime", lambda name: SimpleNamespace(__version__="1.7.1"))
    return counted


@pytest.fixture
def engines(tmp_path):
    return EngineCache(tmp_path / "cache")


def test_an_engine_is_built_once(model, engines, builds):
    """The second run of a series must not wait for a builder."""
    bound = bind(model, MATRIX)
    first = engines.get_or_build(bound, FOR_SM89)
    second = engines.get_or_build(bound, FOR_SM89)
    assert (first.cached, second.cached) == (False, True)
    assert second.path == first.path
    assert second.info == first.info
    assert "from the cache" in second.as_text()
    assert len(builds) == 1
    info, plan = load_engine(first.path)
    assert info.inputs.matrix == MATRIX
    assert plan.endswith(with_gpu_transforms(bound).proto.SerializeToString())


def test_other_inputs_are_another_engine(model, engines, builds, monkeypatch):
    """Matrix, GPU, profile and version: each of them by itself."""
    bound = bind(model, MATRIX)
    paths = [
        engines.get_or_build(bound, FOR_SM89).path,
        engines.get_or_build(bind(model, MATRIX[::-1]), FOR_SM89).path,
        engines.get_or_build(bound, EngineOptions(gpu="sm86")).path,
        engines.get_or_build(bound, EngineOptions(gpu="sm89", batch=(1, 1, 1))).path,
    ]
    monkeypatch.setattr(inputs, "load_runtime", lambda name: SimpleNamespace(__version__="1.7.2"))
    paths.append(engines.get_or_build(bound, FOR_SM89).path)
    assert len(set(paths)) == len(builds) == 5


def test_an_engine_tuned_on_another_gpu_is_not_taken(model, engines, builds, monkeypatch):
    """TensorRT's fastest kernels on one GPU may not even run on its sister."""
    bound = bind(model, MATRIX)
    for name in ("NVIDIA L4", "NVIDIA L40S", "NVIDIA L4"):
        target = GpuTarget(sm=89, name=name)
        monkeypatch.setattr(inputs, "resolve_target", lambda gpu, runtime, t=target: t)
        built = engines.get_or_build(bound, EngineOptions(runtime="tensorrt"))
        assert built.info.inputs.gpu_name == name
    assert built.cached
    assert len(builds) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def corrupt_a_fifth(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: -len(content) // 5] + bytes(len(content) - len(content) * 4 // 5))


def drop_half_of_the_sidecar(path: Path) -> None:
    sidecar = sidecar_path(path)
    sidecar.write_text(sidecar.read_text()[:500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "bytes, its sidecar says"),
        (corrupt_a_fifth, "is not the engine its sidecar describes"),
        (drop_half_of_the_sidecar, "not JSON"),
        (Path.unlink, "cannot be read: No such file"),
    ],
)
def test_a_damaged_engine_is_built_again(model, engines, builds, damage, message):
    """A disk ran full, a copy was interrupted: said in a note, and healed."""
    bound = bind(model, MATRIX)
    broken = engines.get_or_build(bound, FOR_SM89).path
    damage(broken)
    healed = engines.get_or_build(bound, FOR_SM89)
    assert not healed.cached
    assert len(healed.notes) == 1
    assert healed.notes[0].startswith("an engine in the cache was not used and is built again: ")
    assert message in healed.notes[0]
    load_engine(healed.path)
    assert not broken.exists()
    assert engines.get_or_build(bound, FOR_SM89).cached
    assert len(engines.listing()) == 1


def test_a_foreign_engine_is_never_taken_for_the_wanted_one(model, engines, builds):
    """Whole, with its own sidecar, but renamed: its inputs say what it is."""
    bound = bind(model, MATRIX)
    wanted = engines.get_or_build(bound, FOR_SM89).path
    foreign = engines.get_or_build(bind(model, MATRIX[::-1]), FOR_SM89).path
    foreign.replace(wanted)
    sidecar_path(foreign).replace(sidecar_path(wanted))
    again = engines.get_or_build(bound, FOR_SM89)
    assert not again.cached
    assert "was built from other inputs than its name says" in again.notes[0]
    assert again.info.inputs.matrix == MATRIX


def test_builders_at_the_same_time_leave_whole_engines(model, engines, builds):
    """Plans differ from build to build: files of two builds must not be mixed."""
    bound = bind(model, MATRIX)
    built = []
    threads = [
        threading.Thread(target=lambda: built.append(engines.get_or_build(bound, FOR_SM89)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 4
    for one in built:
        info, _ = load_engine(one.path)
        assert info == one.info
    assert all(not entry.problem for entry in engines.listing())
    assert engines.get_or_build(bound, FOR_SM89).cached


def test_a_build_that_fails_leaves_nothing(model, engines, builds, monkeypatch):
    """The next run tries again, and does not find half an engine."""
    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", "raise SystemExit(9)"))
    with pytest.raises(EngineError, match="ended with status 9"):
        engines.get_or_build(bind(model, MATRIX), FOR_SM89)
    assert list(engines.folder.iterdir()) == []


def test_measurements_are_kept_for_the_next_build(model, engines, builds, monkeypatch):
    """TensorRT times every kernel it could use: minutes, and the same for a similar model."""
    monkeypatch.setattr(build, "WORKER", (sys.executable, "-c", STAND_IN.format(measures=True)))
    target = GpuTarget(sm=89, name="NVIDIA L4 (24/GB)")
    monkeypatch.setattr(inputs, "resolve_target", lambda gpu, runtime: target)
    for n, matrix in enumerate((MATRIX, MATRIX[::-1]), start=1):
        engines.get_or_build(bind(model, matrix), EngineOptions(runtime="tensorrt"))
        timing = engines.folder / "tensorrt-1.7.1-sm89-NVIDIA-L4-24-GB-.timing"
        assert timing.read_bytes() == b"." * n
    engines.prune()
    assert timing.exists()
    engines.prune(everything=True)
    assert list(engines.folder.iterdir()) == []


def test_an_engine_built_elsewhere_can_be_added(model, engines, builds, tmp_path):
    """Built on a server without a GPU, carried to the scanner's box, found by the backend there."""
    output = tmp_path / "m.engine"
    build_engine(model, output, matrix=MATRIX, gpu="sm89")
    assert engines.add(output).notes == ()
    assert engines.get_or_build(bind(model, MATRIX), FOR_SM89).cached
    truncate(output)
    with pytest.raises(ModelFileError, match="its sidecar says"):
        engines.add(output)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": (1, 2, 4)}, "a batch of 1 2 4"),
        ({"workspace_bytes": 2**28}, "a workspace limit"),
        ({"optimisation_level": 3}, "an optimisation level"),
    ],
)
def test_an_engine_that_no_backend_asks_for_is_said_to_be_one(
    model, engines, builds, tmp_path, options, words
):
    """It is kept, and would be built again beside it without a word."""
    output = tmp_path / "m.engine"
    build_engine(model, output, matrix=MATRIX, gpu="sm89", **options)
    added = engines.add(output)
    [note] = added.notes
    assert words in note
    assert note.endswith("they will not find it")
    assert not engines.get_or_build(bind(model, MATRIX), FOR_SM89).cached


def test_what_is_no_engine_is_not_added(model, engines, builds, tmp_path):
    """A model, or the sidecar, which stands beside it in a listing."""
    output = tmp_path / "m.engine"
    build_engine(model, output, matrix=MATRIX, gpu="sm89")
    with pytest.raises(ModelFileError, match=r"m\.engine\.json is the sidecar"):
        engines.add(sidecar_path(output))
    (tmp_path / "m.onnx").write_bytes(model.proto.SerializeToString())
    with pytest.raises(ModelFileError, match=r"m\.onnx is a model file") as caught:
        engines.add(tmp_path / "m.onnx")
    assert caught.value.hint.startswith("kspacesr-rt build")


def test_adding_and_pruning_print_json(model, engines, builds, tmp_path, monkeypatch):
    """One object, or one list, as `ls` prints it."""
    output = tmp_path / "m.engine"
    build_engine(model, output, matrix=MATRIX, gpu="sm89")
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(engines.folder.parent))
    added = CliRunner().invoke(app, ["cache", "add", str(output), "--json"])
    assert added.exit_code == 0, added.output
    assert Path(json.loads(added.stdout)["path"]).is_file()
    removed = CliRunner().invoke(app, ["cache", "prune", "--all", "--json"])
    assert [one["engine"]["model"] for one in json.loads(removed.stdout)] == [model.spec.name]


# --- looking and pruning --------------------------------------------------------------------------


@pytest.fixture
def three(model, engines, builds):
    """Return three engines, the oldest first, used ten days apart."""
    paths = []
    for days, rows in ((20, 40), (10, 41), (0, 42)):
        path = engines.get_or_build(bind(model, (rows, 33)), FOR_SM89).path
        then = time.time() - days * 86400
        for one in (path, sidecar_path(path)):
            os.utime(one, (then, then))
        paths.append(path)
    return paths


def test_the_listing_shows_what_was_used_last_first(three, engines, model):
    """What, for which GPU, how large; and a total."""
    listing = engines.listing()
    assert [entry.path for entry in listing] == three[::-1]
    text = engines.as_text().splitlines()
    assert len(text) == 4
    assert f"{model.spec.name} fp32 42 x 33 for sm89, tensorrt-rtx 1.7.1" in text[0]
    assert text[-1].startswith("3 engines, ")
    assert text[-1].endswith(f" MB in {engines.folder}")
    row = json.loads(json.dumps(listing[0].to_dict()))
    assert row["engine"]["model"] == model.spec.name
    assert row["path"] == str(three[-1])
    assert row["problem"] == ""


def test_the_listing_cannot_steer_a_terminal(three, engines):
    """A sidecar is text that anybody may have written; what is wrong with one is quoted too."""
    sidecar = sidecar_path(three[0])
    values = json.loads(sidecar.read_text())
    values["model"] = values["spec"]["name"] = "\x1b[2J\n2026 fake"
    sidecar.write_text(json.dumps(values))
    broken = sidecar_path(three[1])
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"\x1b[31m": 1}))
    told = [entry.as_text() for entry in engines.listing()]
    assert not any("\x1b" in line or "\n" in line for line in told)
    assert any(r"\x1b[2J\n2026 fake" in line for line in told)
    assert any(r"\x1b[31m" in line for line in told)


def test_an_engine_of_an_earlier_specification_is_still_taken(three, engines):
    """Engines take minutes to build: an update must not throw them away."""
    sidecar = sidecar_path(three[0])
    values = json.loads(sidecar.read_text())
    newer = {field for fields in NEW_IN.values() for field in fields}
    old = {name: value for name, value in values["spec"].items() if name not in newer}
    values["spec"] = old | {"schema": 1}
    sidecar.write_text(json.dumps(values))
    assert load_engine(three[0])[0].spec.output_grid == "kspace"


def test_using_an_engine_makes_it_the_last_used(three, engines, model):
    """Pruning goes by use, not by age."""
    engines.get_or_build(bind(model, (40, 33)), FOR_SM89)
    assert {entry.path for entry in engines.prune(older_than_days=5)} == {three[1]}


def test_pruning_removes_what_was_asked_and_no_more(three, engines):
    """By age, by size, or all of it."""
    assert engines.prune() == ()
    assert [entry.path for entry in engines.prune(older_than_days=15)] == [three[0]]
    size = engines.listing()[0].size_bytes
    assert engines.prune(max_bytes=2 * size + 100) == ()
    assert [entry.path for entry in engines.prune(max_bytes=size)] == [three[1]]
    assert [entry.path for entry in engines.prune(everything=True)] == [three[2]]
    assert list(engines.folder.iterdir()) == []


def test_a_small_old_engine_does_not_outlive_a_large_new_one(three, engines):
    """Least recently used goes first, whatever its size; here nothing is left to keep."""
    large = three[2]
    large.write_bytes(bytes(10_000_000))
    sidecar = json.loads(sidecar_path(large).read_text())
    sidecar["size_bytes"] = 10_000_000
    sidecar_path(large).write_text(json.dumps(sidecar))
    assert [entry.path for entry in engines.prune(max_bytes=9_000_000)] == three[::-1]


def test_what_cannot_be_removed_is_an_error(three, engines, monkeypatch):
    """A cache that somebody else owns."""

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"cannot remove .*\.engine: Permission denied"):
        engines.prune(everything=True)


def test_pruning_removes_what_cannot_be_used(three, engines):
    """Damaged entries, and what a killed process left half written long ago."""
    truncate(three[0])
    sidecar_path(three[1]).write_text("{")
    left = [engines.folder / "lonely.engine", engines.folder / ".m.engine.00.part"]
    fresh = [engines.folder / "being-written.engine", engines.folder / ".n.engine.00.part"]
    for path in (*left, *fresh):
        path.write_bytes(b"half")
    for path in left:
        os.utime(path, (0, 0))
    problems = {entry.path: entry.problem for entry in engines.listing() if entry.problem}
    assert problems.keys() == {three[0], three[1], left[0]}
    assert "instead of" in problems[three[0]]
    assert f"{three[0].name}: has " in engines.as_text()
    engines.prune()
    kept = {path.name for path in engines.folder.iterdir()}
    assert kept == {three[2].name, sidecar_path(three[2]).name, *(path.name for path in fresh)}


def test_an_empty_cache_is_no_error(engines):
    """Before the first build there is not even a folder."""
    assert engines.listing() == ()
    assert engines.prune(everything=True) == ()
    assert engines.as_text() == f"0 engines, 0.0 kB in {engines.folder}"


# --- where it is ----------------------------------------------------------------------------------


def test_the_folder_follows_the_platform(monkeypatch, tmp_path):
    """$KSPACESR_RT_CACHE, $XDG_CACHE_HOME if absolute, or the home folder's cache."""
    monkeypatch.setattr(cache_folder.sys, "platform", "linux")
    monkeypatch.delenv("KSPACESR_RT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder("engines") == tmp_path / ".cache" / "kspacesr-rt" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder("engines") == tmp_path / "xdg" / "kspacesr-rt" / "engines"
    monkeypatch.setenv("KSPACESR_RT_CACHE", str(tmp_path / "mine"))
    assert default_folder("engines") == tmp_path / "mine" / "engines"
    assert EngineCache().folder == default_folder("engines")
    monkeypatch.delenv("KSPACESR_RT_CACHE")
    monkeypatch.setattr(cache_folder.sys, "platform", "darwin")
    assert default_folder("engines") == tmp_path / "Library" / "Caches" / "kspacesr-rt" / "engines"
    monkeypatch.setattr(cache_folder.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_folder("engines") == tmp_path / "local" / "kspacesr-rt" / "engines"


def test_a_cache_that_cannot_be_made_names_the_variable(model, builds, tmp_path):
    """A read-only home is common in containers."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        EngineCache(tmp_path / "file" / "cache").get_or_build(bind(model, MATRIX), FOR_SM89)
    assert caught.value.hint == "name another folder with KSPACESR_RT_CACHE"
    assert not builds


def test_nobody_else_may_write_into_the_cache(model, engines, builds):
    """Loading an engine runs its code."""
    engines.get_or_build(bind(model, MATRIX), FOR_SM89)
    assert engines.folder.stat().st_mode & 0o077 == 0
