"""A convolution of few outputs behind a pixel shuffle, computed in front of it instead.

CPU kernels compute a block of output channels at once, one a lane of a vector register. The seed's
last layer has 9 x 9 taps, 64 channels in and 2 out: it leaves seven lanes in eight idle and takes a
third of the network's time for 7 % of its operations. The same sums can be taken on the grid in
front of the shuffle [1]_: each of its ``s * s`` phases becomes an output channel of its own, so the
lanes are filled, and the shuffle moves 2 channels rather than 64. Taps that fall outside the kernel
are zeros; nothing else changes, but for the order of the sums.

The file keeps the layer as trained; what opens it on a CPU rewrites it.

References
----------
.. [1] Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
   Convolutional Neural Network", CVPR 2016, arXiv:1609.05158
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from kspacesr_rt.model.binding import attributes_of

LANES = 16
"""Output channels a kernel computes at once: fp32 values in a 512-bit register, the block of the
layouts that ONNX Runtime (NCHWc) and OpenVINO (nChw16c) use there."""
WORTH_IT = 0.5
"""Largest share of the padded multiplications before that those after may be."""
POINTWISE = ("Identity", "LeakyRelu", "Relu", "Tanh", "Cast")
"""Layers that do not mind where a sample stands."""

Weights = npt.NDArray[Any]


def in_phases(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose narrow convolutions run in front of the pixel shuffle, where that pays.

    Parameters
    ----------
    proto
        A bound model; it is not changed.

    Returns
    -------
        The model itself if it has no such layer, else a copy with the same inputs and outputs.
        Values that are outputs of the graph, or that anything else takes, stay as they are.
    """
    if _find(proto.graph) is None:
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    while (match := _find(made.graph)) is not None:
        _rewrite(made.graph, match)
    return made


