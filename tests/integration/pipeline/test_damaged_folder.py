"""A damaged output folder is resumable, or the message says what to remove."""

import dataclasses
import json
import os
import shutil
import stat
import zlib
from pathlib import Path

import fault_cases
import pytest
from fault_cases import NOTHING_LOST, contents, losses

from kspacesr_rt.cli import app
from kspacesr_rt.errors import OutputError
from kspacesr_rt.pipeline import InferOptions, infer, journal_entries
from kspacesr_rt.pipeline.file_in_progress import MADE_AGAIN

ZERO_FILL = InferOptions(backend="zero-fill", batch=3)
VERIFY = InferOptions(backend="zero-fill", batch=3, verify_existing=True)


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Make a study of a few slices, and the folder of a finished run; read only."""
    place = tmp_path_factory.mktemp("finished")
    fault_cases.make_slices(place / "study", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)
        infer(place / "study", place / "out", ZERO_FILL)
    return place


@pytest.fixture
def study(finished):
    return finished / "study"


@pytest.fixture
def expected(finished):
    return contents(finished / "out")


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished / "out", tmp_path / "out")


def entries_of(content):
    return [json.loads(line) for line in content.splitlines() if line]


def as_lines(entries):
    return b"".join(json.dumps(one).encode() + b"\n" for one in entries)


def with_fields(content, **fields):
    return as_lines([one | fields for one in entries_of(content)])


def with_record(content, **fields):
    entries = entries_of(content)
    for one in entries:
        if "record" in one:
            one["record"] |= fields
    return as_lines(entries)


JOURNALS = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut to a byte": lambda content: content[:1],
    "NULs": lambda content: bytes(len(content)),
    "NULs before": lambda content: bytes(4096) + content,
    "NULs amid": lambda content: content[:500] + bytes(500) + content[1000:],
    "NULs after": lambda content: content + bytes(4096),
    "noise": lambda content: bytes(range(256)) * 99,
    "lines of other JSON": lambda content: b'[]\n"a"\n1\nnull\n{}\n{"series": 1}\n' + content,
    "no end of line": lambda content: content.replace(b"\n", b" "),
    "CR LF": lambda content: content.replace(b"\n", b"\r\n"),
    "twice": lambda content: content + content,
    "backwards": lambda content: b"\n".join(content.splitlines()[::-1]),
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "not UTF-8": lambda content: content.replace(b"sha256:", b"sha256:\xff\xfe"),
    "huge integers": lambda content: with_fields(content, size=10**4000, bytes=10**4000),
    "more digits than Python reads": lambda content: content.replace(
        b'"size":', b'"size":' + b"9" * 9999
    ),
    "infinite": lambda content: content.replace(b'"bytes":', b'"bytes":1e999,"b":'),
    "wrong types": lambda content: with_fields(content, size=[], bytes={}, record=7),
    "wrong records": lambda content: with_record(content, output=7, n_frames="a", warnings=None),
    "records too many": lambda content: with_record(content, nobody="knows"),
    "series of another kind": lambda content: content + b'{"series": [], "records": 7}\n',
    "another folder": lambda content: with_record(content, output="../../etc/passwd"),
    "an absolute path": lambda content: with_record(content, output="/etc/passwd"),
    "nested": lambda content: b"[" * 100_000 + b"\n" + content,
    "a line without end": lambda content: b"x" * (3 << 20) + b"\n" + content,
    "one bit": lambda content: content.replace(b'"outcome":"written"', b'"outcome":"writtdn"'),
    "a digit of a figure": lambda content: content.replace(b'residual":1', b'residual":9'),
}


@pytest.mark.parametrize("harm", JOURNALS)
def test_a_damaged_journal_costs_time_only(study, expected, out, harm):
    """What cannot be believed is computed once more, and found to stand."""
    path = out / ".kspacesr-rt" / "journal.jsonl"
    path.write_bytes(JOURNALS[harm](path.read_bytes()))
    report = infer(study, out, ZERO_FILL)
    assert (report.exit_code, report.count("present"), report.stale) == (0, 4, ())
    assert losses(expected, out) == NOTHING_LOST
    assert all(one.outcome == "present" for one in report.slices)
    assert infer(study, out, ZERO_FILL).count("present") == 4


def test_only_damaged_lines_are_lost(study, out, monkeypatch):
    """One flipped bit is one slice."""
    path = out / ".kspacesr-rt" / "journal.jsonl"
    content = bytearray(path.read_bytes())
    content[content.index(b'"record"') + 30] ^= 1
    path.write_bytes(content)
    computed = []
    real = fault_cases_backend(monkeypatch, computed)
    assert infer(study, out, ZERO_FILL).count("present") == 4
    assert sum(computed) == 1
    assert real is not None


def fault_cases_backend(monkeypatch, computed):
    """Count, slice by slice, what the backend computes."""
    from kspacesr_rt.pipeline import backend_pool

    real = backend_pool.open_backend

    def open_counting(*arguments):
        backend = real(*arguments)
        run = backend.run
        backend.run = lambda batch: computed.append(len(batch)) or run(batch)
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", open_counting)
    return real


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_fifo(path):
    path.unlink()
    os.mkfifo(path)


def as_link(path):
    elsewhere = path.parents[1 + path.parent.name.startswith(".")] / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("harm", [as_folder, as_fifo, as_link])
@pytest.mark.parametrize(
    "name", [".kspacesr-rt/journal.jsonl", ".kspacesr-rt/lock", "manifest.json", "report.json"]
)
def test_something_else_in_the_place_of_a_file_is_named(study, expected, out, name, harm):
    """No FIFO is waited for, and the message says what to remove: then the run is completed."""
    path = out / name
    harm(path)
    with pytest.raises(OutputError) as caught:
        infer(study, out, ZERO_FILL)
    assert caught.value.exit_code == 7
    assert "remove" in caught.value.hint
    assert path.name in str(caught.value)
    path.rmdir() if stat.S_ISDIR(path.lstat().st_mode) else path.unlink()
    if name == "manifest.json":  # how the outputs were made is not known then
        shutil.rmtree(out)
    assert infer(study, out, ZERO_FILL).exit_code == 0
    assert losses(expected, out) == NOTHING_LOST


def test_a_journal_that_cannot_be_read_is_named(study, out, monkeypatch):
    """A disk with a bad block, or another user's file."""
    real = journal_entries.places_of_lines

    def broken(file):
        yield from list(real(file))[:1]
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("kspacesr_rt.pipeline.output_folder.places_of_lines", broken)
    with pytest.raises(
        OutputError, match=r"journal\.jsonl .*cannot be read: Input/output"
    ) as caught:
        infer(study, out, ZERO_FILL)
    assert "remove it" in caught.value.hint


