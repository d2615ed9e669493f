"""How a run is done, and how far it is."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final, Literal, get_args

from kspacesr_rt.dicom.compress import SYNTAXES
from kspacesr_rt.dicom.file_limits import Limits
from kspacesr_rt.dicom.output_names import DEFAULT_NAME, parsed_name
from kspacesr_rt.dicom.scanner_interpolation import OnInterpolated
from kspacesr_rt.errors import InputError
from kspacesr_rt.model.limits import OnOutside
from kspacesr_rt.model.spec import Tier
from kspacesr_rt.pipeline.batch_size import AUTO, BatchSize
from kspacesr_rt.runtime.selection import require_named
from kspacesr_rt.system.counts import BATCH_MOST, PROCESSES_MOST, THREADS_MOST
from kspacesr_rt.system.durability import Durability
from kspacesr_rt.volumes.source_volume import Plane

OutputFormat = Literal["same", "nifti", "dicom"]
Processes = int | Literal["auto"]
OnStale = Literal["refuse", "keep", "replace"]
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "tier": get_args(Tier),
    "compress": tuple(SYNTAXES),
    "on_interpolated": get_args(OnInterpolated),
    "on_outside": get_args(OnOutside),
    "stale": get_args(OnStale),
    "plane": get_args(Plane),
    "format": get_args(OutputFormat),
    "durability": get_args(Durability),
}
"""Fields of `InferOptions` that are one of a few words."""
_LEAST: Final = {"upscale": 1, "batch": 1, "threads": 0, "streams": 0, "workers": 0, "processes": 0}
"""Fields that are whole numbers, and the least of each."""
_MOST: Final = {
    "upscale": 16,  # what a specification may state at most, too
    "batch": BATCH_MOST,
    **dict.fromkeys(("threads", "streams", "workers"), THREADS_MOST),
    "processes": PROCESSES_MOST,
}
"""The most of each."""
_OR_ELSE: Final[dict[str, tuple[object, ...]]] = {
    "upscale": (None,),
    "batch": (AUTO,),
    "processes": (AUTO,),
}
"""What may stand for a number."""
_SWITCHES: Final = (
    "preview",
    "trust_map",
    "include_derived",
    "random_uids",
    "keep_private",
    "show_paths",
    "verify_existing",
    "strict",
)
"""Fields that are true or false."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferOptions:
    """How a run is done: which model on what, and what becomes of unusual input.

    Raises
    ------
    InputError
        If a value is impossible.

    Examples
    --------
    >>> import kspacesr_rt as ks
    >>> ks.InferOptions(model="x4-fast", backend="openvino", preview=True).model
    'x4-fast'
    """

    backend: str = "auto"
    """What computes, never replaced by another; ``auto`` chooses once, before the first slice."""
    model: str | None = None
    """Path or shipped name; None takes the shipped model of `upscale`."""
    upscale: int | None = None
    """Wanted SR / LR; None means the model's, or 2."""
    batch: BatchSize = 1
    """Slices (or frames of one multi-frame file) given to the backend at once; ``auto``: as many as
    `kspacesr_rt.pipeline.batch_choice` finds, one on a CPU."""
    tier: Tier = "exact"
    """How far results may be from fp32: ``exact`` computes in fp32; ``fast`` and ``max`` take the
    fastest backend and precision whose gate, run on this machine, keeps that tier."""
    threads: int = 0
    """CPU threads of the backend; 0 takes every core."""
    streams: int = 0
    """Batches that are computed side by side, each by its share of the threads (CPU backends that
    run models); 0: see `auto_streams`."""
    workers: int = 0
    """Threads that read, decode, check and write beside the backend; 0: see `auto_workers`."""
    processes: Processes = AUTO
    """Processes that read, decode, check and write classic slices beside this one, which computes;
    0: none; ``auto``: see `kspacesr_rt.pipeline.process_choice.chosen_processes`."""
    preview: bool = False
    """Write a PNG contact sheet a series."""
    trust_map: bool = False
    """Write, beside each derived series, a DICOM Parametric Map that says how far its samples may
    be off; needs a model whose file has a trust calibration."""
    include_derived: bool = False
    """Process parametric maps and other derived images too."""
    random_uids: bool = False
    """Draw new UIDs instead of deriving stable ones."""
    keep_private: bool = False
    """Keep private elements of the source."""
    name: str = DEFAULT_NAME
    """Template of the names of output folders and files, or ``uid``; see
    `kspacesr_rt.dicom.output_names`."""
    compress: str = "none"
    """Lossless compression of the outputs: a word of `kspacesr_rt.dicom.compress.SYNTAXES`."""
    durability: Durability = "batch"
    """When outputs are on the disk. ``batch``: before they are noted and reported, a group of them
    together, see `kspacesr_rt.pipeline.group_commit`; ``file``: each by itself, at once; ``none``:
    whenever the system likes, so that a power cut may take what was reported."""
    show_paths: bool = False
    """Name input files by their path in the report (paths may hold names of patients)."""
    on_interpolated: OnInterpolated = "warn"
    """What to do with series that the scanner interpolated: their k-space has an empty rim.
    ``crop`` brings them back to what was acquired, so the output is `upscale` times that."""
    on_outside: OnOutside = "warn"
    """What to do with series outside the limits that the model's file states (noise, empty k-space,
    body part): warn, leave them out, or write them zero-filled. A model without limits has none."""
    limits: Limits = field(default_factory=Limits)
    """What one file may ask for before it fails as ``too-large``."""
    stale: OnStale = "refuse"
    """What to do about outputs in the folder whose source has changed or is gone: ``refuse`` ends
    before anything is written, ``keep`` leaves them, ``replace`` removes them after the run."""
    verify_existing: bool = False
    """Read outputs of earlier runs, and make those again that are not what was noted of them."""
    plane: Plane = "auto"
    """Which slices volumes (NIfTI, arrays) are cut into: anatomical planes, or those across the
    first, second or third axis; see `kspacesr_rt.volumes.planes`."""
    format: OutputFormat = "same"
    """``nifti``: derived series are written as NIfTI, too; ``dicom``: only DICOM is written, so
    that volumes, which have no patient, are left out; ``same``: each in its own format."""
    strict: bool = False
    """Refuse input that is otherwise only warned about, before anything is written."""

    sources: Mapping[str, str] = field(default_factory=dict)
    """Where options came from that were not left at their defaults; for the report alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return every option as plain values for strict JSON.

        Of a model's path only its last part, unless paths may be shown.
        """
        values = dataclasses.asdict(dataclasses.replace(self, sources={}))
        del values["sources"]
        if self.model is not None and not self.show_paths:
            values["model"] = Path(self.model).name
        return values

    def __post_init__(self) -> None:
        """Reject impossible values, and take a path as text."""
        for name, words in _WORDS.items():
            if (value := getattr(self, name)) not in words:
                raise InputError(f"{name} is one of {', '.join(words)}, not {value!r}")
        for name, least in _LEAST.items():
            self._take_whole_number(name, least)
        for name in _SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} is True or False, not {value!r}")
        if isinstance(self.model, PathLike):
            object.__setattr__(self, "model", fspath(self.model))
        for name in ("backend", "name"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(f"{name} is a text, not {value!r}")
        if not (self.model is None or isinstance(self.model, str)):
            raise InputError(
                f"model is a path or a shipped name, not {self.model!r}",
                hint="None takes the shipped model of the upscale",
            )
        if not isinstance(self.limits, Limits):
            raise InputError(
                "limits are of kspacesr_rt.dicom.file_limits.Limits, "
                f"not {type(self.limits).__name__}"
            )
        require_named(self.backend)
        parsed_name(self.name)

    def _take_whole_number(self, name: str, least: int) -> None:
        value: Any = getattr(self, name)
        others = _OR_ELSE.get(name, ())
        if _is_one_of(others, value):
            return
        try:
            number = operator.index(value)  # NumPy's too
        except TypeError:
            number = least - 1
        most = _MOST[name]
        if not least <= number <= most or isinstance(value, bool):
            bounds = f"from {least} to {most}" + "".join(f", or {one}" for one in others)
            raise InputError(f"{name} is a whole number {bounds}, not {value!r}")
        object.__setattr__(self, name, number)


def _is_one_of(others: tuple[object, ...], value: object) -> bool:
    return any(type(value) is type(one) and value == one for one in others)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """How far a run is."""

    done: int
    """Slices that are written or failed."""
    total: int
    """Slices to process."""
    present: int = 0
    """Slices among those done that an earlier run had written."""


def require_options(options: InferOptions) -> InferOptions:
    """Return the options of a run.

    Raises
    ------
    InputError
        If they are none; in Python anything may be passed.
    """
    if not isinstance(options, InferOptions):
        raise InputError(
            f"options are of InferOptions, not {type(options).__name__}",
            hint="ks.InferOptions(backend=..., model=...)",
        )
    return options
