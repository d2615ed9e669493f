"""Classic and multi-frame files in turns through one scheduler, beside a plain loop over them."""

import json
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import reduce

import enhanced_cases
import fault_cases
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from kspacesr_rt.dicom import (
    EnhancedWriter,
    FrameReader,
    derive,
    derive_enhanced,
    output_path,
    read_slice,
    scan_folder,
    to_stored,
    write_atomically,
)
from kspacesr_rt.errors import OutputError, ResultError, SliceError, SliceFailed
from kspacesr_rt.pipeline import InferOptions, backend_pool, multi_frame_file, session
from kspacesr_rt.pipeline.file_in_progress import FileInProgress
from kspacesr_rt.pipeline.multi_frame_file import MultiFrameFile
from kspacesr_rt.pipeline.session import Session
from kspacesr_rt.quality.result_checks import SliceFigures, check_result
from kspacesr_rt.sample import sample_folder

OPTIONS = InferOptions(backend="zero-fill", upscale=2, name="uid")
SIDE_BY_SIDE = InferOptions(backend="ort-cpu", model="x2-fast", threads=1, name="uid")
A, B = (24, 20), (21, 32)
TIMEOUT_S = 120
SEED = 17


def put_classic(folder, series, n, matrix, *, bad=None):
    """Write a classic series of `n` slices; one of them may be cut off."""
    rows, columns = matrix
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[:n]):
        ds = dcmread(path)
        pixels = np.ascontiguousarray(ds.pixel_array[16 : 16 + rows, 16 : 16 + columns])
        ds.Rows, ds.Columns, ds.PixelData = rows, columns, pixels.tobytes()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.1.3", f"1.2.{series}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{series}.{number + 1}"
        if number == bad:
            ds.compress(RLELossless, generate_instance_uid=False)
            ds.PixelData = ds.PixelData[:-208] + bytes(200) + ds.PixelData[-8:]
        folder.mkdir(parents=True, exist_ok=True)
        ds.save_as(folder / f"{series}-{number}.dcm")


def put_frames(folder, series, n, *, number=1, packed=False, bad=False):
    """Write a multi-frame file of `n` frames of 32 x 32; the last of them may be cut off."""
    ds = enhanced_cases.build(
        enhanced_cases.sample_frames(n, step=8, first=number),
        SeriesInstanceUID=f"1.2.{series}",
        SOPInstanceUID=f"1.2.{series}.9{number}",
        InstanceNumber=number,
    )
    if packed or bad:
        ds = enhanced_cases.compress(ds, RLELossless)
    if bad:
        ds.PixelData = ds.PixelData[:-208] + bytes(200) + ds.PixelData[-8:]
    enhanced_cases.save(ds, folder / f"{series}-frames{number}.dcm")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Return series of both kinds in turns, as the scan sorts them; two files are damaged."""
    folder = tmp_path_factory.mktemp("mixed")
    put_classic(folder, 1, 3, A)
    put_frames(folder, 2, 5)
    put_classic(folder, 3, 4, B, bad=1)
    put_frames(folder, 4, 3)
    put_frames(folder, 4, 1, number=2, packed=True)
    put_classic(folder, 4, 2, A)  # a series of both kinds
    put_frames(folder, 5, 4, bad=True)
    put_classic(folder, 6, 2, A)
    put_frames(folder, 7, 2)
    return folder


@pytest.fixture(autouse=True)
def same_dates(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture(autouse=True)
def untouched_by_two(monkeypatch):
    """Fail if a file is closed, or written by another worker, while it is written."""
    in_hands, harmed = set(), []
    write, close = MultiFrameFile.write, MultiFrameFile.close

    def write_alone(file, results):
        if file in in_hands or file.settled:
            harmed.append(f"written twice: {file.task.source.path.name}")
        in_hands.add(file)
        try:
            return write(file, results)
        finally:
            in_hands.discard(file)

    def close_alone(file):
        if file in in_hands:
            harmed.append(f"closed: {file.task.source.path.name}")
        close(file)

    monkeypatch.setattr(MultiFrameFile, "write", write_alone)
    monkeypatch.setattr(MultiFrameFile, "close", close_alone)
    yield
    assert harmed == []


def one_by_one(source, out, options):
    """Process every file after the other, slice by slice; return what the report must say."""
    expected = []
    with Session(options) as opened:
        derivation = opened.new_run(source, out).derivation
        spec, backends = opened.spec, opened._backends
        for one in (one for series in scan_folder(source).series for one in series.slices):
            record = {"uid": one.sop_instance_uid, "n_frames": one.n_frames, "reason": ""}
            backend, figures = backends.get(one.matrix), []

            def computed(decoded, backend=backend, figures=figures):
                [[sr]] = backend.run(decoded.values[None, None])
                figures.append(check_result(sr, decoded.values, spec))
                return sr

            try:
                if one.n_frames is None:
                    decoded = read_slice(one)
                    output = derive(decoded, computed(decoded), derivation)
                    write_atomically(output, output_path(out, output))
                else:
                    reader = FrameReader(one)
                    header = derive_enhanced(reader.take_header(), derivation)
                    with EnhancedWriter(out, header, derivation) as writer:
                        for number, frame in enumerate(reader, start=1):
                            writer.write(number, to_stored(computed(frame), frame.dataset))
                        writer.finish()
                record |= {
                    "outcome": "written",
                    "figures": asdict(reduce(SliceFigures.worse_of, figures)),
                }
            except (SliceError, ResultError) as exc:
                reason = getattr(exc, "reason", "data-consistency")
                record |= {"outcome": "failed", "reason": reason, "figures": {}}
            expected.append(record)
    return expected


def told(report):
    """Return of a report what `one_by_one` says."""
    return [
        {
            "uid": one.sop_instance_uid,
            "n_frames": one.n_frames,
            "reason": one.reason,
            "outcome": one.outcome,
            "figures": {
                field.name: getattr(one, field.name)
                for field in fields(SliceFigures)
                if one.outcome == "written"
            },
        }
        for one in report.slices
    ]


def comparable(records):
    return [
        {**one, "figures": {name: pytest.approx(v) for name, v in one["figures"].items()}}
        for one in records
    ]


@contextmanager
def computing(monkeypatch, change):
    """Let `change(run, batch)` stand for every backend's `run`."""
    real = backend_pool.open_backend

    def open_changed(*arguments):
        backend = real(*arguments)
        run = backend.run
        backend.run = lambda batch: change(run, batch)
        return backend

    with monkeypatch.context() as patch:
        patch.setattr(backend_pool, "open_backend", open_changed)
        yield


