"""Engines that are given as if they were models: what they are, and how they are used."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kspacesr_rt.errors import ModelFileError

ENGINE_TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
"""First bytes of an engine, as TensorRT 10 and TensorRT-RTX 1.7 write them, to the backend that
runs it."""
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
SIDECAR_SUFFIX = ".engine.json"
BESIDE_SUFFIXES = (SIDECAR_SUFFIX, ".kernels", ".timing")
"""Of what stands beside an engine: its sidecar, and what was compiled and measured for it."""


def require_no_engine(content: bytes, name: str) -> None:
    """Refuse what TensorRT makes of a model, given as if it were one.

    Parameters
    ----------
    content
        Of the file, or its first bytes.
    name
        What messages call it.

    Raises
    ------
    ModelFileError
        If it is an engine, what stands beside one, or a context of ONNX Runtime's that holds one;
        it says how that is used.
    """
    runtime = ENGINE_TAGS.get(content[:4])
    beside = name.endswith(BESIDE_SUFFIXES)
    if runtime is None and not beside and not name.endswith(ENGINE_SUFFIXES):
        return
    what = "what stands beside a TensorRT engine" if beside else "a TensorRT engine"
    raise ModelFileError(
        f"{name} is {what}, built of a model for one kind of GPU, and is no model itself",
        hint="kspacesr-rt cache add ENGINE keeps it where backends look; then name the model that "
        f"it was built of, with --backend {runtime or 'tensorrt-rtx (or tensorrt)'}",
    )


def require_no_engine_at(path: Path) -> None:
    """Refuse a file as `require_no_engine` does, by its first bytes; one that is not there is none.

    Raises
    ------
    ModelFileError
        As from there.
    """
    with suppress(OSError), path.open("rb") as file:
        require_no_engine(file.read(4), path.name)


def is_engine(path: Path) -> bool:
    """Return whether a file begins as engines do."""
    try:
        with path.open("rb") as file:
            return file.read(4) in ENGINE_TAGS
    except OSError:
        return False
