"""Zero-filling and data consistency in fewer launches, as GPUs are given them.

A fast GPU waits for launches: one of small matrix products takes about as long as what it computes.
Two things make them fewer.

**Zero-filling is a projection of a sparse image.** An LR image whose samples are laid out on the HR
grid with zeros between them has the LR image's band, and copies of it outside. So what data
consistency adds to a predicted image, ``zero-filled - R predicted`` with `R` the crop to the band
and the fill, is ``R (stuffed - predicted)``: no transform of the LR image, no difference of
coefficients between products, and nothing else in fp32.

**The projection itself is two products rather than four** where that costs nothing. `R` is
``P x P^T`` (`kspacesr_rt.kspace.real_band.band_projector`): rows by one dense product; of columns a
matrix twice as fine as the band splits into its even and odd samples, which depend on each other
and by a half on themselves. So only that half of the matrix is multiplied, as two products in one
launch, and the rest is an addition. At an upscale of 2 that is as many operations as four products
have; above, it is more (`projects`), and four products stay. Then the LR image is transformed for
them anyway, and zero-filling takes that as well.

Where both axes are even, the real part of the crop is not quite ``P x P^T``: their single lines
meet in one sample of k-space, `Im Q (x) Im Q` of `kspacesr_rt.kspace.real_band`. Two rows and one
column more in the constants give the sums that it needs, for free, and it is added elementwise.

Images are in phases here, ``(n, s * s, y, x)`` as a convolution in front of a ``DepthToSpace``
writes them, so that nothing is laid out as an image between two cascades.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kspacesr_rt.graph.aligned_coefficients import MULTIPLE
from kspacesr_rt.graph.bodies import GRID_ATTRIBUTES
from kspacesr_rt.graph.precision import opset_of
from kspacesr_rt.graph.sample_coefficients import FORWARD, INVERSE, takes_samples
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.real_band import analysis_matrix, band_projector, sample_synthesis_matrix
from kspacesr_rt.model.binding import BoundModel, Constants, attributes_of
from kspacesr_rt.model.spec import OP_DOMAIN

ZERO_FILL = "RealZeroFill"
"""LR image ``(n, 1, y, x)`` to the zero-filled image ``(n, 1, s*y, s*x)``: two products."""
ZERO_STUFFED = "RealZeroStuffed"
"""LR image to its samples with zeros between, in phases ``(n, s*s, y, x)``: no product."""
PROJECTION = "RealProjection"
"""HR image to its LR band, both in phases: two products."""
PHASES = 2
"""Of an axis at an upscale of 2, the only one of which projections are made."""


def projects(upscale: int) -> bool:
    """Say whether data consistency is a projection in two products rather than four.

    Parameters
    ----------
    upscale
        HR matrix by LR matrix.

    Notes
    -----
    The rule is arithmetic against launches. Four products are ``(y, sy) (sy, sx)``,
    ``(y, sx) (sx, x)`` and back, with an elementwise launch between: five launches. A projection is
    ``(sy, sy) (sy, sx)``, and of columns all phases but a sample's own, ``s (s - 1)`` products
    ``(sy, x) (x, x)`` in one launch. For ``s = 2`` both are ``24 y y x`` operations (of a square
    matrix); for 3 and 4 it is 1.9 and 2.8 times as many, 0.7 and 2.4 GFLOP more at 256 x 256: in
    fp32 ten microseconds and more of the fastest GPUs for three launches, so those four products
    stay.
    """
    return upscale == PHASES


def with_band_projections(model: BoundModel) -> onnx.ModelProto:
    """Return a bound model's graph with fewer launches in zero-filling and data consistency.

    Parameters
    ----------
    model
        Bound to a matrix; not changed. What `takes_samples` refuses stays as it is; so do FFT
        layers that are put together in another way, as in networks of others.

    Returns
    -------
        The same function to rounding, with layers of our domain.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model.proto)
    if takes_samples(model):
        matrix = model.spec.network_matrix(model.spec.matrix)
        _Projecting(result.graph, matrix).apply()
        used = {node.op_type for node in result.graph.node if node.domain == OP_DOMAIN}
        both_even = not any(n % 2 for n in matrix)
        bodies = _bodies(opset_of(result), both_even=both_even)
        result.functions.extend(body for body in bodies if body.name in used)
    return result


