"""The baselines as backends: zero-fill and bicubic, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.kspace.resampling import bicubic, zero_fill
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.backends import BackendOptions, require_batch

INTERPOLATIONS: Final[dict[str, Callable[[FloatArray, int], FloatArray]]] = {
    "zero-fill": zero_fill,
    "bicubic": bicubic,
}


class BaselineBackend:
    """An interpolation behind the backend protocol."""

    notes: tuple[str, ...] = ()
    transfer_s = 0.0

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self.spec = spec
        self._interpolate = INTERPOLATIONS[name]

    def run(self, batch: FloatArray) -> FloatArray:
        """Interpolate each slice; see `kspacesr_rt.runtime.backends.Backend.run`."""
        require_batch(batch, self.spec)
        return self._interpolate(batch, self.spec.upscale)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def open_backend(name: str, model: ModelSpec, options: BackendOptions) -> BaselineBackend:
    """Open a baseline; threads do not apply."""
    return BaselineBackend(name, model)
