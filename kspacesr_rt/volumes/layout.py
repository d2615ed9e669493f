"""How samples lie in a file, and how slices come out of them and go back, in bounded memory.

Every format is a stream of samples: blocks of three axes one after the other (the volumes of a 4-D
file), each with a slowest, a middle and a fastest axis. Where slices lie along the slowest axis,
they are read and written one at a time; where they do not, one block is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kspacesr_rt.dicom.clipping import Clipping, measure_cut
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.dicom.pixels import STEPS_MAX, VALUES
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix

Stored = npt.NDArray[Any]
"""Samples as a file has them, shape ``(rows, columns)``."""


class ByteSource(Protocol):
    """What samples are read from."""

    def read(self, n_bytes: int, /) -> bytes:
        """Return up to so many bytes; none at the end."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the samples of a file lie, and what they mean.

    Raises
    ------
    SliceFailed
        ``bad-geometry``: an axis is empty; ``too-large``: more than the limits allow.
    """

    n_blocks: int
    """Blocks of three axes, one after the other: 1, or the volumes of a 4-D file."""
    block: tuple[int, int, int]
    """Samples along the slowest, the middle and the fastest axis of a block."""
    slice_at: int
    """Which of the three the slices lie along: 0 is the slowest."""
    dtype: str
    """Of a sample, with its byte order, as `numpy.dtype.str` has it."""
    slope: float = 1.0
    """Value = stored * slope + intercept."""
    intercept: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be processed."""
        if self.n_blocks < 1 or min(self.block) < 1:
            raise SliceFailed("bad-geometry", "has an axis without samples")
        if math.prod(self.matrix) > current_limits().samples:
            raise too_large("announces a slice of more samples than", "samples")
        if not self.streams and self.block_bytes > current_limits().volume:
            raise too_large(
                "has slices that do not lie one after the other, and volumes of more bytes than",
                "volume",
            )

    @property
    def matrix(self) -> Matrix:
        """Rows and columns of a slice: the slower and the faster of the other two axes."""
        rows, columns = (n for at, n in enumerate(self.block) if at != self.slice_at)
        return rows, columns

    @property
    def n_slices(self) -> int:
        """Slices of all blocks."""
        return self.n_blocks * self.slices_of_block

    @property
    def slices_of_block(self) -> int:
        """Slices of one block."""
        return self.block[self.slice_at]

    @property
    def streams(self) -> bool:
        """Whether slices lie one after the other."""
        return self.slice_at == 0

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return math.prod(self.block) * np.dtype(self.dtype).itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes of all samples."""
        return self.n_blocks * self.block_bytes

    @property
    def chunk(self) -> tuple[int, int, int]:
        """What is read and written at a time: a slice where slices stream, else a block."""
        slow, middle, fast = self.block
        return (1 if self.streams else slow), middle, fast

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return math.prod(self.chunk) * np.dtype(self.dtype).itemsize

    def upscaled(self, upscale: int) -> Layout:
        """Return the layout of the result: more rows and columns, as many slices."""
        slow, middle, fast = (
            n if at == self.slice_at else n * upscale for at, n in enumerate(self.block)
        )
        return replace(self, block=(slow, middle, fast))

    def of_floats(self) -> Layout:
        """Return the same of 32-bit floats, which mean themselves; the byte order stays."""
        dtype = np.dtype(np.float32).newbyteorder(np.dtype(self.dtype).byteorder)
        return replace(self, dtype=dtype.str, slope=1.0, intercept=0.0)

    def slices_in(self, content: bytes) -> Iterator[Stored]:
        """Yield the slices of a chunk."""
        chunk = np.frombuffer(content, np.dtype(self.dtype)).reshape(self.chunk)
        yield from np.moveaxis(chunk, self.slice_at, 0)

    def values(self, stored: Stored) -> FloatArray:
        """Return what stored samples mean, float32.

        Raises
        ------
        SliceFailed
            ``bad-values``: not all are finite; ``bad-rescale``: they are out of what is computed
            in, or float32 would not tell neighbouring stored values apart.
        """
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise SliceFailed(
                "bad-values",
                "holds voxels that are NaN or infinite",
                hint="numpy.nan_to_num or fslmaths -nan makes them numbers",
            )
        with np.errstate(over="ignore"):
            exact = stored.astype(np.float64)
            if (self.slope, self.intercept) != (1.0, 0.0):
                exact = exact * self.slope + self.intercept
            largest = float(np.abs(exact).max())
            values: FloatArray = np.ascontiguousarray(exact, np.float32)
        most = VALUES[1]
        if stored.dtype.kind in "iu":
            most = min(most, STEPS_MAX * abs(self.slope))
        if largest > 0.0 and not VALUES[0] <= largest <= most:
            raise SliceFailed(
                "bad-rescale",
                "holds values out of what is computed in",
                hint="store them as 32-bit floats of moderate size",
            )
        return values

    def to_stored(self, sr: FloatArray) -> Stored:
        """Return values as samples: integers rounded half to even and clipped, never wrapped."""
        dtype = np.dtype(self.dtype)
        exact = (sr.astype(np.float64) - self.intercept) / self.slope
        low, high = self._range
        if dtype.kind in "iu":
            np.rint(exact, out=exact)
        return exact.clip(low, high, out=exact).astype(dtype)

    def measure_cut(self, stored: Stored, sr: FloatArray, lr: FloatArray) -> Clipping:
        """Measure what storing a slice has cut off."""
        low, high = self._range
        return measure_cut(
            stored, sr, lr, low=low, high=high, slope=self.slope, intercept=self.intercept
        )

    @property
    def _range(self) -> tuple[float, float]:
        dtype = np.dtype(self.dtype)
        limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        return float(limits.min), float(limits.max)


def read_exactly(source: ByteSource, n_bytes: int) -> bytes:
    """Read so many bytes.

    Raises
    ------
    SliceFailed
        ``truncated``: there are fewer.
    """
    parts: list[bytes] = []
    while n_bytes > 0 and (part := source.read(min(n_bytes, 1 << 24))):
        parts.append(part)
        n_bytes -= len(part)
    if n_bytes:
        raise SliceFailed("truncated", "holds fewer samples than its header announces")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def stored_slices(source: ByteSource, layout: Layout) -> Iterator[Stored]:
    """Yield every slice of a file, from where its samples begin.

    Raises
    ------
    SliceFailed
        ``truncated``.
    """
    for _ in range(layout.n_bytes // layout.chunk_bytes):
        yield from layout.slices_in(read_exactly(source, layout.chunk_bytes))


class SliceJoiner:
    """Makes chunks, as a file has them, of slices that come one after the other."""

    def __init__(self, layout: Layout) -> None:
        """Begin with nothing; `layout` is that of the file to write."""
        self._layout = layout
        self._block: Stored | None = None
        self._n_added = 0

    def chunks(self, slices: Iterable[Stored]) -> Iterator[bytes]:
        """Yield what can be written once these slices are there."""
        layout = self._layout
        for stored in slices:
            if layout.streams:
                yield stored.tobytes()
                continue
            if self._block is None:
                self._block = np.empty(layout.block, np.dtype(layout.dtype))
            np.moveaxis(self._block, layout.slice_at, 0)[self._n_added] = stored
            self._n_added += 1
            if self._n_added == layout.slices_of_block:
                yield self._block.tobytes()
                self._block, self._n_added = None, 0
