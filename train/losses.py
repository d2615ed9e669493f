"""Image-domain losses: gradients reach a k-space network through the inverse FFT."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

ImageLoss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, ImageLoss] = {
    "l1": nn.functional.l1_loss,
    "mse": nn.functional.mse_loss,
}
"""Name to ``loss(sr, hr)`` on ``(n, 1, y, x)`` images of one intensity scale."""
