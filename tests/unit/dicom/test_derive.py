"""Every row of the table of DICOM.md, section 1, for a classic MR slice."""

import copy
import getpass
import hashlib
import io
import re
import socket
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
)

from kspacesr_rt.dicom import derive, dropped_elements, output_path, read_slice, write_atomically
from kspacesr_rt.dicom.source_only_attributes import drop_source_only
from kspacesr_rt.errors import NonFiniteError, ShapeError, SliceFailed
from kspacesr_rt.kspace import zero_fill_image


@pytest.fixture
def make(mr, save, load, run, tmp_path):
    """Derive from a source with these attributes; the third result is what a reader reads."""

    def made(source=None, *, values=None, syntax=ExplicitVRLittleEndian, derivation=None, **attrs):
        derivation = derivation or run()
        decoded = load(save(source or mr(**attrs), syntax=syntax))
        if values is None:
            values = zero_fill_image(decoded.values, derivation.upscale).real
        derived = derive(decoded, values.astype(np.float32), derivation)
        buffer = io.BytesIO()
        dcmwrite(buffer, derived, enforce_file_format=True)
        return dcmread(io.BytesIO(buffer.getvalue()))

    return made


def item(**attributes):
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def code(sequence):
    return [(i.CodeValue, i.CodingSchemeDesignator, i.CodeMeaning) for i in sequence]


KEPT = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "StudyInstanceUID": "1.2.3",
    "FrameOfReferenceUID": "1.2.3.9",
    "StudyDate": "20200102",
    "AccessionNumber": "A1",
    "PatientName": "SECRET^PATIENT",
    "PatientID": "SECRET-ID",
    "PatientBirthDate": "19700101",
    "ReferringPhysicianName": "House^Gregory",
    "Manufacturer": "SIEMENS",
    "SoftwareVersions": "syngo MR B17",
    "StationName": "MRC1",
    "InstanceNumber": 5,
    "AcquisitionNumber": 1,
    "EchoNumbers": 1,
    "TemporalPositionIdentifier": 4,
    "TriggerTime": 12.5,
    "AcquisitionDate": "20200102",
    "AcquisitionTime": "101213",
    "ContentDate": "20200102",
    "ContentTime": "101214.5",
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "SliceThickness": 4.0,
    "SpacingBetweenSlices": 4.4,
    "SliceLocation": 30.0,
    "AcquisitionMatrix": [0, 24, 20, 0],
    "PercentSampling": 100.0,
    "PixelBandwidth": 200.0,
    "ReconstructionDiameter": 220.0,
    "EchoTime": 90.0,
    "RepetitionTime": 3000.0,
    "WindowCenter": 500.0,
    "WindowWidth": 900.0,
    "VOILUTFunction": "LINEAR",
    "RescaleSlope": 2.0,
    "RescaleIntercept": -10.0,
    "RescaleType": "US",
    "LossyImageCompression": "01",
    "LossyImageCompressionRatio": 12.0,
    "BurnedInAnnotation": "YES",
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "by hand",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "PhotometricInterpretation": "MONOCHROME2",
    "SamplesPerPixel": 1,
    "PresentationLUTShape": "IDENTITY",
}


def test_what_the_scanner_and_the_hospital_wrote_is_kept(make):
    """Fusion, sorting, grouping, hanging and billing hang on these."""
    derived = make(**{k: v for k, v in KEPT.items() if k != "SOPClassUID"})
    assert {keyword: derived[keyword].value for keyword in KEPT} == KEPT


