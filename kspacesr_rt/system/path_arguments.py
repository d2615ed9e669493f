"""Paths that functions of ours are given: what is none is said by the argument's name."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

from kspacesr_rt.errors import InputError


def require_path(value: str | PathLike[str], name: str) -> str:
    """Return a path as text.

    Raises
    ------
    InputError
        If it is none; in Python anything may be passed.
    """
    path: Any = fspath(value) if isinstance(value, str | PathLike) else None
    if not isinstance(path, str):
        raise InputError(f"{name} is a path, not {value!r}")
    return path
