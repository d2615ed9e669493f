"""The seed's discriminator: how likely a slice is one that was measured at full resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kspacesr_rt.errors import ShapeError
from kspacesr_rt.train.losses import at_least_fp32

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
"""Channels after each 3x3 convolution; every second one halves the matrix."""
HEAD_WIDTH = 1024
"""Channels between the two 1x1 convolutions that judge the pooled features."""
SLOPE = 0.2
"""Of every LeakyReLU below zero."""
SMALLEST_SIZE = 16
"""Rows and columns that four halvings leave one sample of."""


class Discriminator(nn.Module):
    """VGG-like classifier of slices, for any matrix of at least `SMALLEST_SIZE` per axis.

    Eight 3x3 convolutions with LeakyReLU, BatchNorm on all but the first, the mean over the slice,
    and two 1x1 convolutions. State-dict keys are those of SR_kspace's ``netD``: ``net.0.weight`` to
    ``net.26.bias``.

    Parameters
    ----------
    channels
        Of the image: 1 on magnitude slices, 3 for the seed's SRGAN on grey slices repeated to RGB.

    References
    ----------
    .. [1] architecture: SRGAN, Ledig et al. 2017, doi:10.1109/CVPR.2017.19
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for number, width in enumerate(WIDTHS):
            layers.append(nn.Conv2d(before, width, 3, stride=1 + number % 2, padding=1))
            if number > 0:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(SLOPE))
            before = width
        layers += [
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(before, HEAD_WIDTH, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(HEAD_WIDTH, 1, 1),
        ]
        self.net = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Judge slices.

        Parameters
        ----------
        image
            Shape ``(n, channels, y, x)``, on one intensity scale for measured and predicted slices.

        Returns
        -------
            Shape ``(n,)``, probability that a slice was measured; float32 even under autocast,
            because bfloat16 holds nothing between 0.996 and 1.

        Raises
        ------
        ShapeError
            If an axis is shorter than `SMALLEST_SIZE`.
        """
        if image.ndim != 4 or min(image.shape[-2:]) < SMALLEST_SIZE:
            raise ShapeError(
                f"the discriminator takes (n, channels, y, x) of at least {SMALLEST_SIZE} samples "
                f"per axis, found shape {tuple(image.shape)}"
            )
        return torch.sigmoid(at_least_fp32(self.net(image).flatten()))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Average what the discriminator got wrong: 0 if it is always right, 1 if it guesses.

    Parameters
    ----------
    real, fake
        Probabilities, shape ``(n,)``, for measured slices and for predicted ones; cut the latter
        off the generator (``sr.detach()``).

    Returns
    -------
        Scalar ``1 - mean(real) + mean(fake)``, between 0 and 2.
    """
    return 1.0 - at_least_fp32(real).mean() + at_least_fp32(fake).mean()
