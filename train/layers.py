"""The layers that are not CNN: transforms, crops, scaling and spectra, each with an ONNX lowering.

They are modules, not functions, so that `kspacesr_rt.export.lowering` meets each of them whole and
turns it into one node. Sizes are never stored: a layer knows how many times finer than the LR
matrix its input and output grids are, and takes the rest from the tensor it meets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kspacesr_rt.kspace import centred_offset, nyquist_gain
from kspacesr_rt.kspace.mean_spectrum import resample_spectrum

TINY = 1e-20
"""Smallest divisor of a slice: an all-zero slice stays zero, anything above 1e-12 is untouched."""

_AXES = (-2, -1)


def _window(inner: int, outer: int) -> slice:
    start = centred_offset(inner, outer)
    return slice(start, start + inner)


def centre_crop(kspace: Tensor, rows: int, columns: int) -> Tensor:
    """Keep `rows` x `columns` samples around DC; see `kspacesr_rt.kspace.centre_crop`."""
    height, width = kspace.shape[-2:]
    return kspace[..., _window(rows, height), _window(columns, width)]


def centre_fill(kspace: Tensor, rows: int, columns: int) -> Tensor:
    """Surround k-space with zeros; see `kspacesr_rt.kspace.centre_fill`."""
    filled = kspace.new_zeros((*kspace.shape[:-2], rows, columns))
    height, width = kspace.shape[-2:]
    filled[..., _window(height, rows), _window(width, columns)] = kspace
    return filled


def to_complex(channels: Tensor) -> Tensor:
    """Join ``(n, 1 or 2, y, x)`` channels to complex ``(n, y, x)``, in fp32 at least."""
    wide = channels if channels.dtype == torch.float64 else channels.float()
    if wide.shape[1] == 1:
        return torch.complex(wide[:, 0], torch.zeros_like(wide[:, 0]))
    return torch.complex(wide[:, 0], wide[:, 1])


class _Transform(nn.Module):
    """A centred orthonormal transform between two grids of one FOV."""

    def __init__(self, input_upscale: int = 1, output_upscale: int = 1, channels: int = 2) -> None:
        super().__init__()
        self.input_upscale = input_upscale
        self.output_upscale = output_upscale
        self.channels = channels

    def target(self, length: int) -> int:
        """Return the samples that come out along an axis of `length` samples."""
        return length // self.input_upscale * self.output_upscale

    def extra_repr(self) -> str:
        return f"{self.input_upscale} -> {self.output_upscale}, channels={self.channels}"


class FFT2c(_Transform):
    """Image to k-space; keeps the centre if the output grid is coarser.

    Takes ``(n, 1 or 2, y, x)``, gives ``(n, 2, ky, kx)`` in float32 whatever the CNN computes in.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Transform, then crop."""
        shifted = torch.fft.ifftshift(to_complex(image), dim=_AXES)
        kspace = torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=_AXES)
        rows, columns = (self.target(length) for length in image.shape[-2:])
        kspace = centre_crop(kspace, rows, columns)
        return torch.stack([kspace.real, kspace.imag], dim=1)


class IFFT2c(_Transform):
    """K-space to image; zero-fills first if the output grid is finer.

    Takes ``(n, 2, ky, kx)``, gives ``(n, channels, y, x)``: with one channel, the real part.
    """

    def forward(self, kspace: Tensor) -> Tensor:
        """Zero-fill, then transform."""
        rows, columns = (self.target(length) for length in kspace.shape[-2:])
        filled = centre_fill(to_complex(kspace), rows, columns)
        shifted = torch.fft.ifftshift(filled, dim=_AXES)
        image = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=_AXES)
        if self.channels == 1:
            return image.real.unsqueeze(1)
        return torch.stack([image.real, image.imag], dim=1)


class CornerFFT2c(_Transform):
    """`FFT2c` of an image whose origin is its sample (0, 0): ``fftshift(fft2(x))``.

    Differs by a phase ramp, for even matrices a checkerboard of signs, which no magnitude shows
    and every network on real and imaginary parts depends on.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Transform, then crop."""
        transformed = torch.fft.fft2(to_complex(image), norm="ortho")
        rows, columns = (self.target(length) for length in image.shape[-2:])
        kspace = centre_crop(torch.fft.fftshift(transformed, dim=_AXES), rows, columns)
        return torch.stack([kspace.real, kspace.imag], dim=1)


class CornerIFFT2c(_Transform):
    """`IFFT2c` to an image whose origin is its sample (0, 0); the adjoint of `CornerFFT2c`."""

    def forward(self, kspace: Tensor) -> Tensor:
        """Zero-fill, then transform."""
        rows, columns = (self.target(length) for length in kspace.shape[-2:])
        filled = centre_fill(to_complex(kspace), rows, columns)
        image = torch.fft.ifft2(torch.fft.ifftshift(filled, dim=_AXES), norm="ortho")
        if self.channels == 1:
            return image.real.unsqueeze(1)
        return torch.stack([image.real, image.imag], dim=1)


class CentreCrop(_Transform):
    """Keep the centre of k-space that a coarser grid holds: ``(n, 2, ky, kx)``."""

    def forward(self, kspace: Tensor) -> Tensor:
        """Crop."""
        rows, columns = (self.target(length) for length in kspace.shape[-2:])
        return centre_crop(kspace, rows, columns)


class CentreFill(_Transform):
    """Surround k-space with zeros up to a finer grid: ``(n, 2, ky, kx)``."""

    def forward(self, kspace: Tensor) -> Tensor:
        """Fill."""
        rows, columns = (self.target(length) for length in kspace.shape[-2:])
        return centre_fill(kspace, rows, columns)


class SliceMaximum(nn.Module):
    """Largest magnitude of each slice: ``(n, c, y, x)`` to ``(n, 1, 1, 1)``, at least `TINY`."""

    def forward(self, image: Tensor) -> Tensor:
        """Reduce over everything but the batch."""
        return image.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)


class SlicePeak(nn.Module):
    """Largest value of each slice, signs kept: ``(n, c, y, x)`` to ``(n, 1, 1, 1)``.

    Of the k-space of an image that is nowhere negative it is DC. At least `TINY`.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Reduce over everything but the batch."""
        return values.amax(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)


class Magnitude(nn.Module):
    """Complex magnitude, ``(n, 2, y, x)`` to ``(n, 1, y, x)``."""

    def forward(self, channels: Tensor) -> Tensor:
        """Take the root of the sum of squares; its gradient at zero is zero, not NaN."""
        return torch.linalg.vector_norm(channels, dim=1, keepdim=True)


class UnitPhase(nn.Module):
    """Divide complex samples by their magnitude: ``(n, 2, y, x)``, zero where they are zero."""

    def forward(self, channels: Tensor) -> Tensor:
        """Keep the phase."""
        magnitude = torch.linalg.vector_norm(channels, dim=1, keepdim=True)
        return channels / magnitude.clamp_min(TINY)


class WholeNyquist(nn.Module):
    """Double the Nyquist lines of even axes: ``(n, 2, ky, kx)``, in front of a real ``IFFT2c``.

    What a real image is given on such a line, it then holds; see `kspacesr_rt.kspace.nyquist_gain`.
    """

    def forward(self, kspace: Tensor) -> Tensor:
        """Scale each spatial frequency by 1 or 2; a corner of two such lines by 2."""
        rows, columns = kspace.shape[-2:]
        return kspace * torch.from_numpy(nyquist_gain((rows, columns))).to(kspace)


class SampleSign(nn.Module):
    """Give LR samples the sign that a network predicts: ``(n, 1, y, x)`` twice, to one.

    A scanner stores ``|image|``: ringing that was negative has been folded up. What was measured
    is the magnitude alone, so the sign may be predicted, and nothing else. A sample turns negative
    where the prediction outweighs it, so that dark samples turn first.

    Parameters
    ----------
    width
        Intensity over which the gradient sees the sign change, in the unit of the samples.

    References
    ----------
    .. [1] a hard step forward with the gradient of a soft one (straight-through): Bengio et al.
       2013, arXiv:1308.3432
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, samples: Tensor, predicted: Tensor) -> Tensor:
        """Return `samples`, negated where ``samples + predicted`` is negative."""
        signed = samples + predicted
        soft = torch.tanh(signed / self.width)
        sign = torch.where(signed < 0.0, -1.0, 1.0).detach() + (soft - soft.detach())
        return samples * sign