@pytest.mark.parametrize(
    "keyword",
    ["BurnedInAnnotation", "SyntheticData", "RescaleSlope", "LossyImageCompression"],
)
def test_nothing_is_claimed_that_the_source_did_not_say(keyword, make):
    """Absent means unknown; a NO of ours would be a claim."""
    assert keyword not in make()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (["ORIGINAL", "PRIMARY", "OTHER"], ["DERIVED", "SECONDARY", "OTHER"]),
        (["ORIGINAL", "PRIMARY", "MPR"], ["DERIVED", "SECONDARY", "MPR"]),
        (
            ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
            ["DERIVED", "SECONDARY", "OTHER", "ND", "NORM"],
        ),
        (["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "OTHER"]),
    ],
)
def test_image_type_says_derived_with_a_defined_third_value(source, expected, make):
    """dciodvfy: an error without value 3, a warning for a vendor's `M`."""
    assert list(make(ImageType=source).ImageType) == expected


def test_words_that_are_no_code_strings_are_left_behind(mr, save, load, run):
    """They would make the output invalid where the source was."""
    path = save(mr(ImageType=["ORIGINAL", "PRIMARY", "M", "DIS2D", "LOWER CASE"]))
    path.write_bytes(path.read_bytes().replace(b"LOWER CASE", b"lower case"))
    derived = derive(load(path), np.ones((40, 48), np.float32), run())
    assert list(derived.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "DIS2D"]


def test_a_maps_mosaic_mark_is_left_behind(mr, save, source, run):
    """dcm2niix cuts whatever says MOSAIC into tiles."""
    decoded = read_slice(source(save(mr(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))))
    derived = derive(decoded, np.ones((40, 48), np.float32), run())
    assert list(derived.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]


def test_uids_are_new_stable_and_legal(make, run):
    """A repeated run must overwrite nothing and add nothing in a PACS."""
    one, two = make(), make()
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert one.SeriesInstanceUID == two.SeriesInstanceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    for uid in (one.SOPInstanceUID, one.SeriesInstanceUID):
        assert UID(uid).is_valid
        assert re.fullmatch(r"2\.25\.\d{1,39}", uid)
    assert len({one.SOPInstanceUID, one.SeriesInstanceUID, "1.2.3.4", "1.2.3.4.5"}) == 4


def test_changed_pixels_get_another_instance_uid_in_the_same_series(make):
    """Orthanc answers Success to a changed image under a known UID, and keeps the old pixels."""
    values = np.full((40, 48), 100.0)
    one = make(values=values)
    values[3, 3] += 1
    two = make(values=values)
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.SeriesInstanceUID == two.SeriesInstanceUID


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "ort-cuda"},
        {"model": "x2-max"},
        {"weights_sha256": "cd" * 32},
        {"tool_version": "1.2.4"},
        {"options": ("on-interpolated=crop",)},
        {"synthetic": True},
        {"uids": "random"},
    ],
    ids=str,
)
def test_another_kind_of_run_makes_another_series(change, make, run):
    """Two models' slices mixed in one series cannot be told apart."""
    values = np.full((40, 48), 100.0)
    one, two = make(values=values), make(values=values, derivation=run(**change))
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID


def test_random_uids_hold_a_series_together(make, run, mr):
    """One run is one series; the next run is another."""
    this, next_run = run(uids="random"), run(uids="random")
    first = make(derivation=this)
    second = make(mr(SOPInstanceUID="1.2.9"), derivation=this)
    other = make(derivation=next_run)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != other.SeriesInstanceUID
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, other.SOPInstanceUID}) == 3


def test_an_impossible_derivation_does_not_exist(run):
    """Every instance that exists is valid."""
    with pytest.raises(ValueError, match="neither 'stable' nor 'random'"):
        run(uids="sometimes")
    with pytest.raises(ValueError, match="less than 1"):
        run(upscale=0)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_matrix_grows_spacing_shrinks_and_the_corner_stays(upscale, make, run):
    """Spacing is row, then column; public code often swaps them and tests with squares."""
    derived = make(derivation=run(upscale=upscale))
    assert (derived.Rows, derived.Columns) == (20 * upscale, 24 * upscale)
    assert [float(v) for v in derived.PixelSpacing] == pytest.approx([0.9 / upscale, 0.8 / upscale])
    assert all(len(str(v)) <= 16 for v in derived.PixelSpacing)
    assert list(derived.ImagePositionPatient) == [-10, -20, 30]


