"""Whatever goes wrong with one file is that file's failure: a reason word, never the end of a run.

pydicom, NumPy and codecs meet impossible files with whatever they stumble over. Only what is wrong
with the place that outputs are written to concerns more than one file; it is an `OutputError`.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom.header import PARSE_ERRORS, unreadable
from kspacesr_rt.errors import (
    BackendUnavailableError,
    KspaceSRError,
    NonFiniteError,
    OutputError,
    PluginError,
    ResultError,
    SliceError,
    SliceFailed,
)

ACCIDENT: Final = "accident"
"""Reason word of what nobody foresaw."""
BACKEND: Final = "backend"
"""Reason word of slices that were not computed for no fault of theirs: another attempt may do."""


class _AsSliceFailure:
    """See `as_slice_failure`; a class, since a slice enters a dozen of these blocks."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        passes = (SliceError, OutputError, BackendUnavailableError)
        if isinstance(exc, Exception) and not isinstance(exc, passes):
            raise failure_of(exc) from exc


_AS_SLICE_FAILURE: Final = _AsSliceFailure()


def as_slice_failure() -> _AsSliceFailure:
    """Turn whatever goes wrong with a file in the block into its `SliceFailed`.

    What says that outputs cannot be written, or that nothing can be computed here, passes through.
    """
    return _AS_SLICE_FAILURE


def backend_failure(exc: MemoryError | PluginError) -> SliceFailed:
    """Return what it means for a batch that it was not computed."""
    if isinstance(exc, MemoryError):
        return SliceFailed(
            BACKEND, "there was not enough memory to compute it", hint="a smaller --batch"
        )
    return SliceFailed(BACKEND, str(exc), hint=exc.hint)


def failure_of(exc: Exception) -> SliceFailed:
    """Return what an exception means for the file that raised it; no value of the file is told."""
    if isinstance(exc, RecursionError):
        return SliceFailed("too-large", "its sequences are nested too deeply")
    if isinstance(exc, MemoryError):
        return SliceFailed("too-large", "needs more memory than there is")
    if isinstance(exc, ResultError):
        reason = "non-finite" if isinstance(exc, NonFiniteError) else "data-consistency"
        return SliceFailed(reason, str(exc))
    if isinstance(exc, KspaceSRError):  # our own messages quote no values
        return SliceFailed(ACCIDENT, str(exc), hint=exc.hint)
    if isinstance(exc, OSError) and exc.errno is not None:
        return unreadable(exc)
    # pydicom raises OSError too: for sequences that end in an element, for values it cannot write.
    if isinstance(exc, (OSError, *PARSE_ERRORS)):
        return SliceFailed("unreadable", "the header holds impossible values")
    where = traceback.extract_tb(exc.__traceback__)[-1]
    return SliceFailed(
        ACCIDENT,
        f"an internal error ({type(exc).__name__} at {Path(where.filename).name}:{where.lineno})",
        hint="please report it",
    )
