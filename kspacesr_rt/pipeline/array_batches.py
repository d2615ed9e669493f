"""Arrays as users have them, as batches for a network, and its results in their shape again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from kspacesr_rt.errors import InputError, ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix, from_channels, to_channels
from kspacesr_rt.model.spec import ModelSpec

NOT_NUMBERS: Final = {
    "c": "networks take magnitudes: numpy.abs of complex images",
    "b": "a mask is no image; where it is meant as one: array.astype(numpy.float32)",
    "O": "what numpy makes objects of is no regular array of numbers",
}
"""What to do about a kind of data type."""


class GivenArrays:
    """Slices in memory: images ``(..., y, x)``, or what a network of k-space takes."""

    def __init__(self, values: npt.ArrayLike, spec: ModelSpec) -> None:
        """Check them.

        Raises
        ------
        ShapeError
            If there are too few axes, or an empty slice.
        InputError
            If they are of another kind than the network takes, masked, or not finite.
        """
        if np.ma.is_masked(values):
            raise InputError(
                "some values are masked, and networks take every sample",
                hint="values.filled(0.0) puts a number there",
            )
        array = np.asarray(values)
        self._spec = spec
        self._complex = array.dtype.kind == "c"
        if array.ndim < 2 or 0 in array.shape[-2:]:
            raise ShapeError(
                f"expected {_kind(spec)}, found shape {array.shape}", hint=_shape_hint(array.shape)
            )
        if spec.input == "kspace" and self._complex:
            array = to_channels(array)
        elif array.dtype.kind not in "fiu":
            raise InputError(
                f"expected real numbers, found {array.dtype}",
                hint=NOT_NUMBERS.get(
                    array.dtype.kind, "array.astype(numpy.float32), if they are numbers"
                ),
            )
        axes = spec.input_axes if spec.input == "kspace" else ()
        place = array.ndim - 2 - len(axes)
        if place < 0 or array.shape[place:-2] != axes:
            raise ShapeError(
                f"expected {_kind(spec)}, found shape {np.shape(values)}",
                hint=_shape_hint(np.shape(values)),
            )
        with np.errstate(over="ignore"):
            slices: FloatArray = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(slices).all():
            raise InputError(
                f"{_counted_values(slices)} not finite, as float32",
                hint="numpy.nan_to_num(values, posinf=0.0, neginf=0.0) puts zeros there; see first "
                "where they come from",
            )
        self._leading = slices.shape[:place]
        self.matrix: Matrix = (slices.shape[-2], slices.shape[-1])
        """LR rows and columns."""
        whole = (math.prod(self._leading), *spec.input_axes, *self.matrix)
        self.batch: FloatArray = slices.reshape(whole)
        """Shape ``(n, *spec.input_axes, y, x)``, float32."""

    def results(self, parts: Sequence[FloatArray]) -> Any:
        """Return the results of parts of the batch as one array, with the leading axes given."""
        spec = self._spec
        axes = spec.output_axes if spec.output == "kspace" else ()
        shape = (*self._leading, *axes, *spec.sr_matrix(self.matrix))
        if not parts:
            empty: FloatArray = np.empty(shape, np.float32)
            joined = empty
        else:
            joined = np.concatenate(parts).reshape(shape)
        return from_channels(joined) if spec.output == "kspace" and self._complex else joined


def _counted_values(slices: FloatArray) -> str:
    n = slices.size - np.count_nonzero(np.isfinite(slices))
    return f"{n} of {slices.size} values {'is' if n == 1 else 'are'}"


def _shape_hint(shape: tuple[int, ...]) -> str:
    """Say what to do about an array of another shape."""
    if 0 in shape[-2:] and len(shape) > 1:
        return "a slice has at least one row and one column"
    if len(shape) < 2:
        return "one slice is an array of two axes: values.reshape(rows, columns)"
    return "see spec.input_axes of the model for what stands before the last two axes"


def _kind(spec: ModelSpec) -> str:
    if spec.input == "image":
        return "slices (..., y, x)"
    coils = f"{spec.coils}, " if spec.coils else ""
    return f"k-space (..., {coils}ky, kx), complex, or (..., {coils}2, ky, kx) in pairs"
