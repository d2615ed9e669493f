"""Networks as people write them, with plain `torch.fft` and complex tensors; nothing of ours.

All take an image ``(n, 1, y, x)`` and give one of twice the rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = 2


def fft2c(image: Tensor) -> Tensor:
    shifted = torch.fft.ifftshift(image, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def ifft2c(kspace: Tensor) -> Tensor:
    shifted = torch.fft.ifftshift(kspace, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))


def filled(kspace: Tensor, rows: int, columns: int) -> Tensor:
    """Pad k-space with zeros around DC."""
    y, x = kspace.shape[-2:]
    top, left = rows // 2 - y // 2, columns // 2 - x // 2
    return functional.pad(kspace, (left, columns - x - left, top, rows - y - top))


def measured_mask(like: Tensor, rows: int, columns: int) -> Tensor:
    y, x = like.shape[-2:]
    return filled(torch.ones(1, 1, y, x, device=like.device), rows, columns)


def convolutions(given: int, width: int, taken: int, layers: int = 3) -> nn.Sequential:
    sizes = [given, *[width] * (layers - 1)]
    made: list[nn.Module] = []
    for size in sizes:
        made += [nn.Conv2d(size, width, 3, padding=1), nn.ReLU()]
    made[-2:] = [nn.Conv2d(width, taken, 3, padding=1)]
    return nn.Sequential(*made)


class UNet(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        c = channels
        self.first, self.second = self._block(1, c), self._block(c, 2 * c)
        self.bottom = self._block(2 * c, 4 * c)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.merge2 = nn.ConvTranspose2d(4 * c, 2 * c, 2, 2), self._block(4 * c, 2 * c)
        self.up1, self.merge1 = nn.ConvTranspose2d(2 * c, c, 2, 2), self._block(2 * c, c)
        self.last = nn.Conv2d(c, 1, 1)

    def _block(self, given: int, taken: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(given, taken, 3, padding=1),
            nn.InstanceNorm2d(taken),
            nn.LeakyReLU(0.2),
            nn.Conv2d(taken, taken, 3, padding=1),
            nn.InstanceNorm2d(taken),
            nn.SiLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        first = self.first(image)
        second = self.second(self.pool(first))
        bottom = self.bottom(self.pool(second))
        merged = self.merge2(torch.cat([self.up2(bottom), second], 1))
        merged = self.merge1(torch.cat([self.up1(merged), first], 1))
        return image + self.last(merged)


class UNetConsistent(nn.Module):
    """A U-Net on the zero-filled image; measured k-space is put back."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()

    def forward(self, lr: Tensor) -> Tensor:
        top = lr.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-20)
        kspace = fft2c(lr / top) * SCALE
        y, x = lr.shape[-2:]
        zero_filled = filled(kspace, y * SCALE, x * SCALE)
        predicted = fft2c(self.net(ifft2c(zero_filled).real))
        mask = measured_mask(lr, y * SCALE, x * SCALE)
        return ifft2c(predicted * (1 - mask) + zero_filled).real * top


class CrossDomain(nn.Module):
    """A network in k-space, one in the image, data consistency; twice."""

    def __init__(self, rounds: int = 2) -> None:
        super().__init__()
        self.spectral = nn.ModuleList(convolutions(2, 8, 2) for _ in range(rounds))
        self.spatial = nn.ModuleList(convolutions(1, 8, 1) for _ in range(rounds))

    def forward(self, lr: Tensor) -> Tensor:
        top = lr.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-20)
        y, x = lr.shape[-2:]
        measured = filled(fft2c(lr / top) * SCALE, y * SCALE, x * SCALE)
        mask = measured_mask(lr, y * SCALE, x * SCALE)
        current = measured
        for spectral, spatial in zip(self.spectral, self.spatial, strict=True):
            pair = torch.view_as_real(current.squeeze(1)).permute(0, 3, 1, 2)
            pair = pair + spectral(pair)
            image = ifft2c(torch.complex(pair[:, 0], pair[:, 1]).unsqueeze(1)).real
            image = image + spatial(image)
            current = torch.where(mask > 0, measured, fft2c(image))
        return ifft2c(current).real * top


class WindowAttention(nn.Module):
    """Self-attention within windows of 8 x 8, shifted by half of one, with a position bias."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift, self.heads = window, shift, heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.bias = nn.Parameter(torch.randn(heads, window**2, window**2) * 0.02)

    def forward(self, image: Tensor) -> Tensor:
        n, c, rows, columns = image.shape
        w = self.window
        tokens = image.permute(0, 2, 3, 1)
        moved = torch.roll(self.norm(tokens), (-self.shift, -self.shift), (1, 2))
        windows = moved.reshape(n, rows // w, w, columns // w, w, c)
        windows = windows.permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)
        qkv = self.qkv(windows).reshape(-1, w * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5 + self.bias).softmax(-1)
        windows = self.out((weights @ v).transpose(1, 2).reshape(-1, w * w, c))
        windows = windows.reshape(n, rows // w, columns // w, w, w, c)
        moved = windows.permute(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, c)
        tokens = tokens + torch.roll(moved, (self.shift, self.shift), (1, 2))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.permute(0, 3, 1, 2)


class WindowTransformer(nn.Module):
    """Attention in shifted windows, pixel shuffle, and a centred transform to blend with LR."""

    def __init__(self, width: int = 16, shifts: tuple[int, ...] = (0, 4, 0, 4)) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(WindowAttention(width, 2, 8, shift) for shift in shifts))
        self.up = nn.Sequential(nn.Conv2d(width, SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))

    def forward(self, lr: Tensor) -> Tensor:
        detail = self.up(self.blocks(self.first(lr)))
        y, x = lr.shape[-2:]
        return ifft2c(filled(fft2c(lr) * SCALE, y * SCALE, x * SCALE)).real + detail


class ComplexConv(nn.Module):
    def __init__(self, given: int, taken: int) -> None:
        super().__init__()
        self.real = nn.Conv2d(given, taken, 3, padding=1)
        self.imag = nn.Conv2d(given, taken, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(
            self.real(x.real) - self.imag(x.imag), self.real(x.imag) + self.imag(x.real)
        )


class ModulusReLU(nn.Module):
    """Shrink the modulus, keep the phase."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1, channels, 1, 1), -0.01))

    def forward(self, x: Tensor) -> Tensor:
        modulus = x.abs()
        return torch.polar(functional.relu(modulus + self.bias), x.angle())


