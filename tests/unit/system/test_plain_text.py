"""Text of strangers on its way to a screen, a log or a message."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.cli.shell import print_text
from kspacesr_rt.services.log import Log
from kspacesr_rt.system.plain_text import LONGEST_SHOWN, printable, printable_values, shortened


@given(st.text())
def test_nothing_that_is_printed_can_be_obeyed(text):
    """No control, no format, no separator of lines: every category that is not seen."""
    shown = printable(text)
    assert all(unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in shown)


@given(st.text(st.characters(categories=("L", "N", "P", "Zs"))))
def test_names_in_any_script_stay_as_they_are(text):
    """A model may be named in Japanese; only what cannot be seen is written out."""
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp", r"\u202egnp"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("Gehirn", "Gehirn"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    """As Python writes it, so that whoever reports it can type it."""
    assert printable(text) == shown


def test_lines_of_ours_stay_lines():
    """A table is several lines; a stranger's line feed was written out before it came there."""
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_messages_quote_a_bounded_part():
    """A key of megabytes makes no message of megabytes."""
    assert len(shortened("A" * 10**6)) == LONGEST_SHOWN + 3
    assert shortened(["\x1b"]) == r"['\x1b']"
    assert shortened("\x1b" * 5, 3) == r"\x1b\x1b\x1b..."


def test_plain_values_are_made_printable_all_the_way_down():
    """Keys too: a quality table's data sets are keys."""
    values = {"\x1b": ["\x07", {"a": ("\n", 1.5, None, True)}]}
    assert printable_values(values) == {r"\x1b": [r"\x07", {"a": (r"\n", 1.5, None, True)}]}


def test_what_a_command_prints_goes_through_it(capsys):
    """On both streams."""
    print_text("a\x1b[2J\nb")
    print_text("c\x07", err=True)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("a\\x1b[2J\nb\n", "c\\x07\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_line_is_one_line_of_plain_text(as_json):
    """A sender's AE title must not start an event of its own, nor clear the operator's screen."""
    stream = io.StringIO()
    Log(stream, as_json=as_json).write("stored", sender="A\x1b[2J\n2026 event=fake\u2028\u202e")
    told = stream.getvalue()
    assert told.count("\n") == 1
    assert not any(sign in told for sign in "\x1b\u2028\u202e")
    assert "2026 event=fake" in told


@pytest.mark.parametrize("command", ["inspect", "verify", "export", "train"])
def test_a_usage_error_about_a_file_name_is_plain(command, tmp_path, monkeypatch):
    """A name that the shell completed may hold anything; Typer's own errors quote it."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [command, "gone\x1b[2J\x07.onnx", "-o", "m.onnx"])
    assert result.exit_code == 2
    assert not any(sign in result.stdout + result.stderr for sign in ("\x1b[2J", "\x07"))


def test_a_recipes_text_is_plain(tmp_path):
    """Its unknown options and odd values are quoted in errors."""
    recipe = tmp_path / "r.toml"
    recipe.write_text('"\\u001b[2J" = 1\n')
    result = CliRunner().invoke(app, ["train", str(tmp_path), "--recipe", str(recipe)])
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert r"\x1b[2J" in result.stderr
