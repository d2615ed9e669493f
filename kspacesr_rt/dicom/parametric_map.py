"""Make the header of a trust map: a Parametric Map that lies on the slices of a derived series.

Each frame belongs to one super-resolved slice and says, in floating-point numbers of that slice's
own unit, how far its samples may be off. Patient, study and frame of reference are those of the
slices; the equipment is this tool, since no scanner has measured these values (what the scanner
was, the slices say). Image data of such a kind have a class of their own, so nobody takes them for
a magnitude image.

References
----------
.. [1] PS3.3 A.75 (Parametric Map IOD), C.8.32 (its modules), C.7.6.16.2.11 (Real World Value
   Mapping), C.7.6.17 (dimensions), C.7.5.2 (Enhanced General Equipment)
.. [2] PS3.16 CID 7203 (extensible): neither it nor CID 7180 has a code for an interval's width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import UID, ParametricMapStorage

from kspacesr_rt.dicom import geometry, provenance
from kspacesr_rt.dicom.appended_text import add_text
from kspacesr_rt.dicom.attributes import has_value, items, numbers
from kspacesr_rt.dicom.derive import IS_MAX, LO_MAX, append_item, new_file_meta
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.raw_header import header_copy, selected_elements
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import TOOL_NAME, stable_uid
from kspacesr_rt.kspace import Matrix

SCHEME: Final = "99KSPSR"
"""Coding Scheme Designator of our own codes (PS3.3 8.2: 99 begins a private one)."""
HALF_WIDTH: Final = ("HALFWIDTH", SCHEME, "Half-width of the interval around a sample")
QUANTITY: Final = ("246205007", "SCT", "Quantity")
ARBITRARY_UNIT: Final = ("[arb'U]", "UCUM", "arbitrary unit")
"""What values of an MR image are in: no other unit is known of them."""
LABEL: Final = "TRUST_MAP"
"""Content Label."""
MARK: Final = "[TRUST MAP]"
"""Behind the description of the derived series."""
SERIES_NUMBER_STEP: Final = 100
"""Series 3002, x2 of series 3, has map 3102."""
SAME_PLACE_MM: Final = 1e-3
"""Positions along the normal that differ by less are one."""

_PATIENT_GROUPS: Final = (0x0010, 0x0012)
"""Patient and Patient Study modules; de-identification and clinical trials."""
_OF_THE_STUDY: Final = frozenset(
    map(
        Tag,
        (
            *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
            *("StudyDate", "StudyTime", "StudyID", "StudyInstanceUID", "StudyDescription"),
            *("AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferencedStudySequence"),
            *("ReferringPhysicianName", "ReferringPhysicianIdentificationSequence"),
            *("ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence"),
            *("PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence"),
            *("NameOfPhysiciansReadingStudy", "PhysiciansReadingStudyIdentificationSequence"),
            *("ProcedureCodeSequence", "AdmittingDiagnosesDescription"),
            *("AdmittingDiagnosesCodeSequence", "RequestAttributesSequence"),
            *("FrameOfReferenceUID", "PositionReferenceIndicator"),
            *("BodyPartExamined", "Laterality", "PatientPosition", "ProtocolName"),
            *("SeriesDescription", "ContributingEquipmentSequence", "SyntheticData"),
            *("LossyImageCompression", "LossyImageCompressionRatio"),
            "LossyImageCompressionMethod",
        ),
    )
)
"""What a map says of study and series just as the derived series does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A slice that a frame of a map refers to."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    frame: int | None = None
    """From 1, in a multi-frame file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapFrame:
    """What a frame of a map belongs to, and where that lies."""

    sr: Instance
    """The derived slice."""
    lr: Instance
    """What that was made from."""
    position_mm: tuple[float, ...]
    """Image Position (Patient) of the derived slice."""
    orientation: tuple[float, ...]
    """Image Orientation (Patient)."""
    spacing_mm: tuple[float, ...]
    """Between rows, and between columns."""
    thickness_mm: float | None
    """None: the slice does not say."""


def new_trust_map(
    like: Dataset,
    frames: Sequence[MapFrame],
    derivation: Derivation,
    *,
    matrix: Matrix,
    coverage: float,
    instance_number: int = 1,
    window: tuple[str, str],
) -> Dataset:
    """Return the header of a map; it lacks pixels, and its SOP Instance UID is a stand-in.

    Parameters
    ----------
    like
        Header of the first of the derived files: patient, study, dates and equipment.
    frames
        In the order of the map.
    derivation
        What made the slices.
    matrix
        Rows and columns of a frame.
    coverage
        Share of the samples that the interval is to hold.
    instance_number
        Of this map in its series.
    window
        Window centre and width, as decimal strings.
    """
    with quiet_pydicom():
        moment = provenance.now_for(like)
        derived = header_copy(
            selected_elements(
                like, lambda tag: tag.group in _PATIENT_GROUPS or tag in _OF_THE_STUDY
            )
        )
        derived.SOPClassUID = ParametricMapStorage
        # Until the pixels are known; what an instance's UID is to hang on.
        derived.SOPInstanceUID = stable_uid("trust-map", frames[0].sr.series_instance_uid)
        _name(derived, like, frames, instance_number)
        derived.InstanceCreationDate = f"{moment:%Y%m%d}"
        derived.InstanceCreationTime = f"{moment:%H%M%S.%f}"
        _set_content(derived, like, coverage)
        _set_equipment(derived, derivation)
        earlier = items(derived, "ContributingEquipmentSequence")[:-1]
        derived.ContributingEquipmentSequence = Items(earlier)
        append_item(
            derived, "ContributingEquipmentSequence", provenance.equipment_item(derivation, moment)
        )
        derived.ReferencedSeriesSequence = _referenced_series(frames)
        derived.Rows, derived.Columns = matrix
        derived.SamplesPerPixel, derived.BitsAllocated = 1, 32
        derived.PhotometricInterpretation = "MONOCHROME2"
        derived.NumberOfFrames = len(frames)
        _set_groups(derived, frames, derivation, coverage, window)
        derived.file_meta = new_file_meta(derived)
        derived.preamble = bytes(128)
    return derived


def _name(
    derived: Dataset, like: Dataset, frames: Sequence[MapFrame], instance_number: int
) -> None:
    derived.Modality = "MR"
    derived.SeriesInstanceUID = map_series_uid(frames[0].sr.series_instance_uid)
    number = (numbers(like, "SeriesNumber") or (None,))[0]
    derived.SeriesNumber = None
    if number is not None and abs(int(number) + SERIES_NUMBER_STEP) <= IS_MAX:
        derived.SeriesNumber = int(number) + SERIES_NUMBER_STEP
    add_text(derived, "SeriesDescription", MARK, joint=" ", limit=LO_MAX)
    derived.InstanceNumber = instance_number


def map_series_uid(sr_series_uid: str) -> str:
    """Return the Series Instance UID of the maps of a derived series."""
    return stable_uid("trust-map series", sr_series_uid)


def _set_content(derived: Dataset, like: Dataset, coverage: float) -> None:
    derived.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    derived.ContentQualification = "RESEARCH"
    derived.ContentLabel = LABEL
    derived.ContentDescription = f"Half-width of {coverage:.0%} intervals; research use only"
    derived.ContentCreatorName = None
    derived.ContentDate, derived.ContentTime = _content_moment(like)
    derived.BurnedInAnnotation = "NO"
    # Of a head, outlines of a face are to be seen in it, as in any picture of its skin.
    derived.RecognizableVisualFeatures = "YES"
    if "Laterality" not in derived:
        derived.Laterality = None  # type 2C: a paired structure may be meant, or none
    if not has_value(derived, "LossyImageCompression"):
        derived.LossyImageCompression = "00"
    derived.PixelPresentation = "MONOCHROME"
    derived.PresentationLUTShape = "IDENTITY"
    derived.AcquisitionContextSequence = Items([])


def _content_moment(like: Dataset) -> tuple[str, str]:
    """Return when the slices say that their content was made: a date that a rerun finds again."""
    for kind in ("Content", "Acquisition", "Series", "Study", "InstanceCreation"):
        if has_value(like, f"{kind}Date"):
            time = str(like.get(f"{kind}Time") or "")
            return str(like[f"{kind}Date"].value), time or "000000"
    return "19000101", "000000"


def _set_equipment(derived: Dataset, derivation: Derivation) -> None:
    derived.Manufacturer = derived.ManufacturerModelName = TOOL_NAME
    # What a device is to others, its model: new weights, new device.
    derived.DeviceSerialNumber = (derivation.weights_sha256 or derivation.model)[:12]
    derived.SoftwareVersions = derivation.tool_version.encode("ascii", "replace").decode()[:64]
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, f"Codes of {TOOL_NAME}"
    derived.CodingSchemeIdentificationSequence = Items([scheme])


def _referenced_series(frames: Sequence[MapFrame]) -> Items:
    found: dict[str, dict[str, str]] = {}
    for frame in frames:
        for one in (frame.sr, frame.lr):
            found.setdefault(one.series_instance_uid, {})[one.sop_instance_uid] = one.sop_class_uid
    series = []
    for uid, instances in found.items():
        item = Dataset()
        item.SeriesInstanceUID = UID(uid)
        item.ReferencedInstanceSequence = Items(
            [_reference(sop_class, instance) for instance, sop_class in instances.items()]
        )
        series.append(item)
    return Items(series)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(sop_instance_uid)
    return item


def _set_groups(
    derived: Dataset,
    frames: Sequence[MapFrame],
    derivation: Derivation,
    coverage: float,
    window: tuple[str, str],
) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = stable_uid(
        "trust-map dimensions", str(derived.SeriesInstanceUID)
    )
    derived.DimensionOrganizationSequence = Items([organization])
    derived.DimensionIndexSequence = Items(
        [
            _dimension(keyword, organization.DimensionOrganizationUID)
            for keyword in ("StackID", "InStackPositionNumber")
        ]
    )
    shared = Dataset()
    shared.RealWorldValueMappingSequence = Items([_mapping(coverage)])
    frame_type = Dataset()
    frame_type.FrameType = list(derived.ImageType)
    shared.ParametricMapFrameTypeSequence = Items([frame_type])
    identity = Dataset()  # numbers in the file are the values
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = "0", "1", "US"
    shared.PixelValueTransformationSequence = Items([identity])
    voi = Dataset()
    voi.WindowCenter, voi.WindowWidth = window
    shared.FrameVOILUTSequence = Items([voi])
    text = _text(derivation, coverage)
    own = [_frame(one, place, text) for one, place in zip(frames, _places(frames), strict=True)]
    for keyword, groups in (
        ("PixelMeasuresSequence", [_measures(one) for one in frames]),
        ("PlaneOrientationSequence", [_orientation(one) for one in frames]),
    ):
        if all(group == groups[0] for group in groups):
            setattr(shared, keyword, Items([groups[0]]))
        else:
            for groups_of_frame, group in zip(own, groups, strict=True):
                setattr(groups_of_frame, keyword, Items([group]))
    derived.SharedFunctionalGroupsSequence = Items([shared])
    derived.PerFrameFunctionalGroupsSequence = Items(own)


def _dimension(keyword: str, organization: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = organization
    item.DimensionIndexPointer = Tag(keyword)
    item.FunctionalGroupPointer = Tag("FrameContentSequence")
    item.DimensionDescriptionLabel = keyword
    return item


def _mapping(coverage: float) -> Dataset:
    item = Dataset()
    item.LUTExplanation = f"Half-width of the {coverage:.0%} interval"
    item.LUTLabel = LABEL
    item.MeasurementUnitsCodeSequence = Items([provenance.code_item(ARBITRARY_UNIT)])
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, 1.0
    item.DoubleFloatRealWorldValueFirstValueMapped = 0.0
    item.DoubleFloatRealWorldValueLastValueMapped = float(np.finfo(np.float32).max)
    quantity = Dataset()
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = Items([provenance.code_item(QUANTITY)])
    quantity.ConceptCodeSequence = Items([provenance.code_item(HALF_WIDTH)])
    item.QuantityDefinitionSequence = Items([quantity])
    return item


def _text(derivation: Derivation, coverage: float) -> str:
    sha256 = derivation.weights_sha256
    weights = f", weights sha256:{sha256[:12]}" if sha256 else ""
    text = (
        f"half-width of the interval around each sample of the super-resolved image that is to "
        f"hold {coverage:.0%} of such samples, by features of that image and of its source, as "
        f"calibrated for {derivation.model}{weights}; "
        f"{TOOL_NAME} {derivation.tool_version}; no promise for one sample; research use only"
    )
    return text.encode("ascii", "replace").decode()[: provenance.ST_MAX]


def _frame(frame: MapFrame, place: tuple[int, int], text: str) -> Dataset:
    stack, position = place
    content = Dataset()
    content.DimensionIndexValues = [stack, position]
    content.StackID, content.InStackPositionNumber = str(stack), position
    plane = Dataset()
    plane.ImagePositionPatient = geometry.as_ds(frame.position_mm)
    step = Dataset()
    step.DerivationDescription = text
    step.DerivationCodeSequence = Items([provenance.code_item(HALF_WIDTH)])
    step.SourceImageSequence = Items(
        [_source_image(frame.sr, same_places=True), _source_image(frame.lr, same_places=False)]
    )
    groups = Dataset()
    groups.FrameContentSequence = Items([content])
    groups.PlanePositionSequence = Items([plane])
    groups.DerivationImageSequence = Items([step])
    return groups


def _source_image(instance: Instance, *, same_places: bool) -> Dataset:
    item = _reference(instance.sop_class_uid, instance.sop_instance_uid)
    if instance.frame is not None:
        item.ReferencedFrameNumber = instance.frame
    item.PurposeOfReferenceCodeSequence = Items(
        [provenance.code_item(provenance.SOURCE_FOR_PROCESSING)]
    )
    item.SpatialLocationsPreserved = "YES" if same_places else "NO"
    return item


def _measures(frame: MapFrame) -> Dataset:
    item = Dataset()
    item.PixelSpacing = geometry.as_ds(frame.spacing_mm)
    if frame.thickness_mm is not None:
        [item.SliceThickness] = geometry.as_ds([frame.thickness_mm])
    return item


def _orientation(frame: MapFrame) -> Dataset:
    item = Dataset()
    item.ImageOrientationPatient = geometry.as_ds(frame.orientation)
    return item


def _places(frames: Sequence[MapFrame]) -> list[tuple[int, int]]:
    """Return stack and place in it of every frame, from 1.

    A stack holds parallel slices, each place once: the n-th repetition of a place (another echo,
    another time) is in the n-th stack of that orientation, so no two frames have the same numbers.
    """
    normals = [tuple(round(value, 3) for value in one.orientation) for one in frames]
    along = [
        round(geometry.slice_position_mm(one.position_mm, one.orientation) / SAME_PLACE_MM)
        for one in frames
    ]
    ranks = {
        normal: {
            place: rank
            for rank, place in enumerate(
                sorted({at for at, n in zip(along, normals, strict=True) if n == normal}), start=1
            )
        }
        for normal in dict.fromkeys(normals)
    }
    repeated: dict[tuple[tuple[float, ...], int], int] = {}
    stacks: dict[tuple[tuple[float, ...], int], int] = {}
    found = []
    for normal, place in zip(normals, along, strict=True):
        repetition = repeated[normal, place] = repeated.get((normal, place), 0) + 1
        stack = stacks.setdefault((normal, repetition), len(stacks) + 1)
        found.append((stack, ranks[normal][place]))
    return found
