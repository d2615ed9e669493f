"""8 bits in the graph: QuantizeLinear and DequantizeLinear around the convolutions of the CNN.

A value between such a pair is held in 8 bits; what stands outside computes in fp32. So residual
sums, activation functions and everything that carries k-space stay in fp32, and a runtime that
knows the pattern (ONNX Runtime, OpenVINO, TensorRT) convolves integers. All of it is symmetric with
zero-point 0, which TensorRT demands; weights have a scale for each output channel, activations one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.errors import ExportError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import Precision

QUANTISED_TYPES: dict[Precision, int] = {
    "int8": TensorProto.INT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
}
LARGEST: dict[Precision, float] = {"int8": 127.0, "fp8": 448.0}
"""Largest magnitude of each type that is used; int8 leaves -128 out, to be symmetric."""
RANGES = np.linspace(0.2, 1.0, 41)
"""Ranges that are tried, as shares of the largest magnitude that was met."""
TRIED_AT_ONCE = 1 << 15
"""Samples that are rounded together: all scales of a filter, one of a feature map."""
_FEATURE_OPERATORS = ("Conv", "LeakyRelu", "PRelu", "Relu", "Add", "DepthToSpace")
"""What stands between the convolutions of a CNN."""
_OF_FEATURES = frozenset(
    {
        *("Gelu", "Elu", "Selu", "Celu", "HardSwish", "Mish", "Softplus", "Softsign", "Sigmoid"),
        *("Tanh", "HardSigmoid", "Mul", "Div", "Sub", "Clip", "Max", "Min", "Concat", "Dropout"),
        *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "Reshape"),
        *("LayerNormalization", "MaxPool", "AveragePool", "Transpose", "Identity", "Resize"),
        *("ConvTranspose", "Split", "Slice", "Pad"),
    }
)
"""What makes features of features, and images of images."""
Convolution = onnx.NodeProto


def network_convolutions(proto: onnx.ModelProto) -> list[Convolution]:
    """Return the convolutions of the CNN, in order; those in bodies of FFT layers are none."""
    return [node for node in proto.graph.node if _is_convolution(node)]


def quantisable(proto: onnx.ModelProto) -> list[Convolution]:
    """Return the convolutions that 8 bits can be chosen for.

    That is, of a graph in fp32 all but those whose weights the network itself computes, or that
    have no name.
    """
    weights = _flat_weights(proto.graph)
    return [node for node in network_convolutions(proto) if _is_quantisable(node, weights)]


def with_named_convolutions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which no two convolutions have one name, and each has one."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    taken = {node.name for node in result.graph.node if node.op_type != "Conv"}
    for place, node in enumerate(result.graph.node):
        if node.op_type == "Conv" and (not node.name or node.name in taken):
            node.name = f"{node.name or 'conv'}.{place}"
        taken.add(node.name)
    return result


def image_readers(proto: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that read an image or k-space rather than features.

    They cost the most quality for their size in every model that was measured, and OpenVINO 2026.4
    silently computes int8 ones wrongly behind a transform (relative error 0.9): it moves the
    rounding in front of the pixel shuffle, into the fp32 matrix product.
    """
    made_by = {name: node for node in proto.graph.node for name in node.output}
    return [node.name for node in quantisable(proto) if not _is_of_features(node.input[0], made_by)]


def _is_of_features(name: str, made_by: Mapping[str, onnx.NodeProto]) -> bool:
    """Say whether a value follows from a convolution's, with nothing but layers between."""
    met, waiting = {name}, [name]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in _FEATURE_OPERATORS:
            return True
        if node.op_type in _OF_FEATURES:
            waiting += [one for one in node.input if one not in met]
            met.update(node.input)
    return False


def _flat_weights(graph: onnx.GraphProto) -> set[str]:
    """Return the names of stored weights of 2-D convolutions."""
    return {
        item.name
        for item in graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) == 4
    }


def _is_convolution(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "Conv" and node.domain == "")


