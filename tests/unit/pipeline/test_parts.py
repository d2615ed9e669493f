"""The parts of a run by themselves: stage times, half spectra, manifest and journal."""

import contextlib
import dataclasses
import json
import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.dicom.store import STATE_FOLDER
from kspacesr_rt.errors import InputError, OutputError, RunMismatchError, SliceFailed
from kspacesr_rt.kspace import measured_residual, zero_fill_image
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.pipeline import (
    InferOptions,
    backend_pool,
    compute,
    infer,
    session,
)
from kspacesr_rt.pipeline.classic_file import ClassicFile
from kspacesr_rt.pipeline.journal_entries import RACY_NS, FileState
from kspacesr_rt.pipeline.output_folder import Journal, Manifest, begun_with, locked_folder
from kspacesr_rt.pipeline.report import SliceRecord, fields_of_slice
from kspacesr_rt.pipeline.stage_timer import (
    COMPUTING,
    STAGES,
    WORKING,
    StageTimer,
    auto_streams,
    auto_workers,
    bottleneck,
)
from kspacesr_rt.quality.added_energy import added_energy
from kspacesr_rt.quality.half_spectra import HalfSpectra
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.system.cpu import available_cores

MATRICES = [(1, 1), (1, 4), (2, 3), (3, 2), (4, 4), (5, 8), (31, 16), (16, 31), (67, 90)]
ZERO_FILL = InferOptions(backend="zero-fill")


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
def test_half_of_k_space_tells_the_same_figures(matrix, upscale):
    """Nyquist lines, odd axes and their moved origin are where a half could go wrong."""
    rng = np.random.default_rng(0)
    lr = rng.random(matrix)
    sr = rng.random((matrix[0] * upscale, matrix[1] * upscale))
    half, whole = HalfSpectra.of(sr, lr), added_energy(sr, lr)
    assert half.measured_residual() == pytest.approx(measured_residual(sr, lr), rel=1e-10)
    assert half.added_energy().share == pytest.approx(whole.share, rel=1e-10)
    assert half.added_energy().ratio == pytest.approx(whole.ratio, rel=1e-10)


@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    upscale=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_figures_in_single_precision_are_those_in_double(rows, columns, upscale, seed):
    """To a thousandth, of a result that keeps what was measured and adds a little."""
    rng = np.random.default_rng(seed)
    lr = rng.random((rows, columns)).astype(np.float32)
    sr = zero_fill(lr[None], upscale)[0] + rng.normal(0, 0.02, (rows * upscale, columns * upscale))
    sr = sr.astype(np.float32)
    found, whole = HalfSpectra.of(sr, lr), added_energy(sr, lr)
    wide = measured_residual(sr.astype(np.float64), lr.astype(np.float64))
    assert found.measured_residual() == pytest.approx(wide, rel=1e-3, abs=1e-6)
    assert found.added_energy().share == pytest.approx(whole.share, rel=1e-3, abs=1e-12)
    assert found.added_energy().ratio == pytest.approx(whole.ratio, rel=1e-3, abs=1e-9)


def test_a_record_is_written_as_its_fields():
    """Journal and report take them without a copy of each."""
    record = SliceRecord(file="f", outcome="written", matrix=(3, 4), flags=("a",), warnings=("b",))
    assert fields_of_slice(record) == dataclasses.asdict(record)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
