"""Enhanced MR files made from the shipped sample, in the shapes that scanners write.

No vendor's Enhanced MR file may be committed, so these stand in for them; `test_enhanced_derive.py`
also takes the vendors' own where they lie beside the repository.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from kspacesr_rt.dicom import EnhancedWriter, FrameReader, derive_enhanced, to_stored
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.sample import sample_folder

PATIENT = "SECRET^PATIENT"
SERIES, INSTANCE = "1.2.826.1.4", "1.2.826.1.5"
OBLIQUE = tuple(
    np.array([[0.96, 0.28, 0.0], [-0.168, 0.576, 0.8]]).ravel()
)  # two unit vectors at right angles
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclasses.dataclass(kw_only=True)
class Frame:
    """One frame and what its functional groups say."""

    pixels: np.ndarray
    position: tuple[float, ...] = (-10.0, -20.0, 30.0)
    orientation: tuple[float, ...] = AXIAL
    spacing: tuple[float, float] = (0.9, 0.8)
    slope: float = 1.0
    intercept: float = 0.0
    window: tuple[float, float] = (400.0, 800.0)
    stack: str = "1"
    in_stack: int = 1
    temporal: int = 1
    frame_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "PROTON_DENSITY", "NONE")
    component: str = "MAGNITUDE"


def sample_frames(n: int = 4, *, step: int = 4, first: int = 8) -> list[Frame]:
    """Return slices of the shipped sample, every `step`-th sample of them."""
    frames = []
    for number, path in enumerate(sorted(sample_folder().glob("*.dcm"))[first : first + n], 1):
        source = dcmread(path)
        frames.append(
            Frame(
                pixels=source.pixel_array[::step, ::step].astype(np.uint16),
                position=tuple(float(v) for v in source.ImagePositionPatient),
                orientation=tuple(float(v) for v in source.ImageOrientationPatient),
                spacing=tuple(step * float(v) for v in source.PixelSpacing),
                in_stack=number,
            )
        )
    return frames


def blob_frames(
    matrix: tuple[int, int],
    n: int,
    *,
    point: Sequence[float] = (12.0, -9.0, 21.0),
    spacing: tuple[float, float] = (1.4, 0.9),
    gap: float = 2.0,
    orientation: tuple[float, ...] = OBLIQUE,
) -> list[Frame]:
    """Return a stack around a Gaussian blob that lies at a known point of the patient (mm)."""
    along = np.asarray(orientation).reshape(2, 3)
    normal = np.cross(*along)
    rows, columns = matrix
    # Off-centre by some millimetres, so that a flip or a shift cannot go unseen.
    corner = (
        np.asarray(point)
        - along[0] * spacing[1] * (columns * 0.5 + 3.3)
        - along[1] * spacing[0] * (rows * 0.5 - 2.6)
        - normal * gap * (n / 2 + 0.4)
    )
    row, column = np.mgrid[:rows, :columns]
    frames = []
    for number in range(n):
        position = corner + normal * gap * number
        places = (
            position
            + along[0] * spacing[1] * column[..., None]
            + along[1] * spacing[0] * row[..., None]
        )
        distance = np.linalg.norm(places - np.asarray(point), axis=-1)
        frames.append(
            Frame(
                pixels=np.rint(3000 * np.exp(-(distance**2) / (2 * 3.5**2))).astype(np.uint16),
                position=tuple(position),
                orientation=orientation,
                spacing=spacing,
                in_stack=number + 1,
            )
        )
    return frames


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _ds(values: Sequence[float]) -> list[str]:
    return [f"{value:.10g}" for value in values]


MACROS: dict[str, Callable[[Frame], Dataset]] = {
    "PixelMeasuresSequence": lambda frame: _item(
        PixelSpacing=_ds(frame.spacing), SliceThickness="2", SpacingBetweenSlices="2"
    ),
    "PlanePositionSequence": lambda frame: _item(ImagePositionPatient=_ds(frame.position)),
    "PlaneOrientationSequence": lambda frame: _item(ImageOrientationPatient=_ds(frame.orientation)),
    "PixelValueTransformationSequence": lambda frame: _item(
        RescaleIntercept=f"{frame.intercept:.10g}",
        RescaleSlope=f"{frame.slope:.10g}",
        RescaleType="US",
    ),
    "MRImageFrameTypeSequence": lambda frame: _item(
        FrameType=list(frame.frame_type),
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent=frame.component,
        AcquisitionContrast="PROTON_DENSITY",
    ),
    "FrameVOILUTSequence": lambda frame: _item(
        WindowCenter=f"{frame.window[0]:.10g}", WindowWidth=f"{frame.window[1]:.10g}"
    ),
    "FrameAnatomySequence": lambda frame: _item(
        FrameLaterality="U",
        AnatomicRegionSequence=[_code("12738006", "SCT", "Brain")],
    ),
    "MRFOVGeometrySequence": lambda frame: _item(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=frame.pixels.shape[1],
        MRAcquisitionPhaseEncodingStepsInPlane=frame.pixels.shape[0],
        MRAcquisitionPhaseEncodingStepsOutOfPlane=1,
        PercentSampling="100",
        PercentPhaseFieldOfView="100",
    ),
    "MREchoSequence": lambda frame: _item(EffectiveEchoTime=22.0),
}
"""How each functional group is made from a frame."""
SHARED = ("MRFOVGeometrySequence", "MREchoSequence", "FrameAnatomySequence")
"""Groups that most scanners share; the others vary."""


def _frame_content(frame: Frame) -> Dataset:
    return _item(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime="20200102101112",
        FrameAcquisitionDateTime="20200102101112",
        FrameAcquisitionDuration=4000.0,
        StackID=frame.stack,
        InStackPositionNumber=frame.in_stack,
        TemporalPositionIndex=frame.temporal,
        DimensionIndexValues=[int(frame.stack), frame.in_stack, frame.temporal],
    )


def build(
    frames: Sequence[Frame],
    *,
    shared: Sequence[str] = SHARED,
    syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> Dataset:
    """Return an Enhanced MR data set with native pixels; a keyword sets an attribute."""
    first = frames[0]
    ds = _item(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID=INSTANCE,
        SeriesInstanceUID=SERIES,
        StudyInstanceUID="1.2.826.1.3",
        FrameOfReferenceUID="1.2.826.1.9",
        SynchronizationFrameOfReferenceUID="1.2.826.1.10",
        PositionReferenceIndicator="",
        AcquisitionTimeSynchronized="N",
        SynchronizationTrigger="NO TRIGGER",
        ImageType=list(first.frame_type),
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent=first.component,
        AcquisitionContrast="PROTON_DENSITY",
        ContentQualification="PRODUCT",
        Modality="MR",
        Manufacturer="SIEMENS",
        ManufacturerModelName="Vida",
        DeviceSerialNumber="1",
        SoftwareVersions="XA10",
        MagneticFieldStrength=1.5,
        ResonantNucleus="1H",
        KSpaceFiltering="NONE",
        ApplicableSafetyStandardAgency="IEC",
        ReferringPhysicianName="",
        AccessionNumber="",
        StudyDate="20200102",
        StudyTime="101112",
        ContentDate="20200102",
        ContentTime="101112",
        AcquisitionDateTime="20200102101112",
        AcquisitionDuration=4.0,
        AcquisitionNumber=1,
        StudyID="7",
        PatientName=PATIENT,
        PatientID="SECRET-ID",
        PatientBirthDate="19700101",
        PatientSex="F",
        PatientPosition="HFS",
        SeriesDescription="pd axial",
        SeriesNumber=3,
        InstanceNumber=1,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        PresentationLUTShape="IDENTITY",
        AcquisitionContextSequence=[],
        NumberOfFrames=len(frames),
        BitsAllocated=8 * first.pixels.dtype.itemsize,
        BitsStored=12 if first.pixels.dtype.itemsize == 2 else 8,
        PixelRepresentation=0,
        **_pulse_sequence(),
    )
    ds.Rows, ds.Columns = first.pixels.shape
    ds.HighBit = ds.BitsStored - 1
    organization = "1.2.826.1.11"
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    ds.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
        )
        for pointer in (0x00209056, 0x00209057, 0x00209128)
    ]
    ds.SharedFunctionalGroupsSequence = [_item(**{name: [MACROS[name](first)] for name in shared})]
    ds.PerFrameFunctionalGroupsSequence = [
        _item(
            FrameContentSequence=[_frame_content(frame)],
            **{name: [make(frame)] for name, make in MACROS.items() if name not in shared},
        )
        for frame in frames
    ]
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    width = first.pixels.dtype.itemsize
    ds.add_new(
        0x7FE00010,
        "OW" if width == 2 else "OB",
        b"".join(frame.pixels.astype(f"{order}u{width}").tobytes() for frame in frames),
    )
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def _pulse_sequence() -> dict[str, Any]:
    return {
        "PulseSequenceName": "fse",
        "MRAcquisitionType": "2D",
        "EchoPulseSequence": "SPIN",
        "MultipleSpinEcho": "YES",
        "MultiPlanarExcitation": "NO",
        "PhaseContrast": "NO",
        "TimeOfFlightContrast": "NO",
        "SteadyStatePulseSequence": "NONE",
        "EchoPlanarPulseSequence": "NO",
        "SaturationRecovery": "NO",
        "SpectrallySelectedSuppression": "NONE",
        "OversamplingPhase": "NONE",
        "GeometryOfKSpaceTraversal": "RECTILINEAR",
        "RectilinearPhaseEncodeReordering": "LINEAR",
        "SegmentedKSpaceTraversal": "SINGLE",
        "NumberOfKSpaceTrajectories": 1,
    }


def save(ds: Dataset, path: Path) -> Path:
    """Write a data set and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def compress(ds: Dataset, syntax: str, *, offsets: str = "basic", fragments: int = 1) -> Dataset:
    """Compress in place; `offsets` is ``basic``, ``extended`` or ``none``."""
    ds.compress(UID(syntax), generate_instance_uid=False)
    encoded = list(generate_frames(ds.PixelData, number_of_frames=int(ds.NumberOfFrames)))
    if offsets == "extended":
        value, table, lengths = encapsulate_extended(encoded)
        ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = table, lengths
    else:
        value = encapsulate(encoded, fragments_per_frame=fragments, has_bot=offsets == "basic")
    ds.PixelData = value
    ds["PixelData"].is_undefined_length = True
    return ds


