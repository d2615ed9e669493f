"""An image in blocks, so that a graph knows what rows and columns are multiples of.

To `torch.export` an axis is any length, and "a multiple of 8" a question that it asks anew at every
operator. An image that comes as ``(n, 1, y / 8, 8, x / 8, 8)`` has lengths that are products, and
nothing remains to be asked. The file takes the image itself.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper
from torch import Tensor

from kspacesr_rt.model.file import INPUT_NAME

_BLOCKS = "lr_in_blocks"


def in_blocks(image: Tensor, multiple: int) -> Tensor:
    """Return ``(..., y, x)`` as ``(..., y / m, m, x / m, m)``; as it is for a multiple of 1."""
    if multiple == 1:
        return image
    *leading, rows, columns = image.shape
    return image.reshape(*leading, rows // multiple, multiple, columns // multiple, multiple)


def joined(blocks: Tensor, multiple: int) -> Tensor:
    """Return the image of its blocks."""
    if multiple == 1:
        return blocks
    *leading, rows, _, columns, _ = blocks.shape
    return blocks.reshape(*leading, rows * multiple, columns * multiple)


def take_image(graph: onnx.GraphProto, multiple: int) -> None:
    """Let a graph that takes blocks take the image.

    Parameters
    ----------
    graph
        Its input is called as all our models' is; it is changed.
    multiple
        Samples per axis of a block; of 1 nothing is to be done.
    """
    if multiple == 1:
        return
    [given] = graph.input
    *leading, _, _, _, _ = given.type.tensor_type.shape.dim
    image = [dim.dim_param or dim.dim_value for dim in leading] + ["rows", "columns"]
    names = {given.name: _BLOCKS}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] == given.name:
            names[node.output[0]] = INPUT_NAME  # what joins them
    kept = [node for node in graph.node if names.get(node.output[0]) != INPUT_NAME]
    for node in kept:
        inputs = [names.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
    del graph.node[:]
    graph.node.extend((*_cut(), *kept))
    for name, values, shape in (
        ("size", [multiple, multiple], [2, 1]),
        ("axis", [1], [1]),
        ("every", [-1], [1]),
    ):
        graph.initializer.append(
            helper.make_tensor(f"{_BLOCKS}_{name}", TensorProto.INT64, shape, values)
        )
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, image))


def _cut() -> list[onnx.NodeProto]:
    """Return the nodes that cut an image into blocks, of which only the lengths are used."""
    size, axis, every = (f"{_BLOCKS}_{name}" for name in ("size", "axis", "every"))
    return [
        helper.make_node("Shape", [INPUT_NAME], [f"{_BLOCKS}_leading"], end=-2),
        helper.make_node("Shape", [INPUT_NAME], [f"{_BLOCKS}_matrix"], start=-2),
        helper.make_node("Unsqueeze", [f"{_BLOCKS}_matrix", axis], [f"{_BLOCKS}_lengths"]),
        helper.make_node("Div", [f"{_BLOCKS}_lengths", size], [f"{_BLOCKS}_counts"]),
        helper.make_node("Concat", [f"{_BLOCKS}_counts", size], [f"{_BLOCKS}_pairs"], axis=1),
        helper.make_node("Reshape", [f"{_BLOCKS}_pairs", every], [f"{_BLOCKS}_flat"]),
        helper.make_node(
            "Concat", [f"{_BLOCKS}_leading", f"{_BLOCKS}_flat"], [f"{_BLOCKS}_shape"], axis=0
        ),
        helper.make_node("Reshape", [INPUT_NAME, f"{_BLOCKS}_shape"], [_BLOCKS]),
    ]
