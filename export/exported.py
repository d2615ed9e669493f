"""What an export wrote, whatever it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kspacesr_rt.conversion.parity import ParityReport
from kspacesr_rt.model.spec import ModelSpec

ONE_MATRIX: Final = "right at one matrix only"
MULTIPLES: Final = "takes multiples of"
WRITTEN_FOR: Final = "written for multiples of"
OVERFLOWS: Final = "overflows in scanner units"
"""How remarks begin that limit what a model can be used for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A model that passed the gate and was written."""

    path: Path
    """Where it is."""
    spec: ModelSpec
    """As stored in it."""
    report: ParityReport
    """What the gate measured."""
    size_bytes: int
    """Size of the file."""
    remarks: tuple[str, ...] = ()
    """What was decided on the way."""
    notes: tuple[str, ...] = ()
    """What the checkpoint did not say; see `kspacesr_rt.train.checkpoint.Checkpoint`."""

    @property
    def limits(self) -> tuple[str, ...]:
        """Those of the remarks that say what the model cannot be used for."""
        words = (ONE_MATRIX, MULTIPLES, WRITTEN_FOR, OVERFLOWS)
        return tuple(one for one in self.remarks if one.startswith(words))