def test_an_odd_matrix_moves_the_first_sample(make, mr):
    """By half a source pixel along each odd axis: here the rows."""
    derived = make(mr(np.ones((21, 24), np.uint16)))
    assert list(derived.ImagePositionPatient) == pytest.approx([-10, -20 - 0.45, 30])


def test_the_text_of_an_unmoved_position_is_kept(mr, save, load, run):
    """Rewriting decimal strings would make two series of one scan differ in the last digit."""
    position = ["-10.50000", "1.000000E+01", "30"]
    decoded = load(save(mr(ImagePositionPatient=position)))
    derived = derive(decoded, np.ones((40, 48), np.float32), run())
    assert [str(v) for v in derived.ImagePositionPatient] == position


def test_the_series_says_what_it_is(make, run):
    """The list in a viewer shows number and description, and nothing else."""
    derived = make(derivation=run(upscale=4))
    assert derived.SeriesDescription == "t2 axial [SR x4 RESEARCH]"
    assert derived.SeriesNumber == 3004


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 64, "x" * 47 + " [SR x2 RESEARCH]"),
        ("", "[SR x2 RESEARCH]"),
        (None, "[SR x2 RESEARCH]"),
    ],
)
def test_a_long_description_leaves_room_for_the_mark(text, expected, make):
    """LO holds 64 characters: the mark must not be what is cut."""
    derived = make(SeriesDescription=text)
    assert derived.SeriesDescription == expected
    assert len(expected) <= 64


def test_description_is_cut_in_characters_of_its_own_alphabet(make):
    """Cutting bytes would leave half a kanji."""
    derived = make(SpecificCharacterSet="ISO_IR 192", SeriesDescription="頭部" * 30)
    assert derived.SeriesDescription == ("頭部" * 30)[:47] + " [SR x2 RESEARCH]"
    assert len(derived.SeriesDescription) == 64


@pytest.mark.parametrize("number", [None, "", 2**31 - 1])
def test_a_series_number_that_cannot_be_derived_stays_empty(number, make):
    """Type 2: empty is legal, an invented or too long one is not."""
    assert make(SeriesNumber=number).SeriesNumber is None


def test_the_derivation_is_told_in_text_and_code(make):
    """The two places where a radiologist's and a machine's question is answered."""
    derived = make()
    assert derived.DerivationDescription == (
        "k-space super-resolution x2, x2-fast on ort-cpu, kspacesr-rt 1.2.3, "
        "weights sha256:abababababab; detail is predicted, not measured; research use only"
    )
    assert code(derived.DerivationCodeSequence) == [("113085", "DCM", "Spatial resampling")]


def test_a_baseline_claims_no_weights_and_no_prediction(make, run):
    """Zero-filling predicts nothing."""
    derived = make(derivation=run(backend="zero-fill", model="zero-fill", weights_sha256=None))
    assert derived.DerivationDescription == (
        "k-space super-resolution x2, zero-fill, kspacesr-rt 1.2.3; research use only"
    )


def test_earlier_derivations_stay_in_front(make):
    """Several items, several steps in order (PS3.3 C.12.4)."""
    earlier = item(CodeValue="113091", CodingSchemeDesignator="DCM", CodeMeaning="Pixel filtering")
    derived = make(DerivationDescription="filtered", DerivationCodeSequence=Sequence([earlier]))
    assert derived.DerivationDescription.startswith("filtered; k-space super-resolution x2")
    assert code(derived.DerivationCodeSequence) == [
        ("113091", "DCM", "Pixel filtering"),
        ("113085", "DCM", "Spatial resampling"),
    ]


def test_a_long_earlier_text_is_cut_and_ours_is_whole(make):
    """ST holds 1024 characters."""
    text = make(DerivationDescription="x" * 1024).DerivationDescription
    assert len(text) <= 1024
    assert text.endswith("xx; " + make().DerivationDescription)


