"""FFT layers as GPUs are given them: few, in lengths of 8, in half where it will do."""

from __future__ import annotations

import dataclasses

from kspacesr_rt.graph.aligned_coefficients import with_aligned_coefficients
from kspacesr_rt.graph.band_projections import with_band_projections
from kspacesr_rt.graph.half_transforms import with_half_transforms
from kspacesr_rt.graph.sample_coefficients import takes_samples, with_sample_coefficients
from kspacesr_rt.model.binding import BoundModel


def with_gpu_transforms(model: BoundModel, *, fused: bool = True) -> BoundModel:
    """Return a bound model whose FFT layers suit GPUs, in layers of our domain as before.

    Parameters
    ----------
    model
        Bound to a matrix; not changed.
    fused
        Whether what takes the graph fuses elementwise operators. Only then are layers put together
        as `with_band_projections` does; see also `with_sample_coefficients`.

    Returns
    -------
        The same function: to rounding in fp32, and to what its convolutions round in fp16. Products
        are in half only where half precision holds what they give: of LR samples, each slice
        divided by its maximum.
    """
    if fused:
        model = dataclasses.replace(model, proto=with_band_projections(model))
    proto = with_aligned_coefficients(with_sample_coefficients(model, fused=fused))
    bounded = takes_samples(model) and model.spec.normaliser == "slice-max"
    if model.spec.precision == "fp16" and bounded:
        proto = with_half_transforms(proto)
    return dataclasses.replace(model, proto=proto)
