"""NIfTI and arrays in, the same out: files that hold many slices and no patient's header."""

from kspacesr_rt.volumes.output_names import (
    is_volume_file,
    is_volume_output,
    kind_of,
    output_names,
)
from kspacesr_rt.volumes.reader import read_volume, volume_slices
from kspacesr_rt.volumes.source_volume import SourceVolume
from kspacesr_rt.volumes.triage import examine_volume, missing_library
from kspacesr_rt.volumes.writer import VolumeWriter

__all__ = [
    "SourceVolume",
    "VolumeWriter",
    "examine_volume",
    "is_volume_file",
    "is_volume_output",
    "kind_of",
    "missing_library",
    "output_names",
    "read_volume",
    "volume_slices",
]
