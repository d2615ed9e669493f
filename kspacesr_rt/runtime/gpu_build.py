"""What ONNX Runtime needs for an NVIDIA GPU: its package, the driver, and libraries.

Each is looked for before the provider is: ONNX Runtime itself prints that it cannot load one, and
opens a session on the CPU, or fails in the first run (cuDNN).
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError, library_message
from kspacesr_rt.runtime.gpu_capabilities import require_gpu
from kspacesr_rt.runtime.ort_build import (
    CPU_PACKAGE,
    GPU_PACKAGE,
    reinstall_hint,
    require_build,
)
from kspacesr_rt.system.interruption import deferred_signals

REINSTALL = reinstall_hint("gpu", CPU_PACKAGE, GPU_PACKAGE)
CUDA_MAJOR = "13"
"""Of the CUDA that ONNX Runtime must have been built with; the libraries below are of it."""
CUDA_LIBRARIES = {
    "libcudart.so.13": "nvidia-cuda-runtime>=13,<14",
    "libcublasLt.so.13": "nvidia-cublas>=13,<14",
    "libcublas.so.13": "nvidia-cublas>=13,<14",
    "libcurand.so.10": "nvidia-curand>=10,<11",
    "libcudnn.so.9": "nvidia-cudnn-cu13>=9,<10",
}
"""What the CUDA provider is linked to, or loads in its first run (cuDNN), to what brings it."""
TENSORRT = "tensorrt-cu13>=10.13.2,<11"
"""The provider of ONNX Runtime 1.27 to 1.31 is linked to TensorRT 10; 11 has another file name."""
TENSORRT_LIBRARIES = {"libnvinfer.so.10": TENSORRT, "libnvonnxparser.so.10": TENSORRT}
"""The same, besides, for the TensorRT provider."""
PROVIDER_LIBRARIES = {
    "CUDAExecutionProvider": CUDA_LIBRARIES,
    "TensorrtExecutionProvider": CUDA_LIBRARIES | TENSORRT_LIBRARIES,
}
"""All that is loaded before a session is opened on a provider."""
NO_MESSAGES = 4
"""ONNX Runtime's log level but for what ends the process: its errors come as exceptions, too."""
_NOT_FOUND = "cannot open shared object file"
"""What the loader says of a library that is nowhere; of one that it needs, too, with its name."""
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cudnn/lib", "tensorrt_libs")
"""Where NVIDIA's packages put libraries, below the folder of all packages."""


def require_cuda_build() -> None:
    """Refuse a machine on which ONNX Runtime's CUDA provider cannot work.

    Raises
    ------
    BackendUnavailableError
        If the GPU build, the driver, the GPU or a library is missing, the GPU is one that the
        build has no kernels for, or the CPU build is in the way of the GPU build. The GPU is asked
        for first: without one, a package is of no use.
    """
    _require_gpu_build("ort-cuda")


def require_tensorrt_build() -> None:
    """Refuse a machine on which ONNX Runtime's TensorRT provider cannot work.

    Raises
    ------
    BackendUnavailableError
        As `require_cuda_build`, and if TensorRT 10 is missing. The engine needs no kernels of ONNX
        Runtime's own.
    """
    _require_gpu_build("ort-tensorrt")
    require_libraries(TENSORRT_LIBRARIES)


def _require_gpu_build(backend: str) -> None:
    try:
        require_build(GPU_PACKAGE, REINSTALL)
    except BackendUnavailableError as no_build:
        require_gpu(backend, then=no_build.hint)
        raise
    require_gpu(backend)
    require_libraries(CUDA_LIBRARIES)


def require_libraries(needed: Mapping[str, str]) -> None:
    """Refuse a machine that lacks a library.

    Parameters
    ----------
    needed
        File name of a library to the requirement that brings it.

    Raises
    ------
    BackendUnavailableError
        If one is neither in a package of NVIDIA's nor where the system looks for libraries; it and
        the command that brings it are named.
    """
    if sys.platform != "linux":
        return  # other names there; ONNX Runtime's own message has to do
    for name, brought_by in needed.items():
        if _in_a_package(name) is not None:
            continue
        try:
            ctypes.CDLL(name)
        except OSError as exc:
            if str(exc).startswith(f"{name}: {_NOT_FOUND}"):
                raise BackendUnavailableError(
                    f"the library {name} is missing", hint=f"pip install '{brought_by}'"
                ) from exc
            raise _not_loaded(name, brought_by, exc) from exc


def load_libraries(needed: Mapping[str, str]) -> None:
    """Load libraries, those in packages first, so that ONNX Runtime finds them by their names.

    Raises
    ------
    BackendUnavailableError
        If one is missing, as `require_libraries`, or does not load.
    """
    require_libraries(needed)
    if sys.platform != "linux":
        return
    for name, brought_by in needed.items():
        try:
            ctypes.CDLL(str(_in_a_package(name) or name))
        except OSError as exc:
            raise _not_loaded(name, brought_by, exc) from exc


def load_onnxruntime(provider: str, needed: Mapping[str, str]) -> Any:
    """Import ONNX Runtime with what a GPU provider of it needs.

    Parameters
    ----------
    provider
        ONNX Runtime's name of the provider.
    needed
        Libraries, as `load_libraries` takes them.

    Raises
    ------
    BackendUnavailableError
        If it does not load, lacks the provider, or was built with another CUDA.
    """
    try:
        with deferred_signals():
            import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(
            f"onnxruntime is installed but does not load: {library_message(exc)}", hint=REINSTALL
        ) from exc
    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"this onnxruntime was built without {provider}", hint=REINSTALL
        )
    built_with = str(getattr(onnxruntime, "cuda_version", "") or "unknown")
    if built_with.split(".")[0] != CUDA_MAJOR:
        raise BackendUnavailableError(
            f"this {GPU_PACKAGE} {onnxruntime.__version__} was built with CUDA {built_with}, and "
            f"CUDA {CUDA_MAJOR} is needed",
            hint=REINSTALL,
        )
    load_libraries(needed)
    onnxruntime.set_default_logger_severity(NO_MESSAGES)
    with contextlib.redirect_stdout(io.StringIO()):  # where it prints what it did not find
        onnxruntime.preload_dlls()
    return onnxruntime


def tensorrt_version() -> str:
    """Return the version of TensorRT that was loaded, such as ``10.16.1``.

    Raises
    ------
    BackendUnavailableError
        If it was not.
    """
    load_libraries(TENSORRT_LIBRARIES)
    name = next(iter(TENSORRT_LIBRARIES))
    library = ctypes.CDLL(str(_in_a_package(name) or name))
    number = int(library.getInferLibVersion())  # 101601 is 10.16.1
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _in_a_package(name: str) -> Path | None:
    for folder in _FOLDERS:
        top, _, rest = folder.partition("/")
        spec = find_spec(top)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(place) / rest / name).is_file():
                return path
    return None


def _not_loaded(name: str, brought_by: str, exc: OSError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"the library {name} does not load: {library_message(exc)}",
        hint=f"pip install --force-reinstall '{brought_by}'",
    )
