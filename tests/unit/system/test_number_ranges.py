"""Numbers of frames as text, for people and for files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt.system.number_ranges import packed, ranges_text, unpacked


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "3"),
        ([3, 7, 8, 9], "3, 7 to 9"),
        ([1, 2, 5], "1, 2, 5"),
        (range(1, 10_001), "1 to 10000"),
        (range(1, 100, 2), "1, 3, 5, 7, 9, 11 and 44 more"),
        ([1, 3, 5, 7, 9, 11, 12, 13], "1, 3, 5, 7, 9, 11 to 13"),
    ],
)
def test_ranges_are_short_however_many_numbers_there_are(numbers, text):
    """A line for a file of ten thousand frames is still a line."""
    assert ranges_text(list(numbers)) == text


@given(st.sets(st.integers(1, 500), min_size=1))
def test_what_was_packed_is_unpacked(numbers):
    """A run that goes on reports the frames that the first one flagged."""
    ordered = tuple(sorted(numbers))
    assert unpacked(packed(ordered), largest=500) == ordered


def test_a_run_of_frames_takes_a_few_bytes():
    """A line of a journal is at most 1 MiB, and a file may have 100,000 slices, all flagged."""
    assert packed(range(1, 100_001)) == "1-100000"


@pytest.mark.parametrize(
    "text",
    ["", "0", "5-3", "3,3", "3,1", "1-9", "9", "-1", "1-", "1-2-3", " 1", "x", "²", "9" * 99],
)
def test_what_names_no_frames_of_a_file_is_refused(text):
    """Numbers beyond the file's frames would fill memory, at the word of a damaged line."""
    with pytest.raises(ValueError, match="no range of ascending numbers up to 8"):
        unpacked(text, largest=8)


def test_a_text_of_more_numbers_than_any_file_has_is_refused():
    """A damaged line may state as many frames itself."""
    with pytest.raises(ValueError, match="more than 4194304 numbers"):
        unpacked("1,3-999999999999", largest=10**12)
