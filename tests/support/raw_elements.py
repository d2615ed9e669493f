"""Read and write DICOM elements as bytes, without a library that understands them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from pydicom import dcmwrite
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

LONG = {
    *(b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV"),
    *(b"UC", b"UN", b"UR", b"UT", b"UV"),
}
UNDEFINED = 0xFFFFFFFF


def elements(content: bytes) -> dict[tuple[int, ...], tuple[str, bytes]]:
    """Return VR and bytes of each element of an Explicit VR Little Endian file, by its path.

    The path of an element in a sequence is ``(tag of the sequence, number of the item, tag)``.
    """
    assert content[128:132] == b"DICM"
    found: dict[tuple[int, ...], tuple[str, bytes]] = {}
    _walk(content, 132, len(content), (), found)
    return found


def _walk(data, at, end, path, found):
    while at < end:
        group, element = struct.unpack_from("<HH", data, at)
        tag = group << 16 | element
        if tag in (0xFFFEE00D, 0xFFFEE0DD):
            return at + 8
        vr = data[at + 4 : at + 6]
        if vr in LONG:
            (length,), at = struct.unpack_from("<L", data, at + 8), at + 12
        else:
            (length,), at = struct.unpack_from("<H", data, at + 6), at + 8
        if vr != b"SQ":
            assert length != UNDEFINED
            found[(*path, tag)] = vr.decode(), data[at : at + length]
            at += length
            continue
        found[(*path, tag)] = "SQ", b""
        stop, number = (end if length == UNDEFINED else at + length), 0
        while at < stop:
            group, element, n = struct.unpack_from("<HHL", data, at)
            at += 8
            if (group, element) == (0xFFFE, 0xE0DD):
                break
            assert (group, element) == (0xFFFE, 0xE000)
            inner = end if n == UNDEFINED else at + n
            at = _walk(data, at, inner, (*path, tag, number), found)
            number += 1
    return at


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return an explicit little-endian element, whatever its value."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    size = struct.pack("<HL", 0, len(value)) if vr in LONG else struct.pack("<H", len(value))
    return head + size + value


def item(value: bytes) -> bytes:
    """Return an item of a sequence."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def content(ds, syntax: UID = ExplicitVRLittleEndian, *replaced: tuple[bytes, bytes]) -> bytes:
    """Return a data set as the bytes of a file, some bytes of it replaced by as many others."""
    deflated = syntax == DeflatedExplicitVRLittleEndian
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if deflated else syntax
    if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    data = buffer.getvalue()
    for old, new in replaced:
        assert data.count(old) == 1, old
        assert len(old) == len(new)
        data = data.replace(old, new)
    return deflate(data) if deflated else data


def deflate(data: bytes) -> bytes:
    """Return an Explicit VR Little Endian file as a deflated one (PS3.5 A.5)."""
    (n_bytes,) = struct.unpack_from("<L", data, 140)
    start = 144 + n_bytes
    old = element(0x00020010, b"UI", ExplicitVRLittleEndian.encode() + b"\0")
    new = element(0x00020010, b"UI", DeflatedExplicitVRLittleEndian.encode())
    meta = data[144:start].replace(old, new)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(data[start:]) + packer.flush()
    return data[:140] + struct.pack("<L", len(meta)) + meta + body + bytes(len(body) % 2)


def insert(data: bytes, raw: bytes, before: int) -> bytes:
    """Put bytes before the explicit element with this tag."""
    at = data.index(struct.pack("<HH", before >> 16, before & 0xFFFF), 132)
    return data[:at] + raw + data[at:]
