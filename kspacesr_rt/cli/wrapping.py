"""Lines for a terminal: broken between words, not wherever it ends."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import IO, Final

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
    where it begins. Rows of Markdown's tables stay whole.
    """
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    if len(line) <= width or line.startswith("|"):
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
