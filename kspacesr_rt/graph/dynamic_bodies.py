"""Bodies of the FFT layers that make their matrices in the graph: one file for any matrix.

The price is that every run computes sines again, and that no runtime can fold them; `gemm` files,
bound to a matrix, are faster.
"""

from __future__ import annotations

import math
from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from kspacesr_rt.model.spec import OP_DOMAIN

OPSET = 20
"""As in `kspacesr_rt.graph.bodies`."""


class _Body:
    """Collects nodes; every method returns the name of the value it made."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def function(self, name: str, attributes: list[str]) -> FunctionProto:
        """Return what was collected as a function of the image, its last node yielding ``y``."""
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_function(
            OP_DOMAIN, name, ["x"], ["y"], self.nodes, opsets, attributes=attributes
        )

    def integer(self, value: int) -> str:
        """Add a scalar int64."""
        return self.op("Constant", value_int=value)

    def integers(self, *values: int) -> str:
        """Add a vector of int64."""
        return self.op("Constant", value_ints=list(values))

    def number(self, value: float) -> str:
        """Add a scalar float32."""
        return self.op("Constant", value_float=value)

    def attribute(self, name: str, *, tensor: bool = False) -> str:
        """Add an attribute of the function: a scalar int64, or a tensor."""
        node = helper.make_node("Constant", [], [f"given_{name}"])
        reference = (
            AttributeProto(name="value", type=AttributeProto.TENSOR)
            if tensor
            else AttributeProto(name="value_int", type=AttributeProto.INT)
        )
        reference.ref_attr_name = name
        node.attribute.append(reference)
        if node not in self.nodes:
            self.nodes.append(node)
        return f"given_{name}"

    def vector(self, scalar: str) -> str:
        """Turn a scalar into a vector of one."""
        return self.op("Reshape", scalar, self.integers(1))

    def real(self, integer: str) -> str:
        """Turn integers into float32."""
        return self.op("Cast", integer, to=TensorProto.FLOAT)

    def length(self, axis: int, value: str = "x") -> str:
        """Add the samples of a value (the input) along an axis, a scalar."""
        return self.op("Gather", self.op("Shape", value), self.integer(axis), axis=0)

    def target(self, length: str) -> str:
        """Add the samples of the output for an axis of so many samples."""
        lr = self.op("Div", length, self.attribute("input_upscale"))
        return self.op("Mul", lr, self.attribute("output_upscale"))

    def indices(self, length: str, *, corner: bool = False) -> str:
        """Add ``0 .. n - 1`` with the origin moved to ``n // 2``, or left at 0."""
        count = self.op("Range", self.integer(0), length, self.integer(1))
        if corner:
            return count
        return self.op("Sub", count, self.op("Div", length, self.integer(2)))

    def dft(
        self, source: str, target: str, *, inverse: bool, corner: bool = False
    ) -> tuple[str, str]:
        """Add real and imaginary part of a centred orthonormal DFT, ``(target, source)``.

        With `corner`, the image's origin is its sample 0.

        Phases are reduced modulo the length in integers and then to within half a turn, so that
        float32 loses nothing but its last digit.
        """
        length = self.op("Max", source, target)
        to, of = (corner and inverse), (corner and not inverse)
        rows = self.op("Unsqueeze", self.indices(target, corner=to), self.integers(1))
        columns = self.op("Unsqueeze", self.indices(source, corner=of), self.integers(0))
        turns = self.op("Mod", self.op("Mul", rows, columns), length)
        beyond = self.op("Greater", self.op("Mul", turns, self.integer(2)), length)
        turns = self.op("Where", beyond, self.op("Sub", turns, length), turns)
        real_length = self.real(length)
        share = self.op("Div", self.real(turns), real_length)
        angle = self.op("Mul", share, self.number((1.0 if inverse else -1.0) * 2.0 * math.pi))
        gain = self.op("Reciprocal", self.op("Sqrt", real_length))
        return (
            self.op("Mul", self.op("Cos", angle), gain),
            self.op("Mul", self.op("Sin", angle), gain),
        )

    def block(self, real: str, imaginary: str, *, right: bool) -> str:
        """Add the real matrix of a complex one, for stacked or for side-by-side parts."""
        minus = self.op("Neg", imaginary)
        upper, lower = (
            ((real, imaginary), (minus, real))
            if right
            else (
                (real, minus),
                (imaginary, real),
            )
        )
        halves = [self.op("Concat", *pair, axis=1) for pair in (upper, lower)]
        return self.op("Concat", *halves, axis=0)


