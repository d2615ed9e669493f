"""What a bound graph will hold while it runs: found from its shapes before a runtime sees it.

A few bytes of graph can make gigabytes: a constant of any shape, an image repeated, two vectors
broadcast against each other. A runtime does so while it runs, or already while it folds constants
as it loads. So every value's shape is inferred first, node by node with ONNX's own rules, through
the bodies of functions, for the bound matrix and a batch of any size; what is too large for the
SR image is refused, and so is what has no size yet.

A batch of any size: the graph is walked twice, for batches of two prime numbers of slices. An axis
that is equally long in both is fixed; the others must be so many samples a slice, and what integers
in the graph follow from the batch by anything but sums and whole multiples is not followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, TypeProto, helper

from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model.graph_buffers import PLAIN, buffer_of
from kspacesr_rt.model.graph_lengths import Numbers, Scope, follow, given, keep
from kspacesr_rt.model.spec import OP_DOMAIN, ModelSpec
from kspacesr_rt.system.plain_text import shortened

LARGEST_VALUE = 1024
"""float32 per SR sample that one value of the graph may hold. SR_kspace's 64 channels at the SR
matrix are 64, the shipped models need 16 at most; the scores of attention in windows of 24 x 24
samples, in six heads, are 860 at x2."""
LARGEST_SUM = 4096
"""float32 per SR sample that the values alive at a time may hold together, and with them whatever
follows from constants alone: a runtime computes that as it loads, and keeps it. The shipped models
need 40."""
LARGEST_COLUMNS = 8192
"""Samples under a convolution's kernel, over all of its outputs, per SR sample: a runtime that
computes it as one matrix product copies them. SR_kspace's last layer has 5184."""
FINEST = 4
"""SR samples per LR sample and axis that the limits count: a network that upscales by more has few
channels there, and `upscale` is a number in the file of a stranger."""
SMALLEST_IMAGE = 2**16
"""SR samples that a smaller image is judged as: weights are worked on at any matrix."""
MOST_STEPS = 60_000
"""Nodes with those of each call's function: 5000 calls of 5000 nodes are few nodes in a file. The
shipped models have 80, a `dynamic` file of 8 cascades 3000, a transformer of 36 blocks 9000."""
LONGEST_KEY = 4096
"""Bytes of a node of which is kept what it makes: of a large constant they would be many."""
BATCHES = (10007, 10009)
"""Slices of the two batches that a graph is walked for: primes, so that no length is a multiple of
one by chance."""

_FAULTS = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError),
    *(onnx.shape_inference.InferenceError, onnx.defs.SchemaError, onnx.checker.ValidationError),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphMemory:
    """What the values of a bound graph hold, for one slice."""

    total_bytes: int
    """The most that is alive at a time, without initialisers."""
    largest_bytes: int
    """The largest value."""
    integers: dict[str, npt.NDArray[Any]]
    """Small arrays of integers that nodes make, the same for every batch: lengths, indices."""
    lengths: dict[str, Numbers]
    """Lengths of the axes of every value of the graph."""


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


@dataclass(slots=True)
class _Value:
    """A value on its way through the graph."""

    size: int
    """Bytes, of one slice."""
    made: int
    """Step that makes it."""
    where: str
    last: int
    """Step that reads it last."""
    constant: bool
    """Whether it follows from constants alone, so that a runtime folds and keeps it."""


