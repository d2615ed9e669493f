"""A header that is compared to the one before says what it says by itself."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from skim_cases import files, judged, pixel_facts

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.dicom.fast import repeated_skim
from kspacesr_rt.dicom.fast.repeated_skim import RepeatedSkim
from kspacesr_rt.dicom.fast.skim import Skim, SkimmedHeader, skim_content, skim_header
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceError
from kspacesr_rt.sample import sample_folder

SAMPLE = [path.read_bytes() for path in sorted(sample_folder().glob("*.dcm"))]


def said(header):
    """Return all that a skimmed header holds; where in the file a value stood, nobody asks."""
    dataset = header.dataset
    raw = {tag: element._replace(value_tell=0) for tag, element in dataset._raw.items()}
    return pixel_facts(header), dataset._values, raw, dict(dataset.file_meta), dataset.implicit


def outcome(content, read=None):
    try:
        with quiet_pydicom():
            header = skim_content((memoryview(content),), read)
    except SliceError as exc:
        return exc.reason, str(exc)
    return said(header) if isinstance(header, SkimmedHeader) else pixel_facts(header)


def counting(monkeypatch):
    """Return a list that grows by one with each header that is skimmed from its beginning."""
    whole, read = [], Skim.header
    monkeypatch.setattr(Skim, "header", lambda self: whole.append(self) or read(self))
    return whole


def test_a_series_is_skimmed_once(monkeypatch):
    """The rest of it is compared; a fast way that is never taken would pass every other test."""
    expected = [outcome(content) for content in SAMPLE]
    whole, repeated = counting(monkeypatch), RepeatedSkim()
    assert [outcome(content, repeated.read) for content in SAMPLE] == expected
    assert len(whole) == 1


def long_file(number, *, n_bytes=90_000, syntax=ExplicitVRLittleEndian):
    """Return a slice with two blobs of a vendor before its pixels."""
    with quiet_pydicom():
        ds, written = dcmread(io.BytesIO(SAMPLE[0])), io.BytesIO()
        block = ds.private_block(0x0019, "VENDOR MR HEADER", create=True)
        block.add_new(0x10, "OB", bytes(30_000))
        block.add_new(0x20, "OB", bytes([number]) * (n_bytes - 30_000))
        ds.InstanceNumber, ds.PixelSpacing = number, [0.5 + number, 0.5]
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(written, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return written.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_headers_longer_than_a_read_are_compared_too(monkeypatch, syntax):
    """What stands behind the first 64 KiB is compared as well: the spacing is there."""
    contents = [long_file(number, syntax=syntax) for number in range(1, 5)]
    contents.append(long_file(5, n_bytes=90_500, syntax=syntax))  # within the slack
    expected = [outcome(content) for content in contents]
    whole, repeated = counting(monkeypatch), RepeatedSkim()
    assert [outcome(content, repeated.read) for content in contents] == expected
    assert len({str(one) for one in expected}) == len(contents)
    assert len(whole) == 1


@pytest.mark.parametrize("n_bytes", [64_000, 65_300, 66_000, 95_000, 1 << 20, 3 << 20])
def test_a_header_of_any_length_is_judged_by_itself(n_bytes):
    """Whatever length the one before had; and one that ends early."""
    repeated = RepeatedSkim()
    for content in (
        long_file(1),
        long_file(2, n_bytes=n_bytes),
        SAMPLE[0],
        long_file(3, n_bytes=n_bytes),
        long_file(3, n_bytes=n_bytes)[: n_bytes // 2],
        long_file(4)[:70_000],
        SAMPLE[1],
    ):
        assert outcome(content, repeated.read) == outcome(content)


def test_short_headers_are_read_once(tmp_path, monkeypatch):
    """Long ones in the same folder ask for no second read of them."""
    paths = [tmp_path / f"{number}.dcm" for number in range(6)]
    short = SAMPLE[0] + bytes(len(long_file(1)) - len(SAMPLE[0]))  # as large as the long ones
    for path, content in zip(paths, [long_file(1), short] * 3, strict=True):
        path.write_bytes(content)
    repeated, reads = RepeatedSkim(), []
    read = Skim.beginning_of
    monkeypatch.setattr(
        Skim,
        "beginning_of",
        lambda self, n_bytes: (
            reads.append(max(0, min(n_bytes, self.size) - len(self.beginning)))
            or read(self, n_bytes)
        ),
    )
    for path in paths[:2]:
        skim_header(path, repeated.read)
    reads.clear()
    for path in paths[2:]:
        skim_header(path, repeated.read)
    assert sum(one > 0 for one in reads) == 2  # of the two long ones


def test_files_of_vendors_are_judged_alike(zoo):
    """In the order of a folder, and each again after each other one of its kind."""
    repeated = RepeatedSkim()
    paths = files(zoo)
    for path in [*paths, *reversed(paths)]:
        found = judged(lambda one: skim_header(one, repeated.read), path)
        expected = judged(skim_header, path)
        assert found[1] == expected[1], path
        if isinstance(expected[0], SkimmedHeader):
            assert said(found[0]) == said(expected[0]), path


@settings(max_examples=150)
@given(
    before=st.sampled_from(SAMPLE[:3]),
    after=st.sampled_from(SAMPLE[:3]),
    changes=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=3),
    cut=st.none() | st.integers(0, 9000),
)
def test_a_damaged_file_is_judged_by_itself(before, after, changes, cut):
    """Whatever is known of the one before: bytes that are others, and an end anywhere."""
    damaged = bytearray(after)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    content = bytes(damaged[:cut])
    repeated = RepeatedSkim()
    outcome(before, repeated.read)
    assert outcome(content, repeated.read) == outcome(content)
    assert outcome(before, repeated.read) == outcome(before)


VALUES = {
    "InstanceNumber": st.integers(0, 10**6),
    "ImageComments": st.text("abc ", max_size=9),
    "PixelSpacing": st.lists(st.sampled_from([0.5, 1, 1.25]), min_size=2, max_size=2),
    "EchoNumbers": st.integers(1, 9) | st.none(),
    "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", None]),
    "ImageType": st.sampled_from([["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY", "MPR"]]),
    "SOPClassUID": st.sampled_from(["1.2.840.10008.5.1.4.1.1.4", EnhancedMRImageStorage]),
}


@given(
    files=st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=2, max_size=4),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
def test_elements_may_come_go_and_change(files, syntax):
    """Nothing that one file said is said of the next."""
    repeated = RepeatedSkim()
    for attributes in files:
        with quiet_pydicom():
            ds, written = dcmread(io.BytesIO(SAMPLE[0])), io.BytesIO()
            for keyword, value in attributes.items():
                setattr(ds, keyword, value)
            ds.file_meta.TransferSyntaxUID = syntax
            ds.save_as(written, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        content = written.getvalue()
        assert outcome(content, repeated.read) == outcome(content)


OF_SLICES = {
    "SOPInstanceUID": st.sampled_from(["1.2.3", "1.2.4", "", "JANE"]),
    "ImagePositionPatient": st.sampled_from([[0, 0, 1], [0, 0, 2.5], [0, 0], None]),
    "InstanceNumber": st.integers(0, 9) | st.none(),
    "TriggerTime": st.sampled_from([0.0, 1.5, None]),
    "SeriesInstanceUID": st.sampled_from(["1.5", "1.6"]),
    "Rows": st.sampled_from([64, 65]),
}


def examined(content, read=None):
    try:
        with quiet_pydicom():
            return examine(skim_content((memoryview(content),), read), Path("slice.dcm"))
    except SliceError as exc:
        return exc.reason, str(exc)


@settings(max_examples=60)
@given(
    slices=st.lists(
        st.tuples(st.fixed_dictionaries({}, optional=OF_SLICES), st.sampled_from([None, -1, 3000])),
        min_size=3,
        max_size=8,
    )
)
def test_slices_that_differ_in_their_own_are_judged_as_alone(slices):
    """Whatever was said of the others of their series, and wherever their file ends."""
    repeated = RepeatedSkim()
    for attributes, end in slices:
        ds, written = dcmread(io.BytesIO(SAMPLE[0])), io.BytesIO()
        with quiet_pydicom():
            for keyword, value in attributes.items():
                setattr(ds, keyword, value)
            ds.save_as(written)
        content = written.getvalue()[:end]
        assert examined(content, repeated.read) == examined(content)


def test_files_of_several_kinds_are_compared_each_to_its_own(monkeypatch):
    """As a folder has them in which nothing is sorted."""
    kinds = []
    for number in range(3):
        ds, written = dcmread(io.BytesIO(SAMPLE[0])), io.BytesIO()
        block = ds.private_block(0x0021, "SOMEBODY", create=True)
        for element in range(1 + 20 * number):
            block.add_new(element, "LO", "something")
        ds.save_as(written)
        kinds.append(written.getvalue())
    whole, repeated = counting(monkeypatch), RepeatedSkim()
    for content in kinds * 3:
        outcome(content, repeated.read)
    assert len(whole) == len(kinds)


def test_what_is_different_every_time_is_compared_no_more(monkeypatch):
    """Learning a header costs as much as it saves once; it is tried again later."""
    repeated = RepeatedSkim()
    contents = []
    for number in range(repeated_skim.AGAIN + 1):
        ds, written = dcmread(io.BytesIO(SAMPLE[0])), io.BytesIO()
        ds.private_block(0x0021, "SOMEBODY", create=True).add_new(number, "LO", "x")
        ds.save_as(written)
        contents.append(written.getvalue())
    learned, known = [], repeated_skim._Known
    monkeypatch.setattr(repeated_skim, "_Known", lambda *args: learned.append(0) or known(*args))
    for content in contents:
        assert outcome(content, repeated.read) == outcome(content)
    assert len(learned) == repeated_skim.ATTEMPTS + 1


@pytest.mark.parametrize("include_derived", [False, True])
def test_a_scan_finds_what_files_say_by_themselves(zoo, include_derived):
    """The folder as a whole, and each file alone."""
    scan = scan_folder(zoo, include_derived=include_derived)
    found = {item.path: item for series in scan.series for item in series.slices}
    for path, item in found.items():
        alone = scan_folder(Path(path), include_derived=include_derived)
        assert alone.series[0].slices == (item,)
