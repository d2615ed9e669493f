"""The numbers in a graph that shapes further down follow from: lengths, indices, pads, scales.

ONNX infers the shape of a node from constants. Where a shape is computed in the graph, as in a
file that takes any matrix, the small arrays on the way are computed here, so that there are
constants. What follows from the batch, which is open, is carried as so much, and so much more for
every slice; what would follow in any other way (a comparison, a quotient with a remainder) is not
known, so that no graph can be small for one batch and large for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper

SMALL = 1024
"""Elements up to which numbers are followed through the graph: shapes, lengths, indices."""
LARGEST_PER_SLICE = 2**40
"""Of a number that grows with the batch: beyond, 64 bits might not hold it."""
_FOLLOWED_TYPES = {
    *(TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT),
    TensorProto.DOUBLE,
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """A small array: of a batch of n slices, ``fixed + n * per_slice``."""

    fixed: npt.NDArray[Any]
    """In the type that the graph has it in."""
    per_slice: npt.NDArray[np.int64]
    """Of the same shape."""

    @classmethod
    def of(cls, fixed: npt.NDArray[Any]) -> Numbers:
        """Return numbers that do not follow from the batch."""
        return cls(fixed, np.zeros(fixed.shape, np.int64))

    @property
    def follow_batch(self) -> bool:
        """Whether any of them is another for another batch."""
        return bool(np.count_nonzero(self.per_slice))  # a tenth of the time of any()

    def for_batch(self, slices: int) -> npt.NDArray[Any]:
        """Return the array of a batch."""
        if not self.follow_batch:
            return self.fixed
        return (self.fixed + slices * self.per_slice).astype(self.fixed.dtype)


@dataclass(kw_only=True, slots=True)
class Scope:
    """The values of a graph, or of one call of a function."""

    opset: int
    types: dict[str, tuple[TypeProto, ...]] = field(default_factory=dict)
    """Type and shape for each of the batches that the graph is walked for."""
    lengths: dict[str, Numbers] = field(default_factory=dict)
    """Lengths of a value's axes."""
    known: dict[str, Numbers] = field(default_factory=dict)
    """Small arrays whose numbers are known."""
    ids: dict[str, int] = field(default_factory=dict)
    """Names to values: a call's own names are others for the values it is given."""


def keep(scope: Scope, name: str, constant: TensorProto) -> None:
    """Remember a constant, if it is small enough to be a shape."""
    if math.prod(constant.dims) <= SMALL and constant.data_type in _FOLLOWED_TYPES:
        scope.known[name] = Numbers.of(numpy_helper.to_array(constant))


def given(scope: Scope, names: Sequence[str], slices: int) -> dict[str, TensorProto]:
    """Return what is known of some values, as shape inference reads it, for a batch."""
    return {
        name: numpy_helper.from_array(np.array(scope.known[name].for_batch(slices)))
        for name in names
        if name in scope.known
    }


def follow(node: onnx.NodeProto, scope: Scope) -> None:
    """Compute what a node makes of small arrays; its types must be in the scope already."""
    output = node.output[0]
    if node.op_type == "Constant":
        constant = _constant(node)
        if constant is not None:
            keep(scope, output, constant)
        return
    compute = _FOLLOWED.get(node.op_type)
    kind = scope.types[output][0].tensor_type.elem_type
    lengths = scope.lengths.get(output)
    if compute is None or kind not in _FOLLOWED_TYPES or lengths is None or lengths.follow_batch:
        return
    shape = [int(length) for length in lengths.fixed]
    if math.prod(shape) > SMALL:
        return
    if node.op_type in ("Shape", "Size"):
        inputs = [scope.lengths[node.input[0]]]
    elif all(name in scope.known for name in node.input if name) and node.input and node.input[0]:
        inputs = [scope.known[name] for name in node.input if name]
    else:
        return
    with np.errstate(all="ignore"):
        made = compute(node, inputs, shape)
    if made is None or list(made.fixed.shape) != shape:
        return
    if made.follow_batch and (
        kind != TensorProto.INT64
        or np.abs(made.per_slice).max() > LARGEST_PER_SLICE
        or np.abs(made.fixed.astype(np.float64)).max() > LARGEST_PER_SLICE
    ):
        return
    fixed = made.fixed.astype(helper.tensor_dtype_to_np_dtype(kind))
    scope.known[output] = Numbers(fixed, made.per_slice.astype(np.int64))


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return value if isinstance(value, TensorProto) else None
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(value, dtype=np.int64))
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(value, dtype=np.float32))
    return None


