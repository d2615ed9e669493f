"""The derived Enhanced MR file: what changes, what stays, and what validators say of it."""

import copy

import enhanced_cases as cases
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from kspacesr_rt.dicom import FrameReader, derive_enhanced
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceFailed


@pytest.fixture
def derived(tmp_path, run):
    """Return what saves a data set, derives the file and reads it back."""

    def derive_saved(ds, **changed):
        path = cases.save(ds, tmp_path / "in" / "file.dcm")
        source = examine(read_header(path), path, include_derived=True)
        return dcmread(cases.written(source, tmp_path / "out", run(**changed)))

    return derive_saved


def macro(ds, number, name):
    return cases.frame_groups(ds, number)[name]


def test_it_is_enhanced_mr_again_and_says_that_it_is_derived(derived):
    """Value 2 of these classes enumerates PRIMARY only; value 4 has a term for us."""
    ds = derived(cases.build(cases.sample_frames(3)))
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == cases.EnhancedMRImageStorage
    assert ds.ImageType == ["DERIVED", "PRIMARY", "PROTON_DENSITY", "RESAMPLED"]
    for number in (1, 2, 3):
        kind = macro(ds, number, "MRImageFrameTypeSequence")
        assert kind.FrameType == ["DERIVED", "PRIMARY", "PROTON_DENSITY", "RESAMPLED"]
        assert (kind.VolumeBasedCalculationTechnique, kind.VolumetricProperties) == (
            "NONE",
            "VOLUME",
        )
    assert (ds.ContentQualification, ds.VolumeBasedCalculationTechnique) == ("RESEARCH", "NONE")
    assert "SyntheticData" not in ds
    assert int(ds.NumberOfFrames) == 3
    assert (ds.Rows, ds.Columns) == (128, 128)


def test_each_frame_keeps_its_own_kind(derived):
    """A file of several contrasts is MIXED as a whole and something for each frame."""
    frames = cases.sample_frames(3)
    for frame, flavour in zip(frames, ("T1", "T2", "DIXON"), strict=True):
        frame.frame_type = ("ORIGINAL", "PRIMARY", flavour, "NONE")
    ds = derived(cases.build(frames, ImageType=["ORIGINAL", "PRIMARY", "MIXED", "NONE"]))
    kinds = [macro(ds, n, "MRImageFrameTypeSequence").FrameType[2] for n in (1, 2, 3)]
    assert kinds == ["T1", "T2", "DIXON"]
    assert ds.ImageType[2] == "MIXED"


@pytest.mark.parametrize("contrast", ["TRACEW", "MEAN", "ADDITION"])
def test_what_the_pixels_mean_is_kept(contrast, derived):
    """Readers name a diffusion trace by value 4; RESAMPLED would take its name away."""
    frames = cases.sample_frames(2)
    frames[1].frame_type = ("DERIVED", "PRIMARY", "DIFFUSION", contrast)
    ds = derived(cases.build(frames, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "MIXED"]))
    kinds = [macro(ds, n, "MRImageFrameTypeSequence").FrameType[3] for n in (1, 2)]
    assert kinds == ["RESAMPLED", contrast]
    assert ds.ImageType == ["DERIVED", "PRIMARY", "DIFFUSION", "MIXED"]


@pytest.mark.parametrize("shared", [(), ("PixelMeasuresSequence",), tuple(cases.MACROS)])
@pytest.mark.parametrize("upscale", [2, 4])
def test_spacing_is_divided_once_wherever_it_stands(derived, shared, upscale):
    """Dividing a shared spacing once a frame would shrink the patient."""
    source = cases.build([cases.sample_frames(1)[0]] * 3, shared=shared)
    before = macro(source, 1, "PixelMeasuresSequence")
    ds = derived(source, upscale=upscale)
    for number in (1, 2, 3):
        after = macro(ds, number, "PixelMeasuresSequence")
        assert [float(v) for v in after.PixelSpacing] == pytest.approx(
            [float(v) / upscale for v in before.PixelSpacing], rel=1e-9
        )
        assert (after.SliceThickness, after.SpacingBetweenSlices) == (2, 2)
    in_shared = "PixelMeasuresSequence" in ds.SharedFunctionalGroupsSequence[0]
    assert in_shared == ("PixelMeasuresSequence" in shared)


