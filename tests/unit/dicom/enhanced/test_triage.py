"""An Enhanced MR file is one source of all its frames, or left out with a word and the frame."""

import enhanced_cases as cases
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from kspacesr_rt.dicom import scan_folder
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceError, SliceFailed, SliceSkipped


@pytest.fixture
def examined(tmp_path):
    """Return what saves a data set and examines the file."""

    def examine_saved(ds, **options):
        path = cases.save(ds, tmp_path / "in" / "file.dcm")
        return examine(read_header(path), path, **options)

    return examine_saved


@pytest.mark.parametrize(
    "shared",
    [(), cases.SHARED, tuple(cases.MACROS)[:1], (*cases.SHARED, "PlaneOrientationSequence")],
)
def test_groups_are_found_wherever_they_stand(examined, shared):
    """Vendors share a group or repeat it; the frames are the same."""
    source = examined(cases.build(cases.sample_frames(3), shared=shared))
    assert (source.n_frames, source.matrix) == (3, (64, 64))
    assert source.sop_instance_uid == cases.INSTANCE


def test_a_file_of_one_frame_is_a_multi_frame_file(examined):
    """Its output has to be Enhanced MR too."""
    assert examined(cases.build(cases.sample_frames(1))).n_frames == 1


def change_frame(number, macro, **attributes):
    def change(ds):
        item = ds.PerFrameFunctionalGroupsSequence[number - 1][macro].value[0]
        for keyword, value in attributes.items():
            if value is None:
                delattr(item, keyword)
            else:
                setattr(item, keyword, value)

    return change


def frame_type(number, *words, **more):
    return change_frame(number, "MRImageFrameTypeSequence", FrameType=list(words), **more)