def test_the_source_is_exactly_one_image(make):
    """Not the sources of the source; and its rows and columns do not apply any more."""
    other = item(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID="9.9")
    (source,) = make(SourceImageSequence=Sequence([other])).SourceImageSequence
    assert source.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert source.ReferencedSOPInstanceUID == "1.2.3.4.5"
    assert source.SpatialLocationsPreserved == "NO"
    assert code(source.PurposeOfReferenceCodeSequence) == [
        ("121322", "DCM", "Source image for image processing operation")
    ]


def test_the_source_series_is_named(make):
    """Common Instance Reference: how a PACS finds the source."""
    (series,) = make().ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.4"
    assert [i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence] == ["1.2.3.4.5"]


@pytest.mark.parametrize(
    ("series_uid", "n_items", "n_instances"), [("1.2.3.4", 1, 2), ("8.8", 2, 1)]
)
def test_series_that_were_referenced_before_stay(series_uid, n_items, n_instances, make):
    """Localizer references of the source refer to them; a series is listed once."""
    instance = item(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID="9.9")
    earlier = item(SeriesInstanceUID=series_uid, ReferencedInstanceSequence=Sequence([instance]))
    series = make(ReferencedSeriesSequence=Sequence([earlier])).ReferencedSeriesSequence
    assert len(series) == n_items
    ours = next(i for i in series if i.SeriesInstanceUID == "1.2.3.4")
    assert len(ours.ReferencedInstanceSequence) == n_instances
    assert ours.ReferencedInstanceSequence[-1].ReferencedSOPInstanceUID == "1.2.3.4.5"


def test_the_tool_speaks_in_contributing_equipment(make):
    """Appended, not replaced (PS3.4 C.3.5), with neither host nor operator."""
    earlier = item(Manufacturer="gateway")
    first, ours = make(
        ContributingEquipmentSequence=Sequence([earlier])
    ).ContributingEquipmentSequence
    assert first.Manufacturer == "gateway"
    assert code(ours.PurposeOfReferenceCodeSequence) == [("109102", "DCM", "Processing Equipment")]
    assert (ours.Manufacturer, ours.ManufacturerModelName) == ("kspacesr-rt", "kspacesr-rt")
    assert ours.SoftwareVersions == "1.2.3"
    assert UID(ours.DeviceUID).is_valid
    assert set(ours.dir()) == {
        "Manufacturer",
        "ManufacturerModelName",
        "SoftwareVersions",
        "DeviceUID",
        "ContributionDateTime",
        "ContributionDescription",
        "PurposeOfReferenceCodeSequence",
    }


def test_other_weights_are_another_device(make, run):
    """IHE AIR: a new Device UID when the model changes, and only then."""

    def device(**change):
        return make(derivation=run(**change)).ContributingEquipmentSequence[-1].DeviceUID

    assert device() == device(backend="ort-cuda") != device(weights_sha256="cd" * 32)


def test_every_output_says_research(make):
    """Content Qualification: `if there is any doubt` (PS3.3 C.8.13.2.1.1)."""
    assert make(ContentQualification="PRODUCT").ContentQualification == "RESEARCH"


@pytest.mark.parametrize(
    ("said", "adversarial", "expected"),
    [(None, False, None), ("NO", False, "NO"), ("YES", False, "YES"), ("NO", True, "YES")],
)
def test_synthetic_data_once_yes_stays_yes(said, adversarial, expected, make, run, mr):
    """A model that was trained to look real says so."""
    ds = mr()
    if said:
        ds.SyntheticData = said
    assert make(ds, derivation=run(synthetic=adversarial)).get("SyntheticData") == expected


