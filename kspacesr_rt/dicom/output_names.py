"""What output folders and files are called: by numbers a reader knows, never by a patient's values.

A name hangs on nothing but the output, its source's header and the template, so that every process
of a run, and every later run, finds it without asking another. Six hex digits of the new Series
Instance UID end each folder's name: two series hardly ever share one, and where they would, more
digits tell them apart (`kspacesr_rt.dicom.output_places`).

Numbers have four digits at least. File managers that sort by number need none of that, but
``ls``, a shell's ``*.dcm`` and Python's ``sorted`` go by characters and would put 10 before 9.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from kspacesr_rt.dicom.appended_text import decoded_text
from kspacesr_rt.dicom.attributes import numbers
from kspacesr_rt.dicom.patient_values import holds_patient_value
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.uids import OUR_UID
from kspacesr_rt.errors import InputError

DEFAULT_NAME: Final = "{SeriesNumber}_x{upscale}_{short_uid}/{InstanceNumber}.dcm"
UID_NAME: Final = "uid"
"""Names by UID alone, ``<Series Instance UID>/<SOP Instance UID>.dcm``."""
DIGITS: Final = 4
"""Of a number at least, if the template does not say."""
SHORT: Final = (6, 12, 32)
"""Hex digits of a UID: what names have, and what those have that would be the same otherwise."""
TEXT_MAX: Final = 32
"""Characters of a free text."""
FOLDER_MAX, FILE_MAX = 100, 80
"""Characters; with a path before them, Windows takes 260 in all."""
MISSING: Final = "none"
TRUST: Final = "trust"
"""In the names of trust maps."""

_NUMBERS: Final = frozenset({"SeriesNumber", "InstanceNumber"})
_TEXTS: Final = frozenset({"SeriesDescription", "ProtocolName", "SequenceName"})
_OF_THE_RUN: Final = frozenset({"upscale", "model", "short_uid"})
_PATIENT_GROUP: Final = 0x0010
_IDENTIFYING: Final = frozenset(
    {
        *("name", "id", "mrn", "birthdate", "birthday", "accession", "accessionnumber"),
        *("studydate", "seriesdate", "acquisitiondate", "contentdate", "studytime", "studyid"),
        *("studydescription", "requestedprocedureid", "institutionname", "stationname"),
        *("referringphysicianname", "performingphysicianname", "operatorsname"),
        "deviceserialnumber",
    }
)
"""Words that say who somebody is, or when and where, without blanks and in lower case."""
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
"""Names of devices on Windows, with any suffix."""
_FIELD: Final = re.compile(r"\{(?P<name>[A-Za-z_]*)(?::(?P<digits>[1-9]))?\}")
_LITERAL: Final = re.compile(r"[A-Za-z0-9_-]*")
_FOLDER: Final = re.compile(r"(?:[A-Za-z0-9_-]*[_-])?[0-9a-f]{6}(?:[0-9a-f]{6}|[0-9a-f]{26})?")
_NUMBERS_AND_UIDS: Final = re.compile(
    r"(?:(?:(?:neg)?[0-9]{4,12}|none)(?:_x[0-9]+)?)?(?:_?trust)?(?:_?[0-9a-f]{6,32})?(?:\.dcm)?"
)
_FILE: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{FILE_MAX}}}\.dcm")


@dataclass(frozen=True, kw_only=True, slots=True)
class NameTemplate:
    """How a run calls its outputs; from `parsed_name`."""

    folder: str
    """Ends in ``{short_uid}``; empty: names are UIDs."""
    file: str
    """Without the suffix."""

    @property
    def by_uid(self) -> bool:
        """Whether names are UIDs."""
        return not self.folder

    @property
    def uses(self) -> frozenset[str]:
        """The fields that it has."""
        return _fields_in(f"{self.folder}/{self.file}")

    def folders(self, fields: Mapping[str, str], series_uid: str) -> tuple[str, ...]:
        """Return the names of a series' folder, best first."""
        if self.by_uid:
            return (series_uid,)
        return tuple(
            _formatted(self.folder, {**fields, "short_uid": short_uid(series_uid, n)})
            for n in SHORT
        )

    def of_folder(self, fields: Mapping[str, str]) -> tuple[str, ...]:
        """Return those of the fields that `folders` uses."""
        return tuple(fields[name] for name in sorted(_fields_in(self.folder) & fields.keys()))

    def files(
        self, fields: Mapping[str, str], uid: str, *, repeated: bool = False
    ) -> tuple[str, ...]:
        """Return the names of an output's file, best first.

        Parameters
        ----------
        fields
            From `fields_of`.
        uid
            SOP Instance UID of the output.
        repeated
            Whether another slice of the series has the same instance number.
        """
        if self.by_uid:
            return (f"{uid}.dcm",)
        stem = _formatted(self.file, {**fields, "short_uid": short_uid(uid)})
        alone = _RESERVED.sub(r"\1_", stem) if _RESERVED.fullmatch(stem) else stem
        named = "{InstanceNumber" in self.file and fields["InstanceNumber"] != MISSING
        names = [f"{stem}_{short_uid(uid, n)}.dcm" for n in SHORT]
        return tuple(names if repeated or not named else [f"{alone}.dcm", *names])


