"""Load `tensorrt` or `tensorrt_rtx`, whichever is asked for, if it is new enough."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError, library_message
from kspacesr_rt.runtime.tensorrt.targets import RuntimeName
from kspacesr_rt.system.interruption import deferred_signals

Module = Any
"""`tensorrt` or `tensorrt_rtx`; neither publishes types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flavour:
    module: str
    oldest: tuple[int, int]
    extra: str


_FLAVOURS: dict[RuntimeName, _Flavour] = {
    "tensorrt": _Flavour(module="tensorrt", oldest=(10, 13), extra="tensorrt"),
    "tensorrt-rtx": _Flavour(module="tensorrt_rtx", oldest=(1, 7), extra="trt-rtx"),
}


def load_runtime(runtime: RuntimeName) -> Module:
    """Import TensorRT or TensorRT-RTX.

    Raises
    ------
    BackendUnavailableError
        If it is not installed, does not load, or is too old.
    """
    flavour = _FLAVOURS[runtime]
    hint = f"pip install 'kspacesr-rt[{flavour.extra}]'"
    try:
        with deferred_signals():
            trt: Module = importlib.import_module(flavour.module)
    except ImportError as exc:
        missing = isinstance(exc, ModuleNotFoundError) and exc.name == flavour.module
        raise BackendUnavailableError(
            f"'{runtime}' needs the package '{flavour.module}', which is not installed"
            if missing
            else f"{flavour.module} is installed but does not load: {library_message(exc)}",
            hint=hint,
        ) from exc
    if version_of(trt) < flavour.oldest:
        raise BackendUnavailableError(
            f"{flavour.module} {trt.__version__} is older than "
            f"{'.'.join(map(str, flavour.oldest))}, the oldest that is supported",
            hint=hint,
        )
    return trt


def version_of(trt: Module) -> tuple[int, ...]:
    """Return major and minor version."""
    return tuple(int(digits) for digits in re.findall(r"\d+", trt.__version__)[:2])


def is_rtx(trt: Module) -> bool:
    """Tell TensorRT-RTX from TensorRT."""
    return bool(trt.__name__ == _FLAVOURS["tensorrt-rtx"].module)
