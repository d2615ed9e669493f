"""Which GPU backends there are for a GPU, by its compute capability: the one here, or any."""

from __future__ import annotations

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.system.gpu_driver import current_gpu
from kspacesr_rt.system.gpu_models import (
    GPU_MODELS,
    OLDER_HINT,
    OLDEST,
    GpuModel,
    capability_of,
    find_gpu_model,
)

ORT_KERNELS = (75, 80, 86, 89, 90, 120)
"""Compute capabilities that onnxruntime-gpu 1.31.1 holds kernels for; it has no code that a driver
could translate for others. Later ones of a generation (121) run those of an earlier one (120)."""
RTX_TARGETS = {
    75: "Turing: T4, RTX 20",
    80: "Ampere: A100, A30",
    86: "Ampere: A10, A40, RTX 30",
    89: "Ada: L4, L40, RTX 40",
    120: "Blackwell: RTX 50, RTX PRO",
    121: "Blackwell: GB10",
}
"""What TensorRT-RTX builds for; Hopper and the large Blackwells (sm90, sm100) are not among it."""
NVIDIA_ALONE = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-cuda")
ON_GPU = (*NVIDIA_ALONE, "ort-webgpu")


def why_not_on(backend: str, sm: int) -> str:
    """Say why a GPU backend is none for a compute capability; empty if it is one.

    Parameters
    ----------
    backend
        One of `ON_GPU`.
    sm
        Compute capability without its dot.
    """
    if backend not in NVIDIA_ALONE:
        return ""
    if sm < OLDEST:
        library = "onnxruntime-gpu" if backend == "ort-cuda" else "TensorRT"
        return f"{library} has nothing for sm{sm}: it begins with sm{OLDEST}"
    if backend == "tensorrt-rtx" and sm not in RTX_TARGETS:
        return f"TensorRT-RTX builds nothing for sm{sm}"
    has_kernels = any(one // 10 == sm // 10 and one <= sm for one in ORT_KERNELS)
    if backend == "ort-cuda" and not has_kernels:
        return f"onnxruntime-gpu has no kernels for sm{sm}"
    return ""


def require_gpu(backend: str, then: str | None = None) -> None:
    """Refuse a machine whose GPU is missing, or is one that a backend has nothing for.

    Parameters
    ----------
    backend
        One of `NVIDIA_ALONE`; of a plug-in, any GPU of NVIDIA's will do.
    then
        What is to be done besides, once there is a GPU.

    Raises
    ------
    BackendUnavailableError
        If there is no driver or no GPU, it is too old, or of a generation that the backend leaves
        out.
    """
    try:
        gpu = current_gpu()
    except BackendUnavailableError as exc:
        hint = "; then ".join(part for part in (exc.hint, then) if part)
        raise BackendUnavailableError(str(exc), hint=hint) from exc
    if reason := why_not_on(backend, gpu.sm):
        raise BackendUnavailableError(
            f"{reason}, and the GPU here is {gpu.name}", hint=_instead_of(gpu.sm)
        )


def _instead_of(sm: int) -> str:
    """Say what runs on a GPU that a backend has nothing for."""
    if sm < OLDEST:
        return OLDER_HINT
    others = [name for name in ON_GPU if not why_not_on(name, sm)]
    return f"take backend {' or '.join(others)}"


def backends_of(gpu: GpuModel) -> dict[str, str]:
    """Return every GPU backend with why it is none on a GPU; empty where it is one."""
    packages = {
        "ort-tensorrt": "onnxruntime-gpu has no package for Jetson",
        "ort-cuda": "onnxruntime-gpu has no package for Jetson",
        "ort-webgpu": "onnxruntime-webgpu has no package for Linux on ARM",
    }
    if gpu.sm == 87:
        packages["tensorrt"] = "JetPack 6 has TensorRT 10.3, and 10.13 is needed"
    return {
        name: (packages.get(name, "") if gpu.jetson else "") or why_not_on(name, gpu.sm)
        for name in ON_GPU
    }


def why_not_for(backend: str, gpu: str) -> str:
    """Say why a GPU backend is none for what a user calls a GPU; empty if it is one.

    Raises
    ------
    InputError
        If no GPU is called that.
    """
    sm = capability_of(gpu)
    modules = [one for one in GPU_MODELS.values() if one.jetson and one.sm == sm]
    model = find_gpu_model(gpu) or next(iter(modules), None)
    return why_not_on(backend, sm) if model is None else backends_of(model)[backend]
