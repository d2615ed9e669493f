"""Every error a user can meet, and the exit code it carries.

::

    KspaceSRError ............................ 1  internal error
    ├── InputError ........................... 2  usage, or an input that cannot be used
    │   ├── ShapeError (ValueError)
    │   ├── ModelSpecError (ValueError)           a specification that cannot be right
    │   ├── ModelFileError (ValueError)           not ours, truncated, altered or too new
    │   ├── CheckpointError (ValueError)          weights that fit no generator we know
    │   ├── TrainingDataError (ValueError)
    │   └── ExportError (ValueError)              a network that cannot be exported
    ├── BackendUnavailableError (RuntimeError)  3  never replaced by another backend
    │   └── EngineError                           no TensorRT engine of this model for that GPU
    ├── UnhealthyError ....................... 3  a node does not answer, or cannot compute
    ├── PluginError (RuntimeError) ........... 3  a backend of another package broke its contract
    ├── ParityError .......................... 4  the parity gate said no
    ├── ExporterError ........................ 4  torch's exporter failed, or died
    ├── RegressionError ...................... 4  a benchmark got slower or worse
    ├── ResultError .......................... 5  a result that must not be used
    │   └── NonFiniteError (ArithmeticError)
    ├── StrictRefusalError ................... 6  input refused under --strict
    ├── OutputError (OSError) ................ 7  unsafe or unwritable output
    │   ├── RunMismatchError                      outputs of other parameters are not mixed
    │   └── StaleOutputError ................ 10  outputs of what the input no longer says
    ├── PartialFailureError .................. 8  some slices failed, the others are written
    ├── NoMRImageError (LookupError) ......... 9  nothing to super-resolve
    └── SliceError ............................... one file; collected, never ends a run
        ├── SliceSkipped                          not ours to process
        └── SliceFailed                           ours, but broken
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class KspaceSRError(Exception):
    """Say what was expected, what was found and where; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(KspaceSRError):
    """Something the user gave cannot be used."""

    exit_code = 2


class ShapeError(InputError, ValueError):
    """An array has the wrong number of axes or the wrong size."""


class ModelSpecError(InputError, ValueError):
    """A model specification is missing, contradictory or newer than this version."""


class ModelFileError(InputError, ValueError):
    """A model file is not ours, truncated, or was changed after export."""


class CheckpointError(InputError, ValueError):
    """A checkpoint cannot be read, or its weights fit no generator."""


class TrainingDataError(InputError, ValueError):
    """A folder holds nothing that a generator could be trained on, or a file that is no image.

    Its `reason` is the word that a list of failures carries.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, reason: str = "unreadable"
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ExportError(InputError, ValueError):
    """A network uses what has no ONNX lowering, or is none that could be exported."""


class BackendUnavailableError(KspaceSRError, RuntimeError):
    """The backend that was asked for cannot run here; no other one is taken instead."""

    exit_code = 3


class EngineError(BackendUnavailableError):
    """A model has no TensorRT engine for a GPU: it cannot be built, or what was built does not fit.

    Damaged files are a `ModelFileError`; this is about the model, the GPU and the builder.
    """


class UnhealthyError(KspaceSRError):
    """A node does not answer, or says that it cannot compute."""

    exit_code = 3


class PluginError(KspaceSRError, RuntimeError):
    """A backend of another package raised an error of its own, or returned what is no result."""

    exit_code = 3


class ParityError(KspaceSRError):
    """Two implementations of one model disagree by more than the stated tolerance."""

    exit_code = 4


class ExporterError(KspaceSRError):
    """PyTorch's exporter failed on a network, or took its process down; no file was written."""

    exit_code = 4


class RegressionError(KspaceSRError):
    """A benchmark's row is slower than its baseline, or its image quality or parity is worse."""

    exit_code = 4


class ResultError(KspaceSRError):
    """A computed image must not be used."""

    exit_code = 5


class NonFiniteError(ResultError, ArithmeticError):
    """A result holds NaN or infinity."""


class StrictRefusalError(KspaceSRError):
    """An input that is only warned about was met under ``--strict``."""

    exit_code = 6


class OutputError(KspaceSRError, OSError):
    """The output place is unsafe (inside the input, foreign files) or cannot be written."""

    exit_code = 7


class RunMismatchError(OutputError):
    """The output folder holds a run with other parameters: their outputs are not to be mixed."""


class StaleOutputError(OutputError):
    """The output folder holds what the input no longer says; nobody said to keep or replace it."""

    exit_code = 10
    reason = "stale-output"
    report: Any = None
    """The `RunReport` of the run that refused, which names each of them; None if there is none."""


class PartialFailureError(KspaceSRError):
    """Some slices failed; the good ones are written and the report names each."""

    exit_code = 8


class NoMRImageError(KspaceSRError, LookupError):
    """The input holds no MR image that could be processed."""

    exit_code = 9
    report: Any = None
    """The `RunReport` of the run, which names each file that was left out; None if there is none.
    It is not written: nothing is."""
    skipped_for: str = ""
    """Reason word of the series that could be processed, had the options not left them out."""


def system_message(exc: OSError) -> str:
    """Return what the system says of an error; its type where it says nothing (never ``None``)."""
    return exc.strerror or type(exc).__name__


@contextmanager
def failing_the_output(what: str, hint: str | None = None) -> Iterator[None]:
    """Raise what the system says of a file that is written as `OutputError`, behind `what`.

    Without a `hint` a full disk has one of its own.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as exc:
        if hint is None and exc.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room on that disk, or write to another; what is whole there stays"
        raise OutputError(f"{what}: {system_message(exc)}", hint=hint) from exc


def library_message(exc: BaseException) -> str:
    """Return the text of another library's error; its type where it has none."""
    return str(exc).strip() or type(exc).__name__


def first_line(exc: BaseException) -> str:
    """Return the first line of `library_message`: a runtime's errors go on with its own code."""
    return library_message(exc).splitlines()[0][:200]


class SliceError(KspaceSRError):
    """One file or slice is left out; `reason` is the word the report carries."""

    exit_code = 8

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled: it passes from one process to another."""
        return partial(type(self), hint=self.hint), (self.reason, str(self))


class SliceSkipped(SliceError):  # noqa: N818 - an outcome, not a fault
    """The file is not a magnitude MR image that this tool processes."""


class SliceFailed(SliceError):  # noqa: N818 - the report speaks of failed slices
    """The file is an MR image but cannot be used as it stands."""
