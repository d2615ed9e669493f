"""Samples chosen by a mask, ``k[mask]``, kept in their places until something uses them.

How many there are depends on the image, and a graph whose shapes follow from values runs nowhere
well. But ``out[mask] = 2 * k[mask]`` is a choice sample by sample, and ``x[mask].mean()`` a sum
over all samples that are not zero: neither needs them gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from kspacesr_rt.errors import ExportError
from kspacesr_rt.export.complex_pairs import Pair
from kspacesr_rt.export.source_locations import place_of

_SAMPLE_BY_SAMPLE = frozenset(
    f"aten::{name}"
    for name in (
        *("add", "sub", "rsub", "mul", "div", "pow", "neg", "abs", "sqrt", "rsqrt", "square"),
        *("exp", "log", "log1p", "reciprocal", "sin", "cos", "tanh", "sigmoid", "relu", "clamp"),
        *("clamp_min", "clamp_max", "angle", "real", "imag", "conj", "_conj", "sgn", "sign", "to"),
        *("_to_copy", "clone", "detach", "alias", "contiguous", "conj_physical"),
        *("_conj_physical", "resolve_conj"),
    )
)
"""Operators that make of each sample what they make of it among others."""
_ASSIGNMENTS = ("aten::index_put", "aten::masked_scatter")
_DEEPEST = 64
"""Steps back that two masks are compared over."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The samples of a value at which a mask is true."""

    value: Any
    """All of them, chosen or not: a tensor or a pair."""
    mask: Tensor
    """Of as many axes as the value."""
    made_by: fx.Node
    """The mask."""
    axis: int
    """First of the mask's axes."""

    def count(self) -> Tensor:
        """Return how many samples there are, as an integer tensor without axes."""
        return self.mask.expand(self.value.shape).sum()


def chosen(node: fx.Node, name: str, value: Callable[[Any], Any]) -> Chosen | None:
    """Return the samples that a node takes by a mask, None if it does no such thing."""
    if name == "aten::masked_select":
        source, mask_node = node.args
        given, mask = value(source), value(mask_node)
        # torch's stubs leave this function untyped.
        shape = torch.broadcast_shapes(given.shape, mask.shape)  # type: ignore[no-untyped-call]
        if isinstance(given, Tensor):
            given = given.expand(shape)
        assert isinstance(mask_node, fx.Node)
        return Chosen(given, mask.expand(shape), mask_node, 0)
    if name != "aten::index" or isinstance(value(node.args[0]), Chosen):
        return None
    found = _mask_among(node.args[1], value)
    if found is None:
        return None
    axis, mask_node = found
    given = value(node.args[0])
    return Chosen(given, _spread(value(mask_node), axis, given), mask_node, axis)


def _mask_among(indices: Any, value: Callable[[Any], Any]) -> tuple[int, fx.Node] | None:
    """Return which axis a mask begins at, if one mask is all there is among indices."""
    stated = [(at, one) for at, one in enumerate(indices) if one is not None]
    if len(stated) != 1:
        return None
    [(at, node)] = stated
    mask = value(node)
    return (at, node) if isinstance(mask, Tensor) and mask.dtype == torch.bool else None


def _spread(mask: Tensor, axis: int, value: Any) -> Tensor:
    behind = len(value.shape) - axis - mask.dim()
    return mask.reshape(*[1] * axis, *mask.shape, *[1] * behind)


def of_chosen(
    node: fx.Node,
    name: str,
    value: Callable[[Any], Any],
    compute: Callable[[str, Any, Any], Any],
) -> Any:
    """Return what a node makes of samples chosen by a mask.

    Parameters
    ----------
    node, name
        One of whose arguments are such samples.
    value
        Returns what a node came to.
    compute
        Computes the node with other arguments.

    Raises
    ------
    ExportError
        If it has to have them gathered; its place is named.
    """
    args = [value(one) for one in node.args]
    given = [one for one in args if isinstance(one, Chosen)]
    if name in _ASSIGNMENTS and isinstance(args[2], Chosen) and len(given) == 1:
        return _assigned(node, name, args, value)
    if name in _SAMPLE_BY_SAMPLE and all(
        _sample_by_sample(one, given[0]) for one in (*args, *node.kwargs.values())
    ):
        plain = [one.value if isinstance(one, Chosen) else one for one in args]
        first = given[0]
        return Chosen(compute(name, plain, node.kwargs), first.mask, first.made_by, first.axis)
    if name in _REDUCTIONS and len(args) == 1 and isinstance(given[0].value, Tensor):
        return _REDUCTIONS[name](given[0])
    if name in ("aten::sym_size", "aten::sym_numel") and args[1:] in ([], [0]):
        return given[0].mask.sum() if args[1:] else given[0].count()
    raise _refusal(node, name)


