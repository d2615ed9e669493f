"""Markdown tables on a terminal that is narrower than they are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Final

BAR: Final = re.compile(r"(?<!\\)\|")
RULE: Final = re.compile(r":?-+:?")
"""What stands below a column's head."""
GAPS: Final = (2, 1)
"""Blanks between two columns, the wider first."""


def narrowed(lines: Sequence[str], width: int) -> list[str] | None:
    """Return a Markdown table in so many columns of a terminal.

    Heads are broken between words, then cells of columns that are aligned to the left. A first
    cell of several lines is not said again where it is that of the row above.

    Returns
    -------
        Its lines; None if they are no table, or one that does not fit.
    """
    rows = [[cell.strip() for cell in BAR.split(line.strip())[1:-1]] for line in lines]
    if len(rows) < 2 or not all(map(RULE.fullmatch, rows[1])):
        return None
    head, rules, *body = rows
    if any(len(row) != len(rules) for row in rows):
        return None
    to_right = [rule.endswith(":") for rule in rules]
    for gap in GAPS:
        room = width - gap * (len(rules) - 1)
        if (widths := _widths(head, body, to_right, room)) is not None:
            return _drawn(head, body, to_right, widths, gap)
    return None


def _widths(
    head: list[str], body: list[list[str]], to_right: list[bool], room: int
) -> list[int] | None:
    columns = list(zip(*body, strict=True)) if body else [() for _ in head]
    widths = [
        max([_longest_word(name), *map(len, cells)])
        for name, cells in zip(head, columns, strict=True)
    ]
    least = [
        wide if right else max(map(_longest_word, [name, *cells]))
        for name, cells, wide, right in zip(head, columns, widths, to_right, strict=True)
    ]
    while sum(widths) > room:
        spare = [at for at, low in enumerate(least) if widths[at] > low]
        if not spare:
            return None
        widths[max(spare, key=widths.__getitem__)] -= 1
    return widths


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _drawn(
    head: list[str], body: list[list[str]], to_right: list[bool], widths: list[int], gap: int
) -> list[str]:
    lines = [*_row(head, to_right, widths, gap), (" " * gap).join("-" * wide for wide in widths)]
    for above, row in pairwise([head, *body]):
        again = row[0] == above[0] and len(row[0]) > widths[0]
        lines += _row(["" if again else row[0], *row[1:]], to_right, widths, gap)
    return lines


def _row(cells: list[str], to_right: list[bool], widths: list[int], gap: int) -> list[str]:
    broken = [
        textwrap.wrap(cell, wide, break_long_words=False, break_on_hyphens=False)
        for cell, wide in zip(cells, widths, strict=True)
    ]
    return [
        (" " * gap)
        .join(
            text.rjust(wide) if right else text.ljust(wide)
            for text, wide, right in zip(line, widths, to_right, strict=True)
        )
        .rstrip()
        for line in zip_longest(*broken, fillvalue="")
    ]