ORIGINAL = ("ORIGINAL", "PRIMARY")
SKIPPED = {
    "phase": ("phase", frame_type(3, *ORIGINAL, "PHASE_MAP", "NONE")),
    "component": ("phase", frame_type(3, *ORIGINAL, "T1", "NONE", ComplexImageComponent="PHASE")),
    "mixed": ("phase", frame_type(3, *ORIGINAL, "T1", "NONE", ComplexImageComponent="MIXED")),
    "velocity": ("phase", frame_type(3, *ORIGINAL, "VELOCITY", "NONE")),
    "field-map": ("derived-map", frame_type(3, *ORIGINAL, "T1", "FIELD_MAP")),
    "adc": ("derived-map", frame_type(3, "DERIVED", "PRIMARY", "DIFFUSION", "ADC")),
    "quantity": ("derived-map", frame_type(3, "DERIVED", "PRIMARY", "T1", "QUANTITY")),
    "subtraction": ("derived-map", frame_type(3, "DERIVED", "PRIMARY", "ANGIO", "SUBTRACTION")),
    "metabolites": ("derived-map", frame_type(3, "DERIVED", "PRIMARY", "METABOLITE_MAP", "NONE")),
    "projection": (
        "derived-map",
        change_frame(3, "MRImageFrameTypeSequence", VolumeBasedCalculationTechnique="MAX_IP"),
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_one_other_frame_leaves_the_file_out_and_is_named(case, examined):
    """Magnitude and phase in one file come from every multi-echo protocol."""
    reason, change = SKIPPED[case]
    ds = cases.build(cases.sample_frames(4), ComplexImageComponent="MIXED")
    change(ds)
    with pytest.raises(SliceSkipped, match=r"^frame 3: ") as caught:
        examined(ds)
    assert caught.value.reason == reason


@pytest.mark.parametrize("case", [name for name, row in SKIPPED.items() if row[0] == "derived-map"])
def test_maps_are_taken_when_asked_for(case, examined):
    """`--include-derived` means maps in Enhanced files too."""
    ds = cases.build(cases.sample_frames(4))
    SKIPPED[case][1](ds)
    assert examined(ds, include_derived=True).n_frames == 4


def test_mixed_says_nothing_where_every_frame_is_magnitude(examined):
    """The root may say MIXED for whatever reason; the frames decide."""
    assert examined(cases.build(cases.sample_frames(2), ComplexImageComponent="MIXED"))


FAILED = {
    "no spacing": (
        "missing-attribute",
        "frame 2: has no Pixel Spacing",
        change_frame(2, "PixelMeasuresSequence", PixelSpacing=None),
    ),
    "negative spacing": (
        "bad-geometry",
        "frame 2: Pixel Spacing",
        change_frame(2, "PixelMeasuresSequence", PixelSpacing=[-1, 1]),
    ),
    "no position": (
        "missing-attribute",
        "frame 4: has no Image Position",
        change_frame(4, "PlanePositionSequence", ImagePositionPatient=None),
    ),
    "no unit vectors": (
        "bad-geometry",
        "frame 1: Image Orientation",
        change_frame(1, "PlaneOrientationSequence", ImageOrientationPatient=[0.0] * 6),
    ),
    "too few groups": (
        "missing-attribute",
        "has functional groups for 3 of 4 frames",
        lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(),
    ),
    "no groups": (
        "missing-attribute",
        "has no Per-Frame Functional Groups Sequence",
        lambda ds: ds.pop("PerFrameFunctionalGroupsSequence"),
    ),
    "no count": (
        "missing-attribute",
        "has no Number of Frames",
        lambda ds: ds.pop("NumberOfFrames"),
    ),
    "bits": (
        "unsupported-bits",
        "Bits Allocated",
        lambda ds: setattr(ds, "HighBit", 16),
    ),
    "cut": (
        "truncated",
        "less pixel data",
        lambda ds: setattr(ds, "PixelData", ds.PixelData[:-100]),
    ),
}


@pytest.mark.parametrize("case", FAILED)
def test_what_is_missing_fails_with_the_frame(case, examined):
    """Nothing is invented: a frame without a place has no place in the output."""
    reason, message, change = FAILED[case]
    ds = cases.build(cases.sample_frames(4))
    change(ds)
    with pytest.raises(SliceFailed, match=message.replace("(", r"\(")) as caught:
        examined(ds)
    assert caught.value.reason == reason


def test_messages_hold_no_value_of_the_file(examined):
    """Reports get mailed."""
    for _, _, change in FAILED.values():
        ds = cases.build(cases.sample_frames(4))
        change(ds)
        with pytest.raises(SliceError) as caught:
            examined(ds)
        assert "SECRET" not in str(caught.value)


def test_interpolation_is_told_from_the_acquired_steps(examined):
    """Enhanced MR has no Acquisition Matrix; the steps stand in MR FOV/Geometry."""
    ds = cases.build(cases.sample_frames(2))
    (shared,) = ds.SharedFunctionalGroupsSequence
    shared.MRFOVGeometrySequence[0].MRAcquisitionFrequencyEncodingSteps = 32
    shared.MRFOVGeometrySequence[0].MRAcquisitionPhaseEncodingStepsInPlane = 30
    source = examined(ds)
    assert source.warnings == ("interpolated 32->64",)
    assert source.interpolated_from == 32


def test_our_own_output_is_recognised(examined):
    """Upscaling twice makes a 16-fold image out of nothing."""
    item = Dataset()
    item.ManufacturerModelName = "kspacesr-rt"
    ds = cases.build(cases.sample_frames(2), ContributingEquipmentSequence=[item])
    with pytest.raises(SliceSkipped) as caught:
        examined(ds)
    assert caught.value.reason == "already-derived"


def test_repeated_files_are_known_by_their_pixels(tmp_path):
    """An archive holds the same multi-frame object as it came, and compressed."""
    frames = cases.sample_frames(3)
    cases.save(cases.build(frames), tmp_path / "a.dcm")
    cases.save(cases.compress(cases.build(frames), JPEG2000Lossless), tmp_path / "b.dcm")
    scan = scan_folder(tmp_path)
    assert scan.n_slices == 3
    assert [(item.path.name, item.reason) for item in scan.left_out] == [("b.dcm", "duplicate")]
    frames[2].pixels[30, 30] += 1
    cases.save(cases.build(frames), tmp_path / "b.dcm")
    scan = scan_folder(tmp_path)
    assert [item.reason for item in scan.left_out] == ["duplicate-conflict"] * 2
