"""Fourier transforms of a graph: whole layers of ours where they are centred, products elsewhere.

A centred transform over the last two axes of a grid that is a multiple of the LR matrix becomes
``FFT2c``, ``IFFT2c`` or their corner forms: one node, whose constants come with binding. Any other
becomes a product with a matrix that the graph makes from the length of its axis, with shifts and
norm in it; bound to a matrix, a runtime folds it into a constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from kspacesr_rt.export.complex_pairs import Pair, as_pair
from kspacesr_rt.export.dft_products import product
from kspacesr_rt.export.real_operators import resized, rolled
from kspacesr_rt.export.symbolic_sizes import ratio, same
from kspacesr_rt.export.unused_imaginary_part import imaginary_unused
from kspacesr_rt.model.spec import OP_DOMAIN

COMPLEX = ("fft", "ifft", "fft2", "ifft2", "fftn", "ifftn")
FROM_REAL = ("rfft", "rfft2", "rfftn")
TO_REAL = ("irfft", "irfft2", "irfftn")
_PRIMITIVES = ("_fft_c2c", "_fft_r2c", "_fft_c2r")
_NORMS = {0: "none", 1: "ortho", 2: "by_n"}
"""``normalization`` of torch's primitive transforms."""
LARGEST_GRID = 16
"""SR samples per LR sample and axis, at most, of a layer of ours."""


@dataclass(frozen=True, slots=True)
class Grids:
    """The LR matrix of the program's input, symbolic or not."""

    rows: Any
    columns: Any


@dataclass(slots=True)
class Transform:
    """A transform that has been met, and the shifts around it."""

    source: Any
    axes: list[int]
    inverse: bool
    scale: str
    """``none``, ``ortho`` or ``by_n``."""
    lengths: dict[int, Any] = field(default_factory=dict)
    """Axis to the length it is cut or filled to, where it is stated."""
    kind: str = "complex"
    before: dict[int, Any] = field(default_factory=dict)
    """Axis to the samples that the input is rolled by."""
    after: dict[int, Any] = field(default_factory=dict)
    """Axis to the samples that the output is rolled by."""
    real_wanted: bool = False
    """Whether only the real part of the result is used."""
    source_node: Any = None
    """The node that made the source."""


