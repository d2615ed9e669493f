"""Which build of ONNX Runtime is installed: its packages have one folder, and overwrite each other.

Read from metadata alone: nothing is imported.
"""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.system.vulkan import require_adapter

CPU_PACKAGE, GPU_PACKAGE, WEBGPU_PACKAGE = "onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu"
BUILDS = {
    CPU_PACKAGE: "its CPU build",
    GPU_PACKAGE: "its build for NVIDIA GPUs",
    WEBGPU_PACKAGE: "its WebGPU build",
}
"""Package to what it is; each installs a folder ``onnxruntime``."""


def reinstall_hint(extra: str, *packages: str) -> str:
    """Return what leaves one build alone: only a clean install is sure.

    Parameters
    ----------
    extra
        Of this project, that brings the build.
    packages
        Those to remove before.
    """
    return f"pip uninstall -y {' '.join(packages)} && pip install 'kspacesr-rt[{extra}]'"


WEBGPU_REINSTALL = reinstall_hint("webgpu", *BUILDS)


def require_webgpu() -> None:
    """Refuse a machine on which ONNX Runtime's WebGPU provider cannot work.

    Raises
    ------
    BackendUnavailableError
        If its build, or a GPU that Vulkan lists, is missing.
    """
    require_build(WEBGPU_PACKAGE, WEBGPU_REINSTALL)
    require_adapter()


def require_build(package: str, hint: str) -> None:
    """Refuse an installation whose `onnxruntime` is another build, or a mixture.

    Parameters
    ----------
    package
        A key of `BUILDS`.
    hint
        What brings it.

    Raises
    ------
    BackendUnavailableError
        If it is.
    """
    wanted = _distribution(package)
    others = {name: one for name in BUILDS if name != package and (one := _distribution(name))}
    # Who removes two of three still has a mixture, or another build in the way.
    left = [name for name in others if f" {name} " not in hint]
    hint = hint.replace("uninstall -y ", " ".join(["uninstall -y", *left, ""]), 1)
    spec = find_spec("onnxruntime")
    imported = Path(spec.origin).parents if spec is not None and spec.origin is not None else ()
    if wanted is None:
        named = [BUILDS[name] for name, one in others.items() if _folder(one) in imported]
        found = next(iter(named), "another build")
        raise BackendUnavailableError(
            f"the installed ONNX Runtime is {found}: '{package}' is not installed", hint=hint
        )
    for name, other in others.items():
        if _folder(wanted) == _folder(other):
            raise BackendUnavailableError(
                f"'{name}' {other.version} and '{package}' {wanted.version} are both installed, "
                "and overwrite each other's files",
                hint=hint,
            )
    if _folder(wanted) in imported:
        return
    for name, other in others.items():
        if _folder(other) in imported:
            raise BackendUnavailableError(
                f"'{name}' {other.version} stands before '{package}' {wanted.version} in Python's "
                "path",
                hint=hint,
            )
    if others:
        raise BackendUnavailableError(
            f"another onnxruntime stands before '{package}' {wanted.version} in Python's path",
            hint=hint,
        )


def _distribution(package: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None


def _folder(package: metadata.Distribution) -> Path:
    return Path(str(package.locate_file(""))).resolve()
