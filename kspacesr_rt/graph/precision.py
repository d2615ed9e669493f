"""Precision in the graph: the CNN in 16 bits, everything that carries k-space in fp32.

TensorRT 11 takes types from the graph alone, and converters that pick nodes by magnitude put
k-space into half precision, where a 12-bit image overflows. So the borders are drawn here, by what
a node does: convolutions and what stands between them compute in the narrow type; the layers of our
domain, scaling, data consistency and magnitude never do.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.errors import ExportError
from kspacesr_rt.model.spec import Precision

NARROW_TYPES: dict[Precision, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BF16_OPSET = 22
"""First opset whose Conv takes bfloat16."""
STARTS = ("Conv",)
"""Operators that compute in the narrow type whatever they are given."""
FOLLOWS = ("LeakyRelu", "PRelu", "Relu", "Add", "DepthToSpace")
"""Operators that do so if every one of their inputs is narrow already."""


def narrowed(proto: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return a copy whose CNN computes in another precision.

    Parameters
    ----------
    proto
        A lowered model in fp32; it is not changed.
    precision
        ``fp32`` returns an equal copy; ``fp16`` and ``bf16`` cast at the borders of the CNN.

    Raises
    ------
    ExportError
        If the precision is none of these, a weight does not fit into it, or the graph has no
        convolution.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    if precision == "fp32":
        return result
    if precision not in NARROW_TYPES:
        raise ExportError(f"precision '{precision}' is not one of fp32, {', '.join(NARROW_TYPES)}")
    if not any(_starts(node) for node in result.graph.node):
        raise ExportError(f"no convolution in it could compute in {precision}")
    if precision == "bf16":
        _raise_opset(result)
    _Narrowing(result.graph, NARROW_TYPES[precision]).apply()
    onnx.checker.check_model(result)
    return result


def _starts(node: onnx.NodeProto) -> bool:
    return bool(node.domain == "" and node.op_type in STARTS)


class _Narrowing:
    """Walk a graph once, in order, and put casts where a value is wanted in another type."""

    def __init__(self, graph: onnx.GraphProto, narrow: int) -> None:
        self.graph = graph
        self.narrow = narrow
        self.weights = {item.name: item for item in graph.initializer}
        self.results = {item.name for item in graph.output}
        self.narrow_values: set[str] = set()
        self.wide_weights: set[str] = set()
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def apply(self) -> None:
        """Rewrite the graph in place."""
        narrow_nodes = self._find_narrow_nodes()
        for node, narrow in zip(self.graph.node, narrow_nodes, strict=True):
            wanted = self.narrow if narrow else TensorProto.FLOAT
            renamed = [self._as(name, wanted) if name else name for name in node.input]
            del node.input[:]
            node.input.extend(renamed)
            self.nodes.append(node)
            if narrow and node.output[0] in self.results:
                self._widen_result(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def _find_narrow_nodes(self) -> list[bool]:
        """Say of each node whether it computes in the narrow type; note what each type is given."""
        found = []
        for node in self.graph.node:
            inputs = [name for name in node.input if name and name not in self.weights]
            follows = node.domain == "" and node.op_type in FOLLOWS and bool(inputs)
            narrow = _starts(node) or (follows and all(one in self.narrow_values for one in inputs))
            if narrow:
                self.narrow_values.update(node.output)
            else:
                self.wide_weights.update(name for name in node.input if name in self.weights)
            found.append(narrow)
        return found

    def _widen_result(self, node: onnx.NodeProto) -> None:
        """Give what the graph returns the type that the graph says."""
        name = node.output[0]
        node.output[0] = f"{name}.narrow"
        self.nodes.append(
            helper.make_node("Cast", [node.output[0]], [name], name=name, to=TensorProto.FLOAT)
        )
        self.narrow_values.remove(name)

    def _as(self, name: str, wanted: int) -> str:
        if name in self.weights:
            return self._narrow_weight(name) if wanted == self.narrow else name
        have = self.narrow if name in self.narrow_values else TensorProto.FLOAT
        if have == wanted:
            return name
        if (name, wanted) not in self.casts:
            made = f"{name}.as_{TensorProto.DataType.Name(wanted).lower()}"
            self.nodes.append(helper.make_node("Cast", [name], [made], name=made, to=wanted))
            self.casts[name, wanted] = made
        return self.casts[name, wanted]

    def _narrow_weight(self, name: str) -> str:
        """Round a weight; beside it, where a layer in fp32 has it too."""
        item = self.weights[name]
        if item.data_type != TensorProto.FLOAT:
            return name
        if name in self.wide_weights:
            made = f"{name}.as_{TensorProto.DataType.Name(self.narrow).lower()}"
            if made in self.weights:
                return made
            item = self.graph.initializer.add()
            item.CopyFrom(self.weights[name])
            item.name, name = made, made
            self.weights[made] = item
        values = numpy_helper.to_array(item)
        dtype = helper.tensor_dtype_to_np_dtype(self.narrow)
        with np.errstate(over="ignore"):
            rounded = values.astype(dtype)
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise ExportError(
                f"weight '{name}' reaches {np.abs(values).max():.3g}, which "
                f"{TensorProto.DataType.Name(self.narrow).lower()} cannot hold",
                hint="export it with --precision fp32 or bf16",
            )
        item.CopyFrom(numpy_helper.from_array(rounded, name))
        return name


def _raise_opset(proto: onnx.ModelProto) -> None:
    """Move graph and bodies to the opset that bf16 needs; none of their operators changed there."""
    for imported in (proto.opset_import, *(body.opset_import for body in proto.functions)):
        for one in imported:
            if one.domain == "":
                one.version = max(one.version, BF16_OPSET)


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the opset of the default domain."""
    return next(int(one.version) for one in proto.opset_import if one.domain == "")
