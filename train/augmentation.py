"""Vary HR slices before they are degraded, so that a few series stand for many scanners."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import ComplexArray, FloatArray, Matrix, centre_crop, fft2c, ifft2c

GAMMA = (0.8, 1.25)
"""Exponents of intensity: other contrasts between the same edges."""
BIAS = 0.3
"""Largest change of intensity by coil shading, over the FOV's mean."""
APODISATION_START = (0.0, 0.7)
"""Shares of Nyquist from which a scanner's filter may begin to fall."""
APODISATION_DEPTH = 0.6
"""Largest fall at the end of k-space: 8 dB, so that the rim stays above
`kspacesr_rt.kspace.acquired_band.BAND_DROP_DB` and does not count as empty."""

WINDOW_LEVEL = 0.05
"""Share of the series maximum from which a sample may be a window's centre: on the patient."""
WINDOW_FADE = 0.125
"""Share of a window over which each of its edges fades."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How a HR batch is varied before it is degraded; flips and transposition are always on."""

    matrix_shrink: float = 0.7
    """Smallest factor by which k-space may be cropped further (1 turns it off)."""
    noise_share: float = 0.25
    """Share of the batches that get complex Gaussian noise before the magnitude (Rician)."""
    noise_level: float = 0.015
    """Largest standard deviation of that noise, in units of the series maximum."""
    intensity: float = 0.0
    """Share of the batches whose contrast (`GAMMA`) and coil shading (`BIAS`) change."""
    gibbs_share: float = 0.0
    """Share of the batches whose axes are cropped by factors of their own, half of them under a
    mild filter, so that ringing of many strengths is seen."""
    gibbs_shrink: float = 0.7
    """Smallest such factor."""
    rician_share: float = 0.0
    """Share of the LR slices that get noise of their own (`kspacesr_rt.train.noise.rician`), while
    the part of HR that is not measured stays as clean as it is: where noise drowns that part, the
    best prediction is zero-fill."""
    rician_snr: tuple[float, float] = (5.0, 50.0)
    """Lowest and highest signal-to-noise ratio of that noise, drawn evenly in dB."""
    raw_share: float = 0.2
    """Of networks of k-space: share of the batches that are measured k-space, where there is any
    (`kspacesr_rt.train.complex_pairs.read_raw_series`)."""
    coil_share: float = 0.25
    """Of networks of k-space: share of the slices that are seen by a coil, whose field fades and
    may change its sign; the others get a smooth phase alone."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "rician_snr":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0.0 <= value <= 1.0):
                raise InputError(f"augmentation: {item.name} is {value!r}, expected 0 to 1")
        if min(self.matrix_shrink, self.gibbs_shrink) <= 0.0:
            raise InputError("augmentation: a matrix cannot shrink by a factor of 0")
        object.__setattr__(self, "rician_snr", _range_of(self.rician_snr))


def _range_of(values: Any) -> tuple[float, float]:
    """Return two positive numbers in order; TOML gives them as a list."""
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) != 2 or len(values) != 2 or not 0.0 < numbers[0] <= numbers[1] < np.inf:
        raise InputError(
            f"augmentation: rician_snr is {values!r}, expected the lowest and the highest"
        )
    return float(numbers[0]), float(numbers[1])


def cut_window(hr: FloatArray, matrix: Matrix, rng: np.random.Generator) -> FloatArray:
    """Cut a window of the FOV, somewhere on the patient, fading to air at its edges.

    Parameters
    ----------
    hr
        One slice ``(y, x)``, float32, series maximum 1.
    matrix
        Rows and columns of the window; a smaller slice is continued by air.
    rng
        Source of all randomness.

    Returns
    -------
        Shape `matrix`, float32. Its edges fade as under a small coil, over `WINDOW_FADE` of
        the window: a cut would be an edge to k-space, which repeats itself, and ring.
    """
    lacking = [max(0, wanted - n) for wanted, n in zip(matrix, hr.shape, strict=True)]
    padded = np.pad(hr, [(one // 2, one - one // 2) for one in lacking])
    bright = np.flatnonzero(padded > WINDOW_LEVEL)
    chosen = int(rng.choice(bright)) if len(bright) else int(rng.integers(padded.size))
    centre = np.unravel_index(chosen, padded.shape)
    rows, columns = (
        slice(start := min(max(0, int(at) - wanted // 2), n - wanted), start + wanted)
        for at, wanted, n in zip(centre, matrix, padded.shape, strict=True)
    )
    down, across = (_fade(wanted) for wanted in matrix)
    window: FloatArray = padded[rows, columns] * down[:, None] * across
    return window


def _fade(n: int) -> FloatArray:
    edge = np.minimum(1.0, (np.arange(n) + 0.5) / (WINDOW_FADE * n))
    fade: FloatArray = (np.sin(np.pi / 2 * np.minimum(edge, edge[::-1])) ** 2).astype(np.float32)
    return fade


def vary(
    hr: FloatArray,
    options: Augmentation,
    *,
    upscale: int,
    rng: np.random.Generator,
    matrix: Matrix | None = None,
) -> FloatArray:
    """Vary a batch of one series.

    Parameters
    ----------
    hr
        Shape ``(n, y, x)``, float32, series maximum 1.
    options
        What is varied, and how often.
    upscale
        Divides the resulting matrix.
    rng
        Source of all randomness. What is off draws nothing: a recipe keeps its meaning when
        options are added.
    matrix
        What comes out, whatever `matrix_shrink` and `gibbs_shrink` say; None lets them draw it.

    Returns
    -------
        Shape ``(n, y', x')``, float32, not negative.
    """
    if rng.random() < 0.5:
        hr = hr[:, ::-1]
    if rng.random() < 0.5:
        hr = hr[:, :, ::-1]
    if rng.random() < 0.5:
        hr = hr.transpose(0, 2, 1)
    if _happens(options.intensity, rng):
        hr = _shaded(hr ** np.float32(rng.uniform(*GAMMA)), rng)
    kspace = fft2c(hr)
    if rng.random() < options.noise_share:
        level = np.float32(rng.uniform(0.0, options.noise_level))
        noise = rng.standard_normal((2, *kspace.shape), dtype=np.float32)
        kspace = kspace + level * (noise[0] + 1j * noise[1])
    shrink = 1.0 if matrix else rng.uniform(options.matrix_shrink, 1.0)
    have: Matrix = (kspace.shape[-2], kspace.shape[-1])
    if not _happens(options.gibbs_share, rng):
        return _magnitude(kspace, have, matrix or divisible(have, (shrink, shrink), upscale))
    if matrix is None:
        factors = rng.uniform(options.gibbs_shrink, 1.0, 2)
        matrix = divisible(have, (factors[0], factors[1]), upscale)
    kspace = centre_crop(kspace, matrix)
    if rng.random() < 0.5:
        start, depth = rng.uniform(*APODISATION_START), rng.uniform(0.0, APODISATION_DEPTH)
        rows, columns = (apodisation(n, start, depth) for n in matrix)
        kspace = np.multiply(kspace * rows[:, None], columns)
    return _magnitude(kspace, have, matrix)


def apodisation(n: int, start: float, depth: float) -> FloatArray:
    """Return a raised-cosine filter: 1 up to `start` of Nyquist, ``1 - depth`` at its end.

    Returns
    -------
        Shape ``(n,)``, float32; DC at ``n // 2``.
    """
    frequency = np.abs(np.arange(n) - n // 2) / (n / 2)
    beyond = np.clip((frequency - start) / (1.0 - start), 0.0, 1.0)
    window: FloatArray = (1.0 - depth * np.sin(np.pi / 2 * beyond) ** 2).astype(np.float32)
    return window


def _happens(share: float, rng: np.random.Generator) -> bool:
    return share > 0.0 and rng.random() < share


def divisible(have: Matrix, factors: tuple[float, float], upscale: int) -> Matrix:
    """Return about `factors` times a HR matrix, within it, both axes multiples of `upscale`."""
    rows, columns = (
        min(max(upscale, round(n * factor / upscale) * upscale), n - n % upscale)
        for n, factor in zip(have, factors, strict=True)
    )
    return rows, columns


def _magnitude(kspace: ComplexArray, have: Matrix, matrix: Matrix) -> FloatArray:
    """Return the image of the centre of k-space, intensities as in the matrix it came from."""
    gain = np.float32(np.sqrt(matrix[0] * matrix[1] / (have[0] * have[1])))
    image: FloatArray = np.abs(ifft2c(centre_crop(kspace, matrix))) * gain
    return image


def _shaded(hr: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Multiply by a random polynomial of second order, between 1 - `BIAS` and 1 + `BIAS`."""
    rows, columns = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in hr.shape[1:])
    y, x = np.meshgrid(rows, columns, indexing="ij")
    weights = rng.uniform(-1.0, 1.0, 5).astype(np.float32)
    field = np.tensordot(weights, np.stack([y, x, y * x, y**2, x**2]), axes=1)
    field -= field.mean()
    strength = np.float32(rng.uniform(0.0, BIAS)) / np.abs(field).max()
    shaded: FloatArray = hr * (1.0 + strength * field)
    return shaded
