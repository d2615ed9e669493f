"""What a bound graph will hold while it runs: found from its shapes before a runtime sees it.

A few bytes of graph can make gigabytes: a constant of any shape, an image repeated, two vectors
broadcast against each other. A runtime does so while it runs, or already while it folds constants
as it loads. So every value's shape is inferred first, node by node with ONNX's own rules, through
the bodies of functions, for the bound matrix and a batch of any size; what is too large for the
SR image is refused, and so is what has no size yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, TypeProto, helper

from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.graph_lengths import Scope, follow, keep
from kspacesr_rt.plain_text import shortened
from kspacesr_rt.spec import OP_DOMAIN, ModelSpec

LARGEST_VALUE = 256
"""float32 per SR sample that one value of the graph may hold. SR_kspace's 64 channels at the SR
matrix are 64; the shipped models need 16 at most."""
LARGEST_SUM = 4096
"""float32 per SR sample that all values may hold together: a runtime may keep every one, though it
hardly ever does. The shipped models need 550, a network of 128 channels in 4 cascades 1800."""
LARGEST_COLUMNS = 8192
"""Samples under a convolution's kernel, over all of its outputs, per SR sample: a runtime that
computes it as one matrix product copies them. SR_kspace's last layer has 5184."""
FINEST = 4
"""SR samples per LR sample and axis that the limits count: a network that upscales by more has few
channels there, and `upscale` is a number in the file of a stranger."""
SMALLEST_IMAGE = 2**16
"""SR samples that a smaller image is judged as: weights are worked on at any matrix."""
MOST_STEPS = 20_000
"""Nodes with those of each call's function: 5000 calls of 5000 nodes are few nodes in a file. The
shipped models have 80, a `dynamic` file of 8 cascades 3000."""

_BATCH = "batch"
_PLAIN = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape"),
        *("Conv", "Cos", "DFT", "DepthToSpace", "DequantizeLinear", "Div", "Equal", "Erf", "Exp"),
        *("Expand", "Flatten", "Floor", "Gather", "Gelu", "Gemm", "Greater", "GreaterOrEqual"),
        *("Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min"),
        *("Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "Range"),
        *("Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu"),
        *("Reshape", "Resize", "Round", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax"),
        *("SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose"),
        *("Unsqueeze", "Where"),
    }
)
"""Operators that need no more memory than what they take and give. Others (ConvTranspose, Einsum,
RoiAlign) work in buffers that no shape of a value tells of. Export writes fewer than these."""
_FAULTS = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError),
    *(onnx.shape_inference.InferenceError, onnx.defs.SchemaError),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphMemory:
    """What the values of a bound graph hold, for one slice."""

    total_bytes: int
    """All values together, without initialisers."""
    largest_bytes: int
    """The largest value."""


def require_bounded(proto: onnx.ModelProto, spec: ModelSpec, name: str) -> GraphMemory:
    """Check that a bound graph needs no more memory than an image of its size explains.

    Parameters
    ----------
    proto
        As bound.
    spec
        Its `matrix` is the one bound to.
    name
        Of the file, for messages.

    Raises
    ------
    ModelFileError
        If a value, or all of them, are larger than `LARGEST_VALUE` and `LARGEST_SUM` allow, if the
        size of one cannot be told or grows faster than the batch; the node is named.
    """
    return _Walk(proto, spec, name).memory()


