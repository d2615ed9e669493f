"""What is declared of a network of others, checked on arrays as `infer` checks it on files.

That a network of k-space keeps what was measured is checked here whoever made it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kspacesr_rt.errors import ResultError, SliceFailed
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.quality.result_checks import (
    HOMOGENEITY_FACTOR,
    check_result,
    require_homogeneous,
    require_measured_kspace,
)

BatchRun = Callable[[FloatArray], FloatArray]
"""Takes and returns a batch, ``(n, 1, y, x)`` to ``(n, 1, s*y, s*x)`` or one of k-space."""


def with_contracts(run: BatchRun, spec: ModelSpec) -> BatchRun:
    """Return a function that also checks what is declared; `run` itself if nothing is.

    Parameters
    ----------
    run
        Of an open backend. It raises `kspacesr_rt.errors.ResultError` then, where a result is not
        as declared.
    spec
        Of the model.
    """
    of_images = spec.input == "image" and (spec.data_consistency != "none" or spec.output_range)
    of_kspace = spec.output == "kspace" and spec.data_consistency == "hard"
    if not of_kspace and (spec.is_own or not (of_images or spec.homogeneous)):
        return run

    def checked(batch: FloatArray) -> FloatArray:
        results = run(batch)
        try:
            if of_images:
                for sr, lr in zip(results, batch, strict=True):
                    check_result(sr[0], lr[0], spec)
            if of_kspace:
                require_measured_kspace(results, batch)
            if spec.homogeneous:
                require_homogeneous(results, run(batch * np.float32(HOMOGENEITY_FACTOR)))
        except SliceFailed as exc:
            raise ResultError(
                f"model '{spec.name}': what is declared of it is not true of this result: {exc}",
                hint="export it again without that declaration",
            ) from exc
        return results

    return checked