def parsed_name(text: str) -> NameTemplate:
    """Return the template that ``--name`` says.

    Raises
    ------
    InputError
        If it names a patient, a field that is none, or what some system cannot have as a name.
    """
    if text == UID_NAME:
        return NameTemplate(folder="", file="")
    folder, slash, file = text.partition("/")
    if not slash or "/" in file or not file.endswith(".dcm"):
        raise _unusable("a template is FOLDER/FILE.dcm, or 'uid'")
    file = file.removesuffix(".dcm")
    for part in (folder, file):
        for found in _FIELD.finditer(part):
            _require_field(found["name"], found["digits"])
        if not part or not _LITERAL.fullmatch(_FIELD.sub("", part)):
            raise _unusable("beside fields, names hold letters of ASCII, digits, '_' and '-' alone")
    before = folder.removesuffix("{short_uid}")
    if before == folder or not (not before or before.endswith(("_", "-"))):
        raise _unusable("the folder ends in _{short_uid}, which keeps series apart")
    longest = dict.fromkeys(_TEXTS | _OF_THE_RUN | _NUMBERS, "x" * TEXT_MAX)
    for part, most, end in ((folder, FOLDER_MAX, 0), (file, FILE_MAX, SHORT[-1] + len("_.dcm"))):
        if len(_formatted(part, longest)) + end > most:
            raise _unusable(f"a name could get longer than {most} characters")
    return NameTemplate(folder=folder, file=file)


def _require_field(name: str, digits: str | None) -> None:
    known = sorted(_NUMBERS | _TEXTS | _OF_THE_RUN)
    word = name.replace("_", "").lower()
    tag = tag_for_keyword(name)
    if word.startswith("patient") or word in _IDENTIFYING or (tag or 0) >> 16 == _PATIENT_GROUP:
        raise _unusable(
            f"{{{name}}} tells whose or which examination it is, and names of files are seen, "
            "logged and copied where headers are not"
        )
    if name not in known:
        raise _unusable(f"'{{{name}}}' is no field; there are {', '.join(known)}")
    if digits and name not in _NUMBERS:
        raise _unusable(f"only numbers have a count of digits, not {{{name}}}")


def _unusable(why: str) -> InputError:
    return InputError(
        f"outputs cannot be named so: {why}",
        hint=f"the default is --name '{DEFAULT_NAME}'; --name uid takes the UIDs",
    )


def _formatted(part: str, fields: Mapping[str, str]) -> str:
    def filled(found: re.Match[str]) -> str:
        value = fields[found["name"]]
        if found["name"] not in _NUMBERS or value == MISSING:
            return value
        return _padded(value, int(found["digits"] or DIGITS))

    return _FIELD.sub(filled, part)


@lru_cache(maxsize=64)
def _fields_in(part: str) -> frozenset[str]:
    return frozenset(found["name"] for found in _FIELD.finditer(part))


