"""A contact sheet a series: source, zero-fill, SR and what the model added, in one window."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.interpolation import zero_fill
from kspacesr_rt.kspace import FloatArray

WINDOW_PERCENTILE = 99.5
"""The window goes from 0 to this percentile of the source, for every panel alike."""
DIFFERENCE_GAIN = 5.0
"""The difference panel shows grey for equal, and this many times the window's contrast."""
LABEL_HEIGHT = 18
"""Pixels above each panel for its name."""
LARGEST_PANEL = 512
"""Panels wider than this are shown at half size, and so on."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSlice:
    """One slice before and after."""

    lr: FloatArray
    """Source, shape ``(y, x)``, real-world values."""
    sr: FloatArray
    """Result, shape ``(s*y, s*x)``, real-world values."""


def to_grey(image: FloatArray, low: float, high: float) -> Grey:
    """Map ``low..high`` to 0..255, clipped."""
    span = max(high - low, float(np.finfo(np.float32).tiny))
    grey: Grey = np.clip((image - low) / span * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return grey


def panels(one: PreviewSlice) -> list[tuple[str, Grey]]:
    """Return the named panels of a slice, all of the SR matrix and in one window."""
    upscale = one.sr.shape[0] // one.lr.shape[0]
    interpolated = zero_fill(one.lr, upscale)
    top = float(np.percentile(one.lr, WINDOW_PERCENTILE)) or 1.0
    added = (one.sr - interpolated) * DIFFERENCE_GAIN
    nearest = np.repeat(np.repeat(one.lr, upscale, axis=0), upscale, axis=1)
    return [
        (f"source {one.lr.shape[0]} x {one.lr.shape[1]}", to_grey(nearest, 0.0, top)),
        ("zero-fill", to_grey(interpolated, 0.0, top)),
        (f"SR x{upscale}", to_grey(one.sr, 0.0, top)),
        (f"SR - zero-fill, x{DIFFERENCE_GAIN:.0f}", to_grey(added, -top / 2, top / 2)),
    ]


def sheet(rows: list[list[tuple[str, Grey]]]) -> Image.Image:
    """Lay named panels out in rows.

    Raises
    ------
    ShapeError
        If there is nothing to lay out.
    """
    if not rows or not rows[0]:
        raise ShapeError("a contact sheet needs at least one panel")
    height, width = np.max([panel.shape for row in rows for _, panel in row], axis=0)
    step = 1 + int(max(height, width) - 1) // LARGEST_PANEL
    height, width = -(-int(height) // step), -(-int(width) // step)
    canvas = Image.new("L", (len(rows[0]) * width, len(rows) * (height + LABEL_HEIGHT)))
    draw = ImageDraw.Draw(canvas)
    for down, row in enumerate(rows):
        for across, (label, panel) in enumerate(row):
            x, y = across * width, down * (height + LABEL_HEIGHT)
            draw.text((x + 4, y + 3), label, fill=255)
            canvas.paste(Image.fromarray(panel).reduce(step), (x, y + LABEL_HEIGHT))
    return canvas


def contact_sheet(slices: list[PreviewSlice]) -> bytes:
    """Return a PNG with one row of panels a slice."""
    buffer = io.BytesIO()
    sheet([panels(one) for one in slices]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
