"""What may stand in a model file: checked before weights are hashed, and a runtime sees it.

ONNX can hold tensors in many places (initialisers, sparse ones, attributes, graphs inside nodes,
functions, their default values, training graphs), any of which may point into another file. The
digests of a file cover the places that export uses; here every other place is refused, so that
nothing computes that nobody vouched for. What is refused is a list of what is allowed, read over
the whole message: a field that a later ONNX adds is refused too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import onnx
from google.protobuf.message import Message

from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model.spec import OP_DOMAIN
from kspacesr_rt.system.plain_text import shortened

MOST_NODES = 50_000
"""Nodes of graph and functions; the shipped models have 70, a transformer of 36 blocks 9000."""
LARGEST_METADATA = 64 * 2**20
"""Characters of all metadata; those of the shipped models have up to 120,000."""
LARGEST_FILE = 2**31 - 1
"""Bytes of a file: the most that protobuf reads."""

_KIND = onnx.AttributeProto.AttributeType
VALUE_FIELD = {
    _KIND.Value("FLOAT"): "f",
    _KIND.Value("INT"): "i",
    _KIND.Value("STRING"): "s",
    _KIND.Value("TENSOR"): "t",
    _KIND.Value("FLOATS"): "floats",
    _KIND.Value("INTS"): "ints",
}
"""Types of attributes that export writes, and the one field that holds the value of each."""
_MODEL = {
    *("ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version"),
    *("doc_string", "graph", "metadata_props", "functions"),
}
_GRAPH = {
    *("node", "name", "initializer", "doc_string", "input", "output", "value_info"),
    "metadata_props",
}
_FUNCTION = {
    *("name", "input", "output", "attribute", "node", "doc_string", "opset_import", "domain"),
    *("value_info", "metadata_props"),
}
_NODE = {
    *("input", "output", "name", "op_type", "domain", "attribute", "doc_string", "metadata_props"),
}
_ATTRIBUTE = {"name", "type", "doc_string", "ref_attr_name"}


def require_known_content(proto: onnx.ModelProto, name: str) -> None:
    """Check that a model holds nothing but what export writes.

    Parameters
    ----------
    proto
        As parsed.
    name
        Of the file, for messages.

    Raises
    ------
    ModelFileError
        If it keeps data elsewhere, is larger than any of ours could be, uses foreign operators, or
        has content where export writes none.
    """
    nodes = list(_nodes(proto, name))
    _require_inside(proto, name)
    _only(proto, _MODEL, "the model", name)
    _only(proto.graph, _GRAPH, "the graph", name)
    foreign = sorted({str(node.domain) for node in nodes} - {"", OP_DOMAIN})
    if foreign:
        raise ModelFileError(
            f"{name}: uses operators of foreign domains: {shortened(', '.join(foreign))}"
        )
    for body in proto.functions:
        _require_plain_function(body, name)
    for node in (*proto.graph.node, *(one for body in proto.functions for one in body.node)):
        _only(node, _NODE, f"node '{shortened(node.name, 80)}'", name)
        for attribute in node.attribute:
            _require_plain_attribute(attribute, node, name)
    _require_unique(proto, name)


def _nodes(proto: onnx.ModelProto, name: str) -> Iterator[onnx.NodeProto]:
    """Yield every node there is: of the graph, of function bodies, of graphs inside nodes."""
    characters = sum(len(item.value) + len(item.key) for item in proto.metadata_props)
    if characters > LARGEST_METADATA:
        raise ModelFileError(
            f"{name}: has {characters} characters of metadata, {LARGEST_METADATA} are allowed"
        )
    waiting = [proto.graph.node, *(body.node for body in proto.functions)]
    count = 0
    while waiting:
        nodes = waiting.pop()
        count += len(nodes) + 1
        if count > MOST_NODES:
            raise ModelFileError(f"{name}: has more than {MOST_NODES} nodes")
        yield from nodes
        for node in nodes:
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                waiting += [graph.node for graph in inner]


def _require_inside(proto: Message, name: str) -> None:
    """Refuse external data wherever in the message a tensor may be."""
    waiting: list[Message] = [proto]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            outside = message.data_location == onnx.TensorProto.EXTERNAL
            if outside or len(message.external_data):
                raise ModelFileError(f"{name}: keeps weights in another file, which is refused")
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)


def _require_plain_function(body: onnx.FunctionProto, name: str) -> None:
    where = f"function '{shortened(body.name, 80)}'"
    _only(body, _FUNCTION, where, name)
    if body.domain != OP_DOMAIN:
        raise ModelFileError(f"{name}: {where} is of the domain '{shortened(body.domain, 80)}'")
    called = sorted({node.op_type for node in body.node if node.domain})
    if called:
        raise ModelFileError(
            f"{name}: {where} calls functions ({shortened(', '.join(called))}), perhaps itself, "
            "which no export writes"
        )
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                raise ModelFileError(
                    f"{name}: {where} holds a tensor in attribute "
                    f"'{shortened(attribute.name, 80)}', which no export writes"
                )


def _require_plain_attribute(
    attribute: onnx.AttributeProto, node: onnx.NodeProto, name: str
) -> None:
    where = f"attribute '{shortened(attribute.name, 80)}' of node '{shortened(node.name, 80)}'"
    if attribute.HasField("g") or attribute.graphs:
        raise ModelFileError(f"{name}: has a graph inside a node, which no export writes ({where})")
    field = VALUE_FIELD.get(attribute.type)
    if field is None:
        raise ModelFileError(f"{name}: {where} is of a type that no export writes")
    _only(attribute, {*_ATTRIBUTE, field}, where, name)


def _require_unique(proto: onnx.ModelProto, name: str) -> None:
    """Refuse two things of one name: a digest by name would cover only one of them."""
    hashed_identity = [
        f"{node.name}.{item.name}"
        for node in proto.graph.node
        for item in node.attribute
        if item.type in (_KIND.Value("TENSOR"), _KIND.Value("FLOAT"))
    ]
    for what, names in (
        ("weight", [*hashed_identity, *(item.name for item in proto.graph.initializer)]),
        ("function", [body.name for body in proto.functions]),
        *(
            ("attribute", [item.name for item in node.attribute])
            for node in (*proto.graph.node, *(one for body in proto.functions for one in body.node))
        ),
    ):
        twice = sorted(one for one, count in Counter(names).items() if count > 1)
        if twice:
            raise ModelFileError(f"{name}: has more than one {what} '{shortened(twice[0], 80)}'")
    for item in proto.graph.initializer:
        if any(length < 0 for length in item.dims) or math.prod(item.dims) > LARGEST_FILE:
            raise ModelFileError(
                f"{name}: initialiser '{shortened(item.name, 80)}' claims more than a file holds"
            )


def _only(message: Message, allowed: set[str], where: str, name: str) -> None:
    """Refuse a message with a field that is not allowed, known to this ONNX or not."""
    found = {field.name for field, _ in message.ListFields()}
    if extra := sorted(found - allowed):
        raise ModelFileError(
            f"{name}: {where} holds {shortened(', '.join(extra))}, which no export writes"
        )
