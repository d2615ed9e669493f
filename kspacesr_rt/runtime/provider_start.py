"""Does a GPU backend's library survive being started: tried in a process of its own, once.

A driver or a library of another version may end the process that loads it, without an exception and
without a word. So each is started elsewhere first, with next to no work; that it went well is kept
for this machine, its driver and the versions of its libraries.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError, OutputError, first_line
from kspacesr_rt.runtime.gpu_build import NO_MESSAGES, PROVIDER_LIBRARIES, load_onnxruntime
from kspacesr_rt.runtime.self_test_cache import library_versions, machine_identity
from kspacesr_rt.system.cache_folder import CacheFolder
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.gpu_driver import current_gpu
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.system.progress_messages import report_step

PROVIDERS = {
    "ort-cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
    "ort-webgpu": "WebGpuExecutionProvider",
}
"""Backend to ONNX Runtime's name of what it runs on."""
ENGINES = ("tensorrt", "tensorrt-rtx")
SECONDS = 300
"""How long one may take to start: libraries of gigabytes from a slow disk, and a small engine."""
_ANSWER = "kspacesr-rt started: "
"""Begins the line with the answer; libraries print lines of their own."""
_SOURCE_LINE = re.compile(r"^/\S+:\d+ .*?\) ")
"""Where in ONNX Runtime's sources an error was met: file, line, and signature of the function."""


class StartCache(CacheFolder):
    """A folder with an empty file for each backend that was started here."""

    name = "started"

    def holds(self, backend: str) -> bool:
        """Return whether it was started before, as it is installed now."""
        try:
            return (self.folder / _key(backend)).is_file()
        except OutputError:
            return False

    def keep(self, backend: str) -> None:
        """Note that it was started; where nothing can be kept, it will be tried again."""
        with suppress(OutputError):
            self.make()
            replace_file(self.folder / _key(backend), b"")


def _key(backend: str) -> str:
    try:
        driver = current_gpu().cuda
    except BackendUnavailableError:
        driver = "none"
    text = f"{machine_identity()}; driver for CUDA {driver}; {library_versions(backend)}"
    return f"{backend}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def require_start(backend: str) -> None:
    """Refuse a GPU backend whose library ends the process that starts it.

    Parameters
    ----------
    backend
        Any; one that is not on a GPU, or a plug-in's, is not tried.

    Raises
    ------
    BackendUnavailableError
        Naming the backend and how the process ended. What the library says itself is left to who
        opens it.
    """
    cache = StartCache()
    if backend not in (*PROVIDERS, *ENGINES) or cache.holds(backend):
        return
    report_step(f"starting {backend} for the first time on this machine")
    if why_not_started(backend) is None:
        cache.keep(backend)


def why_not_started(backend: str) -> str | None:
    """Start a GPU backend's library in another process, and say why it did not; None if it did.

    Parameters
    ----------
    backend
        A key of `PROVIDERS`, or one of `ENGINES`.

    Raises
    ------
    BackendUnavailableError
        If the library ends that process, or hangs.
    """
    # -P: a file called onnxruntime.py in the user's folder must not be what is imported.
    command = [sys.executable, "-P", "-m", "kspacesr_rt.runtime.provider_start", backend]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _dead(backend, f"does not start within {SECONDS} s") from exc
    lines = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    if not lines:
        raise _dead(backend, f"ends the process that starts it ({exit_text(done.returncode)})")
    reason: str | None = json.loads(lines[-1].removeprefix(_ANSWER))
    return reason


def _dead(backend: str, what: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"backend '{backend}' cannot run here: its library {what}",
        hint="it, or the driver, may be of another version or damaged: install both again, or take "
        "another backend: kspacesr-rt backends",
    )


def exit_text(returncode: int) -> str:
    """Say how a process ended: by a signal, or with an exit code.

    Parameters
    ----------
    returncode
        As `subprocess` gives it: negative for a signal.
    """
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def why_no_session(runtime: Any, provider: str) -> str | None:
    """Open a session of one node on a provider, as backends do; None if it is there.

    Parameters
    ----------
    runtime
        `onnxruntime`.
    provider
        Its name of the provider.
    """
    settings = runtime.SessionOptions()
    settings.log_severity_level = NO_MESSAGES
    try:
        if provider in PROVIDER_LIBRARIES:
            load_onnxruntime(provider, PROVIDER_LIBRARIES[provider])
        # With its fallback, it would print what failed to where the answer goes.
        session = runtime.InferenceSession(
            _one_node(), settings, providers=[provider], enable_fallback=0
        )
        came_up = session.get_providers()[0]
    except Exception as exc:  # classes of ONNX Runtime's C++ layer
        return _SOURCE_LINE.sub("", first_line(exc))
    if came_up != provider:
        return f"ONNX Runtime came up with {came_up} instead, and does not say why"
    return None


def _one_node() -> bytes:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _why_no_engine_runtime(backend: str) -> str | None:
    """Start TensorRT's runtime, without an engine."""
    from kspacesr_rt.runtime.tensorrt.adapter import message_log
    from kspacesr_rt.runtime.tensorrt.backend import load_cuda, runtime_name
    from kspacesr_rt.runtime.tensorrt.library import load_runtime

    trt, cuda = load_runtime(runtime_name(backend)), load_cuda()
    cuda.cudaSetDevice(0)
    log = message_log(trt)
    if trt.Runtime(log) is None:
        return log.errors[0] if log.errors else "no reason given"
    return None


def _start(backend: str) -> str | None:
    try:
        if backend in ENGINES:
            return _why_no_engine_runtime(backend)
        with deferred_signals():
            import onnxruntime
        onnxruntime.set_default_logger_severity(NO_MESSAGES)
        return why_no_session(onnxruntime, PROVIDERS[backend])
    except Exception as exc:  # whatever a library raises is an answer; its end is none
        return first_line(exc)


if __name__ == "__main__":
    print(f"\n{_ANSWER}{json.dumps(_start(sys.argv[1]))}", flush=True)
