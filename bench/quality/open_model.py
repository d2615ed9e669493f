"""Open one model for matrix after matrix, on the backend that was asked for."""

from __future__ import annotations

from collections.abc import Callable

from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.runtime.backends import Backend, BackendOptions, open_backend
from kspacesr_rt.runtime.selection import choose_backend

Opener = Callable[[Matrix], Backend]
"""LR matrix to a backend that is not open yet."""


def opener_of(model: ModelFile, backend: str, threads: int) -> Opener:
    """Return what opens a model for an LR matrix; ``auto`` is settled once, for all of them.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot be used here.
    """
    options = BackendOptions(threads=threads)
    settled = choose_backend(backend, model, options).backend
    return lambda matrix: open_backend(settled, bind(model, matrix), options)
