"""A folder of what a DICOM folder can hold, with what must become of every file in it.

`CASES` is the table; `write_cases` makes the folder. Each file comes from a crop of the shipped
sample, changed in one way; those of several files have a row a file.
"""

from __future__ import annotations

import copy
import gzip
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

import kspacesr_rt.sample
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

SAMPLE = Path(kspacesr_rt.sample.__file__).parent / "ge_pd" / "brain_008.dcm"
ROOT = "1.2.826.0.1.3680043.8.498.77"
PATIENT = "QUIXOTE^LAMANCHA"
"""Planted in every data set and some names: it must be found nowhere in what a run says."""
SECRETS = (PATIENT, "QUIXOTE", "LAMANCHA", "MRN-4711-QUIXOTE", "19470229")

Make = Callable[[Path, Dataset], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One file."""

    name: str
    """Path in the folder."""
    outcome: str
    """written, skipped or failed."""
    reason: str
    """Word of the report; empty if written."""
    make: Make | None
    """Writes the file; None if an earlier row's maker does."""


CASES: list[Case] = []


def case(name: str, expected: str = "written", make: Make | None = None) -> None:
    """Add a row; `expected` is ``written`` or ``outcome:reason``."""
    outcome, _, reason = expected.partition(":")
    CASES.append(Case(name=name, outcome=outcome, reason=reason, make=make))


def write_cases(folder: Path, cases: list[Case] | None = None) -> None:
    """Make the folder; every data set has UIDs of its own unless its maker shares them."""
    for number, row in enumerate(CASES if cases is None else cases):
        path = folder / row.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if row.make is not None:
            with quiet_pydicom():
                row.make(path, sample(number))


@cache
def _sample() -> Dataset:
    ds = dcmread(SAMPLE)
    pixels = np.ascontiguousarray(ds.pixel_array[100:140, 96:144])
    kept = Dataset(
        {element.tag: copy.deepcopy(element) for element in ds if element.tag >> 16 & 1 == 0}
    )
    kept.Rows, kept.Columns = pixels.shape
    kept.PixelData = pixels.tobytes()
    kept.PatientName, kept.PatientID = PATIENT, "MRN-4711-QUIXOTE"
    kept.PatientBirthDate = "19470229"
    kept.ImageComments = f"seen by {PATIENT}"
    kept.pop("AcquisitionMatrix", None)
    return kept


def sample(number: int = 0) -> Dataset:
    """Return a small signed 16-bit slice of the shipped sample, ready to be written."""
    ds = copy.deepcopy(_sample())
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2.{number}"
    ds.SOPInstanceUID = f"{ROOT}.3.{number}"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def content(ds: Dataset) -> bytes:
    """Return a data set as the bytes of a file."""
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def pixels_of(ds: Dataset) -> np.ndarray:
    """Return the stored values of an uncompressed sample."""
    kind = "i" if ds.PixelRepresentation else "u"
    values = np.frombuffer(ds.PixelData, f"<{kind}{ds.BitsAllocated // 8}")
    return values[: ds.Rows * ds.Columns].reshape(ds.Rows, ds.Columns)


def set_pixels(ds: Dataset, pixels: np.ndarray, bits: int | None = None) -> Dataset:
    """Give a data set other pixels and the attributes that describe them."""
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated == 16 else "OB"
    return ds


def unsigned(ds: Dataset, bits: int = 12) -> Dataset:
    """Make the pixels unsigned, of 8 or 12 bits."""
    values = pixels_of(ds).astype(np.int64)
    values = (values - values.min()) * ((1 << bits) - 1) // max(1, np.ptp(values))
    return set_pixels(ds, values.astype(np.uint8 if bits <= 8 else np.uint16), bits)


def packed(ds: Dataset, frame: bytes, syntax: UID, **how: object) -> Dataset:
    """Encapsulate a code stream."""
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame], **how)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def changed(**attributes: object) -> Make:
    """Return a maker that sets attributes; None removes one."""

    def make(path: Path, ds: Dataset) -> None:
        for keyword, value in attributes.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        path.write_bytes(content(ds))

    return make


def adjusted(change: Callable[[Dataset], object]) -> Make:
    """Return a maker that changes the data set in place."""

    def make(path: Path, ds: Dataset) -> None:
        change(ds)
        path.write_bytes(content(ds))

    return make


