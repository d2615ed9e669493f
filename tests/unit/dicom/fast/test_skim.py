"""A skimmed header decides as the whole header does, and costs one read."""

import io
import sys
import tracemalloc
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from skim_cases import agrees, files, judged

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.dicom.fast import skim
from kspacesr_rt.dicom.fast.skim import SkimmedHeader, skim_header
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.sample import sample_folder


def test_the_sample_is_skimmed():
    """A fast way that is never taken would pass every other test."""
    assert all(agrees(path) for path in sample_folder().glob("*.dcm"))


def test_files_of_vendors_are_judged_alike(zoo):
    """Private creators, long headers, nested sequences and codecs as scanners write them."""
    assert sum(agrees(path) for path in files(zoo)) > 45


def nested(depth):
    """Return a sequence of two items, with another in each, undefined and defined by turns."""
    items = []
    for number in (1, 2):
        item = Dataset()
        item.ReferencedSOPInstanceUID = f"1.2.{number}"
        if depth:
            item.ReferencedSeriesSequence = nested(depth - 1)
            item["ReferencedSeriesSequence"].is_undefined_length = depth % 2 == 0
        item.is_undefined_length_sequence_item = number == depth % 2 + 1
        items.append(item)
    return Sequence([*items, Dataset()])


@pytest.mark.matrix(strength=1)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("depth", [0, 1, 4, 11])
def test_sequences_of_undefined_length_are_stepped_over(mr, save, syntax, depth):
    """Archives write most of their sequences so; the longest here is three windows long."""
    ds = mr(ReferencedImageSequence=nested(depth))
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.private_block(0x0021, "SOMEBODY", create=True).add_new(1, "SQ", nested(1))
    ds[0x00211001].is_undefined_length = True
    path = save(ds, syntax=syntax)
    assert depth < 11 or path.stat().st_size > 3 * skim.WINDOW
    assert agrees(path)


def test_a_long_value_is_skipped_and_not_read(mr, save, monkeypatch):
    """Siemens writes 100 kB of protocol; other vendors, megabytes."""
    ds = mr()
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x20, "OB", bytes(5 << 20))
    path = save(ds)
    assert agrees(path)
    reads = counted(monkeypatch)
    assert isinstance(skim_header(path), SkimmedHeader)
    assert sum(reads) <= 2 * skim.WINDOW


def counted(monkeypatch):
    """Return a list that grows by the size of every read."""
    reads = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

        def seek(self, *args):
            reads.append(0)
            return super().seek(*args)

    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: Counting(self))
    return reads


def test_a_usual_file_is_read_once(monkeypatch):
    """On a file share every call is a round trip, and a study has thousands of files."""
    reads = counted(monkeypatch)
    assert isinstance(skim_header(next(sample_folder().glob("*.dcm"))), SkimmedHeader)
    assert reads == [skim.WINDOW]


@pytest.mark.parametrize("size", [140, 200, 300, 1000, 4000])
def test_windows_meet_anywhere(mr, save, monkeypatch, size):
    """An element may begin in one window and end in the next."""
    path = save(mr(ReferencedImageSequence=nested(2), ImageComments="x" * 900))
    monkeypatch.setattr(skim, "WINDOW", size + 400)  # the File Meta Information is in the first
    assert agrees(path)


def test_what_is_left_to_pydicom(mr, save):
    """Big Endian is retired, and a value in an unusual form is nothing to guess at."""
    assert not agrees(save(mr(), "big", syntax=ExplicitVRBigEndian))
    with quiet_pydicom():
        assert not agrees(save(mr(SpecificCharacterSet="KLINGON"), "charset"))
    wrong = mr()
    wrong.add_new("InstanceNumber", "DS", "5")
    assert not agrees(save(wrong, "vr"))


def test_pixel_data_of_an_odd_kind_ends_the_header(mr, save):
    """Pydicom stops there whatever its value representation: what follows must not be read."""
    path = save(mr())
    data = path.read_bytes()
    at = data.index(b"\x28\x00\x02\x00US")  # Samples per Pixel
    path.write_bytes(data[:at] + b"\xe0\x7f\x10\x00CS\x02\x00MR" + data[at:])
    assert not agrees(path)
    assert judged(skim_header, path)[1][0][1:3] == judged(read_header, path)[1][0][1:3]


def test_asking_for_more_is_a_bug():
    """An attribute that triage begins to read must not seem absent from every file."""
    dataset = skim_header(next(sample_folder().glob("*.dcm"))).dataset
    for ask in (lambda: dataset.get("PatientName"), lambda: "PatientName" in dataset):
        with pytest.raises(AssertionError, match="PatientName is not in TRIAGE_KEYWORDS"):
            ask()


def test_a_part_of_another_group_is_no_private_block(mr, save):
    """The private element decides together with its creator."""
    ds = mr()
    ds.private_block(0x0019, "SOMEBODY", create=True).add_new(0x0A, "US", 36)
    path = save(ds)
    assert agrees(path)
    ds = mr()
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)
    path = save(ds, "mosaic")
    assert agrees(path)
    assert judged(skim_header, path)[1][0][1] == "mosaic"


def test_slices_stay_small(mr, save, tmp_path):
    """Ten thousand of them are held from the scan to the end of a run."""
    n_files = 300
    first = save(mr(), "slice-0")
    data = dcmread(first)
    for number in range(1, n_files):
        data.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number + 10**9}"
        data.save_as(first.with_name(f"slice-{number}"))
    scan_folder(first.parent)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        scan = scan_folder(first.parent)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scan.n_slices == n_files
    assert (after - before) / n_files < 1300
    assert peak - after < 1 << 20
    assert sys.intern(str(MRImageStorage)) is scan.series[0].slices[0].sop_class_uid
