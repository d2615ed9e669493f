"""OpenVINO on the CPU: often the fastest on an Intel or AMD box without a GPU.

Types come from the model alone. OpenVINO's own bf16 hint is never given: it lowers the FFT layers
too (measured samples move by 6e-3 of the largest, 59 dB on a generator that keeps 72 dB). A model
exported with ``--precision bf16`` runs its convolutions on the CPU's bf16 units under the fp32 hint
all the same, its FFT layers in fp32 (9e-8); an int8 model runs its own way. What the compiled graph
does is read back, and FFT layers in anything but fp32 are refused.

Functions are inlined first, since OpenVINO takes no model-local ones, and FFT layers of large
slices run on the phases of their images, without pixel shuffles, which are slow in the CNN's
layout. Two of its defaults would be silently wrong here: on CPUs with bf16 units it computes in
bf16 unless told otherwise, and it miscomputes the ONNX `DFT` operator without an error (relative
error 0.99, OpenVINO 2026.4).

A forked process opens its own: see `kspacesr_rt.runtime.forks`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import onnx
from onnx import inliner

from kspacesr_rt.errors import BackendUnavailableError, first_line, library_message
from kspacesr_rt.graph.phase_convolutions import in_phases
from kspacesr_rt.graph.phase_transforms import transforms_in_phases
from kspacesr_rt.graph.plane_means import with_plane_means
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.spec import Precision
from kspacesr_rt.runtime.backends import NOT_LOADED, BackendOptions, require_batch, run_failure
from kspacesr_rt.runtime.forks import OpenedAnewAfterFork, keep_for_ever
from kspacesr_rt.system.cpu import saturates_int8
from kspacesr_rt.system.interruption import deferred_signals

DEVICE = "CPU"
MATRIX_PRODUCTS = ("MatMul", "FullyConnected")
"""OpenVINO's names for what the FFT layers become; the CNN has none."""
NARROW_TYPES = {
    "fp16": ("f16",),
    "bf16": ("bf16",),
    "int8": ("i8", "u8"),
    "fp8": ("f8e4m3", "f8e5m2"),
}
"""A model's precision to OpenVINO's names of the type that its convolutions should run in."""


