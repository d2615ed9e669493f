"""Resizing with antialiasing, and over areas, as products with matrices: alike on any runtime.

OpenVINO's own leaves 25 dB of a halved image, and 61 dB of a bicubic one that is enlarged.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kspacesr_rt.export.symbolic_sizes import ratio, same

CUBIC_COEFFICIENT = -0.5
"""Of PyTorch's bicubic kernel where it antialiases, as Pillow's; -0.75 without."""


LARGEST_DENOMINATOR = 1000
"""Of a factor as a ratio of whole numbers, such as 2 / 3."""


def _triangle(distance: Tensor) -> Tensor:
    return torch.clamp(1.0 - distance, min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    a = CUBIC_COEFFICIENT
    near = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
    far = ((distance - 5.0) * distance + 8.0) * distance * a - 4.0 * a
    zero = torch.zeros_like(distance)
    return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, zero))


def _weights(
    have: Any, want: Any, up: Any, down: Any, kernel: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return what each of `have` samples gives to each of `want`, shape ``(want, have)``.

    The output has `up` samples where the input has `down`; where it has fewer, the kernel is as
    much wider. Distances are whole numbers until they are divided: float32 loses nothing.
    """
    count, other = (torch.full((), one, dtype=torch.int64) for one in (up, down))
    places = (torch.arange(have) * 2 + 1) * count
    centres = (torch.arange(want) * 2 + 1) * other
    distance = torch.abs(places.unsqueeze(0) - centres.unsqueeze(1)).to(torch.float32)
    weights = kernel(distance / (torch.maximum(count, other) * 2).to(torch.float32))
    return weights / weights.sum(dim=1, keepdim=True)


def _resized(kernel: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def resized(value: Tensor, size: Any, align_corners: bool, *scales: Any) -> Tensor:
        if align_corners:
            raise NotImplementedError("antialiasing with align_corners=True")
        factors = scales[0] if len(scales) == 1 else scales
        wanted: list[Any] = list(size) if size else [None, None]
        for at, axis in enumerate((-2, -1)):
            have, want = value.shape[axis], wanted[at]
            factor = factors[at] if factors else None
            if factor is None:  # then there is a size
                up, down = want, have
            else:
                up, down = _ratio(factor)
                want = have * up // down if want is None else want
            weights = _weights(have, want, up, down, kernel)
            value = _along(axis, weights, value)
        return value

    return resized


def _along(axis: int, weights: Tensor, value: Tensor) -> Tensor:
    if axis == -2:
        return torch.matmul(weights, value)
    return torch.matmul(value, weights.transpose(0, 1))


def adaptive_average(value: Tensor, size: Any) -> Tensor:
    """As `torch.nn.functional.adaptive_avg_pool2d`, to a size that may follow from the matrix."""
    sizes = list(size) if isinstance(size, list | tuple) else [size, size]
    for axis, want in zip((-2, -1), sizes, strict=True):
        have = value.shape[axis]
        if want is None or same(want, have):
            continue
        if isinstance(want, int) and want == 1:
            value = value.mean(dim=axis, keepdim=True)
            continue
        line, samples = torch.arange(want).unsqueeze(1), torch.arange(have).unsqueeze(0)
        first, behind = line * have // want, ((line + 1) * have + want - 1) // want
        inside = (samples >= first) & (samples < behind)
        weights = inside.to(value.dtype) / (behind - first).to(value.dtype)
        value = _along(axis, weights, value)
    return value


def adaptive_maximum(value: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """As `torch.nn.functional.adaptive_max_pool2d`, to a size that may follow from the matrix."""
    del return_indices  # with them it is another function of PyTorch
    sizes = list(output_size) if isinstance(output_size, list | tuple) else [output_size] * 2
    axes = [
        (axis, want)
        for axis, want in zip((-2, -1), sizes, strict=True)
        if want is not None and not same(want, value.shape[axis])
    ]
    times = {axis: ratio(value.shape[axis], want) for axis, want in axes}
    if all(times.values()):
        kernel = [times.get(axis) or 1 for axis in (-2, -1)]
        return functional.max_pool2d(value, kernel)
    for axis, want in axes:
        value = _largest_along(value, axis, want)
    return value


def _largest_along(value: Tensor, axis: int, want: Any) -> Tensor:
    """Return the largest samples of windows that share an axis, of which some are longer."""
    have = value.shape[axis]
    if same(want, 1):
        return value.amax(dim=axis, keepdim=True)
    line = torch.arange(want).unsqueeze(1)
    first, last = line * have // want, ((line + 1) * have + want - 1) // want - 1
    longest = (have + want - 1) // want + 1
    places = torch.minimum(first + torch.arange(longest).unsqueeze(0), last)
    cut = value.index_select(axis, places.reshape(-1))
    *leading, rows, columns = value.shape
    shape = [rows, want, longest] if axis == -1 else [want, longest, columns]
    return cut.reshape(*leading, *shape).amax(dim=-1 if axis == -1 else -2)


def _ratio(factor: float) -> tuple[int, int]:
    exact = Fraction(factor).limit_denominator(LARGEST_DENOMINATOR)
    return exact.numerator, exact.denominator


OPERATORS: dict[str, Callable[..., Any]] = {
    "aten::adaptive_avg_pool2d": adaptive_average,
    "aten::_adaptive_avg_pool2d": adaptive_average,
    "aten::_upsample_bilinear2d_aa": _resized(_triangle),
    "aten::_upsample_bicubic2d_aa": _resized(_cubic),
}
