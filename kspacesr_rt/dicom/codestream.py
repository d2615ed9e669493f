"""Look into a compressed frame before a codec does: what it holds, and whether it is whole.

Codecs are too kind to be trusted with this. libjpeg paints the lines that a cut stream lacks and
says so in a counter that no binding shows; a 300-byte stream can ask for gigabytes. The markers
tell both beforehand.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

ENDS_EARLY: Final = "the code stream ends early"
"""How the message of a cut stream begins, also where a library has wrapped the error."""

_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""SOF0 to SOF15 (ISO/IEC 10918-1 table B.1), and SOF55 of JPEG-LS (ISO/IEC 14495-1 C.2.2)."""
JPEG_LOSSLESS: Final = 0xC3
JPEG_PROCESSES: Final = frozenset({0xC0, 0xC1, JPEG_LOSSLESS})
"""Baseline, extended sequential, lossless: what DICOM has not retired."""
JPEG_LS: Final = 0xF7
_NEEDED_BY_JPEG_LS: Final = frozenset({JPEG_LS, 0xF8, _DRI})
"""Frame header, presets (ISO/IEC 14495-1 C.2.4), restart interval."""
_SCAN_MARKER: Final = re.compile(rb"\xff+([\x01-\xfe])")
_J2K_START: Final = b"\xff\x4f\xff\x51"
_JP2_START: Final = b"\x00\x00\x00\x0cjP  "
"""The signature box (ISO/IEC 15444-1 I.5.1)."""
_SOT, _EOC = 0xFF90, 0xFFD9


class CodeStreamError(ValueError):
    """A compressed frame is cut, or holds something else than the header announces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeStream:
    """What a compressed frame says of itself."""

    rows: int
    """Lines."""
    columns: int
    """Samples a line."""
    components: int
    """Samples a pixel."""
    precision: int
    """Bits a sample."""
    process: int
    """Second byte of the JPEG frame header's marker; 0 for JPEG 2000."""
    end: int
    """Where the compressed data ends, before the End of Image; of JPEG only, else 0."""


