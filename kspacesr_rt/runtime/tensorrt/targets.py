"""Which GPUs an engine can be built for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kspacesr_rt.errors import BackendUnavailableError, EngineError
from kspacesr_rt.runtime.gpu_capabilities import RTX_TARGETS, require_gpu, why_not_on
from kspacesr_rt.system.gpu_driver import current_gpu, require_cuda
from kspacesr_rt.system.gpu_models import OLDER_HINT, OLDEST, capability_of

RuntimeName = Literal["tensorrt", "tensorrt-rtx"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
CURRENT = "current"
"""The GPU of this machine, as the driver names it."""
NO_FP32_PRODUCTS = (75,)
"""Of these, those for which it has no fp32 matrix product, but has fp32 convolutions."""
RTX_UNLISTED = (80,)
"""Targets its builder accepts, though NVIDIA does not list such GPUs as supported."""
_NO_ENGINE = {
    87: "there is no engine for Jetson Orin: JetPack 6 has TensorRT 10.3, and 10.13 is needed"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuTarget:
    """What an engine is built for."""

    sm: int
    """Compute capability without its dot."""
    name: str = ""
    """Of the GPU it was tuned on; empty if any GPU of that capability will do."""

    @property
    def label(self) -> str:
        """Return what users type, such as ``sm89``."""
        return f"sm{self.sm}"


def resolve_target(gpu: str, runtime: RuntimeName) -> GpuTarget:
    """Turn what a user typed into a target that a runtime can build for.

    Parameters
    ----------
    gpu
        ``current``, a name such as ``L4``, or a compute capability such as ``sm89``.
    runtime
        TensorRT tunes on the GPU it finds, so it builds for no other and the target has a name;
        TensorRT-RTX tunes when the engine is loaded, so its target is a compute capability.

    Raises
    ------
    InputError
        If `gpu` is no target.
    BackendUnavailableError
        If the GPU of this machine is needed and there is none.
    EngineError
        If the runtime does not build for that GPU.
    """
    wanted = gpu.strip().lower()
    if wanted != CURRENT:
        wanted = f"sm{capability_of(gpu)}"
    if runtime == "tensorrt":
        found = current_gpu()
        if wanted not in (CURRENT, f"sm{found.sm}"):
            raise EngineError(
                f"TensorRT builds for the GPU it runs on ({found.name}, sm{found.sm}), not for "
                f"{wanted}",
                hint="build it there, or with --runtime tensorrt-rtx",
            )
        if reason := why_not_on(runtime, found.sm):
            raise EngineError(f"{reason}, and the GPU here is {found.name}", hint=OLDER_HINT)
        return GpuTarget(sm=found.sm, name=found.name)
    sm = _sm_of_this_machine() if wanted == CURRENT else int(wanted.removeprefix("sm"))
    if sm not in RTX_TARGETS:
        hint = OLDER_HINT if sm < OLDEST else _NO_ENGINE.get(sm)
        raise EngineError(_not_for_rtx(sm), hint=hint or "on such a GPU use --runtime tensorrt")
    return GpuTarget(sm=sm)


def require_tensorrt_gpu() -> None:
    """Refuse a machine on which TensorRT cannot run.

    Raises
    ------
    BackendUnavailableError
        If the GPU, its driver or the bindings are missing, or the GPU is too old.
    """
    require_gpu("tensorrt")
    require_cuda()


def require_rtx_gpu() -> None:
    """Refuse a machine on which TensorRT-RTX cannot run.

    Raises
    ------
    BackendUnavailableError
        If the GPU, its driver or the bindings are missing, or the GPU is none that it knows.
    """
    elsewhere = "engines for other machines build here: kspacesr-rt build --gpu sm89"
    try:
        if (sm := current_gpu().sm) not in RTX_TARGETS:
            hint = OLDER_HINT if sm < OLDEST else "take backend tensorrt"
            raise BackendUnavailableError(_not_for_rtx(sm), hint=hint)
        require_cuda()
    except BackendUnavailableError as exc:
        raise BackendUnavailableError(str(exc), hint=f"{exc.hint}; {elsewhere}") from exc


def _not_for_rtx(sm: int) -> str:
    known = ", ".join(f"sm{known}" for known in RTX_TARGETS)
    return f"TensorRT-RTX does not support sm{sm}; it knows {known}"


def _sm_of_this_machine() -> int:
    try:
        return current_gpu().sm
    except BackendUnavailableError as exc:
        raise BackendUnavailableError(
            f"no GPU to build for: {exc}",
            hint="name the GPU the engine is for: --gpu "
            + " or ".join(f"sm{sm}" for sm in RTX_TARGETS),
        ) from exc
