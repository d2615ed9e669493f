"""The generators: the seed's networks exactly, and the one that is shipped.

All but one are image in, image out: ``(n, 1, y, x)`` real-world values to ``(n, 1, s*y, s*x)`` in
the same units, slices independent of each other. The other takes and gives complex k-space.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.train.layers import (
    CentreCrop,
    CentreFill,
    CornerFFT2c,
    CornerIFFT2c,
    FFT2c,
    IFFT2c,
    Magnitude,
    MeanSpectrum,
    PeakSpectrum,
    SampleSign,
    SliceMaximum,
    SlicePeak,
    UnitPhase,
    WholeNyquist,
)


class ResidualBlock(nn.Module):
    """Conv, BatchNorm, PReLU, Conv, BatchNorm, added to the input."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Refine the features."""
        residual = self.bn1(self.conv1(features))
        return features + self.bn2(self.conv2(self.prelu(residual)))


class UpsampleBlock(nn.Module):
    """Conv to four times the channels, pixel shuffle by two, PReLU."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1, bias=bias)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Double the matrix."""
        return self.prelu(self.pixel_shuffle(self.conv(features)))


class SeedNetwork(nn.Module):
    """The SRGAN generator body of SR_kspace, with its state-dict keys ``block1`` to ``block8``.

    Parameters
    ----------
    channels
        Input and output channels: 2 on k-space (real, imaginary), 1 or 3 on images.
    upscale
        2 or 4 (a power of two).
    width
        Channels between layers, 64 in the seed.
    bias
        Whether convolutions have a bias.
    """

    def __init__(self, channels: int, upscale: int, width: int = 64, *, bias: bool = True) -> None:
        super().__init__()
        steps = round(math.log2(upscale))
        if 2**steps != upscale or steps < 1:
            raise CheckpointError(f"the seed network upscales by 2 or 4, not by {upscale}")
        self.block1 = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4, bias=bias), nn.PReLU())
        self.block2 = ResidualBlock(width, bias=bias)
        self.block3 = ResidualBlock(width, bias=bias)
        self.block4 = ResidualBlock(width, bias=bias)
        self.block5 = ResidualBlock(width, bias=bias)
        self.block6 = ResidualBlock(width, bias=bias)
        self.block7 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.PReLU())
        upsampling = [UpsampleBlock(width, bias=bias) for _ in range(steps)]
        self.block8 = nn.Sequential(
            *upsampling, nn.Conv2d(width, channels, 9, padding=4, bias=bias)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(n, c, y, x)`` to ``(n, c, s*y, s*x)``."""
        shallow = self.block1(inputs)
        deep = self.block2(shallow)
        deep = self.block3(deep)
        deep = self.block4(deep)
        deep = self.block5(deep)
        deep = self.block6(deep)
        return self.block8(shallow + self.block7(deep))


class SeedKspaceGenerator(nn.Module):
    """SR_kspace: the network works on normalised k-space; measured samples come back around DC.

    LR image, FFT, divided by h_LR, network, multiplied by h_HR, measured centre added (the seed's
    centred skip connection, ``additive``) or put in its place (``hard``), inverse FFT, magnitude.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        s = spec.upscale
        self.upscale = float(s)
        self.data_consistency = spec.data_consistency
        self.network = SeedNetwork(2, s, spec.width, bias=spec.bias)
        self.maximum = SliceMaximum()
        self.fft = FFT2c()
        self.h_lr = MeanSpectrum(spec.matrix[0], divide=True)
        self.h_hr = MeanSpectrum(spec.matrix[0] * s, divide=False)
        self.crop = CentreCrop(s, 1)
        self.fill = CentreFill(1, s)
        self.ifft = IFFT2c(s, s, channels=1 if spec.output == "real" else 2)
        self.magnitude = Magnitude() if spec.output == "magnitude" else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Super-resolve ``(n, 1, y, x)``."""
        maximum = self.maximum(image)
        measured = self.fft(image / maximum * self.upscale)
        kspace = self.h_hr(self.network(self.h_lr(measured)))
        if self.data_consistency == "additive":
            kspace = kspace + self.fill(measured)
        elif self.data_consistency == "hard":
            kspace = kspace + self.fill(measured - self.crop(kspace))
        return self.magnitude(self.ifft(kspace)) * maximum


class SeedConventionGenerator(nn.Module):
    """SR_kspace with the transforms and amplitudes of its own notebooks.

    k-space is ``fftshift(fft2(x))``, the image's origin in its corner, divided by its peak; behind
    h_LR it is divided by its largest component, the network and h_HR follow, and the measured
    centre is added. The repository ends with a min-max scaling, which leaves no intensity; here the
    image is multiplied back by what k-space was divided by, so that measured k-space alone gives
    the zero-filled image in the source's units.

    References
    ----------
    .. [1] github.com/MariiaKop/SR_kspace: ``inference`` in ``train.py``, ``sample_slice`` in
       ``Real_Imaginary_part_splitting.ipynb``, ``h_calc.py``
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        s = spec.upscale
        self.upscale = float(s)
        self.data_consistency = spec.data_consistency
        self.network = SeedNetwork(2, s, spec.width, bias=spec.bias)
        self.fft = CornerFFT2c()
        self.peak = SlicePeak()
        self.h_lr = PeakSpectrum(spec.matrix[0], divide=True)
        self.maximum = SliceMaximum()
        self.h_hr = PeakSpectrum(spec.matrix[0] * s, divide=False)
        self.crop = CentreCrop(s, 1)
        self.fill = CentreFill(1, s)
        self.ifft = CornerIFFT2c(s, s, channels=1 if spec.output == "real" else 2)
        self.magnitude = Magnitude() if spec.output == "magnitude" else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Super-resolve ``(n, 1, y, x)``."""
        kspace = self.fft(image)
        peak = self.peak(kspace)
        measured = kspace / peak
        normalised = self.h_lr(measured)
        predicted = self.h_hr(self.network(normalised / self.maximum(normalised)))
        if self.data_consistency == "additive":
            predicted = predicted + self.fill(measured)
        elif self.data_consistency == "hard":
            predicted = predicted + self.fill(measured - self.crop(predicted))
        return self.magnitude(self.ifft(predicted)) * (peak * self.upscale)


class SeedImageGenerator(nn.Module):
    """The SRGAN / SRResNet of the seed's table: image in [0, 1] in, ``(tanh + 1) / 2`` out."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = SeedNetwork(spec.image_channels, spec.upscale, spec.width, bias=spec.bias)
        self.repeat = spec.image_channels
        self.maximum = SliceMaximum()
        self.tanh = nn.Tanh()

    def forward(self, image: Tensor) -> Tensor:
        """Super-resolve ``(n, 1, y, x)``."""
        maximum = self.maximum(image)
        network_input = image / maximum
        if self.repeat > 1:
            network_input = network_input.expand(-1, self.repeat, -1, -1)
        predicted = (self.tanh(self.network(network_input)) + 1.0) * 0.5
        return predicted.mean(dim=1, keepdim=True) * maximum


def _draw(weight: Tensor, *, std: float) -> None:
    """Draw first weights; not where there is no memory, where torch loads its compiler to do it."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


class PlainBlock(nn.Module):
    """Conv, PReLU, Conv, added to the input: no normalisation, so intensity is not washed out."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        _draw(self.conv2.weight, std=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """Refine the features."""
        return features + self.conv2(self.prelu(self.conv1(features)))


class Cascade(nn.Module):
    """CNN on the LR grid: reads the image so far, refines the features of the cascade before it."""

    def __init__(self, phases: int, width: int, blocks: int, *, bias: bool, first: bool) -> None:
        super().__init__()
        self.head = nn.Conv2d(phases, width, 3, padding=1, bias=bias)
        self.body = nn.Sequential(*(PlainBlock(width, bias=bias) for _ in range(blocks)))
        self.tail = nn.Conv2d(width, phases, 3, padding=1, bias=bias)
        _draw(self.tail.weight, std=1e-3)
        if not first:
            _draw(self.head.weight, std=1e-2)

    def forward(self, phases: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the predicted phases and the features behind them."""
        read = self.head(phases)
        shallow = read if features is None else features + read
        deep = shallow + self.body(shallow)
        return self.tail(deep), deep


SIGN_WIDTH = 0.02
"""Width of `SampleSign` as a share of the slice's maximum: about the ringing beside a head."""


class DCResidualGenerator(nn.Module):
    """An image-domain CNN between k-space layers, with data consistency in every cascade.

    k-space -> zero-filled image -> CNN -> k-space -> measured samples put back -> image, once per
    cascade. The CNN sees the image with its ``s * s`` phases as channels of the LR grid, so that it
    starts from band-limited interpolation and works at LR cost. Its output may hold anything:
    whatever it says inside the measured band is replaced by what was measured. Features pass from
    cascade to cascade, so that a deeper split costs no memory of what was found. With
    ``bias=False`` the whole generator is positively homogeneous: scaling a series scales its
    result.

    With ``magnitude`` consistency each cascade also predicts the signs of the LR samples from its
    features, and what is put back is the k-space of the signed samples: of an image that arrived
    as a magnitude, only that was measured. The heads start at zero, all signs positive. The result
    then satisfies ``|IFFT(crop(F(sr)))| == lr``, Nyquist lines included.

    References
    ----------
    .. [1] cascades with data consistency: Schlemper et al. 2018, doi:10.1109/TMI.2017.2760978
    .. [2] layers in both domains: KIKI-net, Eo et al. 2018, doi:10.1002/mrm.27201
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        s = spec.upscale
        self.upscale = float(s)
        self.maximum = SliceMaximum()
        self.fft = FFT2c()
        self.zero_fill = IFFT2c(1, s, channels=1)
        self.phases = nn.PixelUnshuffle(s)
        self.cascades = _cascades(spec)
        self.shuffle = nn.PixelShuffle(s)
        self.predicted_fft = FFT2c(s, 1)
        self.correct = IFFT2c(1, s, channels=1)
        self.sign_heads: nn.ModuleList | None = None
        if spec.data_consistency == "magnitude":
            self.sign_heads = nn.ModuleList(_sign_head(spec) for _ in range(spec.cascades))
            self.sign = SampleSign(SIGN_WIDTH * self.upscale)
            self.nyquist = WholeNyquist()

    def forward(self, image: Tensor) -> Tensor:
        """Super-resolve ``(n, 1, y, x)``."""
        maximum = self.maximum(image)
        samples = image / maximum * self.upscale
        measured = self.fft(samples)
        consistent = self.zero_fill(measured)
        features: Tensor | None = None
        for number, cascade in enumerate(self.cascades):
            phases, features = cascade(self.phases(consistent), features)
            predicted = self.shuffle(phases)
            # Replacing the centre of F(predicted) by the measured samples, written as a correction:
            # F(out) = F(predicted) + fill(measured - crop(F(predicted))).
            if self.sign_heads is None:
                missing = measured - self.predicted_fft(predicted)
            else:
                signed = self.sign(samples, self.sign_heads[number](features))
                missing = self.nyquist(self.fft(signed) - self.predicted_fft(predicted))
            consistent = predicted + self.correct(missing)
        return consistent * maximum


def _cascades(spec: ModelSpec) -> nn.ModuleList:
    return nn.ModuleList(
        Cascade(
            spec.upscale**2,
            spec.width,
            spec.blocks // spec.cascades + (number < spec.blocks % spec.cascades),
            bias=spec.bias,
            first=number == 0,
        )
        for number in range(spec.cascades)
    )


class ComplexDCResidualGenerator(nn.Module):
    """`DCResidualGenerator` on complex k-space: ``(n, 2, ky, kx)`` to ``(n, 2, s*ky, s*kx)``.

    The same CNN, with the same weights, sees the part of the image that is in phase with the
    zero-filled one, at first its magnitude; what it predicts is given that phase back, and the
    measured samples replace what it says of them. So a constant phase of the whole slice turns the
    result by as much, and nothing of the phase must be learnt. The centre of the result is what was
    given, times the upscale: orthonormal k-space of a finer grid of the same values.

    References
    ----------
    .. [1] the phase of a low-resolution image taken as that of the image: Noll et al. 1991,
       doi:10.1109/42.79473
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        s = spec.upscale
        self.upscale = float(s)
        self.zero_fill = IFFT2c(1, s)
        self.magnitude = Magnitude()
        self.maximum = SliceMaximum()
        self.unit_phase = UnitPhase()
        self.phases = nn.PixelUnshuffle(s)
        self.cascades = _cascades(spec)
        self.shuffle = nn.PixelShuffle(s)
        self.predicted_fft = FFT2c(s, 1)
        self.correct = IFFT2c(1, s)
        self.whole_fft = FFT2c(s, s)
        self.fill = CentreFill(1, s)

    def forward(self, kspace: Tensor) -> Tensor:
        """Super-resolve ``(n, 2, ky, kx)``."""
        filled = self.zero_fill(kspace * self.upscale)
        maximum = self.maximum(self.magnitude(filled))
        measured = kspace * self.upscale / maximum
        consistent, phase = filled / maximum, self.unit_phase(filled)
        predicted = missing = consistent
        features: Tensor | None = None
        for number, cascade in enumerate(self.cascades):
            if number:
                consistent = predicted + self.correct(missing)
            in_phase = (consistent * phase).sum(dim=1, keepdim=True)
            phases, features = cascade(self.phases(in_phase), features)
            predicted = self.shuffle(phases) * phase
            missing = measured - self.predicted_fft(predicted)
        return (self.whole_fft(predicted) + self.fill(missing)) * maximum


def magnitude_image(kspace: Tensor) -> Tensor:
    """Return the magnitude ``(n, 1, y, x)`` of the image of k-space ``(n, 2, ky, kx)``."""
    image: Tensor = Magnitude()(IFFT2c()(kspace))
    return image


def _sign_head(spec: ModelSpec) -> nn.Conv2d:
    head = nn.Conv2d(spec.width, 1, 3, padding=1, bias=spec.bias)
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


def build_generator(spec: ModelSpec) -> nn.Module:
    """Make the (untrained) generator a specification describes.

    Raises
    ------
    CheckpointError
        If the specification names no generator.
    """
    if spec.architecture == "seed-kspace":
        seeds_own = spec.fft_convention == "seed"
        return SeedConventionGenerator(spec) if seeds_own else SeedKspaceGenerator(spec)
    if spec.architecture == "seed-image":
        return SeedImageGenerator(spec)
    if spec.architecture == "dc-residual":
        if spec.input == "kspace":
            return ComplexDCResidualGenerator(spec)
        return DCResidualGenerator(spec)
    raise CheckpointError(f"{spec.name}: architecture '{spec.architecture}' has no weights")
