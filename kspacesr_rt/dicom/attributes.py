"""Read attributes as plain Python values, whatever a header holds in their place."""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from kspacesr_rt.dicom.parse_errors import PARSE_ERRORS

_TEXT_MAX: Final = 64
"""Of Siemens' matrix text, which has a dozen characters; a text of megabytes took minutes."""


class Attributes(Protocol):
    """What is asked of a data set here and in `triage`: a `pydicom.Dataset`, or a part of one."""

    def get(self, keyword: str, default: Any = None, /) -> Any:
        """Return the value of an attribute."""

    def __getattr__(self, keyword: str, /) -> Any: ...

    def __contains__(self, keyword: str, /) -> bool: ...

    def private_block(self, group: int, creator: str, /) -> Any:
        """Return a private block, or raise KeyError."""


def value_of(dataset: Attributes, keyword: str, default: Any = None) -> Any:
    """Return the value of an attribute; `default` if it is absent or its bytes are no value."""
    try:
        return dataset.get(keyword, default)
    except PARSE_ERRORS:
        return default


def has_value(dataset: Dataset, keyword: str) -> bool:
    """Return whether an attribute is there and not empty, whether or not its bytes are a value."""
    if keyword not in dataset:
        return False
    value = dataset.get_item(keyword).value
    return value is not None and bool(
        value.strip(b" \0") if isinstance(value, bytes) else str(value)
    )


def term(dataset: Attributes, keyword: str) -> str:
    """Return a code string in capitals; blanks around it mean nothing (PS3.5 6.2)."""
    return str(value_of(dataset, keyword) or "").strip().upper()


