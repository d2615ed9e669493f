"""Refuse what is declared of a network and is not true of it, before a file is written.

What is declared is checked on every slice of a run too; here it is measured on phantoms, as the
model's users will run it, so that a false declaration is known on the day it is made.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kspacesr_rt.conversion.parity import Run
from kspacesr_rt.errors import ExportError, ParityError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix, degrade, upscaled
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.quality.result_checks import (
    HOMOGENEITY_FACTOR,
    check_result,
    require_homogeneous,
)
from kspacesr_rt.system.progress_messages import report_step

MATRICES: tuple[Matrix, ...] = ((48, 48), (37, 45))
"""LR matrices of the phantoms: an even and an odd one, which a network may have to pad."""
GAINS = (1.0, 1000.0)
"""Units: as networks are trained, and as scanners store images."""


def require_checkable(spec: ModelSpec) -> None:
    """Refuse declarations that no run can check.

    Raises
    ------
    ExportError
        If it takes k-space, and a range is declared, or data consistency of a network that gives
        images: both compare a result with an image. Of one that gives k-space ``hard`` data
        consistency can be seen.
    """
    unseen = spec.data_consistency != "none" and (spec.output, spec.data_consistency) != (
        "kspace",
        "hard",
    )
    if spec.input == "kspace" and (unseen or spec.output_range):
        raise ExportError(
            "data consistency and output range are checked against the image that a network is "
            "given, and this one takes k-space",
            hint="leave them out: what is not declared is not claimed; hard data consistency can "
            "be checked of a network that gives k-space",
        )


def require_contracts(spec: ModelSpec, run: Run) -> None:
    """Run a network on phantoms and check what is declared of it.

    Parameters
    ----------
    spec
        What is declared; a network of images.
    run
        The network, or the model, on one LR slice of any matrix.

    Raises
    ------
    ParityError
        If something declared is not so; the sentence says what, and by how much.
    """
    if spec.data_consistency == "none" and not spec.output_range and not spec.homogeneous:
        return
    report_step("checking what is declared")
    for name, lr in _slices(spec):
        try:
            sr = run(lr)
            check_result(sr, lr, spec)
            if spec.homogeneous:
                require_homogeneous(sr[None], run(lr * np.float32(HOMOGENEITY_FACTOR))[None])
        except SliceFailed as exc:
            raise ParityError(
                f"what is declared is not true of the network, on a phantom of {name}: "
                f"{exc} ({exc.reason}); no file was written",
                hint="leave the declaration out: what is not declared is not claimed",
            ) from exc


def _slices(spec: ModelSpec) -> Iterator[tuple[str, FloatArray]]:
    matrices = [spec.fixed_matrix] if any(spec.fixed_matrix) else MATRICES
    noise = np.random.default_rng(11)
    for matrix in matrices:
        hr = brain_phantom(upscaled(matrix, spec.upscale))
        noisy = hr + 0.1 * noise.random(hr.shape)
        for gain in GAINS:
            lr = np.abs(degrade(noisy * gain, spec.upscale)).astype(np.float32)
            yield f"{matrix[0]} x {matrix[1]}, maximum {float(lr.max()):.3g}", lr