class MeanSpectrum(nn.Module):
    """Multiply (or divide) k-space by a mean spectrum, resampled to the matrix at hand.

    Parameters
    ----------
    size
        Samples per axis of the stored spectrum; it starts as all ones (no effect).
    divide
        True for h_LR in front of the network, False for h_HR behind it.
    """

    spectrum: Tensor
    """Shape ``(size, size)``, positive, DC at ``size // 2``; a buffer, so it is saved."""

    def __init__(self, size: int, *, divide: bool) -> None:
        super().__init__()
        self.divide = divide
        self.register_buffer("spectrum", torch.ones(size, size))

    of_peak = False
    """Whether its unit is the peak of each slice's k-space."""

    def factor(self, rows: int, columns: int) -> Tensor:
        """Return what k-space of that matrix is multiplied by, shape ``(1, 1, ky, kx)``."""
        stored = self.spectrum.detach().cpu().numpy()
        spectrum = resample_spectrum(stored, (rows, columns), of_peak=self.of_peak)
        factor = 1.0 / spectrum if self.divide else spectrum
        return torch.from_numpy(np.ascontiguousarray(factor))[None, None]

    def forward(self, kspace: Tensor) -> Tensor:
        """Scale each spatial frequency."""
        rows, columns = kspace.shape[-2:]
        return kspace * self.factor(rows, columns).to(kspace)


class PeakSpectrum(MeanSpectrum):
    """A mean spectrum in shares of the peak of each slice's k-space, as SR_kspace stored them."""

    of_peak = True