class _Walk:
    """Goes through a graph in its order and weighs every value."""

    def __init__(self, proto: onnx.ModelProto, spec: ModelSpec, name: str) -> None:
        self._proto, self._spec, self._name = proto, spec, name
        self._bodies = {body.name: body for body in proto.functions}
        finest = min(spec.upscale, FINEST)
        rows, columns = (finest * length for length in spec.network_matrix(spec.matrix))
        if spec.lowering == "dynamic":  # its graph makes a square matrix for each axis
            rows = columns = max(rows, columns)
        coils = max(spec.coils, 1)
        self._samples = max(rows * columns, SMALLEST_IMAGE) * coils
        self._batches = (1,) if spec.single_slice else BATCHES
        self._values: list[_Value] = []
        self._steps = 0
        self._results: dict[tuple[object, ...], dict[str, TypeProto]] = {}
        """What nodes make of inputs: bodies of functions are the same in many calls."""

    def memory(self) -> GraphMemory:
        graph = self._proto.graph
        try:
            scope = Scope(opset=_opset(self._proto.opset_import))
        except ValueError as exc:
            raise self._refusal("states the version of ONNX's operators not once") from exc
        self._take_image(graph.input[0], scope)
        for item in graph.initializer:
            self._require_new(item.name, scope)
            made = helper.make_tensor_type_proto(item.data_type, item.dims)
            scope.types[item.name] = (made,) * len(self._batches)
            scope.lengths[item.name] = Numbers.of(np.asarray(item.dims, np.int64))
            scope.ids[item.name] = self._new_value("", 0, constant=True)
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
        self._steps += 1
        for output in graph.output:
            self._read(output.name, scope)
        return GraphMemory(
            total_bytes=self._most_at_a_time(),
            largest_bytes=max((value.size for value in self._values), default=0),
            integers={
                name: numbers.fixed
                for name, numbers in scope.known.items()
                if numbers.fixed.dtype.kind == "i" and not numbers.follow_batch
            },
            lengths=scope.lengths,
        )

    def _take_image(self, value: onnx.ValueInfoProto, scope: Scope) -> None:
        declared, spec = value.type.tensor_type, self._spec
        first, *others = declared.shape.dim
        kind = "image (n, 1, y, x)" if spec.input == "image" else "k-space (n, 2, ky, kx)"
        if declared.elem_type != TensorProto.FLOAT:
            raise self._refusal(f"its input is no float32 {kind}")
        if spec.single_slice != (first.dim_value == 1) or first.dim_value > 1:
            raise self._refusal(
                "its input is said to be one slice at a time, and is not"
                if spec.single_slice
                else f"its input is no float32 {kind} with n left open"
            )
        axes = tuple(one.dim_value for one in others[: len(spec.input_axes)])
        if axes != spec.input_axes:
            raise self._refusal(f"its input has more than one channel: {axes}")
        lengths = [*axes, *spec.matrix]
        scope.types[value.name] = tuple(
            helper.make_tensor_type_proto(TensorProto.FLOAT, [batch, *lengths])
            for batch in self._batches
        )
        fixed = [1 if spec.single_slice else 0, *lengths]
        per_slice = [0 if spec.single_slice else 1, *(0 for _ in lengths)]
        scope.lengths[value.name] = Numbers(np.asarray(fixed), np.asarray(per_slice))
        scope.ids[value.name] = self._new_value("", 0, constant=False)

    def _call(self, node: onnx.NodeProto, scope: Scope, where: str) -> None:
        """Walk through the body of a function, with the call's inputs and attributes."""
        body = self._bodies[node.op_type]
        inner = Scope(opset=_opset(body.opset_import))
        for formal, actual in zip(body.input, node.input, strict=False):
            _pass_on(scope, actual, inner, formal)
        attributes = {item.name: item for item in node.attribute}
        for step in body.node:
            inside = f"{where} ({shortened(node.op_type, 40)}, its {shortened(step.op_type, 40)})"
            self._one(_with_attributes(step, attributes), inner, inside)
        for formal, actual in zip(body.output, node.output, strict=False):
            self._require_new(actual, scope)
            _pass_on(inner, formal, scope, actual)
            if actual not in scope.types:
                raise LookupError(actual)

    def _one(self, node: onnx.NodeProto, scope: Scope, where: str) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise self._refusal(f"its functions unfold into more than {MOST_STEPS} nodes")
        if node.op_type not in PLAIN:
            raise self._refusal(f"{where} is of an operator whose memory cannot be bounded")
        used = [name for name in node.input if name]
        constant = all(self._read(name, scope).constant for name in used)
        made = [
            self._inferred(node, used, scope, number, where) for number in range(len(self._batches))
        ]
        for position, output in enumerate(node.output):
            if not output:
                continue
            types = tuple(one.get(output) for one in made)
            lengths = self._lengths(types, where)
            if position == 0:
                self._require_whole_batch(node, used, lengths, scope, where)
                self._require_small_buffer(node, used, lengths, scope, where)
            self._require_new(output, scope)
            size = self._count(lengths, where) * self._width(types[0], where)
            scope.types[output] = tuple(one for one in types if one is not None)
            scope.lengths[output] = lengths
            scope.ids[output] = self._new_value(where, size, constant=constant)
            self._require_small(f"{where} makes a value of", size, LARGEST_VALUE)
        follow(node, scope)

    def _inferred(
        self, node: onnx.NodeProto, used: list[str], scope: Scope, number: int, where: str
    ) -> dict[str, TypeProto]:
        """Infer what a node makes, for one of the batches, once for the same inputs."""
        if node.ByteSize() > LONGEST_KEY:
            return self._infer(node, used, scope, number, where)
        slices = self._batches[number]
        types = [scope.types[name][number].SerializeToString(deterministic=True) for name in used]
        known = [
            (name, scope.known[name].for_batch(slices)) for name in used if name in scope.known
        ]
        key = (
            *(scope.opset, node.SerializeToString(deterministic=True), *types),
            *((name, one.dtype.str, one.shape, one.tobytes()) for name, one in known),
        )
        if key not in self._results:
            self._results[key] = self._infer(node, used, scope, number, where)
        return self._results[key]

    def _infer(
        self, node: onnx.NodeProto, used: list[str], scope: Scope, number: int, where: str
    ) -> dict[str, TypeProto]:
        schema = onnx.defs.get_schema(node.op_type, scope.opset, "")
        types = {name: scope.types[name][number] for name in used}
        numbers = given(scope, used, self._batches[number])
        opsets = [helper.make_opsetid("", scope.opset)]
        try:
            made: dict[str, TypeProto] = onnx.shape_inference.infer_node_outputs(
                schema, node, types, numbers, opset_imports=opsets
            )
        except _FAULTS as exc:
            raise self._refusal(
                f"the size of what {where} makes cannot be told ({type(exc).__name__})"
            ) from exc
        return made

    def _lengths(self, types: Sequence[TypeProto | None], where: str) -> Numbers:
        """Return the lengths of a value: fixed, or so many samples for every slice."""
        found: list[list[int]] = []
        for one in types:
            if one is None or not one.tensor_type.HasField("shape"):
                raise self._refusal(f"the size of what {where} makes cannot be told")
            axes = one.tensor_type.shape.dim
            if not all(axis.HasField("dim_value") and axis.dim_value >= 0 for axis in axes):
                raise self._refusal(f"the size of what {where} makes cannot be told")
            found.append([axis.dim_value for axis in axes])
        first, last = found[0], found[-1]
        if first == last:
            return Numbers.of(np.asarray(first, np.int64))
        if len(first) != len(last):
            raise self._refusal(f"the size of what {where} makes cannot be told for every batch")
        fixed, per_slice = np.zeros((2, len(first)), np.int64)
        for axis, (length, other) in enumerate(zip(first, last, strict=True)):
            if length == other:
                fixed[axis] = length
                continue
            per_slice[axis] = grows = length // self._batches[0]
            if (grows * self._batches[0], grows * self._batches[-1]) != (length, other):
                raise self._refusal(
                    f"the size of what {where} makes cannot be told for every batch"
                )
        return Numbers(fixed, per_slice)

    def _require_whole_batch(
        self, node: onnx.NodeProto, used: list[str], made: Numbers, scope: Scope, where: str
    ) -> None:
        """Refuse what would be as long as the batch up to some number of slices."""
        source = scope.lengths[used[0]] if used else made
        # A list of lengths may be taken apart, though the batch is one of them.
        deciding = used[1:] if node.op_type == "Slice" else used
        bounds = any(scope.known[name].follow_batch for name in deciding if name in scope.known)
        if node.op_type == "Slice" and (
            made.per_slice.tolist() != source.per_slice.tolist()
            or (bounds and made.fixed.tolist() != source.fixed.tolist())
        ):
            raise self._refusal(f"{where} takes a part of the batch")
        if node.op_type == "Range" and bounds and not made.follow_batch:
            raise self._refusal(f"the size of what {where} makes cannot be told for every batch")

    def _require_small_buffer(
        self, node: onnx.NodeProto, used: list[str], made: Numbers, scope: Scope, where: str
    ) -> None:
        sizes: list[list[int]] = []
        limit = ""
        for number in self._batches:
            inputs = [[int(one) for one in scope.lengths[name].for_batch(number)] for name in used]
            output = [int(one) for one in made.for_batch(number)]
            limit, buffer = buffer_of(node, inputs, output)
            if not sizes and not buffer:
                return
            sizes.append(buffer)
        kinds = [helper.make_tensor_type_proto(TensorProto.FLOAT, lengths) for lengths in sizes]
        count = self._count(self._lengths(kinds, where), where)
        if limit == "value":
            self._require_small(f"{where} works in a buffer of", 4 * count, LARGEST_VALUE)
        elif count > LARGEST_COLUMNS * self._samples:
            raise self._refusal(f"{where} has a kernel too large for {self._for()}")

    def _require_new(self, value: str, scope: Scope) -> None:
        """Refuse a second value of one name: which of them a runtime takes is its own affair."""
        if value in scope.types:
            raise self._refusal(f"has more than one value '{shortened(value, 80)}'")

    def _new_value(self, where: str, size: int, *, constant: bool) -> int:
        self._values.append(_Value(size, self._steps, where, self._steps, constant))
        return len(self._values) - 1

    def _read(self, name: str, scope: Scope) -> _Value:
        value = self._values[scope.ids[name]]
        value.last = self._steps
        return value

    def _most_at_a_time(self) -> int:
        """Return the most bytes that are alive at a time, refusing more than is allowed."""
        change = [0] * (self._steps + 2)
        at_step = {value.made: value.where for value in self._values}
        for value in self._values:
            change[value.made] += value.size
            if not value.constant:
                change[value.last + 1] -= value.size
        alive = most = 0
        for step, difference in enumerate(change):
            alive += difference
            most = max(most, alive)
            where = at_step.get(step, "its end")
            self._require_small(f"the values up to {where} together have", alive, LARGEST_SUM)
        return most

    def _require_small(self, what: str, size: int, limit: int) -> None:
        if size > 4 * limit * self._samples:
            raise self._refusal(
                f"{what} {_megabytes(size)} a slice; for {self._for()}, "
                f"{_megabytes(4 * limit * self._samples)} are allowed"
            )

    def _count(self, lengths: Numbers, where: str) -> int:
        """Count the elements of a value for a batch of one; it may grow with the batch, once."""
        if np.count_nonzero(lengths.per_slice) > 1:
            raise self._refusal(f"what {where} makes grows with the square of the batch")
        return math.prod(int(one) for one in lengths.fixed + lengths.per_slice)

    def _width(self, made: TypeProto | None, where: str) -> int:
        """Return the bytes of an element; a runtime may widen those of fewer than four."""
        kind = made.tensor_type.elem_type if made is not None else TensorProto.UNDEFINED
        if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
            raise self._refusal(f"what {where} makes is no number")
        return max(4, int(helper.tensor_dtype_to_np_dtype(kind).itemsize))

    def _for(self) -> str:
        rows, columns = self._spec.sr_matrix(self._spec.matrix)
        return f"an image of {rows} x {columns}"

    def _refusal(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self._name}: {what}", hint="no export writes such a graph: use no file of strangers"
        )


def _pass_on(source: Scope, name: str, target: Scope, new_name: str) -> None:
    """Let a value have another name in another scope."""
    for values in ("types", "lengths", "known", "ids"):
        if name in getattr(source, values):
            getattr(target, values)[new_name] = getattr(source, values)[name]


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