def raw(make_bytes: Callable[[Dataset], bytes]) -> Make:
    """Return a maker that writes bytes."""
    return lambda path, ds: path.write_bytes(make_bytes(ds)) and None


def in_syntax(syntax: UID) -> Make:
    """Return a maker of an uncompressed file."""

    def make(path: Path, ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == uids.ExplicitVRBigEndian:
            ds.PixelData = pixels_of(ds).astype(">i2").tobytes()
        path.write_bytes(content(ds))

    return make


def compressed(
    syntax: UID, flavour: Callable[[Dataset], Dataset] = lambda ds: ds, **how: object
) -> Make:
    """Return a maker of what pydicom compresses."""

    def make(path: Path, ds: Dataset) -> None:
        flavour(ds).compress(syntax, generate_instance_uid=False, **how)
        path.write_bytes(content(ds))

    return make


def lossless_jpeg(ds: Dataset, predictor: int = 1) -> bytes:
    """Return a JPEG Lossless stream of the pixels."""
    values = pixels_of(ds)
    values = values.view(f"u{values.dtype.itemsize}")
    return imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor)


def jpeg(ds: Dataset, bits: int) -> bytes:
    """Return a lossy JPEG stream of 8 or 12 bits."""
    return imagecodecs.jpeg8_encode(pixels_of(ds), level=95, bitspersample=bits)


def htj2k(ds: Dataset) -> bytes:
    """Return an HTJ2K stream."""
    return imagecodecs.htj2k_encode(pixels_of(ds), reversible=True)


def stream(ds: Dataset, syntax: UID) -> bytes:
    """Return the code stream that pydicom's encoder makes."""
    from pydicom.encaps import generate_frames

    twin = copy.deepcopy(ds)
    twin.compress(syntax)
    return next(generate_frames(twin.PixelData, number_of_frames=1))


def cut(frame: bytes, share: float = 0.6, tail: bytes = b"") -> bytes:
    """Return the beginning of a code stream."""
    return frame[: int(len(frame) * share)] + tail


def extended_offsets(ds: Dataset) -> None:
    """Compress with an Extended Offset Table."""
    frame = stream(ds, uids.JPEG2000Lossless)
    data, offsets, lengths = encapsulate_extended([frame])
    packed(ds, frame, uids.JPEG2000Lossless)
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = data, offsets, lengths


def other_class(sop_class: UID, *, image: bool) -> Make:
    """Return a maker of another kind of object."""

    def make(path: Path, ds: Dataset) -> None:
        ds.SOPClassUID = sop_class
        if not image:
            for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated"):
                delattr(ds, keyword)
        path.write_bytes(content(ds))

    return make


def colour(photometric: str) -> Make:
    """Return a maker of colour pixels under the MR class."""

    def make(path: Path, ds: Dataset) -> None:
        values = pixels_of(unsigned(ds, 8))
        ds.PhotometricInterpretation = photometric
        if photometric != "PALETTE COLOR":
            ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
            ds.PixelData = np.repeat(values[..., None], 3, 2).tobytes()
        path.write_bytes(content(ds))

    return make


def private(group: int, creator: str, offset: int, vr: str, value: object) -> Make:
    """Return a maker that adds a private element."""

    def make(path: Path, ds: Dataset) -> None:
        ds.private_block(group, creator, create=True).add_new(offset, vr, value)
        path.write_bytes(content(ds))

    return make


def without_preamble(ds: Dataset, *, meta: bool) -> bytes:
    """Return a data set without preamble, with or without File Meta Information."""
    if meta:
        return content(ds)[132:]
    buffer = io.BytesIO()
    dcmwrite(buffer, ds_without_meta(ds), implicit_vr=True, little_endian=True)
    return buffer.getvalue()


def ds_without_meta(ds: Dataset) -> Dataset:
    """Return a copy that has forgotten its File Meta Information."""
    return Dataset({element.tag: element for element in ds})


