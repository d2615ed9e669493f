"""What torch's ONNX exporter writes, as a graph of ours: names, and nothing that it adds."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from kspacesr_rt.graph.constant_moduli import write_constant_moduli
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME


def cleaned(proto: onnx.ModelProto, *, batch_open: bool = True) -> onnx.ModelProto:
    """Return a graph ``lr -> sr`` without doc strings, source paths and stored shapes.

    A PReLU of one slope becomes the LeakyRelu it is, which keeps ONNX Runtime's blocked layout. For
    moduli of constants, see `write_constant_moduli`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    for message in (made, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        message.doc_string = ""
        if hasattr(message, "metadata_props"):
            del message.metadata_props[:]
    del graph.value_info[:]
    graph.name = "network"
    _rename(graph, {graph.input[0].name: INPUT_NAME, graph.output[0].name: OUTPUT_NAME})
    for value in (graph.input[0], graph.output[0]):
        if batch_open:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        else:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    _single_slopes(graph)
    write_constant_moduli(graph)
    return made


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {item.name for item in graph.initializer}
    own = set(names)
    for name in set(names.values()) & (taken - own):
        names[name] = f"{name}_inside"
    for node in graph.node:
        for field in (node.input, node.output):
            renamed = [names.get(name, name) for name in field]
            del field[:]
            field.extend(renamed)
    for item in (*graph.initializer, *graph.input, *graph.output):
        item.name = names.get(item.name, item.name)


def _single_slopes(graph: onnx.GraphProto) -> None:
    weights = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "PRelu" or node.input[1] not in weights:
            continue
        slope = numpy_helper.to_array(weights[node.input[1]])
        if slope.size == 1:
            node.op_type = "LeakyRelu"
            del node.input[1]
            node.attribute.append(onnx.helper.make_attribute("alpha", float(slope.ravel()[0])))
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
