"""How much one file may ask for: a few bytes can claim gigabytes, or unfold into them.

What exceeds a limit fails as ``too-large``; the hint names the option that raises it. The limits
are the process's, as a run states them: files are looked into by many threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Final

from kspacesr_rt.errors import InputError, SliceFailed


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a file may ask for."""

    samples: int = 1 << 24
    """Samples of one stored slice: 4096 x 4096, more than any scanner makes. Computing takes some
    60 bytes for each at x2."""
    extra: int = 64 << 20
    """Bytes of a file beside what its matrix needs for pixels: its header, mostly."""
    inflated: int = 128 << 20
    """Bytes of a deflated data set; in memory it takes some four times as much."""
    items: int = 250_000
    """Items of sequences, or fragments of pixels: those of 20 000 frames, some 2 kB each."""
    elements: int = 2_000_000
    """Elements, as far as they can be counted beforehand; some 500 bytes each."""
    volume: int = 2 << 30
    """Bytes of a volume (NIfTI, arrays) whose slices do not lie one after the other: it is held as
    a whole, and so is its result."""

    def __post_init__(self) -> None:
        """Reject what would let no file pass."""
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise InputError(f"--limit {one.name} is at least 1")


_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30}
_current = Limits()


def current_limits() -> Limits:
    """Return what holds now."""
    return _current


@contextmanager
def limited_to(limits: Limits) -> Iterator[None]:
    """Let limits hold within the block, in every thread."""
    global _current
    before, _current = _current, limits
    try:
        yield
    finally:
        _current = before


def parsed_limits(texts: Sequence[str]) -> Limits:
    """Return the limits with some of them changed.

    Parameters
    ----------
    texts
        ``NAME=NUMBER``, where K, M and G stand for 2^10, 2^20 and 2^30.

    Raises
    ------
    InputError
        If there is no such limit, or it is no number.
    """
    limits, names = Limits(), [one.name for one in fields(Limits)]
    for text in texts:
        found = re.fullmatch(r"([a-z]+)=([0-9]{1,15})([KMG]?)", text)
        if found is None or found[1] not in names:
            raise InputError(
                f"--limit is NAME=NUMBER, not '{text}'",
                hint=f"names: {', '.join(names)}; K, M and G multiply, as in extra=256M",
            )
        limits = replace(limits, **{found[1]: int(found[2]) << _UNITS[found[3]]})
    return limits


def too_large(what: str, name: str) -> SliceFailed:
    """Return the error for a file that exceeds a limit."""
    limit = getattr(_current, name)
    return SliceFailed("too-large", f"{what} {limit}", hint=f"--limit {name}={2 * limit} raises it")
