"""The model of a run, and the backends that it is bound to, one for each matrix."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

import numpy as np

from kspacesr_rt.errors import (
    BackendUnavailableError,
    InputError,
    KspaceSRError,
    ModelFileError,
    ParityError,
    ShapeError,
)
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.batch_choice import BatchChoice, measured_batch, settled_batch
from kspacesr_rt.pipeline.batch_size import BatchSize
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.stage_timer import auto_streams
from kspacesr_rt.runtime.backends import (
    BACKENDS,
    ZERO_FILL,
    Backend,
    BackendOptions,
    backend_info,
    baseline_spec,
    open_backend,
    require_available,
)
from kspacesr_rt.runtime.selection import AUTO, BackendChoice, choose_backend, require_named
from kspacesr_rt.runtime.suited_models import require_suited
from kspacesr_rt.system.progress_messages import report_step

if TYPE_CHECKING:
    from kspacesr_rt.conversion.tiers import TierChoice, TierSearch
    from kspacesr_rt.model.file import ModelFile

OPEN_BACKENDS = 4
"""Matrices for which a bound model is kept open: studies come back to the same few."""


class BackendPool:
    """Backends by LR matrix, opened when first met, the least recently used closed."""

    def __init__(
        self, options: InferOptions, *, here: bool = True, begun_with: str | None = None
    ) -> None:
        """Load the model and settle what computes.

        Parameters
        ----------
        options
            Model, backend, threads.
        here
            False if other machines compute: a backend that the user named may be missing on this
            one. ``auto`` is settled here all the same.
        begun_with
            Backend that made what stands in the output folder, if there is anything: ``auto`` tries
            it first.

        Raises
        ------
        InputError, ModelFileError, ModelSpecError
            If the options or the model cannot be used.
        BackendUnavailableError
            If the backend takes no such model, or cannot run here.
        """
        require_named(options.backend)
        self._choosing_s = 0.0
        started = time.perf_counter()
        tiered = options.tier != "exact"
        self._options = options
        self._model: ModelFile | None = None
        self._search: TierSearch | None = None
        self._proved: set[Matrix] = set()
        self.tier_choice: TierChoice | None = None
        """What computes for the tier; None as long as that is not settled, and for ``exact``."""
        if options.backend == AUTO or backend_info(options.backend).model:
            self._model = _load(options)
            self.spec = self._model.spec
            if options.backend != AUTO:
                require_suited(options.backend, self.spec)
                if tiered:
                    require_available(options.backend)
            self.choice = (
                choose_backend(
                    options.backend,
                    self._model,
                    BackendOptions(threads=options.threads),
                    begun_with=None if tiered else begun_with,
                )
                if here or options.backend == AUTO
                else _asked_for(options.backend)
            )
        else:
            if options.model is not None:
                raise InputError(
                    f"backend '{options.backend}' takes no model",
                    hint="leave the model out; an upscale says how far to interpolate",
                )
            if tiered:
                raise InputError(
                    f"backend '{options.backend}' computes without a model, in one way",
                    hint="leave the tier out",
                )
            self.spec = baseline_spec(options.backend, options.upscale or 2, (0, 0))
            self.choice = _asked_for(options.backend)
        info = backend_info(self.choice.backend)
        if options.streams > 1 and not info.streams:
            able = ", ".join(row.name for row in BACKENDS.values() if row.streams)
            raise InputError(
                f"backend '{info.name}' computes one batch at a time",
                hint=f"streams are for {able}",
            )
        if tiered and self._model is not None:
            self._search = self._new_search(self._model)
        self._open: OrderedDict[Matrix, Backend] = OrderedDict()
        self._use(self.choice.backend)
        self._choosing_s = time.perf_counter() - started

    def take_choosing_s(self) -> float:
        """Return the seconds spent on settling what computes since this was last asked."""
        taken, self._choosing_s = self._choosing_s, 0.0
        return taken

    def _new_search(self, model: ModelFile) -> TierSearch:
        from kspacesr_rt.conversion.tier_cache import TierCache
        from kspacesr_rt.conversion.tiers import TierSearch, require_wide

        require_wide(model)
        return TierSearch(
            tier=self._options.tier,
            model=model,
            exact=self.choice,
            options=BackendOptions(threads=self._options.threads),
            streams_of=self._streams_of,
            cache=TierCache(),
        )

    def _streams_of(self, backend: str) -> int:
        info = backend_info(backend)
        if not info.streams:
            return 1
        return self._options.streams or auto_streams(info, self._options.threads)

    def _use(self, backend: str) -> None:
        self.streams = self._streams_of(backend)
        """Batches that may be computed side by side."""
        self._on_gpu = backend_info(backend).on_gpu
        self._measured: BatchChoice | None = None
        self._runs_as_stored: bool | None = None
        self._backend_options = BackendOptions(threads=self._options.threads, streams=self.streams)

    def settle(self, matrices: Sequence[Matrix] = ()) -> None:
        """Choose what computes for the tier, if one was asked for; what is open then is closed.

        Parameters
        ----------
        matrices
            LR ``(rows, columns)`` of a study, the most frequent first. None: the matrix that the
            model is stored for, unless a choice was made before.

        Raises
        ------
        KspaceSRError
            If not even fp32 runs.
        """
        if self._search is None or (self.tier_choice is not None and not matrices):
            return
        started = time.perf_counter()
        found = self._search.choose(list(matrices) or [self._search.model.spec.matrix])
        self._choosing_s += time.perf_counter() - started
        self.release()
        self.tier_choice, self._model = found, found.model
        self._proved = set(found.matrices)
        self.spec = found.model.spec
        self.choice = BackendChoice(
            asked=self._options.backend,
            backend=found.row.backend,
            reason=found.as_text(),
            cached=found.cached,
            notes=(*self._search.exact.notes, *found.notes),
            tier=found.to_dict(),
        )
        self._use(found.row.backend)

    def _require_tier(self, matrix: Matrix) -> None:
        """Refuse to compute at a matrix where the chosen precision does not keep the tier.

        Raises
        ------
        ParityError
            If the gate says no there.
        """
        if self._search is None or self._model is None or matrix in self._proved:
            return
        if self.spec.precision != "fp32":
            from kspacesr_rt.conversion.matrix_gate import gate_on

            verdict = gate_on(
                matrix,
                self._search.model,
                self._model,
                self.choice.backend,
                self._options.tier,
                self._search.cache,
            )
            if verdict.failures:
                raise ParityError(
                    f"{self.spec.precision} on {self.choice.backend} does not keep the tier "
                    f"'{self._options.tier}' at {matrix[0]} x {matrix[1]}: {verdict.failures[0]}",
                    hint="tier exact computes it in fp32",
                )
        self._proved.add(matrix)

    def get(self, matrix: Matrix) -> Backend:
        """Return the backend for a LR matrix; the last `streams` others stay open beside it.

        Raises
        ------
        ShapeError
            If the model cannot be bound to it.
        ParityError
            If what was chosen for the tier does not keep it there.
        """
        if matrix in self._open:
            self._open.move_to_end(matrix)
            return self._open[matrix]
        while len(self._open) > max(OPEN_BACKENDS - 1, self.streams):
            self._open.popitem(last=False)[1].__exit__(None, None, None)
        self.settle()
        self._require_tier(matrix)
        with self.judging(matrix):
            backend = self._new(matrix)
            self._open[matrix] = backend.__enter__()
        return backend

    @contextmanager
    def judging(self, matrix: Matrix) -> Iterator[None]:
        """Tell, where a matrix cannot be computed in the block, whether others can.

        Raises
        ------
        ShapeError
            If the backend computes at the matrix that the model is stored for, and not at this.
        """
        try:
            yield
        except (BackendUnavailableError, ModelFileError) as exc:
            if not self._computes_elsewhere(matrix):
                raise
            rows, columns = matrix
            raise ShapeError(
                f"the network cannot be computed at a matrix of {rows} x {columns}: {exc}",
                hint="it runs at the matrix that its file was proved at: kspacesr-rt inspect",
            ) from exc

    def _computes_elsewhere(self, matrix: Matrix) -> bool:
        """Tell, once, whether the model runs at the matrix that it is stored for."""
        if self._model is None or self._on_gpu or matrix == self._model.spec.matrix:
            return False  # on a GPU, opening takes memory and minutes
        if self._runs_as_stored is None:
            stored = self._model.spec.matrix
            try:
                with self._new(stored) as backend:
                    backend.run(np.ones((1, *self._model.spec.input_axes, *stored), np.float32))
                self._runs_as_stored = True
            except (KspaceSRError, MemoryError):
                self._runs_as_stored = False
        return self._runs_as_stored

    def batch_of(self, asked: BatchSize) -> BatchChoice | None:
        """Return how many slices are computed at once; None: `measure_batch` has to find out."""
        return settled_batch(asked, on_gpu=self._on_gpu) or self._measured

    def measure_batch(self, sample: FloatArray) -> None:
        """Find out with a slice, shape ``(1, ..., y, x)``, how many are best computed at once.

        In the thread that computes: what a GPU holds belongs to it. A slice that cannot be computed
        says so when its turn comes.
        """
        report_step("measuring batches")
        with suppress(KspaceSRError, MemoryError):
            rows, columns = sample.shape[-2:]
            self._measured = measured_batch(self.get((rows, columns)), sample)

    def zero_fill(self, matrix: Matrix) -> Backend:
        """Return zero-filling by the model's upscale: for series that the model is not for."""
        spec = baseline_spec(ZERO_FILL, self.spec.upscale, matrix)
        return open_backend(ZERO_FILL, spec, self._backend_options)  # holds nothing open

    def _new(self, matrix: Matrix) -> Backend:
        name = self.choice.backend
        if self._model is None:
            spec = baseline_spec(name, self.spec.upscale, matrix)
            return open_backend(name, spec, self._backend_options)
        from kspacesr_rt.model.binding import bind

        return open_backend(name, bind(self._model, matrix), self._backend_options)

    def model_content(self) -> bytes | None:
        """Return the model file that was made for the tier; None where what was named runs."""
        if self.tier_choice is None or self.tier_choice.row.precision == "fp32":
            return None
        content: bytes = self.tier_choice.model.proto.SerializeToString(deterministic=True)
        return content

    def release(self) -> None:
        """Close every backend; each is opened anew when its matrix comes again."""
        with ExitStack() as stack:
            while self._open:
                stack.push(self._open.popitem()[1].__exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def _asked_for(backend: str) -> BackendChoice:
    return BackendChoice(asked=backend, backend=backend, reason="asked for")


def _load(options: InferOptions) -> ModelFile:
    from kspacesr_rt.model.file import load_model, resolve_model

    path = resolve_model(options.model, upscale=options.upscale)
    report_step(f"loading {path.name}")
    model = load_model(path)
    if options.upscale is not None and options.upscale != model.spec.upscale:
        raise InputError(
            f"model '{model.spec.name}' upscales by {model.spec.upscale}, "
            f"an upscale of {options.upscale} was asked for",
            hint="leave the upscale out, or name another model",
        )
    return model
