"""Centre what instance norms are given: runtimes lose digits where a mean is far from zero.

An instance norm does not see a shift of its input, but in fp32 a mean of 3 with a deviation of 0.01
leaves 73 to 95 dB of it in ONNX Runtime and OpenVINO; subtracting the mean first, 145 and more. A
group norm is an instance norm between reshapes, as PyTorch's exporter writes it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

NORM = "InstanceNormalization"


def centre_norms(graph: onnx.GraphProto) -> None:
    """Put ``x - mean(x)`` in front of every instance norm, in place.

    Parameters
    ----------
    graph
        With the shapes of its values; a norm of something of unknown rank is left as it is.
    """
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    nodes: list[onnx.NodeProto] = []
    axes_of: dict[int, str] = {}
    for number, node in enumerate(graph.node):
        rank = ranks.get(node.input[0], 0) if node.op_type == NORM else 0
        if rank >= 3:
            name = f"norm_{number}"
            axes = axes_of.setdefault(rank, f"norm_axes_{rank}")
            nodes.append(helper.make_node("ReduceMean", [node.input[0], axes], [f"{name}_mean"]))
            centred = f"{name}_centred"
            nodes.append(helper.make_node("Sub", [node.input[0], f"{name}_mean"], [centred]))
            node.input[0] = centred
        nodes.append(node)
    if not axes_of:
        return
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(
        numpy_helper.from_array(np.arange(2, rank, dtype=np.int64), name)
        for rank, name in axes_of.items()
    )
