"""Real and imaginary part as an axis of a real tensor, kept apart until something needs the axis.

``torch.view_as_real(x)[..., 0]`` is then no stack and a gather, and a permutation that makes the
parts channels no transpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from kspacesr_rt.export.complex_pairs import Pair, as_pair

_PASSED = ("aten::contiguous", "aten::clone", "aten::detach", "aten::alias")
"""Operators that leave values and axes as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A real tensor whose axis `axis` holds the two parts of a complex one."""

    pair: Pair
    axis: int

    def tensor(self) -> Tensor:
        """Return the tensor itself."""
        return torch.stack([self.pair.real, self.pair.imaginary()], dim=self.axis)

    def permuted(self, order: list[int]) -> Stacked:
        """Return it with its axes in another order."""
        rank = self.pair.real.dim() + 1
        order = [one % rank for one in order]
        rest = [one - (one > self.axis) for one in order if one != self.axis]
        if rest == sorted(rest):
            return Stacked(self.pair, order.index(self.axis))
        return Stacked(self.pair.each(lambda part: part.permute(rest)), order.index(self.axis))

    def part(self, index: int) -> Tensor:
        """Return the real (0) or the imaginary part."""
        return self.pair.imaginary() if index % 2 else self.pair.real

    @classmethod
    def kept(cls, node: fx.Node, name: str, values: dict[fx.Node, Any]) -> Any:
        """Return what a node makes of parts without stacking them, None if it is no such node."""
        source = (
            values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        )
        if name == "aten::view_as_real":
            pair = as_pair(settled(source))
            return cls(pair, pair.real.dim())
        if name == "aten::view_as_complex":
            if isinstance(source, Stacked) and source.axis == source.pair.real.dim():
                return source.pair
            return _joined(node.args[0], values)
        if not isinstance(source, Stacked):
            return None
        rank = source.pair.real.dim() + 1
        if name in _PASSED:
            return source
        arguments: tuple[Any, ...] = node.args  # of these operators: axes and an index
        if name == "aten::permute":
            return source.permuted(list(arguments[1]))
        if name == "aten::select" and arguments[1] % rank == source.axis:
            return source.part(arguments[2])
        return None


def _joined(node: Any, values: dict[fx.Node, Any]) -> Pair:
    """Return the pair of a real tensor whose last axis holds the parts.

    Where a permutation brought them there, they are taken from where they were.
    """
    moved = node
    while _name(moved) in _PASSED:
        moved = moved.args[0]
    if _name(moved) == "aten::permute":
        source, order = settled(values[moved.args[0]]), list(moved.args[1])
        order = [one % len(order) for one in order]
        axis = order.pop()
        rest = [one - (one > axis) for one in order]
        parts = [source.select(axis, index) for index in (0, 1)]
        if rest != sorted(rest):
            parts = [part.permute(rest) for part in parts]
        return Pair(*parts)
    value = settled(values[node])
    return Pair(value.select(-1, 0), value.select(-1, 1))


def _name(node: Any) -> str:
    schema = getattr(getattr(node, "target", None), "_schema", None)
    return schema.name if schema is not None else ""


def settled(value: Any) -> Any:
    """Return a value that any operator takes."""
    return value.tensor() if isinstance(value, Stacked) else value
