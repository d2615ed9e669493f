"""Compare results of models that predict the signs of LR samples (consistency ``magnitude``).

A sign is a decision: where a sample and what a network says about it cancel to within rounding,
two correct runtimes may decide differently, and their results then differ by twice that sample.
That is no error of either. What can be asked is that it is rare, and that the results agree once
the signs do.
"""

from __future__ import annotations

import numpy as np

from kspacesr_rt.kspace import FloatArray, centre_crop, centre_fill, fft2c, ifft2c, nyquist_gain

NEGLIGIBLE = 1e-4
"""Samples below this share of the largest have no sign worth speaking of."""


def with_signs_of(
    sr: FloatArray, reference: FloatArray, matrix: tuple[int, int]
) -> tuple[FloatArray, float]:
    """Give a result the LR signs of another one of the same slice.

    Parameters
    ----------
    sr, reference
        Shape ``(s * y, s * x)``, real, finite, not clipped.
    matrix
        LR ``(y, x)``.

    Returns
    -------
        `sr` as it would be with the reference's signs, float64, and the share of the LR samples
        whose sign was another. Only the measured band changes; what a sign did to later cascades
        stays, and so do all differences that are not of sign.
    """
    upscale = reference.shape[-1] // matrix[1]
    ours, theirs = (
        ifft2c(centre_crop(fft2c(one.astype(np.float64)), matrix)).real / upscale
        for one in (sr, reference)
    )
    floor = NEGLIGIBLE * float(np.abs(theirs).max())
    other = (ours * theirs < 0.0) & (np.minimum(np.abs(ours), np.abs(theirs)) > floor)
    change = fft2c(np.where(other, -2.0 * ours, 0.0)) * nyquist_gain(matrix)
    wide = (reference.shape[0], reference.shape[1])
    aligned: FloatArray = sr + ifft2c(centre_fill(change, wide)).real * upscale
    return aligned, float(other.mean())