def deflate_bomb(ds: Dataset) -> bytes:
    """Return a file of 1 MB that inflates to more than a GiB."""
    ds.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    whole = content(ds)
    (group_length,) = struct.unpack_from("<L", whole, 140)
    start = 144 + group_length
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [deflate.compress(zlib.decompress(whole[start:], -zlib.MAX_WBITS))]
    parts.append(deflate.flush(zlib.Z_FULL_FLUSH))
    # After a full flush nothing refers back, so the block may be repeated.
    block = deflate.compress(bytes(1 << 24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return whole[:start] + b"".join([*parts, *[block] * 66, deflate.flush()])


def deep(ds: Dataset) -> None:
    """Nest sequences deeper than Python's stack."""
    inner = Dataset()
    for _ in range(1500):
        outer = Dataset()
        outer.DerivationCodeSequence = Sequence([inner])
        inner = outer
    ds.ReferencedStudySequence = Sequence([inner])


def nested_bytes(ds: Dataset) -> bytes:
    """Return a file with 3000 nested sequences of undefined length."""
    whole = content(ds)
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    undefined = 0xFFFFFFFF
    opening = struct.pack("<HH2sHL", 0x0008, 0x9215, b"SQ", 0, undefined)
    opening += struct.pack("<HHL", 0xFFFE, 0xE000, undefined)
    closing = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return whole[:at] + opening * 3000 + closing * 3000 + whole[at:]


def sparse(path: Path, ds: Dataset) -> None:
    """Make a file of 6 GB that takes no room."""
    with path.open("wb") as file:
        file.truncate(6 << 30)


def sparse_dicom(path: Path, ds: Dataset) -> None:
    """Make a whole DICOM file whose one slice would be 8 GB."""
    ds.Rows, ds.Columns = 65535, 65535
    del ds.PixelData
    n_bytes = 65535 * 65535 * 2
    with path.open("wb") as file:
        file.write(content(ds) + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 0xFFFFFFF0))
        file.truncate(file.tell() + n_bytes)


def conflicting(path: Path, ds: Dataset) -> None:
    """Write two files of one SOP Instance UID that differ by one grey level."""
    path.write_bytes(content(ds))
    values = pixels_of(ds).copy()
    values[3, 4] ^= 1
    ds.PixelData = values.tobytes()
    path.with_name("conflict-b").write_bytes(content(ds))


def repeated(path: Path, ds: Dataset) -> None:
    """Write one instance three times, once compressed."""
    path.write_bytes(content(ds))
    path.with_name("same-2").write_bytes(content(ds))
    ds.compress(uids.JPEGLSLossless, generate_instance_uid=False)
    path.with_name("same-3").write_bytes(content(ds))


def socket_at(path: Path, ds: Dataset) -> None:
    """Leave a socket in the folder."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # its path may be longer than a socket's
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def linked_file(path: Path, ds: Dataset) -> None:
    """Link to a good slice outside of the folder."""
    outside = path.parents[1] / "outside.dcm"
    outside.write_bytes(content(ds))
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


SKIP, FAIL = "skipped:", "failed:"
# What comes in as it should.
case("plain.dcm", make=changed())
case("implicit.dcm", make=in_syntax(uids.ImplicitVRLittleEndian))
case("big-endian.dcm", make=in_syntax(uids.ExplicitVRBigEndian))
case("deflated.dcm", make=in_syntax(uids.DeflatedExplicitVRLittleEndian))
# Every compression that a permissive codec decodes.
case("rle.dcm", make=compressed(uids.RLELossless))
case("rle-8.dcm", make=compressed(uids.RLELossless, lambda ds: unsigned(ds, 8)))
case("rle-12.dcm", make=compressed(uids.RLELossless, unsigned))
case("jpeg-ls.dcm", make=compressed(uids.JPEGLSLossless))
case("jpeg-ls-12.dcm", make=compressed(uids.JPEGLSLossless, unsigned))
case("jpeg-ls-near.dcm", make=compressed(uids.JPEGLSNearLossless, unsigned, jls_error=2))
case("j2k.dcm", make=compressed(uids.JPEG2000Lossless))
case("j2k-12.dcm", make=compressed(uids.JPEG2000Lossless, unsigned))
case("j2k-8.dcm", make=compressed(uids.JPEG2000Lossless, lambda ds: unsigned(ds, 8)))
case("j2k-lossy.dcm", make=compressed(uids.JPEG2000, unsigned, j2k_cr=[8]))
for _name, _syntax in (
    ("htj2k", uids.HTJ2KLossless),
    ("htj2k-rpcl", uids.HTJ2KLosslessRPCL),
    ("htj2k-any", uids.HTJ2K),
):
    case(f"{_name}.dcm", make=adjusted(lambda ds, s=_syntax: packed(ds, htj2k(ds), s)))
case("jpeg-sv1.dcm", make=adjusted(lambda ds: packed(ds, lossless_jpeg(ds), uids.JPEGLosslessSV1)))
case(
    "jpeg-sv1-8.dcm",
    make=adjusted(lambda ds: packed(unsigned(ds, 8), lossless_jpeg(ds), uids.JPEGLosslessSV1)),
)
for _predictor in (2, 4, 6, 7):
    case(
        f"jpeg-lossless-{_predictor}.dcm",
        make=adjusted(lambda ds, p=_predictor: packed(ds, lossless_jpeg(ds, p), uids.JPEGLossless)),
    )
case(
    "jpeg-baseline.dcm",
    make=adjusted(lambda ds: packed(unsigned(ds, 8), jpeg(ds, 8), uids.JPEGBaseline8Bit)),
)
case(
    "jpeg-extended-12.dcm",
    make=adjusted(lambda ds: packed(unsigned(ds), jpeg(ds, 12), uids.JPEGExtended12Bit)),
)
case(
    "jpeg-extended-8.dcm",
    make=adjusted(lambda ds: packed(unsigned(ds, 8), jpeg(ds, 8), uids.JPEGExtended12Bit)),
)
# How pixel data are put into pieces.
case(
    "fragments-j2k.dcm",
    make=adjusted(
        lambda ds: packed(
            ds, stream(ds, uids.JPEG2000Lossless), uids.JPEG2000Lossless, fragments_per_frame=4
        )
    ),
)
case(
    "fragments-jpeg.dcm",
    make=adjusted(
        lambda ds: packed(
            ds, lossless_jpeg(ds), uids.JPEGLosslessSV1, fragments_per_frame=3, has_bot=False
        )
    ),
)
case(
    "no-offsets.dcm",
    make=adjusted(
        lambda ds: packed(ds, stream(ds, uids.RLELossless), uids.RLELossless, has_bot=False)
    ),
)
case("extended-offsets.dcm", make=adjusted(extended_offsets))
# Unusual, but whole.
case("no-preamble", make=raw(lambda ds: without_preamble(ds, meta=True)))
case("no-meta", make=raw(lambda ds: without_preamble(ds, meta=False)))
case("polyglot.exe", make=raw(lambda ds: b"MZ" + bytes(126) + content(ds)[128:]))
case("SLICE.IMA", make=changed())
case("00000001", make=changed())
case(f"{PATIENT}/nested/deep/QUIXOTE.dcm", make=changed())
case("übung №1\n.dcm", make=changed())
case("8-bit.dcm", make=adjusted(lambda ds: unsigned(ds, 8)))
case("12-bit.dcm", make=adjusted(unsigned))
case("signed-12.dcm", make=changed(BitsStored=12, HighBit=11))
case("odd.dcm", make=adjusted(lambda ds: set_pixels(ds, pixels_of(ds)[:39, :47].copy())))
case("long.dcm", make=adjusted(lambda ds: set_pixels(ds, pixels_of(ds)[:9].copy())))
case(
    "odd-8-bit.dcm",
    make=adjusted(lambda ds: set_pixels(ds, pixels_of(unsigned(ds, 8))[:5, :7].copy())),
)
case("constant.dcm", make=adjusted(lambda ds: set_pixels(ds, np.full((16, 16), 7, np.int16))))
case("black.dcm", make=adjusted(lambda ds: set_pixels(ds, np.zeros((16, 16), np.int16))))
case("inverted.dcm", make=changed(PhotometricInterpretation="MONOCHROME1"))
case("rescaled.dcm", make=changed(RescaleSlope="0.5", RescaleIntercept="-9"))
case("padded.dcm", make=changed(DataSetTrailingPadding=bytes(64)))
case("more-bytes.dcm", make=adjusted(lambda ds: setattr(ds, "PixelData", ds.PixelData + bytes(62))))
case("reformat-original.dcm", make=changed(ImageType=["ORIGINAL", "PRIMARY", "MPR"]))
case("no-image-type.dcm", make=changed(ImageType=None))
case("interpolated.dcm", make=changed(AcquisitionMatrix=[0, 20, 20, 0]))
case("wrong-values.dcm", make=adjusted(lambda ds: ds.add_new(0x00081150, "UI", f"{PATIENT}.1")))
case("wrong-date.dcm", make=adjusted(lambda ds: ds.add_new(0x00080020, "DA", PATIENT)))
case("charset.dcm", make=changed(SpecificCharacterSet="ISO_IR 999"))
case("private.dcm", make=private(0x0029, "ACME", 0x10, "OB", bytes(range(250))))
case("latest-pixel-vr.dcm", make=adjusted(lambda ds: setattr(ds["PixelData"], "VR", "OB")))
case("same-1", make=repeated)
case("same-2", SKIP + "duplicate")
case("same-3", SKIP + "duplicate")
# Ours to leave alone.
case("mosaic.dcm", SKIP + "mosaic", changed(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]))
case("mosaic-private.dcm", SKIP + "mosaic", private(0x0019, "SIEMENS MR HEADER", 0x0A, "US", 48))
for _word in ("P", "PHASE", "R", "REAL", "I", "IMAGINARY", "PHASE MAP", "VELOCITY MAP", "P_FFE"):
    case(
        f"component-{_word}.dcm".replace(" ", "-"),
        SKIP + "phase",
        changed(ImageType=["ORIGINAL", "PRIMARY", _word]),
    )
case("component-attribute.dcm", SKIP + "phase", changed(ComplexImageComponent="PHASE"))
case("component-ge.dcm", SKIP + "phase", private(0x0043, "GEMS_PARM_01", 0x2F, "SS", 3))
for _word in (
    "ADC",
    "FA",
    "T1 MAP",
    "T2_MAP",
    "MIP",
    "MINIP",
    "SUB",
    "CBF",
    "MPR",
    "PROJECTION IMAGE",
):
    case(
        f"derived-{_word}.dcm".replace(" ", "-"),
        SKIP + "derived-map",
        changed(ImageType=["DERIVED", "SECONDARY", _word]),
    )
for _word in ("RGB", "YBR_FULL", "PALETTE COLOR"):
    case(f"colour-{_word}.dcm".replace(" ", "-"), SKIP + "not-grayscale", colour(_word))
case(
    "floats.dcm",
    SKIP + "float-pixels",
    adjusted(
        lambda ds: (
            ds.add_new(0x7FE00008, "OF", pixels_of(ds).astype("<f4").tobytes()),
            ds.pop("PixelData"),
        )
    ),
)
for _name, _class in (
    ("ct", uids.CTImageStorage),
    ("pet", uids.PositronEmissionTomographyImageStorage),
    ("capture", uids.SecondaryCaptureImageStorage),
    ("ultrasound", uids.UltrasoundImageStorage),
    ("segmentation", uids.SegmentationStorage),
):
    case(f"{_name}.dcm", SKIP + "not-mr", other_class(_class, image=True))
for _name, _class in (
    ("report", uids.BasicTextSRStorage),
    ("key-objects", uids.KeyObjectSelectionDocumentStorage),
    ("presentation", uids.GrayscaleSoftcopyPresentationStateStorage),
    ("structures", uids.RTStructureSetStorage),
    ("raw-data", uids.RawDataStorage),
    ("spectroscopy", uids.MRSpectroscopyStorage),
    ("document", uids.EncapsulatedPDFStorage),
    ("unknown-class", UID("1.2.3.4.5.6")),
):
    case(f"{_name}.dcm", SKIP + "not-an-image", other_class(_class, image=False))
case("DICOMDIR", SKIP + "dicomdir", other_class(uids.MediaStorageDirectoryStorage, image=False))
case(
    "legacy.dcm",
    SKIP + "enhanced-unsupported",
    other_class(uids.LegacyConvertedEnhancedMRImageStorage, image=True),
)
case("frames.dcm", SKIP + "enhanced-unsupported", changed(NumberOfFrames=3))


def _own(ds: Dataset) -> None:
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = "kspacesr-rt", "kspacesr-rt"
    ds.ContributingEquipmentSequence = Sequence([item])


case("own.dcm", SKIP + "already-derived", adjusted(_own))
case("notes.txt", SKIP + "not-dicom", raw(lambda ds: b"The patient QUIXOTE came in late.\n"))
case("picture.png", SKIP + "not-dicom", raw(lambda ds: b"\x89PNG\r\n\x1a\n" + bytes(300)))
case("packed.dcm.gz", SKIP + "not-dicom", raw(lambda ds: gzip.compress(content(ds))))
case("archive.zip", SKIP + "not-dicom", raw(lambda ds: b"PK\x03\x04" + bytes(200)))
case("empty.dcm", SKIP + "not-dicom", raw(lambda ds: b""))
case("one-byte.dcm", SKIP + "not-dicom", raw(lambda ds: b"D"))
case("magic-only.dcm", SKIP + "not-dicom", raw(lambda ds: bytes(128) + b"DICM"))
case("zeros.dcm", SKIP + "not-dicom", raw(lambda ds: bytes(5000)))
case("group-8-junk", SKIP + "not-dicom", raw(lambda ds: b"\x08\x00" + bytes(range(256)) * 4))
case("sparse.bin", SKIP + "not-dicom", sparse)
case(".DS_Store", SKIP + "not-dicom", raw(lambda ds: bytes(4) + b"Bud1" + bytes(100)))
case("fifo", SKIP + "special-file", lambda path, ds: os.mkfifo(path))
case("socket", SKIP + "special-file", socket_at)
case("link.dcm", "written", linked_file)
case("dangling.dcm", SKIP + "special-file", lambda path, ds: path.symlink_to("nowhere"))
case("loop", SKIP + "special-file", lambda path, ds: path.symlink_to("."))
case("device", SKIP + "special-file", lambda path, ds: path.symlink_to("/dev/zero"))
# Ours, but broken.
for _keyword in (
    *("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PixelSpacing", "ImagePositionPatient"),
    "ImageOrientationPatient",
):

    def _without(path: Path, ds: Dataset, keyword: str = _keyword) -> None:
        meta = ds.file_meta
        meta.MediaStorageSOPClassUID = ds.SOPClassUID
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        delattr(ds, keyword)
        buffer = io.BytesIO()
        # The pixels' VR would be looked up in what is missing.
        dcmwrite(buffer, ds, enforce_file_format=False)
        path.write_bytes(buffer.getvalue())

    case(f"without-{_keyword}.dcm", FAIL + "missing-attribute", _without)
case("empty-spacing.dcm", FAIL + "missing-attribute", changed(PixelSpacing=""))
case("zero-spacing.dcm", FAIL + "bad-geometry", changed(PixelSpacing=[0, 1]))
case("negative-spacing.dcm", FAIL + "bad-geometry", changed(PixelSpacing=[1, -1]))
case("short-position.dcm", FAIL + "bad-geometry", changed(ImagePositionPatient=[1, 2]))
case(
    "parallel-axes.dcm", FAIL + "bad-geometry", changed(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
)
case("long-axes.dcm", FAIL + "bad-geometry", changed(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]))
case("no-rows.dcm", FAIL + "bad-geometry", changed(Rows=0))
case("bits-32.dcm", FAIL + "unsupported-bits", changed(BitsAllocated=32))
case("bits-17.dcm", FAIL + "unsupported-bits", changed(BitsStored=17))
case("bits-0.dcm", FAIL + "unsupported-bits", changed(BitsStored=0))
case("sign-7.dcm", FAIL + "unsupported-bits", changed(PixelRepresentation=7))
case("slope-0.dcm", FAIL + "bad-rescale", changed(RescaleSlope=0, RescaleIntercept=0))
case("slope-2.dcm", FAIL + "bad-rescale", changed(RescaleSlope=[1, 2], RescaleIntercept=0))
case("gigapixel.dcm", FAIL + "too-large", sparse_dicom)
case("bomb.dcm", FAIL + "too-large", raw(deflate_bomb))
case("conflict-a", FAIL + "duplicate-conflict", conflicting)
case("conflict-b", FAIL + "duplicate-conflict")
case("cut-pixels.dcm", FAIL + "truncated", raw(lambda ds: content(ds)[:-200]))
case("cut-header.dcm", FAIL + "truncated", raw(lambda ds: content(ds)[:700]))
case("cut-early.dcm", FAIL + "truncated", raw(lambda ds: content(ds)[:380]))
case("no-pixels.dcm", FAIL + "truncated", changed(PixelData=None))
case("few-pixels.dcm", FAIL + "truncated", adjusted(lambda ds: setattr(ds, "Rows", ds.Rows + 1)))


def _cut_deflated(ds: Dataset) -> bytes:
    ds.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    return content(ds)[:-150]


case("cut-deflated.dcm", FAIL + "truncated", raw(_cut_deflated))
case(
    "cut-capsule.dcm",
    FAIL + "truncated",
    raw(lambda ds: content(packed(ds, lossless_jpeg(ds), uids.JPEGLosslessSV1))[:-300]),
)
for _name, _encode, _syntax in (
    ("sv1", lossless_jpeg, uids.JPEGLosslessSV1),
    ("baseline", lambda ds: jpeg(unsigned(ds, 8), 8), uids.JPEGBaseline8Bit),
    ("extended", lambda ds: jpeg(unsigned(ds), 12), uids.JPEGExtended12Bit),
    ("j2k", lambda ds: stream(ds, uids.JPEG2000Lossless), uids.JPEG2000Lossless),
    ("htj2k", htj2k, uids.HTJ2KLossless),
):
    for _kind, _tail in (("cut", b""), ("cut-and-ended", b"\xff\xd9")):
        case(
            f"{_kind}-{_name}.dcm",
            FAIL + "truncated",
            adjusted(lambda ds, e=_encode, t=_tail, s=_syntax: packed(ds, cut(e(ds), tail=t), s)),
        )
case(
    "cut-jpeg-ls.dcm",
    FAIL + "truncated",
    adjusted(lambda ds: packed(ds, cut(stream(ds, uids.JPEGLSLossless)), uids.JPEGLSLossless)),
)
case(
    "cut-and-ended-jpeg-ls.dcm",
    FAIL + "decode",
    adjusted(
        lambda ds: packed(
            ds, cut(stream(ds, uids.JPEGLSLossless), tail=b"\xff\xd9"), uids.JPEGLSLossless
        )
    ),
)
case(
    "cut-rle.dcm",
    FAIL + "truncated",
    adjusted(lambda ds: packed(ds, cut(stream(ds, uids.RLELossless)), uids.RLELossless)),
)
for _name, _syntax in (
    ("sv1", uids.JPEGLosslessSV1),
    ("jpeg-ls", uids.JPEGLSLossless),
    ("j2k", uids.JPEG2000Lossless),
    ("htj2k", uids.HTJ2KLossless),
    ("rle", uids.RLELossless),
):
    case(
        f"rubbish-{_name}.dcm",
        FAIL + "decode",
        adjusted(lambda ds, s=_syntax: packed(ds, bytes(range(1, 200)) * 3, s)),
    )
for _name, _encode, _syntax in (
    ("sv1", lossless_jpeg, uids.JPEGLosslessSV1),
    ("jpeg-ls", lambda ds: stream(ds, uids.JPEGLSLossless), uids.JPEGLSLossless),
    ("j2k", lambda ds: stream(ds, uids.JPEG2000Lossless), uids.JPEG2000Lossless),
):

    def _other_matrix(ds: Dataset, encode: Callable = _encode, syntax: UID = _syntax) -> None:
        packed(ds, encode(ds), syntax)
        ds.Rows += 1

    case(f"other-matrix-{_name}.dcm", FAIL + "decode", adjusted(_other_matrix))
case(
    "two-frames.dcm",
    FAIL + "decode",
    adjusted(
        lambda ds: setattr(
            packed(ds, stream_of_sample(), uids.RLELossless),
            "PixelData",
            encapsulate([stream_of_sample()] * 2),
        )
    ),
)
for _name, _syntax in (
    ("progressive", UID("1.2.840.10008.1.2.4.55")),
    ("spectral", UID("1.2.840.10008.1.2.4.53")),
    ("unknown", UID("1.2.3.4.5.6.7")),
):

    def _undecodable(ds: Dataset, syntax: UID = _syntax) -> bytes:
        whole = content(packed(ds, lossless_jpeg(ds), uids.JPEGLosslessSV1))
        name = str(syntax).encode().ljust(len(uids.JPEGLosslessSV1), b"\0")
        return whole.replace(str(uids.JPEGLosslessSV1).encode(), name)

    case(f"{_name}.dcm", FAIL + "codec", raw(_undecodable))
case("nested.dcm", FAIL + "too-large", raw(nested_bytes))


def stream_of_sample() -> bytes:
    """Return an RLE frame of the sample."""
    return stream(sample(), uids.RLELossless)


def _forbidden(path: Path, ds: Dataset) -> None:
    path.write_bytes(content(ds))
    path.chmod(0)


if os.geteuid() != 0:  # root may read everything
    case("forbidden.dcm", FAIL + "unreadable", _forbidden)
