"""How many headers of a run were repeated, and how many went the long way, and why."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

HeaderWay = Literal[
    "read-repeated",
    "read-first",
    "read-differing",
    "encoded-repeated",
    "encoded-first",
    "encoded-proof",
    "encoded-differing",
    "encoded-compressed",
]
"""``repeated``: only what differs from another of the series, or of the series before, was parsed,
or written; ``first``: the one that others are compared to; ``proof``: written both ways, and
compared; ``differing``: it did not fit; ``compressed``: outputs that are compressed are written as
a whole."""
WAYS: tuple[HeaderWay, ...] = get_args(HeaderWay)


class HeaderCounts:
    """Counts classic slices; for any threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, way: HeaderWay) -> None:
        """Count one."""
        with self._lock:
            self._counts[way] += 1

    def merge(self, counts: Mapping[str, int]) -> None:
        """Add the counts of another run."""
        with self._lock:
            self._counts.update(counts)

    def take(self) -> dict[str, int]:
        """Return the counts, and begin again from nothing."""
        with self._lock:
            counts = dict(self._counts)
            self._counts.clear()
        return counts

    def to_dict(self) -> dict[str, int]:
        """Return the counts of all ways that were met."""
        with self._lock:
            return {way: self._counts[way] for way in WAYS if self._counts[way]}