DROPPED = {
    "InstanceCreatorUID": "1.2.3",
    "InstanceCoercionDateTime": "20200101",
    "RetrieveAETitle": "PACS",
    "InstanceAvailability": "ONLINE",
    "StorageMediaFileSetUID": "1.2.3",
    "PerformedProcedureStepID": "1",
    "PerformedProcedureStepStartDate": "20200101",
    "PerformedProcedureStepStartTime": "101010",
    "SmallestPixelValueInSeries": 0,
    "LargestPixelValueInSeries": 9,
    "ReferencedPerformedProcedureStepSequence": Sequence([item(ReferencedSOPInstanceUID="1.2")]),
    "OriginalAttributesSequence": Sequence([item(ModifyingSystem="x")]),
    "IconImageSequence": Sequence([item(Rows=2)]),
    "MACParametersSequence": Sequence([item(MACIDNumber=1)]),
    "DigitalSignaturesSequence": Sequence([item(MACIDNumber=1)]),
    "EncryptedAttributesSequence": Sequence([item(EncryptedContent=b"00")]),
    "DataSetTrailingPadding": b"00",
}


@pytest.mark.parametrize("keyword", DROPPED)
def test_what_speaks_of_the_source_instance_is_dropped(keyword, make):
    """Stale signatures are invalid, stale ranges break windowing, stale references mislead."""
    assert keyword not in make(**{keyword: DROPPED[keyword]})


def rich(mr):
    """Return a source with overlays, a curve and private elements at two depths."""
    ds = mr(ReferencedImageSequence=Sequence([item(ReferencedSOPInstanceUID="7.7")]))
    for group in (0x6000, 0x6002):
        ds.add_new((group, 0x0010), "US", 20)
        ds.add_new((group, 0x0011), "US", 24)
        ds.add_new((group, 0x3000), "OW", bytes(60))
    ds.add_new(0x50000005, "US", 2)
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"CSA!")
    nested = ds.ReferencedImageSequence[0]
    nested.private_block(0x0029, "INSIDE", create=True).add_new(0x10, "LO", "HIDDEN")
    return ds


def test_overlays_curves_and_private_elements_are_dropped_and_counted(make, mr, save, load):
    """A report that counts them is how a user learns that an overlay is gone."""
    derived = make(rich(mr))
    assert {e.tag.group >> 8 for e in derived} & {0x50, 0x60} == set()
    assert not [e for e in derived.iterall() if e.tag.is_private or e.tag.element == 0]
    assert derived.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "7.7"
    counted = dropped_elements(load(save(rich(mr), "again.dcm")))
    assert counted == {"overlay": 6, "curve": 1, "private": 4}


def test_group_lengths_are_dropped(mr):
    """They count the bytes of the source's groups."""
    ds = mr()
    ds.add_new(0x00200000, "UL", 100)
    assert drop_source_only(ds, keep_private=True) == {"group length": 1, "pixel data": 1}
    assert 0x00200000 not in ds


def test_private_elements_stay_when_asked_for(make, mr, run):
    """`--keep-private` keeps all of them, nested ones too."""
    derived = make(rich(mr), derivation=run(keep_private=True))
    assert derived.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value == b"CSA!"
    nested = derived.ReferencedImageSequence[0]
    assert nested.private_block(0x0029, "INSIDE")[0x10].value == "HIDDEN"


@pytest.mark.parametrize("dtype", ["<u2", "<i2"])
def test_pixels_come_back_clipped_and_their_range_is_told(dtype, make, mr):
    """Stale Smallest/Largest values black out some viewers."""
    ds = mr(np.full((20, 24), 7, dtype), BitsStored=12)
    vr = "SS" if dtype == "<i2" else "US"
    ds.add_new(0x00280106, vr, 7)
    ds.add_new(0x00280107, vr, 7)
    values = np.linspace(-100, 5000, 40 * 48).reshape(40, 48)
    derived = make(ds, values=values)
    low, high = (-100, 2047) if dtype == "<i2" else (0, 4095)
    assert (derived.SmallestImagePixelValue, derived.LargestImagePixelValue) == (low, high)
    assert derived[0x00280106].VR == derived[0x00280107].VR == vr
    np.testing.assert_array_equal(derived.pixel_array, np.rint(values).clip(low, high))


