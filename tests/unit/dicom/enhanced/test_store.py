"""A multi-frame file grows frame by frame and appears whole, or not at all."""

import errno
import os
import re

import enhanced_cases as cases
import numpy as np
import pytest
from power_cut import watched
from pydicom import dcmread

from kspacesr_rt.dicom import EnhancedWriter, FrameReader, derive_enhanced
from kspacesr_rt.dicom.enhanced import store
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.store import prepare_output
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.dicom.uids import OUR_UID
from kspacesr_rt.errors import OutputError, SliceFailed
from kspacesr_rt.services.durable_files import sync_tree


@pytest.fixture
def writer(tmp_path, run):
    """Return what makes the writer of a file of three frames of 16 x 14."""

    def make(*, upscale=2, n=3, pixels=None, **changed):
        pixels = np.zeros((8, 7), np.uint16) if pixels is None else pixels
        path = cases.save(cases.build([cases.Frame(pixels=pixels)] * n), tmp_path / "in" / "a.dcm")
        header = FrameReader(examine(read_header(path), path)).take_header()
        derivation = run(upscale=upscale, **changed)
        return EnhancedWriter(tmp_path / "out", derive_enhanced(header, derivation), derivation)

    return make


def frames(seed=0, n=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 4096, (16, 14)).astype(np.uint16) for _ in range(n)]


def write_all(writer, images, order=None):
    with writer:
        for number in order or range(1, len(images) + 1):
            writer.write(number, images[number - 1])
        return writer.finish()


def test_the_file_holds_the_frames_in_their_order(writer):
    """Also when a pipeline finishes them in another one."""
    images = frames()
    path, fresh = write_all(writer(), images, order=(2, 3, 1))
    assert fresh
    ds = dcmread(path)
    np.testing.assert_array_equal(ds.pixel_array, images)
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == path.stem
    assert path.parent.name == ds.SeriesInstanceUID
    assert list(path.parent.iterdir()) == [path]


def test_an_odd_number_of_bytes_is_padded(writer):
    """8-bit frames: a value has an even length (PS3.5 8.1.1)."""
    made = writer(pixels=np.zeros((5, 5), np.uint8), upscale=3, n=1)
    image = np.arange(225, dtype=np.uint8).reshape(1, 15, 15)
    path, _ = write_all(made, image)
    ds = dcmread(path)
    assert len(ds.PixelData) == 226
    np.testing.assert_array_equal(ds.pixel_array, image[0])


def test_uids_are_stable_and_hang_on_the_pixels(writer):
    """A re-run is idempotent, and other pixels never hide behind a known UID."""
    first, fresh = write_all(writer(), frames())
    content = first.read_bytes()
    again, fresh_again = write_all(writer(), frames(), order=(3, 2, 1))
    assert (again, fresh, fresh_again) == (first, True, False)
    assert first.read_bytes() == content
    assert list(first.parent.iterdir()) == [first]
    other, _ = write_all(writer(), frames(seed=1))
    swapped, _ = write_all(writer(), frames()[::-1])
    random, _ = write_all(writer(uids="random"), frames())
    assert len({first.stem, other.stem, swapped.stem, random.stem}) == 4


def test_every_uid_has_the_length_that_was_left_for_it(writer):
    """It is put into the file when the pixels are known, so nothing may have to move."""
    lengths = set()
    for seed in range(16):
        path, _ = write_all(writer(), frames(seed=seed))
        uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
        assert OUR_UID.fullmatch(uid)
        assert uid == path.stem
        lengths.add(len(uid))
    assert lengths == {43, 44}


def test_an_unfinished_file_leaves_nothing(writer, tmp_path):
    """A failing frame, an interrupt: no file, no temporary, no empty folder."""

    def interrupted():
        with writer() as growing:
            growing.write(1, frames()[0])
            assert len(list((tmp_path / "out").rglob("*.part"))) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "out").rglob("*")) == []


def test_a_temporary_that_a_kill_left_is_ours(writer, tmp_path):
    """The next run must not take it for a foreign file, nor for an output."""
    growing = writer()
    growing.write(1, frames()[0])
    (left,) = (tmp_path / "out").rglob("*.part")
    assert re.fullmatch(r"\.2\.25\.[0-9]+\.dcm\.[0-9a-f]{8}\.part", left.name)
    prepare_output(tmp_path / "in", tmp_path / "out")
    growing.__exit__(None, None, None)


def test_a_missing_frame_is_a_bug_that_shows(writer):
    """A hole would be a black frame in a patient."""
    with pytest.raises(RuntimeError, match="2 of 3 frames were written"):
        write_all(writer(), frames(), order=(1, 3))


def test_a_frame_of_another_shape_is_refused(writer):
    """It would overwrite its neighbour."""
    image = frames()[0]
    for other in (image[:-1], image.T.copy(), image.astype(np.uint32), image.ravel()):
        with pytest.raises(ValueError, match="does not fit"), writer() as growing:
            growing.write(1, other)


def test_a_full_disk_is_told_and_leaves_nothing(writer, tmp_path, monkeypatch):
    """ENOSPC at the end, when the last blocks are flushed."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        write_all(writer(), frames())
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize("n_more", [-10, -1, 2])
def test_a_file_that_reads_back_in_another_length_is_never_published(
    writer, tmp_path, monkeypatch, n_more
):
    """Half a file that opens without an error is the worst outcome; padding belongs to the file."""
    original = store.EnhancedWriter._verify

    def change_length_first(self, temporary, uid):
        os.truncate(temporary, temporary.stat().st_size + n_more)
        original(self, temporary, uid)

    monkeypatch.setattr(store.EnhancedWriter, "_verify", change_length_first)
    odd = writer(pixels=np.zeros((5, 5), np.uint8), upscale=3, n=1)
    with pytest.raises(OutputError, match="reads back differently"):
        write_all(odd, np.ones((1, 15, 15), np.uint8))
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize("place", [200, -100, -1], ids=["header", "frame", "last sample"])
def test_one_wrong_bit_is_noticed(writer, tmp_path, monkeypatch, place):
    """Length and header are right: only reading the frames again tells."""
    original = store.EnhancedWriter._verify

    def flip_first(self, temporary, uid):
        content = bytearray(temporary.read_bytes())
        content[place] ^= 1
        temporary.write_bytes(content)
        original(self, temporary, uid)

    monkeypatch.setattr(store.EnhancedWriter, "_verify", flip_first)
    with pytest.raises(OutputError, match="reads back differently"):
        write_all(writer(), frames())
    assert list((tmp_path / "out").rglob("*")) == []


def test_content_is_on_the_disk_before_the_name(writer, tmp_path):
    """After a power cut a name stands for a whole file, or for none."""
    (tmp_path / "out").mkdir()
    growing = writer()
    with watched(tmp_path) as disk:
        path, _ = write_all(growing, frames())
        sync_tree(tmp_path)  # only names: content is the writer's duty
        restored = disk.restore(tmp_path.with_name(f"{tmp_path.name} restored"))
    assert (restored / path.relative_to(tmp_path)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("n_columns", [2048, 2100])
def test_more_pixels_than_a_value_can_hold_are_refused_before_any_work(writer, tmp_path, n_columns):
    """4 GiB is the end of an explicit length, to the byte."""
    made = {"pixels": np.zeros((2048, n_columns), np.uint16), "upscale": 16, "n": 2}
    with pytest.raises(SliceFailed, match="more than the 4 GiB") as caught:
        writer(**made)
    assert (caught.value.reason, caught.value.hint) == ("too-large", "a smaller --upscale fits")
    assert not (tmp_path / "out").exists()
