"""Whatever goes wrong with one file is that file's failure; only the output's place ends a run."""

import errno
import json
import os
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import enhanced_cases
import numpy as np
import pytest
from hard_cases import content, sample

from kspacesr_rt.dicom import scan, series_encoder, store
from kspacesr_rt.dicom.enhanced import pixels as enhanced_pixels
from kspacesr_rt.dicom.enhanced import store as enhanced_store
from kspacesr_rt.dicom.series_encoder import SeriesEncoder
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.errors import OutputError, SliceFailed, library_message, system_message
from kspacesr_rt.pipeline import (
    InferOptions,
    infer,
    multi_frame_file,
    previews,
    slice_work,
    survey,
)
from kspacesr_rt.pipeline.multi_frame_file import MultiFrameFile
from kspacesr_rt.services.watch import WatchOptions, watch
from kspacesr_rt.services.watch.arrivals import Arrivals
from kspacesr_rt.services.watch.retry_policy import is_disk_error
from kspacesr_rt.system.file_labels import file_label

ZERO_FILL = InferOptions(backend="zero-fill", threads=1)
BAD = "bad.dcm"


class UnusualEncodingError(Exception):
    """What nobody foresaw."""


UNICODE = UnicodeDecodeError("utf-8", b"JANE", 0, 1, "JANE^DOE")
ERRORS = (
    *(MemoryError(), RecursionError(), OSError("JANE^DOE: no system said this"), UNICODE),
    *(struct.error("JANE^DOE"), OverflowError("JANE^DOE"), ValueError("JANE^DOE")),
    *(
        ZeroDivisionError(),
        IndexError("JANE^DOE"),
        AssertionError("JANE^DOE"),
        UnusualEncodingError("JANE"),
    ),
)
PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def put_series(folder, n=3, *, bad=True, name=BAD):
    """Write `n` good slices and a bad one, small."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n + bad):
        ds = sample(number)
        pixels = ds.pixel_array[:32, :32]
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = pixels.astype("<u2").tobytes()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        path = folder / (name if number == n else f"{number}.dcm")
        path.write_bytes(content(ds))
    return folder


def put_enhanced(folder, n=2):
    """Write `n` good multi-frame files and a bad one."""
    for number in range(n + 1):
        ds = enhanced_cases.build(enhanced_cases.sample_frames(2))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        enhanced_cases.save(ds, folder / (BAD if number == n else f"{number}.dcm"))
    return folder


def failing_for(uid, error, original):
    """Return `original`, but it raises for arguments that speak of one SOP Instance."""

    def raising(*args, **kwargs):
        for one in args:
            ds = getattr(one, "dataset", one)
            path = getattr(one, "path", None) or getattr(one, "_path", None)
            found = getattr(ds, "SOPInstanceUID", getattr(one, "sop_instance_uid", None))
            if found == uid or getattr(path or one, "name", "") == BAD:
                raise error
        return original(*args, **kwargs)

    return raising


def require_that_only_the_bad_one_failed(report, out, source, *, n_good):
    """Check that it is named without a value, that the others are written, that codes agree."""
    (bad,) = [one for one in report.slices if one.outcome == "failed"]
    assert bad.file == file_label(source / BAD, source, show_path=False)
    assert bad.reason in ("unreadable", "too-large", "accident", "decode", "backend")
    assert "JANE" not in bad.message
    assert "None" not in bad.message
    assert report.count("written") == n_good
    assert len(list(out.glob("*/*.dcm"))) == n_good
    stored = json.loads((out / "report.json").read_bytes())
    assert report.exit_code == stored["exit_code"] == 8
    assert stored["interrupted"] is False


CLASSIC_STAGES = (
    *(
        (scan, "examine"),
        (SeriesReader, "load"),
        (slice_work, "decode_slice"),
        (SeriesEncoder, "encode"),
    ),
    *((slice_work, "check_result"), (store, "_require_meaning"), (store, "encode")),
)
"""From the first look to the last; `check_result` is told by its thread, see below."""


def fail_at(monkeypatch, module, name, uid, error):
    """Let a function of a module raise for the bad file."""
    original = getattr(module, name)
    if name == "check_result":  # knows no file: take the pixels of the bad one
        monkeypatch.setattr(module, name, _failing_last(error, original))
        return
    monkeypatch.setattr(module, name, failing_for(uid, error, original))
    if name == "decode_slice":  # the survey reads ahead of it
        monkeypatch.setattr(survey, name, failing_for(uid, error, survey.decode_slice))


def _failing_last(error, original):
    lock, seen = threading.Lock(), Counter()

    def raising(sr, lr, spec, sums):
        with lock:
            seen["calls"] += 1
            if seen["calls"] == 4:
                raise error
        return original(sr, lr, spec, sums)

    return raising


@pytest.mark.parametrize(("module", "name"), CLASSIC_STAGES, ids=lambda one: str(one))
def test_at_every_stage_of_a_classic_slice(module, name, tmp_path, monkeypatch):
    """What nobody foresaw, wherever it comes from."""
    source = put_series(tmp_path / "in")
    output_of_bad = None
    if module is store:  # it knows the output, whose UID is that of an undisturbed run
        report = infer(source, tmp_path / "before", replace(ZERO_FILL, name="uid"))
        output_of_bad = next(
            one.output.rpartition("/")[2].removesuffix(".dcm")
            for one in report.slices
            if one.sop_instance_uid == "1.2.3.3"
        )
        original = getattr(store, name)
        if name == "encode":  # which templates do without
            monkeypatch.setattr(series_encoder, "N_TEMPLATES", 0)

        def raising(*args):
            uid = args[1] if name == "_require_meaning" else args[0].SOPInstanceUID
            if uid == output_of_bad:
                raise UnusualEncodingError("JANE^DOE")
            return original(*args)

        monkeypatch.setattr(store, name, raising)
    else:
        fail_at(monkeypatch, module, name, "1.2.3.3", UnusualEncodingError("JANE^DOE"))
    report = infer(source, tmp_path / "out", InferOptions(backend="zero-fill", workers=1))
    if name == "check_result":  # which one it met is up to the order of the input
        failed = [one for one in report.slices if one.outcome == "failed"]
        assert [one.reason for one in failed] == ["accident"]
        return
    require_that_only_the_bad_one_failed(report, tmp_path / "out", source, n_good=3)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_with_every_kind_of_error(error, tmp_path, monkeypatch):
    """From a scan to the survey, pydicom raises what it likes."""
    source = put_series(tmp_path / "in")
    fail_at(monkeypatch, SeriesEncoder, "encode", "1.2.3.3", error)
    report = infer(source, tmp_path / "out", ZERO_FILL)
    require_that_only_the_bad_one_failed(report, tmp_path / "out", source, n_good=3)


ENHANCED_STAGES = (
    *(
        (multi_frame_file, "FrameReader"),
        (multi_frame_file, "derive_enhanced"),
        (multi_frame_file, "EnhancedWriter"),
    ),
    *((enhanced_pixels, "stored_integers"), (enhanced_store, "read_header")),
    (multi_frame_file, "to_stored"),
)


@pytest.mark.parametrize(("module", "name"), ENHANCED_STAGES, ids=lambda one: str(one))
def test_at_every_stage_of_a_multi_frame_file(module, name, tmp_path, monkeypatch):
    """All of its frames, or the file fails; the others are whole."""
    source = put_enhanced(tmp_path / "in")
    original, under_way = getattr(module, name), threading.local()

    def noting(work):
        def noted(file, *arguments):
            under_way.name = file.task.source.path.name
            try:
                return work(file, *arguments)
            finally:
                under_way.name = ""

        return noted

    def raising(*args, **kwargs):
        if getattr(under_way, "name", "") == BAD:
            raise UnusualEncodingError("JANE^DOE")
        return original(*args, **kwargs)

    for work in ("read", "write"):  # each in one worker
        monkeypatch.setattr(MultiFrameFile, work, noting(getattr(MultiFrameFile, work)))
    monkeypatch.setattr(module, name, raising)
    report = infer(source, tmp_path / "out", ZERO_FILL)
    require_that_only_the_bad_one_failed(report, tmp_path / "out", source, n_good=2)


@pytest.mark.parametrize("name", ["kspace_profile", "acquired_matrix", "dropped_elements"])
def test_a_survey_that_fails_is_no_end(name, tmp_path, monkeypatch):
    """It measures for a warning; without it, nothing is known and all is processed."""

    def raising(*args, **kwargs):
        raise UnusualEncodingError

    monkeypatch.setattr(survey, name, raising)
    report = infer(put_series(tmp_path / "in"), tmp_path / "out", ZERO_FILL)
    assert (report.count("written"), report.exit_code) == (4, 0)


def test_a_contact_sheet_that_fails_is_a_note(tmp_path, monkeypatch):
    """The slices are what matters."""

    def raising(*args):
        raise UnusualEncodingError("JANE^DOE")

    monkeypatch.setattr("kspacesr_rt.pipeline.contact_sheet.contact_sheet", raising)
    options = InferOptions(backend="zero-fill", preview=True)
    report = infer(put_series(tmp_path / "in"), tmp_path / "out", options)
    assert (report.count("written"), report.exit_code) == (4, 0)
    (note,) = report.backend_notes
    assert note.startswith("the contact sheet of a series is not drawn: an internal error")
    assert "JANE" not in note
    assert previews.Previews(1).save(tmp_path) is None  # nothing on it, nothing written


def nested(depth):
    """Return a sequence of defined length in a sequence, and so on."""
    parts, length = [], 0
    for _ in range(depth):
        parts.append(
            struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, length + 8)
            + struct.pack("<HHL", 0xFFFE, 0xE000, length)
        )
        length += 20
    return b"".join(reversed(parts))


def test_a_header_nested_too_deeply_ends_nothing(tmp_path):
    """A copy of it exhausted Python's stack; bytes that nobody asks for are carried."""
    source = put_series(tmp_path / "in")
    before = (source / BAD).read_bytes()
    at = before.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    (source / BAD).write_bytes(before[:at] + nested(500) + before[at:])
    report = infer(source, tmp_path / "out", ZERO_FILL)
    assert (report.count("written"), report.exit_code) == (4, 0)