class Transforms:
    """Turns transforms and shifts of one graph into layers and products."""

    def __init__(self, grids: Grids | None, value: Callable[[Any], Any]) -> None:
        self._grids, self._value = grids, value
        self._waiting: dict[fx.Node, Transform] = {}
        self._matrices: dict[tuple[str, ...], Tensor] = {}

    def lowered(self, node: fx.Node, name: str) -> Any:
        """Return what a node comes to, None if it is neither a transform nor a shift."""
        if is_shift(node):
            return self._shifted(node)
        kind = name.removeprefix("aten::").removeprefix("fft_")
        if name.startswith("aten::fft_") and kind in (*COMPLEX, *FROM_REAL, *TO_REAL):
            return self._started(node, self._read(node, kind))
        if name.removeprefix("aten::") in _PRIMITIVES:
            return self._started(node, self._read_primitive(node, kind))
        return None

    def _shifted(self, node: fx.Node) -> Any:
        source: Any = node.args[0]
        waiting = self._waiting.get(source)
        shifts = self._shifts(node)
        if waiting is None:
            return _each(self._value(node.args[0]), lambda part: rolled(part, shifts))
        for axis, shift in shifts.items():
            waiting.after[axis] = waiting.after.get(axis, 0) + shift
        if _next_shift(node) is not None:
            self._waiting[node] = waiting
            return waiting
        waiting.real_wanted = imaginary_unused(node)
        return self._emitted(waiting)

    def _started(self, node: fx.Node, transform: Transform) -> Any:
        source: Any = node.args[0]
        # A shift that a transform before this one holds is part of that one's result.
        while is_shift(source) and source.args[0] not in self._waiting:
            shifts = self._shifts(source)
            if not set(shifts) <= set(transform.axes) - set(transform.lengths):
                break
            if transform.kind == "to_real" and transform.axes[-1] in shifts:
                break
            for axis, shift in shifts.items():
                transform.before[axis] = transform.before.get(axis, 0) + shift
            source = source.args[0]
        transform.source = self._value(source)
        transform.source_node = source
        following = _next_shift(node)
        if following is not None and _axes_of_shift(following) <= _shiftable(transform, node):
            self._waiting[node] = transform
            return transform
        transform.real_wanted = imaginary_unused(node)
        return self._emitted(transform)

    def _shifts(self, node: fx.Node) -> dict[int, Any]:
        """Return the samples that a shift moves each axis by."""
        name = operator_name(node)
        shape = _shape(node)
        if name == "aten::roll":
            given = _arguments(node)
            dims: Any = given["dims"]
            moved = self._value_list(given["shifts"])
            axes = list(dims) if isinstance(dims, list | tuple) else [dims]
            found: dict[int, Any] = {}
            for axis, shift in zip(axes, moved, strict=True):
                found[axis % len(shape)] = found.get(axis % len(shape), 0) + shift
            return found
        value = self._value_shape(node)
        sign = 1 if name == "aten::fft_fftshift" else -1
        return {axis: sign * (value[axis] // 2) for axis in sorted(_axes_of_shift(node))}

    def _value_list(self, given: Any) -> list[Any]:
        many = given if isinstance(given, list | tuple) else [given]
        return [self._value(one) for one in many]

    def _value_shape(self, node: fx.Node) -> Any:
        """Return the shape of what a shift moves, which for a waiting transform is its result's."""
        source: Any = node.args[0]
        waiting = self._waiting.get(source)
        if waiting is None:
            return self._value(source).shape
        shape = list(waiting.source.shape)
        for axis, length in waiting.lengths.items():
            shape[axis] = length
        return shape

    def _read(self, node: fx.Node, kind: str) -> Transform:
        given = _arguments(node)
        rank = len(_shape(node.args[0]))
        inverse = kind.startswith("i")
        if kind.endswith("fft"):
            axes, lengths = [given["dim"] % rank], [given["n"]]
        else:
            axes, lengths = given["dim"], given["s"]
            if axes is None:
                count = rank if lengths is None else len(lengths)
                axes = list(range(rank - count, rank))
            axes = [axis % rank for axis in axes]
            lengths = [None] * len(axes) if lengths is None else list(lengths)
        stated = {
            axis: self._value(length)
            for axis, length in zip(axes, lengths, strict=True)
            if length is not None and not (isinstance(length, int) and length == -1)
        }
        norm = given.get("norm") or "backward"
        scale = {
            "ortho": "ortho",
            "backward": "by_n" if inverse else "none",
            "forward": "none" if inverse else "by_n",
        }[norm]
        made = "complex"
        if kind in FROM_REAL:
            made = "from_real"
        elif kind in TO_REAL:
            made = "to_real"
            if axes[-1] not in stated:
                half = self._value(node.args[0]).shape[axes[-1]]
                stated[axes[-1]] = 2 * (half - 1)
        return Transform(None, axes, inverse, scale, stated, made)

    def _read_primitive(self, node: fx.Node, kind: str) -> Transform:
        given = _arguments(node)
        rank = len(_shape(node.args[0]))
        axes = [axis % rank for axis in given["dim"]]
        scale = _NORMS[given["normalization"]]
        if kind == "_fft_c2c":
            return Transform(None, axes, not given["forward"], scale)
        if kind == "_fft_r2c":
            made = "from_real" if given["onesided"] else "complex"
            return Transform(None, axes, False, scale, {}, made)
        lengths = {axes[-1]: self._value(given["last_dim_size"])}
        return Transform(None, axes, True, scale, lengths, "to_real")

    def _emitted(self, transform: Transform) -> Any:
        value = transform.source
        for axis, length in transform.lengths.items():
            if transform.kind == "to_real" and axis == transform.axes[-1]:
                length = length // 2 + 1
            if not same(value.shape[axis], length):
                value = _each(value, functools.partial(resized, axis=axis, length=length))
        layer = self._layer(value, transform)
        if layer is not None:
            return layer
        axes = list(transform.axes)
        order = axes[::-1]  # the last axis first, where a real input halves the work
        if transform.kind == "to_real":
            order = axes  # and last, where it makes the result real
        for axis in order:
            last = axis == axes[-1]
            value = product(
                value,
                axis,
                inverse=transform.inverse,
                scale=transform.scale,
                before=transform.before.get(axis, 0),
                after=transform.after.get(axis, 0),
                onesided=transform.kind == "from_real" and last,
                full=transform.lengths[axis] if transform.kind == "to_real" and last else None,
                real_wanted=transform.real_wanted and axis == order[-1],
                matrices=self._matrices,
            )
        return value.real if transform.kind == "to_real" else value

    def _layer(self, value: Any, transform: Transform) -> Pair | None:
        """Return a transform as a layer of ours, None if it is none."""
        pair = as_pair(value)
        rank = pair.real.dim()
        if (
            self._grids is None
            or transform.kind != "complex"
            or sorted(transform.axes) != [rank - 2, rank - 1]
            or pair.real.dtype != torch.float32
        ):
            return None
        lengths = {axis: value.shape[axis] for axis in (rank - 2, rank - 1)}
        grids = [
            ratio(lengths[axis], base)
            for axis, base in ((rank - 2, self._grids.rows), (rank - 1, self._grids.columns))
        ]
        if grids[0] is None or grids[0] != grids[1] or grids[0] > LARGEST_GRID:
            return None
        kspace, image = transform.after, transform.before
        towards = 1
        if transform.inverse:
            kspace, image, towards = image, kspace, -1
        if not all(same(kspace.get(a, 0), towards * (n // 2), n) for a, n in lengths.items()):
            return None
        if all(same(image.get(a, 0), -towards * (n // 2), n) for a, n in lengths.items()):
            corner = ""
        elif all(same(image.get(a, 0), 0, n) for a, n in lengths.items()):
            corner = "Corner"
        else:
            return None
        name = f"{corner}{'IFFT2c' if transform.inverse else 'FFT2c'}"
        finer = grids[0]
        if transform.inverse and not transform.lengths:
            pair, finer = self._before_fill(transform.source_node, pair, finer)
        made = layer(pair, name, finer, grids[0], 1 if transform.real_wanted else 2)
        if transform.scale == "ortho":
            return made
        samples = torch.full(
            (), lengths[rank - 2] * lengths[rank - 1], dtype=torch.int64, device=pair.real.device
        )
        root = torch.sqrt(samples.to(torch.float32))
        gain = torch.reciprocal(root) if transform.scale == "by_n" else root
        return made.each(lambda part: part * gain)

    def _before_fill(self, node: Any, pair: Pair, finer: int) -> tuple[Pair, int]:
        """Return k-space before it was zero-filled around DC, and its grid: the layer fills it.

        The matrix of the transform then has no columns for zeros.
        """
        assert self._grids is not None
        if operator_name(node) not in ("aten::pad", "aten::constant_pad_nd"):
            return pair, finer
        given = _arguments(node)
        margins = self._value_list(given["pad"])
        if given.get("mode", "constant") != "constant" or given.get("value") or len(margins) != 4:
            return pair, finer
        inner = as_pair(self._value(given["self"]))
        bases = (self._grids.rows, self._grids.columns)
        coarser = {
            ratio(inner.shape[axis], base) for axis, base in zip((-2, -1), bases, strict=True)
        }
        centred = all(
            same(margins[at], pair.shape[axis] // 2 - inner.shape[axis] // 2)
            for at, axis in ((0, -1), (2, -2))
        )
        if not centred or len(coarser) != 1 or None in coarser:
            return pair, finer
        return inner, coarser.pop() or finer


def layer(pair: Pair, name: str, finer: int, output_finer: int, channels: int) -> Pair:
    """Add a transform of the ``kspacesr_rt`` domain over the last two axes."""
    *lead, rows, columns = pair.real.shape
    single = len(lead) == 2 and same(lead[1], 1)
    parts = [part for part in (pair.real, pair.imag) if part is not None]
    if not single:
        parts = [part.reshape(-1, 1, rows, columns) for part in parts]
    given = torch.cat(parts, dim=1) if len(parts) == 2 else parts[0]
    target = [rows // finer * output_finer, columns // finer * output_finer]
    if torch.compiler.is_exporting():
        made = torch.onnx.ops.symbolic(
            f"{OP_DOMAIN}::{name}",
            [given],
            {
                "input_upscale": finer,
                "output_upscale": output_finer,
                "input_channels": len(parts),
                "channels": channels,
            },
            dtype=given.dtype,
            shape=(given.shape[0], channels, *target),
            version=1,
        )
    else:
        made = _computed(given, name, target)[:, :channels]
    found = [made.narrow(1, at, 1) for at in range(channels)]
    if not single:
        found = [one.reshape(*lead, *target) for one in found]
    return Pair(*found)


def _computed(given: Tensor, name: str, target: list[int]) -> Tensor:
    """Compute a layer with torch's own transforms."""
    axes = (-2, -1)
    (height, width), (rows, columns) = given.shape[-2:], target
    top, left = rows // 2 - height // 2, columns // 2 - width // 2
    given = functional.pad(given, (left, columns - width - left, top, rows - height - top))
    value = torch.complex(given[:, 0], given[:, 1] if given.shape[1] == 2 else given[:, 0] * 0)
    if name == "FFT2c" or name.endswith("IFFT2c"):
        value = torch.fft.ifftshift(value, dim=axes)
    transform = torch.fft.ifft2 if "IFFT" in name else torch.fft.fft2
    value = transform(value, norm="ortho")
    if name != "CornerIFFT2c":
        value = torch.fft.fftshift(value, dim=axes)
    return torch.stack([value.real, value.imag], dim=1)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return value.each(change) if isinstance(value, Pair) else change(value)


def operator_name(node: Any) -> str:
    """Return ``aten::mul`` for any overload, nothing for what is no ATen operator."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    return str(schema.name) if schema is not None else ""


def is_shift(node: Any) -> bool:
    """Say whether a node moves samples around axes; a roll of all axes as one is none."""
    name = operator_name(node)
    if name == "aten::roll":
        return bool(_arguments(node)["dims"])
    return name in ("aten::fft_fftshift", "aten::fft_ifftshift")


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names in its operator's schema."""
    overload: Any = node.target  # of an ATen node, an OpOverload
    formal = overload._schema.arguments
    found = {one.name: one.default_value for one in formal if one.has_default_value()}
    found |= {one.name: value for one, value in zip(formal, node.args, strict=False)}
    return found | dict(node.kwargs)


def _shape(node: Any) -> Any:
    return node.meta["val"].shape


def _axes_of_shift(node: fx.Node) -> set[int]:
    rank = len(_shape(node))
    given = _arguments(node)
    axes = given["dims"] if operator_name(node) == "aten::roll" else given["dim"]
    if axes is None or (isinstance(axes, list | tuple) and not axes):
        return set(range(rank))
    return {axis % rank for axis in (axes if isinstance(axes, list | tuple) else [axes])}


def _next_shift(node: fx.Node) -> fx.Node | None:
    """Return the shift that is all that becomes of a node, None if there is more."""
    users = list(node.users)
    if len(users) == 1 and is_shift(users[0]) and users[0].args[0] is node:
        return users[0]
    return None


def _shiftable(transform: Transform, node: fx.Node) -> set[int]:
    """Return the axes whose output shift a product can hold, of all shifts that follow."""
    allowed = set(transform.axes)
    if transform.kind == "from_real":
        allowed.discard(transform.axes[-1])
    following = _next_shift(node)
    while following is not None:
        if not _axes_of_shift(following) <= allowed:
            return set()
        following = _next_shift(following)
    return allowed
