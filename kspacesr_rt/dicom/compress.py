"""Compress the pixels of an output without loss, and prove it by decoding them again."""

from __future__ import annotations

import os
import secrets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, HTJ2KLossless, JPEG2000Lossless, RLELossless

from kspacesr_rt.dicom.attributes import is_signed, term
from kspacesr_rt.dicom.codecs import find_decoder
from kspacesr_rt.dicom.pixels import IntArray
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import BackendUnavailableError, InputError, SliceFailed

Compression = Literal["none", "rle", "j2k", "htj2k"]
SYNTAXES: Final[dict[Compression, UID | None]] = {
    "none": None,
    "rle": RLELossless,
    "j2k": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
}
_NEEDS: Final[dict[UID, dict[str, str]]] = {
    RLELossless: {},
    JPEG2000Lossless: {"pylibjpeg": "pylibjpeg", "openjpeg": "pylibjpeg-openjpeg"},
    # OpenJPH encodes; OpenJPEG, which reads HTJ2K, does not write it, but checks what was written.
    HTJ2KLossless: {
        "imagecodecs": "imagecodecs",
        "pylibjpeg": "pylibjpeg",
        "openjpeg": "pylibjpeg-openjpeg",
    },
}
"""Modules that write and check a syntax, and the packages that bring them; RLE is pydicom's."""
_PIXEL_ATTRIBUTES: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_SIZE_AT: Final = 42
"""Where a bare code stream of one component states its depth (ISO/IEC 15444-1 A.5.1)."""


def syntax_of(compression: str) -> UID | None:
    """Return the transfer syntax of a compression; None leaves pixels as they are.

    Raises
    ------
    InputError
        If there is no such compression.
    BackendUnavailableError
        If its encoder is not installed; the hint says what to type.
    """
    if compression not in SYNTAXES:
        raise InputError(f"compress is one of {', '.join(SYNTAXES)}, not {compression!r}")
    syntax = SYNTAXES[compression]
    if syntax is not None:
        missing = [package for name, package in _NEEDS[syntax].items() if not find_spec(name)]
        if missing:
            raise BackendUnavailableError(
                f"nothing installed writes {syntax.name}", hint=f"pip install {' '.join(missing)}"
            )
    return syntax


def compress(dataset: Dataset, syntax: UID) -> None:
    """Replace the native pixels of a single-frame data set by compressed ones, in place.

    Parameters
    ----------
    dataset
        From `derive`, with `file_meta`; one frame, one sample.
    syntax
        A lossless one of `SYNTAXES`.

    Raises
    ------
    SliceFailed
        ``encode``: the encoder gives up.
    """
    frame = compress_frame(native_samples(dataset), dataset, syntax)
    dataset.PixelData = encapsulate([frame])  # with a Basic Offset Table (PS3.5 A.4)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax


def native_samples(dataset: Dataset) -> IntArray:
    """Return the uncompressed pixels of a single-frame data set, ``(rows, columns)``."""
    n_samples = int(dataset.Rows) * int(dataset.Columns)
    flat = np.frombuffer(dataset.PixelData, sample_dtype(dataset), count=n_samples)
    return flat.reshape(int(dataset.Rows), int(dataset.Columns))


def sample_dtype(dataset: Dataset) -> np.dtype[Any]:
    """Return the type of native samples."""
    kind = "i" if is_signed(dataset) else "u"
    return np.dtype(f"<{kind}{int(dataset.BitsAllocated) // 8}")


_one_encoder = threading.Lock()
"""OpenJPEG's encoder, as pylibjpeg-openjpeg 2.6 calls it, writes where it should not as soon as two
threads are in it: three of four runs of 1500 small frames each ended in a segmentation fault."""


def compress_frame(stored: IntArray, header: Dataset, syntax: UID) -> bytes:
    """Return one frame as a code stream of the precision that the header states."""
    bits, signed = int(header.BitsStored), is_signed(header)
    try:
        if syntax == HTJ2KLossless:
            return _htj2k(stored, bits, signed=signed)
        with quiet_pydicom(), _one_encoder:
            frame: bytes = get_encoder(syntax).encode(
                np.ascontiguousarray(stored),
                rows=stored.shape[0],
                columns=stored.shape[1],
                samples_per_pixel=1,
                number_of_frames=1,
                bits_allocated=int(header.BitsAllocated),
                bits_stored=bits,
                pixel_representation=int(signed),
                photometric_interpretation=term(header, "PhotometricInterpretation"),
            )
            return frame
    except Exception as exc:  # an encoder's error can be anything
        raise SliceFailed("encode", f"its pixels cannot be encoded as {syntax.name}") from exc


