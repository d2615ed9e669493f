"""A backend of another package, held to the contract: fit batches go in, fit results come out."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import numpy as np

from kspacesr_rt.errors import (
    BackendUnavailableError,
    KspaceSRError,
    PluginError,
    first_line,
)
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.protocol import BackendInfo, BackendOptions, require_batch
from kspacesr_rt.system.interruption import deferred_signals

METHODS: Final = ("run", "__enter__", "__exit__")
"""What a backend must have; `spec`, `notes` and `transfer_s` are made up for."""


class PluginBackend:
    """What a plug-in opened, behind the backend protocol."""

    def __init__(self, info: BackendInfo, spec: ModelSpec, opened: Any) -> None:
        lacking = [name for name in METHODS if not callable(getattr(opened, name, None))]
        if lacking:
            _fail(info, f"opens a {type(opened).__name__}, which has no {' and no '.join(lacking)}")
        self.spec = spec
        self._info = info
        self._opened = opened

    @property
    def transfer_s(self) -> float:
        """Seconds of copies, if the plug-in counts them; see `Backend`."""
        seconds = getattr(self._opened, "transfer_s", 0.0)
        return float(seconds) if isinstance(seconds, int | float) else 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plug-in has to say of itself, if anything; see `Backend`."""
        notes = getattr(self._opened, "notes", ())
        return tuple(str(one) for one in notes) if isinstance(notes, tuple | list) else ()

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`.

        Raises
        ------
        ShapeError
            If the batch does not fit.
        PluginError
            If the plug-in raises something of its own, or returns what is no result.
        """
        require_batch(batch, self.spec)
        given = np.ascontiguousarray(batch, dtype=np.float32)
        try:
            result: Any = self._opened.run(given)
        except (KspaceSRError, MemoryError):
            raise
        except Exception as exc:  # its text may quote a patient's values
            where = traceback.extract_tb(exc.__traceback__)[-1]
            raise PluginError(
                f"{_named(self._info)} failed ({type(exc).__name__} at "
                f"{Path(where.filename).name}:{where.lineno})",
                hint="please report it to the authors of that package",
            ) from exc
        expected = (len(batch), *self.spec.output_axes, *self.spec.sr_matrix(self.spec.matrix))
        found = (
            f"{result.dtype} {result.shape}"
            if isinstance(result, np.ndarray)
            else f"a {type(result).__name__}"
        )
        if found != f"float32 {expected}":
            raise PluginError(
                f"{_named(self._info)} returned {found}, expected float32 {expected}",
                hint="please report it to the authors of that package",
            )
        checked: FloatArray = result
        return checked

    def __enter__(self) -> Self:
        with _at_fault(self._info, "cannot be opened"):
            entered = self._opened.__enter__()
        if entered is not None and not callable(getattr(entered, "run", None)):
            _fail(self._info, f"enters as a {type(entered).__name__}, which has no run")
        self._opened = self._opened if entered is None else entered
        return self

    def __exit__(self, *exc: object) -> None:
        with _at_fault(self._info, "cannot be closed"):
            self._opened.__exit__(*exc)


def open_plugin(
    info: BackendInfo, spec: ModelSpec, model: Any, options: BackendOptions
) -> PluginBackend:
    """Open a plug-in for one model and matrix.

    Parameters
    ----------
    info
        Its row, without a fault.
    spec
        Of what is opened.
    model
        What it is given: a bound model, or a baseline's specification.
    options
        Threads and the like.

    Raises
    ------
    BackendUnavailableError
        If it cannot run here, or is no backend.
    """
    with _at_fault(info, "cannot be opened"), deferred_signals():
        module = importlib.import_module(info.module)
        opened = module.open_backend(info.name, model, options)
    return PluginBackend(info, spec, opened)


def _named(info: BackendInfo) -> str:
    return f"backend '{info.name}' of the package {info.package}"


def _fail(info: BackendInfo, what: str) -> NoReturn:
    raise BackendUnavailableError(
        f"{_named(info)} {what}", hint="please report it to the authors of that package"
    )


@contextmanager
def _at_fault(info: BackendInfo, what: str) -> Iterator[None]:
    """Turn what a plug-in raises outside `run` into one sentence."""
    try:
        yield
    except (KspaceSRError, MemoryError):
        raise
    except (Exception, SystemExit) as exc:
        text = f"{type(exc).__name__}: {first_line(exc)}"
        raise BackendUnavailableError(
            f"{_named(info)} {what} ({text})",
            hint="please report it to the authors of that package",
        ) from exc
