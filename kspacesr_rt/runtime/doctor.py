"""What this machine has, what clashes, and what to install."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError, library_message
from kspacesr_rt.runtime.backends import every_backend, left_out_plugins
from kspacesr_rt.runtime.gpu_build import (
    NO_MESSAGES,
    REINSTALL,
)
from kspacesr_rt.runtime.ort_build import (
    BUILDS,
    GPU_PACKAGE,
    WEBGPU_PACKAGE,
    WEBGPU_REINSTALL,
    require_build,
)
from kspacesr_rt.runtime.provider_start import (
    ENGINES,
    PROVIDERS,
    why_no_session,
    why_not_started,
)
from kspacesr_rt.system.cpu import available_cores, cpu_features, cpu_model
from kspacesr_rt.system.gpu_driver import current_gpu
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.system.packages import installed_versions
from kspacesr_rt.system.vulkan import adapters_text

PACKAGES = (
    *("kspacesr-rt", "numpy", "onnx", *BUILDS, "openvino"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-rtx"),
    *(
        "cuda-bindings",
        "nvidia-cuda-runtime",
        "nvidia-cublas",
        "nvidia-cudnn-cu13",
        "torch",
        "typer",
    ),
    *("pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "imagecodecs", "ray"),
)
"""Distributions that decide what runs here, and how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The state of one machine; names no host, user or folder."""

    system: str
    """Operating system and machine type."""
    python: str
    """Version of Python."""
    cpu: str
    """Model of the CPU."""
    cores: int
    """Cores this process may use."""
    cpu_features: tuple[str, ...]
    """What the CPU can do, as `kspacesr_rt.system.cpu.cpu_features` says."""
    gpu: str
    """NVIDIA's: name and compute capability, or why there is none."""
    vulkan: str
    """GPUs of any vendor that Vulkan lists, for ``ort-webgpu``, or why there is none."""
    packages: dict[str, str]
    """Distribution to version, of those installed."""
    providers: dict[str, str]
    """ONNX Runtime provider to ``loads``, or why it does not."""
    backends: dict[str, str]
    """Backend to ``usable``, or why not and what to do."""
    problems: tuple[str, ...]
    """What is wrong, each with what to do about it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "system": self.system,
            "python": self.python,
            "cpu": self.cpu,
            "cores": self.cores,
            "cpu_features": list(self.cpu_features),
            "gpu": self.gpu,
            "vulkan": self.vulkan,
            "packages": self.packages,
            "providers": self.providers,
            "backends": self.backends,
            "problems": list(self.problems),
        }

    def as_text(self) -> str:
        """Return a page for a terminal."""
        lines = [
            f"system     {self.system}, Python {self.python}",
            f"CPU        {self.cpu}, {self.cores} cores",
            f"           {', '.join(self.cpu_features) or 'features unknown'}",
            f"GPU        {self.gpu}",
            f"Vulkan     {self.vulkan}",
            "",
            *(f"{name:<22} {version}" for name, version in self.packages.items()),
            "",
            *(f"{name:<28} {state}" for name, state in self.providers.items()),
            "",
            *(f"{name:<14} {state}" for name, state in self.backends.items()),
            "",
            *(f"problem: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines if self.problems else [*lines, "no problem found"])


def diagnose_machine() -> Diagnosis:
    """Look at this machine; loads ONNX Runtime if it is there, and the rows of plug-ins."""
    packages = installed_versions(PACKAGES)
    backends = every_backend()
    usable = {name: info.why_not() for name, info in backends.items()}
    hints = {name: info.hint() for name, info in backends.items()}
    problems = _clashes(packages)
    for name in (*PROVIDERS, *ENGINES):
        if usable[name] is not None:
            continue
        try:
            reason = why_not_started(name)
        except BackendUnavailableError as exc:
            usable[name], hints[name] = str(exc), exc.hint
            problems.append(f"{exc}; {exc.hint}")
        else:
            usable[name] = reason and f"backend '{name}' cannot run here: {reason}"
    no_cuda = usable["ort-cuda"] if usable["ort-tensorrt"] is not None else None
    if GPU_PACKAGE in packages and not problems and no_cuda is not None:
        problems.append(f"'{GPU_PACKAGE}' is installed, but {no_cuda}; {hints['ort-cuda']}")
    problems += left_out_plugins()
    problems += [info.fault for info in backends.values() if info.fault is not None]
    if all(reason for name, reason in usable.items() if backends[name].model):
        problems.append("no backend can run a model here; pip install 'kspacesr-rt[cpu]'")
    return Diagnosis(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=cpu_model(),
        cores=available_cores(),
        cpu_features=cpu_features(),
        gpu=_gpu(),
        vulkan=adapters_text(),
        packages=packages,
        providers=_providers(usable),
        backends={
            name: "usable" if reason is None else f"{reason}; {hints[name]}"
            for name, reason in usable.items()
        },
        problems=tuple(problems),
    )


def _clashes(packages: Mapping[str, str]) -> list[str]:
    if len(BUILDS.keys() & packages.keys()) < 2:
        return []
    found = []
    for package, hint in ((GPU_PACKAGE, REINSTALL), (WEBGPU_PACKAGE, WEBGPU_REINSTALL)):
        if package in packages:
            try:
                require_build(package, hint)
            except BackendUnavailableError as exc:
                found.append(f"{exc}; {exc.hint}")
    return found


def _gpu() -> str:
    try:
        gpu = current_gpu()
    except BackendUnavailableError as exc:
        return f"none ({library_message(exc)})"
    capability = f"compute capability {gpu.sm // 10}.{gpu.sm % 10}"
    return f"{gpu.name}, {capability}, driver for CUDA {gpu.cuda}"


def _providers(why_not: Mapping[str, str | None]) -> dict[str, str]:
    """Ask ONNX Runtime for each of its providers: compiled in is not the same as usable.

    Parameters
    ----------
    why_not
        Backend to why it cannot run here, or None.
    """
    try:
        with deferred_signals():
            import onnxruntime
    except ImportError as exc:
        return {"onnxruntime": f"does not load: {library_message(exc)}"}
    onnxruntime.set_default_logger_severity(NO_MESSAGES)  # or it prints what it could not load
    backends = {provider: name for name, provider in PROVIDERS.items()}
    states = {}
    for provider in onnxruntime.get_available_providers():
        name = backends.get(provider, "")
        reason = why_not.get(name)
        if not name:
            reason = why_no_session(onnxruntime, provider)
        elif reason is not None:
            reason = reason.removeprefix(f"backend '{name}' cannot run here: ")
        states[provider] = "loads" if reason is None else f"does not load: {reason}"
    return states
