"""What a contract is checked on: a backend by name, and a model that it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from unittest import SkipTest

import numpy as np

from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile, load_model, resolve_model
from kspacesr_rt.runtime.backends import (
    Backend,
    BackendInfo,
    BackendOptions,
    backend_info,
    baseline_spec,
    open_backend,
)

MATRIX: Matrix = (21, 16)
"""LR matrix of most checks: not square, one axis odd."""
UPSCALE = 2
"""Of baselines."""


@dataclass(frozen=True)
class Subject:
    """A backend under test."""

    name: str
    """As users type it."""
    model: ModelFile | None = None
    """What it runs; None: the shipped ``x2-fast``. Baselines need none."""
    threads: int = 1
    """CPU threads of most checks."""

    @property
    def info(self) -> BackendInfo:
        """Its row."""
        return backend_info(self.name)

    def loaded(self) -> ModelFile:
        """Return the model, for a backend that takes one; otherwise the check does not apply."""
        if not self.info.model:
            raise SkipTest(f"backend '{self.name}' takes no model")
        return self.model or load_model(resolve_model("x2-fast", upscale=None))

    @property
    def upscale(self) -> int:
        """SR samples for each LR sample, on each axis."""
        return self.loaded().spec.upscale if self.info.model else UPSCALE

    def open(
        self, matrix: Matrix = MATRIX, options: BackendOptions | None = None
    ) -> AbstractContextManager[Backend]:
        """Open the backend for a matrix, with one thread unless options say otherwise."""
        what = (
            bind(self.loaded(), matrix)
            if self.info.model
            else baseline_spec(self.name, UPSCALE, matrix)
        )
        return open_backend(self.name, what, options or BackendOptions(threads=self.threads))


def batch_of(n: int, matrix: Matrix = MATRIX, seed: int = 0) -> FloatArray:
    """Return noise ``(n, 1, *matrix)`` whose slices differ by decades of intensity."""
    rng = np.random.default_rng(seed)
    gains = 10.0 ** rng.uniform(-2, 4, (n, 1, 1, 1))
    return (rng.random((n, 1, *matrix)) * gains).astype(np.float32)