def test_positions_stay_for_even_matrices_to_the_last_digit(derived):
    """What does not move is not rewritten."""
    source = cases.build(cases.sample_frames(3))
    before = [macro(source, n, "PlanePositionSequence").ImagePositionPatient for n in (1, 2, 3)]
    ds = derived(source)
    after = [macro(ds, n, "PlanePositionSequence").ImagePositionPatient for n in (1, 2, 3)]
    assert [[v.original_string for v in one] for one in before] == [
        [v.original_string for v in one] for one in after
    ]


@pytest.mark.parametrize(
    "shared",
    [
        (),
        ("PlanePositionSequence",),
        ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    ],
)
def test_positions_move_with_each_frames_own_plane(derived, shared):
    """Odd axes move by half a source pixel along the frame's own cosines and spacing."""
    frames = []
    for number in range(2):
        y = np.zeros((15, 16), np.uint16)
        frame = cases.Frame(pixels=y, orientation=cases.OBLIQUE, spacing=(1.5, 0.5))
        if "PlaneOrientationSequence" not in shared:
            frame.spacing = (1.5 + number, 0.5)
        frames.append(frame)
    ds = derived(cases.build(frames, shared=shared))
    for number, frame in enumerate(frames, start=1):
        down = np.array(cases.OBLIQUE[3:])
        expected = np.array(frame.position) - 0.5 * frame.spacing[0] * down
        found = macro(ds, number, "PlanePositionSequence").ImagePositionPatient
        assert [float(v) for v in found] == pytest.approx(expected, abs=1e-6)
    everything_shared = len(shared) == 3
    in_shared = "PlanePositionSequence" in ds.SharedFunctionalGroupsSequence[0]
    assert in_shared == everything_shared
    assert all(
        ("PlanePositionSequence" in item) != everything_shared
        for item in ds.PerFrameFunctionalGroupsSequence
    )


def test_a_model_on_pixel_centres_moves_every_frame(derived):
    """Its samples lie between the source's along both axes, whatever their parity."""
    frames = [cases.Frame(pixels=np.zeros((16, 16), np.uint16), spacing=(1.5, 0.5))]
    source = cases.build(frames)
    ds = derived(source, upscale=4, sample_grid="pixel-centre")
    cosines = np.array(macro(source, 1, "PlaneOrientationSequence").ImageOrientationPatient)
    across, down = cosines.astype(float).reshape(2, 3)
    expected = np.array(frames[0].position) - 0.375 * (0.5 * across + 1.5 * down)
    found = macro(ds, 1, "PlanePositionSequence").ImagePositionPatient
    assert [float(v) for v in found] == pytest.approx(expected, abs=1e-6)


def test_a_plane_in_the_root_stays_true(derived):
    """It has no place there, yet some vendors write it and some readers believe it."""
    frames = [cases.Frame(pixels=np.zeros((15, 16), np.uint16))]
    ds = derived(
        cases.build(
            frames,
            PixelSpacing=[0.9, 0.8],
            ImagePositionPatient=[-10, -20, 30],
            ImageOrientationPatient=list(cases.AXIAL),
        )
    )
    assert [float(v) for v in ds.PixelSpacing] == [0.45, 0.4]
    assert [float(v) for v in ds.ImagePositionPatient] == pytest.approx([-10, -20.45, 30])


KEPT_MACROS = (
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "FrameContentSequence",
    "PlaneOrientationSequence",
    "FrameAnatomySequence",
    "MRFOVGeometrySequence",
    "MREchoSequence",
)


