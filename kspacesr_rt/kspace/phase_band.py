"""The LR band of an image that is held as phases: the samples of the LR grid tell it.

A signal of an LR band is told by its `n` samples on the LR grid, and the HR grid of ``s n`` samples
holds that grid as one of its `s` phases [1]_. So from the band to the image that phase is a copy;
each other one is a periodic sinc of `n` by `n` samples, `interpolation`; and from an image to its
band the same matrices stand transposed. `kspacesr_rt.kspace.real_band` says what the band of a real
image is; on an even axis its single line ``-n / 2`` is a wave of two halves. Its cosine alternates
on the LR grid, as one of the `n` samples' own waves; its sine is zero there and needs a coefficient
of its own, the last one. On phase `p` it alternates too, ``sin(pi p / s)`` high.

References
----------
.. [1] Vaidyanathan, "Multirate Systems and Filter Banks", Prentice Hall 1993, chapter 4
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import ShapeError

Array = npt.NDArray[np.float64]


def own_phase(n: int, upscale: int) -> int:
    """Return which phase of an axis of ``upscale * n`` samples is the LR grid."""
    return upscale * n // 2 - upscale * (n // 2)


def interpolation(n: int, upscale: int, phase: int) -> Array:
    """Return the matrix from an axis's LR samples to a phase of its HR samples.

    Parameters
    ----------
    n
        LR samples, at least 2.
    upscale
        `s`, HR samples for each.
    phase
        From 0: HR samples ``phase``, ``phase + s``, and so on.

    Returns
    -------
        Shape ``(n, n)``, a circulant matrix; an identity at `own_phase`.

    Raises
    ------
    ShapeError
        If there is no such phase.

    Notes
    -----
    At `m` HR samples from an LR sample: ``sin(pi m / s) / (n sin(pi m / (s n)))`` for odd `n` (the
    Dirichlet kernel), and the same times ``cos(pi m / (s n))`` for even `n`, whose single line has
    half the weight of a pair.
    """
    if not 0 <= phase < upscale or n < 2:
        raise ShapeError(f"{n} LR samples have no phase {phase} of {upscale}")
    length = upscale * n
    at = np.arange(length)
    away = at % length != 0
    kernel = np.ones(length)
    turn = np.pi * at[away] / length
    kernel[away] = np.sin(np.pi * (at[away] % (2 * upscale)) / upscale) / (n * np.sin(turn))
    if n % 2 == 0:
        kernel[away] *= np.cos(turn)
    samples = np.arange(n)
    offset = upscale * (samples[:, None] - samples) + phase - own_phase(n, upscale)
    made: Array = kernel[offset % length]
    return made


def alternating(n: int) -> Array:
    """Return what the single line of an even axis is on the LR grid, 1 long in all."""
    wave: Array = np.where((np.arange(n) - n // 2) % 2, -1.0, 1.0) / np.sqrt(float(n))
    return wave


def synthesis(n: int, upscale: int, phase: int) -> Array:
    """Return the matrix from an axis's coefficients to a phase of its HR samples.

    Its transpose goes back: added up over all phases and divided by `s`, that is the part of a
    signal within the band.

    Returns
    -------
        Shape ``(n, n)`` if `n` is odd, ``(n, n + 1)`` if it is even.
    """
    matrix = interpolation(n, upscale, phase)
    if n % 2:
        return matrix
    sine = np.sin(np.pi * phase / upscale) * alternating(n)
    return np.concatenate([matrix, sine[:, None]], axis=1)


def line_waves(n: int) -> Array:
    """Return the matrix from an even axis's coefficients to its single line: cosine and sine.

    Returns
    -------
        Shape ``(2, n + 1)``, orthonormal; its transpose goes back.
    """
    waves = np.zeros((2, n + 1))
    waves[0, :n] = alternating(n)
    waves[1, n] = 1.0
    return waves
