"""Small networks of each kind that a model file may hold; their weights have learnt little."""

from __future__ import annotations

import torch
from own_networks import fft2c, filled, ifft2c
from torch import Tensor, nn
from torch.nn import functional

DETAIL = 0.02
"""Standard deviation of the last weights: a blob stays one, so that the grid can be measured."""


def zero_filled(kspace: Tensor) -> Tensor:
    return filled(2 * kspace, 2 * kspace.shape[-2], 2 * kspace.shape[-1])


def fine(given: int, taken: int) -> nn.Conv2d:
    convolution = nn.Conv2d(given, taken, 3, padding=1)
    nn.init.normal_(convolution.weight, std=DETAIL)
    return convolution


class Net(nn.Module):
    """A U-Net on the zero-filled image; measured k-space is put back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.bottom = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.last = fine(8, 1)

    def forward(self, lr: Tensor) -> Tensor:
        top = lr.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-20)
        measured, mask = zero_filled(fft2c(lr / top)), zero_filled(torch.full_like(lr, 0.5))
        image = ifft2c(measured).real
        features = functional.silu(self.first(image))
        coarse = functional.silu(self.bottom(functional.max_pool2d(features, 2)))
        image = image + self.last(torch.cat([self.up(coarse), features], 1))
        return ifft2c(fft2c(image) * (1 - mask) + measured).real * top


class Windows(nn.Module):
    """Attention within windows of 8 x 8: it takes multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), fine(4, 4)

    def forward(self, lr: Tensor) -> Tensor:
        features = self.first(lr)
        n, c, rows, columns = features.shape
        windows = features.reshape(n, c, rows // 8, 8, columns // 8, 8)
        tokens = windows.permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, c)
        tokens = (tokens @ tokens.transpose(1, 2) / c).softmax(-1) @ tokens
        windows = tokens.reshape(n, rows // 8, columns // 8, 8, 8, c).permute(0, 5, 1, 3, 2, 4)
        detail = functional.pixel_shuffle(self.last(windows.reshape(n, c, rows, columns)), 2)
        return ifft2c(zero_filled(fft2c(lr))).real + detail


class FromKspace(nn.Module):
    """k-space in, an image out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn = fine(2, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        pairs = pairs + self.cnn(pairs)
        return ifft2c(zero_filled(torch.complex(pairs[:, :1], pairs[:, 1:]))).abs()