def asleep(monkeypatch, *names):
    """Let workers take their time, each call another one."""
    rng = random.Random(SEED)
    for name in names:
        real = getattr(FileInProgress, name)

        def sleepy(file, *arguments, real=real):
            time.sleep(rng.uniform(0.0, 0.004))
            return real(file, *arguments)

        monkeypatch.setattr(FileInProgress, name, sleepy)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_the_same_files_and_records_as_one_after_the_other(mixed, tmp_path, monkeypatch, streams):
    """Whatever the batch, the workers and the timing; and who computes is who may."""
    expected = one_by_one(mixed, tmp_path / "plain", SIDE_BY_SIDE)
    assert [one["outcome"] for one in expected].count("failed") == 2
    contents = fault_cases.contents(tmp_path / "plain")
    asleep(monkeypatch, "read", "write")
    lock, at_once, threads, most = threading.Lock(), 0, set(), 0

    def run_and_count(run, batch):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            threads.add(threading.get_ident())
        try:
            return run(batch)
        finally:
            with lock:
                at_once -= 1

    options = replace(SIDE_BY_SIDE, streams=streams)
    with computing(monkeypatch, run_and_count), Session(options) as opened:
        for batch, workers in ((1, 3), (2, 1), (3, 4), (4, 2)):
            out, seen = tmp_path / str(batch), []
            how = replace(options, batch=batch, workers=workers)
            report = opened.run(mixed, out, options=how, on_progress=seen.append)
            assert fault_cases.contents(out) == contents
            assert told(report) == comparable(expected)
            assert (report.not_reached, fault_cases.leftovers(out)) == (0, [])
            done = [one.done for one in seen]
            assert (done, done[-1]) == (sorted(done), seen[-1].total)
    assert most <= streams
    if streams == 1:
        assert threads == {threading.get_ident()}


