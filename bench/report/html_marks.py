"""Marks of a report's charts: every runtime has a shape and a colour of its own.

Colours are CSS classes that `report.css` defines for light and dark pages.
"""

from __future__ import annotations

import math

MARK = 5.0
"""Radius of a mark in px."""
STYLES = {
    "ort-cpu": ("c1", "circle"),
    "openvino": ("c2", "square"),
    "ort-cuda": ("c3", "up"),
    "ort-tensorrt": ("c4", "diamond"),
    "ort-webgpu": ("c3", "right"),
    "tensorrt": ("c5", "down"),
    "tensorrt-rtx": ("c6", "pentagon"),
    "torch-eager": ("ink", "circle"),
    "torch-compile": ("ink", "square"),
    "torch-bf16": ("ink", "up"),
    "torch-fp16": ("ink", "left"),
    "torch-cuda": ("ink", "pentagon"),
    "torch-cuda-compile": ("ink", "hexagon"),
    "torch-cuda-fp16": ("ink", "right"),
    "exporter-graph": ("ink", "diamond"),
    "openvino-from-torch": ("ink", "down"),
    "zero-fill": ("soft", "plus"),
    "bicubic": ("soft", "cross"),
}
"""Colour class and shape of a runtime: ours in colour, peers in ink, baselines in grey."""
SPARE = tuple((colour, "hexagon") for colour in ("c1", "c2", "c3", "c4", "c5", "c6"))
"""For runtimes that are not in `STYLES`."""
POLYGONS = {"square": (4, 45), "up": (3, -90), "down": (3, 90), "diamond": (4, 0)}
POLYGONS |= {"left": (3, 180), "right": (3, 0), "pentagon": (5, -90), "hexagon": (6, 0)}
POLYGONS |= {"plus": (8, 0), "cross": (8, 45)}
"""Corners and the direction of the first, in degrees."""
STARS = ("plus", "cross")
"""Shapes whose every other corner lies near the middle."""


def style_of(runtime: str) -> tuple[str, str]:
    """Return the colour class and shape of a runtime."""
    return STYLES.get(runtime) or SPARE[sum(runtime.encode()) % len(SPARE)]


def mark(runtime: str, across: float, down: float, *, hollow: bool = False) -> str:
    """Return the mark of a runtime as SVG, centred on a place in px."""
    colour, shape = style_of(runtime)
    css = f'class="mark {colour}{" hollow" if hollow else ""}"'
    if shape == "circle":
        return f'<circle {css} cx="{across:.1f}" cy="{down:.1f}" r="{MARK}"/>'
    corners, turn = POLYGONS[shape]
    places = []
    for i in range(corners):
        angle = math.radians(turn + 360 * i / corners)
        radius = MARK * (1.3 if corners < 5 or shape in STARS else 1.1)
        radius *= 0.4 if shape in STARS and i % 2 else 1.0
        places.append(
            f"{across + radius * math.cos(angle):.1f},{down + radius * math.sin(angle):.1f}"
        )
    coordinates = " ".join(places)
    return f'<polygon {css} points="{coordinates}"/>'


def legend_mark(runtime: str, *, hollow: bool = False) -> str:
    """Return a mark alone, for a legend."""
    return (
        '<svg class="key" width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">'
        f"{mark(runtime, 8, 8, hollow=hollow)}</svg>"
    )
