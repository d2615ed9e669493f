"""How bright the brightest samples are, at a tenth of what `numpy.percentile` takes."""

from __future__ import annotations

from typing import Final

import numpy as np

from kspacesr_rt.kspace.transforms import FloatArray

SAMPLE_STEP: Final = 16
"""Of so many samples, one is looked at to guess a percentile."""


def high_percentile(values: FloatArray, percent: float) -> float:
    """Return `numpy.percentile` of a high percentage, from the few values that are as large.

    A sample of them tells what is too small to matter; if it was wrong, all are looked at.
    """
    flat = values.ravel()
    at = (flat.size - 1) * percent / 100.0
    below = int(at)
    sample = flat[::SAMPLE_STEP]
    probably = int(len(sample) * (percent - 2.0) / 100.0)
    large = np.compress(flat >= np.partition(sample, probably)[probably], flat)
    if flat.size - large.size > below:
        large = flat
    first = flat.size - large.size
    places = below - first, min(below + 1, flat.size - 1) - first
    low, high = np.partition(large, places)[list(places)]
    return float(low + (at - below) * (high - low))
