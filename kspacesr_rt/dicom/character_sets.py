"""Bound and mend Specific Character Set, which pydicom looks at before anything else of a file.

It converts every value of it, for every data set and item that holds it: three million of them took
minutes, and a zero among the letters ended the file.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from kspacesr_rt.errors import SliceFailed

VALUES_MAX: Final = 64
"""Twice the defined terms of PS3.3 C.12.1.1.2."""
BYTES_MAX: Final = 0xFFFE
"""What a code string can hold (PS3.5 7.1.2)."""

_ELEMENT: Final = re.compile(
    rb"\x08\x00\x05\x00(?:CS(?P<explicit>..)|(?P<implicit>..)\x00\x00)"
    rb"|\x00\x08\x00\x05CS(?P<big>..)",
    re.DOTALL,
)
_LONG_ELEMENTS: Final = {
    order: re.compile(tag + rb"(?:U[NT]\x00\x00|(?![A-Z]{2}))(.{4})", re.DOTALL).finditer
    for order, tag in (("<L", rb"\x08\x00\x05\x00"), (">L", rb"\x00\x08\x00\x05"))
}
"""Those whose length has 32 bits, by its order."""
_is_plain: Final = re.compile(rb"[\x00 -~]*").fullmatch


def require_few_character_sets(n_bytes: int, value: bytes = b"") -> None:
    """Refuse a Specific Character Set that names more than there are.

    Parameters
    ----------
    n_bytes
        Its length.
    value
        Its bytes, as far as they were read.

    Raises
    ------
    SliceFailed
        ``too-large``.
    """
    if n_bytes > BYTES_MAX or value.count(b"\\") >= VALUES_MAX:
        raise SliceFailed("too-large", f"names more than {VALUES_MAX} character sets")


def names_endless_character_sets(data: bytes) -> bool:
    """Return whether a Specific Character Set in these bytes is longer than one can be.

    Parameters
    ----------
    data
        The items of a sequence, in any encoding.
    """
    if len(data) <= BYTES_MAX:
        return False
    lengths = (
        struct.unpack(order, match[1])[0]
        for order, found in _LONG_ELEMENTS.items()
        for match in found(data)
    )
    return any(BYTES_MAX < length <= len(data) for length in lengths)


def without_zeros(data: bytes) -> dict[int, bytes]:
    """Return what to write where, so that no character set of a file holds zeros among its letters.

    They become blanks, at any depth; zeros at the end are padding, which harms nobody.

    Parameters
    ----------
    data
        A file, in any encoding that is not deflated.
    """
    found: dict[int, bytes] = {}
    for match in _ELEMENT.finditer(data):
        n_bytes = match["big"] or match["explicit"] or match["implicit"]
        (length,) = struct.unpack(">H" if match["big"] else "<H", n_bytes)
        value = data[match.end() : match.end() + length]
        letters = value.rstrip(b"\0")
        if b"\0" in letters and _is_plain(letters):
            found[match.end()] = value.replace(b"\0", b" ")
    return found