@pytest.mark.parametrize("number", PLACES, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("name", ["_write_new", "publish"])
def test_what_is_wrong_with_the_place_ends_the_run(name, number, tmp_path, monkeypatch):
    """And the report says with what code."""

    def raising(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, name, raising)
    with pytest.raises(OutputError, match=f"cannot be written: {os.strerror(number)}") as caught:
        infer(put_series(tmp_path / "in"), tmp_path / "out", ZERO_FILL)
    assert is_disk_error(caught.value)
    stored = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert (stored["exit_code"], stored["interrupted"]) == (7, True)


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError(), 1), (SystemExit(), 1)]
)
def test_the_report_says_what_ended_the_run(error, code, tmp_path):
    """Zero would be read as: all is done."""

    def raising(progress):
        raise error

    with pytest.raises(type(error)):
        infer(put_series(tmp_path / "in"), tmp_path / "out", ZERO_FILL, on_progress=raising)
    stored = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert (stored["exit_code"], stored["interrupted"]) == (code, True)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_the_report_says_which_signal_ended_the_run(name, code, tmp_path, monkeypatch):
    """As the process will."""
    import signal

    number = getattr(signal, name)

    @contextmanager
    def signalled():
        yield lambda: number

    monkeypatch.setattr("kspacesr_rt.pipeline.session.deferred_signals", signalled)
    report = infer(put_series(tmp_path / "in"), tmp_path / "out", ZERO_FILL)
    stored = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report.exit_code == stored["exit_code"] == code


