"""What pydicom raises on junk: whatever its parser stumbles over, or a value when it is asked."""

from __future__ import annotations

import struct
from typing import Final

from pydicom.errors import BytesLengthException, InvalidDicomError

PARSE_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    RuntimeError,  # also RecursionError and NotImplementedError
    TypeError,
    ValueError,
    struct.error,
)
"""All of them but `OSError`."""
