"""Where in the user's source an operation stands."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import sympy
import torch
from torch import fx
from torch.fx.proxy import TracerBase

from kspacesr_rt import errors

_LIBRARIES = tuple(
    f"{Path(one).parent}{os.sep}"
    for one in (torch.__file__, onnx.__file__, sympy.__file__, __file__, errors.__file__)
)
"""Folders whose frames are none of the user's source."""
_PYTHON = f"{sysconfig.get_path('stdlib')}{os.sep}"
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+\n?\s*(.*)')


def _is_foreign(path: str) -> bool:
    """Say whether a source file is a library's, Python's or ours."""
    return path.startswith((*_LIBRARIES, "<")) or (
        path.startswith(_PYTHON) and "site-packages" not in path
    )


@contextmanager
def whole_places() -> Iterator[None]:
    """Let a trace keep the lines of functions that a layer calls.

    `torch.export` keeps those of methods named ``forward``: of a helper function, the line that
    calls it, not the one in it that has no lowering.
    """
    tracer: Any = TracerBase
    filtered = tracer._filter_traceback_frames

    def kept(self: Any, frames: traceback.StackSummary) -> traceback.StackSummary:
        first = next((at for at, one in enumerate(frames) if one.name == "forward"), len(frames))
        own = [one for one in frames[first:] if not _is_foreign(one.filename)]
        return traceback.StackSummary.from_list(own) if own else filtered(self, frames)

    tracer._filter_traceback_frames = kept
    try:
        yield
    finally:
        tracer._filter_traceback_frames = filtered


def first_line(exc: BaseException) -> str:
    """Return the first line of what an error says, shortened; empty if it says nothing."""
    try:
        lines = str(exc).splitlines()
    except Exception:  # the class may be a user's
        return ""
    return next((line.strip() for line in lines if line.strip()), "")[:200]


def raised(exc: BaseException) -> str:
    """Return what a user's code raised, with what it says and where, in a clause."""
    said, place = first_line(exc), place_of_error(exc)
    text = f"{type(exc).__name__}: {said}" if said else f"{type(exc).__name__} without a message"
    return f"{text}{f' ({place})' if place else ''}"


def place_of(node: fx.Node) -> str:
    """Return ``net.py:31`` with the line's text, of the innermost frame outside torch."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    frames = [one for one in frames if not one[0].startswith("<")]  # of no file
    own = [one for one in frames if not _is_foreign(one[0])] or frames
    if not own:
        return f"operation '{node.name}'"
    path, line, text = own[-1]
    text = text.strip()
    shown = f" ({text[:80]})" if text else ""
    return f"{path.rsplit('/', 1)[-1]}:{line}{shown}"


def place_of_error(exc: BaseException) -> str:
    """Return the place of the innermost frame outside torch and this package, or nothing."""
    found = ""
    error: BaseException | None = exc
    while error is not None:
        for frame in traceback.extract_tb(error.__traceback__):
            if not _is_foreign(frame.filename):
                found = _described(frame)
        error = error.__cause__ if not found else None
    return found


def place_of_call() -> str:
    """Return the place of the innermost running frame outside torch and us, or nothing."""
    own = [frame for frame in traceback.extract_stack() if not _is_foreign(frame.filename)]
    return _described(own[-1]) if own else ""


def _described(frame: traceback.FrameSummary) -> str:
    text = (frame.line or "").strip()[:80]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {text}".strip()
