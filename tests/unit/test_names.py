"""Identifiers keep to the words of STYLE.md."""

import re
import tokenize

import pytest
from repository import ROOT

FOLDERS = ("kspacesr_rt", "train", "export", "bench")


def avoided(heading="| not | but |"):
    """Return the words that a table of STYLE.md avoids, and the names that it has for them."""
    table = (ROOT / "STYLE.md").read_text().split(f"\n{heading}\n")[1].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[1:]]
    words = {word for left, _ in rows for word in re.findall(r"`(\w+)`", left)}
    return words, {name for _, right in rows for name in re.findall(r"`(\w+)`", right)}


def modules():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def words_of(name):
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def identifiers(path):
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NAME:
                yield token.string, token.start[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_identifier_has_a_word_that_style_avoids(folder):
    """One word a thing, and one that somebody who does not know the code would search for."""
    words, allowed = avoided()
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, line in identifiers(path)
        if words_of(name) & words and name not in allowed
    ]
    assert found == []


def test_no_module_has_a_name_that_nobody_would_guess():
    """What is in ``dicom/quiet.py``? Whoever looks for it searches for another word."""
    words, names = avoided("| not a module | but |")
    assert {"quiet", "moments"} <= words
    stems = {path.stem for path in modules()}
    assert stems & words == set()
    assert names - stems == set(), "STYLE.md names modules that are not there"


def test_the_table_is_read():
    """A pattern that finds no word would find no offence either."""
    words, allowed = avoided()
    assert {"told", "tally"} <= words
    assert "NotifiedEvents" in allowed
    assert words_of("TallyOfAll_told") == {"tally", "of", "all", "told"}