def _refusal(node: fx.Node, name: str) -> ExportError:
    return ExportError(
        f"{place_of(node)}: {name} of samples chosen by a mask has no lowering: how many there "
        "are depends on the image",
        hint="write it for the whole image, with torch.where(mask, a, b), or a product with "
        "mask.float()",
    )


def _sample_by_sample(value: Any, other: Chosen) -> bool:
    """Say whether a value goes with chosen samples one by one, or with all of them alike."""
    if isinstance(value, Chosen):
        return value.axis == other.axis and _equal(value.made_by, other.made_by)
    return not isinstance(value, Tensor | Pair) or not len(value.shape)


def _assigned(node: fx.Node, name: str, args: list[Any], value: Callable[[Any], Any]) -> Any:
    """Return ``value`` with chosen samples put where they came from."""
    target, _, source, *accumulate = args
    indices = node.args[1] if name == "aten::index_put" else [node.args[1]]
    found = _mask_among(indices, value)
    fits = found is not None and found[0] == source.axis and _equal(found[1], source.made_by)
    if not fits or any(accumulate) or len(target.shape) != len(source.value.shape):
        raise _refusal(node, name)
    return _where(source.mask, source.value, target)


def _where(mask: Tensor, left: Any, right: Any) -> Any:
    if not isinstance(left, Pair) and not isinstance(right, Pair):
        return torch.where(mask, left.to(right.dtype), right)
    if not isinstance(right, Pair):  # torch refuses to assign complex samples to real ones
        raise TypeError("complex samples assigned to a real tensor")
    parts = (left.real, left.imaginary()) if isinstance(left, Pair) else (left, 0.0)
    both = zip(parts, (right.real, right.imaginary()), strict=True)
    return Pair(*(torch.where(mask, one, other) for one, other in both))


def _equal(left: Any, right: Any, depth: int = 0) -> bool:
    """Say whether two nodes compute the same of the same values."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(
            _equal(one, other, depth) for one, other in zip(left, right, strict=True)
        )
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return type(left) is type(right) and bool(left == right)
    if left is right:
        return True
    return (
        depth < _DEEPEST
        and left.op == right.op == "call_function"
        and left.target is right.target
        and dict(left.kwargs).keys() == dict(right.kwargs).keys()
        and _equal(left.args, right.args, depth + 1)
        and _equal(list(left.kwargs.values()), list(right.kwargs.values()), depth + 1)
    )


def _sum(samples: Chosen) -> Tensor:
    value = samples.value
    return torch.where(samples.mask, value, torch.zeros((), dtype=value.dtype)).sum()


def _extreme(reduce: Callable[[Tensor], Tensor], nothing: float) -> Callable[[Chosen], Tensor]:
    return lambda samples: reduce(
        torch.where(samples.mask, samples.value, torch.full((), nothing, dtype=torch.float32))
    )


def _mean(samples: Chosen) -> Tensor:
    return _sum(samples) / samples.count().to(samples.value.dtype)


_REDUCTIONS: dict[str, Callable[[Chosen], Tensor]] = {
    "aten::sum": _sum,
    "aten::mean": _mean,
    "aten::max": _extreme(torch.amax, -math.inf),
    "aten::amax": _extreme(torch.amax, -math.inf),
    "aten::min": _extreme(torch.amin, math.inf),
    "aten::amin": _extreme(torch.amin, math.inf),
}


def takes_chosen(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Say whether a node is given samples chosen by a mask."""
    return any(isinstance(values.get(one), Chosen) for one in node.all_input_nodes)


def without_checks(program: fx.GraphModule) -> None:
    """Leave out what torch checks of lengths that follow from values, and what only that needs."""
    for part in program.modules():
        if isinstance(part, fx.GraphModule):
            for node in list(part.graph.nodes):
                if node.target in _CHECKS:
                    part.graph.erase_node(node)
            part.graph.eliminate_dead_code()
            part.recompile()


_CHECKS = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
}
