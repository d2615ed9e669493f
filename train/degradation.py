"""How LR slices are made from HR ones, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from kspacesr_rt.kspace import FloatArray, degrade, divisible_crop
from kspacesr_rt.model.spec import DataConsistency, OutputGrid

Degradation = Callable[[FloatArray, int], FloatArray]
"""HR ``(n, y, x)`` and an upscale to LR ``(n, y // upscale, x // upscale)``, float32."""


def kspace_crop(hr: FloatArray, upscale: int) -> FloatArray:
    """Keep the centre of k-space and take the magnitude: what a shorter scan stores in a DICOM."""
    lr: FloatArray = degrade(hr, upscale).astype(np.float32)
    return lr


def seed_resize(hr: FloatArray, upscale: int) -> FloatArray:
    """Shrink the image as an image library does: how SR_kspace made its LR.

    Parameters
    ----------
    hr
        Shape ``(n, y, x)``; axes that `upscale` does not divide lose the remainder of their
        k-space first.
    upscale
        HR samples per LR sample and axis.

    Returns
    -------
        Shape ``(n, y // upscale, x // upscale)``, float32, not negative if HR is not.

    Notes
    -----
    Pillow's bilinear filter, which averages over `upscale` samples to each side. It aligns the
    edges of the FOV, where a scan aligns DC: LR sample 0 lies half a HR sample (x2) or one and a
    half (x4) beside HR sample 0, and a network trained on such pairs learns to shift. For
    comparison with SR_kspace only. Its notebooks import scikit-image's resize, from which this
    differs by 40 to 50 dB PSNR; `kspace_crop` does by 22 to 31.
    """
    whole = divisible_crop(hr, upscale).astype(np.float32)
    size = (whole.shape[2] // upscale, whole.shape[1] // upscale)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in whole]
    )


DEGRADATIONS: dict[str, Degradation] = {"kspace-crop": kspace_crop, "seed-resize": seed_resize}
"""Names that a recipe may use."""
GRID_OF: dict[str, OutputGrid] = {"kspace-crop": "kspace", "seed-resize": "pixel-centre"}
"""Where the samples of a network lie that was trained with each: it learns to answer there."""


def grid_after(degradation: str, consistency: DataConsistency) -> OutputGrid:
    """Return where the samples of a network lie, by how it was trained.

    Where measured samples are kept, they hold the image on the grid of k-space, whatever its LR
    images were.
    """
    return "kspace" if consistency in ("hard", "magnitude") else GRID_OF[degradation]


def degradation_for(grid: OutputGrid) -> str:
    """Return the degradation whose LR slices a network that answers on a grid was made for."""
    return next(name for name, own in GRID_OF.items() if own == grid)
