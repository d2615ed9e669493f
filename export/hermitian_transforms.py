"""Transforms of Hermitian signals, written with those of real ones, whose length may be open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_OPPOSITE = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}
"""The norm of the transform in the other direction."""


def hfft(value: Tensor, n: Any = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """As `torch.fft.hfft`."""
    return torch.fft.irfft(torch.conj_physical(value), n=n, dim=dim, norm=_OPPOSITE[norm])


def ihfft(value: Tensor, n: Any = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """As `torch.fft.ihfft`."""
    return torch.conj_physical(torch.fft.rfft(value, n=n, dim=dim, norm=_OPPOSITE[norm]))


def _hermitian(axes: tuple[int, int] | None) -> Callable[..., Tensor]:
    """Return `torch.fft.hfftn`, or `torch.fft.hfft2` with its axes."""

    def transform(value: Tensor, s: Any = None, dim: Any = axes, norm: str | None = None) -> Tensor:
        return torch.fft.irfftn(torch.conj_physical(value), s=s, dim=dim, norm=_OPPOSITE[norm])

    return transform


def _inverse_hermitian(axes: tuple[int, int] | None) -> Callable[..., Tensor]:
    """Return `torch.fft.ihfftn`, or `torch.fft.ihfft2` with its axes."""

    def transform(value: Tensor, s: Any = None, dim: Any = axes, norm: str | None = None) -> Tensor:
        return torch.conj_physical(torch.fft.rfftn(value, s=s, dim=dim, norm=_OPPOSITE[norm]))

    return transform


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.fft.hfft: hfft,
    torch.fft.ihfft: ihfft,
    torch.fft.hfft2: _hermitian((-2, -1)),
    torch.fft.ihfft2: _inverse_hermitian((-2, -1)),
    torch.fft.hfftn: _hermitian(None),
    torch.fft.ihfftn: _inverse_hermitian(None),
}
"""Functions of PyTorch, and what stands for them while a network is traced."""
