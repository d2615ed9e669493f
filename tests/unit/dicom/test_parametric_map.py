"""Trust maps' headers: where frames lie, what is carried over, and what is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, ParametricMapStorage

from kspacesr_rt.dicom import provenance
from kspacesr_rt.dicom.enhanced.store import EnhancedWriter
from kspacesr_rt.dicom.output_names import (
    is_free_of_patient_data,
    is_output_folder,
    is_output_name,
    trust_map_files,
    trust_map_folder,
)
from kspacesr_rt.dicom.output_source import source_uid_of
from kspacesr_rt.dicom.parametric_map import (
    Instance,
    MapFrame,
    _places,
    map_series_uid,
    new_trust_map,
)
from kspacesr_rt.dicom.raw_header import raw_header
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.errors import SliceFailed

AXIAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
WINDOW = ("-8888888888888.5", "-7777777777777.5")


def frame(place=0.0, *, orientation=AXIAL, series="1.2.3", **changed):
    normal = np.cross(orientation[:3], orientation[3:])
    fields = {
        "sr": Instance(
            sop_class_uid=MRImageStorage,
            sop_instance_uid=stable_uid("sr", place),
            series_instance_uid=series,
        ),
        "lr": Instance(
            sop_class_uid=MRImageStorage,
            sop_instance_uid=stable_uid("lr", place),
            series_instance_uid="1.2.4",
        ),
        "position_mm": tuple(normal * place),
        "orientation": orientation,
        "spacing_mm": (0.5, 0.25),
        "thickness_mm": 3.0,
    }
    return MapFrame(**(fields | changed))


@pytest.fixture
def like(run):
    """Return the header of a derived slice."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, stable_uid("sr", 0)
    header.SeriesInstanceUID, header.StudyInstanceUID = "1.2.3", "1.2"
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName, header.PatientID = "M\u00fcller^J\u00f6rg", "4711"
    header.PatientIdentityRemoved, header.DeidentificationMethod = "YES", "a method"
    header.SeriesNumber, header.SeriesDescription = 3002, "T2 [SR x2 RESEARCH]"
    header.Manufacturer, header.DeviceSerialNumber = "A scanner", "12345"
    header.WindowCenter, header.EchoTime = 500, 90
    header.FrameOfReferenceUID = "1.2.9"
    header.add_new(0x00111001, "LO", "private")
    earlier = Dataset()
    earlier.Manufacturer = "A de-identifier"
    header.ContributingEquipmentSequence = Sequence(
        [earlier, provenance.equipment_item(run(), provenance.now_for(header))]
    )
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return raw_header(header)


def made(like, run, frames=None, **changed):
    how = {"matrix": (4, 6), "coverage": 0.9, "window": WINDOW} | changed
    return new_trust_map(like, frames or [frame(0), frame(3)], run(), **how)


def test_patient_and_study_are_carried_over_and_nothing_of_the_scanner(like, run):
    found = made(like, run)
    assert str(found.PatientName) == "M\u00fcller^J\u00f6rg"
    assert (found.PatientID, found.StudyInstanceUID) == ("4711", "1.2")
    assert (found.PatientIdentityRemoved, found.DeidentificationMethod) == ("YES", "a method")
    assert found.FrameOfReferenceUID == "1.2.9"
    assert (found.Manufacturer, found.DeviceSerialNumber) == ("kspacesr-rt", "ab" * 6)
    assert "EchoTime" not in found
    assert 0x00111001 not in found
    names = [one.Manufacturer for one in found.ContributingEquipmentSequence]
    assert names == ["A de-identifier", "kspacesr-rt"]


def test_it_is_a_series_of_its_own_beside_the_slices(like, run):
    found = made(like, run)
    assert found.SOPClassUID == ParametricMapStorage
    assert found.SeriesInstanceUID == map_series_uid("1.2.3") != "1.2.3"
    assert (found.SeriesNumber, found.InstanceNumber) == (3102, 1)
    assert found.SeriesDescription == "T2 [SR x2 RESEARCH] [TRUST MAP]"


