"""Outputs are compressed without loss, in the precision of the source, and proved by decoding."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, RLELossless

from kspacesr_rt.dicom import compress, derive, output_path, write_atomically
from kspacesr_rt.dicom.codestream import read_jpeg2000
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.errors import BackendUnavailableError, InputError, SliceFailed
from kspacesr_rt.kspace import zero_fill_image
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

PACKED = [RLELossless, JPEG2000Lossless, HTJ2KLossless]


@pytest.fixture
def derived(mr, save, load, run):
    """Return a function that derives a slice of given bits."""

    def make(dtype, bits):
        low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
        stored = np.random.default_rng(3).integers(low, low + 2**bits, (20, 23)).astype(dtype)
        decoded = load(save(mr(stored, BitsStored=bits)))
        return derive(decoded, zero_fill_image(decoded.values, 2).real, run())

    return make


@pytest.mark.parametrize("syntax", PACKED, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("<u2", 16), ("<u2", 12), ("<i2", 16), ("<i2", 12), ("<i2", 9), ("u1", 8), ("i1", 8)],
)
def test_nothing_is_lost(syntax, dtype, bits, derived, tmp_path):
    """Every bit of every sample, at the ends of the range too."""
    native = derived(dtype, bits)
    path = output_path(tmp_path, native)
    write_atomically(native, path, syntax=syntax)
    packed = dcmread(path)
    assert packed.file_meta.TransferSyntaxUID == syntax
    assert packed.SOPInstanceUID == native.SOPInstanceUID
    expected = compress.native_samples(native)
    np.testing.assert_array_equal(packed.pixel_array, expected)
    assert parse_basic_offsets(packed.PixelData) == [0]
    if syntax != RLELossless:
        (frame,) = generate_frames(packed.PixelData, number_of_frames=1)
        stream = read_jpeg2000(frame)
        assert (stream.rows, stream.columns, stream.precision) == (40, 46, bits)
    assert "PixelData" in native
    assert not native["PixelData"].is_undefined_length  # the derived data set is not changed


@pytest.mark.parametrize("syntax", PACKED, ids=lambda uid: uid.name)
def test_a_lossy_encoder_is_found_out(syntax, derived, tmp_path, monkeypatch):
    """One wrong grey level, and no file gets its name."""
    native = derived("<u2", 12)
    honest = compress.compress_frame

    def wrong(stored, header, uid):
        changed = stored.copy()
        changed[5, 7] ^= 1
        return honest(changed, header, uid)

    monkeypatch.setattr(compress, "compress_frame", wrong)
    with pytest.raises(SliceFailed, match="does not survive") as caught:
        write_atomically(native, tmp_path / "out" / "a.dcm", syntax=syntax)
    assert caught.value.reason == "encode"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_compression_is_refused():
    """With the words that exist."""
    with pytest.raises(InputError, match="none, rle, j2k, htj2k, not 'zip'"):
        syntax_of("zip")


def test_a_missing_encoder_ends_the_run_before_it_begins(tmp_path, monkeypatch):
    """Exit 3, the line to type, and nothing on disk."""
    monkeypatch.setattr(compress, "find_spec", lambda name: None if name == "imagecodecs" else 1)
    options = InferOptions(backend="zero-fill", compress="htj2k")
    with pytest.raises(BackendUnavailableError) as caught:
        infer(sample_folder(), tmp_path / "out", options)
    assert (caught.value.exit_code, caught.value.hint) == (3, "pip install imagecodecs")
    assert not (tmp_path / "out").exists()


def test_no_two_threads_are_in_an_encoder_at_once(derived, monkeypatch):
    """OpenJPEG's ends the process with a segmentation fault then."""
    within, most, real = [], [], compress.get_encoder

    class Watched:
        def __init__(self, syntax):
            self._encoder = real(syntax)

        def encode(self, *args, **kwargs):
            within.append(threading.get_ident())
            most.append(len(within))
            time.sleep(0.01)
            try:
                return self._encoder.encode(*args, **kwargs)
            finally:
                within.pop()

    monkeypatch.setattr(compress, "get_encoder", Watched)
    native = derived("<u2", 12)
    stored = compress.native_samples(native)
    with ThreadPoolExecutor(3) as pool:
        frames = list(
            pool.map(
                lambda n: compress.compress_frame(stored, native, JPEG2000Lossless),
                range(6),
            )
        )
    assert len(set(frames)) == 1
    assert max(most) == 1
