"""UIDs follow all that an output tells and whose it is, and nothing else."""

import copy
import dataclasses

import enhanced_cases
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from kspacesr_rt.dicom import EnhancedWriter, FrameReader, derive, derive_enhanced, scan_folder
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.kspace.resampling import zero_fill


def uids_of(dataset):
    return str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)


@pytest.fixture
def uids(tmp_path, save, load, run):
    """Return what a slice's output is named: series, and instance."""

    def of(dataset, *, syntax=ExplicitVRLittleEndian, **more):
        decoded = load(save(dataset, syntax=syntax))
        return uids_of(derive(decoded, zero_fill(decoded.values, 2), run(**more)))

    return of


@pytest.fixture
def frame_uids(tmp_path, run):
    """Return what the output of a multi-frame file is named."""

    def of(dataset, **more):
        path = enhanced_cases.save(dataset, tmp_path / "frames.dcm")
        reader = FrameReader(examine(read_header(path), path))
        derivation = run(**more)
        derived = derive_enhanced(reader.take_header(), derivation)
        with EnhancedWriter(tmp_path / "out", derived, derivation) as writer:
            for number in range(1, len(reader) + 1):
                writer.write(number, np.zeros((derived.Rows, derived.Columns), np.uint16))
            path, _ = writer.finish()
        return path.parent.name, path.stem

    return of


CARRIED = {
    "PatientName": "CORRECTED^NAME",
    "PatientID": "OTHER-ID",
    "PatientSex": "M",
    "StudyDescription": "was not there",
    "AccessionNumber": "77",
    "SliceThickness": "5",
    "ImagePositionPatient": [-11.0, -20.0, 30.0],
    "WindowCenter": "40",
    "InstanceNumber": 6,
    "ImageComments": "x" * 400,
    "RequestAttributesSequence": None,
}


@pytest.mark.parametrize("keyword", CARRIED)
def test_whatever_an_output_carries_is_in_its_uid(mr, uids, keyword):
    """An archive that knows the UID would keep the element as it was, and answer Success."""
    changed = mr()
    if keyword == "RequestAttributesSequence":
        item = Dataset()
        item.ScheduledProcedureStepDescription = "head"
        changed.RequestAttributesSequence = Sequence([item])
    else:
        setattr(changed, keyword, CARRIED[keyword])
    assert uids(changed)[1] != uids(mr())[1]


def test_a_deeply_nested_correction_is_in_the_uid_too(mr, uids):
    """References and requests carry names and numbers of their own."""

    def nested(text):
        inner, outer, dataset = Dataset(), Dataset(), mr()
        inner.CodeMeaning = text
        outer.RequestedProcedureCodeSequence = Sequence([inner])
        dataset.RequestAttributesSequence = Sequence([outer])
        return dataset

    assert uids(nested("Kopf"))[1] != uids(nested("Knie"))[1]
    assert uids(nested("Kopf")) == uids(nested("Kopf"))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("RetrieveAETitle", "ARCHIVE2"), ("InstanceCreationTime", "111111"), ("private", b"old")],
)
def test_what_no_output_carries_names_nothing(mr, uids, keyword, value):
    """An archive writes its own title into what it sends again; the image is the same."""
    changed = mr()
    if keyword == "private":
        changed.private_block(0x0029, "VENDOR", create=True).add_new(0x10, "OB", value)
        assert uids(changed, keep_private=True)[1] != uids(mr(), keep_private=True)[1]
    else:
        setattr(changed, keyword, value)
    assert uids(changed) == uids(mr())


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_how_a_file_was_encoded_names_nothing(mr, uids, syntax):
    """Two senders, two transfer syntaxes, one image: archives must not get it twice."""

    def with_sequence(*, undefined):
        item, dataset = Dataset(), mr()
        item.CodeMeaning = "Kopf"
        dataset.ProcedureCodeSequence = Sequence([item])
        dataset["ProcedureCodeSequence"].is_undefined_length = undefined
        item.is_undefined_length_sequence_item = undefined
        return dataset

    expected = uids(with_sequence(undefined=False))
    assert uids(with_sequence(undefined=True)) == expected
    assert uids(with_sequence(undefined=True), syntax=syntax) == expected


