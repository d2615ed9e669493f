"""Digests of what an output holds: of its pixels, and of its file, which takes the former in.

The UID of an output is made of a digest of its pixels, so they are hashed before there is a file.
That of the file need not hash them again: it is the SHA-256 of the bytes around the pixels and of
their digest, and as hard to meet with other bytes as one of the whole. It says where the pixels
are, so that it can be made of the file alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from kspacesr_rt.dicom.pixels import IntArray
from kspacesr_rt.kspace import Matrix

_CHUNK: Final = 1 << 18
"""Bytes that are read and hashed at a time, 256 KiB: what fits into a cache."""
_BY_PARTS: Final = re.compile(r"(\d{1,9})-(\d{1,5})x(\d{1,5})x([12])-[0-9a-f]{64}")


def pixel_digest(stored: IntArray) -> str:
    """Return the SHA-256 of stored values, ``(y, x)``, and of their shape, in hex digits."""
    digest = hashlib.sha256(repr(stored.shape).encode())
    digest.update(np.ascontiguousarray(stored).data)
    return digest.hexdigest()


def digest_by_parts(
    head: bytes, matrix: Matrix, sample_bytes: int, pixels: str, tail: bytes = b""
) -> str:
    """Return the digest of a file, given that of its pixels.

    Parameters
    ----------
    head, tail
        What stands before and behind them.
    matrix, sample_bytes
        Their rows and columns, and the bytes of each.
    pixels
        Their `pixel_digest`.

    Returns
    -------
        Where the pixels begin and what they are, as in ``1234-512x512x2-``, and a SHA-256.
    """
    digest = hashlib.sha256(b"".join((head, pixels.encode(), tail))).hexdigest()
    return f"{len(head)}-{matrix[0]}x{matrix[1]}x{sample_bytes}-{digest}"


def digest_of_file(path: Path, alike: str) -> str:
    """Return the digest of a file, made as another digest was: by parts, or SHA-256 of the whole.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    parts = _BY_PARTS.fullmatch(alike)
    with path.open("rb", buffering=0) as file:
        if parts is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        n_head, rows, columns, sample_bytes = map(int, parts.groups())
        head = b"".join(_chunks(file, n_head))
        digest = hashlib.sha256(repr((rows, columns)).encode())
        for chunk in _chunks(file, rows * columns * sample_bytes):
            digest.update(chunk)
        return digest_by_parts(
            head, (rows, columns), sample_bytes, digest.hexdigest(), tail=file.read()
        )


def _chunks(file: io.FileIO, n_bytes: int) -> Iterator[bytes]:
    """Yield so many bytes of a file, or what is left of it."""
    while n_bytes and (chunk := file.read(min(n_bytes, _CHUNK))):
        n_bytes -= len(chunk)
        yield chunk
