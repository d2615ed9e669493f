"""Products of fp32 values in three products of rounded ones, for tensor cores that round to TF32.

TF32 keeps 11 significant bits of each operand: a transform of an image is then right to 78 dB. But
a value can be written as a sum of two that keep all they have, ``x = high + low``, and so can a
constant; ``high H + low H + high L`` lacks only ``low L``, a millionth [1]_. The three are one
product of three times the length.

The high part of a value is its bfloat16, 8 bits, since a graph can ask for that by two casts, which
a typed network may not leave out; of a constant it is TF32 itself. A value that comes from half
precision has no low part, since TF32 holds all its bits: ``x H + x L`` are enough, and the second,
small as it is, may be one of half precision.

References
----------
.. [1] Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing
   the FP32 theoretical peak performance", IJHPCA 36(4), 2022, arXiv:2203.03341
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

TF32_BITS = 10
"""Of TF32's significand, besides the one that is not stored."""
PRODUCTS = 3
"""That stand for one."""
PRODUCT_OPERATORS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention")
"""What tensor cores compute."""
_LOWEST = 23 - TF32_BITS
"""Bits of an fp32 significand that TF32 has not."""

Values = npt.NDArray[np.float32]


def rounded_to_tf32(values: Values) -> Values:
    """Round to the nearest value with TF32's 10 bits, to even between two.

    Parameters
    ----------
    values
        float32, finite.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32((1 << (_LOWEST - 1)) - 1)
    odd = (bits >> np.uint32(_LOWEST)) & np.uint32(1)
    kept = (bits + half + odd) & ~np.uint32((1 << _LOWEST) - 1)
    rounded: Values = kept.view(np.float32).reshape(np.shape(values))
    return rounded


def with_split_products(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which products with an fp32 constant are of operands that TF32 keeps.

    Parameters
    ----------
    proto
        A flat graph (`kspacesr_rt.graph.flat`); not changed. Only products of a value with a
        constant matrix, or one for each phase of columns, are split: what FFT layers are lowered to
        (``gemm``).

    Returns
    -------
        The same function: in fp32 to rounding; in TF32 to about a millionth of each product.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    types = _types(proto)
    split: dict[tuple[str, int, bool], list[str]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        side = _constant_side(node, constants)
        if side is None:
            nodes.append(node)
            continue
        constant, value = node.input[side], node.input[1 - side]
        whole = _is_half(value, makers, types)
        key = (constant, side, whole)
        if key not in split:
            array = numpy_helper.to_array(constants[constant])
            parts = _parts(constant, array) if whole else _joined(constant, array, axis=-1 - side)
            graph.initializer.extend(parts)
            split[key] = [one.name for one in parts]
        if whole:
            half = makers[value].input[0]
            nodes += _two_products(node, (value, half), split[key], side)
        else:
            nodes += _one_product(node, value, split[key][0], side)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    return result


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def splits_every_product(proto: onnx.ModelProto) -> bool:
    """Say whether no fp32 product or convolution of a flat graph would be left as TF32 rounds it.

    Parameters
    ----------
    proto
        A flat graph, not yet split; not changed.
    """
    constants = {item.name: item for item in proto.graph.initializer}
    types = _types(proto)
    return all(
        _constant_side(node, constants) is not None
        for node in proto.graph.node
        if node.op_type in PRODUCT_OPERATORS
        and any(types.get(name) == TensorProto.FLOAT for name in node.input)
    )


def _constant_side(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int | None:
    """Return which input of a product is fp32 matrices, if the other one is none."""
    if node.op_type != "MatMul" or node.domain != "":
        return None
    sides = [side for side, name in enumerate(node.input) if name in constants]
    if len(sides) != 1:
        return None
    constant = constants[node.input[sides[0]]]
    is_matrix = len(constant.dims) in (2, 3) and constant.data_type == TensorProto.FLOAT
    return sides[0] if is_matrix else None


def _types(proto: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.input, *graph.value_info)
    return {one.name: one.type.tensor_type.elem_type for one in values}


def _is_half(value: str, makers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> bool:
    """Say whether an fp32 value is one of half precision that was widened."""
    maker = makers.get(value)
    if maker is None or maker.op_type != "Cast":
        return False
    return types.get(maker.input[0]) == TensorProto.FLOAT16


def _joined(name: str, array: Values, axis: int) -> list[onnx.TensorProto]:
    """Return ``(high, high, low)`` along the axis that is summed over."""
    high = rounded_to_tf32(array)
    joined = np.concatenate([high, high, rounded_to_tf32(array - high)], axis=axis)
    return [numpy_helper.from_array(joined, f"{name}.split")]


def _parts(name: str, array: Values) -> list[onnx.TensorProto]:
    """Return the high part, and the low one in half precision."""
    high = rounded_to_tf32(array)
    return [
        numpy_helper.from_array(high, f"{name}.high"),
        numpy_helper.from_array((array - high).astype(np.float16), f"{name}.low"),
    ]


def _one_product(
    node: onnx.NodeProto, value: str, constant: str, side: int
) -> list[onnx.NodeProto]:
    """Return the nodes of one product, three times as long."""
    (name,) = node.output
    made = f"{name}.split"
    product = helper.make_node("MatMul", _on(side, constant, made), [name], name=node.name)
    return [*_split_value(value, made, axis=-2 if side == 0 else -1), product]


def _two_products(
    node: onnx.NodeProto, values: tuple[str, str], constants: list[str], side: int
) -> list[onnx.NodeProto]:
    """Return the nodes of two products, of a value widened and as it was."""
    (name,) = node.output
    high, half, low = (f"{name}.{part}" for part in ("high", "half", "low"))
    return [
        helper.make_node("MatMul", _on(side, constants[0], values[0]), [high], name=node.name),
        helper.make_node("MatMul", _on(side, constants[1], values[1]), [half], name=half),
        helper.make_node("Cast", [half], [low], name=low, to=TensorProto.FLOAT),
        helper.make_node("Add", [high, low], [name], name=f"{name}.sum"),
    ]


def _on(side: int, constant: str, value: str) -> list[str]:
    return [constant, value] if side == 0 else [value, constant]


def _split_value(value: str, made: str, axis: int) -> list[onnx.NodeProto]:
    """Return the nodes of ``(high, low, high)`` along the axis that is summed over."""
    narrow, high, low = f"{made}.narrow", f"{made}.high", f"{made}.low"
    return [
        helper.make_node("Cast", [value], [narrow], name=narrow, to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [narrow], [high], name=high, to=TensorProto.FLOAT),
        helper.make_node("Sub", [value, high], [low], name=low),
        helper.make_node("Concat", [high, low, high], [made], name=made, axis=axis),
    ]
