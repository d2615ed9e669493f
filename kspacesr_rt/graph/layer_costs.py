"""What each layer of a bound model must compute and move for one slice, by group of layers.

What it counts: operations of convolutions and FFT layers, one operation an element of everything
elementwise; bytes of the compulsory traffic [1]_: each input and output of a layer once, and its
weights, in the types that are stored. An FFT layer counts as one layer, whatever it is lowered to.
What it leaves out: what a runtime moves besides (scratch, layout changes, caches that are too
small). So a share of the machine's bandwidth that follows from it is a lower bound.

References
----------
.. [1] Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
   multicore architectures", Communications of the ACM 52(4), 2009, doi:10.1145/1498765.1498785
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, shape_inference

from kspacesr_rt.graph.band_projections import PROJECTION, ZERO_FILL, ZERO_STUFFED
from kspacesr_rt.graph.sample_coefficients import SAMPLES
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.kspace.real_band import coefficient_count
from kspacesr_rt.model.binding import BoundModel, attributes_of
from kspacesr_rt.model.file import INPUT_NAME
from kspacesr_rt.model.spec import OP_DOMAIN

CONVOLUTION, FFT, ACTIVATION = "convolution", "fft", "activation"
REARRANGEMENT, OTHER = "rearrangement", "other"
GROUPS = (CONVOLUTION, FFT, ACTIVATION, REARRANGEMENT, OTHER)
ACTIVATIONS = ("LeakyRelu", "PRelu", "Relu", "Tanh", "Sigmoid", "Clip")
REARRANGEMENTS = (
    *("SpaceToDepth", "DepthToSpace", "Reshape", "Transpose", "Concat", "Split", "Slice"),
    *("Gather", "Pad", "Squeeze", "Unsqueeze", "Expand", "Identity", "Flatten"),
)
TYPE_CHANGES = ("Cast", "QuantizeLinear", "DequantizeLinear")
"""Runtimes compute them inside the convolutions that need them; they belong to those."""
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2")
REAL_TRANSFORMS = ("RealFFT2c", "RealIFFT2c")
PROJECTIONS = (ZERO_FILL, PROJECTION)
"""FFT layers of two products each, whose result is put together by what takes it."""
NO_LAYERS = ("Identity", ZERO_STUFFED)
"""What moves nothing and computes nothing: a name, and zeros that a difference leaves out."""
FLOAT_BYTES = 4
FFT_FLOP = 5.0
"""Operations of a fast transform of N complex samples: 5 N log2 N, the customary count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """One node of a bound model's graph."""

    name: str
    group: str
    """One of `GROUPS`."""
    flop: float
    """For one slice."""
    input_bytes: float
    """The slice's own input; when a layer is fused into the one that makes it, not moved."""
    extra_bytes: float
    """Its other inputs that depend on the slice."""
    weight_bytes: float
    """Constants, once a call."""
    output_bytes: float

    def bytes(self, batch: int) -> float:
        """Return what moves for one slice, weights shared by the slices of a call."""
        own = self.input_bytes + self.extra_bytes + self.output_bytes
        return own + self.weight_bytes / batch


def layer_costs(model: BoundModel, *, in_phases: bool = False) -> list[LayerCost]:
    """Count every layer of a bound model, in the order of its graph.

    Parameters
    ----------
    model
        Bound to a matrix.
    in_phases
        Count FFT layers between real images as `kspacesr_rt.graph.phase_transforms` computes
        them.

    Raises
    ------
    ModelFileError
        If the graph has an operator of our domain that this version does not know.
    """
    graph = _Typed.of(model)
    return [_cost(node, graph, model, in_phases) for node in model.proto.graph.node]


def _cost(node: onnx.NodeProto, graph: _Typed, model: BoundModel, in_phases: bool) -> LayerCost:
    group = group_of(node)
    matrix = model.spec.matrix
    if node.op_type in TYPE_CHANGES:
        return LayerCost(
            name=node.name,
            group=group,
            flop=0.0,
            input_bytes=0.0,
            extra_bytes=0.0,
            weight_bytes=0.0,
            output_bytes=0.0,
        )
    inputs = [name for name in node.input if name]
    flowing = [graph.stored_bytes_in(name) for name in inputs if not graph.is_constant(name)]
    weights = sum(graph.stored_bytes_in(name) for name in inputs if graph.is_constant(name))
    flop = _flop(node, graph, matrix, model.spec.lowering)
    beside = _between(node, graph) if node.op_type in PROJECTIONS else 0.0
    if in_phases and node.op_type in REAL_TRANSFORMS:
        flop, weights = _cost_in_phases(attributes_of(node), matrix)
    moves = node.op_type not in NO_LAYERS
    return LayerCost(
        name=node.name,
        group=group,
        flop=flop,
        input_bytes=float(flowing[0]) if flowing and moves else 0.0,
        extra_bytes=float(sum(flowing[1:])) + beside,
        weight_bytes=float(weights),
        output_bytes=sum(graph.stored_bytes_out(name) for name in node.output) if moves else 0.0,
    )


