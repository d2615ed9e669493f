"""Dimensions of an Enhanced MR file that private elements order: kept, or dropped and told."""

import enhanced_cases as cases
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from kspacesr_rt.dicom import EnhancedWriter, FrameReader, derive_enhanced, examine_file, to_stored
from kspacesr_rt.dicom.enhanced.dimensions import DANGLING
from kspacesr_rt.kspace.resampling import zero_fill

CREATOR = "Philips MR Imaging DD 001"
GROUP, LABEL = 0x2005100F, 0x20051029


def item(**attributes):
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def labelled(*, group="private", without=(), shared=False):
    """Return four frames whose first dimension is a private control or label."""
    ds = cases.build(cases.sample_frames(4, step=16))
    pointer = {"private": GROUP, "public": 0x00189251, "none": None}[group]
    private = item(DimensionIndexPointer=LABEL, DimensionIndexPrivateCreator=CREATOR)
    if pointer is not None:
        private.FunctionalGroupPointer = pointer
    if group == "private":
        private.FunctionalGroupPrivateCreator = CREATOR
    in_stack = item(DimensionIndexPointer=0x00209057, FunctionalGroupPointer=0x00209111)
    ds.DimensionIndexSequence = Sequence([private, in_stack])
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].DimensionIndexValues = [1 + number % 2, 1 + number // 2]
        if number in without:
            continue
        put(frame, group, "LABEL" if number % 2 else "CONTROL")
        frame.private_block(0x2005, CREATOR, create=True).add_new(0x30, "LO", "not asked for")
    if shared:
        put(ds.SharedFunctionalGroupsSequence[0], group, "LABEL")
    return ds


def put(frame, group, value):
    inner = Dataset() if group != "none" else frame
    inner.private_block(0x2005, CREATOR, create=True).add_new(0x29, "CS", value)
    inner.private_block(0x2005, CREATOR).add_new(0x2A, "CS", "OTHER")
    if group == "private":
        frame.private_block(0x2005, CREATOR, create=True).add_new(0x0F, "SQ", Sequence([inner]))
    elif group == "public":
        frame.add_new(0x00189251, "SQ", Sequence([inner]))


@pytest.fixture
def derived(tmp_path, run):
    """Return what saves a data set, derives the file and reads it back, with the warnings."""

    def derive_saved(ds, syntax=ExplicitVRLittleEndian, **changed):
        ds.file_meta.TransferSyntaxUID = syntax
        path = cases.save(ds, tmp_path / "in" / "file.dcm")
        source, derivation = examine_file(path), run(**changed)
        reader = FrameReader(source)
        header = derive_enhanced(reader.take_header(), derivation)
        with EnhancedWriter(tmp_path / "out", header, derivation) as writer:
            for number, frame in enumerate(reader, start=1):
                writer.write(number, to_stored(zero_fill(frame.values, 2), frame.dataset))
            return dcmread(writer.finish()[0]), source.warnings

    return derive_saved


def private(dataset):
    return [element.tag for element in dataset.iterall() if element.tag.is_private]


def labels(ds, group):
    frames = ds.PerFrameFunctionalGroupsSequence
    tag = {"private": GROUP, "public": 0x00189251}.get(group)
    return [(frame[tag].value[0] if tag else frame)[LABEL].value for frame in frames]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("group", ["private", "public", "none"])
def test_what_a_dimension_names_stays_and_nothing_else_of_its_block(group, syntax, derived):
    """Control and label are told apart by nothing else."""
    ds, warnings = derived(labelled(group=group), syntax)
    assert labels(ds, group) == ["CONTROL", "LABEL"] * 2
    assert len(ds.DimensionIndexSequence) == 2
    creators = 2 if group == "private" else 1
    assert len(private(ds)) == 4 * (creators + (2 if group == "private" else 1))
    assert DANGLING not in warnings


def test_a_shared_element_stays_shared(derived):
    """One value for all frames stands once."""
    source = labelled(without=range(4), shared=True)
    ds, warnings = derived(source)
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert shared[GROUP].value[0][LABEL].value == "LABEL"
    assert len(ds.DimensionIndexSequence) == 2
    assert DANGLING not in warnings


@pytest.mark.parametrize("keep_private", [False, True])
def test_a_dimension_without_its_element_goes_with_its_index_values(keep_private, derived):
    """It pointed at nothing before us; other dimensions keep their values."""
    ds, warnings = derived(labelled(without=[2]), keep_private=keep_private)
    (left,) = ds.DimensionIndexSequence
    assert left.DimensionIndexPointer == 0x00209057
    frames = ds.PerFrameFunctionalGroupsSequence
    assert [f.FrameContentSequence[0].DimensionIndexValues for f in frames] == [1, 1, 2, 2]
    assert DANGLING in warnings


def test_private_blocks_are_kept_whole_on_demand(derived):
    """The dimension's element is there once, among the others."""
    ds, _ = derived(labelled(), keep_private=True)
    assert labels(ds, "private") == ["CONTROL", "LABEL"] * 2
    assert ds.PerFrameFunctionalGroupsSequence[0][0x20051030].value == "not asked for"
