"""What the checks of a file's frames found, joined: the worst figures, and which are flagged."""

from __future__ import annotations

from collections.abc import Mapping

from kspacesr_rt.dicom.clipping import Clipping
from kspacesr_rt.quality.result_checks import SliceFigures


class FrameChecks:
    """Takes the figures of one frame after the other."""

    def __init__(self, bounds: Mapping[str, float]) -> None:
        """Begin before the first frame; `bounds` are those of what computes them."""
        self._bounds = bounds
        self._n_added = 0
        self._flagged: dict[str, list[int]] = {}
        self.figures: SliceFigures | None = None
        """The worst so far; None before the first frame."""
        self.clipping = Clipping()
        """The worst so far."""

    def add(self, figures: SliceFigures, clipping: Clipping) -> None:
        """Take what was measured on the next frame."""
        self._n_added += 1
        self.figures = figures if self.figures is None else self.figures.worse_of(figures)
        self.clipping = self.clipping.worse_of(clipping)
        for flag in (*figures.beyond(self._bounds), *clipping.flags):
            self._flagged.setdefault(flag, []).append(self._n_added)

    @property
    def flagged_frames(self) -> dict[str, tuple[int, ...]]:
        """The frames that have each flag, by number from 1."""
        return {flag: tuple(numbers) for flag, numbers in self._flagged.items()}
