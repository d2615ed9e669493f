"""How a run's time divides among groups of layers, from a runtime's profile.

What it measures: kernel times of single calls, as ONNX Runtime's or OpenVINO's profiler tells them.
What it leaves out: gaps between kernels. Profiling itself costs a little per kernel, which makes
the many small kernels of the FFT layers look dearer than they are, never cheaper.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.errors import InputError
from kspacesr_rt.graph.layer_costs import CONVOLUTION, FFT, OTHER, group_of
from kspacesr_rt.graph.phase_convolutions import in_phases
from kspacesr_rt.graph.phase_transforms import MARK, transforms_in_phases
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME
from kspacesr_rt.model.spec import OP_DOMAIN
from kspacesr_rt.runtime.openvino_cpu import flat_network, rewritten_network

PROFILED = ("ort-cpu", "openvino")
"""Backends whose profiles are read here."""
TYPE_CHANGES = ("Reorder", "Cast", "Convert", "QuantizeLinear", "DequantizeLinear", "FakeQuantize")
"""Kernels that only change layout or type: what narrow or blocked convolutions cost besides."""
CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "Convolution")
SCALINGS = ("PowerStatic", "Multiply", "Eltwise", "Mul", "Add")
"""Kernels of single multiplications and additions, which transforms by matrix product lack but for
`MASKS`."""
CALLS = 7
"""Profiled calls; the median of each kernel counts."""
MASKS = re.compile(r"(masked__|Mul_)\d+")
"""Names of the one multiplication in a transform by matrix product: OpenVINO calls it by its value
in the body, ONNX Runtime by its kind."""
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|_fused_.*|_kernel_time)+$")
_WIDENED = "InsertedPrecisionFreeCast_"
"""Before the name of what ONNX Runtime computes in fp32 for want of a narrower kernel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Where the kernels of one call spent their time."""

    seconds: dict[str, float]
    """By group of `kspacesr_rt.graph.layer_costs`, for one call; groups without kernels are left
    out. A kernel that does the work of several layers counts for the convolution among them."""
    ran: frozenset[str]
    """Names of the graph's nodes that had a kernel of their own and took time."""


def profiled(
    model: BoundModel, lr: FloatArray, backend: str, threads: int, *, calls: int = CALLS
) -> Profile:
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
    calls
        Calls that count, after one that does not.

    Raises
    ------
    InputError
        For another backend.
    """
    if backend not in PROFILED:
        raise InputError(f"profiles of '{backend}' are not read; only of {', '.join(PROFILED)}")
    profile = _ort_profile if backend == "ort-cpu" else _openvino_profile
    spent: defaultdict[str, float] = defaultdict(float)
    ran = set()
    own = _own_nodes(model, backend)
    bodies = {node.op_type for body in model.proto.functions for node in body.node}
    for (name, kind), seconds in profile(model, lr, threads, calls).items():
        masks = name not in own and MASKS.fullmatch(name)
        group = FFT if masks else _group(name, kind, own.get(name), model.spec.lowering)
        if kind == "Transpose" and group == FFT and kind not in bodies:
            group = CONVOLUTION  # into and out of the layout that integer convolutions want
        spent[group] += seconds
        if seconds > 0 and name in own and own[name][1] == group:
            ran.add(own[name][0])
    return Profile(seconds=dict(spent), ran=frozenset(ran))


def transforms_run_in_phases(model: BoundModel, backend: str) -> bool:
    """Say whether a backend computes a bound model's FFT layers on the phases of its images."""
    return backend == "openvino" and transforms_in_phases(model.proto) is not model.proto


def _group(name: str, kind: str, node: tuple[str, str] | None, lowering: str) -> str:
    """Return the group of a kernel, of a kind, that is named after a node of the graph or not."""
    if kind.startswith(TYPE_CHANGES):
        return CONVOLUTION
    if MARK in name:
        return FFT
    if node is not None:
        # A convolution that took in what follows it may go by that layer's name.
        return CONVOLUTION if kind in CONVOLUTIONS else node[1]
    # Runtimes rename what they rewrite; only some lowerings have such kernels in their layers.
    if kind in CONVOLUTIONS and lowering != "conv":
        return CONVOLUTION
    return OTHER if kind in SCALINGS and lowering in ("gemm", "conv") else FFT


def _own_nodes(model: BoundModel, backend: str) -> dict[str, tuple[str, str]]:
    """Return name and group of the nodes that run, except our layers, by what kernels call them."""
    rewritten = in_phases if backend == "ort-cpu" else rewritten_network
    own: dict[str, tuple[str, str]] = {}
    for node in rewritten(model.proto).graph.node:
        if node.domain != OP_DOMAIN and MARK not in node.name:
            found = (node.name, group_of(node))
            # OpenVINO calls the last node by the graph's output.
            own |= dict.fromkeys((node.name, _plain(node.name), *node.output), found)
    return own


def _plain(name: str) -> str:
    """Return a node's name as ONNX Runtime's optimiser spells it: without dots."""
    return name.replace(".", "_")


def _ort_profile(
    model: BoundModel, lr: FloatArray, threads: int, calls: int
) -> dict[tuple[str, str], float]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            in_phases(model.proto).SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        for _ in range(calls + 1):
            session.run(None, {INPUT_NAME: lr})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = _SUFFIX.sub("", event["name"]).removeprefix(_WIDENED)
            key = (name, event["args"]["op_name"])
            times[key].append(event["dur"] * 1e-6)
    return _medians(times, calls)


def _openvino_profile(
    model: BoundModel, lr: FloatArray, threads: int, calls: int
) -> dict[tuple[str, str], float]:
    import openvino

    flat = flat_network(model)
    core = openvino.Core()
    config: dict[str, Any] = {"PERF_COUNT": "YES", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(flat.SerializeToString()), "CPU", config)
    request = compiled.create_infer_request()
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(calls + 1):
        request.infer({0: lr})
        for kernel in request.profiling_info:
            # A convolution with a bias is split: "NAME/WithoutBiases".
            key = (kernel.node_name.partition("/")[0], kernel.node_type)
            times[key].append(kernel.real_time.total_seconds())
    return _medians(times, calls)


def _medians(times: dict[tuple[str, str], list[float]], calls: int) -> dict[tuple[str, str], float]:
    """Take the median call of each kernel, the first call left out."""
    return {
        key: float(np.median(values[1:] or values)) * len(values) / (calls + 1)
        for key, values in times.items()
    }