def test_the_range_is_not_added(make):
    """The source did without."""
    assert "SmallestImagePixelValue" not in make()


def test_output_stays_in_the_sources_units(make, mr):
    """A window that fitted the source fits the result."""
    derived = make(mr(RescaleSlope="2", RescaleIntercept="-10"), values=np.full((40, 48), 190.0))
    assert set(derived.pixel_array.ravel()) == {100}
    assert (derived.RescaleSlope, derived.RescaleIntercept) == (2, -10)


@pytest.mark.parametrize("upscale", [2, 3])
@pytest.mark.parametrize("shape", [(20, 24), (21, 25)])
def test_padding_is_imposed_again(shape, upscale, make, mr, run):
    """Air outside a circular field of view stays what the scanner called it."""
    stored = np.full(shape, 500, "<i2")
    stored[:5] = -2000
    values = np.full((shape[0] * upscale, shape[1] * upscale), 500.0)
    derived = make(
        mr(stored, PixelPaddingValue=-2000), values=values, derivation=run(upscale=upscale)
    )
    padded = derived.pixel_array == -2000
    assert derived.PixelPaddingValue == -2000
    # SR sample j lies at LR index origin + j / s; the border lies at LR index 4.5.
    origin = 0 if shape[0] % 2 == 0 else (-0.5 if upscale == 2 else -1 / 3)
    expected = origin + np.arange(shape[0] * upscale) / upscale < 4.5 - 1e-9
    np.testing.assert_array_equal(padded, np.repeat(expected[:, None], padded.shape[1], 1))


def test_dark_samples_are_not_taken_for_padding(make, mr):
    """Imposing GE's padding value of 0 again would punch holes beside bright edges."""
    stored = np.full((20, 24), 900, "<i2")
    stored[::2, ::2] = 0
    values = np.arange(40 * 48).reshape(40, 48)
    derived = make(mr(stored, PixelPaddingValue=0), values=values)
    np.testing.assert_array_equal(derived.pixel_array, values)
    assert "PixelPaddingValue" not in derived


@pytest.mark.parametrize(("level", "present"), [(100.0, True), (33.0, False)])
def test_unused_padding_goes_if_its_value_now_occurs(level, present, make, mr):
    """PS3.3 C.7.5.1.1.2: it would declare image to be padding."""
    derived = make(
        mr(np.full((20, 24), 5, "<u2"), PixelPaddingValue=33), values=np.full((40, 48), level)
    )
    assert ("PixelPaddingValue" in derived) == present


@pytest.mark.parametrize(("first", "last"), [(33, 40), (40, 33)], ids=["up", "down"])
@pytest.mark.parametrize(
    ("level", "present"),
    [(32.0, True), (33.0, False), (36.0, False), (40.0, False), (41.0, True)],
)
def test_an_unused_range_of_padding_goes_if_any_of_it_now_occurs(
    level, present, first, last, make, mr
):
    """Value and limit stand in either order, and both belong to the range."""
    told = {"PixelPaddingValue": first, "PixelPaddingRangeLimit": last}
    derived = make(mr(np.full((20, 24), 5, "<u2"), **told), values=np.full((40, 48), level))
    assert [keyword in derived for keyword in told] == [present, present]


@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        (JPEGBaseline8Bit, "01"),
        (JPEGExtended12Bit, "01"),
        (JPEGLosslessSV1, None),
        (JPEG2000, None),  # lossy or not: what the source says stands
        (ExplicitVRLittleEndian, None),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_a_lossy_syntax_lost_is_told_though_the_source_does_not(
    syntax, expected, mr, save, load, run
):
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5); the output's own syntax hides it."""
    decoded = load(save(mr()))
    decoded.dataset.file_meta.TransferSyntaxUID = syntax
    derived = derive(decoded, np.zeros((40, 48), np.float32), run())
    assert derived.get("LossyImageCompression") == expected


