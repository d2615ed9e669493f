"""The digest of an output's file, made of that of its pixels."""

import hashlib

import numpy as np
import pytest

from kspacesr_rt.dicom.content_digest import digest_by_parts, digest_of_file, pixel_digest

HEAD = bytes(range(200))


@pytest.fixture(params=[((40, 30), np.uint16), ((33, 17), np.uint8)], ids=["even", "odd"])
def written(request, tmp_path):
    """Return a file, and its digest as the writer makes it."""
    shape, kind = request.param
    stored = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    tail = bytes(stored.nbytes % 2)
    path = tmp_path / "a.dcm"
    path.write_bytes(HEAD + stored.tobytes() + tail)
    return path, digest_by_parts(HEAD, shape, stored.itemsize, pixel_digest(stored), tail)


def test_a_file_has_the_digest_that_its_writer_noted(written):
    path, noted = written
    assert digest_of_file(path, alike=noted) == noted


@pytest.mark.parametrize("place", [0, 199, 200, 500, -1], ids=str)
def test_every_byte_of_a_file_counts(written, place):
    """Of the header, of the pixels, and the one behind an odd number of them."""
    path, noted = written
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert digest_of_file(path, alike=noted) != noted


@pytest.mark.parametrize("change", [lambda one: one[:-2], lambda one: one + b"\0"])
def test_a_file_of_another_length_has_another_digest(written, change):
    path, noted = written
    path.write_bytes(change(path.read_bytes()))
    assert digest_of_file(path, alike=noted) != noted


def test_a_digest_of_a_whole_file_is_compared_to_that(written):
    """As journals have them of files that were compressed, or of many frames."""
    path, _ = written
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest_of_file(path, alike=whole) == whole
