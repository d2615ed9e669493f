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
from importlib import metadata
from pathlib import Path
from typing import Any

from kspacesr_rt._version import __version__
from kspacesr_rt.doctor import cpu_identity
from kspacesr_rt.engines.cache import default_folder
from kspacesr_rt.engines.driver import current_gpu
from kspacesr_rt.errors import BackendUnavailableError, OutputError, system_says
from kspacesr_rt.files import replace_file
from kspacesr_rt.model_file import ModelFile
from kspacesr_rt.verify import REQUIRED_DB, Verification

SCHEMA = 2
"""2: backends are verified in each way they compute."""
LIBRARIES = {
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "cuda-python"),
    "tensorrt-rtx": ("tensorrt-rtx", "cuda-python"),
    "ort-tensorrt": ("onnxruntime-gpu", "tensorrt-cu12", "tensorrt-cu13"),
    "ort-cuda": ("onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-cublas"),
    "openvino": ("openvino",),
    "ort-cpu": ("onnxruntime", "onnxruntime-gpu"),
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
        found = {name: _version(name) for name in ("numpy", *LIBRARIES.get(backend, ()))}
        versions = [f"{name} {version}" for name, version in found.items() if version]
        content = model.proto.SerializeToString(deterministic=True)
        return cls(
            machine=machine_identity(),
            backend=backend,
            versions=", ".join([f"kspacesr-rt {__version__}", *versions]),
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


def machine_identity() -> str:
    """Describe what computes here: system, CPU with its features, GPU; no host name."""
    try:
        gpu = current_gpu()
    except BackendUnavailableError:
        told = "no GPU"
    else:
        told = f"{gpu.name} sm{gpu.sm}"
    return f"{platform.system()} {platform.machine()}, {cpu_identity()}, {told}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class VerificationCache:
    """A folder with a small file a verification, beside the engines.

    Parameters
    ----------
    folder
        Where; None for ``verified`` beside `kspacesr_rt.engines.cache.default_folder`. Where there
        is none, nothing is found and nothing can be kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where.

        Raises
        ------
        OutputError
            If there is no place for a cache.
        """
        return self._folder or default_folder().with_name("verified")

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
        folder = self.folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"cannot make {folder}: {system_says(exc)}") from exc
        replace_file(self._path(inputs), (json.dumps(document, indent=1) + "\n").encode())

    def forget(self) -> int:
        """Remove every verification and return how many there were.

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        try:
            folder = self.folder
        except OutputError:
            return 0
        kept = sorted(folder.glob("*.json"))
        for path in kept:
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                raise OutputError(f"cannot remove {path}: {system_says(exc)}") from exc
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
