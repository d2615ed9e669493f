"""What a measured number depends on: machine, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kspacesr_rt.system.cpu import available_cores, cpu_identity, cpu_model
from kspacesr_rt.system.packages import installed_versions

PACKAGES = (
    *("kspacesr-rt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-rtx", "pydicom", "torch"),
)


def environment() -> dict[str, Any]:
    """Describe this machine and tree without naming host, user or folder.

    Returns
    -------
        Date (UTC), CPU model, that with its instruction sets, cores, operating system, Python,
        package versions, and the commit (with ``+`` if the tree had changes), where git can tell.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cpu_class": cpu_identity(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": installed_versions(PACKAGES),
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
