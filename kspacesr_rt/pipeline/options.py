"""How a run is done, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from kspacesr_rt.dicom.limits import Limits
from kspacesr_rt.errors import InputError
from kspacesr_rt.interpolated import OnInterpolated

OnStale = Literal["refuse", "keep", "replace"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InferOptions:
    """How a run is done."""

    backend: str = "auto"
    """What computes, never replaced by another; ``auto`` chooses once, before the first slice."""
    model: str | None = None
    """Path or shipped name; None takes the shipped model of `upscale`."""
    upscale: int | None = None
    """Wanted SR / LR; None means the model's, or 2."""
    batch: int = 1
    """Slices (or frames of one multi-frame file) given to the backend at once."""
    threads: int = 0
    """CPU threads of the backend; 0 takes every core."""
    streams: int = 0
    """Batches that are computed side by side, each by its share of the threads (CPU backends that
    run models); 0: see `auto_streams`."""
    workers: int = 0
    """Threads that read, decode, check and write beside the backend; 0: see `auto_workers`."""
    preview: bool = False
    """Write a PNG contact sheet a series."""
    include_derived: bool = False
    """Process parametric maps and other derived images too."""
    random_uids: bool = False
    """Draw new UIDs instead of deriving stable ones."""
    keep_private: bool = False
    """Keep private elements of the source."""
    compress: str = "none"
    """Lossless compression of the outputs: a word of `kspacesr_rt.dicom.compress.SYNTAXES`."""
    show_paths: bool = False
    """Name input files by their path in the report (paths may hold names of patients)."""
    on_interpolated: OnInterpolated = "warn"
    """What to do with series that the scanner interpolated: their k-space has an empty rim.
    ``crop`` brings them back to what was acquired, so the output is `upscale` times that."""
    limits: Limits = field(default_factory=Limits)
    """What one file may ask for before it fails as ``too-large``."""
    stale: OnStale = "refuse"
    """What to do about outputs in the folder whose source has changed or is gone: ``refuse`` ends
    before anything is written, ``keep`` leaves them, ``replace`` removes them after the run."""
    verify_existing: bool = False
    """Read outputs of earlier runs, and make those again that are not what was noted of them."""
    strict: bool = False
    """Refuse input that is otherwise only warned about, before anything is written."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.on_interpolated not in get_args(OnInterpolated):
            raise InputError(
                f"--on-interpolated is warn, skip or crop, not '{self.on_interpolated}'"
            )
        if self.stale not in get_args(OnStale):
            raise InputError(f"--stale is refuse, keep or replace, not '{self.stale}'")
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} slices is not possible; at least 1")
        for name in ("streams", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{getattr(self, name)} {name} are not possible; 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """How far a run is."""

    done: int
    """Slices that are written or failed."""
    total: int
    """Slices to process."""
