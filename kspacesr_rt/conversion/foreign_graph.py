"""Read an ONNX file that others made, and bring its graph into the form that model files have.

What a model file refuses for safety, or for its digests, is only a way of writing here: weights in
other files, functions, constants in nodes, branches whose condition is a constant, nodes without
names, notes on where the code lay. The graph computes the same afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto, external_data_helper, helper, inliner, numpy_helper

from kspacesr_rt.errors import ModelFileError, first_line, system_message
from kspacesr_rt.model.content_checks import LARGEST_FILE
from kspacesr_rt.model.engine_files import require_no_engine
from kspacesr_rt.model.file import MALFORMED
from kspacesr_rt.model.spec import METADATA_KEY
from kspacesr_rt.system.plain_text import shortened

OLDEST_OPSET = 11
"""Of ONNX's operators, that is adopted: before, Resize, Pad and Clip mean other things."""
PREFIX = "network."
"""Of the names of all values of an adopted graph, so that none is one of ours."""
_ONNX_DOMAINS = ("", "ai.onnx")
_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

_Axes = tuple[int | None, int | None, int | None, int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignGraph:
    """The graph of a file that others made: one image in, one image out."""

    name: str
    """Name of its file, for messages."""
    content: bytes
    """The whole model, weights included: what its own runtime is given."""
    sha256: str
    """Of the file, without the weights it keeps elsewhere."""
    producer: str
    """What wrote it, as it says."""
    nodes: tuple[onnx.NodeProto, ...]
    """In the form that model files have."""
    weights: tuple[onnx.TensorProto, ...]
    opset: int
    """Of ONNX's operators."""
    input: str
    """Name of its input, as in `content`; in `nodes` it has the prefix."""
    output: str
    """The same of its output."""
    original: bytes | None
    """The same in half precision, if it was; `content` and `nodes` are in fp32."""
    axes: _Axes
    """Lengths of its input, ``(n, c, y, x)``; None where one is open."""


def read_foreign(path: Path) -> ForeignGraph:
    """Read an ONNX file with all that belongs to it.

    Raises
    ------
    ModelFileError
        If it is no ONNX file, is one of ours, keeps weights where they cannot be read, or has not
        one image as its input and one as its output.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ModelFileError(f"{path.name}: cannot be read: {system_message(exc)}") from exc
    try:
        return _read(path, content)
    except ModelFileError:
        raise
    except (*MALFORMED, EncodeError, OSError) as exc:
        raise ModelFileError(
            f"{path.name}: an ONNX file that cannot be read: {shortened(first_line(exc))}"
        ) from exc


def _read(path: Path, content: bytes) -> ForeignGraph:
    name, proto = path.name, onnx.ModelProto()
    require_no_engine(content, name)
    try:
        proto.ParseFromString(content)
    except DecodeError as exc:
        raise ModelFileError(
            f"{name}: not an ONNX file, or a truncated one",
            hint="is it whole? fetch or export it again",
        ) from exc
    if not proto.graph.node:
        raise ModelFileError(f"{name}: not an ONNX file, or one without a graph")
    if any(item.key == METADATA_KEY for item in proto.metadata_props):
        raise ModelFileError(
            f"{name}: is a model file of this project already", hint="use it as it is"
        )
    _load_weights(proto, path)
    opset = _opset(proto, name)
    original = proto.SerializeToString()
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    narrow = _widen(proto)
    whole = proto.SerializeToString()
    nodes, weights = _flat(proto, name)
    _require_known_operators(nodes, name)
    inside = {item.name for item in proto.graph.initializer}
    taken = [item for item in proto.graph.input if item.name not in inside]
    axes = _image(taken, "input", name)
    _image(list(proto.graph.output), "output", name)
    return ForeignGraph(
        name=name,
        content=whole,
        sha256=hashlib.sha256(content).hexdigest(),
        producer=shortened(f"{proto.producer_name} {proto.producer_version}".strip(), 80),
        nodes=tuple(_renamed(nodes)),
        weights=tuple(_used(weights, nodes)),
        opset=opset,
        input=taken[0].name,
        output=proto.graph.output[0].name,
        original=original if narrow else None,
        axes=axes,
    )


def _load_weights(proto: onnx.ModelProto, path: Path) -> None:
    """Take weights in that lie in files beside the model, and in no others."""
    outside = [
        tensor
        for tensor in external_data_helper._get_all_tensors(proto)
        if external_data_helper.uses_external_data(tensor)
    ]
    places = {item.value for one in outside for item in one.external_data if item.key == "location"}
    try:
        size = sum((path.parent / place).stat().st_size for place in places)
        if size > LARGEST_FILE:
            raise ModelFileError(
                f"{path.name}: its weights have {size} bytes, {LARGEST_FILE} are allowed"
            )
        external_data_helper.load_external_data_for_model(proto, str(path.parent))
    except OSError as exc:
        raise ModelFileError(
            f"{path.name}: keeps weights in {shortened(', '.join(sorted(places)), 120)}, which "
            f"cannot be read: {system_message(exc)}",
            hint="copy both files into one folder",
        ) from exc
    if proto.ByteSize() > LARGEST_FILE:
        raise ModelFileError(f"{path.name}: is larger than {LARGEST_FILE} bytes with its weights")


def _opset(proto: onnx.ModelProto, name: str) -> int:
    versions = [int(one.version) for one in proto.opset_import if one.domain in _ONNX_DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= newest:
        raise ModelFileError(
            f"{name}: is of ONNX's opset {', '.join(map(str, versions)) or 'none'}; "
            f"{OLDEST_OPSET} to {newest} are adopted",
            hint="export it again with a newer opset, or convert it with onnx.version_converter",
        )
    return versions[0]


def _image(values: list[onnx.ValueInfoProto], what: str, name: str) -> _Axes:
    """Check that there is one image, and return its lengths."""
    if len(values) != 1:
        listed = ", ".join(one.name for one in values) or "none"
        raise ModelFileError(
            f"{name}: expected one image as {what}, found {len(values)}: {shortened(listed, 120)}",
            hint="a network that takes one image and gives one is adopted: export it so",
        )
    tensor = values[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ModelFileError(
            f"{name}: its {what} is of the type {kind}, not float or float16",
            hint="export it for float32; to which range slices are brought, --range 0..255 says",
        )
    dimensions = tensor.shape.dim
    if tensor.HasField("shape") and len(dimensions) != 4:
        raise ModelFileError(
            f"{name}: its {what} has {len(dimensions)} axes, expected an image (n, c, y, x)",
            hint="wrap it and export it again: forward(x) = net(x[:, 0])[:, None]"
            if len(dimensions) == 3
            else "export it for batches of images, of 1 or 3 channels",
        )
    lengths = [int(one.dim_value) or None for one in dimensions] or [None] * 4
    return lengths[0], lengths[1], lengths[2], lengths[3]


def _widen(proto: onnx.ModelProto) -> bool:
    """Turn half precision into fp32 everywhere, in place; return whether there was any.

    Model files hold fp32, from which other precisions are made and proved.
    """
    found = False
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        tensors = list(graph.initializer)
        for node in graph.node:
            for item in node.attribute:
                tensors += [item.t] if item.HasField("t") else []
                graphs += [item.g] if item.HasField("g") else []
                if item.name in ("to", "dtype") and item.i in _NARROW:
                    item.i, found = TensorProto.FLOAT, True
        for tensor in tensors:
            if tensor.data_type in _NARROW:
                array = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                found = True
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _NARROW:
                value.type.tensor_type.elem_type, found = TensorProto.FLOAT, True
    return found


def _flat(proto: onnx.ModelProto, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes without graphs inside, and constants as weights."""
    weights = {item.name: item for item in proto.graph.initializer}
    if proto.graph.sparse_initializer:
        raise ModelFileError(f"{name}: has sparse weights", hint="export it with dense weights")
    nodes: list[onnx.NodeProto] = []
    waiting = list(reversed(proto.graph.node))
    while waiting:
        node = waiting.pop()
        if node.op_type == "Constant" and node.domain in _ONNX_DOMAINS:
            weights[node.output[0]] = _constant(node, name)
        elif node.op_type == "If" and node.domain in _ONNX_DOMAINS:
            waiting += reversed(_branch(node, weights, name))
        else:
            nodes.append(node)
    return nodes, list(weights.values())


def _constant(node: onnx.NodeProto, name: str) -> onnx.TensorProto:
    [item] = node.attribute
    value: Any = helper.get_attribute_value(item)
    made = onnx.TensorProto()
    if item.name == "value":
        made.CopyFrom(value)
    elif item.name in ("value_int", "value_ints"):
        made = numpy_helper.from_array(np.asarray(value, np.int64))
    elif item.name in ("value_float", "value_floats"):
        made = numpy_helper.from_array(np.asarray(value, np.float32))
    else:
        raise ModelFileError(f"{name}: has a constant of a kind that no image needs: {item.name}")
    made.name = node.output[0]
    return made


def _branch(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], name: str
) -> list[onnx.NodeProto]:
    """Return the nodes of the branch that is always taken."""
    if node.input[0] not in weights:
        raise ModelFileError(
            f"{name}: what it computes depends on its data (operator If, node "
            f"'{shortened(node.name, 80)}')",
            hint="export it for one way through: torch.onnx.export(..., dynamo=True) does so",
        )
    taken = bool(numpy_helper.to_array(weights[node.input[0]]).reshape(-1)[0])
    wanted = "then_branch" if taken else "else_branch"
    [graph] = [item.g for item in node.attribute if item.name == wanted]
    for item in graph.initializer:
        weights[item.name] = item
    ends = [
        helper.make_node("Identity", [inner.name], [outer])
        for inner, outer in zip(graph.output, node.output, strict=True)
    ]
    return [*graph.node, *ends]


