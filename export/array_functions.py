"""Functions of whole arrays that `torch.export` or the ONNX exporter take badly, of plain ones.

Shapes are computed with, never compared, so that batch and matrix stay open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kspacesr_rt.export.symbolic_sizes import same


def gradient(
    value: Tensor, *, spacing: Any = 1.0, dim: Any = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """As `torch.gradient`, of samples that are equally far from each other."""
    axes = range(value.dim()) if dim is None else dim if isinstance(dim, list | tuple) else [dim]
    steps = spacing if isinstance(spacing, list | tuple) else [spacing] * len(axes)
    if any(isinstance(step, Tensor) for step in steps):
        raise NotImplementedError("torch.gradient at given coordinates: state a spacing in numbers")
    return tuple(
        _derivative(value, axis % value.dim(), step, edge_order)
        for axis, step in zip(axes, steps, strict=True)
    )


def _derivative(value: Tensor, axis: int, step: float, edge_order: int) -> Tensor:
    length = value.shape[axis]

    def at(place: Any) -> Tensor:
        return value.narrow(axis, place, 1)

    inner = value.narrow(axis, 2, length - 2) - value.narrow(axis, 0, length - 2)
    if edge_order == 1:
        first, last = at(1) - at(0), at(length - 1) - at(length - 2)
    else:
        first = -1.5 * at(0) + 2.0 * at(1) - 0.5 * at(2)
        last = 1.5 * at(length - 1) - 2.0 * at(length - 2) + 0.5 * at(length - 3)
    return torch.cat([first / step, inner / (2.0 * step), last / step], dim=axis)


def take_along_dim(value: Tensor, indices: Tensor, dim: Any = None) -> Tensor:
    """As `torch.take_along_dim`: the other axes are spread to each other."""
    if dim is None:
        return value.reshape(-1).gather(0, indices.reshape(-1))
    dim %= value.dim()
    have, wanted = list(value.shape), list(indices.shape)
    for axis, (own, other) in enumerate(zip(value.shape, indices.shape, strict=True)):
        if axis != dim and not same(own, other):
            have[axis] = wanted[axis] = other if same(own, 1) else own
    return value.expand(have).gather(dim, indices.expand(wanted))


def _spread_with_mean(spread: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a deviation or variance together with the mean."""

    def both(value: Tensor, dim: Any = None, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        if isinstance(dim, bool):  # torch.std_mean(value, unbiased)
            given, dim = (dim, *given), None
        if given:
            named["unbiased"], *kept = given
            named.update(zip(("keepdim",), kept, strict=False))
        keepdim = bool(named.get("keepdim", False))
        axes = list(range(value.dim())) if dim is None else dim
        if "unbiased" in named:
            named["correction"] = int(named.pop("unbiased"))
        return spread(value, dim=axes, **named), value.mean(dim=axes, keepdim=keepdim)

    return both


def _joined(axis: int, least_rank: int) -> Callable[..., Tensor]:
    """Return what joins tensors of `least_rank` axes or more along one of them."""

    def join(tensors: Any) -> Tensor:
        made = [_with_axes(one, least_rank) for one in tensors]
        return torch.cat(made, dim=0 if made[0].dim() == 1 else axis)

    return join


def _with_axes(value: Tensor, least_rank: int) -> Tensor:
    """Add axes as `torch.atleast_2d` and `torch.atleast_3d` do."""
    if least_rank >= 2 and value.dim() == 1:
        value = value.unsqueeze(0)
    if least_rank == 3 and value.dim() == 2:
        value = value.unsqueeze(2)
    return value


def _columns(tensors: Any) -> Tensor:
    """As `torch.column_stack`."""
    return torch.cat([one.unsqueeze(1) if one.dim() == 1 else one for one in tensors], dim=1)


def tensor_split(
    value: Tensor, indices_or_sections: Any = None, dim: int = 0, **named: Any
) -> tuple[Tensor, ...]:
    """As `torch.tensor_split`, of an axis whose length may be open."""
    wanted = named.get("sections", named.get("indices", indices_or_sections))
    if isinstance(wanted, Tensor):
        raise NotImplementedError("torch.tensor_split at places that a tensor holds: state numbers")
    length = value.shape[dim]
    if isinstance(wanted, list | tuple):
        ends = [_place(one, length) for one in wanted]
        starts = [0, *ends]
        lengths = [b - a for a, b in zip(starts, [*ends, length], strict=True)]
    else:
        lengths = [(length + wanted - 1 - at) // wanted for at in range(wanted)]
        starts = [sum(lengths[:at]) for at in range(wanted)]
    return tuple(
        value.narrow(dim, start, part) for start, part in zip(starts, lengths, strict=True)
    )


def _place(index: Any, length: Any) -> Any:
    return length + index if isinstance(index, int) and index < 0 else index


def _split_along(axis: int) -> Callable[..., tuple[Tensor, ...]]:
    """Return what splits along one axis; of a line, along its only one."""

    def split(value: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        return tensor_split(value, indices_or_sections, min(axis, value.dim() - 1))

    return split


def affine_grid(theta: Tensor, size: Any, align_corners: Any = None) -> Tensor:
    """As `torch.nn.functional.affine_grid` of images: where each output sample is taken from."""
    if len(size) != 4:
        raise NotImplementedError("affine_grid of volumes: write it slice by slice")
    rows, columns = (_normalised(length, bool(align_corners)) for length in size[-2:])
    x = theta[:, :, 0].unsqueeze(1).unsqueeze(1) * columns.reshape(1, 1, -1, 1)
    y = theta[:, :, 1].unsqueeze(1).unsqueeze(1) * rows.reshape(1, -1, 1, 1)
    return x + y + theta[:, :, 2].unsqueeze(1).unsqueeze(1)


def _normalised(length: Any, align_corners: bool) -> Tensor:
    """Return places of samples from -1 to 1, of the centres of the outer ones, or of their rims."""
    line = torch.arange(length).to(torch.float32)
    if align_corners:
        return line * 2.0 / (length - 1) - 1.0
    return (line * 2.0 + 1.0) / length - 1.0


def index_add(value: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """As `torch.index_add`, of which the exporter takes the last where an index comes twice."""
    dim %= value.dim()
    places = index.reshape(-1, *[1] * (value.dim() - dim - 1)).expand(source.shape)
    return value.scatter_add(dim, places, source if alpha == 1 else source * alpha)


def distances(left: Tensor, right: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """As `torch.cdist`: of every row to every row."""
    del compute_mode
    difference = torch.abs(left.unsqueeze(-2) - right.unsqueeze(-3))
    if p == 2:
        return torch.sqrt((difference * difference).sum(-1))
    if p == 1:
        return difference.sum(-1)
    return difference.amax(-1) if p == float("inf") else (difference**p).sum(-1) ** (1 / p)


def copysign(value: Tensor, other: Any) -> Tensor:
    """As `torch.copysign`; a negative zero counts as a zero."""
    negative = other < 0
    if not isinstance(negative, Tensor):
        return -torch.abs(value) if negative else torch.abs(value)
    return torch.where(negative, -torch.abs(value), torch.abs(value))


def _without_nan(better: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a larger or smaller of two where what is no number loses."""

    def chosen(left: Tensor, right: Tensor) -> Tensor:
        found = torch.where(torch.isnan(right), left, better(left, right))
        return torch.where(torch.isnan(left), right, found)

    return chosen


def searchsorted(
    boundaries: Tensor,
    value: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: Any = None,
    sorter: Any = None,
) -> Tensor:
    """As `torch.searchsorted` of one line of boundaries."""
    if boundaries.dim() != 1 or sorter is not None:
        raise NotImplementedError("torch.searchsorted in several lines, or with a sorter")
    values = value.unsqueeze(-1)
    below = boundaries <= values if right or side == "right" else boundaries < values
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def is_in(elements: Tensor, tests: Tensor, *, invert: bool = False, **_: Any) -> Tensor:
    """As `torch.isin`."""
    found = (elements.unsqueeze(-1) == tests.reshape(-1)).any(-1)
    return torch.logical_not(found) if invert else found


def histogram(value: Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> Tensor:
    """As `torch.histc`: how many samples there are in each of equal bins."""
    samples = value.reshape(-1)
    low, high = (samples.amin(), samples.amax()) if min == max else (min, max)
    inside = (samples >= low) & (samples <= high)
    place = torch.floor((samples - low) * (bins / (high - low))).to(torch.int64)
    place = torch.clamp(place, 0, bins - 1)  # the last bin has its upper edge
    return torch.zeros(bins).scatter_add(0, place, inside.to(torch.float32)).to(value.dtype)


def counts_of_values(value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Refuse `torch.bincount`, whose result is as long as the largest value says."""
    raise NotImplementedError(
        "torch.bincount, whose length follows from values: torch.histc(x.float(), n, -0.5, n - 0.5)"
    )


_TORCH: dict[str, Callable[..., Any]] = {
    "gradient": gradient,
    "hstack": _joined(1, 1),
    "vstack": _joined(0, 2),
    "row_stack": _joined(0, 2),
    "dstack": _joined(2, 3),
    "column_stack": _columns,
    "std_mean": _spread_with_mean(torch.std),
    "var_mean": _spread_with_mean(torch.var),
    "affine_grid_generator": affine_grid,
    "bincount": counts_of_values,
    "histc": histogram,
    "cdist": distances,
    "copysign": copysign,
    "fmax": _without_nan(torch.maximum),
    "fmin": _without_nan(torch.minimum),
    "index_add": index_add,
    "isin": is_in,
    "searchsorted": searchsorted,
    "take_along_dim": take_along_dim,
    "tensor_split": tensor_split,
    "hsplit": _split_along(1),
    "vsplit": _split_along(0),
    "dsplit": _split_along(2),
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **{getattr(torch, name): function for name, function in _TORCH.items()},
    **{
        getattr(torch.Tensor, name): function
        for name, function in _TORCH.items()
        if hasattr(torch.Tensor, name)
    },
    functional.affine_grid: affine_grid,
}
