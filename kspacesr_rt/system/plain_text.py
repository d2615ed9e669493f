"""Text from files of strangers, made fit for a terminal, a log line or a page.

A model's name, a DICOM text, a file name or a key of a checkpoint may hold what a terminal takes
for commands (clear the screen, rename the window, turn what follows around) or what a log takes
for a new line. What is shown instead can be read, and changes nothing.
"""

from __future__ import annotations

import unicodedata
from typing import Any

LONGEST_SHOWN = 300
"""Characters of a stranger's text that a message quotes."""
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories of controls (C0, C1, DEL), formats (bidirectional overrides, zero widths),
surrogates, and separators of lines and paragraphs."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return text whose control and format characters are written out, as ``\x1b``.

    Parameters
    ----------
    text
        From anywhere.
    keep
        Characters to leave as they are: a line feed, where the text is several lines of ours.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one if one in keep or unicodedata.category(one) not in _UNSEEN else _written_out(one)
        for one in text
    )


def shortened(value: object, limit: int = LONGEST_SHOWN) -> str:
    """Return the printable text of a value, cut to a length a message can carry."""
    text = str(value)
    return printable(text if len(text) <= limit else f"{text[:limit]}...")


def printable_values(value: Any) -> Any:
    """Return plain JSON values with every text in them, keys included, made `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(key): printable_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(printable_values(item) for item in value)
    return value


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
