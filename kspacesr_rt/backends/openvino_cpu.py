"""OpenVINO on the CPU, in fp32: often the fastest on an Intel or AMD box without a GPU.

Functions are inlined first, since OpenVINO takes no model-local ones. Two of its defaults would be
silently wrong here: on CPUs with bf16 units it computes in bf16 unless told otherwise, and it
miscomputes the ONNX `DFT` operator without an error (relative error 0.99, OpenVINO 2026.4).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from onnx import inliner

from kspacesr_rt.backends import BackendOptions, require_batch
from kspacesr_rt.binding import BoundModel
from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.kspace import FloatArray

DEVICE = "CPU"
REFUSED = ("dft",)
"""Lowerings that OpenVINO computes wrongly."""


class OpenVinoBackend:
    """One compiled model on one bound model; the batch stays dynamic."""

    def __init__(self, model: BoundModel, options: BackendOptions) -> None:
        self.spec = model.spec
        if model.spec.lowering in REFUSED:
            raise BackendUnavailableError(
                f"OpenVINO computes FFT layers lowered as '{model.spec.lowering}' wrongly",
                hint="export with --fft gemm",
            )
        self._request: Any = _compile(model, options).create_infer_request()

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.backends.Backend.run`."""
        require_batch(batch, self.spec)
        results = self._request.infer({0: np.ascontiguousarray(batch, dtype=np.float32)})
        # The request reuses its output buffer; the caller keeps what it gets.
        result: FloatArray = np.array(results[0])
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._request = None


def _compile(model: BoundModel, options: BackendOptions) -> Any:
    try:
        import openvino
    except ImportError as exc:
        raise BackendUnavailableError(
            f"openvino is installed but does not load: {exc}",
            hint="pip install --force-reinstall openvino",
        ) from exc
    core = openvino.Core()
    flat = inliner.inline_local_functions(model.proto)
    network = core.read_model(flat.SerializeToString())
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": openvino.Type.f32,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    compiled = core.compile_model(network, DEVICE, settings)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT")
    if precision != openvino.Type.f32:
        raise BackendUnavailableError(
            f"asked OpenVINO for fp32, it came up with {precision.get_type_name()}"
        )
    return compiled


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> OpenVinoBackend:
    """Compile the model."""
    return OpenVinoBackend(model, options)
