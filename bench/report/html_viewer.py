"""The before/after viewer of a benchmark's report: pictures that show without a script, controls.

Without a script every slice is a row of five pictures. `report.js` turns them into one stage with
a divider, zoom, window and level.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from kspacesr_rt.bench.run.pictures import SAMPLE

LAYERS = {
    "zero_fill": "zero-fill",
    "sr": "SR",
    "hr": "HR",
    "zero_fill_error": "|zero-fill − HR|",
    "sr_error": "|SR − HR|",
}
"""Keys of a picture, and what a reader calls them."""
NOT_STORED = (
    "Pictures were not stored with this result. Measure with <code>--html</code>, or keep them "
    "with <code>-o RESULTS.json --pictures</code>."
)


def viewer(pictures: Sequence[dict[str, Any]]) -> str:
    """Return the section's content."""
    if not pictures:
        return f"<p>{NOT_STORED}</p>"
    own = any(one["source"] != SAMPLE for one in pictures)
    whose = (
        "<p class=warning>These are the user's own images. Their pixels may identify somebody; "
        "this page holds no other field of theirs. Pass it on as you would pass the images on.</p>"
        if own
        else "<p>Slices of the shipped, public sample.</p>"
    )
    return (
        f"{whose}<p>For looking, not for reading values: 8-bit grey at the matrix of SR. Images: "
        "black is 0, white the 99.9th percentile of the HR series. Differences: black is 0, white "
        "the figure under the stage, the same for both; window and level leave them alone. SR "
        "detail is predicted, not measured.</p>"
        f'{_controls(pictures)}<div class="slices">{"".join(_slice(one) for one in pictures)}</div>'
    )


def _slice(one: dict[str, Any]) -> str:
    shown = "".join(
        f'<div><img alt="{escape(name, quote=True)} of {escape(one["label"], quote=True)}" '
        f'data-layer="{key}" src="data:image/png;base64,{escape(one[key], quote=True)}">'
        f"<span>{escape(name)}</span></div>"
        for key, name in LAYERS.items()
    )
    label = f"{one['model']}, {one['label']}"
    return (
        f'<figure class="slice" data-label="{escape(label, quote=True)}" '
        f'data-error="{one["error_white"] * 100:.2f}">'
        f"<figcaption>{escape(label)}; differences: white is {one['error_white'] * 100:.2f} % of "
        f'the series\' maximum</figcaption><div class="strip">{shown}</div></figure>'
    )


def _controls(pictures: Sequence[dict[str, Any]]) -> str:
    slices = "".join(
        f"<option value={i}>{escape(one['model'])}, {escape(one['label'])}</option>"
        for i, one in enumerate(pictures)
    )

    def layers(chosen: str) -> str:
        return "".join(
            f'<option value="{key}"{" selected" if key == chosen else ""}>{escape(name)}</option>'
            for key, name in LAYERS.items()
        )

    return f"""<div class="viewer" hidden>
<div>
<div class="stage" id="v-stage" tabindex="0" role="group" \
aria-label="Images, left and right of a divider. Plus, minus and 0 zoom, arrows move.">
<div class="sheet"><canvas id="v-canvas-right"></canvas></div>
<div class="over" id="v-over"><div class="sheet"><canvas id="v-canvas-left"></canvas></div></div>
<span class="tab left" id="v-name-left"></span><span class="tab right" id="v-name-right"></span>
<div class="divider" id="v-divider" aria-hidden="true"><i></i></div>
</div>
<p class="readout" id="v-readout" role="status"></p>
</div>
<div class="side">
<label class="full">slice <select id="v-slice">{slices}</select></label>
<label>left <select id="v-left">{layers("zero_fill")}</select></label>
<label>right <select id="v-right">{layers("sr")}</select></label>
<label class="full">divider
<input type="range" id="v-split" min="0" max="100" step="1" value="50"></label>
<label>window <input type="range" id="v-window" min="2" max="200" step="1" value="100"></label>
<label>level <input type="range" id="v-level" min="0" max="150" step="1" value="50"></label>
<span class="full buttons">
<button type="button" id="v-errors" aria-pressed="false">differences</button>
<button type="button" id="v-out" aria-label="zoom out">−</button>
<output id="v-zoom" aria-label="zoom">100 %</output>
<button type="button" id="v-in" aria-label="zoom in">+</button>
<button type="button" id="v-reset" aria-label="reset zoom, window and level">reset</button>
</span>
<p class="full hint">Drag to move the divider; when zoomed, drag the image to move it and the \
divider by its handle. Wheel after a click into the image (or with Ctrl), pinch, or <kbd>+</kbd> \
<kbd>−</kbd> <kbd>0</kbd> zoom, arrow keys move. Right button dragged: window across, level up \
and down.</p>
</div>
</div>"""
