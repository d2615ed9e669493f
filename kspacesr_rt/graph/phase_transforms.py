"""FFT layers next to a pixel shuffle, computed on its phases: the shuffles go, and half the sums.

A generator whose CNN runs at LR cost takes the `s * s` phases of an image as channels and gives
them back as such. Between two of its passes, data consistency shuffles them into an image, takes
that to its LR band, and back, and apart again. All of it is linear and can be done on the phases
(`kspacesr_rt.kspace.phase_band`): one phase of each axis is the LR grid itself and needs no
product. At x2 that leaves 6 products of `n` by `n` matrices of what were 12, and nothing to move.

The file keeps its layers; what opens it for OpenVINO rewrites them. Everything else that takes an
image on the way still gets it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from kspacesr_rt.kspace.phase_band import line_waves, own_phase, synthesis
from kspacesr_rt.model.binding import attributes_of
from kspacesr_rt.model.spec import OP_DOMAIN

MARK = "@phases"
"""In the names of nodes that compute an FFT layer, behind the name that the layer had."""
FORWARD, BACK = "RealFFT2c", "RealIFFT2c"
SUMS = ("Add", "Sub")
POINTWISE = (*SUMS, "Cast", "Identity")
"""Layers that do not mind where a sample of an image stands."""
SMALLEST = 64
"""Times `s`: LR samples an axis from which on it pays. Below, more kernels cost what fewer
operations save; a finer grid has more of the former and less of the latter. ONNX Runtime gains
nothing at 128 and 3 % at 256, so it computes what the file says."""
QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
"""Takes a wave's cosine and sine to those of a wave that is a quarter later."""


def transforms_in_phases(proto: onnx.ModelProto, *, any_size: bool = False) -> onnx.ModelProto:
    """Return a model whose FFT layers between real images run on phases, where shuffles go by it.

    Parameters
    ----------
    proto
        A bound model; it is not changed.
    any_size
        Also below `SMALLEST`.

    Returns
    -------
        The model itself if it has no such layers lowered to matrix products, else a copy with the
        same inputs and outputs, and the same sums up to rounding.
    """
    plan = _planned(proto.graph, any_size)
    if plan is None:
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _Rewriter(made.graph, plan).rewrite()
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What is to be rewritten."""

    upscale: int
    images: frozenset[str]
    """Values that are to be held as phases."""


def _planned(graph: onnx.GraphProto, any_size: bool) -> _Plan | None:
    """Return what can be rewritten; None if nothing can, or nothing would be gained."""
    layers = [node for node in graph.node if _is_layer(node, FORWARD, BACK)]
    dimensions = {item.name: len(item.dims) for item in graph.initializer}
    finer = {max(_grids(node)) for node in layers} - {1}
    products = all(dimensions.get(name) == 2 for node in layers for name in node.input[1:])
    sizes = graph.input[0].type.tensor_type.shape.dim
    if len(finer) != 1 or not products or not _bands_stay_between_layers(graph):
        return None
    upscale = finer.pop()
    samples = sizes[2].dim_value * sizes[3].dim_value
    if samples < (SMALLEST * upscale) ** 2 and not any_size:
        return None
    images = _images(graph, upscale)
    saved = any(
        (_is_shuffle(node, "SpaceToDepth", upscale) and node.input[0] in images)
        or (_is_shuffle(node, "DepthToSpace", upscale) and node.output[0] in images)
        for node in graph.node
    )
    return _Plan(upscale=upscale, images=images) if saved else None


def _bands_stay_between_layers(graph: onnx.GraphProto) -> bool:
    """Say whether nothing but sums and FFT layers sees coefficients, which would be others."""
    bands = {node.output[0] for node in graph.node if _is_layer(node, FORWARD)}
    for node in graph.node:
        if node.op_type in SUMS and not bands.isdisjoint(node.input):
            if not bands.issuperset(node.input):
                return False
            bands.add(node.output[0])
        elif _is_layer(node, BACK) == bands.isdisjoint(node.input):
            return False
    return bands.isdisjoint(value.name for value in graph.output)


def _images(graph: onnx.GraphProto, upscale: int) -> frozenset[str]:
    """Return the values that hold one image each and come from an FFT layer or a shuffle."""
    taken = set()  # by FFT layers: one channel
    for node in reversed(graph.node):
        if _is_layer(node, FORWARD) and _grids(node)[0] == upscale:
            taken.add(node.input[0])
        elif node.op_type in POINTWISE and node.output[0] in taken:
            taken.update(node.input)
    images: set[str] = set()
    for node in graph.node:
        shuffled = _is_shuffle(node, "DepthToSpace", upscale) and node.output[0] in taken
        kept = node.op_type in POINTWISE and images.issuperset(node.input)
        if shuffled or kept or _is_layer(node, BACK):
            images.add(node.output[0])
    return frozenset(images)


def _is_layer(node: onnx.NodeProto, *kinds: str) -> bool:
    return node.domain == OP_DOMAIN and node.op_type in kinds


def _grids(node: onnx.NodeProto) -> tuple[int, int]:
    """Return how many times finer than the LR grid a layer's input and output are."""
    values = attributes_of(node)
    return values["input_upscale"], values["output_upscale"]


