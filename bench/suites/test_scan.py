"""A scan of a folder beside a plain loop of pydicom over the same headers, in turns in one run.

What it measures: `scan_folder`, which walks the folder, reads every header, decides what each file
is and sorts the slices into series; and, before each of its rounds, nothing but
``pydicom.dcmread(path, stop_before_pixels=True)`` of every file, the paths known beforehand.
The files are headers of the shipped sample with a few pixels, each with UIDs of its own, in the
shares and folders of `FOLDERS`; the page cache is warm and one process does all. A frame has the
functional groups that scanners write, 1.0 kB of them, and a position of its own.
What it leaves out: pixels, and a cold disk or a file share (where the number of reads decides: one
a usual file here).
What to expect of Enhanced MR: pydicom takes functional groups of a known length as so many bytes,
and looks at none of them, where a scan has to look at every frame: it is faster by several times up
to some tens of frames, and slower from some hundreds on. Where sequences end with delimiters, as
archives write them, pydicom makes objects of every element, and a scan is faster by far.
How to read it: ``plain_over_scan`` in extra_info, the median of the rounds' ratios: above 1, a scan
with all its decisions costs less than bare reading. ``plain_over_scan_cpu`` is the same of
processor time, which
other work on the machine disturbs less.

Run: ``pytest bench/suites/test_scan.py``, or ``kspacesr-rt bench --suite --only scan``;
``KSPACESR_RT_SCAN_FILES=10000`` scans that many files (or eight times as many frames) instead of
2000.
"""

import copy
import os
import random
import shutil
import statistics
import time
from collections import Counter

import pydicom
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedMRImageStorage

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.sample import sample_folder

N_FILES = int(os.environ.get("KSPACESR_RT_SCAN_FILES", "2000"))
ROUNDS = 5
ROOT = "1.2.826.0.1.3680043.8.498.55"
MATRIX = 16
N_SERIES = 40
N_VARIANTS = 8
"""Of Enhanced files, with other positions; UIDs are put in afterwards, as long as these."""
FEW, MANY = 8, 200
"""Frames of a file."""

FOLDERS = {
    "classic": {"short": 1.0},
    "mixed": {
        "short": 0.50,  # 90 elements in 1.8 kB, as the sample has them
        "long": 0.25,  # and 120 private ones, two of them together 90 kB
        "nested": 0.15,  # and 60 private ones and sequences of undefined length
        "other": 0.05,  # text and pictures
        "map": 0.045,  # a derived map
        "enhanced": 0.005,  # few frames
    },
    "enhanced": {"enhanced": 1.0},
    "enhanced, archived": {"archived": 1.0},  # every sequence of undefined length
    "enhanced, large": {"large": 1.0},  # many frames
    "enhanced, large, archived": {"large archived": 1.0},
}
FRAMES = {"enhanced": FEW, "archived": FEW, "large": MANY, "large archived": MANY}


def small():
    """Return a slice of the sample with few pixels."""
    ds = dcmread(min(sample_folder().glob("*.dcm")))
    ds.Rows = ds.Columns = MATRIX
    ds.InstanceNumber = 100_000
    ds.PixelData = bytes(2 * MATRIX * MATRIX)
    return ds


INSTANCE_NUMBER = b"\x20\x00\x13\x00IS\x06\x00"
"""How the element begins whose value each file has its own of."""


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


def item(**attributes):
    """Return a data set."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def groups_of_frame(number, rng):
    """Return the functional groups of a frame, those that all frames share aside."""
    position = [f"{rng.uniform(-150, 150):.12g}" for _ in range(3)]
    groups = item(
        MREchoSequence=[item(EffectiveEchoTime=30.0)],
        MRImageFrameTypeSequence=[
            item(
                FrameType=["ORIGINAL", "PRIMARY", "PROTON_DENSITY", "NONE"],
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent="MAGNITUDE",
                AcquisitionContrast="PROTON_DENSITY",
            )
        ],
        FrameContentSequence=[
            item(
                FrameAcquisitionNumber=1,
                FrameAcquisitionDateTime="20261130101112",
                FrameReferenceDateTime="20261130101112",
                FrameAcquisitionDuration=1000.0 + number,
                StackID="1",
                InStackPositionNumber=number + 1,
                DimensionIndexValues=[1, number + 1],
            )
        ],
        PlanePositionSequence=[item(ImagePositionPatient=position)],
        FrameVOILUTSequence=[item(WindowCenter=f"{number + 400}", WindowWidth="800")],
        PixelValueTransformationSequence=[
            item(RescaleIntercept="0", RescaleSlope="1.5", RescaleType="US")
        ],
    )
    private = groups.private_block(0x2005, "VENDOR MR IMAGING", create=True)
    inner = Dataset()
    with_private(inner, 30)
    private.add_new(0x0F, "SQ", Sequence([inner]))
    return groups


def as_enhanced(ds, n_frames, rng):
    """Return a multi-frame data set of the same slice."""
    shared = Dataset()
    for macro, keyword in (
        ("PixelMeasuresSequence", "PixelSpacing"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ):
        setattr(shared, macro, [item(**{keyword: ds[keyword].value})])
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [groups_of_frame(one, rng) for one in range(n_frames)]
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.NumberOfFrames, ds.PixelData = n_frames, ds.PixelData * n_frames
    return ds


def with_delimiters(ds):
    """Let every sequence and item end with a delimiter."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for one in element.value:
                one.is_undefined_length_sequence_item = True
                with_delimiters(one)
    return ds


