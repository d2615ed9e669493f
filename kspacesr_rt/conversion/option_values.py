"""What users declare of a network, as they type it."""

from __future__ import annotations

import math
from pathlib import Path

from kspacesr_rt.errors import InputError, system_message


def parsed_range(option: str, text: str) -> tuple[float, float]:
    """Read a range as it is typed, ``LOW..HIGH``.

    Raises
    ------
    InputError
        If it is none; `option` names where it stands.
    """
    low, dots, high = text.partition("..")
    try:
        limits = float(low), float(high)
    except ValueError:
        limits = (math.nan, math.nan)
    if not dots or not limits[0] < limits[1] or not all(map(math.isfinite, limits)):
        raise InputError(f"{option} is LOW..HIGH, such as 0..1 or -1..1, not '{text}'")
    return limits


def card_text(path: Path | None) -> str:
    """Read the text that a model's card is to hold; empty without a file.

    Raises
    ------
    InputError
        If it is no text.
    """
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = system_message(exc) if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise InputError(f"{path.name} cannot be read: {reason}") from exc
