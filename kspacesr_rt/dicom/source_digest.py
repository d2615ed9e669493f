"""What of a source reaches its output, as one digest: two files that agree in it give one output.

Private elements that are dropped, words of Image Type that no output keeps, retrieval references
and the encoding are not in it, so a file that was sent, stored or anonymised anew in these alone
is known again. It is taken from the output's header, where all of that has been settled, and from
the values that were computed on, not from a second list of what matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, Self

import numpy as np
from pydicom.dataset import Dataset

from kspacesr_rt import kspace
from kspacesr_rt.dicom.derive import derive
from kspacesr_rt.dicom.enhanced.derive import derive_enhanced
from kspacesr_rt.dicom.enhanced.pixels import FrameReader
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.output_identity import output_header_digest
from kspacesr_rt.dicom.pixels import DecodedSlice, read_slice
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.raw_header import selected_elements
from kspacesr_rt.dicom.source_slice import SourceSlice
from kspacesr_rt.dicom.undo_interpolation import undo_interpolation
from kspacesr_rt.kspace import Matrix

EXTREMES: Final = frozenset({0x00280106, 0x00280107})
"""Smallest and Largest Image Pixel Value: an output that has them has those of its own pixels."""
PADDING: Final = frozenset({0x00280120, 0x00280121})
"""Pixel Padding Value and Range Limit: whether they stay hangs on the output's pixels, so they
count as the source has them."""


class SourceDigest:
    """Takes what of a source reaches its output; SHA-256."""

    def __init__(self, header_digest: str) -> None:
        """Begin with the digest of what the output's header tells of the source."""
        self._digest = hashlib.sha256(header_digest.encode())

    @classmethod
    def of_slice(cls, derived: Dataset, decoded: DecodedSlice) -> Self:
        """Return the digest of a classic slice.

        Parameters
        ----------
        derived
            From `derive`, with any pixels: they do not count.
        decoded
            What it was derived from.

        Raises
        ------
        SliceFailed
            ``unreadable``: a value cannot be written.
        """
        header = selected_elements(derived, lambda tag: tag not in EXTREMES | PADDING)
        for tag in PADDING & decoded.dataset.keys():
            header[tag] = decoded.dataset.get_item(tag)
        extremes = [tag in derived for tag in sorted(EXTREMES)]
        digest = cls(f"{output_header_digest(header)}/{extremes}")
        digest.add(decoded)
        return digest

    def add(self, decoded: DecodedSlice) -> None:
        """Take the values of a slice, or of the next frame.

        Those of a whole file follow from what it stores and from its header.
        """
        self._digest.update(repr(decoded.values.shape).encode())
        self._digest.update(decoded.stored_digest or np.ascontiguousarray(decoded.values).data)
        if decoded.padding is not None:
            self._digest.update(np.packbits(decoded.padding).data)

    def passing(self, frames: Iterable[DecodedSlice]) -> Iterator[DecodedSlice]:
        """Yield frames, taking each on its way."""
        for frame in frames:
            self.add(frame)
            yield frame

    def hexdigest(self) -> str:
        """Return the digest of what was taken so far."""
        return self._digest.hexdigest()


def source_digest(source: SourceSlice, derivation: Derivation, matrix: Matrix) -> str:
    """Read a file for the digest of what of it would reach its output.

    Parameters
    ----------
    source
        Classic or multi-frame.
    derivation
        What would make the output.
    matrix
        What is processed of a classic slice: its own matrix, or the one that was acquired.

    Raises
    ------
    SliceFailed, SliceSkipped
        If it gives none.
    """
    with as_slice_failure():
        if source.n_frames is not None:
            reader = FrameReader(source)
            digest = SourceDigest(
                output_header_digest(derive_enhanced(reader.take_header(), derivation))
            )
            for frame in reader:
                digest.add(frame)
            return digest.hexdigest()
        stored = read_slice(source)
        if matrix != stored.values.shape:
            derivation = replace(derivation, cropped_to=matrix)
        decoded = undo_interpolation(stored, matrix)
        any_values = np.zeros(kspace.upscaled(matrix, derivation.upscale), np.float32)
        return SourceDigest.of_slice(derive(decoded, any_values, derivation), decoded).hexdigest()
