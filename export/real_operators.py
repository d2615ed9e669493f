"""Real operators that torch's ONNX exporter takes badly or not at all, written with others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kspacesr_rt.export import resizing
from kspacesr_rt.export.symbolic_sizes import same, values_of


def rolled(value: Tensor, shifts: dict[int, Any]) -> Tensor:
    """Move samples around axes, as `torch.roll`; the shifts may follow from the matrix."""
    for axis, shift in shifts.items():
        length = value.shape[axis]
        if same(shift, 0, length):
            continue
        smallest = values_of(shift, length)
        if all(-n <= s < 0 for s, n in smallest):
            start = -shift
        elif all(0 <= s <= n for s, n in smallest):
            start = length - shift
        else:
            start = (length - shift) % length
        parts = [value.narrow(axis, start, length - start), value.narrow(axis, 0, start)]
        value = torch.cat(parts, dim=axis)
    return value


def roll(value: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    """As `torch.roll`."""
    shifts = shifts if isinstance(shifts, list | tuple) else [shifts]
    dims = dims if isinstance(dims, list | tuple) else [dims]
    if not dims:
        return rolled(value.reshape(-1), {0: shifts[0]}).reshape(value.shape)
    for axis, shift in zip(dims, shifts, strict=True):
        value = rolled(value, {axis % value.dim(): shift})
    return value


def resized(value: Tensor, axis: int, length: Any) -> Tensor:
    """Cut an axis behind `length` samples, or fill it with zeros to as many."""
    have = value.shape[axis]
    pairs = values_of(have, length)
    if all(n <= a for a, n in pairs):
        return value.narrow(axis, 0, length)
    margins: list[Any] = [0, 0] * (value.dim() - axis)
    margins[-1] = length - have
    return functional.pad(value, margins)


def slice_scatter(
    value: Tensor, source: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """Put samples into an axis, as assigning to a slice does: cut and join."""
    if step != 1:
        return torch.slice_scatter(value, source, dim, start, end, step)
    length = value.shape[dim]
    start = 0 if start is None else start
    start = start + length if isinstance(start, int) and start < 0 else start
    stop = start + source.shape[dim]
    parts = [value.narrow(dim, 0, start), source, value.narrow(dim, stop, length - stop)]
    kept = [part for part in parts if part is source or not same(part.shape[dim], 0)]
    return torch.cat(kept, dim=dim) if len(kept) > 1 else source


def select_scatter(value: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """Put a slice of one sample into an axis."""
    if isinstance(index, int) and index < 0:
        index = value.shape[dim] + index
    return slice_scatter(value, source.unsqueeze(dim), dim, index)


def complete(value: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
    """Return `source` in shape and type of `value`: what an assignment leaves."""
    del non_blocking
    return source.to(value.dtype).expand(value.shape)


def fftfreq(
    n: Any,
    d: float = 1.0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Tensor:
    """As `torch.fft.fftfreq`, of a length that may follow from the matrix."""
    del layout, pin_memory
    line = torch.arange(n, device=device)
    line = torch.where(line < (n + 1) // 2, line, line - n)
    return line.to(dtype or torch.float32) / (n * d)


def rfftfreq(
    n: Any,
    d: float = 1.0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Tensor:
    """As `torch.fft.rfftfreq`."""
    del layout, pin_memory
    return torch.arange(n // 2 + 1, device=device).to(dtype or torch.float32) / (n * d)


def linspace(
    start: Any, end: Any, steps: Any, *, dtype: Any = None, device: Any = None, **_: Any
) -> Tensor:
    """As `torch.linspace`."""
    line = torch.arange(steps, device=device).to(dtype or torch.get_default_dtype())
    if isinstance(steps, int) and steps == 1:
        return line + start
    return line * ((end - start) / (steps - 1)) + start


def window_line(window_length: Any, periodic: bool, dtype: Any, device: Any) -> Tensor:
    """Return where each sample of a window lies between its ends, 0 and 1; of one sample: 0.5."""
    line = torch.arange(window_length, device=device).to(dtype or torch.get_default_dtype())
    if isinstance(window_length, int) and window_length == 1:
        return line + 0.5
    return line / (window_length if periodic else window_length - 1)


def _cosine_window(first: float, second: float, third: float) -> Callable[..., Tensor]:
    """Make a window ``first - second cos(t) + third cos(2 t)``, of a length that may be open."""

    def window(
        window_length: Any,
        periodic: bool = True,
        alpha: float = first,
        beta: float = second,
        *,
        dtype: Any = None,
        device: Any = None,
        **_: Any,
    ) -> Tensor:
        turn = window_line(window_length, periodic, dtype, device) * (2.0 * math.pi)
        made = alpha - beta * torch.cos(turn)
        return made + third * torch.cos(2.0 * turn) if third else made

    return window


def bartlett_window(
    window_length: Any, periodic: bool = True, *, dtype: Any = None, device: Any = None, **_: Any
) -> Tensor:
    """As `torch.bartlett_window`."""
    line = window_line(window_length, periodic, dtype, device)
    return 1.0 - torch.abs(2.0 * line - 1.0)


def like(fill: float) -> Callable[..., Tensor]:
    """Make a constant of the shape of a value, from its lengths alone and not from its samples."""

    def made(
        value: Tensor,
        *given: Any,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        pin_memory: Any = None,
        memory_format: Any = None,
    ) -> Tensor:
        del layout, pin_memory, memory_format
        [number] = given or (fill,)
        return torch.full(
            value.shape, number, dtype=dtype or value.dtype, device=device or value.device
        )

    return made


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`, in products and a softmax."""
    if dropout:
        raise NotImplementedError("dropout in attention")
    if enable_gqa:
        key, value = (
            one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value)
        )
    query = query * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = torch.matmul(query, key.transpose(-2, -1))
    if is_causal:
        rows, columns = torch.arange(query.shape[-2]), torch.arange(key.shape[-2])
        mask = columns.unsqueeze(0) <= rows.unsqueeze(1)
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)


