"""What operators of a graph work in beside what they take and give: buffers no value tells of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

Lengths = list[int]
"""Of one axis after another; their product is a number of elements."""

PLAIN = frozenset(
    {
        *(
            "Abs",
            "Acos",
            "Acosh",
            "Add",
            "And",
            "ArgMax",
            "ArgMin",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
        ),
        *("Attention", "AveragePool", "BatchNormalization", "BitwiseAnd", "BitwiseNot"),
        *("BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Col2Im"),
        *("Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh"),
        *("CumSum", "DFT"),
        *("DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf"),
        *("Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND"),
        *("GRU", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater"),
        *("GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish"),
        *("Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN"),
        *("LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax"),
        *("LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean"),
        *("MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "OneHot", "Or"),
        *("PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization", "RNN", "Range"),
        *("Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize"),
        *("Round", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign"),
        *("Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth"),
        *("Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
        *("Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor"),
    }
)
"""Operators whose memory can be bounded: by what they take and give, or by a rule below. Others
have graphs inside, make random numbers, sequences or text, or shapes that follow from values."""


def _convolution(node: onnx.NodeProto, inputs: list[Lengths], output: Lengths) -> Lengths:
    """Return what stands under the kernel at every place of the output."""
    channels, *taps = inputs[1][1:]
    if all(tap == 1 for tap in taps):
        return []  # a product as it is
    return [output[0], *output[2:], channels, *taps]


def _transposed_convolution(
    node: onnx.NodeProto, inputs: list[Lengths], output: Lengths
) -> Lengths:
    """Return what the kernel makes of every place of the input."""
    image, kernel = inputs[:2]
    groups = next((item.i for item in node.attribute if item.name == "group"), 1)
    return [image[0], *image[2:], groups, *kernel[1:]]


def _einsum(node: onnx.NodeProto, inputs: list[Lengths], output: Lengths) -> Lengths:
    """Return every combination of indices, unless two operands are multiplied as matrices are."""
    if len(inputs) < 3:
        return []
    [equation] = [item.s.decode() for item in node.attribute if item.name == "equation"]
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or len(terms) != len(inputs):
        raise ValueError("terms with an ellipsis")
    found: dict[str, int] = {}
    for term, lengths in zip(terms, inputs, strict=True):
        for label, length in zip(term, lengths, strict=True):
            found[label] = max(found.get(label, 1), length)
    return list(found.values())


def _attention(node: onnx.NodeProto, inputs: list[Lengths], output: Lengths) -> Lengths:
    """Return the scores: every query against every key, in every head."""
    query, key = inputs[:2]
    if len([name for name in node.input[4:] if name]):
        raise ValueError("attention with a cache")
    if len(query) == 4:
        return [query[0], query[1], query[2], key[2]]
    heads = next(item.i for item in node.attribute if item.name == "q_num_heads")
    return [query[0], heads, query[1], key[1]]


def _recurrence(node: onnx.NodeProto, inputs: list[Lengths], output: Lengths) -> Lengths:
    """Return what every gate is given at every step of every sequence."""
    steps, weights = inputs[:2]
    return [steps[0], steps[1], weights[0], weights[1]]


_Rule = Callable[[onnx.NodeProto, list[Lengths], Lengths], Lengths]
_BUFFERS: dict[str, tuple[str, _Rule]] = {
    "Conv": ("columns", _convolution),
    "ConvTranspose": ("columns", _transposed_convolution),
    "Einsum": ("value", _einsum),
    "Attention": ("value", _attention),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), ("value", _recurrence)),
}


def buffer_of(
    node: onnx.NodeProto, inputs: Sequence[Lengths], output: Lengths
) -> tuple[str, Lengths]:
    """Return what an operator works in beside its values.

    Parameters
    ----------
    node
        Of one of the `PLAIN` operators.
    inputs, output
        Lengths of the values it takes and of its first output.

    Returns
    -------
        Which limit applies (``columns`` or ``value``), and the lengths of the buffer, empty if
        there is none.

    Raises
    ------
    ValueError, LookupError, StopIteration
        If it cannot be told.
    """
    if node.op_type not in _BUFFERS:
        return "value", []
    limit, rule = _BUFFERS[node.op_type]
    return limit, rule(node, list(inputs), output)