def dynamic_transform(name: str, *, inverse: bool, corner: bool = False) -> FunctionProto:
    """Return the body of a transform whose matrices are made from the shape of its input."""
    body = _Body()
    rows, columns = body.length(2), body.length(3)
    # A real image becomes a complex one: one body serves both.
    missing = body.vector(body.op("Sub", body.integer(2), body.length(1)))
    zeros, none = body.integers(0, 0, 0, 0, 0), body.integers(0, 0)
    filled = body.op("Pad", "x", body.op("Concat", zeros, missing, none, axis=0))
    kind = {"inverse": inverse, "corner": corner}
    left = body.block(*body.dft(rows, body.target(rows), **kind), right=False)
    real, imaginary = body.dft(columns, body.target(columns), **kind)
    right = body.block(
        body.op("Transpose", real, perm=[1, 0]),
        body.op("Transpose", imaginary, perm=[1, 0]),
        right=True,
    )
    stacked = body.op("Reshape", filled, body.integers(0, 1, -1, 0))
    half = body.op("MatMul", left, stacked)
    parts = body.op("Reshape", half, body.integers(0, 2, -1, 0))
    beside = body.op("Transpose", parts, perm=[0, 2, 1, 3])
    joined = body.op("Reshape", beside, body.integers(0, 0, -1))
    flat = body.op("MatMul", joined, right)
    split = body.op("Reshape", flat, body.integers(0, 0, 2, -1))
    whole = body.op("Transpose", split, perm=[0, 2, 1, 3])
    ends = body.vector(body.attribute("channels"))
    kept = body.op("Slice", whole, body.integers(0), ends, body.integers(1))
    body.nodes.append(helper.make_node("Identity", [kept], ["y"]))
    return body.function(name, ["input_upscale", "output_upscale", "input_channels", "channels"])


def dynamic_window(name: str, *, fill: bool) -> FunctionProto:
    """Return the body of a crop to, or a fill around, the centre, found from the shape."""
    body = _Body()
    pairs = [(length, body.target(length)) for length in (body.length(2), body.length(3))]
    two = body.integer(2)
    starts, ends = [], []
    for source, target in pairs:
        inner, outer = (source, target) if fill else (target, source)
        start = body.op("Sub", body.op("Div", outer, two), body.op("Div", inner, two))
        starts.append(body.vector(start))
        if fill:
            ends.append(body.vector(body.op("Sub", body.op("Sub", outer, inner), start)))
        else:
            ends.append(body.vector(body.op("Add", start, inner)))
    if fill:
        none = body.integers(0, 0)
        pads = body.op("Concat", none, *starts, none, *ends, axis=0)
        result = body.op("Pad", "x", pads)
    else:
        first, last = body.op("Concat", *starts, axis=0), body.op("Concat", *ends, axis=0)
        result = body.op("Slice", "x", first, last, body.integers(2, 3))
    body.nodes.append(helper.make_node("Identity", [result], ["y"]))
    return body.function(name, ["input_upscale", "output_upscale"])


def dynamic_spectrum(name: str, *, of_peak: bool = False) -> FunctionProto:
    """Return the body that resamples a mean spectrum, as `kspace.mean_spectrum` does, and apply it.

    Linear in the logarithm, along each axis, at equal relative frequency.
    """
    body = _Body()
    spectrum = body.attribute("spectrum", tensor=True)
    logs = body.op("Log", spectrum)
    lengths = []
    for axis in (1, 0):
        source, target = body.length(axis, spectrum), body.length(axis + 2)
        lengths.append((source, target))
        frequency = body.op("Div", body.real(body.indices(target)), body.real(target))
        centre = body.real(body.op("Div", source, body.integer(2)))
        last = body.op("Sub", source, body.integer(1))
        position = body.op("Add", body.op("Mul", frequency, body.real(source)), centre)
        position = body.op("Clip", position, body.number(0.0), body.real(last))
        low = body.op("Cast", body.op("Floor", position), to=TensorProto.INT64)
        high = body.op("Min", body.op("Add", low, body.integer(1)), last)
        weight = body.op("Sub", position, body.real(low))
        if axis == 0:
            weight = body.op("Unsqueeze", weight, body.integers(1))
        left, right = (body.op("Gather", logs, index, axis=axis) for index in (low, high))
        step = body.op("Mul", body.op("Sub", right, left), weight)
        logs = body.op("Add", left, step)
    factor = body.op("Exp", logs)
    if not of_peak:
        ratios = [
            body.op("Div", body.real(target), body.real(source)) for source, target in lengths
        ]
        factor = body.op("Mul", factor, body.op("Sqrt", body.op("Mul", *ratios)))
    doubled = body.op("Mul", body.attribute("divide"), body.integer(2))
    sign = body.real(body.op("Sub", body.integer(1), doubled))
    body.nodes.append(helper.make_node("Mul", ["x", body.op("Pow", factor, sign)], ["y"]))
    return body.function(name, ["input_upscale", "output_upscale", "divide", "spectrum"])


def dynamic_nyquist(name: str) -> FunctionProto:
    """Return the body that doubles the first line of every even axis of k-space."""
    body = _Body()
    lines = []
    for axis, others in ((2, 1), (3, 0)):
        length = body.length(axis)
        first = body.op(
            "Equal", body.op("Range", body.integer(0), length, body.integer(1)), body.integer(0)
        )
        even = body.op("Equal", body.op("Mod", length, body.integer(2)), body.integer(0))
        lines.append(body.op("Unsqueeze", body.op("And", first, even), body.integers(others)))
    on_a_line = body.op("Or", *lines)
    gain = body.op("Where", on_a_line, body.number(2.0), body.number(1.0))
    body.nodes.append(helper.make_node("Mul", ["x", gain], ["y"]))
    return body.function(name, ["input_upscale", "output_upscale"])