def test_a_source_without_a_series_number_gives_none(like, run):
    del like.SeriesNumber
    assert made(like, run).SeriesNumber is None


def test_a_share_is_said_as_it_was_calibrated(like, run):
    found = made(like, run, coverage=0.8)
    assert "80%" in found.ContentDescription
    mapping = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert "80%" in mapping.LUTExplanation


def test_what_differs_between_frames_stands_with_each(like, run):
    frames = [frame(0), frame(0, orientation=SAGITTAL, spacing_mm=(0.7, 0.7))]
    found = made(like, run, frames)
    shared = found.SharedFunctionalGroupsSequence[0]
    assert "PixelMeasuresSequence" not in shared
    assert "PlaneOrientationSequence" not in shared
    for one, expected in zip(found.PerFrameFunctionalGroupsSequence, frames, strict=True):
        spacing = one.PixelMeasuresSequence[0].PixelSpacing
        assert tuple(spacing) == expected.spacing_mm
        orientation = one.PlaneOrientationSequence[0].ImageOrientationPatient
        assert tuple(orientation) == expected.orientation


@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.sampled_from([AXIAL, SAGITTAL])), min_size=1, max_size=30
    )
)
def test_no_two_frames_have_the_same_place_in_the_same_stack(slices):
    """In a stack, places are parallel and in the order of space, whatever was repeated."""
    frames = [frame(3.0 * place, orientation=orientation) for place, orientation in slices]
    found = _places(frames)
    assert len(set(found)) == len(found)
    assert {stack for stack, _ in found} == set(range(1, max(found)[0] + 1))
    by_stack = {}
    for (stack, rank), (place, orientation) in zip(found, slices, strict=True):
        by_stack.setdefault(stack, []).append((rank, place, orientation))
    for own in by_stack.values():
        assert len({orientation for _, _, orientation in own}) == 1
        own.sort()
        assert [place for _, place, _ in own] == sorted(place for _, place, _ in own)


def test_the_last_reference_is_to_the_source(like, run, tmp_path):
    """As in other outputs: a run without a journal finds out what a file was made from."""
    with EnhancedWriter(tmp_path, made(like, run), run()) as writer:
        for number in (1, 2):
            writer.write(number, np.full((4, 6), number, "<f4"))
        path, fresh = writer.finish(late=dict(zip(WINDOW, ("1.5", "3"), strict=True)))
    assert fresh
    assert source_uid_of(path) == stable_uid("lr", 0)
    from pydicom import dcmread

    found = dcmread(path)
    window = found.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (1.5, 3)
    np.testing.assert_array_equal(found.pixel_array[1], np.full((4, 6), 2.0))


def test_a_number_that_stands_twice_is_not_replaced(like, run, tmp_path):
    """Somebody's text would be changed with it."""
    like.PatientID = WINDOW[0]
    with EnhancedWriter(tmp_path, made(like, run), run()) as writer:
        for number in (1, 2):
            writer.write(number, np.zeros((4, 6), "<f4"))
        with pytest.raises(SliceFailed, match="stands for another"):
            writer.finish(late=dict(zip(WINDOW, ("1.5", "3"), strict=True)))
    assert list(tmp_path.rglob("*.dcm")) == []


@pytest.mark.parametrize("folder", ["0003_x2_a1b2c3", "a1b2c3", "none_x2_a1b2c3", "T2-x_a1b2c3"])
def test_maps_have_folders_and_files_that_are_known_as_ours(folder):
    uid = stable_uid("a map")
    name = trust_map_folder(folder, uid)
    assert name != folder
    assert is_output_folder(name)
    assert is_free_of_patient_data(name) is not folder.startswith("T2")
    for file in trust_map_files(folder, uid):
        assert is_output_name(file)
        assert is_free_of_patient_data(file)


def test_maps_of_series_that_are_called_by_uid_are_too():
    folder, uid = stable_uid("a series"), stable_uid("a map")
    assert trust_map_folder(folder, uid) == uid
    assert trust_map_files(folder, uid) == (f"{uid}.dcm",)
