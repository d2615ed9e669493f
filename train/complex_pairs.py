"""Complex training pairs: magnitudes that are given a phase, and k-space that a scanner measured.

A network of k-space is given complex LR, and a DICOM series holds magnitudes. So each slice is
multiplied by a smooth complex field such as echoes and coils leave, and k-space is cropped from
the product. What was measured as k-space joins as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kspacesr_rt.errors import TrainingDataError
from kspacesr_rt.kspace import (
    Array,
    ComplexArray,
    FloatArray,
    Matrix,
    centre_crop,
    centre_fill,
    fft2c,
    ifft2c,
    to_channels,
)
from kspacesr_rt.train.augmentation import Augmentation, divisible
from kspacesr_rt.train.fastmri import read_coil_images
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.formats import read_numpy
from kspacesr_rt.train.noise import deviation_at
from kspacesr_rt.train.pairs import PairSampler

RAMP = 2.0 * np.pi
"""Largest linear phase towards either edge of the FOV: k-space shifted by two samples."""
CURVATURE = np.pi
"""Largest quadratic phase towards an edge of the FOV, as an uneven field leaves it."""
RIPPLE = 0.5
"""Largest amplitude, in radians, of what varies over one or two cycles of the FOV."""
ENDINGS = (".npy", ".h5", ".hdf5")
"""Of files that may hold k-space."""
OFF_CENTRE = 0.125
"""Share of a matrix by which the peak of k-space may lie beside its middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawSeries:
    """What a scanner measured, as complex images."""

    label: str
    """What tables and messages call it."""
    images: ComplexArray
    """Shape ``(n, y, x)``, complex64, largest magnitude 1; of several coils each is a slice."""


def read_raw_series(roots: Iterable[Path], reading: Reading | None = None) -> list[RawSeries]:
    """Read measured k-space: ``.npy`` of ``(n, ky, kx)``, or fastMRI's ``.h5``.

    Parameters
    ----------
    roots
        Folders or files. Complex numbers, DC at ``n // 2`` of both axes.
    reading
        Takes note of files that cannot be read, and the others are returned; None raises.

    Raises
    ------
    TrainingDataError
        If a root holds none, or a file is something else.
    """
    found: list[RawSeries] = []
    for root in roots:
        files = [root] if root.is_file() else sorted(root.rglob("*"))
        named = [path for path in files if path.is_file() and path.name.endswith(ENDINGS)]
        if not named:
            shown = root if reading is None or reading.show_paths else "the folder"
            raise TrainingDataError(
                f"{shown}: no k-space found",
                hint="name a folder of .npy files (n, ky, kx), complex, or of fastMRI's .h5",
            )
        for path in named:
            label = reading.label(path, root) if reading else path.name
            with nullcontext() if reading is None else reading.failing(label, path):
                found.append(RawSeries(label=label, images=_scaled(path, _images_of(path))))
    if reading is not None:
        reading.require_any(found)
    return found


def _images_of(path: Path) -> ComplexArray:
    """Return the complex images of a file of k-space."""
    if path.name.endswith(".npy"):
        return _transformed(path, read_numpy(path).values)
    return read_coil_images(path)


