"""The baselines as backends: zero-fill and bicubic, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from kspacesr_rt.backends import BackendOptions, require_batch
from kspacesr_rt.interpolation import bicubic, zero_fill
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.spec import ModelSpec

_INTERPOLATE: dict[str, Callable[[FloatArray, int], FloatArray]] = {
    "zero-fill": zero_fill,
    "bicubic": bicubic,
}


class BaselineBackend:
    """An interpolation behind the backend protocol."""

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self.spec = spec
        self._interpolate = _INTERPOLATE[name]

    def run(self, batch: FloatArray) -> FloatArray:
        """Interpolate each slice; see `kspacesr_rt.backends.Backend.run`."""
        require_batch(batch, self.spec)
        return self._interpolate(batch, self.spec.upscale)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def open_backend(name: str, model: ModelSpec, options: BackendOptions) -> BaselineBackend:
    """Open a baseline; threads do not apply."""
    return BaselineBackend(name, model)
