"""Headers that are read by what they repeat say what they say when they are read by themselves."""

from __future__ import annotations

import copy
import hashlib
import random
import threading

import numpy as np
import pytest
from damages import DAMAGES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from repeated_headers import as_plain, as_source, reads_alike

from kspacesr_rt.dicom.pixels import load_slice
from kspacesr_rt.dicom.series_reader import TEMPLATES_MAX, SeriesReader
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.sample import sample_folder


@pytest.fixture(scope="module")
def first():
    """Cut a small slice out of the sample's first, with a sequence and private elements."""
    dataset = dcmread(sorted(sample_folder().glob("*.dcm"))[0])
    pixels = np.ascontiguousarray(dataset.pixel_array[100:116, 100:118])
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    dataset.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "private")
    dataset.ReferencedImageSequence = referenced("1.2")
    dataset.SourceImageSequence = referenced("1.3")
    dataset["SourceImageSequence"].is_undefined_length = True
    return dataset


def referenced(uid):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid
    return Sequence([item])


def another(dataset, number):
    other = copy.deepcopy(dataset)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{10**number}"
    other.InstanceNumber, other.SliceLocation = number, f"{number}.5"
    other.PixelData = np.roll(dataset.pixel_array, number, 0).tobytes()
    return other


def put(path, dataset, syntax=ExplicitVRLittleEndian):
    """Write a data set, which is the caller's own copy, since it is changed for its syntax."""
    if syntax == RLELossless:
        compress(dataset, RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    else:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("syntax", "repeats"),
    [
        (ExplicitVRLittleEndian, True),
        (ImplicitVRLittleEndian, True),
        (RLELossless, True),
        (ExplicitVRBigEndian, False),
        (DeflatedExplicitVRLittleEndian, False),
    ],
)
def test_a_series_is_compared_to_its_first_file(first, tmp_path, syntax, repeats):
    """What is turned round or packed is not compared, and says the same."""
    reader = SeriesReader()
    for number in range(5):
        path = put(tmp_path / f"{number}", another(first, number), syntax)
        assert reads_alike(reader, path) == (repeats and number > 0)
    loaded = reader.load(as_source(path))
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.status.st_size == path.stat().st_size


@pytest.mark.parametrize("alike", [True, False])
def test_a_series_is_compared_to_the_one_before(first, tmp_path, alike):
    """Where that does not fit, to its own first file; what is said of a file is the same."""
    before, after = SeriesReader(), None
    for number in range(2):
        reads_alike(before, put(tmp_path / f"{number}", another(first, number)))
    after = SeriesReader(earlier=before)
    own = another(first, 3)
    own.SeriesInstanceUID = "1.2.3.4"
    if not alike:
        own.SpecificCharacterSet = "ISO_IR 192"
    for number in range(2, 5):
        path = put(tmp_path / f"{number}", another(own, number))
        assert reads_alike(after, path) == (alike or number > 2)
    counts = after._counts.to_dict()
    assert counts.get("read-first", 0) == (not alike)
    assert "read-differing" not in counts
    assert reads_alike(before, put(tmp_path / "9", another(first, 9)))