def group_of(node: onnx.NodeProto) -> str:
    """Return the group a node of a bound graph belongs to."""
    if node.domain == OP_DOMAIN:
        return FFT
    if node.op_type == "Conv" or node.op_type in TYPE_CHANGES:
        return CONVOLUTION
    if node.op_type in ACTIVATIONS:
        return ACTIVATION
    return REARRANGEMENT if node.op_type in REARRANGEMENTS else OTHER


def _flop(node: onnx.NodeProto, graph: _Typed, matrix: Matrix, lowering: str) -> float:
    out = graph.samples(node.output[0])
    if node.op_type in REAL_TRANSFORMS:
        return _real_transform_flop(attributes_of(node), matrix)
    if node.op_type in PROJECTIONS:
        return sum(2.0 * k * m * n for m, k, n in _products(node, graph))
    if node.op_type in ("CentreCrop", "CentreFill", SAMPLES, *NO_LAYERS):
        return 0.0
    kind = node.op_type.removeprefix("Corner")
    if kind in ("FFT2c", "IFFT2c"):
        return _transform_flop(attributes_of(node), matrix, kind == "IFFT2c", lowering)
    if node.op_type == "Conv":
        # (out, in / groups, ky, kx) weights, each used once a sample of the output's grid.
        grid = math.prod(graph.shape(node.output[0])[2:])
        return 2.0 * graph.samples(node.input[1]) * grid
    if node.op_type in REDUCTIONS:
        return float(graph.samples(node.input[0]))
    return 0.0 if group_of(node) == REARRANGEMENT else float(out)


def _products(node: onnx.NodeProto, graph: _Typed) -> list[tuple[int, int, int]]:
    """Return rows, terms and columns of both products of a zero-filling or a projection.

    Notes
    -----
    Its constants begin with the left matrix and the right one, or the right one of each phase. A
    phase has its part of the columns, in both products.
    """
    (m, k), (*phases, terms, n) = (graph.shape(name) for name in node.input[1:3])
    (count,) = phases or (1,)
    return [(m, k, count * terms), (m, terms, count * n)]


def _between(node: onnx.NodeProto, graph: _Typed) -> float:
    """Return the bytes that both products hand on, besides what the layer gives.

    What the first gives is written and read again, and read by what puts the result together, if
    that takes both; the constants make both larger than the result.
    """
    (m, _, columns), (_, _, made) = _products(node, graph)
    width = graph.stored_bytes_in(node.input[1]) // graph.samples(node.input[1])
    reads = 3 if node.op_type == PROJECTION else 2
    return float(width * (reads * m * columns + m * made - graph.samples(node.output[0])))


def _transform_flop(values: dict[str, int], matrix: Matrix, inverse: bool, lowering: str) -> float:
    """Count a transform from a ``(y, x)`` grid to a ``(v, u)`` grid.

    Notes
    -----
    Lowered to matrix products, rows come first: ``(2 v, c y) x (c y, x)``, then the columns of both
    parts: ``(v, 2 x) x (2 x, d u)``, with 1 or 2 (real and imaginary) channels `c` in and `d` out;
    two operations a multiplication. The ``dft`` lowering is counted as a fast transform of the grid
    that is transformed: forward the whole input, inverse the whole output.
    """
    y, x = (n * values["input_upscale"] for n in matrix)
    v, u = (n * values["output_upscale"] for n in matrix)
    if lowering == "dft":
        samples = v * u if inverse else y * x
        return FFT_FLOP * samples * math.log2(samples)
    c, d = values["input_channels"], values["channels"]
    return 2.0 * (2 * v) * (c * y) * x + 2.0 * v * (2 * x) * (d * u)


def _real_transform_flop(values: dict[str, int], matrix: Matrix) -> float:
    """Count a transform between a ``(y, x)`` image and ``(v, u)`` real coefficients.

    Notes
    -----
    Forward ``(v, y) x (y, x)`` and ``(v, x) x (x, u)``; the inverse is its transpose.
    """
    finer = max(values["input_upscale"], values["output_upscale"])
    (y, x), (v, u) = (n * finer for n in matrix), map(coefficient_count, matrix)
    return 2.0 * v * y * x + 2.0 * v * x * u