def items(dataset: Attributes, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none if it is absent, or coded as what is no sequence."""
    value = value_of(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


def numbers(dataset: Attributes, keyword: str) -> tuple[float, ...]:
    """Return the values of a numeric attribute; empty if it is absent or not numeric."""
    value = value_of(dataset, keyword)
    if type(value) is float or type(value) is int:
        return (float(value),)
    values = value if isinstance(value, (list, tuple, MultiValue)) else (value,)
    try:
        return tuple(float(item) for item in values)
    except (OverflowError, TypeError, ValueError):
        return ()


def is_signed(dataset: Attributes) -> bool:
    """Return whether stored values are two's complement, whatever VR Pixel Representation has."""
    return int(dataset.PixelRepresentation) == 1


def image_type(dataset: Attributes) -> list[str]:
    """Return the values of Image Type in capitals, underscores as blanks."""
    value = value_of(dataset, "ImageType")
    values = value if isinstance(value, (MultiValue, list)) else (value or "",)
    return [str(item).upper().replace("_", " ").strip() for item in values if item]


def sort_numbers(dataset: Attributes) -> tuple[float, ...]:
    """Return temporal position, echo, trigger time (ms) and instance number; absent ones are 0."""
    keywords = ("TemporalPositionIdentifier", "EchoNumbers", "TriggerTime", "InstanceNumber")
    return tuple((numbers(dataset, keyword) or (0.0,))[0] for keyword in keywords)


def acquired_samples(dataset: Attributes) -> int | None:
    """Return the larger side of the acquired matrix, or None where the header does not tell.

    Acquisition Matrix (0018,1310) holds frequency rows, frequency columns, phase rows, phase
    columns, two of them 0. Siemens also writes it as text, ``256*320``, in (0051,100B).
    """
    largest = max(numbers(dataset, "AcquisitionMatrix"), default=0.0)
    if largest < 1:
        found = re.findall(r"\d{1,5}", _siemens_matrix_text(dataset))
        largest = max((float(digits) for digits in found), default=0.0)
    return int(largest) if largest >= 1 else None


def acquired_matrix(dataset: Attributes) -> tuple[int | None, int | None]:
    """Return the samples acquired along rows and columns, None where the header does not tell.

    Acquisition Matrix holds frequency rows, frequency columns, phase rows and phase columns, two
    of them 0. Where In-plane Phase Encoding Direction is told, it decides which axis was phase
    encoded: ``COL`` is along a column, so the phase count belongs to the rows. Without Acquisition
    Matrix, Siemens' text ``phase*frequency`` is read.

    Percent Phase Field of View says which part of the FOV the phase count covers. Siemens stores
    that part alone, or fills it up to a square: there the count is that of the square.
    """
    values = numbers(dataset, "AcquisitionMatrix")
    direction = term(dataset, "InPlanePhaseEncodingDirection")
    if len(values) == 4:
        frequency, phase = int(max(values[:2])), int(max(values[2:]))
        if direction not in ("ROW", "COL"):
            rows, columns = int(max(values[0], values[2])), int(max(values[1], values[3]))
            return rows or None, columns or None
    else:
        found = re.search(r"(\d{1,5})[^\d*]*\*(\d{1,5})", _siemens_matrix_text(dataset))
        if found is None or direction not in ("ROW", "COL"):
            return None, None
        phase, frequency = int(found[1]), int(found[2])
    phase = round(phase * _filled_up(dataset, direction))
    rows, columns = (phase, frequency) if direction == "COL" else (frequency, phase)
    return rows or None, columns or None


def _filled_up(dataset: Attributes, direction: str) -> float:
    """Return how much longer the stored FOV is along phase than the phase-encoded one, or 1."""
    covered = (numbers(dataset, "PercentPhaseFieldOfView") or (0.0,))[0] / 100.0
    spacing = numbers(dataset, "PixelSpacing")
    counts = numbers(dataset, "Rows") + numbers(dataset, "Columns")
    if not 0.0 < covered < 1.0 or len(spacing) != 2 or len(counts) != 2:
        return 1.0
    rows_mm, columns_mm = (step * n for step, n in zip(spacing, counts, strict=True))
    phase_mm, frequency_mm = (rows_mm, columns_mm) if direction == "COL" else (columns_mm, rows_mm)
    if not (phase_mm > 0.0 and frequency_mm > 0.0):
        return 1.0
    return min(max(phase_mm / frequency_mm / covered, 1.0), 1.0 / covered)


def is_marked_interpolated(dataset: Attributes) -> bool:
    """Return whether Siemens' matrix text is marked: ``256I*320`` or ``320*320s``."""
    return re.search(r"\d\s*[Is]|\*\s*s", _siemens_matrix_text(dataset)) is not None


def _siemens_matrix_text(dataset: Attributes) -> str:
    value = private_value(dataset, 0x0051, "SIEMENS MR HEADER", 0x0B)
    text = value[:_TEXT_MAX] if isinstance(value, (bytes, str)) else str(value or "")[:_TEXT_MAX]
    return text.decode("ascii", "replace") if isinstance(text, bytes) else text


def mosaic_tiles(dataset: Attributes) -> int:
    """Return Siemens' private Number of Images in Mosaic (0019,xx0A), or 1."""
    return _private_int(dataset, 0x0019, "SIEMENS MR HEADER", 0x0A) or 1


def ge_component(dataset: Attributes) -> int | None:
    """Return GE's private (0043,xx2F): 0 magnitude, 1 phase, 2 real, 3 imaginary."""
    return _private_int(dataset, 0x0043, "GEMS_PARM_01", 0x2F)


def private_value(dataset: Attributes, group: int, creator: str, offset: int) -> object | None:
    """Return a private element by its creator, or None without one."""
    try:
        value: object = dataset.private_block(group, creator)[offset].value
    except PARSE_ERRORS:  # KeyError: it is not there
        return None
    return value


def _private_int(dataset: Attributes, group: int, creator: str, offset: int) -> int | None:
    value = private_value(dataset, group, creator, offset)
    if isinstance(value, bytes):  # written as UN: a little-endian number
        value = int.from_bytes(value[:2], "little")
    try:
        return int(str(value))
    except ValueError:
        return None
