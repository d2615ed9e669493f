"""Whether a text that anybody may have typed holds a patient's name, numbers or birth date.

However they are spelled there: umlauts as two letters or without their dots, dates in any order,
with months as numbers or words. A text that says so is left out of names, so in doubt it does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations
from typing import Final

from pydicom.dataset import Dataset

from kspacesr_rt.dicom.appended_text import decoded_text

_NAMES: Final = ("PatientName", "OtherPatientNames", "PatientBirthName")
_NUMBERS: Final = ("PatientID", "AccessionNumber", "OtherPatientIDs")
_BIRTH_DATE: Final = "PatientBirthDate"
SHORTEST: Final = 3
"""Letters of a value that is found within a word, too; two are a whole word or nothing."""
_TWO_LETTERS: Final = str.maketrans(
    {
        **{"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "å": "aa", "æ": "ae"},
        **{"œ": "oe", "þ": "th"},
    }
)
_ONE_LETTER: Final = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i"}
)
_BOTH: Final = re.compile(r"(?<=[aou])e|(?<=a)a|(?<=s)s")
"""Second letters that stand for an umlaut, a ring or a sharp s."""
_MONTHS: Final = (
    *("jan|ene|gen", "feb|fev", "mar|mae|mrz", "apr|avr|abr", "may|mai|mag", "jun|juin|giu"),
    *("jul|juil|lug", "aug|aou|ago", "sep|set", "oct|okt|ott", "nov", "dec|dez|dic"),
)
"""How names of the months begin in English, German, French, Spanish and Italian."""
_GIVEN_PARTS: Final = 3
"""Of a name: family, given, middle; prefixes and suffixes come after them (PS3.5 6.2.1)."""


def holds_patient_value(text: str, patient: Dataset) -> bool:
    """Tell whether a text holds the patient's name, ID, birth date or the accession number."""
    spelled = spellings(text)
    joined = [_letters(one) for one in spelled]
    words = {word for one in spelled for word in re.split(r"[^a-z0-9]+", one)}
    for keyword in (*_NAMES, *_NUMBERS, _BIRTH_DATE):
        for word in re.split(r"[\^=\\\s]+", decoded_text(patient, keyword)):
            if _stands_in(word, joined, words):
                return True
    for keyword in _NAMES:
        for word in _name_parts(decoded_text(patient, keyword)):
            if _stands_in(word, joined, words, alone=True):
                return True
    date = _letters(decoded_text(patient, _BIRTH_DATE))
    return bool(re.fullmatch(r"[0-9]{8}", date)) and any(map(_dates(date).search, spelled))


def _stands_in(word: str, joined: list[str], words: set[str], *, alone: bool = False) -> bool:
    for one, text in zip(map(_letters, spellings(word)), joined, strict=True):
        if len(one) >= SHORTEST and one in text:
            return True
        if alone and len(one) == SHORTEST - 1 and one in words:
            return True
    # As if no letter had stood for an umlaut; that shortens names, so they have to be longer.
    short = _BOTH.sub("", _letters(spellings(word)[0]))
    return len(short) > SHORTEST and short in _BOTH.sub("", joined[0])


def _name_parts(names: str) -> Iterator[str]:
    """Return the words of family, given and middle names."""
    for name in re.split(r"[=\\]", names):
        for part in name.split("^")[:_GIVEN_PARTS]:
            yield from re.split(r"[\s,.;/-]+", part)


def spellings(text: str) -> tuple[str, str, str]:
    """Return a text in small letters of ASCII: umlauts as two, without dots, and left out."""
    small = unicodedata.normalize("NFC", text).lower()
    return (
        _ascii(small.translate(_TWO_LETTERS).translate(_ONE_LETTER)),
        _ascii(small.translate(_ONE_LETTER)),
        _ascii(small),
    )


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


@lru_cache(maxsize=64)
def _dates(date: str) -> re.Pattern[str]:
    """Return what finds a date ``YYYYMMDD`` in small letters, in any order of its parts."""
    century, year, month, day = date[:2], date[2:4], date[4:6], date[6:]
    short = rf"(?:{century})?{year}"
    number = int(month)
    named = _MONTHS[number - 1] if 1 <= number <= len(_MONTHS) else "(?!)"
    written = {  # what is between parts, to the parts
        "": (short, month, day),
        r"[^a-z0-9]{1,3}": (short, rf"0?{number}", rf"0?{int(day)}"),
        r"[^a-z0-9]{0,3}": (short, rf"(?:{named})[a-z]*", rf"0?{int(day)}(?:st|nd|rd|th)?"),
    }
    ways = [
        between.join(order) for between, parts in written.items() for order in permutations(parts)
    ]
    return re.compile(rf"(?<![0-9])(?:{'|'.join(ways)})(?![0-9])")
