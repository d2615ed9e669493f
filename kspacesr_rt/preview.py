"""A contact sheet a series: source, zero-fill, SR and what the model added, in one window."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.interpolation import zero_fill
from kspacesr_rt.kspace import FloatArray, SampleGrid, nearest_sample

WINDOW_PERCENTILE = 99.5
"""The window goes from 0 to this percentile of the source, for every panel alike."""
DIFFERENCE_GAIN = 5.0
"""The difference panel shows grey for equal, and this many times the window's contrast."""
LARGEST_PANEL = 512
"""Panels larger than this are shown at half size, and so on."""
SMALLEST_PANEL = 256
"""Panels smaller than this are shown at twice the size, and so on: labels must fit."""
FONT_SIZE = 16
LABEL_HEIGHT = 24
"""Pixels above each panel for its name, and below the sheet for what holds for all of it."""
GAP = 4
"""Pixels between panels: without, two black backgrounds look like one picture."""
BACKGROUND, INK = 48, 255

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSlice:
    """One slice before and after."""

    lr: FloatArray
    """Source, shape ``(y, x)``, real-world values."""
    sr: FloatArray
    """Result, shape ``(s*y, s*x)``, real-world values."""
    number: int | None = None
    """Its place in the series, counted from 1."""
    grid: SampleGrid = "kspace"
    """Where SR samples lie; the other panels are sampled there too."""


def to_grey(image: FloatArray, low: float, high: float) -> Grey:
    """Map ``low..high`` to 0..255, clipped."""
    span = max(high - low, float(np.finfo(np.float32).tiny))
    grey: Grey = np.clip((image - low) / span * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return grey


def panels(one: PreviewSlice) -> list[tuple[str, Grey]]:
    """Return the named panels of a slice, all of the SR matrix and in one window.

    Each source pixel is shown as a block, around the place where it lies. The last panel is grey
    where nothing was added; its label says which differences are white and black.
    """
    upscale = one.sr.shape[0] // one.lr.shape[0]
    interpolated = zero_fill(one.lr, upscale, one.grid)
    top = window_top(one)
    added = one.sr - interpolated
    limit = top / 2 / DIFFERENCE_GAIN
    nearest = one.lr[np.ix_(*(nearest_sample(n, upscale, one.grid) for n in one.lr.shape))]
    rows, columns = one.lr.shape
    slice_number = "" if one.number is None else f"slice {one.number}: "
    return [
        (f"{slice_number}source {rows} x {columns}", to_grey(nearest, 0.0, top)),
        (f"zero-fill x{upscale}, 0 to {top:.4g}", to_grey(interpolated, 0.0, top)),
        (f"SR x{upscale}, 0 to {top:.4g}", to_grey(one.sr, 0.0, top)),
        (f"SR - zero-fill, -{limit:.3g} to {limit:.3g}", to_grey(added, -limit, limit)),
    ]


def window_top(one: PreviewSlice) -> float:
    """Return the value that is white in every panel but the difference."""
    return float(np.percentile(one.lr, WINDOW_PERCENTILE)) or 1.0


def sheet(rows: list[list[tuple[str, Grey]]], note: str = "") -> Image.Image:
    """Lay named panels out in rows, with a note below all of them.

    Raises
    ------
    ShapeError
        If there is nothing to lay out.
    """
    if not rows or not rows[0]:
        raise ShapeError("a contact sheet needs at least one panel")
    largest = int(np.max([panel.shape for row in rows for _, panel in row]))
    fitted = [[(label, _fitted(panel, largest)) for label, panel in row] for row in rows]
    width = max(panel.width for row in fitted for _, panel in row)
    height = max(panel.height for row in fitted for _, panel in row)
    size = (
        len(rows[0]) * (width + GAP) - GAP,
        len(rows) * (height + LABEL_HEIGHT) + (LABEL_HEIGHT if note else 0),
    )
    canvas = Image.new("L", size, BACKGROUND)
    for down, row in enumerate(fitted):
        for across, (label, panel) in enumerate(row):
            x, y = across * (width + GAP), down * (height + LABEL_HEIGHT)
            canvas.paste(_label(label, width), (x, y))
            canvas.paste(panel, (x, y + LABEL_HEIGHT))
    if note:
        canvas.paste(_label(note, size[0]), (0, size[1] - LABEL_HEIGHT))
    return canvas


def _label(text: str, width: int) -> Image.Image:
    """Return a strip of text, cut at its width: it must not run into the next panel's."""
    strip = Image.new("L", (width, LABEL_HEIGHT), BACKGROUND)
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(strip).text((4, 2), text, fill=INK, font=font)
    return strip


def _fitted(panel: Grey, largest: int) -> Image.Image:
    """Return a panel reduced or magnified by a whole number, the same for all of a sheet."""
    image = Image.fromarray(panel)
    if largest > LARGEST_PANEL:
        return image.reduce(-(-largest // LARGEST_PANEL))
    times = max(1, -(-SMALLEST_PANEL // largest))
    size = (image.width * times, image.height * times)
    return image.resize(size, Image.Resampling.NEAREST)


def contact_sheet(slices: list[PreviewSlice]) -> bytes:
    """Return a PNG with one row of panels a slice."""
    note = (
        f"One window a row; the difference at {DIFFERENCE_GAIN:.0f} times its contrast, grey is "
        "equal. Research use only: added detail is predicted, not measured."
    )
    buffer = io.BytesIO()
    sheet([panels(one) for one in slices], note).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
