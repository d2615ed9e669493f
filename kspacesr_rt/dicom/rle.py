"""Decode RLE frames to exactly the samples that the header announces (PS3.5 annex G).

pydicom decodes whatever a segment holds before it looks at how much that is: a frame of 20 MB took
1.4 GB, and what was too much of it was dropped without a word.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

import numpy as np

from kspacesr_rt.dicom.codestream import ENDS_EARLY, CodeStreamError

_HEADER_BYTES: Final = 64
_PADDING: Final = b"\0\x80"
"""What may follow the last sample: zeros up to an even length, and bytes that say nothing."""


def decode_rle(frame: bytes, n_samples: int, bytes_per_sample: int) -> bytes:
    """Return the samples of a frame of one sample a pixel, little-endian.

    Raises
    ------
    CodeStreamError
        If it holds fewer samples, or more.
    """
    if len(frame) < _HEADER_BYTES:
        raise CodeStreamError(ENDS_EARLY)
    n_segments, *offsets = struct.unpack_from("<16L", frame)
    if n_segments != bytes_per_sample:
        raise CodeStreamError("an RLE frame of another number of segments than of bytes a sample")
    limits = [*offsets[:n_segments], len(frame)]
    if limits[0] < _HEADER_BYTES or limits != sorted(limits):
        raise CodeStreamError("an RLE frame whose segments are not one after the other")
    planes = [
        np.frombuffer(_decoded(frame[start:end], n_samples), np.uint8)
        for start, end in pairwise(limits)
    ]
    return np.stack(planes[::-1], axis=1).tobytes()  # the most significant bytes come first


def _decoded(segment: bytes, n_samples: int) -> bytes:
    found, at, end = bytearray(), 0, len(segment)
    while len(found) < n_samples:
        if at >= end:
            raise CodeStreamError(ENDS_EARLY)
        count = segment[at]
        if count < 128:
            found += segment[at + 1 : at + 2 + count]
            at += 2 + count
        elif count > 128:
            found += segment[at + 1 : at + 2] * (257 - count)
            at += 2
        else:
            at += 1
    if len(found) - n_samples > 1 or segment[at:].strip(_PADDING):  # one: made even
        raise CodeStreamError("an RLE segment holds more samples than the header announces")
    return bytes(found[:n_samples])
