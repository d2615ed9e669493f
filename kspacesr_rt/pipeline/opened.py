"""The model of a run, and the backends that it is bound to, one for each matrix."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kspacesr_rt.backends import (
    BACKENDS,
    Backend,
    BackendOptions,
    backend_info,
    baseline_spec,
    open_backend,
    require_available,
)
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.pipeline.clock import auto_streams
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.selection import AUTO, Choice, settle_backend

if TYPE_CHECKING:
    from kspacesr_rt.model_file import ModelFile

OPEN_BACKENDS = 4
"""Matrices for which a bound model is kept open: studies come back to the same few."""


class OpenBackends:
    """Backends by LR matrix, opened when first met, the least recently used closed."""

    def __init__(self, options: InferOptions, *, here: bool = True) -> None:
        """Load the model and settle what computes.

        Parameters
        ----------
        options
            Model, backend, threads.
        here
            False if other machines compute: a backend that the user named may be missing on this
            one. ``auto`` is settled here all the same.

        Raises
        ------
        InputError, ModelFileError, ModelSpecError
            If the options or the model cannot be used.
        BackendUnavailableError
            If the backend cannot run here.
        """
        known = require_available if here else backend_info
        verified = BackendOptions(threads=options.threads)
        self._model: ModelFile | None = None
        self.notes: dict[str, None] = {}  # in the order they came, each once
        if options.backend == AUTO or known(options.backend).model:
            self._model = _load(options)
            self.spec = self._model.spec
            self.choice = (
                settle_backend(options.backend, self._model, verified)
                if here or options.backend == AUTO
                else _asked_for(options.backend)
            )
            self.notes.update(dict.fromkeys(self.choice.notes))
        else:
            if options.model is not None:
                raise InputError(f"backend '{options.backend}' takes no --model")
            self.spec = baseline_spec(options.backend, options.upscale or 2, (0, 0))
            self.choice = _asked_for(options.backend)
        info = backend_info(self.choice.backend)
        if options.streams > 1 and not info.streams:
            able = ", ".join(row.name for row in BACKENDS.values() if row.streams)
            raise InputError(
                f"backend '{info.name}' computes one batch at a time",
                hint=f"--streams is for {able}",
            )
        self.streams = options.streams or auto_streams(info, options.threads)
        """Batches that may be computed side by side."""
        self._told = BackendOptions(threads=options.threads, streams=self.streams)
        self._open: OrderedDict[Matrix, Backend] = OrderedDict()

    def get(self, matrix: Matrix) -> Backend:
        """Return the backend for a LR matrix; the last `streams` others stay open beside it."""
        if matrix in self._open:
            self._open.move_to_end(matrix)
            return self._open[matrix]
        while len(self._open) > max(OPEN_BACKENDS - 1, self.streams):
            self._open.popitem(last=False)[1].__exit__(None, None, None)
        backend = self._new(matrix)
        self._open[matrix] = backend.__enter__()
        self.notes.update(dict.fromkeys(getattr(backend, "notes", ())))
        return backend

    def _new(self, matrix: Matrix) -> Backend:
        name = self.choice.backend
        if self._model is None:
            spec = baseline_spec(name, self.spec.upscale, matrix)
            return open_backend(name, spec, self._told)
        from kspacesr_rt.binding import bind

        return open_backend(name, bind(self._model, matrix), self._told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            for backend in self._open.values():
                stack.push(backend.__exit__)


def _asked_for(backend: str) -> Choice:
    return Choice(asked=backend, backend=backend, reason="asked for")


def _load(options: InferOptions) -> ModelFile:
    from kspacesr_rt.model_file import load_model, resolve_model

    model = load_model(resolve_model(options.model, upscale=options.upscale))
    if options.upscale is not None and options.upscale != model.spec.upscale:
        raise InputError(
            f"model '{model.spec.name}' upscales by {model.spec.upscale}, "
            f"--upscale asks for {options.upscale}",
            hint="leave --upscale out, or name another model",
        )
    return model
