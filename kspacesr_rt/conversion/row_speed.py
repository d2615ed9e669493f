"""How fast a model is on a backend, as a run will use it: so many calls side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kspacesr_rt.kspace import Matrix
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.runtime.backends import BackendOptions, open_backend

ROUNDS = 7
"""Rounds of which the fastest counts: other load on a machine only ever adds."""
LEAST_ROUNDS = 3
"""Of these one may meet a busy moment, or two."""
PATIENCE_S = 4.0
"""After so many seconds of one row, no more rounds than `LEAST_ROUNDS` are made."""


def seconds_per_slice(
    model: ModelFile, backend: str, matrix: Matrix, options: BackendOptions
) -> float:
    """Return the seconds that a slice takes on an open backend.

    Parameters
    ----------
    model
        In any precision.
    backend
        What runs it.
    matrix
        LR ``(rows, columns)``.
    options
        Threads, and how many calls are computed side by side.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot run it.
    ShapeError
        If the model cannot be bound to the matrix.
    """
    bound = bind(model, matrix)
    lr = brain_phantom(matrix).astype(np.float32)[None, None]
    streams = max(1, options.streams)
    with open_backend(backend, bound, options) as opened:

        def call() -> None:
            opened.run(lr)

        if streams == 1:  # in this thread: contexts of a GPU belong to the one that made them
            return _fastest(call)
        with ThreadPoolExecutor(streams) as pool:

            def together() -> None:
                for one in [pool.submit(call) for _ in range(2 * streams)]:
                    one.result()

            return _fastest(together) / (2 * streams)


def _fastest(work: Callable[[], object]) -> float:
    work()  # kernels are chosen, and memory is taken, by the first calls
    rounds: list[float] = []
    began = time.perf_counter()
    while len(rounds) < LEAST_ROUNDS or (
        len(rounds) < ROUNDS and time.perf_counter() - began < PATIENCE_S
    ):
        started = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - started)
    return min(rounds)
