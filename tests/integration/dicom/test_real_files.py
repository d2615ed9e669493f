"""Files of many vendors go through everything, and validators find no new error."""

import gzip
import shutil

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from kspacesr_rt.dicom import (
    derive,
    output_path,
    read_slice,
    read_slices,
    scan_folder,
    undo_interpolation,
    write_atomically,
)
from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.kspace import zero_fill_image
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

EXPECTED = {
    "INDEX.txt": "not-dicom",
    "philips_mprage.dcm.gz": "not-dicom",
    "IM_0027_fMAP.dcm": "phase",
    "6_1.dcm": None,
    "emri_small_RLE.dcm": "missing-attribute",
    "explicit_little.dcm": "enhanced-unsupported",
    "siemens__fmri__001__IM-0001-0001.dcm": "mosaic",
    "generic__rgb__001__IM-0001-0001-0001.dcm": "not-mr",
    "failing__notavolume__001__001.dcm": "not-mr",
    "MR_truncated.dcm": "truncated",
    "decimal_rescale.dcm": "missing-attribute",
    "MR-SIEMENS-DICOM-WithOverlays.dcm": "derived-map",
    "generic__compressed_rle__001__IM-0001-0001-0001.dcm": "duplicate",
} | {f"{n}.dcm": "mosaic" for n in range(1, 10)}


def test_every_file_has_an_outcome(zoo):
    """Taken or left out with a word, once."""
    scan = scan_folder(zoo)
    taken = [item.path for series in scan.series for item in series.slices]
    left = [item.path for item in scan.left_out]
    assert sorted(taken + left) == sorted(path for path in zoo.rglob("*") if path.is_file())
    words = {item.path.name: item.reason for item in scan.left_out}
    assert {name: words.get(name) for name in EXPECTED} == EXPECTED
    assert len(taken) >= 25


def test_an_unpacked_mosaic_is_a_mosaic(zoo, tmp_path):
    """Its position is of no slice; interpolating it would ring across the tiles."""
    packed = zoo / "deb_python3-nibabel" / "siemens_dwi_0.dcm.gz"
    (tmp_path / "mosaic.dcm").write_bytes(gzip.decompress(packed.read_bytes()))
    assert scan_folder(tmp_path).left_out[0].reason == "mosaic"


def test_derived_series_of_every_vendor_have_no_new_error(zoo, dciodvfy, run, tmp_path):
    """Judged against the source: many are wrong already, and their UIDs come along."""
    new = {}
    for series in scan_folder(zoo).series:
        for item in series.slices:
            if item.n_frames is not None:
                continue  # test_enhanced_derive.py
            decoded = read_slice(item)
            derived = derive(decoded, zero_fill_image(decoded.values, 2).real, run())
            path = output_path(tmp_path, derived)
            write_atomically(derived, path)
            errors = dciodvfy(path) - dciodvfy(item.path)
            # A reference to a source whose own UID is illegal repeats that UID.
            errors = {line for line in errors if "Illegal root for UID" not in line}
            if errors:
                new[item.path.name] = errors
    assert new == {}


@pytest.mark.parametrize("upscale", [2, 4])
def test_a_derived_slice_of_a_clean_source_is_clean(upscale, dciodvfy, run, tmp_path):
    """MR_small has no error at all, so neither may its derived slice."""
    name = get_testdata_file("MR_small.dcm", download=False)
    if name is None:
        pytest.skip("this pydicom does not ship MR_small.dcm")
    shutil.copy(name, tmp_path / "source.dcm")
    (series,) = scan_folder(tmp_path / "source.dcm").series
    decoded = read_slice(series.slices[0])
    derived = derive(decoded, zero_fill_image(decoded.values, upscale).real, run(upscale=upscale))
    path = output_path(tmp_path / "out", derived)
    write_atomically(derived, path)
    assert dciodvfy(path) == set()
    # Nyquist splitting aside, a zero-fill of an even matrix keeps the measured samples.
    kept = dcmread(path).pixel_array[::upscale, ::upscale]
    assert np.abs(kept - decoded.values).max() <= 1


def test_no_file_of_the_zoo_says_anything_but_a_word(zoo, capfd, recwarn):
    """Decoding all of them prints and warns nothing: what a library says quotes values."""
    for series in scan_folder(zoo).series:
        for item in series.slices:
            try:
                for _ in read_slices(item):
                    pass
            except SliceFailed as exc:
                pytest.fail(f"{item.path.name}: {exc.reason}")
    output = capfd.readouterr()
    assert (output.out, output.err, [str(w.message) for w in recwarn]) == ("", "", [])


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_cropped_series_has_no_error_that_its_source_has_not(share, dciodvfy, run, tmp_path):
    """Cropping k-space rewrites spacing and position once more before they are derived."""
    paths = sorted(sample_folder().glob("*.dcm"))[9:11]
    for path in paths:
        item = scan_folder(path).series[0].slices[0]
        decoded = read_slice(item)
        matrix = tuple(2 * round(share * n / 2) - number for number, n in enumerate(item.matrix))
        cropped = undo_interpolation(decoded, matrix)
        derivation = run(cropped_to=matrix)
        derived = derive(cropped, zero_fill_image(cropped.values, 2).real, derivation)
        target = output_path(tmp_path, derived)
        write_atomically(derived, target)
        assert dciodvfy(target) - dciodvfy(path) == set()
        read = dcmread(target)
        assert (read.Rows, read.Columns) == (2 * matrix[0], 2 * matrix[1])
        assert all(len(str(value)) <= 16 for value in read.PixelSpacing)
        assert f"k-space crop to {matrix[0]} x {matrix[1]}" in read.DerivationDescription
        other = derive(cropped, zero_fill_image(cropped.values, 2).real, run())
        assert other.SeriesInstanceUID != derived.SeriesInstanceUID


@pytest.mark.parametrize("way", ["warn", "crop"])
def test_what_infer_writes_of_the_sample_is_as_valid_as_the_sample(way, dciodvfy, tmp_path):
    """From folder to folder, as a user does it."""
    paths = sorted(sample_folder().glob("*.dcm"))[9:12]
    (tmp_path / "in").mkdir()
    for path in paths:
        shutil.copy(path, tmp_path / "in")
    infer(tmp_path / "in", tmp_path / "out", InferOptions(backend="zero-fill", on_interpolated=way))
    sources = set().union(*(dciodvfy(path) for path in paths))
    outputs = list((tmp_path / "out").rglob("*.dcm"))
    assert len(outputs) == 3
    assert set().union(*(dciodvfy(path) for path in outputs)) <= sources
