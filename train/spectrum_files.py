"""Mean spectra that lie beside a network's weights, as SR_kspace keeps its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model.spec import LARGEST
from kspacesr_rt.system.array_files import load_array
from kspacesr_rt.system.plain_text import shortened
from kspacesr_rt.train.untrusted_checkpoint import UNREADABLE


def read_spectra(h_lr: Path | None, h_hr: Path | None, upscale: int) -> dict[str, Tensor]:
    """Read the two mean spectra of a k-space network from ``.npy`` files.

    Returns
    -------
        By their names in a generator, float32: ``(n, n)`` and ``(upscale * n, upscale * n)``.

    Raises
    ------
    CheckpointError
        If one is missing, no array of numbers, not square, not of the other's size, or not
        positive everywhere.
    """
    if h_lr is None or h_hr is None:
        raise CheckpointError("--h-lr and --h-hr belong together: a network has both spectra")
    lr, hr = _read_spectrum(h_lr), _read_spectrum(h_hr)
    if hr.shape[0] != lr.shape[0] * upscale:
        raise CheckpointError(
            f"{h_hr}: {hr.shape[0]} samples per axis, expected {upscale} times the "
            f"{lr.shape[0]} of {h_lr}"
        )
    return {"h_lr.spectrum": lr, "h_hr.spectrum": hr}


def _read_spectrum(path: Path) -> Tensor:
    try:
        # Mapped, so that a header that claims a huge array is compared with the file first.
        stored = load_array(path, mapped=True)
    except UNREADABLE as exc:
        raise CheckpointError(f"{path}: not a readable .npy file: {shortened(exc)}") from exc
    if stored.dtype.kind not in "fiu":
        raise CheckpointError(f"{path}: expected an array of real numbers")
    if stored.ndim != 2 or stored.shape[0] != stored.shape[1] or not stored.size:
        raise CheckpointError(f"{path}: expected a square spectrum, found shape {stored.shape}")
    if stored.shape[0] > LARGEST["matrix"]:
        raise CheckpointError(f"{path}: more than {LARGEST['matrix']} samples per axis")
    values = np.array(stored, dtype=np.float32)
    if not bool((np.isfinite(values) & (values > 0.0)).all()):
        raise CheckpointError(f"{path}: a mean spectrum is positive and finite everywhere")
    return torch.from_numpy(values)
