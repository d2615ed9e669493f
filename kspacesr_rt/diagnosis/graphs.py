"""A bound model as a flat graph whose every value can be fed or read, and how two are paired."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from kspacesr_rt.graph.phase_transforms import MARK
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import OP_DOMAIN

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Fed and read as fp32 through a Cast, since NumPy and the runtimes do not share a bf16."""
READ_AS, FED_AS = "__read_as_fp32", "__fed_as_fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where in the model a value is made."""

    node: str
    """Name of the node, or its layer's and its output's where it has none."""
    op_type: str
    """Operator."""
    layer: str
    """Name of the node in the model file it belongs to, after its function was inlined."""
    kind: str
    """``FFT2c`` and the like for our layers, ``CNN block i``, or the operator."""
    inner: bool
    """True inside the body of a function, short of its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatGraph:
    """A bound model without functions; nodes in graph order, values by name."""

    nodes: tuple[onnx.NodeProto, ...]
    """In graph order."""
    constants: dict[str, TensorProto]
    """Initialisers."""
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    """Of the standard domain."""
    ir_version: int
    """Of the model file."""
    types: dict[str, int]
    """Value to ONNX element type."""
    shapes: dict[str, tuple[int, ...]]
    """Value to shape at a batch of one, where ONNX can tell."""
    places: dict[str, Place]
    """Value to where it is made; inputs, initialisers and constants have none."""

    def producer(self) -> dict[str, onnx.NodeProto]:
        """Return which node makes which value."""
        return {name: node for node in self.nodes for name in node.output if name}

    def excerpt(
        self, nodes: Iterable[onnx.NodeProto], fed: dict[str, Any], read: Sequence[str]
    ) -> onnx.ModelProto:
        """Make a model of some nodes.

        Parameters
        ----------
        nodes
            In graph order.
        fed
            Value to array. Integers become constants; others become inputs of the model, in fp32.
        read
            Values that become outputs, in order; narrow ones through a Cast to fp32.
        """
        kept, inputs, casts, outputs, extra = list(nodes), [], [], [], []
        for name, array in fed.items():
            kind = self.types.get(name, TensorProto.FLOAT)
            if np.asarray(array).dtype.kind not in "f":
                extra.append(numpy_helper.from_array(np.asarray(array), name))
                continue
            source = name + FED_AS if kind in NARROW else name
            if kind in NARROW:
                casts.append(helper.make_node("Cast", [source], [name], to=kind))
            inputs.append(
                helper.make_tensor_value_info(source, TensorProto.FLOAT, list(array.shape))
            )
        behind = []
        for name in read:
            kind = self.types.get(name, TensorProto.FLOAT)
            target = name + READ_AS if kind in NARROW else name
            if kind in NARROW:
                behind.append(helper.make_node("Cast", [name], [target], to=TensorProto.FLOAT))
            shown = TensorProto.FLOAT if kind in NARROW else kind
            outputs.append(helper.make_tensor_value_info(target, shown, None))
        used = {name for node in kept for name in node.input} - set(fed)
        stored = [self.constants[name] for name in sorted(used & set(self.constants))]
        graph = helper.make_graph(
            [*casts, *kept, *behind], "excerpt", inputs, outputs, [*stored, *extra]
        )
        return helper.make_model(
            graph,
            opset_imports=list(self.opsets),
            ir_version=self.ir_version,
            producer_name="kspacesr-rt",
        )

    def feeds(self, fed: dict[str, Any]) -> dict[str, Any]:
        """Return the arrays an `excerpt` with the same `fed` takes, by name of its inputs."""
        return {
            name + FED_AS if self.types.get(name) in NARROW else name: array.astype(np.float32)
            for name, array in fed.items()
            if np.asarray(array).dtype.kind == "f"
        }

    def whole(self, lr: Any, read: Sequence[str] = ()) -> onnx.ModelProto:
        """Return the complete model with its own output and those of `read`."""
        names = [OUTPUT_NAME, *(name for name in read if name != OUTPUT_NAME)]
        return self.excerpt(self.nodes, {INPUT_NAME: lr}, names)

    def size_bytes(self, name: str) -> int:
        """Return what a value takes in fp32; the largest known one's where ONNX cannot tell."""
        shape = self.shapes.get(name)
        if shape is not None:
            return 4 * math.prod(shape)
        return max((4 * math.prod(one) for one in self.shapes.values()), default=0)

    def segment(self, name: str, known: set[str]) -> tuple[list[onnx.NodeProto], list[str]]:
        """Return the nodes that make a value from known ones, and which known ones they take."""
        producer, wanted, waiting = self.producer(), set[str](), [name]
        taken: set[str] = set()
        while waiting:
            node = producer[waiting.pop()]
            if node.output[0] in wanted:
                continue
            wanted.add(node.output[0])
            for source in node.input:
                if source in known:
                    taken.add(source)
                elif source in producer:
                    waiting.append(source)
        return [node for node in self.nodes if node.output[0] in wanted], sorted(taken)


