"""Sizes and agreements, as people read them and as JSON holds them."""

from __future__ import annotations

from typing import Final

JSON_INFINITE: Final = 999.0
"""What stands for an infinite PSNR (bitwise equality) or error in JSON, which has no infinity."""
SMALLEST_MB: Final = 0.1
"""Sizes below are told in kB."""


def size_text(n_bytes: int) -> str:
    """Return a size for people: ``1.3 MB``, below a tenth of one ``23.4 kB``."""
    megabytes = n_bytes / 1e6
    return f"{megabytes:.1f} MB" if megabytes >= SMALLEST_MB else f"{n_bytes / 1e3:.1f} kB"


def agreement_text(psnr_db: float) -> str:
    """Return a PSNR between two results for people: ``135.8 dB``, ``inf dB`` of equal ones.

    Parameters
    ----------
    psnr_db
        As measured, or as JSON stores it (`JSON_INFINITE`).
    """
    return f"{psnr_db if abs(psnr_db) < JSON_INFINITE else psnr_db * float('inf'):.1f} dB"
