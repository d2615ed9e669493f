"""Numbers and nouns in sentences."""

import pytest

from kspacesr_rt.system.plurals import counted


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [
        (0, "slice", "0 slices"),
        (1, "slice", "1 slice"),
        (2, "stale output", "2 stale outputs"),
        (1, "series", "1 series"),
        (3, "series", "3 series"),
    ],
)
def test_one_is_no_plural(n, noun, text):
    assert counted(n, noun) == text
