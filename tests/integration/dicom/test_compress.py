"""Compressed outputs, as the command line writes them and as validators see them."""

import subprocess
import sys

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from kspacesr_rt.dicom import derive, write_atomically
from kspacesr_rt.dicom.compress import SYNTAXES
from kspacesr_rt.kspace import zero_fill_image
from kspacesr_rt.sample import sample_folder


@pytest.fixture
def derived(mr, save, load, run):
    """Return a function that derives a slice of given bits."""

    def make(dtype, bits):
        low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
        stored = np.random.default_rng(3).integers(low, low + 2**bits, (20, 23)).astype(dtype)
        decoded = load(save(mr(stored, BitsStored=bits)))
        return derive(decoded, zero_fill_image(decoded.values, 2).real, run())

    return make


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_validators_find_no_new_error(syntax, derived, dciodvfy, tmp_path):
    """Judged against the same slice without compression; dciodvfy may not know HTJ2K yet."""
    native = derived("<u2", 12)
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    write_atomically(native, plain)
    write_atomically(native, packed, syntax=syntax)
    assert dciodvfy(packed) <= dciodvfy(plain)


@pytest.mark.parametrize("word", sorted(SYNTAXES))
def test_the_command_line_compresses(word, tmp_path):
    """Every file of the run, with the same pixels for every word."""
    source = min(sample_folder().glob("*.dcm"))
    command = [sys.executable, "-m", "kspacesr_rt", "infer", source, tmp_path / "out"]
    subprocess.run(
        [*map(str, command), "--backend", "zero-fill", "--compress", word, "-q"], check=True
    )
    (path,) = (tmp_path / "out").rglob("*.dcm")
    ds = dcmread(path)
    assert ds.file_meta.TransferSyntaxUID.is_encapsulated == (word != "none")
    assert ds.pixel_array.shape == (512, 512)
