"""A generator's k-space layers written with plain torch operators, for other people's exporters.

Ours fill and crop complex arrays, which `torch.onnx.export` and OpenVINO's front end do not take.
Here shifts, crops and fills move real and imaginary parts, as channels, and only the transform
itself is complex: both exporters take that, and it is the same arithmetic to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kspacesr_rt.train.layers import CornerFFT2c, CornerIFFT2c, FFT2c, IFFT2c

_AXES = (-2, -1)


class PlainFFT2c(nn.Module):
    """`kspacesr_rt.train.layers.FFT2c` with shifts and crop on real channels."""

    def __init__(self, layer: FFT2c | CornerFFT2c) -> None:
        super().__init__()
        self.target, self.corner = layer.target, isinstance(layer, CornerFFT2c)

    def forward(self, image: Tensor) -> Tensor:
        """Transform ``(n, 1 or 2, y, x)`` to ``(n, 2, ky, kx)``."""
        if image.shape[1] == 1:
            image = torch.cat([image, torch.zeros_like(image)], dim=1)
        kspace = _transform(image, torch.fft.fft2, shift_input=not self.corner)
        height, width = image.shape[-2:]
        rows, columns = self.target(height), self.target(width)
        top, left = height // 2 - rows // 2, width // 2 - columns // 2
        return kspace[..., top : top + rows, left : left + columns]


class PlainIFFT2c(nn.Module):
    """`kspacesr_rt.train.layers.IFFT2c` with shifts and fill on real channels."""

    def __init__(self, layer: IFFT2c | CornerIFFT2c) -> None:
        super().__init__()
        self.target, self.channels = layer.target, layer.channels
        self.corner = isinstance(layer, CornerIFFT2c)

    def forward(self, kspace: Tensor) -> Tensor:
        """Transform ``(n, 2, ky, kx)`` to ``(n, channels, y, x)``."""
        height, width = kspace.shape[-2:]
        rows, columns = self.target(height), self.target(width)
        top, left = rows // 2 - height // 2, columns // 2 - width // 2
        margins = (left, columns - width - left, top, rows - height - top)
        filled = functional.pad(kspace, margins)
        image = _transform(filled, torch.fft.ifft2, shift_output=not self.corner)
        return image[:, : self.channels]


def with_plain_layers(generator: nn.Module) -> nn.Module:
    """Return a copy of a generator, without gradients, whose transforms are plain."""
    made = copy.deepcopy(generator).requires_grad_(False)
    for name, layer in list(made.named_modules()):
        parent, _, own = name.rpartition(".")
        if isinstance(layer, FFT2c | CornerFFT2c):
            setattr(made.get_submodule(parent), own, PlainFFT2c(layer))
        elif isinstance(layer, IFFT2c | CornerIFFT2c):
            setattr(made.get_submodule(parent), own, PlainIFFT2c(layer))
    return made


def _transform(
    parts: Tensor,
    transform: Callable[..., Tensor],
    *,
    shift_input: bool = True,
    shift_output: bool = True,
) -> Tensor:
    """Transform ``(n, 2, y, x)`` with DC and origin at the centre, orthonormal."""
    rows, columns = parts.shape[-2:]
    if shift_input:
        parts = torch.roll(parts, (-(rows // 2), -(columns // 2)), _AXES)
    values = torch.view_as_real(transform(torch.complex(parts[:, 0], parts[:, 1]), norm="ortho"))
    parts = torch.stack([values[..., 0], values[..., 1]], dim=1)
    return torch.roll(parts, (rows // 2, columns // 2), _AXES) if shift_output else parts
