"""A machine with a GPU that computes nothing, and the real ONNX Runtime for GPUs.

Needs g++ and a folder with onnxruntime-gpu, which clashes with onnxruntime and so is not in the
environment: ``pip install --no-deps --target FOLDER -r tests/gpu/standin/requirements.txt`` and
``KSPACESR_RT_STANDIN=FOLDER``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from one_for_all import one_for_all
from standin_cuda import build

PROBE = Path(build.__file__).parent / "probe.py"
REQUIRED = "standin" in os.environ.get("KSPACESR_RT_REQUIRE", "").split(",")
SECONDS = 300


@pytest.fixture(scope="session")
def site():
    """Return the folder with onnxruntime-gpu."""
    folder = os.environ.get("KSPACESR_RT_STANDIN")
    lacks = None
    if shutil.which("g++") is None or shutil.which("nm") is None:
        lacks = "g++ is not installed"
    elif not folder or not (Path(folder) / "onnxruntime/capi").is_dir():
        lacks = "KSPACESR_RT_STANDIN names no folder with onnxruntime-gpu"
    if lacks is None:
        return Path(folder)
    if REQUIRED:
        pytest.fail(f"required by KSPACESR_RT_REQUIRE: {lacks}")
    pytest.skip(lacks)


@pytest.fixture(scope="session")
def libraries(site, tmp_path_factory):
    """Return the folder with every library of the stand-in."""
    return one_for_all(
        tmp_path_factory, "standin", lambda folder: build.build_libraries(folder, site)
    )


class Machine:
    """Runs programs where the stand-in's libraries are, or all but some."""

    def __init__(self, site, libraries, folder):
        self.site, self.libraries, self.folder = site, libraries, folder
        self.calls = folder / "calls"
        self.cache = folder / "cache"

    def run(self, *words, without=(), path=(), **settings):
        """Run Python; `settings` are the stand-in's, such as ``SM=89``."""
        there = self.libraries
        if without:
            there = self.folder / f"without-{'-'.join(without)}"
            there.mkdir(exist_ok=True)
            for file in self.libraries.glob("lib*.so*"):
                if file.suffix in (".cpp", ".map"):
                    continue
                if file.name not in without and not (there / file.name).exists():
                    (there / file.name).symlink_to(file)
        environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
        environment |= {
            "LD_LIBRARY_PATH": str(there),
            "PYTHONPATH": os.pathsep.join(map(str, (*path, self.site))),
            "KSPACESR_RT_CACHE": str(self.cache),
            "STANDIN_CUDA_CALLS": str(self.calls),
            "COLUMNS": "200",
        }
        environment |= {f"STANDIN_CUDA_{name}": str(value) for name, value in settings.items()}
        return subprocess.run(
            [sys.executable, *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start_probe(self, cases, backend="ort-cuda", *, unrefused=False, **how):
        """Run the probe."""
        asked = {"backend": backend, "cases": cases, "unrefused": unrefused}
        return self.run(PROBE, json.dumps(asked), **how)

    def probe(self, cases, backend="ort-cuda", **how):
        """Return what the probe saw, an answer a case."""
        done = self.start_probe(cases, backend, **how)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def cli(self, *words, **how):
        """Run the command line."""
        return self.run("-m", "kspacesr_rt", *words, **how)


@pytest.fixture
def machine(site, libraries, tmp_path):
    return Machine(site, libraries, tmp_path)


@pytest.fixture(scope="module")
def shared_machine(site, libraries, tmp_path_factory):
    """Return one for tests that only ask."""
    return Machine(site, libraries, tmp_path_factory.mktemp("machine"))
