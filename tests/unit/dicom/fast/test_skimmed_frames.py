"""Frames that are compared to others before them say what pydicom reads of them."""

import dataclasses
import functools
import io
from pathlib import Path

import enhanced_cases as cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from skim_cases import agrees, pixel_facts

from kspacesr_rt.dicom.enhanced.dimensions import DANGLING
from kspacesr_rt.dicom.fast import frame_layouts, skim
from kspacesr_rt.dicom.fast.repeated_skim import RepeatedSkim
from kspacesr_rt.dicom.fast.skim import SkimmedHeader, skim_content, skim_header
from kspacesr_rt.dicom.file_limits import Limits, limited_to
from kspacesr_rt.dicom.header import parse_header
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceError

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
PATH = Path("file.dcm")
GROUPS = b"\x00\x52\x29\x92"  # Shared Functional Groups Sequence


@functools.cache
def sample():
    return cases.sample_frames(1, step=32)[0]


def frame(number, **changes):
    position = (-10.5, 20.25 + number, -100.125 + 2 * number)
    return dataclasses.replace(sample(), position=position, in_stack=number + 1, **changes)


def with_open_ends(ds, *, depth=0):
    """Let every sequence and item end with a delimiter, as archives write them."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                with_open_ends(item, depth=depth + 1)
    return ds


def with_private(ds):
    """Add to each frame what vendors do: a private sequence, in it another, and a blob."""
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        inner, outer = Dataset(), Dataset()
        inner.ReferencedSOPInstanceUID = f"1.2.{number % 3}"
        outer.ReferencedSeriesSequence = [inner, Dataset()]
        block = item.private_block(0x0021, "VENDOR", create=True)
        block.add_new(0x10, "SQ", Sequence([outer]))
        block.add_new(0x11, "OB", bytes(6))
    return ds


def encoded(ds, syntax=ExplicitVRLittleEndian):
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = DicomBytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def outcome(header):
    """Return what becomes of a file by its header, with or without derived maps."""
    found = []
    for include_derived in (False, True):
        try:
            found.append(examine(header, PATH, include_derived=include_derived))
        except SliceError as exc:
            found.append((type(exc), exc.reason, str(exc), exc.hint))
    return pixel_facts(header), found


def judged(read):
    try:
        with quiet_pydicom():
            header = read()
    except SliceError as exc:
        return None, (type(exc), exc.reason, str(exc), exc.hint)
    return header, outcome(header)


def compared(content, *before):
    """Compare the readers on a file, alone and after others; return whether it was skimmed."""
    _, expected = judged(lambda: parse_header(io.BytesIO(content)))
    header, found = judged(lambda: skim_content((memoryview(content),)))
    assert found == expected
    repeated = RepeatedSkim()
    for other in (*before, content, content):
        header, found = judged(lambda one=other: skim_content((memoryview(one),), repeated.read))
    assert found == expected
    return isinstance(header, SkimmedHeader)


def counting(monkeypatch):
    """Return a list that grows with each frame that is walked through."""
    walked, init = [], frame_layouts._Layouts.__init__

    def counted(self, *args, **options):
        walked.append(args)
        init(self, *args, **options)

    monkeypatch.setattr(frame_layouts._Layouts, "__init__", counted)
    return walked


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("open_ends", [False, True])
@pytest.mark.parametrize("shared", [(), cases.SHARED, tuple(cases.MACROS)])
def test_usual_files_are_skimmed(syntax, open_ends, shared):
    """A fast way that is never taken would pass every other test."""
    ds = with_private(cases.build([frame(number) for number in range(3)], shared=shared))
    assert compared(encoded(with_open_ends(ds) if open_ends else ds, syntax))


@pytest.mark.parametrize("open_ends", [False, True])
def test_frames_alike_are_walked_through_once(monkeypatch, open_ends):
    """Positions are written with one to eleven letters a number; two hundred frames are a run."""
    ds = cases.build([frame(number) for number in range(200)])
    ds.PerFrameFunctionalGroupsSequence[150].PlanePositionSequence[0].ImagePositionPatient[0] = 7
    content = encoded(with_open_ends(ds) if open_ends else ds)
    walked = counting(monkeypatch)
    _, found = judged(lambda: skim_content((memoryview(content),)))
    # Without a length, the window ends within a frame before it is known to be too short.
    assert (found[1][0].n_frames, len(walked)) == (200, 1 + open_ends)
    assert len(content) > skim.WINDOW
    assert compared(content)


def test_a_series_of_files_is_walked_through_once(monkeypatch):
    """Every frame of every file has the layout of the first."""
    files = []
    for number in range(4):
        ds = cases.build([frame(number + one) for one in range(3)], SOPInstanceUID=f"1.2.{number}")
        files.append(encoded(ds))
    expected = [judged(lambda one=one: parse_header(io.BytesIO(one)))[1] for one in files]
    walked, repeated = counting(monkeypatch), RepeatedSkim()
    found = [
        judged(lambda one=one: skim_content((memoryview(one),), repeated.read))[1] for one in files
    ]
    assert (found, len(walked)) == (expected, 1)


@pytest.mark.parametrize("size", [700, 1500, 4000, 9000])
@pytest.mark.parametrize("open_ends", [False, True])
def test_windows_meet_anywhere(monkeypatch, size, open_ends):
    """Functional groups may begin in one window and end in another."""
    ds = with_private(cases.build([frame(number) for number in range(12)]))
    content = encoded(with_open_ends(ds) if open_ends else ds)
    monkeypatch.setattr(skim, "WINDOW", size)
    assert compared(content)


PLACES = {
    "spacing": ("PixelMeasuresSequence", "PixelSpacing", [["1", "1"], ["0", "1"], ["1"], "", None]),
    "position": (
        *("PlanePositionSequence", "ImagePositionPatient"),
        [["1", "2", "3.25"], ["-100.5", "2e1", "3"], ["1", "2"], ["1", "2", "3", "4"], "", None],
    ),
    "plane": (
        *("PlaneOrientationSequence", "ImageOrientationPatient"),
        [list("100010"), list("010001"), list("100100"), ["1"], "", None],
    ),
    "type": (
        *("MRImageFrameTypeSequence", "FrameType"),
        [
            *(["ORIGINAL", "PRIMARY", "T1", "NONE"], ["ORIGINAL", "PRIMARY", "PHASE_MAP", "NONE"]),
            *(["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "ORIGINAL", "", None),
        ],
    ),
    "component": (
        *("MRImageFrameTypeSequence", "ComplexImageComponent"),
        ["MAGNITUDE", "PHASE", "", None],
    ),
    "technique": (
        *("MRImageFrameTypeSequence", "VolumeBasedCalculationTechnique"),
        ["NONE", "MAX_IP", "", None],
    ),
    "steps": (
        *("MRFOVGeometrySequence", "MRAcquisitionFrequencyEncodingSteps"),
        [3, 8, [8, 9], None],
    ),
}


@st.composite
def odd_groups(draw):
    """Return a data set some of whose groups say something else, or are not there, or are two."""
    shared = draw(st.sampled_from([(), cases.SHARED, ("PlanePositionSequence",)]))
    ds = cases.build([frame(number) for number in range(4)], shared=shared)
    everywhere = [*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence]
    for _ in range(draw(st.integers(0, 3))):
        groups = draw(st.sampled_from(everywhere))
        macro, keyword, values = PLACES[draw(st.sampled_from(list(PLACES)))]
        how = draw(st.sampled_from(["value", "value", "value", "two", "none", "gone", "private"]))
        if how == "private":
            groups.private_block(0x0021, "V", create=True).add_new(0x10, "LO", "x" * len(macro))
        elif macro not in groups:
            setattr(groups, macro, [cases.MACROS[macro](frame(7))])
        elif how == "gone":
            delattr(groups, macro)
        elif how == "none":
            groups[macro].value = []
        elif how == "two":
            groups[macro].value = [*groups[macro].value, Dataset()]
        elif groups[macro].value:
            item, value = groups[macro].value[0], draw(st.sampled_from(values))
            item.pop(keyword, None)
            if value is not None:
                setattr(item, keyword, value)
    if draw(st.booleans()):
        with_private(ds)
    if draw(st.booleans()):
        with_open_ends(ds)
    return ds


@settings(max_examples=60, deadline=None)
@given(ds=odd_groups(), syntax=st.sampled_from(SYNTAXES))
def test_odd_groups_are_judged_alike(ds, syntax):
    """Whatever one frame has that others do not, and wherever it stands."""
    with quiet_pydicom():
        compared(encoded(ds, syntax), usual(syntax))


@functools.cache
def usual(syntax, *, open_ends=False):
    ds = with_private(cases.build([frame(number) for number in range(4)]))
    return encoded(with_open_ends(ds) if open_ends else ds, syntax)


@settings(max_examples=150, deadline=None)
@given(
    syntax=st.sampled_from(SYNTAXES),
    open_ends=st.booleans(),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255) | st.sampled_from(GROUPS)),
        max_size=3,
    ),
    moved=st.none() | st.tuples(st.floats(0, 1), st.integers(-12, 12)),
    cut=st.none() | st.floats(0, 1),
)
def test_damaged_groups_are_judged_alike(syntax, open_ends, changes, moved, cut):
    """A byte of a length, a tag or a value is another, some are missing, or the file ends."""
    sound = usual(syntax, open_ends=open_ends)
    start = sound.index(GROUPS)
    groups = bytearray(sound[start:])
    for place, byte in changes:
        groups[int(place * len(groups))] = byte
    if moved is not None:
        at = int(moved[0] * len(groups))
        groups[at : at + max(0, -moved[1])] = bytes(max(0, moved[1]))
    if cut is not None:
        del groups[int(cut * len(groups)) :]
    compared(sound[:start] + bytes(groups), sound)


@settings(max_examples=80, deadline=None)
@given(
    syntax=st.sampled_from(SYNTAXES),
    open_ends=st.booleans(),
    field=st.integers(0, 400),
    length=st.sampled_from([0, 1, 2, 8, 1 << 16, 1 << 24, (1 << 31) - 1, 0xFFFFFFFE, 0xFFFFFFFF]),
)
def test_hostile_lengths_are_judged_alike(syntax, open_ends, field, length):
    """Every four bytes that could be a length claim something else."""
    sound = usual(syntax, open_ends=open_ends)
    at = sound.index(GROUPS) + 2 * field
    compared(sound[:at] + length.to_bytes(4, "little") + sound[at + 4 :], sound)


def test_what_is_left_to_pydicom(tmp_path):
    """Big-endian and deflated files are retired and rare; they are judged, by their whole."""
    frames = [frame(number) for number in range(2)]
    big = cases.save(cases.build(frames, syntax=ExplicitVRBigEndian), tmp_path / "big")
    packed = cases.save(cases.build(frames, syntax=DeflatedExplicitVRLittleEndian), tmp_path / "z")
    assert not agrees(big)
    assert not agrees(packed)
    assert examine(skim_header(packed), packed).n_frames == 2


def test_compressed_frames_are_skimmed():
    """Fragments are counted, whoever read the groups."""
    ds = cases.compress(cases.build([frame(0), frame(1)]), RLELossless)
    assert compared(encoded(ds, RLELossless))


def test_a_private_dimension_is_looked_for():
    """Philips orders arterial spin labelling by one: what it names has to be in every frame."""
    ds = cases.build([frame(0), frame(1)])
    ds.DimensionIndexSequence[0].DimensionIndexPointer = 0x20051429
    content = encoded(ds)
    assert not compared(content)
    header, _ = judged(lambda: skim_content((memoryview(content),)))
    assert DANGLING in examine(header, PATH).warnings


def test_own_groups_and_types_are_not_mixed_up():
    """Files of a folder that differ in their types, or in Image Type alone, in turns."""
    files = []
    for component in ("MAGNITUDE", "PHASE"):
        kinds = [frame(0, component=component), frame(1)]
        files += [encoded(cases.build(kinds)), encoded(cases.build(kinds, ImageType=["DERIVED"]))]
    for content in files:
        assert compared(content, *files, *reversed(files))


def test_limits_hold(tmp_path):
    """What pydicom would make objects of is counted before, and refused alike."""
    path = cases.save(cases.build([frame(number) for number in range(60)]), tmp_path / "file")
    assert isinstance(skim_header(path), SkimmedHeader)
    for limits in (Limits(items=100), Limits(items=3000, elements=400), Limits(extra=4000)):
        with limited_to(limits), pytest.raises(SliceError) as caught:
            skim_header(path)
        assert caught.value.reason == "too-large"
    with limited_to(Limits(items=2000)):
        assert isinstance(skim_header(path), SkimmedHeader)
