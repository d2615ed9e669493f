"""Layers of k-space networks, to build with in PyTorch: each is lowered whole by `export_module`.

Images are ``(n, 1, y, x)``, k-space ``(n, 2, ky, kx)`` with real and imaginary part as channels, DC
at ``n // 2`` of each axis; transforms are centred and orthonormal, as `kspacesr_rt.kspace.fft2c`.
Plain ``torch.fft`` code that computes the same is lowered to the same. Users
import them from `kspacesr_rt.layers`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

TINY = 1e-20
"""Smallest divisor of a slice: an all-zero slice stays zero."""
_AXES = (-2, -1)


def _complex(channels: Tensor) -> Tensor:
    """Join ``(n, 1 or 2, y, x)`` to complex ``(n, 1, y, x)``."""
    real = channels[:, :1]
    imag = channels[:, 1:2] if channels.shape[1] == 2 else torch.zeros_like(real)
    return torch.complex(real, imag)


def _channels(values: Tensor, *, real: bool) -> Tensor:
    return values.real if real else torch.cat([values.real, values.imag], dim=1)


class FFT2c(nn.Module):
    """Image to k-space, centred and orthonormal: ``(n, 1 or 2, y, x)`` to ``(n, 2, ky, kx)``."""

    def forward(self, image: Tensor) -> Tensor:
        """Transform; two channels are real and imaginary part."""
        shifted = torch.fft.ifftshift(_complex(image), dim=_AXES)
        kspace = torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=_AXES)
        return _channels(kspace, real=False)


class IFFT2c(nn.Module):
    """K-space to image, centred and orthonormal: ``(n, 2, ky, kx)`` to ``(n, 1 or 2, y, x)``.

    Parameters
    ----------
    real
        Give the real part alone, as one channel; else real and imaginary part.
    """

    def __init__(self, *, real: bool = False) -> None:
        super().__init__()
        self.real = real

    def forward(self, kspace: Tensor) -> Tensor:
        """Transform back."""
        shifted = torch.fft.ifftshift(_complex(kspace), dim=_AXES)
        image = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=_AXES)
        return _channels(image, real=self.real)


class CentreCrop(nn.Module):
    """Keep the centre of k-space: ``(..., f*ky, f*kx)`` to the ``(..., ky, kx)`` of a coarser grid.

    Parameters
    ----------
    factor
        Samples of the finer grid per sample of the coarser one, per axis.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, kspace: Tensor) -> Tensor:
        """Crop around DC."""
        height, width = kspace.shape[-2:]
        rows, columns = height // self.factor, width // self.factor
        top, left = height // 2 - rows // 2, width // 2 - columns // 2
        return kspace[..., top : top + rows, left : left + columns]


