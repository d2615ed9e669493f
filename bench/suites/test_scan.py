"""A scan of a folder beside a plain loop of pydicom over the same headers, in turns in one run.

What it measures: `scan_folder`, which walks the folder, reads every header, decides what each file
is and sorts the slices into series; and, before each of its rounds, nothing but
``pydicom.dcmread(path, stop_before_pixels=True)`` of every file, the paths known beforehand.
The files are headers of the shipped sample with a few pixels, each with UIDs of its own, in the
shares of `SHARES`; the page cache is warm and one process does all.
What it leaves out: pixels, a cold disk or a file share (where the number of reads decides: one a
usual file here), and a folder that is mostly Enhanced MR: such a file's frames are looked into one
by one, for about half a millisecond each, which pydicom's loop leaves undone.
How to read it: ``plain_over_scan`` in extra_info, the median of the rounds' ratios: above 1, a scan
with all its decisions costs less than bare reading. ``plain_over_scan_cpu`` is the same of
processor time, which
other work on the machine disturbs less.

Run: ``pytest bench/suites/test_scan.py``, or ``kspacesr-rt bench --suite --only scan``;
``KSPACESR_RT_SCAN_FILES=10000`` scans that many files instead of 2000.
"""

import copy
import os
import random
import statistics
import time
from collections import Counter

import pydicom
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedMRImageStorage

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.sample import sample_folder

N_FILES = int(os.environ.get("KSPACESR_RT_SCAN_FILES", "2000"))
ROUNDS = 5
ROOT = "1.2.826.0.1.3680043.8.498.55"
MATRIX = 16
N_FRAMES = 8
N_SERIES = 40

SHARES = {
    "short": 0.50,  # 90 elements in 1.8 kB, as the sample has them
    "long": 0.25,  # and 120 private ones, two of them together 90 kB
    "nested": 0.15,  # and 60 private ones and sequences of undefined length
    "other": 0.05,  # text and pictures
    "map": 0.045,  # a derived map
    "enhanced": 0.005,  # eight frames
}


def small():
    """Return a slice of the sample with few pixels."""
    ds = dcmread(min(sample_folder().glob("*.dcm")))
    ds.Rows = ds.Columns = MATRIX
    ds.PixelData = bytes(2 * MATRIX * MATRIX)
    return ds


def with_private(ds, n_elements, *sizes):
    """Add private elements as a vendor does: many small ones, and some blobs."""
    block = ds.private_block(0x0029, "VENDOR MR HEADER", create=True)
    for number in range(n_elements):
        block.add_new(number, "LO", f"value {number}")
    for number, size in enumerate(sizes, start=n_elements):
        block.add_new(number, "OB", bytes(size))
    return ds


def with_sequences(ds):
    """Add what archives write: referenced images, items and sequences of undefined length."""
    items = [Dataset() for _ in range(5)]
    for number, item in enumerate(items):
        item.ReferencedSOPClassUID = ds.SOPClassUID
        item.ReferencedSOPInstanceUID = f"{ROOT}.9.{number}"
        item.is_undefined_length_sequence_item = True
    for keyword in ("ReferencedImageSequence", "SourceImageSequence"):
        setattr(ds, keyword, Sequence(copy.deepcopy(items)))
        ds[keyword].is_undefined_length = True
    return ds


def as_enhanced(ds):
    """Return a multi-frame data set of the same slice."""
    shared, frames = Dataset(), [Dataset() for _ in range(N_FRAMES)]
    for groups, macro, keyword in (
        (shared, "PixelMeasuresSequence", "PixelSpacing"),
        (shared, "PlaneOrientationSequence", "ImageOrientationPatient"),
        *((groups, "PlanePositionSequence", "ImagePositionPatient") for groups in frames),
    ):
        item = Dataset()
        setattr(item, keyword, ds[keyword].value)
        setattr(groups, macro, [item])
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.NumberOfFrames, ds.PixelData = N_FRAMES, ds.PixelData * N_FRAMES
    return ds


def as_map(ds):
    """Return what an ADC map says of itself."""
    ds.ImageType = ["DERIVED", "PRIMARY", "ADC"]
    return ds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the files; return the folder and how many there are of each kind."""
    root = tmp_path_factory.mktemp("scan")
    headers = {
        "short": small(),
        "long": with_private(small(), 118, 60_000, 30_000),
        "nested": with_sequences(with_private(small(), 60)),
        "map": as_map(small()),
        "enhanced": as_enhanced(small()),
    }
    rng = random.Random(20261123)
    kinds = rng.choices(list(SHARES), weights=list(SHARES.values()), k=N_FILES)
    for number, kind in enumerate(kinds):
        path = root / f"{number % N_SERIES:03}" / f"IM{number:06}"
        path.parent.mkdir(exist_ok=True)
        if kind == "other":
            path.write_bytes(rng.choice((b"a text\n" * 300, b"\x89PNG\r\n\x1a\n" + bytes(30_000))))
            continue
        ds = headers[kind]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{ROOT}.1.{number}")
        ds.SeriesInstanceUID = UID(f"{ROOT}.2.{number % N_SERIES}")
        ds.InstanceNumber = number
        dcmwrite(path, ds)
    return root, Counter(kinds)


def test_scan(benchmark, folder):
    """Time a scan; every file must end where its kind belongs."""
    root, kinds = folder
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    plain, cpu = [], []

    def plain_loop():
        start, start_cpu = time.perf_counter(), time.process_time()
        for path in paths:
            try:
                pydicom.dcmread(path, stop_before_pixels=True)
            except InvalidDicomError:
                continue
        plain.append((time.perf_counter() - start, time.process_time() - start_cpu))

    def scan():
        start, start_cpu = time.perf_counter(), time.process_time()
        found = scan_folder(root)
        cpu.append((time.perf_counter() - start, time.process_time() - start_cpu))
        return found

    result = benchmark.pedantic(scan, setup=plain_loop, rounds=ROUNDS, warmup_rounds=1)
    assert Counter(item.reason for item in result.left_out) == {
        "not-dicom": kinds["other"],
        "derived-map": kinds["map"],
    }
    n_classic = sum(kinds[kind] for kind in ("short", "long", "nested"))
    assert result.n_slices == n_classic + N_FRAMES * kinds["enhanced"]
    rounds = list(zip(plain, cpu, strict=True))[-ROUNDS:]
    wall, processor = zip(
        *((one[0] / other[0], one[1] / other[1]) for one, other in rounds), strict=True
    )
    benchmark.extra_info.update(
        files=len(paths),
        kinds=dict(kinds),
        pydicom=pydicom.__version__,
        plain_seconds=statistics.median(one[0] for one, _ in rounds),
        plain_over_scan=statistics.median(wall),
        plain_over_scan_spread=[min(wall), max(wall)],
        plain_over_scan_cpu=statistics.median(processor),
    )