def test_what_no_system_said_is_no_trouble_of_the_place():
    """A watch paused for ever over a value that could not be written."""
    error = OutputError("an output cannot be written")
    error.__cause__ = OSError("of pydicom")
    assert not is_disk_error(error)
    assert system_message(OSError("of pydicom")) == "OSError"
    assert library_message(EOFError()) == "EOFError"
    assert library_message(ValueError(" of two shapes")) == "of two shapes"
    error.__cause__ = OSError(0, "another folder stands in its place")
    assert is_disk_error(error)


def test_a_watch_goes_on_past_a_file_that_nothing_can_be_made_of(tmp_path, monkeypatch):
    """It is failed, the others of its series and those after it are written."""
    source = put_series(tmp_path / "in")
    fail_at(monkeypatch, SeriesEncoder, "encode", "1.2.3.3", OSError("of pydicom"))
    report_file, ended = tmp_path / "report.json", threading.Event()

    def done():
        if report_file.exists():
            stored = json.loads(report_file.read_bytes())
            if stored["written"] == 3:
                ended.set()
        return ended.is_set()

    options = WatchOptions(settle_s=0.0, poll_s=0.05)
    watch(
        source, tmp_path / "out", ZERO_FILL, options, report_file=report_file, stop_requested=done
    )
    stored = json.loads(report_file.read_bytes())
    assert (stored["written"], stored["failed"], stored["errors"]) == (3, 1, {})
    assert [one["reason"] for one in stored["left_out"]] == ["unreadable"]