MANIFESTS = {
    "empty": b"",
    "NULs": bytes(300),
    "cut": b'{"schema": 2, "parameters": {"mod',
    "a list": b"[]",
    "a number": b"7",
    "nested": b"[" * 100_000,
    "no parameters": b'{"schema": 2, "parameters": 7, "run_salt": "a", "version": "1"}',
    "no salt": b'{"schema": 2, "parameters": {}, "run_salt": [], "version": "1"}',
    "no version": b'{"schema": 2, "parameters": {}, "run_salt": "a", "version": {}}',
    "true": b'{"schema": true, "parameters": {}, "run_salt": "a", "version": "1"}',
    "huge": b'{"schema": %s, "parameters": {}, "run_salt": "a", "version": "1"}' % (b"9" * 4000),
    "too huge": b'{"schema": %s, "parameters": {}, "run_salt": "a", "version": "1"}'
    % (b"9" * 9000),
    "UTF-16": '{"schema": 2}'.encode("utf-16"),
    "not UTF-8": b'{"schema": "\xff"}',
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_damaged_manifest_says_what_to_remove(study, out, content):
    """Without it nobody can say whether the outputs may be mixed with those of this run."""
    (out / "manifest.json").write_bytes(content)
    with pytest.raises(OutputError, match="manifest") as caught:
        infer(study, out, ZERO_FILL)
    assert "remove manifest.json and all outputs there" in caught.value.hint
    assert len(str(caught.value)) < 200


def test_what_a_manifest_says_is_shown_on_one_line(study, out):
    """Anything may have written it: no screenful, and no escape for a terminal."""
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["parameters"]["model"] = "\x1b[2J" + "x" * 10_000
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match="model") as caught:
        infer(study, out, ZERO_FILL)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


# Outputs -----------------------------------------------------------------------------------------


def flip(path, place=-300):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("no_journal", [False, True])
def test_a_flipped_bit_is_found_if_it_is_asked_for(study, expected, out, no_journal):
    """Same name, same size, same header: only reading tells."""
    harmed = min(out.glob("*/*.dcm"))
    flip(harmed)
    if no_journal:
        (out / ".kspacesr-rt" / "journal.jsonl").unlink()
    assert infer(study, out, ZERO_FILL).count("present") == 4
    assert losses(expected, out) == {"lost": 0, "changed": 1, "added": 0}
    if no_journal:
        (out / ".kspacesr-rt" / "journal.jsonl").unlink()
    report = infer(study, out, VERIFY)
    assert losses(expected, out) == NOTHING_LOST
    if not no_journal:
        assert [one.output for one in report.slices if MADE_AGAIN in one.warnings] == [
            str(harmed.relative_to(out))
        ]
        assert (report.count("present"), report.count("written")) == (3, 1)
    assert infer(study, out, VERIFY).count("present") == 4


