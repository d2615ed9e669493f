"""Image-domain losses: gradients reach a k-space network through the inverse FFT.

Images are ``(n, 1, y, x)`` on one intensity scale, with a series maximum of about 1. Every loss is
computed in fp32 (or fp64, if it is given that), whatever autocast or the CNN are set to: bfloat16
has no digits for the small differences that a loss is about.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from kspacesr_rt.errors import CheckpointError, InputError, ShapeError
from kspacesr_rt.quality.metrics import SSIM_K1, SSIM_K2, SSIM_WINDOW
from kspacesr_rt.train.untrusted_checkpoint import read_document

ImageLoss = Callable[[Tensor, Tensor], Tensor]

MSE_FLOOR = 1e-8
"""Added to a slice's MSE before the logarithm, in units of the squared series maximum (80 dB).

Training series are kept in float16, whose rounding alone is an MSE of 2^-22 / 12 = 2e-8 in the
brightest tissue: a slice that is fitted better than that has nothing left to teach. Without a floor
the gradient of a perfectly fitted slice, of air for instance, would have no bound.
"""
CHARBONNIER_WIDTH = 1e-3
"""Difference below which `charbonnier` turns from L1 to MSE, in units of the series maximum.

LapSRN's value, see reference 2 there.
"""

SSIM_SHARE = 0.1
"""Weight of ``1 - SSIM`` beside L1: on brain slices the two terms are then about equal."""

VGG_FILE = "vgg16-397923af.pth"
"""Name under which torchvision puts its VGG16 (ImageNet, V1) into torch's hub cache."""
VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage of VGG16 (configuration D); a 2x2 pooling ends it."""
VGG_SMALLEST_SIZE = 2 ** len(VGG_STAGES)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Widen half precision; float32 and float64 stay as they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _pair(sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    if sr.ndim != 4 or sr.shape != hr.shape:
        # (n, y, x) would broadcast against (n, 1, y, x): every slice compared with every other.
        raise ShapeError(
            f"a loss compares SR and HR of one shape (n, 1, y, x), found {tuple(sr.shape)} and "
            f"{tuple(hr.shape)}"
        )
    return at_least_fp32(sr), at_least_fp32(hr)


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """Average the absolute difference."""
    return nn.functional.l1_loss(*_pair(sr, hr))


def mse(sr: Tensor, hr: Tensor) -> Tensor:
    """Average the squared difference."""
    return nn.functional.mse_loss(*_pair(sr, hr))


def psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """Average ``log10(MSE)`` over the slices, which ascends their mean PSNR.

    Notes
    -----
    Minus ten times the loss is the mean PSNR in dB for a peak of 1. A slice's gradient depends on
    its relative error alone: a gain on the slice adds a constant and dark slices weigh the same as
    bright ones, as long as their MSE stays well above `MSE_FLOOR`.

    References
    ----------
    .. [1] used as training loss by NAFNet, Chen et al. 2022, doi:10.1007/978-3-031-20071-7_2
    """
    wide_sr, wide_hr = _pair(sr, hr)
    per_slice = (wide_sr - wide_hr).square().mean(dim=(1, 2, 3))
    return torch.log10(per_slice + MSE_FLOOR).mean()


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Average ``sqrt(difference^2 + width^2)``: L1 with a gradient that is smooth at zero.

    References
    ----------
    .. [1] Charbonnier et al. 1994, doi:10.1109/ICIP.1994.413553
    .. [2] for super-resolution, with this width: LapSRN, Lai et al. 2017, doi:10.1109/CVPR.2017.618
    """
    wide_sr, wide_hr = _pair(sr, hr)
    return torch.sqrt((wide_sr - wide_hr).square() + CHARBONNIER_WIDTH**2).mean()


def ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Average the structural similarity over slices and windows, with gradients.

    The same figure as `kspacesr_rt.quality.metrics.ssim` on data range 1: uniform 7 x 7 windows
    that lie inside the slice, sample covariance.

    Raises
    ------
    ShapeError
        If the shapes differ, or an axis is shorter than the window.
    """
    a, b = _pair(sr, hr)
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise ShapeError(f"SSIM needs at least {SSIM_WINDOW} samples per axis, found {a.shape}")

    def local(image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, SSIM_WINDOW, 1)

    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    mean_a, mean_b = local(a), local(b)
    var_a = unbiased * (local(a * a) - mean_a**2)
    var_b = unbiased * (local(b * b) - mean_b**2)
    covariance = unbiased * (local(a * b) - mean_a * mean_b)
    similarity = ((2 * mean_a * mean_b + SSIM_K1**2) * (2 * covariance + SSIM_K2**2)) / (
        (mean_a**2 + mean_b**2 + SSIM_K1**2) * (var_a + var_b + SSIM_K2**2)
    )
    return similarity.mean()


def l1_ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Add `SSIM_SHARE` of ``1 - SSIM`` to L1: structure weighs where contrast is low.

    References
    ----------
    .. [1] L1 with a term of structural similarity: Zhao et al. 2017, doi:10.1109/TCI.2016.2644865
    """
    return l1(sr, hr) + SSIM_SHARE * (1.0 - ssim(sr, hr))


