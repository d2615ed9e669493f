"""Lesions planted in real slices: one that is there is kept, none that is not there is made up.

Discs of one to three LR samples, brighter and darker than the tissue around, are added to HR where
it is flattest; LR is made with and without them. What the difference of the two results shows in a
disc, over what was planted, is how much of the lesion is kept. In the result without them, a disc
that stands out against its ring, and does not in HR, would be a lesion that a model made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import FloatArray, degrade, fft2c
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.quality.metrics import tissue_mask

DIAMETERS = (1.0, 2.0, 3.0)
"""Of the discs, in LR samples."""
CONTRAST = 0.25
"""Added to the tissue, as a share of it, up and down in turn."""
PER_SIZE = 4
"""Discs of each diameter in a slice."""
RING = 2.0
"""Outer radius of the ring that a disc is compared with, in radii of the disc; at least one LR
sample wider."""
NOISE_LEVELS = 3.0
"""Deviations, in the mean over disc and ring, of HR's noise and texture around, within which
nothing is made up: no reader tells it from the tissue."""
DARK = 0.25
"""Share of bright tissue below which no disc is planted: a share of little is nothing."""
CORNER = 0.9
"""Share of Nyquist on both axes beyond which k-space shows noise."""

_Wide = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class LesionCase:
    """One disc, planted and not planted."""

    diameter: float
    """In LR samples."""
    kept: float
    """Contrast in SR over what was planted."""
    zero_fill_kept: float
    """The same of zero-filling."""
    made_up: float
    """Without it: contrast of disc to ring in SR less that in HR, over the local intensity."""
    zero_fill_made_up: float
    """The same of zero-filling."""
    noise: float
    """Deviation of that contrast by HR's noise, or by what varies in the ring, if that is more."""

    @property
    def is_made_up(self) -> bool:
        """Whether SR shows a lesion that is not there: above noise, and above zero-filling's."""
        return abs(self.made_up) > max(NOISE_LEVELS * self.noise, abs(self.zero_fill_made_up))


def lesion_cases(
    hr: FloatArray, run: Callable[[FloatArray], FloatArray], upscale: int
) -> list[LesionCase]:
    """Plant discs in one slice, and look for them.

    Parameters
    ----------
    hr
        Shape ``(y, x)``, maximum of about 1.
    run
        LR slice to SR slice.
    upscale
        HR samples per LR sample and axis.
    """
    spots = _flat_spots(hr, upscale)
    if not spots:
        return []
    planted = hr.astype(np.float64).copy()
    discs = []
    for number, (place, diameter) in enumerate(spots):
        disc = _disc(hr.shape, place, diameter * upscale / 2.0)
        local = float(hr[disc].mean())
        planted += (-1) ** number * CONTRAST * local * disc
        discs.append((place, diameter, disc, local))
    with_them, without = (
        degrade(image.astype(np.float32), upscale).astype(np.float32)
        for image in (planted, hr.astype(np.float64))
    )
    sr, bare_sr = run(with_them), run(without)
    filled, bare = zero_fill(with_them, upscale), zero_fill(without, upscale)
    noise = _noise(hr)
    cases = []
    for number, (place, diameter, disc, local) in enumerate(discs):
        wanted = (-1) ** number * CONTRAST * local
        ring = _ring(hr.shape, place, diameter * upscale / 2.0, upscale)
        stands_out = [_contrast(one, disc, ring) / local for one in (bare_sr, bare, hr)]
        cases.append(
            LesionCase(
                diameter=diameter,
                kept=float((sr - bare_sr)[disc].mean() / wanted),
                zero_fill_kept=float((filled - bare)[disc].mean() / wanted),
                made_up=stands_out[0] - stands_out[2],
                zero_fill_made_up=stands_out[1] - stands_out[2],
                noise=max(noise, float(hr[ring].std()))
                / local
                * math.sqrt(1.0 / disc.sum() + 1.0 / ring.sum()),
            )
        )
    return cases


def _flat_spots(hr: FloatArray, upscale: int) -> Sequence[tuple[tuple[int, int], float]]:
    """Return places of discs with their diameters: the flattest tissue, apart from each other."""
    apart = int(max(DIAMETERS) * upscale * 2)
    wide = hr.astype(np.float64)
    steps_y, steps_x = np.gradient(wide)
    rough = _box(np.hypot(steps_y, steps_x), apart // 2) / (_box(wide, apart // 2) + 1e-12)
    mask = tissue_mask(hr)
    if not mask.any():
        return []
    allowed = _box((~mask).astype(np.float64), apart // 2) < 1e-9
    allowed &= wide > DARK * np.percentile(wide[mask], 90)
    allowed[:apart] = allowed[-apart:] = False
    allowed[:, :apart] = allowed[:, -apart:] = False
    spots: list[tuple[tuple[int, int], float]] = []
    diameters = [size for _ in range(PER_SIZE) for size in DIAMETERS]
    y, x = np.indices(hr.shape)
    while len(spots) < len(diameters) and allowed.any():
        best = np.argmin(np.where(allowed, rough, np.inf))
        place = (int(best // hr.shape[1]), int(best % hr.shape[1]))
        spots.append((place, diameters[len(spots)]))
        allowed &= np.hypot(y - place[0], x - place[1]) > 1.5 * apart
    return spots


def _box(image: _Wide, radius: int) -> _Wide:
    """Return the mean over the square around every sample; edges see themselves repeated."""
    edge = 2 * radius + 1
    summed = np.pad(image, radius, "edge")
    for axis in (0, 1):
        total = np.cumsum(np.insert(summed, 0, 0.0, axis=axis), axis=axis)
        n = summed.shape[axis]
        upper, lower = (
            np.take(total, range(start, start + n - edge + 1), axis=axis) for start in (edge, 0)
        )
        summed = (upper - lower) / edge
    return np.maximum(summed, 0.0)


def _distance(shape: tuple[int, ...], place: tuple[int, int]) -> _Wide:
    y, x = np.indices(shape)
    distance: _Wide = np.hypot(y - place[0], x - place[1])
    return distance


def _disc(shape: tuple[int, ...], place: tuple[int, int], radius: float) -> _Mask:
    inside: _Mask = _distance(shape, place) <= max(radius, 0.5)
    return inside


def _ring(shape: tuple[int, ...], place: tuple[int, int], radius: float, upscale: int) -> _Mask:
    distance = _distance(shape, place)
    outer = max(RING * radius, radius + upscale)
    ring: _Mask = (distance > max(radius, 0.5)) & (distance <= outer)
    return ring


def _contrast(image: FloatArray, disc: _Mask, ring: _Mask) -> float:
    return float(image[disc].mean() - image[ring].mean())


def _noise(hr: FloatArray) -> float:
    """Return the deviation of HR's noise, from the corners of its k-space."""
    power = np.abs(fft2c(hr.astype(np.float64))) ** 2
    y, x = (np.abs(np.arange(n) - n // 2) / (n / 2) > CORNER for n in hr.shape)
    return math.sqrt(float(np.median(power[np.ix_(y, x)])) / math.log(2.0))