def _transformed(path: Path, kspace: Array) -> ComplexArray:
    if kspace.dtype.kind != "c" or kspace.ndim < 2 or 0 in kspace.shape:
        raise TrainingDataError(
            f"{path.name}: expected complex k-space (n, ky, kx), found {kspace.dtype} of shape "
            f"{kspace.shape}"
        )
    slices = kspace.reshape(-1, *kspace.shape[-2:]).astype(np.complex64)
    power = np.abs(slices).sum(axis=0)
    if not np.isfinite(power).all():
        raise TrainingDataError(f"{path.name}: holds NaN or infinity", reason="non-finite")
    peak = np.unravel_index(int(power.argmax()), power.shape)
    if any(abs(at - n // 2) > OFF_CENTRE * n for at, n in zip(peak, power.shape, strict=True)):
        raise TrainingDataError(
            f"{path.name}: k-space has its peak at {tuple(map(int, peak))} of {power.shape}, "
            "expected DC in the middle",
            hint="numpy.fft.fftshift(kspace, axes=(-2, -1)), if DC is the first sample",
        )
    return ifft2c(slices)


def _scaled(path: Path, images: ComplexArray) -> ComplexArray:
    top = float(np.abs(images).max())
    if not 0.0 < top < np.inf:
        raise TrainingDataError(f"{path.name}: k-space is zero, or not finite")
    scaled: ComplexArray = (images / top).astype(np.complex64)
    return scaled


def smooth_phase(matrix: Matrix, rng: np.random.Generator) -> ComplexArray:
    """Draw a phase as an echo beside the middle, an uneven field and a coil leave it.

    Parameters
    ----------
    matrix
        Rows and columns.
    rng
        Source of all randomness.

    Returns
    -------
        Shape `matrix`, complex64, magnitude 1: ramps of up to `RAMP`, quadratic terms of up to
        `CURVATURE`, waves of up to `RIPPLE`, and a constant.
    """
    y, x = _coordinates(matrix)
    ramp, bend = rng.uniform(-RAMP, RAMP, 2), rng.uniform(-CURVATURE, CURVATURE, 3)
    phase = ramp[0] * y + ramp[1] * x + bend[0] * y**2 + bend[1] * x**2 + bend[2] * y * x
    for axis in (y, x):
        start, cycles = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(1.0, 2.0)
        phase = phase + rng.uniform(0.0, RIPPLE) * np.cos(np.pi * cycles * axis + start)
    field: ComplexArray = np.exp(1j * (phase + rng.uniform(0.0, 2.0 * np.pi))).astype(np.complex64)
    return field


def coil_field(matrix: Matrix, rng: np.random.Generator) -> ComplexArray:
    """Draw a smooth complex field as one coil sees: it fades, turns, and may change its sign.

    Returns
    -------
        Shape `matrix`, complex64, largest magnitude 1: a polynomial of second order with random
        complex coefficients.
    """
    y, x = _coordinates(matrix)
    real, imaginary = rng.standard_normal((2, 6))
    terms = (np.ones_like(y * x), y + 0.0 * x, x + 0.0 * y, y * x, y**2 + 0.0 * x, x**2 + 0.0 * y)
    field = sum(c * term for c, term in zip(real + 1j * imaginary, terms, strict=True))
    scaled: ComplexArray = (field / np.abs(field).max()).astype(np.complex64)
    return scaled


def _coordinates(matrix: Matrix) -> tuple[Array, Array]:
    """Return y as a column and x as a row, from -1 to 1."""
    y, x = (np.linspace(-1.0, 1.0, n) for n in matrix)
    return y[:, None], x[None, :]


def kspace_crop(hr: ComplexArray, upscale: int) -> ComplexArray:
    """Keep the centre of k-space, in the unit of LR images.

    Parameters
    ----------
    hr
        Complex images ``(n, y, x)``, both axes multiples of `upscale`.
    upscale
        HR samples per LR sample and axis.

    Returns
    -------
        Centred orthonormal k-space ``(n, y / upscale, x / upscale)``, complex64; its inverse
        transform has the values of `hr`.
    """
    rows, columns = (n // upscale for n in hr.shape[-2:])
    cropped: ComplexArray = (centre_crop(fft2c(hr), (rows, columns)) / upscale).astype(np.complex64)
    return cropped


def filled_image(kspace: ComplexArray, upscale: int) -> ComplexArray:
    """Return the complex zero-filled images ``(n, s*y, s*x)`` of LR k-space ``(n, y, x)``."""
    rows, columns = (n * upscale for n in kspace.shape[-2:])
    image: ComplexArray = ifft2c(centre_fill(kspace * np.float32(upscale), (rows, columns)))
    return image


class ComplexPairSampler:
    """Draw random batches of complex LR k-space and HR magnitudes.

    Parameters
    ----------
    magnitudes
        Draws HR slices, which are given a phase.
    raw
        Measured k-space; may be empty.
    upscale
        HR samples per LR sample and axis.
    augmentation
        How often raw k-space and coils are drawn, and how noisy LR is.
    """

    def __init__(
        self,
        magnitudes: PairSampler,
        raw: list[RawSeries],
        *,
        upscale: int,
        augmentation: Augmentation,
    ) -> None:
        self._magnitudes = magnitudes
        self._raw = raw
        self._upscale = upscale
        self._augmentation = augmentation
        self.rng = magnitudes.rng

    def draw(self, window: int = 0, batch: int = 0) -> tuple[FloatArray, FloatArray]:
        """Return LR k-space ``(n, 2, ky, kx)`` and HR magnitudes ``(n, 1, s*y, s*x)``, float32.

        Parameters
        ----------
        window, batch
            As for `kspacesr_rt.train.pairs.PairSampler.draw`; raw k-space comes in whole slices.
        """
        options = self._augmentation
        if self._raw and self.rng.random() < options.raw_share:
            hr = self._measured(batch or self._magnitudes.batch)
        else:
            magnitudes = self._magnitudes.draw_hr(window, batch)
            hr = np.stack([one * self._field((one.shape[0], one.shape[1])) for one in magnitudes])
        lr = kspace_crop(hr, self._upscale)
        lr, hr = self._noisy(lr, hr)
        pairs: FloatArray = to_channels(lr).astype(np.float32)
        return pairs, np.abs(hr)[:, None].astype(np.float32)

    def _field(self, matrix: Matrix) -> ComplexArray:
        coil = self.rng.random() < self._augmentation.coil_share
        return (coil_field if coil else smooth_phase)(matrix, self.rng)

    def _measured(self, n: int) -> ComplexArray:
        rng, options = self.rng, self._augmentation
        chosen = self._raw[int(rng.integers(len(self._raw)))].images
        hr = chosen[rng.choice(len(chosen), size=n, replace=True)]
        for axis in (-2, -1):
            if rng.random() < 0.5:
                hr = np.flip(hr, axis)
        if rng.random() < 0.5:
            hr = hr.transpose(0, 2, 1)
        have = (hr.shape[1], hr.shape[2])
        shrink = rng.uniform(options.matrix_shrink, 1.0)
        matrix = divisible(have, (shrink, shrink), self._upscale)
        gain = np.float32(np.sqrt(matrix[0] * matrix[1] / (have[0] * have[1])))
        cropped: ComplexArray = ifft2c(centre_crop(fft2c(hr), matrix)) * gain
        return cropped

    def _noisy(self, lr: ComplexArray, hr: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Add noise to some LR slices, and to HR what they show of it; see `PairSampler`."""
        options = self._augmentation
        lowest, highest = np.log(options.rician_snr)
        for index in np.flatnonzero(self.rng.random(len(lr)) < options.rician_share):
            snr = float(np.exp(self.rng.uniform(lowest, highest)))
            image = np.abs(ifft2c(lr[index]))[None]
            real, imaginary = self.rng.standard_normal((2, *lr[index].shape), dtype=np.float32)
            noise = deviation_at(image, snr)[0] * (real + 1j * imaginary)
            lr[index] += noise
            hr[index] += filled_image(noise[None], self._upscale)[0]
        return lr, hr
