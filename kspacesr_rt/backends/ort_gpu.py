"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, or its TensorRT provider.

ONNX Runtime gives a CPU session without an exception when a provider cannot be had, and puts single
nodes on the CPU when a provider lacks a kernel. Both are refused here: the session is asked which
provider runs each node, and anything elsewhere is an error that names the nodes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from kspacesr_rt.backends import BackendOptions, require_batch
from kspacesr_rt.backends.context_model import ContextModel
from kspacesr_rt.binding import BoundModel
from kspacesr_rt.engines.cache import FOLDER_VARIABLE, default_folder
from kspacesr_rt.engines.driver import current_gpu
from kspacesr_rt.errors import BackendUnavailableError, OutputError, library_says, system_says
from kspacesr_rt.interruption import held_signals
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model_file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.spec import ModelSpec

CUDA, TENSORRT, CPU = (
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "CPUExecutionProvider",
)
PROVIDER_OF = {"ort-cuda": CUDA, "ort-tensorrt": TENSORRT}
ERRORS_ONLY = 3
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
"""At 0, NVIDIA's libraries use no TF32, whatever they are told."""
REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'kspacesr-rt[gpu]'"
"""The two packages overwrite each other's files, so only a clean install is sure."""


def cuda_options(spec: ModelSpec, *, graph: bool = True) -> dict[str, str]:
    """Return the CUDA provider's options for a model.

    Parameters
    ----------
    spec
        Of the bound model; TF32 stays off for every precision, since what is in fp32 is k-space.
    graph
        Whether runs are captured as a CUDA graph, which needs one shape per session.
    """
    return {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "fuse_conv_bias": "1",
        "prefer_nhwc": "1" if spec.precision != "fp32" else "0",
        "enable_cuda_graph": "1" if graph else "0",
    }


def tensorrt_options(
    spec: ModelSpec, batch: tuple[int, int, int], cache: Path | None
) -> dict[str, str]:
    """Return the TensorRT provider's options for a bound model.

    Parameters
    ----------
    spec
        Of the bound model.
    batch
        Smallest, usual and largest batch: the engine's optimisation profile.
    cache
        Folder for engines and timings of this model alone (see `engine_folder`); None builds anew
        in every session.

    Notes
    -----
    The precision is in the graph, so the provider's own fp16, bf16 and int8 switches stay off.
    """
    rows, columns = spec.matrix
    names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
    options = {
        name: f"{INPUT_NAME}:{n}x1x{rows}x{columns}" for name, n in zip(names, batch, strict=True)
    }
    options |= {
        "trt_fp16_enable": "0",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
        "trt_cuda_graph_enable": "1",
        "trt_builder_optimization_level": "5",
    }
    if cache is not None:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_engine_cache_prefix": f"{rows}x{columns}-" + "-".join(map(str, batch)),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
        }
    return options


def context_options(context: ContextModel) -> dict[str, str]:
    """Return the TensorRT provider's options that make it write a context model."""
    return {
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": str(context.being_written),
        # The engine inside the file, so that there is one thing to check and none to lose.
        "trt_ep_context_embed_mode": "1",
    }


def engine_folder(content: bytes, versions: str) -> Path:
    """Return where the TensorRT provider may keep the engines of one bound model.

    Parameters
    ----------
    content
        The bound model.
    versions
        Versions and GPU that an engine is tied to.

    Notes
    -----
    The provider names engines by the shape of the graph, not by its weights: two models of one
    architecture would share an engine. So each has a folder named by all that went into it.
    """
    digest = hashlib.sha256(content + versions.encode()).hexdigest()
    return default_folder().with_name("ort-tensorrt") / digest[:32]


def require_provider(session: Any, provider: str) -> None:
    """Refuse a session whose provider is not the one that was asked for.

    Raises
    ------
    BackendUnavailableError
        If ONNX Runtime came up with another provider.
    """
    found = session.get_providers()
    if not found or found[0] != provider:
        raise BackendUnavailableError(
            f"asked ONNX Runtime for {provider}, it came up with {', '.join(found) or 'none'}",
            hint="check the driver and the CUDA libraries; or take --backend ort-cpu",
        )


def require_all_on(assignment: Iterable[Mapping[str, Any]], provider: str) -> None:
    """Refuse a session that runs nodes anywhere but on its provider.

    Parameters
    ----------
    assignment
        One mapping a subgraph: ``ep_name`` and the ``nodes`` it runs, each with ``name``.
    provider
        Where every node has to be.

    Raises
    ------
    BackendUnavailableError
        If a node is elsewhere; up to five are named.
    """
    elsewhere = [
        f"{node['name']} on {part['ep_name']}"
        for part in assignment
        if part["ep_name"] != provider
        for node in part["nodes"]
    ]
    if elsewhere:
        more = f" and {len(elsewhere) - 5} more" if len(elsewhere) > 5 else ""
        raise BackendUnavailableError(
            f"{provider} does not run the whole model: {', '.join(elsewhere[:5])}{more}",
            hint="export with --fft gemm; a DFT operator has no GPU kernel in ONNX Runtime",
        )


