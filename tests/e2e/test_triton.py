"""NVIDIA's Triton itself over a repository of ours: its parser, its warm-up, its batches.

The wheel nvidia-pytriton has the server without a backend for ONNX; one in Python, as Triton allows
them, stands for it and runs ONNX Runtime. ``just triton`` fetches the wheel.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

BACKEND = """
import os
import sys

sys.path[:0] = {path!r}
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        # By DLPack: this server's own way to NumPy is of NumPy 1.
        lr = np.array(np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "lr")))
        [sr] = self.session.run(["sr"], {{"lr": lr}})
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("sr", sr)])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return the server's program and a folder of backends."""
    folder = Path(os.environ.get("KSPACESR_RT_TRITON", "none")).absolute() / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = folder / "python_backend_stubs" / version / "triton_python_backend_stub"
    lacks = None
    if not stub.is_file():
        lacks = "KSPACESR_RT_TRITON names no folder with nvidia-pytriton"
    elif ctypes.util.find_library(f"python{version}") is None:
        lacks = "Python's shared library is not installed"
    if lacks is not None:
        if "triton" in os.environ.get("KSPACESR_RT_REQUIRE", "").split(","):
            pytest.fail(f"required by KSPACESR_RT_REQUIRE: {lacks}")
        pytest.skip(lacks)
    backends = tmp_path_factory.mktemp("backends")
    shutil.copytree(folder / "backends/python", backends / "python")
    shutil.copy(stub, backends / "python")
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime/model.py").write_text(BACKEND.format(path=sys.path))
    libraries = os.pathsep.join(
        [str(folder.parents[1] / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    )
    for one in (folder / "bin/tritonserver", backends / "python" / stub.name):
        if not os.access(one, os.X_OK):  # pip sets no such bit on what is no script
            one.chmod(0o755)
    return folder / "bin/tritonserver", backends, libraries


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.parametrize("lowering", ["gemm", "dynamic"])
def test_triton_serves_what_export_writes(server, tmp_path, lowering):
    program, backends, libraries = server
    cli = [sys.executable, "-m", "kspacesr_rt"]
    model, options = "x2-fast", ["--matrix", "48x40", "--matrix", "33x64"]
    if lowering == "dynamic":
        model, options = str(tmp_path / "any.onnx"), []
        convert = [*cli, "convert", "x2-fast", "-o", model, "--fft", "dynamic"]
        subprocess.run(convert, check=True, timeout=300)
    repository = tmp_path / "models"
    export = [*cli, "export", model, "--triton", str(repository), *options]
    subprocess.run(export, check=True, timeout=300)
    port, log = free_port(), tmp_path / "log"
    command = [program, f"--model-repository={repository}", f"--backend-directory={backends}"]
    command += ["--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false"]
    command += ["--allow-metrics=false", "--strict-readiness=true"]
    command += ["--disable-auto-complete-config"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        client = [sys.executable, "-I", repository / "client.py", "--url", url]
        done = subprocess.run(client, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("dB against the known answer") == (
            1 if lowering == "dynamic" else 2
        )
    finally:
        process.terminate()
        process.wait(60)
