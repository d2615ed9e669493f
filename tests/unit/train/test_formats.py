"""Files whose headers lie: errors of ours, and nothing of NumPy's on stderr."""

from __future__ import annotations

import struct

import pytest

from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.train.formats import read_nifti


@pytest.mark.parametrize("n_axes", [3, 7])
def test_a_nifti_of_absurd_dimensions_is_refused_without_a_warning(tmp_path, n_axes):
    """Their product overflows in NumPy's memory map, which warned before the error came."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, n_axes, *[32767] * n_axes, *[1] * (7 - n_axes))
    struct.pack_into("<hh", header, 70, 16, 32)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(header) + bytes(100))
    with pytest.raises((KspaceSRError, MemoryError)):  # warnings are errors, too
        read_nifti(path)
