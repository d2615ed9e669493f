"""MRI super-resolution in k-space: run, export and measure models on folders of DICOM.

The public names stand in ``__all__`` and are loaded when they are first used: importing this
package loads no array library and no runtime. Research software: super-resolved detail is
predicted, not measured.

Examples
--------
>>> import numpy as np
>>> import kspacesr_rt as ks
>>> model = ks.load("x2-fast")
>>> model(np.full((3, 32, 24), 100.0)).shape
(3, 64, 48)
"""

from __future__ import annotations

from kspacesr_rt._version import __version__ as __version__
from kspacesr_rt.system import telemetry

TYPE_CHECKING = False  # `typing` alone would take ten times as long as this package
if TYPE_CHECKING:
    from typing import Any

telemetry.silence()  # before anything imports a runtime

_HOMES = {
    "InferOptions": "pipeline.options",
    "Model": "pipeline.array_model",
    "RunReport": "pipeline.report",
    "Session": "pipeline.session",
    "adopt_model": "conversion.adoption",
    "convert_model": "conversion.convert",
    "export_model": "export.exporter",
    "export_module": "export.module_export",
    "infer": "pipeline.inference",
    "load": "pipeline.array_model",
    "verify": "runtime.selection",
}
"""Where public names are defined; ``__init__.pyi`` tells type checkers and editors the same."""
_NEED_TORCH = frozenset({"export_model", "export_module", "layers"})
"""Left out of ``__all__`` where there is no PyTorch, so that ``import *`` works there too."""
_MODULES = frozenset({"bench", "errors", "export", "layers", "train"})
_PUBLIC = [
    "InferOptions",
    "Model",
    "RunReport",
    "Session",
    "__version__",
    "adopt_model",
    "bench",
    "convert_model",
    "errors",
    "export",
    "export_model",
    "export_module",
    "infer",
    "layers",
    "load",
    "train",
    "verify",
]


def _all() -> list[str]:
    from importlib.util import find_spec

    return [name for name in _PUBLIC if name not in _NEED_TORCH or find_spec("torch")]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name == "__all__":
        return _all()
    from importlib import import_module

    if name not in _MODULES and name not in _HOMES:
        raise AttributeError(f"module 'kspacesr_rt' has no attribute '{name}'")
    try:
        home = import_module(f"kspacesr_rt.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as exc:
        if exc.name != "torch":
            raise
        install = "pip install 'kspacesr-rt[export]'"
        raise ImportError(f"kspacesr_rt.{name} needs PyTorch: {install}", name="torch") from exc
    if name in _MODULES:
        return home
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_all(), *(name for name in globals() if name.startswith("__"))})