class OpenVinoBackend(OpenedAnewAfterFork):
    """One compiled model on one bound model; the batch stays dynamic.

    Each call takes one of as many requests as there are `BackendOptions.streams`.
    """

    transfer_s = 0.0

    def __init__(self, model: BoundModel, options: BackendOptions) -> None:
        self.spec = model.spec
        self._model, self._options = model, options
        self.open()

    def _open(self) -> None:
        model, options = self._model, self._options
        compiled = compile_network(flat_network(model, any_size=options.as_large), options)
        self.executed = executed_types(compiled)
        require_fp32_products(self.executed)
        self.notes = (
            *type_notes(model.spec.precision, self.executed),
            *saturation_notes(model.spec.precision),
        )
        requests = [compiled.create_infer_request() for _ in range(max(1, options.streams))]
        _use_first(requests)
        self._requests = tuple(requests)
        self._free: deque[Any] = deque(requests)

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`."""
        require_batch(batch, self.spec)
        given = np.ascontiguousarray(batch, dtype=np.float32)
        self.require_own()
        request = self._free.pop()
        try:
            # The request reuses its output buffer; the caller keeps what it gets.
            result: FloatArray = np.array(request.infer({0: given})[0])
        except RuntimeError as exc:
            raise run_failure("OpenVINO", exc) from exc
        finally:
            self._free.append(request)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._free.clear()
        self._requests = ()

    def _opened(self) -> tuple[Any, ...]:
        return self._requests


class _Threads:
    """What this process knows of OpenVINO's threads."""

    were_started = False
    """Here, or in a process that this one was forked from."""
    are_inherited = False
    """Whether what is compiled next has to stay: with the last that is compiled TBB ends its
    threads, and with them the program, where they are those of another process."""


def _after_fork() -> None:
    global _first_use
    _first_use = threading.Lock()
    _Threads.are_inherited = _Threads.were_started


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_first_use = threading.Lock()


def _use_first(requests: Sequence[Any]) -> None:
    """Touch what threads are about to use, in one thread.

    The first access of a process to ``tensor.data`` initialises a static variable of the bindings:
    it waits for the interpreter while it holds the variable's guard, and a second thread that comes
    then waits for the guard while it holds the interpreter. Both wait for ever, and no signal is
    handled (OpenVINO 2026.4; the pattern of pybind11's issue 4877).
    """
    with _first_use:
        for request in requests:
            for tensor in (request.get_input_tensor(0), request.get_output_tensor(0)):
                _ = tensor.data


def rewritten_network(proto: onnx.ModelProto, *, any_size: bool = False) -> onnx.ModelProto:
    """Return a bound model with narrow convolutions and FFT layers in phases, where that pays.

    With `any_size`, FFT layers of small slices too.
    """
    return transforms_in_phases(in_phases(proto), any_size=any_size)


def flat_network(model: BoundModel, *, any_size: bool = False) -> onnx.ModelProto:
    """Return a bound model as OpenVINO is given it: some layers in phases, no functions.

    Means over planes, also of instance norms, are taken in two steps.
    """
    rewritten = rewritten_network(model.proto, any_size=any_size)
    flat: onnx.ModelProto = inliner.inline_local_functions(rewritten)
    return with_plane_means(flat, model.spec)


def executed_types(compiled: Any) -> dict[str, dict[str, int]]:
    """Ask a compiled model what it runs in which type.

    Returns
    -------
        Kind of layer, as OpenVINO names it, to type to number of layers; constants left out.
    """
    counts: dict[str, Counter[str]] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind, precision = (
            str(info[key].value) if key in info else "unknown"
            for key in ("layerType", "runtimePrecision")
        )
        if kind not in ("Const", "Input", "Output"):
            counts.setdefault(kind, Counter())[precision] += 1
    return {kind: dict(types) for kind, types in sorted(counts.items())}


def require_fp32_products(executed: dict[str, dict[str, int]]) -> None:
    """Refuse a compiled model whose FFT layers were lowered: measured samples would not survive.

    Raises
    ------
    BackendUnavailableError
        If a matrix product does not run in fp32.
    """
    narrow = {
        kind: types
        for kind in MATRIX_PRODUCTS
        if (types := executed.get(kind, {})).keys() - {"f32"}
    }
    if narrow:
        raise BackendUnavailableError(
            f"OpenVINO would compute FFT layers in {narrow}, f32 is required",
            hint="unset OpenVINO's own precision settings; or take backend ort-cpu",
        )


def type_notes(precision: Precision, executed: dict[str, dict[str, int]]) -> tuple[str, ...]:
    """Say where a model of a narrow type gains nothing from it on this CPU."""
    wanted = NARROW_TYPES.get(precision, ())
    convolutions = executed.get("Convolution", {})
    if not wanted or any(convolutions.get(name) for name in wanted):
        return ()
    found = ", ".join(convolutions) or "no convolution"
    return (f"OpenVINO runs this {precision} model's convolutions in {found} on this CPU",)


def saturation_notes(precision: Precision) -> tuple[str, ...]:
    """Say where int8 sums may saturate; ONNX Runtime is asked not to, OpenVINO cannot be."""
    if precision != "int8" or not saturates_int8():
        return ()
    return (
        "OpenVINO's int8 sums can saturate on this CPU, which has no VNNI: results may be further "
        "from fp32 than the model's file says; backend ort-cpu keeps to it",
    )


def compile_network(flat: onnx.ModelProto, options: BackendOptions) -> Any:
    """Compile a graph without functions for the CPU, in the types it has."""
    try:
        with deferred_signals():
            import openvino
    except ImportError as exc:
        raise BackendUnavailableError(
            f"openvino is installed but does not load: {library_message(exc)}",
            hint="pip install --force-reinstall openvino",
        ) from exc
    _Threads.were_started = True
    core = openvino.Core()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": openvino.Type.f32,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "THROUGHPUT" if options.streams > 1 else "LATENCY",
    }
    if options.streams > 1:
        settings["NUM_STREAMS"] = options.streams
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    try:
        network = core.read_model(flat.SerializeToString())
        compiled = core.compile_model(network, DEVICE, settings)
    except RuntimeError as exc:
        raise BackendUnavailableError(
            f"OpenVINO cannot load this model: {_reason(exc)}", hint=NOT_LOADED
        ) from exc
    if _Threads.are_inherited:
        keep_for_ever(compiled)
        _Threads.are_inherited = False
    precision = compiled.get_property("INFERENCE_PRECISION_HINT")
    if precision != openvino.Type.f32:
        raise BackendUnavailableError(
            f"asked OpenVINO for fp32, it came up with {precision.get_type_name()}"
        )
    return compiled


def _reason(exc: RuntimeError) -> str:
    """Return the first line of an error that is no place in OpenVINO's own code."""
    lines = library_message(exc).splitlines()
    telling = [line.strip() for line in lines if line.strip() and not _is_place(line)]
    return telling[0][:200] if telling else first_line(exc)


def _is_place(line: str) -> bool:
    return line.strip().startswith("Exception from ")


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> OpenVinoBackend:
    """Compile the model."""
    return OpenVinoBackend(model, options)
