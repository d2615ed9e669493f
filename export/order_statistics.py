"""Order statistics, and running extremes and products, of operators that any runtime has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kspacesr_rt.export.symbolic_sizes import values_of

LONGEST_AXIS = 2**14
"""Samples along an axis of open length that running values reach over; twice as many as the
longest row of any MR image stored so far has."""


class Ordered(NamedTuple):
    """Values and where they stand, as PyTorch returns them."""

    values: Tensor
    indices: Tensor


def kth_value(value: Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> Ordered:
    """As `torch.kthvalue`."""
    return _at(value, k - 1, dim, keepdim)


def median(value: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """As `torch.median`: the lower of the two in the middle."""
    if dim is None:
        return _at(value.reshape(-1), (value.numel() - 1) // 2, 0, False).values
    return _at(value, (value.shape[dim] - 1) // 2, dim, keepdim)


def _at(value: Tensor, position: Any, dim: int, keepdim: bool) -> Ordered:
    place = torch.full((1,), position, dtype=torch.int64)
    found = (one.index_select(dim, place) for one in torch.sort(value, dim=dim))
    return Ordered(*(one if keepdim else one.squeeze(dim) for one in found))


def median_of_numbers(value: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """As `torch.nanmedian`: of what is a number, the lower of the two in the middle."""
    if dim is None:
        return median_of_numbers(value.reshape(-1), 0).values
    missing = torch.isnan(value)
    # Behind all others, and counted out.
    ordered = torch.sort(torch.where(missing, math.inf, value), dim=dim)
    count = torch.logical_not(missing).sum(dim, keepdim=True)
    place = torch.clamp(count - 1, min=0) // 2
    middle, where = (one.gather(dim, place) for one in ordered)
    middle = torch.where(count > 0, middle, math.nan)
    found = (middle, where)
    return Ordered(*(one if keepdim else one.squeeze(dim) for one in found))


LONGEST_COMPARED = 64
"""Samples along an axis whose equals are counted, each with each; a patch of 7 x 7 has 49."""


def mode(value: Tensor, dim: int = -1, keepdim: bool = False) -> Ordered:
    """As `torch.mode`: the most frequent value, of equally frequent ones the smallest."""
    length = value.shape[dim]
    if not isinstance(length, int) or length > LONGEST_COMPARED:
        raise NotImplementedError(
            f"torch.mode over more than {LONGEST_COMPARED} samples: write torch.median, or compare "
            "with the values there can be and count: (x.unsqueeze(-1) == values).sum(dim)"
        )
    moved = torch.sort(value, dim=dim).values.movedim(dim, -1)
    counts = (moved.unsqueeze(-1) == moved.unsqueeze(-2)).sum(-1)
    most = moved.gather(-1, counts.argmax(-1, keepdim=True))
    equal = value.movedim(dim, -1) == most
    # PyTorch names the last of them.
    line = torch.arange(length, dtype=torch.int64)
    places = torch.where(equal, line, -1).amax(-1, keepdim=True)
    return Ordered(
        *(one.movedim(-1, dim) if keepdim else one.squeeze(-1) for one in (most, places))
    )


def quantile(
    value: Tensor, q: Any, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """As `torch.quantile`."""
    if interpolation not in _BETWEEN:
        raise NotImplementedError(f"torch.quantile with interpolation {interpolation!r}")
    rank = value.dim()
    if dim is None:
        value, dim = value.reshape(-1), 0
    dim %= value.dim()
    shares = q if isinstance(q, Tensor) else torch.full((), float(q), dtype=value.dtype)
    places = shares.reshape(-1) * (value.shape[dim] - 1)
    ordered = torch.sort(value, dim=dim).values
    below, above = (
        ordered.index_select(dim, torch.clamp(one, max=value.shape[dim] - 1).to(torch.int64))
        for one in (torch.floor(places), torch.ceil(places))
    )
    share = places - torch.floor(places)
    share = share.reshape(*[1] * dim, -1, *[1] * (value.dim() - dim - 1))
    found = _BETWEEN[interpolation](below, above, share).movedim(dim, 0)
    if keepdim:
        found = found.unsqueeze(dim + 1) if value.dim() == rank else found.reshape(-1, *[1] * rank)
    return found if shares.dim() else found.squeeze(0)


_BETWEEN: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda low, high, share: low + (high - low) * share,
    "lower": lambda low, high, share: low + 0.0 * share,
    "higher": lambda low, high, share: torch.where(share > 0, high, low),
    "midpoint": lambda low, high, share: torch.where(share > 0, (low + high) / 2, low),
}


def _reaches(length: Any) -> list[int]:
    """Return 1, 2, 4, ...: steps after which each sample has met all that come before it."""
    symbolic = isinstance(length, torch.SymInt)
    longest = LONGEST_AXIS if symbolic else max(values_of(length))[0]
    return [2**power for power in range(max(1, math.ceil(math.log2(max(longest, 2)))))]


def _earlier(value: Tensor, dim: int, reach: int) -> tuple[Tensor, Tensor]:
    """Return the samples so many places before each, and whether there are such.

    The first stands for those that are not there.
    """
    places = torch.arange(value.shape[dim], device=value.device) - reach
    inside = (places >= 0).reshape(-1, *[1] * (value.dim() - 1 - dim))
    return value.index_select(dim, torch.clamp(places, min=0)), inside


def _running_extreme(better: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Return a running maximum or minimum; of equal samples the last is the one that is named."""

    def run(value: Tensor, dim: int) -> Ordered:
        dim %= value.dim()
        length = value.shape[dim]
        line = torch.arange(length, device=value.device)
        places = line.reshape(-1, *[1] * (value.dim() - 1 - dim)).expand(value.shape)
        for reach in _reaches(length):
            other, _ = _earlier(value, dim, reach)
            where, _ = _earlier(places, dim, reach)
            chosen = better(other, value)
            value, places = torch.where(chosen, other, value), torch.where(chosen, where, places)
        return Ordered(value, places)

    return run


def running_product(value: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """As `torch.cumprod`."""
    value = value if dtype is None else value.to(dtype)
    dim %= value.dim()
    for reach in _reaches(value.shape[dim]):
        other, inside = _earlier(value, dim, reach)
        value = torch.where(inside, value * other, value)
    return value


def running_log_sum(value: Tensor, dim: int) -> Tensor:
    """As `torch.logcumsumexp`."""
    dim %= value.dim()
    for reach in _reaches(value.shape[dim]):
        other, inside = _earlier(value, dim, reach)
        top = torch.maximum(value, other)
        both = top + torch.log(torch.exp(value - top) + torch.exp(other - top))
        value = torch.where(inside, both, value)
    return value


running_maximum = _running_extreme(torch.gt)
running_minimum = _running_extreme(torch.lt)
_NAMES: dict[str, Callable[..., Any]] = {
    "kthvalue": kth_value,
    "median": median,
    "nanmedian": median_of_numbers,
    "mode": mode,
    "quantile": quantile,
    "cummax": running_maximum,
    "cummin": running_minimum,
    "cumprod": running_product,
    "logcumsumexp": running_log_sum,
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    getattr(home, name): function
    for name, function in _NAMES.items()
    for home in (torch, torch.Tensor)
}
