"""Decode the values that every writer writes alike; anything else is left to pydicom."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Final

from kspacesr_rt.dicom.fast.element_steps import UnusualEncodingError

Plain = str | int | float | list[str] | list[int] | list[float]
"""One value, or several."""

_is_uid: Final = re.compile(rb"[0-9.]{1,64}\0?").fullmatch
_is_text: Final = re.compile(rb"[ -~]*[!-~] *\0?").fullmatch
_is_decimal: Final = re.compile(rb"[-+0-9.eE \\]+").fullmatch
_is_integer: Final = re.compile(rb" *[-+]?[0-9]{1,9} *(\\ *[-+]?[0-9]{1,9} *)*").fullmatch


def plain_uid(value: bytes) -> str:
    """Decode one UID, padded as PS3.5 9.1 has it."""
    if not _is_uid(value):
        raise UnusualEncodingError
    return value.rstrip(b"\0").decode("ascii")


def plain_text(value: bytes) -> str | list[str]:
    """Decode printable ASCII; blanks at its very end are padding."""
    if not _is_text(value):
        raise UnusualEncodingError
    items = value.decode("ascii").rstrip("\0 ").split("\\")
    return items if len(items) > 1 else items[0]


def plain_decimals(value: bytes) -> float | list[float]:
    """Decode finite decimal strings."""
    if not _is_decimal(value):
        raise UnusualEncodingError
    try:
        items = [float(item) for item in value.split(b"\\")]
    except ValueError as exc:
        raise UnusualEncodingError from exc
    if not all(map(math.isfinite, items)):
        raise UnusualEncodingError
    return items if len(items) > 1 else items[0]


def plain_integers(value: bytes) -> int | list[int]:
    """Decode integer strings of up to nine digits."""
    if not _is_integer(value):
        raise UnusualEncodingError
    items = [int(item) for item in value.split(b"\\")]
    return items if len(items) > 1 else items[0]


def plain_shorts(value: bytes) -> int | list[int]:
    """Decode unsigned little-endian numbers of 16 bits."""
    if len(value) % 2:
        raise UnusualEncodingError
    items = list(struct.unpack(f"<{len(value) // 2}H", value))
    return items if len(items) > 1 else items[0]


DECODERS: Final[dict[str, Callable[[bytes], Plain]]] = {
    "UI": plain_uid,
    "CS": plain_text,
    "DS": plain_decimals,
    "IS": plain_integers,
    "US": plain_shorts,
}
"""By value representation."""
