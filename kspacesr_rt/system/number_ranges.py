"""Numbers of frames, many of which may follow each other: as text for people, and for a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

RANGES_SHOWN: Final = 6
"""Ranges that a text names before it says how many more numbers there are."""
MOST_NUMBERS: Final = 2**22
"""That a text may stand for: a few of its characters could fill any memory."""
_RANGE: Final = re.compile(r"([1-9][0-9]{0,17})(?:-([1-9][0-9]{0,17}))?", re.ASCII)


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of ascending numbers without a gap."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def ranges_text(numbers: Sequence[int]) -> str:
    """Return ``3, 7 to 9``; of more than `RANGES_SHOWN` ranges the first, and how many are left."""
    shown = ranges_of(numbers)[:RANGES_SHOWN]
    parts = [
        f"{first} to {last}" if last > first + 1 else ", ".join(map(str, range(first, last + 1)))
        for first, last in shown
    ]
    more = len(numbers) - sum(last - first + 1 for first, last in shown)
    return ", ".join(parts) + (f" and {more} more" if more else "")


def packed(numbers: Iterable[int]) -> str:
    """Return ``3,7-9``, which `unpacked` takes."""
    return ",".join(
        f"{first}-{last}" if last > first else str(first) for first, last in ranges_of(numbers)
    )


def unpacked(text: str, *, largest: int) -> tuple[int, ...]:
    """Return the numbers of a text of `packed`.

    Raises
    ------
    ValueError
        If it is none of ascending numbers from 1 to `largest`, or of more than `MOST_NUMBERS`.
    """
    numbers: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not (numbers[-1] if numbers else 0) < first <= last <= largest:
            raise ValueError(f"'{part}' is no range of ascending numbers up to {largest}")
        if len(numbers) + last + 1 - first > MOST_NUMBERS:
            raise ValueError(f"more than {MOST_NUMBERS} numbers")
        numbers += range(first, last + 1)
    return tuple(numbers)
