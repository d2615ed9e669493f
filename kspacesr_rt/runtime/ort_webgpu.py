"""ONNX Runtime on a GPU of any vendor: its WebGPU provider, over Vulkan, Metal or Direct3D 12.

A node without a WebGPU kernel would be computed on the CPU, with copies around it: it is named and
refused, unless `CPU_NODES_VARIABLE` allows it. A device is one for the whole process, so one call
computes at a time.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Any, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, first_line, library_message
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.webgpu_operators import with_webgpu_operators
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.backends import BackendOptions, require_batch
from kspacesr_rt.runtime.gpu_memory import BatchLimit, GpuFailedError, OutOfGpuMemoryError
from kspacesr_rt.runtime.ort_build import WEBGPU_REINSTALL
from kspacesr_rt.runtime.ort_placement import (
    RECORD_PLACEMENT,
    elsewhere_text,
    placement_of,
    require_all_on,
    require_provider,
)
from kspacesr_rt.runtime.suited_models import CPU_NODES_VARIABLE
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.system.vulkan import (
    DRIVER_HINT,
    adapters,
    adapters_text,
    every_adapter_is_software,
)

PROVIDER = "WebGpuExecutionProvider"
OPTION = "ep.webgpuexecutionprovider."
"""Of entries of a session's configuration: the provider reads its options there alone. Those beside
its name in ``providers=`` are ignored, also if they are nonsense (ONNX Runtime 1.27)."""
OPTIONS = {"powerPreference": "high-performance"}
"""The rest stays as it is. With ``enableGraphCapture``, results that are bound to host memory stay
zero, without an error (1.27)."""
NO_MESSAGES = 4
"""ONNX Runtime's log level but for what ends the process."""
_NO_ADAPTER = "Failed to get a WebGPU adapter"
_NO_HALF = "requires f16"
NO_FP16_SHADERS = "the GPU has no fp16 shaders"
"""Begins the sentence about a GPU that has fp32 alone."""
_OUT_OF_MEMORY = ("out of memory", "OutOfMemory", "exceeds the max buffer size")
"""Dawn's words."""
_LOST = re.compile(r"device (is |was |has been )?(lost|destroyed)|DeviceLost", re.IGNORECASE)
"""Dawn's words for a GPU that is gone."""
_device = threading.Lock()


class OrtWebGpuBackend:
    """One session for every batch size.

    Copies are part of a call, and cannot be told from computing: `transfer_s` stays 0.
    """

    transfer_s = 0.0

    def __init__(self, model: BoundModel) -> None:
        self.spec = model.spec
        self._limit = BatchLimit()
        content = with_webgpu_operators(flattened(model.proto)).SerializeToString()
        session, on_cpu = _open(content, model.spec)
        self._session: Any = session
        self._own_notes = (*_software_note(), *on_cpu)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of it; see `Backend`."""
        return (*self._own_notes, *self._limit.notes)

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`.

        A batch that the GPU's memory does not hold is computed in halves, once; that is noted.
        """
        require_batch(batch, self.spec)
        return self._limit.run(self._run, batch, lambda: None)

    def _run(self, batch: FloatArray) -> FloatArray:
        given = np.ascontiguousarray(batch, dtype=np.float32)
        try:
            with _device:
                result: FloatArray = self._session.run([OUTPUT_NAME], {INPUT_NAME: given})[0]
        except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
            raise _failure(exc, self.spec, len(batch)) from exc
        require_computed(given, result)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = None


def require_computed(given: FloatArray, result: FloatArray) -> None:
    """Refuse zeros for what is not zero: a GPU's answer where it had refused a command.

    WebGPU reports a failed command apart from its result, whose buffer then stays as it was made.

    Raises
    ------
    BackendUnavailableError
        If a slice of the result is empty, and the one it was made from is not.
    """
    axes = tuple(range(1, given.ndim))
    if np.any(given.any(axis=axes) & ~result.any(axis=axes)):
        raise BackendUnavailableError(
            "the GPU gave nothing but zeros for a slice that is not empty",
            hint="take a smaller --batch; kspacesr-rt verify says whether it computes rightly",
        )


def _open(content: bytes, spec: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Return a session on the WebGPU provider, and what a report says of nodes elsewhere."""
    try:
        with deferred_signals():
            import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(
            f"onnxruntime is installed but does not load: {library_message(exc)}",
            hint=WEBGPU_REINSTALL,
        ) from exc
    if PROVIDER not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"this onnxruntime was built without {PROVIDER}", hint=WEBGPU_REINSTALL
        )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = NO_MESSAGES
    settings.add_session_config_entry(*RECORD_PLACEMENT)
    for name, value in OPTIONS.items():
        settings.add_session_config_entry(f"{OPTION}{name}", value)
    try:
        with _device:
            session = onnxruntime.InferenceSession(
                content, settings, providers=[PROVIDER], enable_fallback=0
            )
    except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
        raise _failure(exc, spec) from exc
    require_provider(session, PROVIDER)
    placement = placement_of(session)
    if os.environ.get(CPU_NODES_VARIABLE) != "1":
        require_all_on(
            placement,
            PROVIDER,
            hint=f"export with --fft gemm in fp32 or fp16; or allow it: {CPU_NODES_VARIABLE}=1",
        )
    elsewhere = elsewhere_text(placement, PROVIDER)
    return session, (f"computed in part on the CPU: {elsewhere}",) if elsewhere else ()


def _software_note() -> tuple[str, ...]:
    """Say so if the only adapters are programs."""
    if not every_adapter_is_software():
        return ()
    return (f"computed by {adapters()[0].name}, which is software on the CPU and no GPU",)


def _failure(exc: Exception, spec: ModelSpec, n: int | None = None) -> BackendUnavailableError:
    """Return what a user can make of an error of ONNX Runtime's.

    Parameters
    ----------
    exc
        What was raised.
    spec
        Of the model.
    n
        Slices that were computed; None if a session was opened.
    """
    text = str(exc)
    if any(words in text for words in _OUT_OF_MEMORY):
        return OutOfGpuMemoryError(n or 1)
    if _LOST.search(text):
        return GpuFailedError(f"the GPU failed: {first_line(exc)}")
    if _NO_ADAPTER in text:
        return BackendUnavailableError(
            f"WebGPU takes none of the GPUs here: {adapters_text()}", hint=DRIVER_HINT
        )
    if _NO_HALF in text:
        return BackendUnavailableError(
            f"{NO_FP16_SHADERS}, which '{spec.name}' needs", hint="take the fp32 model"
        )
    return BackendUnavailableError(
        f"ONNX Runtime cannot run this model on {PROVIDER}: {first_line(exc)}",
        hint="kspacesr-rt doctor says what is missing; or take backend ort-cpu",
    )


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> OrtWebGpuBackend:
    """Open the backend; threads do not apply."""
    return OrtWebGpuBackend(model)
