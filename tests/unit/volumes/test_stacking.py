"""Slices of a series as a volume: in the order of space, with an affine, or not at all."""

import numpy as np
import pytest

from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.volumes.stacking import Placed, stacked

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "upside down": (0, -1, 0, -1, 0, 0),
    "oblique": (0.8, 0.6, 0, -0.48, 0.64, 0.6),
}


def placed(number, orientation=ORIENTATIONS["axial"], *, step=3.0, at=None, **fields):
    normal = np.cross(orientation[:3], orientation[3:])
    position = np.array([-50.0, -40.0, 10.0]) + normal * step * (number if at is None else at)
    values = {
        "position_mm": tuple(position),
        "orientation": tuple(map(float, orientation)),
        "spacing_mm": (1.2, 0.9),
        "thickness_mm": 5.0,
        "matrix": (20, 24),
        "order": (float(number),),
    }
    return Placed(**(values | fields))


@pytest.mark.parametrize("step", [3.0, -3.0])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_lies_where_dicom_says(name, step):
    """By PS3.3 C.7.6.2.1.1, pixel by pixel; rows run upwards, and slices along their normal."""
    slices = [placed(number, ORIENTATIONS[name], step=step) for number in (2, 0, 3, 1)]
    stack = stacked(slices)
    [order] = stack.numbers
    assert sorted(order) == [0, 1, 2, 3]
    for k, number in enumerate(order):
        one = slices[number]
        along_columns, along_rows = np.reshape(one.orientation, (2, 3))
        for row, column in ((0, 0), (19, 23), (5, 7)):
            lps = (
                np.asarray(one.position_mm)
                + along_columns * one.spacing_mm[1] * column
                + along_rows * one.spacing_mm[0] * row
            )
            found = stack.affine @ [column, 19 - row, k, 1]
            assert np.allclose(found[:3], lps * [-1, -1, 1])
    assert np.linalg.det(stack.affine[:3, :3]) < 0


def test_slices_of_one_place_become_volumes_in_their_order():
    slices = [placed(10 * time + z, at=z, order=(float(-time),)) for time in (0, 1) for z in (1, 0)]
    stack = stacked(slices)
    assert stack.numbers == ((3, 2), (1, 0))


def test_positions_that_were_rounded_to_tenths_are_even():
    """As the scanner of the shipped sample writes them."""
    slices = [placed(n, step=0.97) for n in range(9)]
    rounded = [tuple(round(value, 1) for value in one.position_mm) for one in slices]
    stack = stacked([placed(n, position_mm=rounded[n]) for n in range(9)])
    assert np.allclose(stack.affine[:3, 2], [0, 0, 0.97], atol=0.02)


def test_a_single_slice_is_as_thick_as_it_says():
    stack = stacked([placed(0)])
    assert np.linalg.norm(stack.affine[:3, 2]) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("slices", "what"),
    [
        ([placed(0), placed(1), placed(3)], "equal distances"),
        ([placed(0), placed(0), placed(1)], "same number"),
        ([placed(0), placed(1, matrix=(20, 22))], "matrix"),
        ([placed(0), placed(1, spacing_mm=(1.2, 1.0))], "orientation or spacing"),
        ([placed(0), placed(1, ORIENTATIONS["oblique"])], "orientation or spacing"),
        (
            [placed(0), placed(1, position_mm=(-48.0, -40.0, 13.0)), placed(2)],
            "equal distances",
        ),
    ],
    ids=["a gap", "one twice", "matrix", "spacing", "orientation", "beside the line"],
)
def test_what_is_no_even_stack_is_refused(slices, what):
    """A volume would put such slices where they are not."""
    with pytest.raises(SliceFailed, match=what) as caught:
        stacked(slices)
    assert caught.value.reason == "bad-geometry"