def read_jpeg(frame: bytes) -> CodeStream:
    """Read the markers of a JPEG or JPEG-LS stream of one scan.

    Raises
    ------
    CodeStreamError
        If it ends early, lacks restart intervals, or cannot be a stream of one scan.
    """
    if frame[:2] != bytes((0xFF, _SOI)):
        raise CodeStreamError("no JPEG stream")
    at, interval, header = 2, 0, None
    while True:
        marker, at = _next_marker(frame, at)
        if at + 2 > len(frame):
            raise CodeStreamError(ENDS_EARLY)
        (length,) = struct.unpack_from(">H", frame, at)
        segment = frame[at + 2 : at + length]
        if length < 2 or len(segment) != length - 2:
            raise CodeStreamError(ENDS_EARLY)
        at += length
        if marker in _FRAME_HEADERS and len(segment) >= 6:
            if header is not None:
                raise CodeStreamError("a JPEG stream of several frame headers")
            header = marker, *struct.unpack_from(">BHHB", segment)
        elif marker == _DRI and len(segment) == 2:
            (interval,) = struct.unpack(">H", segment)
        elif marker == _SOS:
            break
        elif marker == _EOI:
            raise CodeStreamError("a JPEG stream without a scan")
    if header is None:
        raise CodeStreamError("a JPEG stream without a frame header")
    process, precision, rows, columns, components = header
    n_restarts, end = _scan(frame, at, in_jpeg_ls=process == JPEG_LS)
    if interval and process != JPEG_LS:
        n_units = rows * columns
        if process != JPEG_LOSSLESS:
            n_units = -(-rows // 8) * -(-columns // 8)
        if n_restarts != max(0, -(-n_units // interval) - 1):
            raise CodeStreamError(f"{ENDS_EARLY}: restart intervals are missing")
    return CodeStream(
        rows=rows,
        columns=columns,
        components=components,
        precision=precision,
        process=process,
        end=end,
    )


def without_remarks(frame: bytes) -> bytes:
    """Return a JPEG-LS stream that `read_jpeg` accepts without the segments no decoder needs.

    CharLS gives up at segments that are JPEG's, such as an empty Huffman table; others skip them.
    """
    kept, at = bytearray(frame[:2]), 2
    while True:
        marker, at = _next_marker(frame, at)
        if marker == _SOS:
            return bytes(kept) + bytes((0xFF, _SOS)) + frame[at:]
        (length,) = struct.unpack_from(">H", frame, at)
        if marker in _NEEDED_BY_JPEG_LS:
            kept += bytes((0xFF, marker)) + frame[at : at + length]
        at += length


def _next_marker(frame: bytes, at: int) -> tuple[int, int]:
    found = _SCAN_MARKER.match(frame, at)
    if found is None:
        raise CodeStreamError(
            ENDS_EARLY if at >= len(frame) else "no JPEG marker where one must be"
        )
    return found[1][0], found.end()


def _scan(frame: bytes, at: int, *, in_jpeg_ls: bool) -> tuple[int, int]:
    """Return the restart markers in the compressed data, and where that data ends."""
    n_restarts = 0
    for found in _SCAN_MARKER.finditer(frame, at):
        marker = found[1][0]
        if in_jpeg_ls and marker < 0x80:
            continue  # a stuffed bit, ISO/IEC 14495-1 A.1
        if 0xD0 <= marker <= 0xD7:
            n_restarts += 1
        elif marker == _EOI:
            return n_restarts, found.start()
        else:
            raise CodeStreamError("a JPEG stream of several scans")
    raise CodeStreamError(ENDS_EARLY)


def read_jpeg2000(frame: bytes) -> CodeStream:
    """Read the markers of a JPEG 2000 or HTJ2K code stream, bare or in a JP2 box.

    Raises
    ------
    CodeStreamError
        If a tile-part ends early or a tile is missing (ISO/IEC 15444-1 A.4).
    """
    start = _code_stream(frame)
    if not frame.startswith(_J2K_START, start):
        raise CodeStreamError("no JPEG 2000 code stream")
    try:
        return _read_jpeg2000(frame, start)
    except struct.error as exc:
        raise CodeStreamError(ENDS_EARLY) from exc


def _code_stream(frame: bytes) -> int:
    """Return where the code stream begins: what a box before it holds may look like one."""
    if not frame.startswith(_JP2_START):
        return 0
    at = 0
    while at + 8 <= len(frame):
        length, kind = struct.unpack_from(">L4s", frame, at)
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)
        if length == 1 and at + 16 <= len(frame):
            (length,) = struct.unpack_from(">Q", frame, at + 8)
        if length < 8:  # 0: reaches to the end
            break
        at += length
    return len(frame)


def _read_jpeg2000(frame: bytes, start: int) -> CodeStream:
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components, depth, step_x, step_y = (
        struct.unpack_from(">8LHBBB", frame, start + 8)
    )
    if not (tile_x and tile_y and components and x > x0 and y > y0 and step_x == step_y == 1):
        raise CodeStreamError("an impossible JPEG 2000 image size")
    n_tiles = -(-(x - tile_x0) // tile_x) * -(-(y - tile_y0) // tile_y)
    at = start + 2
    seen: set[int] = set()
    while len(frame) - at >= 2:  # what follows the last tile-part can be a byte of padding
        (marker,) = struct.unpack_from(">H", frame, at)
        if marker == _EOC:
            break
        if seen and marker == 0:
            if any(frame[at:]):
                raise CodeStreamError("no JPEG 2000 marker where one must be")
            break
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if marker == _SOT:
            tile, part_length = struct.unpack_from(">HL", frame, at + 4)
            seen.add(tile)
            if part_length == 0:  # reaches to the end of the stream
                at = frame.rfind(b"\xff\xd9")
                part_length = 0 if at > 0 else len(frame) + 1
            length = part_length - 2
        at += 2 + length
        if (length < 0 and marker != _SOT) or at > len(frame):
            raise CodeStreamError(ENDS_EARLY)
    if len(seen) != n_tiles:
        raise CodeStreamError(f"{ENDS_EARLY}: tiles are missing")
    return CodeStream(
        rows=y - y0,
        columns=x - x0,
        components=components,
        precision=(depth & 0x7F) + 1,
        process=0,
        end=0,
    )
