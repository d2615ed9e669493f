"""What is known of a NIfTI file or an array before its samples are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kspacesr_rt.dicom import SourceSlice
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.volumes.layout import Layout

Plane = Literal["auto", "axial", "coronal", "sagittal", "first", "second", "third"]
"""Which slices a volume is cut into."""
VolumeKind = Literal["nifti", "npy", "npz", "hdf5"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceVolume(SourceSlice):
    """A file of many slices; to the pipeline a multi-frame file, whose UIDs are made up.

    No such file says who it is, so its place in the input does: `sop_instance_uid` is a hash of
    that, and a file of another content under the same name is the same source, changed.
    """

    kind: VolumeKind
    relative: str
    """Its path relative to the input, with ``/``."""
    plane: Plane
    """What was asked for."""
    layout: Layout
    """How its samples lie, with the axis that was chosen."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """What of its header the output leaves out, counted by kind."""


def volume_uid(relative: str) -> str:
    """Return the UID that stands for a file by its place in the input."""
    return stable_uid("volume", relative)
