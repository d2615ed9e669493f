"""The time that outputs state: now, or what ``SOURCE_DATE_EPOCH`` says, for repeatable bytes."""

from __future__ import annotations

import os
import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from kspacesr_rt.errors import InputError

EPOCH: Final = "SOURCE_DATE_EPOCH"
"""Seconds since 1970 (https://reproducible-builds.org/specs/source-date-epoch); empty: unset."""

_UTC: Final = {"", "UTC", "UTC0", "GMT", "Z"}
"""Names that mean UTC, whether there are files of zones or not."""
_OFFSET: Final = r"[+-]?[0-9]{1,3}(?::[0-9]{2}){0,2}"
_WORD: Final = r"(?:<[A-Za-z0-9+-]{3,}>|[A-Za-z]{3,})"
_RULE: Final = rf",(?:J?[0-9]{{1,3}}|M[0-9]{{1,2}}\.[1-5]\.[0-6])(?:/{_OFFSET})?"
_POSIX_ZONE: Final = re.compile(rf"{_WORD}{_OFFSET}(?:{_WORD}(?:{_OFFSET})?(?:{_RULE}{_RULE})?)?")
"""A zone that states its offset, and perhaps its summer time (POSIX, 8.3)."""


def fixed_time() -> datetime | None:
    """Return the time that ``SOURCE_DATE_EPOCH`` stands for, None if it is not set.

    Raises
    ------
    InputError
        If it is no whole number of seconds, or lies beyond the year 9999.
    """
    text = os.environ.get(EPOCH)
    if not text:
        return None
    try:
        if not re.fullmatch(r"[0-9]{1,20}", text):
            raise ValueError
        instant = datetime.fromtimestamp(int(text), UTC)
        _ = instant + timedelta(days=1)  # it is written in other time zones
        return instant
    except (OSError, OverflowError, ValueError) as exc:
        raise InputError(
            f"{EPOCH} is a whole number of seconds since 1970, up to the year 9999",
            hint=f"unset it to take the time of day, or: export {EPOCH}=$(date +%s)",
        ) from exc


def output_time() -> datetime:
    """Return the time for an output to state, in UTC."""
    return fixed_time() or datetime.now(UTC)


def in_local_time(instant: datetime) -> datetime:
    """Return a time in this machine's time zone; in UTC where ``TZ`` names none that can be."""
    try:
        return instant.astimezone()
    except (OSError, OverflowError, ValueError):  # XXX+25: more than a day
        return instant.astimezone(UTC)


def unusable_time_zone() -> str | None:
    """Return a sentence if ``TZ`` cannot be used, to be logged once."""
    try:
        datetime.now(UTC).astimezone()
    except (OSError, OverflowError, ValueError):
        return "TZ names no time zone within a day of UTC: times are told in UTC"
    if not _is_zone(os.environ.get("TZ", "")):
        return "TZ names no time zone that is known here: times are told in UTC"
    return None


def _is_zone(name: str) -> bool:
    """Tell whether the C library knows a zone; of one that it does not it says nothing."""
    name = name.removeprefix(":")
    if os.name != "posix" or name in _UTC or _POSIX_ZONE.fullmatch(name):
        return True
    folders = (os.environ.get("TZDIR"), *zoneinfo.TZPATH)
    try:
        return any(Path(one, name).is_file() for one in folders if one)
    except OSError:  # longer than a name can be
        return False
