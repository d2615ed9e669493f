"""A zip that shows the divergence elsewhere, with the runtimes and NumPy alone."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.diagnosis.compare import DiagnosisResult
from kspacesr_rt.errors import OutputError
from kspacesr_rt.quality.metrics import json_number
from kspacesr_rt.runtime.doctor import diagnose_machine
from kspacesr_rt.system.files import replace_file

RUN = '''"""Run both sides again and print by how much they differ; 'reference' is stored."""
import os
import sys
from pathlib import Path
import numpy as np
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # runtimes report to their makers by default
sys.modules["openvino_telemetry"] = None
HERE = Path(__file__).parent
SIDES = {sides!r}

def run(backend, model, lr, stored):
    if backend == "ort-cpu":
        import onnxruntime
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        return session.run(None, {{session.get_inputs()[0].name: lr}})[0]
    if backend == "openvino":
        import openvino
        settings = {{"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}}
        compiled = openvino.Core().compile_model(str(model), "CPU", settings)
        return np.array(compiled([lr])[0])
    return np.load(stored)

lr = np.load(HERE / "input.npy")
a, b = (run(backend, HERE / f"model_{{key}}.onnx", lr, HERE / f"output_{{key}}.npy")
        for key, backend in SIDES.items())
gap = np.abs(b.astype(float) - a)
print("relative error", np.linalg.norm(gap) / np.linalg.norm(a), "largest", gap.max(), SIDES)
print("recorded:", {verdict!r})
'''


def write_repro(diagnosed: DiagnosisResult, path: Path, *, force: bool = False) -> Path:
    """Write both graphs, the input, both results, every row, versions and a script.

    The zip holds the image that was compared and nothing from a header.

    Raises
    ------
    OutputError
        If the file exists, or cannot be written.
    """
    if path.exists() and not force:
        raise OutputError(f"{path} exists", hint="replace it with --force")
    findings, memory = diagnosed.findings, io.BytesIO()
    backends = {}
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        parts = zip("ab", diagnosed.sides, diagnosed.graphs, diagnosed.outputs, strict=True)
        for key, side, graph, output in parts:
            # A wrapped runner is named by what users type, which is what the script needs.
            backends[key] = side.runner.name
            model = graph.whole(diagnosed.lr)
            archive.writestr(f"model_{key}.onnx", model.SerializeToString(deterministic=True))
            archive.writestr(f"output_{key}.npy", _npy(np.asarray(output)))
        archive.writestr("input.npy", _npy(diagnosed.lr))
        archive.writestr("nodes.csv", _csv(diagnosed))
        archive.writestr("report.json", json.dumps(findings.to_dict(), allow_nan=False, indent=1))
        machine = diagnose_machine().to_dict()
        archive.writestr("versions.json", json.dumps(machine, allow_nan=False, indent=1))
        archive.writestr("run.py", RUN.format(sides=backends, verdict=findings.verdict()))
    replace_file(path, memory.getvalue())
    return path


def _npy(array: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=False)
    return memory.getvalue()


def _csv(diagnosed: DiagnosisResult) -> str:
    memory = io.StringIO()
    writer = csv.writer(memory)
    head = ("node", "op_type", "layer", "layer_kind", "value", "shape", "dtype_a", "dtype_b")
    writer.writerow((*head, "norm", "largest", "db", "own", "not_finite_a", "not_finite_b"))
    for row in diagnosed.findings.rows:
        place, gap = row.place, row.accumulated
        own = "" if row.own is None else json_number(row.own.worst)
        shape = "x".join(map(str, row.shape))
        writer.writerow(
            (
                *(place.node, place.op_type, place.layer, place.kind, row.value, shape),
                *(*row.dtypes, gap.norm, gap.largest, gap.db, own, *gap.bad),
            )
        )
    return memory.getvalue()
