"""Run any excerpt of a graph on a runtime, with the settings of its backend."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from kspacesr_rt.errors import InputError
from kspacesr_rt.graph.phase_convolutions import in_phases
from kspacesr_rt.runtime.backends import BackendOptions, require_available
from kspacesr_rt.runtime.openvino_cpu import rewritten_network

REFERENCE = "reference"
LOOKS_INSIDE = ("ort-cpu", "openvino", REFERENCE)
_WIDENED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")

Arrays = dict[str, Any]


class Runner(Protocol):
    """Something that computes the outputs of any small or large graph of standard ops."""

    name: str
    """What users type."""

    def rewritten(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Return what the backend makes of a bound model before its runtime gets it."""
        ...

    def run(self, proto: onnx.ModelProto, feeds: Arrays) -> list[Any]:
        """Return the outputs of a graph, in its order."""
        ...


class OrtRunner:
    """ONNX Runtime on the CPU, as the backend ``ort-cpu`` opens it."""

    name = "ort-cpu"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options

    def rewritten(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with narrow convolutions in phases."""
        return in_phases(proto)

    def run(self, proto: onnx.ModelProto, feeds: Arrays) -> list[Any]:
        """Return the outputs of a graph, in its order."""
        from kspacesr_rt.runtime.ort_cpu import open_session

        session = open_session(proto.SerializeToString(), self._options)
        results: list[Any] = session.run(None, feeds)
        return results


class OpenVinoRunner:
    """OpenVINO on the CPU, as the backend ``openvino`` compiles it, refused lowerings included."""

    name = "openvino"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options

    def rewritten(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with narrow convolutions, and FFT layers of large slices, in phases."""
        return rewritten_network(proto, any_size=self._options.as_large)

    def run(self, proto: onnx.ModelProto, feeds: Arrays) -> list[Any]:
        """Return the outputs of a graph, in its order."""
        from kspacesr_rt.runtime.openvino_cpu import compile_network

        request = compile_network(proto, self._options).create_infer_request()
        results = request.infer([feeds[one.name] for one in proto.graph.input])
        return [np.array(results[index]) for index in range(len(proto.graph.output))]


class ReferenceRunner:
    """ONNX's own plain evaluator, node by node, in float64 (fp32 for quantised graphs)."""

    name = REFERENCE

    def rewritten(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model as it is."""
        return proto

    def run(self, proto: onnx.ModelProto, feeds: Arrays) -> list[Any]:
        """Return the outputs of a graph, in its order; values are dropped once unused."""
        from onnx.reference import ReferenceEvaluator

        wide = onnx.ModelProto()
        wide.CopyFrom(proto)
        dtype: type[np.floating[Any]] = np.float32
        if not any(node.op_type in _QUANTISED for node in proto.graph.node):
            _widen(wide)
            dtype = np.float64
        values: Arrays = {name: array.astype(dtype) for name, array in feeds.items()}
        values |= {one.name: numpy_helper.to_array(one) for one in wide.graph.initializer}
        wanted = [one.name for one in wide.graph.output]
        last = {name: i for i, node in enumerate(wide.graph.node) for name in node.input}
        opsets = {one.domain: one.version for one in wide.opset_import}
        for index, node in enumerate(wide.graph.node):
            fed = {name: values[name] for name in node.input if name}
            typed = _typed(node, fed, opsets)
            evaluator = (
                ReferenceEvaluator(node, opsets=opsets)
                if typed is None
                else ReferenceEvaluator(typed)
            )
            with np.errstate(all="ignore"):  # NaN and infinity are what the report is about
                made = evaluator.run(None, fed)
            values.update(zip(node.output, made, strict=True))
            for name in node.input:
                if name and last[name] == index and name not in wanted:
                    values.pop(name, None)
        return [np.asarray(values[name]) for name in wanted]


def _typed(node: onnx.NodeProto, fed: Arrays, opsets: dict[str, int]) -> onnx.ModelProto | None:
    """Return a node with the types of its inputs, None where ONNX's evaluator needs none.

    It does of `Gelu` and `GroupNormalization`: functions that others are put for by type.
    """
    if node.domain:
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, opsets[""], "")  # whose stubs lack the next
    if not schema.has_context_dependent_function:
        return None
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in fed.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "alone", inputs, outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports)


def _widen(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        _widen_tensor(tensor)
    for node in proto.graph.node:
        for item in node.attribute:
            if item.type == AttributeProto.TENSOR:
                _widen_tensor(item.t)
            elif node.op_type == "Cast" and item.name == "to" and item.i in _WIDENED:
                item.i = TensorProto.DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _WIDENED:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def open_runner(name: str, options: BackendOptions) -> Runner:
    """Return what looks inside a graph on a backend.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot run here.
    InputError
        If there is no such backend, or none that shows its intermediate values.
    """
    if name == REFERENCE:
        return ReferenceRunner()
    if name not in LOOKS_INSIDE:
        require_available(name)
        raise InputError(
            f"the inside of a graph on backend '{name}' cannot be looked at",
            hint=f"one of: {', '.join(LOOKS_INSIDE)}",
        )
    require_available(name)
    return OrtRunner(options) if name == "ort-cpu" else OpenVinoRunner(options)