def _is_quantisable(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    return _is_convolution(node) and bool(node.name) and node.input[1] in weights


def as_stored(values: FloatArray, scale: Any, precision: Precision) -> Any:
    """Round values to 8 bits.

    Parameters
    ----------
    values
        Any shape, float32.
    scale
        What one step (int8) or one unit (fp8) stands for; broadcast against `values`.
    precision
        ``int8`` or ``fp8``.

    Returns
    -------
        Same shape, of the 8-bit type; times `scale` it is near `values`, or clipped.
    """
    top = LARGEST[precision]
    ratio = np.clip(values / scale, -top, top)
    dtype = helper.tensor_dtype_to_np_dtype(QUANTISED_TYPES[precision])
    return (np.rint(ratio) if precision == "int8" else ratio).astype(dtype)


def best_scale(magnitudes: FloatArray, precision: Precision) -> np.float32:
    """Return the scale that leaves the least mean squared error, clipping included."""
    top = float(magnitudes.max())
    if top == 0.0:
        return np.float32(1.0)
    scales = (RANGES * top / LARGEST[precision]).astype(np.float32)
    flat = magnitudes.ravel()
    at_once = max(1, TRIED_AT_ONCE // flat.size)
    errors = [
        _squared_errors(flat, scales[first : first + at_once, None], precision)
        for first in range(0, scales.size, at_once)
    ]
    best: np.float32 = scales[int(np.argmin(np.concatenate(errors)))]
    return best


def _squared_errors(magnitudes: FloatArray, scales: FloatArray, precision: Precision) -> FloatArray:
    """Return the mean squared error of each of `scales` (k, 1), float64."""
    if precision == "int8":  # as `as_stored`; whole numbers need no type of 8 bits to be rounded
        rounded = magnitudes / scales
        np.clip(rounded, -LARGEST[precision], LARGEST[precision], out=rounded)
        np.rint(rounded, out=rounded)
    else:
        rounded = as_stored(magnitudes, scales, precision).astype(np.float32)
    rounded *= scales
    rounded -= magnitudes
    np.square(rounded, out=rounded)
    errors: FloatArray = rounded.mean(axis=1, dtype=np.float64)
    return errors


def quantised(
    proto: onnx.ModelProto,
    precision: Precision,
    scales: Mapping[str, np.float32],
    *,
    wide: Collection[str] = (),
    results: bool = False,
) -> onnx.ModelProto:
    """Return a copy whose convolutions take 8-bit activations and weights.

    Parameters
    ----------
    proto
        A lowered model in fp32; it is not changed.
    precision
        ``int8`` or ``fp8``.
    scales
        Scale of every value that a convolution takes (or gives, with `results`), by name.
    wide
        Names of convolutions that stay in fp32.
    results
        Also round what a convolution gives. ONNX Runtime convolves integers only then; TensorRT
        and OpenVINO do anyway, and lose less without.

    Raises
    ------
    ExportError
        If the precision is none of these, or a scale is missing or not positive.
    """
    if precision not in QUANTISED_TYPES:
        raise ExportError(
            f"precision '{precision}' is not one of {', '.join(QUANTISED_TYPES)}",
        )
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    _Quantising(result.graph, precision, scales).apply(frozenset(wide), results=results)
    onnx.checker.check_model(result)
    return result


class _Quantising:
    """Walk a graph once, in order, and put pairs around its convolutions."""

    def __init__(
        self, graph: onnx.GraphProto, precision: Precision, scales: Mapping[str, np.float32]
    ) -> None:
        self.graph = graph
        self.precision: Precision = precision
        self.scales = scales
        self.weights = {item.name: item for item in graph.initializer}
        self.flat_weights = _flat_weights(graph)
        self.nodes: list[onnx.NodeProto] = []
        self.rounded: dict[str, str] = {}
        self.kept: set[str] = set()

    def apply(self, wide: frozenset[str], *, results: bool) -> None:
        """Rewrite the graph in place."""
        chosen_nodes = [
            _is_quantisable(node, self.flat_weights) and node.name not in wide
            for node in self.graph.node
        ]
        for node, chosen in zip(self.graph.node, chosen_nodes, strict=True):
            self.kept.update(
                name for place, name in enumerate(node.input) if place != 1 or not chosen
            )
        for node, chosen in zip(self.graph.node, chosen_nodes, strict=True):
            if chosen:
                node.input[0] = self._pair(node.input[0], self._scale(node.input[0]))
                node.input[1] = self._weight(node.input[1])
            self.nodes.append(node)
            if chosen and results:
                name = node.output[0]
                node.output[0] = f"{name}.wide"
                self._pair(node.output[0], self._scale(name), name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def _scale(self, name: str) -> np.float32:
        scale = self.scales.get(name, np.float32(0.0))
        if not (np.isfinite(scale) and scale > 0.0):
            raise ExportError(f"value '{name}' has no {self.precision} scale")
        return scale

    def _pair(self, name: str, scale: np.float32, result: str | None = None) -> str:
        """Round a value; every convolution that takes it shares the pair."""
        if name not in self.rounded:
            constants = self._constants(name, scale)
            stored, result = f"{name}.stored", result or f"{name}.rounded"
            self._node("QuantizeLinear", [name, *constants], stored)
            self._node("DequantizeLinear", [stored, *constants], result)
            self.rounded[name] = result
        return self.rounded[name]

    def _weight(self, name: str) -> str:
        if name not in self.rounded:
            values = numpy_helper.to_array(self.weights[name])
            scale = np.array([best_scale(np.abs(one).ravel(), self.precision) for one in values])
            stored = as_stored(values, scale[:, None, None, None], self.precision)
            held = name
            if name in self.kept:  # a layer in fp32 has the same weights
                held = f"{name}.stored"
                self.weights[held] = self.graph.initializer.add()
            self.weights[held].CopyFrom(numpy_helper.from_array(stored, held))
            result = f"{name}.rounded"
            self._node("DequantizeLinear", [held, *self._constants(name, scale)], result, axis=0)
            self.rounded[name] = result
        return self.rounded[name]

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))

    def _constants(self, name: str, scale: Any) -> list[str]:
        scale = np.asarray(scale, dtype=np.float32)
        dtype = helper.tensor_dtype_to_np_dtype(QUANTISED_TYPES[self.precision])
        names = [f"{name}.scale", f"{name}.zero"]
        for made, values in zip(names, (scale, np.zeros(scale.shape, dtype)), strict=True):
            self.graph.initializer.append(numpy_helper.from_array(values, made))
        return names
