"""Standard streams that a service may close, a pipe may leave and a full disk may refuse.

What a command does comes first: no stream ends it. What could not be printed is named at its end.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from types import FrameType
from typing import IO, Any, Final

_QUOTING: Final = {"pydicom", "pynetdicom"}
"""Packages whose warnings quote values of files, which can be a patient's."""


class _TolerantFile(io.FileIO):
    """A file that takes what cannot be written as if it were, and remembers why it was not."""

    write_error: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write, or remember why not."""
        if self.write_error is None:
            try:
                return super().write(data)
            except OSError as exc:
                self.write_error = exc
        return memoryview(data).nbytes


def make_usable() -> None:
    """Open what is closed, and let nothing that is printed raise: not the file, not the encoding.

    A closed descriptor is dangerous: the next file that is opened gets its number, and a library's
    warning goes into an output. Characters that the locale lacks are escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _tolerant(sys.stdout, 1)
    sys.stderr = _tolerant(sys.stderr, 2)


def hide_quoting_warnings() -> None:
    """Let no warning of a DICOM package reach the terminal, in any thread, for good.

    `kspacesr_rt.dicom.suppressed_warnings` does so where files are read; this is for a place that
    it forgets. Warnings of other packages, numpy's for instance, are told as before.
    """
    show = warnings.showwarning

    def shown(*args: Any, **kwargs: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if str(frame.f_globals.get("__name__")).partition(".")[0] in _QUOTING:
                return
            frame = frame.f_back
        show(*args, **kwargs)

    warnings.showwarning = shown


def write_error() -> str | None:
    """Say why standard output was not written; None if it was, or if its reader went away."""
    try:
        sys.stdout.flush()
    except ValueError:  # closed by whoever printed
        return None
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = getattr(raw, "write_error", None)
    if error is None or isinstance(error, BrokenPipeError):
        return None
    return f"standard output cannot be written: {error.strerror}"


def _tolerant(stream: IO[str] | None, descriptor: int) -> io.TextIOWrapper:
    if stream is not None:
        stream.flush()
    raw = _TolerantFile(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=descriptor == 2 or raw.isatty(),
        write_through=getattr(stream, "write_through", False),
    )