def test_an_odd_number_of_bytes_is_padded_before_it_is_written(mr, save, load, run, tmp_path):
    """8 bits, 21 x 23, x3: what is verified against the file is what was derived."""
    decoded = load(save(mr(np.full((21, 23), 9, np.uint8))))
    derived = derive(decoded, np.full((63, 69), 9, np.float32), run(upscale=3))
    assert len(derived.PixelData) == 63 * 69 + 1
    path = output_path(tmp_path / "out", derived)
    write_atomically(derived, path)
    assert set(dcmread(path).pixel_array.ravel()) == {9}


def test_high_bit_follows_the_stored_bits(make, mr):
    """A pre-2011 source kept its values in the upper bits; the output cannot."""
    stored = np.full((20, 24), 100 << 4, "<u2")
    derived = make(mr(stored, BitsStored=12, HighBit=15), values=np.full((40, 48), 100.0))
    assert (derived.BitsStored, derived.HighBit) == (12, 11)
    assert set(derived.pixel_array.ravel()) == {100}


def test_eight_bits_stay_eight_bits(make, mr):
    """Old exports; an odd number of bytes is padded."""
    derived = make(mr(np.full((21, 23), 9, np.uint8)), derivation=None)
    assert derived.BitsAllocated == 8
    assert derived["PixelData"].VR == "OB"
    assert len(derived.PixelData) == 42 * 46


def test_big_endian_becomes_little_endian(make, mr):
    """Changing the transfer syntax alone would leave swapped pixels and look-up tables."""
    lut = item(LUTDescriptor=[2, 0, 16])
    lut.add_new(0x00283006, "OW", b"\x01\x00\x02\x00")
    ds = mr(VOILUTSequence=Sequence([lut]))
    swapped = copy.deepcopy(ds)
    swapped.VOILUTSequence[0][0x00283006].value = b"\x00\x01\x00\x02"
    values = np.arange(40 * 48).reshape(40, 48) % 4000
    derived = make(swapped, syntax=ExplicitVRBigEndian, values=values)
    assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert derived.VOILUTSequence[0][0x00283006].value == b"\x01\x00\x02\x00"
    np.testing.assert_array_equal(derived.pixel_array, values)


@pytest.mark.parametrize("read_by", ["us", "pydicom"])
def test_file_meta_and_preamble_are_new(mr, save, load, run, read_by):
    """A source's preamble can be a program, its Source AE Title a hospital's."""
    path = save(mr())
    ds = dcmread(path)
    ds.preamble = b"MZ" + bytes(126)
    ds.file_meta.SourceApplicationEntityTitle = "HOSPITAL"
    ds.file_meta.ImplementationVersionName = "VENDOR"
    ds.save_as(path)
    decoded = load(path)
    if read_by == "pydicom":
        decoded = replace(decoded, dataset=dcmread(path))
    derived = derive(decoded, np.ones((40, 48), np.float32), run())
    buffer = io.BytesIO()
    dcmwrite(buffer, derived, enforce_file_format=True)
    content = buffer.getvalue()
    assert content[:132] == bytes(128) + b"DICM"
    assert b"HOSPITAL" not in content
    assert b"VENDOR" not in content
    meta = dcmread(io.BytesIO(content)).file_meta
    assert meta.MediaStorageSOPClassUID == derived.SOPClassUID
    assert UID(meta.ImplementationClassUID).is_valid


