"""Whether a simple segmentation sees the same tissue in SR as in HR.

Three classes by k-means of the intensities inside the patient, each image with its own centres, as
a downstream program would find them. Dice of the classes with those of HR, beside zero-filling's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.quality.metrics import tissue_mask

CLASSES = 3
"""Dark, middle and bright tissue."""
ROUNDS = 50
"""Of Lloyd's algorithm, at most; it settles in fewer."""

_Labels = npt.NDArray[np.intp]


def mean_dice(image: FloatArray, hr: FloatArray) -> float:
    """Return the Dice coefficient of tissue classes in an image and in HR, mean over the classes.

    Parameters
    ----------
    image, hr
        Shape ``(y, x)``; HR holds tissue.
    """
    mask = tissue_mask(hr)
    ours, truth = (classes(one[mask].astype(np.float64)) for one in (image, hr))
    found = []
    for number in range(CLASSES):
        one, other = ours == number, truth == number
        total = int(one.sum() + other.sum())
        found.append(2.0 * int((one & other).sum()) / total if total else 1.0)
    return float(np.mean(found))


def classes(values: npt.NDArray[np.float64]) -> _Labels:
    """Return the class of each value, 0 the darkest: k-means in one dimension, from quantiles."""
    centres = np.quantile(values, (np.arange(CLASSES) + 0.5) / CLASSES)
    for _ in range(ROUNDS):
        labels = _nearest(values, centres)
        moved = np.array(
            [
                values[labels == number].mean() if (labels == number).any() else centres[number]
                for number in range(CLASSES)
            ]
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    return _nearest(values, centres)


def _nearest(values: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]) -> _Labels:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2.0, values)