class CentreFill(nn.Module):
    """Surround k-space with zeros up to a finer grid: ``(..., ky, kx)`` to ``(..., f*ky, f*kx)``.

    Parameters
    ----------
    factor
        Samples of the finer grid per sample of the coarser one, per axis.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, kspace: Tensor) -> Tensor:
        """Fill around DC."""
        rows, columns = kspace.shape[-2:]
        height, width = rows * self.factor, columns * self.factor
        top, left = height // 2 - rows // 2, width // 2 - columns // 2
        margins = (left, width - columns - left, top, height - rows - top)
        return functional.pad(kspace, margins)


class DataConsistency(nn.Module):
    """Give predicted k-space ``(n, 2, s*ky, s*kx)`` its measured centre ``(n, 2, ky, kx)`` back.

    Parameters
    ----------
    kind
        ``hard``: measured samples replace predicted ones; ``additive``: they are added;
        ``weighted``: ``(predicted + weight * measured) / (1 + weight)`` in the centre, with a
        learned weight of at least 0.
    weight
        What the weight starts at.
    """

    def __init__(
        self, kind: Literal["hard", "additive", "weighted"] = "hard", weight: float = 1.0
    ) -> None:
        super().__init__()
        if kind not in ("hard", "additive", "weighted"):
            raise ValueError(f"data consistency '{kind}' is not hard, additive or weighted")
        self.kind = kind
        if kind == "weighted":
            self.weight = nn.Parameter(torch.tensor(float(weight)))

    def forward(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """Combine both; `measured` is in the unit of `predicted`."""
        height, width = predicted.shape[-2:]
        rows, columns = measured.shape[-2:]
        top, left = height // 2 - rows // 2, width // 2 - columns // 2
        margins = (left, width - columns - left, top, height - rows - top)
        filled = functional.pad(measured, margins)
        if self.kind == "additive":
            return predicted + filled
        ones = torch.ones(1, 1, rows, columns, dtype=measured.dtype, device=measured.device)
        mask = functional.pad(ones, margins)
        if self.kind == "weighted":
            share = self.weight.clamp_min(0.0)
            share = share / (1.0 + share)
            return predicted * (1.0 - mask * share) + filled * share
        return predicted * (1.0 - mask) + filled


class MeanSpectrum(nn.Module):
    """Multiply (or divide) k-space by a mean spectrum: ``(n, c, ky, kx)``, the same shape out.

    Parameters
    ----------
    spectrum
        Shape ``(ky, kx)``, positive, DC at the centre; resampled linearly in its logarithm to the
        matrix at hand.
    divide
        Divide by it instead.
    """

    logarithm: Tensor

    def __init__(self, spectrum: Tensor, *, divide: bool = False) -> None:
        super().__init__()
        if spectrum.dim() != 2 or not bool((spectrum > 0).all()):
            raise ValueError("a mean spectrum is (ky, kx), and positive throughout")
        self.divide = divide
        self.register_buffer("logarithm", spectrum.float().log())

    def forward(self, kspace: Tensor) -> Tensor:
        """Scale each spatial frequency; the same relative frequency has the same factor."""
        logs = self.logarithm
        for axis in (0, 1):
            have, want = logs.shape[axis], kspace.shape[axis - 2]
            line = torch.arange(want, device=kspace.device) - want // 2
            place = (line.to(logs.dtype) * have / want + have // 2).clamp(0, have - 1)
            low = place.floor().clamp(max=have - 1)
            high = (low + 1).clamp(max=have - 1)
            share = place - low
            share = share.unsqueeze(1 - axis)
            first = logs.index_select(axis, low.long())
            logs = first + (logs.index_select(axis, high.long()) - first) * share
        factor: Tensor = torch.exp(-logs if self.divide else logs)
        return kspace * factor


class SliceMaximum(nn.Module):
    """Largest magnitude of each slice: ``(n, c, y, x)`` to ``(n, 1, 1, 1)``, at least `TINY`.

    Divide by it first and multiply by it last, and a network takes any unit.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Reduce over everything but the batch."""
        return image.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)


class Magnitude(nn.Module):
    """Complex magnitude: ``(n, 2, y, x)`` to ``(n, 1, y, x)``."""

    def forward(self, channels: Tensor) -> Tensor:
        """Take the root of the sum of squares; its gradient at zero is zero, not NaN."""
        modulus: Tensor = torch.linalg.vector_norm(channels, dim=1, keepdim=True)
        return modulus


class PixelGrid(nn.Module):
    """Move an image between the grid of zero-filled k-space and the pixel-centre one.

    The first sample of zero-filled k-space lies where the first LR sample does; image libraries
    align the edges of the FOV instead. The shift is exact for band-limited images: a phase ramp.
    ``(n, 1, s*y, s*x)``, the same shape out.

    Parameters
    ----------
    upscale
        SR samples per LR sample and axis.
    to
        The grid of the result: ``pixel-centre`` or ``kspace``.
    """

    def __init__(
        self, upscale: int, to: Literal["pixel-centre", "kspace"] = "pixel-centre"
    ) -> None:
        super().__init__()
        if to not in ("pixel-centre", "kspace"):
            raise ValueError(f"grid '{to}' is neither pixel-centre nor kspace")
        self.upscale, self.grid = upscale, to

    def forward(self, image: Tensor) -> Tensor:
        """Shift by a fraction of a sample along both axes."""
        kspace = torch.fft.fftshift(torch.fft.fft2(image), dim=_AXES)
        for axis in (-2, -1):
            length = image.shape[axis]
            line = torch.arange(length, device=image.device) - length // 2
            turns = (line * self._half_samples(length)).to(image.dtype) / (2 * length)
            phase = turns * (2.0 * torch.pi)
            ramp = torch.polar(torch.ones_like(phase), phase)
            kspace = kspace * (ramp.unsqueeze(1) if axis == -2 else ramp)
        shifted: Tensor = torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=_AXES))
        return shifted.real

    def _half_samples(self, length: int) -> int:
        """Return by how many halves of an SR sample the result's origin lies further on.

        `kspacesr_rt.kspace.sample_origin` in whole numbers, which may be symbolic here.
        """
        lr = length // self.upscale
        kspace = 2 * (self.upscale * (lr // 2) - length // 2)
        shift = -(self.upscale - 1) - kspace
        return shift if self.grid == "pixel-centre" else -shift
