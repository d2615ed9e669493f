"""What is wrong with options is said in words of ours, all of it at once."""

import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app

STARTED = ("threads", "streams", "workers", "processes")
"""Options that say how many of something are started."""


def refused(*words, **variables):
    """Return what a command says that cannot be parsed, on one line."""
    done = CliRunner().invoke(app, [*words], env={"COLUMNS": "200", **variables})
    assert done.exit_code == 2
    text = " ".join(done.output.replace("│", " ").split())
    for foreign in ("Input should", "Value error", "unable to"):
        assert foreign not in text, text
    return text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--workers", "abc"), "'--workers': 'abc' is not a whole number."),
        (("--workers", "-1"), "'--workers': -1 is not at least 0."),
        (("--workers", "1.5"), "'--workers': '1.5' is not a whole number."),
        (("--batch", "abc"), "'--batch': 'abc' is not a whole number, or auto."),
        (("--batch", "0"), "'--batch': 0 is not at least 1."),
        (("--batch", "1.5"), "'--batch': '1.5' is not a whole number, or auto."),
        (("--threads", "9223372036854775808"), "9223372036854775808 is not at most 1024."),
        *(((f"--{one}", "1025"), f"'--{one}': 1025 is not at most 1024.") for one in STARTED),
        (("--batch", "65537"), "'--batch': 65537 is not at most 65536."),
        (("--actors", "65537"), "'--actors': 65537 is not at most 65536."),
        (("--on-interpolated", "foo"), "'foo' is not one of 'warn', 'skip', 'crop'."),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_it_should_be(words, sentence, tmp_path):
    """Not in the words of the library that parses it."""
    assert sentence in refused("infer", str(tmp_path), "out", *words)


def test_where_it_came_from_is_said_too(tmp_path):
    (tmp_path / "run.toml").write_text("[infer]\nbatch = 0\n")
    said = refused("infer", str(tmp_path), "out", "--config", str(tmp_path / "run.toml"))
    assert "0 is not at least 1. (from run.toml, line 2)" in said
    (tmp_path / "run.toml").write_text("[infer]\nthreads = 5000\n")
    said = refused("infer", str(tmp_path), "out", "--config", str(tmp_path / "run.toml"))
    assert "5000 is not at most 1024. (from run.toml, line 2)" in said
    said = refused("infer", str(tmp_path), "out", KSPACESR_RT_INFER_THREADS="5000")
    assert "5000 is not at most 1024. (from KSPACESR_RT_INFER_THREADS)" in said
    said = refused("infer", str(tmp_path), "out", KSPACESR_RT_INFER_PREVIEW="maybe")
    assert "'maybe' is not true or false. (from KSPACESR_RT_INFER_PREVIEW)" in said
    said = refused("watch", str(tmp_path), "out", KSPACESR_RT_WATCH_SETTLE="soon")
    assert "'soon' is not a number. (from KSPACESR_RT_WATCH_SETTLE)" in said


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('report = ""', "'report' takes"),
        (
            "limit = { samples = 4 }",
            "'limit' takes a list, each of it a text in quotes, not a",
        ),
    ],
)
def test_a_file_of_options_that_takes_something_else(line, sentence, tmp_path):
    """An empty path would be the current folder, and a table is no command."""
    (tmp_path / "run.toml").write_text(f"[infer]\n{line}\n")
    words = ("infer", str(tmp_path), str(tmp_path / "o"), "--config", str(tmp_path / "run.toml"))
    done = CliRunner().invoke(app, [*words])
    assert sentence in " ".join(done.output.split())
    assert done.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        *(("verify", "x2-fast"), ("bench",), ("bench", "gate"), ("train", "."), ("evaluate", ".")),
        *(("diagnose", "x2-fast"), ("seed-table",)),
    ],
)
def test_no_command_starts_threads_without_end(words):
    """100000 of them were started one by one, and no signal was answered meanwhile."""
    assert "'--threads': 100000 is not at most 1024." in refused(*words, "--threads", "100000")


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    """One option a try is one try too many."""
    assert "Missing option '--forward'. '--spool' is missing, too." in refused("serve")
    assert "Missing argument 'IN'. 'OUT' is missing, too." in refused("infer")


def test_what_is_given_elsewhere_is_not_missing(tmp_path):
    forward = ("--forward", "PACS@127.0.0.1:104")
    assert "missing" not in refused("serve", *forward).replace("Missing option '--spool'.", "")
    assert "missing" not in refused("serve", KSPACESR_RT_SERVE_SPOOL="spool")
    assert "missing" not in refused("serve", "--spool=spool")
    (tmp_path / "run.toml").write_text('[serve]\nspool = "spool"\n')
    assert "missing" not in refused("serve", "--config", str(tmp_path / "run.toml"))
