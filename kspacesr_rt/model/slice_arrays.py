"""Slices as a network takes them, and its results as images: what gate and self-test go through.

A network of images is given the slice itself. One of k-space is given its transform, of several
coils after multiplication by smooth sensitivities, and its k-space is transformed back.
"""

from __future__ import annotations

import numpy as np

from kspacesr_rt.kspace import FloatArray, fft2c, from_channels, ifft2c, to_channels
from kspacesr_rt.model.spec import ModelSpec


def network_input(lr: FloatArray, spec: ModelSpec) -> FloatArray:
    """Return a slice ``(y, x)`` as a batch of one: ``(1, *spec.input_axes, y, x)``, float32."""
    if spec.input == "image":
        return np.ascontiguousarray(lr[None, None], dtype=np.float32)
    coils = lr[None] * coil_sensitivities(spec.coils, lr.shape) if spec.coils else lr
    batch: FloatArray = to_channels(fft2c(coils.astype(np.complex64)))
    return np.ascontiguousarray(batch.reshape(1, *spec.input_axes, *lr.shape), dtype=np.float32)


def result_image(result: FloatArray, spec: ModelSpec) -> FloatArray:
    """Return one result ``(*spec.output_axes, s*y, s*x)`` as an image ``(s*y, s*x)``.

    Of k-space it is the magnitude; of several coils the root of the sum of squares.
    """
    if spec.output != "kspace":
        image: FloatArray = result[0]
        return image
    images = np.abs(ifft2c(from_channels(result)))
    combined: FloatArray = np.sqrt((images**2).sum(axis=0)) if spec.coils else images
    return combined


def coil_sensitivities(coils: int, matrix: tuple[int, ...]) -> FloatArray:
    """Return smooth complex sensitivities ``(coils, y, x)``, their squares summing to 1."""
    y, x = (np.linspace(-1.0, 1.0, n) for n in matrix)
    around = 2 * np.pi * np.arange(coils) / coils
    distance = (y[None, :, None] - np.sin(around)[:, None, None]) ** 2
    distance = distance + (x[None, None, :] - np.cos(around)[:, None, None]) ** 2
    raw = np.exp(-distance / 2 + 1j * around[:, None, None])
    made: FloatArray = raw / np.sqrt((np.abs(raw) ** 2).sum(axis=0))
    return made
