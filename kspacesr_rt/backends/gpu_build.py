"""Whether the installed ONNX Runtime can use a GPU: read from metadata, importing nothing."""

from __future__ import annotations

from importlib import metadata

from kspacesr_rt.engines.driver import why_no_gpu

GPU_PACKAGE = "onnxruntime-gpu"


def why_no_gpu_build() -> str | None:
    """Say in one sentence why ONNX Runtime has no GPU here; None if it should have one."""
    try:
        metadata.distribution(GPU_PACKAGE)
    except metadata.PackageNotFoundError:
        return f"the installed ONNX Runtime is its CPU build: '{GPU_PACKAGE}' is not installed"
    return why_no_gpu()
