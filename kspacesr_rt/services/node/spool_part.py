"""A part: what arrived of one series until it fell silent, and the states it goes through."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal


class State(StrEnum):
    """Where a part is; the name of a folder."""

    received = "received"
    closed = "closed"
    processed = "processed"
    forwarded = "forwarded"
    quarantined = "quarantined"
    undelivered = "undelivered"


WAITING: Final = (State.received, State.closed, State.processed)
"""What the bound of the queue counts."""


class SpoolFullError(Exception):
    """An instance does not fit; `reason` is ``queue`` or ``disk``."""

    def __init__(self, reason: Literal["queue", "disk"]) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a spool may hold."""

    n_parts: int = 200
    """Parts that are received, closed or processed; a further series is refused, whereas one that
    has begun may go on."""
    n_bytes: int = 50_000_000_000
    """Bytes of everything in the spool, what is quarantined included."""
    growth: float = 0.0
    """Bytes that processing will add for each byte received: reserved with the instance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What arrived of one series until it fell silent."""

    name: str
    """Time of the first instance (ns since 1970, 20 digits), ``-``, and a digest of the series."""
    state: State
    """The folder that it lies in."""
    root: Path
    """The spool."""
    arrived: Mapping[str, Mapping[str, int]] = field(default_factory=dict, compare=False)
    """What came from each sender, by what `Spool.store` said of it; only of a part that was just
    closed, and since the process began."""
    supersedes: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Names of the parts that wait with results which are not sent any more, since this part says
    their inputs anew, and the number of these; only of a part that was just closed."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / self.state / self.name

    @property
    def inputs(self) -> Path:
        """Folder of the instances as they were received."""
        return self.folder / "in"

    @property
    def outputs(self) -> Path:
        """Folder of the derived series and the report."""
        return self.folder / "out"

    @property
    def age_s(self) -> float:
        """Seconds since its first instance."""
        return max(0.0, time.time() - int(self.name[:20]) / 1e9)

    def results(self) -> list[Path]:
        """Return the derived files, ``out/SERIES/INSTANCE.dcm``."""
        return sorted(self.outputs.glob("*/*.dcm"))