def _htj2k(stored: IntArray, bits: int, *, signed: bool) -> bytes:
    """Encode with the precision of Bits Stored, which the encoder takes from the array instead.

    The depth in the code stream only says what a decoder adds to unsigned samples, half of the
    range. So they are encoded as signed ones less that half, and the depth is stated afterwards.
    """
    import imagecodecs

    half = 0 if signed else 1 << bits - 1
    centred = np.ascontiguousarray(
        stored.astype(np.int32) - half, dtype=stored.dtype.str.replace("u", "i")
    )
    frame = bytearray(imagecodecs.htj2k_encode(centred, reversible=True))
    frame[_SIZE_AT] = (0x80 if signed else 0) | bits - 1
    return bytes(frame)


def require_lossless(packed: Dataset, stored: IntArray) -> None:
    """Decode what was written and compare it with what it must be.

    Raises
    ------
    SliceFailed
        ``encode``: a single sample differs, or nothing can be decoded.
    """
    syntax = UID(packed.file_meta.TransferSyntaxUID)
    try:
        with quiet_pydicom():
            decoded, _ = cast(Any, find_decoder(syntax)).as_array(packed, raw=True)
    except SliceFailed as exc:
        raise SliceFailed("encode", f"its output cannot be decoded: {exc}") from exc
    except Exception as exc:  # a decoder's error can be anything
        raise SliceFailed("encode", "its output cannot be decoded") from exc
    if decoded.dtype != stored.dtype or not np.array_equal(decoded, stored):
        raise SliceFailed("encode", f"its output does not survive {syntax.name}")


@contextmanager
def packed_frames(native: Path, syntax: UID, *, durable: bool = True) -> Iterator[Path]:
    """Give a compressed copy of a native multi-frame file while the block runs.

    One frame is in memory at a time. Each is decoded again before it is written, and the offsets
    of all, known at the end, are put into the Basic Offset Table (PS3.5 A.4).

    Raises
    ------
    SliceFailed
        ``encode``: a frame cannot be encoded or does not survive it; ``too-large``: offsets take
        more than 32 bits.
    """
    packed = native.with_name(
        f"{native.name[: -len('.xxxxxxxx.part')]}.{secrets.token_hex(4)}.part"
    )
    try:
        with native.open("rb") as source, packed.open("xb") as target:
            _pack(source, target, syntax)
            target.flush()
            if durable:
                os.fsync(target.fileno())
        yield packed
    finally:
        with suppress(OSError):
            packed.unlink(missing_ok=True)


def _pack(source: BinaryIO, target: BinaryIO, syntax: UID) -> None:
    with quiet_pydicom():
        header = dcmread(source, stop_before_pixels=True)
    source.seek(12, os.SEEK_CUR)  # tag, VR and length of the native pixel data
    header.file_meta.TransferSyntaxUID = syntax
    dcmwrite(target, header, enforce_file_format=True)
    n_frames, shape = int(header.NumberOfFrames), (int(header.Rows), int(header.Columns))
    dtype = sample_dtype(header)
    offsets: list[int] = []
    target.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    table = target.tell()
    target.write(_item(bytes(4 * n_frames)))
    first = target.tell()
    for _ in range(n_frames):
        content = source.read(shape[0] * shape[1] * dtype.itemsize)
        stored = np.frombuffer(content, dtype).reshape(shape)
        frame = compress_frame(stored, header, syntax)
        _require_frame(frame, stored, header)
        offsets.append(target.tell() - first)
        target.write(_item(frame))
    target.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    if offsets[-1] < 1 << 32:
        target.seek(table + 8)
        target.write(struct.pack(f"<{n_frames}L", *offsets))
    else:
        raise SliceFailed(
            "too-large", "its compressed frames are more than 4 GiB", hint="--compress none"
        )


def _item(content: bytes) -> bytes:
    padded = content + bytes(len(content) % 2)
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(padded)) + padded


def _require_frame(frame: bytes, stored: IntArray, header: Dataset) -> None:
    single = Dataset()
    for keyword in _PIXEL_ATTRIBUTES:
        setattr(single, keyword, header[keyword].value)
    single.file_meta = header.file_meta
    single.PixelData = encapsulate([frame])
    single["PixelData"].is_undefined_length = True
    require_lossless(single, stored)
