"""How a run's time divides among FFT layers, convolutions and the rest, from a runtime's profile.

What it measures: kernel times of single calls, as ONNX Runtime's or OpenVINO's profiler tells them.
What it leaves out: gaps between kernels. Profiling itself costs a little per kernel, which makes
the many small kernels of the FFT layers look dearer than they are, never cheaper.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.binding import BoundModel
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model_file import INPUT_NAME
from kspacesr_rt.spec import OP_DOMAIN

PROFILED = ("ort-cpu", "openvino")
"""Backends whose profiles are read here."""
TYPE_CHANGES = ("Reorder", "Cast", "Convert", "QuantizeLinear", "DequantizeLinear", "FakeQuantize")
"""Kernels that only change layout or type: what narrow or blocked convolutions cost besides."""
CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv")
CALLS = 7
"""Profiled calls; the median of each kernel counts."""
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|_fused_.*|_kernel_time)+$")


def layer_shares(model: BoundModel, lr: FloatArray, backend: str, threads: int) -> dict[str, float]:
    """Profile a bound model.

    Parameters
    ----------
    model
        Bound to the matrix of `lr`.
    lr
        A batch ``(n, 1, y, x)``.
    backend
        One of `PROFILED`.
    threads
        CPU threads.

    Returns
    -------
        Shares that sum to 1: ``fft`` (everything inside the bodies of our operators), ``conv``
        (the CNN's convolutions with what is fused into them, and their changes of layout and
        type) and ``other``.

    Raises
    ------
    InputError
        For another backend.
    """
    if backend not in PROFILED:
        raise InputError(f"profiles of '{backend}' are not read; only of {', '.join(PROFILED)}")
    profile = _ort_profile if backend == "ort-cpu" else _openvino_profile
    kernels = profile(model, lr, threads)
    conv, other = _own_nodes(model)
    # Runtimes rename convolutions that they cast; only this lowering has others than the CNN's.
    own_kinds = TYPE_CHANGES if model.spec.lowering == "conv" else TYPE_CHANGES + CONVOLUTIONS
    spent: defaultdict[str, float] = defaultdict(float)
    for (name, kind), seconds in kernels.items():
        if name in conv or kind.startswith(own_kinds):
            group = "conv"
        elif name in other:
            group = "other"
        else:
            group = "fft"
        spent[group] += seconds
    total = sum(spent.values())
    return {group: spent[group] / total for group in ("fft", "conv", "other")}


def _own_nodes(model: BoundModel) -> tuple[set[str], set[str]]:
    """Return the names of the graph's convolutions with their activations, and of the others."""
    conv: set[str] = set()
    other: set[str] = set()
    for node in model.proto.graph.node:
        if node.domain == OP_DOMAIN:
            continue
        group = conv if node.op_type in ("Conv", "LeakyRelu", "PRelu", "Relu") else other
        group.update({node.name, _plain(node.name)})
    return conv, other


def _plain(name: str) -> str:
    """Return a node's name as ONNX Runtime's optimiser spells it: without dots."""
    return name.replace(".", "_")


def _ort_profile(model: BoundModel, lr: FloatArray, threads: int) -> dict[tuple[str, str], float]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.serialized(), settings, providers=["CPUExecutionProvider"]
        )
        for _ in range(CALLS + 1):
            session.run(None, {INPUT_NAME: lr})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (_SUFFIX.sub("", event["name"]), event["args"]["op_name"])
            times[key].append(event["dur"] * 1e-6)
    return _medians(times)


def _openvino_profile(
    model: BoundModel, lr: FloatArray, threads: int
) -> dict[tuple[str, str], float]:
    import openvino
    from onnx import inliner

    flat = inliner.inline_local_functions(model.proto)
    core = openvino.Core()
    config: dict[str, Any] = {"PERF_COUNT": "YES", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(flat.SerializeToString()), "CPU", config)
    request = compiled.create_infer_request()
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(CALLS + 1):
        request.infer({0: lr})
        for kernel in request.profiling_info:
            # A convolution with a bias is split: "NAME/WithoutBiases".
            key = (kernel.node_name.partition("/")[0], kernel.node_type)
            times[key].append(kernel.real_time.total_seconds())
    return _medians(times)


def _medians(times: dict[tuple[str, str], list[float]]) -> dict[tuple[str, str], float]:
    """Take the median call of each kernel, the first call left out."""
    return {
        key: float(np.median(values[1:] or values)) * len(values) / (CALLS + 1)
        for key, values in times.items()
    }