class OrtGpuBackend:
    """One session and its device buffers; batches of one size share a captured graph."""

    def __init__(self, name: str, model: BoundModel, options: BackendOptions) -> None:
        self.spec = model.spec
        self._name = name
        self._model = model
        self._options = options
        self._runtime = _load_runtime(PROVIDER_OF[name])
        self._sessions: dict[int, _BoundSession] = {}

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.backends.Backend.run`."""
        require_batch(batch, self.spec)
        n = batch.shape[0]
        if n not in self._sessions:
            self._sessions[n] = _BoundSession(self._runtime, self._name, self._model, n)
        return self._sessions[n].run(np.ascontiguousarray(batch, dtype=np.float32))

    def __enter__(self) -> Self:
        return self

    @property
    def transfer_s(self) -> float:
        """Seconds spent so far on copies between host and device; see `Backend`."""
        return sum(session.transfer_s for session in self._sessions.values())

    def __exit__(self, *exc: object) -> None:
        self._sessions.clear()


class _BoundSession:
    """A session for one batch size, with input and output on the device."""

    def __init__(self, runtime: Any, name: str, model: BoundModel, n: int) -> None:
        provider, spec = PROVIDER_OF[name], model.spec
        settings = runtime.SessionOptions()
        settings.log_severity_level = ERRORS_ONLY
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        content = model.serialized()
        context = None
        if provider == TENSORRT:
            folder = _made_folder(runtime, content)
            options = tensorrt_options(spec, (n, n, n), folder)
            context = ContextModel(folder, options["trt_engine_cache_prefix"])
            if (stored := context.stored()) is not None:
                content = stored
            else:
                options |= context_options(context)
        else:
            options = cuda_options(spec)
        try:
            session = runtime.InferenceSession(content, settings, providers=[(provider, options)])
        except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
            raise BackendUnavailableError(
                f"ONNX Runtime cannot run this model on {provider}: {_first_line(exc)}",
                hint="kspacesr-rt backends; or take --backend ort-cpu",
            ) from exc
        session.disable_fallback()
        require_provider(session, provider)
        require_all_on(_assignment(session), provider)
        if context is not None:
            context.keep()
        rows, columns = spec.matrix
        shape, sr = (n, 1, rows, columns), (n, 1, *spec.sr_matrix(spec.matrix))
        self._input = runtime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32), "cuda", 0)
        self._output = runtime.OrtValue.ortvalue_from_numpy(np.zeros(sr, np.float32), "cuda", 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT_NAME, self._input)
        self._binding.bind_ortvalue_output(OUTPUT_NAME, self._output)
        self._session = session
        self.transfer_s = 0.0

    def run(self, batch: FloatArray) -> FloatArray:
        started = time.perf_counter()
        self._input.update_inplace(batch)
        moved_in = time.perf_counter()
        self._session.run_with_iobinding(self._binding)  # returns when the device is done
        computed = time.perf_counter()
        result: FloatArray = self._output.numpy()
        self.transfer_s += moved_in - started + time.perf_counter() - computed
        return result


def _made_folder(runtime: Any, content: bytes) -> Path:
    gpu = current_gpu()
    folder = engine_folder(content, f"onnxruntime {runtime.__version__}, {gpu.name}, sm{gpu.sm}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            f"cannot make {folder}: {system_says(exc)}",
            hint=f"name another folder with {FOLDER_VARIABLE}",
        ) from exc
    return folder


def _assignment(session: Any) -> list[dict[str, Any]]:
    """Ask a session which provider runs what, as plain values."""
    return [
        {"ep_name": part.ep_name, "nodes": [{"name": node.name} for node in part.get_nodes()]}
        for part in session.get_provider_graph_assignment_info()
    ]


def _first_line(exc: Exception) -> str:
    return str(exc).split("\n", 1)[0]


def _load_runtime(provider: str) -> Any:
    if provider == TENSORRT:
        # The provider has no option for it, and builders have TF32 on: 78 dB of an FFT are left.
        os.environ[TF32_VARIABLE] = "0"
    try:
        with held_signals():
            import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(
            f"onnxruntime is installed but does not load: {library_says(exc)}", hint=REINSTALL
        ) from exc
    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"this onnxruntime was built without {provider}", hint=REINSTALL
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return onnxruntime


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> OrtGpuBackend:
    """Open the backend; a session is made for each batch size that comes."""
    return OrtGpuBackend(name, model, options)