def view(value: Tensor, size: Any) -> Tensor:
    """As `torch.Tensor.view`, of values whose strides may be others than torch's own have."""
    return value.view(size) if isinstance(size, torch.dtype) else value.reshape(size)


def index_put(value: Tensor, indices: Any, source: Tensor, accumulate: bool = False) -> Tensor:
    """As `torch.index_put`; one number where a mask is true, without looking for the places."""
    [mask, *others] = [one for one in indices if one is not None] or [None]
    masked = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not masked or others or source.numel() != 1:
        return torch.index_put(value, indices, source, accumulate)
    assert isinstance(mask, Tensor)
    behind = value.dim() - mask.dim() - next(i for i, one in enumerate(indices) if one is not None)
    mask = mask.reshape(*mask.shape, *[1] * behind)
    number = source.reshape([]).to(value.dtype)
    return torch.where(mask, value + number if accumulate else number, value)


def masked_scatter(value: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """As `torch.masked_scatter`: the first samples of `source`, in turn, where a mask is true."""
    chosen = mask.expand(value.shape).reshape(-1)
    place = torch.clamp(torch.cumsum(chosen.to(torch.int64), dim=0) - 1, min=0)
    taken = source.reshape(-1).index_select(0, place).reshape(value.shape)
    return torch.where(mask, taken, value)


def _over_all(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a largest or smallest value be that of all axes where none is named."""

    def reduced(value: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        axes = list(dim) if isinstance(dim, list | tuple) else [dim]
        return reduce(value, dim=axes or list(range(value.dim())), keepdim=keepdim)

    return reduced


def hypot(left: Tensor, right: Tensor) -> Tensor:
    """As `torch.hypot`."""
    return torch.sqrt(left * left + right * right)


def pad(value: Tensor, pad: Any, mode: str = "constant", filler: Any = None) -> Tensor:
    """As `torch.nn.functional.pad`; around the edges by joining, which any runtime does."""
    if mode != "circular":
        return functional.pad(value, list(pad), mode=mode, value=filler)
    for at in range(len(pad) // 2):
        axis, before, after = value.dim() - 1 - at, pad[2 * at], pad[2 * at + 1]
        length = value.shape[axis]
        parts = [
            value.narrow(axis, length - before, before),
            value,
            value.narrow(axis, 0, after),
        ]
        value = torch.cat([part for part in parts if not same(part.shape[axis], 0)], dim=axis)
    return value


def fill(value: Tensor, number: Any) -> Tensor:
    """Return one number everywhere, as assigning it to a slice does."""
    if isinstance(number, Tensor):
        return number.to(value.dtype).expand(value.shape)
    return torch.full(value.shape, number, dtype=value.dtype, device=value.device)


OPERATORS: dict[str, Callable[..., Any]] = {
    **resizing.OPERATORS,
    "aten::amax": _over_all(torch.amax),
    "aten::amin": _over_all(torch.amin),
    "aten::fill": fill,
    "aten::pad": pad,
    "aten::hypot": hypot,
    "aten::index_put": index_put,
    "aten::masked_scatter": masked_scatter,
    "aten::view": view,
    "aten::_unsafe_view": view,
    "aten::scaled_dot_product_attention": attention,
    "aten::_neg_view": torch.neg,
    "aten::roll": roll,
    "aten::slice_scatter": slice_scatter,
    "aten::select_scatter": select_scatter,
    "aten::copy": complete,
    "aten::zeros_like": like(0.0),
    "aten::ones_like": like(1.0),
    "aten::full_like": like(0.0),
}
OF_OPEN_LENGTH: dict[Any, Callable[..., Any]] = {
    torch.fft.fftfreq: fftfreq,
    torch.fft.rfftfreq: rfftfreq,
    torch.linspace: linspace,
    torch.bartlett_window: bartlett_window,
    torch.hann_window: _cosine_window(0.5, 0.5, 0.0),
    torch.hamming_window: _cosine_window(0.54, 0.46, 0.0),
    torch.blackman_window: _cosine_window(0.42, 0.5, 0.08),
    functional.adaptive_max_pool2d: resizing.adaptive_maximum,
}
"""Functions of a length, which `torch.export` would take as that of its example."""