def test_when_it_was_made_names_nothing(mr, uids, monkeypatch):
    """The same source gives the same UIDs tomorrow."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    before = uids(mr())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000001")
    assert uids(mr()) == before


@pytest.mark.parametrize(
    "keyword", ["PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"]
)
def test_two_patients_or_studies_never_share_a_series(mr, uids, keyword):
    """Of a series in which some slices were corrected, nothing is mixed; nothing else splits it."""
    value = {"PatientBirthDate": "19800101", "StudyInstanceUID": "1.2.9"}.get(keyword, "OTHER")
    series, _ = uids(mr())
    assert uids(mr(**{keyword: value}))[0] != series
    padded = {"PatientName": "SECRET^PATIENT^^ "}.get(keyword)
    if padded:
        assert uids(mr(PatientName=padded))[0] == series
    assert uids(mr(SliceThickness="9"))[0] == series
    assert uids(mr(np.arange(480, dtype=np.uint16).reshape(20, 24)))[0] == series


def test_another_graph_of_the_same_weights_makes_another_series(mr, uids):
    """One file computes in fp32, another of the same weights in 8 bits."""
    assert uids(mr(), graph_sha256="a" * 64)[0] != uids(mr(), graph_sha256="b" * 64)[0]


@pytest.mark.parametrize(
    "keyword", ["PatientName", "AccessionNumber", "frame", "ContentDate", "pixels"]
)
def test_multi_frame_outputs_are_named_by_all_they_carry(frame_uids, keyword):
    """Functional groups included: a position of one frame, say."""
    frames = enhanced_cases.sample_frames(3)
    before = frame_uids(enhanced_cases.build(frames))
    assert frame_uids(enhanced_cases.build(frames)) == before
    changed = copy.deepcopy(frames)
    dataset = enhanced_cases.build(frames)
    if keyword == "frame":
        changed[1] = dataclasses.replace(changed[1], window=(401.0, 800.0))
        dataset = enhanced_cases.build(changed)
    elif keyword == "pixels":
        changed[1].pixels[3, 3] += 1  # the fixture writes the same result for all
        assert frame_uids(enhanced_cases.build(changed)) == before
        return
    else:
        setattr(dataset, keyword, "20200303" if keyword == "ContentDate" else "OTHER")
    after = frame_uids(dataset)
    assert after[1] != before[1]
    assert (after[0] != before[0]) == (keyword == "PatientName")


def test_how_sequences_of_a_multi_frame_file_were_encoded_names_nothing(frame_uids):
    """Scanners write them with lengths or without, and archives rewrite them."""
    dataset = enhanced_cases.build(enhanced_cases.sample_frames(2))
    before = frame_uids(dataset)
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    assert frame_uids(dataset) == before


def test_two_names_under_one_uid_both_fail(mr, save, tmp_path):
    """The pixels agree, but nobody can tell which patient is right."""
    save(mr(), "a.dcm")
    save(mr(PatientName="OTHER"), "b.dcm")
    save(mr(RetrieveAETitle="ARCHIVE", SOPInstanceUID="1.9"), "c.dcm")
    save(mr(SOPInstanceUID="1.9"), "d.dcm", syntax=ImplicitVRLittleEndian)
    scan = scan_folder(tmp_path / "in")
    told = {one.path.name: (one.outcome, one.reason) for one in scan.left_out}
    assert told == {
        "a.dcm": ("failed", "duplicate-conflict"),
        "b.dcm": ("failed", "duplicate-conflict"),
        "d.dcm": ("skipped", "duplicate"),
    }
    assert "header" in scan.left_out[0].message


def test_private_elements_make_a_conflict_where_they_are_kept(mr, save, tmp_path):
    """And only there."""
    save(mr(), "a.dcm")
    other = mr()
    other.private_block(0x0029, "VENDOR", create=True).add_new(0x10, "OB", b"else")
    save(other, "b.dcm")
    assert [one.reason for one in scan_folder(tmp_path / "in").left_out] == ["duplicate"]
    kept = scan_folder(tmp_path / "in", keep_private=True).left_out
    assert [one.reason for one in kept] == ["duplicate-conflict"] * 2


def test_two_headers_of_a_multi_frame_file_both_fail(tmp_path):
    """As for single slices."""
    frames = enhanced_cases.sample_frames(2)
    enhanced_cases.save(enhanced_cases.build(frames), tmp_path / "a.dcm")
    enhanced_cases.save(enhanced_cases.build(frames, PatientName="OTHER"), tmp_path / "b.dcm")
    reasons = [one.reason for one in scan_folder(tmp_path).left_out]
    assert reasons == ["duplicate-conflict"] * 2


def test_a_value_that_cannot_be_written_fails_the_slice(mr, save, load, run, monkeypatch):
    """The name of an output hangs on it, so it is met there first."""
    from kspacesr_rt.dicom import output_identity
    from kspacesr_rt.errors import SliceFailed

    decoded = load(save(mr()))
    monkeypatch.setattr(output_identity, "write_elements", lambda *_: 1 / 0)
    with pytest.raises(SliceFailed) as caught:
        derive(decoded, zero_fill(decoded.values, 2), run())
    assert caught.value.reason == "unreadable"
