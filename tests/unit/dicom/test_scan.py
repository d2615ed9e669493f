"""A folder becomes series in an order that depends on the patient, not on file names."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from kspacesr_rt.dicom import scan, scan_folder
from kspacesr_rt.errors import InputError


def reasons(scan):
    return {item.path.name: (item.outcome, item.reason) for item in scan.left_out}


def test_slices_are_ordered_by_space_then_time(mr, save, tmp_path):
    """File names, instance numbers and the order on disk say nothing about where a slice lies."""
    places = {"c": (5.0, 1, 1), "a": (5.0, 2, 2), "d": (-5.0, 1, 3), "b": (-5.0, 2, 4)}
    for name, (z, temporal, number) in places.items():
        save(
            mr(
                SOPInstanceUID=f"1.2.{number}",
                ImagePositionPatient=[0, 0, z],
                TemporalPositionIdentifier=temporal,
                InstanceNumber=10 - number,
            ),
            name,
        )
    (series,) = scan_folder(tmp_path / "in").series
    assert [item.path.name for item in series.slices] == ["d", "b", "c", "a"]


def test_position_is_measured_along_the_normal(mr, save, tmp_path):
    """Sorting a sagittal stack by z would leave it in any order."""
    for number, x in enumerate([3.0, -1.0, 1.0]):
        save(
            mr(
                SOPInstanceUID=f"1.2.{number}",
                ImagePositionPatient=[x, 0, 0],
                ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ),
            str(number),
        )
    (series,) = scan_folder(tmp_path / "in").series
    positions = [item.order[0] for item in series.slices]
    assert positions == sorted(positions)
    assert sorted(abs(p) for p in positions) == [1.0, 1.0, 3.0]


def test_echo_trigger_and_instance_break_ties(mr, save, tmp_path):
    """Multi-echo and gated slices of one place keep their sequence."""
    rows = {"e": (2, 0.0, 1), "d": (1, 9.0, 1), "c": (1, 5.0, 7), "b": (1, 5.0, 6)}
    for name, (echo, trigger, number) in rows.items():
        save(
            mr(
                SOPInstanceUID=f"1.2.{ord(name)}",
                EchoNumbers=echo,
                TriggerTime=trigger,
                InstanceNumber=number,
            ),
            name,
        )
    (series,) = scan_folder(tmp_path / "in").series
    assert [item.path.name for item in series.slices] == ["b", "c", "d", "e"]


def test_series_do_not_depend_on_names(mr, save, tmp_path):
    """Two runs over copies of a study in other folders must agree."""
    for folder in ("one", "two"):
        names = ["x", "y", "z"] if folder == "one" else ["z", "x", "y"]
        for name, number in zip(names, (1, 2, 3), strict=True):
            ds = mr(SOPInstanceUID=f"1.2.{number}", SeriesInstanceUID=f"1.{4 - number}")
            save(ds, f"{folder}/{name}")
    one, two = (scan_folder(tmp_path / "in" / name).series for name in ("one", "two"))
    assert [item.uid for item in one] == [item.uid for item in two] == ["1.1", "1.2", "1.3"]


def test_content_decides_not_the_name(mr, save, tmp_path):
    """Scanners write .IMA, CDs write IM000001, and a .dcm can be a text."""
    save(mr(SOPInstanceUID="1.2.1"), "deep/er/IM000001")
    save(mr(SOPInstanceUID="1.2.2"), "other/IM000001")
    save(mr(SOPInstanceUID="1.2.3"), "a.txt")
    (tmp_path / "in" / "b.dcm").write_text("hello")
    scan = scan_folder(tmp_path / "in")
    assert scan.n_slices == 3
    assert reasons(scan) == {"b.dcm": ("skipped", "not-dicom")}


@pytest.mark.parametrize(
    ("start", "name"), [(b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "ZIP"), (b"BZh9", "bzip2")]
)
def test_what_is_packed_is_named(start, name, tmp_path):
    """Who keeps DICOM as `.dcm.gz` learns what to do, not that it is none."""
    (tmp_path / "a.dcm.gz").write_bytes(start.ljust(200, b"\1"))
    (left,) = scan_folder(tmp_path).left_out
    assert (left.outcome, left.reason) == ("skipped", "not-dicom")
    assert left.message == f"a {name} file; what is packed in it is not read: unpack it"


def test_one_file_is_a_root_too(mr, save):
    """`kspacesr-rt infer slice.dcm` is the first thing anybody tries."""
    assert scan_folder(save(mr())).n_slices == 1


def test_a_root_that_does_not_exist_is_an_input_error(tmp_path):
    """A typing error must not end as `no MR image found`."""
    with pytest.raises(InputError, match="does not exist") as caught:
        scan_folder(tmp_path / "nowhere")
    assert caught.value.hint == "name a folder of DICOM files"


def test_special_files_are_never_opened(mr, save, tmp_path, monkeypatch):
    """Reading a FIFO waits for ever."""
    folder = save(mr()).parent
    os.mkfifo(folder / "fifo")
    (folder / "dangling").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "circle").symlink_to("circle")
    (folder / "to-fifo").symlink_to("fifo")
    monkeypatch.chdir(folder)  # a socket's path may be 107 bytes long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        opened = []
        original = Path.open
        monkeypatch.setattr(
            Path, "open", lambda self, *a, **k: opened.append(self.name) or original(self, *a, **k)
        )
        scan = scan_folder(folder)
    assert opened == ["slice.dcm"]
    expected = ("skipped", "special-file")
    assert reasons(scan) == dict.fromkeys(
        ["circle", "dangling", "fifo", "loop", "socket", "to-fifo"], expected
    )
    assert scan.n_slices == 1


def test_links_to_files_are_read(mr, save, tmp_path):
    """git-annex, DataLad, Nextflow and Snakemake stage every file of a study as a link."""
    stored = save(mr(), folder=tmp_path / "store")
    staged = tmp_path / "study" / "1.dcm"
    staged.parent.mkdir()
    staged.symlink_to(Path("..") / stored.relative_to(tmp_path))
    scan = scan_folder(staged.parent)
    assert [one.path for series in scan.series for one in series.slices] == [staged]
    (staged.parent / "again.dcm").symlink_to(staged)  # a chain, to the same slice
    assert reasons(scan_folder(staged.parent)) == {"again.dcm": ("skipped", "duplicate")}


def test_links_to_folders_are_named_and_not_followed(mr, save, tmp_path):
    """One could lead back to where it stands; the hint says what to do."""
    folder = save(mr(), folder=tmp_path / "study").parent
    other = save(mr(), folder=tmp_path / "other").parent
    (folder / "more").symlink_to(other)
    (left,) = scan_folder(folder).left_out
    assert (left.path.name, left.reason) == ("more", "special-file")
    assert left.message == "a link to a folder; not followed"
    assert left.hint == "name the folder that it leads to as the input"


def test_folders_may_be_nested_deeper_than_the_stack(mr, save, tmp_path, monkeypatch):
    """A good slice beside them is found, and one at their very end."""
    folder = save(mr(), folder=tmp_path / "study").parent
    monkeypatch.chdir(folder)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    try:
        Path("deep.dcm").symlink_to(folder / "slice.dcm")
        scan = scan_folder(folder)
    finally:  # pytest removes folders with a function that calls itself
        Path("deep.dcm").unlink()
        for _ in range(1100):
            os.chdir("..")
            Path("d").rmdir()
    assert scan.n_slices == 1
    assert [one.reason for one in scan.left_out] == ["duplicate"]


def test_a_fifo_as_root_is_left_out(tmp_path):
    """The rule holds for what the user names, too."""
    os.mkfifo(tmp_path / "fifo")
    assert reasons(scan_folder(tmp_path / "fifo")) == {"fifo": ("skipped", "special-file")}


def test_an_unreadable_file_fails(mr, save, tmp_path, monkeypatch):
    """It may be a slice: leaving it out silently would leave a hole in the stack."""
    folder = save(mr()).parent
    save(mr(SOPInstanceUID="1.2.9"), "locked.dcm")
    original = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "locked.dcm":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    scan = scan_folder(folder)
    assert reasons(scan) == {"locked.dcm": ("failed", "unreadable")}
    assert scan.left_out[0].message == "cannot be read: Permission denied"


def test_an_identical_copy_is_processed_once(mr, save, tmp_path):
    """Archives hold a slice twice, in two transfer syntaxes; the pixels decide."""
    save(mr(), "a.dcm")
    save(mr(), "b.dcm", syntax=ExplicitVRBigEndian)
    save(mr(), "c.dcm", syntax=ImplicitVRLittleEndian)
    scan = scan_folder(tmp_path / "in")
    assert [item.path.name for item in scan.series[0].slices] == ["a.dcm"]
    assert reasons(scan) == dict.fromkeys(["b.dcm", "c.dcm"], ("skipped", "duplicate"))


def test_two_images_under_one_uid_both_fail(mr, save, tmp_path):
    """Nobody can tell which one is right."""
    pixels = np.arange(480, dtype=np.uint16).reshape(20, 24)
    save(mr(pixels), "a.dcm")
    save(mr(pixels + 1), "b.dcm")
    save(mr(pixels, SOPInstanceUID="1.9"), "c.dcm")
    scan = scan_folder(tmp_path / "in")
    assert reasons(scan) == dict.fromkeys(["a.dcm", "b.dcm"], ("failed", "duplicate-conflict"))
    assert scan.n_slices == 1


def test_mixed_matrices_are_told(mr, save, tmp_path):
    """Every slice is processed by itself, but a viewer will not stack them."""
    save(mr(), "a")
    save(mr(np.zeros((8, 8), np.uint16), SOPInstanceUID="1.9"), "b")
    (series,) = scan_folder(tmp_path / "in").series
    assert series.warnings == ("slices differ in matrix",)


def test_scanning_changes_nothing(mr, save, tmp_path):
    """Input folders are archives."""
    path = save(mr())
    before = (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir()))
    scan_folder(path.parent)
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before


def test_progress_is_told(mr, save, tmp_path, monkeypatch):
    """Ten thousand files take seconds: somebody may be watching; files left out count, too."""
    monkeypatch.setattr(scan, "PROGRESS_EVERY", 2)
    for number in range(4):
        save(mr(SOPInstanceUID=f"1.2.{number}"), str(number))
    (tmp_path / "in" / "text").write_text("hello")
    told = []
    assert scan_folder(tmp_path / "in", on_progress=told.append).n_slices == 4
    assert told == [2, 4, 5]


def test_progress_can_end_a_scan(save, mr):
    """Ctrl-C in the callback of a long scan is no file's fault."""

    def interrupt(n_files):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_folder(save(mr()), on_progress=interrupt)


def test_a_file_is_found_without_its_status(mr, save, monkeypatch):
    """A folder listing says what is a file; on a share, every status is a round trip."""
    folder = save(mr()).parent
    asked, listing = [], os.scandir
    monkeypatch.setattr(
        scan.os, "scandir", lambda path: [Entry(entry, asked) for entry in listing(path)]
    )
    assert scan_folder(folder).n_slices == 1
    assert asked == []


class Entry:
    """An entry of a folder that tells when its status is asked for."""

    def __init__(self, entry, asked):
        self.name, self.path, self._entry, self._asked = entry.name, entry.path, entry, asked
        self.is_dir, self.is_file = entry.is_dir, entry.is_file

    def stat(self, **options):
        self._asked.append(self.name)
        return self._entry.stat(**options)
