"""What a terminal shows: how far a run is, lines broken between words."""

import io
import re
import sys

import pytest

from kspacesr_rt.cli.progress import Remaining, progress_bar
from kspacesr_rt.cli.wrapping import fitted, wrapped


class Terminal(io.StringIO):
    """Keeps what is drawn on it."""

    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_time_left_follows_from_what_this_run_did():
    """Slices of an earlier run are found in no time: they say nothing of the pace."""
    clock = Clock()
    known = Remaining(clock)
    known.note(None, None)
    assert (known.count(), known.left()) == ("", "")
    clock.now = 5.0
    for present in range(1, 9):
        known.note(present, 20, present)
    assert (known.count(), known.left()) == ("8/20", "")
    clock.now = 7.0
    known.note(9, 20, 8)
    assert (known.count(), known.left()) == ("9/20", "0:00:22")
    clock.now = 11.0
    known.note(11, 20, 8)
    assert known.left() == "0:00:18"


def test_time_left_of_a_new_run():
    clock = Clock()
    known = Remaining(clock)
    clock.now = 600.0
    known.note(2, 12)
    assert known.left() == "0:50:00"
    known.note(12, 12)
    assert known.left() == "0:00:00"


def test_lines_are_broken_between_words():
    """As a terminal of 80 columns would not."""
    text = (
        "Research use only: super-resolved detail is predicted, not measured. Not a medical device."
    )
    lines = wrapped(text, 80).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == text
    assert lines[1].startswith("  ")


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_second_column_goes_on_below_itself(width):
    text = "ort-cuda     backend 'ort-cuda' cannot run here: it is not installed; " * 2
    first, *rest = wrapped(text, width).splitlines()
    assert rest
    assert all(line.startswith(" " * 13) and line[13] != " " for line in rest)
    assert max(map(len, (first, *rest))) <= width


def test_what_fits_tables_and_long_words_stay_as_they_are():
    table = "| a | " + "b | " * 50
    word = "x" * 200
    for text in ("short", "  two  columns", table, word, "", "one\n\ntwo\n"):
        assert wrapped(text, 80) == text


QUALITY = """Convention: tissue.

| series | slices | upscale | method | MAE | PSNR dB | SSIM | gain dB | gain SSIM |
| --- | --: | --: | --- | --: | --: | --: | --: | --: |
| dicom series 1 (256x256) | 20 | x2 | zero-fill | 0.01649 | 32.82 | 0.9391 | +0.00 | +0.0000 |
| dicom series 1 (256x256) | 20 | x2 | x2-fast | 0.01398 | 34.29 | 0.9529 | +1.47 | +0.0138 |
"""


def test_tables_that_are_too_wide_get_narrower_columns():
    """`evaluate` on 80 columns: a row that a terminal breaks has its figures below wrong heads."""
    lines = wrapped(QUALITY, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert wrapped(QUALITY, 100) == QUALITY
    [first, second] = [line for line in lines if "zero-fill" in line or "x2-fast" in line]
    for value, other in (("0.01649", "0.01398"), ("+0.0000", "+0.0138")):
        assert first.index(value) == second.index(other)
    assert " ".join(lines).count("dicom series") == 1  # of two rows


def test_a_table_without_room_stays_whole():
    """Figures that are cut would be other figures."""
    table = "| a | b |\n| --- | --: |\n| x | 1234567890 |\n"
    assert wrapped(table, 11) == table


@pytest.mark.parametrize("columns", [40, 80])
def test_a_note_takes_one_line(monkeypatch, columns):
    """One that is folded has a bar of two lines drawn anew, ten times a second."""
    note = "opening zero-fill, measuring k-space of every series, and whatever else there is to do"
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("slices", quiet=False) as update:
        update(3, 20, note)
        update(None, None, note)
    drawn = [re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", line) for line in stream.getvalue().split("\r")]
    noted = [line for line in drawn if "opening" in line]
    assert noted
    for line in noted:
        assert line.startswith("slices ")
        assert "\u2026" in line
        assert len(line.rstrip("\n")) <= columns
    assert "\x1b[1A" not in stream.getvalue()  # one line up: a bar of two


def test_only_terminals_get_broken_lines(monkeypatch):
    """A pipe has no width; what reads it looks for whole lines."""
    line = "word " * 60
    stream = io.StringIO()
    assert fitted(line, stream) == line
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, fitted(line, stream).splitlines())) <= 80