def _is_shuffle(node: onnx.NodeProto, kind: str, upscale: int) -> bool:
    if node.domain or node.op_type != kind:
        return False
    return bool(attributes_of(node)["blocksize"] == upscale)


class _Rewriter:
    """Rewrites one graph in place."""

    def __init__(self, graph: onnx.GraphProto, plan: _Plan) -> None:
        self._graph = graph
        self._plan = plan
        self._s = plan.upscale
        sizes = graph.input[0].type.tensor_type.shape.dim
        self._matrix = (sizes[2].dim_value, sizes[3].dim_value)
        self._phases: dict[str, str] = {}
        """Images to the values that hold their phases, ``(batch, s, s * y, x)``: runtimes leave the
        CNN's own layout for it, in which all that follows would be slow."""
        self._bands: dict[str, str] = {}
        """LR bands to the values that hold their coefficients, ``(batch, 1, my, mx)``: samples of
        the LR grid and, behind those of an even axis, its sine."""
        self._whole: set[str] = set()
        """Images that are there under their own names all the same."""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._layer = ""
        """What new nodes are named after."""

    def rewrite(self) -> None:
        """Go through the nodes, which are in the order they run in."""
        for node in self._graph.node:
            self._layer = f"{node.name}{MARK}"
            self._rewrite(node)
        for value in self._graph.output:
            self._restore(value.name)
        del self._graph.value_info[:]
        used = {name for node in self._nodes for name in node.input}
        kept = [item for item in self._graph.initializer if item.name in used]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend([*kept, *self._constants.values()])

    def _rewrite(self, node: onnx.NodeProto) -> None:
        given, value = list(node.input), node.output[0]
        if _is_layer(node, FORWARD):
            finer = _grids(node)[0] > 1
            self._bands[value] = self._from_image(given[0]) if finer else self._from_lr(given[0])
        elif _is_layer(node, BACK):
            self._phases[value] = self._to_phases(self._bands[given[0]])
        elif node.op_type in SUMS and self._bands.keys() >= set(given):
            self._bands[value] = self._make(node.op_type, [self._bands[name] for name in given])
        elif value in self._plan.images:
            if node.op_type == "DepthToSpace":
                self._phases[value] = self._reshaped(given[0], "phases")
            else:
                taken = [self._phases[name] for name in given]
                self._phases[value] = self._copied(node, taken, f"{value}{MARK}")
        elif _is_shuffle(node, "SpaceToDepth", self._s) and given[0] in self._phases:
            self._reshaped(self._phases[given[0]], "channels", value)
        else:
            for name in given:
                self._restore(name)
            self._copied(node, given, value)

    def _restore(self, name: str) -> None:
        """Put an image together under its own name, for what knows nothing of phases."""
        if name in self._phases and name not in self._whole:
            self._whole.add(name)
            self._layer = f"{name}.whole"
            phases = self._reshaped(self._phases[name], "channels")
            self._make("DepthToSpace", [phases], name, blocksize=self._s)

    def _from_lr(self, image: str) -> str:
        """Take an LR image to the band, scaled as zero-filling scales it."""
        scaled = self._make("Mul", [image, self._constant("lr_gain", 1 / self._s)])
        return self._with_sine(self._with_sine(scaled, 0), 1)

    def _from_image(self, image: str) -> str:
        """Take an image on the HR grid to the band."""
        s, (y, x) = self._s, self._matrix
        if image in self._phases:
            phases = self._phases[image]
        else:
            phases = self._reshaped(self._make("SpaceToDepth", [image], blocksize=s), "phases")
        parts = [self._reshaped(part, "columns") for part in self._split(phases)]
        own = own_phase(y, s)
        band = self._with_sine(parts[own], 0)
        for phase in self._others(own):
            matrix = self._constant(f"rows.{phase}.T", synthesis(y, s, phase).T)
            band = self._make("Add", [band, self._make("MatMul", [matrix, parts[phase]])])
        parts = self._split(band)
        own = own_phase(x, s)
        band = self._with_sine(parts[own], 1)
        for phase in self._others(own):
            matrix = self._constant(f"columns.{phase}", synthesis(x, s, phase))
            band = self._make("Add", [band, self._make("MatMul", [parts[phase], matrix])])
        gain = np.full((y + 1 - y % 2, 1), 1 / s**2)
        return self._make("Mul", [band, self._constant("gain", gain)])

    def _to_phases(self, band: str) -> str:
        """Take the band to the phases of an image on the HR grid."""
        s, (y, x) = self._s, self._matrix
        band = self._without_turned(band)
        own = own_phase(x, s)
        parts = [band if phase != own else self._samples(band, 1) for phase in range(s)]
        for phase in self._others(own):
            matrix = self._constant(f"columns.{phase}.T", synthesis(x, s, phase).T)
            parts[phase] = self._make("MatMul", [band, matrix])
        rows = self._make("Concat", parts, axis=1)
        own = own_phase(y, s)
        parts = [rows if phase != own else self._samples(rows, 0) for phase in range(s)]
        for phase in self._others(own):
            matrix = self._constant(f"rows.{phase}", synthesis(y, s, phase))
            parts[phase] = self._make("MatMul", [matrix, rows])
        return self._make("Concat", [self._reshaped(part, "part") for part in parts], axis=1)

    def _without_turned(self, band: str) -> str:
        """Take away what the single lines of both axes share, each a quarter of a wave later."""
        y, x = self._matrix
        if y % 2 or x % 2:
            return band
        corner = self._make("MatMul", [self._constant("line.rows", line_waves(y)), band])
        turned = self._constant("line.columns.turned", line_waves(x).T @ QUARTER.T)
        corner = self._make("MatMul", [corner, turned])
        turned = self._constant("line.rows.turned", line_waves(y).T @ QUARTER)
        corner = self._make("MatMul", [turned, corner])
        corner = self._make("MatMul", [corner, self._constant("line.columns", -line_waves(x))])
        return self._make("Add", [band, corner])

    def _others(self, own: int) -> Iterable[int]:
        """Return the phases of an axis that are not the LR grid."""
        return (phase for phase in range(self._s) if phase != own)

    def _with_sine(self, value: str, axis: int) -> str:
        """Add an empty coefficient to the samples along an axis, if it is even."""
        if self._matrix[axis] % 2:
            return value
        after = (1, 0) if axis == 0 else (0, 1)
        return self._make("Pad", [value, self._sizes(f"sine.{axis}", *[0] * 6, *after)])

    def _samples(self, value: str, axis: int) -> str:
        """Leave out the sine behind the samples along an axis, if it is even."""
        n = self._matrix[axis]
        if n % 2:
            return value
        start, end = self._sizes("start", 0), self._sizes(f"end.{axis}", n)
        return self._make("Slice", [value, start, end, self._sizes(f"axis.{axis}", axis + 2)])

    def _reshaped(self, value: str, key: str, into: str = "") -> str:
        s, (y, x) = self._s, self._matrix
        shapes = {
            "phases": (0, s, s * y, x),
            "channels": (0, s * s, y, x),
            "columns": (0, s, y, x),
            "part": (0, 1, s * y, x),
        }
        return self._make("Reshape", [value, self._sizes(key, *shapes[key])], into)

    def _split(self, value: str) -> list[str]:
        """Take the phases of an axis apart."""
        names = [f"{value}.{phase}" for phase in range(self._s)]
        sizes = self._sizes("split", *[1] * self._s)
        self._nodes.append(
            helper.make_node("Split", [value, sizes], names, name=f"{value}.split", axis=1)
        )
        return names

    def _make(self, kind: str, inputs: list[str], into: str = "", **settings: int) -> str:
        """Append a node under a name of its own, and return its result, `into` or of that name."""
        name = f"{self._layer}.{len(self._nodes)}"
        value = into or name
        node = helper.make_node(kind, inputs, [value], name=name)
        node.attribute.extend(helper.make_attribute(*item) for item in settings.items())
        self._nodes.append(node)
        return value

    def _copied(self, node: onnx.NodeProto, inputs: list[str], value: str) -> str:
        """Append a node of the graph with other inputs and another result."""
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        del copied.input[:]
        copied.input.extend(inputs)
        copied.output[0] = value
        self._nodes.append(copied)
        return value

    def _constant(self, key: str, array: npt.ArrayLike) -> str:
        return self._kept(key, np.asarray(array, dtype=np.float32))

    def _sizes(self, key: str, *sizes: int) -> str:
        return self._kept(f"sizes.{key}", np.asarray(sizes, dtype=np.int64))

    def _kept(self, key: str, array: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> str:
        """Store a constant once, however many layers take it."""
        name = f"{MARK}.{key}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name