def _cost_in_phases(values: dict[str, int], matrix: Matrix) -> tuple[float, int]:
    """Count the same on the `s * s` phases of the finer grid: operations, and bytes of constants.

    Notes
    -----
    All but one of the `s` phases of an axis cost a product: of rows with ``(m, y)`` matrices for
    each phase of the columns, of columns with one ``(x, m')`` matrix; an even axis has one
    coefficient `m` more than samples. What the lines of even axes need besides is a hundredth.
    """
    upscale = max(values["input_upscale"], values["output_upscale"])
    (y, x), (v, u) = matrix, (n + 1 - n % 2 for n in matrix)
    products = upscale - 1
    flop = 2.0 * products * (upscale * v * y * x + v * x * u)
    return flop, products * (v * y + u * x) * FLOAT_BYTES


class _Typed:
    """Shapes and types of every value of a bound graph, for one slice."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._values = {
            value.name: value.type.tensor_type
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._constants = {item.name: item for item in graph.initializer}
        self._producer = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    @classmethod
    def of(cls, model: BoundModel) -> _Typed:
        """Infer them; the layers of our domain say themselves what they give."""
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        matrix = model.spec.matrix
        for value in proto.graph.input:
            if value.name == INPUT_NAME:
                value.type.tensor_type.shape.dim[0].dim_value = 1
        del proto.graph.value_info[:]
        types = {item.name: item.data_type for item in proto.graph.initializer}
        for node in proto.graph.node:
            if node.domain == OP_DOMAIN:
                values = attributes_of(node)
                rows, columns = (n * values["output_upscale"] for n in matrix)
                # Crops, fills and spectra keep both channels of complex k-space.
                shape: tuple[int, ...] = (1, values.get("channels", 2), rows, columns)
                kind = TensorProto.FLOAT
                if node.op_type in REAL_TRANSFORMS:
                    kind = types[node.input[-1]]  # which they compute in
                    shape = (1, 1, rows, columns)
                if node.op_type in PROJECTIONS:
                    kind = types[node.input[1]]
                    shape = (1, 1, rows, columns)
                if node.op_type in (ZERO_STUFFED, PROJECTION):
                    phases = values["output_upscale"] ** 2
                    shape = (1, phases, *matrix)
                if node.op_type in ("RealFFT2c", SAMPLES):
                    shape = (1, 1, *(coefficient_count(n) for n in matrix))
                proto.graph.value_info.append(
                    helper.make_tensor_value_info(node.output[0], kind, shape)
                )
        del proto.functions[:]  # their bodies need not be followed
        return cls(shape_inference.infer_shapes(proto, data_prop=True).graph)

    def is_constant(self, name: str) -> bool:
        """Say whether a value is a weight, seen through changes of type."""
        return self._origin(name) in self._constants

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a value's shape for one slice; what is not known counts as 1."""
        if name in self._constants:
            return tuple(self._constants[name].dims)
        origin = name if name in self._values else self._origin(name)
        if origin in self._constants:
            return tuple(self._constants[origin].dims)
        if origin not in self._values:
            return ()
        return tuple(max(dim.dim_value, 1) for dim in self._values[origin].shape.dim)

    def samples(self, name: str) -> int:
        """Return how many elements a value has."""
        return math.prod(self.shape(name))

    def stored_bytes_in(self, name: str) -> int:
        """Return the bytes of an input as it is stored: before a convolution widens it."""
        return self.samples(name) * self._width(self._origin(name))

    def stored_bytes_out(self, name: str) -> int:
        """Return the bytes of an output as it is stored: after what alone takes it narrows it."""
        taken = self._consumers.get(name, [])
        if len(taken) == 1 and taken[0].op_type in TYPE_CHANGES:
            narrowed = taken[0].output[0]
            return self.samples(name) * min(self._width(name), self._width(narrowed))
        return self.samples(name) * self._width(name)

    def _origin(self, name: str) -> str:
        """Follow a value back through changes of type, while they widen."""
        node = self._producer.get(name)
        if node is None or node.op_type not in TYPE_CHANGES:
            return name
        before = self._origin(node.input[0])
        return before if self._width(before) <= self._width(name) else name

    def _width(self, name: str) -> int:
        """Return the bytes of an element."""
        if name in self._constants:
            kind = self._constants[name].data_type
        elif name in self._values:
            kind = self._values[name].elem_type
        else:
            return 4
        if kind == TensorProto.UNDEFINED:
            return 4
        return max(int(helper.tensor_dtype_to_np_dtype(kind).itemsize), 1)
