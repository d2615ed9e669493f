"""What one process computes on WebGPU, and how that compares with the CPU.

``python probe.py [{"model": ..., "matrix": ..., "batch": ...}, ...]`` prints a line of JSON, an
answer a case. A program of its own: what it imports is another onnxruntime than the tests'.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.graph.relowering import relowered
from kspacesr_rt.graph.spectral_sums_graph import LR, SR, SUM_NAMES, SUMS, spectral_sums_graph
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile, load_model, resolve_model
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.quality.result_checks import measure_slice
from kspacesr_rt.quality.spectral_sums import SpectralSums
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.runtime.ort_webgpu import PROVIDER
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.runtime.suited_models import CPU_NODES_VARIABLE


def changed(model: ModelFile, case: dict[str, Any]) -> ModelFile:
    """Return a model lowered, narrowed or spoilt as a case says."""
    if (lowering := case.get("lowering")) is not None:
        spec = dataclasses.replace(model.spec, lowering=lowering)
        return dataclasses.replace(model, proto=relowered(model.proto, spec, lowering), spec=spec)
    if (precision := case.get("precision")) is not None:
        spec = dataclasses.replace(model.spec, precision=precision)
        return dataclasses.replace(model, proto=narrowed(model.proto, precision), spec=spec)
    if case.get("spoilt"):  # an operator that the provider has no kernel for
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        node = next(node for node in proto.graph.node if node.op_type == "LeakyRelu")
        node.op_type = "Celu"
        return dataclasses.replace(model, proto=proto)
    return model


def sums_of(matrix: Matrix) -> dict[str, Any]:
    """Sum up spectra on WebGPU and by NumPy; return the relative differences of figures."""
    lr = (brain_phantom(matrix) * 700).astype(np.float32)
    sr = (zero_fill(lr, 2) * np.linspace(1.0, 1.1, 2 * matrix[1])).astype(np.float32)
    graph = spectral_sums_graph(matrix, 2, "kspace").SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=[PROVIDER], enable_fallback=0)
    [[[row]]] = session.run([SUMS], {LR: lr[None, None], SR: sr[None, None]})
    sums = SpectralSums(**dict(zip(SUM_NAMES, map(float, row), strict=True)), upscale=2)
    found = measure_slice(sr, lr, sums=sums).as_fields()
    expected = measure_slice(sr, lr).as_fields()
    return {
        "provider": session.get_providers()[0],
        "off": {name: abs(found[name] / value - 1.0) for name, value in expected.items() if value},
    }


def answer_to(case: dict[str, Any]) -> dict[str, Any]:
    """Compute a case on WebGPU and on the CPU."""
    if "sums" in case:
        return sums_of((case["sums"][0], case["sums"][1]))
    model = changed(load_model(resolve_model(case["model"], upscale=None)), case)
    if "matrix" not in case:
        return verify_model(model, "ort-webgpu").to_dict()
    bound = bind(model, tuple(case["matrix"]))
    shape = (case.get("batch", 1), *bound.spec.input_axes, *bound.spec.matrix)
    batch = np.random.default_rng(0).random(shape, np.float32)
    batch[-1] *= 1000.0
    with open_backend("ort-webgpu", bound, BackendOptions()) as opened:
        result = opened.run(batch)
        again = opened.run(batch[:1])
        notes = opened.notes
    with open_backend("ort-cpu", bound, BackendOptions(threads=1)) as opened:
        expected = opened.run(batch)
    pairs = [*zip(result, expected, strict=True), (again[0], expected[0])]
    return {
        "shape": result.shape,
        "db": min(psnr_between(one, two, float(np.abs(two).max())) for one, two in pairs),
        "notes": notes,
    }


def main() -> None:
    """Answer every case.

    ONNX Runtime keeps the shaders that it has compiled, and the GPU, as long as any session is
    open. After the first case nothing is; from then on one session is held, and what the other
    cases have in common is compiled once.
    """
    answers: list[dict[str, Any]] = []
    graph = spectral_sums_graph((16, 16), 2, "kspace").SerializeToString()
    held = None
    for case in json.loads(sys.argv[1]):
        os.environ[CPU_NODES_VARIABLE] = str(int(case.get("cpu_nodes", False)))
        try:
            answers.append(answer_to(case))
        except BackendUnavailableError as exc:
            answers.append({"error": str(exc), "hint": exc.hint, "exit_code": exc.exit_code})
        held = held or onnxruntime.InferenceSession(graph, providers=[PROVIDER], enable_fallback=0)
    del held
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
