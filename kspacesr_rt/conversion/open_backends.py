"""A model on one backend for slices of several matrices: opened once for those that follow."""

from __future__ import annotations

import weakref
from contextlib import ExitStack

from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.runtime.backends import open_backend
from kspacesr_rt.runtime.protocol import Backend

KEPT_OPEN = 2
"""Matrices: a gate returns to its first one after another."""


class OpenBackends:
    """A model on one backend, open for the last matrices that it met.

    All are closed when nothing refers to it any more.
    """

    def __init__(self, model: ModelFile, backend: str) -> None:
        self._model, self._name = model, backend
        self._opened: dict[Matrix, tuple[ExitStack, Backend]] = {}
        weakref.finalize(self, _close_all, self._opened)

    def run(self, lr: FloatArray) -> FloatArray:
        """Run a batch ``(n, channels, y, x)`` on the backend that is bound to its matrix.

        Raises
        ------
        KspaceSRError
            If the model cannot be bound to it, or the backend does not open or run.
        """
        matrix = (lr.shape[-2], lr.shape[-1])
        if matrix not in self._opened:
            while len(self._opened) >= KEPT_OPEN:
                self._opened.pop(next(iter(self._opened)))[0].close()
            bound = bind(self._model, matrix)
            with ExitStack() as stack:
                backend = stack.enter_context(open_backend(self._name, bound))
                self._opened[matrix] = stack.pop_all(), backend
        return self._opened[matrix][1].run(lr)


def _close_all(opened: dict[Matrix, tuple[ExitStack, Backend]]) -> None:
    while opened:
        opened.popitem()[1][0].close()