class _Walk:
    """Goes through a graph in its order and weighs every value."""

    def __init__(self, proto: onnx.ModelProto, spec: ModelSpec, name: str) -> None:
        self._proto, self._spec, self._name = proto, spec, name
        self._bodies = {body.name: body for body in proto.functions}
        finest = min(spec.upscale, FINEST)
        rows, columns = (finest * length for length in spec.matrix)
        if spec.lowering == "dynamic":  # its graph makes a square matrix for each axis
            rows = columns = max(rows, columns)
        self._samples = max(rows * columns, SMALLEST_IMAGE)
        self._total = self._largest = self._steps = 0

    def memory(self) -> GraphMemory:
        graph = self._proto.graph
        try:
            scope = Scope(opset=_opset(self._proto.opset_import))
        except ValueError as exc:
            raise self._refusal("states the version of ONNX's operators not once") from exc
        source = graph.input[0]
        scope.types[source.name] = self._image(source.type.tensor_type)
        for item in graph.initializer:
            self._require_new(item.name, scope)
            scope.types[item.name] = helper.make_tensor_type_proto(item.data_type, item.dims)
            keep(scope, item.name, item)
        for node in graph.node:
            where = f"node '{shortened(node.name or node.op_type, 80)}'"
            try:
                if node.domain == OP_DOMAIN:
                    self._call(node, scope, where)
                else:
                    self._one(node, scope, f"{where} ({shortened(node.op_type, 40)})")
            except _FAULTS as exc:
                if isinstance(exc, ModelFileError):
                    raise
                raise self._refusal(
                    f"the size of what {where} makes cannot be told ({type(exc).__name__})"
                ) from exc
        return GraphMemory(total_bytes=self._total, largest_bytes=self._largest)

    def _image(self, declared: TypeProto.Tensor) -> TypeProto:
        axes = declared.shape.dim
        if declared.elem_type != TensorProto.FLOAT or axes[0].HasField("dim_value"):
            raise self._refusal("its input is no float32 image (n, 1, y, x) with n left open")
        if axes[1].dim_value != 1:
            raise self._refusal("its input has more than one channel")
        return helper.make_tensor_type_proto(TensorProto.FLOAT, [_BATCH, 1, *self._spec.matrix])

    def _call(self, node: onnx.NodeProto, scope: Scope, where: str) -> None:
        """Walk through the body of a function, with the call's inputs and attributes."""
        body = self._bodies[node.op_type]
        inner = Scope(opset=_opset(body.opset_import))
        for formal, actual in zip(body.input, node.input, strict=False):
            for values in ("types", "known", "given"):
                if actual in getattr(scope, values):
                    getattr(inner, values)[formal] = getattr(scope, values)[actual]
        attributes = {item.name: item for item in node.attribute}
        for step in body.node:
            inside = f"{where} ({shortened(node.op_type, 40)}, its {shortened(step.op_type, 40)})"
            self._one(_with_attributes(step, attributes), inner, inside)
        for formal, actual in zip(body.output, node.output, strict=False):
            self._require_new(actual, scope)
            scope.types[actual] = inner.types[formal]
            for values in ("known", "given"):
                if formal in getattr(inner, values):
                    getattr(scope, values)[actual] = getattr(inner, values)[formal]

    def _one(self, node: onnx.NodeProto, scope: Scope, where: str) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise self._refusal(f"its functions unfold into more than {MOST_STEPS} nodes")
        if node.op_type not in _PLAIN:
            raise self._refusal(f"{where} is of an operator whose memory cannot be bounded")
        schema = onnx.defs.get_schema(node.op_type, scope.opset, "")
        used = [name for name in node.input if name]
        types = {name: scope.types[name] for name in used}
        given = {name: scope.given[name] for name in used if name in scope.given}
        opsets = [helper.make_opsetid("", scope.opset)]
        try:
            made = onnx.shape_inference.infer_node_outputs(
                schema, node, types, given, opset_imports=opsets
            )
        except _FAULTS as exc:
            raise self._refusal(
                f"the size of what {where} makes cannot be told ({type(exc).__name__})"
            ) from exc
        if node.op_type == "Conv":
            self._require_few_columns(types[node.input[1]], made.get(node.output[0]), where)
        for output in node.output:
            if output:
                self._weigh(made.get(output), where)
                self._require_new(output, scope)
                scope.types[output] = made[output]
        follow(node, scope)

    def _require_new(self, value: str, scope: Scope) -> None:
        """Refuse a second value of one name: which of them a runtime takes is its own affair."""
        if value in scope.types:
            raise self._refusal(f"has more than one value '{shortened(value, 80)}'")

    def _weigh(self, made: TypeProto | None, where: str) -> None:
        size = self._elements(made, where) * self._width(made, where)
        self._total += size
        self._largest = max(self._largest, size)
        for what, found, limit in (
            (f"{where} makes a value of", size, LARGEST_VALUE),
            (f"the values up to {where} together have", self._total, LARGEST_SUM),
        ):
            if found > 4 * limit * self._samples:
                raise self._refusal(
                    f"{what} {_megabytes(found)} a slice; for {self._for()}, "
                    f"{_megabytes(4 * limit * self._samples)} are allowed"
                )

    def _require_few_columns(self, kernel: TypeProto, made: TypeProto | None, where: str) -> None:
        channels, *taps = self._lengths(kernel)[1:]
        if math.prod(taps) == 1:
            return  # a product as it is
        outputs = self._elements(made, where) // max(1, self._lengths(kernel)[0])
        if outputs * channels * math.prod(taps) > LARGEST_COLUMNS * self._samples:
            raise self._refusal(f"{where} has a kernel too large for {self._for()}")

    def _elements(self, made: TypeProto | None, where: str) -> int:
        """Count the elements of a value for a batch of one; it may grow with the batch, once."""
        if made is None or not made.tensor_type.HasField("shape"):
            raise self._refusal(f"the size of what {where} makes cannot be told")
        axes = made.tensor_type.shape.dim
        along_batch = [axis for axis in axes if axis.dim_param == _BATCH]
        known = [axis.dim_value for axis in axes if axis.HasField("dim_value")]
        if len(known) + len(along_batch) < len(axes) or any(length < 0 for length in known):
            raise self._refusal(f"the size of what {where} makes cannot be told")
        if len(along_batch) > 1:
            raise self._refusal(f"what {where} makes grows with the square of the batch")
        return math.prod(known)

    def _width(self, made: TypeProto | None, where: str) -> int:
        """Return the bytes of an element; a runtime may widen those of fewer than four."""
        kind = made.tensor_type.elem_type if made is not None else TensorProto.UNDEFINED
        if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
            raise self._refusal(f"what {where} makes is no number")
        return max(4, int(helper.tensor_dtype_to_np_dtype(kind).itemsize))

    @staticmethod
    def _lengths(value: TypeProto) -> list[int]:
        return [axis.dim_value for axis in value.tensor_type.shape.dim]

    def _for(self) -> str:
        rows, columns = self._spec.sr_matrix(self._spec.matrix)
        return f"an image of {rows} x {columns}"

    def _refusal(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self._name}: {what}", hint="no export writes such a graph: use no file of strangers"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    [version] = [int(one.version) for one in imports if one.domain in ("", "ai.onnx")]
    return version


def _with_attributes(
    node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]
) -> onnx.NodeProto:
    """Return a node of a body with the values of the call it stands in."""
    if not any(item.ref_attr_name for item in node.attribute):
        return node
    made = onnx.NodeProto()
    made.CopyFrom(node)
    del made.attribute[:]
    for item in node.attribute:
        if not item.ref_attr_name:
            made.attribute.append(item)
        elif item.ref_attr_name in given:
            made.attribute.add().CopyFrom(given[item.ref_attr_name])
            made.attribute[-1].name = item.name
    return made
