"""Series that a scanner interpolated are recognised, said, and handled as asked."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from kspacesr_rt.dicom import read_slice, scan_folder, undo_interpolation
from kspacesr_rt.dicom.attributes import acquired_matrix, is_marked_interpolated
from kspacesr_rt.dicom.geometry import resampled_origin
from kspacesr_rt.dicom.scanner_interpolation import (
    AGREE_WITHIN,
    AcquiredBand,
    kspace_profile,
    surveyed_numbers,
)
from kspacesr_rt.errors import InputError, NoMRImageError, StrictRefusalError
from kspacesr_rt.kspace import centre_crop, centre_fill, fft2c, grid_origin, ifft2c
from kspacesr_rt.kspace.rim_energy import RimEnergy
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

ACQUIRED = (144, 192)
STORED = (256, 256)


def zip_filled(image, acquired=ACQUIRED, noise=0.0, seed=0):
    """Interpolate as a scanner does: acquire less, add its noise, fill with zeros, magnitude."""
    rng = np.random.default_rng(seed)
    spectrum = fft2c(image.astype(np.float64))
    spectrum += noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape))
    return np.abs(ifft2c(centre_fill(centre_crop(spectrum, acquired), image.shape)))


def full_slices():
    """Real slices, resampled to 256 x 256 samples that all were acquired."""
    paths = sorted(sample_folder().glob("*.dcm"))[8:12]
    datasets = [pydicom.dcmread(path) for path in paths]
    images = np.stack([one.pixel_array.astype(np.float64) for one in datasets])
    return datasets, images


def write_study(folder, images, datasets, **changes):
    folder.mkdir()
    for number, (image, dataset) in enumerate(zip(images, datasets, strict=True)):
        dataset.PixelData = np.rint(image).clip(0, 4095).astype("<u2").tobytes()
        dataset.Rows, dataset.Columns = image.shape
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{number}.dcm")
    return folder


@pytest.fixture
def interpolated(tmp_path):
    """Four slices whose k-space is empty beyond `ACQUIRED`, the header silent about it."""
    datasets, images = full_slices()
    filled = np.stack([zip_filled(image, noise=4.0, seed=n) for n, image in enumerate(images)])
    for dataset in datasets:
        dataset.pop("AcquisitionMatrix", None)
    return write_study(tmp_path / "study", filled, datasets)


@pytest.mark.parametrize("noise", [0.0, 5.0, 40.0])
@pytest.mark.parametrize("share", [0.5, 0.625, 0.75])
def test_the_edge_of_what_was_acquired_is_found_whatever_the_noise(share, noise):
    """Acquired noise ends where the acquisition ends; rounding to integers does not hide it."""
    _, images = full_slices()
    acquired = (int(256 * share), 160)
    stored = [np.rint(zip_filled(one, acquired, noise, n)) for n, one in enumerate(images)]
    rows, columns = kspace_profile(stored)
    assert share <= rows + 0.01 <= share + 0.06
    assert abs(columns - 0.625) < AGREE_WITHIN


def test_what_cannot_be_told_is_not_claimed():
    """Short axes, empty slices and no slices at all have no profile."""
    noise = np.random.default_rng(0).random((20, 64))
    assert kspace_profile([]) == kspace_profile([np.zeros((64, 64))]) == (None, None)
    rows, columns = kspace_profile([noise])
    assert (rows, columns) == (None, 1.0)


def support(profile, acquired=(None, None), header_says=False, matrix=(320, 320)):
    return AcquiredBand(
        matrix=matrix, profile=profile, acquired=acquired, header_says=header_says, n_slices=3
    )


@pytest.mark.parametrize(
    ("known", "interpolated", "cropped"),
    [
        (support((1.0, 1.0)), False, (320, 320)),
        (support((0.85, 1.0)), False, (272, 320)),  # partial phase encoding: nothing unusual
        (support((0.7, 1.0)), True, (224, 320)),
        (support((0.53, 0.52)), True, (170, 168)),
        (support((0.53, 0.52), (160, 160), header_says=True), True, (160, 160)),
        (support((0.53, 0.52), (161, 160)), True, (162, 160)),  # odd counts are rounded up
        (support((1.0, 1.0), (160, 160), header_says=True), True, (320, 320)),  # k-space knows
        (support((0.25, 0.25), (80, 80), header_says=True), True, (80, 80)),
        (support((1.0, 1.0), (80, 80), header_says=True), True, (320, 320)),
        (support((None, None), (160, 160), header_says=True), True, (160, 160)),
        (support((0.5, 0.5), matrix=(9, 13)), True, (8, 8)),
        (support((None, None), matrix=(5, 5)), False, (5, 5)),
        (support((0.5, 0.5), matrix=(33, 15)), True, (18, 8)),
    ],
)
def test_header_and_k_space_are_weighed(known, interpolated, cropped):
    """k-space decides where it can tell; the header gives the exact count where it agrees."""
    assert (known.interpolated, known.cropped_matrix) == (interpolated, cropped)
    assert (known.warning is not None) == interpolated


def acquired_by_scanner(kind, acquired=(256, 256), stored=(512, 512)):
    """Real slices, acquired and stored larger, with what a scanner does to them on the way."""
    _, images = full_slices()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256] / 256
    phase = np.exp(1j * (1.5 * np.sin(4.4 * y + 0.3) + 1.2 * np.cos(3.8 * x)))
    ky, kx = (np.abs(np.arange(n) - n // 2) / (n / 2) for n in acquired)
    out = []
    for image in images:
        noise = rng.normal(size=(2, *image.shape))
        spectrum = centre_crop(fft2c(image * phase) + 6.0 * (noise[0] + 1j * noise[1]), acquired)
        if kind == "raw filter":
            spectrum *= np.cos(ky * np.pi / 2)[:, None] ** 2 * np.cos(kx * np.pi / 2) ** 2
        if kind == "elliptical filter":
            spectrum *= ky[:, None] ** 2 + kx**2 <= 1
        if kind == "partial Fourier":
            spectrum[: acquired[0] // 4] = 0
        stored_image = np.abs(ifft2c(centre_fill(spectrum, stored)))
        if kind == "distortion correction":
            rows, columns = np.mgrid[: stored[0], : stored[1]] / np.reshape(stored, (2, 1, 1)) - 0.5
            swell = 1 - 0.06 * (rows**2 + columns**2)
            at = [(axis * swell + 0.5) * n for axis, n in zip((rows, columns), stored, strict=True)]
            stored_image = ndimage.map_coordinates(stored_image, at, order=1)
        if kind == "masked air":
            bright = stored_image > 0.1 * np.percentile(stored_image, 99)
            stored_image = np.where(ndimage.binary_opening(bright), stored_image, 0.0)
        top = 255 if kind == "8 bits" else 1500
        out.append(np.rint(stored_image * (top / stored_image.max())).astype(np.float32))
    return out


SCANNER_KINDS = (
    *("plain", "raw filter", "elliptical filter", "partial Fourier"),
    *("distortion correction", "masked air", "8 bits"),
)


@pytest.mark.parametrize("kind", SCANNER_KINDS)
@pytest.mark.parametrize("acquired", [(256, 256), (192, 256)], ids=["square", "75 % phase"])
def test_a_headers_count_is_believed_where_no_energy_lies_beyond_it(kind, acquired):
    """The last sample above noise is one of a filter, a mask or of rounding, and tells nothing."""
    slices = acquired_by_scanner(kind, acquired)
    profile = kspace_profile(slices, acquired)
    found = AcquiredBand(matrix=(512, 512), profile=profile, acquired=acquired, header_says=True)
    assert (found.cropped_matrix, found.interpolated) == (acquired, True)


@pytest.mark.parametrize("kind", [one for one in SCANNER_KINDS if one != "raw filter"])
def test_a_header_that_leaves_energy_outside_is_not_believed(kind):
    """Full k-space, whose header counts half of both axes, or of one, or a quarter."""
    slices = acquired_by_scanner(kind, stored=(256, 256))
    alone = kspace_profile(slices)
    for acquired in ((128, 192), (64, 192), (None, 128)):
        told = kspace_profile(slices, acquired)
        assert told == alone
    assert min(alone) > 0.65


def test_axes_of_a_square_acquisition_end_alike():
    """Not 452 x 512: where its count is wrong, neither axis is cropped further than the other."""
    _, images = full_slices()
    slices = [zip_filled(image, (180, 256)) for image in images]
    assert kspace_profile(slices)[0] < 0.8
    rows, columns = kspace_profile(slices, (128, 128))
    assert rows == columns == kspace_profile(slices)[1]


def test_where_no_tissue_has_an_inside_the_header_tells_below_a_half():
    """Thin structures everywhere: what k-space cannot show is left to the header."""
    thin = np.zeros((64, 64))
    thin[::9, ::7] = 100.0
    assert RimEnergy.of(thin[None]) is None
    assert kspace_profile([thin], (60, 24))[1] == 24 / 64
    assert kspace_profile([thin], (60, 40)) == kspace_profile([thin])


@given(st.integers(1, 500))
def test_surveyed_slices_exist_and_are_few(n_slices):
    """From the middle of a series, and no more than five."""
    numbers = surveyed_numbers(n_slices)
    assert 1 <= len(numbers) <= 5
    assert 0 <= numbers[0] <= numbers[-1] < n_slices


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        ([0, 256, 192, 0], "COL", (192, 256)),
        ([256, 0, 0, 192], "ROW", (256, 192)),
        ([256, 0, 0, 192], "COL", (192, 256)),  # written wrongly: the direction decides
        ([0, 256, 192, 0], None, (192, 256)),
        ([0, 0, 0, 0], "COL", (None, None)),
        (None, "COL", (None, None)),
    ],
)
def test_the_acquisition_matrix_is_read_by_the_phase_encode_direction(values, direction, expected):
    """Frequency rows, frequency columns, phase rows, phase columns: two of them are 0."""
    dataset = pydicom.Dataset()
    if values:
        dataset.AcquisitionMatrix = values
    if direction:
        dataset.InPlanePhaseEncodingDirection = direction
    assert acquired_matrix(dataset) == expected


@pytest.mark.parametrize(
    ("matrix", "spacing", "covered", "expected"),
    [
        ((384, 384), (0.5, 0.5), 75, (384, 269)),  # stored as a square: 202 are of 3/4 of it
        ((384, 288), (0.5, 0.5), 75, (384, 202)),  # stored as it was encoded
        ((384, 288), (0.5, 0.667), 75, (384, 269)),
        ((384, 384), (0.5, 0.5), 100, (384, 202)),
        ((384, 384), (0.5, 0.5), None, (384, 202)),
        ((384, 384), None, 75, (384, 202)),
        ((384, 384), (0.5, 0.5), 0, (384, 202)),
        ((384, 600), (0.5, 0.5), 75, (384, 269)),  # never more than the whole
    ],
)
def test_a_phase_fov_that_was_filled_up_counts_as_if_it_were_whole(
    matrix, spacing, covered, expected
):
    """202 of 384 lines over three quarters of the FOV resolve what 269 over all of it do."""
    dataset = pydicom.Dataset()
    dataset.AcquisitionMatrix = [0, 384, 202, 0]
    dataset.InPlanePhaseEncodingDirection = "ROW"
    dataset.Rows, dataset.Columns = matrix
    if spacing:
        dataset.PixelSpacing = list(spacing)
    if covered is not None:
        dataset.PercentPhaseFieldOfView = covered
    assert acquired_matrix(dataset) == expected


@pytest.mark.parametrize(
    ("text", "marked"), [("256*320", False), ("256I*320", True), ("320*320s", True), ("", False)]
)
def test_siemens_tells_in_a_private_text(text, marked):
    """(0051,100B), phase times frequency."""
    dataset = pydicom.Dataset()
    block = dataset.private_block(0x0051, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0B, "SH", text)
    dataset.InPlanePhaseEncodingDirection = "COL"
    assert is_marked_interpolated(dataset) is marked
    counts = (256, 320) if text.startswith("256") else (320, 320)
    assert acquired_matrix(dataset) == (counts if text else (None, None))


@given(st.integers(1, 300), st.integers(1, 4))
def test_one_formula_serves_crop_and_fill(n, upscale):
    """Position after a crop is the same question as after a zero-fill."""
    assert resampled_origin(n, upscale * n) == pytest.approx(grid_origin(n, upscale), abs=1e-9)


@pytest.mark.parametrize("stored", [(64, 64), (65, 64), (63, 65)])
@pytest.mark.parametrize("cropped", [(40, 36), (41, 36), (32, 33)])
def test_a_blob_stays_at_its_patient_point_when_its_k_space_is_cropped(
    stored, cropped, tmp_path, monkeypatch
):
    """Odd and even, both ways: within 0.05 of a stored pixel."""
    datasets, _ = full_slices()
    centre = (30.4, 33.7)
    y, x = np.mgrid[: stored[0], : stored[1]]
    blob = 3000 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 32)
    folder = write_study(
        tmp_path / "study",
        [blob],
        datasets[:1],
        PixelSpacing=[1.4, 0.9],
        ImageOrientationPatient=[0.8, 0.6, 0, -0.6, 0.8, 0],
        ImagePositionPatient=[-50.5, 20.25, 7],
    )
    decoded = read_slice(scan_folder(folder).series[0].slices[0])
    fewer = undo_interpolation(decoded, cropped)

    def place(one):
        values = one.values.astype(float)
        rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
        row, column = (float((values * axis).sum() / values.sum()) for axis in (rows, columns))
        spacing = [float(v) for v in one.dataset.PixelSpacing]
        along_columns, along_rows = np.reshape(one.dataset.ImageOrientationPatient, (2, 3))
        corner = np.asarray(one.dataset.ImagePositionPatient, float)
        return corner + along_columns * spacing[1] * column + along_rows * spacing[0] * row

    assert fewer.values.shape == (fewer.dataset.Rows, fewer.dataset.Columns) == cropped
    assert np.linalg.norm(place(fewer) - place(decoded)) < 0.05 * 0.9
    assert fewer.values.max() == pytest.approx(decoded.values.max(), rel=0.02)
    assert decoded.dataset.Rows == stored[0]  # the source is not changed


def test_values_below_zero_keep_their_sign_when_cropped(interpolated):
    """A magnitude would turn a negative intercept into signal."""
    decoded = read_slice(scan_folder(interpolated).series[0].slices[0])
    negative = dataclasses.replace(decoded, values=decoded.values - np.float32(500))
    kept = undo_interpolation(negative, ACQUIRED).values
    assert kept.dtype == np.float32
    assert kept.mean() == pytest.approx(negative.values.mean(), rel=1e-4)


def test_by_default_a_series_is_processed_and_the_user_is_told(interpolated, tmp_path):
    """The matrix is upscaled as it is; report, text and JSON say what is wrong with that."""
    report = infer(interpolated, tmp_path / "out", InferOptions(backend="zero-fill"))
    (series,) = report.series_records
    assert series.interpolated
    assert series.handled == "as-stored"
    assert np.abs(np.subtract(series.measured_shares, (144 / 256, 192 / 256))).max() < 0.06
    assert re.search(
        r"warning for 4 slices of series 1 \(from sha256:[0-9a-f]+\): k-space measured to 0\.",
        report.as_text(),
    )
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["series_records"][0]["measured_shares"] == list(series.measured_shares)
    assert {pydicom.dcmread(one).Rows for one in (tmp_path / "out").rglob("*.dcm")} == {512}


def test_crop_brings_back_what_was_acquired(interpolated, tmp_path):
    """Matrix upscale x cropped, same field of view, and the output says how it was made."""
    options = InferOptions(backend="zero-fill", on_interpolated="crop")
    for path in interpolated.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionMatrix = [0, ACQUIRED[1], ACQUIRED[0], 0]
        dataset.InPlanePhaseEncodingDirection = "COL"
        dataset.save_as(path)
    report = infer(interpolated, tmp_path / "out", options)
    (series,) = report.series_records
    assert (series.handled, series.cropped_to) == ("cropped", ACQUIRED)
    source = pydicom.dcmread(next(interpolated.iterdir()))
    for path in (tmp_path / "out").rglob("*.dcm"):
        derived = pydicom.dcmread(path)
        assert (derived.Rows, derived.Columns) == (2 * ACQUIRED[0], 2 * ACQUIRED[1])
        extent = [float(s) * n for s, n in zip(derived.PixelSpacing, (288, 384), strict=True)]
        assert extent == pytest.approx([float(s) * 256 for s in source.PixelSpacing])
        assert "k-space crop to 144 x 192" in derived.DerivationDescription
        assert list(derived.ImagePositionPatient) == next(
            list(one.ImagePositionPatient)
            for one in map(pydicom.dcmread, interpolated.iterdir())
            if one.SOPInstanceUID == derived.SourceImageSequence[0].ReferencedSOPInstanceUID
        )
    uncropped = infer(interpolated, tmp_path / "as-is", InferOptions(backend="zero-fill"))
    assert {one.output.split("/")[0] for one in uncropped.slices}.isdisjoint(
        one.output.split("/")[0] for one in report.slices
    )
    again = infer(interpolated, tmp_path / "out", options)
    assert again.count("present") == 4


def test_crop_of_a_square_series_keeps_its_pixels_square(tmp_path):
    """512 x 512 stored of 256 x 256 acquired, masked: as the header says, not as a mask leaves."""
    datasets, _ = full_slices()
    images = acquired_by_scanner("masked air")
    spacing = [float(step) / 2 for step in datasets[0].PixelSpacing]
    changes = {"AcquisitionMatrix": [0, 256, 256, 0], "PixelSpacing": spacing}
    study = write_study(tmp_path / "study", images, datasets, **changes)
    report = infer(
        study, tmp_path / "out", InferOptions(backend="zero-fill", on_interpolated="crop")
    )
    assert [one.cropped_to for one in report.series_records] == [(256, 256)]
    for path in (tmp_path / "out").rglob("*.dcm"):
        derived = pydicom.dcmread(path)
        assert (derived.Rows, derived.Columns) == (512, 512)
        assert list(derived.PixelSpacing) == pytest.approx(spacing)


def test_skip_leaves_only_interpolated_series_out(interpolated, tmp_path):
    """Others of the same folder go on; alone, they are exit 9 with nothing written."""
    options = InferOptions(backend="zero-fill", on_interpolated="skip")
    with pytest.raises(NoMRImageError, match="4 interpolated") as caught:
        infer(interpolated, tmp_path / "out", options)
    assert "--on-interpolated" in caught.value.hint
    assert not (tmp_path / "out").exists()
    for path in interpolated.iterdir():
        other = pydicom.dcmread(path)
        other.PixelData = pydicom.dcmread(sorted(sample_folder().glob("*.dcm"))[9]).PixelData
        other.SeriesInstanceUID = "2.25.4711"
        other.SOPInstanceUID = f"2.25.4711{path.stem}"
        other.save_as(interpolated / f"full{path.stem}.dcm")
    report = infer(interpolated, tmp_path / "out", options)
    assert report.reasons() == [("skipped", "interpolated", 4)]
    assert (report.count("written"), report.exit_code) == (4, 0)


def test_strict_refuses_what_is_only_warned_about_and_writes_nothing(interpolated, tmp_path):
    """Exit 6. What is handled is not only warned about."""
    out = tmp_path / "out"
    with pytest.raises(StrictRefusalError, match=r"k-space measured .* \(1 series: 1\)") as caught:
        infer(interpolated, out, InferOptions(backend="zero-fill", strict=True))
    assert caught.value.exit_code == 6
    assert not out.exists()
    handled = InferOptions(backend="zero-fill", strict=True, on_interpolated="crop")
    assert infer(interpolated, out, handled).exit_code == 0
    sample = tmp_path / "sample"
    sample.mkdir()
    shutil.copy(sorted(sample_folder().glob("*.dcm"))[9], sample)
    plain = InferOptions(backend="zero-fill", strict=True)
    assert infer(sample, tmp_path / "plain", plain).count("written") == 1


def test_an_unknown_way_of_handling_is_refused():
    """A typing error must not mean `warn`."""
    with pytest.raises(InputError, match="one of warn, skip, crop, not 'drop'"):
        InferOptions(on_interpolated="drop")
