"""Read volumes: the header first, then slice after slice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from kspacesr_rt.dicom import DecodedSlice
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.volumes.arrays import ArrayVolume
from kspacesr_rt.volumes.fastmri import FastmriVolume
from kspacesr_rt.volumes.layout import stored_slices
from kspacesr_rt.volumes.nifti import NiftiVolume
from kspacesr_rt.volumes.sidecar import Beside
from kspacesr_rt.volumes.source_volume import Plane, SourceVolume, VolumeKind
from kspacesr_rt.volumes.volume import Volume

READERS: Final[dict[VolumeKind, Callable[[Path, Plane], Volume]]] = {
    "nifti": NiftiVolume.read,
    "npy": ArrayVolume.read_npy,
    "npz": ArrayVolume.read_npz,
    "hdf5": FastmriVolume.read,
}


def read_volume(source: SourceVolume) -> Volume:
    """Read the header of a file that was scanned.

    Raises
    ------
    SliceFailed
        ``changed``: it is another one now; or what is wrong with it.
    """
    volume = READERS[source.kind](source.path, source.plane)
    if volume.layout != source.layout:
        raise SliceFailed("changed", "the file was replaced while it waited to be read")
    return volume


def volume_slices(
    volume: Volume, on_stored: Callable[[bytes], None] = lambda content: None
) -> Iterator[DecodedSlice]:
    """Yield the slices of a volume; when the last one is taken, the file is known to be sound.

    Parameters
    ----------
    volume
        From `read_volume`.
    on_stored
        Given the samples of each slice, as they are stored.

    Raises
    ------
    SliceFailed
        ``truncated``, ``unreadable``, ``bad-values``, ``bad-rescale``, ``too-large``.
    """
    with volume.samples() as source:
        for stored in stored_slices(source, volume.layout):
            on_stored(stored.tobytes())
            values = volume.layout.values(stored)
            yield DecodedSlice(dataset=Dataset(), values=values, padding=None)


class VolumeDigest:
    """Takes what of a source reaches its output; SHA-256, see `kspacesr_rt.dicom.source_digest`."""

    def __init__(self, volume: Volume, beside: Beside) -> None:
        self._digest = hashlib.sha256(volume.header_content)
        self._digest.update(repr(volume.layout).encode() + beside.content())

    def add(self, content: bytes) -> None:
        """Take the samples of the next slice."""
        self._digest.update(content)

    def hexdigest(self) -> str:
        """Return the digest of what was taken so far."""
        return self._digest.hexdigest()


def volume_digest(source: SourceVolume) -> str:
    """Read a file for the digest of what of it would reach its output.

    Raises
    ------
    SliceFailed, SliceSkipped
        If it gives none.
    """
    with as_slice_failure():
        volume = read_volume(source)
        digest = VolumeDigest(volume, Beside.of(source.path))
        for _ in volume_slices(volume, digest.add):
            pass
        return digest.hexdigest()
