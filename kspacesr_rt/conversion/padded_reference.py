"""What binding does around a network that takes multiples of a number, in NumPy: for references."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.padding import crop_matrix, fill_matrix, measured_matrices, reflection
from kspacesr_rt.model.spec import ModelSpec

Run = Callable[[FloatArray], FloatArray]


def padded(run: Run, lr: FloatArray, spec: ModelSpec) -> FloatArray:
    """Run a network on a slice of any matrix, as the runtime does.

    Parameters
    ----------
    run
        The network, for the matrices that it takes: ``(y, x)`` to ``(s*y, s*x)``.
    lr
        One slice.
    spec
        How it is padded.
    """
    matrix = (lr.shape[0], lr.shape[1])
    wide = spec.network_matrix(matrix)
    if wide == matrix:
        return run(lr)
    grid, s = spec.sample_grid, spec.upscale
    axes = list(zip(matrix, wide, strict=True))
    if spec.padding == "reflect":
        places = [reflection(n, length, s, grid) for n, length in axes]
        pads = [
            (front, length - n - front)
            for (front, _), (n, length) in zip(places, axes, strict=True)
        ]
        whole = run(np.pad(lr, pads, mode="reflect"))
        rows, columns = (
            slice(first, first + s * n) for (_, first), n in zip(places, matrix, strict=True)
        )
        sr: FloatArray = whole[rows, columns].astype(np.float64)
    else:
        fills = [fill_matrix(n, length) for n, length in axes]
        whole = run((fills[0] @ lr @ fills[1].T).astype(np.float32))
        crops = [crop_matrix(n, length, s, grid) for n, length in axes]
        sr = crops[0] @ whole @ crops[1].T
    if spec.data_consistency == "hard":
        (find_rows, fill_rows), (find_columns, fill_columns) = (
            measured_matrices(n, s, grid) for n in matrix
        )
        missing = lr - find_rows @ sr @ find_columns.T
        sr = sr + fill_rows @ missing @ fill_columns.T
    result: FloatArray = sr.astype(np.float32)
    return result