def phase_weights(weights: Weights, factor: int) -> Weights:
    """Return the weights that act before a shuffle as others do behind it.

    Parameters
    ----------
    weights
        ``(o, c, ky, kx)`` of a convolution with odd kernel, stride 1 and as much zero padding as
        keeps the size.
    factor
        `s` of the shuffle, in the channel order of `torch.nn.PixelShuffle` (ONNX: CRD).

    Returns
    -------
        ``(o * s * s, c * s * s, my, mx)``, both kernel sizes odd again.
    """
    o, c, *kernel = weights.shape
    reach = [_reach(k, factor) for k in kernel]
    cells = [2 * r + 1 for r in reach]
    made = np.zeros((o, factor, factor, c, factor, factor, *cells), weights.dtype)
    for phase in itertools.product(range(factor), repeat=2):
        # The kernel on the fine grid of all cells that it can touch, placed for this phase.
        fine = np.zeros((o, c, cells[0] * factor, cells[1] * factor), weights.dtype)
        rows, columns = (
            slice(start := r * factor + p - k // 2, start + k)
            for r, p, k in zip(reach, phase, kernel, strict=True)
        )
        fine[:, :, rows, columns] = weights
        split = fine.reshape(o, c, cells[0], factor, cells[1], factor)
        made[:, phase[0], phase[1]] = split.transpose(0, 1, 3, 5, 2, 4)
    return made.reshape(o * factor**2, c * factor**2, *cells)


def _reach(kernel: int, factor: int) -> int:
    """Return how many cells of the coarse grid a kernel reaches to each side."""
    return math.ceil((kernel // 2) / factor)


def _is_worthwhile(shape: Sequence[int], factor: int) -> bool:
    """Say whether a convolution of ``(o, c, ky, kx)`` weights is cheaper in phases."""
    before = math.prod(shape[2:]) * math.ceil(shape[0] / LANES)
    cells = math.prod(2 * _reach(k, factor) + 1 for k in shape[2:])
    return cells * math.ceil(shape[0] * factor**2 / LANES) <= WORTH_IT * before


@dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    """Places in a graph's list of nodes."""

    shuffle: int
    consumers: tuple[int, ...]
    """What takes its output, one after another: pointwise layers, and the convolution."""


def _find(graph: onnx.GraphProto) -> _Match | None:
    """Return the first shuffle with a convolution behind it that gains."""
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    consumer = {name: at for at, node in enumerate(graph.node) for name in node.input}
    constants = {item.name: item for item in graph.initializer}
    for at, shuffle in enumerate(graph.node):
        if not _is_pixel_shuffle(shuffle):
            continue
        consumers, value = [], shuffle.output[0]
        while uses[value] == 1 and value in consumer:
            consumers.append(consumer[value])
            node = graph.node[consumer[value]]
            if _is_narrow(node, value, constants, attributes_of(shuffle)["blocksize"]):
                return _Match(shuffle=at, consumers=tuple(consumers))
            if node.domain or node.op_type not in POINTWISE:
                break
            value = node.output[0]
    return None


def _is_pixel_shuffle(node: onnx.NodeProto) -> bool:
    if node.domain or node.op_type != "DepthToSpace":
        return False
    return bool(attributes_of(node).get("mode") == b"CRD")


def _is_narrow(
    node: onnx.NodeProto, value: str, constants: dict[str, onnx.TensorProto], factor: int
) -> bool:
    """Say whether a node is a plain convolution of a value that gains from running in phases."""
    if (node.domain, node.op_type) != ("", "Conv") or node.input[0] != value:
        return False
    if any(name and name not in constants for name in node.input[1:]):
        return False
    values = attributes_of(node)
    shape = list(constants[node.input[1]].dims)
    if len(shape) != 4 or any(k % 2 == 0 for k in shape[2:]):
        return False
    if values.get("auto_pad", b"NOTSET") != b"NOTSET" or values.get("group", 1) != 1:
        return False
    if any(n != 1 for key in ("strides", "dilations") for n in values.get(key, ())):
        return False
    if list(values.get("pads", [0] * 4)) != [k // 2 for k in shape[2:]] * 2:
        return False
    return _is_worthwhile(shape, factor)


def _rewrite(graph: onnx.GraphProto, match: _Match) -> None:
    """Let the convolution take what the shuffle took, and the shuffle give what it gave."""
    shuffle, *consumers = (graph.node[at] for at in (match.shuffle, *match.consumers))
    first, convolution = consumers[0], consumers[-1]
    factor = attributes_of(shuffle)["blocksize"]
    constants = {item.name: item for item in graph.initializer}
    weights = phase_weights(numpy_helper.to_array(constants[convolution.input[1]]), factor)
    made = {1: weights}
    if len(convolution.input) > 2 and convolution.input[2]:
        bias = numpy_helper.to_array(constants[convolution.input[2]])
        made[2] = np.repeat(bias, factor**2)
    for at, array in made.items():
        name = f"{convolution.name}.phases.{at}"
        graph.initializer.append(numpy_helper.from_array(array, name))
        convolution.input[at] = name
    kernel = list(weights.shape[2:])
    changed = {"kernel_shape": kernel, "pads": [k // 2 for k in kernel] * 2}
    kept = [item for item in convolution.attribute if item.name not in changed]
    del convolution.attribute[:]
    convolution.attribute.extend(kept)
    convolution.attribute.extend(helper.make_attribute(*item) for item in changed.items())
    # The shuffle's node goes behind the convolution's, with names and results of before.
    moved = onnx.NodeProto()
    moved.CopyFrom(shuffle)
    first.input[0], moved.output[0] = shuffle.input[0], convolution.output[0]
    convolution.output[0] = moved.input[0] = f"{moved.output[0]}.phases"
    nodes = list(graph.node)
    nodes.insert(match.consumers[-1] + 1, moved)
    del nodes[match.shuffle]
    del graph.node[:]
    graph.node.extend(nodes)
    coarser = {shuffle.output[0], *(node.output[0] for node in consumers)}
    _keep(graph.value_info, lambda value: value.name not in coarser)
    used = {name for node in nodes for name in node.input}
    _keep(graph.initializer, lambda item: item.name in used)


def _keep(items: Any, wanted: Callable[[Any], bool]) -> None:
    """Drop from a repeated field what is not wanted."""
    kept = [item for item in items if wanted(item)]
    del items[:]
    items.extend(kept)
