"""A patient point stays where it is: the property that registration and planning rely on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kspacesr_rt import kspace
from kspacesr_rt.dicom import derive, geometry, output_path, write_atomically


def rotation(angles):
    a, b, c = angles
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    return z @ y @ x


def patient_point(index, position, orientation, spacing):
    """PS3.3 equation C.7.6.2.1-1, written out: index is (row, column)."""
    along_columns, along_rows = np.reshape(orientation, (2, 3))
    row, column = index
    return (
        np.asarray(position) + along_columns * spacing[1] * column + along_rows * spacing[0] * row
    )


def blob(matrix, centre, width=1.6):
    y, x = np.mgrid[: matrix[0], : matrix[1]]
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return (image * y).sum() / image.sum(), (image * x).sum() / image.sum()


angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
spacings = st.tuples(st.floats(0.3, 3), st.floats(0.3, 3))
matrices = st.tuples(st.integers(24, 37), st.integers(24, 37))
centres = st.tuples(st.floats(0.45, 0.55), st.floats(0.45, 0.55))


@settings(deadline=None)
@given(angles, spacings, matrices, st.integers(2, 4), centres)
def test_a_blob_stays_at_its_patient_point(angles, spacing, matrix, upscale, centre):
    """Oblique, anisotropic, odd or even: within 0.05 source pixel.

    The edge formula would be off by up to 0.375, an unchanged position by 0.5.
    """
    orientation = rotation(angles)[:, :2].T.ravel()
    position = np.array([-110.5, 37.25, -8.0])
    index = tuple(f * n for f, n in zip(centre, matrix, strict=True))
    expected = patient_point(index, position, orientation, spacing)

    sr = kspace.zero_fill_image(blob(matrix, index), upscale).real
    found = patient_point(
        centroid(sr),
        geometry.sr_position_mm(position, orientation, spacing, matrix, upscale),
        orientation,
        geometry.sr_spacing_mm(spacing, upscale),
    )
    assert np.linalg.norm(found - expected) < 0.05 * min(spacing)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(30, 32), (31, 32), (32, 31), (31, 33)])
def test_other_software_finds_the_same_point_in_the_file(
    shape, upscale, mr, save, load, run, tmp_path
):
    """ITK reads what we wrote: decimal strings, axis order and all."""
    itk = pytest.importorskip("SimpleITK")
    orientation = rotation((0.3, -0.2, 0.1))[:, :2].T.ravel()
    centre = (15.3, 14.6)
    decoded = load(
        save(
            mr(
                (3000 * blob(shape, centre)).astype(np.uint16),
                ImageOrientationPatient=[f"{v:.10f}" for v in orientation],
                PixelSpacing=[1.3, 0.7],
            )
        )
    )
    sr = kspace.zero_fill_image(decoded.values, upscale).real
    derived = derive(decoded, sr, run(upscale=upscale))
    path = output_path(tmp_path / "out", derived)
    write_atomically(derived, path)

    image = itk.ReadImage(str(path))
    plane = itk.GetArrayFromImage(image)[0].astype(float)
    row, column = centroid(plane)
    found = image.TransformContinuousIndexToPhysicalPoint((column, row, 0.0))
    expected = patient_point(centre, (-10, -20, 30), orientation, (1.3, 0.7))
    assert np.linalg.norm(np.subtract(found, expected)) < 0.05 * 0.7


@pytest.mark.parametrize(
    ("n", "upscale", "shift"), [(8, 2, 0), (8, 3, 0), (9, 2, -0.5), (9, 4, -0.5)]
)
def test_only_odd_axes_move(n, upscale, shift):
    """Even matrices keep Image Position (Patient) as the scanner wrote it."""
    x, y, z = geometry.sr_position_mm((1, 2, 3), (1, 0, 0, 0, 1, 0), (2.0, 4.0), (n, 8), upscale)
    assert (x, y, z) == (1, 2 + 2.0 * shift, 3)
    x, y, z = geometry.sr_position_mm((1, 2, 3), (1, 0, 0, 0, 1, 0), (2.0, 4.0), (8, n), upscale)
    assert (x, y, z) == (1 + 4.0 * shift, 2, 3)
    assert geometry.moves((n, 8), upscale) == geometry.moves((8, n), upscale) == (shift != 0)


@given(st.floats(-1e6, 1e6))
def test_numbers_fit_a_decimal_string(value):
    """17 characters are illegal, and readers cut them."""
    (text,) = geometry.as_ds([value])
    assert len(str(text)) <= 16
    assert abs(float(text) - value) <= 1e-9 * max(1.0, abs(value))


def test_slices_lie_along_their_normal():
    """For an axial slice the normal is z; for a sagittal one it is x."""
    assert geometry.slice_position_mm((1, 2, 3), (1, 0, 0, 0, 1, 0)) == 3
    assert geometry.slice_position_mm((1, 2, 3), (0, 1, 0, 0, 0, 1)) == 1


def on_pixel_centres(matrix, index, upscale):
    """Draw what a network that was trained on resized images gives for a blob at an LR index.

    An LR sample is the middle of the SR samples that were averaged to it.
    """
    middle = [upscale * i + (upscale - 1) / 2 for i in index]
    return blob([upscale * n for n in matrix], middle, width=1.6 * upscale)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("matrix", [(30, 32), (31, 32), (31, 33)])
def test_a_blob_on_pixel_centres_stays_at_its_patient_point(matrix, upscale):
    """Up to 1.5 SR samples lie between the two grids: a registration would see them."""
    orientation = rotation((0.3, -0.2, 0.1))[:, :2].T.ravel()
    index, position, spacing = (15.3, 14.6), (-110.5, 37.25, -8.0), (1.3, 0.7)
    expected = patient_point(index, position, orientation, spacing)
    sr = on_pixel_centres(matrix, index, upscale)
    misses = {}
    for grid in ("pixel-centre", "kspace"):
        found = patient_point(
            centroid(sr),
            geometry.sr_position_mm(position, orientation, spacing, matrix, upscale, grid),
            orientation,
            geometry.sr_spacing_mm(spacing, upscale),
        )
        misses[grid] = np.linalg.norm(found - expected)
    assert misses["pixel-centre"] < 1e-3
    assert misses["kspace"] > 0.2 * min(spacing) or any(n % 2 for n in matrix)
    assert geometry.moves(matrix, upscale, "pixel-centre")


def test_the_grid_reaches_a_classic_file_and_its_uids(mr, save, load, run):
    """Position, padding and identity: the same pixels elsewhere are another instance."""
    matrix, index = (30, 32), (15.3, 14.6)
    decoded = load(
        save(mr((3000 * blob(matrix, index)).astype(np.uint16), PixelSpacing=[1.3, 0.7]))
    )
    sr = (3000 * on_pixel_centres(matrix, index, 4)).astype(np.float32)
    derived = derive(decoded, sr, run(upscale=4, sample_grid="pixel-centre"))
    usual = derive(decoded, sr, run(upscale=4))
    x, y, z = (float(v) for v in derived.ImagePositionPatient)
    assert (x, y, z) == pytest.approx((-10 - 0.375 * 0.7, -20 - 0.375 * 1.3, 30))
    assert [float(v) for v in usual.ImagePositionPatient] == [-10, -20, 30]
    assert derived.PixelData == usual.PixelData
    assert derived.SOPInstanceUID != usual.SOPInstanceUID
    assert derived.SeriesInstanceUID != usual.SeriesInstanceUID


@given(st.lists(st.floats(-300, 300), min_size=3, max_size=3), st.integers(0, 999))
def test_a_slice_lies_along_the_normal_of_any_plane(position, seed):
    """Oblique, coronal, sagittal: the cross product of row and column directions, in its order."""
    plane, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    orientation = (*plane[0], *plane[1])
    found = geometry.slice_position_mm(position, orientation)
    assert found == pytest.approx(np.dot(np.cross(plane[0], plane[1]), position), abs=1e-9)
