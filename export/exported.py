"""What an export wrote, whatever it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kspacesr_rt.conversion.parity import ParityReport
from kspacesr_rt.model.spec import ModelSpec


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
