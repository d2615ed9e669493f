"""Headers of arrays that are damaged by a byte: files that cannot be read, never accidents."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from kspacesr_rt.errors import SliceError, TrainingDataError
from kspacesr_rt.system.array_files import load_array
from kspacesr_rt.train.formats import read_numpy
from kspacesr_rt.volumes.arrays import ArrayVolume

HEADER = 128
PUT = b"\x00\x01\n '\"(){}[],:\\#~=0L9eaj\x80\xff"
"""What makes another token, an open one, a string, another type or no ASCII of a character."""


def damaged():
    """Yield an array's file with each byte of its header replaced by each of `PUT`."""
    file = io.BytesIO()
    np.save(file, np.ones((40, 40), np.float32))
    whole = file.getvalue()
    for place in range(HEADER):
        for byte in PUT:
            if place < 66 or byte in b"(\x00":  # blanks follow
                yield whole[:place] + bytes([byte]) + whole[place + 1 :]
    for braces in (b"(" * 150, b"-" * 5000, b"[" * 4000, b"9" * 5000):
        text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (40, " + braces
        header = text.ljust(9000) + b"\n"
        yield b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_damaged_header_makes_a_file_unreadable(tmp_path, kind):
    """Python's tokenizer has errors of its own, and one of them ended a run as an accident."""
    refused = 0
    for content in damaged():
        path = tmp_path / f"a.{kind}"
        if kind == "npy":
            path.write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("image.npy", content)
        try:
            read = ArrayVolume.read_npy if kind == "npy" else ArrayVolume.read_npz
            with read(path, "auto").samples():
                pass
        except SliceError:
            refused += 1
    assert refused > 1000


def test_training_refuses_such_files_by_name(tmp_path):
    """`train`, `evaluate` and `trust` read them with NumPy's own reader."""
    path, refused = tmp_path / "a.npy", 0
    for content in damaged():
        path.write_bytes(content)
        try:
            read_numpy(path)
        except TrainingDataError as exc:
            refused += str(exc).startswith("a.npy: not a readable .npy array")
    assert refused > 1000


def test_a_zip_file_is_no_array(tmp_path):
    """NumPy goes by the content, not by the name."""
    np.savez(tmp_path / "a.npz", np.ones((3, 3)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="zip"):
        load_array(tmp_path / "a.npy")
