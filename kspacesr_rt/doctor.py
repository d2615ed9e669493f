"""What this machine has, what clashes, and what to install."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kspacesr_rt.backends import BACKENDS
from kspacesr_rt.engines.driver import current_gpu
from kspacesr_rt.errors import BackendUnavailableError, library_says
from kspacesr_rt.interruption import held_signals

PACKAGES = (
    *("kspacesr-rt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-rtx"),
    *("cuda-python", "nvidia-cublas", "nvidia-cudnn-cu13", "torch", "typer"),
    *("pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "imagecodecs", "ray"),
)
"""Distributions that decide what runs here, and how."""
CPU_FEATURES = {
    "avx2": "fp32 kernels of every runtime",
    "avx512f": "wider fp32 kernels",
    "avx512_vnni": "int8",
    "avx512_bf16": "bf16",
    "amx_bf16": "bf16, as matrices",
    "amx_int8": "int8, as matrices",
    "fma": "fused multiply-add",
    "asimd": "fp32 kernels on ARM",
    "bf16": "bf16 on ARM",
}
"""Flags of the CPU, as Linux names them, and what they speed up."""
CLASHES = (
    (
        ("onnxruntime", "onnxruntime-gpu"),
        "both install into one folder, and the last one wins",
        "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
    ),
)


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
    """Those of `CPU_FEATURES` the CPU has; empty where the system does not say."""
    gpu: str
    """Name and compute capability, or why there is none."""
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
    """Look at this machine; loads ONNX Runtime if it is there, and nothing else that is heavy."""
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    usable = {name: info.why_not() for name, info in BACKENDS.items()}
    problems = [
        f"{' and '.join(pair)} are both installed: {why}; {remedy}"
        for pair, why, remedy in CLASHES
        if all(name in packages for name in pair)
    ]
    if all(reason for name, reason in usable.items() if BACKENDS[name].model):
        problems.append("no backend can run a model here; pip install 'kspacesr-rt[cpu]'")
    return Diagnosis(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=next(iter(_cpu_lines("model name")), platform.processor()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _all_cores(),
        cpu_features=_cpu_features(),
        gpu=_gpu(),
        packages=packages,
        providers=_providers(),
        backends={
            name: "usable" if reason is None else f"{reason}; {BACKENDS[name].hint()}"
            for name, reason in usable.items()
        },
        problems=tuple(problems),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _all_cores() -> int:
    return os.cpu_count() or 1


def _cpu_lines(field: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(field)]


def cpu_identity() -> str:
    """Name the CPU and what it can do, for what was measured on it."""
    model = next(iter(_cpu_lines("model name")), platform.processor())
    return f"{model} ({' '.join(_cpu_features())})"


def _cpu_features() -> tuple[str, ...]:
    lines = [*_cpu_lines("flags"), *_cpu_lines("Features")]
    flags = {flag for line in lines for flag in line.split()}
    return tuple(name for name in CPU_FEATURES if name in flags)


def _gpu() -> str:
    try:
        gpu = current_gpu()
    except BackendUnavailableError as exc:
        return f"none ({library_says(exc)})"
    return f"{gpu.name}, compute capability {gpu.sm // 10}.{gpu.sm % 10}"


def _providers() -> dict[str, str]:
    """Ask ONNX Runtime for each of its providers: compiled in is not the same as usable."""
    try:
        with held_signals():
            import onnxruntime
    except ImportError as exc:
        return {"onnxruntime": f"does not load: {library_says(exc)}"}
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value], [result])
    probe = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    states = {}
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    for provider in onnxruntime.get_available_providers():
        try:
            session = onnxruntime.InferenceSession(probe, settings, providers=[provider])
            came_up = session.get_providers()[0]
        except Exception as exc:  # classes of ONNX Runtime's C++ layer
            states[provider] = f"does not load: {str(exc).splitlines()[0]}"
            continue
        states[provider] = "loads" if came_up == provider else f"does not load: got {came_up}"
    return states
