"""Contact sheets: what a person looks at must show what was computed."""

import io

import numpy as np
import pytest
from PIL import Image

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.pipeline.contact_sheet import (
    ADDED,
    BACKGROUND,
    GAP,
    INK,
    LABEL_HEIGHT,
    LARGEST_GAIN,
    LEGEND_HEIGHT,
    TAKEN,
    ZOOM,
    Panel,
    Part,
    PreviewSlice,
    contact_sheet,
    difference_limit,
    framed,
    magnified,
    most_added,
    panels,
    sheet,
    to_colours,
    to_grey,
    window_top,
)


def slice_of(matrix=(40, 32), upscale=2, **names):
    lr = brain_phantom(matrix) * 700
    return PreviewSlice(lr=lr, sr=zero_fill(lr, upscale), **names)


def with_blob(one, at, value):
    """Return a slice to which a model has added a blob of 6 by 6 samples."""
    sr = one.sr.copy()
    sr[at[0] : at[0] + 6, at[1] : at[1] + 6] += np.float32(value)
    return PreviewSlice(lr=one.lr, sr=sr, number=one.number, series_number=one.series_number)


def difference_of(one):
    """Return the whole difference, without its frame."""
    added = one.sr - zero_fill(one.lr, one.sr.shape[0] // one.lr.shape[0], one.grid)
    return to_colours(added, difference_limit(added, window_top(one)))


def test_a_slice_has_two_rows_of_four_panels_and_a_legend():
    """Source, zero-fill, SR and difference, whole and near; small ones so that labels fit."""
    image = Image.open(io.BytesIO(contact_sheet([slice_of(), slice_of()])))
    assert (image.format, image.mode) == ("PNG", "RGB")
    times = 4  # the larger side, 80, to at least 256
    height = 2 * (80 * times + LABEL_HEIGHT) + LEGEND_HEIGHT
    assert image.size == (4 * (64 * times + GAP) - GAP, 2 * height + LABEL_HEIGHT)


def test_all_panels_share_one_window():
    """Two panels of different contrast would show a difference that is not there."""
    for row in panels(slice_of()):
        assert np.array_equal(row[1].pixels, row[2].pixels)
        assert [panel.pixels.shape[:2] for panel in row] == [(80, 64)] * 4
    assert panels(slice_of())[0][0].pixels.max() == 255


def test_the_sheet_shows_each_panel_where_its_label_says():
    """Every sample of the drawn sheet is the panel's own, at its place, in its colours."""
    one = with_blob(slice_of(number=3, series_number=12), (30, 20), 100)
    drawn = np.asarray(Image.open(io.BytesIO(contact_sheet([one]))))
    times, y = 4, 0
    for row in panels(one):
        for across, panel in enumerate(row):
            x = across * (64 * times + GAP)
            shown = drawn[y + LABEL_HEIGHT :, x:][: 80 * times, : 64 * times][::times, ::times]
            wanted = panel.pixels if panel.pixels.ndim == 3 else panel.pixels[..., None]
            assert np.array_equal(shown, np.broadcast_to(wanted, shown.shape)), panel.label
        y += LABEL_HEIGHT + 80 * times


def test_the_difference_is_black_where_nothing_was_added_and_coloured_by_its_sign():
    """Orange was added, blue was taken away; rounding does not look like detail."""
    one = slice_of()
    assert not difference_of(one).any()
    noise = np.random.default_rng(0).normal(0, 1e-4 * window_top(one), one.sr.shape)
    rounding = PreviewSlice(lr=one.lr, sr=one.sr + noise.astype(np.float32))
    assert difference_of(rounding).max() < 16
    assert np.array_equal(
        to_colours(np.float32([[-9, -1, 0, 1, 9]]), 1.0),
        [[TAKEN, TAKEN, (0, 0, 0), ADDED, ADDED]],
    )
    half = to_colours(np.float32([[0.5, -0.5]]), 1.0)[0].astype(int)
    assert np.abs(2 * half - [ADDED, TAKEN]).max() <= 1
    blob = difference_of(with_blob(one, (30, 20), 100))
    assert (blob[30:36, 20:26] == ADDED).all()
    assert not blob[:30].any()
    taken = difference_of(with_blob(one, (30, 20), -100))
    assert (taken[30:36, 20:26] == TAKEN).all()


def test_the_range_of_the_difference_is_a_readable_number_that_covers_it():
    """It is printed below the panel; a range of 37.3 is nothing to read a colour against."""
    rng = np.random.default_rng(1)
    for scale in (0.7, 3.0, 40.0, 999.0):
        added = rng.normal(0, scale, (64, 64)).astype(np.float32)
        limit = difference_limit(added, 1.0)
        assert f"{limit:.0e}"[0] in "125"
        assert float(f"{limit:.0e}") == pytest.approx(limit)
        assert limit / 2.6 < np.percentile(np.abs(added), 99.5) <= limit * 1.001
    assert difference_limit(np.zeros((8, 8), np.float32), 500.0) == 500.0 / LARGEST_GAIN


def test_the_framed_part_is_where_most_was_added_and_is_shown_magnified():
    """A reader looks at once where the model did most, and at the same part of the source."""
    one = with_blob(slice_of(), (50, 40), 80)
    part = most_added(one.sr - zero_fill(one.lr, 2))
    assert (part.height, part.width) == (20, 16)
    assert part.top <= 50 <= 56 <= part.top + part.height
    assert part.left <= 40 <= 46 <= part.left + part.width
    whole, near = panels(one)
    for across, image in ((1, zero_fill(one.lr, 2)), (2, one.sr)):
        grey = to_grey(image, 0.0, window_top(one))
        assert np.array_equal(near[across].pixels, magnified(part.of(grey)))
        assert np.array_equal(near[across].pixels[::ZOOM, ::ZOOM], part.of(grey))
        inside = whole[across].pixels[
            part.top : part.top + part.height, part.left : part.left + part.width
        ]
        assert np.array_equal(inside, part.of(grey))
        assert (whole[across].pixels[part.top - 1, part.left : part.left + 16] == INK).all()
    assert most_added(np.zeros((80, 64), np.float32)) == Part(30, 24, 20, 16)


@pytest.mark.parametrize("corner", [(0, 0), (74, 0), (0, 58), (74, 58)])
def test_a_part_at_the_edge_is_framed_as_far_as_there_is(corner):
    """The frame must neither fall off nor come back on the other side."""
    one = with_blob(slice_of(), corner, 90)
    part = most_added(one.sr - zero_fill(one.lr, 2))
    assert 0 <= part.top <= corner[0] < part.top + part.height <= 80
    assert 0 <= part.left <= corner[1] < part.left + part.width <= 64
    blank = np.zeros((80, 64), np.uint8)
    drawn = framed(blank, part)
    rows, columns = np.nonzero(drawn)
    assert set(np.unique(drawn)) == {0, INK}
    assert rows.min() >= part.top - 1
    assert rows.max() <= part.top + part.height
    assert columns.min() >= part.left - 1
    assert columns.max() <= part.left + part.width
    assert not part.of(drawn).any()
    assert not blank.any()


def test_panels_lie_where_the_result_lies():
    """On another grid every panel moves, or the difference shows a shift as if it were detail."""
    lr = brain_phantom((40, 32)) * 700
    for grid in ("kspace", "pixel-centre"):
        one = PreviewSlice(lr=lr, sr=zero_fill(lr, 4, grid), grid=grid)
        assert not difference_of(one).any()
        source = panels(one)[0][0].pixels
        # An LR sample is the middle of its block: of SR samples -2 to 1, or of 0 to 3.
        first = 2 if grid == "kspace" else 4
        assert (source[:first, :first] == source[0, 0]).all()
        behind = source[first::4, first::4][:39, :31].copy()
        wanted = to_grey(lr[1:, 1:], 0.0, window_top(one))
        frame = behind != wanted
        assert (behind[frame] == INK).all()  # in the middle of the slice
        assert frame.mean() < 0.1
    shifted = PreviewSlice(lr=lr, sr=zero_fill(lr, 4, "pixel-centre"))
    assert np.ptp(difference_of(shifted).astype(int)) > 100


def test_large_panels_are_reduced():
    """A 4096 x 4096 result must not make a poster."""
    image = sheet([[Panel("big", np.zeros((1100, 1100), np.uint8))]])
    assert max(image.size) <= 512 + LABEL_HEIGHT
    assert image.mode == "L"


def test_window_edges_and_empty_slices():
    """The window maps to black and white exactly; an all-zero slice is black, not an error."""
    assert to_grey(np.array([0.0, 10.0]), 0.0, 10.0).tolist() == [0, 255]
    assert to_grey(np.array([-5.0, 50.0]), 0.0, 10.0).tolist() == [0, 255]
    empty = np.zeros((16, 16), np.float32)
    assert contact_sheet([PreviewSlice(lr=empty, sr=np.zeros((32, 32), np.float32))])


@pytest.mark.parametrize("matrix", [(1, 1), (1, 9), (3, 2), (5, 40)])
def test_small_slices_have_a_part_too(matrix):
    """A quarter of nothing is still a sample."""
    lr = np.arange(matrix[0] * matrix[1], dtype=np.float32).reshape(matrix)
    assert contact_sheet([PreviewSlice(lr=lr, sr=np.kron(lr, np.ones((2, 2), np.float32)))])


def test_nothing_to_show_is_refused():
    """An empty sheet would be an unreadable picture."""
    with pytest.raises(ShapeError, match="at least one panel"):
        contact_sheet([])


def test_labels_say_what_is_shown_in_numbers():
    """Series and slice; what black, white and the colours are; no label leaves its panel."""
    one = with_blob(slice_of(number=7, series_number=301), (30, 20), 100)
    whole, near = panels(one)
    top = window_top(one)
    assert [panel.label for panel in whole] == [
        *("series 301, slice 7: 40 x 32", "zero-fill x2", "SR x2"),
        f"SR - zero-fill, ±{10_000 / top:.2g} % of white",
    ]
    assert slice_of().title == "source 40 x 32"
    assert slice_of(series_number=4).title == "series 4: 40 x 32"
    assert near[0].legend.marks == near[2].legend.marks == ("0", f"{top:.4g}")
    assert near[3].legend.marks == ("-100", "0", "+100")
    assert near[0].legend.bar[0, [0, -1]].tolist() == [0, 255]
    assert near[3].legend.bar[0, [0, -1]].tolist() == [list(TAKEN), list(ADDED)]
    narrow = np.asarray(sheet([[Panel("a" * 90, np.zeros((256, 256), np.uint8))] * 2]))
    assert (narrow[:LABEL_HEIGHT, 256 : 256 + GAP] == narrow[0, -1]).all()


def test_legends_are_drawn_below_their_panels_with_numbers():
    """The bar runs over the panel's width, and something is written below it."""
    one = with_blob(slice_of(), (30, 20), 100)
    drawn = np.asarray(sheet(panels(one)))
    strip = drawn[2 * (80 * 4 + LABEL_HEIGHT) :]
    assert len(strip) == LEGEND_HEIGHT
    for across, panel in enumerate(panels(one)[1]):
        own = strip[:, across * (256 + GAP) :][:, :256]
        ends = panel.legend.bar[0, [0, -1]]
        assert np.array_equal(own[GAP + 2, [0, -1]], np.broadcast_to(ends.T, (3, 2)).T)
        assert (own[:GAP] == BACKGROUND).all()
        written = (own[-LABEL_HEIGHT:] > BACKGROUND).any(axis=(0, 2))
        assert written[:128].any()
        assert written[128:].any()