def test_half_of_k_space_fills_to_the_same_image(matrix, upscale):
    """The fast baseline is the one that `kspacesr_rt.kspace` defines, slice by slice."""
    lr = np.random.default_rng(1).random((2, 3, *matrix))
    expected = zero_fill_image(lr, upscale).real
    filled = zero_fill(lr, upscale)
    assert (filled.shape, filled.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(filled, expected, atol=2e-6)


def test_nothing_added_is_nothing_found():
    """A zero-filled slice adds no energy, and an empty one has none; neither divides by zero."""
    lr = np.random.default_rng(2).random((12, 9))
    filled = HalfSpectra.of(zero_fill_image(lr, 2).real, lr)
    assert filled.added_energy().share < 1e-25
    assert filled.measured_residual() < 1e-14
    empty = HalfSpectra.of(np.zeros((8, 8)), np.zeros((4, 4)))
    assert (empty.added_energy().share, empty.measured_residual()) == (0.0, 0.0)


def test_the_busiest_stage_of_the_busiest_group_is_the_bottleneck():
    """Two workers that share 14 s are less busy than one backend that takes 8 of 10."""
    clock = StageTimer()
    for stage, seconds in {"scan": 1.0, "infer": 8.0, "read": 9.0, "write": 5.0}.items():
        clock.add(stage, seconds)
    timings = clock.timings(10.0, workers=2)
    assert [one.name for one in timings] == list(STAGES)
    assert {one.name: one.utilisation for one in timings if one.busy_s} == {
        "scan": 0.1,
        "infer": 0.8,
        "read": 0.45,
        "write": 0.25,
    }
    assert bottleneck(timings) == "infer"
    assert bottleneck(clock.timings(10.0, workers=1)) == "read"
    assert bottleneck(clock.timings(10.0, workers=2, computing=4)) == "read"
    assert bottleneck(StageTimer().timings(0.0, workers=2)) == ""


def test_a_run_says_where_its_time_went(study, tmp_path):
    """Every stage is there, none was busier than it can be, and the text names the bottleneck."""
    report = infer(study, tmp_path / "out", ZERO_FILL)
    stages = {one.name: one for one in report.stages}
    assert list(stages) == list(STAGES)
    for one in stages.values():
        assert 0.0 <= one.utilisation <= 1.0
        assert one.workers == (auto_workers(on_gpu=False) if one.name in WORKING else 1)
    for name in ("scan", "read", "decode", "infer", "check", "encode", "write", "verify"):
        assert stages[name].busy_s > 0.0
        assert 0.0 < stages[name].cpu_s <= stages[name].busy_s + 0.01  # two clocks
    assert stages["transfer"].busy_s == 0.0  # nothing leaves the host
    assert f"bottleneck: {report.bottleneck}; its " in report.as_text()
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["bottleneck"] in STAGES
    assert [one["name"] for one in stored["stages"]] == list(STAGES)


def test_a_run_says_how_its_headers_were_read_and_encoded(study, tmp_path):
    """Who wonders why a series is slow finds that its headers do not fit each other."""
    report = infer(study, tmp_path / "out", ZERO_FILL)
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["headers"] == report.headers
    for work in ("read", "encoded"):
        ways = {way: n for way, n in report.headers.items() if way.startswith(work)}
        assert sum(ways.values()) == report.count("written")
        assert f"{work}-first" in ways
    again = infer(study, tmp_path / "out", ZERO_FILL)
    assert (again.count("present"), again.headers) == (report.count("written"), {})
    packed = dataclasses.replace(ZERO_FILL, compress="j2k")
    assert "encoded-compressed" in infer(study, tmp_path / "packed", packed).headers


def test_copies_to_a_device_are_no_computing(study, tmp_path, monkeypatch):
    """What a backend says it spent on copies is told apart."""
    real = backend_pool.open_backend

    def open_slowly(name, model, told):
        backend = real(name, model, told)
        backend.transfer_s = 0.0
        run = backend.run

        def run_and_copy(batch):
            started = time.perf_counter()
            result = run(batch)
            backend.transfer_s += time.perf_counter() - started
            return result

        backend.run = run_and_copy
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", open_slowly)
    report = infer(study, tmp_path / "out", ZERO_FILL)
    seconds = {one.name: one.busy_s for one in report.stages}
    assert seconds["transfer"] > seconds["infer"] >= 0.0


def test_workers_follow_the_cores_and_the_backend():
    """A GPU leaves cores to read with; a CPU backend is not to be starved by readers."""
    assert 2 <= auto_workers(on_gpu=False) <= max(2, min(4, available_cores()))
    assert auto_workers(on_gpu=False) <= auto_workers(on_gpu=True) <= 8


def test_only_what_can_computes_batches_side_by_side():
    """One core, a GPU and NumPy compute one batch at a time, and refuse to be told otherwise."""
    for name, info in BACKENDS.items():
        assert auto_streams(info, threads=1) == 1
        assert auto_streams(info, threads=4) == (2 if name in ("ort-cpu", "openvino") else 1)
    with pytest.raises(InputError, match="'zero-fill' computes one batch at a time") as caught:
        backend_pool.BackendPool(InferOptions(backend="zero-fill", streams=2))
    assert caught.value.hint == "streams are for ort-cpu, openvino"
    with pytest.raises(InputError, match="streams is a whole number from 0 to 1024, not -1"):
        InferOptions(streams=-1)


def test_batches_are_computed_side_by_side(study, tmp_path, monkeypatch):
    """Two calls must be under way at once, or the first of them waits here until it gives up."""
    met, real = threading.Barrier(2), backend_pool.open_backend

    def open_and_meet(name, model, told):
        backend = real(name, model, told)
        run = backend.run

        def run_after_the_other(batch):
            met.wait(timeout=60)
            return run(batch)

        backend.run = run_after_the_other
        return backend

    for path in sorted(study.glob("*.dcm"))[2:]:
        path.unlink()  # the third would wait alone
    monkeypatch.setattr(backend_pool, "open_backend", open_and_meet)
    pytest.importorskip("onnxruntime")
    report = infer(study, tmp_path / "out", InferOptions(backend="ort-cpu", streams=2))
    assert report.count("written") == 2
    assert {one.workers for one in report.stages if one.name in COMPUTING} == {2}


def test_an_open_backend_is_not_closed_under_a_batch():
    """Each of many matrices needs a place while its batch is computed beside the others."""
    pytest.importorskip("onnxruntime")
    with backend_pool.BackendPool(
        InferOptions(backend="ort-cpu", streams=6, threads=1)
    ) as backends:
        first = [backends.get((8 + 2 * n, 8)) for n in range(7)]
        assert [backends.get((8 + 2 * n, 8)) for n in range(7)] == first


def test_another_runs_folder_is_refused_by_name(tmp_path):
    """The message says which parameters differ, with both values."""
    with locked_folder(tmp_path / "out", {"model": "x2-fast", "upscale": 2}, "salt"):
        pass
    with (
        pytest.raises(RunMismatchError, match=r"model \(x2-fast, now x2-base\)") as caught,
        locked_folder(tmp_path / "out", {"model": "x2-base", "upscale": 2}, "other"),
    ):
        pass
    assert caught.value.exit_code == 7
    assert "upscale" not in str(caught.value)


def test_digests_are_told_only_where_names_say_nothing(tmp_path):
    """Two models under one name differ in their weights; of two names the digests are noise."""
    with locked_folder(tmp_path / "out", {"model": "mine", "weights_sha256": "a" * 64}, "salt"):
        pass
    for name, told in (("mine", True), ("yours", False)):
        with (
            pytest.raises(RunMismatchError) as caught,
            locked_folder(tmp_path / "out", {"model": name, "weights_sha256": "b" * 64}, "other"),
        ):
            pass
        assert ("weights_sha256" in str(caught.value)) == told
        assert ("model" in str(caught.value)) != told


def test_what_a_folder_was_begun_with_is_read_or_unknown(tmp_path):
    """A damaged manifest is told of where the folder is opened, not here."""
    assert begun_with(tmp_path / "none") is None
    with locked_folder(tmp_path / "out", {"backend": "ort-cpu"}, "salt"):
        pass
    assert begun_with(tmp_path / "out") == "ort-cpu"
    (tmp_path / "out" / "manifest.json").write_text("{")
    assert begun_with(tmp_path / "out") is None


def test_a_folder_is_held_once(tmp_path):
    """Two runs into one folder would each think the other's temporary files left over."""
    with (
        locked_folder(tmp_path, {}, "salt"),
        pytest.raises(OutputError, match="another run writes into"),
        locked_folder(tmp_path, {}, "salt"),
    ):
        pass
    with locked_folder(tmp_path, {}, "other") as manifest:
        assert manifest.run_salt == "salt"


def test_outputs_without_a_manifest_are_refused(study, tmp_path):
    """Nobody can say how they were made."""
    out = tmp_path / "out"
    infer(study, out, ZERO_FILL)
    (out / "manifest.json").unlink()
    with pytest.raises(OutputError, match="no manifest says how they were made"):
        infer(study, out, ZERO_FILL)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    """A manifest that cannot be understood is no permission."""
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(OutputError, match="manifest"):
        Manifest.of_folder(tmp_path)


@pytest.mark.parametrize(
    "harm", ["torn", "truncated", "gone", "source changed", "source touched", "none"]
)
def test_only_what_still_stands_counts_as_done(study, tmp_path, harm):
    """The journal's word is checked against both files; a torn last line is no word."""
    out = tmp_path / "out"
    infer(study, out, ZERO_FILL)
    journal = out / ".kspacesr-rt" / "journal.jsonl"
    source = scan_folder(study).series[0].slices[0]
    entries = [json.loads(line) for line in journal.read_text().splitlines() if line]
    [entry] = [one for one in entries if one.get("source") == source.sop_instance_uid]
    output = out / entry["record"]["output"]
    if harm == "torn":
        lines = [line for line in journal.read_text().splitlines() if entry["source"] in line]
        journal.write_text(lines[0][:-20])
    elif harm == "truncated":
        output.write_bytes(output.read_bytes()[:-2])
    elif harm == "gone":
        output.unlink()
    elif harm == "source changed":
        source.path.write_bytes(source.path.read_bytes() + b"\0\0")
    elif harm == "source touched":
        source.path.touch()
    found = Journal(out).find(source)
    if harm in ("none", "source touched"):  # its bytes are what they were
        assert found is not None
        assert dataclasses.replace(found, outcome="written").output == entry["record"]["output"]
        assert found.matrix == source.matrix
    else:
        assert found is None


def test_batches_are_as_large_as_was_asked(study, tmp_path, monkeypatch):
    """A GPU is bought for that; only the last one is smaller."""
    start, sizes = compute.BatchRunner.start, []

    def counted(self, matrix, slices, **kind):
        sizes.append(len(slices))
        return start(self, matrix, slices, **kind)

    monkeypatch.setattr(compute.BatchRunner, "start", counted)
    infer(study, tmp_path / "out", InferOptions(backend="zero-fill", batch=2))
    assert sizes == [2, 1]


def test_what_is_being_written_when_a_run_falls_is_noted(study, tmp_path, monkeypatch):
    """It stands there; the next run need not compute it again."""
    write, all_begun = ClassicFile.write, threading.Barrier(3)

    def together(*args):
        all_begun.wait(timeout=60)
        return write(*args)

    def fall(progress):
        raise ZeroDivisionError

    monkeypatch.setattr(ClassicFile, "write", together)
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        infer(study, out, InferOptions(backend="zero-fill", batch=3, workers=3), on_progress=fall)
    journal = Journal(out)
    assert all(journal.find(one) for one in scan_folder(study).series[0].slices)


def test_a_signal_is_heard_before_the_first_batch_is_full(study, tmp_path, monkeypatch):
    """A batch for a GPU is gathered for a while; nothing is begun any more after a SIGTERM."""

    @contextlib.contextmanager
    def held():
        yield lambda: 15

    begun = []
    monkeypatch.setattr(session, "deferred_signals", held)
    monkeypatch.setattr(compute.BatchRunner, "start", lambda *args, **kind: begun.append(args))
    report = infer(study, tmp_path / "out", InferOptions(backend="zero-fill", batch=2))
    assert (report.exit_code, report.count("written"), begun) == (143, 0, [])


@pytest.mark.parametrize("what", ["another instance", "another matrix"])
def test_a_slice_that_is_not_what_was_scanned_is_left(study, tmp_path, monkeypatch, what):
    """An archive that is written meanwhile: the record would name one image and show another."""
    load, done = SeriesReader.load, []
    path = min(study.iterdir())
    dataset = dcmread(path)
    if what == "another instance":
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    else:
        dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
        dataset.Rows //= 2

    def exchange_first(reader, source):
        if source.path == path and not done:
            done.append(dataset.save_as(path))
        return load(reader, source)

    monkeypatch.setattr(SeriesReader, "load", exchange_first)
    report = infer(study, tmp_path / "out", ZERO_FILL)
    assert [one.reason for one in report.slices if one.outcome == "failed"] == ["changed"]
    assert report.count("written") == 2


def test_a_link_is_no_output_whatever_its_size(study, tmp_path):
    """What it points to may be gone tomorrow, or be a file of the input."""
    source = scan_folder(study).series[0].slices[0]
    output = tmp_path / "out" / "a.dcm"
    (output.parent / STATE_FOLDER).mkdir(parents=True)
    output.write_bytes(b"twenty bytes of it  ")
    journal = Journal(output.parent)
    record = SliceRecord(
        file="a", sop_instance_uid=source.sop_instance_uid, outcome="written", output="a.dcm"
    )
    journal.note(source, source.path.stat(), record)
    assert journal.find(source) is not None
    (output.parent / "it").write_bytes(output.read_bytes())
    output.unlink()
    output.symlink_to("./" * 9 + "it")
    assert output.lstat().st_size == output.stat().st_size == 20
    assert journal.find(source) is None


@pytest.fixture
def noted(study, tmp_path):
    """Return a finished folder's root, and source, status and record of each slice."""
    out = tmp_path / "out"
    report = infer(study, out, ZERO_FILL)
    records = {one.sop_instance_uid: one for one in report.slices}
    slices = scan_folder(study).series[0].slices
    return out, [(one, one.path.stat(), records[one.sop_instance_uid]) for one in slices]


@pytest.mark.parametrize("n_bytes", [1, 2, 20, 10_000])
def test_what_is_noted_after_a_torn_line_is_found(noted, n_bytes):
    """The first line after a kill would end the torn one, and both be lost."""
    out, slices = noted
    path = out / ".kspacesr-rt" / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-n_bytes])
    lines = len(path.read_bytes().splitlines())
    journal = Journal(out)
    for one in slices:
        journal.note(*one)
    assert len([line for line in path.read_bytes().splitlines() if line]) == lines + len(slices)
    assert all(journal.find(source) is not None for source, _, _ in slices), "at once, too"
    journal.close()
    again = Journal(out)
    assert [again.find(source) is not None for source, _, _ in slices] == [True] * len(slices)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_line_that_a_full_disk_cut_is_an_error_and_spoils_no_other(noted, monkeypatch, share):
    """Write(2) may take less than it was given, and says so only by a number."""
    out, slices = noted
    path = out / ".kspacesr-rt" / "journal.jsonl"
    path.unlink()
    journal, real = Journal(out), os.write
    journal.note(*slices[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: real(file, line[: int(share * len(line))]))
        with pytest.raises(OutputError, match="No space left on device"):
            journal.note(*slices[1])
    journal.note(*slices[2])
    journal.close()
    again = Journal(out)
    assert [again.find(source) is not None for source, _, _ in slices] == [True, False, True]


STATE = FileState(size=9, mtime_ns=5, ctime_ns=6, inode=7, sha256="ab", seen_ns=6 + RACY_NS + 1)


@pytest.mark.parametrize("name", ["size", "mtime_ns", "ctime_ns", "inode"])
def test_a_file_is_known_again_by_all_of_its_status(name):
    """Tools set times back, editors write a new file: each leaves one of these changed."""
    assert STATE.looks_like(dataclasses.replace(STATE, sha256="", seen_ns=0))
    assert not STATE.looks_like(dataclasses.replace(STATE, **{name: 99}))


@pytest.mark.parametrize("name", ["mtime_ns", "ctime_ns"])
def test_a_file_that_was_young_when_it_was_read_is_read_again(name):
    """Within what a file system's clock ticks, a change leaves no trace in the status."""
    assert STATE.settled
    assert not dataclasses.replace(STATE, **{name: 7}).settled
    assert not dataclasses.replace(STATE, sha256="").settled


def test_a_file_that_was_replaced_while_it_was_used_vouches_for_nothing(tmp_path):
    """What it holds now is not what the slice was made from."""
    path = tmp_path / "a.dcm"
    path.write_bytes(b"one")
    before = path.stat()
    assert FileState.read_after(path, before).sha256 == FileState.read(path).sha256
    path.write_bytes(b"other")
    with pytest.raises(SliceFailed, match="replaced while it was processed") as caught:
        FileState.read_after(path, before)
    assert caught.value.reason == "changed"


def test_an_existing_output_is_compared_if_that_is_asked_for(noted):
    """One flipped bit leaves the size; only reading tells."""
    out, slices = noted
    harmed = out / slices[0][2].output
    content = bytearray(harmed.read_bytes())
    content[-1] ^= 1
    harmed.write_bytes(content)
    sources = [source for source, _, _ in slices]
    found = [Journal(out, verify=True).find(source) is not None for source in sources]
    assert found == [False, True, True]
    assert all(Journal(out).find(source) is not None for source in sources)


def test_another_version_does_not_continue_a_run(tmp_path):
    """It may round differently."""
    Manifest(parameters={"upscale": 2}, run_salt="salt", version="0.0.0").save(tmp_path)
    with (
        pytest.raises(RunMismatchError, match=r"version \(0\.0\.0, now "),
        locked_folder(tmp_path, {"upscale": 2}, "salt"),
    ):
        pass


def open_below(folder):
    """Return what of a folder this process holds open."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list open files")
    found = []
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append(descriptor.readlink())
    return [path for path in found if path.is_relative_to(folder)]


def test_a_run_leaves_no_file_open(study, tmp_path):
    """A process that runs for months would end at its limit of descriptors."""
    out = tmp_path / "out"
    for _ in range(2):  # the second time reads what the first has noted
        infer(study, out, ZERO_FILL)
        assert open_below(tmp_path) == []
    with locked_folder(out, Manifest.of_folder(out).parameters, ""):
        assert open_below(tmp_path) == [out / ".kspacesr-rt" / "lock"]


def test_random_uids_are_drawn_once_a_folder(study, tmp_path):
    """A killed run that is completed must not add a second copy under other UIDs."""
    options = dataclasses.replace(ZERO_FILL, random_uids=True, name="uid")
    one, other = tmp_path / "one", tmp_path / "other"
    infer(study, one, options)
    before = sorted(path.name for path in one.rglob("*.dcm"))
    next(one.rglob("*.dcm")).unlink()
    (one / ".kspacesr-rt" / "journal.jsonl").unlink()
    infer(study, one, options)
    assert sorted(path.name for path in one.rglob("*.dcm")) == before
    infer(study, other, options)
    assert not set(before) & {path.name for path in other.rglob("*.dcm")}


def test_the_contact_sheet_of_a_completed_run_is_whole(study, tmp_path):
    """Slices that were done before the kill are shown too, from their files."""
    options = dataclasses.replace(ZERO_FILL, preview=True)
    whole, again = tmp_path / "whole", tmp_path / "again"
    infer(study, whole, options)
    infer(study, again, options)
    [sheet] = again.glob("preview-*.png")
    sheet.unlink()
    min(again.rglob("*.dcm")).unlink()
    report = infer(study, again, options)
    assert (report.count("present"), report.count("written")) == (2, 1)
    [expected] = whole.glob("preview-*.png")
    assert _size(sheet) == _size(expected)
    sheet.unlink()
    infer(study, again, options)
    assert _size(sheet) == _size(expected)


def _size(png):
    """Return width and height from the header of a PNG."""
    return struct.unpack(">II", png.read_bytes()[16:24])