def _padded(number: str, digits: int) -> str:
    # A name that begins with a dash is an option to many a program.
    return f"neg{number[1:].zfill(digits)}" if number.startswith("-") else number.zfill(digits)


def short_uid(uid: str, digits: int = SHORT[0]) -> str:
    """Return the first hex digits of the UUID that one of our UIDs is (PS3.5 B.2)."""
    return f"{int(uid.removeprefix('2.25.')):032x}"[:digits]


def short_uids(uid: str) -> tuple[str, ...]:
    """Return all that `short_uid` may be in a name."""
    return tuple(short_uid(uid, n) for n in SHORT)


def fields_of(
    source: Dataset, template: NameTemplate, *, upscale: int, model: str
) -> dict[str, str]:
    """Return what a template says of an output, but for its UIDs.

    Parameters
    ----------
    source
        Header of the slice, or of the multi-frame file, that it is made from.
    template
        What is asked for.
    upscale, model
        Of the run.
    """
    with quiet_pydicom():
        fields = {name: _number(source, name) for name in _NUMBERS & template.uses}
        fields |= {name: _free_text(source, name) for name in _TEXTS & template.uses}
    return fields | {"upscale": str(upscale), "model": plain(model) or MISSING}


def _number(source: Dataset, keyword: str) -> str:
    value = (numbers(source, keyword) or (None,))[0]
    whole = value is not None and value == value and abs(value) < 10**12 and value == int(value)
    return str(int(value)) if whole and value is not None else MISSING


def _free_text(source: Dataset, keyword: str) -> str:
    """Return a text that anybody may have typed, without what it may have of the patient's."""
    text = decoded_text(source, keyword)
    return MISSING if holds_patient_value(text, source) else plain(text) or MISSING


def plain(text: str) -> str:
    """Return a text as part of a name: letters and digits of ASCII, a dash for all else."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", letters).strip("-")[:TEXT_MAX].strip("-")


def trust_map_folder(sr_folder: str, series_uid: str) -> str:
    """Return the name of the folder for the trust maps of a derived series: beside its own.

    Parameters
    ----------
    sr_folder
        That of the derived series.
    series_uid
        Series Instance UID of the maps.
    """
    if OUR_UID.fullmatch(sr_folder):
        return series_uid
    before = sr_folder.rstrip("0123456789abcdef") if _FOLDER.fullmatch(sr_folder) else sr_folder
    return f"{before}{TRUST}_{short_uid(series_uid)}"


def trust_map_files(sr_folder: str, uid: str) -> tuple[str, ...]:
    """Return the names of a trust map's file, best first; parameters as for the folder."""
    if OUR_UID.fullmatch(sr_folder):
        return (f"{uid}.dcm",)
    return tuple(f"{TRUST}_{short_uid(uid, n)}.dcm" for n in SHORT)


def is_output_folder(name: str) -> bool:
    """Tell whether a name in an output folder may be that of a derived series."""
    return any(is_name(name) for is_name in (OUR_UID.fullmatch, _FOLDER.fullmatch))


def is_output_name(name: str) -> bool:
    """Tell whether a name in a derived series' folder may be that of an output."""
    by_uid = name.endswith(".dcm") and OUR_UID.fullmatch(name.removesuffix(".dcm")) is not None
    return by_uid or _FILE.fullmatch(name) is not None


def is_free_of_patient_data(name: str) -> bool:
    """Tell whether a name of a folder or file is of numbers and UIDs alone, so it may be shown."""
    is_uid = OUR_UID.fullmatch(name.removesuffix(".dcm"))
    return is_uid is not None or _NUMBERS_AND_UIDS.fullmatch(name) is not None


def folders_of(names: Iterable[str], series_uid: str) -> list[str]:
    """Return those of some folders that any template may have given a series."""
    ends = short_uids(series_uid)
    return [
        name
        for name in names
        if name == series_uid or (_FOLDER.fullmatch(name) and name.endswith(ends))
    ]
