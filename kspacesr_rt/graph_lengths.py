"""The integers in a graph that shapes further down follow from: lengths, indices, pads.

ONNX infers the shape of a node from constants. Where a shape is computed in the graph, as in a
file that takes any matrix, the small integers on the way are computed here, so that there are
constants. What follows from the batch, which is open, stays unknown: masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper

SMALL = 1024
"""Elements up to which integers are followed through the graph: shapes, lengths, indices."""


@dataclass(kw_only=True, slots=True)
class Scope:
    """The values of a graph, or of one call of a function."""

    opset: int
    types: dict[str, TypeProto] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    """Small integers whose values are known: masked where they follow from the batch."""
    given: dict[str, TensorProto] = field(default_factory=dict)
    """Small constants, as shape inference reads them."""


def keep(scope: Scope, name: str, constant: TensorProto) -> None:
    """Remember a constant, if it is small enough to be a shape."""
    if math.prod(constant.dims) > SMALL:
        return
    scope.given[name] = constant
    if constant.data_type == TensorProto.INT64:
        scope.known[name] = np.ma.asarray(numpy_helper.to_array(constant))


def follow(node: onnx.NodeProto, scope: Scope) -> None:
    """Compute what a node makes of small integers; its types must be in the scope already."""
    output = node.output[0]
    if node.op_type == "Constant":
        constant = _constant(node)
        if constant is not None:
            keep(scope, output, constant)
        return
    compute = _FOLLOWED.get(node.op_type)
    made = scope.types[output].tensor_type
    shape = [axis.dim_value for axis in made.shape.dim]
    if compute is None or made.elem_type != TensorProto.INT64 or math.prod(shape) > SMALL:
        return
    if node.op_type == "Shape":
        values = _shape(node, scope)
    elif all(name in scope.known for name in node.input if name) and node.input[0]:
        values = compute(node, [scope.known[name] for name in node.input if name], shape)
    else:
        return
    if values is None or list(values.shape) != shape:
        return
    scope.known[output] = values
    if not np.ma.is_masked(values):
        scope.given[output] = numpy_helper.from_array(np.ma.getdata(values).astype(np.int64))


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


def _shape(node: onnx.NodeProto, scope: Scope) -> Any:
    axes = scope.types[node.input[0]].tensor_type.shape.dim
    lengths = np.ma.array(
        [axis.dim_value for axis in axes],
        mask=[not axis.HasField("dim_value") for axis in axes],
        dtype=np.int64,
    )
    bounds = {item.name: item.i for item in node.attribute}
    return lengths[bounds.get("start", 0) : bounds.get("end", len(axes))]


def _moved(node: onnx.NodeProto, given: list[Any], shape: list[int]) -> Any:
    return given[0].reshape(shape)


def _gathered(node: onnx.NodeProto, given: list[Any], shape: list[int]) -> Any:
    if given[0].ndim != 1 or np.ma.is_masked(given[1]):
        return None
    return (
        given[0][np.ma.getdata(given[1])]
        if given[1].ndim
        else given[0][[int(given[1])]].reshape(())
    )


def _joined(node: onnx.NodeProto, given: list[Any], shape: list[int]) -> Any:
    if any(one.ndim != 1 for one in given):
        return None
    return np.ma.array(
        np.concatenate([np.ma.getdata(one) for one in given]),
        mask=np.concatenate([np.ma.getmaskarray(one) for one in given]),
    )


def _elementwise(compute: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def computed(node: onnx.NodeProto, given: list[Any], shape: list[int]) -> Any:
        if len(given) != 2:
            return None
        with np.errstate(all="ignore"):
            return np.ma.asarray(compute(*given))

    return computed


def _quotient(left: Any, right: Any) -> Any:
    """Divide as ONNX does, towards zero."""
    return np.sign(left) * np.sign(right) * (abs(left) // abs(right))


_FOLLOWED: dict[str, Callable[[onnx.NodeProto, list[Any], list[int]], Any]] = {
    **dict.fromkeys(("Identity", "Reshape", "Squeeze", "Unsqueeze"), _moved),
    "Shape": _moved,
    "Gather": _gathered,
    "Concat": _joined,
    "Add": _elementwise(np.ma.add),
    "Sub": _elementwise(np.ma.subtract),
    "Mul": _elementwise(np.ma.multiply),
    "Div": _elementwise(_quotient),
    "Max": _elementwise(np.ma.maximum),
    "Min": _elementwise(np.ma.minimum),
}
