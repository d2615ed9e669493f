"""What dcmtk compresses is read exactly, and what no codec reads is refused."""

import shutil
import subprocess

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEGExtended12Bit,
)

from kspacesr_rt.errors import SliceFailed


def noise(dtype, bits, shape=(20, 24)):
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    values = np.random.default_rng(7).integers(low, low + 2**bits, shape)
    values[0, :2] = low, low + 2**bits - 1
    return values.astype(dtype)


FLAVOURS = [("<u2", 16), ("<u2", 12), ("<i2", 16), ("<i2", 12)]


@pytest.mark.parametrize(
    "command",
    [["dcmcjpeg", "+e1"], ["dcmcjpeg", "+el"], ["dcmcjpls"], ["dcmcrle"]],
    ids=lambda command: "".join(command),
)
@pytest.mark.parametrize(("dtype", "bits"), FLAVOURS)
def test_what_dcmtk_compresses_is_exact(command, dtype, bits, mr, save, load):
    """An encoder that is not pydicom's: JPEG Lossless is the commonest syntax in a PACS."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not on PATH: apt install dcmtk")
    path = save(mr(stored := noise(dtype, bits), BitsStored=bits))
    packed = path.with_name("packed.dcm")
    subprocess.run([*command, path, packed], check=True, capture_output=True)
    assert dcmread(packed, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_array_equal(load(packed).values, stored)


def test_lossy_12_bit_jpeg_without_a_codec_is_no_traceback(mr, save, load):
    """Only a GPL codec decodes it; the slice fails with a word."""
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg is not on PATH: apt install dcmtk")
    path = save(mr())
    packed = path.with_name("packed.dcm")
    subprocess.run(["dcmcjpeg", "+ee", path, packed], check=True, capture_output=True)
    syntax = dcmread(packed, stop_before_pixels=True).file_meta.TransferSyntaxUID
    assert syntax == JPEGExtended12Bit
    try:
        values = load(packed).values
    except SliceFailed as exc:
        assert exc.reason in ("codec", "decode")  # noqa: PT017 - either outcome is right
    else:
        assert np.abs(values - load(path).values).max() < 40
