"""The slices that the rows of one model are run and scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kspacesr_rt.kspace import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSlices:
    """What the rows of one model are run and judged on."""

    hr: FloatArray
    """``(k, s*y, s*x)``, scaled by the series' maximum."""
    lr: FloatArray
    """``(k, y, x)``."""
    file: Path
    """`lr` as ``.npy``."""
    labels: tuple[str, ...] = ()
    """Which slices of the series they are, in words."""
    white: float = 1.0
    """What is white in pictures of them, in the unit of `hr`."""

    @property
    def upscale(self) -> int:
        """HR samples to an LR sample, along an axis."""
        return int(self.hr.shape[-1] // self.lr.shape[-1])
