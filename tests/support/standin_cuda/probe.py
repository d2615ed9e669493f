"""What one process does on the stand-in: open a model, run it, and say what the GPU was asked.

``python probe.py {"backend": ..., "cases": [...]}`` prints a line of JSON. A program of its own,
since a process has one CUDA, and one ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.graph.precision import NARROW_TYPES, narrowed
from kspacesr_rt.graph.quantisation import QUANTISED_TYPES, network_convolutions, quantised
from kspacesr_rt.model.binding import BoundModel, bind
from kspacesr_rt.model.file import ModelFile, load_model, resolve_model
from kspacesr_rt.runtime import backends, ort_gpu
from kspacesr_rt.runtime.backends import (
    BackendOptions,
    OverlappingBackend,
    StartedBatch,
    open_backend,
)
from standin_cuda.calls import FORBIDDEN, Call, CallsFile, graphs, nodes

_CALLS_FILE = CallsFile(Path(os.environ["STANDIN_CUDA_CALLS"]))
RUNS = 3


def in_precision(model: ModelFile, precision: str) -> ModelFile:
    """Return a model in another precision, by the passes of export; scales are made up."""
    if precision in NARROW_TYPES:
        proto = narrowed(model.proto, precision)
    elif precision in QUANTISED_TYPES:
        convolutions = network_convolutions(model.proto)
        scales = {node.input[0]: np.float32(0.01) for node in convolutions}
        ends = [convolutions[0].name, convolutions[-1].name]
        proto = quantised(model.proto, precision, scales, wide=ends)
    else:
        return model
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, proto=proto, spec=spec)


def bound_to(model: str, precision: str, matrix: list[int], lowering: str) -> BoundModel:
    """Return a shipped model as the probe asks for it."""
    file = in_precision(load_model(resolve_model(model, upscale=None)), precision)
    bound = bind(file, (matrix[0], matrix[1]))
    return dataclasses.replace(bound, spec=dataclasses.replace(bound.spec, lowering=lowering))


def new_calls(before: int) -> list[Call]:
    """Return what came after so many calls."""
    return _CALLS_FILE.read(before)


def observe(bound: BoundModel, backend: str, batch: int) -> dict[str, Any]:
    """Open a backend, run a batch a few times here and once in another thread, and look."""
    before = len(new_calls(0))
    shape = (batch, *bound.spec.input_axes, *bound.spec.matrix)
    values = np.random.default_rng(batch).random(shape, np.float32)
    shapes = set()
    with open_backend(backend, bound, BackendOptions()) as opened:
        shapes.add(opened.run(values).shape)
        captured = new_calls(before)
        for _ in range(RUNS - 1):
            shapes.add(opened.run(values).shape)
        running = new_calls(before)[len(captured) :]
        thread = threading.Thread(target=lambda: shapes.add(opened.run(values).shape))
        thread.start()
        thread.join()
        held = new_calls(before)
        notes = opened.notes
    graph = graphs(captured)[0] if graphs(captured) else []
    copies = [call.details.split() for call in held if call.event == "copy"]
    freed = {call.details for call in held if call.event == "free"}
    return {
        "shapes": sorted(shapes),
        "notes": notes,
        "captures": len(graphs(captured)),
        "nodes": nodes(graph),
        "by_event": {name: sum(one.event == name for one in graph) for name in {"kernel", "cudnn"}},
        "host_copies": sum(
            call.event == "copy_async" and not call.details.startswith("d2d") for call in graph
        ),
        "by_pointers": sum("by_pointers" in call.details for call in graph),
        "tf32": sum("tf32" in call.details for call in held),
        "forbidden": [dataclasses.astuple(call) for call in graph if call.event in FORBIDDEN],
        "later": sorted({call.event for call in running}),
        "launches": sum(call.event == "launch" for call in running),
        "in_thread": {
            "captures": len(graphs(held)) - len(graphs(captured)),
            "nodes": nodes(graphs(held)[-1]) if graphs(held) else 0,
        },
        "inputs": sorted({one[3] for one in copies if one[0] == "h2d" and one[1] == _size(values)}),
        "freed": sorted(freed),
    }


def observe_overlap(bound: BoundModel, backend: str, batches: list[int]) -> dict[str, Any]:
    """Start batches, each before the one before it is waited for, and look at each step."""
    generator = np.random.default_rng(0)
    given = [generator.random((n, 1, *bound.spec.matrix), np.float32) for n in batches]
    steps: list[dict[str, Any]] = []
    waiting: list[tuple[int, StartedBatch]] = []
    shapes, n_sums, seen = [], [], len(new_calls(0))
    errors: dict[int, str] = {}

    def note(what: str, number: int) -> None:
        nonlocal seen
        calls = new_calls(seen)
        seen += len(calls)
        steps.append(
            {"what": what, "batch": number, "calls": [dataclasses.astuple(c) for c in calls]}
        )

    def take() -> None:
        number, started = waiting.pop(0)
        try:
            result = started.result()
            shapes.append(result.slices.shape)
            n_sums.append(len(result.sums))
        except BackendUnavailableError as exc:
            errors[number] = str(exc)
        note("result", number)

    with open_backend(backend, bound, BackendOptions()) as opened:
        assert isinstance(opened, OverlappingBackend)
        note("open", 0)
        for number, batch in enumerate(given):
            try:
                waiting.append((number, opened.start(batch)))
            except BackendUnavailableError as exc:
                errors[number] = str(exc)
            note("start", number)
            if len(waiting) > 1:
                take()
        while waiting:
            take()
        notes, copied_s = opened.notes, opened.transfer_s
    note("close", 0)
    return {
        "steps": steps,
        "shapes": shapes,
        "sums": n_sums,
        "notes": notes,
        "copied_s": copied_s,
        "errors": errors,
    }


def plant_context(bound: BoundModel) -> None:
    """Put a whole context model, of something else, where the provider's would be."""
    from kspacesr_rt.runtime import gpu_build
    from kspacesr_rt.runtime.context_model import ContextModel

    opened = ort_gpu._open

    def plant(runtime: Any, provider: str, content: bytes, options: dict[str, str]) -> Any:
        if "trt_dump_ep_context_model" not in options:
            print("planted", file=sys.stderr)
        return opened(runtime, provider, content, options)

    ort_gpu._open = plant
    gpu_build.tensorrt_version()
    runtime = gpu_build.load_onnxruntime(ort_gpu.TENSORRT, gpu_build.CUDA_LIBRARIES)
    content = ort_gpu.provider_graph("ort-tensorrt", bound).SerializeToString()
    folder = ort_gpu.tensorrt_folder(runtime, content)
    folder.mkdir(parents=True)
    context = ContextModel(folder, ort_gpu.context_name(bound.spec, 1))
    context.being_written.write_bytes(b"no model")
    context.keep()
    assert context.stored() == b"no model"


def _size(values: Any) -> str:
    return str(values.nbytes)


def main() -> None:
    """Answer one question."""
    asked = json.loads(sys.argv[1])
    backend = asked.get("backend", "ort-cuda")
    answers = []
    if asked.get("unrefused"):
        backends.require_suited = lambda name, spec: None
    for one in asked["cases"]:
        bound = bound_to(
            one["model"],
            one.get("precision", "fp32"),
            one.get("matrix", [64, 49]),
            one.get("lowering", "gemm"),
        )
        if one.get("plant_context"):
            plant_context(bound)
        try:
            if "overlap" in one:
                answers.append(observe_overlap(bound, backend, one["overlap"]))
                continue
            for _ in range(one.get("times", 1)):
                answer = observe(bound, backend, one.get("batch", 1))
            answers.append(answer)
        except BackendUnavailableError as exc:
            answers.append({"error": str(exc), "hint": exc.hint, "exit_code": exc.exit_code})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
