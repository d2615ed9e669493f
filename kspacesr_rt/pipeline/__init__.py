"""From a folder of DICOM to derived series: scan, read, infer, check, write.

A slice that fails is recorded and the others go on; nothing that was not asked for replaces what
was: not another backend, not another model, not an invented value.

The public names are loaded when they are first used: a process that only reads and writes slices
needs no more than NumPy and pydicom.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kspacesr_rt.pipeline.inference import infer as infer
    from kspacesr_rt.pipeline.options import InferOptions as InferOptions
    from kspacesr_rt.pipeline.options import RunProgress as RunProgress
    from kspacesr_rt.pipeline.ray.executor import RayExecutor as RayExecutor
    from kspacesr_rt.pipeline.ray.executor import executor_named as executor_named
    from kspacesr_rt.pipeline.session import Session as Session

_HOMES = {
    "InferOptions": "options",
    "RayExecutor": "ray.executor",
    "RunProgress": "options",
    "Session": "session",
    "executor_named": "ray.executor",
    "infer": "inference",
}
"""Modules that define the public names."""

__all__ = ["InferOptions", "RayExecutor", "RunProgress", "Session", "executor_named", "infer"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