def _require_known_operators(nodes: Iterable[onnx.NodeProto], name: str) -> None:
    foreign = {f"{one.domain}::{one.op_type}" for one in nodes if one.domain not in _ONNX_DOMAINS}
    if foreign:
        raise ModelFileError(
            f"{name}: uses operators of other domains than ONNX's: "
            f"{shortened(', '.join(sorted(foreign)[:5]), 200)}",
            hint="adopt the file as it was exported, before a runtime optimised or quantised it",
        )
    with_graphs = {
        one.op_type for one in nodes for item in one.attribute if item.HasField("g") or item.graphs
    }
    if with_graphs:
        raise ModelFileError(
            f"{name}: what it computes depends on its data (operator "
            f"{shortened(', '.join(sorted(with_graphs)), 80)})",
            hint="export it without loops: torch.onnx.export(..., dynamo=True) writes them out",
        )


def _renamed(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Give nodes names that are theirs alone, values the prefix, and leave out all notes."""
    renamed, taken = [], set[str]()
    for number, node in enumerate(nodes):
        made = onnx.NodeProto(op_type=node.op_type)
        made.input.extend(f"{PREFIX}{one}" if one else "" for one in node.input)
        made.output.extend(f"{PREFIX}{one}" if one else "" for one in node.output)
        made.name = node.name if node.name not in ("", *taken) else f"{node.op_type}.{number}"
        while made.name in taken:
            made.name += "+"
        taken.add(made.name)
        for item in node.attribute:
            copied = made.attribute.add()
            copied.CopyFrom(item)
            copied.ClearField("doc_string")
        renamed.append(made)
    return renamed


def _used(
    weights: Iterable[onnx.TensorProto], nodes: Iterable[onnx.NodeProto]
) -> list[onnx.TensorProto]:
    """Return the weights that are read, under their new names."""
    read = {one for node in nodes for one in node.input}
    kept = []
    for item in weights:
        if item.name not in read:
            continue
        made = onnx.TensorProto()
        made.CopyFrom(item)
        made.name = f"{PREFIX}{item.name}"
        made.ClearField("doc_string")
        del made.metadata_props[:]
        kept.append(made)
    return kept