def test_what_is_not_ours_to_change_is_kept_per_frame(derived):
    """Rescales, windows, stacks, times, acquisition: frame by frame, in the frames' order."""
    frames = cases.sample_frames(4)
    for number, frame in enumerate(frames):
        frame.slope, frame.intercept = 0.5 + number, 3.0 * number
        frame.window = (300.0 + number, 600.0)
        frame.stack, frame.temporal = str(1 + number // 2), 1 + number % 2
    frames = [frames[n] for n in (2, 0, 3, 1)]
    source = cases.build(frames)
    kept = [{name: macro(source, n, name) for name in KEPT_MACROS} for n in (1, 2, 3, 4)]
    ds = derived(copy.deepcopy(source))
    assert [{name: macro(ds, n, name) for name in KEPT_MACROS} for n in (1, 2, 3, 4)] == kept
    for keyword in (
        "DimensionOrganizationSequence",
        "DimensionIndexSequence",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "SynchronizationFrameOfReferenceUID",
        "PatientName",
        "PatientID",
        "Manufacturer",
        "SoftwareVersions",
        "AcquisitionDateTime",
        "ContentDate",
        "InstanceNumber",
        "VolumetricProperties",
        "ComplexImageComponent",
    ):
        assert ds[keyword] == source[keyword], keyword


def test_pixels_are_stored_in_each_frames_own_units(derived):
    """`out[::2, ::2] == in`: a zero-fill of an even matrix keeps every stored value."""
    frames = cases.sample_frames(3)
    for number, frame in enumerate(frames):
        frame.slope, frame.intercept = 0.25 + number, -7.0 * number
    ds = derived(cases.build(frames))
    kept = ds.pixel_array[:, ::2, ::2].astype(int)
    assert np.abs(kept - np.stack([frame.pixels for frame in frames])).max() <= 1


def test_each_frame_names_the_frame_that_it_was_made_from(derived):
    """A reader that jumps from a result to its source must land on the right frame."""
    ds = derived(cases.build(cases.sample_frames(3)))
    for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
        (step,) = groups.DerivationImageSequence
        assert "x2" in step.DerivationDescription
        assert [item.CodeValue for item in step.DerivationCodeSequence] == ["113085"]
        (image,) = step.SourceImageSequence
        assert image.ReferencedSOPClassUID == cases.EnhancedMRImageStorage
        assert image.ReferencedSOPInstanceUID == cases.INSTANCE
        assert image.ReferencedFrameNumber == number
        assert image.SpatialLocationsPreserved == "NO"
        assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    (study,) = ds.SourceImageEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.826.1.3", cases.SERIES)
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == cases.INSTANCE
    assert not {"SourceImageSequence", "DerivationCodeSequence", "DerivationDescription"} & {
        element.keyword for element in ds
    }
    assert ds.ContributingEquipmentSequence[-1].ManufacturerModelName == "kspacesr-rt"


@pytest.mark.parametrize("where", ["shared", "per frame"])
def test_earlier_derivations_come_first(derived, where):
    """Steps add up; a shared one belongs to each frame once the frames differ."""
    step = Dataset()
    step.DerivationDescription = "filtered"
    source = cases.build(cases.sample_frames(2))
    groups = [source.SharedFunctionalGroupsSequence[0], *source.PerFrameFunctionalGroupsSequence]
    for item in groups[:1] if where == "shared" else groups[1:]:
        item.DerivationImageSequence = [copy.deepcopy(step)]
    ds = derived(source)
    assert "DerivationImageSequence" not in ds.SharedFunctionalGroupsSequence[0]
    for item in ds.PerFrameFunctionalGroupsSequence:
        first, second = item.DerivationImageSequence
        assert first.DerivationDescription == "filtered"
        assert second.DerivationCodeSequence[0].CodeValue == "113085"


def test_evidence_of_the_same_study_is_extended(derived):
    """One item a study (PS3.3 10.3)."""
    ds = derived(cases.build(cases.sample_frames(1)))
    again = cases.build(cases.sample_frames(1), SOPInstanceUID="1.2.8")
    again.SourceImageEvidenceSequence = copy.deepcopy(ds.SourceImageEvidenceSequence)
    again.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.7"
    (study,) = derived(again).SourceImageEvidenceSequence
    assert [one.SeriesInstanceUID for one in study.ReferencedSeriesSequence] == [
        "1.2.7",
        cases.SERIES,
    ]


def test_stale_and_private_content_goes_from_every_frame(derived):
    """Private groups of a frame repeat sizes and positions; ranges speak of the old pixels."""
    source = cases.build(cases.sample_frames(2), PixelPaddingValue=0)
    source.SmallestImagePixelValue, source.LargestImagePixelValue = 0, 960
    for item in source.PerFrameFunctionalGroupsSequence:
        item.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(
            0x0E, "FL", 0.5
        )
    ds = derived(copy.deepcopy(source))
    tags = {element.tag for element in ds.iterall()}
    assert not any(tag.is_private for tag in tags)
    assert not {"SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue"} & {
        element.keyword for element in ds
    }
    kept = derived(source, keep_private=True)
    assert (0x2005, 0x100E) in kept.PerFrameFunctionalGroupsSequence[1]


def test_what_follows_the_pixels_is_not_carried_over(derived, tmp_path, run):
    """Siemens writes raw data in group 7FE1; even `--keep-private` keeps headers only."""
    source = cases.build(cases.sample_frames(2))
    source.private_block(0x7FE1, "SIEMENS CSA NON-IMAGE", create=True).add_new(0x10, "OB", b"ab")
    ds = derived(source, keep_private=True)
    assert (0x7FE1, 0x1010) not in ds
    source = cases.build(cases.sample_frames(2), SOPInstanceUID="1.2.8")
    path = cases.save(source, tmp_path / "plain.dcm")
    # A flipped bit makes a high tag of one in the header: the file must still read back.
    content = path.read_bytes().replace(b"\x50\x20\x20\x00CS", b"\x50\x90\x20\x00CS")
    path.write_bytes(content)
    output = cases.written(
        examine(read_header(path), path), tmp_path / "out", run(keep_private=True)
    )
    assert dcmread(output).pixel_array.shape == (2, 128, 128)
    assert (0x9050, 0x0020) in dcmread(path)
    assert ds.pixel_array.shape == (2, 128, 128)


def test_unknown_functional_groups_are_kept(derived):
    """A standard group that this tool knows nothing of is the scanner's word."""
    source = cases.build(cases.sample_frames(2))
    item = Dataset()
    item.TemporalPositionTimeOffset = 12.5
    source.PerFrameFunctionalGroupsSequence[1].TemporalPositionSequence = [item]
    ds = derived(source)
    assert macro(ds, 2, "TemporalPositionSequence").TemporalPositionTimeOffset == 12.5


def test_parts_of_a_concatenation_belong_together_again(derived):
    """Scanners split large objects; the derived parts are no parts of the source."""
    uids = {"ConcatenationUID": "1.2.5.1", "SOPInstanceUIDOfConcatenationSource": "1.2.5.2"}
    first = derived(cases.build(cases.sample_frames(2), **uids, InConcatenationNumber=1))
    second = derived(
        cases.build(cases.sample_frames(2), **uids, InConcatenationNumber=2, SOPInstanceUID="1.2.8")
    )
    for keyword, earlier in uids.items():
        assert first[keyword].value == second[keyword].value != earlier
    assert (first.InConcatenationNumber, second.InConcatenationNumber) == (1, 2)


@pytest.mark.parametrize(
    "corrected",
    [{"PatientID": "other"}, {"PatientName": "Other^Name"}, {"StudyInstanceUID": "1.9"}],
)
def test_a_concatenation_of_another_patient_or_study_is_another(corrected, derived):
    """A corrected header must not be joined with what was sent before it."""
    uids = {"ConcatenationUID": "1.2.5.1", "SOPInstanceUIDOfConcatenationSource": "1.2.5.2"}
    first = derived(cases.build(cases.sample_frames(2), **uids, InConcatenationNumber=1))
    told = {**uids, **corrected, "SOPInstanceUID": "1.2.8"}
    second = derived(cases.build(cases.sample_frames(2), **told, InConcatenationNumber=2))
    for keyword in uids:
        assert first[keyword].value != second[keyword].value


def test_rows_and_columns_of_each_frame_keep_their_own_spacing(derived):
    """Pixels of 1.4 x 0.9 mm: between rows first (PS3.3 10.7.1.3), in every frame."""
    frames = [cases.Frame(pixels=np.full((8, 8), n, np.uint16), spacing=(1.4, 0.9)) for n in (1, 2)]
    ds = derived(cases.build(frames))
    for number in (1, 2):
        found = [float(v) for v in macro(ds, number, "PixelMeasuresSequence").PixelSpacing]
        assert found == [0.7, 0.45]


def test_an_implicit_source_becomes_explicit(derived):
    """Outputs have one transfer syntax."""
    ds = derived(cases.build(cases.sample_frames(2), syntax=ImplicitVRLittleEndian))
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert ds.pixel_array.shape == (2, 128, 128)


def test_a_matrix_that_dicom_cannot_count_is_refused(tmp_path, run):
    """Rows are 16 bits wide."""
    frames = [cases.Frame(pixels=np.zeros((1, 20_000), np.uint16))]
    path = cases.save(cases.build(frames), tmp_path / "file.dcm")
    reader = FrameReader(examine(read_header(path), path))
    with pytest.raises(SliceFailed) as caught:
        derive_enhanced(reader.take_header(), run(upscale=4))
    assert caught.value.reason == "too-large"