def batches_of(source, batch, workers):
    """Return the batches that classic and multi-frame files are computed in, as a plain loop."""
    waiting, batches = {}, []
    for one in (one for series in scan_folder(source).series for one in series.slices):
        if one.n_frames is not None:
            whole, rest = divmod(one.n_frames, batch)
            chunks = [batch] * whole + [rest] * (rest > 0)
            if one.series_instance_uid == "1.2.5":  # the last one is cut off
                chunks = chunks[:-1]
            batches += [(n, one.matrix) for n in chunks]
            continue
        if one.sop_instance_uid == "1.2.3.2":  # cut off
            continue
        waiting[one.matrix] = waiting.get(one.matrix, 0) + 1
        if waiting[one.matrix] == batch:
            batches.append((waiting.pop(one.matrix), one.matrix))
        elif sum(waiting.values()) > 2 * batch + workers:
            longest = next(iter(waiting))
            batches.append((waiting.pop(longest), longest))
    return batches + [(n, matrix) for matrix, n in waiting.items()]


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_batches_are_those_of_the_order_of_the_input(mixed, tmp_path, monkeypatch, batch):
    """Classic slices across files, frames of one file alone; timing has no say in it."""
    asleep(monkeypatch, "read", "write")
    seen = []

    def run_and_record(run, values):
        seen.append((len(values), values.shape[-2:]))
        return run(values)

    with computing(monkeypatch, run_and_record), Session(OPTIONS) as opened:
        for workers in (1, 4):
            seen.clear()
            how = replace(OPTIONS, batch=batch, workers=workers)
            opened.run(mixed, tmp_path / str(workers), options=how)
            assert seen == batches_of(mixed, batch, workers)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_a_signal_anywhere_loses_nothing(mixed, tmp_path, monkeypatch, streams):
    """What is told stands there whole, nothing else does, and the same command goes on."""
    options = replace(SIDE_BY_SIDE, streams=streams, batch=2, workers=2)
    n_slices = scan_folder(mixed).n_slices
    asked = threading.Event()

    @contextmanager
    def held():
        yield lambda: 15 if asked.is_set() else 0

    monkeypatch.setattr(session, "deferred_signals", held)
    with Session(options) as opened:
        opened.run(mixed, tmp_path / "whole")
        expected = fault_cases.contents(tmp_path / "whole")
        for after in range(streams, n_slices, 4):
            out = tmp_path / str(after)

            def ask(progress, after=after):
                if progress.done >= after:
                    asked.set()

            report = opened.run(mixed, out, on_progress=ask)
            asked.clear()
            assert report.exit_code == 143
            found = fault_cases.contents(out)
            assert found.items() <= expected.items()
            assert {one.output for one in report.slices if one.outcome == "written"} == set(found)
            assert report.not_reached == n_slices - sum(one.n_frames or 1 for one in report.slices)
            assert fault_cases.leftovers(out) == []
            again = opened.run(mixed, out)
            assert (again.exit_code, fault_cases.contents(out)) == (8, expected)


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_the_first_bad_frame_is_told(tmp_path, monkeypatch, streams):
    """The second frame has no usable result, the fourth is cut off: not whichever comes first."""
    put_frames(tmp_path / "in", 1, 4, bad=True)
    put_classic(tmp_path / "in", 2, 2, A)
    seen = []

    def refuse(sr, lr, spec, sums):
        if lr.shape == (32, 32):
            seen.append(lr)
            if len(seen) == 2:
                raise SliceFailed("data-consistency", "is no image")
        return check_result(sr, lr, spec, sums)

    monkeypatch.setattr(multi_frame_file, "check_result", refuse)
    asleep(monkeypatch, "write")
    with Session(replace(SIDE_BY_SIDE, streams=streams)) as opened:
        for attempt in range(2):
            seen.clear()
            report = opened.run(tmp_path / "in", tmp_path / str(attempt))
            [bad] = [one for one in report.slices if one.outcome != "written"]
            assert (bad.reason, bad.message) == ("data-consistency", "frame 2: is no image")
            assert report.not_reached == 0


