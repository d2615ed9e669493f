"""A backend that computes next to nothing, so that what is around backends can be measured.

It is no way to run anything: `infer` does not offer it, and it is a row of the registry only while
`null_backend` is entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.backends import BACKENDS, BackendInfo, BackendOptions, require_batch

NULL: Final = "null"


class NullBackend:
    """Repeats every sample along both axes, behind the backend protocol."""

    notes: tuple[str, ...] = ()
    transfer_s = 0.0

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def run(self, batch: FloatArray) -> FloatArray:
        """Repeat the samples; see `kspacesr_rt.runtime.backends.Backend.run`."""
        require_batch(batch, self.spec)
        upscale = self.spec.upscale
        return batch.repeat(upscale, axis=-1).repeat(upscale, axis=-2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def open_backend(name: str, model: ModelSpec, options: BackendOptions) -> NullBackend:
    """Open it; threads do not apply."""
    return NullBackend(model)


@contextmanager
def null_backend() -> Iterator[str]:
    """Let `NULL` be a backend's name within the block, and yield it."""
    BACKENDS[NULL] = BackendInfo(NULL, __name__, "repeats samples: for measurements", model=False)
    try:
        yield NULL
    finally:
        del BACKENDS[NULL]