def test_processing_time_is_told_and_the_scans_time_is_kept(make, monkeypatch):
    """SOURCE_DATE_EPOCH makes the bytes repeatable."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    derived = make(InstanceCreationDate="20200102", InstanceCreationTime="101010")
    assert (derived.InstanceCreationDate, derived.InstanceCreationTime) == (
        "20231114",
        "221320.000000",
    )
    (ours,) = derived.ContributingEquipmentSequence
    assert ours.ContributionDateTime == "20231114221320.000000+0000"


def test_the_scanners_time_zone_is_used(make, monkeypatch):
    """Timezone Offset From UTC applies to every time in the data set."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    derived = make(TimezoneOffsetFromUTC="-0330")
    assert derived.InstanceCreationTime == "184320.000000"
    assert derived.ContributingEquipmentSequence[0].ContributionDateTime.endswith("-0330")


def test_without_an_epoch_the_clock_is_read(make, monkeypatch):
    """The date that the UID was assigned (PS3.3 C.12.1)."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    derived = make()
    told = derived.InstanceCreationDate + derived.InstanceCreationTime
    made = datetime.strptime(told, "%Y%m%d%H%M%S.%f")
    assert abs((datetime.now() - made).total_seconds()) < 600


def test_equal_runs_write_equal_bytes(mr, save, load, run, monkeypatch):
    """What the golden and the resume tests of others rest on."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    decoded = load(save(rich(mr)))
    digests = set()
    for _ in range(2):
        buffer = io.BytesIO()
        dcmwrite(
            buffer, derive(decoded, np.ones((40, 48), np.float32), run()), enforce_file_format=True
        )
        digests.add(hashlib.sha256(buffer.getvalue()).hexdigest())
    assert len(digests) == 1


def test_the_source_is_not_changed(mr, save, load, run):
    """A pipeline may derive from it twice."""
    decoded = load(save(rich(mr)))
    before, values = copy.deepcopy(decoded.dataset), decoded.values.copy()
    derived = derive(decoded, np.ones((40, 48), np.float32), run())
    derived.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "9.8.7"
    assert decoded.dataset == before
    assert decoded.dataset.file_meta == before.file_meta
    np.testing.assert_array_equal(decoded.values, values)


def test_nothing_of_this_machine_is_written(make, mr, save, load, run, tmp_path):
    """ITK's example writes its command line, paths and all, into Derivation Description."""
    decoded = load(save(mr(), "Jane_Doe_1970.dcm"))
    buffer = io.BytesIO()
    derived = derive(decoded, np.ones((40, 48), np.float32), run())
    dcmwrite(buffer, derived, enforce_file_format=True)
    content = buffer.getvalue()
    user = getpass.getuser()
    for secret in ("Jane_Doe", str(tmp_path), socket.gethostname(), f"/{user}/", "site-packages"):
        assert secret.encode() not in content


def test_undeclared_utf8_survives_byte_by_byte(mr, save, load, run):
    """Many systems write UTF-8 and declare nothing; nobody's name may be damaged."""
    path = save(mr(PatientName="XXXXXXXXXXXX"))
    name = "Müller^Jörg".encode()
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXXXXXX", name[:12]))
    derived = derive(load(path), np.ones((40, 48), np.float32), run())
    buffer = io.BytesIO()
    dcmwrite(buffer, derived, enforce_file_format=True)
    assert name[:12] in buffer.getvalue()


def test_values_of_the_wrong_matrix_are_refused(make):
    """A model bound to another matrix must not become a distorted patient."""
    with pytest.raises(ShapeError, match=re.escape("expected SR values of shape (40, 48)")):
        make(values=np.ones((48, 40)))


def test_values_that_are_not_finite_are_refused(make):
    """NaN would be written as some number."""
    values = np.ones((40, 48))
    values[1, 1] = np.nan
    with pytest.raises(NonFiniteError):
        make(values=values)


def test_more_rows_than_dicom_can_count_fail(mr, save, load, run):
    """Rows is a 16-bit number: 32768 x 2 would be 0."""
    decoded = load(save(mr(np.zeros((32768, 1), np.uint16))))
    with pytest.raises(SliceFailed) as caught:
        derive(decoded, np.zeros((65536, 2), np.float32), run())
    assert caught.value.reason == "too-large"