def test_a_disk_that_is_full_ends_the_run_and_leaves_nothing_half(mixed, tmp_path, monkeypatch):
    """What was written before is told, and done once."""
    write, calls = EnhancedWriter.write, []

    def full(writer, number, stored):
        calls.append(number)
        if len(calls) == 7:  # in the second multi-frame file
            raise OutputError("an output cannot be written: No space left on device")
        write(writer, number, stored)

    out = tmp_path / "out"
    with Session(replace(OPTIONS, batch=2)) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(EnhancedWriter, "write", full)
            with pytest.raises(OutputError, match="No space left"):
                opened.run(mixed, out)
        report = json.loads((out / "report.json").read_bytes())
        found = fault_cases.contents(out)
        assert report["interrupted"]
        assert fault_cases.leftovers(out) == []
        written = {one["output"] for one in report["slices"] if one["outcome"] == "written"}
        assert written <= set(found)
        opened.run(mixed, out)
        one_by_one(mixed, tmp_path / "plain", OPTIONS)
        assert fault_cases.contents(out) == fault_cases.contents(tmp_path / "plain")


def test_what_follows_a_multi_frame_file_does_not_wait_for_it(tmp_path, monkeypatch):
    """While one is finished, classic slices are computed and the next file's frames."""
    put_frames(tmp_path / "in", 1, 3)
    put_classic(tmp_path / "in", 2, 2, A)
    put_frames(tmp_path / "in", 3, 3)
    finish, others = EnhancedWriter.finish, threading.Event()
    computed, waited = Counter(), []

    def finish_last(writer, **options):
        if not waited:
            waited.append(1)
            assert others.wait(TIMEOUT_S)
        return finish(writer, **options)

    def run_and_tell(run, batch):
        computed[batch.shape[-2:]] += len(batch)
        if computed == {(32, 32): 4, A: 2}:  # a frame of the second file, and both slices
            others.set()
        return run(batch)

    monkeypatch.setattr(EnhancedWriter, "finish", finish_last)
    with computing(monkeypatch, run_and_tell), Session(replace(OPTIONS, workers=3)) as opened:
        report = opened.run(tmp_path / "in", tmp_path / "out")
    assert (report.count("written"), others.is_set()) == (4, True)


@pytest.mark.parametrize("streams", [1, 3])
def test_few_frames_and_few_files_are_under_way(tmp_path, monkeypatch, streams):
    """However many there are, and however slow the disk is."""
    batch = 2
    put_frames(tmp_path / "in", 1, 12)
    for series in range(2, 8):
        put_frames(tmp_path / "in", series, 3)
    lock, frames, files, most = threading.Lock(), {}, set(), {"frames": 0, "files": 0}
    read, write, close = MultiFrameFile.read, MultiFrameFile.write, MultiFrameFile.close

    def count(file, n):
        with lock:
            frames[file] = frames.get(file, 0) + n
            files.add(file)
            most["frames"] = max(most["frames"], frames[file])
            most["files"] = max(most["files"], len(files))

    def read_and_count(file):
        found = read(file)
        count(file, len(found))
        return found

    def write_slowly(file, results):
        time.sleep(0.01)
        noted = write(file, results)
        count(file, -len(results))
        return noted

    def close_and_count(file):
        with lock:
            files.discard(file)
        close(file)

    for name, method in (("read", read_and_count), ("write", write_slowly)):
        monkeypatch.setattr(MultiFrameFile, name, method)
    monkeypatch.setattr(MultiFrameFile, "close", close_and_count)
    options = replace(SIDE_BY_SIDE, streams=streams, batch=batch, workers=4)
    with Session(options) as opened:
        report = opened.run(tmp_path / "in", tmp_path / "out")
    assert report.count("written") == 7
    assert most["files"] <= 2  # each has its header in memory
    # Read ahead and just taken, computed, written.
    assert most["frames"] <= (2 + streams + 1 + 1) * batch


def test_a_matrix_that_no_model_fits_fails_its_files_alone(tmp_path):
    """Classic slices of a batch, and a multi-frame file whose frames are on their way."""
    source = tmp_path / "in"
    put_classic(source, 1, 3, (6, 6))
    tiny = enhanced_cases.build(
        [enhanced_cases.Frame(pixels=np.ones((6, 6), np.uint16))] * 5,
        SeriesInstanceUID="1.2.2",
        SOPInstanceUID="1.2.2.1",
    )
    enhanced_cases.save(tiny, source / "tiny.dcm")
    put_frames(source, 3, 3)
    put_classic(source, 4, 2, A)
    with Session(replace(SIDE_BY_SIDE, streams=2, batch=2)) as opened:
        report = opened.run(source, tmp_path / "out")
    assert report.reasons() == [("failed", "matrix", 4)]
    assert (report.count("written"), report.not_reached) == (3, 0)
