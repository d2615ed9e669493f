"""What counts as worse, for two results of one machine: the gate's rules and the comparison's.

Speed is judged as a ratio to another row of the same run, since milliseconds belong to one machine
and one hour. Quality and parity are judged apart from speed: a row that became faster and worse is
worse. Their limits are the parity gate's, by precision: exact for fp32, fast for 16 bits, max for
8 bits.
"""

from __future__ import annotations

from typing import cast

from kspacesr_rt.conversion.parity import TIER_OF, TIERS
from kspacesr_rt.model.spec import Precision
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.runtime.self_test import REQUIRED_DB

WORSE_SHARE = 0.2
"""A ratio that lost more than this share is slower. Runs of one build on one machine differ by a
few per cent; a lost vector unit or a layer that fell back to a slow kernel costs far more."""


def speed_line(before: float) -> float:
    """Return the ratio below which a row is slower than it was."""
    return (1.0 - WORSE_SHARE) * before


def quality_losses(before: Quality, after: Quality, precision: str) -> tuple[str, ...]:
    """Say by which figures quality fell beyond the tier of a precision; gains are no fault.

    Parameters
    ----------
    before, after
        Under one convention, on the same slices.
    precision
        What the CNN computes in.
    """
    allowed = TIERS[TIER_OF[cast(Precision, precision)]]
    losses = (
        ("PSNR", before.psnr_db - after.psnr_db, allowed.delta_psnr_db, "{:.3f} dB"),
        ("SSIM", before.ssim - after.ssim, allowed.delta_ssim, "{:.6f}"),
        ("MAE", _growth(before.mae, after.mae), allowed.delta_mae_share, "{:.3%}"),
    )
    return tuple(
        f"{name} is worse by {form.format(loss)}, {form.format(limit)} is allowed"
        for name, loss, limit, form in losses
        if not loss <= limit
    )


def _growth(before: float, after: float) -> float:
    if before == 0.0:
        return 0.0 if after == 0.0 else float("inf")
    return after / before - 1.0


def parity_loss(
    psnr_between_db: float | None, precision: str, truth: str = "PyTorch fp32"
) -> tuple[str, ...]:
    """Say if agreement with the truth is less than the tier of a precision asks for."""
    required = REQUIRED_DB[cast(Precision, precision)]
    if psnr_between_db is not None and psnr_between_db >= required:
        return ()
    found = "no figure" if psnr_between_db is None else f"{psnr_between_db:.1f} dB"
    return (f"{found} against {truth}, {required:.0f} dB are required",)
