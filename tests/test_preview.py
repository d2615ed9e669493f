"""Contact sheets: what a person looks at must show what was computed."""

import io

import numpy as np
import pytest
from PIL import Image

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.interpolation import zero_fill
from kspacesr_rt.phantoms import brain_phantom
from kspacesr_rt.preview import (
    DIFFERENCE_GAIN,
    GAP,
    LABEL_HEIGHT,
    PreviewSlice,
    contact_sheet,
    panels,
    sheet,
    to_grey,
    window_top,
)


def slice_of(matrix=(40, 30), upscale=2):
    lr = brain_phantom(matrix) * 700
    return PreviewSlice(lr=lr, sr=zero_fill(lr, upscale))


def test_a_sheet_has_a_row_a_slice_and_four_panels():
    """Source, zero-fill, SR and difference, small ones magnified so that labels fit."""
    png = contact_sheet([slice_of(), slice_of()])
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    times = 4  # the larger side, 80, to at least 256
    assert image.size == (4 * (60 * times + GAP) - GAP, 2 * 80 * times + 3 * LABEL_HEIGHT)


def test_all_panels_share_one_window():
    """Two panels of different contrast would show a difference that is not there."""
    named = panels(slice_of())
    zero_filled, sr = named[1][1], named[2][1]
    assert np.array_equal(zero_filled, sr)
    assert named[0][1].max() == 255


def test_the_difference_panel_is_grey_where_nothing_was_added():
    """Grey is equal, brighter was added, darker was taken away."""
    one = slice_of()
    assert set(np.unique(panels(one)[3][1])) <= {127, 128}
    brighter = PreviewSlice(lr=one.lr, sr=one.sr + 20.0)
    assert panels(brighter)[3][1].min() > 128


def test_panels_lie_where_the_result_lies():
    """On another grid every panel moves, or the difference shows a shift as if it were detail."""
    lr = brain_phantom((40, 32)) * 700
    for grid in ("kspace", "pixel-centre"):
        one = PreviewSlice(lr=lr, sr=zero_fill(lr, 4, grid), grid=grid)
        source, _, _, added = (panel for _, panel in panels(one))
        assert set(np.unique(added)) <= {127, 128}
        # An LR sample is the middle of its block: of SR samples -2 to 1, or of 0 to 3.
        first = 2 if grid == "kspace" else 4
        assert (source[:first, :first] == source[0, 0]).all()
        behind = source[first::4, first::4][:39, :31]
        assert np.array_equal(behind, to_grey(lr[1:, 1:], 0.0, window_top(one)))
    shifted = PreviewSlice(lr=lr, sr=zero_fill(lr, 4, "pixel-centre"))
    assert np.ptp(panels(shifted)[3][1].astype(int)) > 100


def test_large_panels_are_reduced():
    """A 4096 x 4096 result must not make a poster."""
    image = sheet([[("big", np.zeros((1100, 1100), np.uint8))]])
    assert max(image.size) <= 512 + LABEL_HEIGHT


def test_window_edges_and_empty_slices():
    """The window maps to black and white exactly; an all-zero slice is black, not an error."""
    assert to_grey(np.array([0.0, 10.0]), 0.0, 10.0).tolist() == [0, 255]
    assert to_grey(np.array([-5.0, 50.0]), 0.0, 10.0).tolist() == [0, 255]
    empty = np.zeros((16, 16), np.float32)
    assert contact_sheet([PreviewSlice(lr=empty, sr=np.zeros((32, 32), np.float32))])


def test_nothing_to_show_is_refused():
    """An empty sheet would be an unreadable picture."""
    with pytest.raises(ShapeError, match="at least one panel"):
        contact_sheet([])


def test_labels_say_what_is_shown_in_numbers():
    """The window, and which differences are white and black; no label leaves its panel."""
    one = slice_of()
    labels = [label for label, _ in panels(PreviewSlice(lr=one.lr, sr=one.sr, number=7))]
    top = window_top(one)
    assert labels[0] == "slice 7: source 40 x 30"
    assert labels[1].endswith(f"0 to {top:.4g}")
    limit = top / 2 / DIFFERENCE_GAIN
    assert labels[3] == f"SR - zero-fill, -{limit:.3g} to {limit:.3g}"
    brighter = PreviewSlice(lr=one.lr, sr=one.sr + np.float32(1.01 * limit))
    assert panels(brighter)[3][1].min() == 255
    narrow = np.asarray(sheet([[("a" * 90, np.zeros((256, 256), np.uint8))] * 2]))
    assert (narrow[:LABEL_HEIGHT, 256 : 256 + GAP] == narrow[0, -1]).all()
