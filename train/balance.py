"""How often each series is drawn: contrasts and volumes in balance, not counts of slices.

A 3-D scan has hundreds of slices in three planes, a 2-D scan a few dozen, and data sets hold many
scans of whatever was easy to get. Drawn by count, a network learns one T1 head and little else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.train.noise import rim_signal_share

CONTRASTS = ("flair", "t2", "pd", "t1", "other")
"""In the order in which names are asked: ``T2-FLAIR`` is a FLAIR."""
_IN_NAMES = {
    "flair": r"flair|tirm",
    "t2": r"(?<![a-z])t2",
    "pd": r"(?<![a-z])pdw?(?![a-z])|proton",
    "t1": r"(?<![a-z])t1|mp2?rage|spgr|bravo",
}
"""Not ``t1`` behind a letter: ``patient12`` is no contrast."""


class _Series(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def slices(self) -> FloatArray: ...
    @property
    def band(self) -> tuple[float, float]: ...
    @property
    def cropped(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """Shares of the draws that go to each contrast; only their ratios count.

    Contrasts that the data lack leave their share to the others.
    """

    flair: float = 1.0
    """Fluid-attenuated T2."""
    t2: float = 1.0
    """T2-weighted."""
    pd: float = 1.0
    """Proton density."""
    t1: float = 1.0
    """T1-weighted."""
    other: float = 1.0
    """Whatever no name tells."""
    by_signal: bool = True
    """Draw a series less, the more of what is to be predicted of it is noise."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "by_signal":
                if not isinstance(value, bool):
                    raise InputError(f"balance: by_signal is {value!r}, expected true or false")
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0.0:
                raise InputError(f"balance: {item.name} is {value!r}, expected 0 or more")
        if not any(getattr(self, name) for name in CONTRASTS):
            raise InputError("balance: every contrast has a share of 0")


def contrast_of(name: str) -> str:
    """Return the contrast that a series' name tells: one of `CONTRASTS`."""
    lower = name.lower()
    return next((key for key, pattern in _IN_NAMES.items() if re.search(pattern, lower)), "other")


def _volume_of(one: _Series) -> tuple[str, str]:
    """Tell volumes apart: planes of one differ by what stands behind a colon."""
    return one.patient, re.sub(r":[12]$", "", one.name)


def _signal_share(one: _Series, upscale: int) -> float:
    return rim_signal_share(one.slices, upscale, band=(1.0, 1.0) if one.cropped else one.band)


def series_weights(series: Sequence[_Series], balance: Balance, upscale: int) -> FloatArray:
    """Return the probability that each series is drawn with.

    Parameters
    ----------
    series
        Planes and versions of the volumes that there are.
    balance
        Shares of the contrasts.
    upscale
        HR samples per LR sample and axis: says which part of k-space is the rim.

    Returns
    -------
        Shape ``(len(series),)``, sum 1. Within a contrast a volume weighs the root of its slices
        a plane, less the more volumes of one patient there are (their root again), shared out
        evenly over its planes and versions, and, with `by_signal`, times the share of the rim's
        power that is signal (`kspacesr_rt.train.noise.rim_signal_share`): a step on targets that
        are noise teaches nothing.

    Raises
    ------
    InputError
        If no series has a contrast with a share.
    """
    contrasts = [contrast_of(one.name) for one in series]
    counts: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    volumes: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for one, contrast in zip(series, contrasts, strict=True):
        counts[_volume_of(one)].append(len(one.slices))
        volumes[one.patient, contrast].add(_volume_of(one))
    weights = np.array(
        [
            np.sqrt(np.mean(counts[_volume_of(one)]))
            / len(counts[_volume_of(one)])
            / np.sqrt(len(volumes[one.patient, contrast]))
            * (_signal_share(one, upscale) if balance.by_signal else 1.0)
            for one, contrast in zip(series, contrasts, strict=True)
        ]
    )
    for contrast in CONTRASTS:
        chosen = np.array([one == contrast for one in contrasts])
        if (total := weights[chosen].sum()) > 0.0:
            weights[chosen] *= getattr(balance, contrast) / total
    if not weights.sum() > 0.0:
        raise InputError(
            "balance: no series has a contrast with a share above 0",
            hint="contrasts are read from the names of files; the others are 'other'",
        )
    probabilities: FloatArray = weights / weights.sum()
    return probabilities