class ComplexNetwork(nn.Module):
    """Convolutions of complex images, by hand; the modulus comes out."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ComplexConv(1, width),
            ModulusReLU(width),
            ComplexConv(width, width),
            ModulusReLU(width),
            ComplexConv(width, 1),
        )

    def forward(self, lr: Tensor) -> Tensor:
        y, x = lr.shape[-2:]
        image = ifft2c(filled(fft2c(lr) * SCALE, y * SCALE, x * SCALE))
        return (image + self.layers(image) * 0.1).abs()


class Variational(nn.Module):
    """Gradient steps on the measured part of k-space, with a learnt regulariser each."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.regularisers = nn.ModuleList(convolutions(2, 8, 2) for _ in range(steps))
        self.weights = nn.Parameter(torch.linspace(0.5, 1.0, steps))

    def forward(self, lr: Tensor) -> Tensor:
        y, x = lr.shape[-2:]
        rows, columns = y * SCALE, x * SCALE
        measured = filled(fft2c(lr) * SCALE, rows, columns)
        mask = measured_mask(lr, rows, columns)
        current = measured
        for step, regulariser in enumerate(self.regularisers):
            image = ifft2c(current)
            pair = torch.cat([image.real, image.imag], 1)
            change = regulariser(pair)
            change = fft2c(torch.complex(change[:, :1], change[:, 1:]))
            current = current - self.weights[step] * mask * (current - measured) - change
        return ifft2c(current).abs()


class Unrolled(nn.Module):
    """Iterative shrinkage: a step to what was measured, a learnt transform, soft thresholds."""

    def __init__(self, steps: int = 3, width: int = 8) -> None:
        super().__init__()
        self.forth = nn.ModuleList(nn.Conv2d(1, width, 3, padding=1) for _ in range(steps))
        self.back = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(steps))
        self.threshold = nn.Parameter(torch.full((steps,), 0.01))
        self.step = nn.Parameter(torch.full((steps,), 0.8))

    def forward(self, lr: Tensor) -> Tensor:
        y, x = lr.shape[-2:]
        rows, columns = y * SCALE, x * SCALE
        measured = filled(fft2c(lr) * SCALE, rows, columns)
        mask = measured_mask(lr, rows, columns)
        image = ifft2c(measured).real
        for n, (forth, back) in enumerate(zip(self.forth, self.back, strict=True)):
            residual = ifft2c(mask * (fft2c(image) - measured)).real
            image = image - self.step[n] * residual
            coefficients = forth(image)
            shrunk = coefficients.sign() * functional.relu(coefficients.abs() - self.threshold[n])
            image = image + back(shrunk)
        return image


class FourierUnit(nn.Module):
    """Global filtering: convolutions of the half spectrum of a real image (1 x 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        spectrum = torch.fft.rfft2(x, norm="ortho")
        mixed = functional.relu(self.mix(torch.cat([spectrum.real, spectrum.imag], 1)))
        real, imag = mixed.chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imag), s=(rows, columns), norm="ortho")


class FastFourierConvolution(nn.Module):
    """Local convolutions beside global ones of the half spectrum."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.local = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.globally = nn.ModuleList(FourierUnit(width) for _ in range(2))
        self.last = nn.Conv2d(width, SCALE**2, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.first(lr)
        for local, globally in zip(self.local, self.globally, strict=True):
            x = functional.gelu(local(x) + globally(x)) + x
        up = functional.interpolate(lr, scale_factor=SCALE, mode="bilinear", align_corners=False)
        return up + functional.pixel_shuffle(self.last(x), SCALE)


class SpectralAttention(nn.Module):
    """Gates of each frequency ring by the spectrum itself, with `fftn` and `roll`."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.gate = nn.Sequential(nn.Conv2d(width, width, 1), nn.GroupNorm(2, width), nn.Sigmoid())
        self.up = nn.ConvTranspose2d(width, 1, SCALE, SCALE)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.first(lr)
        rows, columns = x.shape[-2:]
        spectrum = torch.fft.fftn(x, dim=(-2, -1), norm="forward")
        spectrum = torch.roll(spectrum, (rows // 2, columns // 2), (-2, -1))
        spectrum = spectrum * self.gate(torch.log1p(spectrum.abs()))
        spectrum = torch.roll(spectrum, (-(rows // 2), -(columns // 2)), (-2, -1))
        x = x + torch.fft.ifftn(spectrum, dim=(-2, -1), norm="forward").real
        return self.up(functional.elu(x))


NETWORKS = {
    "U-Net, data consistency": UNetConsistent,
    "k-space and image, in turn": CrossDomain,
    "shifted-window transformer": WindowTransformer,
    "complex-valued": ComplexNetwork,
    "variational": Variational,
    "unrolled shrinkage": Unrolled,
    "fast Fourier convolution": FastFourierConvolution,
    "spectral gates": SpectralAttention,
}
"""Name to class; each is made without arguments."""
