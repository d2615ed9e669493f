"""NumPy's files: what its reader raises of damaged ones, which is more than it documents."""

from __future__ import annotations

import warnings
from os import PathLike
from tokenize import TokenError
from typing import Any, Final, Literal

import numpy as np

HEADER_ERRORS: Final = (
    *(ValueError, KeyError, TypeError, SyntaxError, TokenError, OverflowError, AttributeError),
    *(RecursionError, MemoryError),
)
"""What comes of a header of any bytes: it is read as Python, a second time as that of Python 2."""


def load_array(path: str | PathLike[str], *, mapped: bool = False) -> Any:
    """Return what a ``.npy`` file holds, without objects.

    Raises
    ------
    ValueError
        If it is damaged, or none.
    OSError
        If it cannot be read.
    """
    mode: Literal["r"] | None = "r" if mapped else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers by Python 2, and of old names of types
            loaded = np.load(path, mmap_mode=mode, allow_pickle=False)
    except ValueError:
        raise
    except (*HEADER_ERRORS, EOFError) as exc:
        raise ValueError(f"its header is damaged, or announces too much ({exc})") from exc
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise ValueError("it is a zip file")
    return loaded
