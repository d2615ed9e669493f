"""ONNX Runtime on the CPU: the reference runtime, on every machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, first_line, library_message
from kspacesr_rt.graph.phase_convolutions import in_phases
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.runtime.backends import NOT_LOADED, BackendOptions, require_batch, run_failure
from kspacesr_rt.runtime.forks import OpenedAnewAfterFork
from kspacesr_rt.system.cpu import available_cores
from kspacesr_rt.system.interruption import deferred_signals

PROVIDER = "CPUExecutionProvider"
SAMPLES_AT_ONCE = 1 << 16
"""LR samples of a call: one slice of 256 x 256, or several smaller ones. More take as much memory
each as the first (eight slices, on two streams, 1.25 GB instead of 0.28) and no less time."""
ERRORS_ONLY = 3
"""ONNX Runtime's log level: its warnings go to stderr unasked and would break a progress bar."""
FATAL_ONLY = 4
"""The level above: what an error says is in the exception that it comes with."""


class OrtCpuBackend(OpenedAnewAfterFork):
    """One ONNX Runtime session on one bound model.

    With `BackendOptions.streams` of 2 or more, each call computes with its share of the threads.
    """

    notes: tuple[str, ...] = ()
    transfer_s = 0.0

    def __init__(self, model: BoundModel, options: BackendOptions) -> None:
        self.spec = model.spec
        if options.streams > 1:
            threads = options.threads or available_cores()
            options = replace(options, threads=max(1, threads // options.streams))
        self._model, self._options = model, options
        self._session: Any = None
        self.open()

    def _open(self) -> None:
        content = in_phases(self._model.proto).SerializeToString()
        self._session = open_session(content, self._options)

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`."""
        require_batch(batch, self.spec)
        values = np.ascontiguousarray(batch, dtype=np.float32)
        rows, columns = self.spec.matrix
        self.require_own()
        at_once = max(1, SAMPLES_AT_ONCE // (rows * columns))
        try:
            results: list[FloatArray] = [
                self._session.run([OUTPUT_NAME], {INPUT_NAME: values[first : first + at_once]})[0]
                for first in range(0, len(values), at_once)
            ]
        except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
            raise run_failure("ONNX Runtime", exc) from exc
        return results[0] if len(results) == 1 else np.concatenate(results)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = None

    def _opened(self) -> tuple[Any, ...]:
        return () if self._session is None else (self._session,)


def open_session(content: bytes, options: BackendOptions) -> Any:
    """Return a session on the CPU provider and nothing else."""
    try:
        with deferred_signals():  # an exception in there would become an ImportError
            import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(
            f"onnxruntime is installed but does not load: {library_message(exc)}",
            hint="pip install --force-reinstall onnxruntime",
        ) from exc
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = FATAL_ONLY
    # Else int8 sums saturate on a CPU without VNNI; see `kspacesr_rt.system.cpu.saturates_int8`.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    try:
        session = onnxruntime.InferenceSession(content, settings, providers=[PROVIDER])
    except NoKernel as exc:
        raise BackendUnavailableError(
            f"ONNX Runtime has no CPU kernel for this model: {library_message(exc)}",
            hint="bf16 models run with backend openvino; fp32 and fp16 models run here",
        ) from exc
    except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
        raise BackendUnavailableError(
            f"ONNX Runtime cannot load this model: {first_line(exc)}", hint=NOT_LOADED
        ) from exc
    if session.get_providers() != [PROVIDER]:
        raise BackendUnavailableError(
            f"asked ONNX Runtime for {PROVIDER}, it came up with {session.get_providers()}"
        )
    return session


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> OrtCpuBackend:
    """Open a session."""
    return OrtCpuBackend(model, options)