def flat_graph(bound: BoundModel) -> FlatGraph:
    """Inline every function of a bound model and find out where each value is made."""
    proto = inliner.inline_local_functions(bound.proto)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for axis, length in zip((-2, -1), bound.spec.matrix, strict=True):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    del proto.graph.value_info[:]
    inferred = shape_inference.infer_shapes(proto, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {one.name: one.type.tensor_type.elem_type for one in values}
    types |= {one.name: one.data_type for one in proto.graph.initializer}
    shapes = {}
    for one in values:
        dimensions = one.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            shapes[one.name] = tuple(dimension.dim_value for dimension in dimensions)
    return FlatGraph(
        nodes=tuple(proto.graph.node),
        constants={one.name: one for one in proto.graph.initializer},
        opsets=tuple(one for one in proto.opset_import if one.domain == ""),
        ir_version=proto.ir_version,
        types=types,
        shapes=shapes,
        places=_places(bound.proto, proto),
    )


def _places(stored: onnx.ModelProto, flat: onnx.ModelProto) -> dict[str, Place]:
    """Nodes of an inlined body stand where the layer stood, and end with its output."""
    layers = {name: node for node in stored.graph.node for name in node.output}
    places: dict[str, Place] = {}
    waiting: list[onnx.NodeProto] = []
    for node in flat.graph.node:
        waiting.append(node)
        layer = next((layers[name] for name in node.output if name in layers), None)
        if layer is None:
            continue
        title = layer.name or layer.output[0]
        for one in waiting:
            if one.op_type == "Constant":
                continue
            for name in one.output:
                places[name] = Place(
                    node=one.name or f"{title}/{name.rsplit('__', 1)[0]}",
                    op_type=one.op_type,
                    layer=title,
                    kind=_kind(layer),
                    inner=name not in layer.output,
                )
        waiting = []
    return places


def _kind(layer: onnx.NodeProto) -> str:
    if MARK in layer.name:
        return "FFT layers on phases"
    if layer.domain == OP_DOMAIN:
        return str(layer.op_type)
    parts = layer.name.split(".")
    for word in ("body", "blocks"):
        if word in parts[:-1] and parts[parts.index(word) + 1].isdigit():
            return f"CNN block {parts[parts.index(word) + 1]}"
    return "CNN" if layer.op_type == "Conv" else str(layer.op_type)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Which value of one graph is which of another."""

    pairs: dict[str, str]
    """Value of the first graph to that of the second, in the first one's order."""
    by: dict[str, str]
    """Value of the first graph to how it was paired: name, layer, or topology."""
    unpaired: tuple[tuple[str, ...], tuple[str, ...]]
    """Values of either graph that have no partner."""


def pair(first: FlatGraph, second: FlatGraph) -> Pairing:
    """Pair values by name and shape, then by the layer that makes them, then by topology.

    Inside a layer names are compared only where both bodies hold the same operators: another
    lowering uses the same names for other things.
    """
    bodies = [_bodies(graph) for graph in (first, second)]
    found: dict[str, str] = {}
    by: dict[str, str] = {}

    def fits(a: str, b: str) -> bool:
        return (
            a not in found
            and b not in taken
            and first.shapes.get(a) == second.shapes.get(b)
            and (first.types.get(a, 1) in _FLOATS) == (second.types.get(b, 1) in _FLOATS)
        )

    taken: set[str] = set()

    def join(a: str, b: str, how: str) -> None:
        if fits(a, b):
            found[a], by[a] = b, how
            taken.add(b)

    for name, place in first.places.items():
        other = second.places.get(name)
        if other is None or place.inner != other.inner:
            continue
        if place.inner and bodies[0].get(place.layer) != bodies[1].get(other.layer):
            continue
        if place.op_type == other.op_type or not place.inner:
            join(name, name, "name")
    by_layer = {place.layer: name for name, place in second.places.items() if not place.inner}
    for name, place in first.places.items():
        if not place.inner and place.layer in by_layer:
            join(name, by_layer[place.layer], "layer")
    rest = [
        [name for name, place in graph.places.items() if not place.inner and name not in done]
        for graph, done in ((first, set(found)), (second, taken))
    ]
    keys = [
        [(graph.places[name].kind, graph.shapes.get(name)) for name in names]
        for graph, names in zip((first, second), rest, strict=True)
    ]
    for block in difflib.SequenceMatcher(
        None, keys[0], keys[1], autojunk=False
    ).get_matching_blocks():
        for offset in range(block.size):
            join(rest[0][block.a + offset], rest[1][block.b + offset], "topology")
    ordered = [name for name in first.places if name in found]
    return Pairing(
        pairs={name: found[name] for name in ordered},
        by={name: by[name] for name in ordered},
        unpaired=(
            tuple(name for name in first.places if name not in found),
            tuple(name for name in second.places if name not in taken),
        ),
    )


_FLOATS = (TensorProto.FLOAT, *NARROW)


def _bodies(graph: FlatGraph) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    for place in graph.places.values():
        bodies.setdefault(place.layer, []).append(place.op_type)
    return bodies