LOSSES: dict[str, ImageLoss] = {
    "l1": l1,
    "mse": mse,
    "psnr": psnr,
    "charbonnier": charbonnier,
    "l1-ssim": l1_ssim,
}
"""Name to ``loss(sr, hr)`` on ``(n, 1, y, x)`` images of one intensity scale."""


def total_variation(image: Tensor) -> Tensor:
    """Sum the mean squared differences between vertical and between horizontal neighbours, twice.

    Parameters
    ----------
    image
        Shape ``(n, c, y, x)``, at least two samples per axis.

    Returns
    -------
        Scalar. The seed's term: its ``2 (sum_v / count_v + sum_h / count_h) / n``, with counts per
        slice, is twice the sum of two means.

    Raises
    ------
    ShapeError
        If an axis has no neighbours.
    """
    if image.ndim != 4 or min(image.shape[-2:]) < 2:
        raise ShapeError(
            f"total variation needs (n, c, y, x) of at least 2 x 2, found {tuple(image.shape)}"
        )
    wide = at_least_fp32(image)
    vertical, horizontal = wide.diff(dim=-2), wide.diff(dim=-1)
    return 2.0 * (vertical.square().mean() + horizontal.square().mean())


class VGGFeatures(nn.Module):
    """Compare images by what the convolutional part of VGG16 sees in them; frozen.

    All 31 layers up to the last pooling, built here, so that torchvision is needed for its weights
    only; state-dict keys are torchvision's ``features.0.weight`` to ``features.28.bias``. Grey
    images are repeated to three channels and, as in the seed, not shifted to ImageNet's statistics.

    Parameters
    ----------
    weights
        State dict of torchvision's VGG16; keys of its classifier are passed over.
    origin
        Where the weights come from, for the error.

    Raises
    ------
    CheckpointError
        If the weights are not those of VGG16's features, or not finite.

    References
    ----------
    .. [1] Simonyan and Zisserman 2015, arXiv:1409.1556
    """

    def __init__(self, weights: Mapping[str, object], *, origin: str = "VGG16 weights") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        # Without storage: weights drawn only to be replaced would cost time and move torch's
        # random state, so that runs with and without this term would differ by chance too.
        with torch.device("meta"):
            for width, convolutions in VGG_STAGES:
                for _ in range(convolutions):
                    layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                    before = width
                layers.append(nn.MaxPool2d(2))
            self.features = nn.Sequential(*layers)
        fitting: dict[str, Tensor] = {}
        for name, wanted in self.state_dict().items():
            found = weights.get(name)
            if not isinstance(found, Tensor) or found.shape != wanted.shape:
                what = tuple(found.shape) if isinstance(found, Tensor) else "missing"
                raise CheckpointError(
                    f"{origin}: not the features of VGG16: '{name}' is {what}, "
                    f"expected {tuple(wanted.shape)}",
                    hint=f"expected torchvision's {VGG_FILE}",
                )
            if not bool(torch.isfinite(found).all()):
                raise CheckpointError(f"{origin}: '{name}' holds weights that are NaN or infinite")
            fitting[name] = found.float()
        self.load_state_dict(fitting, assign=True)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the loss around it is set to."""
        return super().train(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the MSE between the features of SR and HR.

        Raises
        ------
        ShapeError
            If the shapes differ, or the five poolings leave nothing.
        """
        wide_sr, wide_hr = _pair(sr, hr)
        if wide_sr.shape[1] != 1 or min(wide_sr.shape[-2:]) < VGG_SMALLEST_SIZE:
            raise ShapeError(
                f"VGG16 features need (n, 1, y, x) of at least {VGG_SMALLEST_SIZE} samples per "
                f"axis, found shape {tuple(sr.shape)}"
            )
        with torch.autocast(sr.device.type, enabled=False):
            predicted = self.features(wide_sr.expand(-1, 3, -1, -1))
            with torch.no_grad():
                reference = self.features(wide_hr.expand(-1, 3, -1, -1))
            return nn.functional.mse_loss(predicted, reference)