_Inputs = list[Numbers]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _shape(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    bounds = _attributes(node)
    part = slice(bounds.get("start", 0), bounds.get("end"))
    return Numbers(inputs[0].fixed[part], inputs[0].per_slice[part])


def _size(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    lengths = inputs[0]
    along = np.flatnonzero(lengths.per_slice)
    if len(along) > 1 or lengths.fixed[along].any():
        return None
    others = math.prod(int(one) for one in np.delete(lengths.fixed, along))
    if len(along):
        per_slice = np.asarray(others * int(lengths.per_slice[along[0]]))
        return Numbers(np.asarray(0, np.int64), per_slice)
    return Numbers.of(np.asarray(others, np.int64))


def _each(move: Callable[[Any], Any], of: Numbers) -> Numbers:
    """Move the elements of an array about."""
    return Numbers(move(of.fixed), move(of.per_slice))


def _moved(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    return _each(lambda array: array.reshape(shape), inputs[0])


def _gathered(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    source, index = inputs
    axis = _attributes(node).get("axis", 0)
    if index.follow_batch:
        return None
    return _each(lambda array: np.take(array, index.fixed.astype(np.int64), axis=axis), source)


def _joined(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    axis = _attributes(node)["axis"]
    return Numbers(
        np.concatenate([one.fixed for one in inputs], axis=axis),
        np.concatenate([one.per_slice for one in inputs], axis=axis),
    )


def _sliced(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    source, *bounds = inputs
    if any(one.follow_batch for one in bounds) or len(bounds) + 1 != len(node.input):
        return None
    starts, ends = (one.fixed for one in bounds[:2])
    axes = bounds[2].fixed if len(bounds) > 2 else np.arange(len(starts))
    steps = bounds[3].fixed if len(bounds) > 3 else np.ones(len(starts), np.int64)
    parts: list[slice] = [slice(None)] * source.fixed.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX's end before the first sample, going backwards, is Python's None.
        last = None if step < 0 and end < -source.fixed.shape[axis] else int(end)
        parts[int(axis)] = slice(int(start), last, int(step))
    return _each(lambda array: array[tuple(parts)], source)


def _transposed(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    order = _attributes(node).get("perm")
    return _each(lambda array: np.transpose(array, order), inputs[0])


def _expanded(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    return _each(lambda array: np.broadcast_to(array, shape), inputs[0])


def _filled(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    value = _attributes(node).get("value")
    one = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return Numbers.of(np.broadcast_to(one.reshape(-1)[0], shape))


def _cast(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    kind = helper.tensor_dtype_to_np_dtype(_attributes(node)["to"])
    floats = inputs[0].fixed.dtype.kind == "f"
    if floats and not (np.abs(inputs[0].fixed) < LARGEST_PER_SLICE).all():
        return None  # what an integer of it is, is the processor's affair
    return Numbers(inputs[0].fixed.astype(kind), inputs[0].per_slice)


def _sum(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    left, right = inputs
    return Numbers(left.fixed + right.fixed, left.per_slice + right.per_slice)


def _difference(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    left, right = inputs
    return Numbers(left.fixed - right.fixed, left.per_slice - right.per_slice)


def _product(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    left, right = inputs
    if left.follow_batch and right.follow_batch:
        return None
    if not left.follow_batch and not right.follow_batch:
        return Numbers.of(left.fixed * right.fixed)
    fixed = left.fixed * right.fixed
    return Numbers(fixed, left.per_slice * right.fixed + right.per_slice * left.fixed)


def _quotient(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    left, right = inputs
    if not left.follow_batch and not right.follow_batch:
        if left.fixed.dtype.kind == "f":
            return Numbers.of(left.fixed / right.fixed)
        if not right.fixed.all():
            return None
        # As ONNX does, towards zero.
        signs = np.sign(left.fixed) * np.sign(right.fixed)
        return Numbers.of(signs * (abs(left.fixed) // abs(right.fixed)))
    if not right.follow_batch:
        # So many a slice of so many a slice: without a remainder for any batch, or not known.
        if not right.fixed.all() or (left.fixed % right.fixed).any():
            return None
        if (left.per_slice % right.fixed).any():
            return None
        return Numbers(left.fixed // right.fixed, left.per_slice // right.fixed)
    if left.fixed.any() or right.fixed.any() or not right.per_slice.all():
        return None
    if (left.per_slice % right.per_slice).any():
        return None
    return Numbers.of(left.per_slice // right.per_slice)


def _largest(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    return _chosen(inputs, np.maximum, larger=True)


def _smallest(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    return _chosen(inputs, np.minimum, larger=False)


def _chosen(inputs: _Inputs, compute: Callable[..., Any], *, larger: bool) -> Numbers | None:
    if len(inputs) != 2:
        return None
    left, right = inputs
    if not left.follow_batch and not right.follow_batch:
        return Numbers.of(compute(left.fixed, right.fixed))
    growing, other = (left, right) if left.follow_batch else (right, left)
    # Of one slice it is smallest; what is not larger than that is never larger.
    if other.follow_batch or (growing.per_slice < 0).any():
        return None
    if (other.fixed > growing.fixed + growing.per_slice).any():
        return None
    return growing if larger else other


def _plainly(compute: Callable[..., Any]) -> Callable[..., Numbers | None]:
    """Return a rule for numbers that do not follow from the batch, and for no others."""

    def computed(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
        if any(one.follow_batch for one in inputs):
            return None
        return Numbers.of(np.asarray(compute(*(one.fixed for one in inputs))))

    return computed


def _equal(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    left, right = inputs
    if not left.follow_batch and not right.follow_batch:
        return Numbers.of(np.asarray(left.fixed == right.fixed))
    if (left.per_slice < 0).any() or right.follow_batch:
        return None
    # A number that grows with the batch is never one that is below its smallest.
    grows = left.per_slice > 0
    if (grows & (right.fixed >= left.fixed + left.per_slice)).any():
        return None
    return Numbers.of(np.where(grows, False, left.fixed == right.fixed))


def _where(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    condition, left, right = inputs
    if condition.follow_batch:
        return None
    chosen = condition.fixed.astype(bool)
    return Numbers(
        np.where(chosen, left.fixed, right.fixed),
        np.where(chosen, left.per_slice, right.per_slice),
    )


def _negative(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers:
    return _each(np.negative, inputs[0])


def _power(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    base, exponent = inputs
    whole = base.fixed.dtype.kind == exponent.fixed.dtype.kind == "i"
    # Roots are not the same to the last digit in every library.
    if base.follow_batch or exponent.follow_batch or not whole or (exponent.fixed < 0).any():
        return None
    return Numbers.of(np.power(base.fixed, exponent.fixed))


def _range(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    if any(one.follow_batch for one in inputs):
        return None
    start, _, step = (one.fixed.reshape(()) for one in inputs)
    return Numbers.of(start + step * np.arange(shape[0], dtype=start.dtype))


def _remainder(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
    left, right = inputs
    whole = left.fixed.dtype.kind == right.fixed.dtype.kind == "i"
    if left.follow_batch or right.follow_batch or not whole or not right.fixed.all():
        return None
    compute = np.fmod if _attributes(node).get("fmod", 0) else np.mod
    return Numbers.of(np.asarray(compute(left.fixed, right.fixed)))


def _reduced(compute: Callable[..., Any]) -> Callable[..., Numbers | None]:
    def computed(node: onnx.NodeProto, inputs: _Inputs, shape: list[int]) -> Numbers | None:
        if any(one.follow_batch for one in inputs):
            return None
        values = _attributes(node)
        axes = inputs[1].fixed if len(inputs) > 1 else values.get("axes")
        along = None if axes is None else tuple(int(axis) for axis in np.atleast_1d(axes))
        if along == () and values.get("noop_with_empty_axes", 0):
            return inputs[0]
        keep_axes = bool(values.get("keepdims", 1))
        reduced = compute(inputs[0].fixed, axis=along or None, keepdims=keep_axes)
        return Numbers.of(np.asarray(reduced))

    return computed


_FOLLOWED: dict[str, Callable[[onnx.NodeProto, _Inputs, list[int]], Numbers | None]] = {
    **dict.fromkeys(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"), _moved),
    "Shape": _shape,
    "Size": _size,
    "Gather": _gathered,
    "Concat": _joined,
    "Slice": _sliced,
    "Transpose": _transposed,
    "Expand": _expanded,
    "ConstantOfShape": _filled,
    "Cast": _cast,
    "Add": _sum,
    "Sub": _difference,
    "Mul": _product,
    "Div": _quotient,
    "Max": _largest,
    "Min": _smallest,
    "Neg": _negative,
    "Equal": _equal,
    "Where": _where,
    "Range": _range,
    "Mod": _remainder,
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Sign": _plainly(np.sign),
    "Abs": _plainly(np.abs),
    "Floor": _plainly(np.floor),
    "Ceil": _plainly(np.ceil),
    "Round": _plainly(np.rint),
    "Sqrt": _plainly(np.sqrt),
    "Not": _plainly(np.logical_not),
    "And": _plainly(np.logical_and),
    "Or": _plainly(np.logical_or),
    "Less": _plainly(np.less),
    "LessOrEqual": _plainly(np.less_equal),
    "Greater": _plainly(np.greater),
    "GreaterOrEqual": _plainly(np.greater_equal),
    "Pow": _power,
}