def test_bytes_that_read_back_differently_are_the_places(tmp_path, monkeypatch):
    """A disk that lies concerns every file."""
    write = store._write_new
    monkeypatch.setattr(
        store,
        "_write_new",
        lambda path, parts: write(path, [memoryview(b"".join(parts)[:-2] + b"\x01\x02")]),
    )
    with pytest.raises(OutputError, match="reads back differently"):
        infer(put_series(tmp_path / "in"), tmp_path / "out", ZERO_FILL)


def test_an_error_of_no_system_while_an_output_is_checked_is_the_files(tmp_path, monkeypatch):
    """Say, of a sequence that ends in an element; pydicom tells it as the system would."""

    def raising(*args):
        raise OSError("JANE^DOE")

    monkeypatch.setattr(store, "_require_meaning", raising)
    report = infer(put_series(tmp_path / "in", 0), tmp_path / "out", ZERO_FILL)
    (record,) = report.slices
    assert (record.reason, report.exit_code) == ("unreadable", 8)
    assert not [*(tmp_path / "out").rglob("*.dcm"), *(tmp_path / "out").rglob("*.part")]


def test_sound_bytes_that_mean_something_else_are_the_files(tmp_path, monkeypatch):
    """The disk did what it was told."""
    source = put_series(tmp_path / "in", 0)
    header = store.parse_header

    def other(file):
        found = header(file)
        found.dataset.SOPInstanceUID = "1.2"
        return found

    monkeypatch.setattr(store, "parse_header", other)
    report = infer(source, tmp_path / "out", ZERO_FILL)
    (record,) = report.slices
    assert (record.reason, report.exit_code) == ("unreadable", 8)


def test_memory_that_runs_out_in_the_backend_fails_the_slice(tmp_path, monkeypatch):
    """One file of 8000 x 8000 must not end the others."""
    from kspacesr_rt.runtime import baselines

    run = baselines.BaselineBackend.run

    def small_only(self, batch):
        if batch.shape[-1] > 32:
            raise MemoryError
        return run(self, batch)

    monkeypatch.setattr(baselines.BaselineBackend, "run", small_only)
    source = put_series(tmp_path / "in")
    ds = sample(9)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9"
    (source / BAD).write_bytes(content(ds))
    report = infer(source, tmp_path / "out", ZERO_FILL)
    require_that_only_the_bad_one_failed(report, tmp_path / "out", source, n_good=3)


RESCALES = {
    "huge": ("1e38", "0"),
    "vanishing": ("1e-50", "0"),
    "subnormal": ("1e-42", "0"),
    "far off": ("1", "100000000"),
    "ten million": ("1", "1e7"),
    "three million": ("1", "-3e6"),
    "infinite": ("1e308", "0"),
    "not a number": ("nan", "0"),
    "no slope": ("0", "5"),
    "endless intercept": ("1", "inf"),
    "steps too small": ("1e-7", "5"),
}


