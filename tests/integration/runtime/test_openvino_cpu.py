"""OpenVINO runs what export wrote for it, and its layers show what ran."""

from __future__ import annotations

import numpy as np

from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
from kspacesr_rt.quality.result_checks import measure_slice
from kspacesr_rt.runtime import openvino_cpu
from kspacesr_rt.runtime.backends import BackendOptions, open_backend

MATRIX = (42, 32)


KEPT = 1e-5
"""Largest change of a measured sample, over the largest of them, that fp32 FFT layers explain."""


def batch_of(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((n, 1, *MATRIX)) * 10.0 ** rng.uniform(-2, 4, (n, 1, 1, 1))).astype(
        np.float32
    )


def test_a_bf16_model_runs_its_convolutions_in_bf16_and_the_fft_in_fp32(
    checkpoint_file, tmp_path, monkeypatch
):
    """Fast where it may be rounded, exact where samples were measured."""
    import openvino

    from kspacesr_rt.export.exporter import export_model

    # Random weights round worse than any trained generator; what runs in which type is asked here.
    monkeypatch.setattr("kspacesr_rt.conversion.proof.require_parity", lambda *given: None)
    path = tmp_path / "bf16.onnx"
    exported = export_model(checkpoint_file, path, precision="bf16", backend="openvino")
    model = load_model(exported.path)
    batch = batch_of(2)
    with open_backend("openvino", bind(model, MATRIX), BackendOptions(threads=1)) as backend:
        result = backend.run(batch)
        executed, notes = backend.executed, backend.notes
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert executed["Convolution"].get("bf16", 0) > 0
        assert notes == ()
    else:
        assert "convolutions in f32 on this CPU" in notes[0]
    for kind in openvino_cpu.MATRIX_PRODUCTS:
        assert executed.get(kind, {"f32": 0}).keys() == {"f32"}
    for one, source in zip(result[:, 0], batch[:, 0], strict=True):
        assert measure_slice(one, source).measured_residual < KEPT
