"""Lines for a terminal: broken between words, not wherever it ends."""

from __future__ import annotations

import re
import shutil
import textwrap
from itertools import groupby
from typing import IO, Final

from kspacesr_rt.cli.narrow_tables import narrowed

NARROWEST: Final = 40
"""Columns of a terminal below which lines are left to it."""
COLUMN: Final = re.compile(r"\s*\S+(?: \S+)*?\s{2,}(?=\S)")
"""What stands before the second column of a line."""


def fitted(text: str, stream: IO[str]) -> str:
    """Return text as it is printed to a stream: wrapped if that is a terminal, else as it is."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return text if width < NARROWEST else wrapped(text, width)


def wrapped(text: str, width: int) -> str:
    """Return text whose lines are at most `width` columns, as far as words allow it.

    A line goes on below its second column if it has one on the left half, else two columns right of
    where it begins. Markdown's tables that are wider get narrower columns, or stay whole.
    """
    found: list[str] = []
    for in_table, lines in groupby(text.split("\n"), lambda line: line.startswith("|")):
        own = list(lines)
        if not in_table:
            found += [_wrapped_line(line, width) for line in own]
        elif max(map(len, own)) <= width:
            found += own
        else:
            found += narrowed(own, width) or own
    return "\n".join(found)


def _wrapped_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    column = COLUMN.match(line)
    indent = column.end() if column else width
    if indent > width // 2:
        indent = len(line) - len(line.lstrip()) + 2
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
