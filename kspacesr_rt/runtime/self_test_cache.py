"""Verifications that were measured on this machine, kept under all that they depend on.

A verification is kept for a machine, a backend, the versions of its libraries and a model. What is
damaged, was measured under other inputs or states another limit is not used: it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import BackendUnavailableError, failing_the_output
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.runtime.backends import backend_info
from kspacesr_rt.runtime.self_test import REQUIRED_DB, Verification
from kspacesr_rt.system.cache_folder import CacheFolder
from kspacesr_rt.system.cpu import cpu_identity
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.gpu_driver import current_gpu
from kspacesr_rt.system.packages import installed_versions

SCHEMA = 2
"""2: backends are verified in each way they compute."""
LIBRARIES = {
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "cuda-python"),
    "tensorrt-rtx": ("tensorrt-rtx", "cuda-python"),
    "ort-tensorrt": ("onnxruntime-gpu", "tensorrt-cu12", "tensorrt-cu13"),
    "ort-cuda": ("onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-cublas"),
    "openvino": ("openvino",),
    "ort-cpu": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu"),
    "ort-webgpu": ("onnxruntime-webgpu",),
}
"""Distributions whose versions decide what a backend computes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationInputs:
    """All that a verification depends on; names no host and no user."""

    machine: str
    """CPU with its features, and GPU."""
    backend: str
    """What ran it."""
    versions: str
    """Of this tool and of the backend's libraries."""
    model_sha256: str
    """Digest of the whole model file, known answer included."""

    @classmethod
    def of(cls, model: ModelFile, backend: str) -> VerificationInputs:
        """Collect them for a model and a backend of this machine."""
        content = model.proto.SerializeToString(deterministic=True)
        return cls(
            machine=machine_identity(),
            backend=backend,
            versions=library_versions(backend),
            model_sha256=hashlib.sha256(content).hexdigest(),
        )

    def to_dict(self) -> dict[str, str]:
        """Return plain values for strict JSON."""
        return {
            "machine": self.machine,
            "backend": self.backend,
            "versions": self.versions,
            "model_sha256": self.model_sha256,
        }

    @property
    def key(self) -> str:
        """Digest of it all."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def library_versions(backend: str) -> str:
    """Return the versions of this tool and of what a backend computes with, for a key."""
    found = installed_versions(("numpy", *_libraries(backend)))
    versions = [f"{name} {version}" for name, version in found.items()]
    return ", ".join([f"kspacesr-rt {__version__}", *versions])


def _libraries(backend: str) -> tuple[str, ...]:
    return LIBRARIES[backend] if backend in LIBRARIES else backend_info(backend).libraries


def machine_identity() -> str:
    """Describe what computes here: system, CPU with its features, GPU; no host name."""
    try:
        gpu = current_gpu()
    except BackendUnavailableError:
        gpu_text = "no GPU"
    else:
        gpu_text = f"{gpu.name} sm{gpu.sm}"
    return f"{platform.system()} {platform.machine()}, {cpu_identity()}, {gpu_text}"


class VerificationCache(CacheFolder):
    """A folder with a small file a verification, beside the engines."""

    name = "verified"

    def find(self, inputs: VerificationInputs, model: ModelFile) -> Verification | None:
        """Return what was measured under these inputs; None if nothing usable is kept."""
        try:
            stored = json.loads(self._path(inputs).read_bytes())
        except (OSError, ValueError):  # an OutputError too, where there is no place for a cache
            return None
        if not isinstance(stored, dict):
            return None
        if stored.get("schema") != SCHEMA or stored.get("inputs") != inputs.to_dict():
            return None
        return _read(stored.get("verification"), model, inputs.backend)

    def keep(self, inputs: VerificationInputs, verification: Verification) -> None:
        """Keep a verification in place of an earlier one.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        document = {
            "schema": SCHEMA,
            "inputs": inputs.to_dict(),
            "verification": verification.to_dict(),
        }
        self.make()
        replace_file(self._path(inputs), (json.dumps(document, indent=1) + "\n").encode())

    def forget(self) -> int:
        """Remove every verification and return how many there were.

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        if self.why_none() is not None:
            return 0
        kept = sorted(self.folder.glob("*.json"))
        for path in kept:
            with failing_the_output(f"cannot remove {path}"):
                path.unlink(missing_ok=True)
        return len(kept)

    def _path(self, inputs: VerificationInputs) -> Path:
        return self.folder / f"{inputs.backend}-{inputs.key}.json"


def read_verification(values: dict[str, Any]) -> Verification:
    """Read what `Verification.to_dict` wrote.

    Raises
    ------
    ValueError
        If something is missing, of another type, or contradicts itself.
    """
    try:
        figures = {
            name: _figure(values[name]) for name in ("psnr_between_db", "max_error", "required_db")
        }
        found = Verification(model=str(values["model"]), backend=str(values["backend"]), **figures)
    except (KeyError, TypeError) as exc:
        raise ValueError(f"no verification: {exc}") from exc
    if found.passed is not values.get("passed"):
        raise ValueError("no verification: its verdict contradicts its figures")
    return found


def _figure(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _read(values: Any, model: ModelFile, backend: str) -> Verification | None:
    try:
        found = read_verification(values if isinstance(values, dict) else {})
    except ValueError:
        return None
    wanted = (model.spec.name, backend, REQUIRED_DB[model.spec.precision])
    return found if (found.model, found.backend, found.required_db) == wanted else None
