"""Products of fp32 values in three products of rounded ones, for tensor cores that round to TF32.

TF32 keeps 11 significant bits of each operand: a transform of an image is then right to 78 dB. But
a value can be written as a sum of two that keep all they have, ``x = high + low``, and so can a
constant; ``high H + low H + high L`` lacks only ``low L``, a millionth [1]_. The three are one
product of three times the length.

The high part of a value is its bfloat16, 8 bits, since a graph can ask for that by two casts, which
a typed network may not leave out; of a constant it is TF32 itself.

References
----------
.. [1] Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing
   the FP32 theoretical peak performance", IJHPCA 36(4), 2022, arXiv:2203.03341
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

TF32_BITS = 10
"""Of TF32's significand, besides the one that is not stored."""
PRODUCTS = 3
"""That stand for one."""
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
        two-dimensional constant, as FFT layers are lowered to (``gemm``), are split.

    Returns
    -------
        The same function: in fp32 to rounding; in TF32 to about a millionth of each product.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {item.name: item for item in graph.initializer}
    split: dict[tuple[str, bool], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        side = _constant_side(node, constants)
        if side is None:
            nodes.append(node)
            continue
        constant, value = node.input[side], node.input[1 - side]
        key = (constant, side == 0)
        if key not in split:
            split[key] = f"{constant}.split"
            array = numpy_helper.to_array(constants[constant])
            graph.initializer.append(
                numpy_helper.from_array(_split_constant(array, axis=1 - side), split[key])
            )
        name = node.output[0]
        made = f"{name}.split"
        nodes += _split_value(value, made, axis=-2 if side == 0 else -1)
        inputs = [split[key], made] if side == 0 else [made, split[key]]
        nodes.append(helper.make_node("MatMul", inputs, [name], name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def _constant_side(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int | None:
    """Return which input of a product is an fp32 matrix, if the other one is none."""
    if node.op_type != "MatMul" or node.domain != "":
        return None
    sides = [side for side, name in enumerate(node.input) if name in constants]
    if len(sides) != 1:
        return None
    constant = constants[node.input[sides[0]]]
    is_matrix = len(constant.dims) == 2 and constant.data_type == TensorProto.FLOAT
    return sides[0] if is_matrix else None


def _split_constant(array: Values, axis: int) -> Values:
    """Return ``(high, high, low)`` along the axis that is summed over."""
    high = rounded_to_tf32(array)
    return np.concatenate([high, high, rounded_to_tf32(array - high)], axis=axis)


def _split_value(value: str, made: str, axis: int) -> list[onnx.NodeProto]:
    """Return the nodes of ``(high, low, high)`` along the axis that is summed over."""
    narrow, high, low = f"{made}.narrow", f"{made}.high", f"{made}.low"
    return [
        helper.make_node("Cast", [value], [narrow], name=narrow, to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [narrow], [high], name=high, to=TensorProto.FLOAT),
        helper.make_node("Sub", [value, high], [low], name=low),
        helper.make_node("Concat", [high, low, high], [made], name=made, axis=axis),
    ]
