"""Sizes and agreements as people read them."""

import math

import pytest

from kspacesr_rt.system.quantities import JSON_INFINITE, agreement_text, size_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0.0 kB"),
        (1_240, "1.2 kB"),
        (99_900, "99.9 kB"),
        (100_000, "0.1 MB"),
        (1_330_000, "1.3 MB"),
        (5_000_000_000, "5000.0 MB"),
    ],
)
def test_small_files_have_a_size(n_bytes, text):
    """``0.0 MB`` is said of no file that holds something."""
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(
    ("psnr_db", "text"),
    [
        (135.84, "135.8 dB"),
        (math.inf, "inf dB"),
        (JSON_INFINITE, "inf dB"),
        (-JSON_INFINITE, "-inf dB"),
        (math.nan, "nan dB"),
    ],
)
def test_what_stands_for_infinity_in_json_is_no_figure(psnr_db, text):
    """Equal results have no PSNR, whether it was measured now or is stored in a file."""
    assert agreement_text(psnr_db) == text