def test_a_flipped_bit_of_a_multi_frame_output_is_found(tmp_path):
    """As of slices."""
    from fault_cases import enhanced_cases

    source = tmp_path / "in" / "a.dcm"
    enhanced_cases.save(enhanced_cases.build(enhanced_cases.sample_frames(2)), source)
    infer(source.parent, tmp_path / "out", ZERO_FILL)
    expected = contents(tmp_path / "out")
    flip(next((tmp_path / "out").glob("*/*.dcm")))
    report = infer(source.parent, tmp_path / "out", VERIFY)
    assert [one.warnings[-1] for one in report.slices] == [MADE_AGAIN]
    assert contents(tmp_path / "out") == expected


# Report, and folders that cannot be written ------------------------------------------------------


def command(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, ["infer", *map(str, arguments), "--backend", "zero-fill"])


@pytest.mark.parametrize(
    "place", ["a file/report.json", "{long}.json", "/proc/report.json", "fifo"]
)
def test_a_report_that_cannot_be_written_is_told_before_the_work(study, tmp_path, place):
    """Not after an archive was computed."""
    (tmp_path / "a file").write_text("not a folder")
    os.mkfifo(tmp_path / "fifo")
    if place.startswith("/proc") and not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc")
    report = tmp_path / place.format(long="x" * 250)
    result = command(study, tmp_path / "out", "--report", report)
    assert result.exit_code == 7, result.output
    assert "report" in result.output
    assert not (tmp_path / "out").exists()


def test_a_report_may_stand_in_the_output_folder_under_another_name(study, tmp_path):
    """The same command again is not refused because of its own report."""
    report = tmp_path / "out" / "told.json"
    for _ in range(2):
        result = command(study, tmp_path / "out", "--report", report)
        assert result.exit_code == 0, result.output
    assert json.loads(report.read_text())["present"] == 4
    assert command(study, tmp_path / "out").exit_code == 7  # now it is somebody's file


def test_an_output_folder_that_cannot_be_written_has_its_own_hint(study, tmp_path, monkeypatch):
    """To choose a folder outside the input would be beside the point."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="may not be written") as caught:
        infer(study, tmp_path / "out", ZERO_FILL)
    assert "permissions" in caught.value.hint
    monkeypatch.undo()
    real = os.open

    def read_only(path, flags, *more, **others):
        if str(path).endswith("lock"):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OutputError, match="Read-only file system") as caught:
        infer(study, tmp_path / "out", ZERO_FILL)
    assert "permissions" in caught.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        *({"source": 5}, {"told": 5}, {"output": None}, {"output": "a\0b"}, {"n_frames": "x"}),
        *({"flagged_frames": one} for one in ({"clipped": "3"}, {"clipped": [1]}, "1", None)),
        *({"matrix": [[1], [2]]}, {"matrix": [1, 2, 3]}, {"matrix": "ab"}, None),
    ],
)
def test_a_journals_line_of_other_kinds_is_none(changed, tmp_path):
    """Its checksum says that it is what was written, not that it is what is written today."""
    record = {"file": "f", "outcome": "written", "output": "o", "n_frames": None}
    record["matrix"] = [48, 40]
    entry = {"source": "1.2", "bytes": 1, "output_sha256": "", "told": "ab", "record": record}
    entry |= dataclasses.asdict(journal_entries.FileState(size=1, mtime_ns=1, ctime_ns=1, inode=1))
    assert journal_entries.JournalEntry.of_entry(entry).source == "1.2"
    if changed is None:
        text = b"[1}"
        assert journal_entries.valid_entry(b'[1,"crc":%d}' % zlib.crc32(text)) is None
        return
    for name, value in changed.items():
        (entry if name in entry else record)[name] = value
    with pytest.raises(TypeError):
        journal_entries.JournalEntry.of_entry(entry)


def test_a_snapshot_made_of_hard_links_stays_as_it_was(study, out, tmp_path):
    """As `cp -al` and `rsync --link-dest` make them: the next run notes what it does in its own."""
    assert infer(study, out, ZERO_FILL).exit_code == 0
    snapshot = tmp_path / "snapshot"
    shutil.copytree(out, snapshot, copy_function=os.link)
    before = {path: path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    next(path for path in sorted(out.rglob("*.dcm"))).unlink()
    report = infer(study, out, ZERO_FILL)
    assert (report.exit_code, report.count("written")) == (0, 1)
    assert before == {path: path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
