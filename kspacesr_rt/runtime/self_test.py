"""Check a model on this machine against the answer that was stored when it was made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kspacesr_rt.errors import ParityError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import Precision
from kspacesr_rt.quality.metrics import json_number, psnr_between
from kspacesr_rt.quality.signs import with_signs_of
from kspacesr_rt.runtime.backends import BackendOptions, backend_info, open_backend

REQUIRED_DB: dict[Precision, float] = {
    "fp32": 100.0,
    "fp16": 65.0,
    "bf16": 65.0,
    "int8": 45.0,
    "fp8": 45.0,
}
"""By precision of the CNN. fp32 results of two correct implementations agree far better than that;
TF32 or a wrong FFT do not. The others are the parity gate's own limits."""
SIGN_SHARE: dict[Precision, float] = {
    "fp32": 3e-4,
    "fp16": 0.01,
    "bf16": 0.01,
    "int8": 0.05,
    "fp8": 0.05,
}
"""Share of the LR samples that may have another sign, of a model that predicts signs: the parity
gate's own limits. The others are compared under the stored answer's signs
(`kspacesr_rt.quality.signs`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """How a backend did on the stored known answer."""

    model: str
    """Name of the model."""
    backend: str
    """Backend that ran it."""
    psnr_between_db: float
    """PSNR between result and stored answer, range = the answer's maximum."""
    max_error: float
    """Largest difference over the answer's maximum."""
    required_db: float
    """What `psnr_between_db` must reach."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "model": self.model,
            "backend": self.backend,
            "psnr_between_db": json_number(self.psnr_between_db),
            "max_error": json_number(self.max_error),
            "required_db": self.required_db,
            "passed": self.passed,
        }

    @property
    def passed(self) -> bool:
        """Whether the backend may be trusted with this model here."""
        return self.psnr_between_db >= self.required_db


def verify_model(
    model: ModelFile, backend: str, options: BackendOptions | None = None
) -> Verification:
    """Run a model's stored input on a backend and compare with the stored output.

    A backend that computes large slices in another way runs it in both; the worse result counts.

    Raises
    ------
    InputError
        If no backend has that name, or the known answer does not fit the model.
    ModelFileError
        If the file carries no known answer.
    BackendUnavailableError
        If the backend cannot run here.
    """
    answer = model.known_answer()
    matrix = (answer.lr.shape[-2], answer.lr.shape[-1])
    bound = bind(model, matrix)
    asked = options or BackendOptions()
    ways = (False, True) if backend_info(backend).by_size else (False,)
    found = []
    for as_large in ways:
        with open_backend(backend, bound, replace(asked, as_large=as_large)) as opened:
            given = answer.lr.reshape(1, *model.spec.input_axes, *matrix)
            result = opened.run(given)[0].reshape(answer.sr.shape)
        if model.spec.data_consistency == "magnitude" and np.isfinite(result).all():
            result, other = with_signs_of(result, answer.sr, bound.spec.matrix)
            if other > SIGN_SHARE[model.spec.precision]:
                result = np.full_like(result, np.nan)
        found.append(_compared(result, answer.sr))
    return Verification(
        model=model.spec.name,
        backend=backend,
        psnr_between_db=min(psnr for psnr, _ in found),
        max_error=max(error for _, error in found),
        required_db=REQUIRED_DB[model.spec.precision],
    )


def _compared(result: FloatArray, expected: FloatArray) -> tuple[float, float]:
    """Return PSNR in dB and largest error, over the answer's maximum; the worst if not finite."""
    if not np.isfinite(result).all():
        return -np.inf, np.inf
    top = float(np.abs(expected).max())
    return psnr_between(result, expected, top), float(np.abs(result - expected).max()) / top


def require_verified(verification: Verification) -> None:
    """Turn a failed verification into an error.

    Raises
    ------
    ParityError
        If the backend does not give the stored answer.
    """
    if not verification.passed:
        raise ParityError(
            f"model '{verification.model}' on backend '{verification.backend}' gives "
            f"{verification.psnr_between_db:.1f} dB against its stored answer, "
            f"{verification.required_db:.0f} dB are required",
            hint="do not use this backend here; kspacesr-rt backends lists others",
        )
