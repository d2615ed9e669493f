"""The real ONNX Runtime for WebGPU, on whatever Vulkan has here: a GPU, or a program that is one.

Needs a folder with onnxruntime-webgpu, which clashes with onnxruntime and so is not in the
environment: ``pip install --no-deps --target FOLDER -r tests/gpu/webgpu/requirements.txt`` and
``KSPACESR_RT_WEBGPU=FOLDER``. Where Vulkan lists nothing, SwiftShader of Debian's package
``chromium`` computes: the shaders are the real ones, and their numbers; times mean nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).parent / "probe.py"
SOFTWARE = Path("/usr/lib/chromium")
"""Has SwiftShader, and Vulkan's loader."""
DRIVERS = "VK_ICD_FILENAMES"
REQUIRED = "webgpu" in os.environ.get("KSPACESR_RT_REQUIRE", "").split(",")
LISTS = "from kspacesr_rt.system.vulkan import adapters; print(*adapters())"
SECONDS = 1200
"""A minute on two idle cores."""


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Return the variables with which ONNX Runtime finds its package, and an adapter."""
    folder = os.environ.get("KSPACESR_RT_WEBGPU")
    if not folder or not (Path(folder) / "onnxruntime/capi").is_dir():
        _lacking("KSPACESR_RT_WEBGPU names no folder with onnxruntime-webgpu")
    found = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    found["KSPACESR_RT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    software = found | {DRIVERS: str(SOFTWARE / "vk_swiftshader_icd.json")}
    loader = tmp_path_factory.mktemp("loader") / "libvulkan.so.1"
    if (SOFTWARE / loader.name).is_file():
        loader.symlink_to(SOFTWARE / loader.name)
    with_loader = software | {"LD_LIBRARY_PATH": str(loader.parent)}
    for one in (found, software, with_loader):
        if _python(one, "-c", LISTS).returncode == 0:
            return one
    return _lacking("Vulkan lists no adapter, and Debian's package 'chromium' is not installed")


def _lacking(what):
    if REQUIRED:
        pytest.fail(f"required by KSPACESR_RT_REQUIRE: {what}")
    pytest.skip(what)


def _python(environment, *words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Machine:
    """Runs programs where a WebGPU is."""

    def __init__(self, environment):
        self.environment = environment

    def cli(self, *words, **variables):
        """Run the command line."""
        return _python(self.environment | variables, "-m", "kspacesr_rt", *words)

    def probe(self, *cases, **variables):
        """Return what the probe saw, an answer a case."""
        done = _python(self.environment | variables, PROBE, json.dumps(cases))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def machine(environment):
    return Machine(environment)