CHANGES = {
    "absent": (lambda ds: delattr(ds, "SliceLocation"), True),
    "further": (lambda ds: setattr(ds, "ImageComments", "one"), True),
    "empty": (lambda ds: setattr(ds, "ProtocolName", ""), True),
    "private value": (lambda ds: ds[0x0029, 0x1001].__setattr__("value", "other"), True),
    "private creator": (lambda ds: ds[0x0029, 0x0010].__setattr__("value", "OTHER"), False),
    "sequence": (lambda ds: setattr(ds, "ReferencedImageSequence", referenced("1.4")), False),
    "open sequence": (lambda ds: ds["SourceImageSequence"].__setattr__("value", None), False),
    "sign": (lambda ds: setattr(ds, "PixelRepresentation", 1 - ds.PixelRepresentation), False),
    "bits": (lambda ds: (setattr(ds, "BitsStored", 9), setattr(ds, "HighBit", 8)), True),
    "character set": (lambda ds: setattr(ds, "SpecificCharacterSet", "ISO_IR 192"), False),
    "slope": (lambda ds: setattr(ds, "RescaleSlope", "0.25"), True),
    "padding": (lambda ds: setattr(ds, "PixelPaddingValue", 5), True),
    "matrix": (lambda ds: (setattr(ds, "Rows", 9), setattr(ds, "Columns", 32)), True),
    "cut off": (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-8]), True),
    "behind the pixels": (lambda ds: ds.add_new(0xFFFCFFFC, "OB", b"\0\0"), False),
    "no pixels": (lambda ds: delattr(ds, "PixelData"), False),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_whatever_differs_is_read_as_it_is(first, tmp_path, name, syntax):
    """And the next file, which is usual again, is compared once more."""
    change, repeats = CHANGES[name]
    reader = SeriesReader()
    assert not reads_alike(reader, put(tmp_path / "0", another(first, 0), syntax))
    odd = another(first, 1)
    if name == "open sequence":
        odd.SourceImageSequence = referenced("1.5")
        odd["SourceImageSequence"].is_undefined_length = True
    else:
        change(odd)
    assert reads_alike(reader, put(tmp_path / "1", odd, syntax)) == repeats
    reads_alike(reader, put(tmp_path / "2", another(first, 2), syntax))
    assert reads_alike(reader, put(tmp_path / "3", another(first, 3), syntax))


@given(data=st.data())
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_elements_may_differ(first, tmp_path_factory, data):
    """An element of a header takes another one's text, or goes."""
    where, reader = tmp_path_factory.mktemp("any"), SeriesReader()
    tags = [e.tag for e in first if e.VR in ("LO", "SH", "CS", "DS", "IS", "TM", "DA", "US", "UI")]
    for number in range(4):
        dataset = another(first, number)
        for tag in data.draw(st.lists(st.sampled_from(tags), max_size=4, unique=True)):
            if data.draw(st.booleans()):
                del dataset[tag]
            elif dataset[tag].VR != "US":
                with quiet_pydicom():  # not every text is one of every kind
                    dataset[tag].value = data.draw(st.sampled_from(["", "1", "12", "0.5"]))
        reads_alike(reader, put(where / str(number), dataset))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_damaged_files_are_read_alike(first, tmp_path, syntax):
    """Where a byte is wrong, the two ways of reading may not part."""
    rng, path = random.Random(1129), tmp_path / "damaged"
    sound = put(tmp_path / "sound", another(first, 1), syntax).read_bytes()
    usual = put(tmp_path / "0", another(first, 0), syntax)
    n_repeated = 0
    for _ in range(150):
        reader = SeriesReader()
        reader.load(as_source(usual))
        data = bytearray(sound)
        rng.choice(DAMAGES)(rng, data)
        path.write_bytes(data)
        n_repeated += reads_alike(reader, path)
    assert n_repeated > 10


def test_a_series_without_a_common_header_is_not_compared_for_ever(first, tmp_path):
    """Each comparison would be lost time."""
    reader, read = SeriesReader(), []
    for number in range(TEMPLATES_MAX + 4):
        dataset = another(first, number % 9)
        dataset.SpecificCharacterSet = ["ISO_IR 100", "ISO_IR 192"][number % 2]
        read.append(reads_alike(reader, put(tmp_path / str(number), dataset)))
    assert read == [*[False] * TEMPLATES_MAX, *[False, True] * 2]


def test_threads_may_share_a_reader(first, tmp_path):
    """Workers read a series side by side, and what varies is found out by all of them."""
    reader, failures = SeriesReader(), []
    paths = [put(tmp_path / str(n), another(first, n)) for n in range(9)]
    expected = {path: as_plain(load_slice(as_source(path))) for path in paths}

    def load_all(seed):
        for path in random.Random(seed).sample(paths, len(paths)) * 5:
            if as_plain(reader.load(as_source(path)).dataset) != expected[path]:
                failures.append(path)

    threads = [threading.Thread(target=load_all, args=(n,)) for n in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failures