def as_map(ds):
    """Return what an ADC map says of itself."""
    ds.ImageType = ["DERIVED", "PRIMARY", "ADC"]
    return ds


MAKERS = {
    "short": lambda rng: small(),
    "long": lambda rng: with_private(small(), 118, 60_000, 30_000),
    "nested": lambda rng: with_sequences(with_private(small(), 60)),
    "map": lambda rng: as_map(small()),
    "enhanced": lambda rng: as_enhanced(small(), FEW, rng),
    "archived": lambda rng: with_delimiters(as_enhanced(small(), FEW, rng)),
    "large": lambda rng: as_enhanced(small(), MANY, rng),
    "large archived": lambda rng: with_delimiters(as_enhanced(small(), MANY, rng)),
}


def uids(series, instance):
    """Return Series and SOP Instance UID, of the same lengths for all files."""
    return f"{ROOT}.2.{series + 100}", f"{ROOT}.1.{instance + 1_000_000}"


def encoded(ds):
    """Return a file, with the UIDs of the first."""
    ds.SeriesInstanceUID, ds.SOPInstanceUID = map(UID, uids(0, 0))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = DicomBytesIO()
    dcmwrite(buffer, ds)
    return buffer.getvalue()


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    """Write the files; return the folder and how many there are of each kind."""
    root, shares = tmp_path_factory.mktemp("scan"), FOLDERS[request.param]
    rng = random.Random(20261123)
    files = {
        kind: [encoded(MAKERS[kind](rng)) for _ in range(N_VARIANTS if kind in FRAMES else 1)]
        for kind in shares
        if kind != "other"
    }
    n_files = max(1, N_FILES * FEW // max(FEW, *(FRAMES.get(kind, 1) for kind in shares), 1))
    kinds = rng.choices(list(shares), weights=list(shares.values()), k=n_files)
    for number, kind in enumerate(kinds):
        path = root / f"{number % N_SERIES:03}" / f"IM{number:06}"
        path.parent.mkdir(exist_ok=True)
        if kind == "other":
            path.write_bytes(rng.choice((b"a text\n" * 300, b"\x89PNG\r\n\x1a\n" + bytes(30_000))))
            continue
        content = rng.choice(files[kind])
        for one, other in zip(uids(0, 0), uids(number % N_SERIES, number), strict=True):
            content = content.replace(one.encode(), other.encode())
        at = content.index(INSTANCE_NUMBER) + len(INSTANCE_NUMBER)
        path.write_bytes(content[:at] + f"{number % 10**6:06}".encode() + content[at + 6 :])
    yield request.param, root, Counter(kinds)
    shutil.rmtree(root)


def test_scan(benchmark, folder):
    """Time a scan; every file must end where its kind belongs."""
    name, root, kinds = folder
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
    expected = Counter({"not-dicom": kinds["other"], "derived-map": kinds["map"]})
    assert Counter(item.reason for item in result.left_out) == +expected
    n_classic = sum(kinds[kind] for kind in ("short", "long", "nested"))
    assert result.n_slices == n_classic + sum(n * kinds[kind] for kind, n in FRAMES.items())
    rounds = list(zip(plain, cpu, strict=True))[-ROUNDS:]
    wall, processor = zip(
        *((one[0] / other[0], one[1] / other[1]) for one, other in rounds), strict=True
    )
    benchmark.extra_info.update(
        folder=name,
        files=len(paths),
        frames=result.n_slices,
        kinds=dict(kinds),
        pydicom=pydicom.__version__,
        plain_seconds=statistics.median(one[0] for one, _ in rounds),
        plain_over_scan=statistics.median(wall),
        plain_over_scan_spread=[min(wall), max(wall)],
        plain_over_scan_cpu=statistics.median(processor),
    )
