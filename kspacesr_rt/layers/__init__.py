"""Layers of k-space networks, to build with in PyTorch: each is lowered whole by `export_module`.

Images are ``(n, 1, y, x)``, k-space ``(n, 2, ky, kx)`` with real and imaginary part as channels, DC
at ``n // 2`` of each axis; transforms are centred and orthonormal, as `kspacesr_rt.kspace.fft2c`.
They need PyTorch, and are defined in `kspacesr_rt.export.layers`.

Examples
--------
A zero-filled image, its CNN, and the measured samples put back:

>>> import torch
>>> from kspacesr_rt import layers
>>> to_kspace, to_image = layers.FFT2c(), layers.IFFT2c(real=True)
>>> fill, consistent = layers.CentreFill(2), layers.DataConsistency("hard")
>>> lr = torch.rand(1, 1, 32, 24)
>>> measured = to_kspace(lr) * 2
>>> predicted = to_image(fill(measured))  # and a CNN on it
>>> to_image(consistent(to_kspace(predicted), measured)).shape
torch.Size([1, 1, 64, 48])
"""

from kspacesr_rt.export.layers import (
    CentreCrop,
    CentreFill,
    DataConsistency,
    FFT2c,
    IFFT2c,
    Magnitude,
    MeanSpectrum,
    PixelGrid,
    SliceMaximum,
)

__all__ = [
    "CentreCrop",
    "CentreFill",
    "DataConsistency",
    "FFT2c",
    "IFFT2c",
    "Magnitude",
    "MeanSpectrum",
    "PixelGrid",
    "SliceMaximum",
]
