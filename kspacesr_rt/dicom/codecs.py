"""Decode compressed frames, each looked into first: one permissive codec for each compression.

========================================= ====================== ============
compression                               decoded by             licence
========================================= ====================== ============
JPEG baseline, extended 12 bit, lossless  imagecodecs            BSD-3-Clause
JPEG-LS                                   pyjpegls               MIT
JPEG 2000, HTJ2K                          pylibjpeg-openjpeg     MIT
RLE                                       `rle`                  Apache-2.0
========================================= ====================== ============

imagecodecs brings libjpeg-turbo 3, which knows 12-bit and lossless JPEG; python-gdcm decodes them
too, but writes about the file to stderr from C, and pydicom refuses its 12-bit results.
pylibjpeg-libjpeg would be GPL.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from kspacesr_rt.dicom.codestream import (
    ENDS_EARLY,
    JPEG_PROCESSES,
    CodeStream,
    CodeStreamError,
    read_jpeg,
    read_jpeg2000,
    without_remarks,
)
from kspacesr_rt.dicom.failures import failure_of
from kspacesr_rt.dicom.rle import decode_rle
from kspacesr_rt.errors import SliceFailed

_POISON: Final = bytes((0x5A, 0xA5, 0x33, 0x1D)) * 32
"""Appended to a scan: a whole one ignores it, a cut one goes on with it."""

DECODER_DEPENDENCIES: Final[dict[UID, tuple[str, ...]]] = {
    RLELossless: (),
    **dict.fromkeys(JPEGTransferSyntaxes, ("imagecodecs",)),
    **dict.fromkeys(JPEGLSTransferSyntaxes, ("pyjpegls",)),
    **dict.fromkeys(
        (*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL),
        ("pylibjpeg", "pylibjpeg-openjpeg"),
    ),
}
"""Packages that decode a transfer syntax; under this name, pydicom's plug-in protocol."""
_MODULES: Final = {
    "imagecodecs": "imagecodecs",
    "pyjpegls": "jpeg_ls",
    "pylibjpeg": "pylibjpeg",
    "pylibjpeg-openjpeg": "openjpeg",
}


def is_available(uid: UID) -> bool:
    """Return whether a transfer syntax can be decoded here (pydicom's plug-in protocol)."""
    return all(find_spec(_MODULES[name]) for name in DECODER_DEPENDENCIES[uid])


def find_decoder(syntax: UID) -> Decoder:
    """Return a decoder of a transfer syntax that accepts only whole frames.

    Raises
    ------
    SliceFailed
        ``codec``: nothing installed can decode it; the hint says what would.
    """
    if syntax not in DECODER_DEPENDENCIES:
        try:
            return get_decoder(syntax)
        except NotImplementedError as exc:
            raise SliceFailed("codec", f"{syntax.name} is not supported") from exc
    if not is_available(syntax):
        raise SliceFailed(
            "codec",
            f"nothing installed decodes {syntax.name}",
            hint=f"pip install {' '.join(DECODER_DEPENDENCIES[syntax])}",
        )
    decoder = Decoder(syntax)  # one of our own: pydicom's shared one would try its plug-ins too
    decoder.add_plugin("kspacesr", (__name__, "decode_frame"))
    return decoder


def decode_failure(exc: Exception, syntax: UID) -> SliceFailed:
    """Return what an exception of a decoder means; its text quotes what it likes."""
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno is not None):
        return failure_of(exc)
    if ENDS_EARLY in str(exc):
        return SliceFailed("truncated", f"its {syntax.name} pixel data end early")
    return SliceFailed("decode", f"its {syntax.name} pixel data cannot be decoded")


def decode_frame(src: bytes, runner: Any) -> bytes | bytearray:
    """Return a frame's samples, little-endian, in Bits Allocated (pydicom's plug-in protocol).

    Raises
    ------
    CodeStreamError
        If the frame is cut or is not of the size that the header announces.
    """
    syntax = UID(runner.transfer_syntax)
    if syntax == RLELossless:
        if runner.samples_per_pixel != 1:
            raise CodeStreamError("several samples a pixel")
        return decode_rle(src, runner.rows * runner.columns, runner.bits_allocated // 8)
    is_jpeg, is_jpeg_ls = syntax in JPEGTransferSyntaxes, syntax in JPEGLSTransferSyntaxes
    stream = read_jpeg(src) if is_jpeg or is_jpeg_ls else read_jpeg2000(src)
    _require_announced(stream, runner)
    if is_jpeg:
        return _decode_jpeg(src, stream, runner.bits_allocated)
    plugin = "pyjpegls" if is_jpeg_ls else "pylibjpeg"
    decode = importlib.import_module(f"pydicom.pixels.decoders.{plugin}")._decode_frame
    decoded: bytes | bytearray = decode(without_remarks(src) if is_jpeg_ls else src, runner)
    return decoded


def _require_announced(stream: CodeStream, runner: Any) -> None:
    found = (stream.rows, stream.columns, stream.components)
    if found != (runner.rows, runner.columns, runner.samples_per_pixel):
        raise CodeStreamError("the code stream has another matrix than the header announces")
    if stream.precision > runner.bits_allocated:
        raise CodeStreamError("the code stream has more bits than the header announces")


def _decode_jpeg(src: bytes, stream: CodeStream, bits_allocated: int) -> bytes:
    import imagecodecs

    if stream.process not in JPEG_PROCESSES:
        raise CodeStreamError("a JPEG process that DICOM has retired")
    samples = imagecodecs.jpeg8_decode(src)
    poisoned = src[: stream.end] + _POISON + src[stream.end :]
    if not np.array_equal(samples, imagecodecs.jpeg8_decode(poisoned)):
        raise CodeStreamError(ENDS_EARLY)
    if samples.shape != (stream.rows, stream.columns):
        raise CodeStreamError("the code stream has another matrix than the header announces")
    return samples.astype(f"<u{bits_allocated // 8}").tobytes()