def find_vgg_features(weights: Path | None = None) -> tuple[VGGFeatures | None, str]:
    """Build the feature loss from weights that are on this machine; nothing is downloaded.

    Parameters
    ----------
    weights
        File to use; default: the one that torchvision puts into torch's hub cache.

    Returns
    -------
        The loss, and a sentence naming its weights by their SHA-256; or None, and a sentence saying
        why the term is off and how to get it.

    Raises
    ------
    CheckpointError
        If the file that was given or found cannot be read, or holds something else.
    """
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if weights is None and not path.exists():
        return None, (  # without the path: the home folder's name is somebody's
            f"VGG16 feature loss is off: torch's hub cache holds no {VGG_FILE}; "
            "torchvision.models.vgg16(weights='IMAGENET1K_V1') puts it there, "
            "or name such a file with --vgg-weights"
        )
    features = VGGFeatures(read_document(path), origin=str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return features, f"VGG16 feature loss from {path.name}, SHA-256 {digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What each term of `GeneratorLoss` is multiplied by; 0 turns it off."""

    image: float = 1.0
    """Of the difference between SR and HR."""
    adversarial: float = 0.0
    """Of the discriminator's doubt about SR."""
    features: float = 0.0
    """Of the difference between VGG16's features."""
    total_variation: float = 0.0
    """Of the roughness of SR."""

    def __post_init__(self) -> None:
        """Reject weights that would reward errors."""
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value >= 0.0):
                raise InputError(f"loss weight {name} is {value}, expected 0 or more")


SEED_WEIGHTS = LossWeights(image=1.0, adversarial=0.001, features=0.006, total_variation=2e-8)
"""Those of SR_kspace and of the SRGAN it follows, with the image term "mse"."""


class GeneratorLoss(nn.Module):
    """What a generator minimises: image term, adversarial term, VGG16 features, total variation.

    Parameters
    ----------
    image
        Key of `LOSSES`.
    weights
        Of the terms.
    features
        See `find_vgg_features`; None leaves that term out whatever its weight, because the weights
        of VGG16 were not found and the user was told.

    Raises
    ------
    InputError
        If there is no such image loss, or no term is left.
    """

    def __init__(
        self,
        image: str = "l1",
        weights: LossWeights | None = None,
        features: VGGFeatures | None = None,
    ) -> None:
        super().__init__()
        if image not in LOSSES:
            raise InputError(f"loss '{image}' is not one of {', '.join(LOSSES)}")
        self.image = image
        self.weights = weights or LossWeights()
        self.features = features if self.weights.features > 0.0 else None
        others = (self.weights.image, self.weights.adversarial, self.weights.total_variation)
        if not any(others) and self.features is None:
            raise InputError("every term of the loss is off: give one of them a weight above 0")

    def forward(
        self, sr: Tensor, hr: Tensor, fake_probability: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the terms that have a weight.

        Parameters
        ----------
        sr, hr
            Shape ``(n, 1, y, x)``, one intensity scale.
        fake_probability
            The discriminator's answer to `sr`, shape ``(n,)``, not detached; for the adversarial
            term, ``mean(1 - fake_probability)``.

        Returns
        -------
            The weighted sum, and the terms without their weights, detached, by the names of
            `LossWeights`.

        Raises
        ------
        InputError
            If the adversarial term has a weight and `fake_probability` is None.
        ShapeError
            If SR and HR differ in shape, or are too small for a term.
        """
        terms: dict[str, Tensor] = {}
        if self.weights.image > 0.0:
            terms["image"] = LOSSES[self.image](sr, hr)
        if self.weights.adversarial > 0.0:
            if fake_probability is None:
                raise InputError(
                    "the adversarial term needs the discriminator's answer to SR",
                    hint="pass fake_probability=discriminator(sr)",
                )
            terms["adversarial"] = 1.0 - at_least_fp32(fake_probability).mean()
        if self.features is not None:
            terms["features"] = self.features(sr, hr)
        if self.weights.total_variation > 0.0:
            terms["total_variation"] = total_variation(sr)
        weighted = [getattr(self.weights, name) * term for name, term in terms.items()]
        return torch.stack(weighted).sum(), {name: term.detach() for name, term in terms.items()}