@pytest.mark.parametrize("name", RESCALES)
@pytest.mark.parametrize("multi_frame", [False, True])
def test_a_rescale_that_loses_stored_values_is_refused(name, multi_frame, tmp_path):
    """In a frame it names the frame; never a black slice, never one that is off by a few."""
    slope, intercept = RESCALES[name]
    if multi_frame:
        ds = enhanced_cases.build(enhanced_cases.sample_frames(2))
        item = ds.PerFrameFunctionalGroupsSequence[1]
        values = item.get("PixelValueTransformationSequence")
        if not values:
            pytest.fail("the case has no rescale in its frames")
        _force(values[0], RescaleSlope=slope, RescaleIntercept=intercept)
        enhanced_cases.save(ds, tmp_path / "in" / BAD)
    else:
        ds = sample(0)
        _force(ds, RescaleSlope=slope, RescaleIntercept=intercept)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / BAD).write_bytes(content(ds))
    report = infer(tmp_path / "in", tmp_path / "out", ZERO_FILL)
    (record,) = report.slices
    assert (record.outcome, record.reason, report.exit_code) == ("failed", "bad-rescale", 8)
    assert record.message.startswith("frame 2: ") == multi_frame


def _force(ds, **values):
    from pydicom import config
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import BaseTag

    assert config.settings
    for keyword, text in values.items():
        tag = BaseTag(tag_for_keyword(keyword))
        stored = text.encode() + b" " * (len(text) % 2)
        ds[tag] = RawDataElement(tag, "DS", len(stored), stored, 0, False, True)


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [("1e-9", "0"), ("1e9", "0"), ("-1", "0"), ("2", "-4096"), ("-0.5", "1000"), ("1", "1e5")],
)
def test_a_rescale_that_keeps_stored_values_is_processed(slope, intercept, tmp_path):
    """Zero-fill keeps every measured sample to the last stored digit."""
    from pydicom import dcmread

    put_series(tmp_path / "in", 0)
    ds = dcmread(tmp_path / "in" / BAD)
    measured = ds.pixel_array.astype(int)
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    (tmp_path / "in" / BAD).write_bytes(content(ds))
    report = infer(tmp_path / "in", tmp_path / "out", ZERO_FILL)
    assert [one.outcome for one in report.slices] == ["written"]
    (path,) = (tmp_path / "out").glob("*/*.dcm")
    assert np.array_equal(dcmread(path).pixel_array[::2, ::2].astype(int), measured)


def test_failures_pass_through_what_concerns_all():
    """The place of the outputs, and a backend that is missing."""
    from kspacesr_rt.dicom.failures import as_slice_failure
    from kspacesr_rt.errors import BackendUnavailableError, ShapeError

    def through(error):
        with as_slice_failure():
            raise error

    for error in (OutputError("full"), BackendUnavailableError("gone")):
        with pytest.raises(type(error)):
            through(error)
    with pytest.raises(SliceFailed, match="of another shape") as caught:
        through(ShapeError("of another shape"))
    assert caught.value.reason == "accident"
    with pytest.raises(SliceFailed, match=f"cannot be read: {os.strerror(errno.EIO)}"):
        through(OSError(errno.EIO, os.strerror(errno.EIO)))


def test_a_watch_reads_links_to_files(tmp_path):
    """As `infer` does; a link to a folder is named and not followed."""
    store = put_series(tmp_path / "store", 2, bad=False)
    source = tmp_path / "in"
    source.mkdir()
    for path in store.iterdir():
        (source / path.name).symlink_to(path)
    (source / "more").symlink_to(store)
    report_file = tmp_path / "report.json"

    def done():
        return report_file.exists() and json.loads(report_file.read_bytes())["written"] == 2

    options = WatchOptions(settle_s=0.0, poll_s=0.05)
    watch(
        source, tmp_path / "out", ZERO_FILL, options, report_file=report_file, stop_requested=done
    )
    stored = json.loads(report_file.read_bytes())
    assert stored["reasons"] == [{"outcome": "skipped", "reason": "special-file", "count": 1}]
    assert all(path.is_symlink() for path in source.iterdir())


def test_arrivals_look_into_folders_deeper_than_the_stack(tmp_path, monkeypatch):
    """A watch ended in an internal error."""
    source = tmp_path / "in"
    put_series(source, 1, bad=False)
    monkeypatch.chdir(source)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    try:
        arrivals = Arrivals(source, settle_s=0.0, clock=lambda: 0.0)
        arrivals.look(None)
        assert arrivals.n_waiting == 1
    finally:  # pytest removes folders with a function that calls itself
        for _ in range(1100):
            os.chdir("..")
            Path("d").rmdir()
    arrivals.look(None)  # and forgets them
    assert arrivals.n_waiting == 1