@dataclass(frozen=True, slots=True)
class _Phases:
    """An HR image of one channel as its phases, ``(n, block * block, y, x)``."""

    name: str
    block: int


class _Projecting:
    """Rewrites a graph, from its start to its end."""

    def __init__(self, graph: onnx.GraphProto, matrix: Matrix) -> None:
        self.graph = graph
        self.matrix = matrix
        self.maker = {name: node for node in graph.node for name in node.output}
        self.takers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.takers[name].append(node)
        self.replaced = self._replaceable()
        """Coefficients that are needed no more."""
        self.images = self._images()
        """Values that are HR images of one channel: FFT layers take them."""
        self.phases: dict[str, _Phases] = {}
        """HR images whose phases are at hand."""
        self.stuffed: dict[tuple[str, int], str] = {}
        self.stored: dict[tuple[str, int], list[str]] = {}
        self.renamed: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def apply(self) -> None:
        """Rewrite the graph in place."""
        for node in list(self.graph.node):
            for position, name in enumerate(node.input):
                node.input[position] = self.renamed.get(name, name)
            self._write(node)
        self._drop_unused()

    def _images(self) -> set[str]:
        found = set[str]()
        for node in self.graph.node:
            if not _is(node, FORWARD):
                continue
            name = node.input[0]
            found.add(name)
            while (maker := self.maker.get(name)) is not None and maker.op_type == "Cast":
                name = maker.input[0]
                found.add(name)
        return found

    def _write(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        taken = [self.phases[one] for one in node.input if one in self.phases]
        blocks = {one.block for one in taken}
        if _is(node, INVERSE):
            self._write_inverse(node)
            return
        if _is(node, "DepthToSpace", "") and name in self.images:
            self.phases[name] = _Phases(node.input[0], attributes_of(node)["blocksize"])
        elif _is(node, "Cast", "") and taken:
            self._write_in_phases(node, taken)
        elif _is(node, "Add", "") and len(taken) == len(node.input) and len(blocks) == 1:
            self._write_in_phases(node, taken)
            self._write_image(name)
            return
        elif _is(node, "SpaceToDepth", "") and blocks == {attributes_of(node)["blocksize"]}:
            self.renamed[name] = taken[0].name
            return
        self.nodes.append(node)

    def _write_in_phases(self, node: onnx.NodeProto, taken: list[_Phases]) -> None:
        """Write the same operator of its inputs' phases."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [one.name for one in taken]
        made.output[0] = f"{node.output[0]}.phases"
        made.name = f"{node.name}.phases"
        self.nodes.append(made)
        self.phases[node.output[0]] = _Phases(made.output[0], taken[0].block)

    def _write_image(self, name: str) -> None:
        """Lay a value's phases out; dropped again where only phases are taken."""
        phases = self.phases[name]
        self.nodes.append(
            helper.make_node(
                "DepthToSpace",
                [phases.name],
                [name],
                name=f"{name}.image",
                blocksize=phases.block,
                mode="CRD",
            )
        )

    def _write_inverse(self, node: onnx.NodeProto) -> None:
        """Write a zero-filled image, what data consistency adds to an image, or the node itself."""
        upscale = attributes_of(node)["output_upscale"]
        maker = self.maker.get(node.input[0])
        if maker is None or maker.output[0] not in self.replaced:
            self.nodes.append(node)
        elif _is_of_lr(maker):
            self.nodes.append(self._layer(ZERO_FILL, maker.input[0], node.output[0], upscale))
        else:
            measured, predicted = (self.maker[name].input[0] for name in maker.input)
            self._write_consistency(node.output[0], measured, predicted, upscale)

    def _replaceable(self) -> set[str]:
        """Return the transforms of LR images that nothing needs any more, and their differences.

        Those whose coefficients go to zero-filling alone, or to data consistency to be projected.
        """
        found = set[str]()
        for node in self.graph.node:
            if not _is_of_lr(node):
                continue
            taken = self.takers[node.output[0]]
            differences = [one for one in taken if self._is_projected(one)]
            if all(_is(one, INVERSE) or one in differences for one in taken):
                found |= {node.output[0], *(one.output[0] for one in differences)}
        return found

    def _is_projected(self, node: onnx.NodeProto) -> bool:
        """Say whether a node is a difference of coefficients, of which a projection gives an image.

        Of an LR image's less those of an HR image, which go back to that one's grid alone.
        """
        if not _is(node, "Sub", ""):
            return False
        measured, predicted = (self.maker.get(name) for name in node.input)
        if measured is None or predicted is None:
            return False
        if not _is_of_lr(measured) or not _is(predicted, FORWARD) or _is_of_lr(predicted):
            return False
        upscale = attributes_of(predicted)["input_upscale"]
        return projects(upscale) and all(
            _is(one, INVERSE) and attributes_of(one)["output_upscale"] == upscale
            for one in self.takers[node.output[0]]
        )

    def _write_consistency(self, added: str, measured: str, predicted: str, upscale: int) -> None:
        phases = self.phases.get(predicted)
        if phases is None or phases.block != upscale:
            phases = _Phases(f"{added}.predicted", upscale)
            self.nodes.append(
                helper.make_node(
                    "SpaceToDepth", [predicted], [phases.name], name=phases.name, blocksize=upscale
                )
            )
        lacking, made = f"{added}.lacking", f"{added}.phases"
        inputs = [self._stuffed(measured, upscale), phases.name]
        self.nodes.append(helper.make_node("Sub", inputs, [lacking], name=lacking))
        self.nodes.append(self._layer(PROJECTION, lacking, made, upscale))
        self.phases[added] = _Phases(made, upscale)
        self._write_image(added)

    def _stuffed(self, lr: str, upscale: int) -> str:
        """Return an LR image with zeros between its samples, written once."""
        if (lr, upscale) not in self.stuffed:
            made = f"{lr}.stuffed.{upscale}"
            self.nodes.append(self._layer(ZERO_STUFFED, lr, made, upscale))
            self.stuffed[lr, upscale] = made
        return self.stuffed[lr, upscale]

    def _layer(self, kind: str, value: str, made: str, upscale: int) -> onnx.NodeProto:
        """Return a layer with its constants, which layers of a kind have in common."""
        if (kind, upscale) not in self.stored:
            constants = _CONSTANTS[kind](self.matrix, upscale)
            names = [f"{kind}.{upscale}.{key}" for key in constants]
            for name, array in zip(names, constants.values(), strict=True):
                self.graph.initializer.append(numpy_helper.from_array(array, name))
            self.stored[kind, upscale] = names
        return helper.make_node(
            kind,
            [value, *self.stored[kind, upscale]],
            [made],
            name=made,
            domain=OP_DOMAIN,
            input_upscale=upscale if kind == PROJECTION else 1,
            output_upscale=upscale,
        )

    def _drop_unused(self) -> None:
        """Leave out what nothing takes any more, constants too."""
        used = {item.name for item in self.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if not used.isdisjoint(node.output):
                used.update(node.input)
                kept.append(node)
        # Their inputs may be those of the graph itself, which gives its nodes away.
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        constants = [item for item in self.graph.initializer if item.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(constants)


def _is(node: onnx.NodeProto, kind: str, domain: str = OP_DOMAIN) -> bool:
    return (node.domain, node.op_type) == (domain, kind)


def _is_of_lr(node: onnx.NodeProto) -> bool:
    """Say whether a node transforms an LR image."""
    return _is(node, FORWARD) and attributes_of(node)["input_upscale"] == 1


# --- constants ------------------------------------------------------------------------------------


def _zero_fill(matrix: Matrix, upscale: int) -> Constants:
    """Return matrices of both axes; of even ones with the single lines' cosine below and beside.

    Notes
    -----
    All of the scale is on the left, so that every `upscale`-th sample is a copy to a power of two.
    """
    root = np.sqrt(upscale)
    left, right = (sample_synthesis_matrix(n, n * upscale)[:, :n] for n in matrix)
    left, right = left * root, right / root
    if not _both_even(matrix):
        return _single({"left": left, "right": right.T})
    # Of the LR grid's single line the sine is 0: one product of cosines is all there is.
    cosines = [analysis_matrix(n, n)[n - 1] for n in matrix]
    sines = [analysis_matrix(n, n * upscale)[n] for n in matrix]
    left = np.concatenate([left, cosines[0][None]])
    right = np.concatenate([right, _column(cosines[1]).T])
    lines = {"rows": -sines[0][:, None], "columns": sines[1]}
    sizes = _sizes(*(n * upscale for n in matrix))
    return _single({"left": left, "right": right.T, **lines}) | sizes


def _zero_stuffed(matrix: Matrix, upscale: int) -> Constants:
    """Return what each phase takes of the LR image: one of them all, the others nothing.

    Notes
    -----
    Sample `i` of an LR axis is sample ``upscale * i`` of the HR axis, or half an `upscale` on where
    an odd axis has its origin in another phase.
    """
    row, column = (upscale // 2 * (n % 2) for n in matrix)
    phases = np.zeros((1, upscale * upscale, 1, 1))
    phases[0, row * upscale + column] = upscale
    return _single({"phases": phases})


def _projection(matrix: Matrix, upscale: int) -> Constants:
    """Return the dense matrix of rows, and of columns what a phase takes of the other one.

    Notes
    -----
    Rows are in the order of their phases, too. All of the scale is on the left.
    """
    y, x = matrix
    left, right = (band_projector(n, PHASES * n, np.float32) for n in matrix)
    order = np.arange(PHASES * y).reshape(y, PHASES).T.ravel()
    left = left[np.ix_(order, order)].reshape(PHASES, y, PHASES * y) / PHASES
    # Block b is of phase b, and gives the other one.
    right = np.stack([right[0::2, 1::2], right[1::2, 0::2]]) * PHASES
    constants = {
        "split": np.asarray([-1, PHASES, PHASES, y, x], np.int64),
        "beside": np.asarray([PHASES, -1, PHASES * y, x], np.int64),
        "stacked": np.asarray([PHASES, -1, x], np.int64),
        "joined": np.asarray([-1, PHASES * PHASES, y, x], np.int64),
    }
    if not _both_even(matrix):
        unstacked = {"unstacked": np.asarray([PHASES, -1, PHASES, y, x], np.int64)}
        given = _single({"left": left.reshape(-1, PHASES * y), "right": right})
        return given | constants | unstacked
    # The single line's cosine is 0 at every second sample, its sine at the others; where they are
    # not, both are the same.
    rows, columns = (analysis_matrix(n, PHASES * n, np.float32)[n - 1 : n + 1] for n in matrix)
    # Below a phase's rows, and beside its columns, stand the sums that the other phase takes.
    below = rows[::-1, None, order]
    beside = np.stack([_column(columns[phase][phase::2]) for phase in range(PHASES)])
    left = np.concatenate([left, below], axis=1)
    right = np.concatenate([right, beside], axis=2)
    signs = np.asarray([[-1.0, 1.0], [1.0, -1.0]], np.float32)[:, None, :, None, None]
    lines = {"rows": signs * rows[0][0::2][:, None], "columns": columns[0][0::2]}
    padded = left.shape[1]
    return (
        _single({"left": left.reshape(-1, PHASES * y), "right": right, **lines})
        | constants
        | {
            "unstacked": np.asarray([PHASES, -1, PHASES, padded, x], np.int64),
            "unstacked_sums": np.asarray([PHASES, -1, PHASES, padded, right.shape[2]], np.int64),
        }
        | _sizes(y, x)
    )


_CONSTANTS = {ZERO_FILL: _zero_fill, ZERO_STUFFED: _zero_stuffed, PROJECTION: _projection}


def _column(values: FloatArray) -> FloatArray:
    """Return a column, and zeros beside it: rows stay of a length that products like."""
    return np.pad(values[:, None], [(0, 0), (0, MULTIPLE - 1)])


def _single(constants: Constants) -> Constants:
    return {name: np.ascontiguousarray(one, np.float32) for name, one in constants.items()}


def _sizes(rows: int, columns: int) -> Constants:
    """Return where a result ends and the sum beside it begins, and where that ends."""
    return {
        "ends": np.asarray([rows, columns], np.int64),
        "past": np.asarray([rows + 1, columns + 1], np.int64),
    }


def _both_even(matrix: Matrix) -> bool:
    return not any(n % 2 for n in matrix)


# --- bodies ---------------------------------------------------------------------------------------


def _bodies(opset: int, *, both_even: bool) -> list[onnx.FunctionProto]:
    """Return the standard operators of each layer; of another opset none would be inlined."""
    bodies = {
        ZERO_FILL: _zero_fill_nodes,
        ZERO_STUFFED: _zero_stuffed_nodes,
        PROJECTION: _projection_nodes,
    }
    made = []
    for kind, write in bodies.items():
        matrix = (2, 2) if both_even else (3, 3)
        constants = list(_CONSTANTS[kind](matrix, PHASES))
        made.append(
            helper.make_function(
                OP_DOMAIN,
                kind,
                ["x", *constants],
                ["y"],
                write(both_even=both_even),
                [helper.make_opsetid("", opset)],
                attributes=GRID_ATTRIBUTES,
            )
        )
    return made


def _zero_stuffed_nodes(*, both_even: bool) -> list[onnx.NodeProto]:
    return [helper.make_node("Mul", ["x", "phases"], ["y"])]


def _zero_fill_nodes(*, both_even: bool) -> list[onnx.NodeProto]:
    made = "product" if both_even else "y"
    nodes = [
        helper.make_node("MatMul", ["left", "x"], ["half"]),
        helper.make_node("MatMul", ["half", "right"], [made]),
    ]
    if both_even:
        nodes += [
            *_slices([2, 3], "product"),
            helper.make_node("Mul", ["sum", "rows"], ["single_rows"]),
            helper.make_node("Mul", ["single_rows", "columns"], ["single"]),
            helper.make_node("Add", ["inner", "single"], ["y"]),
        ]
    return nodes


def _projection_nodes(*, both_even: bool) -> list[onnx.NodeProto]:
    sums = "unstacked_sums" if both_even else "unstacked"
    nodes = [
        # To (column's phase, n, row's phase and row, column): the columns' matrices are one for
        # each of the first axis, and none has to be repeated for each slice of a batch.
        helper.make_node("Reshape", ["x", "split"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["turned"], perm=[2, 0, 1, 3, 4]),
        helper.make_node("Reshape", ["turned", "beside"], ["image"]),
        helper.make_node("MatMul", ["left", "image"], ["half"]),
        helper.make_node("Reshape", ["half", "stacked"], ["rows_of_all"]),
        helper.make_node("MatMul", ["rows_of_all", "right"], ["product"]),
        helper.make_node("Constant", [], ["other"], value_ints=[1, 0]),
        helper.make_node("Reshape", ["half", "unstacked"], ["own_rows"]),
        helper.make_node("Reshape", ["product", sums], ["products"]),
        helper.make_node("Gather", ["products", "other"], ["others"], axis=0),
    ]
    if both_even:
        nodes += [
            *_slices([3, 4], "others"),
            helper.make_node("Slice", ["own_rows", "start", "ends", "axes"], ["own"]),
            helper.make_node("Add", ["own", "inner"], ["plain"]),
            helper.make_node("Mul", ["sum", "rows"], ["single_rows"]),
            helper.make_node("Mul", ["single_rows", "columns"], ["single"]),
            helper.make_node("Add", ["plain", "single"], ["made"]),
        ]
    else:
        nodes.append(helper.make_node("Add", ["own_rows", "others"], ["made"]))
    return [
        *nodes,
        helper.make_node("Transpose", ["made"], ["back"], perm=[1, 2, 0, 3, 4]),
        helper.make_node("Reshape", ["back", "joined"], ["y"]),
    ]


def _slices(axes: list[int], value: str) -> list[onnx.NodeProto]:
    """Return the nodes of what a product with rows and columns more is, and of the sum in them."""
    return [
        helper.make_node("Constant", [], ["axes"], value_ints=axes),
        helper.make_node("Constant", [], ["start"], value_ints=[0, 0]),
        helper.make_node("Slice", [value, "start", "ends", "axes"], ["inner"]),
        helper.make_node("Slice", [value, "ends", "past", "axes"], ["sum"]),
    ]