def frame_groups(ds: Dataset, number: int) -> dict[str, Dataset]:
    """Read the functional groups of a frame (from 1) the plain way: its own, else the shared."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    own = ds.PerFrameFunctionalGroupsSequence[number - 1]
    return {
        element.keyword: element.value[0]
        for groups in (shared, own)
        for element in groups
        if element.keyword and len(element.value)
    }


def centroid_mm(ds: Dataset) -> np.ndarray:
    """Return the centre of mass of all frames in patient coordinates, read from the groups."""
    pixels = ds.pixel_array.reshape(-1, int(ds.Rows), int(ds.Columns)).astype(float)
    total, mass = np.zeros(3), 0.0
    row, column = np.mgrid[: pixels.shape[1], : pixels.shape[2]]
    for number, image in enumerate(pixels, start=1):
        groups = frame_groups(ds, number)
        between_rows, between_columns = map(float, groups["PixelMeasuresSequence"].PixelSpacing)
        along = np.array(
            groups["PlaneOrientationSequence"].ImageOrientationPatient, dtype=float
        ).reshape(2, 3)
        corner = np.array(groups["PlanePositionSequence"].ImagePositionPatient, dtype=float)
        image = np.where(image > 0.05 * pixels.max(), image, 0.0)
        weight = image.sum()
        if weight == 0:
            continue
        total += weight * corner
        total += along[0] * between_columns * (image * column).sum()
        total += along[1] * between_rows * (image * row).sum()
        mass += weight
    return total / mass


def written(source, out, derivation):
    """Zero-fill a source into `out`."""
    reader = FrameReader(source)
    derived = derive_enhanced(reader.take_header(), derivation)
    with EnhancedWriter(out, derived, derivation) as writer:
        for number, frame in enumerate(reader, start=1):
            sr = zero_fill(frame.values, derivation.upscale)
            writer.write(number, to_stored(sr, frame.dataset))
        return writer.finish()[0]
